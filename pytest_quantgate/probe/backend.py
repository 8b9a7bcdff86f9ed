"""The seam between what is measured and the runtime that computes it.

A backend is one class over these protocols, named ``module:attribute`` and called without arguments.
Likelihood, generation, timing and memory are written over them and know no runtime.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from pytest_quantgate.records import EngineSettings, Message, ModelFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextShape:
    """How much room a session needs: ``sequences`` texts of up to ``tokens`` tokens each.

    ``shared`` keeps all sequences in one pool of cells rather than one pool each.
    """

    sequences: int
    tokens: int
    shared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Tokens to process in one call; arrays of one length.

    ``positions`` count from 0 within each sequence; ``outputs`` flags the tokens whose logits are
    wanted. With ``spans`` each token belongs to so many sequences, from its own on, which must have
    been equal up to it; only sequences that share one pool of cells can have tokens in common.
    """

    tokens: NDArray[np.int32]
    positions: NDArray[np.int32]
    sequences: NDArray[np.int32]
    outputs: NDArray[np.int8]
    spans: NDArray[np.int32] | None = None

    def part(self, start: int, end: int) -> Batch:
        """Return the tokens from place ``start`` up to place ``end``."""
        return Batch(
            tokens=self.tokens[start:end],
            positions=self.positions[start:end],
            sequences=self.sequences[start:end],
            outputs=self.outputs[start:end],
            spans=None if self.spans is None else self.spans[start:end],
        )


class Session(Protocol):
    """A model's working memory: its caches for a number of sequences."""

    @property
    def batch_limit(self) -> int:
        """Most tokens one batch may have."""

    def decode(self, batch: Batch) -> NDArray[np.float32]:
        """Process a batch and return the logits of its flagged tokens.

        Returns:
            Rows of shape (flagged tokens, vocabulary) in the order of the batch. A view of the
            engine's own buffer: it holds other values after the next call.

        Raises:
            ProbeRefused: the engine cannot process the batch.
        """

    def forget(self, sequence: int) -> None:
        """Empty one sequence so that it can start again at position 0."""

    def copy(self, source: int, target: int) -> None:
        """Let an empty sequence go on from where another one stands."""

    def clear(self) -> None:
        """Empty all sequences."""

    def close(self) -> None:
        """Free the memory; the session is of no use afterwards."""


class Grammar(Protocol):
    """What has been accepted of one text that must follow rules, and what may come next."""

    def allowed(self, tokens: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Tell which of these tokens may come next."""

    def accept(self, token: int) -> None:
        """Go on with a token that is no end of generation.

        Raises:
            ProbeRefused: it is not allowed.
        """

    def close(self) -> None:
        """Free the memory; the grammar is of no use afterwards."""


class Backend(Protocol):
    """A runtime that can load one model."""

    engine: str
    """Name of the runtime."""

    engine_version: str
    """Everything about its version that can change a number."""

    def load(self, path: Path, settings: EngineSettings) -> ModelFacts:
        """Load a model.

        Raises:
            ProbeRefused: the file cannot be loaded; the text gives the engine's reason.
            ProbeOutOfMemory: there is no memory for it.
        """

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> NDArray[np.int32]:
        """Return the ids of a text.

        Args:
            text: What to cut into tokens.
            add_special: Add what the model expects around a text, such as BOS.
            parse_special: Read ``<|im_start|>`` and the like as control tokens, not as text.
        """

    def piece(self, token: int) -> bytes:
        """Return the bytes a token stands for; empty for control tokens."""

    def is_end(self, token: int) -> bool:
        """Tell whether a token ends a generation."""

    def is_control(self, token: int) -> bool:
        """Tell whether a token is a control token rather than text."""

    @property
    def bos(self) -> int | None:
        """Id of the beginning-of-text token, or None."""

    @property
    def add_eos(self) -> bool:
        """Whether `tokenize` ends a text with an end-of-text token when it adds special ones."""

    def chat(self, messages: Sequence[Message]) -> str:
        """Return a conversation as the text the model was trained on, ready for its answer.

        Raises:
            ProbeRefused: the model brings no template, or its template rejects the messages.
        """

    def grammar(self, json_schema: str) -> Grammar:
        """Return the rules of a JSON Schema, given as text, for one text.

        Raises:
            ProbeRefused: the engine has no rules for this schema.
        """

    def open(self, shape: ContextShape) -> Session:
        """Open a session.

        Raises:
            ProbeRefused: the engine cannot make one of this shape.
            ProbeOutOfMemory: there is no memory for it.
        """
