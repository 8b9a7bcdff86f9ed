"""What sets the outputs of one model apart from the reference's."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from typing import TYPE_CHECKING

from pytest_quantgate import stats
from pytest_quantgate.paired_shares import PairedCounts, mcnemar_p
from pytest_quantgate.report.comparison import ComparedPrompt, Difference

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def difference(name: str, prompts: Sequence[ComparedPrompt], model: int) -> Difference:
    """Return how the outputs of the model at a place differ from the reference's."""
    differing = [prompt for prompt in prompts if not prompt.identical(model)]
    replies = [prompt.replies[model] for prompt in differing]
    partings = [reply.parting for reply in replies if reply.parting is not None]
    excesses = [excess for prompt in differing if (excess := prompt.excess(model)) is not None]
    found = Difference(
        name=name,
        prompts=len(prompts),
        identical=len(prompts) - len(differing),
        equal_tokens=median(reply.equal_tokens for reply in replies),
        partings=len(partings),
        near_ties=sum(parting.near_tie for parting in partings),
        surprise=median(prompt.replies[model].surprise for prompt in prompts),
        calm=sum(excess <= 0 for excess in excesses),
        weighed=len(excesses),
    )
    if prompts[0].expected is None:
        return found
    cells = Counter((prompt.replies[0].right, prompt.replies[model].right) for prompt in prompts)
    lost, gained = cells[True, False], cells[False, True]
    counts = PairedCounts(
        both_right=cells[True, True],
        baseline_only=lost,
        candidate_only=gained,
        both_wrong=cells[False, False],
    )
    return dataclasses.replace(
        found,
        right=cells[True, True] + gained,
        lost=lost,
        gained=gained,
        p_value=mcnemar_p(counts),
    )


def place(prompt: ComparedPrompt) -> tuple[int, float]:
    """Return where a prompt stands: lost, gained, then what surprises the reference most."""
    others = range(1, len(prompt.replies))
    flips = {prompt.flip(model) for model in others}
    rank = 0 if "lost" in flips else 1 if "gained" in flips else 2
    excesses = [
        excess
        for model in others
        if not prompt.identical(model) and (excess := prompt.excess(model)) is not None
    ]
    if not excesses:
        # An output that is empty for one model only cannot be weighed, and is worth a look.
        same = all(prompt.identical(model) for model in others)
        return (rank, math.inf if same else -math.inf)
    return (rank, -max(excesses))


def median(values: Iterable[float | None]) -> float | None:
    """Return the median of the values that are known, None where none is."""
    known = [value for value in values if value is not None]
    return stats.quantile(known, 0.5) if known else None
