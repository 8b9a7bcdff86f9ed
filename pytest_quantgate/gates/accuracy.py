"""The critical use cases: share of cases whose greedy output is what was expected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from pytest_quantgate import stats
from pytest_quantgate.cases import Case, load_cases
from pytest_quantgate.errors import MeasurementError
from pytest_quantgate.gates import Bench, Gate, GateSettings, Judgement, Role
from pytest_quantgate.quantity import Points
from pytest_quantgate.records import Check, GenerationRequest, Outcome, Output

SHOWN_CASES = 10
SHOWN_CHARACTERS = 300


class AccuracySettings(GateSettings):
    """Limits on the share of right answers and the cases it is measured on."""

    limit_names: ClassVar[tuple[str, ...]] = ("min", "max_drop")

    cases: str = Field(min_length=1, description="JSON Lines file of cases")
    min: float | None = Field(
        default=None, ge=0, le=1, description="Lowest share of right answers accepted"
    )
    max_drop: Points | None = Field(
        default=None,
        description='Largest drop against the baseline, in percentage points, such as "2pp"',
    )
    max_tokens: int = Field(
        default=64, ge=1, description="Longest output in tokens where a case names none"
    )
    parallel: int = Field(default=64, ge=1, le=256, description="Cases decoded together")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One case with a model's output and whether it is right."""

    case: Case
    output: Output
    right: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyEvidence:
    """Answers of the candidate and of the baseline, or the baseline's accuracy as a number."""

    candidate: tuple[Answer, ...]
    baseline: tuple[Answer, ...] | None
    literal: float | None


class AccuracyGate(Gate[AccuracySettings, AccuracyEvidence]):
    """`min` and `max_drop` on the share of right answers.

    The cases are the use cases that matter, not a sample of them, so their share is judged as it is;
    the Wilson interval beside it says how far it would carry to other cases of the kind.
    """

    name = "accuracy"
    settings = AccuracySettings
    metric = "accuracy"

    def needs_baseline(self, settings: AccuracySettings) -> bool:
        """A drop compares with the baseline."""
        return settings.max_drop is not None

    def measure(self, settings: AccuracySettings, bench: Bench) -> AccuracyEvidence:
        """Let the candidate answer all cases and, unless its accuracy is given, the baseline."""
        cases = load_cases(bench.file(settings.cases), shown=settings.cases)
        literal = bench.literals.get("accuracy") if self.needs_baseline(settings) else None
        baseline = None
        if self.needs_baseline(settings) and literal is None:
            baseline = _answers("baseline", cases, settings, bench)
        candidate = _answers("candidate", cases, settings, bench)
        nobody_right = not any(answer.right for answer in candidate)
        if baseline is not None and nobody_right and not any(answer.right for answer in baseline):
            message = (
                f"neither {bench.candidate_name} nor {bench.baseline_name} answers one of the"
                f" {len(cases)} cases of {settings.cases} as expected: such cases cannot tell a good"
                " variant from a broken one; check the expected answers and the chat template"
            )
            raise MeasurementError(message)
        return AccuracyEvidence(candidate=candidate, baseline=baseline, literal=literal)

    def judge(
        self, settings: AccuracySettings, evidence: AccuracyEvidence, bench: Bench
    ) -> Judgement:
        """Hold the share of right answers and its drop against the limits."""
        total = len(evidence.candidate)
        right = sum(answer.right for answer in evidence.candidate)
        share = right / total
        reference = evidence.literal
        flips: int | None = None
        if evidence.baseline is not None:
            reference = sum(answer.right for answer in evidence.baseline) / total
            pairs = zip(evidence.candidate, evidence.baseline, strict=True)
            flips = sum(own.right != base.right for own, base in pairs)
        sample = f"{total} cases"
        checks: list[Check] = []
        if settings.min is not None:
            checks.append(
                Check(
                    limit_name="min",
                    statistic="accuracy",
                    outcome=Outcome.PASS if share >= settings.min else Outcome.FAIL,
                    value=share,
                    interval=stats.wilson_interval(right, total),
                    limit=settings.min,
                    baseline=reference,
                    sample=sample,
                )
            )
        if settings.max_drop is not None and reference is not None:
            # Shares are multiples of 1/total: without slack 0.92 - 0.9 is more than 0.02.
            drop = reference - share
            within = drop <= settings.max_drop + 1e-9
            checks.append(
                Check(
                    limit_name="max_drop",
                    statistic="accuracy drop",
                    outcome=Outcome.PASS if within else Outcome.FAIL,
                    value=drop * 100,
                    unit="pp",
                    limit=settings.max_drop * 100,
                    baseline=reference,
                    sample=sample,
                )
            )
        return Judgement(
            headline=_headline(right, total, reference, checks, bench),
            checks=tuple(checks),
            findings=_wrong(evidence.candidate),
            record={
                "accuracy": share,
                "right": right,
                "cases": total,
                "baseline_accuracy": reference,
                "flips": flips,
            },
        )


def _answers(
    role: Role, cases: tuple[Case, ...], settings: AccuracySettings, bench: Bench
) -> tuple[Answer, ...]:
    request = GenerationRequest(
        prompts=tuple(case.to_prompt(max_tokens=settings.max_tokens) for case in cases),
        parallel=settings.parallel,
    )
    outputs = bench.generation(role, request).outputs
    return tuple(
        Answer(case=case, output=output, right=case.matches(output.text))
        for case, output in zip(cases, outputs, strict=True)
    )


def _headline(
    right: int, total: int, reference: float | None, checks: list[Check], bench: Bench
) -> str:
    text = f"accuracy {right / total:.1%} ({right} of {total} cases)"
    failed = [check for check in checks if check.outcome is Outcome.FAIL]
    for check in failed or checks:
        if check.limit_name == "min":
            sign = "<" if failed else ">="
            text += f" {sign} min {check.limit:.1%}"
        else:
            sign = ">" if failed else "<="
            text += f", drop {check.value:.1f} pp {sign} max_drop {check.limit:g} pp"
    if reference is not None:
        text += f"; {bench.baseline_name} {reference:.1%}"
    return text


def _wrong(answers: tuple[Answer, ...]) -> tuple[str, ...]:
    wrong = [answer for answer in answers if not answer.right]
    lines = [
        f"{answer.case.id}: prompt {_short(answer.case.question)},"
        f" expected ({answer.case.match}) {_short(answer.case.expected)},"
        f" got {_short(answer.output.text)}"
        for answer in wrong[:SHOWN_CASES]
    ]
    if len(wrong) > SHOWN_CASES:
        lines.append(f"... and {len(wrong) - SHOWN_CASES} more failing cases")
    return tuple(lines)


def _short(text: str) -> str:
    if len(text) > SHOWN_CHARACTERS:
        text = text[:SHOWN_CHARACTERS] + "..."
    return repr(text)


GATE = AccuracyGate()
