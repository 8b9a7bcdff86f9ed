"""Limits on answers to cases: samples, all cases, weights, repeats, slices, and how often they err."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from answer_items import Item, ask, drawn, items, judged, limits, outcomes
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pytest_quantgate.answers.drawing import looks_up_to
from pytest_quantgate.answers.held import held_limits
from pytest_quantgate.answers.tally import Certainty, Tally, Total
from pytest_quantgate.errors import MeasurementError
from pytest_quantgate.records import Outcome

PASS, FAIL, OPEN = Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE

SURE = Certainty(looks=1, pass_confidence=0.95, fail_confidence=0.99)


# --- limits of a sample ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "outcome"),
    [(57, OPEN), (58, PASS), (60, PASS), (48, OPEN), (47, FAIL), (0, FAIL)],
)
def test_the_lowest_share_of_a_sample(right: int, outcome: Outcome) -> None:
    """Of 60 cases at ``min: 0.9``: Wilson's lower bound of 58 is above it; 47 or fewer come in 0.7%."""
    found = judged({"min": 0.9}, items("R" * right + "W" * (60 - right)))

    assert outcomes(found) == [outcome]
    interval = found.checks[0].interval
    assert interval is not None
    assert (interval.confidence, interval.fail_confidence) == (0.95, 0.99)


def test_wilsons_lower_bound_lets_pass() -> None:
    """60 of 60: n / (n + z^2) with z = 1.6449, so 0.9568 is the highest share that is proved."""
    everything = items("R" * 60)

    assert outcomes(judged({"min": 0.9568}, everything)) == [PASS]
    assert outcomes(judged({"min": 0.9569}, everything)) == [OPEN]


@pytest.mark.parametrize(
    ("lost", "outcome"), [(0, PASS), (1, PASS), (2, OPEN), (13, OPEN), (14, FAIL), (120, FAIL)]
)
def test_the_largest_drop_of_a_sample(lost: int, outcome: Outcome) -> None:
    """Of 120 cases of which so many are lost, a drop within 5 points is proved, open, or refuted."""
    asked = items("-" * lost + "b" * (120 - lost))
    found = judged({"max_drop": "5pp"}, asked)

    assert outcomes(found) == [outcome]
    assert found.checks[0].value == pytest.approx(100 * lost / 120, abs=1e-9)
    assert found.checks[0].unit == "pp"
    assert found.checks[0].limit == pytest.approx(5)


@pytest.mark.parametrize(("cases", "outcome"), [(69, OPEN), (70, PASS)])
def test_how_many_cases_prove_a_drop_of_five_points(cases: int, outcome: Outcome) -> None:
    """Not one of them may flip, and there must be 70: fewer are no proof, however good."""
    assert outcomes(judged({"max_drop": "5pp"}, items("b" * cases))) == [outcome]


def test_a_drop_is_judged_by_pairs() -> None:
    """The same shares of right answers are proof with few flips, and none with many."""
    steady = items("b" * 96 + "-" + "+" + "w" * 22)
    shaky = items("b" * 61 + "-" * 36 + "+" * 36 + "w" * 7)[:120]

    assert outcomes(judged({"max_drop": "5pp"}, steady)) == [PASS]
    assert outcomes(judged({"max_drop": "5pp"}, shaky)) == [OPEN]


@pytest.mark.parametrize(("flips", "outcome"), [(0, PASS), (1, PASS), (2, OPEN), (12, FAIL)])
def test_flips_count_in_both_directions(flips: int, outcome: Outcome) -> None:
    """Of 100 cases, as many gained as lost are no drop, and flips all the same."""
    pattern = "-+" * (flips // 2) + "-" * (flips % 2)
    found = judged({"max_flips": "5%"}, items(pattern.ljust(100, "b")))

    assert outcomes(found) == [outcome]
    assert found.checks[0].value == flips / 100
    assert found.record["flips"] == flips


def test_a_written_down_baseline_takes_the_place_of_its_answers() -> None:
    """Then the doubt is in the candidate's share alone: 90 of 100 against 0.85."""
    found = judged({"max_drop": "5pp"}, items("R" * 90 + "W" * 10), literal=0.85)

    (check,) = found.checks
    assert check.outcome is PASS
    assert check.value == pytest.approx(-5)
    assert check.interval is not None
    assert check.interval.high == pytest.approx(100 * (0.85 - 0.839644), abs=1e-3)
    assert (check.baseline, found.record["flips"]) == (0.85, None)


# --- all the cases that matter ---------------------------------------------------------------------


@pytest.mark.parametrize(("right", "outcome"), [(17, FAIL), (18, PASS), (19, PASS)])
def test_the_lowest_share_of_all_cases(right: int, outcome: Outcome) -> None:
    """Of all 20 cases at ``min: 0.9``, 18 right is the limit itself and passes; 17 fails."""
    found = judged({"min": 0.9, "cases_are": "all"}, items("R" * right + "W" * (20 - right)))

    assert outcomes(found) == [outcome]


@pytest.mark.parametrize("total", range(1, 60))
def test_a_share_at_its_limit_passes_for_any_number_of_cases(total: int) -> None:
    """A limit written as the decimal of a possible share is met by that share, one case less not."""
    for right in range(1, min(total, 4) + 1):
        values: dict[str, object] = {"min": float(repr(right / total)), "cases_are": "all"}
        met = items("R" * right + "W" * (total - right))
        missed = items("R" * (right - 1) + "W" * (total - right + 1))
        assert outcomes(judged(values, met)) == [PASS]
        assert outcomes(judged(values, missed)) == [FAIL]


@pytest.mark.parametrize(("lost", "outcome"), [(1, PASS), (2, PASS), (3, FAIL)])
def test_the_largest_drop_of_all_cases(lost: int, outcome: Outcome) -> None:
    """From 92 of 100, ``2pp`` allows 90, though 0.92 - 0.9 is more than 0.02 in floats; not 89."""
    asked = items("-" * lost + "b" * (92 - lost) + "w" * 8)

    assert outcomes(judged({"max_drop": "2pp", "cases_are": "all"}, asked)) == [outcome]


def test_all_cases_may_be_decided_before_the_last() -> None:
    """1000 cases without a flip: at 128 of them the rest can hide few."""
    values: dict[str, object] = {"max_drop": "5pp", "min": 0.9, "cases_are": "all"}

    found = drawn(values, items("b" * 1000))

    assert found.drawn.ended == "decided"
    assert found.drawn.chunks == len(found.cases) == 128


# --- weights, repeats, slices ----------------------------------------------------------------------


def test_weights_count() -> None:
    """A case of weight 3 is three quarters of the two; they tell as much as 1.6 of equal weight."""
    tally = Tally.of(ask(items("b-", weights=(1, 3))))

    assert tally.share() == 0.25
    assert tally.value("max_drop", None) == 0.75
    assert tally.effective == pytest.approx(16 / 10)
    assert not tally.whole


@pytest.mark.parametrize("weight", [0.1, 1.0, 7.3])
def test_one_weight_for_all_changes_nothing(weight: float) -> None:
    """A common factor means nothing: bounds are those of cases that count as one."""
    pattern = "b" * 70 + "-" * 6 + "+" * 2 + "w" * 5
    plain = Tally.of(ask(items(pattern)))
    weighed = Tally.of(ask(items(pattern, weights=[weight] * len(pattern))))

    assert weighed.whole
    found = judged({"min": 0.1}, items(pattern, weights=[weight] * len(pattern)))
    assert found.headline.startswith("accuracy 86.7% (72 of 83 cases) >= min 10.0%")
    assert weighed.counts() == plain.counts()
    assert weighed.sample_interval("min", None, SURE).low == pytest.approx(
        plain.sample_interval("min", None, SURE).low
    )


def test_unequal_weights_widen_the_bounds() -> None:
    """The same share is less sure where a few cases weigh most."""
    pattern = "b" * 80 + "-" * 4 + "w" * 16
    plain = judged({"min": 0.7, "max_drop": "10pp"}, items(pattern))
    uneven = judged({"min": 0.7, "max_drop": "10pp"}, items(pattern, weights=[1, 9] * 50))

    assert outcomes(plain) == [PASS, PASS]
    for even, odd in zip(plain.checks, uneven.checks, strict=True):
        assert even.value == pytest.approx(odd.value)
        assert even.interval is not None
        assert odd.interval is not None
        assert odd.interval.high - odd.interval.low > even.interval.high - even.interval.low
    assert "the weights make the 100 cases tell as much as 61.0 of equal weight" in uneven.findings
    assert uneven.headline.startswith(
        "accuracy 80.0% (400 of 500 by weight, 100 cases), drop 4.0 pp ~ max_drop 10 pp"
    )


def test_repeats_are_no_further_cases() -> None:
    """60 cases half right in all of many repeats are no surer than 30 right and 30 wrong."""
    parts = [Item(id=str(number), own=0.5, base=1.0) for number in range(60)]
    halves = items("b" * 30 + "-" * 30)

    assert Tally.of(ask(parts)).sample_interval("min", None, SURE) == Tally.of(
        ask(halves)
    ).sample_interval("min", None, SURE)
    found = judged({"min": 0.4}, parts)
    assert found.record["mcnemar_p"] is None
    assert found.record["right"] == 0
    assert found.headline.startswith("accuracy 50.0% (30 of 60 cases)")


@hypothesis_settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.25, 0.5, 1.0]),
            st.sampled_from([0.0, 0.5, 1.0]),
            st.floats(min_value=0.1, max_value=10),
        ),
        min_size=2,
        max_size=20,
    ),
    st.integers(min_value=1, max_value=20),
)
def test_what_is_certain_of_weighed_cases_comes_true(
    rows: list[tuple[float, float, float]], first: int
) -> None:
    """Bounds from part of a file of ``all`` hold the value of the whole, whatever the rest is."""
    asked = [
        Item(id=str(n), own=own, base=base, weight=weight)
        for n, (own, base, weight) in enumerate(rows)
    ]
    total = Total.of([item.weight for item in asked])
    part, whole = Tally.of(ask(asked[:first])), Tally.of(ask(asked))

    for kind in ("min", "max_drop", "max_flips"):
        found = part.population_interval(kind, None, SURE, total)
        if not part.whole or not total.alike:
            assert found.low - 1e-9 <= whole.value(kind, None) <= found.high + 1e-9
        complete = whole.population_interval(kind, None, SURE, total)
        assert complete.low == complete.high == whole.value(kind, None)


def test_a_slice_has_limits_of_its_own() -> None:
    """Half the cases are right in all, and the gate fails for the slice that is not."""
    tags = ["de"] * 60 + ["en"] * 60
    asked = items("-" * 30 + "b" * 30 + "b" * 60, tags=tags)

    found = judged({"min": 0.6, "slices": {"de": {"min": 0.8}, "en": {"max_drop": "9pp"}}}, asked)

    assert [(check.limit_name, check.outcome) for check in found.checks] == [
        ("min", PASS),
        ("min (de)", FAIL),
        ("max_drop (en)", PASS),
    ]
    assert found.checks[1].sample == "60 cases"
    assert found.headline == (
        "accuracy 75.0% (90 of 120 cases), de 50.0% < min 80.0%; the F16 baseline 100.0%"
    )
    assert found.findings[:2] == (
        "slice 'de': 30 of 60 cases right (the F16 baseline: 60)",
        "slice 'en': 60 of 60 cases right (the F16 baseline: 60)",
    )
    assert found.record["accuracy (de)"] == 0.5


def test_a_slice_without_a_case_is_an_error() -> None:
    """A tag that no case has would be a limit that nothing can miss."""
    asked = items("bb", tags=("german", "french"))

    with pytest.raises(MeasurementError) as caught:
        drawn({"slices": {"germen": {"min": 0.5}}}, asked)

    assert str(caught.value) == (
        "no case of gates.yaml::m::Q4_K_M::gate has the tag 'germen' of `slices`;"
        " did you mean 'german'?"
    )


def test_a_slice_that_the_baseline_answers_none_of_cannot_drop() -> None:
    """A drop of nothing from nothing is an error, not a pass."""
    asked = items("b" * 10 + "w" * 10, tags=["en"] * 10 + ["de"] * 10)
    values: dict[str, object] = {"cases_are": "all", "slices": {"de": {"max_drop": "5pp"}}}

    with pytest.raises(MeasurementError, match="answers none of 10 cases with the tag 'de'"):
        judged(values, asked)


# --- how often a verdict is wrong ------------------------------------------------------------------


def counted(cells: tuple[int, ...]) -> Tally:
    """Return the tally of so many cases right by both, lost, gained, and wrong by both."""
    return Tally.of(
        ask(items("".join(sign * many for sign, many in zip("b-+w", cells, strict=True))))
    )


@pytest.mark.parametrize(
    ("values", "shares"),
    [
        ({"min": 0.9}, (0.88, 0.0, 0.02, 0.1)),
        ({"max_drop": "5pp"}, (0.78, 0.07, 0.02, 0.13)),
        ({"max_flips": "5%"}, (0.82, 0.03, 0.02, 0.13)),
    ],
)
def test_verdicts_at_the_limit_are_seldom_wrong(
    values: dict[str, object], shares: tuple[float, ...]
) -> None:
    """With the true value at the limit, and looks at 128, 256 and 400 cases of a sample of 400.

    Of 200 samples a pass of 10 and a failure of 2 are expected at most; 21 and 8 are exceeded by chance
    in fewer than one of a thousand such tests. `bench/answers.py` counts more of them.
    """
    rng = np.random.default_rng(5)
    (held,) = held_limits(limits(**values), None)
    looks = looks_up_to(400)
    sure = Certainty(looks=len(looks), pass_confidence=0.95, fail_confidence=0.99)
    total = Total(cases=400, weight=400, alike=True)

    @functools.cache
    def outcome(cells: tuple[int, ...]) -> Outcome:
        return held.outcome(counted(cells), total, sure)

    ended = []
    for _ in range(200):
        seen, end, start = np.zeros(4, dtype=np.int64), OPEN, 0
        for look in looks:
            seen = seen + rng.multinomial(look - start, shares)
            start = look
            end = outcome(tuple(seen.tolist()))
            if end is not OPEN:
                break
        ended.append(end)

    assert ended.count(PASS) <= 21
    assert ended.count(FAIL) <= 8
