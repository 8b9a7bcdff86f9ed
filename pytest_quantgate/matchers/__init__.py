"""Whether an output is what a case expected, and the reason in one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pytest_quantgate.matchers.match import Match, Matcher

if TYPE_CHECKING:
    from collections.abc import Callable

Kind = Literal["contains", "exact", "regex", "number", "json", "json_schema", "choice"]

_OPTIONS = {
    "number": ("absolute", "relative", "which", "notation"),
    "choice": ("options",),
}

__all__ = ["Kind", "Match", "Matcher", "matcher_for"]


def matcher_for(kind: Kind, expected: object, **options: object) -> Matcher:
    """Return the matcher of a kind for an expectation.

    =============  =====================================  ========================================
    kind           expected                               options
    =============  =====================================  ========================================
    `contains`     text                                   none
    `exact`        text                                   none
    `regex`        a pattern of Python's `re`             none
    `number`       a number, or text that is one          `absolute`, `relative`: tolerances;
                                                          `which`: answer, last, first;
                                                          `notation`: point, comma
    `json`         JSON as text, or its value             none
    `json_schema`  a schema as JSON text, or its value    none
    `choice`       the label or full text of an option    `options`: texts, or label: text
    =============  =====================================  ========================================

    Raises:
        ValueError: an expectation or option that cannot be used, in one sentence.
    """
    builders: dict[str, Callable[..., Matcher]] = {
        "contains": _contains,
        "exact": _exact,
        "regex": _regex,
        "number": _number,
        "json": _json,
        "json_schema": _json_schema,
        "choice": _choice,
    }
    if kind not in builders:
        message = f"unknown matcher {kind!r}; there are {', '.join(builders)}"
        raise ValueError(message)
    unknown = ", ".join(sorted(options.keys() - _OPTIONS.get(kind, ())))
    if unknown:
        message = f"the matcher {kind!r} has no option {unknown}"
        raise ValueError(message)
    return builders[kind](expected, **options)


def _text(expected: object) -> str:
    if not isinstance(expected, str) or not expected:
        message = f"the expected text is {expected!r}; write some text"
        raise ValueError(message)
    return expected


# Imported where they are asked for: a run of `contains` cases needs none of the others.


def _contains(expected: object) -> Matcher:
    from pytest_quantgate.matchers.text import ContainsMatcher  # noqa: PLC0415 - only its cases need it

    return ContainsMatcher(expected=_text(expected))


def _exact(expected: object) -> Matcher:
    from pytest_quantgate.matchers.text import ExactMatcher  # noqa: PLC0415 - only its cases need it

    return ExactMatcher(expected=_text(expected))


def _regex(expected: object) -> Matcher:
    from pytest_quantgate.matchers.text import RegexMatcher  # noqa: PLC0415 - only its cases need it

    return RegexMatcher.of(_text(expected))


def _number(expected: object, **options: object) -> Matcher:
    from pytest_quantgate.matchers.numbers import number_matcher  # noqa: PLC0415 - only its cases need it

    return number_matcher(expected, **options)  # type: ignore[arg-type]


def _json(expected: object) -> Matcher:
    from pytest_quantgate.matchers.structure import JsonMatcher  # noqa: PLC0415 - only its cases need it

    return JsonMatcher.of(expected)


def _json_schema(expected: object) -> Matcher:
    from pytest_quantgate.matchers.schema import JsonSchemaMatcher  # noqa: PLC0415 - only its cases need it

    return JsonSchemaMatcher.of(expected)


def _choice(expected: object, *, options: object = ()) -> Matcher:
    from pytest_quantgate.matchers.choice import ChoiceMatcher  # noqa: PLC0415 - only its cases need it

    return ChoiceMatcher.of(expected, options=options)
