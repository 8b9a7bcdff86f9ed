"""Options that several commands of `quantgate` have, and the line that shows how far they are."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_quantgate.records import Progress

Threads = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Compute threads of each probe")
]
Timeout = Annotated[
    float | None, typer.Option(min=0, metavar="SECONDS", help="Longest time of one measurement")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist")]


@contextmanager
def progress_line() -> Iterator[Callable[[Progress], None] | None]:
    """Give a callback that draws what a probe reports on standard error, or None without a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console  # noqa: PLC0415 - quick start
    from rich.progress import (  # noqa: PLC0415 - quick start
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars  # noqa: PLC0415 - quick start

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("starting", total=None, unit="")

        def show(progress: Progress) -> None:
            bars.update(
                task,
                description=progress.step,
                completed=progress.done,
                total=progress.total,
                unit=progress.unit,
            )

        yield show
