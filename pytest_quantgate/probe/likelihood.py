"""Perplexity's raw material: the negative log-likelihood of a text, token by token."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal

import numpy as np

from pytest_quantgate.errors import MeasurementError, ProbeRefused
from pytest_quantgate.probe.backend import Batch, ContextShape
from pytest_quantgate.probe.protocol import FRAME_LIMIT_BYTES
from pytest_quantgate.records import Likelihood, Packed, Progress, TextFacts, TopTokens

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from pytest_quantgate.probe.backend import Backend
    from pytest_quantgate.probe.windows import Reader, Windows
    from pytest_quantgate.records import LikelihoodRequest, TextRequest

BLOCK_VALUES = 1 << 18
"""Logits reduced at a time: 1 MiB, so that the exponentials are summed while still in the cache."""

_SMALL_VOCABULARY = 1 << 16


def measure_text(
    reader: Reader, request: TextRequest, report: Callable[[Progress], None]
) -> TextFacts:
    """Tell how a model reads a text.

    Raises:
        ArtifactError: the corpus cannot be read, changed, is no UTF-8 text, or is too short.
        ProbeRefused: the context or the model does not fit windows of text.
    """
    windows = reader.cut(
        request.corpus_path, sha256=request.corpus_sha256, context=request.context, report=report
    )
    return TextFacts(
        chunks=windows.available,
        tokens=windows.total,
        tokens_sha256=windows.sha256,
        vocabulary=reader.facts.vocabulary,
    )


def measure_likelihood(
    reader: Reader, request: LikelihoodRequest, report: Callable[[Progress], None]
) -> Likelihood:
    """Score windows of a text.

    Raises:
        ArtifactError: the corpus cannot be read, changed, is no UTF-8 text, or is too short.
        MeasurementError: the model answered with something that is no number.
        ProbeRefused: the request or the model does not fit this measurement.
    """
    started = time.monotonic()
    windows = reader.cut(
        request.corpus_path,
        sha256=request.corpus_sha256,
        context=request.context,
        chunks=request.chunks,
        report=report,
    )
    count = len(windows.numbers)
    scores = np.empty(windows.targets.shape)
    top = None
    if request.top:
        _check_top(request.top, reader.facts.vocabulary, scores.size)
        top = _Top(scores.shape, request.top)
    report(Progress(step="likelihood", done=0, total=count, unit="chunk"))
    # The engine's threads sleep while logits are reduced, and numpy computes without Python's lock.
    with ThreadPoolExecutor(max_workers=reader.settings.threads) as pool:
        for start, rows in reader.logits(windows, sequences=request.sequences):
            end = start + len(rows)
            group = windows.part(start, end)
            scores[start:end] = np.stack(list(pool.map(token_nll, rows, group.targets)))
            reader.require_finite(scores[start:end], group)
            if top is not None:
                list(pool.map(top.take, range(start, end), rows))
            report(Progress(step="likelihood", done=end, total=count, unit="chunk"))
    return likelihood_of(
        scores,
        windows,
        vocabulary=reader.facts.vocabulary,
        seconds=time.monotonic() - started,
        top=None if top is None else top.packed(reader.facts.vocabulary),
    )


def likelihood_of(
    scores: NDArray[np.float64],
    windows: Windows,
    *,
    vocabulary: int,
    seconds: float,
    top: TopTokens | None = None,
) -> Likelihood:
    """Return the record for the scores of windows, of shape (windows, scored tokens)."""
    return Likelihood(
        chunks=windows.numbers,
        chunk_nll=tuple(scores.sum(axis=1).tolist()),
        chunk_nll2=tuple(np.square(scores).sum(axis=1).tolist()),
        token_nll=Packed.of(scores, "<f4"),
        chunk_tokens=scores.shape[1],
        available_chunks=windows.available,
        corpus_tokens=windows.total,
        tokens_sha256=windows.sha256,
        vocabulary=vocabulary,
        seconds=seconds,
        top=top,
    )


def token_nll(logits: NDArray[np.float32], targets: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the negative log-likelihood, in nats, of one target for each row of logits.

    The arithmetic follows llama-perplexity's `log_softmax`: maximum and exponentials in float32,
    their sum and all that follows in float64.

    Args:
        logits: Shape (rows, vocabulary).
        targets: Shape (rows,), the ids that came next.
    """
    rows, vocabulary = logits.shape
    block = max(1, BLOCK_VALUES // vocabulary)
    scratch = np.empty((min(block, rows), vocabulary), dtype=np.float32)
    scores = np.empty(rows)
    # What is no number stays none through all of this, and the caller looks for it.
    with np.errstate(all="ignore"):
        for start in range(0, rows, block):
            part = logits[start : start + block]
            wanted = targets[start : start + block]
            powers = scratch[: len(part)]
            np.subtract(part, part.max(axis=1, keepdims=True), out=powers)
            reached = powers[np.arange(len(part)), wanted].astype(np.float64)
            np.exp(powers, out=powers)
            scores[start : start + block] = np.log(powers.sum(axis=1, dtype=np.float64)) - reached
    return scores


def top_tokens(logits: NDArray[np.float32], k: int) -> NDArray[np.intp]:
    """Return the ids of the k greatest logits of each row, greatest first, lower ids among equals.

    Args:
        logits: Shape (rows, vocabulary), without NaN.
        k: 1 to vocabulary.
    """
    rows, vocabulary = logits.shape
    ids = np.empty((rows, k), dtype=np.intp)
    for row, values in enumerate(logits):
        least = np.partition(values, vocabulary - k)[vocabulary - k]
        above = np.flatnonzero(values > least)
        among = np.flatnonzero(values == least)[: k - len(above)]
        chosen = np.sort(np.concatenate((above, among)))
        ids[row] = chosen[np.argsort(-values[chosen], kind="stable")]
    return ids


def text_nll(backend: Backend, texts: Sequence[str]) -> list[float]:
    """Return the negative log-likelihood, in nats, of every token of texts read one by one.

    Each text begins with what the model expects before a text; its first token is not scored.

    Raises:
        MeasurementError: the model answered with something that is no number.
    """
    scores: list[float] = []
    for number, text in enumerate(texts, start=1):
        tokens = backend.tokenize(text, add_special=True, parse_special=False)
        if len(tokens) < 2:  # noqa: PLR2004 - one to read and one to predict
            continue
        begun = len(scores)
        session = backend.open(ContextShape(sequences=1, tokens=len(tokens)))
        try:
            for start in range(0, len(tokens), session.batch_limit):
                part = tokens[start : start + session.batch_limit]
                logits = session.decode(
                    Batch(
                        tokens=part,
                        positions=np.arange(start, start + len(part), dtype=np.int32),
                        sequences=np.zeros(len(part), dtype=np.int32),
                        outputs=np.ones(len(part), dtype=np.int8),
                    )
                )
                targets = tokens[start + 1 : start + len(part) + 1]
                scores.extend(token_nll(logits[: len(targets)], targets).tolist())
        finally:
            session.close()
        if not np.isfinite(scores[begun:]).all():
            message = f"the model's likelihood of text {number} is not a finite number"
            raise MeasurementError(message)
    return scores


class _Top:
    """The most likely tokens of all windows of a request."""

    def __init__(self, shape: tuple[int, ...], k: int) -> None:
        """Make room for k tokens at each position of windows of this shape."""
        self._ids = np.empty((*shape, k), dtype=np.int64)
        self._log_probs = np.empty((*shape, k), dtype=np.float32)

    def take(self, place: int, logits: NDArray[np.float32]) -> None:
        """Look at the logits of the window at one place."""
        ids = top_tokens(logits, self._ids.shape[-1])
        self._ids[place] = ids
        # The likelihood of the most likely token gives what all others have to be held against.
        best = -token_nll(logits, ids[:, 0].astype(np.int32))
        chosen = np.take_along_axis(logits, ids, axis=1)
        self._log_probs[place] = (chosen - chosen[:, :1]) + best[:, None]

    def packed(self, vocabulary: int) -> TopTokens:
        """Return the record, with ids as short as the vocabulary lets them be."""
        dtype: Literal["<u2", "<u4"] = "<u2" if vocabulary <= _SMALL_VOCABULARY else "<u4"
        return TopTokens(
            ids=Packed.of(self._ids, dtype), log_probs=Packed.of(self._log_probs, "<f4")
        )


def _check_top(k: int, vocabulary: int, positions: int) -> None:
    if not 1 <= k <= vocabulary:
        message = f"{k} most likely tokens cannot be told: the vocabulary has {vocabulary}"
        raise ProbeRefused(message)
    # Eight bytes each, in base64, and room for everything else.
    longest = FRAME_LIMIT_BYTES // 12 - positions
    if k * positions > longest:
        message = (
            f"{k} most likely tokens at {positions} positions do not fit an answer, which takes"
            f" {longest} in all; ask for fewer windows at a time"
        )
        raise ProbeRefused(message)
