"""Quantities a specification writes with a unit: percentages, percentage points, durations."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

# Bounded, so that every number that matches is finite; shared with the schema that editors use.
_NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"

_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}


def parse_percentage(value: object) -> object:
    """Turn ``"3%"`` into 0.03; a bare number is refused, being ambiguous."""
    return _parse(value, suffix="%", example="3%")


def parse_points(value: object) -> object:
    """Turn ``"2pp"`` into 0.02; a bare number is refused, being ambiguous."""
    return _parse(value, suffix="pp", example="2pp")


def parse_duration(value: object) -> object:
    """Turn ``"90s"``, ``"5min"`` or ``"1h"`` into seconds; a bare number is refused, being ambiguous."""
    if isinstance(value, str):
        match = re.fullmatch(rf"({_NUMBER}) ?({'|'.join(_SECONDS)})", value)
        if match:
            return float(match[1]) * _SECONDS[match[2]]
    message = 'write it with its unit, such as "90s", "5min" or "1h"'
    raise ValueError(message)


def _parse(value: object, *, suffix: str, example: str) -> object:
    if isinstance(value, str):
        match = re.fullmatch(rf"({_NUMBER}) ?{suffix}", value)
        if match:
            return float(match[1]) / 100
    message = f'write it with its unit, such as "{example}"'
    raise ValueError(message)


Percentage = Annotated[
    float,
    BeforeValidator(parse_percentage),
    WithJsonSchema({"type": "string", "pattern": f"^{_NUMBER} ?%$"}),
]
Points = Annotated[
    float,
    BeforeValidator(parse_points),
    WithJsonSchema({"type": "string", "pattern": f"^{_NUMBER} ?pp$"}),
]
Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    WithJsonSchema({"type": "string", "pattern": f"^{_NUMBER} ?({'|'.join(_SECONDS)})$"}),
]
