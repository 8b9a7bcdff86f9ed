"""Draw what a terminal showed as an SVG picture.

``python docs/terminal_picture.py LOG OUT.svg --title TITLE`` reads the output of a run that wrote to
a terminal, as the ``script`` command records it::

    script -qec "pytest --quantgate gates.yaml -v" demo.log
    python docs/terminal_picture.py demo.log docs/images/demo.svg --title "make demo" \
        --replace "$PWD" /home/you/project

Lines that were rewritten in place, such as progress, are drawn as they were at the end.
"""

# ruff: noqa: INP001 - a script beside the pages, no package

from __future__ import annotations

import argparse
import io
import re
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from rich.console import Console
from rich.text import Text

RESET = "\x1b[0m"
_CONTROL = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\x1b[()][A-Za-z0-9]|\x1b[=>]")
_FONT_FACE = re.compile(r"@font-face \{.*?\}\n?", re.DOTALL)
_CAPTURE_NOTES = re.compile(r"^Script (?:started|done) .*\n?", re.MULTILINE)


@dataclass(slots=True, kw_only=True)
class Screen:
    """A terminal of endless height: cells of (character, style), and a cursor."""

    rows: list[list[tuple[str, str]]] = field(default_factory=lambda: [[]])
    row: int = 0
    column: int = 0
    style: str = ""

    def feed(self, text: str) -> None:
        """Take output in, following the control sequences that pytest and the live line use."""
        position = 0
        for found in _CONTROL.finditer(text):
            self._write(text[position : found.start()])
            self._control(found[1] or "", found[2] or "")
            position = found.end()
        self._write(text[position:])

    def lines(self) -> list[str]:
        """Return the rows with their colours as escape sequences."""
        return [_encoded(row) for row in self.rows]

    def _write(self, text: str) -> None:
        for character in text:
            if character == "\n":
                self.row, self.column = self.row + 1, 0
                if self.row == len(self.rows):
                    self.rows.append([])
            elif character == "\r":
                self.column = 0
            elif character.isprintable():
                row = self.rows[self.row]
                row.extend([(" ", "")] * (self.column + 1 - len(row)))
                row[self.column] = (character, self.style)
                self.column += 1

    def _control(self, numbers: str, name: str) -> None:
        count = int(numbers) if numbers.isdigit() else 1
        if name == "m":
            plain = numbers in ("", "0")
            self.style = "" if plain else f"{self.style}\x1b[{numbers}m"
        elif name == "A":
            self.row = max(0, self.row - count)
        elif name == "C":
            self.column += count
        elif name == "K":
            row = self.rows[self.row]
            del row[0 if numbers == "2" else self.column :]


def _encoded(row: list[tuple[str, str]]) -> str:
    parts: list[str] = []
    style = ""
    for character, own in row:
        if own != style:
            parts.append(RESET + own)
            style = own
        parts.append(character)
    return "".join(parts) + (RESET if style else "")


def picture(log: str, *, title: str, width: int) -> str:
    """Return the SVG of a log."""
    screen = Screen()
    screen.feed(_CAPTURE_NOTES.sub("", log))
    lines = screen.lines()
    while lines and not lines[-1].strip():
        lines.pop()
    console = Console(
        record=True, width=width, file=io.StringIO(), force_terminal=True, legacy_windows=False
    )
    for line in lines:
        console.print(Text.from_ansi(line), highlight=False, overflow="fold")
    drawn = console.export_svg(title=title, unique_id="terminal")
    # A picture that fetches fonts from elsewhere looks different offline; any monospace will do.
    drawn = _FONT_FACE.sub("", drawn)
    label = escape(title, quote=True)
    return drawn.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def main() -> None:
    """Read the arguments and draw."""
    parser = argparse.ArgumentParser(description="Draw what a terminal showed as an SVG picture")
    parser.add_argument("log", type=Path, metavar="LOG")
    parser.add_argument("out", type=Path, metavar="OUT.svg")
    parser.add_argument("--title", default="pytest --quantgate gates.yaml")
    parser.add_argument("--width", type=int, default=80, help="Columns (default: 80)")
    parser.add_argument(
        "--replace",
        nargs=2,
        action="append",
        default=[],
        metavar=("OLD", "NEW"),
        help="Write NEW for OLD, such as for the path of a home folder (repeatable)",
    )
    arguments = parser.parse_args()
    # Not as text: that would take every carriage return for the end of a line.
    log = arguments.log.read_bytes().decode("utf-8", errors="replace")
    for old, new in arguments.replace:
        log = log.replace(old, new)
    svg = picture(log, title=arguments.title, width=arguments.width)
    arguments.out.write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
