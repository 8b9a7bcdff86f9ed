"""Peak memory of a fresh probe that does the declared work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from pytest_quantgate.gates import Bench, Gate, GateSettings, Judgement
from pytest_quantgate.records import MEBIBYTE, Check, MemoryRequest, MemoryUse, Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping


class MemorySettings(GateSettings):
    """Limits on peak memory and the work it is measured on."""

    limit_names: ClassVar[tuple[str, ...]] = ("max_mb", "max_ratio")

    max_mb: float | None = Field(
        default=None, gt=0, description="Highest peak resident set in MB (1,048,576 bytes)"
    )
    max_ratio: float | None = Field(
        default=None, gt=0, description="Highest ratio of the variant's peak to the baseline's"
    )
    context: int | None = Field(default=None, ge=32, description="Tokens of context to fill")
    sequences: int = Field(default=1, ge=1, le=256, description="Sequences that fill it at once")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEvidence:
    """Memory of the candidate's probe and of the baseline's, or the baseline's peak as a number."""

    candidate: MemoryUse
    baseline: MemoryUse | None
    literal: float | None
    context: int


class MemoryGate(Gate[MemorySettings, MemoryEvidence]):
    """`max_mb` and `max_ratio` on the peak resident set."""

    name = "memory"
    settings = MemorySettings
    metric = "memory_mb"
    fixture_limits: ClassVar[Mapping[str, str]] = {"max_memory_mb": "max_mb"}

    def needs_baseline(self, settings: MemorySettings) -> bool:
        """A ratio compares with the baseline."""
        return settings.max_ratio is not None

    def measure(self, settings: MemorySettings, bench: Bench) -> MemoryEvidence:
        """Measure the candidate and, unless its peak is given, the baseline, each in a fresh probe."""
        context = settings.context or bench.context
        request = MemoryRequest(context=context, sequences=settings.sequences)
        literal = bench.literals.get("memory_mb") if self.needs_baseline(settings) else None
        baseline = None
        if self.needs_baseline(settings) and literal is None:
            baseline = bench.memory("baseline", request)
        return MemoryEvidence(
            candidate=bench.memory("candidate", request),
            baseline=baseline,
            literal=literal,
            context=context,
        )

    def judge(self, settings: MemorySettings, evidence: MemoryEvidence, bench: Bench) -> Judgement:
        """Hold the peak and its ratio to the baseline's against the limits."""
        peak = evidence.candidate.peak_rss_bytes / MEBIBYTE
        reference = evidence.literal
        if evidence.baseline is not None:
            reference = evidence.baseline.peak_rss_bytes / MEBIBYTE
        sample = "1 probe"
        checks: list[Check] = []
        if settings.max_mb is not None:
            checks.append(
                Check(
                    limit_name="max_mb",
                    statistic="peak RSS",
                    outcome=Outcome.PASS if peak <= settings.max_mb else Outcome.FAIL,
                    value=peak,
                    unit="MiB",
                    limit=settings.max_mb,
                    baseline=reference,
                    sample=sample,
                )
            )
        if settings.max_ratio is not None and reference is not None:
            ratio = peak / reference
            checks.append(
                Check(
                    limit_name="max_ratio",
                    statistic="peak RSS ratio",
                    outcome=Outcome.PASS if ratio <= settings.max_ratio else Outcome.FAIL,
                    value=ratio,
                    limit=settings.max_ratio,
                    baseline=reference,
                    sample=sample,
                )
            )
        own = evidence.candidate
        work = (
            f"a fresh probe filled {evidence.context} tokens of context; it used"
            f" {own.before_load_bytes / MEBIBYTE:.1f} MiB before loading the file of"
            f" {own.file_bytes / MEBIBYTE:.1f} MiB"
        )
        return Judgement(
            headline=_headline(peak, reference, checks, bench),
            checks=tuple(checks),
            findings=(work,),
            record={
                "peak_rss_mib": peak,
                "before_load_mib": own.before_load_bytes / MEBIBYTE,
                "file_mib": own.file_bytes / MEBIBYTE,
                "baseline_peak_rss_mib": reference,
                "context": evidence.context,
            },
        )


def _headline(peak: float, reference: float | None, checks: list[Check], bench: Bench) -> str:
    failed = [check for check in checks if check.outcome is Outcome.FAIL]
    parts = []
    for check in failed or checks:
        sign = ">" if failed else "<="
        if check.limit_name == "max_mb":
            parts.append(f"peak RSS {peak:.1f} MiB {sign} max_mb {check.limit:g}")
        else:
            parts.append(f"peak RSS ratio {check.value:.3f} {sign} max_ratio {check.limit:g}")
    text = ", ".join(parts)
    if reference is not None:
        text += f" ({peak:.1f} MiB against {reference:.1f} MiB of {bench.baseline_name})"
    return text


GATE = MemoryGate()
