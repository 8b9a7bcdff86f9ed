"""Case files: what users ask the model to do and what they expect, one JSON object a line."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pytest_quantgate.errors import ArtifactError, Problem, SpecError
from pytest_quantgate.records import Location, Message, Prompt

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Match = Literal["contains", "exact", "regex"]


class _Turn(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    role: Literal["system", "user", "assistant"]
    content: str


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: str | None = Field(default=None, min_length=1)
    prompt: str | None = Field(default=None, min_length=1)
    messages: list[_Turn] | None = Field(default=None, min_length=1)
    expected: str = Field(min_length=1)
    match: Match = "contains"
    max_tokens: int | None = Field(default=None, ge=1)
    stop: list[str] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One question with its expected answer.

    ``contains`` looks for the expected text anywhere, ignoring case; ``exact`` compares the whole
    output without surrounding blanks; ``regex`` searches with Python's `re`, dot matching newlines.
    """

    id: str
    prompt: str | None
    messages: tuple[Message, ...]
    expected: str
    match: Match
    max_tokens: int | None
    stop: tuple[str, ...]

    @property
    def question(self) -> str:
        """Return the prompt, or the last message, for people to read."""
        return self.prompt if self.prompt is not None else self.messages[-1].content

    def matches(self, output: str) -> bool:
        """Tell whether an output is what was expected."""
        if self.match == "contains":
            return self.expected.casefold() in output.casefold()
        if self.match == "exact":
            return self.expected.strip() == output.strip()
        return re.search(self.expected, output, re.DOTALL) is not None

    def to_prompt(self, *, max_tokens: int) -> Prompt:
        """Return what a probe is asked; ``max_tokens`` applies where the case names none."""
        return Prompt(
            id=self.id,
            prompt=self.prompt,
            messages=self.messages,
            max_tokens=self.max_tokens or max_tokens,
            stop=self.stop,
            until=self.expected if self.match == "contains" else None,
        )


def load_cases(path: Path, *, shown: str) -> tuple[Case, ...]:
    """Read a JSON Lines file of cases; ``shown`` is its name in messages.

    Raises:
        ArtifactError: the file cannot be read.
        SpecError: lines that are no cases, all of them, each with its place.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        message = f"cannot read the case file {shown}: {error.strerror or error}"
        raise ArtifactError(message) from error
    problems: list[Problem] = []
    cases: list[Case] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        case, found = _parse_line(line, number=number, shown=shown)
        problems.extend(found)
        if case is None:
            continue
        if case.id in seen:
            problems.append(
                _problem(shown, number, 1, f"case id {case.id!r} is taken by line {seen[case.id]}")
            )
        seen.setdefault(case.id, number)
        cases.append(case)
    if not cases and not problems:
        problems.append(
            _problem(shown, 1, 1, "the case file is empty; write one JSON object a line")
        )
    if problems:
        raise SpecError(problems)
    return tuple(cases)


def cases_digest(cases: tuple[Case, ...]) -> str:
    """Return the SHA-256 of what the cases ask and expect, independent of the file's layout."""
    plain = [
        [
            case.id,
            case.prompt,
            [[turn.role, turn.content] for turn in case.messages],
            case.expected,
            case.match,
            case.max_tokens,
            list(case.stop),
        ]
        for case in cases
    ]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _parse_line(line: bytes, *, number: int, shown: str) -> tuple[Case | None, list[Problem]]:
    text = line.decode("utf-8", errors="replace")
    try:
        line.decode("utf-8")
        data = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_refuse_repeated)
    except (ValueError, RecursionError) as error:
        column, wrong = _no_json(error)
        return None, [_problem(shown, number, column, wrong, text)]
    if not isinstance(data, dict):
        wrong = 'a case is a JSON object such as {"prompt": "2 + 2 =", "expected": "4"}'
        return None, [_problem(shown, number, 1, wrong, text)]
    try:
        parsed = _Line.model_validate_json(text)
    except ValidationError as error:
        return None, [
            _problem(shown, number, 1, _sentence(dict(detail)), text) for detail in error.errors()
        ]
    return _case(parsed, number), [
        _problem(shown, number, 1, wrong, text) for wrong in _odd(parsed)
    ]


def _no_json(error: ValueError | RecursionError) -> tuple[int, str]:
    """Return the column and what is wrong with a line that cannot be parsed."""
    if isinstance(error, UnicodeDecodeError):
        return error.start + 1, f"not UTF-8: byte 0x{error.object[error.start]:02x}"
    if isinstance(error, json.JSONDecodeError):
        return error.colno, f"not JSON: {error.msg}"
    if isinstance(error, RecursionError):
        return 1, "not JSON: nested too deeply"
    return 1, str(error)


def _odd(parsed: _Line) -> Iterator[str]:
    """Yield what is wrong with a line whose keys are each right."""
    if (parsed.prompt is None) == (parsed.messages is None):
        yield "a case has either 'prompt' or 'messages'"
    if parsed.match == "regex":
        try:
            re.compile(parsed.expected)
        except re.error as error:
            yield f"'expected' is no regular expression: {error}"


def _case(parsed: _Line, number: int) -> Case:
    return Case(
        id=parsed.id or f"line-{number}",
        prompt=parsed.prompt,
        messages=tuple(
            Message(role=turn.role, content=turn.content) for turn in parsed.messages or ()
        ),
        expected=parsed.expected,
        match=parsed.match,
        max_tokens=parsed.max_tokens,
        stop=tuple(parsed.stop),
    )


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


def _sentence(detail: dict[str, object]) -> str:
    place = detail["loc"]
    name = ".".join(str(part) for part in place) if isinstance(place, tuple) else str(place)
    kind = detail["type"]
    if kind == "missing":
        return f"missing key {name!r}"
    if kind == "extra_forbidden":
        owner, model = ("a message", _Turn) if "." in name else ("a case", _Line)
        return f"unknown key {name!r}; {owner} has {', '.join(model.model_fields)}"
    if kind in ("string_too_short", "too_short"):
        return f"{name!r} is empty"
    if kind == "json_invalid":
        # The two parsers differ on halves of surrogate pairs and on very deep nesting.
        return f"not JSON: {str(detail['msg']).removeprefix('Invalid JSON: ')}"
    reason = str(detail["msg"]).removeprefix("Input ")
    return f"{name!r} {reason}, not {detail['input']!r}"


def _problem(shown: str, line: int, column: int, message: str, text: str = "") -> Problem:
    limit = 100
    excerpt = text.strip()
    if len(excerpt) > limit:
        excerpt = excerpt[:limit] + "..."
    return Problem(
        location=Location(path=shown, line=line, column=column),
        message=message,
        excerpt=f"    {excerpt}" if excerpt else "",
    )
