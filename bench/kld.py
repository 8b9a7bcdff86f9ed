"""KL divergence side by side: the two passes of llama.cpp's own tool, and two probes in lockstep.

    python bench/kld.py [--chunks 40] [--pairs 3] [--type Q4_K_M] [--baseline F16.gguf]

Whole processes are timed, from start to end and with the models' loading, in alternating pairs: the
tool's pass that writes the logits file and the one that compares with it, against two probes that
write nothing. The ratio is lockstep / both passes, pair by pair, and the median is quoted. Then every
line of the tool's table is printed beside the same figure from its own file, read by the probe, and
from the full logits of the lockstep. Needs the tools (bench/build_tools.py) and the extra ``demo``; on
another model name it with --model, or files that are there with --baseline and --candidate.
"""

from __future__ import annotations

import hashlib
import re
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from build_tools import tool
from perplexity import full_model, parser_of, quantized, text_or_builtin

from pytest_quantgate import divergence_statistics, measure
from pytest_quantgate.artifact import hardware
from pytest_quantgate.records import Divergence, DivergenceRequest, EngineSettings, TextRequest

LINE = re.compile(
    r"\s*((?:Mean|Maximum|Minimum|Median|Cor|RMS|Same|\d+\.\d%).*?)\s*:\s+(-?[\d.]+)%?(?:\s+±\s+([\d.]+))?"
)
LAST_LINE = "Same top p:"
ATTEMPTS = 5


def run_tool(
    baseline: Path,
    candidate: Path,
    text: Path,
    logits: Path,
    *,
    context: int,
    chunks: int,
    threads: int,
) -> tuple[dict[str, tuple[str, ...]], float]:
    """Return the table that the tool prints after its two passes, and their wall time in seconds.

    The tool may end before its last lines are out; then the second pass is made, and timed, again.
    """
    shared = [
        str(tool("llama-perplexity")), "-f", str(text), "-c", str(context), "--chunks", str(chunks),
        "-t", str(threads), "--kl-divergence-base", str(logits),
    ]  # fmt: skip
    started = time.perf_counter()
    subprocess.run([*shared, "-m", str(baseline)], capture_output=True, check=True)
    first = time.perf_counter() - started
    for _ in range(ATTEMPTS):
        started = time.perf_counter()
        done = subprocess.run(
            [*shared, "-m", str(candidate), "--kl-divergence"],
            capture_output=True,
            text=True,
            check=True,
        )
        seconds = first + time.perf_counter() - started
        output = done.stdout + done.stderr
        if LAST_LINE in output:
            matches = (LINE.match(line) for line in output.splitlines())
            return {
                " ".join(match[1].split()): tuple(part for part in match.groups()[1:] if part)
                for match in matches
                if match is not None
            }, seconds
    message = f"the tool printed no table:\n{output[-2000:]}"
    raise SystemExit(message)


def run_lockstep(
    baseline: Path, candidate: Path, text: Path, *, context: int, chunks: int, threads: int
) -> tuple[Divergence, float]:
    """Return the divergence of two probes, and their wall time in seconds."""
    digest = hashlib.sha256(text.read_bytes()).hexdigest()
    started = time.perf_counter()
    own, other = measure.start_pair()
    with own, other:
        own.load(candidate, EngineSettings(threads=threads), timeout=600)
        other.load(baseline, EngineSettings(threads=threads), timeout=600)
        facts = own.text(
            TextRequest(corpus_path=str(text), corpus_sha256=digest, context=context), timeout=600
        )
        request = DivergenceRequest(
            reference="live",
            corpus_path=str(text),
            corpus_sha256=digest,
            context=context,
            chunks=tuple(range(min(chunks, facts.chunks))),
        )
        found = measure.measure_divergence(own, other, request, timeout=36000)
    return found, time.perf_counter() - started


def run_file(candidate: Path, logits: Path, *, context: int, threads: int) -> Divergence:
    """Return the divergence from the tool's logits file."""
    with measure.Probe.start() as probe:
        probe.load(candidate, EngineSettings(threads=threads), timeout=600)
        request = DivergenceRequest(
            reference="logits",
            context=context,
            reference_path=str(logits),
            reference_sha256=hashlib.sha256(logits.read_bytes()).hexdigest(),
        )
        return probe.divergence(request, timeout=36000)


def print_table(
    printed: dict[str, tuple[str, ...]], from_file: Divergence, full: Divergence
) -> None:
    """Print the tool's lines beside the same figures from its file and from full logits."""
    columns = [
        {
            line.label: line.text
            for line in divergence_statistics.statistics(
                found.candidate.token_nll.array(),
                found.baseline.token_nll.array(),
                found.kld.array(),
                found.same_top.array(),
            )
        }
        for found in (from_file, full)
    ]
    print("| statistic | llama-perplexity | from its file | full logits |")
    print("| --- | --- | --- | --- |")
    for name, texts in printed.items():
        percent = "%" if columns[0][name].endswith("%") else ""
        ours = " | ".join(column[name] for column in columns)
        print(f"| {name} | {' ± '.join(texts)}{percent} | {ours} |")


def main() -> None:
    """Compare and print."""
    parser = parser_of(__doc__, chunks=40)
    parser.add_argument("--type", default="Q4_K_M")
    parser.add_argument("--baseline", type=Path)
    parser.add_argument("--candidate", type=Path)
    arguments = parser.parse_args()
    print(hardware.this_machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = text_or_builtin(arguments.text, folder)
        baseline = arguments.baseline or full_model(arguments.model, folder)
        candidate = arguments.candidate or quantized(
            baseline, folder / f"{arguments.type}.gguf", arguments.type
        )
        logits = folder / "base.logits"
        shape = {"context": arguments.context, "threads": arguments.threads}
        ratios = []
        for pair in range(arguments.pairs):
            for lockstep_turn in (pair % 2 == 1, pair % 2 == 0):
                if lockstep_turn:
                    found, own_s = run_lockstep(
                        baseline, candidate, text, chunks=arguments.chunks, **shape
                    )
                else:
                    table, tool_s = run_tool(
                        baseline, candidate, text, logits, chunks=arguments.chunks, **shape
                    )
            ratios.append(own_s / tool_s)
            print(
                f"pair {pair + 1}: both passes {tool_s:.1f} s, lockstep {own_s:.1f} s, ratio"
                f" {own_s / tool_s:.3f}",
                flush=True,
            )
        print(
            f"{candidate.name} against {baseline.name}: {len(found.candidate.chunks)} chunks, lockstep/"
            f"both passes median {statistics.median(ratios):.3f} ({min(ratios):.3f} to"
            f" {max(ratios):.3f}, {len(ratios)} pairs); logits file"
            f" {logits.stat().st_size / 1e6:.0f} MB"
        )
        print_table(table, run_file(candidate, logits, **shape), found)


if __name__ == "__main__":
    main()
