"""`quantgate imatrix` and `passages`: importance matrices and the texts for them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from pytest_quantgate.cli.options import Json, Overwrite, Threads, progress_line

Output = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="File to write")]
Corpus = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Warn when this text of a gate is of another domain"),
]


def imatrix(
    model: Annotated[
        Path | None, typer.Argument(metavar="MODEL", help="Model file (GGUF)", show_default=False)
    ] = None,
    *,
    output: Output,
    text: Annotated[
        str | None, typer.Option(metavar="FILE", help="UTF-8 text, or builtin:python-docs")
    ] = None,
    chunks: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Windows, from the start; all by default")
    ] = None,
    context: Annotated[
        int, typer.Option(min=16, metavar="N", help="Window length in tokens")
    ] = 512,
    process_output: Annotated[
        bool, typer.Option("--process-output", help="Measure the output tensor too")
    ] = False,
    parse_special: Annotated[
        bool, typer.Option("--parse-special", help="Read special tokens that the text spells")
    ] = False,
    legacy: Annotated[
        bool, typer.Option("--legacy", help="Write the old layout (.dat) instead of GGUF")
    ] = False,
    convert: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Convert this importance matrix; takes no MODEL"),
    ] = None,
    corpus: Corpus = None,
    overwrite: Overwrite = False,
    threads: Threads = None,
    timeout: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="Longest time it may take")
    ] = 3600.0,
    as_json: Json = False,
) -> None:
    """Compute the importance matrix of MODEL from a text, as `llama-imatrix` does.

    The file is for `quantgate quantize --imatrix`; llama.cpp's own tools take it too.
    """
    if convert is not None:
        if model is not None or text is not None:
            message = "--convert takes an importance matrix and no MODEL or --text"
            raise typer.BadParameter(message)
        _convert(convert, output, context=context, legacy=legacy, overwrite=overwrite)
        return
    if model is None or text is None:
        message = "MODEL and --text are needed, or --convert"
        raise typer.BadParameter(message)
    from pytest_quantgate.pipeline import importance  # noqa: PLC0415 - quick start

    warnings = _domain_warnings(text, corpus)
    with progress_line() as show:
        report = importance.compute_imatrix(
            model,
            text,
            output,
            context=context,
            chunks=chunks,
            threads=threads,
            process_output=process_output,
            parse_special=parse_special,
            legacy=legacy,
            overwrite=overwrite,
            timeout=timeout,
            on_progress=show,
        )
    if report.partial:
        warnings.append(
            f"{len(report.partial)} tensors have experts that no token was sent to, such as "
            f"{report.partial[0]}: use a longer or more varied text"
        )
    if as_json:
        typer.echo(json.dumps({**dataclasses.asdict(report), "warnings": warnings}, indent=2))
        return
    _warn(warnings)
    typer.echo(
        f"wrote {report.output}: {report.entries} weight tensors, {report.chunks} of "
        f"{report.available} windows of {report.context} tokens, {report.seconds:.1f} s"
    )


def passages(
    documents: Annotated[
        list[Path], typer.Argument(metavar="DOCS...", help="Documents (.txt, .md, .jsonl)")
    ],
    *,
    output: Output,
    count: Annotated[int, typer.Option(metavar="N", help="Passages, 128 to 512")] = 256,
    seed: Annotated[int, typer.Option(metavar="N", help="Chooses among the possible sets")] = 0,
    corpus: Corpus = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Draw a calibration text from documents: passages of several lengths, from all of them."""
    from pytest_quantgate.artifact.imatrix.calibration_set import (  # noqa: PLC0415 - quick start
        sample_passages,
    )

    _refuse_existing(output, overwrite=overwrite)
    drawn = sample_passages(documents, count=count, seed=seed)
    drawn.write(output)
    warnings = [*drawn.warnings, *_domain_warnings(str(output), corpus)]
    if as_json:
        document = {
            "output": str(output),
            "sha256": drawn.sha256,
            "characters": len(drawn.text),
            "passages": len(drawn.passages),
            "documents": drawn.documents,
            "used_documents": drawn.used_documents,
            "seed": drawn.seed,
            "coverage": [dataclasses.asdict(each) for each in drawn.coverage],
            "warnings": warnings,
        }
        typer.echo(json.dumps(document, indent=2))
        return
    _warn(warnings)
    for each in drawn.coverage:
        typer.echo(
            f"{each.band.name:<7} {each.band.shortest:>5} to {each.band.longest:>4} characters: "
            f"{each.taken:>3} of {each.found} passages"
        )
    typer.echo(
        f"wrote {output}: {len(drawn.passages)} passages of {drawn.used_documents} of "
        f"{drawn.documents} documents, {len(drawn.text)} characters"
    )


def _convert(source: Path, output: Path, *, context: int, legacy: bool, overwrite: bool) -> None:
    from pytest_quantgate.artifact.imatrix import (  # noqa: PLC0415 - quick start
        read_imatrix,
        write_imatrix,
    )

    _refuse_existing(output, overwrite=overwrite)
    matrix = read_imatrix(source)
    write_imatrix(matrix if legacy else matrix.with_chunk_size(context), output, legacy=legacy)
    typer.echo(f"wrote {output}: {len(matrix.entries)} weight tensors")


def _refuse_existing(output: Path, *, overwrite: bool) -> None:
    from pytest_quantgate.artifact.partial import require_free  # noqa: PLC0415 - quick start

    require_free(output, {}, overwrite=overwrite)


def _domain_warnings(text: str, corpus: str | None) -> list[str]:
    if corpus is None:
        return []
    from pytest_quantgate.artifact.imatrix.domain import domain_warning  # noqa: PLC0415 - quick start
    from pytest_quantgate.artifact.imatrix.report import text_bytes  # noqa: PLC0415 - quick start

    warning = domain_warning(
        text_bytes(text).decode(),
        text_bytes(corpus).decode(),
        text_name=Path(text).name,
        corpus_name=Path(corpus).name,
    )
    return [] if warning is None else [warning]


def _warn(warnings: list[str]) -> None:
    for warning in warnings:
        typer.echo(f"quantgate: warning: {warning}", err=True)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (imatrix, passages):
        app.command(command.__name__)(command)
