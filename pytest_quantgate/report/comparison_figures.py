"""The figures of a comparison as texts: its tables, and what there is to say of each reply."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pytest_quantgate.report.comparison import surprise

if TYPE_CHECKING:
    from pytest_quantgate.records import Parting
    from pytest_quantgate.report.comparison import ComparedPrompt, Comparison, Reply, Speed


def tables(comparison: Comparison) -> tuple[tuple[tuple[str, ...], ...], ...]:
    """Return the figures as tables of texts, the first row of each being its head.

    Columns of what was not measured are left out.
    """
    made = (_sizes(comparison), _speeds(comparison), _outputs(comparison))
    return tuple(_without_empty(rows) for rows in made if len(rows) > 1)


def conditions(comparison: Comparison) -> str:
    """Return what the figures hold for."""
    parts = [comparison.engine, comparison.machine]
    memory = comparison.reference.memory
    if memory is not None:
        before = megabytes(memory.before_load_bytes)
        parts.append(f"peak memory is of a fresh process, {before} of it before a model was loaded")
    if comparison.reference.speed is not None:
        parts.append(
            "tokens/s is the median of single requests, each model's in turns with the reference's"
        )
    return "; ".join(parts)


def parted(reply: Reply) -> tuple[str, str]:
    """Return an output in two: what it has in common with the reference's, and the rest."""
    common = "" if reply.parting is None else reply.parting.common
    if not reply.output.startswith(common):
        return "", reply.output
    return common, reply.output[len(common) :]


def notes(comparison: Comparison, prompt: ComparedPrompt, model: int) -> tuple[str, ...]:
    """Return what there is to say of one reply, a line each."""
    reply = prompt.replies[model]
    reference = comparison.reference.name
    parts = [_judgement(prompt, model)]
    if reply.right is False and reply.reason:
        parts[0] += f": {reply.reason}"
    if reply.surprise is not None and (model == 0 or not prompt.identical(model)):
        whose = "itself" if model == 0 else reference
        parts.append(f"surprises {whose} by {surprise(reply.surprise)} nats/byte")
    if model and not prompt.identical(model):
        parts.append(_place(reply))
    found = ["; ".join(part for part in parts if part)]
    if reply.parting is not None:
        found += [f"  {line}" for line in _chances(comparison, model, reply.parting)]
    return tuple(line for line in found if line)


def megabytes(count: int) -> str:
    """Return a size in MiB."""
    size = count / 2**20
    return f"{size:.1f} MiB" if size < 100 else f"{size:,.0f} MiB"  # noqa: PLR2004 - three digits


def _sizes(comparison: Comparison) -> list[tuple[str, ...]]:
    head = ("model", "type", "bits", "file", "weights", "peak memory")
    rows = [
        (
            model.name,
            "" if model.file_type == model.name else model.file_type,
            f"{model.bits_per_weight:.2f}",
            megabytes(model.file_bytes),
            megabytes(model.weight_bytes),
            "" if model.memory is None else megabytes(model.memory.peak_rss_bytes),
        )
        for model in comparison.models
    ]
    return [head, *rows]


def _speeds(comparison: Comparison) -> list[tuple[str, ...]]:
    head = ("speed", "tokens/s", f"against {comparison.reference.name}")
    rows = [
        (model.name, f"{model.speed.tokens_per_second:.1f}", _speed_ratio(model.speed))
        for model in comparison.models
        if model.speed is not None
    ]
    return [head, *rows]


def _outputs(comparison: Comparison) -> list[tuple[str, ...]]:
    count = len(comparison.prompts)
    head = (
        "outputs",
        "identical",
        "equal tokens",
        "near ties",
        "nats/byte",
        "right",
        "lost",
        "gained",
    )
    reference = (
        comparison.reference.name,
        "",
        "",
        "",
        surprise(comparison.surprise),
        "" if comparison.right is None else f"{comparison.right} of {count}",
        "",
        "",
    )
    rows = [
        (
            each.name,
            f"{each.identical} of {each.prompts}",
            "" if each.equal_tokens is None else f"{each.equal_tokens:g}",
            f"{each.near_ties} of {each.partings}" if each.partings else "",
            surprise(each.surprise),
            "" if each.right is None else f"{each.right} of {each.prompts}",
            "" if each.lost is None else str(each.lost),
            "" if each.gained is None else str(each.gained),
        )
        for each in comparison.differences
    ]
    return [head, reference, *rows]


def _without_empty(rows: list[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    kept = [place for place in range(len(rows[0])) if any(row[place] for row in rows[1:])]
    return tuple(tuple(row[place] for place in kept) for row in rows)


def _speed_ratio(speed: Speed) -> str:
    if speed.ratio is None:
        return ""
    if speed.low is None or speed.high is None:
        return f"{speed.ratio:.2f}x"
    return f"{speed.ratio:.2f}x ({speed.low:.2f}-{speed.high:.2f})"


def _chances(comparison: Comparison, model: int, parting: Parting) -> tuple[str, str]:
    """Return both tokens of a parting, each with its probabilities under both models."""
    names = (comparison.reference.name, comparison.models[model].name)
    lines = []
    for name, pair in zip(names, (parting.baseline, parting.candidate), strict=True):
        token = json.dumps(pair[0].text, ensure_ascii=False)
        under = ", ".join(
            f"{each.probability:.1%} under {whose}"
            + (f" (rank {each.rank})" if each.rank > 1 else "")
            for each, whose in zip(pair, names, strict=True)
        )
        lines.append(f"{name} chose {token}: {under}")
    return lines[0], lines[1]


def _place(reply: Reply) -> str:
    """Return where a reply leaves the reference's, empty where that is not known."""
    if reply.equal_tokens is None:
        return ""
    count = reply.equal_tokens
    tie = ", at a near tie" if reply.parting is not None and reply.parting.near_tie else ""
    return f"parts after {count} equal token{'s' * (count != 1)}{tie}"


def _judgement(prompt: ComparedPrompt, model: int) -> str:
    """Return right, wrong, lost or gained; empty where no answer is expected."""
    reply = prompt.replies[model]
    if reply.right is None:
        return ""
    word = "right" if reply.right else "wrong"
    flip = prompt.flip(model)
    return word if flip is None else f"{word} ({flip})"
