"""Tasks of lm-evaluation-harness over a probe: the figures are those of the model, by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_quantgate import measure
from pytest_quantgate.errors import ArtifactError, ProbeRefused
from pytest_quantgate.probe.task_files import TaskFolder
from pytest_quantgate.records import (
    Continuation,
    ContinuationRequest,
    EngineSettings,
    GenerationRequest,
    HarnessRequest,
    HarnessResult,
    Prompt,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from conftest import Project

pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")

TINY = Path(__file__).parents[1] / "models" / "tiny-f16.gguf"
SECONDS = 120.0

ENDS: Sequence[dict[str, Any]] = [
    {
        "start": "Once upon a time, there was a little",
        "ends": ["girl", "engine of war", "tax form"],
    },
    {"start": "The cat sat on the", "ends": ["cloud", "mat", "river bank"], "right": 1},
    {"start": "Tim was sad because he lost his", "ends": ["toy", "mortgage", "sky"]},
    {"start": "They played in the park all", "ends": ["spoon", "night long", "day"], "right": 2},
    {"start": "Mom gave her a big", "ends": ["hug", "swamp", "stone"]},
    {"start": "The bird flew up into the", "ends": ["shoe", "sky", "soup"], "right": 1},
    {"start": "He was very hungry, so he ate the", "ends": ["door", "house", "apple"], "right": 2},
    {"start": "The ice cream began to", "ends": ["melt", "sing", "drive away"]},
]

CHOICE = """\
task: ends
tag: stories
dataset_path: json
dataset_kwargs: {data_files: {test: ends.jsonl}}
output_type: multiple_choice
test_split: test
fewshot_split: test
doc_to_text: "{{start}}"
doc_to_choice: "{{ends}}"
doc_to_target: "{{right}}"
"""

BASE = """\
dataset_path: json
dataset_kwargs: {data_files: {test: ends.jsonl}}
test_split: test
doc_to_text: "{{start}}"
doc_to_target: " {{ends[0]}}"
"""

# Of the harness's own class for transformers (lm-eval 0.4.13, `hf` with `gguf_file`, float32) over the
# same file and tasks: which documents are right by acc and by acc_norm, log-likelihoods, outputs.
TRANSFORMERS = {
    "ends": ([1, 1, 1, 1, 1, 0, 0], [0, 1, 0, 1, 0, 0, 0]),
    "shots": ([1, 1, 1, 1, 1, 0, 0], [0, 1, 0, 1, 0, 0, 0]),
}
TRANSFORMERS_LAST = [-20.2726, -21.0731, -16.6925, -20.0643, -14.1850, -21.1179, -18.3392, -13.9198]
TRANSFORMERS_WRITTEN = ["\ncan be done", " root of the root of the ro", "hing", " the parser"]

TASKS = {
    "ends": CHOICE,
    "shots": "task: shots\ninclude: ends.yaml\nnum_fewshot: 2\n",
    "none": "task: none\ninclude: ends.yaml\ntag: []\nnum_fewshot: 0\n",
    "last": f"task: last\noutput_type: loglikelihood\n{BASE}",
    "whole": f"task: whole\noutput_type: loglikelihood_rolling\n{BASE}",
    "write": (
        f"task: write\noutput_type: generate_until\n{BASE}"
        'generation_kwargs: {until: ["."], max_gen_toks: 12}\n'
    ),
    "beams": (
        f"task: beams\noutput_type: generate_until\n{BASE}"
        "generation_kwargs: {num_beams: 4, until: []}\n"
    ),
    "odd": f"task: odd\noutput_type: loglikelihood\n{BASE}metric_list: [{{metric: ack}}]\n",
    "evil": f"task: evil\noutput_type: loglikelihood\n{BASE}".replace(
        "{{start}}", "{{start.__class__.__mro__}}"
    ),
    "code": "task: code\ninclude: ends.yaml\ntag: []\nprocess_docs: !function steps.louder\n",
    "lost": "task: lost\ninclude: ends.yaml\ntag: []\nprocess_docs: !function steps.quieter\n",
}

STEPS = """\
def louder(docs):
    return docs.map(lambda doc: {**doc, "start": doc["start"].upper()})
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tasks."""
    root = tmp_path_factory.mktemp("tasks")
    fill(root)
    return root


def fill(root: Path) -> None:
    """Write the tasks and their data."""
    for name, text in TASKS.items():
        (root / f"{name}.yaml").write_text(text, encoding="utf-8")
    (root / "steps.py").write_text(STEPS, encoding="utf-8")
    lines = "".join(json.dumps({"right": 0, **each}) + "\n" for each in ENDS)
    (root / "ends.jsonl").write_text(lines, encoding="utf-8")


@pytest.fixture(scope="module")
def probe() -> Iterator[measure.Probe]:
    """A probe with the tiny model, kept for the module."""
    with measure.Probe.start() as probe:
        probe.load(TINY, EngineSettings(threads=1), timeout=SECONDS)
        yield probe


def run(probe: measure.Probe, folder: Path, task: str, **options: Any) -> HarnessResult:  # noqa: ANN401 - fields of a request
    """Run a task."""
    request = HarnessRequest(
        task=task, folder_path=str(folder), files_sha256=TaskFolder(folder).sha256, **options
    )
    return probe.harness(request, timeout=SECONDS)


def likelihoods(probe: measure.Probe, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """Return the log-likelihood of each text after its context."""
    request = ContinuationRequest(
        continuations=tuple(
            Continuation(id=str(place), context=context, continuation=text)
            for place, (context, text) in enumerate(pairs)
        )
    )
    return [-score.nll for score in probe.continuations(request, timeout=SECONDS).scores]


def test_choices_are_the_most_likely_ones(probe: measure.Probe, folder: Path) -> None:
    """acc takes the likeliest answer, acc_norm the likeliest by character, as worked out by hand."""
    found = run(probe, folder, "ends")

    for number, (document, each) in enumerate(zip(found.documents, ENDS, strict=True)):
        ends, right = each["ends"], each.get("right", 0)
        scores = likelihoods(probe, [(each["start"], f" {end}") for end in ends])
        by_length = [score / len(end) for score, end in zip(scores, ends, strict=True)]
        assert document.metrics == {
            "acc": float(scores.index(max(scores)) == right),
            "acc_norm": float(by_length.index(max(by_length)) == right),
        }
        assert (document.id, document.question) == (str(number), each["start"])
        assert document.expected == ends[right]
        assert document.output.startswith(ends[scores.index(max(scores))])
    shares = [document.metrics["acc"] for document in found.documents]
    share = sum(shares) / len(shares)
    assert found.metrics["acc"] == pytest.approx(share)
    # The harness's standard error of a mean: sample deviation by the root of the number.
    assert found.standard_errors["acc"] == pytest.approx(
        math.sqrt(share * (1 - share) / (len(shares) - 1))
    )
    assert found.higher_is_better == {"acc": True, "acc_norm": True}


def test_figures_are_those_of_the_harness_over_transformers(
    probe: measure.Probe, folder: Path
) -> None:
    """Over the same file, the harness's class for transformers answers alike.

    Its arithmetic is float32, the engine's that of a 16-bit file, so likelihoods differ in the second
    decimal.
    """
    for task, right in TRANSFORMERS.items():
        found = run(probe, folder, task, seed=1234, limit=7)
        acc = [int(each.metrics["acc"]) for each in found.documents]
        norm = [int(each.metrics["acc_norm"]) for each in found.documents]
        assert (acc, norm) == right
    last = run(probe, folder, "last")
    scores = [each.metrics["perplexity"] for each in last.documents]
    assert scores == pytest.approx(TRANSFORMERS_LAST, abs=0.03)
    written = run(probe, folder, "write", limit=4)
    assert [each.output for each in written.documents] == TRANSFORMERS_WRITTEN


def test_given_answers_are_scored(probe: measure.Probe, folder: Path) -> None:
    """The log-likelihood of a given answer is that of its text, and its perplexity the mean's."""
    found = run(probe, folder, "last")

    scores = likelihoods(probe, [(each["start"], f" {each['ends'][0]}") for each in ENDS])
    got = [each.metrics["perplexity"] for each in found.documents]
    assert got == pytest.approx(scores, abs=2e-3)
    assert found.metrics["perplexity"] == pytest.approx(math.exp(-sum(got) / len(got)), rel=1e-9)
    assert found.higher_is_better == {"perplexity": False, "acc": True}
    assert found.documents[0].output == f"log-likelihood {got[0]:.4f}"


def test_whole_texts_are_scored(probe: measure.Probe, folder: Path) -> None:
    """Word perplexity is that of all documents' texts together, each from its first token on."""
    found = run(probe, folder, "whole")

    texts = [f" {each['ends'][0]}" for each in ENDS]
    total = sum(likelihoods(probe, [("", text) for text in texts]))
    words = sum(len(text.split(" ")) for text in texts)
    assert found.metrics["word_perplexity"] == pytest.approx(math.exp(-total / words), rel=1e-3)
    assert all(each.metrics == {} for each in found.documents)


def test_outputs_are_those_of_generation(probe: measure.Probe, folder: Path) -> None:
    """Outputs end at the task's stop text and after its number of tokens; the exact ones are right."""
    found = run(probe, folder, "write")

    prompts = tuple(
        Prompt(id=str(place), prompt=each["start"], max_tokens=12, stop=(".",))
        for place, each in enumerate(ENDS)
    )
    outputs = probe.generation(GenerationRequest(prompts=prompts), timeout=SECONDS).outputs
    assert [each.output for each in found.documents] == [output.text for output in outputs]
    assert [each.metrics for each in found.documents] == [
        {"exact_match": float(output.text == f" {each['ends'][0]}")}
        for output, each in zip(outputs, ENDS, strict=True)
    ]


def test_examples_follow_the_seed(probe: measure.Probe, folder: Path) -> None:
    """The same seed draws the same examples; a number in the request goes over the task's."""
    first = run(probe, folder, "shots", seed=1)

    assert run(probe, folder, "shots", seed=1).documents == first.documents
    assert run(probe, folder, "ends", seed=1, fewshot=2).documents == first.documents
    # The question is the document alone, whatever stood before it.
    assert first.documents[0].question == ENDS[0]["start"]


def test_a_limit_takes_the_first_documents(probe: measure.Probe, folder: Path) -> None:
    """Fewer documents are the first ones."""
    whole, part = run(probe, folder, "ends"), run(probe, folder, "ends", limit=3)

    assert part.documents == whole.documents[:3]


def test_tasks_of_a_tag_are_pooled(probe: measure.Probe, folder: Path) -> None:
    """Documents of several tasks carry their task's name, and metrics are means over all of them."""
    found = run(probe, folder, "stories")

    assert [each.id for each in found.documents] == [
        f"{task}/{number}" for task in ("ends", "shots") for number in range(len(ENDS))
    ]
    values = [each.metrics["acc"] for each in found.documents]
    assert found.metrics["acc"] == pytest.approx(sum(values) / len(values))
    assert found.standard_errors == {}


def test_code_of_a_task_runs_when_it_is_asked_for(probe: measure.Probe, folder: Path) -> None:
    """A function beside the task file changes its documents."""
    found = run(probe, folder, "code")

    assert [each.question for each in found.documents] == [each["start"].upper() for each in ENDS]


def test_a_chat_goes_through_the_models_template(probe: measure.Probe, folder: Path) -> None:
    """With the template other texts are scored, by the same tokens as messages are."""
    plain, chat = run(probe, folder, "last"), run(probe, folder, "last", apply_chat_template=True)

    assert [each.question for each in chat.documents] == [each.question for each in plain.documents]
    assert chat.metrics["perplexity"] != plain.metrics["perplexity"]


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("evil", {}, "SecurityError: access to attribute '__class__' of 'str' object is unsafe"),
        ("odd", {}, "lm-evaluation-harness has no metric 'ack'; did you mean 'acc'"),
        (
            "none",
            {"fewshot": 2},
            "says `num_fewshot: 0`, which the harness keeps, and 2 are asked for",
        ),
        ("lost", {}, "steps.py: has no function 'quieter', which a task file beside it names"),
    ],
)
def test_tasks_that_the_harness_cannot_run_are_told(
    probe: measure.Probe, folder: Path, task: str, options: dict[str, Any], message: str
) -> None:
    """The message has the task's file and the reason; the probe goes on."""
    with pytest.raises(ArtifactError) as caught:
        run(probe, folder, task, **options)

    assert message in str(caught.value)
    assert probe.alive


def test_decoding_that_is_not_done_here_is_refused(probe: measure.Probe, folder: Path) -> None:
    """Beams are no greedy decoding, and are not taken for it."""
    with pytest.raises(ProbeRefused, match="the task decodes with num_beams"):
        run(probe, folder, "beams")


def test_files_that_changed_meanwhile_are_refused(probe: measure.Probe, folder: Path) -> None:
    """What was looked at is what runs."""
    request = HarnessRequest(task="ends", folder_path=str(folder), files_sha256="0" * 64)

    with pytest.raises(ArtifactError, match="changed during the run: its files have the digest"):
        probe.harness(request, timeout=SECONDS)


def test_a_gate_runs_a_task(project: Project) -> None:
    """A specification's gate runs a task over both models and exits 0 where the limits hold."""
    tasks = project.path / "tasks"
    tasks.mkdir()
    fill(tasks)
    data = tasks / "ends.jsonl"
    # Eight documents are too few to tell the model from one that guesses.
    data.write_text(data.read_text(encoding="utf-8") * 4, encoding="utf-8")
    project.spec(
        """\
        quantgate: 1
        models:
          tiny:
            baseline: {source: tiny-f16.gguf}
            variants: {Q8_0: {quantize: Q8_0}}
            gates:
              lm_eval: {task: tasks/ends.yaml, min: 0.1, max_drop: 60pp}
        """
    )

    result = project.gate("-rA")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*ends: acc *% (?? of 32 documents) >= min 10.0%*"])
    result.stdout.fnmatch_lines(["*as lm-evaluation-harness * prints acc: the baseline 0.*"])
