"""Things to ask whose answers are known, and short ways to draw from them and judge them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench_stub import StubBench, as_bench

from pytest_quantgate.answers import (
    AnsweredSample,
    AnswerJudgement,
    AnswerLimits,
    draw_answers,
    judge_answers,
)
from pytest_quantgate.records import Answer, AnsweredCase, Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """Something that can be asked, and how both models answer it."""

    id: str
    own: float = 1.0
    base: float | None = 1.0
    tags: tuple[str, ...] = ()
    weight: float = 1.0
    output: str = "x"


def items(pattern: str, *, tags: Sequence[str] = (), weights: Sequence[float] = ()) -> list[Item]:
    """Return items from their answers: ``b`` both right, ``-`` lost, ``+`` gained, ``w`` both wrong.

    Capital letters are of candidates alone: ``R`` right, ``W`` wrong.
    """
    answers = {"b": (1, 1), "-": (0, 1), "+": (1, 0), "w": (0, 0), "R": (1, None), "W": (0, None)}
    found = []
    for number, sign in enumerate(pattern):
        own, base = answers[sign]
        found.append(
            Item(
                id=f"case-{number}",
                own=own or 0,
                base=base,
                tags=(tags[number],) if tags else (),
                weight=weights[number] if weights else 1.0,
            )
        )
    return found


def answered(item: Item) -> AnsweredCase:
    """Return the answers that an item was given."""
    base = None
    if item.base is not None:
        base = Answer(right=item.base, output=item.output, finish="eog")
    return AnsweredCase(
        id=item.id,
        question="question",
        expected="expected",
        candidate=Answer(right=item.own, output=item.output, finish="eog"),
        baseline=base,
        tags=item.tags,
        weight=item.weight,
    )


def ask(asked: Sequence[Item]) -> list[AnsweredCase]:
    """Answer items as they say."""
    return [answered(item) for item in asked]


def limits(**values: object) -> AnswerLimits:
    """Return limits as a specification would give them."""
    return AnswerLimits.model_validate(values)


def drawn(
    values: dict[str, object], asked: list[Item], bench: StubBench | None = None, **more: object
) -> AnsweredSample:
    """Draw from items under limits."""
    stub = as_bench(bench or StubBench())
    return draw_answers(limits(**values), asked, ask, bench=stub, **more)  # type: ignore[arg-type]


def judged(
    values: dict[str, object], asked: list[Item], *, chance: float | None = None, **more: object
) -> AnswerJudgement:
    """Draw from items and judge them."""
    sample = drawn(values, asked, **more)  # type: ignore[arg-type]
    return judge_answers(limits(**values), sample, as_bench(StubBench()), chance=chance)


def outcomes(judgement: AnswerJudgement) -> list[Outcome]:
    """Return the outcomes of all checks."""
    return [check.outcome for check in judgement.checks]
