"""Recipes: what a quantized file is to be made of, with every name in it known and every part in use.

A part of a recipe that the engine would pass over in silence (a pattern that fits no tensor, an option
for a tensor that is not there) is an error here.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_quantgate.artifact.catalog import (
    QUANTIZATION_TYPES,
    TENSOR_TYPES,
    TENSOR_TYPES_BY_NAME,
    did_you_mean,
    quantization_type,
)
from pytest_quantgate.errors import ArtifactError, QuantizationError
from pytest_quantgate.records import Recipe, TensorOverride

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

FLOATS = frozenset({"F32", "F16", "BF16"})
"""Quantization types that quantize nothing."""

OVERRIDE_TYPES: tuple[str, ...] = tuple(
    kind.name
    for kind in TENSOR_TYPES.values()
    if kind.name not in {"Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64"}
)
"""Tensor types the engine can make; the others exist in computations only (``ggml_quantize_chunk``)."""

TYPE_NUMBERS: Mapping[str, int] = MappingProxyType(
    {kind.name: number for number, kind in TENSOR_TYPES.items()}
)
"""The number of each tensor type in files and in the engine's interface."""

_EMBEDDINGS = frozenset({"token_embd.weight", "per_layer_token_embd.weight"})
# What llama.cpp's quantizer refuses without importance, and what aborts inside ggml.
_REFUSED = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"})
_ABORTING = frozenset({"IQ1_S", "IQ2_XXS", "IQ2_XS"})
_PLAIN: Mapping[str, tuple[type, ...]] = MappingProxyType(
    {
        "type": (str,),
        "imatrix": (str,),
        "output_tensor": (str, type(None)),
        "embedding": (str, type(None)),
        "leave_output": (bool,),
        "pure": (bool,),
        "strategy": (str,),
    }
)
_SHOWN_NAMES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """A named mix: the type it is meant for, and which tensors get another one."""

    name: str
    type: str
    overrides: tuple[TensorOverride, ...]
    summary: str


STRATEGIES: Mapping[str, Strategy] = MappingProxyType(
    {
        "mixed-precision": Strategy(
            name="mixed-precision",
            type="Q4_K_M",
            overrides=(
                TensorOverride(pattern=r"attn_", type="Q6_K"),
                TensorOverride(pattern=r"^(per_layer_)?token_embd\.", type="Q8_0"),
                TensorOverride(pattern=r"^output\.", type="Q6_K"),
            ),
            summary=(
                "attention and output in Q6_K, embeddings in Q8_0, the feed-forward layers as the type"
                " has them"
            ),
        ),
    }
)
"""Named recipes. `mixed-precision` is a rule of thumb that guides to quantization give: attention in
Q6_K or higher, embeddings in Q8_0 or higher, output in Q6_K or higher, feed-forward in Q4_K_M. All of
it is said with patterns, because those give way where rows do not fit a block; the engine's own
options for output and embeddings do not."""


def recipe_for(
    type_name: str | None = None,
    *,
    strategy: str | None = None,
    overrides: Sequence[TensorOverride] = (),
    imatrix: str = "",
    output_tensor: str | None = None,
    embedding: str | None = None,
    leave_output: bool = False,
    pure: bool = False,
) -> Recipe:
    """Return a recipe with every name in its canonical form.

    Own ``overrides`` come before those of the ``strategy``, so that they win; the type is the
    strategy's unless one is given.

    Raises:
        ArtifactError: for an unknown quantization type.
        QuantizationError: for an unknown strategy or tensor type, a pattern that is no regular
            expression, options that contradict each other, or no type at all.
    """
    rules: tuple[TensorOverride, ...] = ()
    if strategy:
        if strategy not in STRATEGIES:
            hint = did_you_mean(strategy, STRATEGIES) or f"; known are {', '.join(STRATEGIES)}"
            message = f"{strategy!r} is not a strategy{hint}"
            raise QuantizationError(message)
        rules = STRATEGIES[strategy].overrides
        type_name = type_name or STRATEGIES[strategy].type
    if not type_name:
        message = "neither a quantization type nor a strategy was named; name one, such as Q4_K_M"
        raise QuantizationError(message)
    return canonical(
        Recipe(
            type=type_name,
            imatrix=imatrix,
            overrides=(*overrides, *rules),
            output_tensor=output_tensor,
            embedding=embedding,
            leave_output=leave_output,
            pure=pure,
            strategy=strategy or "",
        )
    )


def canonical(recipe: Recipe) -> Recipe:
    """Return the recipe with every type by its own name, having checked what needs no model.

    Raises:
        ArtifactError: for an unknown quantization type.
        QuantizationError: as `recipe_for`, and for a part that has no effect on a float type.
    """
    kind = quantization_type(recipe.type)
    if recipe.strategy and recipe.strategy not in STRATEGIES:
        message = f"{recipe.strategy!r} is not a strategy; known are {', '.join(STRATEGIES)}"
        raise QuantizationError(message)
    if recipe.leave_output and recipe.output_tensor is not None:
        message = (
            f"the output tensor cannot be {recipe.output_tensor} and be left as it is; choose one"
        )
        raise QuantizationError(message)
    if kind.name in FLOATS and recipe.overrides:
        message = (
            f"overrides have no effect on {kind.name}: the engine applies them to quantized types"
            " only; leave them out, or choose a quantized type"
        )
        raise QuantizationError(message)
    if kind.name in FLOATS and recipe.imatrix:
        message = f"an importance matrix has no effect on {kind.name}; leave it out"
        raise QuantizationError(message)
    for override in recipe.overrides:
        _compiled(override.pattern)
    return dataclasses.replace(
        recipe,
        type=kind.name,
        overrides=tuple(
            TensorOverride(pattern=override.pattern, type=tensor_type(override.type))
            for override in recipe.overrides
        ),
        output_tensor=None if recipe.output_tensor is None else tensor_type(recipe.output_tensor),
        embedding=None if recipe.embedding is None else tensor_type(recipe.embedding),
    )


def tensor_type(name: str) -> str:
    """Return the name of a tensor type the engine can make, given in any case.

    Raises:
        QuantizationError: for a name that is none, with the nearest ones.
    """
    key = name.strip().upper()
    if key in OVERRIDE_TYPES:
        return key
    if key in TENSOR_TYPES_BY_NAME:
        hint = ": it exists in computations only, so that no file can be made with it."
    elif key in QUANTIZATION_TYPES:
        base = QUANTIZATION_TYPES[key].base
        hint = f": it is a mix for whole models; a tensor can be {base}."
    else:
        hint = did_you_mean(key, OVERRIDE_TYPES) or "."
    message = f"{name!r} is not a tensor type{hint} Known are {', '.join(OVERRIDE_TYPES)}"
    raise QuantizationError(message)


def parse_override(text: str) -> TensorOverride:
    """Return the override that ``REGEX=TYPE`` stands for; the type is behind the last ``=``.

    Raises:
        QuantizationError: when a half is missing, or is no regular expression or tensor type.
    """
    pattern, _, name = text.rpartition("=")
    if not pattern or not name:
        message = f"{text!r} is not an override; write REGEX=TYPE, such as attn_v=Q6_K"
        raise QuantizationError(message)
    _compiled(pattern)
    return TensorOverride(pattern=pattern, type=tensor_type(name))


def claims(recipe: Recipe, names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Return, for each override, the tensors it decides: those it is the first to fit.

    Patterns are Python's regular expressions, searched anywhere in a name and without regard to
    case. A pattern of the recipe's own strategy may fit nothing, as long as another one does.

    Raises:
        QuantizationError: for an override that decides no tensor, with the reason.
    """
    taken: dict[str, str] = {}
    found = []
    fixed = STRATEGIES[recipe.strategy].overrides if recipe.strategy else ()
    for override in recipe.overrides:
        pattern = _compiled(override.pattern)
        fitting = [name for name in names if pattern.search(name)]
        free = tuple(name for name in fitting if name not in taken)
        if not free and override not in fixed:
            raise _useless(override, fitting, taken, names)
        taken |= dict.fromkeys(free, override.pattern)
        found.append(free)
    if fixed and not any(found):
        message = (
            f"the strategy {recipe.strategy} fits none of the {len(names)} tensors of this model;"
            " use overrides of its own names"
        )
        raise QuantizationError(message)
    return tuple(found)


def needs_importance(tensor: str, type_name: str, quantization: str) -> bool:
    """Return whether the engine cannot make a tensor of that type without importance for it.

    Embeddings and output, for which importance is rarely collected, may be made without in some types
    (``tensor_requires_imatrix`` and ``ggml_quantize_requires_imatrix``).
    """
    if tensor in _EMBEDDINGS or tensor == "output.weight":
        return type_name in _ABORTING
    return type_name in _REFUSED or (type_name == "Q2_K" and quantization == "Q2_K_S")


def shown_names(names: Sequence[str]) -> str:
    """Return the first names of a list, and how many more there are, for a message."""
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return ", ".join(names[:_SHOWN_NAMES]) + more


def from_plain(value: object) -> Recipe:
    """Return the recipe of a plain document, as `dataclasses.asdict` makes it.

    Raises:
        ArtifactError: for anything else.
    """
    fields = dict(value) if isinstance(value, dict) else {}
    overrides = fields.pop("overrides", ())
    fits = (
        "type" in fields
        and fields.keys() <= _PLAIN.keys()
        and all(isinstance(each, _PLAIN[name]) for name, each in fields.items())
        and isinstance(overrides, list | tuple)
        and all(
            isinstance(each, dict)
            and each.keys() == {"pattern", "type"}
            and all(isinstance(text, str) for text in each.values())
            for each in overrides
        )
    )
    if not fits:
        message = f"quantize: {value!r} is not a recipe"
        raise ArtifactError(message)
    return Recipe(**fields, overrides=tuple(TensorOverride(**each) for each in overrides))


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        message = f"{pattern!r} is not a regular expression: {error}"
        raise QuantizationError(message) from error


def _useless(
    override: TensorOverride, fitting: Sequence[str], taken: Mapping[str, str], names: Iterable[str]
) -> QuantizationError:
    what = f"the override {override.pattern}={override.type}"
    if fitting:
        earlier = ", ".join(dict.fromkeys(taken[name] for name in fitting))
        return QuantizationError(
            f"{what} decides nothing: {shown_names(fitting)} are decided by {earlier}, which comes"
            " before it; leave it out or put it first"
        )
    words = sorted({part for name in names for part in name.split(".") if not part.isdigit()})
    hint = did_you_mean(override.pattern, words) or "; see `quantgate inspect FILE` for their names"
    return QuantizationError(f"{what} fits no tensor of this model{hint}")
