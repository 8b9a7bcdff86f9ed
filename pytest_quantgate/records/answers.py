"""What models answered to one case, and where two answers part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pytest_quantgate.records.results import Output, TokenChance  # noqa: TC001 - read at run time to load stored records


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One model's answer to a case.

    ``right`` is 1 or 0, or the share of right ones where a case is answered several times; ``output``
    and ``reason`` are then those of the first one. ``token_ids`` are empty where nothing was generated.
    """

    right: float
    output: str
    reason: str = ""
    finish: str = ""
    token_ids: tuple[int, ...] = ()

    @classmethod
    def of(cls, output: Output, *, right: float, reason: str = "") -> Answer:
        """Return a generated output with what it is worth."""
        return cls(
            right=right,
            output=output.text,
            reason=reason,
            finish=output.finish,
            token_ids=output.token_ids,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Parting:
    """The first token at which two outputs to one prompt differ, after ``position`` equal ones.

    ``common`` is the text up to there. ``baseline`` is the token that the baseline chose, ``candidate``
    the one that the candidate chose, each with its chances under (baseline, candidate). ``near_tie``
    says that one of the models had the two tokens so close together that how a batch is put together
    can turn its choice.
    """

    position: int
    common: str
    baseline: tuple[TokenChance, TokenChance]
    candidate: tuple[TokenChance, TokenChance]
    near_tie: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredCase:
    """One case with the candidate's answer and, where there is one, the baseline's."""

    id: str
    question: str
    expected: str
    candidate: Answer
    baseline: Answer | None = None
    tags: tuple[str, ...] = ()
    weight: float = 1.0
    parting: Parting | None = None

    @property
    def flip(self) -> Literal["lost", "gained"] | None:
        """Which way the case flipped: only the baseline answers it right, or only the candidate."""
        if self.baseline is None or self.baseline.right == self.candidate.right:
            return None
        return "lost" if self.baseline.right > self.candidate.right else "gained"
