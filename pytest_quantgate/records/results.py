"""What a probe answers, and what follows from its answers alone."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from numpy.typing import NDArray

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """An array of numbers as text that JSON can carry: base64 of its little-endian bytes, row by row.

    ``dtype`` is numpy's spelling of the type (``<f4``, ``<u4``, ``|u1``).
    """

    dtype: Literal["<f4", "<f8", "<u2", "<u4", "|u1"]
    shape: tuple[int, ...]
    data: str

    @classmethod
    def of(cls, array: NDArray[Any], dtype: Literal["<f4", "<f8", "<u2", "<u4", "|u1"]) -> Packed:
        """Pack an array, converted to ``dtype``."""
        converted = array.astype(dtype)
        data = base64.b64encode(converted.tobytes()).decode("ascii")
        return cls(dtype=dtype, shape=tuple(converted.shape), data=data)

    def array(self) -> NDArray[Any]:
        """Return the numbers.

        Raises:
            ValueError: the text is no base64, or not of the length that type and shape demand.
        """
        import numpy as np  # noqa: PLC0415 - records are loaded where no array is looked at

        raw = base64.b64decode(self.data, validate=True)
        return np.frombuffer(raw, dtype=self.dtype).reshape(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFacts:
    """A corpus as a model reads it.

    ``tokens_sha256`` is the digest of the token ids (little-endian int32), equal only for equal text
    and tokenizer; ``chunks`` is how many whole windows the corpus has.
    """

    chunks: int
    tokens: int
    tokens_sha256: str
    vocabulary: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TopTokens:
    """The most likely tokens at every scored position, most likely first.

    ``ids`` and ``log_probs`` (nats) have shape (windows, scored tokens, k); what is left of the
    probability belongs to all other tokens together.
    """

    ids: Packed
    log_probs: Packed


@dataclass(frozen=True, slots=True, kw_only=True)
class Likelihood:
    """Negative log-likelihood per window, in nats: sums of nll and nll**2 over its scored tokens.

    ``chunks`` are the numbers of the windows, in the order of all that follows; ``chunk_tokens`` tokens
    are scored in each (255 of 512), and ``token_nll`` has each one's own, of shape (windows, scored
    tokens), in float32. ``tokens_sha256`` is the digest of the token ids (little-endian int32), equal
    only for equal text and tokenizer; ``available_chunks`` is how many windows the corpus has.
    """

    chunks: tuple[int, ...]
    chunk_nll: tuple[float, ...]
    chunk_nll2: tuple[float, ...]
    token_nll: Packed
    chunk_tokens: int
    available_chunks: int
    corpus_tokens: int
    tokens_sha256: str
    vocabulary: int
    seconds: float
    top: TopTokens | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """The candidate's predictions against the baseline's, position by position.

    ``kld`` is the Kullback-Leibler divergence KL(baseline || candidate) in nats and ``same_top`` (0 or
    1) whether both hold the same token for the most likely one; both of shape (windows, scored
    tokens). ``precision`` says what the divergence is: ``exact`` from full logits, ``16-bit`` from a
    logits file whose values were rounded, or ``lower bound`` from a baseline's most likely tokens.
    """

    candidate: Likelihood
    baseline: Likelihood
    kld: Packed
    same_top: Packed
    precision: Literal["exact", "16-bit", "lower bound"]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PassageLikelihood:
    """Likelihood of the second halves of passages: nats, UTF-8 bytes and tokens of each."""

    passages: tuple[int, ...]
    nll: tuple[float, ...]
    bytes: tuple[int, ...]
    tokens: tuple[int, ...]
    available_passages: int
    vocabulary: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseFloor:
    """How far a model is from itself when nothing but batch size and thread count change.

    ``log_ratio`` is the largest |ln(perplexity ratio)| and ``kld`` the largest mean divergence, in
    nats, that was seen over ``chunks`` windows; ``settings`` names the ways it was run.
    """

    log_ratio: float
    kld: float
    chunks: int
    settings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One continuation; ``finish`` is why it ended: ``eog``, ``stop``, ``length`` or ``until``.

    ``token_ids`` are the tokens that were generated, without the one that ended them. ``broken_bytes``
    counts bytes that are no UTF-8 and stand in ``text`` as replacement characters, but for those of a
    character that the end cut in two.
    """

    id: str
    text: str
    tokens: int
    finish: str
    prompt_tokens: int
    token_ids: tuple[int, ...] = ()
    broken_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """All continuations in the order of the prompts, the repeats of one prompt side by side."""

    outputs: tuple[Output, ...]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenChance:
    """A token and its probability as the next one; ``rank`` counts from 1, the most probable one."""

    token: int
    text: str
    probability: float
    rank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NextToken:
    """What may follow one beginning: the most probable tokens, and those of interest in their order."""

    top: tuple[TokenChance, ...]
    also: tuple[TokenChance, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NextTokens:
    """What may follow each beginning, in their order."""

    beginnings: tuple[NextToken, ...]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinuationScore:
    """Likelihood of one continuation: its negative log-likelihood in nats over all of its tokens.

    ``worst_nll`` is that of its most surprising token; ``greedy`` whether each of its tokens is the most
    probable one at its place. ``bytes`` are those of its text in UTF-8.
    """

    id: str
    nll: float
    tokens: int
    bytes: int
    worst_nll: float
    greedy: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinuationScores:
    """Likelihood of all continuations in the order of the request."""

    scores: tuple[ContinuationScore, ...]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceScore:
    """Likelihood of one answer.

    ``nll`` is the sum over all tokens of the answer, or of its tail where the question has one.
    ``own_nll`` is the sum over the ``own_tokens`` that llama.cpp scores: those after what all answers of
    the question begin with alike; of a tail, all but its last token.
    """

    nll: float
    tokens: int
    own_nll: float
    own_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceScores:
    """Likelihood of each answer of each question, in the order of the request."""

    questions: tuple[tuple[ChoiceScore, ...], ...]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUse:
    """Memory of one fresh probe: peak resident set, and the resident set before the model was loaded."""

    peak_rss_bytes: int
    before_load_bytes: int
    file_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTiming:
    """One request: time to first token, then the time of each further token, in milliseconds."""

    ttft_ms: float
    token_ms: tuple[float, ...]

    @property
    def total_ms(self) -> float:
        """End-to-end time of the request."""
        return self.ttft_ms + sum(self.token_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Timed requests; ``baseline`` holds the baseline's, measured alternately, pair by pair."""

    candidate: tuple[RequestTiming, ...]
    baseline: tuple[RequestTiming, ...] = ()
    prompt_tokens: int
    output_tokens: int
    machine: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What a loaded model and its engine say about themselves.

    ``context_train`` is the longest context, in tokens, that the model was trained for;
    ``model_size_bytes`` counts the tensors, not the file; ``system_info`` lists the instruction sets
    the engine was built for and found.
    """

    description: str
    parameters: int
    model_size_bytes: int
    vocabulary: int
    context_train: int
    add_bos: bool
    engine: str
    engine_version: str
    system_info: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkFigures:
    """What `QuantizationBenchmark` measured of one model."""

    perplexity: float
    latency_ms: float
    memory_mb: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a step is: ``done`` of ``total`` units of ``unit`` ("chunk", "case", "tensor", …)."""

    step: str
    done: int
    total: int
    unit: str
