"""Which of several options an output chooses, by label or by full text.

A label is written ``(b)``, ``B.``, ``B)``, ``B:``, ``**B**``, as the whole output, first in the output,
or behind ``answer``, ``option``, ``choice``, ``and`` or ``or``. Without brackets it counts in lower
case only as the whole output, first in a line or behind ``option`` or ``choice``; ``A`` and ``I``
before a word in lower case are an article and a pronoun. A text counts in any case where no letter
or digit adjoins it; inside a longer option's text it does not. Whatever names two options is
ambiguous, also where it names one only to reject it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from string import ascii_uppercase

from pytest_quantgate.matchers.match import Match, shown

_WORDS = "answer|option|choice"
_ARTICLES = ("A", "I")
# What may follow a label rather than a noun behind an article: "A is right", "A because ...".
_VERBS = "is|because|since|as|so|which|and|or"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceMatcher:
    """One option is chosen, and it is the expected one."""

    expected: str
    options: tuple[tuple[str, str], ...]
    _labels: re.Pattern[str] = field(repr=False, compare=False)

    @classmethod
    def of(cls, expected: object, *, options: object = ()) -> ChoiceMatcher:
        """Return the matcher of a label, or of an option's full text.

        Args:
            expected: the label or the text of the right option.
            options: texts, labelled A, B, ... in their order; or label: text.

        Raises:
            ValueError: fewer than two options, two that are the same, or none that is expected.
        """
        pairs = _pairs(options)
        right = [
            label
            for label, text in pairs
            if isinstance(expected, str) and expected.strip().casefold() in _names(label, text)
        ]
        if len(right) != 1:
            known = ", ".join(f"{label}: {shown(text)}" for label, text in pairs)
            message = f"'expected' is {expected!r}, which names {len(right)} of the options {known}"
            raise ValueError(message)
        return cls(expected=right[0], options=pairs, _labels=_label_pattern(pairs))

    def matches(self, output: str) -> Match:
        """Judge what the output chooses."""
        chosen = self._chosen(output)
        if len(chosen) > 1:
            reason = (
                f"the output names {' and '.join(chosen)}, which is ambiguous, expected"
                f" {self.expected}"
            )
            return Match(ok=False, reason=reason)
        if not chosen:
            reason = f"the output names none of the options, expected {self.expected}"
            return Match(ok=False, reason=reason)
        if chosen == [self.expected]:
            return Match(ok=True, reason=f"the output chooses {self.expected}, as expected")
        reason = f"the output chooses {chosen[0]}, expected {self.expected}"
        return Match(ok=False, reason=reason)

    def _chosen(self, output: str) -> list[str]:
        bare = output.strip().strip("*_`\"'().: \n").casefold()
        whole = [label for label, text in self.options if bare in _names(label, text)]
        if whole:
            return whole
        folded = output.casefold()
        texts = {text.casefold(): label for label, text in self.options}
        # The longest first: New York is not named where New York City is.
        longest = "|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True))
        named = {texts[match[0]] for match in re.finditer(rf"(?<!\w)(?:{longest})(?!\w)", folded)}
        labels = {label.casefold(): label for label, _ in self.options}
        for match in self._labels.finditer(output):
            named.add(labels[next(group for group in match.groups() if group).casefold()])
        return [label for label, _ in self.options if label in named]


def _names(label: str, text: str) -> tuple[str, str]:
    return label.casefold(), text.strip().strip("*_`\"'().: \n").casefold()


def _pairs(options: object) -> tuple[tuple[str, str], ...]:
    pairs: list[tuple[object, object]] = []
    if isinstance(options, Mapping):
        pairs = list(options.items())
    elif isinstance(options, Sequence) and not isinstance(options, str):
        if len(options) > len(ascii_uppercase):
            message = f"there are {len(options)} options, at most {len(ascii_uppercase)}"
            raise ValueError(message)
        pairs = list(zip(ascii_uppercase, options, strict=False))
    texts: list[tuple[str, str]] = []
    for label, text in pairs:
        written = isinstance(label, str) and re.fullmatch(r"\w{1,3}", label)
        if not (isinstance(label, str) and written and isinstance(text, str) and text.strip()):
            message = (
                f"the option {label!r}: {text!r} is none; write a label of one to three letters"
                " or digits, and a text"
            )
            raise ValueError(message)
        texts.append((label, text.strip()))
    least = 2
    if len(texts) < least:
        message = f"there are {len(texts)} options; write at least {least}"
        raise ValueError(message)
    names = [name for label, text in texts for name in dict.fromkeys(_names(label, text))]
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        message = f"two options are named {shown(repeated[0])!r}"
        raise ValueError(message)
    return tuple(texts)


def _label_pattern(pairs: tuple[tuple[str, str], ...]) -> re.Pattern[str]:
    labels = [label for label, _ in pairs]
    either = "|".join(re.escape(label) for label in labels)
    anycase = f"(?i:{either})"
    articles = "|".join(label for label in labels if label in _ARTICLES)
    # An article has a noun behind it; what has not is a label.
    guard = rf"(?!(?<=\b(?:{articles}))[ ](?!(?:{_VERBS})\b)[a-z])" if articles else ""
    forms = (
        rf"(?<!\w)[(\[]({anycase})[)\]]",
        rf"(?<![\w.])({either})[.):](?!\w)",
        rf"^[ \t]*({anycase})[.):](?!\w)",
        rf"\*\*({either})\*\*",
        rf"(?i:\b(?:option|choice))[ ][*(]{{0,3}}({anycase})(?!\w)",
        rf"(?i:\b(?:{_WORDS})(?:[ ]is)?)[ ]?:?\s{{0,3}}[*(]{{0,3}}({either})(?!\w){guard}",
        rf"(?<=\bor[ ])({either})(?!\w){guard}",
        rf"(?<=\band[ ])({either})(?!\w){guard}",
        rf"\A\s*({either})(?!\w){guard}",
    )
    return re.compile("|".join(forms), re.MULTILINE)
