"""`quantgate convert`: GGUF files from Hugging Face folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pytest_quantgate.cli.options import Json, Overwrite, Threads, progress_line
from pytest_quantgate.cli.tables import print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_quantgate.artifact.conversion.convert import ConversionReport
    from pytest_quantgate.artifact.quantization.quantize import QuantizeReport

Folder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="Model folder, as transformers saves it")
]
Output = Annotated[
    Path | None,
    typer.Option(
        "-o", "--output", metavar="FILE", help="File to write, by default FOLDER-TYPE.gguf"
    ),
]
Outtype = Annotated[
    str, typer.Option(metavar="TYPE", help="Type to convert to: f32, f16, bf16, q8_0 or auto")
]
Types = Annotated[
    list[str] | None,
    typer.Option("--type", metavar="TYPE", help="Quantize the result, as to Q4_K_M (repeatable)"),
]
Verify = Annotated[
    str,
    typer.Option(metavar="WHAT", help="What must equal the source: logits (and tokens), or tokens"),
]
Seconds = Annotated[
    float, typer.Option("--timeout", min=1, metavar="SECONDS", help="Longest time for each file")
]


def convert(
    folder: Folder,
    *,
    output: Output = None,
    outtype: Outtype = "f16",
    types: Types = None,
    verify: Verify = "logits",
    overwrite: Overwrite = False,
    threads: Threads = None,
    timeout: Seconds = 3600.0,
    as_json: Json = False,
) -> None:
    """Convert FOLDER to a GGUF file and prove that it is the same model.

    The file appears when it reads sample texts as the source's tokenizer does and predicts what the
    source predicts. Needs the extra: pip install 'pytest-quantgate[convert]'. Code in FOLDER is not run.
    """
    from pytest_quantgate.artifact.quantization.recipe import recipe_for  # noqa: PLC0415 - quick start
    from pytest_quantgate.pipeline import conversion, quantization  # noqa: PLC0415 - quick start

    target = output or Path(_default_name(folder, outtype))
    recipes = [recipe_for(name) for name in types or ()]
    targets = [quantization.default_target(target, recipe) for recipe in recipes]
    _check_free(target, targets, outtype=outtype, overwrite=overwrite)
    with progress_line() as show:
        report = conversion.convert_folder(
            folder,
            target,
            outtype=outtype,
            verify=verify,
            threads=threads,
            timeout=timeout,
            overwrite=overwrite,
            on_progress=show,
        )
    if not as_json:
        _show(report)
    made: list[QuantizeReport] = []
    for recipe, place in zip(recipes, targets, strict=True):
        with progress_line() as show:
            made.append(
                quantization.quantize(
                    target,
                    place,
                    recipe=recipe,
                    threads=threads,
                    timeout=timeout,
                    overwrite=overwrite,
                    on_progress=show,
                )
            )
        if not as_json:
            typer.echo(f"wrote {place}: {recipe.type}, {_size(made[-1].target_bytes)}")
    if as_json:
        print_json({"conversion": report, "files": made})


def _default_name(folder: Path, outtype: str) -> str:
    name = folder.resolve().name
    return f"{name}.gguf" if outtype == "auto" else f"{name}-{outtype.upper()}.gguf"


def _check_free(target: Path, targets: Sequence[Path], *, outtype: str, overwrite: bool) -> None:
    """Refuse names before a long conversion that would be refused after it."""
    from pytest_quantgate.errors import QuantizationError  # noqa: PLC0415 - quick start

    if targets and outtype == "q8_0":
        message = "--type starts from a float type; convert to f16, bf16 or f32, not to q8_0"
        raise QuantizationError(message)
    for place in targets:
        if place == target or targets.count(place) > 1:
            message = f"two files would be written to {place}; name another --output or --type"
            raise QuantizationError(message)
        if place.exists() and not overwrite:
            message = f"{place}: exists already; remove it, or allow overwriting"
            raise QuantizationError(message)


def _show(report: ConversionReport) -> None:
    typer.echo(
        f"wrote {report.target}: {report.type_name}, {_size(report.target_bytes)},"
        f" {report.tensors} tensors of {report.architecture}"
    )
    tokens, logits = report.tokens, report.logits
    typer.echo(
        f"tokens: equal on {tokens.texts} texts and {tokens.special_texts} with special tokens"
        + (f"; {tokens.outside} have characters it has no tokens for" if tokens.outside else "")
    )
    if logits is None:
        typer.echo("logits: not compared, so nothing is known of the weights")
    else:
        typer.echo(
            f"logits: relative error {logits.relative_error:.1e}, mean KLD {logits.mean_kld:.1e},"
            f" same top token {logits.same_top:.1%} at {logits.positions} positions"
        )
    for note in report.notes:
        typer.echo(f"note: {note}")


def _size(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("convert")(convert)
