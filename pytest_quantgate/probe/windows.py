"""Texts as a model reads them: tokens, the windows they are cut into, and the logits of windows.

The way is that of llama.cpp's `llama-perplexity` (tools/perplexity/perplexity.cpp, `perplexity`), so
that figures agree with the tool to the printed digit: the whole text is tokenized at once and cut into
windows without overlap; the first token of each window is replaced by BOS where the model wants one;
only predictions made in a window's second half are scored, which is 255 of 512 tokens.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.errors import ArtifactError, MeasurementError, ProbeRefused
from pytest_quantgate.probe.backend import Batch, ContextShape
from pytest_quantgate.records import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from pytest_quantgate.probe.backend import Backend, Session
    from pytest_quantgate.records import EngineSettings, ModelFacts

_SHORTEST_CONTEXT = 4
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """Some windows of a text.

    ``tokens`` has shape (windows, context), ``numbers`` says which windows they are, from 0. The rest
    is about the whole text: ``available`` windows, ``total`` tokens, and the digest of their ids.
    """

    numbers: tuple[int, ...]
    tokens: NDArray[np.int32]
    available: int
    total: int
    sha256: str

    @property
    def context(self) -> int:
        """Tokens of one window."""
        return int(self.tokens.shape[1])

    @property
    def targets(self) -> NDArray[np.int32]:
        """The tokens that are scored, of shape (windows, scored tokens)."""
        return self.tokens[:, self.context // 2 + 1 :]

    def part(self, start: int, end: int) -> Windows:
        """Return the windows from place ``start`` up to place ``end``."""
        return Windows(
            numbers=self.numbers[start:end],
            tokens=self.tokens[start:end],
            available=self.available,
            total=self.total,
            sha256=self.sha256,
        )


class Reader:
    """Reads texts with one model and keeps what the next request can use: tokens and a session."""

    def __init__(self, backend: Backend, facts: ModelFacts, settings: EngineSettings) -> None:
        """Read with a loaded model."""
        self.backend = backend
        self.facts = facts
        self.settings = settings
        self._tokens: dict[str, tuple[NDArray[np.int32], str]] = {}
        self._session: tuple[ContextShape, Session] | None = None

    def cut(
        self,
        path: str,
        *,
        sha256: str,
        context: int,
        chunks: Sequence[int] | None = None,
        report: Callable[[Progress], None] | None = None,
    ) -> Windows:
        """Return windows of a text.

        Args:
            path: The text's file.
            sha256: Digest of the file's bytes.
            context: Tokens of a window.
            chunks: Numbers of the windows, in the order they are wanted; None for all.
            report: Is told that the text is being tokenized, once for each text.

        Raises:
            ArtifactError: the corpus cannot be read, changed, is no UTF-8 text, or is too short.
            ProbeRefused: there are no such windows, or the model does not fit this measurement.
        """
        self.check(context)
        tokens, digest = self._read(path, sha256, report)
        if len(tokens) < 2 * context:
            message = (
                f"corpus {path} has {len(tokens)} tokens; {2 * context} are needed, two windows of"
                f" {context}: use a longer text or a shorter context"
            )
            raise ArtifactError(message)
        available = len(tokens) // context
        numbers = tuple(range(available)) if chunks is None else tuple(chunks)
        check_numbers(numbers, available, what="chunk")
        whole = tokens[: available * context].reshape(available, context)
        return Windows(
            numbers=numbers,
            tokens=whole if chunks is None else whole[np.array(numbers, dtype=np.intp)],
            available=available,
            total=len(tokens),
            sha256=digest,
        )

    def check(self, context: int) -> None:
        """Refuse windows that cannot be scored, and models for which they mean nothing.

        Raises:
            ProbeRefused: naming the reason.
        """
        problem = None
        if context < _SHORTEST_CONTEXT:
            problem = f"a context of {context} tokens is too short; use {_SHORTEST_CONTEXT} or more"
        elif context > self.settings.batch:
            problem = (
                f"a context of {context} tokens exceeds the batch of {self.settings.batch}; raise the"
                " batch or shorten the context"
            )
        elif self.backend.add_eos:
            problem = (
                "this vocabulary ends every text with an end-of-text token, for which windows of"
                " running text have no place; perplexity is not defined for it here"
            )
        if problem is not None:
            raise ProbeRefused(problem)

    def together(self, context: int, sequences: int | None) -> int:
        """Return how many windows are decoded in one call: by default as many as fit a batch.

        Raises:
            ProbeRefused: none is asked for.
        """
        if sequences is not None and sequences < 1:
            message = f"windows in groups of {sequences} measure nothing; ask for 1 or more"
            raise ProbeRefused(message)
        fitting = self.settings.batch // context
        return fitting if sequences is None else min(sequences, fitting)

    def logits(
        self, windows: Windows, *, sequences: int | None
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Decode windows, group by group.

        Yields:
            The place of a group's first window, and the logits that foretell its targets: a view of
            the engine's own buffer, of shape (windows, scored tokens, vocabulary), good until the
            next group is asked for.
        """
        context = windows.context
        together = self.together(context, sequences)
        for start in range(0, len(windows.numbers), together):
            # The shape does not depend on how many windows are asked for, and so the figures do not.
            session = self.session(ContextShape(sequences=together, tokens=context))
            yield start, self._decode(session, windows.tokens[start : start + together])

    def session(self, shape: ContextShape) -> Session:
        """Return an empty session of a shape: the kept one where it fits, else a new one."""
        if self._session is None or self._session[0] != shape:
            self.release()
            self._session = shape, self.backend.open(shape)
        session = self._session[1]
        session.clear()
        return session

    def release(self) -> None:
        """Free the session that is kept."""
        if self._session is not None:
            session = self._session[1]
            self._session = None
            session.close()

    def require_finite(
        self,
        scores: NDArray[np.float64],
        windows: Windows,
        *,
        side: str = "model",
        description: str | None = None,
    ) -> None:
        """Refuse figures that are none.

        Args:
            scores: One row for each window.
            windows: The windows.
            side: Whose figures they are: model, candidate or baseline.
            description: What that model is; this reader's by default.

        Raises:
            MeasurementError: naming the first window with NaN or infinity, and the type of model.
        """
        broken = np.flatnonzero(~np.isfinite(scores).all(axis=1))
        if not broken.size:
            return
        place = int(broken[0])
        chunk, context = windows.numbers[place], windows.context
        value = "NaN" if np.isnan(scores[place]).any() else "infinity"
        what = f"{value} in chunk {chunk + 1} (tokens {chunk * context} to {(chunk + 1) * context - 1})"
        raise MeasurementError(broken_model(side, what, description or self.facts.description))

    def _read(
        self, path: str, sha256: str, report: Callable[[Progress], None] | None
    ) -> tuple[NDArray[np.int32], str]:
        """Return a text's tokens and their digest; a text is tokenized once."""
        if sha256 not in self._tokens:
            text = read_corpus(Path(path), sha256=sha256)
            if report is not None:
                report(Progress(step="tokenizing", done=0, total=1, unit="corpus"))
            tokens = self.backend.tokenize(text, add_special=True, parse_special=False)
            self._tokens[sha256] = tokens, tokens_digest(tokens)
        return self._tokens[sha256]

    def _decode(self, session: Session, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
        count, context = tokens.shape
        half = context // 2
        given = tokens.copy()
        if self.facts.add_bos and self.backend.bos is not None:
            given[:, 0] = self.backend.bos
        positions = np.tile(np.arange(context, dtype=np.int32), count)
        logits = session.decode(
            Batch(
                tokens=given.reshape(-1),
                positions=positions,
                sequences=np.repeat(np.arange(count, dtype=np.int32), context),
                outputs=(positions >= half).astype(np.int8),
            )
        )
        # The last row of a window predicts a token that belongs to the next one.
        return logits.reshape(count, context - half, -1)[:, :-1]


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


def tokens_digest(tokens: NDArray[np.int32]) -> str:
    """Return the SHA-256, in hexadecimal, of token ids as little-endian int32."""
    return hashlib.sha256(tokens.astype("<i4").tobytes()).hexdigest()


def check_numbers(numbers: Sequence[int], available: int, *, what: str) -> None:
    """Refuse a choice of windows or passages that is empty, repeats itself or goes too far.

    Raises:
        ProbeRefused: naming the numbers.
    """
    problem = None
    if not numbers:
        problem = f"no {what} is asked for; ask for one or more of the {available} there are"
    elif outside := [number for number in numbers if not 0 <= number < available]:
        problem = (
            f"there is no {what} {_listed(outside)}: the text has {available}, numbered from 0 to"
            f" {available - 1}"
        )
    elif len(set(numbers)) < len(numbers):
        repeated = sorted({number for number in numbers if numbers.count(number) > 1})
        problem = f"{what} {_listed(repeated)} is asked for more than once; ask for it once"
    if problem is not None:
        raise ProbeRefused(problem)


def broken_model(side: str, what: str, description: str) -> str:
    """Return the message for a model that produced ``what`` instead of numbers."""
    return (
        f"the {side} produced {what}: the weights of this {description}, or the engine's kernels for"
        " tensors of its type, are broken; make the file again, or try another type"
    )


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:_SHOWN])
    return shown if len(numbers) <= _SHOWN else f"{shown}, ..."
