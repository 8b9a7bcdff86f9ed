"""Quantization in a few lines of numpy: what the formats do, without what makes them fast.

For teaching and for the figures in the documentation. The engine's own formats differ in the size of
their scales and in how they search for the best one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_LARGEST_INT8 = 127
_FLOAT32 = np.finfo(np.float32)
MIN_BITS, MAX_BITS = 2, 8
"""The bits `group_quantize` takes: one has no positive number, more do not fit into int8."""


class GroupQuantized(TypedDict):
    """What `group_quantize` gives.

    ``quantized`` has one row of ``group_size`` numbers for each group, the last one filled up with
    zeros; ``scales`` one number for each row; ``original_shape`` is that of the weights.
    """

    quantized: NDArray[np.int8]
    scales: NDArray[np.float64]
    group_size: int
    original_shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundTripError:
    """How far restored weights are from the original ones.

    ``mean_absolute``, ``maximum`` and ``root_mean_square`` are in the unit of the weights;
    ``relative`` is the root mean square of the error over that of the weights: 0.01 is one percent.
    """

    mean_absolute: float
    maximum: float
    root_mean_square: float
    relative: float


def naive_quantize_int8(weights: ArrayLike) -> tuple[NDArray[np.int8], float]:
    """Return weights as 8-bit integers of the same shape, and the one scale that restores them.

    The scale is the largest magnitude / 127, so that -128 is never used; halves are rounded to even.
    Weights that are all zero, or so small that a 32-bit scale is not exact, become zeros with scale 1.

    Raises:
        ValueError: for weights that are NaN, infinite or beyond 32-bit floats: no scale fits them.
    """
    array = _finite(weights)
    scale = _scales(array.reshape(1, -1), _LARGEST_INT8)[0]
    return np.rint(array / scale).astype(np.int8), float(scale)


def dequantize(quantized: NDArray[np.int8], scale: float) -> NDArray[np.float32]:
    """Return the weights that 8-bit integers stand for, in 32-bit floats."""
    restored: NDArray[np.float32] = np.multiply(quantized, scale, dtype=np.float32)
    return restored


def group_quantize(weights: ArrayLike, group_size: int = 128, *, bits: int = 4) -> GroupQuantized:
    """Quantize weights in groups of ``group_size``, in C order, with a scale of its own for each.

    Numbers are symmetric, with the largest magnitude of a group at 2^(bits-1) - 1: -7 to 7 for 4 bits.
    A group of zeros has scale 1. One large weight costs precision in its own group only.

    Raises:
        ValueError: for weights that are NaN, infinite or beyond 32-bit floats, groups of less than
            1, bits other than 2 to 8.
    """
    if group_size < 1:
        message = f"group_size is {group_size}; a group has 1 weight at least"
        raise ValueError(message)
    if not MIN_BITS <= bits <= MAX_BITS:
        message = f"bits is {bits}; {MIN_BITS} to {MAX_BITS} can be stored"
        raise ValueError(message)
    array = _finite(weights)
    groups = -(-array.size // group_size)
    padded = np.zeros((groups, group_size))
    padded.reshape(-1)[: array.size] = array.reshape(-1)
    scales = _scales(padded, 2 ** (bits - 1) - 1)
    return GroupQuantized(
        quantized=np.rint(padded / scales[:, np.newaxis]).astype(np.int8),
        scales=scales,
        group_size=group_size,
        original_shape=array.shape,
    )


def group_dequantize(groups: GroupQuantized) -> NDArray[np.float32]:
    """Return the weights that `group_quantize` stored, in their shape, in 32-bit floats."""
    restored = groups["quantized"].astype(np.float32) * groups["scales"][:, np.newaxis]
    shape = groups["original_shape"]
    flat = restored.astype(np.float32).reshape(-1)[: int(np.prod(shape, dtype=np.int64))]
    return flat.reshape(shape)


def round_trip_error(original: ArrayLike, restored: ArrayLike) -> RoundTripError:
    """Compare weights with what came back.

    Raises:
        ValueError: when shapes differ, there are no weights, a number is NaN or infinite, or all of
            the original is zero and the error has nothing to be relative to.
    """
    before, after = _finite(original), _finite(restored)
    if before.shape != after.shape or before.size == 0:
        message = f"shapes {before.shape} and {after.shape} cannot be compared weight by weight"
        raise ValueError(message)
    error = np.abs(before - after)
    squares, size = float(np.mean(error**2)), float(np.mean(before**2))
    if size == 0 and squares > 0:
        message = "the original is all zero: an error has nothing to be relative to"
        raise ValueError(message)
    return RoundTripError(
        mean_absolute=float(np.mean(error)),
        maximum=float(np.max(error)),
        root_mean_square=squares**0.5,
        relative=(squares / size) ** 0.5 if size else 0.0,
    )


def bits_per_weight(bits: int, group_size: int, *, scale_bits: int = 16) -> float:
    """Return what a weight of ``bits`` takes with its share of the group's scale."""
    return bits + scale_bits / group_size


def _finite(weights: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(weights, dtype=np.float64)
    # NaN compares with nothing, so that it is not within.
    bad = array.size - int(np.count_nonzero(np.abs(array) <= _FLOAT32.max))
    if bad:
        message = (
            f"{bad} of {array.size} weights are NaN, infinite or beyond 32-bit floats; a scale needs"
            " finite numbers"
        )
        raise ValueError(message)
    return array


def _scales(rows: NDArray[np.float64], largest: int) -> NDArray[np.float64]:
    """Return the scale of each row that puts its largest magnitude at ``largest``."""
    magnitudes = np.max(np.abs(rows), axis=1, initial=0.0) / largest
    # Scales are restored with in 32 bits, where smaller ones lose digits or become zero.
    return np.where(magnitudes >= _FLOAT32.tiny, magnitudes, 1.0)
