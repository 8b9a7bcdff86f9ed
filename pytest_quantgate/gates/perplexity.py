"""Perplexity over a corpus, as `llama-perplexity` computes it, absolute or against the baseline."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from pytest_quantgate import stats
from pytest_quantgate.errors import MeasurementError
from pytest_quantgate.gates import Bench, Gate, GateSettings, Judgement
from pytest_quantgate.quantity import Percentage
from pytest_quantgate.records import Check, Interval, Likelihood, LikelihoodRequest, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

MINIMUM_CHUNKS = 2


class PerplexitySettings(GateSettings):
    """Limits on perplexity and the text it is measured on."""

    limit_names: ClassVar[tuple[str, ...]] = ("max", "max_ratio", "max_increase")

    max: float | None = Field(default=None, gt=1, description="Highest perplexity accepted")
    max_ratio: float | None = Field(
        default=None,
        gt=0,
        description="Highest ratio of the variant's perplexity to the baseline's",
    )
    max_increase: Percentage | None = Field(
        default=None, description='Highest increase over the baseline\'s perplexity, such as "3%"'
    )
    corpus: str | None = Field(
        default=None,
        min_length=1,
        description="Text to measure on: a UTF-8 file or builtin:python-docs",
    )
    context: int | None = Field(default=None, ge=8, description="Window length in tokens")
    chunks: int | None = Field(
        default=None,
        ge=MINIMUM_CHUNKS,
        description="Number of windows to measure, from the start; all by default",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PerplexityEvidence:
    """Likelihood of the same text under both models, or the baseline's perplexity as a number."""

    candidate: Likelihood
    baseline: Likelihood | None
    literal: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Perplexity:
    """Perplexity and its standard error, with `llama-perplexity`'s formulas."""

    value: float
    error: float


def perplexity(likelihood: Likelihood) -> Perplexity:
    """Return exp(mean nll) and its ±, treating tokens as independent.

    Formulas of `llama-perplexity` (llama.cpp, tools/perplexity/perplexity.cpp): variance of the mean
    is (mean(nll²) - mean(nll)²) / (count - 1), and the ± is perplexity times its square root.
    """
    count = likelihood.chunk_tokens * len(likelihood.chunk_nll)
    mean = _running_sum(likelihood.chunk_nll) / count
    variance = max(0.0, _running_sum(likelihood.chunk_nll2) / count - mean * mean)
    value = math.exp(mean)
    return Perplexity(value=value, error=value * math.sqrt(variance / (count - 1)))


def _running_sum(values: tuple[float, ...]) -> float:
    # math.fsum would be more exact than the reference tool, and so differ from it in the last bit.
    total = 0.0
    for value in values:
        total += value
    return total


class PerplexityGate(Gate[PerplexitySettings, PerplexityEvidence]):
    """`max`, `max_ratio`, `max_increase` on perplexity; the window is the sampling unit."""

    name = "perplexity"
    settings = PerplexitySettings
    metric = "perplexity"

    def needs_baseline(self, settings: PerplexitySettings) -> bool:
        """A ratio and an increase compare with the baseline."""
        return settings.max_ratio is not None or settings.max_increase is not None

    def measure(self, settings: PerplexitySettings, bench: Bench) -> PerplexityEvidence:
        """Measure the candidate and, unless its perplexity is a given number, the baseline."""
        path, digest = bench.corpus(settings.corpus)
        request = LikelihoodRequest(
            corpus_path=str(path),
            corpus_sha256=digest,
            context=settings.context or bench.context,
            chunks=settings.chunks,
        )
        literal = bench.literals.get("perplexity") if self.needs_baseline(settings) else None
        baseline = None
        if self.needs_baseline(settings) and literal is None:
            baseline = bench.likelihood("baseline", request)
        candidate = bench.likelihood("candidate", request)
        if baseline is not None:
            _same_tokens(candidate, baseline)
        return PerplexityEvidence(candidate=candidate, baseline=baseline, literal=literal)

    def judge(
        self, settings: PerplexitySettings, evidence: PerplexityEvidence, bench: Bench
    ) -> Judgement:
        """Hold perplexity and its ratio to the baseline's against the limits."""
        likelihood = evidence.candidate
        measured = perplexity(likelihood)
        reference = _reference(evidence)
        drawn, available = len(likelihood.chunk_nll), likelihood.available_chunks
        sample = f"{drawn} of {available} chunks" if drawn < available else f"all {drawn} chunks"
        checks: list[Check] = []
        scored = f"{sample} of {likelihood.chunk_tokens} scored tokens"
        findings = [f"perplexity {measured.value:.4f} ± {measured.error:.5f} over {scored}"]
        if reference is not None:
            findings.append(f"{bench.baseline_name}: perplexity {_spoken(reference)}")
        for name, limit, values, base in _limits(settings, evidence):
            interval = _exponential(
                stats.mean_interval(values, population=likelihood.available_chunks)
            )
            outcome = stats.at_most(interval, limit)
            checks.append(
                Check(
                    limit_name=name,
                    statistic="perplexity" if name == "max" else "perplexity ratio",
                    outcome=outcome,
                    value=math.exp(math.fsum(values) / len(values)),
                    interval=interval,
                    limit=limit,
                    baseline=base,
                    sample=sample,
                )
            )
            if outcome is Outcome.INCONCLUSIVE:
                needed = stats.values_needed(values, limit=math.log(limit), population=available)
                findings.append(
                    f"{name} is undecided: about {needed} of {available} chunks would decide it"
                )
        return Judgement(
            headline=_headline(measured, reference, checks),
            checks=tuple(checks),
            findings=tuple(findings),
            record={
                "perplexity": measured.value,
                "perplexity_error": measured.error,
                "baseline_perplexity": None if reference is None else reference.value,
                "chunks": drawn,
                "available_chunks": available,
                "scored_tokens": drawn * likelihood.chunk_tokens,
                "vocabulary": likelihood.vocabulary,
            },
        )


def _same_tokens(candidate: Likelihood, baseline: Likelihood) -> None:
    if candidate.tokens_sha256 == baseline.tokens_sha256:
        return
    message = (
        "the variant and the baseline read the text as different tokens"
        f" ({candidate.corpus_tokens} of a vocabulary of {candidate.vocabulary} against"
        f" {baseline.corpus_tokens} of {baseline.vocabulary}): their perplexities cannot be compared;"
        " use models with the same tokenizer, or an absolute `max`"
    )
    raise MeasurementError(message)


def _reference(evidence: PerplexityEvidence) -> Perplexity | None:
    if evidence.baseline is not None:
        return perplexity(evidence.baseline)
    if evidence.literal is not None:
        return Perplexity(value=evidence.literal, error=0.0)
    return None


def _limits(
    settings: PerplexitySettings, evidence: PerplexityEvidence
) -> Iterator[tuple[str, float, tuple[float, ...], float | None]]:
    """Yield name, limit, log values by chunk and the baseline's perplexity for each limit given."""
    tokens = evidence.candidate.chunk_tokens
    own = tuple(nll / tokens for nll in evidence.candidate.chunk_nll)
    if settings.max is not None:
        yield "max", settings.max, own, None
    reference = _reference(evidence)
    if reference is None:
        return
    if evidence.baseline is not None:
        base = tuple(nll / tokens for nll in evidence.baseline.chunk_nll)
    else:
        base = (math.log(reference.value),) * len(own)
    paired = tuple(a - b for a, b in zip(own, base, strict=True))
    if settings.max_ratio is not None:
        yield "max_ratio", settings.max_ratio, paired, reference.value
    if settings.max_increase is not None:
        yield "max_increase", 1 + settings.max_increase, paired, reference.value


def _exponential(interval: Interval) -> Interval:
    return Interval(
        low=math.exp(interval.low), high=math.exp(interval.high), confidence=interval.confidence
    )


def _spoken(reference: Perplexity) -> str:
    if reference.error:
        return f"{reference.value:.4f} ± {reference.error:.5f}"
    return f"{reference.value:g} (given as a number)"


def _headline(measured: Perplexity, reference: Perplexity | None, checks: list[Check]) -> str:
    decisive = max(checks, key=lambda check: _SEVERITY[check.outcome])
    sign = {Outcome.PASS: "<=", Outcome.FAIL: ">", Outcome.INCONCLUSIVE: "~"}[decisive.outcome]
    if reference is None or decisive.limit_name == "max":
        return f"perplexity {measured.value:.4g} {sign} {decisive.limit_name} {decisive.limit:g}"
    return (
        f"perplexity ratio {decisive.value:.4f} {sign} {decisive.limit_name} {decisive.limit:g}"
        f" ({measured.value:.4g} against {reference.value:.4g})"
    )


_SEVERITY = {Outcome.PASS: 0, Outcome.INCONCLUSIVE: 1, Outcome.FAIL: 2}

GATE = PerplexityGate()
