"""What many texts begin with alike: few-shot examples, a system prompt, one prompt asked repeatedly.

Such a beginning is decoded once and copied. A copy is not free, so texts share a beginning only where
that saves more than it costs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedPrefix:
    """``length`` tokens that the texts with these places in a list begin with alike."""

    length: int
    members: tuple[int, ...]


@dataclass(slots=True, kw_only=True)
class _Family:
    """Texts that lie side by side when sorted, from place ``first``, and share ``length`` tokens."""

    length: int
    first: int
    saved: int = 0
    """Tokens saved by the best choice of prefixes within the family."""
    chosen: list[tuple[int, int, int]] = field(default_factory=list)
    """That choice: length, first place, last place."""

    def adopt(self, inner: _Family) -> None:
        """Take in what was found for a smaller family."""
        self.saved += inner.saved
        self.chosen += inner.chosen

    def settle(self, last: int, cost: int) -> None:
        """Share the whole family's prefix if that saves more than longer ones of parts of it."""
        count = last - self.first + 1
        saved = (count - 1) * self.length - count * cost
        if saved > self.saved:
            self.saved, self.chosen = saved, [(self.length, self.first, last)]


def shared_prefixes(texts: Sequence[NDArray[np.int32]], *, cost: int) -> tuple[SharedPrefix, ...]:
    """Choose the prefixes whose sharing saves most; every text is in one of them at most.

    A shared prefix is shorter than each of its texts, so that each has a last token of its own.

    Args:
        texts: Tokens of each text, at least one each.
        cost: What one copy costs, in tokens that could be decoded instead.
    """
    order = sorted(range(len(texts)), key=lambda place: texts[place].tolist())
    # Sorted texts with a common prefix lie side by side, and families are nested: this walks the tree
    # of their intervals from left to right, with the families that are still open on a stack.
    opened = [_Family(length=0, first=0)]
    for place in range(len(order)):
        is_last = place == len(order) - 1
        length = 0 if is_last else _common(texts[order[place]], texts[order[place + 1]])
        first = place
        closed = None
        while opened[-1].length > length:
            family = opened.pop()
            if closed is not None:
                family.adopt(closed)
            family.settle(place, cost)
            first, closed = family.first, family
        if opened[-1].length < length:
            opened.append(_Family(length=length, first=first))
        if closed is not None:
            opened[-1].adopt(closed)
    return tuple(
        SharedPrefix(length=length, members=tuple(order[first : last + 1]))
        for length, first, last in opened[0].chosen
    )


def _common(one: NDArray[np.int32], other: NDArray[np.int32]) -> int:
    """Return how many tokens two texts begin with alike, less than each of them has."""
    most = min(len(one), len(other)) - 1
    different = np.flatnonzero(one[:most] != other[:most])
    return int(different[0]) if different.size else most
