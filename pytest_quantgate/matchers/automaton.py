"""The automaton of a regular expression, walked over a text from its end to its start.

After the step at a place, the alive states are those from which the rest of the text leads to
acceptance; a match begins wherever the first state is alive. This takes text length times states
(Thompson, "Regular expression search algorithm", 1968, on sets of states), and gives the places at
which lookarounds hold in the same way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MOST_STATES = 5_000
_ACCEPT = 0
_CATEGORIES = {
    "CATEGORY_DIGIT": r"\d",
    "CATEGORY_NOT_DIGIT": r"\D",
    "CATEGORY_SPACE": r"\s",
    "CATEGORY_NOT_SPACE": r"\S",
    "CATEGORY_WORD": r"\w",
    "CATEGORY_NOT_WORD": r"\W",
}
_NAMES = {
    "GROUPREF": "a reference to a group",
    "GROUPREF_EXISTS": "a condition on a group",
    "ATOMIC_GROUP": "an atomic group",
    "POSSESSIVE_REPEAT": "a possessive repetition",
}
_PLACES = {
    "AT_BEGINNING": "^",
    "AT_BEGINNING_STRING": r"\A",
    "AT_BOUNDARY": r"\b",
    "AT_NON_BOUNDARY": r"\B",
    "AT_END": "$",
    "AT_END_STRING": r"\Z",
}
_CHARACTER_FLAGS = int(re.IGNORECASE | re.MULTILINE | re.DOTALL | re.ASCII)


class Inexpressible(Exception):
    """A part of a pattern that no automaton has, named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """A lookaround: its own automaton, whether it must fail, and how far back it begins."""

    automaton: Automaton
    negative: bool
    back: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Test:
    """A part that `re` itself decides: one character, or a place between two."""

    pattern: re.Pattern[str]
    known: dict[str, bool] = field(default_factory=dict)

    def character(self, character: str) -> bool:
        known = self.known.get(character)
        if known is None:
            known = self.known[character] = self.pattern.match(character) is not None
        return known


@dataclass(slots=True, kw_only=True)
class _States:
    """States in the order they are made, each after the ones it leads to."""

    # Of a state: the test of the character it consumes and where that leads.
    steps: list[tuple[int, _Test, int]] = field(default_factory=list)
    # Of a state: those that lead to it without a character, and what must hold for that.
    sources: list[list[tuple[int, _Test | _Look | None]]] = field(default_factory=lambda: [[]])
    tests: dict[tuple[str, int], _Test] = field(default_factory=dict)
    # All states made, those of lookarounds and their copies included.
    made: list[int] = field(default_factory=lambda: [0])

    def new(self) -> int:
        self.made[0] += 1
        if self.made[0] > MOST_STATES:
            message = f"more than {MOST_STATES} states"
            raise Inexpressible(message)
        self.sources.append([])
        return len(self.sources) - 1

    def test(self, text: str, flags: int) -> _Test:
        key = (text, flags)
        if key not in self.tests:
            self.tests[key] = _Test(pattern=re.compile(text, flags))
        return self.tests[key]


@dataclass(frozen=True, slots=True, kw_only=True)
class Automaton:
    """A pattern as states; see the module."""

    start: int
    states: _States = field(repr=False)

    @classmethod
    def of(cls, tree: Iterable[tuple[Any, Any]], *, flags: int) -> Automaton:
        """Build the automaton of `re`'s syntax tree.

        Raises:
            Inexpressible: the pattern refers to groups, is atomic, or is too large.
        """
        return cls._within(_States(), tree, flags)

    @classmethod
    def _within(cls, states: _States, tree: Iterable[tuple[Any, Any]], flags: int) -> Automaton:
        start = _sequence(tuple(tree), _ACCEPT, flags & _CHARACTER_FLAGS, states)
        return cls(start=start, states=states)

    @classmethod
    def inside(cls, outer: _States, tree: Iterable[tuple[Any, Any]], flags: int) -> Automaton:
        """Build the automaton of a lookaround, whose states count with those around it."""
        return cls._within(_States(tests=outer.tests, made=outer.made), tree, flags)

    def found_in(self, text: str) -> bool:
        """Tell whether a match begins anywhere in a text."""
        return any(self.places(text))

    def places(self, text: str) -> list[bool]:
        """Return, for each place 0 ... length of a text, whether a match begins there."""
        found = [False] * (len(text) + 1)
        looks: dict[int, list[bool]] = {}
        alive: set[int] = set()
        for place in range(len(text), -1, -1):
            now = [_ACCEPT]
            if place < len(text):
                character = text[place]
                now += [
                    state
                    for state, test, to in self.states.steps
                    if to in alive and test.character(character)
                ]
            alive = set(now)
            while now:
                for source, condition in self.states.sources[now.pop()]:
                    if source not in alive and _holds(condition, text, place, looks):
                        alive.add(source)
                        now.append(source)
            found[place] = self.start in alive
        return found


def _holds(
    condition: _Test | _Look | None, text: str, place: int, looks: dict[int, list[bool]]
) -> bool:
    if condition is None:
        return True
    if isinstance(condition, _Test):
        return condition.pattern.match(text, place) is not None
    if id(condition) not in looks:
        looks[id(condition)] = condition.automaton.places(text)
    begin = place - condition.back
    return (begin >= 0 and looks[id(condition)][begin]) is not condition.negative


def _sequence(tree: Sequence[tuple[Any, Any]], to: int, flags: int, states: _States) -> int:
    for op, argument in reversed(tree):
        to = _part(str(op), argument, to, flags, states)
    return to


def _part(  # noqa: PLR0911 - one for each kind of part
    name: str,
    argument: Any,  # noqa: ANN401 - a tree of `re`
    to: int,
    flags: int,
    states: _States,
) -> int:
    if name == "BRANCH":
        entries = [_sequence(tuple(branch), to, flags, states) for branch in argument[1]]
        return _fork(entries, states)
    if name in ("MAX_REPEAT", "MIN_REPEAT"):
        return _repeat(argument, to, flags, states)
    if name == "SUBPATTERN":
        _, added, removed, body = argument
        inner = ((flags | added) & ~removed) & _CHARACTER_FLAGS
        if added & int(re.UNICODE):
            inner &= ~int(re.ASCII)
        return _sequence(tuple(body), to, inner, states)
    if name in ("ASSERT", "ASSERT_NOT"):
        direction, body = argument
        automaton = Automaton.inside(states, body, flags)
        back = int(body.getwidth()[0]) if direction < 0 else 0
        return _guarded(
            to, _Look(automaton=automaton, negative=name == "ASSERT_NOT", back=back), states
        )
    if name == "AT":
        return _guarded(to, states.test(_PLACES[str(argument)], flags), states)
    if name == "FAILURE":
        return states.new()
    if name in _NAMES:
        raise Inexpressible(_NAMES[name])
    state = states.new()
    states.steps.append((state, states.test(_class(name, argument), flags), to))
    return state


def _repeat(argument: Any, to: int, flags: int, states: _States) -> int:  # noqa: ANN401 - a tree of `re`
    least, most, body = argument
    body = tuple(body)
    if str(most) == "MAXREPEAT":
        loop = states.new()
        states.sources[to].append((loop, None))
        states.sources[_sequence(body, loop, flags, states)].append((loop, None))
        entry = loop
    else:
        entry = to
        for _ in range(int(most) - int(least)):
            entry = _fork([to, _sequence(body, entry, flags, states)], states)
    for _ in range(int(least)):
        before = len(states.sources)
        entry = _sequence(body, entry, flags, states)
        if len(states.sources) == before:
            break  # what has no states can be repeated for ever without growing
    return entry


def _fork(entries: Iterable[int], states: _States) -> int:
    state = states.new()
    for entry in entries:
        states.sources[entry].append((state, None))
    return state


def _guarded(to: int, condition: _Test | _Look, states: _States) -> int:
    state = states.new()
    states.sources[to].append((state, condition))
    return state


def _class(name: str, argument: Any) -> str:  # noqa: ANN401 - a tree of `re`
    """Return the pattern of what consumes one character, written out again."""
    if name == "ANY":
        return "."
    if name == "LITERAL":
        return _escaped(argument)
    if name == "NOT_LITERAL":
        return f"[^{_escaped(argument)}]"
    if name != "IN":
        message = f"{name}, which is not known"
        raise Inexpressible(message)
    negated = "^" if argument and str(argument[0][0]) == "NEGATE" else ""
    return f"[{negated}{''.join(_item(str(op), value) for op, value in argument)}]"


def _item(name: str, value: Any) -> str:  # noqa: ANN401 - a tree of `re`
    if name == "NEGATE":
        return ""
    if name == "LITERAL":
        return _escaped(value)
    if name == "RANGE":
        return f"{_escaped(value[0])}-{_escaped(value[1])}"
    return _CATEGORIES[str(value)]


def _escaped(code: int) -> str:
    return f"\\U{code:08x}"
