"""One use case: what the model is asked, and when its output is right."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_quantgate.records import AnsweredCase, Message, Prompt

if TYPE_CHECKING:
    from pytest_quantgate.matchers import Kind, Match, Matcher
    from pytest_quantgate.records import Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One question with its expected answer.

    ``expected`` is what messages show; the matcher is what decides. ``expected_value`` is the JSON
    value of a `json` case, and of a `json_schema` case the value that its fields are compared with,
    None where there is none. ``json_schema`` is a schema as JSON text and ``schema_matcher`` what
    holds outputs against it: given with `json_schema` cases, and beside `json` ones that have it.
    ``tags`` name the slices the case belongs to; ``weight`` is its share of the figures beside 1.
    """

    id: str
    prompt: str | None = None
    messages: tuple[Message, ...] = ()
    expected: str
    match: Kind = "contains"
    matcher: Matcher = field(hash=False)
    expected_value: object = field(default=None, hash=False)
    json_schema: str | None = None
    schema_matcher: Matcher | None = field(default=None, hash=False)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    weight: float = 1.0

    @property
    def question(self) -> str:
        """Return the prompt, or the last message, for people to read."""
        return self.prompt if self.prompt is not None else self.messages[-1].content

    def judge(self, output: str) -> Match:
        """Tell whether an output is what was expected, and why.

        Raises:
            MeasurementError: a schema that refers to itself without end on this output.
        """
        return self.matcher.matches(output)

    def answered(self, *, candidate: Answer, baseline: Answer | None) -> AnsweredCase:
        """Return the case with the candidate's answer and, where there is one, the baseline's."""
        return AnsweredCase(
            id=self.id,
            question=self.question,
            expected=self.expected,
            candidate=candidate,
            baseline=baseline,
            tags=self.tags,
            weight=self.weight,
        )

    def to_prompt(self, *, max_tokens: int, constrained: bool = False) -> Prompt:
        """Return what a probe is asked; ``max_tokens`` applies where the case names none.

        With ``constrained``, a case that has a schema is answered in JSON of that schema only.
        """
        return Prompt(
            id=self.id,
            prompt=self.prompt,
            messages=self.messages,
            max_tokens=self.max_tokens or max_tokens,
            stop=self.stop,
            until=self.expected if self.match == "contains" else None,
            json_schema=self.json_schema if constrained else None,
        )
