"""A comparison of models for the terminal: figures, sentences, and prompts with their outputs."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pytest_quantgate.report import comparison as shown
from pytest_quantgate.report import comparison_figures as figures
from pytest_quantgate.report.table import plain_console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from pytest_quantgate.report.comparison import ComparedPrompt, Comparison

_MOST_NAME = 20
"""Columns of the longest name beside an output; longer ones go on below."""

_FLIP_STYLES = {"lost": "bold red", "gained": "green"}


def render(comparison: Comparison, *, width: int, color: bool, most: int) -> str:
    """Return a comparison as text ``width`` columns wide, with its first ``most`` prompts in full."""
    stream = io.StringIO()
    console = plain_console(stream, width=width, color=color)
    console.print(Text(shown.visible(shown.headline(comparison)), style="bold"))
    for rows in figures.tables(comparison):
        console.print()
        console.print(_table(rows))
    console.print(Text(f"\n{figures.conditions(comparison)}", style="dim"))
    console.print()
    for sentence in shown.findings(comparison):
        console.print(_bullet(sentence))
    for prompt in comparison.prompts[:most]:
        console.print()
        for part in _prompt(comparison, prompt):
            console.print(part)
    left = len(comparison.prompts) - most
    if left > 0:
        console.print(f"\n{left} more prompts; -o FILE writes all of them, --show N shows more")
    return "".join(f"{line.rstrip()}\n" for line in stream.getvalue().splitlines())


def _table(rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for number, name in enumerate(rows[0]):
        table.add_column(
            name, justify="right" if number else "left", overflow="fold", no_wrap=bool(number)
        )
    for row in rows[1:]:
        table.add_row(*map(shown.visible, row))
    return table


def _bullet(sentence: str) -> RenderableType:
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("-", shown.visible(sentence))
    return grid


def _prompt(comparison: Comparison, prompt: ComparedPrompt) -> list[RenderableType]:
    parts: list[RenderableType] = [
        Text(shown.visible(prompt.id), style="bold"),
        Padding(Text(shown.visible(prompt.question)), (0, 0, 0, 2)),
    ]
    if prompt.expected is not None:
        expected = Text(f"expected: {shown.visible(prompt.expected)}", style="dim")
        parts.append(Padding(expected, (0, 0, 0, 2)))
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(max_width=_MOST_NAME, overflow="fold")
    grid.add_column(overflow="fold")
    for number, (model, reply) in enumerate(zip(comparison.models, prompt.replies, strict=True)):
        name = Text(f"  {shown.visible(model.name)}", style="cyan")
        same = number > 0 and prompt.identical(number)
        if same:
            output = Text("the same", style="dim")
        else:
            common, rest = figures.parted(reply)
            output = Text(shown.visible(common))
            output.append(shown.visible(rest), style="bold" if number else "")
            if not reply.output:
                output = Text("nothing", style="dim")
        grid.add_row(name, output)
        for note in figures.notes(comparison, prompt, number):
            grid.add_row("", Text(shown.visible(note), style=_style(prompt, number)))
    return [*parts, grid]


def _style(prompt: ComparedPrompt, model: int) -> str:
    flip = prompt.flip(model)
    return "dim" if flip is None else _FLIP_STYLES[flip]
