"""Intervals and decisions: published values, SciPy's own, and what must hold for any numbers."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from pytest_quantgate import stats
from pytest_quantgate.records import Interval, Outcome

finite = st.floats(min_value=-1e6, max_value=1e6)
samples = st.lists(finite, min_size=2, max_size=30)
confidences = st.floats(min_value=0.5, max_value=0.999)


def interval(low: float, high: float) -> Interval:
    """Return an interval at the usual confidence."""
    return Interval(low=low, high=high, confidence=0.95)


# --- the mean --------------------------------------------------------------------------------------


def test_mean_interval_is_students() -> None:
    """Without a population the interval is the one SciPy gives for Student's t."""
    values = [4.0, 5.5, 6.1, 3.9, 5.0, 4.7]

    found = stats.mean_interval(values)

    mean = sum(values) / 6
    expected = scipy_stats.t.interval(0.95, 5, loc=mean, scale=scipy_stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-12)
    assert found.confidence == 0.95


def test_mean_interval_of_a_textbook_sample() -> None:
    """n = 4, mean 10, s = 2: 10 +- 3.182 * 2 / 2 (t table, 3 degrees of freedom, two-sided 95%)."""
    half = 2 * math.sqrt(3) / 2  # four values at +-half around the mean have s = 2
    found = stats.mean_interval([10 - half, 10 - half, 10 + half, 10 + half])

    assert found.high - 10 == pytest.approx(3.182, abs=0.0005)
    assert 10 - found.low == pytest.approx(3.182, abs=0.0005)


@pytest.mark.parametrize(("population", "shrink"), [(4, math.sqrt(1 / 3)), (12, math.sqrt(9 / 11))])
def test_mean_interval_knows_how_many_there_are(population: int, shrink: float) -> None:
    """Three of N values leave sqrt((N - 3) / (N - 1)) of the width that three of many leave."""
    values = [1.0, 2.0, 4.0]
    many, few = stats.mean_interval(values), stats.mean_interval(values, population=population)

    assert few.high - few.low == pytest.approx((many.high - many.low) * shrink, rel=1e-12)


@pytest.mark.parametrize("population", [3, 2])
def test_mean_interval_of_all_values_is_their_mean(population: int) -> None:
    """A complete count leaves no doubt, and says so with confidence 1."""
    found = stats.mean_interval([1.0, 2.0, 6.0], population=population)

    assert found == Interval(low=3.0, high=3.0, confidence=1.0)


def test_mean_interval_of_a_single_value() -> None:
    """One value of one is exact; one of several tells no spread."""
    assert stats.mean_interval([2.5], population=1).low == 2.5
    for population in (None, 2):
        with pytest.raises(ValueError, match=r"^an interval needs at least 2 values, got 1$"):
            stats.mean_interval([2.5], population=population)


@pytest.mark.parametrize("population", [None, 0, 5])
def test_mean_interval_of_nothing_is_refused(population: int | None) -> None:
    """No values have no mean, whatever the population is said to be."""
    with pytest.raises(ValueError, match=r"^an interval needs at least 2 values, got 0$"):
        stats.mean_interval([], population=population)


@given(samples, st.integers(min_value=0, max_value=50))
def test_mean_interval_holds_the_mean(values: list[float], further: int) -> None:
    """The mean lies inside, however many values were left undrawn."""
    found = stats.mean_interval(values, population=len(values) + further)

    assert found.low <= math.fsum(values) / len(values) <= found.high


@given(samples, confidences, confidences)
def test_mean_interval_widens_with_confidence(values: list[float], a: float, b: float) -> None:
    """More confidence never gives a narrower interval."""
    narrow = stats.mean_interval(values, confidence=min(a, b))
    wide = stats.mean_interval(values, confidence=max(a, b))

    slack = 1e-9 * (wide.high - wide.low)  # quantiles of nearly equal confidences are rounded
    assert wide.low <= narrow.low + slack
    assert narrow.high <= wide.high + slack


@given(samples, st.integers(min_value=1, max_value=50))
def test_mean_interval_narrows_as_the_population_is_used_up(
    values: list[float], further: int
) -> None:
    """The same values say more about a smaller population."""
    small = stats.mean_interval(values, population=len(values) + further)
    large = stats.mean_interval(values, population=len(values) + further + 1)

    assert large.low <= small.low
    assert small.high <= large.high


# --- how many more ---------------------------------------------------------------------------------


def test_values_needed_solves_for_the_half_width() -> None:
    """With variance 4 at distance 1 it takes 1.96^2 * 4 = 15.4 values of many: 16."""
    values = [1 - math.sqrt(3), 1 - math.sqrt(3), 1 + math.sqrt(3), 1 + math.sqrt(3)]

    assert stats.values_needed(values, limit=2.0, population=10**9) == 16
    assert stats.values_needed(values, limit=2.0, population=30) == 11


def test_values_needed_at_the_limit_is_everything() -> None:
    """A mean on its limit is decided by a complete count alone."""
    assert stats.values_needed([1.0, 3.0], limit=2.0, population=70) == 70


@given(samples, finite, st.integers(min_value=1, max_value=100))
def test_values_needed_is_more_than_there_are_and_no_more_than_there_can_be(
    values: list[float], limit: float, further: int
) -> None:
    """The answer is always something a user can act upon."""
    population = len(values) + further

    needed = stats.values_needed(values, limit=limit, population=population)

    assert len(values) < needed <= population


# --- proportions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe, Statistics in Medicine 17, 1998, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_has_the_published_values(
    successes: int, trials: int, low: float, high: float
) -> None:
    """The four examples of Newcombe's comparison come out to the printed digit."""
    found = stats.wilson_interval(successes, trials)

    assert (round(found.low, 4), round(found.high, 4)) == (low, high)
    assert found.confidence == 0.95


@given(st.integers(min_value=1, max_value=5000), st.data(), confidences)
def test_wilson_interval_is_scipys(trials: int, data: st.DataObject, confidence: float) -> None:
    """Any proportion has the interval that SciPy computes, its ends within [0, 1]."""
    successes = data.draw(st.integers(min_value=0, max_value=trials))

    found = stats.wilson_interval(successes, trials, confidence=confidence)

    reference = scipy_stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=1e-9)
    assert 0 <= found.low <= successes / trials <= found.high <= 1


def test_wilson_interval_ends_exactly_at_the_ends() -> None:
    """None and all leave no room beyond 0 and 1, to the last bit."""
    for trials in range(1, 200):
        assert stats.wilson_interval(0, trials).low == 0.0
        assert stats.wilson_interval(trials, trials).high == 1.0


# --- quantiles -------------------------------------------------------------------------------------


@given(st.lists(finite, min_size=1, max_size=40), st.floats(min_value=0, max_value=1))
def test_quantile_is_numpys(values: list[float], share: float) -> None:
    """The sample quantile is NumPy's default one and lies between the extremes."""
    import numpy as np  # noqa: PLC0415 - the reference of this test only

    found = stats.quantile(values, share)

    assert found == pytest.approx(float(np.quantile(values, share)), rel=1e-9, abs=1e-6)
    slack = 1e-9 * max(map(abs, values))
    assert min(values) - slack <= found <= max(values) + slack


def test_quantile_ends_are_the_extremes() -> None:
    """Share 0 is the smallest value, 1 the largest, a half the middle."""
    values = [3.0, 1.0, 2.0]

    assert [stats.quantile(values, share) for share in (0.0, 0.5, 1.0)] == [1.0, 2.0, 3.0]


def test_quantile_interval_of_six_is_their_range() -> None:
    """Six values hold the median between their extremes with 1 - 2/64 = 96.875%."""
    found = stats.quantile_interval([6, 2, 5, 1, 4, 3], 0.5)

    assert found is not None
    assert (found.low, found.high) == (1, 6)
    assert found.confidence == pytest.approx(0.96875, abs=1e-12)


def test_quantile_interval_of_five_does_not_exist() -> None:
    """Five values hold the median with 93.75% at most, so nothing is claimed."""
    assert stats.quantile_interval([1, 2, 3, 4, 5], 0.5) is None


@pytest.mark.parametrize(
    ("count", "ranks"),
    # Ranks of the 95% interval of the median in tables such as Conover's, Practical Nonparametric
    # Statistics, 1999, A3: n = 10 gives X(2) to X(9), n = 20 X(6) to X(15), n = 25 X(8) to X(18).
    [(6, (1, 6)), (8, (1, 8)), (9, (2, 8)), (10, (2, 9)), (20, (6, 15)), (25, (8, 18))],
)
def test_quantile_interval_has_the_tabled_ranks(count: int, ranks: tuple[int, int]) -> None:
    """The interval of a median ends at the order statistics that tables name."""
    found = stats.quantile_interval([float(rank) for rank in range(1, count + 1)], 0.5)

    assert found is not None
    assert (found.low, found.high) == ranks


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95])
def test_quantile_interval_keeps_its_promise(share: float) -> None:
    """Each tail beyond the bounds holds at most 2.5%, and one rank less would hold more."""
    for count in range(1, 160):
        ranks = [float(rank) for rank in range(1, count + 1)]
        found = stats.quantile_interval(ranks, share)
        binomial = scipy_stats.binom(count, share)
        if found is None:
            assert binomial.cdf(0) > 0.025 or binomial.sf(count - 1) > 0.025
            continue
        low, high = int(found.low), int(found.high)
        assert binomial.cdf(low - 1) <= 0.025 < binomial.cdf(low)
        assert binomial.sf(high - 1) <= 0.025 < binomial.sf(high - 2)
        assert found.confidence >= 0.95


@given(st.lists(finite, min_size=8, max_size=40), confidences)
def test_quantile_interval_holds_the_median_and_widens_with_confidence(
    values: list[float], confidence: float
) -> None:
    """The sample median lies inside; where more confidence can be had, the interval is no narrower."""
    found = stats.quantile_interval(values, 0.5, confidence=confidence)
    assume(found is not None)
    assert found is not None

    assert found.low <= stats.quantile(values, 0.5) <= found.high
    assert found.confidence >= confidence
    wider = stats.quantile_interval(values, 0.5, confidence=confidence + (1 - confidence) / 2)
    if wider is not None:
        assert wider.low <= found.low
        assert found.high <= wider.high


# --- decisions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (0.5, 0.9, Outcome.PASS),
        (0.5, 1.0, Outcome.PASS),
        (1.0, 1.0, Outcome.PASS),
        (0.5, math.nextafter(1.0, 2), Outcome.INCONCLUSIVE),
        (1.0, 1.5, Outcome.INCONCLUSIVE),
        (math.nextafter(1.0, 2), 1.5, Outcome.FAIL),
    ],
)
def test_at_most_decides_at_the_last_bit(low: float, high: float, outcome: Outcome) -> None:
    """At most 1: the limit itself still passes, one float above it does not."""
    assert stats.at_most(interval(low, high), 1.0) is outcome


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (1.1, 1.5, Outcome.PASS),
        (1.0, 1.5, Outcome.PASS),
        (1.0, 1.0, Outcome.PASS),
        (math.nextafter(1.0, 0), 1.5, Outcome.INCONCLUSIVE),
        (0.5, 1.0, Outcome.INCONCLUSIVE),
        (0.5, math.nextafter(1.0, 0), Outcome.FAIL),
    ],
)
def test_at_least_decides_at_the_last_bit(low: float, high: float, outcome: Outcome) -> None:
    """At least 1: the limit itself still passes, one float below it does not."""
    assert stats.at_least(interval(low, high), 1.0) is outcome


@given(finite, finite, finite)
def test_decisions_mirror_each_other(a: float, b: float, limit: float) -> None:
    """At least a limit is at most its negative, seen from the other side."""
    low, high = min(a, b), max(a, b)

    assert stats.at_least(interval(low, high), limit) is stats.at_most(
        interval(-high, -low), -limit
    )


@given(finite, finite, finite)
def test_a_looser_limit_never_turns_a_pass(a: float, b: float, limit: float) -> None:
    """Whoever passes a limit passes every looser one; whoever fails fails every tighter one."""
    found = interval(min(a, b), max(a, b))

    if stats.at_most(found, limit) is Outcome.PASS:
        assert stats.at_most(found, limit + 1) is Outcome.PASS
    if stats.at_most(found, limit) is Outcome.FAIL:
        assert stats.at_most(found, limit - 1) is Outcome.FAIL


@pytest.mark.parametrize(
    ("outcomes", "worst"),
    [
        ([], Outcome.PASS),
        ([Outcome.PASS, Outcome.PASS], Outcome.PASS),
        ([Outcome.PASS, Outcome.INCONCLUSIVE], Outcome.INCONCLUSIVE),
        ([Outcome.INCONCLUSIVE, Outcome.FAIL, Outcome.PASS], Outcome.FAIL),
    ],
)
def test_the_worst_outcome_counts(outcomes: list[Outcome], worst: Outcome) -> None:
    """A failure outweighs doubt, and doubt outweighs any number of passes."""
    assert stats.worst(outcomes) is worst
