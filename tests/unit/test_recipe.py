"""Recipes: names, contradictions, and which tensors a pattern decides."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantgate.artifact.catalog import QUANTIZATION_TYPES
from pytest_quantgate.artifact.quantization.recipe import (
    OVERRIDE_TYPES,
    STRATEGIES,
    canonical,
    claims,
    from_plain,
    needs_importance,
    parse_override,
    recipe_for,
    shown_names,
    tensor_type,
)
from pytest_quantgate.errors import ArtifactError, QuantizationError
from pytest_quantgate.pipeline.quantization import default_target
from pytest_quantgate.records import Recipe, TensorOverride

NAMES = ("token_embd.weight", "blk.0.attn_v.weight", "blk.1.attn_v.weight", "blk.0.ffn_up.weight")

overrides = st.builds(
    TensorOverride,
    pattern=st.sampled_from(["attn", "ffn", r"blk\.0", "token_embd", "."]),
    type=st.sampled_from(OVERRIDE_TYPES),
)
recipes = st.builds(
    Recipe,
    type=st.sampled_from(sorted(QUANTIZATION_TYPES)),
    imatrix=st.sampled_from(["", "imatrix.gguf"]),
    overrides=st.lists(overrides, max_size=3).map(tuple),
    output_tensor=st.none() | st.sampled_from(OVERRIDE_TYPES),
    embedding=st.none() | st.sampled_from(OVERRIDE_TYPES),
    leave_output=st.booleans(),
    pure=st.booleans(),
    strategy=st.sampled_from(["", *STRATEGIES]),
)


def rule(pattern: str, kind: str) -> TensorOverride:
    """Return an override."""
    return TensorOverride(pattern=pattern, type=kind)


@given(recipes)
def test_plain_recipes_come_back(recipe: Recipe) -> None:
    """A recipe survives the way into a probe."""
    assert from_plain(dataclasses.asdict(recipe)) == recipe


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["type", "overrides", "pure", "pattern", "x"]), inner, max_size=3
            )
        ),
        max_leaves=8,
    )
)
def test_other_documents_are_no_recipes(value: object) -> None:
    """Whatever arrives is a recipe or an error of ours."""
    try:
        recipe = from_plain(value)
    except ArtifactError as error:
        assert "is not a recipe" in str(error)  # noqa: PT017 - what else may come
    else:
        assert isinstance(recipe.type, str)


def test_names_in_any_case() -> None:
    """Types are taken in any case, aliases stand for their type."""
    recipe = recipe_for(
        "q4_k", overrides=[rule("attn_v", "q6_k")], output_tensor=" Q8_0 ", embedding="bf16"
    )

    assert recipe == Recipe(
        type="Q4_K_M",
        overrides=(rule("attn_v", "Q6_K"),),
        output_tensor="Q8_0",
        embedding="BF16",
    )
    assert canonical(recipe) == recipe


def test_a_strategy_brings_type_and_overrides() -> None:
    """Without a type it has its own; own overrides come first, and win."""
    rules = STRATEGIES["mixed-precision"].overrides

    plain = recipe_for(strategy="mixed-precision")
    own = recipe_for("Q5_K_M", strategy="mixed-precision", overrides=[rule("attn_v", "F16")])

    assert (plain.type, plain.overrides, plain.strategy) == ("Q4_K_M", rules, "mixed-precision")
    assert (own.type, own.overrides) == ("Q5_K_M", (rule("attn_v", "F16"), *rules))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "neither a quantization type nor a strategy was named; name one, such as Q4_K_M"),
        ({"type_name": "Q4KM"}, "'Q4KM' is not a quantization type; did you mean 'Q4_K_M'"),
        ({"strategy": "mixed-pr"}, "'mixed-pr' is not a strategy; did you mean 'mixed-precision'?"),
        ({"strategy": "zzz"}, "'zzz' is not a strategy; known are mixed-precision"),
        (
            {"type_name": "Q4_0", "embedding": "Q6"},
            "'Q6' is not a tensor type; did you mean 'Q6_K'",
        ),
        (
            {"type_name": "Q4_0", "embedding": "Q5_K_M"},
            "'Q5_K_M' is not a tensor type: it is a mix for whole models; a tensor can be Q5_K. Known",
        ),
        (
            {"type_name": "Q4_0", "output_tensor": "Q8_K"},
            "'Q8_K' is not a tensor type: it exists in computations only, so that no file can be made",
        ),
        (
            {"type_name": "Q4_0", "output_tensor": "F16", "leave_output": True},
            "the output tensor cannot be F16 and be left as it is; choose one",
        ),
        (
            {"type_name": "BF16", "overrides": (rule("attn", "Q8_0"),)},
            "overrides have no effect on BF16: the engine applies them to quantized types only; leave",
        ),
        (
            {"type_name": "F32", "imatrix": "imatrix.gguf"},
            "an importance matrix has no effect on F32; leave it out",
        ),
        (
            {"type_name": "Q4_0", "overrides": (rule("attn(", "Q8_0"),)},
            "'attn(' is not a regular expression: missing ), unterminated subpattern at position 4",
        ),
    ],
)
def test_what_no_model_could_be_made_with(wrong: dict[str, object], message: str) -> None:
    """Each is refused without a model, in words that say what to do."""
    with pytest.raises(ArtifactError) as caught:
        recipe_for(**wrong)  # type: ignore[arg-type]

    assert str(caught.value).startswith(message)


def test_an_unknown_strategy_in_a_recipe() -> None:
    """A record of a strategy that is none does not pass for one."""
    with pytest.raises(QuantizationError, match="'other' is not a strategy; known are"):
        canonical(Recipe(type="Q4_0", strategy="other"))


@pytest.mark.parametrize(
    ("text", "pattern", "kind"),
    [("attn_v=q6_k", "attn_v", "Q6_K"), ("(?=blk)=.=Q8_0", "(?=blk)=.", "Q8_0")],
)
def test_overrides_from_the_command_line(text: str, pattern: str, kind: str) -> None:
    """The type is behind the last equals sign, so that a pattern may have some."""
    assert parse_override(text) == rule(pattern, kind)


@pytest.mark.parametrize("text", ["", "attn_v", "=Q6_K", "attn_v="])
def test_halves_of_overrides(text: str) -> None:
    """Pattern and type are both needed."""
    with pytest.raises(QuantizationError) as caught:
        parse_override(text)

    assert str(caught.value) == (
        f"{text!r} is not an override; write REGEX=TYPE, such as attn_v=Q6_K"
    )


def test_each_tensor_is_decided_once() -> None:
    """The first override that fits has it."""
    recipe = recipe_for("Q4_0", overrides=[rule(r"blk\.0\.attn", "Q8_0"), rule("BLK", "Q6_K")])

    assert claims(recipe, NAMES) == ((NAMES[1],), NAMES[2:])


@given(st.lists(st.sampled_from(["attn", r"blk\.0", "ffn", "token", "."]), unique=True, max_size=4))
def test_no_tensor_is_decided_twice(patterns: list[str]) -> None:
    """Whatever the patterns, what they decide does not overlap and fits them."""
    recipe = recipe_for("Q4_0", overrides=[rule(each, "Q8_0") for each in patterns])

    try:
        found = claims(recipe, NAMES)
    except QuantizationError as error:
        assert "decides nothing" in str(error)  # noqa: PT017 - what else may come
        return
    decided = [name for names in found for name in names]
    assert len(decided) == len(set(decided))
    assert set(decided) <= set(NAMES)


def test_patterns_without_tensors() -> None:
    """A pattern that fits nothing is an error with near names, of a strategy only if all fit nothing."""
    with pytest.raises(
        QuantizationError, match=r"fits no tensor of this model; did you mean 'attn_v'"
    ):
        claims(recipe_for("Q4_0", overrides=[rule("atn_v", "Q8_0")]), NAMES)
    with pytest.raises(QuantizationError, match="see `quantgate inspect FILE` for their names"):
        claims(recipe_for("Q4_0", overrides=[rule("zzzzzz", "Q8_0")]), NAMES)
    mixed = recipe_for(strategy="mixed-precision")
    assert claims(mixed, NAMES) == (NAMES[1:3], NAMES[:1], ())
    with pytest.raises(QuantizationError, match="mixed-precision fits none of the 1 tensors"):
        claims(mixed, NAMES[3:])


def test_who_needs_importance() -> None:
    """Embeddings and output can do without in types that other tensors cannot have without."""
    assert needs_importance("blk.0.ffn_up.weight", "IQ3_XXS", "IQ3_XXS")
    assert not needs_importance("token_embd.weight", "IQ3_XXS", "IQ3_XXS")
    assert needs_importance("output.weight", "IQ2_XS", "IQ2_XS")
    assert not needs_importance("blk.0.ffn_up.weight", "IQ3_S", "IQ3_S")
    assert needs_importance("blk.0.ffn_up.weight", "Q2_K", "Q2_K_S")
    assert not needs_importance("blk.0.ffn_up.weight", "Q2_K", "Q2_K")


@pytest.mark.parametrize(
    ("count", "expected"), [(1, "a0"), (3, "a0, a1, a2"), (4, "a0, a1, a2 and 1 more")]
)
def test_names_in_messages(count: int, expected: str) -> None:
    """Three names are shown, and the number of the others."""
    assert shown_names([f"a{number}" for number in range(count)]) == expected


def test_every_type_that_can_be_made_is_a_tensor_type() -> None:
    """The base of each quantization type can be given to a tensor."""
    for kind in QUANTIZATION_TYPES.values():
        assert tensor_type(kind.base.lower()) == kind.base


@pytest.mark.parametrize(
    ("source", "recipe", "expected"),
    [
        ("model-F16.gguf", recipe_for("Q4_K_M"), "model-Q4_K_M.gguf"),
        ("model-f16.gguf", recipe_for("Q8_0"), "model-Q8_0.gguf"),
        ("model.BF16.gguf", recipe_for("Q8_0"), "model-Q8_0.gguf"),
        ("my-model.gguf", recipe_for("Q8_0"), "my-model-Q8_0.gguf"),
        ("model-f16-00001-of-00003.gguf", recipe_for("Q2_K"), "model-Q2_K.gguf"),
        ("F16.gguf", recipe_for("Q8_0"), "F16-Q8_0.gguf"),
        ("v1.5.gguf", recipe_for(strategy="mixed-precision"), "v1.5-Q4_K_M-mixed-precision.gguf"),
    ],
)
def test_default_names(source: str, recipe: Recipe, expected: str) -> None:
    """A file is named by its source, without its type, and by its recipe."""
    assert default_target(Path("in") / source, recipe) == Path("in") / expected
    assert default_target(Path("in") / source, recipe, Path("out")) == Path("out") / expected
