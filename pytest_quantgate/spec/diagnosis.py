"""From pydantic's findings to sentences about a specification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pytest_quantgate.artifact.catalog import did_you_mean
from pytest_quantgate.gates import kinds
from pytest_quantgate.spec.model import shape_at

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

    from pytest_quantgate.errors import Problem
    from pytest_quantgate.spec.document import Document, Keys, Node

SHOWN_CHARACTERS = 60

MODEL = ("models", "*")
VARIANT = ("models", "*", "variants", "*")


def shape_problems(document: Document, error: ValidationError) -> Iterator[Problem]:
    """Yield a problem for each thing pydantic found, unless reading has told it already."""
    for detail in error.errors(include_url=False):
        problem = _problem(document, detail)
        if problem is not None:
            yield problem


def empty_values(document: Document) -> Iterator[Problem]:
    """Yield a problem for each key that has no value: a forgotten limit must not pass as none."""
    yield from _empty(document, document.root, ())


def _empty(document: Document, node: Node, keys: Keys) -> Iterator[Problem]:
    if isinstance(node.value, Mapping):
        for key, entry in node.value.items():
            yield from _empty(document, entry.node, (*keys, key))
    elif isinstance(node.value, tuple):
        for index, item in enumerate(node.value):
            yield from _empty(document, item, (*keys, index))
    elif node.value is None and not node.broken:
        yield document.problem(keys, _empty_sentence(keys), of_key=True)


def _empty_sentence(keys: Keys) -> str:
    if _is_gate(keys) and keys[-1] in kinds():
        limits = kinds()[str(keys[-1])].settings.limit_names
        advice = f"give one of {', '.join(limits)}" if limits else f"write `{keys[-1]}: {{}}`"
        return f"gate {keys[-1]!r} has no settings; {advice}"
    return f"{_described(keys)} has no value; write one, or remove the key"


def _problem(document: Document, detail: ErrorDetails) -> Problem | None:
    kind, keys = detail["type"], tuple(detail["loc"])
    if keys and keys[-1] == "[key]":
        return document.problem(keys[:-1], detail["msg"], of_key=True)
    node = document.node(keys)
    if node is not None and (node.broken or node.value is None):
        return None
    if kind == "missing":
        return _missing(document, keys)
    if kind == "extra_forbidden":
        return document.problem(keys, _unknown(keys), of_key=True)
    return document.problem(keys, _sentence(keys, detail))


def _missing(document: Document, keys: Keys) -> Problem | None:
    parent = document.node(keys[:-1])
    if parent is not None and parent.broken:
        return None
    message = f"missing key {keys[-1]!r} in {_described(keys[:-1])}"
    if keys == ("quantgate",):
        message += "; write `quantgate: 1` first"
    return document.problem(keys[:-1], message, of_key=True)


def _described(keys: Keys) -> str:
    """Say what a mapping is to its author."""
    if not keys:
        return "the specification"
    if _is_gate(keys):
        return f"gate {_quoted(keys[-1])}"
    if len(keys) == len(MODEL):
        return f"model {_quoted(keys[-1])}"
    if len(keys) == len(VARIANT) and keys[2] == VARIANT[2]:
        return f"variant {_quoted(keys[-1])}"
    owner = f" of {_described(keys[:-1])}" if len(keys) > 1 else ""
    return f"{_quoted(keys[-1])}{owner}"


def _is_gate(keys: Keys) -> bool:
    of_model = len(keys) == len(MODEL) + 2 and keys[2] == "gates"
    return of_model or (len(keys) == len(VARIANT) + 2 and keys[4] == "gates")


def _unknown(keys: Keys) -> str:
    shape = shape_at(keys[:-1])
    known = list(shape.model_fields) if shape else []
    what = "gate" if _is_gate(keys) else "key"
    hint = did_you_mean(str(keys[-1]), known)
    choice = f" Valid {what}s" if hint else f"; valid {what}s"
    where = _described(keys[:-1])
    return f"unknown {what} {_quoted(keys[-1])} in {where}{hint}{choice}: {', '.join(known)}"


def _sentence(keys: Keys, detail: ErrorDetails) -> str:
    kind, seen = detail["type"], detail["input"]
    context = detail.get("ctx", {})
    name = _quoted(keys[-1]) if keys else "the specification"
    if kind == "value_error":
        text = str(context["error"])
        is_mapping = isinstance(seen, Mapping)
        return f"{_described(keys)}: {text}" if is_mapping else f"{name} is {_shown(seen)}; {text}"
    if kind in _TYPES:
        return f"{name} must be {_TYPES[kind]}, not {_shown(seen)}"
    if kind in _BOUNDS:
        return f"{name} must be {_BOUNDS[kind]} {_bound(context)}, not {_shown(seen)}"
    if kind in {"too_short", "string_too_short"}:
        return f"{name} is empty; give at least one" + (" character" if seen == "" else "")
    if kind == "string_pattern_mismatch":
        return f"{name} must have the form {context['pattern']}, not {_shown(seen)}"
    # The kinds that `model` defines are sentences already; pydantic's own lack the name.
    return detail["msg"].replace("Input should", f"{name} should")


_TYPES = {
    "string_type": "a text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "list_type": "a list",
    "tuple_type": "a list",
}
_BOUNDS = {
    "greater_than": "greater than",
    "greater_than_equal": "at least",
    "less_than": "less than",
    "less_than_equal": "at most",
}


def _bound(context: Mapping[str, object]) -> str:
    found = next(context[key] for key in ("gt", "ge", "lt", "le") if key in context)
    return f"{found:g}" if isinstance(found, float) else str(found)


def _shown(value: object) -> str:
    """Say what was found instead, in the words of a YAML file."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the text {_quoted(value)}"
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list) else str(value)


def _quoted(text: str | int) -> str:
    text = str(text)
    return repr(text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "...")
