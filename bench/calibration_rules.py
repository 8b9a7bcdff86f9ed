"""Rules that decide "at most a limit" from some of a text's windows, for many orders at once.

A rule turns the moments of the first n values into an upper and a lower bound of the mean of all N.
`SHIPPED` is the arithmetic of `pytest_quantgate.stats.look_interval`, written a second time for arrays;
`calibration.py` holds the two against each other before it trusts either. The others are what it was
chosen from.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]
    Bounds = tuple[Numbers, Numbers]

PASS_RISK = 0.05
FAIL_RISK = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Mean, standard deviation and skewness of the first ``count`` of N values, for many orders."""

    mean: Numbers
    deviation: Numbers
    skewness: Numbers
    count: int
    population: int

    @property
    def share(self) -> float:
        """Share of the population that is drawn."""
        return self.count / self.population

    @property
    def error(self) -> Numbers:
        """Standard error of the mean, corrected for the finite population."""
        finite = np.sqrt((self.population - self.count) / (self.population - 1))
        return np.asarray(self.deviation / np.sqrt(self.count) * finite)


def _plain(seen: Moments, to_pass: float, to_fail: float) -> Bounds:
    return seen.mean + to_pass * seen.error, seen.mean - to_fail * seen.error


def _johnson(seen: Moments, to_pass: float, to_fail: float) -> Bounds:

    def shift(quantile: float) -> Numbers:
        scale = (1 + 2 * quantile**2) / (6 * seen.count)
        return np.asarray(seen.skewness * seen.deviation * scale)

    upper = seen.mean + shift(to_pass) + to_pass * seen.error
    return upper, seen.mean + shift(to_fail) - to_fail * seen.error


def _hall(seen: Moments, to_pass: float, to_fail: float) -> Bounds:
    skew = seen.skewness / np.sqrt(seen.count)
    skew = np.where(np.abs(skew) < 1e-9, 1e-9, skew)

    def turned(quantile: float) -> Numbers:
        # Inverse of Hall's monotone cubic t + a t^2 / 3 + a^2 t^3 / 27 + a / 6.
        return np.asarray(3 / skew * (np.cbrt(1 + skew * (quantile - skew / 6)) - 1))

    return seen.mean - turned(-to_pass) * seen.error, seen.mean - turned(to_fail) * seen.error


def _outward(
    seen: Moments,
    to_pass: float,
    to_fail: float,
    *,
    errors: tuple[float, float] = (0.0, 0.0),
    least: float = -np.inf,
    hidden: float = 0.0,
) -> Bounds:
    count = seen.count
    variance = 6 * count * (count - 1) / ((count - 2) * (count + 1) * (count + 3))
    more_to_pass, more_to_fail = (each * np.sqrt(variance) for each in errors)

    def shift(skewness: Numbers, quantile: float) -> Numbers:
        term = ((1 - 2 * seen.share) + (2 - seen.share) * quantile**2) / (6 * count)
        assumed = np.maximum(skewness, least)
        return np.asarray(np.maximum(0.0, assumed * term) * seen.deviation)

    return (
        seen.mean
        + to_pass * seen.error
        + shift(seen.skewness + more_to_pass, to_pass)
        + hidden / seen.population * seen.deviation,
        seen.mean - to_fail * seen.error - shift(-seen.skewness + more_to_fail, to_fail),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule, where it first looks, and how it divides its risk among looks."""

    name: str
    bounds: Callable[[Moments, float, float], Bounds]
    first: int = 16
    division: str = "equal"

    def looks(self, population: int) -> tuple[int, ...]:
        """Return the looks below the population."""
        found = []
        look = self.first
        while look < population:
            found.append(look)
            look *= 2
        return tuple(found)

    def risks(self, population: int) -> list[float]:
        """Return each look's share of the risk; the last part is for the end by time or count."""
        count = len(self.looks(population))
        if self.division == "none":
            return [1.0] * count
        if self.division == "late":
            weights = [2.0**place for place in range(count + 1)]
            return [weight / sum(weights) for weight in weights[:-1]]
        return [1 / (count + 1)] * count


SHIPPED = Rule(name="shipped", bounds=functools.partial(_outward, errors=(2.0, 1.5), hidden=20.0))

RULES = (
    Rule(name="t, looks not corrected", bounds=_plain, division="none"),
    Rule(name="t", bounds=_plain),
    Rule(name="t, Johnson's shift", bounds=_johnson),
    Rule(name="t, Hall's transformation", bounds=_hall),
    Rule(name="t, shift outwards only", bounds=_outward),
    Rule(name="same, risk spent late", bounds=_outward, division="late"),
    Rule(name="same, first look at 32", bounds=_outward, first=32),
    Rule(name="same, skewness at least 1", bounds=functools.partial(_outward, least=1.0)),
    Rule(name="same, skewness + 1 error", bounds=functools.partial(_outward, errors=(1.0, 1.0))),
    Rule(
        name="same, skewness + 2 errors to pass, + 1.5 to fail",
        bounds=functools.partial(_outward, errors=(2.0, 1.5)),
    ),
    SHIPPED,
)


def moments_at(
    drawn: Numbers, looks: Sequence[int], *, variance_floor: float = 0.0
) -> list[Moments]:
    """Return the moments at each look, of values of shape (orders, N)."""
    origin = drawn[0].mean()
    centred = drawn - origin
    squared = centred * centred
    first, second, third = (
        np.cumsum(np.add.reduceat(power, (0, *looks), axis=1)[:, :-1], axis=1) / np.array(looks)
        for power in (centred, squared, squared * centred)
    )
    squares = np.maximum(0.0, second - first**2)
    cubes = third - 3 * first * second + 2 * first**3
    # Equal values leave a residue of rounding, which is no spread.
    variance = np.where(squares > 1e-12 * second, squares, 0.0)
    found = []
    for place, count in enumerate(looks):
        scaled = variance[:, place] * count / (count - 1)
        deviation = np.sqrt(np.maximum(scaled, variance_floor))
        with np.errstate(divide="ignore", invalid="ignore"):
            skewness = np.where(deviation > 0, cubes[:, place] / deviation**3, 0.0)
        found.append(
            Moments(
                mean=first[:, place] + origin,
                deviation=deviation,
                skewness=skewness,
                count=count,
                population=drawn.shape[1],
            )
        )
    return found


def bounds_at(rule: Rule, seen: Sequence[Moments]) -> tuple[Numbers, Numbers]:
    """Return the bounds at the looks of a rule, of shape (orders, looks); no spread, no bounds."""
    uppers, lowers = [], []
    for each, risk in zip(seen, rule.risks(seen[0].population), strict=True):
        quantiles = (
            -float(special.stdtrit(each.count - 1, total * risk))
            for total in (PASS_RISK, FAIL_RISK)
        )
        upper, lower = rule.bounds(each, *quantiles)
        uppers.append(np.where(each.deviation > 0, upper, np.inf))
        lowers.append(np.where(each.deviation > 0, lower, -np.inf))
    return np.stack(uppers, axis=1), np.stack(lowers, axis=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """How many orders ended with a pass and a failure before all windows, and windows used in all."""

    passes: int
    fails: int
    windows: int


def decide(
    looks: Sequence[int], upper: Numbers, lower: Numbers, limit: float, population: int
) -> Ends:
    """End each order at its first look with a bound on one side of the limit."""
    passed = upper <= limit
    decided = passed | (lower > limit)
    ended = decided.any(axis=1)
    first = np.where(ended, decided.argmax(axis=1), len(looks))
    at_end = np.where(ended, passed[np.arange(len(passed)), np.minimum(first, len(looks) - 1)], 0)
    return Ends(
        passes=int(at_end.sum()),
        fails=int(ended.sum() - at_end.sum()),
        windows=int(np.array([*looks, population])[first].sum()),
    )


def bet(drawn: Numbers, limit: float) -> Ends:
    """End each order when a bettor against "beyond the limit" or "within it" has multiplied his stake.

    Values lie in [0, 1]. Betting without replacement (Waudby-Smith and Ramdas, NeurIPS 2020): the
    capital is the product of 1 ± b_i (x_i - m_i), where m_i is what the mean of the windows left would
    be were the mean of all the limit, and b_i a bet that is made before x_i is seen (their approximate
    growth-rate bet, at most half of what could be lost). He may look after every window.
    """
    orders, population = drawn.shape
    rounding = 1e-12 * population
    total, squares = np.zeros(orders), np.zeros(orders)
    capital_pass, capital_fail = np.zeros(orders), np.zeros(orders)
    outcome = np.zeros(orders, dtype=np.int8)
    windows = np.full(orders, population)
    for place in range(population - 1):
        left = (population * limit - total) / (population - place)
        mean = (0.5 + total) / (place + 1)
        variance = (0.25 + np.maximum(0.0, squares - place * (total / max(place, 1)) ** 2)) / (
            place + 1
        )
        gap = left - mean
        edge = gap / (variance + gap**2)
        with np.errstate(divide="ignore"):
            for_pass = np.clip(edge, 0.0, 0.5 / np.maximum(1 - left, 1e-12))
            for_fail = np.clip(-edge, 0.0, 0.5 / np.maximum(left, 1e-12))
        value = drawn[:, place]
        capital_pass += np.log(np.maximum(1 - for_pass * (value - left), 1e-12))
        capital_fail += np.log(np.maximum(1 + for_fail * (value - left), 1e-12))
        total += value
        squares += value**2
        # What is drawn may leave no room for the other answer.
        passes = (capital_pass >= -np.log(PASS_RISK)) | (
            (population * limit - total) > population - place - 1 + rounding
        )
        fails = (capital_fail >= -np.log(FAIL_RISK)) | (total > population * limit + rounding)
        fresh = (outcome == 0) & (passes | fails)
        outcome[fresh] = np.where(passes[fresh], 1, 2)
        windows[fresh] = place + 1
    return Ends(
        passes=int((outcome == 1).sum()),
        fails=int((outcome == 2).sum()),
        windows=int(windows.sum()),
    )
