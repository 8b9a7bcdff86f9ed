"""Percentages and percentage points: with their unit or not at all."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from pytest_quantgate.quantity import Percentage, Points, parse_percentage, parse_points


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
