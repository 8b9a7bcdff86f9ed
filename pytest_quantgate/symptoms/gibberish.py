"""Whether a text is text: characters that are none, and words that nobody else uses."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_WORD = re.compile(r"[^\W\d_]{2,}")
_LAYOUT = frozenset("\t\n\r")
# Control characters, surrogates, private use, and what no character is assigned to.
_NO_TEXT = frozenset({"Cc", "Cs", "Co", "Cn"})


def broken_characters(text: str, *, cut: bool = False) -> int:
    """Return how many characters of a text are no text.

    Those are replacement characters, control characters but for line breaks and tabulators, and code
    points that stand for nothing (Unicode categories Cc, Cs, Co, Cn). ``cut`` says that the text was
    ended by its length, so that replacement characters at its very end may be a character cut in two.
    """
    if cut:
        text = text.rstrip(REPLACEMENT)
    return sum(
        character == REPLACEMENT
        or (character not in _LAYOUT and unicodedata.category(character) in _NO_TEXT)
        for character in text
    )


def words(text: str) -> list[str]:
    """Return the words of a text in lower case: two letters or more, without digits."""
    return [match.group().lower() for match in _WORD.finditer(text)]


class KnownWords:
    """The words that a reader of the baseline knows, text by text.

    Words of the baseline's own text on a prompt do not count as known there: so both models are read
    with the same eyes, and a candidate that is as good as the baseline has as many unknown words.
    """

    def __init__(self, corpus: str, *, prompts: Sequence[str], outputs: Sequence[str]) -> None:
        """Know the words of a corpus, of each prompt, and of the baseline's other outputs."""
        self._corpus = frozenset(words(corpus))
        self._prompts = [frozenset(words(prompt)) for prompt in prompts]
        self._outputs = [frozenset(words(output)) for output in outputs]
        self._used = Counter(word for found in self._outputs for word in found)

    def unknown(self, index: int, text: str) -> tuple[str, ...]:
        """Return the distinct words of a text on one of the prompts that are not known, in order."""
        own = self._outputs[index]
        return tuple(
            word
            for word in dict.fromkeys(words(text))
            if word not in self._corpus
            and word not in self._prompts[index]
            and self._used[word] == (word in own)
        )

    def unknown_share(self, index: int, text: str) -> float:
        """Return the share of unknown ones among a text's distinct words; 0 where it has none."""
        distinct = frozenset(words(text))
        return len(self.unknown(index, text)) / len(distinct) if distinct else 0.0


def shown(found: Iterable[Collection[str]], *, most: int) -> tuple[str, ...]:
    """Return the words found in most texts, those of equally many in alphabetical order."""
    counted = Counter(word for each in found for word in each)
    return tuple(sorted(counted, key=lambda word: (-counted[word], word))[:most])
