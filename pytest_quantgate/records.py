"""The vocabulary: frozen values that travel between the stages, and nothing else.

Units are part of the names (``_ms``, ``_bytes``, ``_seconds``); a likelihood is in nats; a megabyte
(``MB`` in limits, ``MiB`` in texts) is 1,048,576 bytes.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping  # noqa: TC003 - read at run time to load stored records
from dataclasses import dataclass, field
from typing import Literal

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
class LikelihoodRequest:
    """Ask for the negative log-likelihood of a text, in windows as `llama-perplexity` cuts them.

    ``chunks`` limits the number of windows, taken from the start; None means all of them.
    ``sequences`` windows are decoded together, by default as many as the tool decodes: what fits a
    batch. It does not change which tokens are scored, but the last bits of their likelihood.
    """

    corpus_path: str
    corpus_sha256: str
    context: int = 512
    chunks: int | None = None
    sequences: int | None = None


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


Request = LikelihoodRequest | GenerationRequest | MemoryRequest | LatencyRequest


# --- what a probe answers --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Likelihood:
    """Negative log-likelihood per window, in nats: sums of nll and nll**2 over its scored tokens.

    ``chunk_tokens`` tokens are scored in each window (255 of 512); ``tokens_sha256`` is the digest of
    the token ids (little-endian int32), equal only for equal text and tokenizer; ``available_chunks``
    is how many windows the corpus has.
    """

    chunk_nll: tuple[float, ...]
    chunk_nll2: tuple[float, ...]
    chunk_tokens: int
    available_chunks: int
    corpus_tokens: int
    tokens_sha256: str
    vocabulary: int
    seconds: float


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


Result = Likelihood | Generation | MemoryUse | Latency | BenchmarkFigures


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a step is: ``done`` of ``total`` units of ``unit`` ("chunk", "case", "tensor", …)."""

    step: str
    done: int
    total: int
    unit: str


# --- what is judged --------------------------------------------------------------------------------


class Outcome(str, enum.Enum):
    """Three ways a judged limit can end; what could not be measured is an error, not an outcome."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A two-sided interval and the confidence it holds with (0.95 for 95%)."""

    low: float
    high: float
    confidence: float


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
    probe ran because the store had the numbers; ``record`` holds further plain figures.
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
    record: Mapping[str, float | int | str | bool | None] = field(default_factory=dict)
