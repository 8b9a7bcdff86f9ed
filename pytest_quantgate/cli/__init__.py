"""`quantgate ...`: the same functions the plugin calls, from a shell."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from pytest_quantgate import __version__
from pytest_quantgate.cli import (
    catalogue,
    choose,
    compare,
    convert,
    gates,
    guard,
    imatrix,
    quantize,
)
from pytest_quantgate.errors import QuantgateError

app = typer.Typer(
    name="quantgate",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


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


for _module in (gates, compare, quantize, imatrix, convert, catalogue, choose, guard):
    _module.register(app)


def main() -> None:
    """Run the command line; a known error is one message and exit code 2."""
    try:
        app()
    except QuantgateError as error:
        typer.echo(f"quantgate: {error}", err=True)
        sys.exit(2)
