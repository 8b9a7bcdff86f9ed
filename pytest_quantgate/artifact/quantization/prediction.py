"""How large a quantized file becomes, from the header of its source and the types of its tensors."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from pytest_quantgate.artifact.catalog import TENSOR_TYPES_BY_NAME
from pytest_quantgate.artifact.files import open_regular
from pytest_quantgate.artifact.quantization.recipe import TYPE_NUMBERS
from pytest_quantgate.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_quantgate.artifact.gguf import GgufHeader, TensorInfo

ALIGNMENT = 32
"""The alignment of everything the engine's quantizer writes, in bytes."""

_START_BYTES = 24
# Keys the quantizer takes out of a file, and the bytes of their values (gguf-split writes them).
_SPLIT_KEYS = {"split.no": 2, "split.count": 2, "split.tensors.count": 4}
_SET_KEYS = ("general.quantization_version", "general.file_type")


def tensor_bytes(tensor: TensorInfo, type_name: str) -> int:
    """Return how many bytes a tensor takes in a type whose blocks its rows are multiples of."""
    kind = TENSOR_TYPES_BY_NAME[type_name]
    return tensor.elements // kind.block_size * kind.block_bytes


def file_bytes(
    headers: Sequence[GgufHeader], types: Mapping[str, str], metadata: Mapping[str, str | int]
) -> int:
    """Return the size of the file that the engine makes of a model, to the byte.

    The format is that of ``ggml/include/gguf.h``: what comes before the tensors is copied from the
    first part, but for the keys of a split, and ``metadata`` and two keys of the quantizer are added.
    A first part that has no tensors of its own hides where its keys end: then up to 31 bytes more.

    Args:
        headers: the parts of the source, in order.
        types: the type of each tensor in the file to make.
        metadata: further keys that are written.

    Raises:
        ArtifactError: when the source cannot be read any more, or is another one by now.
    """
    first = headers[0]
    size = _start_bytes(first)
    size -= sum(
        _key_bytes(key) + width for key, width in _SPLIT_KEYS.items() if key in first.metadata
    )
    size += sum(_key_bytes(key) + 4 for key in _SET_KEYS if key not in first.metadata)
    for key, value in metadata.items():
        if key not in first.metadata:
            size += _key_bytes(key) + (8 + len(value.encode()) if isinstance(value, str) else 4)
    tensors = [tensor for header in headers for tensor in header.tensors]
    size += sum(len(_info(tensor, _dimensions(tensor))) for tensor in tensors)
    return _padded(size) + sum(
        _padded(tensor_bytes(tensor, types[tensor.name])) for tensor in tensors
    )


def _start_bytes(header: GgufHeader) -> int:
    """Return where in a file the description of its tensors begins."""
    if not header.tensors:
        return header.data_offset
    infos = [_info(tensor, tensor.shape) for tensor in header.tensors]
    last = infos[-1]
    # Of the padding that follows, nothing tells how long it is.
    tail = max(header.data_offset - header.alignment - len(last), 0)
    with open_regular(header.path) as file:
        file.seek(tail)
        end = file.read(header.data_offset - tail).rfind(last)
    if end < 0:
        message = f"{header.path}: was changed while it was read; let nothing write to it"
        raise ArtifactError(message)
    return tail + end + len(last) - sum(map(len, infos))


def _dimensions(tensor: TensorInfo) -> tuple[int, ...]:
    """Return the shape as the engine writes it: lengths of 1 at the end are no dimensions."""
    shape = tensor.shape
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _info(tensor: TensorInfo, shape: tuple[int, ...]) -> bytes:
    """Return what a header says of a tensor."""
    name = tensor.name.encode()
    return b"".join(
        (
            struct.pack("<Q", len(name)),
            name,
            struct.pack(f"<I{len(shape)}q", len(shape), *shape),
            struct.pack("<iQ", TYPE_NUMBERS[tensor.type_name], tensor.offset),
        )
    )


def _key_bytes(key: str) -> int:
    """Return the bytes of a key and of the number of its value's type."""
    return 8 + len(key.encode()) + 4


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
