"""What is said of limits that were decided on a part of a text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_quantgate.records import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_quantgate.limits import Draw, SampledLimit
    from pytest_quantgate.records import Check
    from pytest_quantgate.sampling import Drawn, SamplingSettings, Schedule

_SEVERITY = {Outcome.PASS: 0, Outcome.INCONCLUSIVE: 1, Outcome.FAIL: 2}


def decisive(checks: Sequence[Check]) -> Check:
    """Return the first of the checks that ended worst: what a headline is about."""
    return max(checks, key=lambda check: _SEVERITY[check.outcome])


def sign(check: Check) -> str:
    """Return how a value stands to its limit: "<=", ">", and "~" where that is open."""
    if check.outcome is Outcome.INCONCLUSIVE:
        return "~"
    kept = check.outcome is Outcome.PASS
    if check.limit_name.startswith("min"):
        return ">=" if kept else "<"
    return "<=" if kept else ">"


def sample(drawn: Drawn, plan: Schedule, *, unit: str = "chunks") -> str:
    """Return how much was measured: "16 of 220 chunks", or "all 220 chunks"."""
    if drawn.chunks == plan.population:
        return f"all {plan.population} {unit}"
    return f"{drawn.chunks} of {plan.population} {unit}"


def ending(
    outcome: Outcome, drawn: Drawn, plan: Schedule, *, unit: str = "chunks", barred: bool = False
) -> str:
    """Return the end of a headline: how much of the text the verdict took.

    ``barred`` says that a limit is open because it is held against a lower bound.
    """
    measured = sample(drawn, plan, unit=unit)
    if outcome is Outcome.INCONCLUSIVE:
        open_for_good = barred and drawn.ended in {"decided", "complete"}
        end = ", and a lower bound cannot pass" if open_for_good else " did not decide it"
        return measured + end
    return measured if drawn.chunks == plan.population else f"{measured} decided it"


def undecided(
    limits: Sequence[SampledLimit],
    draw: Draw,
    drawn: Drawn,
    settings: SamplingSettings,
    *,
    served: int | None,
    unit: str = "chunks",
) -> tuple[str, ...]:
    """Say of every open limit why it is, how many more chunks would decide it, and what to do.

    ``served`` is how many chunks a committed baseline has, None where there is no such end.
    """
    barred = [limit.name for limit in limits if limit.barred(draw)]
    found = [
        _open_limit(limit, draw, drawn, settings, served=served, unit=unit)
        for limit in limits
        if limit.outcome(draw) is Outcome.INCONCLUSIVE
    ]
    if barred:
        found.append(
            f"{' and '.join(barred)} cannot pass on a lower bound, which is all that the most likely"
            " tokens of a committed baseline give: the true value may be above the limit; set"
            " accept_lower_bound: true to let it pass all the same, or have the baseline's model at"
            " hand"
        )
    return tuple(found)


def _open_limit(
    limit: SampledLimit,
    draw: Draw,
    drawn: Drawn,
    settings: SamplingSettings,
    *,
    served: int | None,
    unit: str,
) -> str:
    start = f"{limit.name} is undecided"
    at = f"{drawn.chunks} of {draw.population} {unit}"
    if drawn.ended == "decided":
        return f"{start} at {at}, where another limit failed"
    needed = limit.needed(draw)
    more = (
        f"about {needed - drawn.chunks} more {unit} ({needed} of {draw.population} in all) would"
        " decide it"
    )
    if drawn.ended == "max_time":
        return f"{start}: max_time ended it at {at}; {more}: raise max_time"
    if served is not None and served == drawn.chunks and settings.max_chunks != served:
        return (
            f"{start}: the committed baseline has {at}; {more}: write it anew with more"
            " (quantgate_baseline_chunks), or have the baseline's model at hand"
        )
    return f"{start}: max_chunks ended it at {at}; {more}: raise max_chunks"
