"""A language model that needs no engine: the token after ``t`` is ``t + 1``.

Its 256 tokens are the bytes, with 0 as BOS and 10 (a newline) as the end of a generation. The file
name that is "loaded" says how it shall differ or misbehave; see `CountingBackend.load`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys
import time
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.errors import ProbeRefused
from pytest_quantgate.probe import protocol
from pytest_quantgate.records import ModelFacts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pytest_quantgate.probe.backend import Backend, Batch, ContextShape, Session
    from pytest_quantgate.records import EngineSettings, Message

VOCABULARY = 256
BOS = 0
END = 10
CERTAINTY = 5.0
"""Logit of the token that comes next; all others have 0."""

TOKEN_NLL = float(np.log(np.exp(CERTAINTY) + VOCABULARY - 1) - CERTAINTY)
"""What a correctly foretold token costs, in nats."""


class CountingSession:
    """Keeps every sequence's tokens and checks that each one is fed in order."""

    def __init__(
        self,
        shape: ContextShape,
        *,
        batch: int,
        damage: str = "",
        certainty: float = CERTAINTY,
        vocabulary: int = VOCABULARY,
    ) -> None:
        """Make room for a shape; ``damage`` names what goes wrong in the second batch."""
        self._certainty = certainty
        self._vocabulary = vocabulary
        self.shape = shape
        self.batch_limit = batch
        self.histories: list[list[int]] = [[] for _ in range(shape.sequences)]
        self.batches: list[int] = []
        self.copies: list[tuple[int, int]] = []
        self.closed = False
        self._damage = damage

    def decode(self, batch: Batch) -> NDArray[np.float32]:
        """Append the tokens and foretell the next ones."""
        count = len(batch.tokens)
        if self.closed or not 0 < count <= self.batch_limit:
            message = f"a batch of {count} tokens, closed: {self.closed}"
            raise RuntimeError(message)
        self.batches.append(count)
        if self._damage and len(self.batches) > 1:
            misbehave(self._damage)
        for token, position, sequence in zip(
            batch.tokens, batch.positions, batch.sequences, strict=True
        ):
            history = self.histories[sequence]
            if position != len(history) or len(history) >= self.shape.tokens:
                message = f"position {position} of sequence {sequence}, which has {len(history)}"
                raise RuntimeError(message)
            history.append(int(token))
        wanted = batch.tokens[batch.outputs.astype(bool)]
        logits = np.zeros((len(wanted), self._vocabulary), dtype=np.float32)
        logits[np.arange(len(wanted)), (wanted + 1) % self._vocabulary] = self._certainty
        if self._damage == "nan" and len(self.batches) > 1:
            logits[:1, 0] = np.nan
        return logits

    def copy(self, source: int, target: int) -> None:
        """Continue one sequence's tokens in another one, which must be empty."""
        if self.histories[target]:
            message = f"sequence {target} is not empty: {self.histories[target]}"
            raise RuntimeError(message)
        self.histories[target].extend(self.histories[source])
        self.copies.append((source, target))

    def forget(self, sequence: int) -> None:
        """Empty one sequence."""
        self.histories[sequence].clear()

    def clear(self) -> None:
        """Empty all sequences."""
        for history in self.histories:
            history.clear()

    def close(self) -> None:
        """Refuse everything from now on."""
        self.closed = True


class CountingGrammar:
    """Allows the bytes of a word one after the other, then the end; ``"..."`` allows nothing."""

    def __init__(self, word: bytes) -> None:
        """Wait for the first byte."""
        self._rest = word
        self.closed = False

    def allowed(self, tokens: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Tell which tokens are the next byte."""
        fit: NDArray[np.bool_] = tokens == (self._rest[0] if self._rest else END)
        return fit & (self._rest != b"...")

    def accept(self, token: int) -> None:
        """Wait for the byte after it."""
        if not self.allowed(np.array([token], dtype=np.int32))[0]:
            message = f"{token} is not allowed, {self._rest!r} is waited for"
            raise RuntimeError(message)
        self._rest = self._rest[1:]

    def close(self) -> None:
        """Note it."""
        self.closed = True


class CountingBackend:
    """Counts, unless the file name says otherwise."""

    engine = "counting"
    engine_version = "1"

    def __init__(self, *, add_bos: bool = True, add_eos: bool = False) -> None:
        """Choose what a text begins and ends with."""
        self.add_bos = add_bos
        self.add_eos = add_eos
        self.sessions: list[CountingSession] = []
        self.grammars: list[CountingGrammar] = []
        self.tokenized: list[str] = []
        self._batch = 2048
        self._damage = ""
        self._certainty = CERTAINTY
        self._vocabulary = VOCABULARY
        self._shift = 0

    @property
    def bos(self) -> int | None:
        """Token 0."""
        return BOS

    def load(self, path: Path, settings: EngineSettings) -> ModelFacts:
        """Pretend to load a model, or misbehave.

        ``certain-N`` foretells with a logit of N, ``wide`` has a larger vocabulary, ``shifted`` other
        ids for the same bytes; ``later-X`` misbehaves as X in its second batch, others at once.
        """
        self._batch = settings.batch
        kind, _, rest = path.name.partition(".")[0].partition("-")
        if kind == "later":
            self._damage = rest
        elif kind == "certain":
            self._certainty = float(rest)
        elif kind == "wide":
            self._vocabulary = VOCABULARY + 1
        elif kind == "shifted":
            self._shift = 1
        else:
            misbehave(kind)
        return self.facts()

    def facts(self) -> ModelFacts:
        """Describe the model."""
        return ModelFacts(
            description="counts",
            parameters=1,
            model_size_bytes=1,
            vocabulary=self._vocabulary,
            context_train=512,
            add_bos=self.add_bos,
            engine=self.engine,
            engine_version=self.engine_version,
            system_info="",
        )

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> NDArray[np.int32]:
        """Return the bytes; ``<s>`` is BOS where special tokens are looked for."""
        self.tokenized.append(text)
        data = text.encode()
        if parse_special:
            data = data.replace(b"<s>", bytes([BOS]))
        before = [BOS] if add_special and self.add_bos else []
        after = [END] if add_special and self.add_eos else []
        shifted = [byte + self._shift for byte in data]
        return np.array([*before, *shifted, *after], dtype=np.int32)

    def piece(self, token: int) -> bytes:
        """Return the byte."""
        return bytes([token])

    def is_end(self, token: int) -> bool:
        """Tell whether it is a newline."""
        return token == END

    def is_control(self, token: int) -> bool:
        """Tell whether it is BOS."""
        return token == BOS

    def chat(self, messages: Sequence[Message]) -> str:
        """Write BOS and the last message."""
        return "<s>" + messages[-1].content

    def grammar(self, json_schema: str) -> CountingGrammar:
        """Return rules that allow the text of the "schema" alone; an empty one is refused."""
        if not json_schema:
            message = "no rules for nothing"
            raise ProbeRefused(message)
        grammar = CountingGrammar(json_schema.encode())
        self.grammars.append(grammar)
        return grammar

    def open(self, shape: ContextShape) -> Session:
        """Open a session."""
        session = CountingSession(
            shape,
            batch=self._batch,
            damage=self._damage,
            certainty=self._certainty,
            vocabulary=self._vocabulary,
        )
        self.sessions.append(session)
        return session


class SlowHello(CountingBackend):
    """Takes an hour to start."""

    def __init__(self) -> None:
        """Sleep."""
        super().__init__()
        time.sleep(3600)


class OtherProtocol(CountingBackend):
    """Comes from another version of the package."""

    def __init__(self) -> None:
        """Change the version that the hello will name."""
        super().__init__()
        vars(protocol)["PROTOCOL"] = 99


class DiesAtStart(CountingBackend):
    """Is built for another CPU."""

    def __init__(self) -> None:
        """Die as of an illegal instruction."""
        super().__init__()
        os.kill(os.getpid(), signal.SIGILL)


class Unstartable(CountingBackend):
    """Lacks what it needs."""

    def __init__(self) -> None:
        """Fail."""
        super().__init__()
        message = "no runtime here"
        raise ImportError(message)


def _write_to_channel(data: bytes) -> None:
    # The channel's number is known to nobody; of the few descriptors only it can be written to.
    for descriptor in range(3, 32):
        try:
            os.write(descriptor, data)
        except OSError:
            continue
    time.sleep(3600)


def _native_sleep() -> None:
    print("native code sleeps", file=sys.stderr, flush=True)  # noqa: T201 - the log is looked at
    ctypes.CDLL(None).sleep(3600)


def _close_all() -> None:
    os.closerange(3, 32)
    time.sleep(3600)


def _grow() -> None:
    keep = [np.ones(1 << 20) for _ in range(100)]
    time.sleep(3600)
    del keep


def _flood() -> None:
    for _ in range(40):
        os.write(2, b"flood\n" * (1 << 17))
    os.write(2, b"\x1b[31mthe last line\x1b[0m \xff\n")
    os.kill(os.getpid(), signal.SIGSEGV)


def _noise() -> None:
    os.write(1, b"\x00\x00\x00\x02{}" * 100)
    print("printed")  # noqa: T201 - standard output is what is tested
    ctypes.CDLL(None).puts(b"from C")


def _refuse() -> None:
    message = "not this one"
    raise ProbeRefused(message)


def _out_of_memory() -> None:
    raise MemoryError


def _bug() -> None:
    nothing: list[int] = []
    nothing.pop(3)


_DEEDS: dict[str, Callable[[], object]] = {
    "segfault": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "sigkill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda: os._exit(0),
    "hang": _native_sleep,
    "garbage": lambda: _write_to_channel(b"\x00\x00\x00\x04oops"),
    "huge": lambda: _write_to_channel(struct.pack(">I", 1 << 31)),
    "foreign": lambda: _write_to_channel(
        protocol.encode({"id": 77, "event": "result", "result": {}})
    ),
    "untyped": lambda: _write_to_channel(
        protocol.encode({"id": 1, "event": "result", "result": {"description": 1}})
    ),
    "closed": _close_all,
    "flood": _flood,
    "noise": _noise,
    "grow": _grow,
    "refuse": _refuse,
    "memory": _out_of_memory,
    "bug": _bug,
}


def misbehave(name: str) -> None:
    """Do the deed of this name; names without a deed are good."""
    _DEEDS.get(name, lambda: None)()


if TYPE_CHECKING:
    _CHECKED: Backend = CountingBackend()
