"""From the bytes of a YAML file to a tree of nodes, with every problem and its place.

Built on the events of PyYAML's parser instead of its documents: events come one at a time, so that
nesting and size are bounded before they cost anything, nothing is constructed that the text asks
for by tag, and duplicate keys are still there to be seen.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import yaml

from pytest_quantgate.errors import Problem, SpecError
from pytest_quantgate.spec.document import (
    LINE_BREAK,
    MAX_DEPTH,
    MAX_NODES,
    Document,
    Entry,
    Mark,
    Node,
    Text,
)
from pytest_quantgate.spec.scalar import Scalar, ScalarError, checked_text, resolve

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_BYTES = 1024 * 1024
"""Size of the largest file that is read."""

# libyaml's parser is eight times as fast and keeps the same places; PyYAML's wheels have it.
LOADER: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_CONFLICT_BEGIN = re.compile(r"^<{7}(?: |$)", re.MULTILINE)
_CONFLICT_END = re.compile(r"^>{7}(?: |$)", re.MULTILINE)
_UNPRINTABLE = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufeff\uff00-\ufffd\U00010000-\U0010ffff]"
)


def scan_document(data: bytes, *, path: str) -> tuple[Document, list[Problem]]:
    """Parse the bytes of a specification file; ``path`` is the name that messages call it by.

    Returns:
        The tree, in which everything refused is marked as broken, and what was refused.

    Raises:
        SpecError: when there is no tree, because the text is no YAML, is empty or is too large. The
            parser cannot go on behind a syntax error, so at most one of these is told.
    """
    text = _decoded(data, path=path)
    described = Text(path=path, lines=tuple(LINE_BREAK.split(text)))
    conflict = _CONFLICT_BEGIN.search(text)
    if conflict and _CONFLICT_END.search(text, conflict.end()):
        mark = _mark_of(text, conflict.start())
        raise SpecError(
            [described.problem(mark, "a merge conflict that is not resolved begins here")]
        )
    reader = _Reader(described)
    root = reader.read(text)
    return Document(root=root, text=described), reader.problems


def _decoded(data: bytes, *, path: str) -> str:
    plain = Text(path=path)
    if len(data) > MAX_BYTES:
        message = f"the file is larger than {MAX_BYTES:,} bytes, which no specification needs"
        raise SpecError([plain.problem(None, message)])
    try:
        text = data.decode("utf-8").removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
        byte = f"0x{data[error.start]:02x} at offset {error.start}"
        message = f"not UTF-8: byte {byte}; save the file as UTF-8"
        raise SpecError([plain.problem(Mark(line, column), message)]) from None
    found = _UNPRINTABLE.search(text)
    if found:
        described = Text(path=path, lines=tuple(LINE_BREAK.split(text)))
        message = f"the character U+{ord(found[0]):04X} is not allowed in YAML; remove it"
        raise SpecError([described.problem(_mark_of(text, found.start()), message)])
    return text


def _mark_of(text: str, offset: int) -> Mark:
    breaks = list(LINE_BREAK.finditer(text, 0, offset))
    return Mark(len(breaks) + 1, offset - (breaks[-1].end() if breaks else 0) + 1)


def _start(event: yaml.Event) -> Mark:
    mark = event.start_mark
    return Mark(mark.line + 1, mark.column + 1) if mark else Mark(1, 1)


class _Reader:
    """Reads one document from its events; the problems of one pass gather in it."""

    def __init__(self, text: Text) -> None:
        self.problems: list[Problem] = []
        self._text = text
        self._anchors: dict[str, tuple[Mark, Node | None]] = {}
        self._nodes = 0
        self._events: Iterator[yaml.Event] = iter(())

    def read(self, text: str) -> Node:
        self._events = yaml.parse(text, Loader=LOADER)
        try:
            return self._document()
        except yaml.MarkedYAMLError as error:
            self._stop(*_explained(error, self._text.lines))
        except yaml.YAMLError as error:
            self._stop(Mark(1, 1), f"not valid YAML: {error}")
        finally:
            self._events = iter(())

    def _document(self) -> Node:
        root: Node | None = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    self._stop(
                        _start(event),
                        "a second document starts here; a file holds one specification",
                    )
                root = self._node(next(self._events), 1)
        if root is None or (root.value is None and not root.broken):
            self._stop(Mark(1, 1), "the specification is empty; it starts with `quantgate: 1`")
        return root

    def _refuse(self, mark: Mark, message: str) -> None:
        self.problems.append(self._text.problem(mark, message))

    def _stop(self, mark: Mark, message: str) -> NoReturn:
        self._refuse(mark, message)
        raise SpecError(self.problems)

    def _count(self, mark: Mark, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            what = "aliases expand to" if nodes > 1 else "the specification has"
            self._stop(mark, f"{what} more than {MAX_NODES:,} values")

    def _node(self, event: yaml.Event, depth: int) -> Node:
        mark = _start(event)
        if depth > MAX_DEPTH:
            self._stop(mark, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, mark, depth)
        self._count(mark, 1)
        broken = self._tagged(event, mark)
        anchored = self._anchor(event, mark)
        if isinstance(event, yaml.ScalarEvent):
            node = self._scalar(event, mark, broken=broken)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(mark, depth, broken=broken)
        else:
            node = self._mapping(mark, depth, broken=broken)
        if anchored is not None:
            self._anchors[anchored] = (mark, node)
        return node

    def _tagged(self, event: yaml.Event, mark: Mark) -> bool:
        tag = getattr(event, "tag", None)
        if tag is None:
            return False
        shown = str(tag).replace("tag:yaml.org,2002:", "!!")
        self._refuse(mark, f"the tag {shown!r} is not supported; remove it")
        return True

    def _anchor(self, event: yaml.Event, mark: Mark) -> str | None:
        anchor = getattr(event, "anchor", None)
        if anchor is None:
            return None
        if anchor in self._anchors:
            first = self._anchors[anchor][0].line
            self._refuse(mark, f"the anchor '&{anchor}' is there already, on line {first}")
            return None
        self._anchors[anchor] = (mark, None)
        return str(anchor)

    def _alias(self, event: yaml.AliasEvent, mark: Mark, depth: int) -> Node:
        _, target = self._anchors.get(str(event.anchor), (mark, None))
        if target is None:
            known = event.anchor in self._anchors
            what = "stands for what it is part of" if known else "has no anchor above it"
            self._refuse(mark, f"the alias '*{event.anchor}' {what}")
            return Node(value=None, mark=mark, broken=True)
        if depth + target.height - 1 > MAX_DEPTH:
            self._stop(mark, f"aliases expand to more than {MAX_DEPTH} levels")
        self._count(mark, target.size)
        return replace(target, mark=mark)

    def _scalar(self, event: yaml.ScalarEvent, mark: Mark, *, broken: bool) -> Node:
        quoted = bool(event.style)
        try:
            value: Scalar = checked_text(event.value) if quoted else resolve(event.value)
        except ScalarError as error:
            if not broken:
                self._refuse(mark, str(error))
            return Node(value=None, mark=mark, broken=True)
        return Node(value=None if broken else value, mark=mark, broken=broken)

    def _sequence(self, mark: Mark, depth: int, *, broken: bool) -> Node:
        nodes: list[Node] = []
        for event in iter(self._next, None):
            if isinstance(event, yaml.SequenceEndEvent):
                break
            nodes.append(self._node(event, depth + 1))
        return Node(value=tuple(nodes), mark=mark, broken=broken, **_extent(nodes))

    def _mapping(self, mark: Mark, depth: int, *, broken: bool) -> Node:
        entries: dict[str, Entry] = {}
        for event in iter(self._next, None):
            if isinstance(event, yaml.MappingEndEvent):
                break
            key_mark = _start(event)
            key = self._key(event, depth)
            node = self._node(next(self._events), depth + 1)
            if key is None:
                broken = True
            elif key in entries:
                first = entries[key].mark
                line = first.line if first else 0
                self._refuse(key_mark, f"the key {key!r} is there already, on line {line}")
            else:
                entries[key] = Entry(key_mark, node)
        inner = [entry.node for entry in entries.values()]
        return Node(value=entries, mark=mark, broken=broken, **_extent(inner))

    def _next(self) -> yaml.Event:
        return next(self._events)

    def _key(self, event: yaml.Event, depth: int) -> str | None:
        mark = _start(event)
        if not isinstance(event, yaml.ScalarEvent):
            self._node(event, depth + 1)
            self._refuse(mark, "a key must be a plain text")
            return None
        if self._tagged(event, mark):
            return None
        if event.value == "<<" and not event.style:
            self._refuse(
                mark,
                "merge keys (`<<`) are not supported; use an alias for a whole value",
            )
            return None
        try:
            key = checked_text(event.value)
        except ScalarError as error:
            self._refuse(mark, str(error))
            return None
        if event.anchor is not None:
            self._refuse(mark, "a key cannot carry an anchor; put it before the value")
            return None
        return key


def _extent(nodes: list[Node]) -> dict[str, int]:
    return {
        "size": 1 + sum(node.size for node in nodes),
        "height": 1 + max((node.height for node in nodes), default=0),
    }


_ADVICE: tuple[tuple[str, bool, str], ...] = (
    # What either parser says, whether the place is where the construct began, and what it means.
    ("unexpected end of stream", True, "the quoted text that begins here is not closed"),
    ("',' or ']'", True, "the list that begins here with `[` is not closed properly"),
    ("',' or '}'", True, "the mapping that begins here with `{` is not closed properly"),
    (
        "mapping values are not allowed",
        False,
        "a `:` where none can be; quote the value if it holds `: `, else check the indentation",
    ),
    (
        "sequence entries are not allowed",
        False,
        "a list item cannot be here; put it on its own line",
    ),
    ("unexpected ':'", False, "a `:` needs a space behind it"),
    ("could not find expected ':'", True, "a key without `:` behind it"),
    ("<document start>", False, "text behind the end of the document; remove it"),
    (
        "escape",
        False,
        "an escape that YAML does not know; use single quotes, or double the backslash",
    ),
    ("<block end>", False, "this line does not go with the lines above it; check the indentation"),
    ("expected key", False, "this line does not go with the lines above it; check the indentation"),
    (
        "'-' indicator",
        False,
        "this line does not go with the lines above it; check the indentation",
    ),
)


def _explained(error: yaml.MarkedYAMLError, lines: tuple[str, ...]) -> tuple[Mark, str]:
    """Return the place of a syntax error and a sentence for it, the same for both parsers."""
    mark = error.problem_mark or error.context_mark
    place = Mark(mark.line + 1, mark.column + 1) if mark else Mark(1, 1)
    line = lines[place.line - 1] if place.line <= len(lines) else ""
    character = line[place.column - 1 : place.column]
    problem = str(error.problem)
    if character == "\t" or "tab character" in problem:
        return place, "a tab cannot be here; indent with spaces"
    if "cannot start any token" in problem:
        return place, f"a plain text cannot begin with {character!r}; quote it"
    for phrase, at_start, message in _ADVICE:
        if phrase in problem:
            if at_start and error.context_mark:
                place = Mark(error.context_mark.line + 1, error.context_mark.column + 1)
            return place, message
    return place, f"not valid YAML: {problem}"
