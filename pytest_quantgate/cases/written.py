"""A case as its author writes it, and the one that follows from it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pytest_quantgate.cases.case import Case
from pytest_quantgate.matchers import Kind, matcher_for
from pytest_quantgate.records import Message

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_quantgate.matchers import Matcher

_OPTIONS = ("options", "absolute", "relative", "which", "notation")
"""Keys that a matcher takes beside what is expected."""

Text = Annotated[str, Field(min_length=1)]


class Turn(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    role: Literal["system", "user", "assistant"]
    content: str


class WrittenCase(BaseModel):
    """One case: what is asked, and what is expected."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: Text | None = Field(default=None, description="Name of the case, once in a file")
    prompt: Text | None = Field(
        default=None, description="Text that the model continues as it stands"
    )
    messages: list[Turn] | None = Field(
        default=None,
        min_length=1,
        description="Messages that go through the model's own chat template",
    )
    expected: Any = Field(
        default=None,
        description="What the output is to be: a text, a number or a JSON value, as `match` has it",
    )
    match: Kind = Field(
        default="contains", description="How outputs are compared with what is expected"
    )
    json_schema: dict[str, Any] | bool | None = Field(
        default=None, description="JSON Schema (draft 2020-12) of outputs, of the two JSON kinds"
    )
    options: list[str] | dict[str, str] | None = Field(
        default=None, description="Options of a `choice`: texts, or label: text"
    )
    absolute: float | None = Field(
        default=None, ge=0, description="Distance from the expected `number` that is still right"
    )
    relative: float | None = Field(
        default=None, ge=0, description="The same, as a share of the expected `number`"
    )
    which: Literal["answer", "last", "first"] | None = Field(
        default=None, description="Which `number` of an output counts"
    )
    notation: Literal["point", "comma"] | None = Field(
        default=None, description="What stands before the decimals of a `number`"
    )
    max_tokens: int | None = Field(default=None, ge=1, description="Longest output in tokens")
    stop: list[Text] = Field(default=[], description="Texts that end an output")
    tags: list[Text] = Field(default=[], description="Slices that the case belongs to")
    weight: float = Field(
        default=1.0, gt=0, allow_inf_nan=False, description="How much the case counts beside 1"
    )

    @property
    def has_expected(self) -> bool:
        """Tell an expected null from none."""
        return "expected" in self.model_fields_set


class CaseBuilder:
    """Makes cases of what is written; a schema that many cases share is prepared once."""

    def __init__(self) -> None:
        """Begin without any schema."""
        self._schemas: dict[str, Matcher] = {}

    def build(self, written: WrittenCase, *, name: str) -> Case:
        """Return the case, called ``name`` where it has no id.

        Raises:
            ValueError: keys that do not go together, or an expectation that cannot be used; its
                arguments are all the sentences that say so.
        """
        wrong = list(_disagreements(written))
        try:
            schema = self._schema(written.json_schema)
            matcher = _matcher(written, schema)
        except ValueError as error:
            raise ValueError(*wrong, str(error)) from error
        if wrong:
            raise ValueError(*wrong)
        schema_text = None if schema is None else _text(written.json_schema)
        value = written.expected if written.match in ("json", "json_schema") else None
        if written.match == "json" and isinstance(value, str):
            value = json.loads(value)
        return Case(
            id=written.id or name,
            prompt=written.prompt,
            messages=tuple(
                Message(role=turn.role, content=turn.content) for turn in written.messages or ()
            ),
            expected=_text(written.expected if written.has_expected else written.json_schema),
            match=written.match,
            matcher=matcher,
            expected_value=value,
            json_schema=schema_text,
            schema_matcher=schema,
            max_tokens=written.max_tokens,
            stop=tuple(written.stop),
            tags=tuple(written.tags),
            weight=written.weight,
        )

    def _schema(self, schema: object) -> Matcher | None:
        if schema is None:
            return None
        text = _text(schema)
        if text not in self._schemas:
            self._schemas[text] = matcher_for("json_schema", schema)
        return self._schemas[text]


def _disagreements(written: WrittenCase) -> Iterator[str]:
    """Yield what is wrong between keys that are each right."""
    if (written.prompt is None) == (written.messages is None):
        yield "a case has either 'prompt' or 'messages'"
    if len(set(written.tags)) < len(written.tags):
        yield f"'tags' names a slice twice: {', '.join(written.tags)}"
    if written.match == "json_schema":
        if written.has_expected and not isinstance(written.expected, dict):
            yield "'expected' of the kind json_schema is an object, whose fields are compared"
    elif written.match != "json" and written.json_schema is not None:
        yield f"'json_schema' belongs to the kinds json and json_schema, not to {written.match!r}"


def _matcher(written: WrittenCase, schema: Matcher | None) -> Matcher:
    given = {key: getattr(written, key) for key in _OPTIONS}
    options = {key: value for key, value in given.items() if value is not None}
    expected = written.expected
    if written.match == "json_schema":
        if schema is None:
            message = "a case of the kind json_schema has its schema in the key 'json_schema'"
            raise ValueError(message)
        return matcher_for("json_schema", written.json_schema, **options) if options else schema
    if not written.has_expected:
        message = "missing key 'expected'"
        raise ValueError(message)
    if written.match in ("contains", "exact", "regex", "choice"):
        if expected == "":
            message = "'expected' is empty"
            raise ValueError(message)
        if not isinstance(expected, str):
            message = f"'expected' should be a valid string, not {expected!r}; put it in quotes"
            raise ValueError(message)
    return matcher_for(written.match, expected, **options)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
