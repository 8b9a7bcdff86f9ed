"""What may follow a beginning: the most probable next tokens, and tokens of interest with their ranks.

Where two models' outputs part, this tells how near each of them was to saying the other's token.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.errors import MeasurementError, ProbeRefused
from pytest_quantgate.probe.lanes import Line, decode_together
from pytest_quantgate.probe.prompts import prompt_tokens
from pytest_quantgate.records import NextToken, NextTokens, Progress, TokenChance

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from pytest_quantgate.probe.backend import Backend
    from pytest_quantgate.records import Beginning, ModelFacts, NextTokensRequest

_TOGETHER = 16
"""Beginnings decoded together: their tokens fill batches anyway, and each one wants memory."""


def measure_next_tokens(
    backend: Backend,
    facts: ModelFacts,
    request: NextTokensRequest,
    report: Callable[[Progress], None],
) -> NextTokens:
    """Tell what may follow each beginning, in the order of the request.

    Probabilities are those of the model itself, before temperature, ``top_k``, ``top_p`` or a JSON
    Schema take tokens away; ranks count from 1, and of equally probable tokens the lowest id is first,
    as greedy decoding has it.

    Raises:
        MeasurementError: the model's logits are no numbers.
        ProbeRefused: a beginning that cannot be read; the text names its id.
    """
    started = time.monotonic()
    if request.top < 1 or not request.beginnings:
        message = f"{len(request.beginnings)} beginnings, {request.top} tokens each, tell nothing"
        raise ProbeRefused(message)
    total = len(request.beginnings)
    beginnings = [
        _Beginning(tokens=tokens, room=len(tokens), asked=beginning)
        for beginning in request.beginnings
        for tokens in [_tokens(backend, facts, beginning)]
    ]
    found: dict[int, NextToken] = {}
    report(Progress(step="next tokens", done=0, total=total, unit="beginning"))

    def choose(lines: Sequence[Line], logits: NDArray[np.float32]) -> list[bool]:
        for line, row in zip(lines, logits, strict=True):
            if not isinstance(line, _Beginning):
                raise TypeError(line)
            found[id(line)] = _next_token(backend, line.asked, row, top=request.top)
            report(Progress(step="next tokens", done=len(found), total=total, unit="beginning"))
        return [True] * len(lines)

    # Of like length side by side: llama.cpp processes sequences at once as far as they are equally long.
    ordered = sorted(beginnings, key=lambda line: -len(line.tokens))
    decode_together(backend, ordered, together=_TOGETHER, choose=choose)
    return NextTokens(
        beginnings=tuple(found[id(line)] for line in beginnings),
        seconds=time.monotonic() - started,
    )


@dataclass(slots=True, kw_only=True, eq=False)
class _Beginning(Line):
    asked: Beginning


def _tokens(backend: Backend, facts: ModelFacts, beginning: Beginning) -> NDArray[np.int32]:
    """Return the tokens of a beginning: its prompt's and those generated after it."""
    name = f"case {beginning.prompt.id!r}"
    for what, ids in (("generated", beginning.generated), ("asked for", beginning.also)):
        strange = [token for token in ids if not 0 <= token < facts.vocabulary]
        if strange:
            message = (
                f"{name}: token {strange[0]} was {what}, and this model's vocabulary ends at"
                f" {facts.vocabulary - 1}; give ids of the same tokenizer"
            )
            raise ProbeRefused(message)
    prompt = prompt_tokens(backend, facts, beginning.prompt)
    tokens = np.concatenate([prompt, np.array(beginning.generated, dtype=np.int32)])
    if len(tokens) > facts.context_train:
        message = (
            f"{name}: a beginning of {len(tokens)} tokens exceeds the {facts.context_train} tokens the"
            " model was trained for"
        )
        raise ProbeRefused(message)
    return tokens


def _next_token(
    backend: Backend, beginning: Beginning, logits: NDArray[np.float32], *, top: int
) -> NextToken:
    """Return what may follow, from the logits after a beginning."""
    if not np.isfinite(logits.max()):
        message = (
            f"the model produced NaN or infinity after the beginning of case {beginning.prompt.id!r}:"
            " its weights or this engine's kernels are broken"
        )
        raise MeasurementError(message)
    wide = logits.astype(np.float64)
    wide -= wide.max()
    log_total = float(np.log(np.exp(wide).sum()))

    def chance(token: int) -> TokenChance:
        value = logits[token]
        before = np.count_nonzero(logits > value) + np.count_nonzero(logits[:token] == value)
        return TokenChance(
            token=token,
            text=backend.piece(token).decode("utf-8", errors="replace"),
            probability=float(np.exp(wide[token] - log_total)),
            rank=int(before) + 1,
        )

    # A stable sort of the negated logits puts the lowest id first among equals.
    best = np.argsort(-logits, kind="stable")[:top]
    return NextToken(
        top=tuple(chance(int(token)) for token in best),
        also=tuple(chance(token) for token in beginning.also),
    )
