"""Percentages, percentage points and durations: with their unit or not at all."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from pytest_quantgate.quantity import (
    Duration,
    Percentage,
    Points,
    parse_duration,
    parse_percentage,
    parse_points,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [("3%", 0.03), ("3 %", 0.03), ("0%", 0.0), ("2.5%", 0.025), ("100%", 1.0), ("250%", 2.5)],
)
def test_a_percentage_is_a_hundredth(text: str, value: float) -> None:
    """A number with a percent sign is divided by a hundred."""
    assert parse_percentage(text) == value


@pytest.mark.parametrize(
    ("text", "value"), [("2pp", 0.02), ("2 pp", 0.02), ("0pp", 0.0), ("0.5pp", 0.005)]
)
def test_a_point_is_a_hundredth(text: str, value: float) -> None:
    """A number of percentage points is divided by a hundred."""
    assert parse_points(text) == value


@pytest.mark.parametrize(
    "value",
    [
        "3", 3, 0.03, True, None, "", "%", "-3%", "+3%", "3%%", " 3%", "3% ", "3\n%", "3%\n",
        ".5%", "3.%", "1e3%", "nan%", "inf%", "3,5%", "٣%", "3pp", "9999999999%",
    ],
)  # fmt: skip
def test_anything_else_is_no_percentage(value: object) -> None:
    """A bare number, another unit, a sign and other digits are refused with what to write."""
    with pytest.raises(ValueError, match=r'^write it with its unit, such as "3%"$'):
        parse_percentage(value)


@pytest.mark.parametrize("value", ["2", 2, "2%", "2p", "2 pp ", "-2pp", ["2pp"]])
def test_anything_else_is_no_percentage_point(value: object) -> None:
    """A percent sign in place of points would mean something else, so it is refused too."""
    with pytest.raises(ValueError, match=r'^write it with its unit, such as "2pp"$'):
        parse_points(value)


@given(st.integers(min_value=0, max_value=10**9 - 1), st.from_regex(r"[0-9]{1,9}", fullmatch=True))
def test_the_schema_and_the_parser_agree(whole: int, part: str) -> None:
    """What the pattern in the JSON schema accepts, the parser turns into the number it says."""
    if not part.isascii():
        return
    for kind, unit in ((Percentage, "%"), (Points, "pp")):
        adapter: TypeAdapter[float] = TypeAdapter(kind)
        text = f"{whole}.{part}{unit}"
        assert re.search(adapter.json_schema()["pattern"], text)
        assert adapter.validate_python(text) == float(f"{whole}.{part}") / 100


@given(st.text(max_size=12))
def test_no_other_text_gets_through(text: str) -> None:
    """A text that the schema's pattern rejects is rejected by the parser, and the other way round."""
    adapter: TypeAdapter[float] = TypeAdapter(Percentage)
    pattern = adapter.json_schema()["pattern"]
    try:
        adapter.validate_python(text)
    except ValidationError:
        accepted = False
    else:
        accepted = True
    assert accepted == bool(re.fullmatch(pattern, text))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90.0),
        ("5min", 300.0),
        ("1h", 3600.0),
        ("0.5 h", 1800.0),
        ("1.5 s", 1.5),
        ("0s", 0.0),
    ],
)
def test_a_duration_is_seconds(text: str, seconds: float) -> None:
    """Seconds, minutes and hours become seconds."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "value",
    ["90", 90, 1.5, True, None, "", "s", "-1s", "1m", "1ms", "1 hour", "1h30min", "1s\n", "1S"],
)
def test_anything_else_is_no_duration(value: object) -> None:
    """A bare number and units with two meanings are refused with what to write."""
    with pytest.raises(
        ValueError, match=r'^write it with its unit, such as "90s", "5min" or "1h"$'
    ):
        parse_duration(value)


@given(st.text(max_size=12))
def test_schema_and_parser_agree_on_durations(text: str) -> None:
    """A text is a duration to the parser exactly where it is one to the schema's pattern."""
    adapter: TypeAdapter[float] = TypeAdapter(Duration)
    pattern = adapter.json_schema()["pattern"]
    try:
        adapter.validate_python(text)
    except ValidationError:
        accepted = False
    else:
        accepted = True
    assert accepted == bool(re.fullmatch(pattern, text))
