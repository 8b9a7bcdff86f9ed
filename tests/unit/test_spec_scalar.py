"""Plain YAML scalars: what they mean, and which are refused because readers disagree."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantgate.spec.scalar import (
    MAX_INTEGER,
    MAX_TEXT,
    Scalar,
    ScalarError,
    checked_float,
    checked_integer,
    checked_text,
    resolve,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("true", True),
        ("FALSE", False),
        ("0", 0),
        ("-12", -12),
        ("+5", 5),
        ("1.10", 1.1),
        (".5", 0.5),
        ("1.", 1.0),
        ("1.0e-3", 0.001),
        ("-2.5E+2", -250.0),
        ("Q4_K_M", "Q4_K_M"),
        ("3%", "3%"),
        ("2pp", "2pp"),
        ("1.10.0", "1.10.0"),
        ("y", "y"),
        ("nan", "nan"),
        ("2024-01-31", "2024-01-31"),
        ("builtin:python-docs", "builtin:python-docs"),
        ("0x", "0x"),
        ("_1", "_1"),
    ],
)
def test_plain_scalars_mean_what_both_versions_of_yaml_say(text: str, value: Scalar) -> None:
    """A scalar that is not in dispute has the one value everybody gives it, and its type."""
    found = resolve(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "no",
            (
                "no is a truth value in one version of YAML and a text in the other;"
                " write true or false, or quote it: 'no'"
            ),
        ),
        (
            "1e-3",
            (
                "1e-3 is a text in one version of YAML and a number in the other;"
                " write 1.0e-3 or 0.001"
            ),
        ),
        (
            "1.5e3",
            (
                "1.5e3 is a text in one version of YAML and a number in the other;"
                " write 1.5e+3 or 1500"
            ),
        ),
        (
            "1e-30",
            "1e-30 is a text in one version of YAML and a number in the other; write 1.0e-30",
        ),
        (
            "1e999",
            "1e999 is a text in one version of YAML and a number in the other; quote it",
        ),
        ("08", "08 has a leading zero, which can mean base 8; remove the zero, or quote it"),
        ("017", "017 has a leading zero, which can mean base 8; remove the zero, or quote it"),
        ("00.5", "00.5 has a leading zero, which can mean base 8; remove the zero, or quote it"),
        ("0o17", "0o17 is not a decimal number; write it in decimal, or quote it"),
        ("0x1F", "0x1F is not a decimal number; write it in decimal, or quote it"),
        (
            "1:30",
            (
                "1:30 is a number to the base of 60 in one version of YAML and a text in the other;"
                " write the number in decimal, or quote it"
            ),
        ),
        (
            "1_000",
            (
                "1_000 is a number in one version of YAML and a text in the other;"
                " write 1000, or quote it"
            ),
        ),
        (".nan", ".nan is not a finite number; write the number that is meant"),
        ("-.inf", "-.inf is not a finite number; write the number that is meant"),
        ("1.0e+999", "inf is not a finite number; write the number that is meant"),
        ("9" * 5000, "the number is too large"),
    ],
)
def test_disputed_scalars_are_refused_with_advice(text: str, message: str) -> None:
    """What YAML 1.1 and 1.2 read differently is an error that says what to write instead."""
    with pytest.raises(ScalarError) as caught:
        resolve(text)
    assert str(caught.value) == message


@pytest.mark.parametrize("word", ["yes", "Yes", "YES", "off", "On", "NO"])
def test_every_spelling_of_a_disputed_boolean_is_refused(word: str) -> None:
    """Capitals do not make a disputed truth value less disputed."""
    with pytest.raises(ScalarError, match="truth value"):
        resolve(word)


def test_integers_end_where_json_numbers_do() -> None:
    """2**53 is the last integer taken; one more is refused, in both directions."""
    assert checked_integer(MAX_INTEGER - 1) == 2**53 - 1
    assert checked_integer(MAX_INTEGER) == 2**53
    assert checked_integer(-MAX_INTEGER) == -(2**53)
    for beyond in (MAX_INTEGER + 1, -MAX_INTEGER - 1):
        with pytest.raises(ScalarError, match="the number is too large"):
            checked_integer(beyond)


def test_texts_end_at_their_longest() -> None:
    """A text of the greatest length is taken; one character more is refused with its length."""
    assert len(checked_text("x" * (MAX_TEXT - 1))) == MAX_TEXT - 1
    assert len(checked_text("x" * MAX_TEXT)) == MAX_TEXT
    with pytest.raises(ScalarError) as caught:
        checked_text("x" * (MAX_TEXT + 1))
    assert str(caught.value) == "a text of 4,097 characters; at most 4,096 are allowed"


@pytest.mark.parametrize("character", ["\n", "\x00", "\x1b", "\x85", "\u2028", "\ud83d"])
def test_texts_hold_no_control_characters(character: str) -> None:
    """Line breaks, controls and lone surrogates cannot be part of any name or path."""
    with pytest.raises(ScalarError) as caught:
        checked_text(f"a{character}b")
    shown = f"U+{ord(character):04X}"
    assert str(caught.value) == f"the text holds the character {shown}; write it on one line"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_are_finite(value: float) -> None:
    """NaN would pass or fail every limit; infinity switches one off."""
    with pytest.raises(ScalarError, match="not a finite number"):
        checked_float(value)


@given(st.integers(-MAX_INTEGER, MAX_INTEGER))
def test_written_integers_come_back(number: int) -> None:
    """The decimal form of an integer means that integer."""
    assert resolve(str(number)) == number


@given(st.text(max_size=30))
def test_any_text_is_a_value_or_refused(text: str) -> None:
    """No scalar makes the resolver fail in another way than its own."""
    try:
        value = resolve(text)
    except ScalarError:
        return
    assert value is None or isinstance(value, (bool, int, float, str))
