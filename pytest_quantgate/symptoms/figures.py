"""What is measured of a sign, held against its limit: shares of cases, and means over texts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from pytest_quantgate.answers.held import HeldLimit
from pytest_quantgate.answers.tally import Certainty, Tally, Total
from pytest_quantgate.errors import MeasurementError
from pytest_quantgate.limits import Draw, SampledLimit, unchanged
from pytest_quantgate.records import Check, Outcome
from pytest_quantgate.sampling import FIRST_LOOK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_quantgate.records import AnsweredCase

ENDLESS = 1_000_000_000
"""Texts that there could be, of which those read are a sample: as good as endlessly many."""

_SLACK = 1e-9
"""Shares are quotients and rounded as such."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A check, and what to say of it where it is undecided."""

    check: Check
    undecided: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How sure bounds must be, and the name of the baseline for messages."""

    pass_confidence: float
    fail_confidence: float
    baseline_name: str

    def share(
        self,
        cases: Sequence[AnsweredCase],
        *,
        name: str,
        limit: float,
        statistic: str,
        cases_are: Literal["sample", "all"] = "sample",
    ) -> Figure:
        """Hold the drop of the share of right answers against a limit.

        Bounds are those of paired shares (`paired_shares.drop_interval`).

        Raises:
            MeasurementError: the baseline is right so seldom that no drop can go beyond the limit.
        """
        tally, total = Tally.of(cases), Total.of([case.weight for case in cases])
        if tally.baseline_share() <= limit + _SLACK:
            message = (
                f"only {tally.baseline_share():.0%} of {len(cases)} outputs of {self.baseline_name} are"
                f" right, so a drop beyond {name} {limit * 100:g}pp could never be seen; choose prompts"
                " and cases that it can answer, or a smaller limit"
            )
            raise MeasurementError(message)
        sure = Certainty(
            looks=1, pass_confidence=self.pass_confidence, fail_confidence=self.fail_confidence
        )
        held = HeldLimit(kind="max_drop", limit=limit, tag=None, cases_are=cases_are, literal=None)
        check = replace(
            held.check(tally, total, sure, statistic=statistic, sample=f"{len(cases)} cases"),
            limit_name=name,
            statistic=statistic,
        )
        if check.outcome is not Outcome.INCONCLUSIVE:
            return Figure(check=check)
        needed = held.needed(tally, total, sure)
        return Figure(check=check, undecided=_undecided(name, len(cases), needed, what="cases"))

    def ill_share(
        self, cases: Sequence[AnsweredCase], *, name: str, limit: float, statistic: str
    ) -> Figure:
        """Hold the increase of the share of ill texts against a limit; those right are the sound ones.

        Raises:
            MeasurementError: the baseline's texts are ill so often that no increase can go beyond it.
        """
        found = self.share(cases, name=name, limit=limit, statistic=statistic)
        sound = found.check.baseline
        check = replace(
            found.check,
            baseline=None if sound is None else 1 - sound,
            sample=f"{len(cases)} texts",
        )
        return replace(found, check=check, undecided=found.undecided.replace("cases", "texts"))

    def mean(
        self,
        pairs: Sequence[tuple[float, float]],
        *,
        name: str,
        limit: float,
        statistic: str,
        unit: str = "",
    ) -> Figure:
        """Hold the mean increase of (candidate, baseline) pairs, one a text, against a limit.

        Bounds are Student's t with room for skewness (`stats.look_interval`). Texts without any
        difference prove little: their variance is taken for what it is where one of them had changed by
        1. With the unit "pp", values are shares and shown in points.

        Raises:
            MeasurementError: fewer texts than any mean is judged on.
        """
        if len(pairs) < FIRST_LOOK:
            message = (
                f"{name} is decided on {FIRST_LOOK} texts at least, and {len(pairs)} can be read; give"
                " more `prompts`, such that call for an answer of some sentences"
            )
            raise MeasurementError(message)
        points = unit == "pp"
        held = SampledLimit(
            name=name,
            statistic=statistic,
            limit=limit * 100 if points else limit,
            bound=limit,
            values=tuple(own - base for own, base in pairs),
            shown=_in_points if points else unchanged,
            unit=unit,
            baseline=sum(base for _, base in pairs) / len(pairs),
            variance_floor=1 / len(pairs),
        )
        draw = Draw(
            population=ENDLESS,
            looks=1,
            pass_confidence=self.pass_confidence,
            fail_confidence=self.fail_confidence,
        )
        check = held.check(draw, sample=f"{len(pairs)} texts")
        if check.outcome is not Outcome.INCONCLUSIVE:
            return Figure(check=check)
        needed = held.needed(draw)
        reachable = None if needed >= ENDLESS else needed
        return Figure(check=check, undecided=_undecided(name, len(pairs), reachable, what="texts"))


def _in_points(share: float) -> float:
    return share * 100


def _undecided(name: str, count: int, needed: int | None, *, what: str) -> str:
    if needed is None:
        more = f"as they stand, no number of {what} within reach would decide it"
    else:
        more = f"about {needed} {what} of the kind would decide it"
    return f"{name} is undecided at {count} {what}: {more}; give more of them, or widen the limit"
