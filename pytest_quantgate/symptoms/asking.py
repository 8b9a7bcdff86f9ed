"""What is asked: open prompts for long texts, and the cases that count for facts or for format."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from pytest_quantgate.errors import MeasurementError
from pytest_quantgate.matchers import Matcher, matcher_for
from pytest_quantgate.records import Answer, AnsweredCase, Output, Prompt
from pytest_quantgate.symptoms.reply import text_answer

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from pytest_quantgate.cases import Case

FORM_TAGS = ("json", "instruction", "choice")
"""Tags of cases that demand a form, unless a specification names others."""

EXPECTED_TEXT = "a text that does not run in circles"

CaseSign = Literal["facts", "format"]

_FORM_KINDS = frozenset({"json", "json_schema"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One thing to ask: an open prompt, or a case that counts for facts or for format."""

    kind: Literal["text", "facts", "format"]
    case: Case
    prompt: Prompt

    @property
    def id(self) -> str:
        """Id of the case."""
        return self.case.id

    @property
    def tags(self) -> tuple[str, ...]:
        """Tags of the case."""
        return self.case.tags

    @property
    def weight(self) -> float:
        """Weight of the case; texts weigh all the same."""
        return 1.0 if self.kind == "text" else self.case.weight

    def answered(self, *, candidate: Output, baseline: Output) -> AnsweredCase:
        """Return both models' outputs with what each is worth."""
        found = self.case.answered(
            candidate=self._answer(candidate), baseline=self._answer(baseline)
        )
        expected = EXPECTED_TEXT if self.kind == "text" else found.expected
        return replace(found, expected=expected, weight=self.weight)

    def _answer(self, output: Output) -> Answer:
        if self.kind == "text":
            return text_answer(output)
        matcher = _form(self.case) if self.kind == "format" else self.case.matcher
        matched = matcher.matches(output.text)
        return Answer.of(output, right=float(matched.ok), reason=matched.reason)


def _form(case: Case) -> Matcher:
    """Return what tells whether an output has the form that a case demands, whatever it says."""
    if case.schema_matcher is not None:
        return case.schema_matcher
    return matcher_for("json_schema", expected=True) if case.match == "json" else case.matcher


def open_prompts(cases: Sequence[Case], *, max_tokens: int) -> Iterator[Asked]:
    """Yield the prompts of cases for texts of so many tokens.

    Where the cases want their answers to end does not matter: long texts are wanted.
    """
    for case in cases:
        prompt = case.to_prompt(max_tokens=max_tokens)
        prompt = replace(prompt, max_tokens=max_tokens, stop=(), until=None)
        yield Asked(kind="text", case=case, prompt=prompt)


def cases_of(
    sign: CaseSign,
    cases: Sequence[Case],
    *,
    form_tags: Collection[str],
    fact_tags: Collection[str] | None,
    max_tokens: int,
    shown: str,
) -> Iterator[Asked]:
    """Yield the cases that count for a sign; none counts for both.

    For format those with one of the ``form_tags`` and all whose answer is JSON, for facts the others, or
    those of them with one of the ``fact_tags``. ``shown`` is the name of the case file in messages.

    Raises:
        MeasurementError: there is no such case; the message lists the tags there are.
    """
    found = False
    for case in cases:
        formal = case.match in _FORM_KINDS or not set(form_tags).isdisjoint(case.tags)
        wanted = formal
        if sign == "facts":
            tagged = fact_tags is None or not set(fact_tags).isdisjoint(case.tags)
            wanted = tagged and not formal
        if wanted:
            found = True
            yield Asked(kind=sign, case=case, prompt=case.to_prompt(max_tokens=max_tokens))
    if not found:
        tags = sorted({tag for case in cases for tag in case.tags})
        there = f"the cases have the tags {', '.join(tags)}" if tags else "the cases have no tags"
        message = (
            f"{shown} has no case for the sign {sign!r}, so it cannot be judged: {there}; name some in"
            f" `{sign}: {{tags: [...]}}`, other `cases`, or leave the sign out of `signs`"
        )
        raise MeasurementError(message)


def require_single_ids(items: Sequence[Asked]) -> None:
    """Refuse an id that two of the things to ask have.

    Raises:
        MeasurementError: naming it.
    """
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            message = (
                f"the id {item.id!r} stands both among the prompts and among the cases; give one of them"
                " another id, so that it can be asked alone"
            )
            raise MeasurementError(message)
        seen.add(item.id)
