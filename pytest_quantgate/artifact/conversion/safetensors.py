"""The header of a safetensors file: which tensors it holds, checked before anything maps it.

The layout (https://github.com/huggingface/safetensors): eight bytes with the length of the header,
little-endian; the header, a JSON object with a type, a shape and two offsets for each tensor; data.
"""

from __future__ import annotations

import json
import math
import os
from typing import TYPE_CHECKING

from pytest_quantgate.artifact.files import open_regular
from pytest_quantgate.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAX_HEADER_BYTES = 100_000_000
"""The bound that the format's own library sets."""

_LENGTH_BYTES = 8
_METADATA = "__metadata__"
_BITS = {
    "F64": 64,
    "F32": 32,
    "F16": 16,
    "BF16": 16,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F4": 4,
    "I64": 64,
    "I32": 32,
    "I16": 16,
    "I8": 8,
    "U64": 64,
    "U32": 32,
    "U16": 16,
    "U8": 8,
    "BOOL": 8,
    "C64": 64,
}


def tensor_shapes(path: Path) -> Mapping[str, tuple[int, ...]]:
    """Return the tensors of a file by name, each with its shape.

    Raises:
        ConversionError: the file is cut short or no safetensors file.
        ArtifactError: it is missing or unreadable.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if not 0 < length <= min(MAX_HEADER_BYTES, size - _LENGTH_BYTES):
            message = (
                f"{path}: is no safetensors file, or is cut short: its header would have {length:,} "
                f"of {size:,} bytes; fetch it again"
            )
            raise ConversionError(message)
        text = file.read(length)
    try:
        header = json.loads(text)
        entries = {name: entry for name, entry in header.items() if name != _METADATA}
        ends = {name: _end(entry) for name, entry in entries.items()}
        shapes = {name: tuple(map(int, entry["shape"])) for name, entry in entries.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        message = f"{path}: its header is damaged ({type(error).__name__}: {error}); fetch it again"
        raise ConversionError(message) from error
    data = size - _LENGTH_BYTES - length
    if max(ends.values(), default=0) != data:
        message = (
            f"{path}: holds {data:,} bytes of tensors where its header says "
            f"{max(ends.values(), default=0):,}; it is incomplete, fetch it again"
        )
        raise ConversionError(message)
    return shapes


def _end(entry: Mapping[str, object]) -> int:
    """Return where a tensor's data ends, after checking that its parts agree."""
    offsets, shape, kind = entry["data_offsets"], entry["shape"], entry["dtype"]
    if not (isinstance(offsets, list) and isinstance(shape, list) and isinstance(kind, str)):
        message = f"an entry is {entry!r}"
        raise TypeError(message)
    begin, end = offsets
    if kind not in _BITS:
        # A newer type than this list: the libraries that read the data will say what they think.
        return int(end)
    wanted = math.prod(shape) * _BITS[kind]
    if begin < 0 or 8 * (end - begin) != wanted:
        message = f"{kind} of shape {shape} takes {wanted // 8} bytes, not {end - begin}"
        raise ValueError(message)
    return int(end)
