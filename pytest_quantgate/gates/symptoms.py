"""The four signs of over-quantization, each held against the baseline on the same prompts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import Field, JsonValue, model_validator

from pytest_quantgate import flips, statement, stats
from pytest_quantgate.answers import (
    AnsweredSample,
    AnswerLimits,
    CaseVerdictSettings,
    draw_answers,
    judge_answers,
)
from pytest_quantgate.cases import load_cases
from pytest_quantgate.gates import Bench, Gate, GateSettings, Judgement
from pytest_quantgate.records import AnsweredCase, GenerationRequest, Outcome, Output
from pytest_quantgate.symptoms import OPEN_PROMPTS, asking, reply, signs
from pytest_quantgate.symptoms.figures import Bounds, Figure
from pytest_quantgate.symptoms.gibberish import KnownWords
from pytest_quantgate.symptoms.limits import CaseLimits, GibberishLimits, RepetitionLimits
from pytest_quantgate.symptoms.remedies import SIGNS, SignName

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from typing_extensions import Self

    from pytest_quantgate.records import Check
    from pytest_quantgate.symptoms.asking import Asked, CaseSign

_CASE_SIGNS: Mapping[CaseSign, str] = {
    "facts": "drop of right answers",
    "format": "drop of answers in the form demanded",
}
"""The signs that cases show, with the statistic of each."""

_REPETITION: dict[str, JsonValue] = {"max_increase": "10pp", "max_repeated_increase": "10pp"}
_GIBBERISH: dict[str, JsonValue] = {
    "max_surprise_increase": 0.25,
    "max_broken_increase": "10pp",
    "max_unknown_increase": "10pp",
}
_FACTS: dict[str, JsonValue] = {"max_drop": "10pp"}
_FORMAT: dict[str, JsonValue] = {"max_drop": "15pp"}
"""Limits where a specification writes none; docs/gate-symptoms.md has what they rest on."""

_ANSWER_TOKENS = 64
"""Longest answer to a case that names no length, in tokens."""


class SymptomsSettings(CaseVerdictSettings, GateSettings):
    """Which signs are looked for, on what, and how far each may grow.

    A block that is written replaces the default limits of its sign.
    """

    signs: list[SignName] = Field(
        default=list(SIGNS), min_length=1, description="Signs that are looked for"
    )
    prompts: str | None = Field(
        default=None,
        min_length=1,
        description="Case file whose prompts call for long texts; 64 that come along by default",
    )
    cases: str = Field(
        default="builtin:everyday",
        min_length=1,
        description="Case file for wrong facts and format drift",
    )
    corpus: str | None = Field(
        default=None, min_length=1, description="Text whose words are known ones"
    )
    max_tokens: int = Field(default=128, ge=16, description="Longest text in tokens")
    parallel: int = Field(default=64, ge=1, le=256, description="Prompts decoded together")
    repetition: RepetitionLimits = Field(
        default=RepetitionLimits.model_validate(_REPETITION),
        description="Limits on texts that run in circles",
        json_schema_extra={"default": _REPETITION},
    )
    gibberish: GibberishLimits = Field(
        default=GibberishLimits.model_validate(_GIBBERISH),
        description="Limits on texts that make no sense",
        json_schema_extra={"default": _GIBBERISH},
    )
    facts: CaseLimits = Field(
        default=CaseLimits.model_validate(_FACTS),
        description="Limit on wrong answers to cases that demand no form",
        json_schema_extra={"default": _FACTS},
    )
    format: CaseLimits = Field(
        default=CaseLimits.model_validate(_FORMAT),
        description="Limit on answers that lack the form that was demanded",
        json_schema_extra={"default": _FORMAT},
    )

    @model_validator(mode="after")
    def _blocks_are_of_signs(self) -> Self:
        for sign in SIGNS:
            if sign in self.model_fields_set and sign not in self.signs:
                message = (
                    f"{sign!r} has limits and is not among the `signs` that are looked for; add it"
                    " there, or remove its limits"
                )
                raise ValueError(message)
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class SymptomsEvidence:
    """What both models wrote on the open prompts, and their answers to everything asked.

    ``answers`` are by what they count for: ``text``, ``facts``, ``format``. Where the user named cases,
    there is nothing but those, in ``chosen``.
    """

    texts: reply.Texts = field(default_factory=reply.Texts)
    answers: Mapping[str, tuple[AnsweredCase, ...]] = field(default_factory=dict)
    chosen: AnsweredSample | None = None


class SymptomsGate(Gate[SymptomsSettings, SymptomsEvidence]):
    """Repetition, gibberish, wrong facts and format drift, beyond what the baseline shows of them."""

    name = "symptoms"
    settings = SymptomsSettings

    def needs_baseline(self, settings: SymptomsSettings) -> bool:  # noqa: ARG002 - all signs compare
        """Every limit compares with the baseline."""
        return True

    def measure(self, settings: SymptomsSettings, bench: Bench) -> SymptomsEvidence:
        """Let both models answer everything at once, and the baseline read what they wrote.

        Raises:
            MeasurementError: cases that cannot show a sign, or an id that stands in both files.
        """
        items = tuple(_items(settings, bench))
        asking.require_single_ids(items)
        prompts = {item.id: item.prompt for item in items}
        outputs: dict[str, tuple[Output, Output]] = {}

        def ask(wanted: Sequence[Asked]) -> tuple[AnsweredCase, ...]:
            request = GenerationRequest(
                prompts=tuple(item.prompt for item in wanted), parallel=settings.parallel
            )
            base = bench.generation("baseline", request).outputs
            own = bench.generation("candidate", request).outputs
            outputs.update(
                zip((item.id for item in wanted), zip(own, base, strict=True), strict=True)
            )
            answered = tuple(
                item.answered(candidate=outputs[item.id][0], baseline=outputs[item.id][1])
                for item in wanted
            )
            return flips.with_partings(answered, prompts, bench)

        if bench.chosen_cases:
            return SymptomsEvidence(chosen=draw_answers(AnswerLimits(), items, ask, bench=bench))
        answers: dict[str, list[AnsweredCase]] = {}
        for item, answer in zip(items, ask(items), strict=True):
            answers.setdefault(item.kind, []).append(answer)
        pairs = tuple(
            reply.Pair(
                prompt=item.prompt,
                asked=item.case.question,
                candidate=outputs[item.id][0],
                baseline=outputs[item.id][1],
            )
            for item in items
            if item.kind == "text"
        )
        read = "gibberish" in settings.signs
        return SymptomsEvidence(
            texts=reply.Texts(
                pairs=pairs,
                surprise=reply.baseline_surprise(pairs, bench) if read else {},
                words=_known_words(pairs, settings, bench) if read else None,
            ),
            answers={kind: tuple(found) for kind, found in answers.items()},
        )

    def case_ids(self, settings: SymptomsSettings, bench: Bench) -> frozenset[str]:
        """Return the ids of the open prompts and of the cases of the signs that are looked for."""
        return frozenset(item.id for item in _items(settings, bench))

    def judge(
        self, settings: SymptomsSettings, evidence: SymptomsEvidence, bench: Bench
    ) -> Judgement:
        """Hold each sign against its limits, and name cause and remedy of those that are found."""
        if evidence.chosen is not None:
            return _chosen(evidence.chosen, bench)
        figures = tuple(_figures(settings, evidence, bench))
        checks = tuple(figure.check for figure in figures)
        outcome = stats.worst([check.outcome for check in checks])
        cases = tuple(case for found in evidence.answers.values() for case in found)
        return Judgement(
            headline=_headline(checks),
            checks=checks,
            findings=(
                *signs.spoken(evidence.texts, bench.baseline_name),
                *_spoken_cases(evidence.answers, bench),
                *(figure.undecided for figure in figures if figure.undecided),
                *bench.notes,
                *flips.listing(_telling(checks, evidence.answers), bench),
            ),
            advice=tuple(SIGNS[sign].advice(bench.candidate_type) for sign in _found(checks)),
            record={**signs.text_record(evidence.texts), **_case_record(evidence.answers)},
            warn=outcome is Outcome.INCONCLUSIVE and settings.on_inconclusive == "warn",
            cases=cases,
        )


def _items(settings: SymptomsSettings, bench: Bench) -> Iterator[Asked]:
    """Yield what is asked: open prompts, then the cases of the signs that are looked for."""
    if {"repetition", "gibberish"}.intersection(settings.signs):
        opened = (
            load_cases(OPEN_PROMPTS, shown="the open prompts")
            if settings.prompts is None
            else bench.cases(settings.prompts)
        )
        yield from asking.open_prompts(opened, max_tokens=settings.max_tokens)
    wanted = [sign for sign in _CASE_SIGNS if sign in settings.signs]
    cases = bench.cases(settings.cases) if wanted else ()
    for sign in wanted:
        yield from asking.cases_of(
            sign,
            cases,
            form_tags=settings.format.tags or asking.FORM_TAGS,
            fact_tags=settings.facts.tags,
            max_tokens=_ANSWER_TOKENS,
            shown=settings.cases,
        )


def _known_words(
    pairs: Sequence[reply.Pair], settings: SymptomsSettings, bench: Bench
) -> KnownWords:
    path, _ = bench.corpus(settings.corpus)
    return KnownWords(
        path.read_text(encoding="utf-8"),
        prompts=[pair.asked for pair in pairs],
        outputs=[pair.baseline.text for pair in pairs],
    )


def _figures(
    settings: SymptomsSettings, evidence: SymptomsEvidence, bench: Bench
) -> Iterator[Figure]:
    """Yield every limit of the signs that are looked for, held against both models."""
    bounds = Bounds(
        pass_confidence=settings.pass_confidence,
        fail_confidence=settings.fail_confidence,
        baseline_name=bench.baseline_name,
    )
    if "repetition" in settings.signs:
        yield from signs.repetition(settings.repetition, evidence.texts, bounds)
    if "gibberish" in settings.signs:
        yield from signs.gibberish(settings.gibberish, evidence.texts, bounds)
    for sign, statistic in _CASE_SIGNS.items():
        limits: CaseLimits = getattr(settings, sign)
        if sign in settings.signs:
            yield bounds.share(
                evidence.answers[sign],
                name=f"{sign}.max_drop",
                limit=limits.max_drop,
                statistic=statistic,
                cases_are=settings.cases_are,
            )


def _chosen(sample: AnsweredSample, bench: Bench) -> Judgement:
    told = judge_answers(AnswerLimits(), sample, bench, unit="prompts and cases")
    return Judgement(
        headline=told.headline,
        checks=told.checks,
        findings=(*told.findings, *flips.listing(sample.cases, bench)),
        record=told.record,
        cases=sample.cases,
    )


def _found(checks: Sequence[Check]) -> list[SignName]:
    """Return the signs of which a limit was missed."""
    missed = {
        check.limit_name.partition(".")[0] for check in checks if check.outcome is Outcome.FAIL
    }
    return [sign for sign in SIGNS if sign in missed]


def _telling(
    checks: Sequence[Check], answers: Mapping[str, Sequence[AnsweredCase]]
) -> list[AnsweredCase]:
    """Return what flipped of the signs that are found or open, those that are found first."""
    outcomes: dict[str, list[Outcome]] = {}
    for check in checks:
        sign = check.limit_name.partition(".")[0]
        outcomes.setdefault(sign if sign in _CASE_SIGNS else "text", []).append(check.outcome)
    worst = {kind: stats.worst(found) for kind, found in outcomes.items()}
    return [
        case
        for wanted in (Outcome.FAIL, Outcome.INCONCLUSIVE)
        for kind, outcome in worst.items()
        if outcome is wanted
        for case in answers[kind]
        if case.flip
    ]


def _headline(checks: Sequence[Check]) -> str:
    check = statement.decisive(checks)
    found = _found(checks)
    start = f"{', '.join(found)} found" if found else "no sign of over-quantization found"
    if check.outcome is Outcome.INCONCLUSIVE:
        start = "signs of over-quantization undecided"
    unit = "" if not check.unit else check.unit if check.unit == "pp" else f" {check.unit}"
    text = f"{start}: {check.statistic} {check.value:.3g}{unit}"
    return (
        f"{text} {statement.sign(check)} {check.limit_name} {check.limit:g}{unit}; {check.sample}"
    )


def _spoken_cases(answers: Mapping[str, Sequence[AnsweredCase]], bench: Bench) -> Iterator[str]:
    for sign, what in (("facts", "right"), ("format", "in the form demanded")):
        cases = answers.get(sign, ())
        if cases:
            own, base = _right(cases)
            yield f"{sign}: {own:g} of {len(cases)} answers {what} ({bench.baseline_name} {base:g})"


def _right(cases: Sequence[AnsweredCase]) -> tuple[float, float]:
    """Return how many cases the candidate and the baseline answer right."""
    return (
        sum(case.candidate.right for case in cases),
        sum(case.baseline.right for case in cases if case.baseline is not None),
    )


def _case_record(
    answers: Mapping[str, Sequence[AnsweredCase]],
) -> dict[str, float | int | str | bool | None]:
    record: dict[str, float | int | str | bool | None] = {}
    for sign in _CASE_SIGNS:
        cases = answers.get(sign, ())
        if cases:
            own, base = _right(cases)
            record |= {
                f"{sign}_cases": len(cases),
                f"{sign}_right": own,
                f"baseline_{sign}_right": base,
            }
    return record


GATE = SymptomsGate()
