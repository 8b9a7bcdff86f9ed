"""The JSON schema of a list of cases, for editors: all but the rules between keys."""

from __future__ import annotations

import json
from typing import Any

from pytest_quantgate.cases.written import WrittenCase

DIALECT = "https://json-schema.org/draft/2020-12/schema"
IDENTIFIER = "urn:pytest-quantgate:cases:1"


def json_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a case file that is one list.

    A single case, as a line of JSON Lines holds it, is ``$defs/WrittenCase``.
    """
    case = WrittenCase.model_json_schema()
    definitions = {**case.pop("$defs"), "WrittenCase": case}
    case["oneOf"] = [{"required": ["prompt"]}, {"required": ["messages"]}]
    return {
        "$schema": DIALECT,
        "$id": IDENTIFIER,
        "title": "pytest-quantgate cases",
        "type": "array",
        "minItems": 1,
        "items": {"$ref": "#/$defs/WrittenCase"},
        "$defs": {name: _cleaned(each) for name, each in sorted(definitions.items())},
    }


def schema_text() -> str:
    """Return the contents of ``cases.schema.json``."""
    return json.dumps(json_schema(), indent=2) + "\n"


def _cleaned(definition: dict[str, Any]) -> dict[str, Any]:
    """Drop titles that repeat keys, and null in the place of a key that is left out."""
    properties: dict[str, dict[str, Any]] = {}
    for key, described in definition["properties"].items():
        plain = {
            word: value
            for word, value in described.items()
            if word != "title" and not (word == "default" and value is None)
        }
        options = [one for one in plain.pop("anyOf", []) if one != {"type": "null"}]
        if len(options) == 1:
            plain = {**options[0], **plain}
        elif options:
            plain["anyOf"] = options
        properties[key] = plain
    return {**definition, "properties": properties}
