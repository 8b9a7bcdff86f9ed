"""Limits on what was measured on chunks of a text: how each is decided for the whole of it.

Every limit here is brought to one form, "the mean of one value per chunk is at most a bound", because
that is what `stats.look_interval` decides for the whole text from some of its chunks. A limit knows how
to show a number of that scale as the statistic that people know.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_quantgate import stats
from pytest_quantgate.records import Check, Interval, Outcome
from pytest_quantgate.report.figures import LOWER_BOUND

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from pytest_quantgate.sampling import SamplingSettings, Schedule

_HALVINGS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """How a text was drawn from: chunks there are, looks taken, and how sure each bound must be."""

    population: int
    looks: int
    pass_confidence: float
    fail_confidence: float

    @classmethod
    def of(cls, plan: Schedule, settings: SamplingSettings) -> Draw:
        """Return what a schedule and the settings of a gate say."""
        return cls(
            population=plan.population,
            looks=plan.statistical_looks,
            pass_confidence=settings.pass_confidence,
            fail_confidence=settings.fail_confidence,
        )

    def interval(self, values: Sequence[float], *, variance_floor: float = 0.0) -> Interval:
        """Return the bounds of the mean of all chunks from the values of those drawn."""
        return stats.look_interval(
            values,
            population=self.population,
            looks=self.looks,
            pass_confidence=self.pass_confidence,
            fail_confidence=self.fail_confidence,
            variance_floor=variance_floor,
        )


def unchanged(value: float) -> float:
    """Show a number as it is."""
    return value


def negated(value: float) -> float:
    """Show a number whose sign was turned to make "at least" into "at most"."""
    return -value


def exponential(value: float) -> float:
    """Show nats as a perplexity, or a difference of nats as a ratio; infinity where floats end."""
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledLimit:
    """One limit: the mean of ``values``, one for each chunk, is to be at most ``bound``.

    ``limit`` is the same bound as people read it, which is ``shown`` of it; a name that begins with
    ``min`` is a limit from below whose values have their sign turned. ``variance_floor`` is the least
    variance to assume of a value, ``least`` the least value a bound can have. ``lower_bound`` tells that
    the true values can only be higher than these, so that only a failure is proof; ``accepted`` that a
    pass is taken all the same.
    """

    name: str
    statistic: str
    limit: float
    bound: float
    values: tuple[float, ...]
    shown: Callable[[float], float] = unchanged
    unit: str = ""
    baseline: float | None = None
    limit_text: str = ""
    variance_floor: float = 0.0
    least: float = -math.inf
    lower_bound: bool = False
    accepted: bool = False

    @property
    def at_least(self) -> bool:
        """Whether the statistic shown must not be below the limit."""
        return self.name.startswith("min")

    def mean(self) -> float:
        """Return the mean of the values."""
        return math.fsum(self.values) / len(self.values)

    def value(self) -> float:
        """Return the statistic as people read it."""
        return self.shown(self.mean())

    def interval(self, draw: Draw) -> Interval:
        """Return the bounds of the statistic as people read them."""
        found = draw.interval(self.values, variance_floor=self.variance_floor)
        return self._displayed(found)

    def outcome(self, draw: Draw) -> Outcome:
        """Decide by the figures alone, whatever they are worth."""
        decide = stats.at_least if self.at_least else stats.at_most
        return decide(self.interval(draw), self.limit)

    def barred(self, draw: Draw) -> bool:
        """Tell whether it cannot pass, whatever more is measured: its values are lower bounds."""
        return self.lower_bound and not self.accepted and self.outcome(draw) is Outcome.PASS

    def needed(self, draw: Draw) -> int:
        """Return about how many chunks in all would decide it."""
        return stats.chunks_needed(
            self.values,
            limit=self.bound,
            population=draw.population,
            looks=draw.looks,
            pass_confidence=draw.pass_confidence,
            fail_confidence=draw.fail_confidence,
            variance_floor=self.variance_floor,
        )

    def check(self, draw: Draw, *, sample: str) -> Check:
        """Return the limit held against the statistic.

        A lower bound within the limit proves nothing: it passes only where it is accepted.
        """
        interval = self.interval(draw)
        outcome = Outcome.INCONCLUSIVE if self.barred(draw) else self.outcome(draw)
        return Check(
            limit_name=self.name,
            statistic=self.statistic + (LOWER_BOUND if self.lower_bound else ""),
            outcome=outcome,
            value=self.value(),
            interval=interval,
            unit=self.unit,
            limit=self.limit,
            baseline=self.baseline,
            sample=sample,
            limit_text=self.limit_text,
        )

    def _displayed(self, found: Interval) -> Interval:
        low, high = (self.shown(max(self.least, each)) for each in (found.low, found.high))
        return Interval(
            low=min(low, high),
            high=max(low, high),
            confidence=found.confidence,
            fail_confidence=found.fail_confidence,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PercentileLimit(SampledLimit):
    """A limit on a percentile of ``tokens``, of shape (chunks, tokens of a chunk).

    It is kept where at most 1 - ``share`` of the tokens lie above it, so the values are each chunk's
    share of those.
    """

    tokens: NDArray[Any]
    share: float

    @classmethod
    def of(
        cls,
        tokens: NDArray[Any],
        share: float,
        *,
        name: str,
        statistic: str,
        limit: float,
        least: float,
        lower_bound: bool,
        accepted: bool,
    ) -> PercentileLimit:
        """Return the limit, with the values that follow from the tokens."""
        return cls(
            name=name,
            statistic=statistic,
            limit=limit,
            bound=1 - share,
            values=tuple((tokens > limit).mean(axis=1).tolist()),
            variance_floor=share * (1 - share) / tokens.shape[1],
            least=least,
            lower_bound=lower_bound,
            accepted=accepted,
            tokens=tokens,
            share=share,
        )

    def value(self) -> float:
        """Return the percentile of the tokens that were measured, by linear interpolation."""
        import numpy as np  # noqa: PLC0415 - only who has tokens pays for it

        return float(np.quantile(self.tokens, self.share))

    def interval(self, draw: Draw) -> Interval:
        """Return the bounds of the percentile of all tokens of the text."""
        return self._displayed(
            stats.share_quantile_interval(
                self.tokens,
                self.share,
                population=draw.population,
                looks=draw.looks,
                pass_confidence=draw.pass_confidence,
                fail_confidence=draw.fail_confidence,
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MaximumLimit(SampledLimit):
    """A limit on the largest value of all: one above it fails, only all of them pass."""

    def value(self) -> float:
        """Return the largest value that was measured."""
        return max(self.values)

    def interval(self, draw: Draw) -> Interval:
        """Return the bounds of the largest value: what was not measured may be anything."""
        complete = len(self.values) >= draw.population
        return Interval(
            low=self.value(),
            high=self.value() if complete else math.inf,
            confidence=1.0,
            fail_confidence=1.0,
        )

    def needed(self, draw: Draw) -> int:
        """Return all chunks: any of them may hold the largest value."""
        return draw.population


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioLimit(SampledLimit):
    """A limit on sum(``numerators``) / sum(``denominators``), one of each for every chunk.

    The ratio is at most L where the mean of numerator - L * denominator is at most 0, which takes no
    approximation (Fieller, Quarterly Journal of Pharmacy 17, 1944; Cochran, Sampling Techniques, 1977,
    section 6.5): the values are those differences in units of the mean denominator, and the bounds of
    the ratio are the L at which the bounds of that mean are 0.
    """

    numerators: tuple[float, ...]
    denominators: tuple[float, ...]

    @classmethod
    def of(
        cls,
        numerators: Sequence[float],
        denominators: Sequence[float],
        *,
        name: str,
        statistic: str,
        limit: float,
        unit: str = "",
        baseline: float | None = None,
    ) -> RatioLimit:
        """Return the limit, with the values that follow; denominators are above 0."""
        return cls(
            name=name,
            statistic=statistic,
            limit=limit,
            bound=0.0,
            values=_differences(numerators, denominators, limit),
            shown=lambda value: limit + value,
            unit=unit,
            baseline=baseline,
            numerators=tuple(numerators),
            denominators=tuple(denominators),
        )

    def value(self) -> float:
        """Return the ratio of the sums."""
        return math.fsum(self.numerators) / math.fsum(self.denominators)

    def outcome(self, draw: Draw) -> Outcome:
        """Decide by the differences at the limit itself, or by the ratio where all is measured."""
        if len(self.values) >= draw.population:
            return stats.at_most(self.interval(draw), self.limit)
        return stats.at_most(draw.interval(self.values), self.bound)

    def interval(self, draw: Draw) -> Interval:
        """Return the bounds of the ratio, found by halving.

        Where the denominators vary so much that their own mean is in doubt, there may be none.
        """
        at = self.value()
        around = draw.interval(_differences(self.numerators, self.denominators, at))
        if len(self.values) >= draw.population:
            return Interval(
                low=at,
                high=at,
                confidence=around.confidence,
                fail_confidence=around.fail_confidence,
            )
        return Interval(
            low=max(0.0, self._end(at, around.low, lambda r: self._around(draw, r).low > 0)),
            high=self._end(at, around.high, lambda r: self._around(draw, r).high <= 0),
            confidence=around.confidence,
            fail_confidence=around.fail_confidence,
        )

    def _around(self, draw: Draw, ratio: float) -> Interval:
        return draw.interval(_differences(self.numerators, self.denominators, ratio))

    @staticmethod
    def _end(start: float, step: float, clear: Callable[[float], bool]) -> float:
        """Return where it first is clear, going from ``start`` in steps that double, then halving."""
        if step == 0 or math.isinf(step):
            return start + step
        inside, outside = start, start + step
        for _ in range(_HALVINGS):
            if clear(outside):
                break
            inside, outside = outside, start + 2 * (outside - start)
        else:
            return math.copysign(math.inf, step)
        for _ in range(_HALVINGS):
            middle = (inside + outside) / 2
            if clear(middle):
                outside = middle
            else:
                inside = middle
        return outside


def _differences(
    numerators: Sequence[float], denominators: Sequence[float], ratio: float
) -> tuple[float, ...]:
    mean = math.fsum(denominators) / len(denominators)
    pairs = zip(numerators, denominators, strict=True)
    return tuple((above - ratio * below) / mean for above, below in pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """What a gate drew: its limits on ``chunks`` chunks, which took ``seconds`` to measure."""

    limits: tuple[SampledLimit, ...]
    draw: Draw
    chunks: int
    seconds: float


def settled(limits: Sequence[SampledLimit], draw: Draw) -> Outcome:
    """Return the outcome of all limits as far as measuring more could change it.

    A lower bound within its limit is settled: more of it proves no more.
    """
    return stats.worst([limit.outcome(draw) for limit in limits])
