"""`quantgate ...`: the same functions the plugin calls, from a shell."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pytest_quantgate import __version__
from pytest_quantgate.errors import QuantgateError

app = typer.Typer(
    name="quantgate",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Spec = Annotated[Path, typer.Argument(metavar="SPEC", help="Specification (gates.yaml)")]
StoreFolder = Annotated[
    Path, typer.Option("--store", metavar="DIR", help="Folder for measurements and made models")
]
Roots = Annotated[
    list[Path] | None,
    typer.Option("--root", metavar="DIR", help="Further folder that files may lie in (repeatable)"),
]
Threads = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Compute threads of each probe")
]
Timeout = Annotated[
    float | None, typer.Option(min=0, metavar="SECONDS", help="Longest time of one measurement")
]
Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Model files (GGUF)")]


def _version(wanted: bool) -> None:  # noqa: FBT001 - how typer calls it
    if wanted:
        typer.echo(f"quantgate {__version__}")
        raise typer.Exit


@app.callback()
def main_options(
    *,
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version")
    ] = False,
) -> None:
    """Quality gates for quantized language models; `pytest --quantgate SPEC` runs them."""


@app.command()
def checksum(files: Files) -> None:
    """Write FILE.sha256 beside each model, in the form `sha256sum -c` reads."""
    from pytest_quantgate.artifact import integrity  # noqa: PLC0415 - quick start

    for file in files:
        typer.echo(f"wrote {integrity.write_sidecar(file)}")


@app.command()
def verify(files: Files) -> None:
    """Hold each model against its checksum; exit 1 unless all match."""
    from pytest_quantgate.artifact import integrity  # noqa: PLC0415 - quick start

    failed = False
    for file in files:
        verification = integrity.verify(file)
        if verification.outcome == "match":
            typer.echo(f"{file}: ok, sha256 {verification.actual} ({verification.source})")
        elif verification.outcome == "mismatch":
            failed = True
            typer.echo(
                f"{file}: MISMATCH, sha256 {verification.actual}, but {verification.source} says"
                f" {verification.expected}"
            )
        else:
            failed = True
            typer.echo(f"{file}: no checksum; make one with: {verification.command}")
    if failed:
        raise typer.Exit(code=1)


@app.command()
def schema() -> None:
    """Print the JSON Schema of gates.yaml, for editors."""
    from pytest_quantgate.spec import schema_text  # noqa: PLC0415 - quick start

    typer.echo(schema_text(), nl=False)


@app.command()
def logits(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model file (GGUF)")],
    *,
    text: Annotated[Path, typer.Option(metavar="FILE", help="UTF-8 text to read")],
    output: Annotated[Path, typer.Option(metavar="FILE", help="Logits file to write")],
    context: Annotated[int, typer.Option(min=8, metavar="N", help="Window length in tokens")] = 512,
    chunks: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Windows, from the start; all by default")
    ] = None,
    threads: Threads = None,
    timeout: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="Longest time it may take")
    ] = 3600.0,
) -> None:
    """Write MODEL's logits of a text as `llama-perplexity --save-all-logits` does.

    A kld gate reads the file as logits_file, and `llama-perplexity --kl-divergence` as its base.
    """
    from pytest_quantgate import measure  # noqa: PLC0415 - quick start

    written = measure.write_logits(
        model.absolute(),
        text.absolute(),
        output.absolute(),
        context=context,
        chunks=chunks,
        threads=threads,
        timeout=timeout,
    )
    typer.echo(f"wrote {output}: {written} windows of {context} tokens")


def _say(text: str) -> None:
    typer.echo(f"quantgate: {text}", err=True)


@app.command()
def plan(
    spec: Spec,
    *,
    store: StoreFolder = Path(".quantgate"),
    root: Roots = None,
    threads: Threads = None,
    timeout: Timeout = None,
) -> None:
    """Say what the gates of SPEC will cost and what effects they can tell.

    Measures the first 16 chunks of each gate that draws from a text; the run takes them from the store.
    """
    from pytest_quantgate import forecast  # noqa: PLC0415 - quick start

    with forecast.opened(
        spec, store=store, roots=root or (), threads=threads, timeout=timeout
    ) as project:
        typer.echo(forecast.plan_text(project, say=_say), nl=False)


@app.command()
def calibrate(
    spec: Spec,
    *,
    chunks: Annotated[
        int, typer.Option(min=16, metavar="N", help="Chunks of each text to measure")
    ] = 32,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the proposed limits there")
    ] = None,
    store: StoreFolder = Path(".quantgate"),
    root: Roots = None,
    threads: Threads = None,
    timeout: Timeout = None,
) -> None:
    """Measure the noise floor of SPEC's baselines and propose limits that its variants keep.

    The floor is stored, and gates refuse limits inside it; each proposed limit has its reason beside it.
    """
    from pytest_quantgate import forecast  # noqa: PLC0415 - quick start

    with forecast.opened(
        spec, store=store, roots=root or (), threads=threads, timeout=timeout
    ) as project:
        text, proposed = forecast.calibration_text(project, chunks=chunks, say=_say)
    typer.echo(text, nl=False)
    if output is None:
        typer.echo(f"\n{proposed}", nl=False)
    else:
        from pytest_quantgate.artifact.files import write_atomically  # noqa: PLC0415 - quick start

        write_atomically(output, proposed.encode())
        typer.echo(f"wrote {output}")


def main() -> None:
    """Run the command line; a known error is one message and exit code 2."""
    try:
        app()
    except QuantgateError as error:
        typer.echo(f"quantgate: {error}", err=True)
        sys.exit(2)
