"""Verdicts as user properties of a test report: plain data that survives xdist and JUnit XML."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from pytest_quantgate.records import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_quantgate.records import Location

PREFIX = "quantgate."
RECORD = "quantgate.record"

Property = tuple[str, object]


def of_case(key: tuple[str, str, str], location: Location) -> list[Property]:
    """Return what is known of a gate before it is measured."""
    names = ("model", "variant", "gate")
    named: list[Property] = [
        (f"quantgate.{name}", part) for name, part in zip(names, key, strict=True)
    ]
    return [*named, ("quantgate.spec", str(location))]


def key_of(properties: Iterable[Property]) -> tuple[str, str, str] | None:
    """Return model, variant and gate that `of_case` wrote, None for a report of another test."""
    found = {name: str(value) for name, value in properties}
    try:
        return (found["quantgate.model"], found["quantgate.variant"], found["quantgate.gate"])
    except KeyError:
        return None


def of_verdict(verdict: Verdict) -> list[Property]:
    """Return flat figures for people and tools, and the whole verdict as one JSON string."""
    properties = of_case(verdict.key, verdict.location)
    properties.append(("quantgate.verdict", verdict.outcome.value))
    for check in verdict.checks:
        name = f"quantgate.{check.limit_name}"
        figures: list[Property] = [
            (f"{name}.value", check.text or check.value),
            (f"{name}.limit", check.limit_text or check.limit),
            (f"{name}.baseline", check.baseline),
        ]
        properties.extend((key, value) for key, value in figures if value is not None)
    plain = dataclasses.asdict(verdict)
    for check in plain["checks"]:
        if check["interval"] is not None:
            check["interval"] = {name: _written(each) for name, each in check["interval"].items()}
    properties.append((RECORD, json.dumps(plain, allow_nan=False)))
    return properties


def _written(bound: float | None) -> float | str | None:
    """Return a bound as JSON can carry it: an end that nothing limits yet is infinite."""
    return str(bound) if bound is not None and math.isinf(bound) else bound


def verdict_of(properties: Iterable[Property]) -> Verdict | None:
    """Return the verdict that `of_verdict` wrote, None where there is none."""
    for name, value in properties:
        if name == RECORD and isinstance(value, str):
            return _adapter().validate_json(value)
    return None


@functools.cache
def _adapter() -> TypeAdapter[Verdict]:
    return TypeAdapter(Verdict)
