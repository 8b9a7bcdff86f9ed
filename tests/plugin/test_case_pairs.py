"""The fixture `test_cases`: pairs of prompt and text that a test can look for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conftest import Project

SPEC = """\
quantgate: 1
models:
  tiny:
    variants: {F16: {source: tiny-f16.gguf}}
    gates:
      accuracy: {cases: CASES, min: 0.5}
"""


def test_pairs_are_of_cases_whose_text_can_be_looked_for(project: Project) -> None:
    """Patterns, numbers and JSON are left out, and a file of nothing else is an error with a remedy."""
    project.spec(SPEC.replace("CASES", "'builtin:everyday'"))
    project.pytester.makepyfile(
        "def test_pairs(test_cases):\n"
        "    assert ('The capital of France is', 'Paris') in test_cases\n"
        "    assert len(test_cases) < 185\n"
    )
    project.gate("-m", "not quantgate").assert_outcomes(passed=1, deselected=1)

    project.spec(SPEC.replace("CASES", "cases.jsonl"))
    (project.path / "cases.jsonl").write_text(
        '{"prompt": "2 + 2 =", "expected": 4, "match": "number"}', encoding="utf-8"
    )
    result = project.gate("-m", "not quantgate")
    result.assert_outcomes(errors=1, deselected=1)
    result.stdout.fnmatch_lines(
        ["*cases.jsonl has no case with a `prompt` whose output is to contain a text or to be one*"]
    )
