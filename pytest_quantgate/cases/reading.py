"""From the bytes of a case file to cases, with every problem in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from pytest_quantgate.cases.entries import Entry, Unreadable, array, lines
from pytest_quantgate.cases.written import CaseBuilder, Turn, WrittenCase
from pytest_quantgate.errors import ArtifactError, Problem, SpecError
from pytest_quantgate.records import Location

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from pytest_quantgate.cases.case import Case
    from pytest_quantgate.cases.entries import Place

MAX_PROBLEMS = 100
"""Problems that are told at once; whoever has more of them has one that repeats itself."""

_LONGEST_EXCERPT = 100
_MESSAGE_DEPTH = 3  # the keys of a message are at messages.<number>.<key>


def load_cases(path: Path, *, shown: str) -> tuple[Case, ...]:
    """Read a file of cases; ``shown`` is its name in messages.

    By the end of its name the file is JSON Lines (``.jsonl``, and whatever has another end), one
    JSON array (``.json``), or a list in YAML (``.yaml``, ``.yml``).

    Raises:
        ArtifactError: the file cannot be read.
        SpecError: what is written there are no cases, all of it, each with its place.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        message = f"cannot read the case file {shown}: {error.strerror or error}"
        raise ArtifactError(message) from error
    reader = _Reader(shown)
    cases = tuple(reader.cases(_entries(data.removeprefix(b"\xef\xbb\xbf"), path.suffix.lower())))
    if not cases and not reader.problems:
        reader.tell((1, 1), "the case file is empty; write one JSON object a line")
    if reader.problems:
        raise SpecError(_bounded(reader.problems))
    return cases


class _Reader:
    """Makes cases of the values of one file; problems gather in it."""

    def __init__(self, shown: str) -> None:
        self.problems: list[Problem] = []
        self._shown = shown
        self._builder = CaseBuilder()
        self._seen: dict[str, int] = {}

    def tell(self, place: Place, message: str, text: str = "") -> None:
        """Keep a problem."""
        excerpt = text.strip()
        if len(excerpt) > _LONGEST_EXCERPT:
            excerpt = excerpt[:_LONGEST_EXCERPT] + "..."
        self.problems.append(
            Problem(
                location=Location(path=self._shown, line=place[0], column=place[1]),
                message=message,
                excerpt=f"    {excerpt}" if excerpt else "",
            )
        )

    def cases(self, entries: Iterable[Entry | Unreadable]) -> Iterator[Case]:
        """Yield a case for each entry that is one."""
        for entry in entries:
            if isinstance(entry, Unreadable):
                self.tell(entry.place, entry.reason, entry.text)
                continue
            case = self._case(entry)
            if case is None:
                continue
            if case.id in self._seen:
                message = f"case id {case.id!r} is taken by line {self._seen[case.id]}"
                place = entry.place_of(("id",))
                self.tell(place, message, entry.excerpt(place))
            self._seen.setdefault(case.id, entry.place[0])
            yield case

    def _case(self, entry: Entry) -> Case | None:
        if not isinstance(entry.value, dict):
            message = 'a case is a JSON object such as {"prompt": "2 + 2 =", "expected": "4"}'
            self.tell(entry.place, message, entry.excerpt(entry.place))
            return None
        half = _half_character(entry.value) if "\\u" in entry.text else None
        if half is not None:
            message = f"not JSON: {half} is half of a surrogate pair and no character"
            self.tell(entry.place, message, entry.excerpt(entry.place))
            return None
        try:
            written = WrittenCase.model_validate(entry.value)
        except ValidationError as error:
            for detail in error.errors():
                place = entry.place_of(detail["loc"])
                self.tell(place, _sentence(detail), entry.excerpt(place))
            return None
        try:
            return self._builder.build(written, name=entry.name)
        except ValueError as error:
            for message in error.args:
                self.tell(entry.place, message, entry.excerpt(entry.place))
            return None


def _entries(data: bytes, suffix: str) -> Iterator[Entry | Unreadable]:
    if suffix not in (".json", ".yaml", ".yml"):
        yield from lines(data)
        return
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        reason = f"not UTF-8: byte 0x{data[error.start]:02x}; save the file as UTF-8"
        yield Unreadable(place=(line, column), reason=reason)
        return
    if suffix == ".json":
        yield from array(text)
        return
    from pytest_quantgate.cases.listing import listed  # noqa: PLC0415 - YAML is for those who write it

    yield from listed(text)


def _half_character(value: object) -> str | None:
    """Return the escape of a half of a surrogate pair, which is no text that a model could be sent."""
    texts = [value]
    while texts:
        part = texts.pop()
        if isinstance(part, dict):
            texts += [*part.keys(), *part.values()]
        elif isinstance(part, list):
            texts += part
        elif isinstance(part, str):
            for character in part:
                if "\ud800" <= character <= "\udfff":
                    return f"\\u{ord(character):04x}"
    return None


def _sentence(detail: Mapping[str, object]) -> str:
    place = detail["loc"]
    parts = place if isinstance(place, tuple) else (place,)
    name = ".".join(str(part) for part in parts)
    kind = detail["type"]
    if kind == "missing":
        return f"missing key {name!r}"
    if kind == "extra_forbidden":
        owner, model = (
            ("a message", Turn) if len(parts) == _MESSAGE_DEPTH else ("a case", WrittenCase)
        )
        return f"unknown key {name!r}; {owner} has {', '.join(model.model_fields)}"
    if kind in ("string_too_short", "too_short"):
        return f"{name!r} is empty"
    reason = str(detail["msg"]).removeprefix("Input ")
    return f"{name!r} {reason}, not {detail['input']!r}"


def _bounded(problems: list[Problem]) -> list[Problem]:
    if len(problems) <= MAX_PROBLEMS:
        return problems
    rest = len(problems) - MAX_PROBLEMS
    last = problems[MAX_PROBLEMS]
    more = Problem(location=last.location, message=f"and {rest} more problems from here on")
    return [*problems[:MAX_PROBLEMS], more]
