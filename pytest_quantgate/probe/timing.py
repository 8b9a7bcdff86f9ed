"""The time of single requests, as one user would see them on an idle machine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.errors import ProbeRefused
from pytest_quantgate.probe.backend import Batch, ContextShape
from pytest_quantgate.probe.token_choice import greedy
from pytest_quantgate.records import RequestTiming

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pytest_quantgate.probe.backend import Backend, Session
    from pytest_quantgate.records import LatencyRequest, ModelFacts

_SEED = 20240229
"""Any number; all that matters is that it is the same for every model of one vocabulary."""


class LatencyBench:
    """One open session and the prompt that is timed in it, again and again."""

    def __init__(self, backend: Backend, facts: ModelFacts, request: LatencyRequest) -> None:
        """Open a session for requests of this shape.

        Raises:
            ProbeRefused: the shape is empty or longer than the model was trained for.
        """
        need = check_shape(facts, request.prompt_tokens, request.output_tokens)
        self._prompt = pseudo_random_tokens(backend, facts, request.prompt_tokens)
        self._outputs = request.output_tokens
        self._session = backend.open(ContextShape(sequences=1, tokens=need))

    def time_request(self) -> RequestTiming:
        """Process the prompt and generate greedily, not stopping at end-of-generation tokens."""
        self._session.clear()
        start = time.perf_counter_ns()
        token = feed_prompt(self._session, self._prompt)
        first = time.perf_counter_ns()
        token_ms = []
        for position in range(len(self._prompt), len(self._prompt) + self._outputs - 1):
            before = time.perf_counter_ns()
            token = feed_token(self._session, token, position)
            token_ms.append((time.perf_counter_ns() - before) / 1e6)
        return RequestTiming(ttft_ms=(first - start) / 1e6, token_ms=tuple(token_ms))

    def close(self) -> None:
        """Free the session."""
        self._session.close()


def check_shape(facts: ModelFacts, prompt_tokens: int, output_tokens: int) -> int:
    """Return the tokens a request comes to, or refuse one the model cannot hold.

    Raises:
        ProbeRefused: no prompt, no output, or more than the model was trained for.
    """
    need = prompt_tokens + output_tokens
    if prompt_tokens < 1 or output_tokens < 1 or need > facts.context_train:
        message = (
            f"a request of {prompt_tokens} prompt and {output_tokens} output tokens cannot be made:"
            f" each must be 1 or more, and both together at most {facts.context_train}, which the"
            " model was trained for"
        )
        raise ProbeRefused(message)
    return need


def pseudo_random_tokens(backend: Backend, facts: ModelFacts, count: int) -> NDArray[np.int32]:
    """Return ids of ordinary tokens, the same for every model of one vocabulary; BOS comes first.

    Raises:
        ProbeRefused: the vocabulary has no ordinary tokens.
    """
    rng = np.random.default_rng(_SEED)
    drawn: list[int] = []
    # Sixteen draws for each token wanted: vocabularies are text for the most part.
    for candidate in rng.integers(0, facts.vocabulary, size=16 * (count + 16)):
        if len(drawn) == count:
            break
        token = int(candidate)
        if not backend.is_control(token) and not backend.is_end(token):
            drawn.append(token)
    if len(drawn) < count:
        message = f"only {len(drawn)} of {count} tokens drawn from the vocabulary are ordinary text"
        raise ProbeRefused(message)
    tokens = np.array(drawn, dtype=np.int32)
    if facts.add_bos and backend.bos is not None and count:
        tokens[0] = backend.bos
    return tokens


def feed_prompt(session: Session, prompt: NDArray[np.int32], *, sequence: int = 0) -> int:
    """Process a prompt in as few batches as fit and return the token that follows it."""
    count = len(prompt)
    token = -1
    for start in range(0, count, session.batch_limit):
        part = prompt[start : start + session.batch_limit]
        outputs = np.zeros(len(part), dtype=np.int8)
        last = start + len(part) == count
        outputs[-1] = last
        logits = session.decode(
            Batch(
                tokens=part,
                positions=np.arange(start, start + len(part), dtype=np.int32),
                sequences=np.full(len(part), sequence, dtype=np.int32),
                outputs=outputs,
            )
        )
        if last:
            token = int(greedy(logits)[0])
    return token


def feed_token(session: Session, token: int, position: int, *, sequence: int = 0) -> int:
    """Process one token and return the one that follows it."""
    logits = session.decode(
        Batch(
            tokens=np.array([token], dtype=np.int32),
            positions=np.array([position], dtype=np.int32),
            sequences=np.array([sequence], dtype=np.int32),
            outputs=np.ones(1, dtype=np.int8),
        )
    )
    return int(greedy(logits)[0])
