"""What can go wrong, grouped by who must act.

QuantgateError
 +-- SpecError          the author of the specification: every problem at once, with its place
 +-- ArtifactError      the owner of a model file, corpus or case file
 |    +-- IntegrityError     the file is not what its checksum says, or has none
 |    |    +-- SecurityError       the file must not be loaded here
 |    +-- QuantizationError  a model could not be quantized
 |    +-- ConversionError    a model could not be converted, or the result is not the same model
 +-- ProbeError         the machine or the model: the measurement did not come to an end
 |    +-- ProbeCrashed       the child died of a signal or left early
 |    +-- ProbeTimedOut      the child did not answer before its deadline
 |    +-- ProbeOutOfMemory   the child was killed for memory
 |    +-- ProbeRefused       the child said why it cannot measure
 +-- MeasurementError   a number came back that cannot be judged (NaN, nothing measured, other tokens)
 +-- StoreError         the store of measurements: unreadable, unwritable, locked

`QuantgateWarning` is what a gate says that was told to warn instead of fail.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_quantgate.records import Location


class QuantgateError(Exception):
    """Base of every error this package raises on purpose; its text is meant for the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong with a specification: where, what, and what to do about it."""

    location: Location
    message: str
    excerpt: str = ""

    def __str__(self) -> str:
        """Return ``gates.yaml:12:7: message`` and, below it, the line it is about."""
        head = f"{self.location}: {self.message}"
        return f"{head}\n{self.excerpt}" if self.excerpt else head


class SpecError(QuantgateError):
    """A specification that cannot be used, with all of its problems."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        """Keep the problems in the order of the file."""
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class ArtifactError(QuantgateError):
    """A file that is missing, unreadable, malformed, or of a kind that cannot be used."""


class IntegrityError(ArtifactError):
    """A file whose bytes are not the ones that were vouched for, or that nobody vouched for."""


class SecurityError(IntegrityError):
    """A model file that must not be loaded: unverified, changed meanwhile, or in a forbidden place."""


class QuantizationError(ArtifactError):
    """A model that could not be quantized."""


class ConversionError(ArtifactError):
    """A model that could not be converted, or whose conversion is not the same model."""


class MeasurementError(QuantgateError):
    """A measurement that ended but cannot be judged."""


class StoreError(QuantgateError):
    """The store of measurements cannot be read, written or locked."""


class ProbeError(QuantgateError):
    """A probe that brought no measurement home."""

    def __init__(self, message: str, *, phase: str = "", log: str = "") -> None:
        """Keep the phase the probe was in and the last lines of its native log."""
        self.phase = phase
        self.log = log
        text = message
        if log:
            text += "\nlast lines of the native log:\n" + "\n".join(
                f"  {line}" for line in log.splitlines()
            )
        super().__init__(text)


class ProbeCrashed(ProbeError):
    """The probe died of a signal or left before it answered."""


class ProbeTimedOut(ProbeError):
    """The probe did not answer before its deadline and was killed."""


class ProbeOutOfMemory(ProbeError):
    """The probe was killed for want of memory, or could not allocate."""


class ProbeRefused(ProbeError):
    """The probe is well and says why it cannot do what was asked."""


class QuantgateWarning(UserWarning):
    """A gate that decided nothing and whose specification says `on_inconclusive: warn`."""
