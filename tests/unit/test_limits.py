"""Limits on a sampled text: each brought to a mean, decided by bounds, shown as people know it."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantgate import stats
from pytest_quantgate.limits import (
    Draw,
    MaximumLimit,
    PercentileLimit,
    RatioLimit,
    SampledLimit,
    exponential,
    negated,
    settled,
)
from pytest_quantgate.records import Outcome
from pytest_quantgate.sampling import SamplingSettings, schedule

COMPLETE = Draw(population=4, looks=1, pass_confidence=0.95, fail_confidence=0.99)
PART = dataclasses.replace(COMPLETE, population=40, looks=2)
VALUES = (0.1, 0.05, 0.12, 0.09)


def ratio(limit: float, values: tuple[float, ...] = VALUES) -> SampledLimit:
    """Return a limit on a ratio of perplexities."""
    return SampledLimit(
        name="max_ratio",
        statistic="perplexity ratio",
        limit=limit,
        bound=math.log(limit),
        values=values,
        shown=exponential,
    )


def share(limit: float, values: tuple[float, ...]) -> SampledLimit:
    """Return a limit from below on a share."""
    return SampledLimit(
        name="min_same_top",
        statistic="same top token",
        limit=limit,
        bound=-limit,
        values=tuple(-value for value in values),
        shown=negated,
    )


# --- means -----------------------------------------------------------------------------------------


def test_a_draw_is_what_schedule_and_settings_say() -> None:
    """Population and looks come from the schedule, the confidences from the gate's settings."""
    settings = SamplingSettings(pass_confidence=0.9, fail_confidence=0.999)
    plan = schedule(220, max_chunks=64)

    assert Draw.of(plan, settings) == Draw(
        population=220,
        looks=plan.statistical_looks,
        pass_confidence=0.9,
        fail_confidence=0.999,
    )


def test_complete_values_are_exact_to_the_last_bit() -> None:
    """With every chunk the value decides alone: at it passes, one float below it fails."""
    value = ratio(1.1).value()
    assert value == math.exp(math.fsum(VALUES) / 4)

    outcomes = [
        ratio(limit).check(COMPLETE, sample="all 4 chunks").outcome
        for limit in (math.nextafter(value, 0), value, math.nextafter(value, 2))
    ]

    assert outcomes == [Outcome.FAIL, Outcome.PASS, Outcome.PASS]


def test_a_part_has_three_outcomes() -> None:
    """Above the upper bound passes, below the lower one fails, between is open, bit by bit."""
    interval = ratio(1.1).interval(PART)
    expected = {
        interval.high: Outcome.PASS,
        math.nextafter(interval.high, 0): Outcome.INCONCLUSIVE,
        interval.low: Outcome.INCONCLUSIVE,
        math.nextafter(interval.low, 0): Outcome.FAIL,
    }

    assert {limit: ratio(limit).outcome(PART) for limit in expected} == expected
    bounds = PART.interval(VALUES)
    assert (interval.low, interval.high) == (math.exp(bounds.low), math.exp(bounds.high))
    assert (interval.confidence, interval.fail_confidence) == (0.95, 0.99)


def test_a_limit_from_below_turns_the_bounds_round() -> None:
    """The low end lets a minimum pass, with the confidence of a pass; the high end fails it."""
    values = (0.9, 0.95, 0.92, 0.93)
    interval = share(0.9, values).interval(PART)
    turned = PART.interval(tuple(-value for value in values))

    assert (interval.low, interval.high) == (-turned.high, -turned.low)
    assert share(interval.low, values).outcome(PART) is Outcome.PASS
    assert share(math.nextafter(interval.low, 1), values).outcome(PART) is Outcome.INCONCLUSIVE
    assert share(math.nextafter(interval.high, 9), values).outcome(PART) is Outcome.FAIL
    assert share(0.9, values).value() == pytest.approx(0.925)


def test_a_check_says_all_of_a_limit() -> None:
    """Name, statistic, value, bounds, limit, baseline, sample and text reach the report."""
    limit = dataclasses.replace(
        ratio(1.2), baseline=7.5, limit_text="policy strict (1.02)", unit="x"
    )

    check = limit.check(PART, sample="4 of 40 chunks")

    assert (check.limit_name, check.statistic, check.unit) == ("max_ratio", "perplexity ratio", "x")
    assert (check.value, check.interval) == (limit.value(), limit.interval(PART))
    assert (check.limit, check.baseline, check.limit_text) == (1.2, 7.5, "policy strict (1.02)")
    assert check.sample == "4 of 40 chunks"


def test_bounds_end_where_values_do() -> None:
    """A divergence is not below 0 however wide the doubt is, and infinity is let be."""
    limit = SampledLimit(
        name="max_mean", statistic="mean KLD", limit=1.0, bound=1.0, values=(0.1, 0.9), least=0.0
    )
    interval = limit.interval(PART)
    assert interval.low == 0.0
    assert interval.high > 1

    same = dataclasses.replace(limit, values=(0.5, 0.5)).interval(PART)
    assert (same.low, same.high) == (0.0, math.inf)
    assert exponential(800) == math.inf


def test_more_chunks_that_would_decide_it() -> None:
    """A closer limit takes more chunks, never fewer than there are now nor more than there are."""
    needed = [ratio(math.exp(bound)).needed(PART) for bound in (0.3, 0.11, 0.0901)]

    assert needed == sorted(needed)
    assert 4 < needed[0]
    assert needed[-1] == 40


def test_a_least_spread_takes_its_chunks() -> None:
    """Chunks without a difference are taken for ones that could have had some."""
    settled_spread = dataclasses.replace(share(0.9, (1.0,) * 16), variance_floor=0.09 / 64)
    draw = dataclasses.replace(PART, population=4000)

    assert settled_spread.outcome(draw) is Outcome.PASS
    close = dataclasses.replace(settled_spread, bound=-0.9999, limit=0.9999)
    assert close.outcome(draw) is Outcome.INCONCLUSIVE
    assert close.needed(draw) > 1000


# --- lower bounds ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "accepted", "outcome"),
    [
        ((0.5, 0.6, 0.7, 0.6), False, Outcome.FAIL),
        ((0.5, 0.6, 0.7, 0.6), True, Outcome.FAIL),
        ((0.1, 0.2, 0.1, 0.2), False, Outcome.INCONCLUSIVE),
        ((0.1, 0.2, 0.1, 0.2), True, Outcome.PASS),
    ],
)
def test_a_lower_bound_fails_and_does_not_pass(
    values: tuple[float, ...], *, accepted: bool, outcome: Outcome
) -> None:
    """Above the limit it proves a miss; within it nothing, unless the specification takes it."""
    limit = SampledLimit(
        name="max_mean",
        statistic="mean KLD",
        limit=0.4,
        bound=0.4,
        values=values,
        lower_bound=True,
        accepted=accepted,
    )

    check = limit.check(COMPLETE, sample="all 4 chunks")

    assert check.outcome is outcome
    assert check.statistic == "mean KLD (lower bound)"
    assert limit.barred(COMPLETE) is (outcome is Outcome.INCONCLUSIVE)
    assert settled([limit], COMPLETE) is (
        Outcome.FAIL if outcome is Outcome.FAIL else Outcome.PASS
    ), "more of it would prove no more"


# --- percentiles and maxima ------------------------------------------------------------------------


def percentile(limit: float, tokens: object, level: float = 0.9) -> PercentileLimit:
    """Return a limit on a percentile."""
    return PercentileLimit.of(
        np.asarray(tokens, dtype=np.float32),
        level,
        name="max_p90",
        statistic="90% KLD",
        limit=limit,
        least=0.0,
        lower_bound=False,
        accepted=False,
    )


def test_a_percentile_of_a_whole_text_is_a_number() -> None:
    """All tokens measured: the interpolated percentile is the value and both bounds."""
    tokens = np.arange(40).reshape(4, 10)
    limit = percentile(36, tokens)

    assert limit.value() == pytest.approx(35.1)
    interval = limit.interval(COMPLETE)
    assert interval.low == interval.high == limit.value()
    assert limit.outcome(COMPLETE) is Outcome.PASS
    assert percentile(35, tokens).outcome(COMPLETE) is Outcome.FAIL


def test_the_values_of_a_percentile_are_shares_above_it() -> None:
    """One share a chunk and 1 - level as the bound: what further chunks are reckoned with."""
    limit = percentile(5, [[1, 2, 3, 9], [1, 6, 7, 8]], level=0.75)

    assert limit.values == (0.25, 0.75)
    assert limit.bound == 0.25
    assert limit.variance_floor == 0.75 * 0.25 / 4


def test_a_percentile_of_a_part_agrees_with_its_shares() -> None:
    """What passes by the percentile's bound passes by the shares above the limit, and so for a fail."""
    tokens = np.random.default_rng(7).exponential(size=(16, 64))
    draw = dataclasses.replace(PART, population=200)
    interval = percentile(1.0, tokens).interval(draw)

    for value, outcome in ((interval.high, Outcome.PASS), (interval.low * 0.99, Outcome.FAIL)):
        limit = percentile(value, tokens)
        assert limit.outcome(draw) is outcome
        shares = draw.interval(limit.values, variance_floor=limit.variance_floor)
        assert stats.at_most(shares, limit.bound) is outcome


@pytest.mark.parametrize(
    ("largest", "draw", "outcome"),
    [
        (0.5, COMPLETE, Outcome.PASS),
        (math.nextafter(0.5, 1), COMPLETE, Outcome.FAIL),
        (0.5, PART, Outcome.INCONCLUSIVE),
        (math.nextafter(0.5, 1), PART, Outcome.FAIL),
    ],
)
def test_one_value_above_a_maximum_fails(largest: float, draw: Draw, outcome: Outcome) -> None:
    """It fails as soon as one is above, and passes only when none is left to be measured."""
    limit = MaximumLimit(
        name="max", statistic="maximum KLD", limit=0.5, bound=0.5, values=(0.1, largest, 0.2, 0.3)
    )

    assert limit.outcome(draw) is outcome
    assert limit.value() == largest
    assert limit.needed(PART) == 40


# --- ratios of sums --------------------------------------------------------------------------------


def of_sums(
    limit: float, above: tuple[float, ...], below: tuple[float, ...], name: str = "max_ratio"
) -> RatioLimit:
    """Return a limit on a ratio of sums."""
    return RatioLimit.of(above, below, name=name, statistic="nll per byte ratio", limit=limit)


ABOVE, BELOW = (2.1, 2.12, 4.15, 2.13), (2.0, 2.0, 4.0, 2.0)


def test_a_ratio_of_sums_is_no_mean_of_ratios() -> None:
    """10.5 / 10, decided to the last bit where all is measured."""
    value = of_sums(1.0, ABOVE, BELOW).value()
    assert value == 10.5 / 10

    for limit, outcome in ((value, Outcome.PASS), (math.nextafter(value, 0), Outcome.FAIL)):
        assert of_sums(limit, ABOVE, BELOW).outcome(COMPLETE) is outcome


def test_bounds_of_a_ratio_are_where_the_differences_have_theirs_at_zero() -> None:
    """At each bound L the interval of above - L * below touches 0 (Fieller)."""
    above, below = (2.1, 2.25, 2.16, 2.12), (2.0, 2.1, 2.05, 2.0)
    interval = of_sums(1.0, above, below).interval(PART)

    assert interval.low < 8.63 / 8.15 < interval.high
    at_high = PART.interval(of_sums(interval.high, above, below).values)
    at_low = PART.interval(of_sums(interval.low, above, below).values)
    assert at_high.high == pytest.approx(0, abs=1e-12)
    assert at_low.low == pytest.approx(0, abs=1e-12)
    assert (interval.confidence, interval.fail_confidence) == (0.95, 0.99)


@given(
    st.lists(
        st.tuples(st.floats(800, 1200), st.floats(0.9, 1.2)), min_size=16, max_size=24, unique=True
    ),
    st.floats(0.9, 1.2),
)
def test_bounds_and_outcome_agree(pairs: list[tuple[float, float]], limit: float) -> None:
    """What is above the upper bound passes, what is below the lower one fails, and nothing else."""
    below = tuple(pair[0] for pair in pairs)
    found = of_sums(limit, tuple(base * ratio for base, ratio in pairs), below)
    draw = dataclasses.replace(PART, population=10 * len(pairs))
    interval = found.interval(draw)

    if limit > interval.high + 1e-9:
        assert found.outcome(draw) is Outcome.PASS
    elif limit < interval.low - 1e-9:
        assert found.outcome(draw) is Outcome.FAIL
    elif interval.low + 1e-9 < limit < interval.high - 1e-9:
        assert found.outcome(draw) is Outcome.INCONCLUSIVE


def test_equal_ratios_decide_nothing() -> None:
    """Without spread there is no telling what the rest holds: from nothing to anything."""
    interval = of_sums(1.0, (1.0, 2.0, 3.0), (1.0, 2.0, 3.0)).interval(PART)

    assert (interval.low, interval.high) == (0.0, math.inf)
