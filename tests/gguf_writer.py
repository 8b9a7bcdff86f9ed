"""Writes small GGUF files, right or wrong in one chosen place, with `struct` alone."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

ARRAY = 9
STRING = 8
SCALAR_CODES = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}

F32, F16, Q4_0, Q8_0, Q5_0, Q4_K = 0, 1, 2, 8, 6, 12
BLOCKS = {
    F32: (1, 4),
    F16: (1, 2),
    Q4_0: (32, 18),
    Q8_0: (32, 34),
    Q5_0: (32, 22),
    Q4_K: (256, 144),
}


@dataclass(frozen=True)
class Tensor:
    """A tensor to write; ``offset`` and ``type`` can be wrong on purpose."""

    name: str
    shape: tuple[int, ...]
    type: int = F32
    offset: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of its data, if its type is known."""
        elements = 1
        for length in self.shape:
            elements *= length
        size, data = BLOCKS.get(self.type, (1, 4))
        return max(elements, 0) // size * data


@dataclass(frozen=True)
class Gguf:
    """A file to write: metadata as (key, type number, value), of arrays (item type, items)."""

    metadata: tuple[tuple[str, int, object], ...] = (
        ("general.architecture", STRING, "llama"),
        ("general.file_type", 4, 0),
    )
    tensors: tuple[Tensor, ...] = (
        Tensor("token_embd.weight", (8, 4)),
        Tensor("blk.0.attn_q.weight", (8, 8)),
        Tensor("output_norm.weight", (8,)),
    )
    magic: bytes = b"GGUF"
    version: int = 3
    tensor_count: int | None = None
    key_count: int | None = None
    alignment: int = 32
    data: bytes | None = None

    def with_metadata(self, *entries: tuple[str, int, object]) -> Gguf:
        """Return a copy with more metadata at the end."""
        return replace(self, metadata=self.metadata + entries)

    def header(self) -> bytes:
        """Return everything up to the padding before the data."""
        out = bytearray(self.magic)
        tensor_count = len(self.tensors) if self.tensor_count is None else self.tensor_count
        key_count = len(self.metadata) if self.key_count is None else self.key_count
        out += struct.pack("<Iqq", self.version, tensor_count, key_count)
        for key, kind, value in self.metadata:
            out += text(key) + struct.pack("<i", kind) + encoded(kind, value)
        place = 0
        for tensor in self.tensors:
            offset = place if tensor.offset is None else tensor.offset
            out += text(tensor.name) + struct.pack("<I", len(tensor.shape))
            out += struct.pack(f"<{len(tensor.shape)}q", *tensor.shape)
            out += struct.pack("<iQ", tensor.type, offset)
            place += padded(tensor.nbytes, self.alignment)
        return bytes(out)

    def encode(self) -> bytes:
        """Return the bytes of the file, its data all zero."""
        header = self.header()
        size = sum(padded(tensor.nbytes, self.alignment) for tensor in self.tensors)
        data = bytes(size) if self.data is None else self.data
        return header.ljust(padded(len(header), self.alignment), b"\0") + data


def padded(size: int, alignment: int) -> int:
    """Return the next multiple of the alignment."""
    return -(-size // alignment) * alignment


def text(value: str | bytes) -> bytes:
    """Return a GGUF string."""
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def encoded(kind: int, value: object) -> bytes:
    """Return a metadata value; bytes are written as they are."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, tuple):
        item_kind, items = value
        return struct.pack("<iQ", item_kind, len(items)) + b"".join(
            encoded(item_kind, item) for item in items
        )
    if isinstance(value, str):
        return text(value)
    return struct.pack("<" + SCALAR_CODES[kind], value)
