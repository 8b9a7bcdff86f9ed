"""Importance matrices are those of llama.cpp's own tool, byte by byte."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_models import write_experts

from pytest_quantgate.artifact import hardware, source
from pytest_quantgate.artifact.gguf import read_header
from pytest_quantgate.artifact.imatrix import check_fits, read_imatrix, write_imatrix
from pytest_quantgate.pipeline import importance

TRANSCRIPTS = Path(__file__).parent / "transcripts"
TRANSCRIPT: dict[str, Any] = json.loads((TRANSCRIPTS / "llama-imatrix.json").read_text("utf-8"))
TINY = Path(__file__).parents[1] / "models" / "tiny-f16.gguf"
TOOLS_GGUF, TOOLS_LEGACY = (
    TRANSCRIPTS / f"llama-imatrix-experts.{suffix}" for suffix in ("gguf", "dat")
)
SECONDS = 300.0
SAME_ARITHMETIC = hardware.this_machine().arithmetic == TRANSCRIPT["arithmetic"]


def sha256(path: Path) -> str:
    """Return the digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The models of the transcript."""
    found = {
        "tiny": TINY,
        "experts": write_experts(tmp_path_factory.mktemp("experts") / "experts.gguf"),
    }
    for name, path in found.items():
        assert TRANSCRIPT["models"][name]["sha256"] == sha256(path)
    return found


def runs(*, smollm2: bool) -> list[Any]:
    """Return the runs of the tool, each with a name."""
    return [
        pytest.param(run, id="-".join([run["model"], str(run["context"]), *run["options"]]))
        for run in TRANSCRIPT["runs"]
        if (run["model"] == "smollm2") is smollm2
    ]


def compute(run: dict[str, Any], model: Path, output: Path) -> importance.ImatrixReport:
    """Compute what a run of the tool computed."""
    options = run["options"]
    return importance.compute_imatrix(
        model,
        "text.md.txt",
        output,
        context=run["context"],
        chunks=run["chunks"],
        threads=2,
        process_output="--process-output" in options,
        parse_special="--parse-special" in options,
        legacy="--output-format dat" in options,
        timeout=SECONDS,
    )


@pytest.mark.parametrize("run", runs(smollm2=False))
def test_the_file_is_the_tools(
    run: dict[str, Any],
    models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each option of the tool gives the very bytes; on another processor, as many windows."""
    monkeypatch.chdir(TRANSCRIPTS)
    output = tmp_path / "imatrix"

    report = compute(run, models[run["model"]], output)

    assert (report.chunks, report.output_sha256) == (run["chunks"], sha256(output))
    if SAME_ARITHMETIC:
        assert run["sha256"] == sha256(output)
    matrix = read_imatrix(output)
    assert (matrix.datasets, matrix.chunks) == (("text.md.txt",), run["chunks"])
    assert check_fits(matrix, read_header(models[run["model"]])) == ()


@pytest.mark.smollm2
@pytest.mark.parametrize("run", runs(smollm2=True))
def test_the_file_of_a_real_model_is_the_tools(
    run: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SmolLM2, which is quantized, gives the very bytes too; on another processor, finite numbers."""
    model = source.locate(TRANSCRIPT["models"]["smollm2"]["file"], base=tmp_path, roots=())
    assert TRANSCRIPT["models"]["smollm2"]["sha256"] == sha256(model)
    monkeypatch.chdir(TRANSCRIPTS)
    output = tmp_path / "imatrix.gguf"

    report = compute(run, model, output)

    assert (report.chunks, report.entries, report.partial) == (2, 210, ())
    if SAME_ARITHMETIC:
        assert run["sha256"] == sha256(output)


def test_the_values_are_the_tools(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the processor, the means of each tensor are near those the tool found on one."""
    monkeypatch.chdir(TRANSCRIPTS)
    output = tmp_path / "imatrix.gguf"

    compute(TRANSCRIPT["runs"][0], models["experts"], output)

    ours, theirs = read_imatrix(output), read_imatrix(TOOLS_GGUF)
    assert list(theirs.entries) == list(ours.entries)
    for name, entry in theirs.entries.items():
        # Another processor rounds in another way, and may send a token to another expert.
        assert ours.entries[name].counts == pytest.approx(entry.counts, rel=0.02, abs=2)
        means = ours.engine_values()[name], theirs.engine_values()[name]
        assert float(np.median(np.abs(means[0] / means[1] - 1))) < 0.02


def test_the_tools_files_are_read_and_written_alike(tmp_path: Path) -> None:
    """Both layouts of the tool come back as they were, and each can be made from the other."""
    modern, legacy = read_imatrix(TOOLS_GGUF), read_imatrix(TOOLS_LEGACY)
    output = tmp_path / "imatrix"

    write_imatrix(modern, output)
    assert TOOLS_GGUF.read_bytes() == output.read_bytes()
    write_imatrix(legacy, output, legacy=True)
    assert TOOLS_LEGACY.read_bytes() == output.read_bytes()
    write_imatrix(modern, output, legacy=True)
    assert TOOLS_LEGACY.read_bytes() == output.read_bytes()
    # The tool's own conversion of its old file.
    write_imatrix(legacy.with_chunk_size(128), output)
    assert TRANSCRIPT["converted"] == sha256(output)


def test_what_the_tools_files_say() -> None:
    """Experts have counts of their own, other tensors one; means are the same in both layouts."""
    modern, legacy = read_imatrix(TOOLS_GGUF), read_imatrix(TOOLS_LEGACY)

    assert (modern.datasets, modern.chunks, modern.chunk_size) == (("text.md.txt",), 20, 128)
    assert (legacy.datasets, legacy.chunks, legacy.chunk_size) == (("text.md.txt",), 20, 0)
    attention, experts = (
        modern.entries[f"blk.0.{name}.weight"] for name in ("attn_q", "ffn_down_exps")
    )
    assert (attention.sums.shape, attention.counts.tolist()) == ((1, 64), [20 * 128])
    assert (experts.sums.shape, int(experts.counts.sum())) == ((6, 96), 2 * 20 * 128)
    means, old_means = modern.engine_values(), legacy.engine_values()
    for name in means:
        assert old_means[name] == pytest.approx(means[name], rel=3e-7)
