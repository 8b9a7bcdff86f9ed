"""What `quantgate inspect` shows of a model or an importance matrix."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

import typer

from pytest_quantgate.artifact.gguf.format import Omitted
from pytest_quantgate.cli.tables import bits, fields, print_table, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_quantgate.artifact.inspection import (
        ImatrixInspection,
        InspectedEntry,
        InspectedTensor,
        ModelInspection,
        Share,
    )

_SHOWN_CHARACTERS = 60
_NAMED = ("general.name", "general.license", "general.finetune", "general.size_label")


def show_summary(model: ModelInspection) -> None:
    """Print what a model says of itself, a line for each fact."""
    parts = f" in {len(model.parts)} files" if len(model.parts) > 1 else ""
    size = f"{model.file_bytes / 1e6:,.1f} MB{parts}"
    lines = [
        ("file", str(model.path)),
        ("kind", f"{_value(model.kind)}, {_value(model.architecture)}, GGUF {model.version}"),
        ("type", model.file_type or "not given"),
        ("size", f"{size}; {model.weights:,} weights of {bits(model.bits_per_weight)} bits"),
        ("fallbacks", _fallbacks(model)),
        ("shape", _shape(model)),
        *((key.removeprefix("general."), _value(model.metadata.get(key))) for key in _NAMED),
        ("template", _template(model)),
        ("checksum", model.checksum or "none"),
        ("record", str(model.provenance_file) if model.provenance_file else ""),
        ("made by", model.command),
        *((key, _value(value)) for key, value in model.provenance.items()),
    ]
    for label, text in lines:
        if text:
            typer.echo(_printable(f"{label:<10} {text}"))


def _fallbacks(model: ModelInspection) -> str:
    if not model.fallen:
        return ""
    rows = sorted({tensor.shape[0] for tensor in model.fallen})
    got = Counter(tensor.type for tensor in model.fallen).most_common()
    kinds = ", ".join(f"{count} {name}" for name, count in got)
    lengths = ", ".join(map(str, rows))
    return f"{len(model.fallen)} tensors have another type ({kinds}): rows of {lengths} do not fit"


def _shape(model: ModelInspection) -> str:
    wanted = {
        "block_count": "layers",
        "embedding_length": "wide",
        "attention.head_count": "heads",
        "attention.head_count_kv": "for keys and values",
        "expert_count": "experts",
        "context_length": "tokens of context",
    }
    found = (
        (model.metadata.get(f"{model.architecture}.{key}"), text) for key, text in wanted.items()
    )
    return ", ".join(f"{_value(value)} {text}" for value, text in found if value is not None)


def _template(model: ModelInspection) -> str:
    if not model.templates.present:
        return "none"
    names = ", ".join(model.templates.names)
    if not model.templates.suspicious:
        return f"{names}: nothing suspicious"
    return "SUSPICIOUS: " + "; ".join(model.templates.findings)


def _value(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, Omitted):
        return f"{value.count:,} of {value.type_name}"
    if isinstance(value, tuple):
        alike = len(set(value)) == 1
        value = value[0] if alike else ", ".join(map(str, value))
    text = _printable(str(value))
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"


def _printable(text: str) -> str:
    """Return a text without what could steer the terminal: it is somebody else's."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def show_shares(shares: Sequence[Share], what: str) -> None:
    """Print a table with a row for each share and a last one for all; ``what`` is role or layer."""
    rows = table(what, "tensors>", "weights>", "MB>", "bits>", "types")
    for share in shares:
        name = _words(share.role or "") if what == "role" else _layer(share)
        rows.add_row(name, *_sizes(share), _types(share, by_layer=what == "layer"))
    rows.add_section()
    rows.add_row(
        "all",
        f"{sum(share.tensors for share in shares)}",
        f"{sum(share.weights for share in shares):,}",
        f"{sum(share.bytes for share in shares) / 1e6:,.1f}",
        bits(8 * sum(share.bytes for share in shares) / sum(share.weights for share in shares)),
        "",
    )
    typer.echo()
    print_table(rows)


def _sizes(share: Share) -> tuple[str, str, str, str]:
    megabytes = f"{share.bytes / 1e6:,.1f}"
    return f"{share.tensors}", f"{share.weights:,}", megabytes, bits(share.bits_per_weight)


def _layer(share: Share) -> str:
    if share.layer is None:
        return f"{share.stack} others".strip()
    return f"{share.stack} {share.layer}".strip()


def _types(share: Share, *, by_layer: bool) -> str:
    if by_layer:
        return ", ".join(f"{use.tensors} {use.type}" for use in share.types)
    if len(share.types) == 1:
        return share.types[0].type
    return "; ".join(
        f"{use.type} in {_ranges(use.layers)}" if use.layers else use.type for use in share.types
    )


def _ranges(numbers: Sequence[int]) -> str:
    """Return numbers in ascending order as ``0-3, 6, 8-9``."""
    starts = [numbers[0], *(after for before, after in pairwise(numbers) if after != before + 1)]
    ends = [*(before for before, after in pairwise(numbers) if after != before + 1), numbers[-1]]
    return ", ".join(
        f"{start}-{end}" if start != end else f"{start}"
        for start, end in zip(starts, ends, strict=True)
    )


def show_tensors(tensors: Iterable[InspectedTensor]) -> None:
    """Print a table of tensors, those marked that fell back to another type."""
    rows = table("tensor", "role", "type", "shape", "MB>")
    fallen = False
    for tensor in tensors:
        shape = " x ".join(map(str, tensor.shape))
        kind = f"{tensor.type} *" if tensor.fell_back else tensor.type
        fallen |= tensor.fell_back
        megabytes = f"{tensor.bytes / 1e6:,.2f}"
        rows.add_row(_value(tensor.name), _words(tensor.role), kind, shape, megabytes)
    typer.echo()
    print_table(rows)
    if fallen:
        typer.echo("\n* rows do not fit the blocks of the file's type")


def show_imatrix(matrix: ImatrixInspection) -> None:
    """Print where an importance matrix came from and how uneven it is, by role."""
    texts = ", ".join(map(_value, matrix.datasets)) or "not given"
    windows = f" of {matrix.chunk_size} tokens" if matrix.chunk_size else ""
    typer.echo(f"file       {_printable(str(matrix.path))}")
    typer.echo(f"kind       importance matrix, {matrix.layout} layout")
    typer.echo(f"texts      {texts}; {matrix.chunks:,} windows{windows}")
    typer.echo(f"entries    {len(matrix.entries)} tensors")
    unseen = sum(entry.unseen > 0 for entry in matrix.entries)
    if unseen:
        typer.echo(f"unseen     {unseen} tensors have experts that no token has reached")
    rows = table("role", "tensors>", "columns>", "top 1%>", "layers")
    gathered: dict[tuple[str, int], list[InspectedEntry]] = {}
    for entry in matrix.entries:
        gathered.setdefault((entry.role, entry.columns), []).append(entry)
    for (role, columns), entries in gathered.items():
        spread = [entry.concentration for entry in entries]
        layers = sorted({entry.layer for entry in entries if entry.layer is not None})
        span = f"{min(spread):.0%} to {max(spread):.0%}"
        places = _ranges(layers) if layers else ""
        rows.add_row(_words(role), f"{len(entries)}", f"{columns:,}", span, places)
    typer.echo()
    print_table(rows)
    typer.echo("\ntop 1%: the share of all squares on the most used hundredth of the columns")


def model_document(model: ModelInspection) -> dict[str, object]:
    """Return all that is known of a model, for JSON."""
    return {
        **fields(model),
        "weights": model.weights,
        "tensor_bytes": model.tensor_bytes,
        "bits_per_weight": model.bits_per_weight,
        "fallbacks": [tensor.name for tensor in model.fallen],
        "tensors": [fields(each) | _bits_of(each) for each in model.tensors],
        "roles": [fields(each) | _bits_of(each) for each in model.by_role()],
        "layers": [fields(each) | _bits_of(each) for each in model.by_layer()],
    }


def _bits_of(each: InspectedTensor | Share) -> dict[str, object]:
    return {"bits_per_weight": each.bits_per_weight}


def imatrix_document(matrix: ImatrixInspection) -> dict[str, object]:
    """Return all that is known of an importance matrix, for JSON."""
    return {**fields(matrix), "kind": "imatrix"}


def _words(role: str) -> str:
    return role.replace("_", " ").replace("ffn", "feed-forward")
