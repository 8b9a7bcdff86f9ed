"""What a specification says, before it is known to make sense: a tree that knows its places."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_quantgate.errors import Problem
from pytest_quantgate.records import Location

if TYPE_CHECKING:
    from pytest_quantgate.spec.scalar import Scalar

MAX_NODES: Final = 100_000
"""Values a specification may have once its aliases are expanded."""

MAX_DEPTH: Final = 50
"""Levels of nesting a specification may have; the format itself has eight."""

EXCERPT_WIDTH: Final = 96

LINE_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
"""What YAML counts as the end of a line."""

Keys = tuple[str | int, ...]
"""The way from the root to a value: keys of mappings and indices of lists."""


class Mark(NamedTuple):
    """A place in a text, counted from 1."""

    line: int
    column: int


class Entry(NamedTuple):
    """One key of a mapping: where it is written and what it holds."""

    mark: Mark | None
    node: Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A value: a scalar, a list of nodes, or a mapping of entries in the order of the text.

    ``size`` and ``height`` count the values in it and their levels, itself included, aliases
    expanded. ``broken`` means that something about it was refused while it was read, so that what
    it holds says nothing about what its author meant; a broken scalar holds None.
    """

    value: Scalar | tuple[Node, ...] | Mapping[str, Entry]
    mark: Mark | None = None
    broken: bool = False
    size: int = 1
    height: int = 1

    def child(self, key: str | int) -> Node | None:
        """Return the value at a key or index, or None if there is none."""
        if isinstance(self.value, Mapping):
            entry = self.value.get(key) if isinstance(key, str) else None
            return entry.node if entry else None
        if isinstance(self.value, tuple) and isinstance(key, int) and key < len(self.value):
            return self.value[key]
        return None

    def plain(self) -> object:
        """Return the value as plain dicts, lists and scalars."""
        if isinstance(self.value, Mapping):
            return {key: entry.node.plain() for key, entry in self.value.items()}
        if isinstance(self.value, tuple):
            return [node.plain() for node in self.value]
        return self.value

    def clean(self) -> bool:
        """Tell whether nothing in this value is broken or empty."""
        if self.broken or self.value is None:
            return False
        if isinstance(self.value, Mapping):
            return all(entry.node.clean() for entry in self.value.values())
        return not isinstance(self.value, tuple) or all(node.clean() for node in self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """The lines of a specification and the name to call it by; a Python mapping has no lines."""

    path: str
    lines: tuple[str, ...] = ()

    def problem(self, mark: Mark | None, message: str) -> Problem:
        """Return a problem at a place of the text, with the lines it is about."""
        if mark is None:
            return Problem(location=Location(path=self.path), message=message)
        location = Location(path=self.path, line=mark.line, column=mark.column)
        return Problem(location=location, message=message, excerpt=self._excerpt(mark))

    def _excerpt(self, mark: Mark) -> str:
        if mark.line > len(self.lines):
            return ""
        first = 1 if mark.line == 1 else mark.line - 1
        # A window on long lines that shows the place, with what leads to it.
        start = max(0, mark.column - EXCERPT_WIDTH * 3 // 4)
        rows = [
            f"{number:>6} | {_printable(self.lines[number - 1][start : start + EXCERPT_WIDTH])}"
            for number in range(first, mark.line + 1)
        ]
        caret = " " * (mark.column - 1 - start) + "^"
        return "\n".join([*(row.rstrip() for row in rows), f"{'':>6} | {caret}"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A specification as it was written."""

    root: Node
    text: Text

    def node(self, keys: Keys) -> Node | None:
        """Return the value at the end of a way, or None if the way ends before."""
        node: Node | None = self.root
        for key in keys:
            node = node.child(key) if node else None
        return node

    def location(self, keys: Keys, *, of_key: bool = True) -> Location:
        """Return the place of a key, or of its value; of the nearest one above if it is absent."""
        mark = self.mark(keys, of_key=of_key)
        if mark is not None:
            return Location(path=self.text.path, line=mark.line, column=mark.column)
        if not keys:
            return Location(path=self.text.path)
        return Location(path=f"{self.text.path}: at {'.'.join(str(key) for key in keys)}")

    def problem(self, keys: Keys, message: str, *, of_key: bool = False) -> Problem:
        """Return a problem with the value at the end of a way, or with its key."""
        mark = self.mark(keys, of_key=of_key)
        if mark is not None:
            return self.text.problem(mark, message)
        return Problem(location=self.location(keys), message=message)

    def mark(self, keys: Keys, *, of_key: bool) -> Mark | None:
        """Return where a key or its value is written; None throughout a Python mapping."""
        node, mark = self.root, self.root.mark
        for key in keys:
            below = node.child(key)
            if below is None:
                return mark
            mark = below.mark
            if of_key and isinstance(node.value, Mapping):
                mark = node.value[str(key)].mark
            node = below
        return mark


def _printable(line: str) -> str:
    return "".join(
        character
        if character.isprintable()
        else " "
        if character == "\t"
        else "\N{REPLACEMENT CHARACTER}"
        for character in line
    )
