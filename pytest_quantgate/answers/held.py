"""One limit held against counted answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pytest_quantgate import stats
from pytest_quantgate.records import Check, Interval, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_quantgate.answers.settings import AnswerLimits
    from pytest_quantgate.answers.tally import Certainty, Kind, Tally, Total

_SLACK = 1e-9
"""Shares are quotients: without slack 0.92 - 0.9 would be more than 0.02."""

_MOST_NEEDED = 1_000_000
"""Beyond so many cases nobody would ask them."""

_KINDS: tuple[Kind, ...] = ("min", "max_drop", "max_flips")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldLimit:
    """One limit on all cases, or on those of a tag.

    ``literal`` is the baseline's share of right answers where it was written down.
    """

    kind: Kind
    limit: float
    tag: str | None
    cases_are: Literal["sample", "all"]
    literal: float | None

    @property
    def name(self) -> str:
        """The key in the specification, with the tag of a slice behind it."""
        return self.kind if self.tag is None else f"{self.kind} ({self.tag})"

    def interval(self, tally: Tally, total: Total, sure: Certainty) -> Interval:
        """Return the bounds of what the limit is on."""
        if tally.cases == 0:
            low = -1.0 if self.kind == "max_drop" else 0.0
            return Interval(
                low=low,
                high=1.0,
                confidence=sure.pass_confidence,
                fail_confidence=sure.fail_confidence,
            )
        if self.cases_are == "all":
            return tally.population_interval(self.kind, self.literal, sure, total)
        return tally.sample_interval(self.kind, self.literal, sure)

    def outcome(self, tally: Tally, total: Total, sure: Certainty) -> Outcome:
        """Decide the limit."""
        return self._decide(self.interval(tally, total, sure))

    def needed(self, tally: Tally, total: Total, sure: Certainty) -> int | None:
        """Return about how many cases in all would decide it, None where no number of them would.

        Supposes that further cases are answered like those that were.
        """
        if self.cases_are == "all":
            return total.cases
        if tally.cases == 0:
            return None

        def decides(cases: int) -> bool:
            found = tally.sample_interval(self.kind, self.literal, sure, factor=cases / tally.cases)
            return self._decide(found) is not Outcome.INCONCLUSIVE

        few, many = tally.cases, 2 * tally.cases
        while not decides(many):
            few, many = many, 2 * many
            if few > _MOST_NEEDED:
                return None
        while many - few > 1:
            middle = (few + many) // 2
            few, many = (few, middle) if decides(middle) else (middle, many)
        return many

    def check(
        self, tally: Tally, total: Total, sure: Certainty, *, statistic: str, sample: str
    ) -> Check:
        """Return the limit held against the answers."""
        interval = self.interval(tally, total, sure)
        points = self.kind == "max_drop"
        scale = 100 if points else 1
        reference = self.literal
        if tally.paired:
            reference = tally.baseline_share()
        names = {"min": statistic, "max_drop": f"{statistic} drop", "max_flips": "flips"}
        return Check(
            limit_name=self.name,
            statistic=names[self.kind],
            outcome=self._decide(interval),
            value=scale * tally.value(self.kind, self.literal) if tally.cases else None,
            interval=Interval(
                low=scale * interval.low,
                high=scale * interval.high,
                confidence=interval.confidence,
                fail_confidence=interval.fail_confidence,
            ),
            unit="pp" if points else "share",
            limit=scale * self.limit,
            baseline=None if self.kind == "max_flips" else reference,
            sample=sample,
        )

    def _decide(self, interval: Interval) -> Outcome:
        if self.kind == "min":
            return stats.at_least(interval, self.limit - _SLACK)
        return stats.at_most(interval, self.limit + _SLACK)


def held_limits(settings: AnswerLimits, literal: float | None) -> Iterator[HeldLimit]:
    """Yield every limit that is set: those on all cases, then those on each slice."""
    for tag, limits in settings.by_slice().items():
        for kind in _KINDS:
            limit = getattr(limits, kind)
            if limit is not None:
                yield HeldLimit(
                    kind=kind,
                    limit=limit,
                    tag=tag,
                    cases_are=settings.cases_are,
                    literal=literal,
                )
