"""Throughput of greedy answers: many cases decoded together against one call after another.

    python bench/accuracy.py [--cases 64] [--pairs 3] [--type Q4_K_M]

The reference is what a test would write by hand, `llama_cpp.Llama(...)(prompt, temperature=0)` for one
prompt after another, in a process of its own. Both sides answer the same prompts with the same number
of tokens, end-of-generation tokens included in neither's favour: every answer has --tokens tokens
unless the model ends it. Loading is left out on both sides. Speed is output tokens a second; the ratio
is taken pair by pair, the order alternates, and the median is quoted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from perplexity import DEMO, quantized

from pytest_quantgate.artifact import hardware, source
from pytest_quantgate.benchmark import DEFAULT_PROMPTS
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
for prompt in job["prompts"]:
    answer = llama(prompt, max_tokens=job["tokens"], temperature=0.0)
    tokens += answer["usage"]["completion_tokens"]
    texts.append(answer["choices"][0]["text"])
json.dump({"seconds": time.perf_counter() - started, "tokens": tokens, "texts": texts}, sys.stdout)
"""


def prompts(count: int) -> list[str]:
    """Return beginnings of sentences, of different lengths."""
    words = " ".join(DEFAULT_PROMPTS).split()
    return [" ".join(words[(start * 7) % len(words) :][: 8 + start % 12]) for start in range(count)]


def one_by_one(
    model: Path, texts: list[str], *, tokens: int, threads: int
) -> tuple[float, list[str]]:
    """Return tokens a second and answers of a loop over the high-level class."""
    job = {"model": str(model), "prompts": texts, "tokens": tokens, "threads": threads}
    done = subprocess.run(
        [sys.executable, "-c", ONE_BY_ONE],
        input=json.dumps(job),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    result = json.loads(done.stdout)
    return result["tokens"] / result["seconds"], result["texts"]


def together(
    model: Path, texts: list[str], *, tokens: int, threads: int, parallel: int
) -> tuple[float, list[str]]:
    """Return tokens a second and answers of one probe that decodes many prompts at once."""
    request = GenerationRequest(
        prompts=tuple(
            Prompt(id=str(number), prompt=text, max_tokens=tokens)
            for number, text in enumerate(texts)
        ),
        parallel=parallel,
    )
    with Probe.start() as probe:
        probe.load(model, EngineSettings(threads=threads), timeout=600)
        generation = probe.generation(request, timeout=3600)
    produced = sum(output.tokens for output in generation.outputs)
    return produced / generation.seconds, [output.text for output in generation.outputs]


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEMO)
    parser.add_argument("--type", action="append", dest="types")
    parser.add_argument("--cases", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--parallel", type=int, default=GenerationRequest(prompts=()).parallel)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=hardware.usable_cores())
    arguments = parser.parse_args()
    print(hardware.this_machine())
    texts = prompts(arguments.cases)
    shape = {"tokens": arguments.tokens, "threads": arguments.threads}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        origin = source.locate(arguments.model, base=Path.cwd(), roots=(Path("/"),))
        full = quantized(origin, folder / "F16.gguf", "F16")
        for type_name in arguments.types or ["Q4_K_M"]:
            model = quantized(full, folder / f"{type_name}.gguf", type_name)
            ratios = []
            for pair in range(arguments.pairs):
                order = ["single", "batched"] if pair % 2 == 0 else ["batched", "single"]
                speeds = {}
                answers = {}
                for side in order:
                    if side == "single":
                        speeds[side], answers[side] = one_by_one(model, texts, **shape)
                    else:
                        speeds[side], answers[side] = together(
                            model, texts, **shape, parallel=arguments.parallel
                        )
                same = sum(
                    own == other
                    for own, other in zip(answers["single"], answers["batched"], strict=True)
                )
                ratios.append(speeds["batched"] / speeds["single"])
                print(
                    f"{type_name}: one by one {speeds['single']:.0f} tokens/s, together"
                    f" {speeds['batched']:.0f} tokens/s, ratio {ratios[-1]:.2f}; {same} of"
                    f" {len(texts)} answers are the same",
                    flush=True,
                )
            print(
                f"{type_name}: {len(texts)} cases, {arguments.parallel} together: median ratio"
                f" {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f},"
                f" {len(ratios)} pairs)"
            )


if __name__ == "__main__":
    main()
