"""Perplexity's raw material: the negative log-likelihood of a text, window by window.

The algorithm is that of llama.cpp's `llama-perplexity` (tools/perplexity/perplexity.cpp, `perplexity`),
so that figures agree with the tool to the printed digit: the whole text is tokenized at once and cut
into windows without overlap; the first token of each window is replaced by BOS where the model wants
one; only predictions made in a window's second half are scored, which is 255 of 512 tokens.
"""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.errors import ArtifactError, MeasurementError, ProbeRefused
from pytest_quantgate.probe.backend import Batch, ContextShape
from pytest_quantgate.records import Likelihood, Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from pytest_quantgate.probe.backend import Backend, Session
    from pytest_quantgate.records import EngineSettings, LikelihoodRequest, ModelFacts

_SHORTEST_CONTEXT = 4

_BLOCK_VALUES = 1 << 18
"""Logits reduced at a time: 1 MiB, so that the exponentials are summed while still in the cache."""


def measure_likelihood(
    backend: Backend,
    facts: ModelFacts,
    settings: EngineSettings,
    request: LikelihoodRequest,
    report: Callable[[Progress], None],
) -> Likelihood:
    """Score a text.

    Raises:
        ArtifactError: the corpus cannot be read, changed, is no UTF-8 text, or is too short.
        MeasurementError: the model answered with something that is no number.
        ProbeRefused: the request or the model does not fit this measurement.
    """
    started = time.monotonic()
    _check_request(backend, settings, request)
    text = read_corpus(Path(request.corpus_path), sha256=request.corpus_sha256)
    report(Progress(step="tokenizing", done=0, total=1, unit="corpus"))
    tokens = backend.tokenize(text, add_special=True, parse_special=False)
    context = request.context
    if len(tokens) < 2 * context:
        message = (
            f"corpus {request.corpus_path} has {len(tokens)} tokens; {2 * context} are needed, two"
            f" windows of {context}: use a longer text or a shorter context"
        )
        raise ArtifactError(message)
    available = len(tokens) // context
    chunks = available if request.chunks is None else min(request.chunks, available)
    windows = tokens[: chunks * context].reshape(chunks, context)

    # As many windows at a time as fit a batch, so that each one is decoded in a single call.
    fitting = settings.batch // context
    together = min(request.sequences or fitting, chunks, fitting)
    nll = np.empty(chunks)
    nll2 = np.empty(chunks)
    report(Progress(step="likelihood", done=0, total=chunks, unit="chunk"))
    session = backend.open(ContextShape(sequences=together, tokens=context))
    # The engine's threads sleep while logits are reduced, and numpy computes without Python's lock.
    pool = ThreadPoolExecutor(max_workers=settings.threads)
    try:
        for start in range(0, chunks, together):
            group = windows[start : start + together]
            scores = _score(
                session,
                group,
                bos=backend.bos if facts.add_bos else None,
                first=start,
                pool=pool,
            )
            nll[start : start + len(group)] = scores.sum(axis=1)
            nll2[start : start + len(group)] = np.square(scores).sum(axis=1)
            done = start + len(group)
            report(Progress(step="likelihood", done=done, total=chunks, unit="chunk"))
    finally:
        pool.shutdown()
        session.close()
    return Likelihood(
        chunk_nll=tuple(nll.tolist()),
        chunk_nll2=tuple(nll2.tolist()),
        chunk_tokens=context - context // 2 - 1,
        available_chunks=available,
        corpus_tokens=len(tokens),
        tokens_sha256=hashlib.sha256(tokens.astype("<i4").tobytes()).hexdigest(),
        vocabulary=facts.vocabulary,
        seconds=time.monotonic() - started,
    )


def read_corpus(path: Path, *, sha256: str) -> str:
    """Return a corpus as `llama-perplexity -f` reads it: one newline at the very end is dropped.

    Raises:
        ArtifactError: the file is unreadable, empty, not UTF-8, or not the one with this digest.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        message = f"corpus {path} cannot be read: {error.strerror}"
        raise ArtifactError(message) from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != sha256:
        message = (
            f"corpus {path} changed during the run: its sha256 is {digest[:16]}..., it was"
            f" {sha256[:16]}...; let nothing write to it and run again"
        )
        raise ArtifactError(message)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        message = (
            f"corpus {path} is no UTF-8 text: byte {data[error.start]:#04x} at offset {error.start};"
            " save it as UTF-8"
        )
        raise ArtifactError(message) from error
    text = text.removesuffix("\n")
    if not text:
        message = f"corpus {path} is empty"
        raise ArtifactError(message)
    return text


def token_nll(logits: NDArray[np.float32], targets: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the negative log-likelihood, in nats, of one target for each row of logits.

    The arithmetic follows llama-perplexity's `log_softmax`: maximum and exponentials in float32,
    their sum and all that follows in float64.

    Args:
        logits: Shape (rows, vocabulary).
        targets: Shape (rows,), the ids that came next.
    """
    rows, vocabulary = logits.shape
    block = max(1, _BLOCK_VALUES // vocabulary)
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


def _score(
    session: Session,
    windows: NDArray[np.int32],
    *,
    bos: int | None,
    first: int,
    pool: ThreadPoolExecutor,
) -> NDArray[np.float64]:
    """Decode windows together and return their scores, shape (windows, scored tokens)."""
    count, context = windows.shape
    half = context // 2
    given = windows.copy()
    if bos is not None:
        given[:, 0] = bos
    positions = np.tile(np.arange(context, dtype=np.int32), count)
    session.clear()
    logits = session.decode(
        Batch(
            tokens=given.reshape(-1),
            positions=positions,
            sequences=np.repeat(np.arange(count, dtype=np.int32), context),
            outputs=(positions >= half).astype(np.int8),
        )
    )
    # The last row of a window predicts a token that belongs to the next one.
    rows = logits.reshape(count, context - half, -1)
    scores = np.stack(list(pool.map(token_nll, rows[:, :-1], windows[:, half + 1 :])))
    broken = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if broken.size:
        chunk = first + int(broken[0])
        value = "NaN" if np.isnan(scores[broken[0]]).any() else "infinity"
        message = (
            f"the model produced {value} in chunk {chunk + 1} (tokens {chunk * context} to"
            f" {(chunk + 1) * context - 1}): its weights or this engine's kernels are broken"
        )
        raise MeasurementError(message)
    return scores


def _check_request(backend: Backend, settings: EngineSettings, request: LikelihoodRequest) -> None:
    problem = None
    if request.context < _SHORTEST_CONTEXT:
        problem = (
            f"a context of {request.context} tokens is too short; use {_SHORTEST_CONTEXT} or more"
        )
    elif request.context > settings.batch:
        problem = (
            f"a context of {request.context} tokens exceeds the batch of {settings.batch}; raise the"
            " batch or shorten the context"
        )
    elif (request.sequences is not None and request.sequences < 1) or (
        request.chunks is not None and request.chunks < 1
    ):
        problem = f"{request.chunks} chunks in groups of {request.sequences} measure nothing"
    elif backend.add_eos:
        problem = (
            "this vocabulary ends every text with an end-of-text token, for which windows of running"
            " text have no place; perplexity is not defined for it here"
        )
    if problem is not None:
        raise ProbeRefused(problem)
