"""Importance matrices side by side: llama.cpp's own tool and the probe, same model, text and settings.

    python bench/imatrix.py [--chunks 16] [--pairs 3] [--type F16 --type Q8_0]

Whole processes are timed, from start to end and with the model's loading, in alternating pairs; the
ratio is probe / tool, pair by pair, and the median is quoted, of the time that passed and of the
processor time, which a busy machine disturbs less. The tool computes no perplexity beside
(--no-ppl), and both let waiting threads sleep alike. The files are compared byte by byte, and where they
differ by the largest relative difference of a mean. Needs the tools (bench/build_tools.py) and the extra
``demo``; on another model name it with --model.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from build_tools import tool
from perplexity import full_model, parser_of, quantized, text_or_builtin

from pytest_quantgate.artifact import hardware
from pytest_quantgate.artifact.imatrix import read_imatrix
from pytest_quantgate.pipeline import importance
from pytest_quantgate.supervision import SPINS

if TYPE_CHECKING:
    from collections.abc import Callable


def run_tool(
    model: Path, text: Path, output: Path, *, context: int, chunks: int, threads: int
) -> None:
    """Write the tool's matrix."""
    command = [
        str(tool("llama-imatrix")), "-m", str(model), "-f", str(text), "-o", str(output), "--no-ppl",
        "-c", str(context), "--chunks", str(chunks), "-t", str(threads),
    ]  # fmt: skip
    environment = {**os.environ, "GOMP_SPINCOUNT": SPINS}
    subprocess.run(command, capture_output=True, check=True, env=environment)


def run_probe(
    model: Path, text: Path, output: Path, *, context: int, chunks: int, threads: int
) -> None:
    """Write the probe's matrix."""
    importance.compute_imatrix(
        model, text, output, context=context, chunks=chunks, threads=threads, overwrite=True
    )


def timed(action: Callable[[], None]) -> tuple[float, float]:
    """Return the seconds an action took, and those its processes computed."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    action()
    passed, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return passed, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def difference(ours: Path, theirs: Path) -> str:
    """Say whether two files are the same, and how far their means are apart otherwise."""
    if ours.read_bytes() == theirs.read_bytes():
        return "the same bytes"
    means = [read_imatrix(path).engine_values() for path in (ours, theirs)]
    if means[0].keys() != means[1].keys():
        return "DIFFERENT TENSORS"
    largest = max(float(np.abs(means[0][name] / means[1][name] - 1).max()) for name in means[1])
    return f"DIFFERENT, means by {largest:.2g} at most"


def main() -> None:
    """Compare and print."""
    parser = parser_of(__doc__, chunks=16)
    parser.add_argument("--type", action="append", dest="types")
    arguments = parser.parse_args()
    print(hardware.this_machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = text_or_builtin(arguments.text, folder)
        full = full_model(arguments.model, folder)
        settings = {
            "context": arguments.context,
            "chunks": arguments.chunks,
            "threads": arguments.threads,
        }
        outputs = {run: folder / f"{run.__name__}.gguf" for run in (run_tool, run_probe)}
        for type_name in arguments.types or ["F16", "Q8_0"]:
            model = quantized(full, folder / f"{type_name}.gguf", type_name)
            ratios = []
            for pair in range(arguments.pairs):
                order = (run_tool, run_probe) if pair % 2 == 0 else (run_probe, run_tool)
                took = {
                    run: timed(partial(run, model, text, outputs[run], **settings)) for run in order
                }
                tool_s, probe_s = took[run_tool], took[run_probe]
                ratios.append((probe_s[0] / tool_s[0], probe_s[1] / tool_s[1]))
                print(
                    f"{type_name}: tool {tool_s[0]:.1f} s ({tool_s[1]:.1f} s computing), probe "
                    f"{probe_s[0]:.1f} s ({probe_s[1]:.1f} s): "
                    f"{difference(outputs[run_probe], outputs[run_tool])}",
                    flush=True,
                )
            for what, column in (("time", 0), ("processor time", 1)):
                found = [ratio[column] for ratio in ratios]
                print(
                    f"{type_name}: {arguments.chunks} windows, {what} probe/tool median"
                    f" {statistics.median(found):.3f} ({min(found):.3f} to {max(found):.3f},"
                    f" {len(found)} pairs)"
                )


if __name__ == "__main__":
    main()
