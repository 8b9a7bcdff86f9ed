"""`quantgate checksum` and `verify`: who vouches for a file, and whether it is still that file."""

from __future__ import annotations

import typer

from pytest_quantgate.cli.options import Files  # noqa: TC001 - typer reads it at run time


def checksum(files: Files) -> None:
    """Write FILE.sha256 beside each model, in the form `sha256sum -c` reads."""
    from pytest_quantgate.artifact import integrity  # noqa: PLC0415 - quick start

    for file in files:
        typer.echo(f"wrote {integrity.write_sidecar(file)}")


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


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("checksum")(checksum)
    app.command("verify")(verify)
