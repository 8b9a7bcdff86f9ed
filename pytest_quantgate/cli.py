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


def main() -> None:
    """Run the command line; a known error is one message and exit code 2."""
    try:
        app()
    except QuantgateError as error:
        typer.echo(f"quantgate: {error}", err=True)
        sys.exit(2)
