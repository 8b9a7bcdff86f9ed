"""The lm_eval gate: which task it runs, which metric it judges, and how documents become cases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from bench_stub import StubBench
from pydantic import ValidationError

from pytest_quantgate.errors import ArtifactError, MeasurementError, ProbeRefused
from pytest_quantgate.gates import lm_eval
from pytest_quantgate.gates.lm_eval import GATE, LmEvalSettings
from pytest_quantgate.records import HarnessDocument, HarnessRequest, HarnessResult, Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pytest_quantgate.gates import Judgement

TASK = """\
task: ends
dataset_path: json
dataset_kwargs: {data_files: {test: ends.jsonl}}
metric_list: [{metric: acc}, {metric: acc_norm}]
"""

FIELDS: Mapping[str, Any] = {"task": "tasks/ends.yaml"}


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a distribution stand for the harness that is there wherever the tests run."""
    monkeypatch.setattr(lm_eval, "DISTRIBUTION", "pytest")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project's folder with a task."""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "ends.yaml").write_text(TASK, encoding="utf-8")
    (tmp_path / "tasks" / "ends.jsonl").write_text("{}\n", encoding="utf-8")
    return tmp_path


def result(
    values: Sequence[float],
    *,
    metrics: Mapping[str, float] | None = None,
    higher: bool = True,
    ids: Sequence[str] | None = None,
    name: str = "acc",
) -> HarnessResult:
    """Return documents with these figures of one metric."""
    names = ids or [str(number) for number in range(len(values))]
    mean = sum(values) / len(values)
    return HarnessResult(
        task="ends",
        documents=tuple(
            HarnessDocument(
                id=each,
                question=f"question {each}",
                expected="this",
                output="this" if value else "that",
                metrics={name: value},
            )
            for each, value in zip(names, values, strict=True)
        ),
        metrics={name: mean} if metrics is None else metrics,
        standard_errors={name: 0.01},
        higher_is_better={name: higher},
        seconds=1.0,
    )


def judged(
    folder: Path,
    own: HarnessResult,
    base: HarnessResult | None = None,
    *,
    chosen: frozenset[str] = frozenset(),
    **fields: object,
) -> Judgement:
    """Measure and judge prepared results."""
    results = {"candidate": own} if base is None else {"candidate": own, "baseline": base}
    bench = StubBench(folder=folder, harness_results=results, chosen_cases=chosen)  # type: ignore[arg-type]
    settings = LmEvalSettings.model_validate({**FIELDS, **fields})
    return GATE.judge(settings, GATE.measure(settings, bench), bench)


def refusal(folder: Path, own: HarnessResult, **fields: object) -> str:
    """Return why results cannot be judged."""
    with pytest.raises(MeasurementError) as caught:
        judged(folder, own, None, chosen=frozenset(), **{"min": 0.5, **fields})
    return str(caught.value)


def test_the_request_names_the_task_and_its_files(folder: Path) -> None:
    """A probe is asked with the folder, the digest of its files and the harness's version."""
    bench = StubBench(folder=folder, harness_results={"candidate": result([1.0] * 8)})
    settings = LmEvalSettings(task="tasks/ends.yaml", min=0.5, fewshot=3, limit=8)

    GATE.measure(settings, bench)

    ((role, request),) = bench.asked
    assert role == "candidate"
    assert isinstance(request, HarnessRequest)
    assert (request.task, request.folder_path) == ("ends", str(folder / "tasks"))
    assert (request.fewshot, request.limit, request.seed) == (3, 8, 1234)
    assert request.harness == pytest.__version__
    assert len(request.files_sha256) == 64


def test_limits_are_held_against_pairs_of_documents(folder: Path) -> None:
    """Drop and flips come from the documents; the harness's own figures stand beside them."""
    base = result([1.0] * 180 + [0.0] * 20)
    own = result([1.0] * 176 + [0.0] * 24)

    found = judged(folder, own, base, min=0.8, max_drop="8pp", max_flips="9%")

    assert [check.outcome for check in found.checks] == [Outcome.PASS] * 3
    assert found.headline.startswith("ends: acc 88.0% (176 of 200 documents) >= min 80.0%")
    assert found.record["acc"] == pytest.approx(0.88)
    assert (found.record["lost"], found.record["gained"]) == (4, 0)
    assert (found.record["task"], found.record["metric"]) == ("ends", "acc")
    assert [case.id for case in found.cases if case.flip] == ["176", "177", "178", "179"]
    assert (
        f"as lm-evaluation-harness {pytest.__version__} prints acc: the F16 baseline 0.9000 ± 0.0100,"
        " Q4_K_M 0.8800 ± 0.0100; the verdict does not use its ±"
    ) in found.findings


def test_a_large_drop_fails(folder: Path) -> None:
    """What is beyond a limit with certainty fails."""
    found = judged(folder, result([0.0] * 150 + [1.0] * 50), result([1.0] * 200), max_drop="8pp")

    assert [check.outcome for check in found.checks] == [Outcome.FAIL]


def test_parts_of_right_answers_count_as_parts(folder: Path) -> None:
    """A metric between 0 and 1 is judged by its mean."""
    found = judged(folder, result([0.75] * 100), min=0.5)

    assert found.record["acc"] == pytest.approx(0.75)
    assert found.checks[0].outcome is Outcome.PASS


def test_several_tasks_are_slices(folder: Path) -> None:
    """The task before a document's number is its tag, on which limits may be."""
    own = result([1.0] * 40 + [0.0] * 10, ids=[f"{'ab'[n % 2]}/{n}" for n in range(50)])

    found = judged(folder, own, min=0.5, slices={"a": {"min": 0.5}})

    assert [check.limit_name for check in found.checks] == ["min", "min (a)"]
    assert found.record["acc (a)"] == pytest.approx(0.8)


def test_slices_are_names_of_tasks(folder: Path) -> None:
    """A slice that no task has is told with near names, or that there is one task only."""
    own = result([1.0, 0.0], ids=["ends/0", "more/0"])

    assert refusal(folder, own, slices={"end": {"min": 0.5}}) == (
        "`slices` names 'end', and no task has that name; did you mean 'ends'?; there are ends, more"
    )
    assert refusal(folder, result([1.0, 0.0]), slices={"end": {"min": 0.5}}) == (
        "`slices` names 'end', and no task has that name; there is one task, and no slices of it"
    )


def test_chosen_documents_are_told_alone(folder: Path) -> None:
    """Documents that the user chose are shown, and no limit is judged."""
    found = judged(folder, result([1.0, 0.0, 1.0]), min=0.5, chosen=frozenset({"1"}))

    assert [(check.limit_name, check.outcome) for check in found.checks] == [("case", Outcome.FAIL)]
    assert found.headline.startswith("ends: 0 of 1 chosen documents right")


@pytest.mark.parametrize(
    ("metrics", "chosen"),
    [
        (("acc", "acc_norm"), "acc"),
        (("exact_match", "other"), "exact_match"),
        (("exact_match,strict",), "exact_match,strict"),
    ],
)
def test_the_usual_metric_is_judged(folder: Path, metrics: tuple[str, ...], chosen: str) -> None:
    """acc before exact_match before the only one there is."""
    own = several(*metrics)

    assert judged(folder, own, min=0.5).record["metric"] == chosen


def several(*names: str) -> HarnessResult:
    """Return 20 right documents with several metrics each."""
    documents = tuple(
        HarnessDocument(
            id=str(n), question="q", expected="e", output="o", metrics=dict.fromkeys(names, 1.0)
        )
        for n in range(20)
    )
    return HarnessResult(
        task="ends",
        documents=documents,
        metrics=dict.fromkeys(names, 1.0),
        standard_errors={},
        higher_is_better=dict.fromkeys(names, True),
        seconds=1.0,
    )


def test_a_metric_may_be_named_with_its_filter(folder: Path) -> None:
    """The metric's name is enough where one filter has it; else the filter belongs to it."""
    task = folder / "tasks" / "ends.yaml"
    task.write_text(TASK.replace("acc_norm", "exact_match"), encoding="utf-8")
    two = several("exact_match,strict", "exact_match,loose")

    one = judged(folder, several("acc", "exact_match,strict"), min=0.5, metric="exact_match")
    both = judged(folder, two, min=0.5, metric="exact_match,loose")

    assert one.record["metric"] == "exact_match,strict"
    assert both.record["metric"] == "exact_match,loose"
    assert refusal(folder, two, metric="exact_match") == (
        "task ends: exact_match is several metrics, one of each filter; to judge there is"
        " exact_match,strict, exact_match,loose"
    )
    assert refusal(folder, two) == (
        "task ends has several metrics; name the `metric` to judge; to judge there is"
        " exact_match,strict, exact_match,loose"
    )


def test_an_unlisted_metric_is_refused_before_it_is_measured(folder: Path) -> None:
    """A metric that the task file does not list costs no measurement."""
    bench = StubBench(folder=folder)
    settings = LmEvalSettings(task="tasks/ends.yaml", metric="acc_nrom", min=0.5)

    with pytest.raises(MeasurementError) as caught:
        GATE.measure(settings, bench)

    assert str(caught.value) == (
        f"{folder / 'tasks' / 'ends.yaml'}: lists no metric 'acc_nrom'; did you mean 'acc_norm'?; it"
        " has acc, acc_norm"
    )
    assert bench.asked == []


def test_an_unknown_metric_of_code_is_refused(folder: Path) -> None:
    """Metrics that code makes are known afterwards only."""
    task = folder / "tasks" / "ends.yaml"
    task.write_text(TASK.partition("metric_list")[0], encoding="utf-8")

    message = refusal(folder, result([1.0] * 8), metric="acd")

    assert message == "task ends has no metric 'acd'; did you mean 'acc'?; to judge there is acc"


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        (
            result([-1.5, -0.5]),
            "acc lies between -1.5 and -0.5, not between 0 and 1 (for likelihoods",
        ),
        (result([0.5, 1.5]), "acc lies between 0.5 and 1.5, not between 0 and 1"),
        (result([1.0, 0.0], higher=False), "acc is better where it is lower"),
        (
            result([1.0, 0.0], metrics={"acc": 0.6}),
            "acc is put together in another way than by the",
        ),
        (result([1.0, 0.0], metrics={"f1": 0.6}, name="f2"), "f1 is no number of each document"),
    ],
)
def test_metrics_that_pairs_cannot_judge_are_refused(
    folder: Path, own: HarnessResult, reason: str
) -> None:
    """Each reason is told; no metric is judged by what it is not."""
    message = refusal(folder, own)

    assert message.startswith("task ends has no metric that can be judged document by document: ")
    assert reason in message


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (1.0, 1.0)])
def test_the_ends_of_the_range_belong_to_it(folder: Path, low: float, high: float) -> None:
    """0 and 1 themselves are figures of right and wrong."""
    own = result([low, *[high] * 30])

    assert judged(folder, own, min=0.5).record["metric"] == "acc"


def test_models_that_were_asked_other_documents_are_no_pair(folder: Path) -> None:
    """Documents are compared by their ids, in their order."""
    own, base = result([1.0] * 8), result([1.0] * 7)

    with pytest.raises(MeasurementError, match="8 documents came back of one model and 7 of the"):
        judged(folder, own, base, max_drop="5pp")


def test_answers_that_tell_nothing_are_an_error(folder: Path) -> None:
    """A task that nobody answers right tells no good variant from a broken one."""
    with pytest.raises(MeasurementError, match="neither Q4_K_M nor the F16 baseline answers one"):
        judged(folder, result([0.0] * 8), result([0.0] * 8), max_drop="5pp")


def test_code_runs_where_it_is_trusted_only(folder: Path) -> None:
    """The functions are named, and the key that lets them run."""
    task = folder / "tasks" / "ends.yaml"
    task.write_text(f"{TASK}process_docs: !function steps.clean\n", encoding="utf-8")

    with pytest.raises(ArtifactError) as caught:
        judged(folder, result([1.0] * 8), min=0.5)
    trusted = judged(folder, result([1.0] * 30), min=0.5, trust_task_code=True)

    assert str(caught.value) == (
        f"{task}: runs Python of its own: `process_docs: !function steps.clean`; read it, and if it may"
        " run here, write `trust_task_code: true`"
    )
    assert trusted.checks[0].outcome is Outcome.PASS


def test_a_task_is_named_by_file_or_by_name_in_a_folder(folder: Path) -> None:
    """Both ways lead to the same request; a file outside the folder is refused."""
    requests = []
    for fields in ({"task": "ends", "folder": "tasks"}, {"task": "tasks/ends.yaml"}):
        bench = StubBench(folder=folder, harness_results={"candidate": result([1.0] * 8)})
        GATE.measure(LmEvalSettings.model_validate({**fields, "min": 0.5}), bench)
        requests.append(bench.asked[0][1])
    assert requests[0] == requests[1]

    (folder / "out.yaml").write_text(TASK, encoding="utf-8")
    settings = LmEvalSettings(task="out.yaml", folder="tasks", min=0.5)
    with pytest.raises(ArtifactError, match=r"out\.yaml: lies outside the folder"):
        GATE.measure(settings, StubBench(folder=folder))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"task": "ends"},
            "`task: ends` is a name; add the `folder` that has the task files, or write the path of a"
            " task file (.yaml)",
        ),
        (
            {**FIELDS, "max_cases": 5},
            "`max_cases` has no place here: the harness asks a task as a whole; use `limit` for its"
            " first documents",
        ),
        ({**FIELDS, "max_time": "5min"}, "`max_time` has no place here"),
    ],
)
def test_settings_that_do_not_fit_are_refused(fields: dict[str, Any], message: str) -> None:
    """What the harness cannot do is told when the specification is read."""
    with pytest.raises(ValidationError) as caught:
        LmEvalSettings.model_validate({**fields, "min": 0.5})

    assert message in str(caught.value)


def test_a_missing_harness_is_named_with_its_extra(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command that installs it is in the message."""
    monkeypatch.setattr(lm_eval, "DISTRIBUTION", "no-such-distribution")

    with pytest.raises(ProbeRefused) as caught:
        judged(folder, result([1.0]), min=0.5)

    assert str(caught.value) == (
        "the gate lm_eval needs no-such-distribution, which is not installed; install the extra: python"
        " -m pip install 'pytest-quantgate[lm-eval]'"
    )


@pytest.mark.parametrize(
    ("fields", "needed"),
    [
        ({"min": 0.5}, False),
        ({"max_drop": "2pp"}, True),
        ({"max_flips": "2%"}, True),
        ({"slices": {"a": {"max_drop": "2pp"}}}, True),
    ],
)
def test_comparing_limits_need_a_baseline(fields: dict[str, Any], *, needed: bool) -> None:
    """A share alone stands by itself; drops and flips compare."""
    settings = LmEvalSettings.model_validate({**FIELDS, **fields})

    assert GATE.needs_baseline(settings) is needed
