"""The critical use cases: share of cases whose output is what was expected."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, model_validator

from pytest_quantgate import answers, flips
from pytest_quantgate.answers import ANSWER_LIMITS, AnsweredSample, AnswerLimits
from pytest_quantgate.errors import MeasurementError
from pytest_quantgate.gates import Bench, Gate, GateSettings, Judgement, Role
from pytest_quantgate.records import Answer, AnsweredCase, Decoding, GenerationRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_quantgate.cases import Case

_METRIC = "accuracy"


class AccuracySettings(AnswerLimits, GateSettings):
    """Limits on the share of right answers, the cases it is measured on, and how they are answered."""

    limit_names: ClassVar[tuple[str, ...]] = ANSWER_LIMITS

    cases: str = Field(
        min_length=1, description="File of cases (.jsonl, .json, .yaml) or builtin:everyday"
    )
    max_tokens: int = Field(
        default=64, ge=1, description="Longest output in tokens where a case names none"
    )
    parallel: int = Field(default=64, ge=1, le=256, description="Cases decoded together")
    temperature: float = Field(
        default=0.0,
        ge=0,
        le=10,
        description="0 takes the most probable token, above 0 one by chance",
    )
    top_k: int = Field(
        default=0, ge=0, description="Chance chooses among so many most probable tokens; 0: all"
    )
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="Chance chooses among tokens of this probability"
    )
    repeats: int = Field(
        default=1, ge=1, le=64, description="How often each case is answered; needs a temperature"
    )

    @model_validator(mode="after")
    def _chance_needs_a_temperature(self) -> AccuracySettings:
        for name, off in (("repeats", 1), ("top_k", 0), ("top_p", 1.0)):
            if self.temperature == 0 and getattr(self, name) != off:
                message = (
                    f"`{name}` is about outputs that are drawn by chance, and without a `temperature`"
                    " the most probable token is taken; give one above 0, or remove it"
                )
                raise ValueError(message)
        return self

    def decoding(self) -> Decoding:
        """Return how the next token is chosen."""
        return Decoding(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            seed=self.seed,
            repeats=self.repeats,
        )


class AccuracyGate(Gate[AccuracySettings, AnsweredSample]):
    """`min`, `max_drop` and `max_flips` on answers to cases, all of them and those of a tag."""

    name = "accuracy"
    settings = AccuracySettings
    metric = _METRIC

    def needs_baseline(self, settings: AccuracySettings) -> bool:
        """Drops and flips compare with the baseline."""
        return settings.compares()

    def measure(self, settings: AccuracySettings, bench: Bench) -> AnsweredSample:
        """Let the candidate answer cases and, unless its accuracy is given, the baseline."""
        cases = bench.cases(settings.cases)
        literal = bench.literals.get(_METRIC) if self.needs_baseline(settings) else None
        paired = self.needs_baseline(settings) and literal is None

        def ask(asked: Sequence[Case]) -> Sequence[AnsweredCase]:
            return _ask(asked, settings, bench, paired=paired)

        return answers.draw_answers(settings, cases, ask, bench=bench, literal=literal)

    def case_ids(self, settings: AccuracySettings, bench: Bench) -> frozenset[str]:
        """Return the ids of the cases of the file."""
        return frozenset(case.id for case in bench.cases(settings.cases))

    def judge(
        self, settings: AccuracySettings, evidence: AnsweredSample, bench: Bench
    ) -> Judgement:
        """Hold the share of right answers, its drop and the flips against the limits."""
        found = answers.judge_answers(settings, evidence, bench)
        return Judgement(
            headline=found.headline,
            checks=found.checks,
            findings=(*found.findings, *flips.listing(evidence.cases, bench), *bench.notes),
            record=found.record,
            warn=found.warn,
            cases=evidence.cases,
        )


def _ask(
    cases: Sequence[Case], settings: AccuracySettings, bench: Bench, *, paired: bool
) -> Sequence[AnsweredCase]:
    """Return the cases as the models answer them, flipped ones with the token at which they part."""
    prompts = tuple(case.to_prompt(max_tokens=settings.max_tokens) for case in cases)
    request = GenerationRequest(
        prompts=prompts, parallel=settings.parallel, decoding=settings.decoding()
    )
    base = _answers("baseline", cases, request, bench) if paired else [None] * len(cases)
    own = _answers("candidate", cases, request, bench)
    answered = [
        case.answered(candidate=candidate, baseline=baseline)
        for case, candidate, baseline in zip(cases, own, base, strict=True)
    ]
    if settings.temperature > 0 or not paired:
        return answered
    return flips.with_partings(answered, {prompt.id: prompt for prompt in prompts}, bench)


def _answers(
    role: Role, cases: Sequence[Case], request: GenerationRequest, bench: Bench
) -> list[Answer]:
    """Return one model's answer to each case, right by the share of its repeats that are right."""
    outputs = bench.generation(role, request).outputs
    repeats = request.decoding.repeats
    if len(outputs) != repeats * len(cases):
        message = (
            f"{len(outputs)} outputs came back for {len(cases)} cases, each answered"
            f" {repeats} times: what is missing cannot be judged"
        )
        raise MeasurementError(message)
    found = []
    for number, case in enumerate(cases):
        own = outputs[number * repeats : (number + 1) * repeats]
        matches = [case.judge(output.text) for output in own]
        right = sum(match.ok for match in matches) / repeats
        found.append(Answer.of(own[0], right=right, reason=matches[0].reason))
    return found


GATE = AccuracyGate()
