"""Greedy answers to many cases decoded together: how fast, and how far from answers decoded alone.

    python bench/tasks.py speed [--type Q4_K_M] [--set sentences|everyday|few-shot] [--pairs 5]
    python bench/tasks.py speed --case-file FILE.jsonl [--until]
    python bench/tasks.py agreement [--type F16 --type Q4_K_M] [--set everyday]

`speed`: the reference is what a test would write by hand, `llama_cpp.Llama(...)(prompt, temperature=0)`
for one prompt after another, in a process of its own. Both sides answer the same prompts, up to --tokens
tokens each unless the model or a stop string ends an answer before. Loading is left out on both sides.
The ratio of the times is taken pair by pair, the order alternates, and the median is quoted; how many
answers are the same is told too. --until lets the product stop an answer as soon as it contains what is
expected, as the accuracy gate does; `Llama()` has no such thing.

`agreement`: each case is answered twice by the same class with the same settings, once with all others
beside it and once alone, and the outputs are compared token by token. Then the tokens of the answer
given alone are fed again in both ways, and it is reported how far the log-odds of the two most probable
tokens move: a choice can turn only where they are nearer to each other than that.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from perplexity import DEMO, full_model, quantized

from pytest_quantgate.artifact import hardware
from pytest_quantgate.benchmark import DEFAULT_PROMPTS
from pytest_quantgate.cases import builtin_path, load_cases
from pytest_quantgate.measure import Probe
from pytest_quantgate.probe.generation import measure_generation
from pytest_quantgate.probe.lanes import Line, decode_together
from pytest_quantgate.probe.llama import LlamaBackend
from pytest_quantgate.probe.prompts import prompt_tokens
from pytest_quantgate.records import EngineSettings, GenerationRequest, Prompt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pytest_quantgate.records import ModelFacts, Output, Progress

ONE_BY_ONE = """\
import json, sys, time
from llama_cpp import Llama

job = json.load(sys.stdin)
llama = Llama(job["model"], n_ctx=job["context"], n_threads=job["threads"] or None,
              n_threads_batch=job["threads"] or None, verbose=False)
llama("Warm", max_tokens=4, temperature=0.0)
started, tokens, texts = time.perf_counter(), 0, []
for prompt, messages, limit, stop in job["prompts"]:
    if messages:
        answer = llama.create_chat_completion(messages, max_tokens=limit, temperature=0.0, stop=stop)
        text = answer["choices"][0]["message"]["content"]
    else:
        answer = llama(prompt, max_tokens=limit, temperature=0.0, stop=stop)
        text = answer["choices"][0]["text"]
    tokens += answer["usage"]["completion_tokens"]
    texts.append(text)
json.dump({"seconds": time.perf_counter() - started, "tokens": tokens, "texts": texts}, sys.stdout)
"""
CONTEXT = 1024
EXAMPLES = 12


def one_by_one(model: Path, asked: Sequence[Prompt], *, threads: int) -> dict[str, Any]:
    """Return seconds, tokens and answers of a loop over the high-level class."""
    job = {
        "model": str(model),
        "context": CONTEXT,
        "prompts": [
            (
                each.prompt,
                [{"role": turn.role, "content": turn.content} for turn in each.messages],
                each.max_tokens,
                list(each.stop),
            )
            for each in asked
        ],
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


def settings_of(arguments: argparse.Namespace) -> EngineSettings:
    """Return how the product runs the engine."""
    return EngineSettings(threads=arguments.threads, repack=not arguments.no_repack)


def together(
    model: Path, asked: Sequence[Prompt], settings: EngineSettings, *, parallel: int
) -> dict[str, Any]:
    """Return seconds, tokens and answers of one probe that decodes many prompts at once."""
    with Probe.start() as probe:
        probe.load(model, settings, timeout=600)
        warm = GenerationRequest(prompts=(Prompt(id="warm", prompt="Warm", max_tokens=4),))
        probe.generation(warm, timeout=600)
        request = GenerationRequest(prompts=tuple(asked), parallel=parallel)
        generation = probe.generation(request, timeout=3600)
    return {
        "seconds": generation.seconds,
        "tokens": sum(output.tokens for output in generation.outputs),
        "texts": [output.text for output in generation.outputs],
    }


def sentences(count: int, tokens: int) -> list[Prompt]:
    """Return beginnings of sentences, of different lengths."""
    words = " ".join(DEFAULT_PROMPTS).split()
    return [
        Prompt(
            id=str(start),
            prompt=" ".join(words[(start * 7) % len(words) :][: 8 + start % 12]),
            max_tokens=tokens,
        )
        for start in range(count)
    ]


def wanted(arguments: argparse.Namespace) -> tuple[Prompt, ...]:
    """Return what is asked: the cases of a file or of the built-in set, or beginnings of sentences."""
    if arguments.case_file is None and arguments.set == "sentences":
        return tuple(sentences(arguments.cases, arguments.tokens))
    path = arguments.case_file or builtin_path("builtin:everyday")
    cases = load_cases(path, shown=str(path))
    prompts = [case.to_prompt(max_tokens=arguments.tokens) for case in cases]
    if arguments.set == "few-shot":
        bare = [each for each in prompts if each.prompt is not None]
        examples = "\n\n".join(
            f"{each.prompt} {case.expected}"
            for each, case in zip(prompts, cases, strict=True)
            if each.prompt is not None and case.match == "contains"
        ).split("\n\n")[:EXAMPLES]
        shown = "\n\n".join(examples)
        prompts = [replace(each, prompt=f"{shown}\n\n{each.prompt}") for each in bare[EXAMPLES:]]
    # Every so many, so that a part has cases of all kinds.
    chosen = prompts[:: max(1, len(prompts) // arguments.cases)][: arguments.cases]
    return tuple(each if arguments.until else replace(each, until=None) for each in chosen)


def compare_speed(
    name: str, model: Path, asked: Sequence[Prompt], arguments: argparse.Namespace
) -> None:
    """Time both ways, pair by pair, and print."""
    ratios = []
    for pair in range(arguments.pairs):
        sides = {}
        for side in ("one", "all") if pair % 2 == 0 else ("all", "one"):
            if side == "one":
                sides[side] = one_by_one(model, asked, threads=arguments.llama_threads)
            else:
                sides[side] = together(
                    model, asked, settings_of(arguments), parallel=arguments.parallel
                )
        one, every = sides["one"], sides["all"]
        ratios.append(one["seconds"] / every["seconds"])
        same = sum(a == b for a, b in zip(one["texts"], every["texts"], strict=True))
        print(
            f"{name}: one by one {one['seconds']:.2f} s ({one['tokens']} tokens), together"
            f" {every['seconds']:.2f} s ({every['tokens']} tokens), ratio {ratios[-1]:.2f}; {same} of"
            f" {len(asked)} answers are the same",
            flush=True,
        )
    print(
        f"{name}: {len(asked)} cases, {arguments.parallel} together: median ratio"
        f" {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f},"
        f" {len(ratios)} pairs)",
        flush=True,
    )


@dataclass(slots=True, kw_only=True, eq=False)
class Forced(Line):
    """A text whose continuation is given; ``gaps`` are the log-odds of its two foremost tokens."""

    coming: tuple[int, ...]
    pairs: tuple[tuple[int, int], ...] | None = None
    """The two tokens to look at, step by step; by default the two most probable ones."""
    gaps: list[float] = field(default_factory=list)
    seen: list[tuple[int, int]] = field(default_factory=list)

    def look(self, logits: NDArray[np.float32]) -> bool:
        """Note the gap and go on with the given token; return whether none is left."""
        step = len(self.generated)
        if self.pairs is None:
            first, second = (int(token) for token in np.argsort(-logits, kind="stable")[:2])
        else:
            first, second = self.pairs[step]
        self.seen.append((first, second))
        self.gaps.append(float(logits[first]) - float(logits[second]))
        if step == len(self.coming):
            return True
        self.generated.append(self.coming[step])
        return False


def gaps_apart(
    backend: LlamaBackend, facts: ModelFacts, asked: Sequence[Prompt], outputs: Sequence[Output]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return, for each step of each answer, the gap decoded alone and how far it moves together."""

    def follow(
        *, together: int, seen: Sequence[tuple[tuple[int, int], ...] | None]
    ) -> list[Forced]:
        lines = [
            Forced(
                tokens=tokens,
                room=len(tokens) + prompt.max_tokens + 1,
                coming=output.token_ids,
                pairs=pairs,
            )
            for prompt, output, pairs in zip(asked, outputs, seen, strict=True)
            for tokens in [prompt_tokens(backend, facts, prompt)]
        ]

        def choose(ready: Sequence[Line], logits: NDArray[np.float32]) -> list[bool]:
            return [
                line.look(row)
                for line, row in zip(ready, logits, strict=True)
                if isinstance(line, Forced)
            ]

        order = sorted(lines, key=lambda line: (-line.room, -len(line.tokens)))
        decode_together(backend, order, together=together, choose=choose)
        return lines

    alone = follow(together=1, seen=[None] * len(asked))
    beside = follow(together=64, seen=[tuple(line.seen) for line in alone])
    gaps = np.array([gap for line in alone for gap in line.gaps])
    return gaps, np.array([gap for line in beside for gap in line.gaps]) - gaps


def report_agreement(
    name: str, model: Path, asked: Sequence[Prompt], arguments: argparse.Namespace
) -> None:
    """Answer alone and together, compare, and print."""
    backend = LlamaBackend()
    facts = backend.load(model, settings_of(arguments))

    def quiet(_progress: Progress) -> None:
        return

    sides = [
        measure_generation(
            backend, facts, GenerationRequest(prompts=tuple(asked), parallel=parallel), quiet
        ).outputs
        for parallel in (1, arguments.parallel)
    ]
    apart = [
        output.id
        for output, other in zip(*sides, strict=True)
        if output.token_ids != other.token_ids
    ]
    gaps, moved = gaps_apart(backend, facts, asked, sides[0])
    sizes = np.abs(moved)
    print(
        f"{name}: {len(asked) - len(apart)} of {len(asked)} outputs are the same alone and together;"
        f" over {len(gaps)} tokens the gap of the two foremost moves by {np.median(sizes):.2g} nats"
        f" (median), {np.quantile(sizes, 0.99):.2g} (99 %), {sizes.max():.2g} (most);"
        f" {np.mean(np.abs(gaps) < np.quantile(sizes, 0.99)):.2%} of the gaps are smaller than that 99 %"
        f" figure; {np.count_nonzero(gaps + moved < 0)} choices turn",
        flush=True,
    )
    if apart:
        print(f"{name}: not the same: {', '.join(apart)}", flush=True)


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("speed", "agreement"))
    parser.add_argument("--model", default=DEMO)
    parser.add_argument("--type", action="append", dest="types")
    parser.add_argument("--set", choices=("sentences", "everyday", "few-shot"), default="sentences")
    parser.add_argument("--case-file", type=Path)
    parser.add_argument("--cases", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--until", action="store_true")
    parser.add_argument("--parallel", type=int, default=GenerationRequest(prompts=()).parallel)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=hardware.usable_cores())
    parser.add_argument(
        "--llama-threads",
        type=int,
        help="threads of `Llama()`, as many as --threads by default; 0: its own default, half of them",
    )
    parser.add_argument(
        "--no-repack", action="store_true", help="the engine uses weights as they lie in the file"
    )
    parser.add_argument("--folder", type=Path, help="where models are made, and kept")
    arguments = parser.parse_args()
    if arguments.llama_threads is None:
        arguments.llama_threads = arguments.threads
    print(hardware.this_machine())
    asked = wanted(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder or Path(name)
        for type_name in arguments.types or ["Q4_K_M"]:
            if not (folder / f"{type_name}.gguf").exists():
                full_model(arguments.model, folder)
            model = quantized(folder / "F16.gguf", folder / f"{type_name}.gguf", type_name)
            compare = compare_speed if arguments.what == "speed" else report_agreement
            compare(type_name, model, asked, arguments)


if __name__ == "__main__":
    main()
