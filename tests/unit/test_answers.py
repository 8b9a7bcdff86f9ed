"""Answers to cases: which are asked, when that ends, what tells nothing, and what is said."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from answer_items import Item, ask, drawn, items, judged, limits, outcomes
from bench_stub import StubBench, as_bench
from pydantic import ValidationError

from pytest_quantgate.answers import SliceLimits, draw_answers, judge_answers
from pytest_quantgate.answers.drawing import looks_up_to
from pytest_quantgate.answers.held import held_limits
from pytest_quantgate.errors import MeasurementError
from pytest_quantgate.records import Answer, AnsweredCase, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PASS, FAIL, OPEN = Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE


# --- which cases are asked, and when it ends -------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "looks"),
    [
        (1, (1,)),
        (127, (127,)),
        (128, (128,)),
        (129, (128, 129)),
        (256, (128, 256)),
        (1000, (128, 256, 512, 1000)),
    ],
)
def test_looks_double(budget: int, looks: tuple[int, ...]) -> None:
    """At 128 cases, at each doubling, and at the last one."""
    assert looks_up_to(budget) == looks


def recorder(calls: list[list[str]]) -> Callable[[Sequence[Item]], list[AnsweredCase]]:
    """Return what answers items and keeps which it was asked together."""

    def answer(asked: Sequence[Item]) -> list[AnsweredCase]:
        calls.append([item.id for item in asked])
        return ask(asked)

    return answer


def test_few_cases_are_asked_at_once_in_the_order_of_the_file() -> None:
    """Up to 128 cases make one request."""
    calls: list[list[str]] = []
    asked, bench = items("b" * 127 + "-"), StubBench()

    found = draw_answers(limits(min=0.5), asked, recorder(calls), bench=as_bench(bench))

    assert calls == [[item.id for item in asked]]
    assert bench.announced == [(0, 128)]
    assert [case.id for case in found.cases] == calls[0]
    assert (found.drawn.ended, found.looks) == ("complete", 1)


def test_many_cases_are_asked_in_blocks_until_it_is_decided() -> None:
    """1000 cases in the seed's order: 128, 128, then 256 of them in two blocks, and so on."""
    calls: list[list[str]] = []
    pattern = "b" * 890 + "-" * 30 + "+" * 30 + "w" * 50
    bench = StubBench()

    found = draw_answers(
        limits(max_drop="5pp"), items(pattern), recorder(calls), bench=as_bench(bench)
    )

    assert found.drawn.ended == "decided"
    assert found.drawn.chunks == sum(map(len, calls)) == len(found.cases)
    assert found.drawn.chunks == 512
    assert bench.announced[:3] == [(0, 128), (128, 256), (256, 512)]
    places = [int(case.id.removeprefix("case-")) for case in found.cases]
    assert places == sorted(places)
    again: list[list[str]] = []
    draw_answers(limits(max_drop="5pp"), items(pattern), recorder(again), bench=as_bench(bench))
    assert again == calls
    other: list[list[str]] = []
    values = limits(max_drop="5pp", seed=1)
    draw_answers(values, items(pattern), recorder(other), bench=as_bench(bench))
    assert other[0] != calls[0]


def test_a_failure_ends_it() -> None:
    """A candidate that is far off is refused at the first look, and says what was left open."""
    found = judged({"min": 0.8, "max_drop": "5pp"}, items(("b" * 3 + "-") * 500))

    assert outcomes(found) == [OPEN, FAIL]
    assert "; 128 of 2000 cases decided it" in found.headline
    assert found.findings[-1] == (
        "min is undecided at 128 of 2000 cases, where another limit failed"
    )


@pytest.mark.parametrize(("most", "asked"), [(1, 1), (130, 130), (200, 200), (201, 200)])
def test_max_cases_is_the_most_that_is_asked(most: int, asked: int) -> None:
    """Never more cases than allowed, nor than there are."""
    found = drawn({"max_flips": "0%", "max_cases": most}, items("b" * 200))

    assert len(found.cases) == asked
    assert found.drawn.ended == ("max_chunks" if most < 200 else "complete")


def test_time_ends_it() -> None:
    """When the time is over after a block, what is there is judged once more."""
    moments = iter([0.0, 10.0, 10.0, 61.0])
    found = drawn(
        {"max_flips": "0%", "max_time": "1min"},
        items("b" * 1000),
        clock=lambda: next(moments),
    )

    assert (found.drawn.ended, found.drawn.chunks) == ("max_time", 384)
    judgement = judge_answers(limits(max_flips="0%"), found, as_bench(StubBench()))
    assert judgement.findings[-1] == (
        "max_flips is undecided: max_time ended it at 384 of 1000 cases; as the answers stand, no"
        " number of cases within reach would decide it: raise max_time"
    )


def test_an_open_limit_says_what_would_decide_it() -> None:
    """A sample that is too small tells about how many of its kind would be enough."""
    found = judged({"min": 0.8}, items("R" * 52 + "W" * 8))

    assert found.headline == (
        "accuracy 86.7% (52 of 60 cases) ~ min 80.0%; 60 cases did not decide it"
    )
    assert found.findings == (
        "min is undecided at all 60 cases: about 98 cases in all would decide it",
        "what decides: more cases of the kind, a wider limit, or, where these cases are all that"
        " matter, `cases_are: all`",
    )
    assert outcomes(judged({"min": 0.8}, items("R" * 85 + "W" * 13))) == [PASS]


def test_a_slice_that_was_not_asked_yet_is_open() -> None:
    """One case of 200, of another tag: nothing is known of the slice, and nothing would be guessed."""
    tags = ["en"] * 200
    first = next(
        int(case.id[5:]) for case in drawn({"min": 0, "max_cases": 1}, items("b" * 200)).cases
    )
    tags[(first + 1) % 200] = "de"
    values: dict[str, object] = {
        "max_cases": 1,
        "slices": {"de": {"min": 0.5, "max_drop": "5pp", "max_flips": "50%"}},
    }

    found = judged(values, items("b" * 200, tags=tags))

    assert outcomes(found) == [OPEN, OPEN, OPEN]
    assert [check.value for check in found.checks] == [None, None, None]
    bounds = [(check.interval.low, check.interval.high) for check in found.checks if check.interval]
    assert bounds == [(0, 1), (-100, 100), (0, 1)]
    assert found.headline == (
        "accuracy 100.0% (1 of 1 cases), de - ~ min 50.0%, de drop - ~ max_drop 5 pp,"
        " de flips - ~ max_flips 50%; the F16 baseline 100.0%; 1 of 200 cases did not decide it"
    )
    assert found.findings[-1] == (
        "max_flips (de) is undecided: max_cases ended it at 0 of 1 cases with the tag 'de'; as the"
        " answers stand, no number of cases within reach would decide it: raise max_cases"
    )


def test_an_open_limit_can_warn() -> None:
    """`on_inconclusive: warn` is for open limits alone."""
    open_one = {"min": 0.8, "on_inconclusive": "warn"}

    assert judged(open_one, items("R" * 52 + "W" * 8)).warn
    assert not judged(open_one, items("R" * 60)).warn
    assert not judged(open_one, items("W" * 59 + "R")).warn


# --- the cases that the user chose -----------------------------------------------------------------


def test_chosen_cases_are_asked_alone_and_judge_no_limit() -> None:
    """One check per case, whatever the limits say."""
    bench = StubBench(chosen_cases=frozenset({"case-3", "case-1"}))
    asked = items("bb--bb")

    sample = drawn({"max_drop": "2pp"}, asked, bench)
    found = judge_answers(limits(max_drop="2pp"), sample, as_bench(bench))

    assert [case.id for case in sample.cases] == ["case-1", "case-3"]
    assert [(check.limit_name, check.statistic, check.outcome) for check in found.checks] == [
        ("case", "case case-1", PASS),
        ("case", "case case-3", FAIL),
    ]
    assert found.headline == (
        "1 of 2 chosen cases right; the other 4 of 6 were not asked, and no limit was judged"
    )


def test_a_chosen_case_that_is_not_there_is_an_error() -> None:
    """A misspelled id asks nothing, and nothing must not pass."""
    bench = StubBench(chosen_cases=frozenset({"case-0", "case-x"}))

    with pytest.raises(MeasurementError) as caught:
        drawn({"min": 0.5}, items("bb"), bench)

    assert str(caught.value) == (
        "gates.yaml::m::Q4_K_M::gate has no case 'case-x'; did you mean 'case-1' or 'case-0'?"
    )


# --- answers that tell nothing ---------------------------------------------------------------------


def test_cases_that_nobody_answers_are_an_error() -> None:
    """Where both models get nothing right, a drop of 0 would mean nothing and must not pass."""
    with pytest.raises(MeasurementError) as caught:
        drawn({"max_drop": "2pp"}, items("ww"))

    assert str(caught.value) == (
        "neither Q4_K_M nor the F16 baseline answers one of the 2 cases asked as expected: such cases"
        " cannot tell a good variant from a broken one; check the expected answers and the chat"
        " template"
    )


def test_cases_that_the_baseline_answers_none_of_are_an_error() -> None:
    """Nothing can be lost of nothing."""
    with pytest.raises(MeasurementError, match=r"^the F16 baseline answers none of the 2 cases"):
        drawn({"max_drop": "2pp"}, items("+w"))


def test_one_right_answer_of_the_baseline_is_enough_to_judge() -> None:
    """A candidate that answers nothing right has failed."""
    assert outcomes(judged({"max_drop": "2pp", "cases_are": "all"}, items("-w"))) == [FAIL]
    assert outcomes(judged({"min": 0.5, "cases_are": "all"}, items("WW"))) == [FAIL]


def quiet(*, own: str, base: str | None, right: float = 0.0) -> AnsweredCase:
    """Return a case with these outputs, right or wrong by the candidate, right by the baseline."""
    return AnsweredCase(
        id="a",
        question="q",
        expected="e",
        candidate=Answer(right=right, output=own, finish="eog"),
        baseline=None if base is None else Answer(right=1.0, output=base, finish="eog"),
    )


@pytest.mark.parametrize(
    ("case", "who"),
    [
        (quiet(own=" \n", base=""), "Q4_K_M and the F16 baseline give"),
        (quiet(own="", base=None), "Q4_K_M gives"),
        (quiet(own="", base="text", right=1.0), "Q4_K_M gives"),
    ],
)
def test_silence_is_an_error(case: AnsweredCase, who: str) -> None:
    """No output at all is nothing to judge, unless the baseline speaks and silence counts as wrong."""
    with pytest.raises(MeasurementError, match=f"^{who} no output to any of the 1 cases asked"):
        draw_answers(limits(min=0.1), [Item(id="a")], lambda _: [case], bench=as_bench(StubBench()))


def test_a_candidate_that_falls_silent_has_failed() -> None:
    """The baseline answers the same prompt, so silence is a miss; it is said."""
    sample = draw_answers(
        limits(max_drop="2pp", cases_are="all"),
        [Item(id="a")],
        lambda _: [quiet(own="", base="text")],
        bench=as_bench(StubBench()),
    )
    found = judge_answers(limits(max_drop="2pp", cases_are="all"), sample, as_bench(StubBench()))

    assert outcomes(found) == [FAIL]
    assert found.findings[-1] == "empty outputs: 1 of Q4_K_M, 0 of the F16 baseline"


def test_a_baseline_no_better_than_guesses_is_an_error() -> None:
    """30 of 100 are within what guessing one of four can give, 40 are not."""
    with pytest.raises(MeasurementError) as caught:
        judged({"max_drop": "9pp"}, items("b" * 30 + "w" * 70), chance=0.25)

    assert str(caught.value) == (
        "the F16 baseline answers 30.0% of 100 cases right, between 21.9% and 39.6% with 95%"
        " confidence, and guessing 25.0%: such answers cannot tell a good variant from a broken one;"
        " ask more cases, or easier ones"
    )
    found = judged({"max_drop": "9pp"}, items("b" * 40 + "w" * 60), chance=0.25)
    assert (outcomes(found), found.record["chance"]) == ([PASS], 0.25)


def test_a_candidate_that_guesses_fails_where_its_limit_shows_it() -> None:
    """Without a baseline, chance level is a failure of a limit above it, and no pass of one below."""
    guesses = items("R" * 25 + "W" * 75)

    assert outcomes(judged({"min": 0.5}, guesses, chance=0.25)) == [FAIL]
    with pytest.raises(MeasurementError, match=r"^Q4_K_M answers 25\.0% of 100 cases right"):
        judged({"min": 0.1}, guesses, chance=0.25)


def test_no_limit_is_an_error() -> None:
    """Nothing to hold answers against passes nothing."""
    with pytest.raises(MeasurementError, match="has no limit to judge; give one of min, max_drop"):
        judged({}, items("bb"))


def test_no_case_is_an_error() -> None:
    """An empty file passes nothing."""
    with pytest.raises(MeasurementError, match="has no case to ask"):
        drawn({"min": 0.5}, [])


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"max_flips": "5%"}, "max_flips compares case by case"),
        ({"slices": {"de": {"max_drop": "5pp"}}}, "max_drop of slice 'de' compares case by case"),
    ],
)
def test_a_written_down_figure_has_no_cases(values: dict[str, object], what: str) -> None:
    """Flips, and drops of a slice, take a baseline that can be run."""
    with pytest.raises(MeasurementError, match=f"^{what}.* is its accuracy of 0.8; give the model"):
        drawn(values, items("R", tags=("de",)), literal=0.8)


# --- what is said ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "headline"),
    [
        ({"min": 0.75}, "accuracy 75.0% (3 of 4 cases) >= min 75.0%; the F16 baseline 100.0%"),
        ({"min": 0.9}, "accuracy 75.0% (3 of 4 cases) < min 90.0%; the F16 baseline 100.0%"),
        (
            {"min": 0.5, "max_drop": "2pp", "max_flips": "30%"},
            "accuracy 75.0% (3 of 4 cases), drop 25.0 pp > max_drop 2 pp; the F16 baseline 100.0%",
        ),
        (
            {"min": 0.5, "max_drop": "25pp", "max_flips": "25%"},
            "accuracy 75.0% (3 of 4 cases) >= min 50.0%, drop 25.0 pp <= max_drop 25 pp,"
            " flips 25.0% <= max_flips 25%; the F16 baseline 100.0%",
        ),
        (
            {"min": 0.5, "max_drop": "25pp", "max_flips": "25%", "slices": {"t": {"min": 0.1}}},
            "accuracy 75.0% (3 of 4 cases) >= min 50.0%, drop 25.0 pp <= max_drop 25 pp,"
            " flips 25.0% <= max_flips 25% and 1 more limits; the F16 baseline 100.0%",
        ),
    ],
)
def test_the_headline(values: dict[str, object], headline: str) -> None:
    """Limits that ended worst are named, three of them at most."""
    asked = items("bbb-", tags="tttt")

    assert judged({**values, "cases_are": "all"}, asked).headline == headline


def test_flips_are_told_with_how_likely_they_are_by_chance() -> None:
    """10 lost and 2 gained: two-sided, 2 * (1 + 12 + 66) / 2^12."""
    found = judged({"min": 0.1}, items("-" * 10 + "+" * 2 + "b" * 8))

    assert found.findings[0] == (
        "12 of 20 cases flip: 10 lost, 2 gained (exact McNemar test: p = 0.039)"
    )
    assert found.record["mcnemar_p"] == pytest.approx(2 * 79 / 4096)
    assert (found.record["lost"], found.record["gained"]) == (10, 2)


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
        ({"max_flips": "5pp"}, False),
        ({"max_flips": "5%"}, True),
        ({"cases_are": "some"}, False),
        ({"max_cases": 0}, False),
        ({"max_cases": 1}, True),
        ({"seed": -1}, False),
        ({"pass_confidence": 0.5}, False),
        ({"pass_confidence": 0.51}, True),
        ({"fail_confidence": 1.0}, False),
        ({"slices": {}}, False),
        ({"slices": {"de": {}}}, False),
        ({"slices": {"de": {"seed": 1}}}, False),
        ({"slices": {"de": {"min": 0.5}}}, True),
    ],
)
def test_what_settings_accept(values: dict[str, object], *, right: bool) -> None:
    """Each setting has its bounds; a slice has at least one limit."""
    if right:
        limits(**values)
    else:
        with pytest.raises(ValidationError):
            limits(**values)


@pytest.mark.parametrize(
    ("values", "compares"),
    [
        ({"min": 0.5}, False),
        ({"max_drop": "1pp"}, True),
        ({"max_flips": "1%"}, True),
        ({"slices": {"de": {"min": 0.5}}}, False),
        ({"slices": {"de": {"max_drop": "1pp"}}}, True),
    ],
)
def test_which_limits_compare(values: dict[str, object], *, compares: bool) -> None:
    """Drops and flips take the baseline's answers, those of slices too."""
    assert limits(**values).compares() == compares


def test_every_limit_is_held() -> None:
    """All cases first, then each slice."""
    values = limits(min=0.5, slices={"de": SliceLimits(max_flips="5%")})  # type: ignore[arg-type]

    assert [held.name for held in held_limits(values, None)] == ["min", "max_flips (de)"]
