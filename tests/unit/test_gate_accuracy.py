"""The accuracy gate: shares, drops and flips, the guard against cases that tell nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from bench_stub import StubBench, as_bench
from pydantic import ValidationError

from pytest_quantgate.cases import Case
from pytest_quantgate.errors import MeasurementError, SpecError
from pytest_quantgate.gates.accuracy import GATE, AccuracyEvidence, AccuracySettings, Answer
from pytest_quantgate.records import GenerationRequest, Outcome, Output, Prompt

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_quantgate.gates import Judgement


def settings(**values: object) -> AccuracySettings:
    """Return settings as a specification would give them."""
    return AccuracySettings.model_validate({"cases": "cases.jsonl", **values})


def answers(pattern: str, text: str = "wrong") -> tuple[Answer, ...]:
    """Return answers from a pattern such as ``++-``: right, right, wrong."""
    found = []
    for number, sign in enumerate(pattern, start=1):
        case = Case(
            id=f"case-{number}",
            prompt=f"question {number}",
            messages=(),
            expected="yes",
            match="contains",
            max_tokens=None,
            stop=(),
        )
        output = Output(
            id=case.id,
            text="yes" if sign == "+" else text,
            tokens=1,
            finish="eog",
            prompt_tokens=2,
        )
        found.append(Answer(case=case, output=output, right=sign == "+"))
    return tuple(found)


def judge(
    limits: AccuracySettings,
    own: str,
    base: str | None = None,
    *,
    literal: float | None = None,
) -> Judgement:
    """Judge answers given as patterns."""
    evidence = AccuracyEvidence(
        candidate=answers(own),
        baseline=None if base is None else answers(base),
        literal=literal,
    )
    return GATE.judge(limits, evidence, as_bench(StubBench()))


def outcomes(judgement: Judgement) -> list[Outcome]:
    """Return the outcomes of all checks."""
    return [check.outcome for check in judgement.checks]


# --- limits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "outcome"), [(17, Outcome.FAIL), (18, Outcome.PASS), (19, Outcome.PASS)]
)
def test_the_lowest_share(right: int, outcome: Outcome) -> None:
    """Of 20 cases at ``min: 0.9``, 18 right is the limit itself and passes; 17 fails."""
    found = judge(settings(min=0.9), "+" * right + "-" * (20 - right))

    assert outcomes(found) == [outcome]
    assert found.checks[0].value == right / 20


@pytest.mark.parametrize("total", range(1, 120))
def test_a_share_at_its_limit_passes_for_any_number_of_cases(total: int) -> None:
    """A limit written as the decimal of a possible share is met by that share, one case less not."""
    for right in range(1, total + 1):
        limit = settings(min=float(repr(right / total)))
        met = judge(limit, "+" * right + "-" * (total - right))
        missed = judge(limit, "+" * (right - 1) + "-" * (total - right + 1))
        assert (outcomes(met), outcomes(missed)) == ([Outcome.PASS], [Outcome.FAIL])
        if right > 3:
            break


@pytest.mark.parametrize(
    ("own", "outcome"), [(91, Outcome.PASS), (90, Outcome.PASS), (89, Outcome.FAIL)]
)
def test_the_largest_drop(own: int, outcome: Outcome) -> None:
    """From 92 of 100, ``2pp`` allows 90, though 0.92 - 0.9 is more than 0.02 in floats; not 89."""
    assert 0.92 - 0.9 > 0.02

    found = judge(settings(max_drop="2pp"), "+" * own + "-" * (100 - own), "+" * 92 + "-" * 8)

    assert outcomes(found) == [outcome]
    assert found.checks[0].value == pytest.approx(92 - own)
    assert found.checks[0].unit == "pp"


@pytest.mark.parametrize("total", [7, 30, 49, 60, 100, 300])
def test_a_drop_of_one_case_is_seen(total: int) -> None:
    """``0pp`` allows no case less, for any number of cases."""
    base = "+" * (total - 1) + "-"
    assert outcomes(judge(settings(max_drop="0pp"), base, base)) == [Outcome.PASS]
    one_less = "+" * (total - 2) + "--"
    assert outcomes(judge(settings(max_drop="0pp"), one_less, base)) == [Outcome.FAIL]


def test_a_gain_is_no_drop() -> None:
    """A variant that answers more passes, with a negative drop."""
    found = judge(settings(max_drop="0pp"), "+++-", "++--")

    assert outcomes(found) == [Outcome.PASS]
    assert found.checks[0].value == -25.0


def test_flips_are_counted_both_ways() -> None:
    """The same share can hide changed answers: each case that changed counts, won or lost."""
    found = judge(settings(max_drop="0pp"), "+-+-+", "-++-+")

    assert outcomes(found) == [Outcome.PASS]
    assert found.record["flips"] == 2
    assert judge(settings(min=0.1), "+-").record["flips"] is None


def test_a_share_carries_its_wilson_interval() -> None:
    """The interval says how far the share would carry to other cases; it decides nothing here."""
    found = judge(settings(min=0.9), "+" * 19 + "-")

    interval = found.checks[0].interval
    assert interval is not None
    assert (round(interval.low, 4), round(interval.high, 4)) == (0.7639, 0.9911)
    assert outcomes(found) == [Outcome.PASS]


def test_a_literal_baseline_is_compared_with() -> None:
    """A baseline accuracy written down as a number takes the place of measured answers."""
    found = judge(settings(max_drop="5pp"), "+++-", literal=0.8)

    assert outcomes(found) == [Outcome.PASS]
    assert found.checks[0].value == pytest.approx(5.0)
    assert found.record["flips"] is None
    assert found.record["baseline_accuracy"] == 0.8


# --- what is measured ------------------------------------------------------------------------------


def cases_file(folder: Path, expected: tuple[str, ...]) -> None:
    """Write a case file with these expectations."""
    lines = [
        f'{{"id": "c{n}", "prompt": "q{n}", "expected": "{text}"}}'
        for n, text in enumerate(expected)
    ]
    (folder / "cases.jsonl").write_text("\n".join(lines), encoding="utf-8")


def test_both_models_answer_the_same_cases(tmp_path: Path) -> None:
    """Baseline and candidate get one request; answers are matched by each case's matcher."""
    cases_file(tmp_path, ("Paris", "Rome"))
    bench = StubBench(
        folder=tmp_path,
        texts={"baseline": ("it is paris", "rome"), "candidate": ("PARIS", "Milan")},
    )

    found = GATE.measure(settings(max_drop="2pp", max_tokens=9, parallel=3), as_bench(bench))

    request = GenerationRequest(
        prompts=(
            Prompt(id="c0", prompt="q0", max_tokens=9, until="Paris"),
            Prompt(id="c1", prompt="q1", max_tokens=9, until="Rome"),
        ),
        parallel=3,
    )
    assert bench.asked == [("baseline", request), ("candidate", request)]
    assert [answer.right for answer in found.candidate] == [True, False]
    assert found.baseline is not None
    assert [answer.right for answer in found.baseline] == [True, True]


def test_a_baseline_is_asked_only_where_it_counts(tmp_path: Path) -> None:
    """Neither an absolute limit nor a literal baseline runs the baseline's probe."""
    cases_file(tmp_path, ("Paris",))
    bench = StubBench(folder=tmp_path, texts={"candidate": ("Paris",)}, literals={"accuracy": 0.75})

    assert GATE.measure(settings(min=0.5), as_bench(bench)).literal is None
    assert GATE.measure(settings(max_drop="1pp"), as_bench(bench)).literal == 0.75
    assert [asked[0] for asked in bench.asked] == ["candidate", "candidate"]


def test_cases_that_nobody_answers_are_an_error(tmp_path: Path) -> None:
    """Where both models get nothing right, a drop of 0 would mean nothing and must not pass."""
    cases_file(tmp_path, ("Paris", "Rome"))
    bench = StubBench(folder=tmp_path, texts={"baseline": ("Lyon", "Turin"), "candidate": ("", "")})

    with pytest.raises(MeasurementError) as caught:
        GATE.measure(settings(max_drop="2pp"), as_bench(bench))

    assert str(caught.value) == (
        "neither Q4_K_M nor the F16 baseline answers one of the 2 cases of cases.jsonl as expected:"
        " such cases cannot tell a good variant from a broken one; check the expected answers and"
        " the chat template"
    )


@pytest.mark.parametrize(
    "texts",
    [
        {"baseline": ("Paris", ""), "candidate": ("", "")},
        {"baseline": ("", ""), "candidate": ("", "Rome")},
    ],
)
def test_one_right_answer_is_enough_to_judge(
    tmp_path: Path, texts: dict[str, tuple[str, ...]]
) -> None:
    """As soon as either model gets one case right, the cases can tell models apart."""
    cases_file(tmp_path, ("Paris", "Rome"))
    bench = StubBench(folder=tmp_path, texts=texts)  # type: ignore[arg-type]

    assert len(GATE.measure(settings(max_drop="2pp"), as_bench(bench)).candidate) == 2


def test_a_broken_case_file_is_an_error(tmp_path: Path) -> None:
    """The case file's problems are told by the name the specification uses."""
    (tmp_path / "cases.jsonl").write_text("{}", encoding="utf-8")

    with pytest.raises(SpecError, match=r"^cases\.jsonl:1:1: missing key 'expected'\n    \{\}$"):
        GATE.measure(settings(min=0.5), as_bench(StubBench(folder=tmp_path)))


# --- what is said ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "headline"),
    [
        ({"min": 0.75}, "accuracy 75.0% (3 of 4 cases) >= min 75.0%"),
        ({"min": 0.9}, "accuracy 75.0% (3 of 4 cases) < min 90.0%"),
        (
            {"max_drop": "25pp"},
            "accuracy 75.0% (3 of 4 cases), drop 25.0 pp <= max_drop 25 pp;"
            " the F16 baseline 100.0%",
        ),
        (
            {"min": 0.5, "max_drop": "2pp"},
            "accuracy 75.0% (3 of 4 cases), drop 25.0 pp > max_drop 2 pp; the F16 baseline 100.0%",
        ),
        (
            {"min": 0.5, "max_drop": "25pp"},
            "accuracy 75.0% (3 of 4 cases) >= min 50.0%, drop 25.0 pp <= max_drop 25 pp;"
            " the F16 baseline 100.0%",
        ),
        (
            {"min": 0.9, "max_drop": "2pp"},
            "accuracy 75.0% (3 of 4 cases) < min 90.0%, drop 25.0 pp > max_drop 2 pp;"
            " the F16 baseline 100.0%",
        ),
    ],
)
def test_the_headline(limits: dict[str, object], headline: str) -> None:
    """Failed limits are named alone; where all hold, all are."""
    base = "++++" if "max_drop" in limits else None
    assert judge(settings(**limits), "+++-", base).headline == headline


def test_wrong_answers_are_shown() -> None:
    """Each wrong case shows question, expectation and output, so that a person can tell why."""
    found = judge(settings(min=0.5), "+-")

    assert found.findings == (
        "case-2: prompt 'question 2', expected (contains) 'yes', got 'wrong'",
    )
    assert found.record == {
        "accuracy": 0.5,
        "right": 1,
        "cases": 2,
        "baseline_accuracy": None,
        "flips": None,
    }


@pytest.mark.parametrize(
    ("wrong", "shown", "last"),
    [(9, 9, "case-9"), (10, 10, "case-10"), (11, 11, "... and 1 more failing cases")],
)
def test_no_more_than_ten_wrong_answers_are_shown(wrong: int, shown: int, last: str) -> None:
    """From the eleventh on they are counted."""
    found = judge(settings(min=0.5), "-" * wrong)

    assert len(found.findings) == shown
    assert found.findings[-1].startswith(last)


@pytest.mark.parametrize(("length", "tail"), [(300, "x'"), (301, "x...'")])
def test_long_outputs_are_cut(length: int, tail: str) -> None:
    """An output of 300 characters is shown whole, a longer one cut, and control characters escaped."""
    evidence = AccuracyEvidence(
        candidate=answers("-", "\n" + "x" * (length - 1)), baseline=None, literal=None
    )

    (finding,) = GATE.judge(settings(min=0.5), evidence, as_bench(StubBench())).findings

    assert finding.endswith(tail)
    assert finding.count("x", finding.index("got")) == 299
    assert "got '\\nx" in finding


# --- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "right"),
    [
        ({"min": -0.01}, False),
        ({"min": 0.0}, True),
        ({"min": 1.0}, True),
        ({"min": 1.01}, False),
        ({"max_drop": 0.02}, False),
        ({"max_drop": "2%"}, False),
        ({"max_drop": "2pp"}, True),
        ({"max_tokens": 0}, False),
        ({"max_tokens": 1}, True),
        ({"parallel": 0}, False),
        ({"parallel": 256}, True),
        ({"parallel": 257}, False),
        ({"cases": ""}, False),
    ],
)
def test_what_settings_accept(values: dict[str, object], *, right: bool) -> None:
    """Each setting has its bounds."""
    if right:
        settings(**values)
    else:
        with pytest.raises(ValidationError):
            settings(**values)


def test_cases_are_required_and_limits_are_two() -> None:
    """A gate without cases is none; only a drop compares with the baseline."""
    with pytest.raises(ValidationError):
        AccuracySettings.model_validate({"min": 0.9})
    assert settings(min=0.9, max_drop="2pp").limits_given() == ("min", "max_drop")
    assert not GATE.needs_baseline(settings(min=0.9))
    assert GATE.needs_baseline(settings(max_drop="2pp"))
