"""How much memory a model takes at a level and a context, part by part.

The engine's own allocations, as formulas: `bench/estimate.py` holds them against the peak that a
probe measures. Sizes are in bytes; GB of the tables is 10**9 bytes, GiB 2**30.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from pytest_quantgate.artifact.catalog import (
    TENSOR_TYPES_BY_NAME,
    did_you_mean,
    quantization_type,
)
from pytest_quantgate.artifact.formats import WEIGHT_FORMATS
from pytest_quantgate.artifact.selection.mixes import mix_of, stored_type
from pytest_quantgate.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_quantgate.artifact.selection.native_memory import PlannedMemory
    from pytest_quantgate.artifact.selection.shape import ModelShape, Weights

GIBIBYTE = 1 << 30
GIGABYTE = 10**9

ACCURACY = 0.10
"""How far an estimate may be from the peak a probe measures; tests and the benchmark hold it."""

CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
"""Types the engine keeps keys and values in."""

UBATCH = 512
"""Tokens the engine computes at once."""

_CELLS = 256
# Python with numpy, this package and the engine's libraries, before a model is loaded: 46 MB on
# Linux with Python 3.11, and what their first use brings in.
_PROCESS_BYTES = 50_000_000
# Text, score and merges of a token, in the engine's maps: 17 MB for SmolLM2's 49,152.
_TOKEN_BYTES = 350
# A CUDA context takes 120 to 550 MB, depending on the GPU (llama.cpp, pull request 20595).
_GPU_CONTEXT_BYTES = 550_000_000
_FLOAT = 4
_MASK = 2

Device = Literal["cpu", "gpu", "unified"]

_REPACKED_BY = MappingProxyType(
    {
        "avx2": frozenset({"Q4_0", "Q4_K", "IQ4_NL", "MXFP4"}),
        "avx512f": frozenset({"Q2_K"}),
        "asimddp": frozenset({"Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "IQ4_NL", "MXFP4", "Q1_0"}),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """What a model takes at a level, in bytes.

    ``weights`` are the tensors as they lie in the file; ``repacked`` the copies the engine makes of
    some in a layout the processor likes; ``kv_cache`` keys and values of the whole context;
    ``compute`` intermediate results; ``output`` the logits of one token; ``runtime`` the process
    itself with the vocabulary, on a GPU the runtime's context.
    """

    level: str
    context: int
    cache_type: str
    device: Device
    weights_bytes: int
    repacked_bytes: int
    kv_cache_bytes: int
    compute_bytes: int
    output_bytes: int
    runtime_bytes: int

    @property
    def total_bytes(self) -> int:
        """The peak of the process: all parts."""
        return self.required_bytes + self.repacked_bytes

    @property
    def required_bytes(self) -> int:
        """What must be free: of repacked weights the pages of the file can be dropped again."""
        return (
            self.weights_bytes
            + self.kv_cache_bytes
            + self.compute_bytes
            + self.output_bytes
            + self.runtime_bytes
        )


def repacked_types(flags: tuple[str, ...]) -> frozenset[str]:
    """Return the tensor types that the engine copies into another layout on such a processor.

    Of llama.cpp's ``ggml-cpu/repack.cpp``; the engine must have been built for the instructions.
    """
    found = [types for flag, types in _REPACKED_BY.items() if flag in flags]
    return frozenset().union(*found)


def estimate_memory(
    shape: ModelShape,
    level: str | None = None,
    *,
    context: int,
    cache_type: str = "f16",
    device: Device = "cpu",
    flags: tuple[str, ...] = (),
    planned: PlannedMemory | None = None,
    weights_bytes: int | None = None,
) -> MemoryEstimate:
    """Estimate the memory of a model.

    Args:
        shape: The model.
        level: A quantization type, or a format of GPU runtimes; None for the file as it is.
        context: Tokens the cache has room for.
        cache_type: Type of keys and values, one of `CACHE_TYPES`.
        device: Where it runs: ``cpu``, ``gpu`` for memory of its own, ``unified`` for shared memory.
        flags: Instruction sets of the processor, as `Machine.flags` has them.
        planned: What the engine itself plans for this model and context; replaces the formulas.
        weights_bytes: Bytes of the tensors, where they are known better than from the mix.

    Raises:
        ArtifactError: for an unknown level or cache type, a context that is none, or a level that
            the shape does not have.
    """
    if not 1 <= context <= 1 << 24:
        message = f"a context of {context:,} tokens cannot be; 1 to {1 << 24:,} are accepted"
        raise ArtifactError(message)
    kind = _cache_type(cache_type)
    name, types = _typed_weights(shape, level)
    sizes = [(each, kind_name, _nbytes(each, kind_name)) for each, kind_name in types]
    weights = sum(size for _, _, size in sizes)
    copied = 0
    if device == "cpu":
        apart = repacked_types(flags)
        copied = sum(size for each, own, size in sizes if own in apart and _repackable(each))
    cells = -(-context // _CELLS) * _CELLS
    batch = min(UBATCH, context)
    # Kept alive at once in a layer: three rows as wide as the feed-forward, four of the embedding,
    # for each token of a batch, and the mask of attention. On a GPU the logits of all of them, too,
    # because memory is taken there when it is reserved, used or not.
    compute = batch * (_FLOAT * (3 * shape.feed_forward + 4 * shape.embedding) + _MASK * cells)
    if device == "gpu":
        compute = max(compute, batch * _FLOAT * (shape.vocabulary + 2 * shape.embedding))
    runtime = _PROCESS_BYTES + _TOKEN_BYTES * shape.vocabulary
    cache = round(shape.kv_width * cells * kind)
    output = _FLOAT * shape.vocabulary
    if planned is not None:
        cache, output = planned.cache_bytes, planned.output_bytes
        compute = planned.reserved_bytes if device == "gpu" else planned.compute_bytes
        runtime = planned.process_bytes
    return MemoryEstimate(
        level=name,
        context=context,
        cache_type=cache_type.lower(),
        device=device,
        weights_bytes=weights if weights_bytes is None else weights_bytes,
        repacked_bytes=copied,
        kv_cache_bytes=cache,
        compute_bytes=compute,
        output_bytes=output,
        runtime_bytes=_GPU_CONTEXT_BYTES if device == "gpu" else runtime,
    )


def weights_bytes(shape: ModelShape, level: str | None = None) -> int:
    """Return the bytes of all tensors at a level; for None, as they lie in the file.

    Raises:
        ArtifactError: for an unknown level, or no level where the shape has none.
    """
    _, types = _typed_weights(shape, level)
    return sum(_nbytes(each, kind) for each, kind in types)


def bits_per_weight(shape: ModelShape, level: str) -> float:
    """Return the bits per weight of the whole model at a level.

    Raises:
        ArtifactError: for an unknown level.
    """
    return 8 * weights_bytes(shape, level) / shape.parameters


def _typed_weights(
    shape: ModelShape, level: str | None
) -> tuple[str, list[tuple[Weights, str | float]]]:
    """Return the level's name, and the weights with the types they get, shares of them apart."""
    if level is None:
        own = [(each, each.type) for each in shape.weights if each.type is not None]
        if len(own) < len(shape.weights):
            message = f"{shape.name}: lies in no file, so it has no type of its own; name a level"
            raise ArtifactError(message)
        return shape.level or "as it is", list(own)
    if level.upper() in WEIGHT_FORMATS:
        return level.upper(), list(_formatted(shape, level.upper()))
    kind = quantization_type(level)
    return kind.name, list(_mixed(shape, kind.name))


def _formatted(shape: ModelShape, name: str) -> Iterator[tuple[Weights, str | float]]:
    # Linear layers are quantized; embedding and output stay in 16 bits.
    bits = WEIGHT_FORMATS[name].bits_per_weight
    for each in shape.weights:
        apart = each.kept or each.role in ("embedding", "output")
        yield each, "F16" if apart else bits


def _mixed(shape: ModelShape, name: str) -> Iterator[tuple[Weights, str | float]]:
    mix = mix_of(name)
    for each in shape.weights:
        if each.kept:
            yield each, each.type or "F32"
            continue
        role = "output" if shape.tied and each.role == "embedding" else each.role
        for kind, share in mix.shares(role, grouped=shape.grouped):
            part = replace(each, elements=round(each.elements * share))
            yield part, stored_type(kind, each.row, output=role == "output")


def _nbytes(weights: Weights, kind: str | float) -> int:
    bits = TENSOR_TYPES_BY_NAME[kind].bits_per_weight if isinstance(kind, str) else kind
    return math.ceil(weights.elements * bits / 8)


def _repackable(weights: Weights) -> bool:
    """Tell whether the engine would copy such a tensor: one it multiplies with, in eights of rows."""
    return not weights.kept and weights.role != "embedding" and weights.columns % 8 == 0


def _cache_type(name: str) -> float:
    """Return the bytes one element takes."""
    if name.lower() not in CACHE_TYPES:
        hint = did_you_mean(name, CACHE_TYPES) or "."
        message = f"{name!r} is not a type of the cache{hint} There are {', '.join(CACHE_TYPES)}"
        raise ArtifactError(message)
    return TENSOR_TYPES_BY_NAME[name.upper()].bits_per_weight / 8


_PRECISIONS: Mapping[str, int] = MappingProxyType(
    {"FP32": 32, "FP16": 16, "BF16": 16, "INT8": 8, "INT4": 4, "INT3": 3, "INT2": 2}
)


def calculate_model_size(parameters_billions: float, precision: str) -> dict[str, Any]:
    """Return the size of bare numbers: no scales, no metadata, every weight of one precision.

    For a first idea only: a 4-bit file has 4.5 to 4.9 bits per weight (`bits_per_weight`).
    ``size_gb`` counts in 2**30 bytes.

    Raises:
        ValueError: for an unknown precision or a number of parameters that is none.
    """
    name = precision.upper()
    if name not in _PRECISIONS:
        message = f"{precision!r} is not a precision; there are {', '.join(_PRECISIONS)}"
        raise ValueError(message)
    if not 0 < parameters_billions < math.inf:
        message = f"{parameters_billions!r} billion parameters cannot be"
        raise ValueError(message)
    bits = _PRECISIONS[name]
    size = parameters_billions * GIGABYTE * bits / 8
    return {
        "precision": name,
        "bits_per_param": bits,
        "size_gb": round(size / GIBIBYTE, 1),
        "relative_to_fp16": round(bits / 16 * 100, 1),
    }
