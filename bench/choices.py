"""Multiple choice side by side: llama.cpp's own tool and the probe, same model, questions and settings.

    python bench/choices.py --hellaswag FILE.txt --winogrande FILE.csv --questions FILE.jsonl \
        [--tasks 200] [--pairs 3] [--type F16 --type Q4_K_M]

Whole processes are timed, from start to end and with the model's loading, in alternating pairs; the
ratio is probe / tool, pair by pair, and the median is quoted. Both score the first tasks of each file;
of JSON Lines only questions with up to four answers are taken, and written for the tool as its binary
file. Shares of right answers are compared as they are printed. Needs the tools (bench/build_tools.py)
and the extra ``demo``; on another model name it with --model.
"""

from __future__ import annotations

import argparse
import re
import statistics
import struct
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from build_tools import tool
from perplexity import DEMO, full_model, quantized

from pytest_quantgate.artifact import hardware
from pytest_quantgate.gates.multiple_choice import TOGETHER, chosen
from pytest_quantgate.measure import Probe
from pytest_quantgate.questions import Wording, load_questions
from pytest_quantgate.records import ChoiceRequest, EngineSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_quantgate.questions import Format, Question

MOST_ANSWERS = 4
"""Sequences that the tool decodes together unless told otherwise."""

ROW = re.compile(r"^\d+\s+([\d.]+)%?(?:\s|$)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Set:
    """Questions, and the file and options by which the tool reads the same ones."""

    name: Format
    questions: tuple[Question, ...]
    options: tuple[str, ...]


def hellaswag_text(questions: Sequence[Question]) -> bytes:
    """Return six lines a task."""
    lines = [
        line
        for each in questions
        for line in (
            each.context,
            str(each.right),
            *(text.removeprefix(" ") for text in each.answers),
        )
    ]
    return ("\n".join(lines) + "\n").encode()


def winogrande_csv(questions: Sequence[Question]) -> bytes:
    """Return one sentence a line, and the empty line without which the tool drops the last one."""
    rows = [
        f'{each.id},"{each.shown}",{",".join(each.answers)},{each.right + 1}' for each in questions
    ]
    return ("\n".join(rows) + "\n\n").encode()


def tool_questions(questions: Sequence[Question]) -> bytes:
    """Return the tool's binary file: count, offsets, and each question with its marked answers."""

    def text(value: str) -> bytes:
        data = value.encode()
        return struct.pack("<I", len(data)) + data

    tasks = [
        text(each.context)
        + struct.pack("<I", len(each.answers))
        + b"".join(text(answer.removeprefix(" ")) for answer in each.answers)
        + struct.pack(
            f"<{len(each.answers)}i", *(place == each.right for place in range(len(each.answers)))
        )
        + struct.pack("<I", 0)
        for each in questions
    ]
    offsets = [4 + 4 * len(tasks)]
    for task in tasks[:-1]:
        offsets.append(offsets[-1] + len(task))
    return struct.pack(f"<I{len(tasks)}I", len(tasks), *offsets) + b"".join(tasks)


def read_set(kind: Format, path: Path, *, tasks: int, folder: Path) -> Set:
    """Return the first tasks of a file, and write them for the tool."""
    found = load_questions(path, shown=path.name, kind=kind, wording=Wording())
    questions = tuple(each for each in found if len(each.answers) <= MOST_ANSWERS)[:tasks]
    target = folder / f"{kind}.tasks"
    options: tuple[str, ...]
    if kind == "hellaswag":
        target.write_bytes(hellaswag_text(questions))
        options = ("-f", str(target), "--hellaswag", "--hellaswag-tasks", str(len(questions)))
    elif kind == "winogrande":
        target.write_bytes(winogrande_csv(questions))
        options = ("-f", str(target), "--winogrande")
    else:
        target.write_bytes(tool_questions(questions))
        options = ("-bf", str(target), "--multiple-choice")
    return Set(name=kind, questions=questions, options=options)


def run_tool(model: Path, asked: Set, *, threads: int) -> tuple[str, float]:
    """Return the tool's share of right answers in percent, and its wall time in seconds."""
    command = [str(tool("llama-perplexity")), "-m", str(model), *asked.options, "-t", str(threads)]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - started
    rows = ROW.findall(done.stdout)
    if len(rows) != len(asked.questions):
        message = (
            f"the tool printed {len(rows)} rows for {len(asked.questions)}:\n{done.stderr[-2000:]}"
        )
        raise SystemExit(message)
    return f"{float(rows[-1]):.4f}", seconds


def run_probe(model: Path, asked: Set, *, threads: int) -> tuple[str, float]:
    """Return the probe's share of right answers in percent, and its wall time in seconds."""
    started = time.perf_counter()
    with Probe.start() as probe:
        probe.load(model, EngineSettings(threads=threads), timeout=600)
        request = ChoiceRequest(
            questions=tuple(each.to_choice() for each in asked.questions),
            together=TOGETHER.get(asked.name, 1),
        )
        found = probe.choices(request, timeout=3600).questions
    seconds = time.perf_counter() - started
    right = sum(
        chosen(question, scores, "tokens") == question.right
        for question, scores in zip(asked.questions, found, strict=True)
    )
    return f"{100 * right / len(asked.questions):.4f}", seconds


def compare(model: Path, asked: Set, *, type_name: str, pairs: int, threads: int) -> None:
    """Time pairs and print them with their median."""
    ratios = []
    runs: tuple[Callable[..., tuple[str, float]], ...] = (run_tool, run_probe)
    for pair in range(pairs):
        order = runs if pair % 2 == 0 else runs[::-1]
        results = {run: run(model, asked, threads=threads) for run in order}
        (tool_says, tool_s), (probe_says, probe_s) = results[run_tool], results[run_probe]
        ratios.append(probe_s / tool_s)
        equal = "equal" if tool_says == probe_says else "DIFFERENT"
        print(
            f"{type_name} {asked.name}: tool {tool_says}% in {tool_s:.1f} s, probe {probe_says}% in"
            f" {probe_s:.1f} s: {equal}, probe/tool {probe_s / tool_s:.3f}",
            flush=True,
        )
    print(
        f"{type_name} {asked.name}: {len(asked.questions)} tasks, probe/tool median"
        f" {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}, {pairs} pairs)",
        flush=True,
    )


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEMO)
    for name in ("hellaswag", "winogrande", "questions"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=hardware.usable_cores())
    parser.add_argument("--type", action="append", dest="types")
    arguments = parser.parse_args()
    named: dict[Format, Path | None] = {
        "hellaswag": arguments.hellaswag,
        "winogrande": arguments.winogrande,
        "jsonl": arguments.questions,
    }
    if not any(named.values()):
        parser.error("name a file of tasks: --hellaswag, --winogrande or --questions")
    print(hardware.this_machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        full = full_model(arguments.model, folder)
        sets = [
            read_set(kind, path, tasks=arguments.tasks, folder=folder)
            for kind, path in named.items()
            if path is not None
        ]
        for type_name in arguments.types or ["F16", "Q4_K_M"]:
            model = quantized(full, folder / f"{type_name}.gguf", type_name)
            for asked in sets:
                compare(
                    model,
                    asked,
                    type_name=type_name,
                    pairs=arguments.pairs,
                    threads=arguments.threads,
                )


if __name__ == "__main__":
    main()
