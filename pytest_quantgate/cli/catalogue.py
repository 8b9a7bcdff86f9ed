"""`quantgate types` and `inspect`: what types there are and what a file holds."""

from __future__ import annotations

import dataclasses
from pathlib import Path  # noqa: TC003 - typer reads it at run time
from typing import TYPE_CHECKING, Annotated

import typer

from pytest_quantgate.cli.options import Json  # noqa: TC001 - typer reads it at run time
from pytest_quantgate.cli.tables import bits, print_json, print_table, table

if TYPE_CHECKING:
    from pytest_quantgate.artifact.catalog import QuantizationType, TensorType
    from pytest_quantgate.artifact.formats import WeightFormat


def types(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Only this type, with all that is known of it"),
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """List the types models can be quantized to, with the bits a weight really takes.

    `base` and `bits` are the tensor type most weights get; `7B` and `8B` are bits per weight of whole
    models of the shapes of Llama 2 7B and Llama 3.1 8B.
    """
    from pytest_quantgate.artifact import catalog, formats  # noqa: PLC0415 - quick start

    if name is not None:
        _one_type(name, as_json=as_json)
        return
    recipes = catalog.QUANTIZATION_TYPES.values()
    if as_json:
        print_json(
            {
                "quantization_types": [_recipe_facts(each) for each in recipes],
                "tensor_types": [
                    _tensor_facts(each) for each in catalog.TENSOR_TYPES_BY_NAME.values()
                ],
                "weight_formats": [_format_facts(each) for each in formats.WEIGHT_FORMATS.values()],
            }
        )
        return
    rows = table("type", "base", "bits>", "7B>", "8B>", "", "what it is")
    for each in sorted(recipes, key=lambda kind: -kind.bits_8b):
        needs = "imatrix" if each.needs_imatrix else ""
        rows.add_row(each.name, each.base, *_sizes(each), needs, each.summary)
    print_table(rows)
    typer.echo("\nFormats of GPU runtimes, with embeddings and output in 16 bits:\n")
    rows = table("format", "bits>", "7B>", "8B>", "made", "what it is")
    for one in formats.WEIGHT_FORMATS.values():
        made = "at load" if one.at_load else "calibrated"
        rows.add_row(one.name, *_sizes(one), made, one.summary)
    print_table(rows)


def _sizes(kind: QuantizationType | WeightFormat) -> tuple[str, str, str]:
    return bits(kind.bits_per_weight), bits(kind.bits_7b), bits(kind.bits_8b)


def _one_type(name: str, *, as_json: bool) -> None:
    from pytest_quantgate.artifact import catalog, formats  # noqa: PLC0415 - quick start
    from pytest_quantgate.errors import ArtifactError  # noqa: PLC0415 - quick start

    key = name.strip().upper()
    facts: dict[str, object]
    try:
        facts = _recipe_facts(catalog.quantization_type(name))
    except ArtifactError:
        if key in catalog.TENSOR_TYPES_BY_NAME:
            facts = _tensor_facts(catalog.TENSOR_TYPES_BY_NAME[key])
        else:
            try:
                facts = _format_facts(formats.weight_format(name))
            except ArtifactError:
                known = (*catalog.QUANTIZATION_TYPES, *formats.WEIGHT_FORMATS)
                hint = catalog.did_you_mean(key, known) or ";"
                message = f"{name!r} is no known type{hint} `quantgate types` lists all"
                raise ArtifactError(message) from None
    if as_json:
        print_json(facts)
        return
    for label, value in facts.items():
        if value not in (None, ""):
            typer.echo(f"{label.replace('_', ' '):<16} {_shown_fact(value)}")


def _shown_fact(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _recipe_facts(kind: QuantizationType) -> dict[str, object]:
    from pytest_quantgate.artifact import catalog  # noqa: PLC0415 - quick start

    base = catalog.TENSOR_TYPES_BY_NAME[kind.base]
    return {
        "name": kind.name,
        "summary": kind.summary,
        "base": kind.base,
        "block_weights": base.block_size,
        "block_bytes": base.block_bytes,
        "bits_per_weight": kind.bits_per_weight,
        "bits_7b": kind.bits_7b,
        "bits_8b": kind.bits_8b,
        "gigabytes_7b": round(catalog.WEIGHTS_7B * kind.bits_7b / 8e9, 2),
        "gigabytes_8b": round(catalog.WEIGHTS_8B * kind.bits_8b / 8e9, 2),
        "needs_imatrix": kind.needs_imatrix,
        "level_up": catalog.next_level_up(kind.name),
        "level_down": catalog.next_level_down(kind.name),
        "file_type": kind.ftype,
    }


def _tensor_facts(kind: TensorType) -> dict[str, object]:
    from pytest_quantgate.artifact import catalog  # noqa: PLC0415 - quick start

    made = any(kind.name == recipe.base for recipe in catalog.QUANTIZATION_TYPES.values())
    return {
        "name": kind.name,
        "summary": "a tensor type"
        if made
        else "a tensor type that no quantization type is made of",
        "block_weights": kind.block_size,
        "block_bytes": kind.block_bytes,
        "bits_per_weight": kind.bits_per_weight,
    }


def _format_facts(kind: WeightFormat) -> dict[str, object]:
    return dataclasses.asdict(kind) | {
        "bits_per_weight": kind.bits_per_weight,
        "bits_7b": kind.bits_7b,
        "bits_8b": kind.bits_8b,
    }


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Model (GGUF) or importance matrix")],
    *,
    roles: Annotated[
        bool, typer.Option("--roles", help="Table by role (as without any of these)")
    ] = False,
    layers: Annotated[bool, typer.Option("--layers", help="Table by layer")] = False,
    tensors: Annotated[bool, typer.Option("--tensors", help="Table of all tensors")] = False,
    as_json: Json = False,
) -> None:
    """Show what FILE holds: tensors by role and layer, their types, where it came from.

    Reads headers, of every part of a split model; whether bytes are right says `quantgate verify`.
    """
    from pytest_quantgate.artifact import inspection  # noqa: PLC0415 - quick start
    from pytest_quantgate.cli import contents  # noqa: PLC0415 - quick start

    found = inspection.inspect(_located(file))
    if isinstance(found, inspection.ImatrixInspection):
        if as_json:
            print_json(contents.imatrix_document(found))
        else:
            contents.show_imatrix(found)
        return
    if as_json:
        print_json(contents.model_document(found))
        return
    contents.show_summary(found)
    if roles or not (layers or tensors):
        contents.show_shares(found.by_role(), "role")
    if layers:
        contents.show_shares(found.by_layer(), "layer")
    if tensors:
        contents.show_tensors(found.tensors)


def _located(file: Path) -> Path:
    """Return where a file is that may be named as one of an installed package."""
    if not str(file).startswith("package:"):
        return file
    from pytest_quantgate.artifact import source  # noqa: PLC0415 - quick start

    return source.locate(str(file), base=file.parent, roots=())


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("types")(types)
    app.command("inspect")(inspect)
