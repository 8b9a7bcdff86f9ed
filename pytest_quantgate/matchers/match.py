"""What a matcher says about an output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Whether an output is right, and why, as a sentence without its full stop."""

    ok: bool
    reason: str


class Matcher(Protocol):
    """Decides whether an output is what was expected."""

    def matches(self, output: str) -> Match:
        """Judge one output; whatever a model wrote is right or wrong, never an exception."""
        ...


def shown(text: str) -> str:
    """Return a text as a sentence quotes it: on one line, cut where it gets long, printable."""
    cut = text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."
    return cut.encode("unicode_escape").decode() if not cut.isprintable() else cut
