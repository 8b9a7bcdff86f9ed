"""Paired shares: published examples, how often bounds err over all outcomes, and what always holds."""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from scipy import stats as scipy_stats

from pytest_quantgate import paired_shares
from pytest_quantgate.paired_shares import PairedCounts

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_quantgate.records import Interval

PASS, FAIL = 0.95, 0.99


def counts(*cells: int) -> PairedCounts:
    """Return counts from both right, baseline only, candidate only, both wrong."""
    both_right, baseline_only, candidate_only, both_wrong = cells
    return PairedCounts(
        both_right=both_right,
        baseline_only=baseline_only,
        candidate_only=candidate_only,
        both_wrong=both_wrong,
    )


def drop(found: PairedCounts, population: int | None = None, looks: int = 1) -> Interval:
    """Return the bounds of a drop as gates take them."""
    return paired_shares.drop_interval(
        found, population=population, looks=looks, pass_confidence=PASS, fail_confidence=FAIL
    )


cell = st.integers(min_value=0, max_value=12)
tables = st.tuples(cell, cell, cell, cell).filter(any).map(lambda cells: counts(*cells))
confidences = st.floats(min_value=0.55, max_value=0.999)
methods = st.sampled_from([paired_shares.newcombe_interval, paired_shares.tango_interval])
further = st.integers(min_value=0, max_value=12)


# --- counts and McNemar ----------------------------------------------------------------------------


def test_shares_of_counts() -> None:
    """50 cases: 32 right by the baseline, 22 by the candidate, 14 flips."""
    found = counts(20, 12, 2, 16)

    assert (found.n, found.flips) == (50, 14)
    assert (found.baseline_share, found.candidate_share) == (0.64, 0.44)
    assert (found.drop, found.difference, found.flip_share) == (0.2, -0.2, 0.28)
    assert found.swapped() == counts(20, 2, 12, 16)


@pytest.mark.parametrize("cells", [(0, 0, 0, 0), (5, -1, 0, 0)])
def test_counts_of_nothing_are_refused(cells: tuple[int, ...]) -> None:
    """No case, or fewer than none, has no share."""
    with pytest.raises(ValueError, match="numbers of at least one case, got"):
        counts(*cells)


@pytest.mark.parametrize("cells", [(5, 1.5, 0, 3), (5, 1, 0.25, 3), (5.5, 1, 0, 3)])
def test_exact_tests_take_whole_numbers(cells: tuple[float, ...]) -> None:
    """What tells as much as so many cases is no number of cases to draw from a population."""
    both_right, lost, gained, both_wrong = cells
    found = PairedCounts(
        both_right=both_right, baseline_only=lost, candidate_only=gained, both_wrong=both_wrong
    )

    with pytest.raises(ValueError, match="this takes whole numbers of cases, got"):
        paired_shares.mcnemar_p(found)
    with pytest.raises(ValueError, match="this takes whole numbers of cases, got"):
        drop(found, population=50)


@settings(deadline=None)
@given(tables, st.floats(min_value=1.0, max_value=8.0))
def test_more_cases_of_the_kind_narrow_the_bounds(found: PairedCounts, factor: float) -> None:
    """Counts may be any numbers: as many times the cases, answered alike, are never less sure."""
    more = PairedCounts(
        both_right=factor * found.both_right,
        baseline_only=factor * found.baseline_only,
        candidate_only=factor * found.candidate_only,
        both_wrong=factor * found.both_wrong,
    )

    few, many = drop(found), drop(more)
    assert few.low - 1e-9 <= many.low <= many.high <= few.high + 1e-9
    one, other = (
        paired_shares.flips_interval(each, pass_confidence=PASS, fail_confidence=FAIL)
        for each in (found, more)
    )
    assert one.low - 1e-9 <= other.low <= other.high <= one.high + 1e-9


@settings(deadline=None)
@given(tables)
def test_mcnemar_is_the_binomial_test_of_scipy(found: PairedCounts) -> None:
    """Two-sided at one half; 1 where nothing flips, which SciPy does not test."""
    lost, gained, _ = found.whole()
    expected = 1.0
    if lost + gained:
        expected = float(scipy_stats.binomtest(gained, lost + gained).pvalue)

    assert paired_shares.mcnemar_p(found) == pytest.approx(expected, abs=1e-12)
    assert paired_shares.mcnemar_p(found.swapped()) == paired_shares.mcnemar_p(found)


# --- published intervals ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "newcombe", "tango"),
    [
        # Fagerland, Lydersen and Laake, Statistics in Medicine 33, 2014: airways of 21 children.
        ((1, 7, 1, 12), (-0.507, -0.026), (-0.517, -0.026)),
        # Newcombe's second kind of table (1998): 20, 12, 2, 16.
        ((20, 2, 12, 16), (0.0562, 0.3292), (0.0611, 0.3447)),
        # The example of scoreci.mp in the R package PropCIs: 40 and 20 of 160.
        ((80, 20, 40, 20), (0.0305, 0.2165), (0.0309, 0.2181)),
    ],
)
def test_intervals_of_the_literature(
    cells: tuple[int, ...], newcombe: tuple[float, float], tango: tuple[float, float]
) -> None:
    """Two-sided 95% intervals of published tables, to the digits quoted."""
    found = counts(*cells)
    both = {"pass_confidence": 0.975, "fail_confidence": 0.975}
    digits = 5e-4 if found.n == 21 else 5e-5

    hybrid = paired_shares.newcombe_interval(found, **both)
    assert newcombe == pytest.approx((hybrid.low, hybrid.high), abs=digits)
    score = paired_shares.tango_interval(found, **both)
    assert tango == pytest.approx((score.low, score.high), abs=digits)


@pytest.mark.parametrize("cells", [(30, 6, 2, 10), (0, 0, 3, 9), (50, 0, 0, 4), (1, 9, 9, 1)])
def test_tangos_bound_is_where_the_likeliest_flips_give_the_quantile(
    cells: tuple[int, ...],
) -> None:
    """The score at the upper bound is the quantile, with the likelihood maximised numerically."""
    found = counts(*cells)
    high = paired_shares.tango_interval(found, pass_confidence=PASS, fail_confidence=FAIL).high
    gained, lost, n = found.candidate_only, found.baseline_only, found.n

    def surprise(share: float) -> float:
        parts = ((gained, share + high), (lost, share), (n - gained - lost, 1 - 2 * share - high))
        return -sum(number * math.log(max(part, 1e-300)) for number, part in parts)

    likeliest = optimize.minimize_scalar(
        surprise, bounds=(0, (1 - high) / 2), method="bounded", options={"xatol": 1e-12}
    ).x
    deviation = math.sqrt(n * (2 * likeliest + high - high**2))
    score = (n * high - (gained - lost)) / deviation
    assert scipy_stats.norm.ppf(PASS) == pytest.approx(score, abs=1e-4)


# --- what always holds -----------------------------------------------------------------------------


@settings(deadline=None)
@given(tables, methods, confidences, confidences)
def test_published_intervals_mirror_when_the_models_change_places(
    found: PairedCounts, method: Callable[..., Interval], one: float, other: float
) -> None:
    """Bounds of the difference turn their sign, hold the estimate and stay in [-1, 1]."""
    there = method(found, pass_confidence=one, fail_confidence=other)
    back = method(found.swapped(), pass_confidence=other, fail_confidence=one)

    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-9)
    assert -1 <= there.low <= found.difference + 1e-9
    assert found.difference - 1e-9 <= there.high <= 1
    assert (there.confidence, there.fail_confidence) == (one, other)


@settings(deadline=None)
@given(tables, methods, confidences, confidences)
def test_published_intervals_grow_with_confidence(
    found: PairedCounts, method: Callable[..., Interval], one: float, other: float
) -> None:
    """The surer a bound, the further out."""
    less, more = sorted((one, other))
    inner = method(found, pass_confidence=less, fail_confidence=less)
    outer = method(found, pass_confidence=more, fail_confidence=more)

    assert outer.low <= inner.low + 1e-9
    assert outer.high >= inner.high - 1e-9


@settings(deadline=None, max_examples=50)
@given(tables, st.none() | further, confidences, confidences)
def test_deciding_bounds_hold_the_estimate_and_grow_with_confidence(
    found: PairedCounts, unseen: int | None, one: float, other: float
) -> None:
    """Drop and flips, of all cases of the kind or of a population with so many unseen."""
    population = None if unseen is None else int(found.n) + unseen
    less, more = sorted((one, other))
    for method, value in (
        (paired_shares.drop_interval, found.drop),
        (paired_shares.flips_interval, found.flip_share),
    ):
        inner, outer = (
            method(found, population=population, pass_confidence=each, fail_confidence=each)
            for each in (less, more)
        )
        assert outer.low - 1e-9 <= inner.low <= value + 1e-9
        assert value - 1e-9 <= inner.high <= outer.high + 1e-9


@settings(deadline=None, max_examples=50)
@given(tables, st.none() | further, confidences, confidences)
def test_a_drop_mirrors_when_the_models_change_places(
    found: PairedCounts, unseen: int | None, one: float, other: float
) -> None:
    """What one model loses, the other one gains."""
    population = None if unseen is None else int(found.n) + unseen
    there = paired_shares.drop_interval(
        found, population=population, pass_confidence=one, fail_confidence=other
    )
    back = paired_shares.drop_interval(
        found.swapped(), population=population, pass_confidence=other, fail_confidence=one
    )

    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-9)


@settings(deadline=None, max_examples=50)
@given(tables, further)
def test_a_drop_of_a_population_is_one_that_the_unseen_cases_allow(
    found: PairedCounts, unseen: int
) -> None:
    """Every unseen case may flip one way, and no more than that."""
    population = int(found.n) + unseen
    interval = drop(found, population)
    seen = found.baseline_only - found.candidate_only

    assert interval.low >= (seen - unseen) / population - 1e-9
    assert interval.high <= (seen + unseen) / population + 1e-9


@pytest.mark.parametrize("cells", [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 9)])
@pytest.mark.parametrize("looks", [1, 6])
def test_nothing_is_proved_by_a_case_or_by_none_that_flips(
    cells: tuple[int, ...], looks: int
) -> None:
    """Bounds of one case, or without a flip, are finite, open to both sides of no drop."""
    for population in (None, 40):
        interval = drop(counts(*cells), population, looks)

        assert -1 <= interval.low < 0.5
        assert -0.5 < interval.high <= 1
        assert interval.high - interval.low > 0.4


def test_bounds_close_as_the_population_is_drawn() -> None:
    """Half of the cases, all but one, all of 40, and one more than there are."""
    found = counts(30, 6, 2, 2)

    assert drop(found, 80).high > drop(found, 41).high > drop(found, 40).high == found.drop
    assert (drop(found, 41).low, drop(found, 41).high) == (3 / 41, 5 / 41)
    complete = drop(found, 40)
    assert complete.low == complete.high
    assert (complete.confidence, complete.fail_confidence) == (1.0, 1.0)
    flips = paired_shares.flips_interval(
        found, population=40, pass_confidence=PASS, fail_confidence=FAIL
    )
    assert (flips.low, flips.high, flips.confidence) == (0.2, 0.2, 1.0)
    with pytest.raises(ValueError, match="40 cases cannot be drawn without replacement from 39"):
        drop(found, 39)


def test_looks_share_the_risk() -> None:
    """Five looks at 95% are one at 99%."""
    found = counts(50, 5, 2, 7)
    single = paired_shares.drop_interval(found, pass_confidence=0.99, fail_confidence=0.998)

    five = drop(found, looks=5)
    assert (single.low, single.high) == pytest.approx((five.low, five.high))
    assert (five.confidence, five.fail_confidence) == (PASS, FAIL)


@pytest.mark.parametrize("confidence", [0.5, 1.0])
def test_a_confidence_that_is_none_is_refused(confidence: float) -> None:
    """One half is the estimate, one is everything."""
    with pytest.raises(ValueError, match=r"a confidence is above 0\.5 and below 1, got"):
        paired_shares.drop_interval(
            counts(5, 1, 1, 5), pass_confidence=confidence, fail_confidence=FAIL
        )


def test_a_large_population_is_nearly_all_cases_of_the_kind() -> None:
    """64 of 100,000 cases: the exact bounds are inside the corrected ones, by one case in 64 at most."""
    found = counts(50, 5, 2, 7)
    exact, corrected = drop(found, 100_000), drop(found)

    assert corrected.low <= exact.low <= corrected.low + 1 / 64
    assert corrected.high - 1 / 64 <= exact.high <= corrected.high


# --- how often bounds err --------------------------------------------------------------------------


def drop_errors(
    n: int, rises: float, falls: float, bounds: dict[tuple[int, int], Interval]
) -> tuple[float, float]:
    """Return how often the drop is above ``high``, and below ``low``, over all outcomes."""
    above = below = 0.0
    flips = rises + falls
    for (lost, gained), interval in bounds.items():
        chance = scipy_stats.binom.pmf(lost + gained, n, flips)
        chance *= scipy_stats.binom.pmf(lost, lost + gained, rises / flips)
        above += chance * (interval.high < rises - falls - 1e-12)
        below += chance * (interval.low > rises - falls + 1e-12)
    return above, below


def flipped(n: int) -> list[tuple[int, int]]:
    """Return all numbers of cases lost and gained."""
    return [(lost, gained) for lost in range(n + 1) for gained in range(n + 1 - lost)]


@pytest.mark.parametrize("n", [1, 5, 16, 24])
def test_a_drop_errs_no_more_often_than_it_says(n: int) -> None:
    """Exact: all outcomes, for shares of flips from one in n to all and splits of them."""
    bounds = {each: drop(counts(n - sum(each), *each, 0)) for each in flipped(n)}
    for flips, split in product((1 / n, 0.05, 0.1, 0.2, 0.3, 0.5), (0.0, 0.1, 0.3, 0.5, 0.8, 1.0)):
        above, below = drop_errors(n, flips * split, flips * (1 - split), bounds)

        assert above <= 1 - PASS
        assert below <= 1 - FAIL


@pytest.mark.parametrize(("n", "population"), [(4, 12), (10, 14), (11, 12)])
def test_a_drop_of_a_population_errs_no_more_often_than_it_says(n: int, population: int) -> None:
    """Exact: all outcomes of all populations, drawn without replacement."""
    bounds = {each: drop(counts(n - sum(each), *each, 0), population) for each in flipped(n)}
    for rises, falls in flipped(population):
        true = (rises - falls) / population
        above = below = 0.0
        steady = population - rises - falls
        for (lost, gained), interval in bounds.items():
            ways = (
                math.comb(rises, lost)
                * math.comb(falls, gained)
                * math.comb(steady, n - lost - gained)
            )
            chance = ways / math.comb(population, n)
            above += chance * (interval.high < true - 1e-12)
            below += chance * (interval.low > true + 1e-12)

        assert above <= 1 - PASS
        assert below <= 1 - FAIL


def test_tangos_own_bound_errs_more_often_than_it_says() -> None:
    """Why it does not decide: a gain of 7.9 points, nothing lost, over 32 cases: 7% and not 5%."""
    n = 32
    bounds = {
        (lost, 0): paired_shares.tango_interval(
            counts(n - lost, 0, lost, 0), pass_confidence=PASS, fail_confidence=FAIL
        )
        for lost in range(n + 1)
    }
    above = sum(
        float(scipy_stats.binom.pmf(lost, n, 0.079)) * (interval.high < 0.079)
        for (lost, _), interval in bounds.items()
    )
    assert above > 0.07


@pytest.mark.parametrize(("n", "population"), [(7, None), (16, None), (7, 9), (16, 40)])
def test_flips_err_no_more_often_than_they_say(n: int, population: int | None) -> None:
    """Exact: all outcomes, for shares in small steps or all populations."""
    steps = 60 if population is None else population
    bounds = [
        paired_shares.flips_interval(
            counts(n - number, number, 0, 0),
            population=population,
            pass_confidence=PASS,
            fail_confidence=FAIL,
        )
        for number in range(n + 1)
    ]
    for step in range(steps + 1):
        share = step / steps
        if population is None:
            drawn = scipy_stats.binom(n, share)
        else:
            drawn = scipy_stats.hypergeom(population, step, n)
        pairs = [(float(drawn.pmf(number)), each) for number, each in enumerate(bounds)]

        assert sum(chance for chance, each in pairs if each.high < share - 1e-9) <= 1 - PASS
        assert sum(chance for chance, each in pairs if each.low > share + 1e-9) <= 1 - FAIL


def test_flips_of_a_kind_are_clopper_and_pearsons() -> None:
    """SciPy's exact one-sided bounds of 4 in 50."""
    found = paired_shares.flips_interval(
        counts(40, 3, 1, 6), pass_confidence=PASS, fail_confidence=FAIL
    )

    upper = scipy_stats.binomtest(4, 50, alternative="less").proportion_ci(PASS).high
    lower = scipy_stats.binomtest(4, 50, alternative="greater").proportion_ci(FAIL).low
    assert (lower, upper) == pytest.approx((found.low, found.high))


def test_wilsons_bounds_are_each_of_their_own_confidence() -> None:
    """SciPy's score interval at 90% has bounds of 95%."""
    expected = scipy_stats.binomtest(45, 50).proportion_ci(0.9, method="wilson")

    assert expected.low == pytest.approx(paired_shares.wilson_lower(45, 50, confidence=0.95))
    assert expected.high == pytest.approx(paired_shares.wilson_upper(45, 50, confidence=0.95))
