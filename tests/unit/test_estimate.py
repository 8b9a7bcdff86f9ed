"""Estimates: sizes as the engine's dry runs have them, and memory part by part."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantgate.artifact.selection.estimate import (
    CACHE_TYPES,
    bits_per_weight,
    calculate_model_size,
    estimate_memory,
    repacked_types,
    weights_bytes,
)
from pytest_quantgate.artifact.selection.mixes import MIXES, mix_of, stored_type
from pytest_quantgate.artifact.selection.native_memory import PlannedMemory
from pytest_quantgate.artifact.selection.shape import (
    PUBLISHED,
    Dimensions,
    ModelShape,
)
from pytest_quantgate.errors import ArtifactError

MEBIBYTE = 1 << 20

# "quant size" in MiB of `llama-quantize --dry-run` (llama-cpp-python 0.3.36) over GGUF files that have
# the tensors of these shapes in F16 and no data.
DRY_RUNS = {
    "SmolLM2-135M": {
        "IQ2_XXS": 78.24,
        "Q2_K": 82.41,
        "IQ3_XS": 82.41,
        "Q3_K_M": 87.48,
        "IQ4_XS": 85.38,
        "Q4_K_M": 98.87,
        "Q5_K_M": 105.21,
        "Q6_K": 130.27,
    },
    "Qwen2.5-0.5B": {
        "IQ2_XXS": 300.88,
        "IQ2_M": 307.60,
        "Q2_K": 317.14,
        "Q3_K_M": 333.22,
        "IQ4_XS": 329.39,
        "Q4_0": 330.06,
        "Q4_K_S": 361.84,
        "Q4_K_M": 373.60,
        "Q5_K_S": 387.81,
        "Q5_K_M": 394.85,
        "Q6_K": 476.53,
        "Q8_0": 500.69,
    },
    "Qwen2.5-14B": {
        "IQ2_XXS": 4106.04,
        "IQ2_M": 5101.02,
        "Q2_K": 5496.17,
        "IQ3_XS": 6080.64,
        "Q3_K_M": 6992.21,
        "IQ4_XS": 7799.96,
        "Q4_0": 8116.13,
        "Q4_K_S": 8169.26,
        "Q4_K_M": 8564.73,
        "Q5_K_S": 9783.95,
        "Q5_K_M": 10015.04,
        "Q6_K": 11556.00,
        "Q8_0": 14967.21,
    },
    "Llama-2-70B": {
        "IQ2_XXS": 17441.44,
        "IQ2_M": 22154.33,
        "Q2_K": 24282.14,
        "IQ3_XS": 27002.53,
        "Q3_K_M": 31732.53,
        "IQ4_XS": 35472.92,
        "Q4_0": 37070.73,
        "Q4_K_S": 37430.73,
        "Q4_K_M": 39503.23,
        "Q5_K_S": 45261.98,
        "Q5_K_M": 46494.48,
        "Q6_K": 53965.19,
        "Q8_0": 69896.28,
    },
}
# Llama 2 7B, whose heads share no keys.
LLAMA_2_7B = Dimensions(
    layers=32,
    embedding=4096,
    heads=32,
    kv_heads=32,
    head_size=128,
    feed_forward=11008,
    vocabulary=32000,
)
LLAMA_2_7B_SIZES = {
    "IQ2_XXS": 1768.31,
    "Q2_K": 2414.82,
    "Q3_K_M": 3144.52,
    "IQ4_XS": 3477.84,
    "Q4_K_M": 3891.24,
    "Q5_K_M": 4560.87,
    "Q8_0": 6828.64,
}


def published(name: str) -> ModelShape:
    """Return the shape of a published model."""
    return dict(PUBLISHED)[name].shape(name, "")


SMOLLM2 = published("SmolLM2-135M")


@pytest.mark.parametrize(
    ("name", "level", "mebibytes"),
    [(name, level, size) for name, sizes in DRY_RUNS.items() for level, size in sizes.items()],
)
def test_sizes_are_those_of_the_dry_run(name: str, level: str, mebibytes: float) -> None:
    """From 135M to 70B, with rows that fit the blocks and rows that do not: to 1%."""
    ours = weights_bytes(published(name), level)

    assert ours / MEBIBYTE == pytest.approx(mebibytes, rel=0.01)


@pytest.mark.parametrize(("level", "mebibytes"), LLAMA_2_7B_SIZES.items())
def test_sizes_without_grouped_heads(level: str, mebibytes: float) -> None:
    """Where each head has its keys, value tensors are large and get fewer bits."""
    ours = weights_bytes(LLAMA_2_7B.shape("Llama 2 7B", ""), level)

    assert ours / MEBIBYTE == pytest.approx(mebibytes, rel=0.01)


def test_shares_make_one() -> None:
    """Every mix gives each tensor one type."""
    for mix in MIXES.values():
        for shares in mix.parts.values():
            assert sum(share for _, share in shares) == pytest.approx(1)
    assert mix_of("Q8_0").output == "Q8_0"
    assert mix_of("F16").output == "F16"
    assert mix_of("Q4_0").output == "Q6_K"


@pytest.mark.parametrize(
    ("wanted", "row", "got"),
    [
        ("Q4_K", 256, "Q4_K"),
        ("Q4_K", 576, "Q5_0"),
        ("Q5_K", 576, "Q5_1"),
        ("Q6_K", 576, "Q8_0"),
        ("Q2_K", 576, "Q4_0"),
        ("IQ2_XXS", 576, "IQ4_NL"),
        ("Q8_0", 576, "Q8_0"),
        ("Q4_K", 100, "F16"),
        ("Q8_0", 100, "F16"),
    ],
)
def test_rows_that_do_not_fit(wanted: str, row: int, got: str) -> None:
    """A row that does not fill the blocks gets the type the engine falls back to."""
    assert stored_type(wanted, row) == got


def test_output_rows_that_do_not_fit() -> None:
    """The output gets eight bits instead."""
    assert stored_type("Q5_K", 576, output=True) == "Q8_0"
    assert stored_type("Q5_K", 100, output=True) == "F16"


# --- memory ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("context", "mebibytes"), [(512, 11.25), (2048, 45.0), (8192, 180.0)])
def test_the_cache_is_the_engines(context: int, mebibytes: float) -> None:
    """Keys and values of SmolLM2 as llama.cpp's log has them."""
    assert estimate_memory(SMOLLM2, "F16", context=context).kv_cache_bytes == mebibytes * MEBIBYTE


@pytest.mark.parametrize(
    ("name", "touched", "reserved"),
    [("SmolLM2-135M", 14.01, 98.25), ("Mistral-7B", 116.51, None)],
)
def test_the_buffers_are_the_engines(name: str, touched: float, reserved: float | None) -> None:
    """Compute buffers at 512 tokens as llama.cpp's log has them, for one token's logits and for all."""
    shape = published(name)
    cpu = estimate_memory(shape, "F16", context=512)
    gpu = estimate_memory(shape, "F16", context=512, device="gpu")

    assert cpu.compute_bytes / MEBIBYTE == pytest.approx(touched, abs=0.02)
    if reserved is not None:
        assert gpu.compute_bytes / MEBIBYTE == pytest.approx(reserved, abs=0.02)


@pytest.mark.parametrize(("context", "cells"), [(1, 256), (256, 256), (257, 512), (4096, 4096)])
def test_cells_come_in_blocks(context: int, cells: int) -> None:
    """The engine makes the cache a multiple of 256 tokens."""
    assert estimate_memory(SMOLLM2, "F16", context=context).kv_cache_bytes == cells * 30 * 384 * 2


def test_cache_types() -> None:
    """Eight bits with their scale are 8.5 of 16; an unknown type is refused with the nearest."""
    full = estimate_memory(SMOLLM2, "F16", context=512).kv_cache_bytes
    sizes = {
        kind: estimate_memory(SMOLLM2, "F16", context=512, cache_type=kind).kv_cache_bytes
        for kind in CACHE_TYPES
    }

    assert sizes["q8_0"] == full * 8.5 / 16
    assert sizes["f32"] == 2 * full
    with pytest.raises(
        ArtifactError, match=r"'q8_1' is not a type of the cache; did you mean 'q8_0'"
    ):
        estimate_memory(SMOLLM2, "F16", context=512, cache_type="q8_1")


@pytest.mark.parametrize("context", [0, -1, (1 << 24) + 1])
def test_contexts_have_bounds(context: int) -> None:
    """No tokens and more than sixteen million are no context."""
    with pytest.raises(ArtifactError, match="1 to 16,777,216 are accepted"):
        estimate_memory(SMOLLM2, "F16", context=context)


def test_a_level_is_needed_where_there_is_no_file() -> None:
    """A shape of numbers has no type of its own."""
    with pytest.raises(ArtifactError, match="lies in no file, so it has no type of its own"):
        estimate_memory(SMOLLM2, context=512)
    with pytest.raises(ArtifactError, match="'Q4_K_N' is not a quantization type; did you mean"):
        weights_bytes(SMOLLM2, "Q4_K_N")


def test_copies_of_weights() -> None:
    """With AVX2 the engine copies Q4_0 and Q4_K; the copy raises the peak, not what must be free."""
    plain = estimate_memory(SMOLLM2, "Q2_K", context=512)
    wide = estimate_memory(SMOLLM2, "Q2_K", context=512, flags=("avx2",))

    assert plain.repacked_bytes == 0
    # All but the embedding and the rows of 1536 fall back to Q4_0, as "CPU_REPACK" of the log says.
    assert wide.repacked_bytes / MEBIBYTE == pytest.approx(42.71, abs=0.01)
    assert wide.required_bytes == plain.required_bytes
    assert wide.total_bytes == plain.total_bytes + wide.repacked_bytes
    gpu = estimate_memory(SMOLLM2, "Q2_K", context=512, flags=("avx2",), device="gpu")
    assert gpu.repacked_bytes == 0
    assert "Q2_K" in repacked_types(("avx512f",))
    assert repacked_types(()) == frozenset()


def test_what_the_engine_plans_counts() -> None:
    """A plan replaces the formulas, and known weights the mix."""
    plan = PlannedMemory(
        context=512,
        cache_type="f16",
        cache_bytes=1,
        compute_bytes=2,
        reserved_bytes=3,
        output_bytes=4,
        process_bytes=5,
    )
    cpu = estimate_memory(SMOLLM2, "Q8_0", context=512, planned=plan, weights_bytes=100)
    gpu = estimate_memory(SMOLLM2, "Q8_0", context=512, planned=plan, device="gpu")

    assert cpu.required_bytes == 100 + 1 + 2 + 4 + 5
    assert (gpu.compute_bytes, gpu.runtime_bytes) == (3, 550_000_000)


def test_formats_of_other_runtimes() -> None:
    """AWQ quantizes linear layers only: a model with a large vocabulary has more bits per weight."""
    assert 4.15 < bits_per_weight(published("Llama-2-70B"), "AWQ-4BIT") < 4.4
    assert bits_per_weight(published("Llama-3.2-1B"), "AWQ-4BIT") > 6


@given(
    st.sampled_from([name for name, _ in PUBLISHED]),
    st.sampled_from(["Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "F16"]),
    st.integers(1, 1 << 20),
    st.integers(0, 1 << 20),
)
def test_more_context_never_takes_less(name: str, level: str, context: int, more: int) -> None:
    """Parts are positive, and none shrinks with the context."""
    shape = published(name)
    less = estimate_memory(shape, level, context=context)
    large = estimate_memory(shape, level, context=context + more)

    assert large.kv_cache_bytes >= less.kv_cache_bytes > 0
    assert large.compute_bytes >= less.compute_bytes > 0
    assert large.weights_bytes == less.weights_bytes > 0


@given(st.sampled_from([name for name, _ in PUBLISHED]))
def test_the_ladder_rises(name: str) -> None:
    """Each level of the ladder is at least as large as the one below."""
    levels = ("Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "F16")
    sizes = [weights_bytes(published(name), level) for level in levels]

    assert sizes == sorted(sizes)


@pytest.mark.parametrize(
    ("billions", "precision", "message"),
    [
        (7, "INT5", "'INT5' is not a precision; there are FP32"),
        (0, "INT4", "0 billion parameters cannot be"),
        (float("nan"), "INT4", "nan billion parameters cannot be"),
        (float("inf"), "INT4", "inf billion parameters cannot be"),
    ],
)
def test_sizes_that_cannot_be_calculated(billions: float, precision: str, message: str) -> None:
    """Unknown precisions and impossible numbers are refused."""
    with pytest.raises(ValueError, match=message):
        calculate_model_size(billions, precision)
