"""`quantgate compare`: models side by side on the same prompts."""

from __future__ import annotations

import enum
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pytest_quantgate.cli.options import Threads, Timeout, progress_line

if TYPE_CHECKING:
    from pytest_quantgate.report.comparison import Comparison

WIDTH = 80
"""Columns where there is no terminal that says how many it has."""


class Form(str, enum.Enum):
    """How a comparison is written."""

    TABLE = "table"
    MARKDOWN = "markdown"
    HTML = "html"
    JSON = "json"


_FORMS = {".md": Form.MARKDOWN, ".markdown": Form.MARKDOWN, ".html": Form.HTML, ".htm": Form.HTML}
_FORMS |= {".json": Form.JSON}


def compare(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL]...", help="Files, or package:<import name>/<file>"),
    ] = None,
    *,
    prompts: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="Text with a prompt a line, a file of cases (.jsonl, .yaml), or builtin:everyday",
        ),
    ],
    source: Annotated[
        str | None, typer.Option(metavar="MODEL", help="What each --type is made from")
    ] = None,
    types: Annotated[
        list[str] | None,
        typer.Option("--type", metavar="TYPE", help="Type to make of --source (repeatable)"),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="NAME", help="The reference; by default the first model")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Longest output")] = 64,
    chat: Annotated[
        bool | None,
        typer.Option(
            "--chat/--plain",
            help="Ask lines as a user's messages, or as plain text; by default messages where every"
            " model has a chat template",
        ),
    ] = None,
    memory: Annotated[
        bool, typer.Option("--memory/--no-memory", help="Measure peak memory in a fresh process")
    ] = True,
    speed: Annotated[
        bool,
        typer.Option("--speed/--no-speed", help="Time generation, in turns with the reference"),
    ] = True,
    form: Annotated[
        Form | None,
        typer.Option("--format", help="How to write it; by default as the ending of -o says"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="File to write")
    ] = None,
    show: Annotated[
        int, typer.Option(min=0, metavar="N", help="Prompts that the table shows in full")
    ] = 20,
    allow_requantize: Annotated[
        bool,
        typer.Option(
            "--allow-requantize", help="Quantize a quantized source again, which loses twice"
        ),
    ] = False,
    remeasure: Annotated[
        bool, typer.Option("--remeasure", help="Ask anew what the store has an answer to")
    ] = False,
    store: Annotated[
        Path, typer.Option("--store", metavar="DIR", help="Folder for answers and made models")
    ] = Path(".quantgate"),
    threads: Threads = None,
    timeout: Timeout = None,
) -> None:
    """Put models side by side on the same prompts: outputs, where they part, memory and speed.

    The first model is the reference. Prompts whose answers turn wrong come first, then those at whose
    outputs the reference is most surprised.
    """
    from pytest_quantgate import comparison  # noqa: PLC0415 - quick start

    asked = comparison.load_asked(prompts)
    named = comparison.named_models(
        models or (),
        source=source,
        types=types or (),
        allow_requantize=allow_requantize,
        baseline=baseline,
    )
    with progress_line() as progress:
        compared = comparison.compare(
            named,
            asked,
            store=store,
            max_tokens=max_tokens,
            chat=chat,
            memory=memory,
            speed=speed,
            remeasure=remeasure,
            threads=threads,
            timeout=timeout,
            on_progress=progress,
            say=_say,
        )
    _write(compared, form or _form(output), output, show=show)


def _say(text: str) -> None:
    typer.echo(f"quantgate: {text}", err=True)


def _form(output: Path | None) -> Form:
    """Return the form that the ending of a file stands for."""
    return Form.TABLE if output is None else _FORMS.get(output.suffix.lower(), Form.TABLE)


def _write(compared: Comparison, form: Form, output: Path | None, *, show: int) -> None:
    if output is None:
        typer.echo(_text(compared, form, show=show, to_file=False), nl=False)
        return
    from pytest_quantgate.artifact.files import write_atomically  # noqa: PLC0415 - quick start

    write_atomically(output, _text(compared, form, show=show, to_file=True).encode())
    typer.echo(f"wrote {output}")


def _text(compared: Comparison, form: Form, *, show: int, to_file: bool) -> str:
    if form is Form.JSON:
        from pytest_quantgate.report.comparison import to_json  # noqa: PLC0415 - quick start

        return to_json(compared)
    if form is Form.HTML:
        from pytest_quantgate.report import comparison_html  # noqa: PLC0415 - quick start

        return comparison_html.render(compared)
    if form is Form.MARKDOWN:
        from pytest_quantgate.report import comparison_markdown  # noqa: PLC0415 - quick start

        return comparison_markdown.render(compared)
    from pytest_quantgate.report import comparison_table  # noqa: PLC0415 - quick start

    if to_file:
        most = len(compared.prompts)
        return comparison_table.render(compared, width=WIDTH, color=False, most=most)
    width = shutil.get_terminal_size((WIDTH, 24)).columns
    return comparison_table.render(compared, width=width, color=sys.stdout.isatty(), most=show)


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("compare")(compare)
