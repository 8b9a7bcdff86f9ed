"""Which token comes next: the most probable one, or one by chance that can be drawn again.

Drawing adds to each token's score noise of the Gumbel distribution and takes the greatest sum, which
draws from the very distribution of the scores (Maddison et al., "A* Sampling", 2014, section 3). The
noise follows from the seed, the prompt's id, the number of the repeat, the step and the token's id.
So a draw does not depend on what is decoded beside it, the last bits of a score change it only where two
tokens are all but even, and two models with like probabilities mostly draw the same token.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.errors import MeasurementError, ProbeRefused

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_quantgate.probe.backend import Grammar
    from pytest_quantgate.records import Decoding

_FIRST_TRY = 64
"""A refused favourite's place is mostly taken by one of so many tokens behind it."""

_LIKELY = 512
"""Most nuclei have fewer tokens; to sort these alone is much quicker than to sort a vocabulary."""


def greedy(logits: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the most probable token of each row, the lowest id among equals.

    Raises:
        MeasurementError: a row's greatest logit is NaN or infinite.
    """
    chosen: NDArray[np.intp] = logits.argmax(axis=1)
    # argmax lets NaN win, so the winner alone tells whether the row is sound.
    if not np.isfinite(logits[np.arange(len(chosen)), chosen]).all():
        message = (
            "the model produced NaN or infinity while generating: its weights or this engine's"
            " kernels are broken"
        )
        raise MeasurementError(message)
    return chosen


def best_allowed(
    ranking: NDArray[np.float32] | NDArray[np.float64],
    tokens: NDArray[np.intp],
    grammar: Grammar,
) -> int | None:
    """Return the token that ranks highest of those a grammar allows, or None where it allows none.

    Args:
        ranking: What each token is ranked by; the first of equals is taken.
        tokens: Ids, rising.
        grammar: What may come.
    """
    # To ask about one token costs next to nothing, about a vocabulary tens of milliseconds.
    for count in (1, _FIRST_TRY, len(tokens)):
        places = _greatest(ranking, min(count, len(tokens)))
        fit = places[grammar.allowed(tokens[places].astype(np.int32))]
        if fit.size:
            return int(tokens[fit[ranking[fit].argmax()]])
    return None


def check_decoding(decoding: Decoding) -> None:
    """Refuse settings that mean nothing.

    Raises:
        ProbeRefused: naming the setting.
    """
    problem = None
    if not (math.isfinite(decoding.temperature) and decoding.temperature >= 0):
        problem = f"temperature is {decoding.temperature}; use 0 or more"
    elif decoding.top_k < 0:
        problem = f"top_k is {decoding.top_k}; use 0 (all tokens) or more"
    elif not 0 < decoding.top_p <= 1:
        problem = f"top_p is {decoding.top_p}; use more than 0 and at most 1"
    elif decoding.repeats < 1:
        problem = f"repeats is {decoding.repeats}; continue each prompt at least once"
    if problem is not None:
        raise ProbeRefused(problem)


class Draw:
    """Draws tokens for one continuation of one prompt."""

    def __init__(self, decoding: Decoding, *, prompt: str, repeat: int) -> None:
        """Draw for the prompt with this id."""
        self._decoding = decoding
        self._prompt = prompt
        self._repeat = repeat

    def token(
        self, logits: NDArray[np.float32], *, step: int, grammar: Grammar | None = None
    ) -> int | None:
        """Return the token of a step, or None where the grammar allows none.

        Args:
            logits: One row, all of them numbers or -infinity.
            step: How many tokens have been generated before.
            grammar: Takes tokens away after ``top_k`` and ``top_p``; where it takes all that these have
                left, the token is drawn from all that it allows.
        """
        scores = logits.astype(np.float64) / self._decoding.temperature
        possible = np.flatnonzero(scores > -np.inf)
        tokens = possible
        if 0 < self._decoding.top_k < len(tokens):
            tokens = tokens[np.sort(_greatest(scores[tokens], self._decoding.top_k))]
        if self._decoding.top_p < 1:
            tokens = tokens[nucleus(scores[tokens], self._decoding.top_p)]
        noisy = scores[tokens] + self._noise(tokens, step)
        if grammar is None:
            return int(tokens[noisy.argmax()])
        token = best_allowed(noisy, tokens, grammar)
        if token is None and len(tokens) < len(possible):
            noisy = scores[possible] + self._noise(possible, step)
            token = best_allowed(noisy, possible, grammar)
        return token

    def _noise(self, tokens: NDArray[np.intp], step: int) -> NDArray[np.float64]:
        """Return Gumbel noise for tokens.

        Each token's number is one output of SplitMix64 (Steele, Lea and Flood, "Fast splittable
        pseudorandom number generators", 2014), started at the digest of what the step is.
        """
        name = f"{self._decoding.seed}:{self._repeat}:{step}:{self._prompt}"
        start = int.from_bytes(hashlib.sha256(name.encode("utf-8")).digest()[:8], "little")
        mixed = (tokens.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed += np.uint64(start)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
        uniform = ((mixed >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        noise: NDArray[np.float64] = -np.log(-np.log(uniform))
        return noise


def nucleus(scores: NDArray[np.float64], share: float) -> NDArray[np.intp]:
    """Return the places of the fewest scores that together have a share of the probability.

    Places come in rising order; of equal scores those with lower places are taken first.
    """
    chances = np.exp(scores - scores.max())
    wanted = share * chances.sum()
    places = np.arange(len(scores), dtype=np.intp)
    if len(scores) > _LIKELY:
        likely = np.sort(_greatest(scores, _LIKELY))
        if chances[likely].sum() >= wanted:
            places = likely
    order = places[np.argsort(-scores[places], kind="stable")]
    # The sum of all may fall short of the share by rounding: then all are taken.
    count = int(np.searchsorted(np.cumsum(chances[order]), wanted)) + 1
    return np.sort(order[:count])


def _greatest(scores: NDArray[np.float32] | NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """Return the places of the greatest scores; of those equal to the least one, the lowest places."""
    if count >= len(scores):
        return np.arange(len(scores), dtype=np.intp)
    least = np.partition(scores, len(scores) - count)[len(scores) - count]
    above = np.flatnonzero(scores > least)
    equal = np.flatnonzero(scores == least)[: count - len(above)]
    return np.concatenate([above, equal])
