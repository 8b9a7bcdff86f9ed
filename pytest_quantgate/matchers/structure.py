"""JSON in outputs: finding it, comparing it by value, and scoring its fields.

The JSON of an output is the whole output; else the content of its one fenced block; else the first
balanced object or array in it. Behind an opening bracket that is never closed nothing is looked
for: what stands inside is a piece of a broken answer.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_quantgate.matchers.match import Match, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

DEEPEST_NESTING = 64  # levels of objects and arrays
LONGEST_NUMBER = 400  # characters; longer ones take quadratic time to read
_FENCE = re.compile(r" {0,3}```[^`]*")
_MISSING = object()


class Refused(ValueError):
    """An output without JSON that can be compared; the text says why."""


class _NoJson(ValueError):
    """A text that is not JSON, where another part of the output still may be."""


def find_json(output: str) -> object:
    """Return the value of the JSON in an output.

    Raises:
        Refused: no JSON, several fenced blocks, repeated keys, no number, too deep.
    """
    whole = output.strip()
    if not whole:
        message = "the output is empty"
        raise Refused(message)
    try:
        return _parse(whole)
    except _NoJson as error:
        reason = str(error)
    blocks = list(_fenced(output))
    if len(blocks) > 1:
        message = f"the output has {len(blocks)} fenced blocks, expected one with JSON"
        raise Refused(message)
    if blocks:
        try:
            return _parse(blocks[0].strip())
        except _NoJson as error:
            message = f"the fenced block is not JSON: {error}"
            raise Refused(message) from error
    for part in _balanced(output):
        try:
            return _parse(part)
        except _NoJson:  # noqa: PERF203 - each part may or may not be JSON
            continue
    message = f"the output is not JSON and holds none: {reason}"
    raise Refused(message)


def read_json(text: str, *, name: str) -> object:
    """Return the value of JSON that an author wrote; ``name`` is what it is in the sentence.

    Raises:
        ValueError: it is not JSON, or such that outputs of its kind are refused.
    """
    try:
        return _parse(text.strip())
    except (_NoJson, Refused) as error:
        message = f"{name} is not JSON that can be compared: {error}"
        raise ValueError(message) from error


def author_json(value: object, *, name: str) -> object:
    """Return the value of JSON written as text, or check a value that was JSON before.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, str):
        return read_json(value, name=name)
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        message = f"{name} is not JSON that can be compared: {error}"
        raise ValueError(message) from error
    return read_json(text, name=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonMatcher:
    """The output's JSON equals a value: numbers by value, keys in any order, true is not 1."""

    expected: object

    @classmethod
    def of(cls, expected: object) -> JsonMatcher:
        """Return the matcher of a value or of JSON text.

        Raises:
            ValueError: it is not JSON.
        """
        return cls(expected=author_json(expected, name="'expected'"))

    def matches(self, output: str) -> Match:
        """Compare structurally, telling the first difference."""
        try:
            value = find_json(output)
        except Refused as error:
            return Match(ok=False, reason=str(error))
        difference = next(_differences(value, self.expected, "$"), None)
        if difference is None:
            return Match(ok=True, reason="the output's JSON is the expected one")
        return Match(ok=False, reason=difference)


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldScores:
    """What became of each expected field; a field is named by its path, such as ``address.city``.

    Objects are gone into; arrays are one field. ``unexpected`` are fields nobody asked for.
    ``reason`` says why there is no object to look into, else it is empty.
    """

    right: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    reason: str = ""

    @property
    def share(self) -> float:
        """Return the share of expected fields that are right, 0 to 1."""
        return len(self.right) / (len(self.right) + len(self.wrong) + len(self.missing))


def field_scores(output: str, expected: object) -> FieldScores:
    """Compare the fields of an output's JSON object with those expected (an object or its text).

    Raises:
        ValueError: what is expected is no JSON object with fields.
    """
    wanted = author_json(expected, name="'expected'")
    if not isinstance(wanted, dict) or not wanted:
        message = "'expected' is no JSON object with fields; field scores compare objects"
        raise ValueError(message)
    fields = dict(_leaves(wanted, ()))
    names = {path: ".".join(path) for path in fields}
    try:
        value = find_json(output)
    except Refused as error:
        return FieldScores(missing=tuple(names.values()), reason=str(error))
    if not isinstance(value, dict):
        reason = f"the output's JSON is {_kind(value)}, expected an object"
        return FieldScores(missing=tuple(names.values()), reason=reason)
    given = {path: _at(value, path) for path in fields}
    same = {
        path for path in fields if given[path] is not _MISSING and equal(given[path], fields[path])
    }
    return FieldScores(
        right=tuple(names[path] for path in fields if path in same),
        wrong=tuple(
            names[path] for path in fields if path not in same and given[path] is not _MISSING
        ),
        missing=tuple(names[path] for path in fields if given[path] is _MISSING),
        # Below a wrong field, whose shape differs, everything is part of that fault.
        unexpected=tuple(
            ".".join(path)
            for path, _ in _leaves(value, ())
            if not any(path[: len(one)] == one or one[: len(path)] == path for one in fields)
        ),
    )


def equal(left: object, right: object) -> bool:
    """Tell whether two JSON values are the same: numbers by value, and true is not 1."""
    return next(_differences(left, right, "$"), None) is None


def _parse(text: str) -> object:
    _check_depth(text)
    try:
        return json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_float=_read_float,
            parse_int=_read_int,
            object_pairs_hook=_refuse_repeated,
        )
    except json.JSONDecodeError as error:
        message = f"{error.msg} at character {error.pos + 1}"
        raise _NoJson(message) from error


def _check_depth(text: str) -> None:
    deepest = depth = 0
    for _, opening in _brackets(text):
        depth += 1 if opening else -1
        deepest = max(deepest, depth)
    if deepest > DEEPEST_NESTING:
        message = f"the JSON is nested {deepest} levels deep, at most {DEEPEST_NESTING} are read"
        raise Refused(message)


def _fenced(text: str) -> Iterator[str]:
    """Yield the contents of blocks between lines that begin with three backticks."""
    block: list[str] | None = None
    for line in text.splitlines(keepends=True):
        if block is None:
            block = [] if _FENCE.fullmatch(line.rstrip()) else None
        elif line.strip() == "```":
            yield "".join(block)
            block = None
        else:
            block.append(line)


def _balanced(text: str) -> Iterator[str]:
    """Yield the outermost balanced objects and arrays of a text."""
    start = re.compile(r"[\[{]")
    place = 0
    while match := start.search(text, place):
        depth = 0
        for end, opening in _brackets(text, match.start()):
            depth += 1 if opening else -1
            if depth == 0:
                yield text[match.start() : end + 1]
                place = end + 1
                break
        else:
            return


def _brackets(text: str, start: int = 0) -> Iterator[tuple[int, bool]]:
    """Yield where brackets stand outside of strings, and whether each opens."""
    for match in re.finditer(r'"(?:[^"\\]+|\\.)*(?:"|\\?\Z)|[\[\]{}]', text[start:], re.DOTALL):
        if match[0] in "[]{}":
            yield start + match.start(), match[0] in "[{"


def _refuse_constant(name: str) -> float:
    message = f"{name} in the JSON is no number"
    raise Refused(message)


def _read_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        message = f"the number {shown(text)} in the JSON is too large"
        raise Refused(message)
    return value


def _read_int(text: str) -> int:
    if len(text) > LONGEST_NUMBER:
        message = f"a number in the JSON has more than {LONGEST_NUMBER} digits"
        raise Refused(message)
    return int(text)


def _refuse_repeated(pairs: list[tuple[str, object]]) -> dict[str, object]:
    # JSON leaves open which of two equal keys counts, and readers differ.
    plain: dict[str, object] = {}
    for name, value in pairs:
        if name in plain:
            message = f"the key '{shown(name)}' is written twice in the JSON"
            raise Refused(message)
        plain[name] = value
    return plain


def _differences(value: object, expected: object, path: str) -> Iterator[str]:
    if isinstance(value, dict) and isinstance(expected, dict):
        for key in expected:
            if key in value:
                yield from _differences(value[key], expected[key], f"{path}.{key}")
            else:
                yield f"{shown(path + '.' + key)} is missing"
        yield from (f"{shown(path + '.' + key)} is not expected" for key in value.keys() - expected)
    elif isinstance(value, list) and isinstance(expected, list):
        if len(value) != len(expected):
            yield f"{shown(path)} has {len(value)} items, expected {len(expected)}"
            return
        for index, (one, other) in enumerate(zip(value, expected, strict=True)):
            yield from _differences(one, other, f"{path}[{index}]")
    elif isinstance(value, bool) is not isinstance(expected, bool) or value != expected:
        yield f"{shown(path)} is {json_shown(value)}, expected {json_shown(expected)}"


def json_shown(value: object) -> str:
    """Return a value as a sentence quotes it."""
    return shown(json.dumps(value, ensure_ascii=False))


def _leaves(
    value: dict[str, object], path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], object]]:
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from _leaves(inner, (*path, key))
        else:
            yield (*path, key), inner


def _at(value: object, path: tuple[str, ...]) -> object:
    for key in path:
        if not isinstance(value, dict) or key not in value:
            return _MISSING
        value = value[key]
    return value


def _kind(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
