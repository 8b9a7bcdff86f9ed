"""Perplexity over a corpus, as `llama-perplexity` computes it, absolute or against the baseline."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from pytest_quantgate import limits, paired, sampling, statement, stats
from pytest_quantgate.gates import Bench, Gate, GateSettings, Judgement
from pytest_quantgate.limits import Draw, Sampled, SampledLimit
from pytest_quantgate.quantity import Percentage
from pytest_quantgate.records import Likelihood, LikelihoodRequest, Outcome, TextRequest
from pytest_quantgate.sampling import SamplingSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_quantgate.records import Check
    from pytest_quantgate.sampling import Drawn, Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """An increase of perplexity that a published guide draws its line at, and what it says beyond."""

    increase: float
    advice: str


POLICIES = {
    "strict": Policy(
        increase=0.02,
        advice=(
            "the guide Quantization Strategy accepts a loss below 2%; beyond it, it takes Q5_K_M or"
            " Q5_K_S in place of a 4-bit type, and AWQ rather than GPTQ where the runtime has both"
        ),
    ),
    "standard": Policy(
        increase=0.05,
        advice=(
            "the guide Quantization Strategy asks to try a different quantization method before a"
            " loss above 5% is accepted"
        ),
    ),
    "lenient": Policy(
        increase=0.1,
        advice=(
            "the guides Model Quantization and Quantization for Inference end at 10%; the latter says"
            " to move up one quantization level when outputs get noticeably worse"
        ),
    ),
}
"""Thresholds of published guides to quantization; docs/gate-perplexity.md says more of them."""


class PerplexityLimits(GateSettings):
    """The limits of a perplexity gate."""

    limit_names: ClassVar[tuple[str, ...]] = ("max", "max_ratio", "max_increase", "policy")

    max: float | None = Field(default=None, gt=1, description="Highest perplexity accepted")
    max_ratio: float | None = Field(
        default=None,
        gt=0,
        description="Highest ratio of the variant's perplexity to the baseline's",
    )
    max_increase: Percentage | None = Field(
        default=None, description='Highest increase over the baseline\'s perplexity, such as "3%"'
    )
    policy: Literal["strict", "standard", "lenient"] | None = Field(
        default=None,
        description="Highest increase by a published guide: strict 2%, standard 5%, lenient 10%",
    )


class PerplexitySettings(SamplingSettings, PerplexityLimits):
    """Limits on perplexity and the text it is measured on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PerplexityEvidence:
    """Likelihood of the same windows under both models, or the baseline's perplexity as a number.

    ``plan`` says how the text was to be drawn from and ``drawn`` what came of it; ``served`` is how many
    windows a committed baseline holds, None where there is no such end.
    """

    candidate: Likelihood
    baseline: Likelihood | None
    literal: float | None
    plan: Schedule
    drawn: Drawn
    served: int | None = None


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
    value = limits.exponential(mean)
    return Perplexity(value=value, error=value * math.sqrt(variance / (count - 1)))


def _running_sum(values: tuple[float, ...]) -> float:
    # math.fsum would be more exact than the reference tool, and so differ from it in the last bit.
    total = 0.0
    for value in values:
        total += value
    return total


def sampled_limits(
    settings: PerplexitySettings,
    candidate: Likelihood,
    baseline: Likelihood | None,
    literal: float | None,
) -> tuple[SampledLimit, ...]:
    """Return each limit that is set with the values of the windows that decide it.

    The windows' values are mean negative log-likelihoods for ``max``, in nats, and paired differences
    of them for the others.
    """
    own = _means(candidate)
    found = []
    if settings.max is not None:
        found.append(
            SampledLimit(
                name="max",
                statistic="perplexity",
                limit=settings.max,
                bound=math.log(settings.max),
                values=own,
                shown=limits.exponential,
            )
        )
    if baseline is not None:
        reference, base = perplexity(baseline).value, _means(baseline)
    elif literal is not None:
        reference, base = literal, (math.log(literal),) * len(own)
    else:
        return tuple(found)
    differences = tuple(a - b for a, b in zip(own, base, strict=True))
    found.extend(
        SampledLimit(
            name=name,
            statistic="perplexity ratio",
            limit=limit,
            bound=math.log(limit),
            values=differences,
            shown=limits.exponential,
            baseline=reference,
            limit_text=text,
        )
        for name, limit, text in _ratios(settings)
    )
    return tuple(found)


def _means(likelihood: Likelihood) -> tuple[float, ...]:
    return tuple(nll / likelihood.chunk_tokens for nll in likelihood.chunk_nll)


def _ratios(settings: PerplexitySettings) -> Iterator[tuple[str, float, str]]:
    """Yield name, limit and text of every limit on the ratio; an empty text is made from the rest."""
    if settings.max_ratio is not None:
        yield "max_ratio", settings.max_ratio, ""
    if settings.max_increase is not None:
        yield "max_increase", 1 + settings.max_increase, ""
    if settings.policy is not None:
        limit = 1 + POLICIES[settings.policy].increase
        yield "policy", limit, f"policy {settings.policy} ({limit:g})"


class PerplexityGate(Gate[PerplexitySettings, PerplexityEvidence]):
    """`max`, `max_ratio`, `max_increase` and `policy` on perplexity; the window is the sampling unit."""

    name = "perplexity"
    settings = PerplexitySettings
    metric = "perplexity"
    compares_windows = True

    def needs_baseline(self, settings: PerplexitySettings) -> bool:
        """A ratio, an increase and a policy compare with the baseline."""
        relative = (settings.max_ratio, settings.max_increase, settings.policy)
        return any(limit is not None for limit in relative)

    def measure(self, settings: PerplexitySettings, bench: Bench) -> PerplexityEvidence:
        """Measure windows of both models, in the seed's order, until the limits are decided.

        Raises:
            MeasurementError: the models cannot be compared, a limit is inside the noise, or what was
                measured can be no model's honest likelihood.
        """
        text = paired.text_request(bench, settings)
        literal = bench.literals.get("perplexity") if self.needs_baseline(settings) else None
        compared = self.needs_baseline(settings) and literal is None
        names = (bench.candidate_name, bench.baseline_name)
        facts = bench.text("candidate", text)
        served = None
        if compared:
            paired.require_same_tokens(
                facts, bench.text("baseline", text), names=names, what="their perplexities"
            )
            _require_beyond_noise(settings, bench, text)
            served = bench.served_chunks(text, seed=settings.seed)
        population = paired.population(facts.chunks, settings.chunks)
        plan = sampling.schedule(population, max_chunks=settings.max_chunks, available=served)
        order = sampling.order(settings.seed, population)
        own: list[Likelihood] = []
        base: list[Likelihood] = []

        def take(start: int, stop: int) -> None:
            bench.announce(start, plan.next_look(start))
            request = LikelihoodRequest(
                corpus_path=text.corpus_path,
                corpus_sha256=text.corpus_sha256,
                context=text.context,
                chunks=order[start:stop],
            )
            if compared:
                base.append(bench.likelihood("baseline", request))
            own.append(bench.likelihood("candidate", request))

        def so_far() -> tuple[Likelihood, Likelihood | None]:
            return paired.merged(own), paired.merged(base) if base else None

        def decide(_count: int) -> Outcome:
            candidate, baseline = so_far()
            _require_sense(candidate, baseline, bench)
            found = sampled_limits(settings, candidate, baseline, literal)
            return limits.settled(found, Draw.of(plan, settings))

        drawn = sampling.draw(plan, take, decide, max_seconds=settings.max_time)
        candidate, baseline = so_far()
        return PerplexityEvidence(
            candidate=candidate,
            baseline=baseline,
            literal=literal,
            plan=plan,
            drawn=drawn,
            served=served,
        )

    def judge(
        self, settings: PerplexitySettings, evidence: PerplexityEvidence, bench: Bench
    ) -> Judgement:
        """Hold perplexity and its ratio to the baseline's against the limits."""
        likelihood, plan, drawn = evidence.candidate, evidence.plan, evidence.drawn
        draw = Draw.of(plan, settings)
        found = sampled_limits(settings, likelihood, evidence.baseline, evidence.literal)
        sample = statement.sample(drawn, plan)
        checks = tuple(limit.check(draw, sample=sample) for limit in found)
        outcome = stats.worst([check.outcome for check in checks])
        measured, reference = perplexity(likelihood), _reference(evidence)
        effect = None
        scored = f"{sample} of {likelihood.chunk_tokens} scored tokens"
        findings = [f"perplexity {measured.value:.4f} ± {measured.error:.5f} over {scored}"]
        if reference is not None:
            findings.append(f"{bench.baseline_name}: perplexity {_spoken(reference)}")
        if evidence.baseline is not None:
            effect = paired.design_effect(likelihood, evidence.baseline)
        if effect is not None:
            findings.append(
                f"design effect {effect:.2f}: the windows' differences vary that many times as much as"
                " if their tokens were independent"
            )
        findings.extend(statement.undecided(found, draw, drawn, settings, served=evidence.served))
        return Judgement(
            headline=_headline(
                measured, reference, checks, end=statement.ending(outcome, drawn, plan)
            ),
            checks=checks,
            findings=(*findings, *bench.notes),
            advice=_advice(settings, checks),
            warn=outcome is Outcome.INCONCLUSIVE and settings.on_inconclusive == "warn",
            record={
                "perplexity": measured.value,
                "perplexity_error": measured.error,
                "baseline_perplexity": None if reference is None else reference.value,
                "chunks": drawn.chunks,
                "population": plan.population,
                "available_chunks": likelihood.available_chunks,
                "scored_tokens": drawn.chunks * likelihood.chunk_tokens,
                "vocabulary": likelihood.vocabulary,
                "design_effect": effect,
                "seed": settings.seed,
                "ended": drawn.ended,
            },
        )

    def sampled(self, settings: PerplexitySettings, evidence: PerplexityEvidence) -> Sampled:
        """Return the limits as they are decided."""
        seconds = evidence.candidate.seconds
        if evidence.baseline is not None:
            seconds += evidence.baseline.seconds
        return Sampled(
            limits=sampled_limits(
                settings, evidence.candidate, evidence.baseline, evidence.literal
            ),
            draw=Draw.of(evidence.plan, settings),
            chunks=evidence.drawn.chunks,
            seconds=seconds,
        )


def _require_beyond_noise(settings: PerplexitySettings, bench: Bench, text: TextRequest) -> None:
    noise = bench.noise_floor(text)
    if noise is not None:
        paired.require_beyond_noise(
            [(name, limit, abs(math.log(limit))) for name, limit, _ in _ratios(settings)],
            floor=noise.log_ratio,
            noise=noise,
            advice="take a ratio of at least exp({least:.3g})",
        )


def _require_sense(candidate: Likelihood, baseline: Likelihood | None, bench: Bench) -> None:
    names = (bench.candidate_name, bench.baseline_name)
    for name, likelihood in zip(names, (candidate, baseline), strict=True):
        if likelihood is not None:
            paired.require_skill(
                name,
                nll=math.fsum(likelihood.chunk_nll),
                tokens=likelihood.chunk_tokens * len(likelihood.chunk_nll),
                vocabulary=likelihood.vocabulary,
            )
    if baseline is not None:
        paired.require_difference(
            candidate.token_nll.array(),
            baseline.token_nll.array(),
            names=names,
            types=(bench.candidate_type, bench.baseline_type),
        )


def _reference(evidence: PerplexityEvidence) -> Perplexity | None:
    if evidence.baseline is not None:
        return perplexity(evidence.baseline)
    if evidence.literal is not None:
        return Perplexity(value=evidence.literal, error=0.0)
    return None


def _spoken(reference: Perplexity) -> str:
    if reference.error:
        return f"{reference.value:.4f} ± {reference.error:.5f}"
    return f"{reference.value:g} (given as a number)"


def _advice(settings: PerplexitySettings, checks: Sequence[Check]) -> tuple[str, ...]:
    return tuple(
        POLICIES[settings.policy].advice
        for check in checks
        if settings.policy is not None
        and (check.limit_name, check.outcome) == ("policy", Outcome.FAIL)
    )


def _headline(
    measured: Perplexity, reference: Perplexity | None, checks: Sequence[Check], *, end: str
) -> str:
    check = statement.decisive(checks)
    limit = check.limit_text or f"{check.limit_name} {check.limit:g}"
    if reference is None or check.limit_name == "max":
        return f"perplexity {measured.value:.4g} {statement.sign(check)} {limit}; {end}"
    return (
        f"perplexity ratio {check.value:.4f} {statement.sign(check)} {limit}"
        f" ({measured.value:.4g} against {reference.value:.4g}); {end}"
    )


GATE = PerplexityGate()
