"""A comparison of models as Markdown: tables, sentences, and every prompt with its outputs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_quantgate.report import comparison as shown
from pytest_quantgate.report import comparison_figures as figures

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_quantgate.report.comparison import ComparedPrompt, Comparison

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~&])")
_TICKS = re.compile(r"`+")


def render(comparison: Comparison) -> str:
    """Return a whole comparison as one Markdown document; outputs stand in fences, as they are."""
    lines = ["# Comparison of models", "", f"{_plain(shown.headline(comparison))}.", ""]
    for rows in figures.tables(comparison):
        lines += [*_table(rows), ""]
    lines += [
        f"{_plain(figures.conditions(comparison))}.",
        "",
        "## Where the difference matters",
        "",
    ]
    lines += [f"- {_plain(sentence)}" for sentence in shown.findings(comparison)]
    lines += ["", "## Prompts", ""]
    for prompt in comparison.prompts:
        lines += _prompt(comparison, prompt)
    return "\n".join(lines).rstrip("\n") + "\n"


def _prompt(comparison: Comparison, prompt: ComparedPrompt) -> Iterator[str]:
    yield from (f"### {_plain(prompt.id)}", "", *_fenced(prompt.question), "")
    if prompt.expected is not None:
        yield from (f"Expected: {_plain(prompt.expected)}", "")
    for number, (model, reply) in enumerate(zip(comparison.models, prompt.replies, strict=True)):
        if number and prompt.identical(number):
            yield f"**{_plain(model.name)}**: the same"
        else:
            yield from (f"**{_plain(model.name)}**", "", *_fenced(reply.output))
        yield ""
        notes = figures.notes(comparison, prompt, number)
        yield from (f"- {_plain(note.strip())}" for note in notes)
        if notes:
            yield ""


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for number, row in enumerate(rows):
        yield f"| {' | '.join(map(_plain, row))} |"
        if number == 0:
            yield f"| --- |{' ---: |' * (len(row) - 1)}"


def _fenced(text: str) -> tuple[str, ...]:
    """Return a text in a fence that is longer than any inside it."""
    longest = max((len(found) for found in _TICKS.findall(text)), default=0)
    fence = "`" * max(3, longest + 1)
    return (f"{fence}text", *shown.visible(text).split("\n"), fence)


def _plain(text: str) -> str:
    """Return a text on one line that Markdown shows as it is."""
    return _SPECIAL.sub(r"\\\1", " ".join(shown.visible(text).split()))
