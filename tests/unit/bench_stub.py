"""A bench that answers from what a test wrote down, and short ways to write evidence down."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pytest_quantgate.cases import named_cases
from pytest_quantgate.records import (
    ChoiceScores,
    ContinuationScores,
    Divergence,
    Generation,
    Latency,
    Likelihood,
    MemoryUse,
    Output,
    Packed,
    PassageLikelihood,
    RequestTiming,
    TextFacts,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pytest_quantgate.artifact.integrity import Verification
    from pytest_quantgate.cases import Case
    from pytest_quantgate.gates import Bench, Role
    from pytest_quantgate.records import (
        ChoiceRequest,
        ChoiceScore,
        ContinuationRequest,
        DivergenceRequest,
        GenerationRequest,
        HarnessRequest,
        HarnessResult,
        LatencyRequest,
        LikelihoodRequest,
        MemoryRequest,
        NextTokens,
        NextTokensRequest,
        NoiseFloor,
        PassageRequest,
        TextRequest,
    )

NAMES = {"candidate": "Q4_K_M", "baseline": "the F16 baseline"}


@dataclass(slots=True, kw_only=True)
class StubBench:
    """Prepared answers by role, and in ``asked`` what was asked for, in order.

    Likelihoods, divergence and passages are of a whole text; a request gets the part it names.
    """

    folder: Path = field(default_factory=Path)
    literals: Mapping[str, float] = field(default_factory=dict)
    context: int = 512
    likelihoods: Mapping[Role, Likelihood] = field(default_factory=dict)
    diverged: Divergence | None = None
    passage_likelihoods: Mapping[Role, PassageLikelihood] = field(default_factory=dict)
    floor: NoiseFloor | None = None
    served: int | None = None
    arrays: tuple[Path, str] | None = None
    types: tuple[str, str] = ("Q4_K_M", "F16")
    notes: tuple[str, ...] = ()
    texts: Mapping[Role, Sequence[str]] = field(default_factory=dict)
    chosen_cases: frozenset[str] = frozenset()
    chances: Mapping[Role, NextTokens] = field(default_factory=dict)
    continuation_scores: Mapping[Role, ContinuationScores] = field(default_factory=dict)
    choice_scores: Mapping[Role, Mapping[str, tuple[ChoiceScore, ...]]] = field(
        default_factory=dict
    )
    harness_results: Mapping[Role, HarnessResult] = field(default_factory=dict)
    memories: Mapping[Role, MemoryUse] = field(default_factory=dict)
    timings: Latency | None = None
    verified: Verification | None = None
    asked: list[tuple[object, ...]] = field(default_factory=list)
    announced: list[tuple[int, int]] = field(default_factory=list)

    @property
    def gate_id(self) -> str:
        """Id of an item."""
        return "gates.yaml::m::Q4_K_M::gate"

    @property
    def candidate_name(self) -> str:
        """Name of the variant under test."""
        return NAMES["candidate"]

    @property
    def baseline_name(self) -> str:
        """Name of the baseline in texts."""
        return NAMES["baseline"]

    @property
    def candidate_type(self) -> str:
        """Type of the variant's weights."""
        return self.types[0]

    @property
    def baseline_type(self) -> str:
        """Type of the baseline's weights."""
        return self.types[1]

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

    def text(self, role: Role, request: TextRequest) -> TextFacts:
        """Return what the prepared likelihoods say of the text."""
        self.asked.append((role, request))
        found = self.likelihoods.get(role)
        if found is None and self.diverged is not None:
            both = {"candidate": self.diverged.candidate, "baseline": self.diverged.baseline}
            found = both[role]
        if found is None:
            raise LookupError
        return TextFacts(
            chunks=found.available_chunks,
            tokens=found.corpus_tokens,
            tokens_sha256=found.tokens_sha256,
            vocabulary=found.vocabulary,
        )

    def announce(self, done: int, total: int) -> None:
        """Keep where the drawing stands."""
        self.announced.append((done, total))

    def likelihood(self, role: Role, request: LikelihoodRequest) -> Likelihood:
        """Return the prepared likelihood of the windows asked for."""
        self.asked.append((role, request))
        return part(self.likelihoods[role], request.chunks or ())

    def divergence(self, request: DivergenceRequest) -> Divergence:
        """Return the prepared divergence on the windows asked for."""
        self.asked.append((request,))
        if self.diverged is None:
            raise LookupError
        chunks = list(request.chunks or ())
        return replace(
            self.diverged,
            candidate=part(self.diverged.candidate, chunks),
            baseline=part(self.diverged.baseline, chunks),
            kld=Packed.of(self.diverged.kld.array()[chunks], "<f4"),
            same_top=Packed.of(self.diverged.same_top.array()[chunks], "|u1"),
        )

    def passages(self, role: Role, request: PassageRequest) -> PassageLikelihood:
        """Return the prepared likelihood of the passages asked for."""
        self.asked.append((role, request))
        whole, chosen = self.passage_likelihoods[role], request.passages or ()
        return replace(
            whole,
            passages=chosen,
            nll=tuple(whole.nll[passage] for passage in chosen),
            bytes=tuple(whole.bytes[passage] for passage in chosen),
            tokens=tuple(whole.tokens[passage] for passage in chosen),
        )

    def passage_count(self, path: Path, passage_bytes: int) -> int:
        """Return how many passages were prepared."""
        self.asked.append((path, passage_bytes))
        return self.passage_likelihoods["candidate"].available_passages

    def served_chunks(
        self, request: TextRequest, *, seed: int, distributions: bool = False
    ) -> int | None:
        """Return what the test says."""
        self.asked.append((request, seed, distributions))
        return self.served

    def committed(self, request: TextRequest, *, seed: int) -> tuple[Path, str] | None:
        """Return what the test says."""
        self.asked.append((request, seed))
        return self.arrays

    def noise_floor(self, request: TextRequest) -> NoiseFloor | None:
        """Return what the test says."""
        self.asked.append((request,))
        return self.floor

    def generation(self, role: Role, request: GenerationRequest) -> Generation:
        """Return the prepared outputs, in the order of the prompts."""
        self.asked.append((role, request))
        outputs = tuple(
            Output(id=prompt.id, text=text, tokens=1, finish="eog", prompt_tokens=1)
            for prompt, text in zip(request.prompts, self.texts[role], strict=True)
        )
        return Generation(outputs=outputs, seconds=0.5)

    def cases(self, name: str) -> tuple[Case, ...]:
        """Return the cases of a file in the test's folder, or of a built-in set."""
        return named_cases(name, self.file)

    def next_tokens(self, role: Role, request: NextTokensRequest) -> NextTokens:
        """Return the prepared chances, in the order of the beginnings."""
        self.asked.append((role, request))
        return self.chances[role]

    def continuations(self, role: Role, request: ContinuationRequest) -> ContinuationScores:
        """Return the prepared scores of the continuations asked for, by id."""
        self.asked.append((role, request))
        by_id = {score.id: score for score in self.continuation_scores[role].scores}
        return ContinuationScores(
            scores=tuple(by_id[each.id] for each in request.continuations), seconds=0.5
        )

    def choices(self, role: Role, request: ChoiceRequest) -> ChoiceScores:
        """Return the prepared scores of the questions asked for, by id."""
        self.asked.append((role, request))
        return ChoiceScores(
            questions=tuple(self.choice_scores[role][each.id] for each in request.questions),
            seconds=0.5,
        )

    def harness(self, role: Role, request: HarnessRequest) -> HarnessResult:
        """Return the prepared result."""
        self.asked.append((role, request))
        return self.harness_results[role]

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
    vocabulary: int = 49152,
) -> Likelihood:
    """Return windows whose tokens have these mean negative log-likelihoods.

    Tokens lie ``spread`` above and below the mean in turn; the last of an odd number is the mean.
    """
    count = len(chunk_means)
    all_chunks = count if available is None else available
    apart = spread * np.where(np.arange(tokens) % 2, -1.0, 1.0)
    apart[tokens - tokens % 2 :] = 0
    scores = np.asarray(chunk_means, dtype=np.float64)[:, None] + apart
    return Likelihood(
        chunks=tuple(range(count)),
        chunk_nll=tuple(mean * tokens for mean in chunk_means),
        chunk_nll2=tuple(np.square(scores).sum(axis=1).tolist()),
        token_nll=Packed.of(scores, "<f4"),
        chunk_tokens=tokens,
        available_chunks=all_chunks,
        corpus_tokens=all_chunks * 2 * (tokens + 1),
        tokens_sha256=tokens_sha256,
        vocabulary=vocabulary,
        seconds=1.5,
    )


def part(whole: Likelihood, chunks: Sequence[int]) -> Likelihood:
    """Return some windows of a likelihood, in the order they are named in."""
    chosen = list(chunks)
    return replace(
        whole,
        chunks=tuple(chosen),
        chunk_nll=tuple(whole.chunk_nll[chunk] for chunk in chosen),
        chunk_nll2=tuple(whole.chunk_nll2[chunk] for chunk in chosen),
        token_nll=Packed.of(whole.token_nll.array()[chosen], "<f4"),
    )


def divergence(
    kld: NDArray[Any],
    same_top: NDArray[Any] | None = None,
    *,
    own: Likelihood | None = None,
    base: Likelihood | None = None,
    precision: Literal["exact", "16-bit", "lower bound"] = "exact",
) -> Divergence:
    """Return a divergence of shape (windows, tokens); all else may be left to what is unsuspicious."""
    chunks, tokens = kld.shape
    same = np.ones(kld.shape) if same_top is None else same_top
    return Divergence(
        candidate=own or likelihood([2.1] * chunks, tokens=tokens),
        baseline=base or likelihood([2.0] * chunks, tokens=tokens),
        kld=Packed.of(kld, "<f4"),
        same_top=Packed.of(same, "|u1"),
        precision=precision,
        seconds=3.0,
    )


def passages(
    nll: Sequence[float],
    *,
    lengths: int | Sequence[int] = 1024,
    tokens: int = 256,
    vocabulary: int = 49152,
) -> PassageLikelihood:
    """Return passages with these sums of negative log-likelihood, each of so many bytes and tokens."""
    count = len(nll)
    return PassageLikelihood(
        passages=tuple(range(count)),
        nll=tuple(nll),
        bytes=(lengths,) * count if isinstance(lengths, int) else tuple(lengths),
        tokens=(tokens,) * count,
        available_passages=count,
        vocabulary=vocabulary,
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
