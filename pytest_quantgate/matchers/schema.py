"""Whether an output's JSON satisfies a JSON Schema (draft 2020-12), by the `jsonschema` library.

Nothing is ever fetched: a reference leads to a place in the schema itself. Patterns in a schema are
searched in bounded time. ``format`` is an annotation, as the draft has it by default.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_quantgate.errors import MeasurementError
from pytest_quantgate.matchers.match import Match, shown
from pytest_quantgate.matchers.pattern import Pattern
from pytest_quantgate.matchers.structure import Refused, author_json, find_json, json_shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jsonschema.exceptions import ValidationError

DRAFT = "https://json-schema.org/draft/2020-12/schema"
LONGEST_REASON = 180  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonSchemaMatcher:
    """The output's JSON satisfies a schema."""

    schema: object
    _validator: Any = field(repr=False, compare=False)

    @classmethod
    def of(cls, expected: object) -> JsonSchemaMatcher:
        """Return the matcher of a schema or of its JSON text, which is checked here, once.

        Raises:
            ValueError: no schema of the draft, a reference that leads out of it or nowhere, a
                pattern that is none.
        """
        schema = author_json(expected, name="the schema")
        return cls(schema=schema, _validator=_validator(schema))

    def matches(self, output: str) -> Match:
        """Validate; the reason is of the error that explains most.

        Raises:
            MeasurementError: the schema refers to itself without end on this output.
        """
        try:
            value = find_json(output)
        except Refused as error:
            return Match(ok=False, reason=str(error))
        problem = _problem(self._validator, value)
        if problem is None:
            return Match(ok=True, reason="the output's JSON satisfies the schema")
        keyword = problem.validator or "false"  # the schema that nothing satisfies has no keyword
        reason = (
            f"{shown(problem.json_path)} breaks '{keyword}' of the schema: {_told(problem.message)}"
        )
        return Match(ok=False, reason=reason)


def _problem(validator: Any, value: object) -> ValidationError | None:  # noqa: ANN401 - made at run time
    from jsonschema.exceptions import best_match  # noqa: PLC0415 - slow to import

    try:
        problem: ValidationError | None = best_match(validator.iter_errors(value))
    except RecursionError as error:
        message = "the schema refers to itself without end; remove the loop of $ref"
        raise MeasurementError(message) from error
    return problem


def _validator(schema: Any) -> Any:  # noqa: ANN401 - JSON; a class made at run time
    from jsonschema import Draft202012Validator, FormatChecker, SchemaError, validators  # noqa: PLC0415 - slow to import
    from referencing import Registry  # noqa: PLC0415 - slow to import

    if isinstance(schema, dict) and str(schema.get("$schema", DRAFT)).rstrip("#") != DRAFT:
        message = f"the schema is of {json_shown(schema['$schema'])}; draft 2020-12 is supported"
        raise ValueError(message)
    try:
        # Patterns are checked below, for more than being patterns.
        Draft202012Validator.check_schema(schema, format_checker=FormatChecker(formats=()))
    except SchemaError as error:
        message = f"the schema is wrong at {shown(error.json_path)}: {_told(error.message)}"
        raise ValueError(message) from error
    patterns = _patterns(schema)
    extend: Any = validators.extend
    bounded = extend(Draft202012Validator, _keywords(patterns))
    registry: Any = Registry()
    # A registry of one's own is what keeps the library from fetching.
    validator = bounded(schema, registry=registry)
    samples: tuple[object, ...] = (None, True, 0, "", [], {})
    try:
        for value in samples:
            _problem(validator, value)
    except MeasurementError as error:
        raise ValueError(str(error)) from error
    return validator


def _patterns(schema: object) -> dict[str, Pattern]:
    """Follow all subschemas and references; return the patterns by their text."""
    from referencing import Registry  # noqa: PLC0415 - slow to import
    from referencing.exceptions import Unresolvable  # noqa: PLC0415 - slow to import
    from referencing.jsonschema import DRAFT202012  # noqa: PLC0415 - slow to import

    patterns: dict[str, Pattern] = {}
    registry: Any = Registry()
    root: Any = DRAFT202012.create_resource(schema)
    seen: set[int] = set()
    places: list[tuple[Any, Any]] = [(root, registry.resolver_with_root(root))]
    unevaluated = named = False
    while places:
        resource, resolver = places.pop()
        contents = resource.contents
        if id(contents) in seen or not isinstance(contents, dict):
            continue
        seen.add(id(contents))
        places += [(inner, resolver.in_subresource(inner)) for inner in resource.subresources()]
        for keyword in ("$ref", "$dynamicRef"):
            if keyword in contents:
                target = contents[keyword]
                try:
                    resolved = resolver.lookup(target)
                except Unresolvable as error:
                    message = (
                        f"the schema refers to {json_shown(target)}, which is not in it; nothing"
                        " is fetched, copy it under '$defs'"
                    )
                    raise ValueError(message) from error
                inner = DRAFT202012.create_resource(resolved.contents)
                places.append((inner, resolved.resolver))
        unevaluated = unevaluated or "unevaluatedProperties" in contents
        named = named or "patternProperties" in contents
        for text in _texts(contents):
            patterns[text] = Pattern.of(text, name=f"the schema's pattern '{shown(text)}'")
    if unevaluated and named:
        # The library would search with these patterns in its own way, without a bound.
        message = (
            "the schema has both 'unevaluatedProperties' and 'patternProperties'; use"
            " 'additionalProperties' with the latter"
        )
        raise ValueError(message)
    return patterns


def _texts(contents: dict[str, Any]) -> Iterator[str]:
    if "pattern" in contents:
        yield contents["pattern"]
    yield from contents.get("patternProperties", {})


def _keywords(patterns: dict[str, Pattern]) -> dict[str, Any]:
    """Return the keywords with patterns, which the library would search without a bound."""
    return {
        "pattern": partial(_check_pattern, patterns),
        "patternProperties": partial(_check_named, patterns),
        "additionalProperties": partial(_check_additional, patterns),
    }


# The library calls a keyword with its validator, the keyword's value, the instance and the schema.


def _check_pattern(
    patterns: dict[str, Pattern],
    validator: Any,  # noqa: ANN401 - made at run time
    text: str,
    instance: Any,  # noqa: ANN401 - JSON
    _: object,
) -> Iterator[ValidationError]:
    from jsonschema.exceptions import ValidationError  # noqa: PLC0415 - slow to import

    if validator.is_type(instance, "string") and not patterns[text].found_in(instance):
        yield ValidationError(f"{json_shown(instance)} does not match '{shown(text)}'")


def _check_named(
    patterns: dict[str, Pattern],
    validator: Any,  # noqa: ANN401 - made at run time
    schemas: dict[str, Any],
    instance: Any,  # noqa: ANN401 - JSON
    _: object,
) -> Iterator[ValidationError]:
    if validator.is_type(instance, "object"):
        for text, schema in schemas.items():
            for key in filter(patterns[text].found_in, instance):
                yield from validator.descend(instance[key], schema, path=key, schema_path=text)


def _check_additional(
    patterns: dict[str, Pattern],
    validator: Any,  # noqa: ANN401 - made at run time
    schema: object,
    instance: Any,  # noqa: ANN401 - JSON
    parent: dict[str, Any],
) -> Iterator[ValidationError]:
    from jsonschema.exceptions import ValidationError  # noqa: PLC0415 - slow to import

    if not validator.is_type(instance, "object"):
        return
    named = [patterns[text] for text in parent.get("patternProperties", {})]
    for key, value in instance.items():
        if key in parent.get("properties", {}) or any(one.found_in(key) for one in named):
            continue
        if schema is False:
            yield ValidationError(f"{json_shown(key)} is not among the properties")
        else:
            yield from validator.descend(value, schema, path=key)


def _told(message: str) -> str:
    """Return the library's sentence without the middle of a long value; it ends in the cause."""
    return message if len(message) <= LONGEST_REASON else f"{message[:60]} ... {message[-100:]}"
