"""What a comparison of models shows: its figures, the sentences that follow from them, and JSON."""

from __future__ import annotations

import dataclasses
import json
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_quantgate.records import MemoryUse, Parting

SCHEMA = 1
"""Version of the JSON document."""

SIGNIFICANT = 0.05
"""From what p-value on flips are called more than chance."""

MOST_LISTED = 3
"""How many prompts a sentence names."""

_SHOWN_AS_THEY_ARE = "\n\t"
# Bidirectional controls show text in another order than it has.
_BIDIRECTIONAL = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Generation speed of single requests, in tokens per second, as the median of ``requests``.

    ``ratio`` is the median of the ratios to the reference's speed, request by request in turns, with
    its 95% interval; the reference itself has none.
    """

    tokens_per_second: float
    requests: int
    ratio: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedModel:
    """One model with what it takes.

    ``weight_bytes`` counts the tensors; ``memory`` is that of a fresh probe. What was not asked for is
    None.
    """

    name: str
    source: str
    sha256: str
    file_type: str
    bits_per_weight: float
    file_bytes: int
    weight_bytes: int
    memory: MemoryUse | None = None
    speed: Speed | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What one model answered to one prompt.

    ``right`` and ``reason`` are the judgement where an answer is expected. ``surprise`` is the
    reference's negative log-likelihood of the output in nats per byte, None for an empty output.
    ``equal_tokens`` counts the tokens before the first that differs from the reference's output (all of
    them where none does), None where tokens of the two models are not comparable; ``parting`` is that
    place.
    """

    output: str
    tokens: int
    finish: str
    right: bool | None = None
    reason: str = ""
    surprise: float | None = None
    equal_tokens: int | None = None
    parting: Parting | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedPrompt:
    """One prompt with the replies in the order of the models, the reference's first."""

    id: str
    question: str
    replies: tuple[Reply, ...]
    expected: str | None = None
    tags: tuple[str, ...] = ()

    def flip(self, model: int) -> Literal["lost", "gained"] | None:
        """Tell whether a model's answer is right where the reference's is not, or the reverse."""
        own, base = self.replies[model].right, self.replies[0].right
        if own is None or base is None or own == base:
            return None
        return "gained" if own else "lost"

    def identical(self, model: int) -> bool:
        """Tell whether a model's output is the reference's."""
        return self.replies[model].output == self.replies[0].output

    def excess(self, model: int) -> float | None:
        """Return how much more the reference is surprised at a model's output than at its own."""
        own, base = self.replies[model].surprise, self.replies[0].surprise
        return None if own is None or base is None else own - base


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How one model's outputs differ from the reference's, over all prompts.

    ``equal_tokens`` is the median, over outputs that differ, of the tokens before the first difference,
    and ``near_ties`` counts those of the ``partings`` that are near ties. ``calm`` counts outputs that
    differ and surprise the reference no more than its own, of ``weighed`` whose surprise is known.
    ``p_value`` is that of the exact McNemar test; it and the counts beside it are None without
    expected answers.
    """

    name: str
    prompts: int
    identical: int
    equal_tokens: float | None
    partings: int
    near_ties: int
    surprise: float | None
    calm: int
    weighed: int
    right: int | None = None
    lost: int | None = None
    gained: int | None = None
    p_value: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Models side by side: the reference first, and prompts with what matters most first.

    ``differences`` are those of the models behind the reference; ``surprise`` is the median of the
    reference's surprise at its own outputs, ``right`` how many of its answers are right. ``chat`` tells
    that lines were asked as messages of a user.
    """

    models: tuple[ComparedModel, ...]
    prompts: tuple[ComparedPrompt, ...]
    differences: tuple[Difference, ...]
    prompts_name: str
    surprise: float | None
    right: int | None
    chat: bool
    max_tokens: int
    machine: str
    engine: str

    @property
    def reference(self) -> ComparedModel:
        """The model that the others are compared with."""
        return self.models[0]


def headline(comparison: Comparison) -> str:
    """Return in one line what was compared."""
    count = len(comparison.prompts)
    what = "prompt" if comparison.right is None else "case"
    how = ", as chat messages" if comparison.chat else ""
    names = " and ".join(model.name for model in comparison.models[1:])
    return (
        f"{names} against {comparison.reference.name}: {count} {what}{'s' * (count != 1)} of"
        f" {comparison.prompts_name}, up to {comparison.max_tokens} tokens each, greedy{how}"
    )


def findings(comparison: Comparison) -> tuple[str, ...]:
    """Return in sentences how each model differs, and where that matters as far as it was measured."""
    found: list[str] = []
    for place, difference in enumerate(comparison.differences, start=1):
        found.append(_sameness(comparison, difference))
        if difference.identical == difference.prompts:
            continue
        if difference.lost is not None:
            found.append(_flips(comparison, difference))
        found.extend(_surprise(comparison, difference, place))
    if all(each.identical == each.prompts for each in comparison.differences):
        found.append(
            "No output differs. That holds for these prompts and outputs of this length, for no others."
        )
    elif comparison.right is None:
        first = ", ".join(_shown_ids(comparison))
        found.append(
            f"These prompts have no expected answers, so nothing here says right or wrong. Read {first}"
            f" first: they are what {comparison.reference.name} is most surprised at. Surprise shows"
            " where a text leaves what the reference would say, not whether it is false."
        )
    else:
        found.append(
            "A difference matters where an answer turns wrong: lost cases are listed first, then gained"
            " ones, then the others by surprise."
        )
    return tuple(found)


def to_json(comparison: Comparison) -> str:
    """Return the whole comparison as one JSON document."""
    document = {
        "comparison": SCHEMA,
        **dataclasses.asdict(comparison),
        "findings": findings(comparison),
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def visible(text: str) -> str:
    """Return a text whose control characters are spelled out.

    An output may hold escape sequences, which would move a terminal's cursor, and marks that turn the
    order of what is read.
    """
    return "".join(
        each
        if each in _SHOWN_AS_THEY_ARE
        or (unicodedata.category(each) not in {"Cc", "Cs"} and each not in _BIDIRECTIONAL)
        else each.encode("unicode_escape").decode("ascii")
        for each in text
    )


def surprise(value: float | None) -> str:
    """Return a surprise in nats per byte."""
    return "" if value is None else f"{value:.3f}"


def _sameness(comparison: Comparison, difference: Difference) -> str:
    reference = comparison.reference.name
    text = (
        f"{difference.name}: {difference.identical} of {difference.prompts} outputs are identical to"
        f" {reference}'s"
    )
    if difference.equal_tokens is not None:
        text += f"; the others begin with {difference.equal_tokens:g} equal tokens in the median"
    elif difference.identical < difference.prompts:
        text += "; the two read texts as different tokens, so that where they part is not counted"
    if difference.near_ties:
        text += (
            f", and {difference.near_ties} of {difference.partings} part at a near tie, which the way a"
            " batch is put together can turn, too"
        )
    return f"{text}."


def _flips(comparison: Comparison, difference: Difference) -> str:
    text = (
        f"{difference.name} loses {difference.lost} and gains {difference.gained} of"
        f" {difference.prompts} cases ({difference.right} right, {comparison.reference.name}"
        f" {comparison.right})"
    )
    if difference.p_value is None or not (difference.lost or difference.gained):
        return f"{text}."
    chance = (
        "more than chance explains"
        if difference.p_value < SIGNIFICANT
        else "which chance alone explains, with as few flips"
    )
    return f"{text}: {chance} (exact McNemar p = {difference.p_value:.2g})."


def _surprise(comparison: Comparison, difference: Difference, model: int) -> Iterator[str]:
    ranked = [
        (excess, prompt)
        for prompt in comparison.prompts
        if not prompt.identical(model) and (excess := prompt.excess(model)) is not None
    ]
    if not ranked:
        return
    excess, worst = max(ranked, key=lambda pair: pair[0])
    text = (
        f"{difference.name}: {difference.calm} of the {difference.weighed} that differ are no more"
        f" surprising to {comparison.reference.name} than its own output"
    )
    if excess > 0:
        own, base = worst.replies[model].surprise, worst.replies[0].surprise
        text += (
            f"; the most surprising is {worst.id}: {surprise(own)} nats per byte, {surprise(base)} for"
            " its own"
        )
    yield f"{text}."


def _shown_ids(comparison: Comparison) -> list[str]:
    differing = [
        prompt.id
        for prompt in comparison.prompts
        if not all(prompt.identical(model) for model in range(1, len(comparison.models)))
    ]
    return differing[:MOST_LISTED]
