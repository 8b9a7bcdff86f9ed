"""Which chunks of a text are measured, in what order, and when a verdict is looked for.

A verdict may rest on part of a text because the part was drawn at random, by a seed, from all of it:
the bounds of `stats.look_interval` are bounds for the whole text, not for texts in general.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from pytest_quantgate.errors import MeasurementError
from pytest_quantgate.quantity import Duration
from pytest_quantgate.records import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

BLOCK = 16
"""Chunks that are measured and stored together."""

FIRST_LOOK = 16
"""The fewest chunks of a larger text that a verdict may rest on."""


class VerdictSettings(BaseModel):
    """How sure a verdict must be, and what becomes of a gate that reaches none."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    on_inconclusive: Literal["fail", "warn"] = Field(
        default="fail", description="What an undecided gate does: fail, or warn and pass"
    )
    pass_confidence: float = Field(
        default=0.95, gt=0.5, lt=1, description="How sure a pass must be that the limit is kept"
    )
    fail_confidence: float = Field(
        default=0.99,
        gt=0.5,
        lt=1,
        description="How sure a failure must be that the limit is missed",
    )


class TextSettings(BaseModel):
    """The text a gate measures, and how much of it."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    corpus: str | None = Field(
        default=None,
        min_length=1,
        description="Text to measure on: a UTF-8 file or builtin:python-docs",
    )
    context: int | None = Field(default=None, ge=8, description="Window length in tokens")
    chunks: int | None = Field(
        default=None,
        ge=2,
        description="Windows of the text that count, from its start; all by default",
    )
    seed: int = Field(
        default=0, ge=0, description="Seed of the order in which windows are measured"
    )
    max_chunks: int | None = Field(
        default=None,
        ge=FIRST_LOOK,
        description="Most windows to measure; undecided then, the gate is inconclusive",
    )
    max_time: Duration | None = Field(
        default=None,
        gt=0,
        description='Longest time to measure, such as "5min"; undecided then, the gate is inconclusive',
    )


class SamplingSettings(VerdictSettings, TextSettings):
    """The text a gate measures, how much of it, and how sure a verdict must be."""


def order(seed: int, population: int) -> tuple[int, ...]:
    """Return 0 … ``population`` - 1 in the random order of a seed, the same wherever it is asked for.

    Sorted by the SHA-256 of ``seed:number``: a generator's stream may change with its version.
    """
    return tuple(
        sorted(
            range(population), key=lambda each: hashlib.sha256(f"{seed}:{each}".encode()).digest()
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When to look: ``looks`` are numbers of chunks, growing, the last one being the ``budget``.

    ``population`` chunks are what the verdict is about; a budget below it may leave it undecided.
    """

    population: int
    budget: int
    looks: tuple[int, ...]

    @property
    def statistical_looks(self) -> int:
        """Number of looks that share the risk of an error; at all chunks there is none to share.

        An end by time comes in place of the look that would have been next, so it is counted: the
        last look at a part may be one that nobody planned.
        """
        return len(self.looks)

    def next_look(self, taken: int) -> int:
        """Return the number of chunks at which a verdict is looked for next."""
        return next((look for look in self.looks if look > taken), self.budget)


def schedule(
    population: int, *, max_chunks: int | None = None, available: int | None = None
) -> Schedule:
    """Return looks at 16, 32, 64, … chunks up to the whole population or what limits it.

    ``max_chunks`` is the budget of the specification, ``available`` the number of chunks that can be
    served (by a committed baseline, say).

    Raises:
        MeasurementError: no chunk at all, or fewer than the first look of a larger population.
    """
    budget = min(each for each in (population, max_chunks, available) if each is not None)
    if budget < min(FIRST_LOOK, population) or budget < 1:
        message = (
            f"{budget} chunks are there to be measured of a text of {population}: a verdict on the whole"
            f" text takes at least {FIRST_LOOK}; measure the baseline on more of them, or name a text"
            " with more"
        )
        raise MeasurementError(message)
    looks = []
    look = FIRST_LOOK
    while look < budget:
        looks.append(look)
        look *= 2
    return Schedule(population=population, budget=budget, looks=(*looks, budget))


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """How many chunks were measured, and what ended it.

    ``decided`` before all chunks, ``complete`` with all of them, ``max_chunks`` with all that were
    allowed or served, ``max_time`` with those that the time was enough for.
    """

    chunks: int
    ended: Literal["decided", "complete", "max_chunks", "max_time"]


def draw(
    plan: Schedule,
    take: Callable[[int, int], None],
    decide: Callable[[int], Outcome],
    *,
    max_seconds: float | None,
    clock: Callable[[], float] = time.monotonic,
) -> Drawn:
    """Measure block after block until a look decides, or there is nothing left to measure with.

    ``take(start, stop)`` measures positions of the order, ``decide(count)`` judges what was taken so
    far. The time is looked at after each block; when it is over, what is there is judged once more, if
    it is as much as the first look takes.
    """
    started = clock()
    taken = 0
    for look in plan.looks:
        while taken < look:
            stop = min(taken + BLOCK, look)
            take(taken, stop)
            taken = stop
            late = max_seconds is not None and clock() - started >= max_seconds
            if late and taken < look:
                outcome = decide(taken)
                ended: Literal["decided", "max_time"] = (
                    "max_time" if outcome is Outcome.INCONCLUSIVE else "decided"
                )
                return Drawn(chunks=taken, ended=ended)
        outcome = decide(taken)
        if taken == plan.population:
            return Drawn(chunks=taken, ended="complete")
        if outcome is not Outcome.INCONCLUSIVE:
            return Drawn(chunks=taken, ended="decided")
        if taken == plan.budget:
            break
        if late:
            return Drawn(chunks=taken, ended="max_time")
    return Drawn(chunks=taken, ended="max_chunks")
