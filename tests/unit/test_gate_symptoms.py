"""The symptoms gate: each sign seen and passed over, what is asked, chosen cases, and its guards."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from bench_stub import StubBench, as_bench
from pydantic import ValidationError

from pytest_quantgate.errors import MeasurementError
from pytest_quantgate.gates.symptoms import GATE, SymptomsSettings
from pytest_quantgate.records import (
    Check,
    ContinuationRequest,
    ContinuationScore,
    ContinuationScores,
    GenerationRequest,
    Outcome,
)

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_quantgate.gates import Judgement

PROMPTS = 32
FACTS = 40
NAMES = ("river", "tower", "garden", "market", "bridge", "island", "valley", "forest")
SOUND = tuple(
    f"The {NAMES[number % 8]} lies {number} miles from here. People like to walk there."
    for number in range(PROMPTS)
)
LOOP = "So it goes on. " * 12


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a corpus, open prompts, and cases for facts and for format."""
    prompts = [
        {"id": f"open-{number}", "prompt": f"Tell me of place {number}:", "expected": "x"}
        for number in range(PROMPTS)
    ]
    facts: list[dict[str, Any]] = [
        {"id": f"fact-{number}", "prompt": f"{number} is", "expected": "right", "tags": ["fact"]}
        for number in range(FACTS)
    ]
    form: list[dict[str, Any]] = [
        {"id": "json", "prompt": "As JSON:", "expected": {"a": 1}, "match": "json"},
        {"id": "bullet", "prompt": "A list:", "expected": r"^\* ", "match": "regex"},
    ]
    form[1]["tags"] = ["instruction"]
    (tmp_path / "default.txt").write_text("people like to walk the miles from here", "utf-8")
    for name, rows in (("prompts.jsonl", prompts), ("cases.jsonl", [*facts, *form])):
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return tmp_path


def settings(**values: object) -> SymptomsSettings:
    """Return settings as a specification would give them, with the files of the folder."""
    files = {"prompts": "prompts.jsonl", "cases": "cases.jsonl"}
    return SymptomsSettings.model_validate(files | values)


def scores(surprise: dict[str, float]) -> ContinuationScores:
    """Return what the baseline thinks of all texts, by the model that wrote them."""
    return ContinuationScores(
        scores=tuple(
            ContinuationScore(
                id=f"{author}:open-{number}",
                nll=10 * (each + 0.01 * (number % 3)),
                tokens=10,
                bytes=40,
                worst_nll=1,
                greedy=False,
            )
            for author, each in surprise.items()
            for number in range(PROMPTS)
        ),
        seconds=0.1,
    )


def bench(
    folder: Path,
    *,
    candidate: list[str],
    baseline: list[str],
    surprise: float = 0.7,
    **changes: Any,  # noqa: ANN401 - fields of the stub
) -> StubBench:
    """Return a bench whose models write these texts, on which the baseline has such a mean surprise."""
    return StubBench(
        folder=folder,
        texts={"candidate": candidate, "baseline": baseline},
        continuation_scores={"baseline": scores({"candidate": surprise, "baseline": 0.7})},
        types=("Q2_K", "F16"),
        **changes,
    )


def judged(stub: StubBench, **values: object) -> Judgement:
    """Measure and judge."""
    given = settings(**values)
    return GATE.judge(given, GATE.measure(given, as_bench(stub)), as_bench(stub))


def outcomes(judgement: Judgement) -> dict[str, Outcome]:
    """Return the outcome of each limit by its name."""
    assert all(isinstance(check, Check) for check in judgement.checks)
    return {check.limit_name: check.outcome for check in judgement.checks}


def answers(*, wrong: int = 0, form: tuple[str, str] = ('{"a": 1}', "* one")) -> list[str]:
    """Return an answer to each case, so many of the facts wrong."""
    return ["wrong"] * wrong + ["right"] * (FACTS - wrong) + list(form)


# --- each sign -------------------------------------------------------------------------------------


def test_a_good_variant_shows_no_sign(folder: Path) -> None:
    """Texts and answers like the baseline's pass every default limit that so few cases can decide."""
    texts = [*SOUND, *answers()]
    judgement = judged(
        bench(folder, candidate=texts, baseline=texts),
        cases_are="all",
        repetition={"max_increase": "15pp", "max_repeated_increase": "10pp"},
        gibberish={
            "max_surprise_increase": 0.25,
            "max_broken_increase": "15pp",
            "max_unknown_increase": "10pp",
        },
    )

    assert set(outcomes(judgement).values()) == {Outcome.PASS}
    assert len(judgement.checks) == 7
    assert judgement.headline.startswith("no sign of over-quantization found: ")
    assert judgement.advice == ()
    assert judgement.record["texts"] == PROMPTS
    assert judgement.record["facts_right"] == FACTS


def test_loops_are_repetition(folder: Path) -> None:
    """Texts that run in circles fail, with figures, the flipped texts, the cause and the remedy."""
    judgement = judged(
        bench(folder, candidate=[LOOP] * PROMPTS, baseline=list(SOUND)), signs=["repetition"]
    )

    assert outcomes(judgement) == {
        "repetition.max_increase": Outcome.FAIL,
        "repetition.max_repeated_increase": Outcome.FAIL,
    }
    assert judgement.headline == (
        "repetition found: increase of texts caught in a loop 100pp > repetition.max_increase 10pp;"
        " 32 texts"
    )
    assert (
        "repetition in 32 texts: 100.0% (the F16 baseline 0.0%) end up in a loop"
        in (judgement.findings[0])
    )
    assert any("says again and again 'So it goes on.'" in line for line in judgement.findings)
    (advice,) = judgement.advice
    assert advice.startswith("repetition: texts run in circles; the likely cause: ")
    assert judgement.record["looping"] == 1
    assert [case.flip for case in judgement.cases] == ["lost"] * PROMPTS


def test_loops_of_the_baseline_are_no_sign(folder: Path) -> None:
    """What the baseline does itself on the same prompts is no mark of the variant."""
    mixed = [LOOP] * 8 + list(SOUND[8:])
    judgement = judged(
        bench(folder, candidate=mixed, baseline=mixed),
        signs=["repetition"],
        repetition={"max_increase": "15pp"},
    )

    assert outcomes(judgement) == {"repetition.max_increase": Outcome.PASS}
    assert judgement.checks[0].baseline == pytest.approx(0.25)


def test_a_limit_on_compression_can_be_set(folder: Path) -> None:
    """The compression ratio has a limit of its own, which replaces the others of its block."""
    judgement = judged(
        bench(folder, candidate=[LOOP] * PROMPTS, baseline=list(SOUND)),
        signs=["repetition"],
        repetition={"max_compression_increase": 0.5},
    )

    assert outcomes(judgement) == {"repetition.max_compression_increase": Outcome.FAIL}


def test_surprising_texts_are_gibberish(folder: Path) -> None:
    """A baseline that is surprised at what it reads fails the variant, whose words are shown."""
    strange = [f"Zorp flink {text}" for text in SOUND]
    stub = bench(folder, candidate=strange, baseline=list(SOUND), surprise=1.5)
    judgement = judged(stub, signs=["gibberish"])

    assert outcomes(judgement)["gibberish.max_surprise_increase"] is Outcome.FAIL
    assert judgement.record["surprise"] == pytest.approx(1.5, abs=0.02)
    assert judgement.record["baseline_surprise"] == pytest.approx(0.7, abs=0.02)
    assert "unknown words, such as 'flink', 'zorp'" in judgement.findings[1]
    assert "most surprising: open-0 (1.50 against 0.70)" in judgement.findings[1]
    assert "gibberish: texts make no sense" in judgement.advice[0]


def test_unknown_words_are_gibberish(folder: Path) -> None:
    """Texts of words that nobody else uses fail, even where the baseline is not surprised."""
    strange = [f"zorp{letter} flink{letter} blub" for letter in "abcdefghijklmnopqrstuvwxyzäöüßñç"]
    judgement = judged(
        bench(folder, candidate=strange, baseline=list(SOUND)),
        signs=["gibberish"],
        gibberish={"max_unknown_increase": "10pp"},
    )

    assert outcomes(judgement) == {"gibberish.max_unknown_increase": Outcome.FAIL}
    assert judgement.checks[0].value == pytest.approx(100, abs=7)


@pytest.mark.parametrize("bad", ["broken \ufffd text", ""], ids=["broken", "empty"])
def test_broken_texts_are_gibberish(folder: Path, bad: str) -> None:
    """Characters that are none, and texts without any, fail."""
    judgement = judged(
        bench(folder, candidate=[bad] * PROMPTS, baseline=list(SOUND)),
        signs=["gibberish"],
        gibberish={"max_broken_increase": "10pp"},
    )

    assert outcomes(judgement) == {"gibberish.max_broken_increase": Outcome.FAIL}


@pytest.mark.parametrize(
    ("wrong", "outcome"), [(3, Outcome.PASS), (4, Outcome.PASS), (5, Outcome.FAIL)]
)
def test_lost_answers_are_wrong_facts(folder: Path, wrong: int, outcome: Outcome) -> None:
    """Of all cases that matter a drop of the limit passes, and one more is a sign."""
    judgement = judged(
        bench(folder, candidate=answers(wrong=wrong)[:FACTS], baseline=answers()[:FACTS]),
        signs=["facts"],
        cases_are="all",
    )

    assert outcomes(judgement) == {"facts.max_drop": outcome}
    assert (
        f"facts: {FACTS - wrong} of {FACTS} answers right (the F16 baseline 40)"
        in (judgement.findings[0])
    )
    assert bool(judgement.advice) is (outcome is Outcome.FAIL)


def test_format_is_form_and_not_content(folder: Path) -> None:
    """JSON of other values keeps its form; what is no JSON at all has lost it."""
    good, bad = ['{"a": 2}', "* one"], ["a is 1", "one"]
    kept = judged(bench(folder, candidate=good, baseline=good), signs=["format"], cases_are="all")
    lost = judged(bench(folder, candidate=bad, baseline=good), signs=["format"], cases_are="all")

    assert outcomes(kept) == {"format.max_drop": Outcome.PASS}
    assert outcomes(lost) == {"format.max_drop": Outcome.FAIL}
    assert [case.id for case in lost.cases] == ["json", "bullet"]
    assert "format drift: answers no longer have the form" in lost.advice[0]
    assert any(line.startswith("lost: json") for line in lost.findings)


def test_an_open_limit_is_inconclusive(folder: Path) -> None:
    """Two cases decide nothing: it is said how many would, and `warn` makes it a warning."""
    texts = ['{"a": 2}', "* one"]
    stub = bench(folder, candidate=texts, baseline=texts)
    judgement = judged(stub, signs=["format"], on_inconclusive="warn")

    assert outcomes(judgement) == {"format.max_drop": Outcome.INCONCLUSIVE}
    assert judgement.warn
    assert judgement.headline.startswith("signs of over-quantization undecided: ")
    assert any(
        line.startswith("format.max_drop is undecided at 2 cases") for line in judgement.findings
    )


# --- what is asked ---------------------------------------------------------------------------------


def test_open_prompts_call_for_long_texts(folder: Path) -> None:
    """All is asked at once, texts to their full length, and the baseline reads up to the loop."""
    texts = [*SOUND[:-1], LOOP, *answers()]
    stub = bench(folder, candidate=texts, baseline=texts)
    GATE.measure(settings(max_tokens=200), as_bench(stub))
    (_, generation), _, (role, reading), (_, own_reading) = stub.asked

    assert isinstance(generation, GenerationRequest)
    assert len(generation.prompts) == PROMPTS + FACTS + 2
    assert {prompt.max_tokens for prompt in generation.prompts[:PROMPTS]} == {200}
    assert {prompt.until for prompt in generation.prompts[:PROMPTS]} == {None}
    assert role == "baseline"
    assert isinstance(reading, ContinuationRequest)
    assert isinstance(own_reading, ContinuationRequest)
    assert len(reading.continuations) == len(own_reading.continuations) == PROMPTS
    assert reading.continuations[-1].continuation == "So it goes on."
    assert reading.continuations[-1].context == "Tell me of place 31:"


def test_the_prompts_that_come_along_are_the_default(folder: Path) -> None:
    """Without `prompts`, the 64 open ones are asked, chats among them through the template."""
    texts = [f"Text number {number}." for number in range(64)]
    stub = bench(folder, candidate=texts, baseline=texts)
    given = SymptomsSettings.model_validate({"signs": ["repetition"]})
    evidence = GATE.measure(given, as_bench(stub))

    assert len(evidence.texts.pairs) == 64
    assert GATE.needs_baseline(given)


def test_chosen_cases_are_asked_alone(folder: Path) -> None:
    """Of cases the user names it is only told whether they are right; no limit is judged."""
    stub = bench(
        folder, candidate=[LOOP], baseline=["All is well."], chosen_cases=frozenset({"open-3"})
    )
    judgement = judged(stub)
    (check,) = judgement.checks

    assert isinstance(check, Check)
    assert check.limit_name == "case"
    assert check.outcome is Outcome.FAIL
    assert judgement.headline.startswith("0 of 1 chosen prompts and cases right")
    assert len(judgement.cases) == 1


def test_an_unknown_case_is_an_error(folder: Path) -> None:
    """A name that nothing has is met with near ones."""
    stub = bench(folder, candidate=[], baseline=[], chosen_cases=frozenset({"fact-99"}))

    with pytest.raises(MeasurementError, match=r"no case 'fact-99'; did you mean 'fact-"):
        judged(stub)


# --- guards ----------------------------------------------------------------------------------------


def test_a_sign_without_cases_is_an_error(folder: Path) -> None:
    """Tags that no case has are told, with those there are."""
    stub = bench(folder, candidate=[], baseline=[])

    with pytest.raises(MeasurementError, match=r"no case for the sign 'facts'.* fact, instruction"):
        judged(stub, signs=["facts"], facts={"max_drop": "5pp", "tags": ["history"]})


def test_an_id_in_both_files_is_an_error(folder: Path) -> None:
    """One id must mean one thing, so that it can be asked alone."""
    stub = bench(folder, candidate=[], baseline=[])

    with pytest.raises(MeasurementError, match=r"the id 'fact-0' stands both"):
        judged(stub, prompts="cases.jsonl", signs=["repetition", "facts"])


def test_a_baseline_that_only_loops_is_an_error(folder: Path) -> None:
    """Where hardly a text of the baseline is sound, no increase could be seen."""
    looping = [LOOP] * PROMPTS

    with pytest.raises(MeasurementError, match=r"only 0% of 32 outputs of the F16 baseline"):
        judged(bench(folder, candidate=looping, baseline=looping), signs=["repetition"])


def test_models_that_write_nothing_are_an_error(folder: Path) -> None:
    """Without any text there is nothing to be surprised at, and so nothing to judge."""
    empty = [""] * PROMPTS

    with pytest.raises(MeasurementError, match=r"and 0 can be read; give more `prompts`"):
        judged(bench(folder, candidate=empty, baseline=empty), signs=["gibberish"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"repetition": {}}, "no limit; give at least one of max_increase"),
        ({"gibberish": {}}, "no limit; give at least one of max_surprise_increase"),
        ({"facts": {"tags": ["fact"]}}, "Field required"),
        ({"repetition": {"max_increase": 0.1}}, 'such as "2pp"'),
        ({"signs": ["rot"]}, "Input should be 'repetition', 'gibberish', 'facts' or 'format'"),
        ({"signs": []}, "at least 1 item"),
        (
            {"signs": ["facts"], "repetition": {"max_increase": "5pp"}},
            "'repetition' has limits and",
        ),
        ({"max_tokens": 8}, "greater than or equal to 16"),
    ],
)
def test_settings_that_make_no_gate(values: dict[str, object], message: str) -> None:
    """A block without a limit, a bare number, a sign there is not: each is refused by its name."""
    with pytest.raises(ValidationError) as caught:
        settings(**values)

    assert message in str(caught.value)
