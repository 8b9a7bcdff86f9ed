"""From a mapping that a project builds in Python to the same tree of nodes that a file becomes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pytest_quantgate.spec.document import MAX_DEPTH, MAX_NODES, Document, Entry, Keys, Node, Text
from pytest_quantgate.spec.scalar import (
    Scalar,
    ScalarError,
    checked_float,
    checked_integer,
    checked_text,
)

if TYPE_CHECKING:
    from pytest_quantgate.errors import Problem


def scan_mapping(data: Mapping[str, object], *, origin: str) -> tuple[Document, list[Problem]]:
    """Turn a Python mapping into a document.

    Texts, paths, numbers, truth values, mappings and sequences of these are understood.

    Returns:
        The tree, in which everything refused is marked as broken, and what was refused.
    """
    reader = _Reader()
    root = reader.node(data, (), 1)
    document = Document(root=root, text=Text(path=origin))
    return document, [document.problem(keys, message) for keys, message in reader.refused]


class _Reader:
    """Converts one mapping; what it refuses gathers in it."""

    def __init__(self) -> None:
        self.refused: list[tuple[Keys, str]] = []
        self._nodes = 0

    def node(self, value: object, keys: Keys, depth: int) -> Node:
        self._nodes += 1
        if depth > MAX_DEPTH:
            return self._broken(keys, f"nested deeper than {MAX_DEPTH} levels")
        if self._nodes > MAX_NODES:
            first = self._nodes == MAX_NODES + 1
            message = f"the specification has more than {MAX_NODES:,} values"
            return self._broken(keys, message) if first else Node(value=None, broken=True)
        if isinstance(value, Mapping):
            return self._mapping(value, keys, depth)
        if isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray)):
            nodes = [self.node(item, (*keys, index), depth + 1) for index, item in enumerate(value)]
            return Node(value=tuple(nodes))
        try:
            return Node(value=_scalar(value))
        except ScalarError as error:
            return self._broken(keys, str(error))

    def _broken(self, keys: Keys, message: str) -> Node:
        self.refused.append((keys, message))
        return Node(value=None, broken=True)

    def _mapping(self, value: Mapping[object, object], keys: Keys, depth: int) -> Node:
        entries: dict[str, Entry] = {}
        broken = False
        for key, item in value.items():
            if not isinstance(key, str):
                self.refused.append((keys, f"the key {key!r} is no text; write {str(key)!r}"))
                broken = True
                continue
            entries[str(key)] = Entry(None, self.node(item, (*keys, key), depth + 1))
        return Node(value=entries, broken=broken)


def _scalar(value: object) -> Scalar:
    """Return the value as exactly one of the types a YAML scalar can have."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return checked_integer(int(value))
    if isinstance(value, float):
        return checked_float(float(value))
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        return checked_text(str(value))
    message = f"a value of type {type(value).__name__} cannot be part of a specification"
    raise ScalarError(message)
