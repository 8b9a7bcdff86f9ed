"""What the settings of every gate that asks cases have in common: its limits, and what the cases are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pytest_quantgate.quantity import Duration, Percentage, Points
from pytest_quantgate.sampling import VerdictSettings

ANSWER_LIMITS = ("min", "max_drop", "max_flips", "slices")
"""The limits of a gate that asks cases, for its ``limit_names``."""


class ShareLimits(BaseModel):
    """Limits on a share of right answers."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    min: float | None = Field(
        default=None, ge=0, le=1, description="Lowest share of right answers accepted"
    )
    max_drop: Points | None = Field(
        default=None,
        description='Largest drop against the baseline, in percentage points, such as "2pp"',
    )
    max_flips: Percentage | None = Field(
        default=None,
        description='Largest share of cases whose answer turns right or wrong, such as "5%"',
    )


class SliceLimits(ShareLimits):
    """Limits on the cases that carry one tag."""

    @model_validator(mode="after")
    def _limits_something(self) -> SliceLimits:
        if self.min is None and self.max_drop is None and self.max_flips is None:
            message = "it has no limit; give one of min, max_drop, max_flips"
            raise ValueError(message)
        return self


class CaseVerdictSettings(VerdictSettings):
    """What the cases of a gate are, and how sure a verdict on them must be."""

    cases_are: Literal["sample", "all"] = Field(
        default="sample",
        description="Whether the cases stand for all of their kind, or are all that matter",
    )


class AnswerLimits(CaseVerdictSettings, ShareLimits):
    """Limits on answers to cases, and how sure a verdict on them must be.

    To be put before `GateSettings` among the bases of a gate's settings.
    """

    slices: dict[str, SliceLimits] | None = Field(
        default=None, min_length=1, description="Limits on the cases of a tag, by tag"
    )
    seed: int = Field(default=0, ge=0, description="Seed of the order in which cases are asked")
    max_cases: int | None = Field(
        default=None,
        ge=1,
        description="Most cases to ask; undecided then, the gate is inconclusive",
    )
    max_time: Duration | None = Field(
        default=None,
        gt=0,
        description='Longest time to ask, such as "5min"; undecided then, the gate is inconclusive',
    )

    def by_slice(self) -> dict[str | None, AnswerLimits | SliceLimits]:
        """Return the limits on all cases, under None, and those on each slice, by its tag."""
        # The rules of a specification try one limit at a time, with a number for each.
        slices = self.slices if isinstance(self.slices, Mapping) else {}
        found: dict[str | None, AnswerLimits | SliceLimits] = {None: self}
        found.update(slices)
        return found

    def compares(self) -> bool:
        """Tell whether a limit compares with the baseline."""
        return any(
            limits.max_drop is not None or limits.max_flips is not None
            for limits in self.by_slice().values()
        )
