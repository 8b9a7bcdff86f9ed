"""The texts of one gate: why it failed, and the evidence behind its verdict."""

from __future__ import annotations

from textwrap import indent
from typing import TYPE_CHECKING

from pytest_quantgate.records import Outcome
from pytest_quantgate.report import figures

if TYPE_CHECKING:
    from pytest_quantgate.records import Verdict


def failure(verdict: Verdict) -> str:
    """Return the message of a gate that did not pass; its first line stands alone."""
    first = verdict.headline
    if verdict.outcome is Outcome.INCONCLUSIVE:
        first = f"inconclusive: {first}"
    return "\n".join([first, *_body(verdict)])


def evidence(verdict: Verdict) -> str:
    """Return what stands behind a verdict, passed or not."""
    return "\n".join([verdict.headline, *_body(verdict)])


def _body(verdict: Verdict) -> list[str]:
    lines = [f"{verdict.location}: {'::'.join(verdict.key)}"]
    for check in verdict.checks:
        line = f"  {check.statistic}: {figures.value(check)}, {figures.limit(check)}"
        if check.baseline is not None:
            line += f", baseline {figures.baseline(check)}"
        if sure := figures.confidence(check):
            line += f", {sure}"
        lines.append(f"{line} ({check.sample}): {check.outcome.value}")
    # A finding may have several lines, of which the later ones keep their place below the first.
    lines.extend(indent(finding, "  ") for finding in verdict.findings)
    lines.extend(f"  advice: {advice}" for advice in verdict.advice)
    if verdict.stored:
        lines.append("  all figures are stored measurements; --quantgate-remeasure measures anew")
    return lines
