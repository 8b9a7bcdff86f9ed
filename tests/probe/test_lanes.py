"""Lanes over the counting model: how texts share beginnings, memory and batches."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from counting import CountingBackend, CountingSession
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_quantgate.probe.lanes import MOST_CELLS, MOST_SPARE, Line, decode_together
from pytest_quantgate.records import EngineSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def decode(
    *texts: tuple[str, int], together: int = 8, batch: int = 64
) -> tuple[list[str], CountingSession]:
    """Continue texts by so many tokens each; return the continuations and the session."""
    backend = CountingBackend()
    backend.load(Path("good.gguf"), EngineSettings(threads=1, batch=batch))
    lines = [
        Line(tokens=np.array(list(text.encode()), dtype=np.int32), room=len(text) + count)
        for text, count in texts
    ]
    wanted = {id(line): count for line, (_, count) in zip(lines, texts, strict=True)}

    def choose(ready: Sequence[Line], logits: NDArray[np.float32]) -> list[bool]:
        for line, row in zip(ready, logits, strict=True):
            line.generated.append(int(row.argmax()))
        return [len(line.generated) == wanted[id(line)] for line in ready]

    decode_together(backend, lines, together=together, choose=choose)
    (session,) = backend.sessions
    assert session.closed
    return [bytes(line.generated).decode("latin-1") for line in lines], session


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "x" * 20, "x" * 20 + "y" * 15, "z" * 12]), st.integers(1, 9)
        ),
        min_size=1,
        max_size=40,
    ),
    st.sampled_from([1, 2, 3, 6, 40]),
    st.sampled_from([8, 32, 256]),
)
def test_every_text_is_continued_as_if_alone(
    shapes: list[tuple[str, int]], together: int, batch: int
) -> None:
    """Whatever beginnings are shared and lanes are moved, each text gets its own continuation."""
    texts = [
        (f"{beginning}{chr(65 + place)}", count) for place, (beginning, count) in enumerate(shapes)
    ]
    found, session = decode(*texts, together=together, batch=batch)

    assert [
        "".join(chr(66 + place + step) for step in range(count))
        for place, (_, count) in enumerate(shapes)
    ] == found
    assert max(session.batches) <= max(batch, session.shape.sequences)


def test_many_prompts_are_fed_in_equal_strides() -> None:
    """Where many texts are in work, prompts are fed in multiples of 8 tokens and the rest one by one."""
    texts = [(chr(40 + place) * (5 + place), 3) for place in range(24)]
    found, session = decode(*texts, together=24, batch=512)

    assert ["".join(chr(41 + place + step) for step in range(3)) for place in range(24)] == found
    assert sum((5 + place) // 8 * 8 or 1 for place in range(24)) == session.batches[0]

    _, session = decode(*texts[:23], together=24, batch=512)
    assert sum(5 + place for place in range(23)) == session.batches[0]


def test_more_beginnings_than_spare_lanes() -> None:
    """Beginnings take turns in the few spare lanes; each one is decoded once all the same."""
    count = MOST_SPARE + 4
    texts = [(f"{chr(65 + number) * 40}{end}", 1) for number in range(count) for end in ("!", "$")]
    found, session = decode(*texts, together=6, batch=512)

    assert ['"', "%"] * count == found
    assert count * 40 + 2 * count == sum(session.batches)
    assert 2 * count == len(session.copies)


def test_lanes_close_up_where_that_pays() -> None:
    """When nothing waits, the last text moves into a lane freed before it, if it has long to go on."""
    _, session = decode(("a", 1), ("b", 40), ("c", 40))
    assert [(2, 0)] == session.copies

    _, session = decode(("a", 1), ("b", 4), ("c", 4))
    assert not session.copies


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_memory_bounds_what_is_kept_beside_the_texts(extra: int) -> None:
    """Spare lanes count as texts do, and very long texts still have one lane and a spare one."""
    room = MOST_CELLS // 4 + extra
    texts = [("x" * 100 + end, room - 101) for end in "abcdefgh"]
    backend = CountingBackend()
    lines = [
        Line(tokens=np.array(list(text.encode()), dtype=np.int32), room=room) for text, _ in texts
    ]
    decode_together(backend, lines, together=8, choose=lambda ready, _logits: [True] * len(ready))
    (session,) = backend.sessions

    assert (4 if extra <= 0 else 3) == session.shape.sequences
    assert room == session.shape.tokens
