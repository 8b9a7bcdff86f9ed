"""Two models on one text: blocks of windows put together, and what makes a comparison meaningless."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from pytest_quantgate.errors import MeasurementError
from pytest_quantgate.records import Divergence, Likelihood, Packed, TextRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pytest_quantgate.gates import Bench
    from pytest_quantgate.records import NoiseFloor, TextFacts
    from pytest_quantgate.sampling import SamplingSettings

CHANCE_SHARE = 0.9
"""From this share of ln(vocabulary) on, a mean negative log-likelihood is called guessing."""

NOISE_FACTOR = 3
"""A limit must be this many times what a model differs from itself by."""


def merged(blocks: Sequence[Likelihood]) -> Likelihood:
    """Return the likelihood of the windows of all blocks, in the order of the text.

    In that order, because `llama-perplexity` sums in it: so a complete text has the tool's last digit,
    whatever order it was measured in. What a block holds of most likely tokens is left out.
    """
    chunks = [chunk for block in blocks for chunk in block.chunks]
    ranks = sorted(range(len(chunks)), key=chunks.__getitem__)
    nll = [value for block in blocks for value in block.chunk_nll]
    nll2 = [value for block in blocks for value in block.chunk_nll2]
    return dataclasses.replace(
        blocks[0],
        chunks=tuple(chunks[rank] for rank in ranks),
        chunk_nll=tuple(nll[rank] for rank in ranks),
        chunk_nll2=tuple(nll2[rank] for rank in ranks),
        token_nll=_merged([block.token_nll for block in blocks], ranks),
        seconds=math.fsum(block.seconds for block in blocks),
        top=None,
    )


def merged_divergence(blocks: Sequence[Divergence]) -> Divergence:
    """Return the divergence on the windows of all blocks, in the order of the text."""
    chunks = [chunk for block in blocks for chunk in block.candidate.chunks]
    ranks = sorted(range(len(chunks)), key=chunks.__getitem__)
    return Divergence(
        candidate=merged([block.candidate for block in blocks]),
        baseline=merged([block.baseline for block in blocks]),
        kld=_merged([block.kld for block in blocks], ranks),
        same_top=_merged([block.same_top for block in blocks], ranks),
        precision=blocks[0].precision,
        seconds=math.fsum(block.seconds for block in blocks),
    )


def _merged(parts: Sequence[Packed], ranks: Sequence[int]) -> Packed:
    import numpy as np  # noqa: PLC0415 - gates are known without it; only judging pays

    whole: NDArray[Any] = np.concatenate([part.array() for part in parts])
    return Packed.of(whole[list(ranks)], parts[0].dtype)


def text_request(bench: Bench, settings: SamplingSettings) -> TextRequest:
    """Return the text that a gate's settings name, cut into windows as they say.

    Raises:
        ArtifactError: the text cannot be read.
    """
    path, digest = bench.corpus(settings.corpus)
    return TextRequest(
        corpus_path=str(path), corpus_sha256=digest, context=settings.context or bench.context
    )


def population(available: int, chunks: int | None) -> int:
    """Return how many windows a verdict is about: those of the text, or its first ``chunks``.

    Raises:
        MeasurementError: the text has none.
    """
    if available < 1:
        message = (
            "the text has no whole window, so nothing can be measured on it; use a longer text or a"
            " shorter context"
        )
        raise MeasurementError(message)
    return available if chunks is None else min(chunks, available)


def require_same_tokens(
    candidate: TextFacts, baseline: TextFacts, *, names: tuple[str, str], what: str
) -> None:
    """Refuse two models that cut a text into different tokens.

    Raises:
        MeasurementError: naming both tokenizers' figures, and the gate that can compare such models.
    """
    if (candidate.tokens_sha256, candidate.vocabulary) == (
        baseline.tokens_sha256,
        baseline.vocabulary,
    ):
        return
    message = (
        f"{names[0]} and {names[1]} have different tokenizers: {candidate.tokens} tokens of a"
        f" vocabulary of {candidate.vocabulary} against {baseline.tokens} of {baseline.vocabulary} for"
        f" the same text; {what} cannot be compared. Use the gate nll_per_byte, which compares models"
        " whatever their tokens are"
    )
    raise MeasurementError(message)


def require_skill(name: str, *, nll: float, tokens: int, vocabulary: int) -> None:
    """Refuse a model that predicts no better than guessing.

    Args:
        name: of the model, for the message.
        nll: Sum of the negative log-likelihood of ``tokens`` tokens, in nats.
        tokens: Number of scored tokens.
        vocabulary: Number of tokens there are to guess among.

    Raises:
        MeasurementError: nothing was scored, or the mean is near ln(vocabulary).
    """
    if tokens < 1:
        message = f"no token of the text was scored under {name}, so there is nothing to judge"
        raise MeasurementError(message)
    mean, chance = nll / tokens, math.log(vocabulary)
    if mean < CHANCE_SHARE * chance:
        return
    message = (
        f"{name} predicts the text no better than guessing: {mean:.2f} nats a token, where guessing"
        f" among {vocabulary} tokens has {chance:.2f} (and {CHANCE_SHARE:.0%} of that is the most that"
        " is judged): broken weights or a wrong tokenizer"
    )
    raise MeasurementError(message)


def require_difference(
    own: Sequence[float] | NDArray[Any],
    base: Sequence[float] | NDArray[Any],
    *,
    names: tuple[str, str],
    types: tuple[str, str],
) -> None:
    """Refuse likelihoods that are equal to the last bit where the types of the weights differ.

    Raises:
        MeasurementError: naming both types.
    """
    import numpy as np  # noqa: PLC0415 - see above

    if types[0] == types[1] or not np.array_equal(np.asarray(own), np.asarray(base)):
        return
    message = (
        f"every likelihood of {names[0]} equals that of {names[1]} to the last bit, though one file is"
        f" of type {types[0]} and the other of {types[1]}: the same weights under two names; check"
        " which file was quantized"
    )
    raise MeasurementError(message)


def require_beyond_noise(
    limits: Sequence[tuple[str, float, float]], *, floor: float, noise: NoiseFloor, advice: str
) -> None:
    """Refuse a limit that the noise of measuring alone could decide.

    Args:
        limits: For each its name, the limit as it is written, and its distance from "no change" in
            nats.
        floor: How far a model is from itself, in nats.
        noise: Where the floor comes from.
        advice: What to write instead; ``{least}`` stands for the least distance in nats.

    Raises:
        MeasurementError: naming the limit, the floor, and what is the least that is accepted.
    """
    least = NOISE_FACTOR * floor
    for name, limit, distance in limits:
        if distance < least:
            message = (
                f"{name} {limit:.10g} is inside the noise: it is {distance:.3g} nats from no change, and"
                f" the baseline alone is up to {floor:.3g} nats from itself when only batch size or"
                f" threads change (over {noise.chunks} chunks); a limit must be {NOISE_FACTOR} times"
                f" that, {least:.3g}: {advice.format(least=least)}"
            )
            raise MeasurementError(message)


def design_effect(own: Likelihood, base: Likelihood) -> float | None:
    """Return how many times as much chunk means vary as they would if tokens were independent.

    Kish's design effect of the paired differences: s_chunk^2 * tokens / s_token^2, with s_chunk^2 the
    variance of the windows' means and s_token^2 that of single tokens. None where there is no spread.
    """
    differences: NDArray[Any] = own.token_nll.array().astype("f8") - base.token_nll.array()
    chunks, tokens = differences.shape
    if chunks < 2:  # noqa: PLR2004 - a spread takes two
        return None
    single = float(differences.var(ddof=1))
    between = float(differences.mean(axis=1).var(ddof=1))
    return between * tokens / single if single > 0 else None
