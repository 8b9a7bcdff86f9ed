"""The probe's divergence is the one that llama.cpp's own tool prints, line by line."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pytest_quantgate import divergence_statistics, measure
from pytest_quantgate.artifact import hardware
from pytest_quantgate.records import (
    Divergence,
    DivergenceRequest,
    EngineSettings,
    LikelihoodRequest,
    Packed,
    TextRequest,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

TRANSCRIPTS = Path(__file__).parent / "transcripts"
TRANSCRIPT: dict[str, Any] = json.loads(
    (TRANSCRIPTS / "llama-perplexity-kld.json").read_text("utf-8")
)
TEXT = TRANSCRIPTS / "text.md.txt"
TINY = Path(__file__).parents[1] / "models" / "tiny-f16.gguf"
CHUNKS = 9
SECONDS = 120.0
SAME_ARITHMETIC = hardware.this_machine().arithmetic == TRANSCRIPT["arithmetic"]
LINE = re.compile(r"\s*(.+?)\s*:\s+(-?[\d.]+)%?(?:\s+±\s+([\d.]+))?")


def sha256(path: Path) -> str:
    """Return the digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the quantized models and logits files of the module."""
    return tmp_path_factory.mktemp("kld")


@pytest.fixture(
    scope="module", params=TRANSCRIPT["runs"], ids=lambda run: f"{run['type']}-{run['context']}"
)
def run(request: pytest.FixtureRequest) -> dict[str, Any]:
    """One run of the tool: type, context and table."""
    found: dict[str, Any] = request.param
    return found


@pytest.fixture(scope="module")
def pair(run: dict[str, Any], folder: Path) -> Iterator[tuple[measure.Probe, measure.Probe]]:
    """The quantized model and its original, loaded in probes that share memory."""
    target = folder / f"{run['type']}.gguf"
    candidate, baseline = measure.start_pair(timeout=SECONDS)
    with candidate, baseline:
        if not target.exists():
            arguments = {
                "source": str(TINY),
                "target": str(target),
                "type_name": run["type"],
                "threads": 1,
            }
            baseline.run("quantize", arguments, timeout=SECONDS)
        candidate.load(target, EngineSettings(threads=2), timeout=SECONDS)
        baseline.load(TINY, EngineSettings(threads=2), timeout=SECONDS)
        yield candidate, baseline


@pytest.fixture(scope="module")
def logits(pair: tuple[measure.Probe, measure.Probe], run: dict[str, Any], folder: Path) -> Path:
    """The logits file of the original."""
    path = folder / f"{run['context']}.logits"
    request = TextRequest(corpus_path=str(TEXT), corpus_sha256=sha256(TEXT), context=run["context"])
    assert CHUNKS == pair[1].write_logits(request, CHUNKS, path, timeout=SECONDS)
    return path


@pytest.fixture(scope="module")
def filed(
    pair: tuple[measure.Probe, measure.Probe], run: dict[str, Any], logits: Path
) -> Divergence:
    """The divergence from the logits file."""
    request = DivergenceRequest(
        reference="logits",
        context=run["context"],
        reference_path=str(logits),
        reference_sha256=sha256(logits),
    )
    return pair[0].divergence(request, timeout=SECONDS)


@pytest.fixture(scope="module")
def live(pair: tuple[measure.Probe, measure.Probe], run: dict[str, Any]) -> Divergence:
    """The divergence in lockstep."""
    request = DivergenceRequest(
        reference="live",
        corpus_path=str(TEXT),
        corpus_sha256=sha256(TEXT),
        context=run["context"],
        chunks=tuple(range(CHUNKS)),
    )
    return measure.measure_divergence(*pair, request, timeout=SECONDS)


def statistics(found: Divergence) -> dict[str, tuple[float, ...]]:
    """Return everything the tool prints, by the name it prints it under, shares in percent."""
    table = divergence_statistics.statistics(
        found.candidate.token_nll.array(),
        found.baseline.token_nll.array(),
        found.kld.array(),
        found.same_top.array(),
    )
    return {
        line.label: tuple(
            figure * (1 if line.percent is None else 100)
            for figure in (line.value, line.error)
            if figure is not None
        )
        for line in table
    }


def printed(table: list[str]) -> dict[str, tuple[str, ...]]:
    """Return the tool's table as figures under their names, as they are printed."""
    figures = {}
    for line in table:
        match = LINE.match(line)
        assert match is not None, line
        name = " ".join(match[1].split())
        figures[name] = tuple(part for part in match.groups()[1:] if part is not None)
    return figures


def test_every_line_is_the_tools(filed: Divergence, run: dict[str, Any]) -> None:
    """From the logits file, each figure is the printed one; on another processor they are near."""
    ours, theirs = statistics(filed), printed(run["table"])

    assert list(theirs) == list(ours)
    assert len(theirs) == len(run["table"])
    assert "16-bit" == filed.precision
    for name, figures in theirs.items():
        for own, text in zip(ours[name], figures, strict=True):
            unit = 10.0 ** -len(text.partition(".")[2])
            if SAME_ARITHMETIC:
                # Half a unit was lost in print; what float32 loses is another one in a million.
                assert own == pytest.approx(float(text), rel=1e-6, abs=0.51 * unit + 1e-6), name
            else:
                assert own == pytest.approx(float(text), rel=0.05, abs=0.2), name


def test_lockstep_differs_by_the_files_rounding_alone(live: Divergence, filed: Divergence) -> None:
    """Full logits give every figure of the file within what its 16 bits can hold.

    What they cannot hold is how much less likely than e**-16 times the best token another one is;
    where the text goes on with such a token, the file has it too likely.
    """
    assert "exact" == live.precision
    assert live.candidate.token_nll == filed.candidate.token_nll
    full, rounded = live.baseline.token_nll.array(), filed.baseline.token_nll.array()
    raised = rounded > 16
    # Half a step of the file at most, and tokens less likely than the file can say.
    assert full[~raised] == pytest.approx(rounded[~raised], abs=16 / 65535 / 2 * 1.01)
    assert (full[raised] > rounded[raised] - 16 / 65535).all()
    assert raised.mean() < 0.002

    with_floor = Packed.of(np.where(raised, rounded, full), "<f4")
    floored = dataclasses.replace(
        live, baseline=dataclasses.replace(live.baseline, token_nll=with_floor)
    )
    ours, theirs = statistics(floored), statistics(filed)
    for name, figures in theirs.items():
        # Δp and shares are in percent.
        allowed = 3e-2 if "KLD" not in name and "PPL" not in name else 1e-3
        assert ours[name] == pytest.approx(figures, rel=3e-3, abs=allowed), name


def test_a_block_is_what_its_models_are_alone(
    pair: tuple[measure.Probe, measure.Probe], live: Divergence, run: dict[str, Any]
) -> None:
    """The likelihoods in a divergence are, to the last bit, those measured one model at a time."""
    request = LikelihoodRequest(
        corpus_path=str(TEXT),
        corpus_sha256=sha256(TEXT),
        context=run["context"],
        chunks=tuple(range(CHUNKS)),
    )
    for probe, found in zip(pair, (live.candidate, live.baseline), strict=True):
        alone = probe.likelihood(request, timeout=SECONDS)

        assert alone.chunk_nll == found.chunk_nll
        assert alone.chunk_nll2 == found.chunk_nll2
        assert alone.token_nll == found.token_nll


@pytest.mark.skipif(not SAME_ARITHMETIC, reason="the tool's file is that of another processor")
def test_the_written_file_is_the_tools(logits: Path, run: dict[str, Any]) -> None:
    """The logits file has the very bytes that the tool writes."""
    assert TRANSCRIPT["bases"][str(run["context"])] == sha256(logits)
