"""`quantgate select` and `estimate`: which level fits a machine, and what a model takes."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pytest_quantgate.cli.options import Json, progress_line
from pytest_quantgate.cli.tables import fields, print_json, print_table, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_quantgate.artifact.hardware import Target
    from pytest_quantgate.artifact.selection.estimate import MemoryEstimate
    from pytest_quantgate.artifact.selection.select import Choice
    from pytest_quantgate.artifact.selection.shape import ModelShape

_GIBIBYTE = 1 << 30
_MEBIBYTE = 1 << 20
_MEMORY = re.compile(r"(\d{1,6}(?:\.\d{1,6})?) ?([GMT])(?:i?B)?", re.IGNORECASE)
_COUNT = re.compile(r"(\d{1,6}(?:\.\d{1,6})?) ?([MBT])", re.IGNORECASE)
_MEMORY_UNITS = {"M": _MEBIBYTE, "G": _GIBIBYTE, "T": 1 << 40}
_COUNT_UNITS = {"M": 1e6, "B": 1e9, "T": 1e12}
_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,6})?) ?%")


def parse_memory(text: str) -> int:
    """Turn ``16GB`` into bytes; as on the label of a machine, a GB is 2**30 bytes.

    Raises:
        typer.BadParameter: for what is no such quantity.
    """
    advice = "is no amount of memory; write it with its unit, such as 16GB or 512MB"
    match = _matched(_MEMORY, text, advice)
    return round(float(match[1]) * _MEMORY_UNITS[match[2].upper()])


def parse_count(text: str) -> float:
    """Turn ``7B`` into seven thousand million.

    Raises:
        typer.BadParameter: for what is no such number.
    """
    match = _matched(_COUNT, text, "is no number of parameters; write it as 7B, 1.5B or 135M")
    return float(match[1]) * _COUNT_UNITS[match[2].upper()]


def parse_share(text: str) -> float:
    """Turn ``3%`` into 0.03.

    Raises:
        typer.BadParameter: for what is no such share.
    """
    match = _matched(_SHARE, text, "is no share; write it with its sign, such as 3%")
    return float(match[1]) / 100


def _matched(pattern: re.Pattern[str], text: str, advice: str) -> re.Match[str]:
    match = pattern.fullmatch(text.strip())
    if match is None:
        message = f"{text!r} {advice}"
        raise typer.BadParameter(message)
    return match


Model = Annotated[
    Path | None, typer.Argument(metavar="[MODEL]", help="GGUF file or Hugging Face folder")
]
Parameters = Annotated[
    str | None, typer.Option("--params", metavar="7B", help="Number of parameters, without a model")
]
Ram = Annotated[
    str | None, typer.Option("--ram", metavar="16GB", help="RAM of another machine than this one")
]
Vram = Annotated[
    str | None,
    typer.Option("--vram", metavar="8GB", help="Memory of its GPU; without --ram, alone"),
]
Unified = Annotated[
    bool, typer.Option("--unified", help="Its RAM is the GPU's memory, too (Apple)")
]
Reserve = Annotated[
    str | None,
    typer.Option("--reserve", metavar="4GB", help="RAM left to the system [a quarter, 2GB to 6GB]"),
]
Context = Annotated[int, typer.Option("--context", min=1, metavar="N", help="Tokens of context")]
Contexts = Annotated[
    list[int] | None,
    typer.Option("--context", min=1, metavar="N", help="Tokens of context (repeatable) [4096]"),
]
CacheType = Annotated[
    str,
    typer.Option("--cache-type", metavar="TYPE", help="Type of keys and values: f16, q8_0, ..."),
]
Priority = Annotated[
    str, typer.Option("--priority", metavar="NAME", help="quality, balanced or speed")
]
UseCase = Annotated[
    str | None,
    typer.Option("--use-case", metavar="NAME", help="chat, coding, reasoning or creative"),
]
Runtime = Annotated[
    str,
    typer.Option(
        "--runtime", metavar="NAME", help="llama.cpp, ollama, lm-studio, vllm, tgi or transformers"
    ),
]
Q4Loss = Annotated[
    str | None,
    typer.Option(
        "--q4-loss", metavar="3%", help="Loss measured at Q4_K_M, which above 2% rules it out"
    ),
]
Types = Annotated[
    list[str] | None,
    typer.Option("--type", metavar="TYPE", help="Level to make of it (repeatable) [as it is]"),
]
Seconds = Annotated[
    float, typer.Option("--timeout", min=1, metavar="SECONDS", help="Longest time of planning")
]


def select(
    model: Model = None,
    *,
    params: Parameters = None,
    ram: Ram = None,
    vram: Vram = None,
    unified: Unified = False,
    reserve: Reserve = None,
    context: Context = 4096,
    cache_type: CacheType = "f16",
    priority: Priority = "balanced",
    use_case: UseCase = None,
    runtime: Runtime = "llama.cpp",
    q4_loss: Q4Loss = None,
    timeout: Seconds = 600.0,
    as_json: Json = False,
) -> None:
    """Choose the quantization of MODEL for this machine, or for a declared one.

    Says what it would take there, what is left, why the other levels were not chosen and which comes
    next.
    """
    from pytest_quantgate.artifact.selection.shape import shape_of_parameters  # noqa: PLC0415 - quick start
    from pytest_quantgate.pipeline import selection  # noqa: PLC0415 - quick start

    if (model is None) == (params is None):
        message = "name a model, or its number of parameters with --params: one of the two"
        raise typer.BadParameter(message)
    target = _target(ram, vram, reserve, unified=unified)
    chosen: Path | ModelShape
    shape = (
        selection.shape_of_model(model) if model else shape_of_parameters(parse_count(params or ""))
    )
    chosen = model or shape
    with progress_line() as show:
        choice = selection.select_level(
            chosen,
            target,
            context=context,
            cache_type=cache_type,
            priority=priority,
            use_case=use_case,
            runtime=runtime,
            q4_loss=None if q4_loss is None else parse_share(q4_loss),
            timeout=timeout,
            on_progress=show,
        )
    if as_json:
        print_json(_document(choice, target, shape))
    else:
        _show_choice(choice, target, shape)


def estimate(
    model: Annotated[Path, typer.Argument(help="GGUF file or Hugging Face folder")],
    *,
    types: Types = None,
    context: Contexts = None,
    cache_type: CacheType = "f16",
    timeout: Seconds = 600.0,
    as_json: Json = False,
) -> None:
    """Estimate the memory MODEL takes on this machine's processor, part by part.

    As it is, or at each --type, for each --context. The engine is asked what it would allocate; no
    weights are read.
    """
    from pytest_quantgate.pipeline import selection  # noqa: PLC0415 - quick start

    shape = selection.shape_of_model(model)
    with progress_line() as show:
        found = selection.estimate_model(
            model,
            levels=types or (),
            contexts=context or (4096,),
            cache_type=cache_type,
            timeout=timeout,
            on_progress=show,
        )
    if as_json:
        print_json({"model": _model(shape), "estimates": [_parts(each) for each in found]})
        return
    typer.echo(f"{shape.name}: {shape.parameters:,} weights, from {shape.source}; memory in MiB")
    _show_estimates(found)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("select")(select)
    app.command("estimate")(estimate)


def _target(ram: str | None, vram: str | None, reserve: str | None, *, unified: bool) -> Target:
    """Return the declared machine, or this one where none is declared."""
    from dataclasses import replace  # noqa: PLC0415 - quick start

    from pytest_quantgate.artifact.hardware import Target, this_target  # noqa: PLC0415 - quick start

    kept = None if reserve is None else parse_memory(reserve)
    if ram is None and vram is None:
        if unified:
            message = "--unified declares another machine: name its memory with --ram"
            raise typer.BadParameter(message)
        return replace(this_target(), reserve_bytes=kept)
    return Target(
        ram_bytes=parse_memory(ram) if ram else 0,
        vram_bytes=parse_memory(vram) if vram else 0,
        unified=unified,
        reserve_bytes=kept,
        name="the declared machine",
    )


def _show_choice(choice: Choice, target: Target, shape: ModelShape) -> None:
    own = choice.estimate
    where = {
        "cpu": "on the processor",
        "gpu": "on the GPU",
        "unified": "in unified memory",
        "split": f"{choice.gpu_layers} of {len(shape.kv_widths)} layers on the GPU",
    }[choice.placement]
    lines = [
        ("model", f"{shape.name}: {shape.parameters / 1e9:.3g}e9 weights, from {shape.source}"),
        ("machine", f"{target.name}: {_machine(target)}"),
        (
            "runs",
            f"{where}, {choice.runtime}, {own.context:,} tokens of context, {own.cache_type} cache",
        ),
        (
            "needs",
            (
                f"{_size(own.required_bytes)} of {_size(choice.capacity_bytes)};"
                f" {_size(choice.headroom_bytes)} to spare"
            ),
        ),
        (
            "",
            (
                f"weights {_size(own.weights_bytes)}, cache {_size(own.kv_cache_bytes)}, compute"
                f" {_size(own.compute_bytes)}, runtime {_size(own.runtime_bytes)}"
            ),
        ),
        ("smaller", choice.next_down or "none: the rules allow nothing smaller"),
        *(("note", each) for each in target.notes),
        *(("advice", each) for each in choice.advice),
    ]
    typer.echo(choice.level)
    for name, text in lines:
        _echo(name, text)
    typer.echo()
    rows = table("level", "needs>", "not chosen, because")
    for each in choice.rejected:
        rows.add_row(each.level, _size(each.required_bytes), each.reason)
    print_table(rows)


def _show_estimates(found: Sequence[MemoryEstimate]) -> None:
    rows = table(
        *("level", "context>", "weights>", "copies>", "cache>", "compute>", "process>"),
        *("needs>", "peak>"),
    )
    for each in found:
        sizes = (
            each.weights_bytes,
            each.repacked_bytes,
            each.kv_cache_bytes,
            each.compute_bytes + each.output_bytes,
            each.runtime_bytes,
            each.required_bytes,
            each.total_bytes,
        )
        rows.add_row(each.level, str(each.context), *(f"{size / _MEBIBYTE:.0f}" for size in sizes))
    print_table(rows)


def _machine(target: Target) -> str:
    parts = []
    if target.ram_bytes:
        kind = "unified memory" if target.unified else "RAM"
        kept = f"{_size(target.reserved_bytes)} left to the system"
        parts.append(f"{_size(target.ram_bytes)} {kind}, {kept}")
    if target.vram_bytes:
        parts.append(f"{_size(target.vram_bytes)} VRAM")
    return "; ".join(parts)


def _document(choice: Choice, target: Target, shape: ModelShape) -> dict[str, object]:
    return {
        **fields(choice),
        "estimate": _parts(choice.estimate),
        "headroom_bytes": choice.headroom_bytes,
        "model": _model(shape),
        "target": {
            **fields(target),
            "reserve_bytes": target.reserved_bytes,
            "usable_ram_bytes": target.usable_ram_bytes,
        },
    }


def _model(shape: ModelShape) -> dict[str, object]:
    return {
        "name": shape.name,
        "parameters": shape.parameters,
        "layers": len(shape.kv_widths),
        "source": shape.source,
        "type": shape.level,
    }


def _parts(estimate: MemoryEstimate) -> dict[str, object]:
    return {
        **fields(estimate),
        "required_bytes": estimate.required_bytes,
        "total_bytes": estimate.total_bytes,
    }


def _echo(name: str, text: str) -> None:
    """Print a named line of at most 80 columns, continued below its text."""
    head = f"  {name:9}"
    filled = textwrap.wrap(
        head + text,
        width=80,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )
    for line in filled:
        typer.echo(line)


def _size(size: int) -> str:
    if abs(size) < _GIBIBYTE:
        return f"{size / _MEBIBYTE:.0f} MiB"
    return f"{size / _GIBIBYTE:.2f} GiB"
