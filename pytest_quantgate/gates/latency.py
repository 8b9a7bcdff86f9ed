"""Latency of single requests, against the baseline measured alternately or absolute limits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, model_validator

from pytest_quantgate import stats
from pytest_quantgate.gates import Bench, Gate, GateSettings, Judgement
from pytest_quantgate.records import Check, Interval, Latency, LatencyRequest, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pytest_quantgate.records import RequestTiming

SMALLEST_MEDIAN_SAMPLE = 6
SMALLEST_P95_SAMPLE = 59


class LatencySettings(GateSettings):
    """Limits on latency and the shape of the requests it is measured on."""

    limit_names: ClassVar[tuple[str, ...]] = (
        "max_ratio",
        "max_ttft_ms",
        "max_p50_ms",
        "max_p95_ms",
        "min_tokens_per_s",
    )

    max_ratio: float | None = Field(
        default=None,
        gt=0,
        description="Highest ratio of the variant's request time to the baseline's",
    )
    max_ttft_ms: float | None = Field(
        default=None, gt=0, description="Highest median time to first token, in milliseconds"
    )
    max_p50_ms: float | None = Field(
        default=None, gt=0, description="Highest median request time, in milliseconds"
    )
    max_p95_ms: float | None = Field(
        default=None,
        gt=0,
        description="Highest 95th percentile of the request time, in milliseconds",
    )
    min_tokens_per_s: float | None = Field(
        default=None, gt=0, description="Lowest median generation speed, in tokens per second"
    )
    prompt_tokens: int = Field(default=128, ge=1, description="Length of the prompt in tokens")
    output_tokens: int = Field(default=32, ge=2, description="Length of the output in tokens")
    warmup: int = Field(default=2, ge=0, description="Requests that are not counted, first")
    repeats: int = Field(
        default=10, ge=SMALLEST_MEDIAN_SAMPLE, description="Requests that are counted"
    )

    @model_validator(mode="after")
    def _enough_for_p95(self) -> LatencySettings:
        if self.max_p95_ms is not None and self.repeats < SMALLEST_P95_SAMPLE:
            message = (
                f"max_p95_ms needs repeats of at least {SMALLEST_P95_SAMPLE}, not {self.repeats}:"
                f" with fewer, the chance that all stay below the 95th percentile"
                f" (0.95^{self.repeats} = {0.95**self.repeats:.2f}) is not below 0.05"
            )
            raise ValueError(message)
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyEvidence:
    """Timed requests of the candidate and perhaps the baseline, or its request time as a number."""

    latency: Latency
    literal: float | None


class LatencyGate(Gate[LatencySettings, LatencyEvidence]):
    """Limits on request time, time to first token and generation speed.

    Requests of candidate and baseline alternate, and the ratio is the median of the ratios of
    neighbours: whatever slows the machine down for a while slows both.
    """

    name = "latency"
    settings = LatencySettings
    metric = "latency_ms"

    def needs_baseline(self, settings: LatencySettings) -> bool:
        """A ratio compares with the baseline."""
        return settings.max_ratio is not None

    def measure(self, settings: LatencySettings, bench: Bench) -> LatencyEvidence:
        """Time requests of the candidate, alternated with the baseline's if a ratio is limited."""
        request = LatencyRequest(
            prompt_tokens=settings.prompt_tokens,
            output_tokens=settings.output_tokens,
            warmup=settings.warmup,
            repeats=settings.repeats,
        )
        literal = bench.literals.get("latency_ms") if self.needs_baseline(settings) else None
        paired = self.needs_baseline(settings) and literal is None
        return LatencyEvidence(latency=bench.latency(request, paired=paired), literal=literal)

    def judge(
        self, settings: LatencySettings, evidence: LatencyEvidence, bench: Bench
    ) -> Judgement:
        """Hold medians, percentile and ratio against the limits, each with its interval."""
        latency = evidence.latency
        checks = tuple(_checks(settings, evidence))
        total = _values(latency.candidate, _total)
        first = _values(latency.candidate, _ttft)
        gaps = [gap for timing in latency.candidate for gap in timing.token_ms]
        prompt_speed = latency.prompt_tokens * 1000 / stats.quantile(first, 0.5)
        speed = stats.quantile(_values(latency.candidate, _speed), 0.5)
        summary = (
            f"{bench.candidate_name}: request p50 {stats.quantile(total, 0.5):.1f} ms,"
            f" p95 {stats.quantile(total, 0.95):.1f} ms (n = {len(total)});"
            f" first token p50 {stats.quantile(first, 0.5):.1f} ms; between tokens p50"
            f" {stats.quantile(gaps, 0.5):.2f} ms, p95 {stats.quantile(gaps, 0.95):.2f} ms"
            f" (n = {len(gaps)}); prompt {prompt_speed:.0f} tokens/s,"
            f" generation {speed:.1f} tokens/s"
        )
        findings = [summary]
        record: dict[str, float | int | str | bool | None] = {
            "request_p50_ms": stats.quantile(total, 0.5),
            "request_p95_ms": stats.quantile(total, 0.95),
            "ttft_p50_ms": stats.quantile(first, 0.5),
            "ttft_p95_ms": stats.quantile(first, 0.95),
            "inter_token_p50_ms": stats.quantile(gaps, 0.5),
            "inter_token_p95_ms": stats.quantile(gaps, 0.95),
            "prompt_tokens_per_s": prompt_speed,
            "generation_tokens_per_s": speed,
            "requests": len(total),
            "machine": latency.machine,
        }
        if latency.baseline:
            base = _values(latency.baseline, _total)
            base_speed = stats.quantile(_values(latency.baseline, _speed), 0.5)
            findings.append(
                f"{bench.baseline_name}: request p50 {stats.quantile(base, 0.5):.1f} ms,"
                f" p95 {stats.quantile(base, 0.95):.1f} ms; generation {base_speed:.1f} tokens/s"
            )
            record["baseline_request_p50_ms"] = stats.quantile(base, 0.5)
            record["baseline_generation_tokens_per_s"] = base_speed
        findings.append(
            f"shape {latency.prompt_tokens} prompt + {latency.output_tokens} output tokens, on"
            f" {latency.machine}"
        )
        findings.extend(
            f"{check.limit_name} is undecided: its interval holds the limit; raise repeats"
            f" (now {len(total)}) or measure on a quieter machine"
            for check in checks
            if check.outcome is Outcome.INCONCLUSIVE
        )
        return Judgement(
            headline=_headline(checks), checks=checks, findings=tuple(findings), record=record
        )


def _total(timing: RequestTiming) -> float:
    return timing.total_ms


def _ttft(timing: RequestTiming) -> float:
    return timing.ttft_ms


def _speed(timing: RequestTiming) -> float:
    return len(timing.token_ms) * 1000 / math.fsum(timing.token_ms)


def _values(
    timings: Sequence[RequestTiming], figure: Callable[[RequestTiming], float]
) -> tuple[float, ...]:
    return tuple(figure(timing) for timing in timings)


def _checks(settings: LatencySettings, evidence: LatencyEvidence) -> Iterator[Check]:
    latency = evidence.latency
    total = _values(latency.candidate, _total)
    if settings.max_ratio is not None:
        if latency.baseline:
            base = _values(latency.baseline, _total)
            ratios = tuple(own / other for own, other in zip(total, base, strict=True))
            reference = stats.quantile(base, 0.5)
        else:
            reference = evidence.literal or math.nan
            ratios = tuple(own / reference for own in total)
        yield _check(
            "max_ratio", "request time ratio", ratios, 0.5, settings.max_ratio, reference=reference
        )
    first = _values(latency.candidate, _ttft)
    for name, statistic, values, share, limit in (
        ("max_ttft_ms", "time to first token, median", first, 0.5, settings.max_ttft_ms),
        ("max_p50_ms", "request time, median", total, 0.5, settings.max_p50_ms),
        ("max_p95_ms", "request time, p95", total, 0.95, settings.max_p95_ms),
    ):
        if limit is not None:
            yield _check(name, statistic, values, share, limit, unit="ms")
    if settings.min_tokens_per_s is not None:
        speeds = _values(latency.candidate, _speed)
        yield _check(
            "min_tokens_per_s",
            "generation speed, median",
            speeds,
            0.5,
            settings.min_tokens_per_s,
            unit="tokens/s",
        )


def _check(
    name: str,
    statistic: str,
    values: tuple[float, ...],
    share: float,
    limit: float,
    *,
    unit: str = "",
    reference: float | None = None,
) -> Check:
    interval = _interval(values, share)
    decide = stats.at_least if name.startswith("min") else stats.at_most
    return Check(
        limit_name=name,
        statistic=statistic,
        outcome=decide(interval, limit),
        value=stats.quantile(values, share),
        interval=interval,
        unit=unit,
        limit=limit,
        baseline=reference,
        sample=f"{len(values)} requests",
    )


def _interval(values: tuple[float, ...], share: float) -> Interval:
    two_sided = stats.quantile_interval(values, share)
    if two_sided is not None:
        return two_sided
    # Near the edge of the smallest sample only the one-sided bound exists: the largest value bounds
    # the percentile from above with confidence 1 - share^n.
    return Interval(
        low=min(values), high=max(values), confidence=1 - max(share, 1 - share) ** len(values)
    )


def _headline(checks: Sequence[Check]) -> str:
    order = {Outcome.FAIL: 0, Outcome.INCONCLUSIVE: 1, Outcome.PASS: 2}
    decisive = min(checks, key=lambda check: order[check.outcome])
    least = decisive.limit_name.startswith("min")
    signs = {
        Outcome.PASS: ">=" if least else "<=",
        Outcome.FAIL: "<" if least else ">",
        Outcome.INCONCLUSIVE: "~",
    }
    unit = f" {decisive.unit}" if decisive.unit else ""
    value = "" if decisive.value is None else _spoken(decisive.value)
    text = (
        f"{decisive.statistic} {value}{unit} {signs[decisive.outcome]}"
        f" {decisive.limit_name} {decisive.limit:g}"
    )
    if decisive.interval is not None:
        low, high = _spoken(decisive.interval.low), _spoken(decisive.interval.high)
        text += f" (interval {low} to {high})"
    return text


def _spoken(number: float) -> str:
    # Three digits are what timing carries; from 1000 on `g` would turn them into powers of ten.
    return f"{number:.3g}" if number < 999.5 else f"{number:.0f}"  # noqa: PLR2004


GATE = LatencyGate()
