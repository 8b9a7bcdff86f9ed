"""Which beginnings texts share: as long as they can be, and only where that pays."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantgate.probe.prefixes import SharedPrefix, shared_prefixes

TEXTS = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=6), min_size=1, max_size=7)


def shared(*texts: str | list[int], cost: int = 2) -> set[tuple[int, tuple[int, ...]]]:
    """Return lengths and members of the prefixes of texts."""
    arrays = [
        np.array(list(text.encode()) if isinstance(text, str) else text, dtype=np.int32)
        for text in texts
    ]
    return {
        (prefix.length, tuple(sorted(prefix.members)))
        for prefix in shared_prefixes(arrays, cost=cost)
    }


def test_texts_without_a_common_beginning_share_nothing() -> None:
    """Different texts, and a single one, have no prefix."""
    assert not shared("abcdefgh")
    assert not shared("abcdefgh", "bcdefghi", "cdefghij")


@pytest.mark.parametrize(("length", "pays"), [(5, False), (6, False), (7, True)])
def test_a_prefix_must_save_more_than_its_copies_cost(length: int, pays: bool) -> None:  # noqa: FBT001 - parametrized
    """Three texts with prefixes of 6 save 12 tokens, which is what three copies of 4 cost."""
    texts = ["x" * length + end for end in "abc"]

    assert ({(length, (0, 1, 2))} if pays else set()) == shared(*texts, cost=4)


def test_each_text_keeps_a_token_of_its_own() -> None:
    """Of equal texts, and of one that continues another, all but the shorter one's last is shared."""
    assert {(9, (0, 1))} == shared("a" * 10, "a" * 10)
    assert {(9, (0, 1))} == shared("a" * 20, "a" * 10)


def test_longer_prefixes_of_parts_win_where_they_save_more() -> None:
    """A system prompt of all, or two lists of examples of halves: what saves more tokens is chosen."""
    system, one, other = "s" * 10, "o" * 30, "t" * 30
    halves = [f"{system}{block}{end}" for block in (one, other) for end in "abcd"]
    assert {(40, (0, 1, 2, 3)), (40, (4, 5, 6, 7))} == shared(*halves)

    loners = [f"{system}{chr(65 + place) * 9}" for place in range(20)]
    assert {(10, tuple(range(22)))} == shared(*loners, f"{system}zzzzzz1", f"{system}zzzzzz2")


@given(TEXTS, st.integers(0, 3))
def test_no_choice_saves_more(texts: list[list[int]], cost: int) -> None:
    """Prefixes are true ones, members are distinct, and no single family would save more in all."""
    arrays = [np.array(text, dtype=np.int32) for text in texts]
    found = shared_prefixes(arrays, cost=cost)

    members = [member for prefix in found for member in prefix.members]
    assert len(set(members)) == len(members)
    for prefix in found:
        beginnings = {tuple(texts[member][: prefix.length]) for member in prefix.members}
        assert 1 == len(beginnings)
        assert all(prefix.length < len(texts[member]) for member in prefix.members)
        assert _saved(prefix, cost) > 0
    best = sum(_saved(prefix, cost) for prefix in found)
    for count in range(2, len(texts) + 1):
        for family in combinations(range(len(texts)), count):
            length = _common([texts[member] for member in family])
            assert best >= _saved(SharedPrefix(length=length, members=family), cost)


def _saved(prefix: SharedPrefix, cost: int) -> int:
    return (len(prefix.members) - 1) * prefix.length - len(prefix.members) * cost


def _common(texts: list[list[int]]) -> int:
    most = min(map(len, texts)) - 1
    return next((place for place in range(most) if len({text[place] for text in texts}) > 1), most)
