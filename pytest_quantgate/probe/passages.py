"""Likelihood of passages that are cut from a text by bytes, whatever the tokenizer.

Models whose tokenizers differ share no tokens, but they share the text: each is asked for the
likelihood of the same bytes, given the same bytes before them.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.errors import ArtifactError, MeasurementError, ProbeRefused
from pytest_quantgate.probe.backend import Batch, ContextShape
from pytest_quantgate.probe.likelihood import token_nll
from pytest_quantgate.probe.windows import broken_model, check_numbers, read_corpus
from pytest_quantgate.records import PassageLikelihood, Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from pytest_quantgate.probe.windows import Reader
    from pytest_quantgate.records import PassageRequest

SHORTEST_PASSAGE_BYTES = 32

_ROUND_TOKENS = 64
"""Sessions are made for multiples of this, so that blocks of passages of about one length share one."""

_MOST_TOGETHER = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class _Passage:
    """One passage's tokens; those from ``given`` on are scored."""

    number: int
    tokens: NDArray[np.int32]
    given: int
    scored_bytes: int


def measure_passages(
    reader: Reader, request: PassageRequest, report: Callable[[Progress], None]
) -> PassageLikelihood:
    """Score the second half of each passage, given its first half.

    Raises:
        ArtifactError: the corpus cannot be read, changed, is no UTF-8 text, or is too short.
        MeasurementError: the model answered with something that is no number.
        ProbeRefused: there are no such passages, or they do not fit the model.
    """
    started = time.monotonic()
    size = request.passage_bytes
    if size < SHORTEST_PASSAGE_BYTES:
        message = (
            f"passages of {size} bytes are too short; use {SHORTEST_PASSAGE_BYTES} bytes or more"
        )
        raise ProbeRefused(message)
    if reader.backend.add_eos:
        message = (
            "this vocabulary ends every text with an end-of-text token, which has no place between"
            " the halves of a passage"
        )
        raise ProbeRefused(message)
    path = Path(request.corpus_path)
    data = read_corpus(path, sha256=request.corpus_sha256).encode("utf-8")
    available = len(data) // size
    if available < 1:
        message = (
            f"corpus {path} has {len(data)} bytes, fewer than one passage of {size}: use a longer text"
            " or shorter passages"
        )
        raise ArtifactError(message)
    numbers = tuple(range(available)) if request.passages is None else request.passages
    check_numbers(numbers, available, what="passage")
    passages = [_cut(reader, data, number, size) for number in numbers]
    longest = _longest(reader, passages)
    together = min(reader.settings.batch // longest, _MOST_TOGETHER)
    scores: list[NDArray[np.float64]] = []
    report(Progress(step="passages", done=0, total=len(passages), unit="passage"))
    with ThreadPoolExecutor(max_workers=reader.settings.threads) as pool:
        for start in range(0, len(passages), together):
            group = passages[start : start + together]
            # The shape is that of a full group, so that it does not depend on how many are asked for.
            rows = _decode(reader, group, ContextShape(sequences=together, tokens=longest))
            scores.extend(pool.map(token_nll, rows, [part.tokens[part.given :] for part in group]))
            _require_finite(reader, group, scores[start:])
            done = start + len(group)
            report(Progress(step="passages", done=done, total=len(passages), unit="passage"))
    return PassageLikelihood(
        passages=numbers,
        nll=tuple(float(score.sum()) for score in scores),
        bytes=tuple(passage.scored_bytes for passage in passages),
        tokens=tuple(len(score) for score in scores),
        available_passages=available,
        vocabulary=reader.facts.vocabulary,
        seconds=time.monotonic() - started,
    )


def _cut(reader: Reader, data: bytes, number: int, size: int) -> _Passage:
    first, middle, end = (
        _character(data, place)
        for place in (number * size, number * size + size // 2, (number + 1) * size)
    )
    # Apart, so that no token reaches across: what is scored is the same bytes for every tokenizer.
    given = reader.backend.tokenize(
        data[first:middle].decode("utf-8"), add_special=True, parse_special=False
    )
    scored = reader.backend.tokenize(
        data[middle:end].decode("utf-8"), add_special=False, parse_special=False
    )
    if not (len(given) and len(scored)):
        message = f"the tokenizer makes no tokens of a half of passage {number}"
        raise ProbeRefused(message)
    return _Passage(
        number=number,
        tokens=np.concatenate((given, scored)),
        given=len(given),
        scored_bytes=end - middle,
    )


def _character(data: bytes, place: int) -> int:
    """Return the first place from this one on where a character begins, or the end."""
    while place < len(data) and data[place] & 0xC0 == 0x80:  # noqa: PLR2004 - UTF-8's inner bytes
        place += 1
    return min(place, len(data))


def _longest(reader: Reader, passages: list[_Passage]) -> int:
    """Return the tokens a session must hold for each passage, or refuse what does not fit."""
    passage = max(passages, key=lambda passage: len(passage.tokens))
    length = len(passage.tokens)
    batch, trained = reader.settings.batch, reader.facts.context_train
    if length > min(batch, trained):
        message = (
            f"passage {passage.number} is {length} tokens long; the batch takes {batch} and the model"
            f" was trained for {trained}: use shorter passages (passage_bytes)"
        )
        raise ProbeRefused(message)
    return min(-(-length // _ROUND_TOKENS) * _ROUND_TOKENS, batch)


def _decode(
    reader: Reader, group: list[_Passage], shape: ContextShape
) -> list[NDArray[np.float32]]:
    """Return the logits that foretell each passage's scored tokens."""
    lengths = [len(passage.tokens) for passage in group]
    positions = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
    outputs = np.concatenate(
        [
            (np.arange(length) >= passage.given - 1) & (np.arange(length) < length - 1)
            for passage, length in zip(group, lengths, strict=True)
        ]
    )
    logits = reader.session(shape).decode(
        Batch(
            tokens=np.concatenate([passage.tokens for passage in group]),
            positions=positions,
            sequences=np.repeat(np.arange(len(group), dtype=np.int32), lengths),
            outputs=outputs.astype(np.int8),
        )
    )
    ends = np.cumsum([len(passage.tokens) - passage.given for passage in group])
    return np.split(logits, ends[:-1])


def _require_finite(
    reader: Reader, group: list[_Passage], scores: list[NDArray[np.float64]]
) -> None:
    for passage, score in zip(group, scores, strict=True):
        if not np.isfinite(score).all():
            value = "NaN" if np.isnan(score).any() else "infinity"
            what = f"{value} in passage {passage.number + 1}"
            raise MeasurementError(broken_model("model", what, reader.facts.description))
