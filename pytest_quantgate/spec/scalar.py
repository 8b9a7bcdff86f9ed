"""Plain YAML scalars, read strictly: whatever two readers could understand differently is refused.

YAML 1.1 (which PyYAML follows) and 1.2 disagree on what ``no``, ``1e-3``, ``08``, ``1:30`` and
``1_000`` are. A limit must not depend on that, so each of them is an error that says what to write.
"""

from __future__ import annotations

import math
import re

Scalar = str | int | float | bool | None

MAX_TEXT = 4096
"""Characters a text may have; the longest sensible one is a path."""

MAX_INTEGER = 2**53
"""The largest integer that a JSON number carries exactly."""

_WORDS: dict[str, bool | None] = {
    "": None,
    "~": None,
    **dict.fromkeys(("null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_BOOLEAN_IN_ONE_YAML_ONLY = frozenset(
    word for base in ("yes", "no", "on", "off") for word in (base, base.capitalize(), base.upper())
)
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+)(?:[eE][-+][0-9]+)?")
_ANY_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_OTHER_BASE = re.compile(r"[-+]?0(?:[xX][0-9a-fA-F_]+|[oO][0-7_]+|[bB][01_]+)")
_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")
_UNDERSCORED = re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class ScalarError(ValueError):
    """A scalar that is refused; the text says why and what to write."""


def resolve(text: str) -> Scalar:
    """Return what an unquoted scalar means.

    Raises:
        ScalarError: for anything that YAML 1.1 and 1.2 read differently, and for what is no finite
            number or is too large.
    """
    if text in _WORDS:
        return _WORDS[text]
    if text in _BOOLEAN_IN_ONE_YAML_ONLY:
        message = f"{text} is a truth value in one version of YAML and a text in the other; "
        raise ScalarError(message + f"write true or false, or quote it: '{text}'")
    if _INTEGER.fullmatch(text):
        return checked_integer(int(text)) if len(text) <= MAX_TEXT else _too_large()
    if _FLOAT.fullmatch(text):
        return checked_float(float(text))
    _refuse_other_numbers(text)
    return checked_text(text)


def _refuse_other_numbers(text: str) -> None:
    if _NOT_FINITE.fullmatch(text):
        message = f"{text} is not a finite number; write the number that is meant"
    elif _OTHER_BASE.fullmatch(text):
        message = f"{text} is not a decimal number; write it in decimal, or quote it"
    elif _SEXAGESIMAL.fullmatch(text):
        message = (
            f"{text} is a number to the base of 60 in one version of YAML and a text in the"
            " other; write the number in decimal, or quote it"
        )
    elif _ANY_NUMBER.fullmatch(text):
        message = _ambiguous_number(text)
    elif "_" in text and _UNDERSCORED.fullmatch(text):
        message = (
            f"{text} is a number in one version of YAML and a text in the other;"
            f" write {text.replace('_', '')}, or quote it"
        )
    else:
        return
    raise ScalarError(message)


def _ambiguous_number(text: str) -> str:
    if "e" not in text.lower():
        return f"{text} has a leading zero, which can mean base 8; remove the zero, or quote it"
    value = float(text)
    advice = "quote it"
    if math.isfinite(value):
        mantissa, _, exponent = f"{value:e}".partition("e")
        mantissa = mantissa.rstrip("0")
        mantissa += "0" if mantissa.endswith(".") else ""
        advice = f"write {mantissa}e{exponent[0]}{int(exponent[1:])}"
        spelled = f"{value:.12f}".rstrip("0").rstrip(".")
        if float(spelled) == value:
            advice += f" or {spelled}"
    return f"{text} is a text in one version of YAML and a number in the other; {advice}"


def _too_large() -> int:
    message = "the number is too large"
    raise ScalarError(message)


def checked_integer(value: int) -> int:
    """Return the integer, unless a JSON number could not carry it.

    Raises:
        ScalarError: beyond 2**53.
    """
    return value if abs(value) <= MAX_INTEGER else _too_large()


def checked_float(value: float) -> float:
    """Return the number, unless it is NaN or infinite.

    Raises:
        ScalarError: for either of them.
    """
    if not math.isfinite(value):
        message = f"{value} is not a finite number; write the number that is meant"
        raise ScalarError(message)
    return value


def checked_text(text: str) -> str:
    """Return the text, unless it is overlong or holds what cannot be part of a name or path.

    Raises:
        ScalarError: for more than `MAX_TEXT` characters, line breaks and control characters.
    """
    if len(text) > MAX_TEXT:
        message = f"a text of {len(text):,} characters; at most {MAX_TEXT:,} are allowed"
        raise ScalarError(message)
    found = _CONTROL.search(text)
    if found:
        message = f"the text holds the character U+{ord(found[0]):04X}; write it on one line"
        raise ScalarError(message)
    return text
