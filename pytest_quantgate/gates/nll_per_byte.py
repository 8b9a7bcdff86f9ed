"""Likelihood per byte of text, which compares models whatever their tokens are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from pytest_quantgate import limits, paired, sampling, statement, stats
from pytest_quantgate.errors import MeasurementError
from pytest_quantgate.gates import Bench, Gate, GateSettings, Judgement
from pytest_quantgate.limits import Draw, RatioLimit, Sampled
from pytest_quantgate.quantity import Percentage
from pytest_quantgate.records import Outcome, PassageLikelihood, PassageRequest
from pytest_quantgate.sampling import SamplingSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_quantgate.records import Check
    from pytest_quantgate.sampling import Drawn, Schedule

UNIT = "nats/byte"


class NllPerByteLimits(GateSettings):
    """The limits of an nll_per_byte gate."""

    limit_names: ClassVar[tuple[str, ...]] = ("max", "max_ratio", "max_increase")

    max: float | None = Field(
        default=None,
        gt=0,
        description="Highest negative log-likelihood accepted, in nats per byte of UTF-8",
    )
    max_ratio: float | None = Field(
        default=None,
        gt=0,
        description="Highest ratio of the variant's nats per byte to the baseline's",
    )
    max_increase: Percentage | None = Field(
        default=None,
        description='Highest increase over the baseline\'s nats per byte, such as "3%"',
    )


class NllPerByteSettings(SamplingSettings, NllPerByteLimits):
    """Limits on likelihood per byte and the text it is measured on."""

    # Windows of tokens mean nothing between tokenizers; without a field the key is refused.
    context: ClassVar[None] = None  # type: ignore[misc]
    chunks: ClassVar[None] = None  # type: ignore[misc]

    passage_bytes: int = Field(
        default=2048, ge=64, description="Length of a passage in bytes; its second half is scored"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NllPerByteEvidence:
    """Likelihood of the same passages under both models, and how they were drawn."""

    candidate: PassageLikelihood
    baseline: PassageLikelihood | None
    plan: Schedule
    drawn: Drawn


def sampled_limits(
    settings: NllPerByteSettings,
    candidate: PassageLikelihood,
    baseline: PassageLikelihood | None,
) -> tuple[RatioLimit, ...]:
    """Return each limit that is set as a limit on a ratio of sums over passages.

    ``max`` divides the variant's nats by the bytes; the others divide them by the baseline's nats of the
    same bytes.
    """
    found = []
    if settings.max is not None:
        found.append(
            RatioLimit.of(
                candidate.nll,
                candidate.bytes,
                name="max",
                statistic="nll per byte",
                limit=settings.max,
                unit=UNIT,
            )
        )
    if baseline is not None:
        reference = per_byte(baseline)
        found.extend(
            RatioLimit.of(
                candidate.nll,
                baseline.nll,
                name=name,
                statistic="nll per byte ratio",
                limit=limit,
                baseline=reference,
            )
            for name, limit in _ratios(settings)
        )
    return tuple(found)


def _ratios(settings: NllPerByteSettings) -> Iterator[tuple[str, float]]:
    if settings.max_ratio is not None:
        yield "max_ratio", settings.max_ratio
    if settings.max_increase is not None:
        yield "max_increase", 1 + settings.max_increase


def per_byte(likelihood: PassageLikelihood) -> float:
    """Return negative log-likelihood per byte of scored text, in nats."""
    return math.fsum(likelihood.nll) / math.fsum(likelihood.bytes)


class NllPerByteGate(Gate[NllPerByteSettings, NllPerByteEvidence]):
    """`max`, `max_ratio`, `max_increase` on nats per byte; the passage is the sampling unit."""

    name = "nll_per_byte"
    settings = NllPerByteSettings

    def needs_baseline(self, settings: NllPerByteSettings) -> bool:
        """A ratio and an increase compare with the baseline."""
        return settings.max_ratio is not None or settings.max_increase is not None

    def measure(self, settings: NllPerByteSettings, bench: Bench) -> NllPerByteEvidence:
        """Measure passages under both models, in the seed's order, until the limits are decided.

        Raises:
            MeasurementError: the text has no passage, or what was measured can be no model's honest
                likelihood.
        """
        path, digest = bench.corpus(settings.corpus)
        count = bench.passage_count(path, settings.passage_bytes)
        if count < 1:
            message = (
                f"{path} has no passage of {settings.passage_bytes} bytes, so nothing can be measured on"
                " it; use a longer text or a smaller passage_bytes"
            )
            raise MeasurementError(message)
        plan = sampling.schedule(count, max_chunks=settings.max_chunks)
        order = sampling.order(settings.seed, count)
        compared = self.needs_baseline(settings)
        own: list[PassageLikelihood] = []
        base: list[PassageLikelihood] = []

        def take(start: int, stop: int) -> None:
            bench.announce(start, plan.next_look(start))
            request = PassageRequest(
                corpus_path=str(path),
                corpus_sha256=digest,
                passage_bytes=settings.passage_bytes,
                passages=order[start:stop],
            )
            if compared:
                base.append(bench.passages("baseline", request))
            own.append(bench.passages("candidate", request))

        def so_far() -> tuple[PassageLikelihood, PassageLikelihood | None]:
            return merged(own), merged(base) if base else None

        def decide(_count: int) -> Outcome:
            candidate, baseline = so_far()
            _require_sense(candidate, baseline, bench)
            found = sampled_limits(settings, candidate, baseline)
            return limits.settled(found, Draw.of(plan, settings))

        drawn = sampling.draw(plan, take, decide, max_seconds=settings.max_time)
        candidate, baseline = so_far()
        return NllPerByteEvidence(candidate=candidate, baseline=baseline, plan=plan, drawn=drawn)

    def judge(
        self, settings: NllPerByteSettings, evidence: NllPerByteEvidence, bench: Bench
    ) -> Judgement:
        """Hold nats per byte and their ratio to the baseline's against the limits."""
        own, base = evidence.candidate, evidence.baseline
        plan, drawn = evidence.plan, evidence.drawn
        draw = Draw.of(plan, settings)
        found = sampled_limits(settings, own, base)
        sample = statement.sample(drawn, plan, unit="passages")
        checks = tuple(limit.check(draw, sample=sample) for limit in found)
        outcome = stats.worst([check.outcome for check in checks])
        end = statement.ending(outcome, drawn, plan, unit="passages")
        findings = [f"{_spoken(own)}, over {sample} of {settings.passage_bytes} bytes"]
        if base is not None:
            findings.append(f"{bench.baseline_name}: {_spoken(base)}")
        findings.extend(
            statement.undecided(found, draw, drawn, settings, served=None, unit="passages")
        )
        return Judgement(
            headline=_headline(own, base, checks, end=end),
            checks=checks,
            findings=(*findings, *bench.notes),
            warn=outcome is Outcome.INCONCLUSIVE and settings.on_inconclusive == "warn",
            record={
                "nll_per_byte": per_byte(own),
                "bits_per_byte": per_byte(own) / math.log(2),
                "baseline_nll_per_byte": None if base is None else per_byte(base),
                "passages": drawn.chunks,
                "population": plan.population,
                "passage_bytes": settings.passage_bytes,
                "scored_bytes": sum(own.bytes),
                "scored_tokens": sum(own.tokens),
                "baseline_scored_tokens": None if base is None else sum(base.tokens),
                "vocabulary": own.vocabulary,
                "seed": settings.seed,
                "ended": drawn.ended,
            },
        )

    def sampled(self, settings: NllPerByteSettings, evidence: NllPerByteEvidence) -> Sampled:
        """Return the limits as they are decided."""
        seconds = evidence.candidate.seconds
        if evidence.baseline is not None:
            seconds += evidence.baseline.seconds
        return Sampled(
            limits=sampled_limits(settings, evidence.candidate, evidence.baseline),
            draw=Draw.of(evidence.plan, settings),
            chunks=evidence.drawn.chunks,
            seconds=seconds,
        )


def merged(blocks: Sequence[PassageLikelihood]) -> PassageLikelihood:
    """Return the likelihood of the passages of all blocks, in the order of the text."""
    rows = sorted(
        row
        for block in blocks
        for row in zip(block.passages, block.nll, block.bytes, block.tokens, strict=True)
    )
    passages, nll, lengths, tokens = zip(*rows, strict=True)
    return PassageLikelihood(
        passages=passages,
        nll=nll,
        bytes=lengths,
        tokens=tokens,
        available_passages=blocks[0].available_passages,
        vocabulary=blocks[0].vocabulary,
        seconds=math.fsum(block.seconds for block in blocks),
    )


def _require_sense(
    candidate: PassageLikelihood, baseline: PassageLikelihood | None, bench: Bench
) -> None:
    names = (bench.candidate_name, bench.baseline_name)
    for name, likelihood in zip(names, (candidate, baseline), strict=True):
        if likelihood is not None:
            paired.require_skill(
                name,
                nll=math.fsum(likelihood.nll),
                tokens=sum(likelihood.tokens),
                vocabulary=likelihood.vocabulary,
            )
    if baseline is None:
        return
    for passage, own, base in zip(candidate.passages, candidate.bytes, baseline.bytes, strict=True):
        if own != base:
            message = (
                f"{names[0]} and {names[1]} scored {own} and {base} bytes of passage {passage}: they are"
                " not of the same text, so their likelihoods cannot be compared"
            )
            raise MeasurementError(message)
    paired.require_difference(
        candidate.nll,
        baseline.nll,
        names=names,
        types=(bench.candidate_type, bench.baseline_type),
    )


def _spoken(likelihood: PassageLikelihood) -> str:
    nats = per_byte(likelihood)
    length = math.fsum(likelihood.bytes) / sum(likelihood.tokens)
    return (
        f"{nats:.4f} nats per byte ({nats / math.log(2):.4f} bits per byte; {length:.2f} bytes a token"
        f" of a vocabulary of {likelihood.vocabulary})"
    )


def _headline(
    own: PassageLikelihood,
    base: PassageLikelihood | None,
    checks: Sequence[Check],
    *,
    end: str,
) -> str:
    check = statement.decisive(checks)
    limit = f"{statement.sign(check)} {check.limit_name} {check.limit:g}"
    if base is None or check.limit_name == "max":
        return f"nll per byte {per_byte(own):.4f} nats {limit}; {end}"
    return (
        f"nll per byte ratio {check.value:.4f} {limit}"
        f" ({per_byte(own):.4f} against {per_byte(base):.4f} nats); {end}"
    )


GATE = NllPerByteGate()
