"""One multiple-choice question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_quantgate.records import ChoiceQuestion

if TYPE_CHECKING:
    from collections.abc import Sequence

_FEWEST_ANSWERS = 2
GAP = "_"
"""What stands in a sentence where a choice goes."""


class Unusable(ValueError):
    """A question that cannot be read; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question; ``right`` is the place of the right answer, from 0.

    Texts are as they are put together: context + answer + tail, each answer with the blank before it.
    """

    id: str
    context: str
    answers: tuple[str, ...]
    right: int
    tail: str = ""
    tags: tuple[str, ...] = ()
    weight: float = 1.0

    @property
    def shown(self) -> str:
        """The question as people read it, with a gap where the answer goes before a tail."""
        return f"{self.context}{GAP}{self.tail}" if self.tail else self.context

    def to_choice(self) -> ChoiceQuestion:
        """Return what a probe is asked."""
        return ChoiceQuestion(
            id=self.id, context=self.context, answers=self.answers, tail=self.tail
        )


def new_question(
    *,
    identity: str,
    context: str,
    answers: Sequence[str],
    right: int,
    tags: tuple[str, ...] = (),
) -> Question:
    """Return a question whose answers follow its context after a blank."""
    problem = None
    if not context.strip():
        problem = "the question is empty"
    elif len(answers) < _FEWEST_ANSWERS:
        problem = f"{len(answers)} answers are no choice; give {_FEWEST_ANSWERS} or more"
    elif not all(answer.strip() for answer in answers):
        place = next(place for place, answer in enumerate(answers, start=1) if not answer.strip())
        problem = f"answer {place} is empty"
    elif not 0 <= right < len(answers):
        problem = f"the right answer is number {right}, and they go from 0 to {len(answers) - 1}"
    if problem is not None:
        raise Unusable(problem)
    return Question(
        id=identity,
        context=context,
        answers=tuple(f" {answer}" for answer in answers),
        right=right,
        tags=tags,
    )
