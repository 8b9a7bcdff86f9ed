"""`quantgate schema`, `logits`, `plan` and `calibrate`: what surrounds a run of the gates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pytest_quantgate.cli.options import Threads, Timeout  # noqa: TC001 - typer reads them at run time

Spec = Annotated[Path, typer.Argument(metavar="SPEC", help="Specification (gates.yaml)")]
StoreFolder = Annotated[
    Path, typer.Option("--store", metavar="DIR", help="Folder for measurements and made models")
]
Roots = Annotated[
    list[Path] | None,
    typer.Option("--root", metavar="DIR", help="Further folder that files may lie in (repeatable)"),
]


def schema() -> None:
    """Print the JSON Schema of gates.yaml, for editors."""
    from pytest_quantgate.spec import schema_text  # noqa: PLC0415 - quick start

    typer.echo(schema_text(), nl=False)


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


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (schema, plan, calibrate, logits):
        app.command(command.__name__)(command)
