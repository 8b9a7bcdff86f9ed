"""The values written in a case file, one for each case, with their places.

A problem with the text of a file is an `Unreadable` entry; what the values mean is not looked at.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Place = tuple[int, int]
"""Line and column, from 1."""

DEEPEST_NESTING = 64

_BLANKS = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One case as plain values; ``places`` has, where it is known, where each key's value stands.

    ``name`` is what the case is called where it has no id. Messages quote ``text``, or the line of the
    file in ``lines`` that they are about.
    """

    value: object
    place: Place
    name: str
    text: str = ""
    lines: Sequence[str] = ()
    places: Mapping[tuple[str | int, ...], Place] = field(default_factory=dict)

    def place_of(self, keys: tuple[str | int, ...]) -> Place:
        """Return where a value stands, or the nearest one around it whose place is known."""
        while keys and keys not in self.places:
            keys = keys[:-1]
        return self.places.get(keys, self.place)

    def excerpt(self, place: Place) -> str:
        """Return what to quote of a place."""
        return self.lines[place[0] - 1] if self.lines else self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A place of a file from which no value could be read, and why."""

    place: Place
    reason: str
    text: str = ""


def lines(data: bytes) -> Iterator[Entry | Unreadable]:
    """Yield the values of a JSON Lines file; blank lines count and mean nothing."""
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            text = line.decode("utf-8")
            value = _decoder().decode(text)
        except (ValueError, RecursionError) as error:
            column, reason = _no_json(error)
            shown = line.decode("utf-8", errors="replace")
            yield Unreadable(place=(number, column), reason=reason, text=shown)
        else:
            yield Entry(value=value, place=(number, 1), name=f"line-{number}", text=text)


def array(text: str) -> Iterator[Entry | Unreadable]:
    """Yield the values of one JSON array; behind a fault nothing more can be read."""
    decoder = _decoder()
    lines_of = _Lines(text)
    at = _after_blanks(text, 0)
    if at == len(text):
        return
    if text[at] != "[":
        reason = "a .json file of cases is one array; name a file with an object a line .jsonl"
        yield Unreadable(place=lines_of.place(at), reason=reason)
        return
    at = _after_blanks(text, at + 1)
    number = 0
    ended = text[at : at + 1] == "]"
    while not ended:
        start, number = at, number + 1
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            _, reason = _no_json(error)
            offset = error.pos if isinstance(error, json.JSONDecodeError) else start
            yield Unreadable(place=lines_of.place(offset), reason=reason)
            return
        quoted = text[start:at]
        yield Entry(value=value, place=lines_of.place(start), name=f"case-{number}", text=quoted)
        at = _after_blanks(text, at)
        ended = text[at : at + 1] == "]"
        if not ended and text[at : at + 1] != ",":
            reason = "not JSON: expecting ',' or ']' behind a case"
            yield Unreadable(place=lines_of.place(at), reason=reason)
            return
        at = at if ended else _after_blanks(text, at + 1)
    at = _after_blanks(text, at + 1)
    if at < len(text):
        reason = "not JSON: something stands behind the array"
        yield Unreadable(place=lines_of.place(at), reason=reason)


class _Lines:
    """Tells the line and column of places in a text, each behind the one before."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._line, self._counted = 1, 0

    def place(self, offset: int) -> Place:
        self._line += self._text.count("\n", self._counted, offset)
        self._counted = offset
        return self._line, offset - self._text.rfind("\n", 0, offset)


def _decoder() -> json.JSONDecoder:
    return json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_refuse_repeated)


def _after_blanks(text: str, at: int) -> int:
    match = _BLANKS.match(text, at)
    return at if match is None else match.end()


def _no_json(error: ValueError | RecursionError) -> tuple[int, str]:
    """Return the column and what is wrong with a text that cannot be parsed."""
    if isinstance(error, UnicodeDecodeError):
        return error.start + 1, f"not UTF-8: byte 0x{error.object[error.start]:02x}"
    if isinstance(error, json.JSONDecodeError):
        return error.colno, f"not JSON: {error.msg}"
    if isinstance(error, RecursionError):
        return 1, "not JSON: nested too deeply"
    return 1, str(error)


def _refuse_constant(name: str) -> float:
    message = f"not JSON: {name} is no number"
    raise ValueError(message)


def _refuse_repeated(pairs: list[tuple[str, object]]) -> dict[str, object]:
    # JSON leaves open which of two equal keys counts, and readers differ.
    plain = dict(pairs)
    if len(plain) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        message = f"key {repeated!r} is written twice"
        raise ValueError(message)
    return plain
