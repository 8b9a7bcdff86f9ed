"""The probe's perplexity is the one that llama.cpp's own tool prints."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from pytest_quantgate.artifact import hardware
from pytest_quantgate.gates.perplexity import perplexity
from pytest_quantgate.measure import Probe
from pytest_quantgate.records import EngineSettings, LikelihoodRequest

TRANSCRIPTS = Path(__file__).parent / "transcripts"
TINY = Path(__file__).parents[1] / "models" / "tiny-f16.gguf"


@pytest.mark.parametrize("context", [512, 128])
def test_the_figure_equals_the_tools_to_the_printed_digit(context: int) -> None:
    """A stored transcript of the tool holds; on another processor low bits differ, and 1e-3 is kept."""
    transcript = json.loads((TRANSCRIPTS / "llama-perplexity.json").read_text())
    text = TRANSCRIPTS / "text.md.txt"
    with Probe.start() as probe:
        probe.load(TINY, EngineSettings(threads=2), timeout=60)
        likelihood = probe.likelihood(
            LikelihoodRequest(
                corpus_path=str(text),
                corpus_sha256=hashlib.sha256(text.read_bytes()).hexdigest(),
                context=context,
            ),
            timeout=300,
        )
    figure = perplexity(likelihood)

    expected = transcript["final_estimate"][str(context)]

    if hardware.this_machine().arithmetic == transcript["arithmetic"]:
        assert f"{figure.value:.4f} +/- {figure.error:.5f}" == expected
    value, error = (float(part) for part in expected.split(" +/- "))
    assert figure.value == pytest.approx(value, rel=1e-3)
    assert figure.error == pytest.approx(error, rel=1e-2)
