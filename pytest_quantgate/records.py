"""The vocabulary: frozen values that travel between the stages, and nothing else.

Units are part of the names (``_ms``, ``_bytes``, ``_seconds``); a likelihood is in nats; a megabyte
(``MB`` in limits, ``MiB`` in texts) is 1,048,576 bytes.
"""

from __future__ import annotations

import base64
import enum
from collections.abc import Mapping  # noqa: TC003 - read at run time to load stored records
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from numpy.typing import NDArray

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """A place in a specification; line and column count from 1 and are absent for Python mappings."""

    path: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        """Return ``path:line:column`` as far as it is known."""
        return ":".join(
            str(part) for part in (self.path, self.line, self.column) if part is not None
        )


# --- what a probe is asked -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How the engine runs a model: everything here can change the low bits of a number.

    ``threads`` is the number of compute threads; ``batch``/``ubatch`` are llama.cpp's logical and
    physical batch in tokens; ``repack`` lets the engine copy weights into the CPU's own layout.
    """

    threads: int
    batch: int = 2048
    ubatch: int = 512
    flash_attention: Literal["auto", "on", "off"] = "auto"
    gpu_layers: int = 0
    repack: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRequest:
    """Ask how a model reads a text: its tokens, and the windows `llama-perplexity` cuts it into."""

    corpus_path: str
    corpus_sha256: str
    context: int = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class LikelihoodRequest:
    """Ask for the negative log-likelihood of a text, in windows as `llama-perplexity` cuts them.

    ``chunks`` are the numbers of the windows to score, from 0 and in any order; None means all of
    them in order. ``sequences`` windows are decoded together, by default as many as the tool decodes:
    what fits a batch. It does not change which tokens are scored, but the last bits of their
    likelihood. ``top`` asks for that many most likely tokens at every scored position too.
    """

    corpus_path: str
    corpus_sha256: str
    context: int = 512
    chunks: tuple[int, ...] | None = None
    sequences: int | None = None
    top: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DivergenceRequest:
    """Ask how far the candidate's predictions are from the baseline's on windows of a text.

    ``reference`` says where the baseline's predictions come from: a second probe that decodes the same
    windows in lockstep (``live``), a file as `llama-perplexity --save-all-logits` writes it
    (``logits``), or a committed baseline, which holds the most likely tokens of some windows
    (``committed``). The last two lie at ``reference_path``, whose bytes have ``reference_sha256``.
    With ``logits`` the corpus is not read at all: tokens come from the file, and the corpus fields
    are empty.
    """

    reference: Literal["live", "logits", "committed"]
    corpus_path: str = ""
    corpus_sha256: str = ""
    context: int = 512
    chunks: tuple[int, ...] | None = None
    sequences: int | None = None
    reference_path: str = ""
    reference_sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassageRequest:
    """Ask for the likelihood of passages that are cut from a text by bytes, whatever the tokenizer.

    Passage i is the bytes from i * ``passage_bytes`` to (i + 1) * ``passage_bytes``, both moved
    forward to the next start of a character; its second half is scored, given its first half.
    """

    corpus_path: str
    corpus_sha256: str
    passage_bytes: int = 2048
    passages: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a chat."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One text to continue: either ``prompt`` or ``messages`` (through the model's own template).

    Generation is greedy and ends at an end-of-generation token, at one of the ``stop`` strings, after
    ``max_tokens`` tokens, or as soon as the output contains ``until`` (case-insensitive), which saves
    the rest when a `contains` matcher is already satisfied.
    """

    id: str
    prompt: str | None = None
    messages: tuple[Message, ...] = ()
    max_tokens: int = 64
    stop: tuple[str, ...] = ()
    until: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """Ask for the greedy continuation of many prompts, ``parallel`` of them decoded together."""

    prompts: tuple[Prompt, ...]
    parallel: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRequest:
    """Ask a fresh probe for its peak memory while it fills ``context`` tokens and generates."""

    context: int = 512
    sequences: int = 1
    output_tokens: int = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyRequest:
    """Ask for the time of single requests of one shape: prompt length and output length in tokens."""

    prompt_tokens: int = 128
    output_tokens: int = 32
    warmup: int = 2
    repeats: int = 10


# --- what a probe answers --------------------------------------------------------------------------


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
    """One continuation; ``finish`` is why it ended: ``eog``, ``stop``, ``length`` or ``until``."""

    id: str
    text: str
    tokens: int
    finish: str
    prompt_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """All continuations in the order of the prompts."""

    outputs: tuple[Output, ...]
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


# --- what is known before a run ------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PilotLimit:
    """One limit as a pilot saw it, in the units people read.

    ``low`` and ``high`` are the bounds of ``value``, None where there is none; ``detectable`` is how far
    on the right side of its limit the statistic must be to pass at ``Pilot.effect_at`` chunks four times
    in five, None where that cannot be told; ``needed`` is about how many chunks in all would decide the
    limit as it stands; ``proposed`` is a limit the variant would keep, as a specification has it.
    """

    name: str
    statistic: str
    unit: str
    limit: float
    value: float
    low: float | None
    high: float | None
    detectable: float | None
    needed: int
    proposed: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pilot:
    """What was measured ahead of a gate: ``chunks`` of ``population``, at ``seconds_per_chunk``.

    ``budget`` and ``looks`` are those of the run to come.
    """

    limits: tuple[PilotLimit, ...]
    chunks: int
    population: int
    budget: int
    looks: int
    effect_at: int
    seconds_per_chunk: float


# --- what is judged --------------------------------------------------------------------------------


class Outcome(str, enum.Enum):
    """Three ways a judged limit can end; what could not be measured is an error, not an outcome."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Bounds of a value and the confidence they hold with (0.95 for 95%).

    For a two-sided interval ``confidence`` is that of the interval. Where a limit is decided by each
    bound alone, ``confidence`` is that of the bound that lets it pass and ``fail_confidence`` that of
    the bound that fails it.
    """

    low: float
    high: float
    confidence: float
    fail_confidence: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One limit held against one measured statistic.

    ``limit_name`` is the key in the specification (``max_ratio``); ``statistic`` says in words what
    was measured; ``unit`` is empty for plain ratios; ``sample`` says how much was measured ("40
    chunks"). ``text`` replaces the number where the statistic is none (a digest).
    """

    limit_name: str
    statistic: str
    outcome: Outcome
    value: float | None = None
    interval: Interval | None = None
    unit: str = ""
    limit: float | None = None
    baseline: float | None = None
    sample: str = ""
    text: str = ""
    limit_text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one gate decided, with everything a report needs to say so.

    ``key`` is (model, variant, gate); ``headline`` stands alone in a one-line summary; ``findings``
    are listed below it (failing cases, …); ``advice`` is what to try next; ``stored`` tells that no
    probe ran because the store had the numbers; ``record`` holds further plain figures. ``warn`` says
    that an inconclusive outcome is to be a warning instead of a failure.
    """

    spec: str
    key: tuple[str, str, str]
    location: Location
    outcome: Outcome
    headline: str
    checks: tuple[Check, ...]
    findings: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    stored: bool = False
    seconds: float = 0.0
    warn: bool = False
    record: Mapping[str, float | int | str | bool | None] = field(default_factory=dict)
