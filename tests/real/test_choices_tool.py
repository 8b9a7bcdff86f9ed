"""Choices are those of llama.cpp's own tool, task by task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import choice_tasks
import pytest

from pytest_quantgate import questions
from pytest_quantgate.artifact import hardware
from pytest_quantgate.gates.multiple_choice import TOGETHER, chosen
from pytest_quantgate.measure import Probe
from pytest_quantgate.records import ChoiceRequest, EngineSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_quantgate.questions import Format, Question
    from pytest_quantgate.records import ChoiceScore

TRANSCRIPT: dict[str, Any] = json.loads(
    (Path(__file__).parent / "transcripts" / "llama-perplexity-choices.json").read_text("utf-8")
)
TINY = Path(__file__).parents[1] / "models" / "tiny-f16.gguf"
SECONDS = 120.0
SAME_ARITHMETIC = hardware.this_machine().arithmetic == TRANSCRIPT["arithmetic"]

NOISE = 0.001 if SAME_ARITHMETIC else 0.01
"""Nats per token by which scores may differ: the tool adds up in float32, processors differ."""

FEWEST_WORDS = 3
"""Words of a tail that are more than three tokens in any case."""


@pytest.fixture(scope="module")
def probe() -> Iterator[Probe]:
    """The tiny model in a probe."""
    with Probe.start() as started:
        started.load(TINY, EngineSettings(threads=2), timeout=SECONDS)
        yield started


def asked(
    probe: Probe, path: Path, kind: Format, text: str
) -> tuple[tuple[Question, ...], tuple[tuple[ChoiceScore, ...], ...]]:
    """Return the questions of a file and the scores of their answers."""
    path.write_text(text, encoding="utf-8")
    found = questions.load_questions(path, shown=path.name, kind=kind, wording=questions.Wording())
    request = ChoiceRequest(
        questions=tuple(question.to_choice() for question in found), together=TOGETHER.get(kind, 1)
    )
    return found, probe.choices(request, timeout=SECONDS).questions


def rights(found: tuple[Question, ...], scores: tuple[tuple[ChoiceScore, ...], ...]) -> list[bool]:
    """Return of each question whether its right answer is chosen as the tool chooses."""
    return [
        chosen(question, own, "tokens") == question.right
        for question, own in zip(found, scores, strict=True)
    ]


def test_hellaswag(probe: Probe, tmp_path: Path) -> None:
    """The share of right endings is the one that the tool prints last."""
    found, scores = asked(probe, tmp_path / "tasks.txt", "hellaswag", choice_tasks.hellaswag())
    right = rights(found, scores)

    if SAME_ARITHMETIC:
        assert TRANSCRIPT["hellaswag"] == f"{100 * sum(right) / len(right):.8f}%"


def test_winogrande(probe: Probe, tmp_path: Path) -> None:
    """Scores of sentences agree with the tool's, and so does which is chosen where they are apart.

    Both decode two sentences together. Where a sentence has three tokens or fewer after the common
    beginning, choices are scored with their tails, and the tool then takes wrong logits for the first
    token of the second choice, which its source says.
    """
    found, scores = asked(probe, tmp_path / "tasks.csv", "winogrande", choice_tasks.winogrande())

    assert len(TRANSCRIPT["winogrande"]) == len(found)
    for question, own, (first, second, tool_choice) in zip(
        found, scores, TRANSCRIPT["winogrande"], strict=True
    ):
        figures = [-score.own_nll / score.own_tokens for score in own]
        assert figures[0] == pytest.approx(float(first), abs=NOISE)
        if len(question.tail.split()) < FEWEST_WORDS:
            continue
        assert figures[1] == pytest.approx(float(second), abs=NOISE)
        if abs(figures[0] - figures[1]) > 2 * NOISE:
            assert chosen(question, own, "tokens") + 1 == int(tool_choice)


def test_multiple_choice(probe: Probe, tmp_path: Path) -> None:
    """Question by question the running share of right answers is the tool's."""
    found, scores = asked(probe, tmp_path / "tasks.jsonl", "jsonl", choice_tasks.json_lines())
    running, right = [], 0
    for number, ok in enumerate(rights(found, scores), start=1):
        right += ok
        running.append(f"{100 * right / number:.8f}")

    assert len(TRANSCRIPT["multiple_choice"]) == len(running)
    if SAME_ARITHMETIC:
        assert TRANSCRIPT["multiple_choice"] == running


def test_the_tool_reads_the_same_questions(tmp_path: Path) -> None:
    """The binary file of the transcript has the questions of the JSON Lines, in the default wording."""
    path = tmp_path / "tasks.jsonl"
    path.write_text(choice_tasks.json_lines(), encoding="utf-8")
    found = questions.load_questions(
        path, shown=path.name, kind="jsonl", wording=questions.Wording()
    )
    data = choice_tasks.tool_file(questions.PROMPT)

    for question in found:
        assert question.context.encode() in data
        assert all(answer.removeprefix(" ").encode() in data for answer in question.answers)
