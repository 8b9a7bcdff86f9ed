"""Kullback-Leibler divergence of the variant's predictions from the baseline's."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from pytest_quantgate import limits, paired, sampling, statement, stats
from pytest_quantgate.artifact import integrity
from pytest_quantgate.errors import ArtifactError, MeasurementError
from pytest_quantgate.gates import Bench, Gate, GateSettings, Judgement
from pytest_quantgate.limits import Draw, MaximumLimit, PercentileLimit, Sampled, SampledLimit
from pytest_quantgate.quantity import Points
from pytest_quantgate.records import Divergence, DivergenceRequest, Outcome
from pytest_quantgate.sampling import SamplingSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pytest_quantgate.divergence_statistics import Statistic
    from pytest_quantgate.records import Check
    from pytest_quantgate.sampling import Drawn, Schedule

PERCENTILES = {
    "max_median": ("median KLD", 0.5),
    "max_p90": ("90% KLD", 0.9),
    "max_p95": ("95% KLD", 0.95),
    "max_p99": ("99% KLD", 0.99),
    "max_p999": ("99.9% KLD", 0.999),
}
"""Limits on percentiles: what the statistic is called, and its share."""


class KldLimits(GateSettings):
    """The limits of a kld gate."""

    limit_names: ClassVar[tuple[str, ...]] = (
        "max_mean",
        "max_median",
        "max_p90",
        "max_p95",
        "max_p99",
        "max_p999",
        "max",
        "min_same_top",
        "max_rms_delta_p",
    )

    max_mean: float | None = Field(default=None, gt=0, description="Highest mean KLD, in nats")
    max_median: float | None = Field(default=None, gt=0, description="Highest median KLD, in nats")
    max_p90: float | None = Field(
        default=None, gt=0, description="Highest 90th percentile of the KLD, in nats"
    )
    max_p95: float | None = Field(
        default=None, gt=0, description="Highest 95th percentile of the KLD, in nats"
    )
    max_p99: float | None = Field(
        default=None, gt=0, description="Highest 99th percentile of the KLD, in nats"
    )
    max_p999: float | None = Field(
        default=None, gt=0, description="Highest 99.9th percentile of the KLD, in nats"
    )
    max: float | None = Field(
        default=None,
        gt=0,
        description="Highest KLD of any token, in nats; passes on all windows only",
    )
    min_same_top: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Lowest share of tokens for which both models hold the same one for most likely",
    )
    max_rms_delta_p: Points | None = Field(
        default=None,
        gt=0,
        description='Highest root mean square change of the right token\'s probability, such as "5pp"',
    )


class KldSettings(SamplingSettings, KldLimits):
    """Limits on the divergence from the baseline's predictions, and the text they are made on."""

    logits_file: str | None = Field(
        default=None,
        min_length=1,
        description="Logits of the baseline as `llama-perplexity --save-all-logits` writes them, in"
        " place of the baseline and the corpus",
    )
    accept_lower_bound: bool = Field(
        default=False,
        description="Let a limit pass on a lower bound of the KLD, all a committed baseline can give",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class KldEvidence:
    """The divergence on the windows drawn; the other fields are as in the perplexity gate's evidence."""

    divergence: Divergence
    plan: Schedule
    drawn: Drawn
    served: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reference:
    """Where the baseline's predictions come from: a request without windows, and their number."""

    request: DivergenceRequest
    available: int
    served: int | None = None


def sampled_limits(settings: KldSettings, divergence: Divergence) -> tuple[SampledLimit, ...]:
    """Return each limit that is set with the values of the windows that decide it.

    A window's value is its mean KLD in nats for ``max_mean``, the share of its tokens above the limit
    for a percentile, its largest KLD for ``max``, the share of equal most likely tokens (with its sign
    turned) for ``min_same_top``, and the mean square of the change of probability for
    ``max_rms_delta_p``.
    """
    return tuple(_limits(settings, divergence))


def _limits(settings: KldSettings, divergence: Divergence) -> Iterator[SampledLimit]:
    kld = divergence.kld.array()
    bounded = divergence.precision == "lower bound"
    # Rounded logits can bring a divergence a hair below 0, and nothing else can.
    least = min(0.0, float(kld.min()))
    if settings.max_mean is not None:
        yield SampledLimit(
            name="max_mean",
            statistic="mean KLD",
            limit=settings.max_mean,
            bound=settings.max_mean,
            values=_means(kld),
            least=least,
            lower_bound=bounded,
            accepted=settings.accept_lower_bound,
        )
    for name, (statistic, share) in PERCENTILES.items():
        limit: float | None = getattr(settings, name)
        if limit is not None:
            yield PercentileLimit.of(
                kld,
                share,
                name=name,
                statistic=statistic,
                limit=limit,
                least=least,
                lower_bound=bounded,
                accepted=settings.accept_lower_bound,
            )
    if settings.max is not None:
        yield MaximumLimit(
            name="max",
            statistic="maximum KLD",
            limit=settings.max,
            bound=settings.max,
            values=tuple(kld.max(axis=1).tolist()),
            lower_bound=bounded,
            accepted=settings.accept_lower_bound,
        )
    yield from _token_limits(settings, divergence)


def _token_limits(settings: KldSettings, divergence: Divergence) -> Iterator[SampledLimit]:
    """Yield the limits that a committed baseline decides exactly, too."""
    if settings.min_same_top is not None:
        share = settings.min_same_top
        same = divergence.same_top.array()
        yield SampledLimit(
            name="min_same_top",
            statistic="same top token",
            limit=share,
            bound=-share,
            values=_means(-same.astype("f8")),
            shown=limits.negated,
            # Windows without a single difference are no proof that there is none.
            variance_floor=share * (1 - share) / same.shape[1],
            least=-1.0,
        )
    if settings.max_rms_delta_p is not None:
        from pytest_quantgate.divergence_statistics import delta_p  # noqa: PLC0415 - numpy, for judging only

        change = delta_p(
            divergence.candidate.token_nll.array(), divergence.baseline.token_nll.array()
        ).astype("f8")
        yield SampledLimit(
            name="max_rms_delta_p",
            statistic="RMS delta-p",
            limit=settings.max_rms_delta_p * 100,
            bound=settings.max_rms_delta_p**2,
            values=_means(change * change),
            shown=_root_in_points,
            unit="pp",
            least=0.0,
        )


def _means(tokens: NDArray[Any]) -> tuple[float, ...]:
    return tuple(tokens.mean(axis=1, dtype="f8").tolist())


def _root_in_points(square: float) -> float:
    return math.sqrt(square) * 100


class KldGate(Gate[KldSettings, KldEvidence]):
    """Limits on KL(baseline || variant) of the predicted tokens, and on what became of the top."""

    name = "kld"
    settings = KldSettings
    compares_windows = True

    def needs_baseline(self, settings: KldSettings) -> bool:
        """Every limit compares with the baseline, unless its logits lie in a file."""
        return settings.logits_file is None

    def measure(self, settings: KldSettings, bench: Bench) -> KldEvidence:
        """Measure windows, in the seed's order, until the limits are decided.

        Raises:
            ArtifactError: the logits file cannot be used.
            MeasurementError: the models cannot be compared, a limit is inside the noise, or what was
                measured can be no model's honest prediction.
        """
        reference = (
            _from_models(settings, bench)
            if settings.logits_file is None
            else _from_file(settings, bench, bench.file(settings.logits_file))
        )
        population = paired.population(reference.available, settings.chunks)
        plan = sampling.schedule(
            population, max_chunks=settings.max_chunks, available=reference.served
        )
        order = sampling.order(settings.seed, population)
        blocks: list[Divergence] = []

        def take(start: int, stop: int) -> None:
            bench.announce(start, plan.next_look(start))
            blocks.append(bench.divergence(replace(reference.request, chunks=order[start:stop])))

        def decide(_count: int) -> Outcome:
            found = paired.merged_divergence(blocks)
            _require_sense(found, bench)
            return limits.settled(sampled_limits(settings, found), Draw.of(plan, settings))

        drawn = sampling.draw(plan, take, decide, max_seconds=settings.max_time)
        return KldEvidence(
            divergence=paired.merged_divergence(blocks),
            plan=plan,
            drawn=drawn,
            served=reference.served,
        )

    def judge(self, settings: KldSettings, evidence: KldEvidence, bench: Bench) -> Judgement:
        """Hold the divergence against the limits, and list all that llama.cpp's tool prints of it."""
        # Here, because only judging needs numpy.
        from pytest_quantgate.divergence_statistics import statistics  # noqa: PLC0415

        found, plan, drawn = evidence.divergence, evidence.plan, evidence.drawn
        draw = Draw.of(plan, settings)
        decided = sampled_limits(settings, found)
        sample = statement.sample(drawn, plan)
        checks = tuple(limit.check(draw, sample=sample) for limit in decided)
        barred = any(limit.barred(draw) for limit in decided)
        outcome = stats.worst([check.outcome for check in checks])
        table = statistics(
            found.candidate.token_nll.array(),
            found.baseline.token_nll.array(),
            found.kld.array(),
            found.same_top.array(),
        )
        scored = f"{sample} of {found.candidate.chunk_tokens} scored tokens"
        findings = [
            f"{_PRECISIONS[found.precision]}, over {scored}",
            *statement.undecided(decided, draw, drawn, settings, served=evidence.served),
            *bench.notes,
            *_table(table, bounded=found.precision == "lower bound"),
        ]
        return Judgement(
            headline=_headline(checks, end=statement.ending(outcome, drawn, plan, barred=barred)),
            checks=checks,
            findings=tuple(findings),
            warn=outcome is Outcome.INCONCLUSIVE and settings.on_inconclusive == "warn",
            record={
                **_figures(table),
                "precision": found.precision,
                "chunks": drawn.chunks,
                "population": plan.population,
                "scored_tokens": drawn.chunks * found.candidate.chunk_tokens,
                "vocabulary": found.candidate.vocabulary,
                "design_effect": paired.design_effect(found.candidate, found.baseline),
                "seed": settings.seed,
                "ended": drawn.ended,
            },
        )

    def sampled(self, settings: KldSettings, evidence: KldEvidence) -> Sampled:
        """Return the limits as they are decided."""
        return Sampled(
            limits=sampled_limits(settings, evidence.divergence),
            draw=Draw.of(evidence.plan, settings),
            chunks=evidence.drawn.chunks,
            seconds=evidence.divergence.seconds,
        )


_PRECISIONS = {
    "exact": "exact KLD from both models' full logits",
    "16-bit": "KLD from a logits file, whose log-probabilities are rounded to 16 bits",
    "lower bound": (
        "a lower bound of the KLD, from the most likely tokens that the committed baseline holds;"
        " perplexities, delta-p and same top token are exact"
    ),
}


def _from_models(settings: KldSettings, bench: Bench) -> _Reference:
    text = paired.text_request(bench, settings)
    facts = bench.text("candidate", text)
    names = (bench.candidate_name, bench.baseline_name)
    paired.require_same_tokens(
        facts, bench.text("baseline", text), names=names, what="their predictions"
    )
    noise = bench.noise_floor(text)
    if noise is not None and settings.max_mean is not None:
        paired.require_beyond_noise(
            [("max_mean", settings.max_mean, settings.max_mean)],
            floor=noise.kld,
            noise=noise,
            advice="take at least {least:.3g}",
        )
    request = DivergenceRequest(
        reference="live",
        corpus_path=text.corpus_path,
        corpus_sha256=text.corpus_sha256,
        context=text.context,
    )
    served = bench.served_chunks(text, seed=settings.seed, distributions=True)
    if served is None:
        return _Reference(request=request, available=facts.chunks)
    committed = bench.committed(text, seed=settings.seed)
    if committed is None:
        message = (
            f"{names[1]} cannot be run, and no committed baseline holds its most likely tokens; have the"
            " baseline's file at hand once and commit what --quantgate-update-baselines writes"
        )
        raise MeasurementError(message)
    request = replace(
        request,
        reference="committed",
        reference_path=str(committed[0]),
        reference_sha256=committed[1],
    )
    return _Reference(request=request, available=facts.chunks, served=served)


def _from_file(settings: KldSettings, bench: Bench, path: Path) -> _Reference:
    # Here, because it brings numpy along.
    from pytest_quantgate.artifact.logits_file import read_header  # noqa: PLC0415

    header = read_header(path)
    if settings.context not in (None, header.context):
        message = (
            f"{path} has windows of {header.context} tokens, and the gate asks for {settings.context};"
            " leave `context` out, or write the file with `llama-perplexity --ctx-size`"
        )
        raise ArtifactError(message)
    corpus, digest = ("", "") if settings.corpus is None else bench.corpus(settings.corpus)
    request = DivergenceRequest(
        reference="logits",
        corpus_path=str(corpus),
        corpus_sha256=digest,
        context=header.context,
        reference_path=str(path),
        reference_sha256=integrity.sha256_file(path),
    )
    return _Reference(request=request, available=header.chunks)


def _require_sense(found: Divergence, bench: Bench) -> None:
    own, base = found.candidate, found.baseline
    # Without a baseline in the specification a logits file is all that is known of it.
    alone = found.precision == "16-bit"
    names = (bench.candidate_name, "the logits file" if alone else bench.baseline_name)
    for name, likelihood in zip(names, (own, base), strict=True):
        paired.require_skill(
            name,
            nll=math.fsum(likelihood.chunk_nll),
            tokens=likelihood.chunk_tokens * len(likelihood.chunk_nll),
            vocabulary=likelihood.vocabulary,
        )
    if not alone:
        paired.require_difference(
            own.token_nll.array(),
            base.token_nll.array(),
            names=names,
            types=(bench.candidate_type, bench.baseline_type),
        )


def _table(table: Sequence[Statistic], *, bounded: bool) -> Iterator[str]:
    """Yield the lines of the tool's table; a KLD that is a lower bound is marked as one."""
    for statistic in table:
        mark = ">= " if bounded and statistic.group == "divergence" else ""
        yield f"{statistic.label}: {mark}{statistic.text}"


def _figures(table: Sequence[Statistic]) -> dict[str, float | int | str | bool | None]:
    figures: dict[str, float | int | str | bool | None] = {}
    for statistic in table:
        # The tool divides by zero where nothing varies, and a record holds finite numbers.
        figures[statistic.key] = statistic.value if math.isfinite(statistic.value) else None
        if statistic.error is not None:
            figures[f"{statistic.key}_error"] = statistic.error
    return figures


def _headline(checks: Sequence[Check], *, end: str) -> str:
    check = statement.decisive(checks)
    value = check.value or 0.0
    if check.limit_name == "min_same_top":
        shown, limit = f"{value:.2%}", f"{check.limit:.4g}"
    elif check.unit == "pp":
        shown, limit = f"{value:.3f} pp", f"{check.limit:.4g}pp"
    else:
        shown, limit = f"{value:.4g}", f"{check.limit:g}"
    sign = statement.sign(check)
    return f"{check.statistic} {shown} {sign} {check.limit_name} {limit}; {end}"


GATE = KldGate()
