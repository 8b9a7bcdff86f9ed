"""Right and wrong answers of two models to the same cases: how far apart their shares of right ones are.

Answers to one case are alike, whoever gives them, so the shares are compared pair by pair: only cases
that flip tell the models apart. Which bounds decide a gate is settled by how often they err, which
was counted over all outcomes of many populations; see `drop_interval`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_quantgate import stats
from pytest_quantgate.records import Interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HALVINGS = 60
"""Halvings of an interval no longer than 2: what is left is less than a float can tell."""

_NUISANCE_RISK = 0.05
"""Part of the risk of an error that is spent on leaving improbable numbers of flips out."""

_NUISANCES = 32
"""The most numbers of flips in the population that a bound is examined at."""

_FURTHER = 3
"""Drops looked at beyond a bound found by halving: a tail is not quite monotone in the drop."""

_TIE = 1e-9
"""Statistics this close are the same one, rounded differently."""

_REACH = 6.0
"""Standard deviations, and as many cases, beyond which outcomes weigh nothing (1e-8)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedCounts:
    """Cases by who answers them right; there is at least one.

    Raises:
        ValueError: a negative number, or no case at all.
    """

    both_right: int
    baseline_only: int
    candidate_only: int
    both_wrong: int

    def __post_init__(self) -> None:
        """Refuse numbers that count nothing."""
        cells = (self.both_right, self.baseline_only, self.candidate_only, self.both_wrong)
        if min(cells) < 0 or sum(cells) == 0:
            message = f"paired counts are numbers of at least one case, got {cells}"
            raise ValueError(message)

    @property
    def n(self) -> int:
        """Number of cases."""
        return self.both_right + self.flips + self.both_wrong

    @property
    def flips(self) -> int:
        """Number of cases that one model answers right and the other one wrong."""
        return self.baseline_only + self.candidate_only

    @property
    def baseline_share(self) -> float:
        """Share of right answers of the baseline."""
        return (self.both_right + self.baseline_only) / self.n

    @property
    def candidate_share(self) -> float:
        """Share of right answers of the candidate."""
        return (self.both_right + self.candidate_only) / self.n

    @property
    def difference(self) -> float:
        """Candidate's share less the baseline's, as one quotient: shares would round apart."""
        return (self.candidate_only - self.baseline_only) / self.n

    @property
    def drop(self) -> float:
        """How far the candidate's share is below the baseline's; negative where it is above."""
        return (self.baseline_only - self.candidate_only) / self.n

    @property
    def flip_share(self) -> float:
        """Share of cases that flip."""
        return self.flips / self.n

    def swapped(self) -> PairedCounts:
        """Return the counts with the models in each other's place, so that a drop is a difference."""
        return PairedCounts(
            both_right=self.both_right,
            baseline_only=self.candidate_only,
            candidate_only=self.baseline_only,
            both_wrong=self.both_wrong,
        )


def mcnemar_p(counts: PairedCounts) -> float:
    """Return the exact two-sided p-value of "both models are right equally often".

    Given how many cases flip, each flips either way with probability 1/2 (McNemar, Psychometrika 12,
    1947, with the binomial instead of its approximation); 1 where none flips. No small p-value makes a
    gate pass, and no large one either: bounds decide.
    """
    from scipy import special  # noqa: PLC0415 - a second of import that only judging pays

    fewer = min(counts.baseline_only, counts.candidate_only)
    return min(1.0, 2 * float(special.bdtr(fewer, counts.flips, 0.5)))


def newcombe_interval(
    counts: PairedCounts, *, pass_confidence: float, fail_confidence: float
) -> Interval:
    """Return Newcombe's hybrid score bounds of the difference, candidate less baseline.

    Method 10 of Newcombe, Statistics in Medicine 17, 1998, 2635-2650: the Wilson bounds of both shares,
    put together by the correlation of the answers, which is corrected for continuity. The difference
    is at most ``high`` with ``pass_confidence``, at least ``low`` with ``fail_confidence``; both 0.975
    make the usual interval of 95%. For comparison with figures of others, not to decide by: where few
    cases flip and shares are near one half, it errs most; see `drop_interval`.

    Raises:
        ValueError: a confidence that is not above 0.5 and below 1.
    """
    return Interval(
        low=0.0 - _newcombe_high(counts.swapped(), fail_confidence),
        high=_newcombe_high(counts, pass_confidence),
        confidence=pass_confidence,
        fail_confidence=fail_confidence,
    )


def tango_interval(
    counts: PairedCounts, *, pass_confidence: float, fail_confidence: float
) -> Interval:
    """Return Tango's score bounds of the difference, candidate less baseline.

    Tango, Statistics in Medicine 17, 1998, 891-908: the differences that the score test, with the share
    of flips that is likeliest under each, does not reject; found by halving. The difference is at most
    ``high`` with ``pass_confidence``, at least ``low`` with ``fail_confidence``; both 0.975 make the
    usual interval of 95%. For comparison with figures of others, not to decide by: see `drop_interval`.

    Raises:
        ValueError: a confidence that is not above 0.5 and below 1.
    """
    gained, lost = counts.candidate_only, counts.baseline_only
    low = _score_high(lost, gained, counts.n, _normal(_risk(fail_confidence, 1)), corrected=False)
    high = _score_high(gained, lost, counts.n, _normal(_risk(pass_confidence, 1)), corrected=False)
    return Interval(
        low=0.0 - low, high=high, confidence=pass_confidence, fail_confidence=fail_confidence
    )


def drop_interval(
    counts: PairedCounts,
    *,
    population: int | None = None,
    looks: int = 1,
    pass_confidence: float,
    fail_confidence: float,
) -> Interval:
    """Return the bounds that decide how far the candidate's share is below the baseline's.

    The drop is at most ``high`` with ``pass_confidence``, at least ``low`` with ``fail_confidence``,
    each at all of ``looks`` looks together (Bonferroni). ``population`` is the number of cases that
    these were drawn from at random, without replacement, and that the drop is about; None where it is
    about all cases of the kind. With all cases there is no doubt left.

    None: Tango's score bounds, moved outwards by half a case for continuity and by the term of the
    Cornish-Fisher expansion for skewness, (z^2 - 1) / 6 of its ratio to the variance, where that harms
    (as Gart and Nam, Biometrics 46, 1990, and Laud, Pharmaceutical Statistics 16, 2017, correct scores
    of unpaired shares). Counted over all outcomes for 16 to 400 cases, on a grid of shares of flips up
    to one half and of splits of them, a bound of 95% errs in at most 5.13% of samples, one of 99% in at
    most 1.04%; on a coarser grid Tango's own errs in up to 8.8% and 2.3%, Newcombe's (16 to 100 cases)
    in 13% and 5.3%.

    A population: the drops that the exact test does not reject which orders outcomes by Tango's score
    and takes the worst number of flips in the population, among those that the flips seen leave
    possible but for a twentieth of the risk (Berger and Boos, JASA 89, 1994). Counted over all outcomes
    of 10 to 99 cases out of 20 to 100, of which up to 16 flip, no bound errs in more than 0.95 of the
    samples that it may. The score, corrected for the population, errs in up to 1.9 times as many as a
    bound of 95% may, and 3.9 times for 99%, once more than half is drawn.

    Raises:
        ValueError: a confidence that is not above 0.5 and below 1, or more cases than the population.
    """
    if _complete(counts.n, population):
        return Interval(low=counts.drop, high=counts.drop, confidence=1.0, fail_confidence=1.0)

    def high(risen: int, fallen: int, risk: float) -> float:
        if population is None:
            return _score_high(risen, fallen, counts.n, _normal(risk), corrected=True)
        drawn = _Drawn(risen=risen, fallen=fallen, n=counts.n, population=population)
        return drawn.high(risk)

    lost, gained = counts.baseline_only, counts.candidate_only
    return Interval(
        low=0.0 - high(gained, lost, _risk(fail_confidence, looks)),
        high=high(lost, gained, _risk(pass_confidence, looks)),
        confidence=pass_confidence,
        fail_confidence=fail_confidence,
    )


def flips_interval(
    counts: PairedCounts,
    *,
    population: int | None = None,
    looks: int = 1,
    pass_confidence: float,
    fail_confidence: float,
) -> Interval:
    """Return the exact bounds of the share of cases that flip; see `share_interval`."""
    return share_interval(
        counts.flips,
        counts.n,
        population=population,
        looks=looks,
        pass_confidence=pass_confidence,
        fail_confidence=fail_confidence,
    )


def share_interval(
    successes: int,
    trials: int,
    *,
    population: int | None = None,
    looks: int = 1,
    pass_confidence: float,
    fail_confidence: float,
) -> Interval:
    """Return exact bounds of a share, each at all of ``looks`` looks together (Bonferroni).

    The share is at most ``high`` with ``pass_confidence``, at least ``low`` with ``fail_confidence``;
    for a limit from below count the failures. Clopper and Pearson, Biometrika 26, 1934, and the same
    turning round of the hypergeometric distribution where ``population`` cases are there to draw from.

    Raises:
        ValueError: a confidence that is not above 0.5 and below 1, or more cases than the population.
    """
    if _complete(trials, population):
        share = successes / trials
        return Interval(low=share, high=share, confidence=1.0, fail_confidence=1.0)
    failures = trials - successes
    # A population has no share between two whole numbers of cases; the estimate may be there.
    low = 1 - _share_high(failures, trials, population, _risk(fail_confidence, looks))
    high = _share_high(successes, trials, population, _risk(pass_confidence, looks))
    return Interval(
        low=min(low, successes / trials),
        high=max(high, successes / trials),
        confidence=pass_confidence,
        fail_confidence=fail_confidence,
    )


def wilson_lower(successes: int, trials: int, *, confidence: float) -> float:
    """Return the bound of Wilson's score interval that the share is at least, by itself.

    Raises:
        ValueError: a confidence that is not above 0.5 and below 1.
    """
    risk = _risk(confidence, 1)
    return stats.wilson_interval(successes, trials, confidence=1 - 2 * risk).low


def wilson_upper(successes: int, trials: int, *, confidence: float) -> float:
    """Return the bound of Wilson's score interval that the share is at most, by itself.

    Raises:
        ValueError: a confidence that is not above 0.5 and below 1.
    """
    risk = _risk(confidence, 1)
    return stats.wilson_interval(successes, trials, confidence=1 - 2 * risk).high


def _complete(drawn: int, population: int | None) -> bool:
    if population is not None and drawn > population:
        message = f"{drawn} cases cannot be drawn without replacement from {population}"
        raise ValueError(message)
    return drawn == population


def _risk(confidence: float, looks: int) -> float:
    if not 0.5 < confidence < 1:  # noqa: PLR2004 - at 0.5 a bound is the estimate
        message = f"a confidence is above 0.5 and below 1, got {confidence}"
        raise ValueError(message)
    return (1 - confidence) / looks


def _normal(risk: float) -> float:
    """Return the quantile of the normal distribution that is exceeded with a probability."""
    from scipy import special  # noqa: PLC0415 - see above

    return -float(special.ndtri(risk))


def _newcombe_high(counts: PairedCounts, confidence: float) -> float:
    """Return the upper bound of candidate less baseline."""
    candidate = counts.both_right + counts.candidate_only
    baseline = counts.both_right + counts.baseline_only
    failures = counts.n - baseline
    up = wilson_upper(candidate, counts.n, confidence=confidence) - candidate / counts.n
    down = wilson_upper(failures, counts.n, confidence=confidence) - failures / counts.n
    agreement = float(
        counts.both_right * counts.both_wrong - counts.baseline_only * counts.candidate_only
    )
    if agreement > 0:
        agreement = max(agreement - counts.n / 2, 0.0)
    margins = candidate * (counts.n - candidate) * baseline * failures
    correlation = agreement / math.sqrt(margins) if margins else 0.0
    square = up**2 - 2 * correlation * up * down + down**2
    return min(1.0, counts.difference + math.sqrt(max(square, 0.0)))


def _share_high(successes: int, trials: int, population: int | None, risk: float) -> float:
    """Return the largest share under which so few successes, or fewer, are likelier than the risk."""
    from scipy import special  # noqa: PLC0415 - see above

    if successes == trials:
        return 1.0
    if population is None:
        return float(special.betaincinv(successes + 1, trials - successes, 1 - risk))
    return _most(successes, trials, population, risk) / population


def _most(successes: int, trials: int, population: int, risk: float) -> int:
    """Return the largest number in the population under which so few are likelier than the risk."""
    from scipy import stats as distributions  # noqa: PLC0415 - see above

    possible = range(successes, population - (trials - successes) + 1)

    def rejected(number: int) -> bool:
        tail = distributions.hypergeom.cdf(successes, population, number, trials)
        return bool(tail <= risk)

    return possible[bisect_left(possible, 1, key=rejected) - 1]


def _score_high(up: int, down: int, n: int, quantile: float, *, corrected: bool) -> float:
    """Return the largest difference of the shares of ``up`` and ``down`` that is not rejected."""
    import numpy as np  # noqa: PLC0415 - judging numbers of windows takes no array

    inside, outside = (up - down) / n, 1.0
    ups, downs = np.array(up), np.array(down)

    def rejected(difference: float) -> bool:
        variance, third = (float(moment) for moment in _moments(ups, downs, n, difference))
        distance = n * difference - (up - down)
        if corrected:
            skewness = max(0.0, -third / variance) if variance > 0 else 0.0
            distance -= 0.5 + max(0.0, quantile**2 - 1) / 6 * skewness
        return distance > quantile * math.sqrt(n * variance)

    if not rejected(outside):
        return outside
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        if rejected(middle):
            outside = middle
        else:
            inside = middle
    return inside


def _moments(
    up: NDArray[Any], down: NDArray[Any], n: int, difference: float
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return variance and third central moment of one case's +1, 0 or -1, given their difference.

    Under the share of -1 that is likeliest for ``up`` and ``down`` in ``n`` cases: the larger root of
    Tango's quadratic equation, without cancellation.
    """
    import numpy as np  # noqa: PLC0415 - see above

    linear = (2 * n - up + down) * difference - up - down
    constant = -down * difference * (1 - difference)
    root = np.sqrt(np.maximum(linear**2 - 8 * n * constant, 0.0))
    safe = np.where(linear + root > 0, linear + root, 1.0)
    share = np.where(linear > 0, -2 * constant / safe, (root - linear) / (4 * n))
    share = np.maximum(share, max(0.0, -difference))
    flips = 2 * share + difference
    third = difference * (1 - 3 * flips + 2 * difference**2)
    return np.maximum(flips - difference**2, 0.0), third


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    """Cases drawn from a population: so many rose and fell among ``n``."""

    risen: int
    fallen: int
    n: int
    population: int

    def high(self, risk: float) -> float:
        """Return the largest rise less fall, as a share of the population, that is not rejected."""
        import numpy as np  # noqa: PLC0415 - see above
        from scipy import special  # noqa: PLC0415 - see above

        seen = self.risen - self.fallen
        flips, steady = self.risen + self.fallen, self.n - self.risen - self.fallen
        spent = risk * _NUISANCE_RISK
        fewest = self.population - _most(steady, self.n, self.population, spent / 2)
        most = _most(flips, self.n, self.population, spent / 2)
        factorials = special.gammaln(np.arange(self.population + 1) + 1.0)

        def rejected(rise: int) -> bool:
            least = max(self.fallen, self.risen - rise, -((rise - fewest) // 2))
            greatest = (most - rise) // 2
            return all(
                self._tail(rise, falls, factorials) <= risk - spent
                for falls in _spaced(least, greatest)
            )

        estimate = math.floor(self.population * seen / self.n)
        beyond = range(estimate + 1, seen + self.population - self.n + 1)
        first = bisect_left(beyond, 1, key=rejected)
        kept = [rise for rise in beyond[first : first + _FURTHER] if not rejected(rise)]
        largest = max(kept, default=estimate + first)
        return max(seen / self.n, largest / self.population)

    def _tail(self, rise: int, falls: int, factorials: NDArray[Any]) -> float:
        """Return how probable a score like the one seen, or a lower one, is in one population."""
        import numpy as np  # noqa: PLC0415 - see above

        rises = falls + rise
        up, down = self._window(rises)[:, None], self._window(falls)[None, :]
        rest, left = self.n - up - down, self.population - rises - falls
        possible = (rest >= 0) & (rest <= left)
        rest = np.where(possible, rest, 0)

        def ways(of: int, some: NDArray[Any]) -> NDArray[Any]:
            found: NDArray[Any] = factorials[of] - factorials[some] - factorials[of - some]
            return found

        logarithm = ways(rises, up) + ways(falls, down) + ways(left, rest)
        logarithm = logarithm - ways(self.population, np.array(self.n))
        seen = self._score(np.array(self.risen), np.array(self.fallen), rise)
        extreme = self._score(up, down, rise) >= seen - _TIE
        return float(np.exp(logarithm[possible & extreme]).sum())

    def _window(self, number: int) -> NDArray[Any]:
        """Return how many of a number in the population may have been drawn, for all that counts."""
        import numpy as np  # noqa: PLC0415 - see above

        share = number / self.population
        mean = self.n * share
        reach = _REACH * (1 + math.sqrt(mean * (1 - share) * (1 - self.n / self.population)))
        low = max(0, self.n + number - self.population, math.floor(mean - reach))
        return np.arange(low, min(self.n, number, math.ceil(mean + reach)) + 1)

    def _score(self, up: NDArray[Any], down: NDArray[Any], rise: int) -> NDArray[Any]:
        """Return how far outcomes are below that rise less fall, in standard deviations."""
        import numpy as np  # noqa: PLC0415 - see above

        difference = rise / self.population
        variance, _ = _moments(up, down, self.n, difference)
        distance = self.n * difference - (up - down)
        certain = variance <= 0
        score = distance / np.sqrt(np.where(certain, 1.0, self.n * variance))
        # Where the difference leaves no doubt, any distance from it is beyond all others.
        beyond = certain & (np.abs(distance) > _TIE)
        found: NDArray[Any] = np.where(beyond, np.copysign(np.inf, distance), score)
        return found


def _spaced(least: int, greatest: int) -> list[int]:
    """Return whole numbers from least to greatest, all of them or as many as are examined."""
    if greatest - least < _NUISANCES:
        return list(range(least, greatest + 1))
    span = greatest - least
    return [least + span * step // (_NUISANCES - 1) for step in range(_NUISANCES)]
