"""Continuation of many prompts at once, greedy or drawn, free or within a JSON Schema."""

from __future__ import annotations

import codecs
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.errors import ProbeRefused
from pytest_quantgate.probe.lanes import Line, decode_together
from pytest_quantgate.probe.prompts import prompt_tokens
from pytest_quantgate.probe.token_choice import Draw, best_allowed, check_decoding, greedy
from pytest_quantgate.records import Generation, Output, Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from pytest_quantgate.probe.backend import Backend, Grammar
    from pytest_quantgate.records import Decoding, GenerationRequest, ModelFacts, Prompt


def measure_generation(
    backend: Backend,
    facts: ModelFacts,
    request: GenerationRequest,
    report: Callable[[Progress], None],
) -> Generation:
    """Continue every prompt; the outputs come in the order of the prompts, repeats side by side.

    ``request.parallel`` is an upper bound: fewer texts are decoded together where there are fewer, or
    where their memory would exceed `lanes.MOST_CELLS` tokens. Without temperature all repeats of a
    prompt are one text, which is decoded once.

    Raises:
        MeasurementError: the model's logits are no numbers.
        ProbeRefused: a prompt that cannot be continued; the text names its id.
    """
    started = time.monotonic()
    if request.parallel < 1 or not request.prompts:
        message = f"{len(request.prompts)} prompts, {request.parallel} at a time, measure nothing"
        raise ProbeRefused(message)
    check_decoding(request.decoding)
    repeats = request.decoding.repeats
    drawn = request.decoding.temperature > 0
    texts: list[_Text] = []
    try:
        for prompt in request.prompts:
            tokens = prompt_tokens(backend, facts, prompt)
            texts.extend(
                _text(backend, prompt, tokens, request.decoding, repeat)
                for repeat in range(repeats if drawn else 1)
            )
        total = len(texts)
        report(Progress(step="generation", done=0, total=total, unit="case"))
        choice = _Choice(backend, lambda done: report(_progress(done, total)))
        # Those with the most to say go first, so that the end is not one text alone. Among equals,
        # prompts of like length lie side by side: llama.cpp processes several sequences at once as
        # far as they are equally long, and unsorted prompts cost twice the time.
        ordered = sorted(texts, key=lambda text: (-text.prompt.max_tokens, -len(text.tokens)))
        decode_together(backend, ordered, together=request.parallel, choose=choice)
    finally:
        for text in texts:
            text.close()
    outputs = [text.output() for text in texts for _ in range(1 if drawn else repeats)]
    return Generation(outputs=tuple(outputs), seconds=time.monotonic() - started)


def _progress(done: int, total: int) -> Progress:
    return Progress(step="generation", done=done, total=total, unit="case")


def _text(
    backend: Backend,
    prompt: Prompt,
    tokens: NDArray[np.int32],
    decoding: Decoding,
    repeat: int,
) -> _Text:
    grammar = None
    if prompt.json_schema is not None:
        try:
            grammar = backend.grammar(prompt.json_schema)
        except ProbeRefused as error:
            message = f"case {prompt.id!r}: {error}"
            raise ProbeRefused(message) from error
    return _Text(
        tokens=tokens,
        room=len(tokens) + prompt.max_tokens,
        prompt=prompt,
        grammar=grammar,
        draw=Draw(decoding, prompt=prompt.id, repeat=repeat) if decoding.temperature > 0 else None,
    )


@dataclass(slots=True, kw_only=True, eq=False)
class _Text(Line):
    """One continuation of one prompt and what has become of it so far."""

    prompt: Prompt
    draw: Draw | None
    grammar: Grammar | None
    data: bytearray = field(default_factory=bytearray)
    finish: str = ""

    def accept(self, backend: Backend, token: int) -> bool:
        """Take the next token; return whether the text has ended."""
        if backend.is_end(token):
            self.finish = "eog"
            return True
        if self.grammar is not None:
            self.grammar.accept(token)
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
            token_ids=tuple(self.generated),
            broken_bytes=broken_bytes(self.data),
        )

    def close(self) -> None:
        """Free what the engine keeps for the text."""
        if self.grammar is not None:
            self.grammar.close()

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


class _Choice:
    """Chooses a token for each text that is ready for one, and counts the texts that have ended."""

    def __init__(self, backend: Backend, ended: Callable[[int], None]) -> None:
        self._backend = backend
        self._ended = ended
        self._done = 0

    def __call__(self, lines: Sequence[Line], logits: NDArray[np.float32]) -> list[bool]:
        """Add a token to each line or say that it has ended."""
        # The most probable token also tells whether a row is sound, however the token is chosen.
        favourites = greedy(logits)
        ended = []
        for line, row, favourite in zip(lines, logits, favourites, strict=True):
            if not isinstance(line, _Text):
                raise TypeError(line)
            ended.append(line.accept(self._backend, self._token(line, row, int(favourite))))
        for _ in range(sum(ended)):
            self._done += 1
            self._ended(self._done)
        return ended

    @staticmethod
    def _token(text: _Text, row: NDArray[np.float32], favourite: int) -> int:
        token: int | None = favourite
        if text.draw is not None:
            token = text.draw.token(row, step=len(text.generated), grammar=text.grammar)
        elif text.grammar is not None:
            token = best_allowed(row, np.arange(len(row)), text.grammar)
        if token is None:
            message = (
                f"case {text.prompt.id!r}: after {len(text.generated)} tokens no token of the"
                " vocabulary leads to JSON of its schema; simplify the schema"
            )
            raise ProbeRefused(message)
        return token


def broken_bytes(data: bytes | bytearray) -> int:
    """Count bytes that are no UTF-8, but for those of a character that the end cuts in two."""
    # Each such byte becomes one lone surrogate; the decoder keeps what may still become a character.
    decoder = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
    return sum("\udc80" <= character <= "\udcff" for character in decoder.decode(data))
