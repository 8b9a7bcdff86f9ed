"""Recipes carried out by the engine: overrides, importance, strategies, dry runs, provenance."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from gguf_writer import F16, Tensor
from quantizing import (
    LAYERS,
    MATRICES,
    importance,
    llama,
    operate,
    quantize,
    refused,
    split,
    types,
    weights,
)

from pytest_quantgate.artifact.catalog import QUANTIZATION_TYPES
from pytest_quantgate.artifact.gguf import read_header
from pytest_quantgate.artifact.integrity import sha256_file

if TYPE_CHECKING:
    from pathlib import Path

OUTPUT = "output.weight"
EMBEDDING = "token_embd.weight"


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose embeddings are its output."""
    path = tmp_path_factory.mktemp("tied") / "tied-f16.gguf"
    path.write_bytes(llama().encode())
    return path


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with an output of its own."""
    path = tmp_path_factory.mktemp("untied") / "untied-f16.gguf"
    path.write_bytes(llama(output=True).encode())
    return path


@pytest.fixture(scope="module")
def imatrix(tied: Path) -> Path:
    """An importance matrix of both models."""
    return importance(tied, tied.with_name("imatrix.gguf"))


def dry(source: Path, type_name: str, /, **recipe: object) -> dict[str, object]:
    """Return the answer of a dry run."""
    plain = {"type": type_name} | recipe
    return operate({"source": str(source), "recipe": plain, "threads": 2, "dry_run": True})


def override(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    """Return overrides in plain form."""
    return [{"pattern": pattern, "type": kind} for pattern, kind in pairs]


# --- overrides -------------------------------------------------------------------------------------


def test_the_first_override_that_fits_decides(tied: Path, tmp_path: Path) -> None:
    """Patterns are searched without regard to case, in their order; norms stay what they are."""
    target = tmp_path / "out.gguf"
    rules = override((r"BLK\.[01]\.attn_v", "f16"), ("attn_v", "Q8_0"), ("attn", "Q6_K"))

    quantize(tied, target, "Q4_K_S", recipe={"overrides": rules})

    made = types(target)
    assert [made[f"blk.{layer}.attn_v.weight"] for layer in range(3)] == ["F16", "F16", "Q8_0"]
    assert made["blk.7.attn_output.weight"] == "Q6_K"
    assert made["blk.7.ffn_up.weight"] == "Q4_K"
    assert made["blk.7.attn_norm.weight"] == "F32"
    paper = json.loads((tmp_path / "out.gguf.json").read_text())
    assert paper["recipe"]["overrides"][0] == {"pattern": r"BLK\.[01]\.attn_v", "type": "F16"}
    assert paper["command"] == (
        r"quantgate quantize tied-f16.gguf --type Q4_K_S --override 'BLK\.[01]\.attn_v=F16'"
        " --override attn_v=Q8_0 --override attn=Q6_K --output out.gguf"
    )


def test_overrides_that_would_be_passed_over(tied: Path, tmp_path: Path) -> None:
    """No part of a recipe is without effect in silence."""
    target = tmp_path / "out.gguf"

    def refusal(type_name: str, *rules: tuple[str, str]) -> str:
        return refused(tied, target, type_name, recipe={"overrides": override(*rules)})

    assert refusal("Q4_K_M", ("atn_v", "Q6_K")) == (
        "the override atn_v=Q6_K fits no tensor of this model; did you mean 'attn_v' or 'attn_q'?"
    )
    assert refusal("Q4_K_M", ("attn_norm", "Q6_K")).startswith(
        "the override attn_norm=Q6_K has no effect: the engine leaves blk.0.attn_norm.weight, "
    )
    assert refusal("Q4_K_M", ("attn", "Q8_0"), ("attn_k", "Q6_K")) == (
        "the override attn_k=Q6_K decides nothing: blk.0.attn_k.weight, blk.1.attn_k.weight, "
        "blk.2.attn_k.weight and 5 more are decided by attn, which comes before it; leave it out or "
        "put it first"
    )
    assert refusal("F16", ("attn", "Q8_0")).startswith("overrides have no effect on F16: ")
    assert "'attn(' is not a regular expression" in refusal("Q4_K_M", ("attn(", "Q8_0"))
    assert "did you mean 'Q6_K'" in refusal("Q4_K_M", ("attn", "Q6K"))


def test_names_are_nothing_but_names_to_the_engine(tmp_path: Path) -> None:
    """Whatever characters a tensor's name has, exactly the tensors a pattern fits are decided."""
    extra = tuple(
        Tensor(f"blk.0.{name}.weight", (256, 256), F16) for name in ("a+(b)", "a-[b]*", "axxb")
    )
    model = llama()
    tensors = model.tensors + extra
    source, target = tmp_path / "odd.gguf", tmp_path / "out.gguf"
    source.write_bytes(replace(model, tensors=tensors, data=weights(tensors)).encode())

    quantize(source, target, "Q8_0", recipe={"overrides": override((r"a.[(\[]b", "Q4_0"))})

    made = types(target)
    assert [made[tensor.name] for tensor in extra] == ["Q4_0", "Q4_0", "Q8_0"]


# --- options for single tensors --------------------------------------------------------------------


def test_output_and_embeddings(tied: Path, untied: Path, tmp_path: Path) -> None:
    """Each option reaches its tensor; where the embeddings are the output, that of the output does."""
    target = tmp_path / "out.gguf"
    for source, recipe, expected in (
        (
            untied,
            {"output_tensor": "Q8_0", "embedding": "q4_0"},
            {OUTPUT: "Q8_0", EMBEDDING: "Q4_0"},
        ),
        (untied, {"leave_output": True}, {OUTPUT: "F16", EMBEDDING: "Q4_K"}),
        (untied, {"pure": True}, {OUTPUT: "Q4_K", EMBEDDING: "Q4_K"}),
        (tied, {"output_tensor": "Q8_0"}, {EMBEDDING: "Q8_0"}),
        (tied, {"embedding": "BF16"}, {EMBEDDING: "BF16"}),
    ):
        quantize(source, target, "Q4_K_M", recipe=recipe, overwrite=True)
        made = types(target)
        assert {name: made[name] for name in expected} == expected


def test_options_that_would_be_passed_over(tied: Path, untied: Path, tmp_path: Path) -> None:
    """Options for an output that is not there, for a float type, or against each other."""
    target = tmp_path / "out.gguf"

    def refusal(source: Path, type_name: str, /, **recipe: object) -> str:
        return refused(source, target, type_name, recipe=recipe)

    assert refusal(tied, "Q4_K_M", leave_output=True).startswith(
        "there is no output tensor to leave as it is: the model uses its embeddings for it; "
    )
    assert refusal(tied, "Q4_K_M", output_tensor="Q4_0", embedding="Q8_0") == (
        "the output tensor type Q4_0 has no effect: token_embd.weight is Q8_0, by another option or "
        "because the engine never quantizes it; leave it out"
    )
    assert refusal(untied, "Q4_K_M", output_tensor="Q8_0", leave_output=True) == (
        "the output tensor cannot be Q8_0 and be left as it is; choose one"
    )


def test_what_would_end_the_engine_is_refused(tmp_path: Path) -> None:
    """Blocks that do not fit the rows of embeddings or output abort it, so it is not asked."""
    source = tmp_path / "narrow.gguf"
    source.write_bytes(llama(64, output=True).encode())

    for option, name, what in (
        ("embedding", EMBEDDING, "embedding"),
        ("output_tensor", OUTPUT, "output tensor"),
    ):
        assert refused(source, tmp_path / "out.gguf", "Q4_0", recipe={option: "Q6_K"}) == (
            f"the {what} cannot be Q6_K: the rows of {name} have 64 weights, no multiple of 256; "
            "choose a type with blocks of 32, such as Q8_0"
        )


# --- strategies ------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [256, 64])
def test_mixed_precision(width: int, tmp_path: Path) -> None:
    """Attention and output in Q6_K, embeddings in Q8_0, the rest as the type has it; or higher."""
    source, target = tmp_path / "model.gguf", tmp_path / "out.gguf"
    source.write_bytes(llama(width, output=True).encode())
    strategy = {
        "strategy": "mixed-precision",
        "overrides": override(
            ("attn_", "Q6_K"), (r"^(per_layer_)?token_embd\.", "Q8_0"), (r"^output\.", "Q6_K")
        ),
    }

    quantize(source, target, "Q4_K_M", recipe=strategy)

    made = types(target)
    # Rows of 64 fit no super-block: what was to be Q6_K becomes Q8_0, which is higher.
    high = "Q6_K" if width == 256 else "Q8_0"
    for layer in range(LAYERS):
        assert {made[f"blk.{layer}.{name}.weight"] for name in MATRICES[:4]} == {high}
    assert (made[EMBEDDING], made[OUTPUT]) == ("Q8_0", high)
    feed_forward = {made[f"blk.{layer}.ffn_up.weight"] for layer in range(LAYERS)}
    assert feed_forward == {"Q4_K" if width == 256 else "Q5_0"}
    paper = json.loads((tmp_path / "out.gguf.json").read_text())
    assert paper["recipe"]["strategy"] == "mixed-precision"
    assert paper["command"] == (
        "quantgate quantize model.gguf --type Q4_K_M --strategy mixed-precision --output out.gguf"
    )


# --- importance ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [name for name, kind in QUANTIZATION_TYPES.items() if kind.needs_imatrix]
)
def test_types_that_need_importance(name: str, tmp_path: Path) -> None:
    """Each of them is made with an importance matrix, which the record names."""
    source, target = tmp_path / "model.gguf", tmp_path / "out.gguf"
    # These types take long: a model of one layer is enough.
    source.write_bytes(llama(layers=1).encode())
    imatrix = importance(source, tmp_path / "imatrix.gguf")

    report = quantize(source, target, name, recipe={"imatrix": str(imatrix)})

    header = read_header(target)
    assert header.file_type == name
    assert header.type_counts[QUANTIZATION_TYPES[name].base] >= 4
    # The embeddings, about which a matrix says nothing.
    assert report["unweighted_tensors"] == 1
    paper = json.loads((tmp_path / "out.gguf.json").read_text())
    assert paper["recipe"]["imatrix"] == {"name": "imatrix.gguf", "sha256": sha256_file(imatrix)}
    assert header.metadata["quantize.imatrix.file"] == "imatrix.gguf"
    assert header.metadata["quantize.imatrix.dataset"] == "texts.txt"
    assert header.metadata["quantize.imatrix.entries_count"] == 7
    assert header.metadata["quantize.imatrix.chunks_count"] == 4


@pytest.mark.parametrize("name", ["IQ3_S", "IQ3_M", "IQ4_NL"])
def test_types_that_only_gain_by_importance(name: str, tmp_path: Path) -> None:
    """Types of a codebook that the engine makes without importance, too."""
    source, target = tmp_path / "model.gguf", tmp_path / "out.gguf"
    source.write_bytes(llama(layers=1).encode())

    report = quantize(source, target, name)

    assert read_header(target).file_type == name
    assert report["unweighted_tensors"] == 0


def test_importance_changes_the_weights(tied: Path, imatrix: Path, tmp_path: Path) -> None:
    """The same type with and without importance has the same size of weights, and other ones."""
    with_it = quantize(tied, tmp_path / "a.gguf", "Q4_K_M", recipe={"imatrix": str(imatrix)})
    without = quantize(tied, tmp_path / "b.gguf", "Q4_K_M")

    assert with_it["bits_per_weight"] == without["bits_per_weight"]
    data = [
        (tmp_path / name).read_bytes()[read_header(tmp_path / name).data_offset :]
        for name in ("a.gguf", "b.gguf")
    ]
    assert data[0] != data[1]


def test_importance_that_cannot_be_used(tied: Path, imatrix: Path, tmp_path: Path) -> None:
    """Another model's, one with holes, one that is no number, and one that has no effect."""
    target = tmp_path / "out.gguf"
    wide = importance(tied, tmp_path / "wide.gguf", wider="ffn_up")
    holes = importance(tied, tmp_path / "holes.gguf", without="blk.3.ffn_down")
    broken = tmp_path / "nan.gguf"
    data = bytearray(imatrix.read_bytes())
    header = read_header(imatrix)
    place = header.data_offset + header.tensors[0].offset
    assert header.tensors[0].name == "blk.0.attn_k.weight.in_sum2"
    data[place : place + 4] = struct.pack("<f", float("nan"))
    broken.write_bytes(data)

    def refusal(type_name: str, file: Path, /, **recipe: object) -> str:
        return refused(tied, target, type_name, recipe={"imatrix": str(file)} | recipe)

    assert (
        "the importance matrix is not of tied-f16.gguf: 8 of its 56 entries do not fit"
        in refusal("IQ2_XS", wide)
    )
    assert refusal("IQ2_XS", holes) == (
        f"{holes}: says nothing about 1 tensors that would be IQ2_XS, which cannot be made without "
        "importance (blk.3.ffn_down.weight); give them another type (--override, --embedding, "
        "--output-tensor)"
    )
    assert "blk.0.attn_k.weight has nan in column 0" in refusal("IQ2_XS", broken)
    assert refusal("F16", imatrix) == ("an importance matrix has no effect on F16; leave it out")
    assert "no such file" in refusal("IQ2_XS", tmp_path / "absent.gguf")
    assert "is no importance matrix but a model (llama)" in refusal("IQ2_XS", tied)
    # All tensors in a type that the engine would abort over, for want of importance.
    assert "about 1 tensors that would be IQ2_XS" in refusal("IQ2_XS", imatrix, pure=True)
    assert refused(tied, imatrix, "Q4_K_M", recipe={"imatrix": str(imatrix)}, overwrite=True) == (
        f"{imatrix}: is the importance matrix; write to another file"
    )


def test_an_override_may_need_importance(tied: Path, tmp_path: Path) -> None:
    """The need is that of the tensors, whatever the type of the file."""
    rules = {"overrides": override(("ffn_down", "IQ2_S"))}

    message = refused(tied, tmp_path / "out.gguf", "Q4_K_M", recipe=rules)

    assert message.startswith(
        "Q4_K_M needs an importance matrix for 8 tensors that would be IQ2_S (blk.0.ffn_down.weight, "
    )


# --- dry runs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("type_name", ["F32", "F16", "Q8_0", "Q4_K_M", "Q2_K", "IQ4_XS", "TQ1_0"])
@pytest.mark.parametrize("width", [256, 64])
def test_a_dry_run_tells_the_size_to_the_byte(type_name: str, width: int, tmp_path: Path) -> None:
    """Size, bits, types and fallbacks are those of the file that is then made."""
    source, target = tmp_path / "model.gguf", tmp_path / "out.gguf"
    source.write_bytes(llama(width, output=width == 64).encode())

    plan = dry(source, type_name)
    report = quantize(source, target, type_name)

    assert plan["file_bytes"] == report["target_bytes"] == target.stat().st_size
    assert plan["bits_per_weight"] == pytest.approx(report["bits_per_weight"])
    assert plan["fallbacks"] == report["fallbacks"]
    counts = {share["type"]: share["tensors"] for share in plan["types"]}  # type: ignore[attr-defined]
    assert counts == read_header(target).type_counts
    assert plan["steps"] == []


def test_a_dry_run_with_everything(tied: Path, imatrix: Path, tmp_path: Path) -> None:
    """The size is right with importance, with overrides, and for a split source."""
    recipe = {"imatrix": str(imatrix), "overrides": override(("ffn_down", "Q6_K"))}
    target = tmp_path / "out.gguf"

    whole = dry(tied, "Q2_K_S", **recipe)
    quantize(tied, target, "Q2_K_S", recipe=recipe)
    assert whole["file_bytes"] == target.stat().st_size

    part = split(llama(), tmp_path)
    planned = dry(part, "Q4_K_M")
    quantize(part, target, "Q4_K_M", overwrite=True)
    assert planned["file_bytes"] == target.stat().st_size


def test_a_dry_run_of_odd_files(tmp_path: Path) -> None:
    """Dimensions that are none are not written; a first part without tensors hides some bytes."""
    model = llama(layers=1)
    flat = Tensor("blk.0.flat.weight", (256, 256, 1, 1), F16)
    tensors = (*model.tensors, flat)
    source, target = tmp_path / "odd.gguf", tmp_path / "out.gguf"
    source.write_bytes(replace(model, tensors=tensors, data=weights(tensors)).encode())

    planned = dry(source, "Q8_0")
    quantize(source, target, "Q8_0")
    assert planned["file_bytes"] == target.stat().st_size

    count = len(model.tensors)
    for number, held in enumerate(((), model.tensors)):
        part = replace(model, tensors=held, data=weights(held)).with_metadata(
            ("split.no", 2, number), ("split.count", 2, 2), ("split.tensors.count", 5, count)
        )
        (tmp_path / f"m-0000{number + 1}-of-00002.gguf").write_bytes(part.encode())
    first = tmp_path / "m-00001-of-00002.gguf"
    planned = dry(first, "Q8_0")
    quantize(first, target, "Q8_0", overwrite=True)
    assert isinstance(planned["file_bytes"], int)
    assert 0 <= planned["file_bytes"] - target.stat().st_size < 32


def test_a_dry_run_tells_that_importance_is_needed(tied: Path, imatrix: Path) -> None:
    """A type that could not be made without it is answered all the same."""
    without = dry(tied, "IQ2_XXS")

    assert without["needs_imatrix"] is True
    assert dry(tied, "IQ2_XXS", imatrix=str(imatrix))["needs_imatrix"] is False
    assert dry(tied, "Q4_K_M")["needs_imatrix"] is False


# --- provenance ------------------------------------------------------------------------------------


def test_provenance_in_the_metadata(untied: Path, imatrix: Path, tmp_path: Path) -> None:
    """What the record says of the origin stands in the file, too, and no time: bytes repeat."""
    target = tmp_path / "out.gguf"
    recipe = {
        "imatrix": str(imatrix),
        "overrides": override(("attn_v", "Q6_K")),
        "embedding": "Q8_0",
        "leave_output": True,
    }

    report = quantize(untied, target, "Q4_0", recipe=recipe, embed_provenance=True)

    metadata = read_header(target).metadata
    ours = {key: value for key, value in metadata.items() if key.startswith("quantgate.")}
    paper = json.loads((tmp_path / "out.gguf.json").read_text())
    assert ours == {
        "quantgate.schema": 2,
        "quantgate.version": paper["quantgate"],
        "quantgate.engine": report["engine"],
        "quantgate.source.name": "untied-f16.gguf",
        "quantgate.source.bytes": str(untied.stat().st_size),
        "quantgate.source.sha256": sha256_file(untied),
        "quantgate.recipe.type": "Q4_0",
        "quantgate.recipe.imatrix": "imatrix.gguf",
        "quantgate.recipe.imatrix.sha256": sha256_file(imatrix),
        "quantgate.recipe.embedding": "Q8_0",
        "quantgate.recipe.leave_output": "yes",
        "quantgate.recipe.override.0": "attn_v=Q6_K",
    }
    assert paper["command"].endswith("--leave-output --embed-provenance --output out.gguf")
    again = quantize(untied, tmp_path / "b.gguf", "Q4_0", recipe=recipe, embed_provenance=True)
    assert again["target_sha256"] == report["target_sha256"]


@pytest.mark.parametrize("length", [126, 127, 128])
def test_provenance_that_is_too_long(length: int, untied: Path, tmp_path: Path) -> None:
    """The engine writes 127 bytes of a text: what is longer is refused, not cut."""
    name = "m" * (length - 5) + ".gguf"
    source = tmp_path / name
    source.write_bytes(untied.read_bytes())

    answer = quantize(source, tmp_path / "out.gguf", "Q8_0", embed_provenance=True)

    if length <= 127:
        assert read_header(tmp_path / "out.gguf").metadata["quantgate.source.name"] == name
    else:
        assert answer["refused"] == (
            "the provenance cannot be embedded: quantgate.source.name would be 128 bytes long, the "
            "engine writes 127; leave out --embed-provenance (the record beside the file has no such "
            "limit)"
        )
