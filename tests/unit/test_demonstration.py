"""Quantization for teaching: its numbers, its edges, and the page that explains with it."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantgate.artifact.catalog import QUANTIZATION_TYPES, TENSOR_TYPES_BY_NAME
from pytest_quantgate.artifact.demonstration import (
    bits_per_weight,
    dequantize,
    group_dequantize,
    group_quantize,
    naive_quantize_int8,
    round_trip_error,
)

PAGE = Path(__file__).parents[2] / "docs" / "quantization-explained.md"

WEIGHTS = st.lists(st.floats(min_value=-1e30, max_value=1e30), min_size=1, max_size=200)


def test_the_worked_example() -> None:
    """Five weights become the integers and the scale that a hand calculation gives."""
    original = np.array([0.15, -0.42, 0.89, -0.03, 0.67])

    quantized, scale = naive_quantize_int8(original)

    assert quantized.dtype == np.int8
    assert quantized.tolist() == [21, -60, 127, -4, 96]
    assert f"{scale:.4f}" == "0.0070"
    restored = dequantize(quantized, scale)
    assert restored.dtype == np.float32
    assert np.abs(original - restored).max() < 0.0035
    assert np.round(restored, 4).tolist() == pytest.approx([0.1472, -0.4205, 0.89, -0.028, 0.6728])


@given(WEIGHTS)
def test_the_error_of_int8_is_at_most_half_a_step(weights: list[float]) -> None:
    """No weight comes back further away than half of the scale, but for the digits of a float."""
    quantized, scale = naive_quantize_int8(weights)
    restored = dequantize(quantized, scale)

    largest = max(abs(each) for each in weights)
    slack = largest * 1e-6 + 127 * float(np.finfo(np.float32).tiny)
    assert np.abs(np.array(weights) - restored).max() <= scale / 2 + slack or scale == 1


@given(WEIGHTS, st.integers(1, 64), st.integers(2, 8))
def test_groups_restore_within_half_a_step_of_their_own(
    weights: list[float], group_size: int, bits: int
) -> None:
    """Each group has its own scale, and its error at most half of that."""
    groups = group_quantize(weights, group_size, bits=bits)
    restored = group_dequantize(groups)

    steps = np.repeat(groups["scales"], group_size)[: len(weights)]
    error = np.abs(np.array(weights) - restored)
    slack = np.abs(weights) * 1e-6
    tiny = 127 * float(np.finfo(np.float32).tiny)
    assert ((error <= steps / 2 + slack) | (np.abs(weights) <= tiny)).all()
    assert np.abs(groups["quantized"]).max() <= 2 ** (bits - 1) - 1


@pytest.mark.parametrize("shape", [(127,), (128,), (129,), (2, 3, 50), (0,), (0, 4)])
def test_groups_keep_the_shape(shape: tuple[int, ...]) -> None:
    """A last group that is not full is filled up, and what was filled up does not come back."""
    weights = np.linspace(-1, 1, int(np.prod(shape))).reshape(shape)

    groups = group_quantize(weights, 128)

    assert groups["quantized"].shape == (-(-weights.size // 128), 128)
    assert groups["original_shape"] == shape
    assert group_dequantize(groups).shape == shape


def test_one_large_weight_costs_only_its_own_group() -> None:
    """With one scale for all, everything small is lost; with groups, nothing outside its group."""
    weights = np.full(256, 0.01)
    weights[0] = 10.0

    alone, scale = naive_quantize_int8(weights)
    grouped = group_dequantize(group_quantize(weights, 32))

    assert (dequantize(alone, scale)[1:] == 0).all()
    assert (grouped[1:32] == 0).all()
    assert np.allclose(grouped[32:], 0.01)


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1e-45, -1e-40], []])
def test_nothing_to_scale(weights: list[float]) -> None:
    """Zeros, numbers too small for a scale, and no numbers at all become zeros with scale 1."""
    quantized, scale = naive_quantize_int8(weights)

    assert (scale, quantized.tolist()) == (1.0, [0] * len(weights))
    assert group_dequantize(group_quantize(weights)).tolist() == [0.0] * len(weights)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39])
def test_weights_that_no_scale_fits(bad: float) -> None:
    """NaN, infinity and what 32 bits cannot hold are refused, not turned into some number."""
    sentence = "1 of 3 weights are NaN, infinite or beyond 32-bit floats"
    with pytest.raises(ValueError, match=sentence):
        naive_quantize_int8([1.0, bad, 2.0])
    with pytest.raises(ValueError, match=sentence):
        group_quantize([1.0, bad, 2.0])


@pytest.mark.parametrize(("group_size", "fine"), [(0, False), (1, True)])
def test_the_smallest_group(group_size: int, fine: bool) -> None:  # noqa: FBT001 - a case
    """A group has one weight at least, which then comes back as it was."""
    if fine:
        assert group_dequantize(group_quantize([0.3], group_size)) == pytest.approx(0.3)
    else:
        with pytest.raises(ValueError, match="group_size is 0; a group has 1 weight at least"):
            group_quantize([0.3], group_size)


@pytest.mark.parametrize(("bits", "fine"), [(1, False), (2, True), (8, True), (9, False)])
def test_the_range_of_bits(bits: int, fine: bool) -> None:  # noqa: FBT001 - a case
    """One bit has no positive number, nine do not fit into int8."""
    if fine:
        assert group_quantize([1.0, -1.0], bits=bits)["quantized"][0, 0] == 2 ** (bits - 1) - 1
    else:
        with pytest.raises(ValueError, match=f"bits is {bits}; 2 to 8 can be stored"):
            group_quantize([1.0], bits=bits)


def test_the_error_of_a_round_trip() -> None:
    """The figures are those of their definitions."""
    error = round_trip_error([3.0, -4.0], [3.0, -3.0])

    assert error.mean_absolute == 0.5
    assert error.maximum == 1.0
    assert error.root_mean_square == pytest.approx(0.5**0.5)
    assert error.relative == pytest.approx(0.2)
    assert round_trip_error([0.0], [0.0]).relative == 0


@pytest.mark.parametrize(
    ("original", "restored", "sentence"),
    [
        ([1.0], [1.0, 2.0], r"shapes \(1,\) and \(2,\) cannot be compared weight by weight"),
        ([], [], r"shapes \(0,\) and \(0,\) cannot be compared"),
        ([0.0], [1.0], "the original is all zero"),
        ([1.0], [np.nan], "1 of 1 weights are NaN"),
    ],
)
def test_errors_that_cannot_be_told(
    original: list[float], restored: list[float], sentence: str
) -> None:
    """What has no sensible error is refused."""
    with pytest.raises(ValueError, match=sentence):
        round_trip_error(original, restored)


def test_what_scales_cost() -> None:
    """A 16-bit scale for 32 weights is half a bit for each: the 8.5 bits of Q8_0."""
    assert bits_per_weight(8, 32) == 8.5
    assert bits_per_weight(4, 128) == 4.125
    assert bits_per_weight(4, 64, scale_bits=32) == 4.5


def _examples() -> list[tuple[str, str]]:
    """Return the examples of the page, each with the output shown below it."""
    pieces = PAGE.read_text(encoding="utf-8").split("```python ")[1:]
    found = []
    for piece in pieces:
        code = piece.partition("\n")[2].partition("```\n")
        output = code[2].partition("```text\n")[2].partition("```\n")[0]
        found.append((code[0], output))
    return found


@pytest.mark.parametrize("number", range(3))
def test_the_page_shows_what_its_examples_print(number: int) -> None:
    """Each example runs, and prints exactly the figures that stand below it."""
    code, shown = _examples()[number]
    printed = io.StringIO()

    with contextlib.redirect_stdout(printed):
        exec(compile(code, str(PAGE), "exec"), {})  # noqa: S102 - an example of ours

    assert len(_examples()) == 3
    assert printed.getvalue() == shown


def test_the_sizes_on_the_page() -> None:
    """Bits and gigabytes of its last table are those of the catalogue."""
    text = PAGE.read_text(encoding="utf-8")
    kinds = [QUANTIZATION_TYPES[name] for name in ("F16", "Q8_0", "Q4_K_M", "Q2_K")]

    bits = " | ".join(f"{kind.bits_7b:.2f}" for kind in kinds)
    sizes = " | ".join(f"{6_738_415_616 * kind.bits_7b / 8e9:.1f} GB" for kind in kinds)
    assert f"| real bits | {bits} |\n| size of Llama 2 7B | {sizes} |\n" in text


def test_the_blocks_on_the_page() -> None:
    """Bytes of a block and bits of a weight are the engine's."""
    rows = re.findall(
        r"^\| `(\w+)` \| .*?(\d+) bytes \| ([\d.]+) bits \|$", PAGE.read_text(), re.MULTILINE
    )

    assert [name for name, _, _ in rows] == ["Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K"]
    for name, size, bits in rows:
        kind = TENSOR_TYPES_BY_NAME[name]
        assert (kind.block_bytes, kind.bits_per_weight) == (int(size), float(bits))
