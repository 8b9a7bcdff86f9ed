"""Intervals and the three-way decision; pure functions of numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pytest_quantgate.records import Interval, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

CONFIDENCE = 0.95

_PASS_ALLOWANCE = 2.0
_FAIL_ALLOWANCE = 1.5
"""Standard errors of skewness that are added to it for the bounds that pass and fail a limit."""

_HIDDEN = 20.0
"""Standard deviations by which one value that was not drawn may be above the mean."""

_SKEWABLE = 3
"""The fewest values that can be skewed, and so tell anything of it."""


def look_interval(
    values: Sequence[float],
    *,
    population: int,
    looks: int,
    pass_confidence: float,
    fail_confidence: float,
    variance_floor: float = 0.0,
) -> Interval:
    """Return bounds of the mean that may be looked at several times while values are drawn.

    ``values`` are drawn at random, without replacement, from ``population``; each bound holds at all
    of ``looks`` looks together with its own confidence (Bonferroni): the mean is at most ``high`` with
    ``pass_confidence``, at least ``low`` with ``fail_confidence``. They decide "at most a limit"; for
    "at least a limit" negate values and limit. ``variance_floor`` is the least variance to assume of a
    single value. Complete values have no doubt left, values without any spread nothing but doubt.

    Student's t with the finite-population correction, and each bound moved outwards, never inwards, by
    the term of the Edgeworth expansion that makes up for skewness (Johnson, JASA 73, 1978; for samples
    without replacement Sugden, Smith and Jones, JRSS B 62, 2000). Few values tell little of the tail
    they were drawn from: their skewness is taken for more than it is, in the direction that harms, by
    two standard errors for ``high`` and one and a half for ``low``. And no sample shows a window that it
    has not drawn, so ``high`` leaves room for one, far out. bench/calibration.py measures how often
    these bounds err, and those of other rules.

    Raises:
        ValueError: fewer than two values of more.
    """
    count = len(values)
    mean = math.fsum(values) / max(count, 1)
    if 0 < population <= count:
        return Interval(low=mean, high=mean, confidence=1.0, fail_confidence=1.0)
    spread = _Spread.of(values, variance_floor=variance_floor)
    return Interval(
        low=mean - spread.reach(_t(fail_confidence, looks, count), population, up=False),
        high=mean + spread.reach(_t(pass_confidence, looks, count), population, up=True),
        confidence=pass_confidence,
        fail_confidence=fail_confidence,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spread:
    """Standard deviation and skewness of so many values."""

    deviation: float
    skewness: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float], *, variance_floor: float = 0.0) -> _Spread:
        count = len(values)
        if count < 2:  # noqa: PLR2004 - a spread takes two
            message = f"an interval needs at least 2 values, got {count}"
            raise ValueError(message)
        mean = math.fsum(values) / count
        variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
        if min(values) == max(values):
            variance = 0.0  # the mean of equal values may differ from them in its last bit
        deviation = math.sqrt(max(variance, variance_floor))
        if variance == 0:
            return cls(deviation=deviation, skewness=0.0, count=count)
        # Against the deviation assumed, so that a floor cannot make values look more skewed.
        skewness = math.fsum(((value - mean) / deviation) ** 3 for value in values) / count
        return cls(deviation=deviation, skewness=skewness, count=count)

    def reach(self, quantile: float, population: int, *, up: bool) -> float:
        """Return how far a bound is from the mean of these values, drawn from the population."""
        if self.deviation == 0 or self.count < _SKEWABLE:
            return math.inf
        share = self.count / population
        error = self.deviation / math.sqrt(self.count) * _finite(self.count, population)
        term = ((1 - 2 * share) + (2 - share) * quantile**2) / (6 * self.count)
        error_of_skewness = _skewness_error(self.count)
        if up:
            harmful = self.skewness + _PASS_ALLOWANCE * error_of_skewness
            hidden = _HIDDEN / population
        else:
            harmful = -self.skewness + _FAIL_ALLOWANCE * error_of_skewness
            hidden = 0.0
        return quantile * error + (max(0.0, harmful * term) + hidden) * self.deviation


def _skewness_error(count: int) -> float:
    """Return the standard error of the skewness of so many values (normal ones: Cramér, 1946, 29.3)."""
    variance = 6 * count * (count - 1) / ((count - 2) * (count + 1) * (count + 3))
    return math.sqrt(variance)


def _finite(count: int, population: int) -> float:
    return math.sqrt((population - count) / (population - 1))


def _t(confidence: float, looks: int, count: int) -> float:
    """Return the quantile for one of several looks, for a spread told from so many values."""
    from scipy import special  # noqa: PLC0415 - a second of import that only judging pays

    return -float(special.stdtrit(count - 1, (1 - confidence) / looks))


def share_quantile_interval(
    tokens: NDArray[Any],
    share: float,
    *,
    population: int,
    looks: int,
    pass_confidence: float,
    fail_confidence: float,
) -> Interval:
    """Return bounds of a quantile of all tokens, such as share 0.99, from those of some chunks.

    ``tokens`` has shape (chunks, tokens of a chunk). The quantile is at most M where at most
    1 - ``share`` of the tokens lie above M, and that is a mean over chunks: so the bounds are found by
    turning `look_interval` round. ``high`` is the smallest of the values whose share above it has an
    upper bound of at most 1 - ``share``, ``low`` the largest one whose share above it has a lower bound
    beyond that; infinite where no value serves. The variance of a chunk's share is taken to be at least
    that of independent tokens, so that values nothing lies above are no proof.
    """
    import numpy as np  # noqa: PLC0415 - judging numbers of windows takes no array

    chunks, length = tokens.shape
    if 0 < population <= chunks:
        exact = float(np.quantile(tokens, share))
        return Interval(low=exact, high=exact, confidence=1.0, fail_confidence=1.0)

    def above(value: float) -> Interval:
        return look_interval(
            (tokens > value).mean(axis=1).tolist(),
            population=population,
            looks=looks,
            pass_confidence=pass_confidence,
            fail_confidence=fail_confidence,
            variance_floor=share * (1 - share) / length,
        )

    ordered = np.unique(tokens)
    first_high = _first(len(ordered), lambda rank: above(float(ordered[rank])).high <= 1 - share)
    first_not_low = _first(len(ordered), lambda rank: above(float(ordered[rank])).low <= 1 - share)
    return Interval(
        low=float(ordered[first_not_low - 1]) if first_not_low > 0 else -math.inf,
        high=float(ordered[first_high]) if first_high < len(ordered) else math.inf,
        confidence=pass_confidence,
        fail_confidence=fail_confidence,
    )


def _first(count: int, holds: Callable[[int], bool]) -> int:
    """Return the first of 0 … count - 1 from which on it holds, by halving; ``count`` if none."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low


def chunks_needed(
    values: Sequence[float],
    *,
    limit: float,
    population: int,
    looks: int,
    pass_confidence: float,
    fail_confidence: float,
    variance_floor: float = 0.0,
) -> int:
    """Return about how many values in all would part the mean from the limit.

    Supposes that mean, spread and skewness stay what they are in ``values`` and solves for the number
    at which the bound of `look_interval` on the limit's side reaches it; more than there are values now
    and at most ``population``, where the answer is exact.
    """
    count = len(values)
    mean = math.fsum(values) / count
    spread = _Spread.of(values, variance_floor=variance_floor)
    within = mean <= limit
    confidence = pass_confidence if within else fail_confidence

    def decides(further: int) -> bool:
        total = count + 1 + further
        if total >= population or spread.deviation == 0:
            return True
        later = replace(spread, count=total)
        reach = later.reach(_t(confidence, looks, total), population, up=within)
        return reach < abs(limit - mean)

    return min(population, count + 1 + _first(max(0, population - count - 1), decides))


def detectable(
    values_sd: float,
    chunks: int,
    *,
    population: int,
    looks: int,
    pass_confidence: float,
    power: float = 0.8,
) -> float:
    """Return how far below its limit a mean must be to pass with that probability (power).

    The minimum detectable effect of a look at ``chunks`` of ``population`` values with standard
    deviation ``values_sd``: (t + z) * sd / sqrt(n), corrected for the finite population, and the room
    for a value not drawn; on the scale of the values, 0 where all are measured.
    """
    from scipy import special  # noqa: PLC0415 - see above

    if chunks >= population:
        return 0.0
    error = values_sd / math.sqrt(chunks) * _finite(chunks, population)
    reach = (_t(pass_confidence, looks, chunks) + float(special.ndtri(power))) * error
    return reach + _HIDDEN / population * values_sd


def wilson_interval(successes: float, trials: float, *, confidence: float = CONFIDENCE) -> Interval:
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
