"""What becomes of a model under a recipe: every tensor's type, known before a byte is written.

The engine is asked in a dry run, so that what is planned is what will be done. Native code: call this
only inside a probe.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.artifact.catalog import TENSOR_TYPES_BY_NAME, quantization_type
from pytest_quantgate.artifact.gguf import check_architecture, read_parts
from pytest_quantgate.artifact.quantization import native_quantize, prediction
from pytest_quantgate.artifact.quantization.recipe import (
    FLOATS,
    STRATEGIES,
    TYPE_NUMBERS,
    canonical,
    claims,
    needs_importance,
    shown_names,
)
from pytest_quantgate.errors import QuantizationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_quantgate.artifact.gguf import GgufHeader, TensorInfo
    from pytest_quantgate.artifact.imatrix import Imatrix
    from pytest_quantgate.records import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class FallenTensor:
    """A tensor that cannot have the type it should: its rows do not fit the blocks of ``wanted``."""

    name: str
    wanted: str
    got: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationPlan:
    """A recipe applied to a model: what the engine will be asked for and what it will answer.

    ``types`` is the type that each tensor will have.
    """

    recipe: Recipe
    headers: tuple[GgufHeader, ...]
    imatrix: Imatrix | None
    native: native_quantize.NativeRecipe
    types: Mapping[str, str]
    fallbacks: tuple[FallenTensor, ...]

    @property
    def parts(self) -> tuple[Path, ...]:
        """The files of the source, in order."""
        return tuple(header.path for header in self.headers)

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """The tensors of the source, as they are."""
        return tuple(tensor for header in self.headers for tensor in header.tensors)

    @property
    def needy(self) -> tuple[str, ...]:
        """Tensors the engine cannot make for want of importance."""
        return tuple(
            tensor.name
            for tensor in self.tensors
            if self.types[tensor.name] != tensor.type_name
            and tensor.name not in self.native.importance
            and needs_importance(tensor.name, self.types[tensor.name], self.recipe.type)
        )


def planned(
    source: Path, recipe: Recipe, *, threads: int, allow_requantize: bool
) -> QuantizationPlan:
    """Check the ingredients and ask the engine what it would do with them.

    Raises:
        QuantizationError: for a recipe that cannot be carried out or has a part without effect, and a
            source of the wrong kind.
        ArtifactError: for an unknown type, and files that cannot be read.
    """
    recipe = canonical(recipe)
    headers = read_parts(source)
    check_architecture(headers[0])
    _check_source(headers, recipe, allow_requantize=allow_requantize)
    imatrix = _fitting_imatrix(recipe, headers)
    tensors = {tensor.name: tensor for header in headers for tensor in header.tensors}
    claimed = claims(recipe, tuple(tensors))
    for name, wanted, option in (
        ("token_embd.weight", recipe.embedding, "embedding"),
        ("per_layer_token_embd.weight", recipe.embedding, "embedding"),
        ("output.weight", recipe.output_tensor, "output tensor"),
    ):
        _check_rows(tensors.get(name), wanted, option)
    unset = native_quantize.NativeRecipe(ftype=0, threads=threads)
    native = native_quantize.NativeRecipe(
        ftype=quantization_type(recipe.type).ftype,
        threads=threads,
        allow_requantize=allow_requantize or recipe.type in FLOATS,
        pure=recipe.pure,
        leave_output=recipe.leave_output,
        output_tensor=TYPE_NUMBERS[recipe.output_tensor]
        if recipe.output_tensor
        else unset.output_tensor,
        embedding=TYPE_NUMBERS[recipe.embedding] if recipe.embedding else unset.embedding,
        types={
            name: TYPE_NUMBERS[override.type]
            for override, names in zip(recipe.overrides, claimed, strict=True)
            for name in names
        },
        importance=imatrix.engine_values() if imatrix else {},
    )
    run = native_quantize.run(
        headers[0].path, Path(os.devnull), dataclasses.replace(native, dry_run=True)
    )
    if run.failure is not None:
        message = f"{source}: cannot be made into {recipe.type}: {run.failure}"
        raise QuantizationError(message)
    if run.types.keys() != tensors.keys() or len(run.fallen) != run.fallback_tensors:
        message = (
            f"{source}: the engine ({native_quantize.engine()}) speaks of {len(run.types)} tensors of "
            f"{len(tensors)} and names {len(run.fallen)} of {run.fallback_tensors} fallbacks; its log "
            "is not of the form this version reads: install the version this package was made for"
        )
        raise QuantizationError(message)
    types = {name: kind or tensors[name].type_name for name, kind in run.types.items()}
    _check_effects(recipe, claimed, types, {name: one for name, (one, _) in run.fallen.items()})
    return QuantizationPlan(
        recipe=recipe,
        headers=headers,
        imatrix=imatrix,
        native=native,
        types=types,
        fallbacks=tuple(
            FallenTensor(name=name, wanted=wanted, got=got)
            for name, (wanted, got) in run.fallen.items()
        ),
    )


def _check_source(headers: Sequence[GgufHeader], recipe: Recipe, *, allow_requantize: bool) -> None:
    first = headers[0]
    if first.alignment != prediction.ALIGNMENT:
        message = (
            f"{first.path}: aligns its tensors to {first.alignment} bytes, the engine's quantizer "
            f"writes files aligned to {prediction.ALIGNMENT} only; convert the model again without "
            "general.alignment"
        )
        raise QuantizationError(message)
    quantized = any(header.quantized for header in headers)
    if quantized and recipe.type not in FLOATS and not allow_requantize:
        message = (
            f"{first.path}: is already quantized ({first.file_type or 'unknown type'}), and "
            f"quantizing it again to {recipe.type} loses twice; start from an F16, BF16 or F32 file, "
            "make one from it first (type F16), or allow requantizing"
        )
        raise QuantizationError(message)


def _fitting_imatrix(recipe: Recipe, headers: Sequence[GgufHeader]) -> Imatrix | None:
    if not recipe.imatrix:
        return None
    # numpy, which no plain quantization needs.
    from pytest_quantgate.artifact.imatrix import check_fits, read_imatrix  # noqa: PLC0415

    imatrix = read_imatrix(Path(recipe.imatrix))
    check_fits(imatrix, *headers)
    return imatrix


def _check_rows(tensor: TensorInfo | None, wanted: str | None, option: str) -> None:
    """Refuse what aborts the engine: for these two options it knows no fallback."""
    if tensor is None or wanted is None:
        return
    block = TENSOR_TYPES_BY_NAME[wanted].block_size
    if tensor.shape[0] % block:
        message = (
            f"the {option} cannot be {wanted}: the rows of {tensor.name} have {tensor.shape[0]} "
            f"weights, no multiple of {block}; choose a type with blocks of 32, such as Q8_0"
        )
        raise QuantizationError(message)


def _check_effects(
    recipe: Recipe,
    claimed: Sequence[Sequence[str]],
    types: Mapping[str, str],
    wanted: Mapping[str, str],
) -> None:
    """Refuse what the engine passes over: it should never look as if it had been heeded."""

    def heeded(name: str, kind: str) -> bool:
        return kind in (types.get(name), wanted.get(name))

    fixed = STRATEGIES[recipe.strategy].overrides if recipe.strategy else ()
    for override, names in zip(recipe.overrides, claimed, strict=True):
        if override not in fixed and not any(heeded(name, override.type) for name in names):
            message = (
                f"the override {override.pattern}={override.type} has no effect: the engine leaves "
                f"{shown_names(names)} as they are, or another option decides them"
            )
            raise QuantizationError(message)
    tied = "output.weight" not in types
    if recipe.leave_output and tied:
        message = (
            "there is no output tensor to leave as it is: the model uses its embeddings for it; name "
            "their type instead (--embedding)"
        )
        raise QuantizationError(message)
    for option, kind, name in (
        ("output tensor", recipe.output_tensor, "token_embd.weight" if tied else "output.weight"),
        ("embedding", recipe.embedding, "token_embd.weight"),
    ):
        if kind is not None and not heeded(name, kind):
            message = (
                f"the {option} type {kind} has no effect: {name} is {types.get(name, 'not there')}, "
                "by another option or because the engine never quantizes it; leave it out"
            )
            raise QuantizationError(message)


def check_importance(plan: QuantizationPlan) -> None:
    """Refuse a plan that the engine would end half-way, or die of.

    Raises:
        QuantizationError: when tensors are to have a type that needs importance, and have none.
    """
    needy = plan.needy
    if not needy:
        return
    kinds = ", ".join(dict.fromkeys(plan.types[name] for name in needy))
    if plan.imatrix is None:
        message = (
            f"{plan.recipe.type} needs an importance matrix for {len(needy)} tensors that would be "
            f"{kinds} ({shown_names(needy)}); make one with `quantgate imatrix` and name it "
            "(--imatrix), or choose a larger type"
        )
    else:
        message = (
            f"{plan.recipe.imatrix}: says nothing about {len(needy)} tensors that would be {kinds}, "
            f"which cannot be made without importance ({shown_names(needy)}); give them another type "
            "(--override, --embedding, --output-tensor)"
        )
    raise QuantizationError(message)
