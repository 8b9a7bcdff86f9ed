"""The arithmetic of formats of GPU runtimes, against what their papers and files say."""

from __future__ import annotations

import pytest

from pytest_quantgate.artifact.formats import WEIGHT_FORMATS, weight_format
from pytest_quantgate.errors import ArtifactError


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        # The QLoRA paper: 32/64 = 0.5 bits for scales, with double quantization 0.127.
        ("NF4", 4.5),
        ("NF4-DQ", 4.127),
        ("FP4", 4.5),
        ("FP4-DQ", 4.127),
        # One 32-bit scale for a row of 4096.
        ("INT8", 8 + 32 / 4096),
        # Scale of 16 bits and a zero point for 128 weights.
        ("GPTQ-3BIT", 3 + 19 / 128),
        ("GPTQ-4BIT", 4 + 20 / 128),
        ("GPTQ-8BIT", 8 + 24 / 128),
        ("AWQ-4BIT", 4 + 20 / 128),
    ],
)
def test_bits_of_a_weight(name: str, bits: float) -> None:
    """Bits are those of the number and its share of the scales."""
    assert WEIGHT_FORMATS[name].bits_per_weight == pytest.approx(bits, abs=5e-5)


def test_a_whole_model_of_four_bits() -> None:
    """Embeddings and output stay in 16 bits: Llama 2 7B takes 3.89 GB, the size it is published in."""
    awq = WEIGHT_FORMATS["AWQ-4BIT"]

    assert 6_738_415_616 * awq.bits_7b / 8e9 == pytest.approx(3.889, abs=0.001)
    # A large vocabulary weighs more: over a bit for each weight.
    assert awq.bits_8b == pytest.approx(5.706, abs=0.001)


@pytest.mark.parametrize(("linear", "bits"), [(0, 16.0), (50, 10.25), (100, 4.5)])
def test_a_model_of_another_shape(linear: int, bits: float) -> None:
    """Nothing, half or all of the weights can be in linear layers."""
    assert WEIGHT_FORMATS["NF4"].whole_model_bits(linear=linear, weights=100) == bits


@pytest.mark.parametrize(("linear", "weights"), [(-1, 100), (101, 100), (0, 0)])
def test_impossible_shapes(linear: int, weights: int) -> None:
    """More linear weights than weights, or none at all, are an error."""
    with pytest.raises(ArtifactError, match="weights in linear layers cannot be"):
        WEIGHT_FORMATS["NF4"].whole_model_bits(linear=linear, weights=weights)


@pytest.mark.parametrize(
    ("written", "meant"),
    [("nf4", "NF4"), (" nf4_dq ", "NF4-DQ"), ("GPTQ", "GPTQ-4BIT"), ("awq", "AWQ-4BIT")],
)
def test_formats_by_name(written: str, meant: str) -> None:
    """Case and underscores are understood; a method alone means its 4 bits."""
    assert weight_format(written).name == meant


def test_an_unknown_format() -> None:
    """The message says what is near and what there is."""
    with pytest.raises(ArtifactError) as caught:
        weight_format("NF5")

    assert str(caught.value).startswith("'NF5' is not a format of weights; did you mean 'NF4'")
    assert "Known are NF4, NF4-DQ" in str(caught.value)


def test_where_formats_run() -> None:
    """Calibrated formats need a GPU; those made while loading run in transformers alone."""
    for each in WEIGHT_FORMATS.values():
        assert each.calibrated != each.at_load
        assert each.cpu == each.at_load
        assert each.at_load == (each.runtimes == ("transformers",))
        assert "arXiv:" in each.source
