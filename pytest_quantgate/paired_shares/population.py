"""Bounds of shares of a population of which cases were drawn at random, without replacement."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_quantgate.paired_shares.scores import moments

if TYPE_CHECKING:
    from numpy.typing import NDArray

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


def most(successes: int, trials: int, population: int, risk: float) -> int:
    """Return the largest number in the population under which so few are likelier than the risk."""
    from scipy import stats as distributions  # noqa: PLC0415 - see above

    possible = range(successes, population - (trials - successes) + 1)

    def rejected(number: int) -> bool:
        tail = distributions.hypergeom.cdf(successes, population, number, trials)
        return bool(tail <= risk)

    return possible[bisect_left(possible, 1, key=rejected) - 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Cases drawn from a population: so many rose and fell among ``n``."""

    risen: int
    fallen: int
    n: int
    population: int

    def swapped(self) -> Drawn:
        """Return the same cases with rises and falls in each other's place."""
        return Drawn(risen=self.fallen, fallen=self.risen, n=self.n, population=self.population)

    def high(self, risk: float) -> float:
        """Return the largest rise less fall, as a share of the population, that is not rejected."""
        import numpy as np  # noqa: PLC0415 - see above
        from scipy import special  # noqa: PLC0415 - see above

        seen = self.risen - self.fallen
        flips, steady = self.risen + self.fallen, self.n - self.risen - self.fallen
        spent = risk * _NUISANCE_RISK
        fewest = self.population - most(steady, self.n, self.population, spent / 2)
        most_flips = most(flips, self.n, self.population, spent / 2)
        factorials = special.gammaln(np.arange(self.population + 1) + 1.0)

        def rejected(rise: int) -> bool:
            least = max(self.fallen, self.risen - rise, -((rise - fewest) // 2))
            greatest = (most_flips - rise) // 2
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
        variance, _ = moments(up, down, self.n, difference)
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
