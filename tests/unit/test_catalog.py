"""The tables of types against the installed engine, and the advice drawn from them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from pytest_quantgate.artifact.catalog import (
    ARCHITECTURES,
    FILE_TYPES,
    IMATRIX_LADDER,
    LADDER,
    QUANTIZATION_TYPES,
    TENSOR_TYPES,
    TENSOR_TYPES_BY_NAME,
    did_you_mean,
    next_level_down,
    next_level_up,
    quantization_type,
)
from pytest_quantgate.errors import ArtifactError

ENGINE_TABLES = """
import ctypes, json, re, sys
import llama_cpp
lib = llama_cpp.llama_cpp._lib
lib.ggml_blck_size.restype, lib.ggml_blck_size.argtypes = ctypes.c_int64, [ctypes.c_int]
lib.ggml_type_size.restype, lib.ggml_type_size.argtypes = ctypes.c_size_t, [ctypes.c_int]
lib.ggml_type_name.restype, lib.ggml_type_name.argtypes = ctypes.c_char_p, [ctypes.c_int]
tensors = {
    number: [lib.ggml_type_name(number).decode(), lib.ggml_blck_size(number), lib.ggml_type_size(number)]
    for number in range(43)
    if lib.ggml_blck_size(number)
}
files = {
    value: name
    for name, value in vars(llama_cpp).items()
    if name.startswith("LLAMA_FTYPE_") and name != "LLAMA_FTYPE_GUESSED"
}
json.dump({"tensors": tensors, "files": files}, sys.stdout)
"""


def test_tables_agree_with_the_installed_engine() -> None:
    """Every tensor type's block and every file type's number is what the engine says."""
    answer = subprocess.run(
        [sys.executable, "-c", ENGINE_TABLES], check=True, capture_output=True, text=True
    )
    engine = json.loads(answer.stdout)

    ours = {
        str(number): [kind.name, kind.block_size, kind.block_bytes]
        for number, kind in TENSOR_TYPES.items()
    }
    theirs = {
        number: [name.upper(), size, data]
        for number, (name, size, data) in engine["tensors"].items()
    }
    assert ours == theirs
    assert {str(number): name for number, name in FILE_TYPES.items()} == {
        number: name.removeprefix("LLAMA_FTYPE_").removeprefix("MOSTLY_").removeprefix("ALL_")
        for number, name in engine["files"].items()
    }


def test_every_quantization_type_has_a_known_base() -> None:
    """Names are upper-case, numbers differ, bases exist."""
    kinds = QUANTIZATION_TYPES.values()

    assert all(name == kind.name == name.upper() for name, kind in QUANTIZATION_TYPES.items())
    assert len({kind.ftype for kind in kinds}) == len(kinds) == 35
    assert all(kind.base in TENSOR_TYPES_BY_NAME for kind in kinds)


@pytest.mark.parametrize(
    ("name", "bits"),
    [("Q4_K_M", 4.5), ("Q8_0", 8.5), ("Q6_K", 6.5625), ("IQ2_S", 2.3125), ("F16", 16)],
)
def test_bits_per_weight_of_the_base(name: str, bits: float) -> None:
    """Bits follow from the block of the base type."""
    assert QUANTIZATION_TYPES[name].bits_per_weight == bits


@pytest.mark.parametrize(
    ("written", "meant"),
    [("Q4_K_M", "Q4_K_M"), ("q4_k_m", "Q4_K_M"), (" q8-0 ", "Q8_0"), ("Q4_K", "Q4_K_M")],
)
def test_finds_a_type_however_it_is_written(written: str, meant: str) -> None:
    """Case, hyphens and the engine's own aliases are understood."""
    assert quantization_type(written).name == meant


def test_unknown_type_suggests_the_nearest() -> None:
    """The message says what is near and what there is."""
    with pytest.raises(ArtifactError) as caught:
        quantization_type("Q4_K_N")

    message = str(caught.value)
    assert message.startswith("'Q4_K_N' is not a quantization type; did you mean 'Q4_K_")
    assert "? Known are F32, F16, BF16, Q8_0" in message


def test_type_the_engine_reads_but_cannot_make_is_none() -> None:
    """NVFP4 files can be read, so the name is known as a file type and refused as a recipe."""
    assert FILE_TYPES[39] == "NVFP4"
    with pytest.raises(ArtifactError, match="'NVFP4' is not a quantization type"):
        quantization_type("NVFP4")


def test_ladder_from_the_bottom() -> None:
    """The advice climbs one level at a time and ends at F16."""
    rungs = ["Q2_K"]
    while (rung := next_level_up(rungs[-1])) is not None:
        rungs.append(rung)

    assert tuple(rungs) == LADDER
    assert LADDER == ("Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "F16")


@pytest.mark.parametrize("ladder", [LADDER, IMATRIX_LADDER])
def test_ladders_are_in_the_order_of_real_size(ladder: tuple[str, ...]) -> None:
    """Each level is larger than the one before, in both shapes of model."""
    kinds = [QUANTIZATION_TYPES[name] for name in ladder]

    assert [kind.bits_7b for kind in kinds] == sorted({kind.bits_7b for kind in kinds})
    assert [kind.bits_8b for kind in kinds] == sorted({kind.bits_8b for kind in kinds})


def test_only_one_ladder_needs_an_importance_matrix() -> None:
    """Whoever has none is never led to a level that the engine refuses."""
    assert not any(QUANTIZATION_TYPES[name].needs_imatrix for name in LADDER)
    assert any(QUANTIZATION_TYPES[name].needs_imatrix for name in IMATRIX_LADDER)


@pytest.mark.parametrize("name", QUANTIZATION_TYPES)
def test_a_whole_model_takes_no_less_than_its_base(name: str) -> None:
    """Embeddings, output and the mix add bits; one mix goes below its base for some tensors."""
    kind = QUANTIZATION_TYPES[name]

    assert kind.bits_8b >= kind.bits_7b - 0.001
    assert kind.bits_7b > kind.bits_per_weight - 0.001 or name == "IQ3_XS"


@pytest.mark.parametrize(
    ("name", "plain", "with_imatrix"),
    [
        ("F32", "F16", "F16"),
        ("BF16", "Q8_0", "Q8_0"),
        ("F16", "Q8_0", "Q8_0"),
        ("Q5_K_M", "Q4_K_M", "Q4_K_M"),
        ("Q4_K_M", "Q3_K_M", "IQ4_XS"),
        ("MXFP4_MOE", "Q3_K_M", "IQ3_M"),
        ("Q3_K_M", "Q2_K", "IQ3_M"),
        ("Q2_K", None, "IQ2_M"),
        ("IQ3_XXS", "IQ2_M", "IQ2_M"),
        ("IQ1_S", None, None),
        ("TQ2_0", "TQ1_0", "TQ1_0"),
        ("TQ1_0", None, None),
        ("Q1_0", None, None),
    ],
)
def test_the_next_level_down(name: str, plain: str | None, with_imatrix: str | None) -> None:
    """It is the largest smaller level, another one for those who have an importance matrix."""
    assert next_level_down(name) == plain
    assert next_level_down(name, imatrix=True) == with_imatrix


@pytest.mark.parametrize("name", QUANTIZATION_TYPES)
def test_ladder_down_shrinks(name: str) -> None:
    """Whatever is advised is really smaller, also where only the base says so."""
    for imatrix in (False, True):
        below = next_level_down(name, imatrix=imatrix)
        if below is not None:
            assert QUANTIZATION_TYPES[below].bits_8b < QUANTIZATION_TYPES[name].bits_8b


@pytest.mark.parametrize("name", QUANTIZATION_TYPES)
def test_ladder_never_descends(name: str) -> None:
    """Each step is to another type with no fewer bits; floats are the top."""
    above = next_level_up(name)

    if name in {"F16", "BF16", "F32"}:
        assert above is None
    else:
        assert above is not None
        assert above != name
        here, there = QUANTIZATION_TYPES[name], QUANTIZATION_TYPES[above]
        # IQ2_M and IQ3_M are mixes: their base says less than their files have.
        assert there.bits_per_weight >= here.bits_per_weight or name in {"IQ2_M", "IQ3_XXS"}


def test_ladder_asks_for_an_importance_matrix_only_of_those_who_have_one() -> None:
    """From a type that needs no importance matrix, none is advised that does."""
    for name, kind in QUANTIZATION_TYPES.items():
        above = next_level_up(name)
        if above is not None and not kind.needs_imatrix:
            assert not QUANTIZATION_TYPES[above].needs_imatrix


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ("modell", "; did you mean 'Model' or 'model2'?"),
        ("Model", "; did you mean 'Model' or 'model2'?"),
        ("other", ""),
    ],
)
def test_did_you_mean(wrong: str, sentence: str) -> None:
    """Near names are listed, case set aside; far ones are not."""
    assert did_you_mean(wrong, ["Model", "model2", "quite different"]) == sentence


def test_architectures_are_names() -> None:
    """The list holds what it should and nothing that cannot be a language model."""
    assert {"llama", "qwen3", "gemma3", "gpt-oss"} <= ARCHITECTURES
    assert "clip" not in ARCHITECTURES
    assert len(ARCHITECTURES) == 152
