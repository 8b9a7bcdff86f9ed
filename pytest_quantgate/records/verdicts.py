"""What is judged: limits held against statistics, before a run and after."""

from __future__ import annotations

import enum
from collections.abc import Mapping  # noqa: TC003 - read at run time to load stored records
from dataclasses import dataclass, field

from pytest_quantgate.records.answers import AnsweredCase  # noqa: TC001 - read at run time to load stored records


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """A place in a specification; line and column count from 1 and are absent for Python mappings."""

    path: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        """Return ``path:line:column`` as far as it is known."""
        return ":".join(
            str(part) for part in (self.path, self.line, self.column) if part is not None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PilotLimit:
    """One limit as a pilot saw it, in the units people read.

    ``low`` and ``high`` are the bounds of ``value``, None where there is none; ``detectable`` is how far
    on the right side of its limit the statistic must be to pass at ``Pilot.effect_at`` chunks four times
    in five, None where that cannot be told; ``needed`` is about how many chunks in all would decide the
    limit as it stands; ``proposed`` is a limit the variant would keep, as a specification has it.
    """

    name: str
    statistic: str
    unit: str
    limit: float
    value: float
    low: float | None
    high: float | None
    detectable: float | None
    needed: int
    proposed: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pilot:
    """What was measured ahead of a gate: ``chunks`` of ``population``, at ``seconds_per_chunk``.

    ``budget`` and ``looks`` are those of the run to come.
    """

    limits: tuple[PilotLimit, ...]
    chunks: int
    population: int
    budget: int
    looks: int
    effect_at: int
    seconds_per_chunk: float


class Outcome(str, enum.Enum):
    """Three ways a judged limit can end; what could not be measured is an error, not an outcome."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Bounds of a value and the confidence they hold with (0.95 for 95%).

    For a two-sided interval ``confidence`` is that of the interval. Where a limit is decided by each
    bound alone, ``confidence`` is that of the bound that lets it pass and ``fail_confidence`` that of
    the bound that fails it.
    """

    low: float
    high: float
    confidence: float
    fail_confidence: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One limit held against one measured statistic.

    ``limit_name`` is the key in the specification (``max_ratio``); ``statistic`` says in words what
    was measured; ``unit`` is empty for plain ratios; ``sample`` says how much was measured ("40
    chunks"). ``text`` replaces the number where the statistic is none (a digest).
    """

    limit_name: str
    statistic: str
    outcome: Outcome
    value: float | None = None
    interval: Interval | None = None
    unit: str = ""
    limit: float | None = None
    baseline: float | None = None
    sample: str = ""
    text: str = ""
    limit_text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one gate decided, with everything a report needs to say so.

    ``key`` is (model, variant, gate); ``headline`` stands alone in a one-line summary; ``findings``
    are listed below it (failing cases, …); ``advice`` is what to try next; ``stored`` tells that no
    probe ran because the store had the numbers; ``record`` holds further plain figures. ``warn`` says
    that an inconclusive outcome is to be a warning instead of a failure. ``cases`` are all that was
    answered, of gates that ask cases.
    """

    spec: str
    key: tuple[str, str, str]
    location: Location
    outcome: Outcome
    headline: str
    checks: tuple[Check, ...]
    findings: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    stored: bool = False
    seconds: float = 0.0
    warn: bool = False
    record: Mapping[str, float | int | str | bool | None] = field(default_factory=dict)
    cases: tuple[AnsweredCase, ...] = ()
