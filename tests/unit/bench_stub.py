"""A bench that answers from what a test wrote down, and short ways to write evidence down."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.records import (
    Generation,
    Latency,
    Likelihood,
    MemoryUse,
    Output,
    RequestTiming,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_quantgate.artifact.integrity import Verification
    from pytest_quantgate.gates import Bench, Role
    from pytest_quantgate.records import (
        GenerationRequest,
        LatencyRequest,
        LikelihoodRequest,
        MemoryRequest,
    )

NAMES = {"candidate": "Q4_K_M", "baseline": "the F16 baseline"}


@dataclass(slots=True, kw_only=True)
class StubBench:
    """Prepared answers by role, and in ``asked`` what was asked for, in order."""

    folder: Path = field(default_factory=Path)
    literals: Mapping[str, float] = field(default_factory=dict)
    context: int = 512
    likelihoods: Mapping[Role, Likelihood] = field(default_factory=dict)
    texts: Mapping[Role, Sequence[str]] = field(default_factory=dict)
    memories: Mapping[Role, MemoryUse] = field(default_factory=dict)
    timings: Latency | None = None
    verified: Verification | None = None
    asked: list[tuple[object, ...]] = field(default_factory=list)

    @property
    def candidate_name(self) -> str:
        """Name of the variant under test."""
        return NAMES["candidate"]

    @property
    def baseline_name(self) -> str:
        """Name of the baseline in texts."""
        return NAMES["baseline"]

    def corpus(self, name: str | None) -> tuple[Path, str]:
        """Return a path that names what was asked for."""
        return self.folder / (name or "default.txt"), "c" * 64

    def file(self, name: str) -> Path:
        """Return a file of the test's folder."""
        return self.folder / name

    def verification(self, *, literal: str | None, sums: Path | None) -> Verification:
        """Return the prepared verification."""
        self.asked.append((literal, sums))
        if self.verified is None:
            raise LookupError
        return self.verified

    def likelihood(self, role: Role, request: LikelihoodRequest) -> Likelihood:
        """Return the prepared likelihood."""
        self.asked.append((role, request))
        return self.likelihoods[role]

    def generation(self, role: Role, request: GenerationRequest) -> Generation:
        """Return the prepared outputs, in the order of the prompts."""
        self.asked.append((role, request))
        outputs = tuple(
            Output(id=prompt.id, text=text, tokens=1, finish="eog", prompt_tokens=1)
            for prompt, text in zip(request.prompts, self.texts[role], strict=True)
        )
        return Generation(outputs=outputs, seconds=0.5)

    def memory(self, role: Role, request: MemoryRequest) -> MemoryUse:
        """Return the prepared memory figures."""
        self.asked.append((role, request))
        return self.memories[role]

    def latency(self, request: LatencyRequest, *, paired: bool) -> Latency:
        """Return the prepared timings."""
        self.asked.append((request, paired))
        if self.timings is None:
            raise LookupError
        return self.timings


def as_bench(stub: StubBench) -> Bench:
    """Return the stub as what gates know it by, which type checkers then verify."""
    return stub


def likelihood(
    chunk_means: Sequence[float],
    *,
    tokens: int = 255,
    available: int | None = None,
    tokens_sha256: str = "a" * 64,
    spread: float = 1.0,
) -> Likelihood:
    """Return windows whose tokens have these mean negative log-likelihoods.

    Half of a window's tokens lie ``spread`` above its mean and half below it.
    """
    count = len(chunk_means) if available is None else available
    return Likelihood(
        chunk_nll=tuple(mean * tokens for mean in chunk_means),
        chunk_nll2=tuple((mean**2 + spread**2) * tokens for mean in chunk_means),
        chunk_tokens=tokens,
        available_chunks=count,
        corpus_tokens=count * 2 * (tokens + 1),
        tokens_sha256=tokens_sha256,
        vocabulary=49152,
        seconds=1.5,
    )


def timing(total_ms: float, *, ttft_ms: float | None = None, tokens: int = 4) -> RequestTiming:
    """Return a request of this length, a fifth of it before the first token unless told."""
    first = total_ms / 5 if ttft_ms is None else ttft_ms
    return RequestTiming(ttft_ms=first, token_ms=((total_ms - first) / tokens,) * tokens)


def latency(candidate: Sequence[RequestTiming], baseline: Sequence[RequestTiming] = ()) -> Latency:
    """Return timed requests of one shape on one machine."""
    return Latency(
        candidate=tuple(candidate),
        baseline=tuple(baseline),
        prompt_tokens=128,
        output_tokens=5,
        machine="Test processor, 2 cores",
    )
