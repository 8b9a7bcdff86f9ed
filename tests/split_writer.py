"""Writes the tiny model as a split one: the same tensors in two files."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from gguf_writer import padded, text

from pytest_quantgate.artifact.catalog import TENSOR_TYPES
from pytest_quantgate.artifact.gguf import TensorInfo, read_header

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PREAMBLE = 24


def split_in_two(model: Path, folder: Path, *, prefix: str = "tiny") -> tuple[Path, Path]:
    """Write both halves of a model into a folder, as `llama-gguf-split` would."""
    header = read_header(model)
    content = model.read_bytes()
    first = header.tensors[0]
    keys = content[PREAMBLE : content.index(text(first.name) + struct.pack("<I", len(first.shape)))]
    total = len(header.tensors)
    middle = total // 2
    halves = (header.tensors[:middle], header.tensors[middle:])
    paths = []
    for number, tensors in enumerate(halves):
        own = keys if number == 0 else b""
        count = len(header.metadata) if number == 0 else 0
        split = b"".join(
            text(key) + struct.pack(layout, kind, value)
            for key, layout, kind, value in (
                ("split.no", "<iH", 2, number),
                ("split.count", "<iH", 2, 2),
                ("split.tensors.count", "<ii", 5, total),
            )
        )
        start = b"GGUF" + struct.pack("<Iqq", 3, len(tensors), count + 3) + own + split
        path = folder / f"{prefix}-{number + 1:05}-of-00002.gguf"
        path.write_bytes(_with_tensors(start, tensors, content, header.data_offset))
        paths.append(path)
    return paths[0], paths[1]


def _with_tensors(
    start: bytes, tensors: Sequence[TensorInfo], content: bytes, data_offset: int
) -> bytes:
    infos, data = b"", b""
    for tensor in tensors:
        kind = next(n for n, known in TENSOR_TYPES.items() if known.name == tensor.type_name)
        infos += text(tensor.name) + struct.pack("<I", len(tensor.shape))
        infos += struct.pack(f"<{len(tensor.shape)}q", *tensor.shape)
        infos += struct.pack("<iQ", kind, len(data))
        at = data_offset + tensor.offset
        data += content[at : at + tensor.nbytes].ljust(padded(tensor.nbytes, 32), b"\0")
    head = start + infos
    return head.ljust(padded(len(head), 32), b"\0") + data
