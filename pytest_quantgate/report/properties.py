"""Verdicts as user properties of a test report: plain data that survives xdist and JUnit XML."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from pytest_quantgate.records import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_quantgate.records import Answer, AnsweredCase, Location

PREFIX = "quantgate."
RECORD = "quantgate.record"

CARRIED_FLIPS = 50
"""Flips that a record holds; `--quantgate-answers` writes all answers."""

CARRIED_CHARACTERS = 2000
"""Longest text of a flip in a record."""

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
    """Return flat figures for people and tools, and the verdict as one JSON string.

    Of the answered cases it has those that flipped, at most `CARRIED_FLIPS`, with long texts cut:
    properties are written into XML and held by every report.
    """
    properties = of_case(verdict.key, verdict.location)
    properties.append(("quantgate.verdict", verdict.outcome.value))
    if any(case.baseline is not None for case in verdict.cases):
        flips = [case.flip for case in verdict.cases]
        properties.extend(
            (f"quantgate.flips.{way}", flips.count(way)) for way in ("lost", "gained")
        )
    for check in verdict.checks:
        name = f"quantgate.{check.limit_name}"
        figures: list[Property] = [
            (f"{name}.value", check.text or check.value),
            (f"{name}.limit", check.limit_text or check.limit),
            (f"{name}.baseline", check.baseline),
        ]
        properties.extend((key, value) for key, value in figures if value is not None)
    flipped = (case for case in verdict.cases if case.flip is not None)
    carried = tuple(_cut(case) for case in itertools.islice(flipped, CARRIED_FLIPS))
    plain = dataclasses.asdict(dataclasses.replace(verdict, cases=carried))
    for check in plain["checks"]:
        if check["interval"] is not None:
            check["interval"] = {name: _written(each) for name, each in check["interval"].items()}
    properties.append((RECORD, json.dumps(plain, allow_nan=False)))
    return properties


def _cut(case: AnsweredCase) -> AnsweredCase:
    """Return a case without what only its export needs whole."""
    baseline = case.baseline
    return dataclasses.replace(
        case,
        question=case.question[:CARRIED_CHARACTERS],
        expected=case.expected[:CARRIED_CHARACTERS],
        candidate=_cut_answer(case.candidate),
        baseline=None if baseline is None else _cut_answer(baseline),
        parting=case.parting
        and dataclasses.replace(case.parting, common=case.parting.common[-CARRIED_CHARACTERS:]),
    )


def _cut_answer(answer: Answer) -> Answer:
    return dataclasses.replace(
        answer,
        output=answer.output[:CARRIED_CHARACTERS],
        reason=answer.reason[:CARRIED_CHARACTERS],
        token_ids=(),
    )


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
