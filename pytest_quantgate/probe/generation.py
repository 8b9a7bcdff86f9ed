"""Greedy continuation of many prompts at once.

Decoding one token for one sequence reads all weights; decoding one token for each of many sequences
reads them once. So a number of slots advance together, and a slot whose text has ended takes the
next prompt at once, whose tokens are processed in the same batches.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.errors import MeasurementError, ProbeRefused
from pytest_quantgate.probe.backend import Batch, ContextShape
from pytest_quantgate.records import Generation, Output, Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from pytest_quantgate.probe.backend import Backend, Session
    from pytest_quantgate.records import GenerationRequest, ModelFacts, Prompt

MOST_CELLS = 16384
"""Most tokens held in memory over all slots: one very long prompt shall not multiply by 32."""

MOST_SLOTS = 256
"""Most texts decoded together, whatever a request says; llama.cpp's own limit."""


def measure_generation(
    backend: Backend,
    facts: ModelFacts,
    request: GenerationRequest,
    report: Callable[[Progress], None],
) -> Generation:
    """Continue every prompt; the outputs come in the order of the prompts.

    ``request.parallel`` is an upper bound: fewer texts are decoded together where there are fewer
    prompts, or where their caches would exceed `MOST_CELLS` tokens.

    Raises:
        MeasurementError: the model's logits are no numbers.
        ProbeRefused: a prompt that cannot be continued; the text names its id.
    """
    started = time.monotonic()
    if request.parallel < 1 or not request.prompts:
        message = f"{len(request.prompts)} prompts, {request.parallel} at a time, measure nothing"
        raise ProbeRefused(message)
    texts = [
        _Text(index=index, prompt=prompt, tokens=prompt_tokens(backend, facts, prompt))
        for index, prompt in enumerate(request.prompts)
    ]
    longest = max(text.need for text in texts)
    slots = max(1, min(request.parallel, len(texts), MOST_SLOTS, MOST_CELLS // longest))
    # Those with the most to say go first, so that the end is not one slot working alone. Among
    # equals, prompts of like length lie side by side: llama.cpp processes several sequences at once
    # as far as they are equally long, and unsorted prompts cost twice the time.
    waiting = deque(sorted(texts, key=lambda text: (-text.prompt.max_tokens, -len(text.tokens))))
    outputs: dict[int, Output] = {}
    total = len(texts)
    report(Progress(step="generation", done=0, total=total, unit="case"))
    session = backend.open(ContextShape(sequences=slots, tokens=longest))
    gaps = _Gaps(session, room=longest)
    try:
        active: dict[int, _Text] = {}
        free = list(range(slots))
        while waiting or active:
            free.sort(reverse=True)
            while free and waiting:
                slot = free.pop()
                gaps.close(slot)
                active[slot] = waiting.popleft()
            for slot, chosen in _advance(session, active, gaps):
                text = active[slot]
                if not text.accept(backend, chosen):
                    continue
                outputs[text.index] = text.output()
                del active[slot]
                gaps.open(slot)
                free.append(slot)
                report(Progress(step="generation", done=len(outputs), total=total, unit="case"))
    finally:
        session.close()
    ordered = tuple(outputs[index] for index in range(total))
    return Generation(outputs=ordered, seconds=time.monotonic() - started)


def prompt_tokens(backend: Backend, facts: ModelFacts, prompt: Prompt) -> NDArray[np.int32]:
    """Return the tokens a prompt starts from, with what the model expects before a text.

    Raises:
        ProbeRefused: nothing to continue, nothing to generate, or longer than the model can read.
    """
    templated = bool(prompt.messages)
    if prompt.prompt is not None and templated:
        message = f"case {prompt.id!r} has both a prompt and messages; write one of them"
        raise ProbeRefused(message)
    text = backend.chat(prompt.messages) if templated else prompt.prompt or ""
    tokens = backend.tokenize(text, add_special=True, parse_special=templated)
    if backend.add_eos and len(tokens):
        # An ended text has no continuation.
        tokens = tokens[:-1]
    # Many templates write BOS themselves, and the tokenizer has put another one before it.
    if templated and len(tokens) > 1 and tokens[0] == tokens[1] == backend.bos:
        tokens = tokens[1:]
    need = len(tokens) + prompt.max_tokens
    problem = None
    if not len(tokens):
        problem = "its prompt has no tokens"
    elif prompt.max_tokens < 1:
        problem = f"max_tokens is {prompt.max_tokens}; generate at least one token"
    elif need > facts.context_train:
        problem = (
            f"{len(tokens)} prompt tokens and {prompt.max_tokens} to generate exceed the"
            f" {facts.context_train} tokens the model was trained for; shorten either"
        )
    elif "" in prompt.stop or prompt.until == "":
        problem = "an empty stop or until string would end every output at once"
    if problem is not None:
        message = f"case {prompt.id!r}: {problem}"
        raise ProbeRefused(message)
    return tokens


@dataclass(slots=True, kw_only=True, eq=False)
class _Text:
    """One prompt and what has become of it so far."""

    index: int
    prompt: Prompt
    tokens: NDArray[np.int32]
    fed: int = 0
    """How many of the prompt's and the generated tokens the session has seen."""
    generated: list[int] = field(default_factory=list)
    data: bytearray = field(default_factory=bytearray)
    finish: str = ""

    @property
    def need(self) -> int:
        """Most tokens this text can come to."""
        return len(self.tokens) + self.prompt.max_tokens

    def pending(self, room: int) -> Sequence[int] | NDArray[np.int32]:
        """Return the next tokens to feed, at most ``room`` of them."""
        if self.fed < len(self.tokens):
            return self.tokens[self.fed : self.fed + room]
        return self.generated[-1:]

    @property
    def complete(self) -> bool:
        """Whether everything there is has been fed, so that a next token can be chosen."""
        return self.fed == len(self.tokens) + len(self.generated)

    def accept(self, backend: Backend, token: int) -> bool:
        """Take the next token; return whether the text has ended."""
        if backend.is_end(token):
            self.finish = "eog"
            return True
        self.generated.append(token)
        piece = backend.piece(token)
        self.data += piece
        if self._stopped(len(piece)):
            self.finish = "stop"
        elif self.prompt.until is not None and self._contains(self.prompt.until):
            self.finish = "until"
        elif len(self.generated) >= self.prompt.max_tokens:
            self.finish = "length"
        return bool(self.finish)

    def output(self) -> Output:
        """Return the finished text; bytes that are no UTF-8 become replacement characters."""
        return Output(
            id=self.prompt.id,
            text=self.data.decode("utf-8", errors="replace"),
            tokens=len(self.generated),
            finish=self.finish,
            prompt_tokens=len(self.tokens),
        )

    def _stopped(self, added: int) -> bool:
        """Cut the text at the earliest stop string that the last ``added`` bytes completed."""
        places = []
        for stop in self.prompt.stop:
            wanted = stop.encode("utf-8")
            place = self.data.find(wanted, max(0, len(self.data) - added - len(wanted) + 1))
            if place >= 0:
                places.append(place)
        if places:
            del self.data[min(places) :]
        return bool(places)

    def _contains(self, wanted: str) -> bool:
        # A character whose last bytes are still to come is not there yet.
        return wanted.casefold() in self.data.decode("utf-8", errors="ignore").casefold()


class _Gaps:
    """Keeps slots busy that have nothing to say but stand between others that do.

    llama.cpp processes sequences of one batch together only as far as their numbers follow one
    another; a text that has ended would cut the rest into pieces, each with the cost of a batch.
    """

    def __init__(self, session: Session, *, room: int) -> None:
        self._session = session
        self._room = room
        self._fed: dict[int, int] = {}

    def open(self, slot: int) -> None:
        """Empty a slot whose text has ended."""
        self._session.forget(slot)
        self._fed[slot] = 0

    def close(self, slot: int) -> None:
        """Empty a slot for its next text."""
        if self._fed.pop(slot, 0):
            self._session.forget(slot)

    def between(self, slots: Sequence[int]) -> list[tuple[int, int]]:
        """Return gap slots between the given ones, each with the position of its next token.

        Nothing where the gaps outnumber the texts: then the pieces are cheaper.
        """
        low, high = min(slots), max(slots)
        gaps = [slot for slot in self._fed if low < slot < high]
        if len(gaps) > len(slots):
            return []
        places = []
        for slot in gaps:
            if self._fed[slot] == self._room:
                self.open(slot)
            places.append((slot, self._fed[slot]))
            self._fed[slot] += 1
        return places


def _advance(session: Session, active: dict[int, _Text], gaps: _Gaps) -> list[tuple[int, int]]:
    """Feed one batch; return each slot whose next token is now known, with that token."""
    tokens: list[int] = []
    positions: list[int] = []
    sequences: list[int] = []
    chosen_by: list[tuple[int, int]] = []
    # Texts that generate come first: they need one place each and must not wait for long prompts.
    order = sorted(active, key=lambda slot: (active[slot].fed < len(active[slot].tokens), slot))
    for slot in order:
        text = active[slot]
        room = session.batch_limit - len(tokens)
        if room == 0:
            break
        pending = text.pending(room)
        tokens.extend(pending)
        positions.extend(range(text.fed, text.fed + len(pending)))
        sequences.extend([slot] * len(pending))
        text.fed += len(pending)
        if text.complete:
            chosen_by.append((slot, len(tokens) - 1))
    if len(tokens) == len(chosen_by) > 1:
        # Every text is generating: one token each, and one for each gap between them.
        fillers = gaps.between(sequences)[: session.batch_limit - len(tokens)]
        rows = sorted(
            [
                *zip(sequences, tokens, positions, [True] * len(tokens), strict=True),
                *((slot, tokens[0], position, False) for slot, position in fillers),
            ]
        )
        sequences = [row[0] for row in rows]
        tokens = [row[1] for row in rows]
        positions = [row[2] for row in rows]
        chosen_by = [(row[0], place) for place, row in enumerate(rows) if row[3]]
    outputs = np.zeros(len(tokens), dtype=np.int8)
    outputs[np.array([place for _, place in chosen_by], dtype=np.intp)] = 1
    logits = session.decode(
        Batch(
            tokens=np.array(tokens, dtype=np.int32),
            positions=np.array(positions, dtype=np.int32),
            sequences=np.array(sequences, dtype=np.int32),
            outputs=outputs,
        )
    )
    chosen = greedy(logits)
    return [(slot, int(token)) for (slot, _), token in zip(chosen_by, chosen, strict=True)]


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
