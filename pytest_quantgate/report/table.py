"""The closing table of the terminal: every limit with value, uncertainty, baseline and sample."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pytest_quantgate.records import Outcome
from pytest_quantgate.report import figures

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import TextIO

    from rich.console import RenderableType

    from pytest_quantgate.records import Verdict

STYLES = {"PASS": "green", "FAIL": "bold red", "INCONCLUSIVE": "yellow", "ERROR": "bold red"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What became of one planned gate: its verdict, or the first line of why there is none."""

    key: tuple[str, str, str]
    verdict: Verdict | None
    reason: str = ""
    attempts: int = 1


def plain_console(stream: TextIO, *, width: int, color: bool) -> Console:
    """Return a console that writes what it is given, as it is, ``width`` columns wide."""
    return Console(
        file=stream,
        width=width,
        height=25,  # else TERM=dumb would overrule the width
        force_terminal=color,
        color_system="standard" if color else None,
        no_color=not color,
        highlight=False,
        emoji=False,
        markup=False,
        legacy_windows=False,
    )


def render(rows: Sequence[Row], *, unjudged: int, width: int, color: bool) -> str:
    """Return the table with a line of totals below, ``width`` columns wide.

    ``unjudged`` counts planned gates that no verdict was reached for because they never ran.
    """
    stream = io.StringIO()
    console = plain_console(stream, width=width, color=color)
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for name in ("gate", "value", "limit", "baseline", "sample", "verdict"):
        table.add_column(name, overflow="fold", no_wrap=name in ("gate", "verdict"))
    # Names of variants and reasons of errors go across all columns, which no cell of a table can: an
    # empty row keeps the place of each.
    across: list[RenderableType] = []
    group = ("", "")
    for row in rows:
        if row.key[:2] != group:
            group = row.key[:2]
            across.append(Text("::".join(group), style="bold", overflow="fold"))
            table.add_row()
        _add(table, row)
        if row.verdict is None and row.reason:
            across.append(Padding(Text(row.reason, overflow="fold"), (0, 0, 0, 4), expand=False))
            table.add_row()
    with console.capture() as capture:
        console.print(table)
    following = iter(across)
    for line in capture.get().splitlines():
        if line.strip():
            stream.write(f"{line}\n")
        else:
            console.print(next(following))
    console.print(_totals(rows, unjudged))
    if any(row.verdict is not None and row.verdict.stored for row in rows):
        console.print("* stored measurement; --quantgate-remeasure measures anew")
    return stream.getvalue()


def _add(table: Table, row: Row) -> None:
    gate = f"  {row.key[2]}"
    again = "" if row.attempts == 1 else f"\nattempt {row.attempts}"
    if row.verdict is None:
        table.add_row(gate, "not measured", "", "", "", _word("ERROR", again))
        return
    for number, check in enumerate(row.verdict.checks):
        table.add_row(
            gate if number == 0 else "",
            figures.value(check),
            figures.limit(check),
            figures.baseline(check),
            check.sample,
            _word(check.outcome.name, ("*" if row.verdict.stored else "") + again),
        )


def _word(word: str, suffix: str = "") -> Text:
    text = Text(word, style=STYLES[word])
    text.append(suffix, style="default")
    return text


def _totals(rows: Iterable[Row], unjudged: int) -> str:
    counts = Counter(
        "error" if row.verdict is None else _WORDS[row.verdict.outcome] for row in rows
    )
    if unjudged:
        counts["planned but not judged"] = unjudged
    total = sum(counts.values())
    parts = ", ".join(f"{count} {word}" for word, count in counts.items())
    return f"{total} {'gate' if total == 1 else 'gates'}: {parts}"


_WORDS = {
    Outcome.PASS: "passed",
    Outcome.FAIL: "failed",
    Outcome.INCONCLUSIVE: "inconclusive",
}
