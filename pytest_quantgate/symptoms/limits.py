"""How far each sign of over-quantization may grow, as a specification writes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pytest_quantgate.quantity import Points

if TYPE_CHECKING:
    from typing_extensions import Self


class _Limits(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    @model_validator(mode="after")
    def _has_a_limit(self) -> Self:
        names = [name for name in type(self).model_fields if name.startswith("max_")]
        if all(getattr(self, name) is None for name in names):
            message = f"no limit; give at least one of {', '.join(names)}"
            raise ValueError(message)
        return self


class RepetitionLimits(_Limits):
    """Limits on how much more than the baseline's the variant's texts repeat themselves."""

    max_increase: Points | None = Field(
        default=None,
        description='Most that the share of texts caught in a loop may grow, such as "10pp"',
    )
    max_repeated_increase: Points | None = Field(
        default=None,
        description="Most that the share of repeated sequences of four words may grow",
    )
    max_compression_increase: float | None = Field(
        default=None,
        gt=0,
        description="Most that the mean compression ratio of the texts may grow, such as 0.5",
    )


class GibberishLimits(_Limits):
    """Limits on how much less than the baseline's the variant's texts are text."""

    max_surprise_increase: float | None = Field(
        default=None,
        gt=0,
        description="Most that the baseline's surprise at the texts may grow, in nats per token",
    )
    max_broken_increase: Points | None = Field(
        default=None,
        description="Most that the share of texts may grow that are empty or hold broken characters",
    )
    max_unknown_increase: Points | None = Field(
        default=None, description="Most that the share of unknown words in a text may grow"
    )


class CaseLimits(BaseModel):
    """Limit on the answers to cases."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    max_drop: Points = Field(
        description="Largest drop of the share of right answers against the baseline"
    )
    tags: list[str] | None = Field(
        default=None, min_length=1, description="Tags of the cases that count here"
    )
