"""The number an output answers with, and whether it is the expected one.

**What a number is.** ASCII or other decimal digits with, in the notation ``point``, a point before
decimals and a comma between groups of three; in ``comma``, the other way round. Groups may also be
parted by apostrophes, no-break or thin spaces (not by plain spaces, which part numbers). Before it
a sign (``+``, ``-``, U+2212) that follows no letter, digit or bracket, and a currency sign, in
either order. Fractions ``3/4``, ``1 1/2``, ``1½``; scientific notation ``1.5e3``, ``1.5 x 10^3``
(or U+00D7, a middle dot, an asterisk; or superscripts). ``%`` or ``percent`` behind it divides by
100: 50% is 0.5 and never 50. Digits behind a letter (``H2O``) are no number, letters behind digits
(``5km``) are a unit; ``1.2.3`` is no number; ``1,2,3`` are three in the notation ``point``. Numbers
are exact fractions, so that tolerances are exact too.

**Which number counts.** ``answer``: the first behind the last ``=``, U+2248, ``####`` or word
``answer`` that has one behind it, and where there is none the last; ``last``; ``first``.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Literal, get_args

from pytest_quantgate.matchers.match import Match, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

Which = Literal["answer", "last", "first"]
Notation = Literal["point", "comma"]

LONGEST_NUMBER = 400  # digits, and the largest exponent
_SPACES = "'\u2019\u00a0\u202f\u2009"
_MARKER = re.compile(r"=|\u2248|####|\banswer\b", re.IGNORECASE)
_CURRENCY = "".join(chr(code) for code in range(0x20C1) if unicodedata.category(chr(code)) == "Sc")
_DIGITS = rf"[0-9](?:[0-9.,{_SPACES}]*[0-9])?"
_SIGN = r"(?<![\w)\]])[+\-\u2212]"
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_NUMBER = re.compile(
    rf"""
    (?P<before>{_SIGN})?
    (?:[{re.escape(_CURRENCY)}][ \u00a0]?)?
    (?P<after>{_SIGN})?
    (?:
        (?<![\w.])(?P<whole>[0-9]{{1,{LONGEST_NUMBER}}})?(?P<vulgar>[\u00bc-\u00be\u2150-\u215e])
      | (?<![\w./])(?:(?P<mixed>[0-9]{{1,{LONGEST_NUMBER}}})[ ])?
        (?P<over>[0-9]{{1,{LONGEST_NUMBER}}})[ ]?[/\u2044][ ]?
        (?P<under>0{{0,9}}[1-9][0-9]{{0,{LONGEST_NUMBER}}})(?![\w/]|[.,][0-9])
      | (?<![\w.])(?P<plain>{_DIGITS}|[.,]{_DIGITS})
        (?:
            [eE](?P<e>[+\-\u2212]?[0-9]+)(?!\w)
          | [ ]?[\u00d7\u00b7xX*][ ]?10
            (?:\^\{{?(?P<power>[+\-\u2212]?[0-9]+)\}}?|(?P<raised>[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+))
        )?
    )
    (?P<percent>[ \u00a0]?(?:%|per[ ]?cent\b))?
    """,
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A number of a text: its value, or none where it has too many digits, and where it stands."""

    value: Fraction | None
    text: str
    start: int


def numbers(text: str, *, notation: Notation = "point") -> Iterator[Found]:
    """Yield the numbers of a text in its order; the module says what a number is."""
    plain = "".join(_ascii_digit(character) for character in text)
    for match in _NUMBER.finditer(plain):
        yield from _read(match, notation)


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberMatcher:
    """The answer's number is the expected one, or as near as the larger of two tolerances.

    ``absolute`` is in the number's own unit, ``relative`` a share of the expected number's size; a
    distance equal to a tolerance is within it.
    """

    expected: Fraction
    written: str
    absolute: Fraction = Fraction(0)
    relative: Fraction = Fraction(0)
    which: Which = "answer"
    notation: Notation = "point"

    def matches(self, output: str) -> Match:
        """Compare the number that counts; an output without any is wrong."""
        found, name = self._answer(output)
        if found is None:
            return Match(ok=False, reason=f"the output has no number, expected {self.written}")
        says = f"{name} is {shown(found.text)}"
        if found.value is None:
            reason = f"{says}, which has more than {LONGEST_NUMBER} digits, expected {self.written}"
            return Match(ok=False, reason=reason)
        distance = abs(found.value - self.expected)
        ok = distance <= max(self.absolute, self.relative * abs(self.expected))
        if ok and not distance:
            return Match(ok=True, reason=f"{says}, as expected")
        within = self._tolerances()
        if ok:
            return Match(ok=True, reason=f"{says}, within {within} of {self.written}")
        expected = f"{self.written} within {within}" if within else self.written
        return Match(ok=False, reason=f"{says}, expected {expected}")

    def _answer(self, output: str) -> tuple[Found | None, str]:
        found = list(numbers(output, notation=self.notation))
        if not found:
            return None, ""
        if self.which == "first":
            return found[0], "the first number"
        if self.which == "answer":
            # A marker counts only with a number behind it: "42 is the answer".
            markers = [m for m in _MARKER.finditer(output) if m.start() < found[-1].start]
            if markers:
                marker = markers[-1]
                number = next(one for one in found if one.start >= marker.end())
                return number, f"the number behind '{marker[0].lower()}'"
        return found[-1], "the last number"

    def _tolerances(self) -> str:
        parts = [f"{float(self.absolute):g}"] if self.absolute else []
        if self.relative:
            parts.append(f"{float(self.relative * 100):g}%")
        return " or ".join(parts)


def number_matcher(
    expected: object,
    *,
    absolute: object = 0,
    relative: object = 0,
    which: Which = "answer",
    notation: Notation = "point",
) -> NumberMatcher:
    """Return the matcher of a number, given as such or as text in the same notation as outputs.

    Raises:
        ValueError: no number or several, a tolerance that is none, an unknown option.
    """
    for name, option, known in (("which", which, Which), ("notation", notation, Notation)):
        if option not in get_args(known):
            message = f"{name!r} is {option!r}; it is one of {', '.join(get_args(known))}"
            raise ValueError(message)
    written = expected.strip() if isinstance(expected, str) else f"{expected}"
    if isinstance(expected, str):
        found = list(numbers(written, notation=notation))
        # What a sign or unit around the number would mean is not guessed.
        alone = len(found) == 1 and found[0].text == "".join(map(_ascii_digit, written))
        value = found[0].value if alone else None
    else:
        value = _exact(expected)
    if value is None:
        message = f"'expected' is {shown(written)!r}; write one number, such as 42 or 3.5"
        raise ValueError(message)
    return NumberMatcher(
        expected=value,
        written=written,
        absolute=_tolerance("absolute", absolute),
        relative=_tolerance("relative", relative),
        which=which,
        notation=notation,
    )


def _read(match: re.Match[str], notation: Notation) -> Iterator[Found]:
    signed = f"{match['before'] or ''}{match['after'] or ''}"
    # Two are a dash of typewriters, not a sign.
    sign = -1 if len(signed) == 1 and signed != "+" else 1
    scale = Fraction(1, 100) if match["percent"] else Fraction(1)
    if match["vulgar"]:
        part = Fraction(unicodedata.numeric(match["vulgar"])).limit_denominator(10)
        value = int(match["whole"] or 0) + part
    elif match["over"]:
        value = int(match["mixed"] or 0) + Fraction(int(match["over"]), int(match["under"]))
    else:
        yield from _plain(match, sign * scale, notation)
        return
    yield Found(value=value * sign * scale, text=match[0].strip(), start=match.start())


def _plain(match: re.Match[str], scale: Fraction, notation: Notation) -> Iterator[Found]:
    """Yield the number of a run of digits and separators, or the numbers of a list of them."""
    point, comma = (".", ",") if notation == "point" else (",", ".")
    run = match["plain"]
    whole, *rest = _mark(run, point, comma)
    if rest:
        raised = (match["raised"] or "").translate(_SUPERSCRIPTS)
        exponent = (match["e"] or match["power"] or raised or "0").replace("\u2212", "-")
        value = _decimal(rest[0], rest[1], exponent)
        text, start = match[0].strip(), match.start()
        yield Found(value=None if value is None else value * scale, text=text, start=start)
    elif whole == "list":
        start = match.start("plain")
        for part in run.split(","):
            _, *digits = _mark(part, point, comma)
            if digits:
                yield Found(value=_decimal(digits[0], digits[1], "0"), text=part, start=start)
            start += len(part) + 1


def _mark(run: str, point: str, comma: str) -> list[str]:
    """Return what a run is: a number with its whole and decimal digits, a list, or none."""
    groups = rf"[0-9]{{1,3}}(?P<gap>[{comma}{_SPACES}])[0-9]{{3}}(?:(?P=gap)[0-9]{{3}})*"
    form = rf"(?P<whole>[0-9]+|{groups})?(?:{re.escape(point)}(?P<decimals>[0-9]+))?"
    match = re.fullmatch(form, run)
    if match:
        return ["number", re.sub(r"[^0-9]", "", match["whole"] or ""), match["decimals"] or ""]
    return ["list"] if comma == "," and "," in run else ["none"]


def _decimal(whole: str, decimals: str, exponent: str) -> Fraction | None:
    """Return the value, or none beyond `LONGEST_NUMBER`, where it would fill the memory."""
    if len(whole) + len(decimals) > LONGEST_NUMBER or len(exponent) > LONGEST_NUMBER:
        return None
    power = int(exponent)
    if abs(power) > LONGEST_NUMBER:
        return None
    return Fraction(int(whole + decimals or "0"), 10 ** len(decimals)) * Fraction(10) ** power


def _ascii_digit(character: str) -> str:
    return str(unicodedata.decimal(character, character))


def _exact(value: object) -> Fraction | None:
    """Return a number as it was written: 0.1 is a tenth."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return Fraction(repr(value))
    except ValueError:  # not finite
        return None


def _tolerance(name: str, value: object) -> Fraction:
    exact = _exact(value)
    if exact is None or exact < 0:
        message = f"{name!r} is {value!r}; write a tolerance of 0 or more, such as 0.5"
        raise ValueError(message)
    return exact
