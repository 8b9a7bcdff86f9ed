"""The JSON schema of a specification, for editors: all but the rules between keys."""

from __future__ import annotations

import json
from typing import Any

from pytest_quantgate.gates import kinds
from pytest_quantgate.spec.model import Spec
from pytest_quantgate.spec.recipe import MAKEABLE_TYPES, PLAIN_TYPES

LISTS = {"QuantizationType": list(MAKEABLE_TYPES), "PlainQuantizationType": list(PLAIN_TYPES)}
"""Long lists of names, which stand once and are referred to."""

DIALECT = "https://json-schema.org/draft/2020-12/schema"
IDENTIFIER = "urn:pytest-quantgate:gates:1"


def json_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of format version 1."""
    schema = dict(_cleaned(Spec.model_json_schema()))
    definitions = schema["$defs"]
    definitions |= {name: {"enum": names} for name, names in LISTS.items()}
    for kind in kinds().values():
        if kind.settings.limit_names:
            needs = [{"required": [name]} for name in kind.settings.limit_names]
            definitions[kind.settings.__name__]["anyOf"] = needs
    schema["title"] = "pytest-quantgate specification"
    return {"$schema": DIALECT, "$id": IDENTIFIER, **schema}


def schema_text() -> str:
    """Return the contents of ``gates.schema.json``."""
    return json.dumps(json_schema(), indent=2) + "\n"


def _cleaned(part: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Drop what the reader does not know: null in place of a value, and titles that repeat keys."""
    if isinstance(part, list):
        return [_cleaned(item) for item in part]
    if not isinstance(part, dict):
        return part
    cleaned: dict[str, Any] = {
        key: _members(value) if key in {"properties", "$defs"} else _cleaned(value)
        for key, value in part.items()
        if key != "title" and not (key == "default" and value is None)
    }
    for name, names in LISTS.items():
        if cleaned.get("enum") == names:
            # Many copies of a long list would bury the rest.
            del cleaned["enum"]
            cleaned["$ref"] = f"#/$defs/{name}"
    options = cleaned.get("anyOf")
    if options and {"type": "null"} in options:
        rest = [option for option in options if option != {"type": "null"}]
        del cleaned["anyOf"]
        only: dict[str, Any] = rest[0] if len(rest) == 1 else {"anyOf": rest}
        cleaned = only | cleaned
    return cleaned


def _members(members: dict[str, Any]) -> dict[str, Any]:
    """Clean each of some named schemas; a name is no keyword, even if it is ``title``."""
    return {name: _cleaned(schema) for name, schema in members.items()}
