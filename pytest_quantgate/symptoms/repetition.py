"""How much a text repeats itself: loops, repeated sequences, and how well it can be compressed."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

SEQUENCE = 4
"""Words and signs of a sequence whose second occurrence counts as a repetition."""

LOOP_ROUNDS = 3
"""How often at least the same words follow each other in a loop."""

LOOP_PIECES = 8
"""The fewest words and signs that a loop repeats: "no, no, no" is emphasis."""

LONGEST_PERIOD = 256
"""Words and signs of the longest part that is looked for again directly behind itself."""

# Scripts without blanks between words: each character is a piece of its own.
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
_PIECE = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+|[^\w\s]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The longest stretch of a text that says again what stands directly before it.

    ``repeated`` is its length, ``period`` the length of the part that it says again, both in words and
    signs; 0 where nothing is repeated. That part stands for the first time from character
    ``first_starts`` to ``first_ends``.
    """

    repeated: int
    period: int
    first_starts: int
    first_ends: int

    @property
    def is_loop(self) -> bool:
        """Whether the part comes three times or more, in at least eight words and signs again."""
        return self.repeated >= max(LOOP_PIECES, (LOOP_ROUNDS - 1) * self.period)


def pieces(text: str) -> list[str]:
    """Return words and signs of a text in lower case, without blanks."""
    return [match.group().lower() for match in _PIECE.finditer(text)]


def longest_run(text: str) -> Run:
    """Return the longest run of a text; of equally long ones that with the shortest period.

    A run of length r and period p is a stretch of r words and signs each of which equals the one p
    places before it. Takes time in proportion to words times `LONGEST_PERIOD`.
    """
    matches = list(_PIECE.finditer(text))
    found = [match.group().lower() for match in matches]
    length_of_best, period_of_best, start_of_best = 0, 0, 0
    for period in range(1, min(LONGEST_PERIOD, len(found) // 2) + 1):
        length = 0
        for place, (now, before) in enumerate(zip(found[period:], found, strict=False)):
            length = length + 1 if now == before else 0
            if length > length_of_best:
                length_of_best, period_of_best = length, period
                start_of_best = place - length + 1
    if not length_of_best:
        return Run(repeated=0, period=0, first_starts=0, first_ends=0)
    return Run(
        repeated=length_of_best,
        period=period_of_best,
        first_starts=matches[start_of_best].start(),
        first_ends=matches[start_of_best + period_of_best - 1].end(),
    )


def repeated_share(text: str) -> float:
    """Return which share of a text's sequences of four words and signs were there before.

    One less the share of distinct sequences: the measure seq-rep-4 of Welleck et al., "Neural text
    generation with unlikelihood training", 2019, on words instead of tokens, so that it does not
    depend on a tokenizer. 0 for texts shorter than a sequence.
    """
    found = pieces(text)
    starts = range(len(found) - SEQUENCE + 1)
    if not starts:
        return 0.0
    distinct = {tuple(found[start : start + SEQUENCE]) for start in starts}
    return 1 - len(distinct) / len(starts)


def compression_ratio(text: str) -> float:
    """Return how many times shorter deflate makes the text's UTF-8 bytes; 1 for an empty text.

    Python's `zlib` at its strongest level, without header and checksum, which would weigh on short
    texts. Grows with the length of a text, so only texts of like length compare.
    """
    data = text.encode("utf-8")
    if not data:
        return 1.0
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return len(data) / len(packer.compress(data) + packer.flush())
