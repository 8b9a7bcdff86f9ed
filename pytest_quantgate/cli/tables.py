"""Tables of at most 80 columns and JSON documents, as commands print them."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table


def table(*columns: str) -> Table:
    """Return an empty table; a name that ends in ``>`` stands for numbers, at the right."""
    from rich.table import Table  # noqa: PLC0415 - quick start

    made = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for place, column in enumerate(columns, start=1):
        numbers = column.endswith(">")
        made.add_column(
            column.rstrip(">"),
            justify="right" if numbers else "left",
            no_wrap=numbers or place < len(columns),
            overflow="fold",
        )
    return made


def print_table(rows: Table) -> None:
    """Print a table, as wide as the terminal, or 80 columns where there is none."""
    from rich.console import Console  # noqa: PLC0415 - quick start

    console = Console(highlight=False, emoji=False, markup=False)
    with console.capture() as captured:
        console.print(rows)
    for line in captured.get().splitlines():
        typer.echo(line.rstrip())


def print_json(document: Mapping[str, object]) -> None:
    """Print one JSON document; records become objects, paths texts, and what is no number null."""
    typer.echo(json.dumps(_plain(document), indent=2, allow_nan=False))


def fields(record: Any) -> dict[str, object]:  # noqa: ANN401 - any dataclass
    """Return the fields of a record by their names."""
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


def _plain(value: object) -> object:
    """Return what JSON can hold for what it cannot: paths, records, numbers that are none."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return _plain(fields(value)) if dataclasses.is_dataclass(value) else value


def bits(value: float) -> str:
    """Return bits per weight as tables show them."""
    return f"{value:.2f}"
