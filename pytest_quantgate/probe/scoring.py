"""Likelihood of given texts: what may follow a context, and the answers of multiple-choice questions."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.errors import ProbeRefused
from pytest_quantgate.probe.groups import Line, LineScore, common_tokens, score_groups
from pytest_quantgate.probe.prompts import text_tokens
from pytest_quantgate.records import (
    ChoiceScore,
    ChoiceScores,
    ContinuationScore,
    ContinuationScores,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from pytest_quantgate.probe.backend import Backend
    from pytest_quantgate.probe.windows import Reader
    from pytest_quantgate.records import (
        ChoiceQuestion,
        ChoiceRequest,
        Continuation,
        ContinuationRequest,
        Progress,
    )

_FEWEST_ANSWERS = 2

_SHORT_TAIL = 3
"""Tokens that must follow the common beginning of two sentences, each of them more than these, for
the tool to score their tails alone (tools/perplexity/perplexity.cpp, `winogrande_score`)."""


def measure_continuations(
    reader: Reader, request: ContinuationRequest, report: Callable[[Progress], None]
) -> ContinuationScores:
    """Score each continuation, given its context; contexts that begin alike are read once.

    Raises:
        MeasurementError: the model answered with something that is no number.
        ProbeRefused: a continuation that cannot be scored; the text names its id.
    """
    started = time.monotonic()
    if not request.continuations:
        message = "no continuation is given to score; give one or more"
        raise ProbeRefused(message)
    # What follows one context is decoded together.
    groups: dict[tuple[object, ...], list[int]] = {}
    for place, each in enumerate(request.continuations):
        groups.setdefault((each.context, each.messages), []).append(place)
    lines = [_continuation_line(reader.backend, each) for each in request.continuations]
    found = score_groups(
        reader,
        [[lines[place] for place in places] for places in groups.values()],
        report,
        step="continuations",
        unit="context",
    )
    scores: dict[int, ContinuationScore] = {}
    for places, group in zip(groups.values(), found, strict=True):
        for place, score in zip(places, group, strict=True):
            scores[place] = _continuation_score(request.continuations[place], score)
    return ContinuationScores(
        scores=tuple(scores[place] for place in range(len(lines))),
        seconds=time.monotonic() - started,
    )


def measure_choices(
    reader: Reader, request: ChoiceRequest, report: Callable[[Progress], None]
) -> ChoiceScores:
    """Score every answer of every question; what they begin with alike is decoded once.

    Raises:
        MeasurementError: the model answered with something that is no number.
        ProbeRefused: a question that cannot be scored; the text names its id.
    """
    started = time.monotonic()
    if request.together < 1:
        message = f"{request.together} questions together are none; decode one or more"
        raise ProbeRefused(message)
    if not request.questions:
        message = "no question is given to score; give one or more"
        raise ProbeRefused(message)
    asked = [_Asked(reader.backend, question) for question in request.questions]
    lines = [each.lines for each in asked]
    found = score_groups(
        reader,
        lines,
        report,
        step="choices",
        unit="question",
        read_last=True,
        together=request.together,
    )
    return ChoiceScores(
        questions=tuple(each.scores(scores) for each, scores in zip(asked, found, strict=True)),
        seconds=time.monotonic() - started,
    )


def _continuation_line(backend: Backend, asked: Continuation) -> Line:
    name = f"continuation {asked.id!r}"
    if not asked.continuation:
        message = f"{name} is empty; give a text to score"
        raise ProbeRefused(message)
    given = asked.context.rstrip()
    rest = asked.context[len(given) :] + asked.continuation
    template = backend.chat(asked.messages) if asked.messages else ""
    special = bool(asked.messages)
    whole = text_tokens(backend, template + given + rest, special=special)
    before = text_tokens(backend, template + given, special=special)
    return _line(backend, name, whole, len(before))


def _continuation_score(asked: Continuation, found: LineScore) -> ContinuationScore:
    return ContinuationScore(
        id=asked.id,
        nll=float(found.nll.sum()),
        tokens=len(found.nll),
        bytes=len(asked.continuation.encode("utf-8")),
        worst_nll=float(found.nll.max()),
        greedy=bool(found.greedy.all()),
    )


def _line(backend: Backend, name: str, tokens: NDArray[np.int32], first: int) -> Line:
    """Return a line with at least one scored token, and at least one before it."""
    if not len(tokens):
        message = f"{name} has no tokens"
        raise ProbeRefused(message)
    # Context and continuation may meet in one token, which is then the continuation's.
    first = min(first, len(tokens) - 1)
    if first == 0:
        if backend.bos is None:
            message = (
                f"{name} has nothing before it, and this vocabulary has no token that begins a text;"
                " give a context"
            )
            raise ProbeRefused(message)
        tokens = np.concatenate((np.array([backend.bos], dtype=np.int32), tokens))
        first = 1
    return Line(name=name, tokens=tokens, first=first)


class _Asked:
    """One question as token sequences, one for each answer, and which parts of them count.

    llama.cpp's tools score the tokens after those that all answers begin with alike. Of sentences
    with a gap, which have a tail, they score the tail alone and leave out its last token, unless one
    of the sentences is too short after the common beginning.
    """

    def __init__(self, backend: Backend, question: ChoiceQuestion) -> None:
        if len(question.answers) < _FEWEST_ANSWERS:
            message = (
                f"question {question.id!r} has {len(question.answers)} answers; a choice needs"
                f" {_FEWEST_ANSWERS} or more"
            )
            raise ProbeRefused(message)
        context, tail = question.context, question.tail
        sequences = [
            text_tokens(backend, context + answer + tail, special=False)
            for answer in question.answers
        ]
        # Of an answer that is the beginning of another one, at least the last token is scored.
        common = min(common_tokens(sequences), *(len(each) - 1 for each in sequences))
        # What an answer's own likelihood starts from: the text before it, or before its tail.
        befores = [context + answer for answer in question.answers] if tail else [context.rstrip()]
        starts = [len(text_tokens(backend, before, special=False)) for before in befores]
        starts *= len(sequences) // len(starts)
        tails_only = bool(tail) and all(len(each) - common > _SHORT_TAIL for each in sequences)
        self.lines: list[Line] = []
        self._parts: list[tuple[int, slice]] = []
        for number, (tokens, start) in enumerate(zip(sequences, starts, strict=True), start=1):
            name = f"answer {number} of question {question.id!r}"
            own = min(start if tails_only else common, len(tokens) - 1)
            line = _line(backend, name, tokens, min(own, start))
            self.lines.append(line)
            # A token that was put before the text moves all places by one.
            moved = len(line.tokens) - len(tokens)
            length = len(tokens) - own
            scored = length - 1 if tail and length > 1 else length
            place = max(own + moved - line.first, 0)
            begin = max(min(start, len(tokens) - 1) + moved - line.first, 0)
            self._parts.append((begin, slice(place, place + scored)))

    def scores(self, found: Sequence[LineScore]) -> tuple[ChoiceScore, ...]:
        return tuple(
            ChoiceScore(
                nll=float(score.nll[begin:].sum()),
                tokens=len(score.nll) - begin,
                own_nll=float(score.nll[own].sum()),
                own_tokens=len(score.nll[own]),
            )
            for score, (begin, own) in zip(found, self._parts, strict=True)
        )
