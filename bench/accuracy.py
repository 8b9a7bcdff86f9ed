"""Throughput of greedy answers: many cases decoded together against one call after another.

    python bench/accuracy.py [--cases 64] [--pairs 3] [--type Q4_K_M]
    python bench/accuracy.py --case-file cases/critical.jsonl

The reference is what a test would write by hand, `llama_cpp.Llama(...)(prompt, temperature=0)` for one
prompt after another, in a process of its own. Both sides answer the same prompts, up to --tokens tokens
each unless the model ends an answer before. Loading is left out on both sides. Speed is output tokens a
second; the ratio is taken pair by pair, the order alternates, and the median is quoted.

With --case-file the cases of a gate are answered as the gate answers them, which stops a case as soon as
it contains what is expected; speed is then cases a second.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from perplexity import DEMO, quantized

from pytest_quantgate.artifact import hardware, source
from pytest_quantgate.benchmark import DEFAULT_PROMPTS
from pytest_quantgate.cases import load_cases
from pytest_quantgate.measure import Probe
from pytest_quantgate.records import EngineSettings, GenerationRequest, Prompt

ONE_BY_ONE = """\
import json, sys, time
from llama_cpp import Llama

job = json.load(sys.stdin)
llama = Llama(job["model"], n_ctx=512, n_threads=job["threads"], n_threads_batch=job["threads"],
              verbose=False)
llama("Warm", max_tokens=4, temperature=0.0)
started, tokens, texts = time.perf_counter(), 0, []
for prompt, limit, stop in job["prompts"]:
    answer = llama(prompt, max_tokens=limit, temperature=0.0, stop=stop)
    tokens += answer["usage"]["completion_tokens"]
    texts.append(answer["choices"][0]["text"])
json.dump({"seconds": time.perf_counter() - started, "tokens": tokens, "texts": texts}, sys.stdout)
"""


def prompts(count: int) -> list[str]:
    """Return beginnings of sentences, of different lengths."""
    words = " ".join(DEFAULT_PROMPTS).split()
    return [" ".join(words[(start * 7) % len(words) :][: 8 + start % 12]) for start in range(count)]


def one_by_one(model: Path, asked: tuple[Prompt, ...], *, threads: int) -> dict[str, Any]:
    """Return seconds, tokens and answers of a loop over the high-level class."""
    job = {
        "model": str(model),
        "prompts": [(each.prompt, each.max_tokens, list(each.stop)) for each in asked],
        "threads": threads,
    }
    done = subprocess.run(
        [sys.executable, "-c", ONE_BY_ONE],
        input=json.dumps(job),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def together(
    model: Path, asked: tuple[Prompt, ...], *, threads: int, parallel: int
) -> dict[str, Any]:
    """Return seconds, tokens and answers of one probe that decodes many prompts at once."""
    with Probe.start() as probe:
        probe.load(model, EngineSettings(threads=threads), timeout=600)
        warm = GenerationRequest(prompts=(Prompt(id="warm", prompt="Warm", max_tokens=4),))
        probe.generation(warm, timeout=600)
        request = GenerationRequest(prompts=asked, parallel=parallel)
        generation = probe.generation(request, timeout=3600)
    return {
        "seconds": generation.seconds,
        "tokens": sum(output.tokens for output in generation.outputs),
        "texts": [output.text for output in generation.outputs],
    }


def wanted(arguments: argparse.Namespace) -> tuple[Prompt, ...]:
    """Return what is asked: the cases of a file, or beginnings of sentences."""
    if arguments.case_file is None:
        return tuple(
            Prompt(id=str(number), prompt=text, max_tokens=arguments.tokens)
            for number, text in enumerate(prompts(arguments.cases))
        )
    cases = load_cases(arguments.case_file, shown=str(arguments.case_file))
    return tuple(
        case.to_prompt(max_tokens=arguments.tokens) for case in cases if case.prompt is not None
    )


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEMO)
    parser.add_argument("--type", action="append", dest="types")
    parser.add_argument("--cases", type=int, default=64)
    parser.add_argument("--case-file", type=Path)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--parallel", type=int, default=GenerationRequest(prompts=()).parallel)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=hardware.usable_cores())
    arguments = parser.parse_args()
    print(hardware.this_machine())
    asked = wanted(arguments)
    by_case = arguments.case_file is not None
    unit = "cases/s" if by_case else "tokens/s"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        origin = source.locate(arguments.model, base=Path.cwd(), roots=(Path("/"),))
        full = quantized(origin, folder / "F16.gguf", "F16")
        for type_name in arguments.types or ["Q4_K_M"]:
            model = quantized(full, folder / f"{type_name}.gguf", type_name)
            ratios = []
            for pair in range(arguments.pairs):
                sides = {}
                for side in ("one", "all") if pair % 2 == 0 else ("all", "one"):
                    if side == "one":
                        sides[side] = one_by_one(model, asked, threads=arguments.threads)
                    else:
                        sides[side] = together(
                            model, asked, threads=arguments.threads, parallel=arguments.parallel
                        )
                speed = {
                    side: (len(asked) if by_case else found["tokens"]) / found["seconds"]
                    for side, found in sides.items()
                }
                ratios.append(speed["all"] / speed["one"])
                print(
                    f"{type_name}: one by one {speed['one']:.1f} {unit}, together"
                    f" {speed['all']:.1f} {unit}, ratio {ratios[-1]:.2f}",
                    flush=True,
                )
            print(
                f"{type_name}: {len(asked)} cases, {arguments.parallel} together: median ratio"
                f" {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f},"
                f" {len(ratios)} pairs)"
            )


if __name__ == "__main__":
    main()
