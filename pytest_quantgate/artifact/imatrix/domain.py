"""Whether two texts are of one domain, told by the words they use.

A text is cut into four parts. How far apart two parts are is the Jensen-Shannon divergence of their
word counts (Lin 1991, "Divergence measures based on the Shannon entropy"), in bits: 0 for the same
frequencies, 1 for no word in common. Short parts are far apart even within one text, so what counts is
the ratio of the mean distance between parts of different texts to that between parts of the same one.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.errors import ArtifactError

if TYPE_CHECKING:
    from numpy.typing import NDArray

PARTS = 4
"""Into how many parts each text is cut."""

FEWEST_WORDS = 2000
"""Words and marks a text needs to be compared; parts of fewer have hardly a word twice."""

MOST_WORDS = 60_000
"""Words and marks that are looked at, spread over the text."""

THRESHOLD = 1.3
"""The ratio from which on two texts are of different domains; the guide has the measurements."""

_WORD = re.compile(r"\w+|[^\w\s]")
_SHOWN = 5
_TELLING = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainDifference:
    """How far two texts are apart.

    ``between`` is the mean distance of parts of different texts and ``within`` that of parts of the
    same text, in bits. ``words`` were looked at in each text. ``more_in_first`` and ``more_in_second``
    are the words that set them apart most.
    """

    between: float
    within: float
    words: int
    more_in_first: tuple[str, ...]
    more_in_second: tuple[str, ...]

    @property
    def ratio(self) -> float:
        """The distance between the texts over that within them; 1 for texts of one domain."""
        return self.between / self.within if self.within else float("inf" if self.between else 1)

    @property
    def differs(self) -> bool:
        """Whether the texts are of different domains."""
        return self.ratio >= THRESHOLD


def domain_difference(first: str, second: str) -> DomainDifference:
    """Compare the words of two texts, as many of each as the shorter one has.

    Raises:
        ArtifactError: when one of them has too few words to tell.
    """
    texts = [[word.lower() for word in _WORD.findall(text)] for text in (first, second)]
    shortest = min(map(len, texts))
    if shortest < FEWEST_WORDS:
        message = (
            f"texts of {len(texts[0]):,} and {len(texts[1]):,} words cannot be compared: each needs "
            f"{FEWEST_WORDS:,}"
        )
        raise ArtifactError(message)
    size = min(shortest, MOST_WORDS) // PARTS
    parts = [
        [Counter(words[start : start + size]) for start in _starts(len(words))] for words in texts
    ]
    vocabulary = {
        word: index
        for index, word in enumerate(dict.fromkeys(itertools.chain(*parts[0], *parts[1])))
    }
    shares = [np.array([_shares(part, vocabulary, size) for part in side]) for side in parts]
    between = [_divergence(one, other) for one in shares[0] for other in shares[1]]
    within = [
        _divergence(one, other) for side in shares for one, other in itertools.combinations(side, 2)
    ]
    lead = shares[0].mean(axis=0) - shares[1].mean(axis=0)
    names = np.array(list(vocabulary), dtype=object)
    return DomainDifference(
        between=float(np.mean(between)),
        within=float(np.mean(within)),
        words=size * PARTS,
        more_in_first=_leaders(names[np.argsort(-lead, kind="stable")]),
        more_in_second=_leaders(names[np.argsort(lead, kind="stable")]),
    )


def domain_warning(text: str, corpus: str, *, text_name: str, corpus_name: str) -> str | None:
    """Return a sentence for people when a calibration text is not of the corpus's domain, or None.

    Raises:
        ArtifactError: when one of them has too few words to tell.
    """
    found = domain_difference(text, corpus)
    if not found.differs:
        return None
    return (
        f"{text_name} is of another domain than {corpus_name}: their words are {found.ratio:.2f} times "
        f"as far apart as those within each of them ({THRESHOLD} or more is another domain); "
        f"{text_name} has more of {_quoted(found.more_in_first)}, {corpus_name} more of "
        f"{_quoted(found.more_in_second)}: calibrate with text like the one that is judged"
    )


def _quoted(words: tuple[str, ...]) -> str:
    return ", ".join(f"'{word}'" for word in words) or "marks"


def _starts(length: int) -> list[int]:
    return [index * length // PARTS for index in range(PARTS)]


def _shares(part: Counter[str], vocabulary: dict[str, int], size: int) -> NDArray[np.float64]:
    shares = np.zeros(len(vocabulary))
    shares[[vocabulary[word] for word in part]] = list(part.values())
    return shares / size


def _divergence(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the Jensen-Shannon divergence of two distributions, in bits."""
    return _entropy((one + other) / 2) - (_entropy(one) + _entropy(other)) / 2


def _entropy(shares: NDArray[np.float64]) -> float:
    present = shares[shares > 0]
    return float(-(present * np.log2(present)).sum())


def _leaders(words: NDArray[np.object_]) -> tuple[str, ...]:
    """Return the first few that say something: marks and the shortest words are everywhere."""
    telling = (str(word) for word in words if str(word).isalpha() and len(word) >= _TELLING)
    return tuple(itertools.islice(telling, _SHOWN))
