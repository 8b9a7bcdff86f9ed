"""Intervals and the three-way decision; pure functions of numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_quantgate.records import Interval, Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

CONFIDENCE = 0.95


def mean_interval(
    values: Sequence[float], *, population: int | None = None, confidence: float = CONFIDENCE
) -> Interval:
    """Return Student's t interval of the mean.

    ``population`` is the number of values there are to be had: with fewer drawn, the width is
    multiplied by the finite-population correction sqrt((N - n) / (N - 1)) (Cochran, Sampling
    Techniques, 1977, section 2.8), so that a complete count leaves no doubt.

    Raises:
        ValueError: fewer than two values, where no spread can be told and N > n.
    """
    count = len(values)
    mean = math.fsum(values) / max(count, 1)
    if population is not None and 0 < population <= count:
        return Interval(low=mean, high=mean, confidence=1.0)
    if count < 2:  # noqa: PLR2004 - a spread takes two
        message = f"an interval needs at least 2 values, got {count}"
        raise ValueError(message)
    from scipy import stats  # noqa: PLC0415 - a second of import that only judging pays

    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    correction = 1.0 if population is None else math.sqrt((population - count) / (population - 1))
    quantile = float(stats.t.ppf((1 + confidence) / 2, count - 1))
    half = quantile * deviation / math.sqrt(count) * correction
    return Interval(low=mean - half, high=mean + half, confidence=confidence)


def values_needed(values: Sequence[float], *, limit: float, population: int) -> int:
    """Return about how many values would part the mean from the limit at 95% confidence.

    Solves half width = |limit - mean| for n with the normal quantile and the finite-population
    correction; at most ``population``, where the answer is exact.
    """
    count = len(values)
    mean = math.fsum(values) / count
    variance = math.fsum((value - mean) ** 2 for value in values) / max(count - 1, 1)
    # n = infinite / (1 + (infinite - 1) / population), infinite = spread / distance, kept from overflow.
    spread, distance = 1.96**2 * variance, (limit - mean) ** 2
    divisor = distance + (spread - distance) / population
    if divisor == 0:
        return population
    finite = spread / divisor
    return min(population, max(count + 1, math.ceil(finite)))


def wilson_interval(successes: int, trials: int, *, confidence: float = CONFIDENCE) -> Interval:
    """Return the Wilson score interval of a proportion (Wilson, JASA 22, 1927)."""
    from scipy import stats  # noqa: PLC0415 - see above

    z = float(stats.norm.ppf((1 + confidence) / 2))
    share = successes / trials
    centre = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    # At the ends the bound is exactly 0 or 1; rounding would put it a hair beside.
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == trials else (centre + half) / scale
    return Interval(low=low, high=high, confidence=confidence)


def quantile(values: Sequence[float], share: float) -> float:
    """Return the sample quantile with linear interpolation between order statistics."""
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def quantile_interval(
    values: Sequence[float], share: float, *, confidence: float = CONFIDENCE
) -> Interval | None:
    """Return a distribution-free interval of a quantile from order statistics.

    The bounds are the order statistics X(l), X(u) with P(l <= Binomial(n, share) < u) >= confidence,
    equal-tailed (David and Nagaraja, Order Statistics, 2003, section 7.1). None where the sample is too
    small to bound the quantile on both sides.
    """
    from scipy import stats  # noqa: PLC0415 - see above

    count = len(values)
    ordered = sorted(values)
    tail = (1 - confidence) / 2
    binomial = stats.binom(count, share)
    lower = int(binomial.ppf(tail))
    upper = int(binomial.ppf(1 - tail)) + 1
    if lower < 1 or upper > count:
        return None
    held = float(binomial.cdf(upper - 1) - binomial.cdf(lower - 1))
    return Interval(low=ordered[lower - 1], high=ordered[upper - 1], confidence=held)


def at_most(interval: Interval, limit: float) -> Outcome:
    """Decide "the value is at most the limit": only an interval on one side of it decides."""
    if interval.high <= limit:
        return Outcome.PASS
    if interval.low > limit:
        return Outcome.FAIL
    return Outcome.INCONCLUSIVE


def at_least(interval: Interval, limit: float) -> Outcome:
    """Decide "the value is at least the limit": only an interval on one side of it decides."""
    if interval.low >= limit:
        return Outcome.PASS
    if interval.high < limit:
        return Outcome.FAIL
    return Outcome.INCONCLUSIVE


def worst(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the outcome of several limits together: any failure fails, any doubt is doubt."""
    for outcome in (Outcome.FAIL, Outcome.INCONCLUSIVE):
        if outcome in outcomes:
            return outcome
    return Outcome.PASS
