"""What is told of a measurement while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_quantgate.baseline import Store
from pytest_quantgate.gatherer import Gatherer
from pytest_quantgate.records import EngineSettings, Progress

if TYPE_CHECKING:
    from pathlib import Path


def test_a_block_is_told_by_its_place_in_the_drawing(tmp_path: Path) -> None:
    """Chunk 8 of the block from 16 on is chunk 24 of those of the next look; other units stay."""
    told: list[Progress] = []
    gatherer = Gatherer(
        store=Store(tmp_path),
        settings=EngineSettings(threads=1),
        timeout=1.0,
        on_progress=told.append,
    )
    chunk = Progress(step="likelihood", done=8, total=16, unit="chunk")
    corpus = Progress(step="tokenizing", done=0, total=1, unit="corpus")

    gatherer.report(chunk)
    gatherer.drawing = (16, 32)
    gatherer.report(chunk)
    gatherer.report(corpus)

    assert told == [
        chunk,
        Progress(step="likelihood", done=24, total=32, unit="chunk"),
        corpus,
    ]
