"""The multiple-choice gate: which answer is chosen, what is said of it, and what cannot be judged."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from bench_stub import StubBench, as_bench
from pydantic import ValidationError

from pytest_quantgate.errors import ArtifactError, MeasurementError
from pytest_quantgate.gates.multiple_choice import GATE, MultipleChoiceSettings, chosen
from pytest_quantgate.questions import Question
from pytest_quantgate.records import ChoiceRequest, ChoiceScore, Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pytest_quantgate.gates import Judgement


def settings(**values: object) -> MultipleChoiceSettings:
    """Return settings as a specification would give them."""
    return MultipleChoiceSettings.model_validate({"tasks": "tasks.jsonl", **values})


def score(nll: float, tokens: int = 1) -> ChoiceScore:
    """Return the score of an answer of which all tokens count."""
    return ChoiceScore(nll=nll, tokens=tokens, own_nll=nll, own_tokens=tokens)


def picks(pattern: str) -> dict[str, tuple[ChoiceScore, ...]]:
    """Return scores of questions with three answers, of which ``+`` picks the right one, the second."""
    return {
        f"q{number}": tuple(score(1.0 if place == (sign == "+") else 2.0) for place in range(3))
        for number, sign in enumerate(pattern)
    }


def write(folder: Path, count: int) -> None:
    """Write so many questions of three answers, every other one with a tag."""
    entries = [
        {
            "id": f"q{number}",
            "question": f"What is {number}?",
            "choices": ["red", "green", "blue"],
            "answer": 1,
            "tags": ["even"] if number % 2 == 0 else [],
        }
        for number in range(count)
    ]
    text = "".join(f"{json.dumps(entry)}\n" for entry in entries)
    (folder / "tasks.jsonl").write_text(text, encoding="utf-8")


def run(
    folder: Path,
    own: str,
    base: str | None = None,
    *,
    chosen_cases: frozenset[str] = frozenset(),
    **limits: object,
) -> Judgement:
    """Measure and judge answers given as patterns."""
    write(folder, len(own))
    scores: dict[str, Mapping[str, tuple[ChoiceScore, ...]]] = {"candidate": picks(own)}
    if base is not None:
        scores["baseline"] = picks(base)
    bench = StubBench(folder=folder, choice_scores=scores, chosen_cases=chosen_cases)  # type: ignore[arg-type]
    given = settings(**limits)
    return GATE.judge(given, GATE.measure(given, as_bench(bench)), as_bench(bench))


# --- which answer is chosen ------------------------------------------------------------------------


@pytest.mark.parametrize(("normalize", "place"), [("tokens", 1), ("characters", 2), ("none", 0)])
def test_what_a_likelihood_is_divided_by(normalize: str, place: int) -> None:
    """By tokens, by characters or as it is: each way can choose another answer."""
    question = Question(id="q", context="Q", answers=(" aa", " bbb", " cccccccc"), right=0)
    scores = [score(3.0, 2), score(4.0, 4), score(6.0, 5)]

    assert place == chosen(question, scores, normalize)  # type: ignore[arg-type]


def test_tokens_are_those_that_the_tool_scores() -> None:
    """What all answers begin with counts for the whole answer, not for llama.cpp's way."""
    question = Question(id="q", context="Q", answers=(" a", " b"), right=0)
    scores = [
        ChoiceScore(nll=9.0, tokens=3, own_nll=1.0, own_tokens=1),
        ChoiceScore(nll=8.0, tokens=3, own_nll=2.0, own_tokens=1),
    ]

    assert (0, 1) == (chosen(question, scores, "tokens"), chosen(question, scores, "none"))


def test_the_blank_before_an_answer_is_not_counted() -> None:
    """Characters are those of the answer alone: 2.0/2 is more likely than 1.1/1, not than 1.1/2."""
    question = Question(id="q", context="Q", answers=(" ab", " c"), right=0)

    assert 0 == chosen(question, [score(2.0), score(1.1)], "characters")


def test_sentences_are_compared_by_their_tails() -> None:
    """What follows a gap is one text for all choices, so characters change nothing."""
    question = Question(id="q", context="", answers=("a", "bbbb"), right=0, tail=" is.")
    scores = [score(2.0), score(3.0)]

    assert (0, 0) == (chosen(question, scores, "characters"), chosen(question, scores, "none"))


def test_the_first_of_equal_answers_is_chosen() -> None:
    """As the tool has it."""
    question = Question(id="q", context="Q", answers=(" a", " b", " c"), right=0)

    assert 1 == chosen(question, [score(2.0), score(1.0), score(1.0)], "tokens")


# --- limits ----------------------------------------------------------------------------------------


def test_a_share_is_held_against_its_limit(tmp_path: Path) -> None:
    """58 of 60 right keep 0.8 surely, and 30 of 60 miss it surely; 49 of 60 leave it open."""
    outcomes = [
        run(tmp_path, "+" * right + "-" * (60 - right), min=0.8).checks[0].outcome
        for right in (58, 30, 49)
    ]

    assert outcomes == [Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE]


def test_all_that_matter_are_judged_exactly(tmp_path: Path) -> None:
    """Where the questions are all there are, the limit itself passes and one question less fails."""
    outcomes = [
        run(tmp_path, "+" * right + "-" * (10 - right), min=0.8, cases_are="all").checks[0].outcome
        for right in (7, 8, 9)
    ]

    assert outcomes == [Outcome.FAIL, Outcome.PASS, Outcome.PASS]


def test_a_drop_is_told_with_the_questions_that_flipped(tmp_path: Path) -> None:
    """The message names the lost question, what was chosen instead, and by how much."""
    found = run(tmp_path, "+" * 9 + "-", "+" * 10, max_drop="1pp", cases_are="all")
    text = "\n".join(found.findings)

    assert [Outcome.FAIL] == [check.outcome for check in found.checks]
    assert "lost: q9" in text
    assert "expected: green" in text
    assert "'red', wrong: 1.000 nats per token more likely than the expected answer" in text
    assert 10 == len(found.cases)


def test_slices_have_limits_of_their_own(tmp_path: Path) -> None:
    """The tags of questions are slices."""
    found = run(tmp_path, "+" * 19 + "-", slices={"even": {"min": 0.9}}, cases_are="all")

    assert [Outcome.PASS] == [check.outcome for check in found.checks]


@pytest.mark.parametrize(
    ("normalize", "named"),
    [
        ("tokens", "per token, as llama-perplexity chooses them; guessing gets 33.3% right"),
        ("characters", "per character, the acc_norm of lm-evaluation-harness"),
        ("none", "as it is, the acc of lm-evaluation-harness"),
    ],
)
def test_the_way_is_named(tmp_path: Path, normalize: str, named: str) -> None:
    """The report says what figures are comparable with, and what guessing would get."""
    found = run(tmp_path, "+" * 20, min=0.5, normalize=normalize)

    assert named in found.findings[0]
    assert normalize == found.record["normalize"]
    assert pytest.approx(1 / 3) == found.record["chance"]


def test_guesses_are_no_evidence(tmp_path: Path) -> None:
    """A baseline that is right as often as guessing would be has nothing to lose: an error."""
    pattern = "+--" * 20
    with pytest.raises(MeasurementError, match="guess"):
        run(tmp_path, pattern, pattern, max_drop="5pp", cases_are="all")


def test_chosen_questions_are_asked_alone(tmp_path: Path) -> None:
    """Questions named on the command line are asked and no others, and no limit is judged."""
    found = run(tmp_path, "+-+-", min=0.9, chosen_cases=frozenset({"q1"}))

    assert ["q1"] == [case.id for case in found.cases]
    assert [("case", Outcome.FAIL)] == [(check.limit_name, check.outcome) for check in found.checks]


# --- what is asked ---------------------------------------------------------------------------------


def test_the_baseline_is_asked_where_a_limit_compares(tmp_path: Path) -> None:
    """A lowest share needs the candidate alone; the first questions of the file are those asked."""
    write(tmp_path, 9)
    bench = StubBench(folder=tmp_path, choice_scores={"candidate": picks("+" * 9)})
    given = settings(min=0.5, limit=4, prompt="Q: {question}", cases_are="all")
    evidence = GATE.measure(given, as_bench(bench))
    requests = [
        request for role, request in bench.asked if isinstance(request, ChoiceRequest) and role
    ]

    assert not GATE.needs_baseline(given)
    assert GATE.needs_baseline(settings(max_flips="5%"))
    assert 4 == evidence.sample.population
    assert ["q0", "q1", "q2", "q3"] == [
        each.id for request in requests for each in request.questions
    ]
    assert "Q: What is 0?" == requests[0].questions[0].context


def test_winogrande_sentences_are_decoded_two_and_two(tmp_path: Path) -> None:
    """A sentence brings along the one that the tool decodes beside it; the last of five has none."""
    rows = [f'{number},"The cup fits in the box; the _ is small.",cup,box,1' for number in range(5)]
    (tmp_path / "tasks.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    score = ChoiceScore(nll=1.0, tokens=3, own_nll=1.0, own_tokens=3)
    scores = {str(number): (score, replace(score, own_nll=2.0)) for number in range(5)}

    def asked(*chosen: str) -> tuple[list[str], int, list[str]]:
        bench = StubBench(
            folder=tmp_path,
            choice_scores={"candidate": scores},
            chosen_cases=frozenset(chosen),
        )
        evidence = GATE.measure(settings(tasks="tasks.csv", min=0.5), as_bench(bench))
        (request,) = (each for _, each in bench.asked if isinstance(each, ChoiceRequest))
        decoded = [question.id for question in request.questions]
        return decoded, request.together, [case.id for case in evidence.sample.cases]

    assert (["2", "3"], 2, ["3"]) == asked("3")
    assert (["0", "1", "4"], 2, ["0", "1", "4"]) == asked("0", "1", "4")


def test_scores_that_are_missing(tmp_path: Path) -> None:
    """An answer without a score is an error."""
    write(tmp_path, 2)
    scores: dict[str, Sequence[ChoiceScore]] = {"q0": picks("+")["q0"], "q1": picks("+")["q0"][:2]}
    bench = StubBench(folder=tmp_path, choice_scores={"candidate": scores})  # type: ignore[dict-item]
    with pytest.raises(MeasurementError, match="what is missing cannot be judged"):
        GATE.measure(settings(min=0.5), as_bench(bench))


def test_formats_are_known_or_named(tmp_path: Path) -> None:
    """An unknown end of a name needs a format, and only JSON Lines can be worded."""
    for name, values, said in (
        ("tasks.dat", {}, r"the format of tasks.dat is not known by its name \(.txt is hellaswag"),
        ("tasks.txt", {"letters": True}, "`prompt` and `letters` are for jsonl: remove them"),
        (
            "tasks.csv",
            {"prompt": "{question}"},
            "in the format winogrande, which has its questions",
        ),
    ):
        with pytest.raises(ArtifactError, match=said):
            GATE.measure(
                settings(tasks=name, min=0.5, **values), as_bench(StubBench(folder=tmp_path))
            )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"prompt": "Answer:"}, r"`prompt` must have \{question\} where the question goes"),
        ({"prompt": "{question}", "letters": True}, r"`prompt` must have \{choices\}"),
        ({"limit": 0}, "greater than or equal to 1"),
        ({"normalize": "bytes"}, "Input should be 'tokens', 'characters' or 'none'"),
    ],
)
def test_settings_that_make_no_sense(values: dict[str, object], said: str) -> None:
    """The message says what is missing."""
    with pytest.raises(ValidationError, match=said):
        settings(min=0.5, **values)
