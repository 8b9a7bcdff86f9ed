"""Answered cases counted, and the bounds that follow from them for the cases that they stand for.

A case counts with its weight. One that is answered several times is right by the share of its right
answers; it stays one case, for its repeats are answers to the same question. Such a part of a case is
counted as if that part of it had been all right and the rest all wrong: of all answers with that mean
these vary most, so the bounds are wider than they had to be, never narrower.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pytest_quantgate import paired_shares
from pytest_quantgate.paired_shares import PairedCounts
from pytest_quantgate.records import Interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_quantgate.records import AnsweredCase

Kind = Literal["min", "max_drop", "max_flips"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Certainty:
    """How sure the bounds must be, at all of ``looks`` looks together."""

    looks: int
    pass_confidence: float
    fail_confidence: float

    @staticmethod
    def certain() -> Certainty:
        """Return that of bounds that leave no doubt."""
        return Certainty(looks=1, pass_confidence=1.0, fail_confidence=1.0)

    @staticmethod
    def exact(low: float, high: float) -> Interval:
        """Return bounds that leave no doubt."""
        return Interval(low=low, high=high, confidence=1.0, fail_confidence=1.0)

    def each_look(self, confidence: float) -> float:
        """Return how sure a bound must be at one look (Bonferroni)."""
        return 1 - (1 - confidence) / self.looks


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """The cases that there are to ask: how many, what they weigh together, and whether all alike."""

    cases: int
    weight: float
    alike: bool

    @classmethod
    def of(cls, weights: Sequence[float]) -> Total:
        """Count what is to be asked by its weights."""
        return cls(cases=len(weights), weight=math.fsum(weights), alike=len(set(weights)) <= 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Counted answers: of ``cases`` cases, which together weigh ``weight``.

    ``right``, ``lost``, ``gained`` and ``kept`` are weights: of what the candidate answers right, of
    what only the baseline does, only the candidate, and both. Without a baseline the last three are 0.
    ``effective`` is the number of cases of equal weight that would tell as much: (sum w)^2 / sum w^2
    (Kish, Survey Sampling, 1965, section 11.7). ``alike`` says that all weights are equal, ``whole``
    that each answer is right or wrong besides.
    """

    cases: int
    weight: float
    right: float
    lost: float
    gained: float
    kept: float
    effective: float
    alike: bool
    whole: bool
    paired: bool

    @classmethod
    def of(cls, cases: Sequence[AnsweredCase]) -> Tally:
        """Count answered cases; there may be none."""
        rows = [
            (case.weight, case.candidate.right, case.baseline.right if case.baseline else None)
            for case in cases
        ]
        weight = math.fsum(row[0] for row in rows)
        squares = math.fsum(row[0] ** 2 for row in rows)
        pairs = [(weight, own, base) for weight, own, base in rows if base is not None]
        alike = len({row[0] for row in rows}) <= 1
        return cls(
            cases=len(rows),
            weight=weight,
            right=math.fsum(weight * own for weight, own, _ in rows),
            lost=math.fsum(weight * max(0.0, base - own) for weight, own, base in pairs),
            gained=math.fsum(weight * max(0.0, own - base) for weight, own, base in pairs),
            kept=math.fsum(weight * min(own, base) for weight, own, base in pairs),
            effective=weight**2 / squares if squares else 0.0,
            alike=alike,
            whole=alike and all(own in {0, 1} and base in {0, 1, None} for _, own, base in rows),
            paired=bool(rows) and len(pairs) == len(rows),
        )

    def share(self) -> float:
        """Return the candidate's share of right answers."""
        return self.right / self.weight

    def baseline_share(self) -> float:
        """Return the baseline's share of right answers."""
        return (self.kept + self.lost) / self.weight

    def counts(self, factor: float = 1.0) -> PairedCounts:
        """Return the pairs as effective numbers of cases, of ``factor`` times as many."""
        scale = factor * self.effective / self.weight
        right, lost, gained = (scale * each for each in (self.kept, self.lost, self.gained))
        wrong = max(0.0, factor * self.effective - right - lost - gained)
        cells = (right, lost, gained, wrong)
        if self.whole and factor == 1:
            # Numbers of cases, up to how weights are rounded; the exact bounds take no others.
            cells = (round(right), round(lost), round(gained), round(wrong))
        return PairedCounts(
            both_right=cells[0],
            baseline_only=cells[1],
            candidate_only=cells[2],
            both_wrong=cells[3],
        )

    def value(self, kind: Kind, literal: float | None) -> float:
        """Return what a limit of this kind is on, on the cases counted."""
        if kind == "min":
            return self.share()
        if kind == "max_flips":
            return (self.lost + self.gained) / self.weight
        if literal is not None:
            return literal - self.share()
        return (self.lost - self.gained) / self.weight

    def sample_interval(
        self, kind: Kind, literal: float | None, sure: Certainty, *, factor: float = 1.0
    ) -> Interval:
        """Return the bounds for all cases of the kind, of which these are a sample.

        ``factor`` is for what as many times the cases would tell if they were answered alike.
        """
        if kind == "max_flips" or (kind == "max_drop" and literal is None):
            return _paired(kind, self.counts(factor), sure, population=None)
        trials = factor * self.effective
        right = self.share() * trials
        # Wilson's bound lets pass. Near 1 its other end fails seven times as often as it may, so what
        # fails is the exact bound.
        low = paired_shares.wilson_lower(
            right, trials, confidence=sure.each_look(sure.pass_confidence)
        )
        wrong = paired_shares.share_interval(
            max(0.0, trials - right),
            trials,
            looks=sure.looks,
            pass_confidence=sure.pass_confidence,
            fail_confidence=sure.fail_confidence,
        )
        return _read(kind, literal, low, 1 - wrong.low, sure)

    def population_interval(
        self, kind: Kind, literal: float | None, sure: Certainty, total: Total
    ) -> Interval:
        """Return the bounds for all the cases there are, of which these were drawn by a seed.

        With weights, or with parts of cases, they are what is certain whatever the others turn out to
        be; without, they are the bounds of draws from a population.
        """
        if self.cases == total.cases:
            value = self.value(kind, literal)
            return sure.exact(value, value)
        if not (self.whole and total.alike):
            return self._certain(kind, literal, sure, total)
        if kind == "max_flips" or (kind == "max_drop" and literal is None):
            return _paired(kind, self.counts(), sure, population=total.cases)
        wrong = paired_shares.share_interval(
            round(self.cases - self.right / self.weight * self.cases),
            self.cases,
            population=total.cases,
            looks=sure.looks,
            pass_confidence=sure.pass_confidence,
            fail_confidence=sure.fail_confidence,
        )
        return _read(kind, literal, 1 - wrong.high, 1 - wrong.low, sure)

    def _certain(
        self, kind: Kind, literal: float | None, sure: Certainty, total: Total
    ) -> Interval:
        rest = (total.weight - self.weight) / total.weight
        if kind == "min" or (kind == "max_drop" and literal is not None):
            least = self.right / total.weight
            return _read(kind, literal, least, least + rest, sure.certain())
        if kind == "max_flips":
            flipped = (self.lost + self.gained) / total.weight
            return sure.exact(flipped, flipped + rest)
        dropped = (self.lost - self.gained) / total.weight
        return sure.exact(dropped - rest, dropped + rest)


def _paired(
    kind: Kind, counts: PairedCounts, sure: Certainty, *, population: int | None
) -> Interval:
    bounds = paired_shares.flips_interval if kind == "max_flips" else paired_shares.drop_interval
    return bounds(
        counts,
        population=population,
        looks=sure.looks,
        pass_confidence=sure.pass_confidence,
        fail_confidence=sure.fail_confidence,
    )


def _read(kind: Kind, literal: float | None, low: float, high: float, sure: Certainty) -> Interval:
    """Return the bounds of a share as those of what a limit is on: itself, or the drop to it."""
    if kind == "max_drop" and literal is not None:
        low, high = literal - high, literal - low
    return Interval(
        low=low,
        high=high,
        confidence=sure.pass_confidence,
        fail_confidence=sure.fail_confidence,
    )
