"""`quantgate quantize`: smaller models from larger ones."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pytest_quantgate.cli.options import (
    Json,
    Overwrite,
    Threads,
    progress_line,
)
from pytest_quantgate.cli.tables import bits, print_json, print_table, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_quantgate.artifact.quantization.plan import FallenTensor
    from pytest_quantgate.artifact.quantization.quantize import DryRun, QuantizeReport
    from pytest_quantgate.records import Recipe

Source = Annotated[
    Path, typer.Argument(metavar="SOURCE", help="Model to start from (GGUF, best F16, BF16 or F32)")
]
Types = Annotated[
    list[str] | None,
    typer.Option("--type", metavar="TYPE", help="Quantization type, as Q4_K_M (repeatable)"),
]
Output = Annotated[
    Path | None, typer.Option("-o", "--output", metavar="FILE", help="File to write, for one type")
]
OutputFolder = Annotated[
    Path | None,
    typer.Option("--output-dir", metavar="DIR", help="Folder to write to, by default the source's"),
]
ImatrixFile = Annotated[
    Path | None,
    typer.Option("--imatrix", metavar="FILE", help="Importance matrix (GGUF or .dat)"),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--override",
        metavar="REGEX=TYPE",
        help="Tensor type for the tensors a pattern is found in; the first counts (repeatable)",
    ),
]
StrategyName = Annotated[
    str | None, typer.Option("--strategy", metavar="NAME", help="Named mix: mixed-precision")
]
OutputTensor = Annotated[
    str | None, typer.Option("--output-tensor", metavar="TYPE", help="Type of the output tensor")
]
Embedding = Annotated[
    str | None, typer.Option("--embedding", metavar="TYPE", help="Type of the token embeddings")
]
LeaveOutput = Annotated[
    bool, typer.Option("--leave-output", help="Leave the output tensor as it is")
]
Pure = Annotated[
    bool, typer.Option("--pure", help="Base type for all tensors, without the type's own mix")
]
AllowRequantize = Annotated[
    bool,
    typer.Option("--allow-requantize", help="Quantize a quantized source again, which loses twice"),
]
EmbedProvenance = Annotated[
    bool, typer.Option("--embed-provenance", help="Write the origin into the file's metadata, too")
]
Dry = Annotated[bool, typer.Option("--dry-run", help="Tell sizes and types, write nothing")]
Seconds = Annotated[
    float, typer.Option("--timeout", min=1, metavar="SECONDS", help="Longest time for each file")
]


def quantize(
    source: Source,
    *,
    types: Types = None,
    output: Output = None,
    output_dir: OutputFolder = None,
    imatrix: ImatrixFile = None,
    override: Overrides = None,
    strategy: StrategyName = None,
    output_tensor: OutputTensor = None,
    embedding: Embedding = None,
    leave_output: LeaveOutput = False,
    pure: Pure = False,
    dry_run: Dry = False,
    allow_requantize: AllowRequantize = False,
    overwrite: Overwrite = False,
    embed_provenance: EmbedProvenance = False,
    threads: Threads = None,
    timeout: Seconds = 3600.0,
    as_json: Json = False,
) -> None:
    """Quantize SOURCE to each TYPE, as llama.cpp's own quantizer does, to the byte.

    Each file gets a checksum (.sha256) and a record of its origin (.json), and appears under its name
    only when it is whole. Without --output it is named by its source and type.
    """
    from pytest_quantgate.artifact.quantization import recipe as recipes  # noqa: PLC0415 - quick start
    from pytest_quantgate.errors import QuantgateError  # noqa: PLC0415 - quick start
    from pytest_quantgate.pipeline import quantization  # noqa: PLC0415 - quick start

    names: list[str | None] = list(types) if types else [None]
    chosen = [
        recipes.recipe_for(
            name,
            strategy=strategy,
            overrides=[recipes.parse_override(text) for text in override or ()],
            imatrix=str(imatrix) if imatrix else "",
            output_tensor=output_tensor,
            embedding=embedding,
            leave_output=leave_output,
            pure=pure,
        )
        for name in names
    ]
    targets = _targets(source, chosen, output, output_dir)
    if dry_run:
        plans = quantization.plan(
            source, chosen, threads=threads, timeout=timeout, allow_requantize=allow_requantize
        )
        _show_plans(plans, targets, as_json=as_json)
        return
    if len(chosen) > 1:
        plans = quantization.plan(
            source, chosen, threads=threads, timeout=timeout, allow_requantize=allow_requantize
        )
        _require_all(source, plans, targets, overwrite=overwrite)
    reports: list[QuantizeReport] = []
    try:
        for target, recipe in zip(targets, chosen, strict=True):
            with progress_line() as show:
                reports.append(
                    quantization.quantize(
                        source,
                        target,
                        recipe=recipe,
                        threads=threads,
                        timeout=timeout,
                        allow_requantize=allow_requantize,
                        overwrite=overwrite,
                        embed_provenance=embed_provenance,
                        on_progress=show,
                    )
                )
    except QuantgateError:
        # What was made before stays, and whoever asked is told of it.
        _show_reports(reports, as_json=as_json)
        raise
    _show_reports(reports, as_json=as_json)


def _targets(
    source: Path, recipes: Sequence[Recipe], output: Path | None, folder: Path | None
) -> list[Path]:
    """Return where each recipe's file goes."""
    from pytest_quantgate.errors import QuantizationError  # noqa: PLC0415 - quick start
    from pytest_quantgate.pipeline.quantization import default_target  # noqa: PLC0415 - quick start

    if output is not None and (folder is not None or len(recipes) > 1):
        message = "--output names one file; for several types give a folder with --output-dir"
        raise QuantizationError(message)
    if output is not None:
        return [output]
    targets = [default_target(source, recipe, folder) for recipe in recipes]
    twice = [target for target, count in Counter(targets).items() if count > 1]
    if twice:
        message = f"two of the types would be written to {twice[0]}; name each once"
        raise QuantizationError(message)
    return targets


def _require_all(
    source: Path, plans: Sequence[DryRun], targets: Sequence[Path], *, overwrite: bool
) -> None:
    """Tell what is in the way of any of the files before hours are spent on the first."""
    from pytest_quantgate.artifact.partial import require_free  # noqa: PLC0415 - quick start
    from pytest_quantgate.errors import QuantizationError  # noqa: PLC0415 - quick start

    problems = []
    for plan, target in zip(plans, targets, strict=True):
        try:
            taken = {"the source itself": (source,)}
            require_free(target, taken, overwrite=overwrite, error=QuantizationError)
        except QuantizationError as error:
            problems.append(str(error))
        if plan.needs_imatrix:
            problems.append(
                f"{plan.type_name} needs an importance matrix for this model; make one with"
                " `quantgate imatrix` and name it (--imatrix), or choose a larger type"
            )
    if problems:
        raise QuantizationError("\n".join(problems))


def _show_reports(reports: Sequence[QuantizeReport], *, as_json: bool) -> None:
    if as_json:
        print_json({"files": reports})
        return
    if not reports:
        return
    rows = table("type", "size>", "bits>", "fallbacks>", "time>", "peak memory>", "file")
    for report in reports:
        rows.add_row(
            report.type_name,
            _size(report.target_bytes),
            bits(report.bits_per_weight),
            f"{report.fallback_tensors} of {report.tensors}",
            f"{report.seconds:.1f} s",
            _size(report.peak_rss_bytes),
            Path(report.target).name,
        )
    print_table(rows)
    for report in reports:
        _show_fallbacks(report.type_name, report.fallbacks)
        if report.unweighted_tensors:
            typer.echo(
                f"{report.type_name}: the importance matrix says nothing about"
                f" {report.unweighted_tensors} of {report.tensors} tensors"
            )


def _show_plans(plans: Sequence[DryRun], targets: Sequence[Path], *, as_json: bool) -> None:
    if as_json:
        print_json({"plans": plans})
        return
    rows = table("type", "size>", "bits>", "fallbacks>", "", "file")
    for plan, target in zip(plans, targets, strict=True):
        needs = "needs imatrix" if plan.needs_imatrix else ""
        rows.add_row(
            plan.type_name,
            _size(plan.file_bytes),
            bits(plan.bits_per_weight),
            f"{len(plan.fallbacks)} of {plan.tensors}",
            needs,
            target.name,
        )
    print_table(rows)
    for plan in plans:
        made = ", ".join(f"{share.tensors} {share.type}" for share in plan.types)
        typer.echo(f"{plan.type_name}: {made}")
        _show_fallbacks(plan.type_name, plan.fallbacks)


def _show_fallbacks(name: str, fallbacks: Iterable[FallenTensor]) -> None:
    kinds = Counter((fallen.wanted, fallen.got) for fallen in fallbacks)
    if kinds:
        told = ", ".join(f"{count} {wanted} became {got}" for (wanted, got), count in kinds.items())
        typer.echo(f"{name}: rows do not fit the blocks: {told}")


def _size(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("quantize")(quantize)
