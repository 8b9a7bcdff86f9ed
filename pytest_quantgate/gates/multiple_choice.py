"""Multiple-choice questions: share of those whose right answer is the most likely one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from pytest_quantgate import answers, flips
from pytest_quantgate.answers import ANSWER_LIMITS, AnsweredSample, AnswerLimits
from pytest_quantgate.errors import ArtifactError, MeasurementError
from pytest_quantgate.gates import Bench, Gate, GateSettings, Judgement, Role
from pytest_quantgate.questions import (
    PROMPT,
    PROMPT_WITH_CHOICES,
    SUFFIXES,
    Format,
    Question,
    Wording,
    format_of,
    load_questions,
)
from pytest_quantgate.records import Answer, AnsweredCase, ChoiceRequest, ChoiceScore

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

Normalize = Literal["tokens", "characters", "none"]

_STATISTICS = {
    "tokens": "accuracy by tokens",
    "characters": "accuracy by characters (acc_norm)",
    "none": "accuracy by likelihood (acc)",
}
TOGETHER: Mapping[Format, int] = {"winogrande": 2}
"""Questions that llama-perplexity decodes as one batch: with its four sequences, two of two answers.

A batch of another shape has other low bits, which with a quantized model can turn a close choice.
"""

_NAMED = {
    "tokens": "per token, as llama-perplexity chooses them",
    "characters": "per character, the acc_norm of lm-evaluation-harness",
    "none": "as it is, the acc of lm-evaluation-harness",
}


class MultipleChoiceSettings(AnswerLimits, GateSettings):
    """Limits on the share of right choices, the questions, and how an answer is chosen."""

    limit_names: ClassVar[tuple[str, ...]] = ANSWER_LIMITS

    tasks: str = Field(
        min_length=1, description="File of questions: HellaSwag text, Winogrande CSV, JSON Lines"
    )
    format: Literal["auto", "hellaswag", "winogrande", "jsonl"] = Field(
        default="auto", description="Format of the file; auto goes by the end of its name"
    )
    normalize: Normalize = Field(
        default="tokens",
        description="What an answer's log-likelihood is divided by before answers are compared",
    )
    limit: int | None = Field(
        default=None, ge=1, description="Questions to use, from the first one of the file on"
    )
    prompt: str | None = Field(
        default=None,
        description="How a question of JSON Lines is asked, with {question} and maybe {choices}",
    )
    letters: bool = Field(
        default=False, description="Score the answers' letters, not their texts (JSON Lines)"
    )

    @model_validator(mode="after")
    def _prompt_asks(self) -> MultipleChoiceSettings:
        if self.prompt is not None and "{question}" not in self.prompt:
            message = "`prompt` must have {question} where the question goes"
            raise ValueError(message)
        if self.letters and self.prompt is not None and "{choices}" not in self.prompt:
            message = "with `letters`, `prompt` must have {choices}, which says what they stand for"
            raise ValueError(message)
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceEvidence:
    """Answered questions, and the share of them that guessing gets right."""

    sample: AnsweredSample
    chance: float
    format: Format


class MultipleChoiceGate(Gate[MultipleChoiceSettings, ChoiceEvidence]):
    """`min`, `max_drop` and `max_flips` on answers that are chosen by their likelihood."""

    name = "multiple_choice"
    settings = MultipleChoiceSettings

    def needs_baseline(self, settings: MultipleChoiceSettings) -> bool:
        """Drops and flips compare with the baseline."""
        return settings.compares()

    def measure(self, settings: MultipleChoiceSettings, bench: Bench) -> ChoiceEvidence:
        """Let the candidate choose answers, and the baseline where a limit compares."""
        kind, questions = _questions(settings, bench)

        def ask(asked: Sequence[Question]) -> Sequence[AnsweredCase]:
            together = TOGETHER.get(kind, 1)
            return _ask(asked, _bundled(asked, questions, together), together, bench, settings)

        sample = answers.draw_answers(
            settings, questions, ask, bench=bench, statistic=_STATISTICS[settings.normalize]
        )
        choices = {question.id: len(question.answers) for question in questions}
        chance = sum(1 / choices[case.id] for case in sample.cases) / len(sample.cases)
        return ChoiceEvidence(sample=sample, chance=chance, format=kind)

    def case_ids(self, settings: MultipleChoiceSettings, bench: Bench) -> frozenset[str]:
        """Return the ids of the questions of the file."""
        return frozenset(question.id for question in _questions(settings, bench)[1])

    def judge(
        self, settings: MultipleChoiceSettings, evidence: ChoiceEvidence, bench: Bench
    ) -> Judgement:
        """Hold the share of right choices, its drop and the flips against the limits."""
        sample = evidence.sample
        way = (
            f"answers are compared by their log-likelihood {_NAMED[settings.normalize]};"
            f" guessing gets {evidence.chance:.1%} right"
        )
        found = answers.judge_answers(
            settings,
            sample,
            bench,
            statistic=_STATISTICS[settings.normalize],
            unit="questions",
            chance=evidence.chance,
        )
        return Judgement(
            headline=found.headline,
            checks=found.checks,
            findings=(
                way,
                *found.findings,
                *flips.listing(sample.cases, bench),
                *bench.notes,
            ),
            record={
                **found.record,
                "chance": evidence.chance,
                "normalize": settings.normalize,
                "format": evidence.format,
            },
            warn=found.warn,
            cases=sample.cases,
        )


def _questions(
    settings: MultipleChoiceSettings, bench: Bench
) -> tuple[Format, tuple[Question, ...]]:
    """Return the questions of the file, and the format it is in."""
    path = bench.file(settings.tasks)
    kind = _format(settings, path)
    wording = Wording(
        prompt=settings.prompt or (PROMPT_WITH_CHOICES if settings.letters else PROMPT),
        letters=settings.letters,
    )
    found = load_questions(
        path, shown=settings.tasks, kind=kind, wording=wording, limit=settings.limit
    )
    return kind, tuple(found)


def chosen(question: Question, scores: Sequence[ChoiceScore], normalize: Normalize) -> int:
    """Return the place of the most likely answer, the first among equals.

    ``tokens`` divides the log-likelihood of what llama.cpp's tools score by its tokens; ``characters``
    and ``none`` are of the whole answer, or of a sentence's tail, which is the same text for each.
    """
    figures = [
        _figure(question.tail or answer, score, normalize)
        for answer, score in zip(question.answers, scores, strict=True)
    ]
    return figures.index(max(figures))


def _figure(scored: str, score: ChoiceScore, normalize: Normalize) -> float:
    if normalize == "tokens":
        return -score.own_nll / score.own_tokens
    if normalize == "characters":
        # The blank that separates the answer from its question is not counted, as there.
        return -score.nll / len(scored.removeprefix(" "))
    return -score.nll


def _format(settings: MultipleChoiceSettings, path: Path) -> Format:
    kind = format_of(path) if settings.format == "auto" else settings.format
    if kind is None:
        known = ", ".join(f"{suffix} is {name}" for suffix, name in SUFFIXES.items())
        message = (
            f"the format of {settings.tasks} is not known by its name ({known}); give `format`"
        )
        raise ArtifactError(message)
    if kind != "jsonl" and (settings.letters or settings.prompt is not None):
        message = (
            f"{settings.tasks} is in the format {kind}, which has its questions as they are asked;"
            " `prompt` and `letters` are for jsonl: remove them"
        )
        raise ArtifactError(message)
    return kind


def _bundled(
    asked: Sequence[Question], every: Sequence[Question], together: int
) -> Sequence[Question]:
    """Return questions with those of the file that are decoded beside them, in the file's order."""
    if together == 1:
        return asked
    places = {question.id: place for place, question in enumerate(every)}
    bundles = sorted({places[question.id] // together for question in asked})
    return [
        question
        for bundle in bundles
        for question in every[bundle * together : (bundle + 1) * together]
    ]


def _ask(
    questions: Sequence[Question],
    decoded: Sequence[Question],
    together: int,
    bench: Bench,
    settings: MultipleChoiceSettings,
) -> Sequence[AnsweredCase]:
    request = ChoiceRequest(
        questions=tuple(question.to_choice() for question in decoded), together=together
    )
    roles: list[Role] = ["candidate"]
    if settings.compares():
        roles.insert(0, "baseline")
    found = {role: _answers(role, decoded, request, bench, settings.normalize) for role in roles}
    return [
        AnsweredCase(
            id=question.id,
            question=question.shown,
            expected=question.answers[question.right].strip(),
            candidate=found["candidate"][question.id],
            baseline=found["baseline"][question.id] if "baseline" in found else None,
            tags=question.tags,
            weight=question.weight,
        )
        for question in questions
    ]


def _answers(
    role: Role,
    questions: Sequence[Question],
    request: ChoiceRequest,
    bench: Bench,
    normalize: Normalize,
) -> dict[str, Answer]:
    """Return one model's answer to each question, by id."""
    found = bench.choices(role, request).questions
    if [len(scores) for scores in found] != [len(question.answers) for question in questions]:
        message = (
            f"scores of {len(found)} questions came back for {len(questions)}, or not of every answer:"
            " what is missing cannot be judged"
        )
        raise MeasurementError(message)
    return {
        question.id: _answer(question, scores, normalize)
        for question, scores in zip(questions, found, strict=True)
    }


def _answer(question: Question, scores: Sequence[ChoiceScore], normalize: Normalize) -> Answer:
    place = chosen(question, scores, normalize)
    text = question.answers[place].strip()
    if place == question.right:
        return Answer(right=1.0, output=text)
    figures = [
        _figure(question.tail or question.answers[at], scores[at], normalize)
        for at in (place, question.right)
    ]
    unit = {"tokens": " per token", "characters": " per character", "none": ""}[normalize]
    reason = f"{figures[0] - figures[1]:.3f} nats{unit} more likely than the expected answer"
    return Answer(right=0.0, output=text, reason=reason)


GATE = MultipleChoiceGate()
