"""A comparison of models as one HTML file that needs nothing beside it."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

from pytest_quantgate.report import comparison as shown
from pytest_quantgate.report import comparison_figures as figures

if TYPE_CHECKING:
    from pytest_quantgate.report.comparison import ComparedPrompt, Comparison

TEMPLATE = "comparison.html.jinja"


def render(comparison: Comparison) -> str:
    """Return a whole comparison as one page: no scripts, nothing loaded, every text escaped."""
    import jinja2  # noqa: PLC0415 - quick start

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["visible"] = shown.visible
    source = resources.files("pytest_quantgate.report").joinpath(TEMPLATE)
    return environment.from_string(source.read_text(encoding="utf-8")).render(
        headline=shown.headline(comparison),
        tables=figures.tables(comparison),
        conditions=figures.conditions(comparison),
        findings=shown.findings(comparison),
        prompts=[_prompt(comparison, prompt) for prompt in comparison.prompts],
        columns=len(comparison.models),
    )


def _prompt(comparison: Comparison, prompt: ComparedPrompt) -> dict[str, object]:
    replies = []
    for number, (model, reply) in enumerate(zip(comparison.models, prompt.replies, strict=True)):
        common, rest = figures.parted(reply)
        replies.append(
            {
                "name": model.name,
                "same": number > 0 and prompt.identical(number),
                "common": common,
                "rest": rest,
                "notes": figures.notes(comparison, prompt, number),
                "right": reply.right,
                "flip": prompt.flip(number),
                "reference": number == 0,
            }
        )
    return {
        "id": prompt.id,
        "question": prompt.question,
        "expected": prompt.expected,
        "replies": replies,
        "flips": sorted(
            {str(flip) for number in range(len(replies)) if (flip := prompt.flip(number))}
        ),
        "same": all(prompt.identical(number) for number in range(len(replies))),
    }
