"""Cases written as a list in YAML.

Built on the events of PyYAML's parser: nothing is constructed that the text asks for by tag, a key
written twice is seen, and places are at hand. Plain words are read as YAML 1.2's core schema has
them, so that ``no`` is a text and ``010`` not eight.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

from pytest_quantgate.cases.entries import DEEPEST_NESTING, Entry, Place, Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

# libyaml's parser is eight times as fast and keeps the same places; PyYAML's wheels have it.
LOADER: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,399})")
_FLOAT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,399})(?:\.[0-9]{1,400})?(?:[eE][-+]?[0-9]{1,3})?")
_WORDS = {"null": None, "~": None, "": None, "true": True, "false": False}
_UNPRINTABLE = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)


class _Refused(Exception):
    """Something that a case file must not have; arguments: place and reason."""


def listed(text: str) -> Iterator[Entry | Unreadable]:
    """Yield the values of a YAML list; behind a fault nothing more can be read."""
    found = _UNPRINTABLE.search(text)
    if found is not None:
        line = text.count("\n", 0, found.start()) + 1
        column = found.start() - text.rfind("\n", 0, found.start())
        reason = f"the character U+{ord(found[0]):04X} is not allowed in YAML; remove it"
        yield Unreadable(place=(line, column), reason=reason)
        return
    try:
        yield from _List(text).entries()
    except _Refused as refused:
        place, reason = refused.args
        yield Unreadable(place=place, reason=reason)
    except yaml.MarkedYAMLError as error:
        reason = f"not valid YAML: {error.problem or error.context}"
        yield Unreadable(place=_place(error.problem_mark or error.context_mark), reason=reason)
    except yaml.YAMLError as error:
        yield Unreadable(place=(1, 1), reason=f"not valid YAML: {error}")


class _List:
    """Reads one document, a list, from its events."""

    def __init__(self, text: str) -> None:
        self._lines = text.split("\n")
        self._events: Iterator[yaml.Event] = yaml.parse(text, Loader=LOADER)
        self._places: dict[tuple[str | int, ...], Place] = {}

    def entries(self) -> Iterator[Entry]:
        """Yield the items of the list."""
        next(self._events)  # the stream's start
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return
        begin = next(self._events)
        if isinstance(begin, yaml.ScalarEvent) and not begin.value:
            return
        if not isinstance(begin, yaml.SequenceStartEvent):
            reason = "a YAML file of cases is one list; begin each case with '- '"
            raise _Refused(_place(begin.start_mark), reason)
        number = 0
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            number += 1
            self._places = {}
            place = _place(event.start_mark)
            value = self._value(event, ())
            yield Entry(
                value=value,
                place=place,
                name=f"case-{number}",
                lines=self._lines,
                places=self._places,
            )
        next(self._events)  # the document's end
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise _Refused(
                _place(event.start_mark), "a second document begins here; write one list"
            )

    def _value(self, event: yaml.Event, keys: tuple[str | int, ...]) -> object:
        place = _place(event.start_mark)
        self._places[keys] = place
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _Refused(place, "anchors and aliases are not read in case files; write it out")
        tag = getattr(event, "tag", None)
        if tag not in (None, "!"):
            raise _Refused(place, f"the tag {tag} is not read in case files; remove it")
        if len(keys) > DEEPEST_NESTING:
            raise _Refused(place, f"nested deeper than {DEEPEST_NESTING} levels")
        if isinstance(event, yaml.ScalarEvent):
            return _plain(event.value) if event.implicit[0] else event.value
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[object] = []
            while not isinstance(inner := next(self._events), yaml.SequenceEndEvent):
                items.append(self._value(inner, (*keys, len(items))))
            return items
        return self._mapping(keys)

    def _mapping(self, keys: tuple[str | int, ...]) -> dict[str, object]:
        members: dict[str, object] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            place = _place(event.start_mark)
            if not isinstance(event, yaml.ScalarEvent) or event.value == "<<":
                raise _Refused(place, "a key is a word or a text in quotes")
            if event.value in members:
                raise _Refused(place, f"key {event.value!r} is written twice")
            members[event.value] = self._value(next(self._events), (*keys, event.value))
        return members


def _plain(text: str) -> object:
    """Return what a scalar without quotes stands for."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _place(mark: Any) -> Place:  # noqa: ANN401 - two classes without a common base
    return (1, 1) if mark is None else (mark.line + 1, mark.column + 1)
