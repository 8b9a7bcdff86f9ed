"""The bytes of the two layouts of importance matrices, as `llama-imatrix` writes them."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from pytest_quantgate.artifact.gguf.format import MAX_NAME_BYTES, MAX_TENSORS
from pytest_quantgate.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

SUMS_SUFFIX, COUNTS_SUFFIX = ".in_sum2", ".counts"
DATASETS, CHUNK_COUNT, CHUNK_SIZE = (
    f"imatrix.{name}" for name in ("datasets", "chunk_count", "chunk_size")
)

_ALIGNMENT = 32
_DATASET_BYTES = 1 << 16
_MOST = (1 << 31) - 1
_F32, _U32, _STRING, _ARRAY = 0, 4, 8, 9


def exactly(file: BinaryIO, count: int) -> bytearray | None:
    """Return this many bytes of an unbuffered file, or None where it ends before."""
    data = bytearray(count)
    view = memoryview(data)
    while view:
        got = file.readinto(view)  # type: ignore[attr-defined]
        if not got:
            return None
        view = view[got:]
    return data


# --- GGUF ------------------------------------------------------------------------------------------


def encode_gguf(
    entries: Mapping[str, tuple[NDArray[np.float32], NDArray[np.int64]]],
    *,
    datasets: Sequence[str],
    chunks: int,
    chunk_size: int,
) -> bytes:
    """Return the file of these sums, of shape (matrices, columns), and counts, by tensor.

    Raises:
        ValueError: for a name that is too long for the format.
    """
    tensors: list[tuple[bytes, tuple[int, ...], bytes]] = []
    for name, (sums, counts) in sorted(entries.items()):
        matrices, columns = sums.shape
        for suffix, first, array in (
            (SUMS_SUFFIX, columns, sums),
            (COUNTS_SUFFIX, 1, counts),
        ):
            label = (name + suffix).encode()
            if len(label) > MAX_NAME_BYTES:
                message = (
                    f"the tensor name {name + suffix!r} is {len(label)} bytes long, "
                    f"{MAX_NAME_BYTES} are allowed"
                )
                raise ValueError(message)
            # A trailing length of 1 is no dimension to the format.
            shape = (first, matrices) if matrices > 1 else (first,)
            tensors.append((label, shape, array.astype("<f4").tobytes()))
    metadata = (
        _key("general.type", _STRING) + _text("imatrix"),
        _key(DATASETS, _ARRAY)
        + struct.pack("<iQ", _STRING, len(datasets))
        + b"".join(map(_text, datasets)),
        _key(CHUNK_COUNT, _U32) + struct.pack("<I", chunks),
        _key(CHUNK_SIZE, _U32) + struct.pack("<I", chunk_size),
    )
    out = [b"GGUF", struct.pack("<Iqq", 3, len(tensors), len(metadata)), *metadata]
    place = 0
    for label, lengths, data in tensors:
        out += [
            struct.pack("<Q", len(label)),
            label,
            struct.pack(f"<I{len(lengths)}qiQ", len(lengths), *lengths, _F32, place),
        ]
        place += len(_padded(data))
    header = _padded(b"".join(out))
    return b"".join([header, *(_padded(data) for _, _, data in tensors)])


def _key(name: str, kind: int) -> bytes:
    return _text(name) + struct.pack("<i", kind)


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)


# --- the old layout --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LegacyContents:
    """What stands in a file of the old layout.

    ``entries`` has, by tensor, a number of windows and the means over tokens times that number.
    ``chunks`` is None and ``dataset`` empty in files that do not tell.
    """

    entries: Mapping[str, tuple[int, NDArray[np.float32]]]
    chunks: int | None
    dataset: str


def encode_legacy(contents: LegacyContents) -> bytes:
    """Return a file of the old layout."""
    out = [struct.pack("<i", len(contents.entries))]
    for name, (windows, values) in sorted(contents.entries.items()):
        label = name.encode()
        out += [
            struct.pack("<i", len(label)),
            label,
            struct.pack("<ii", windows, values.size),
            values.astype("<f4").tobytes(),
        ]
    dataset = contents.dataset.encode()
    out += [struct.pack("<ii", contents.chunks or 0, len(dataset)), dataset]
    return b"".join(out)


class LegacyReader:
    """Reads the layout without a magic: all that can be said of it is that its numbers make sense."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        """Prepare to read an open, unbuffered file of ``size`` bytes; ``path`` is for messages."""
        self._path = path
        self._file = file
        self._size = size

    def contents(self) -> LegacyContents:
        """Read the file.

        Raises:
            ArtifactError: for anything that is not this layout.
        """
        entries: dict[str, tuple[int, NDArray[np.float32]]] = {}
        for index in range(self._number(MAX_TENSORS, "the number of entries")):
            data = self._bytes(MAX_NAME_BYTES, f"the name of entry {index}")
            if not data or not data.isascii():
                message = f"entry {index} has the name {data!r}"
                raise self._fail(message)
            name = data.decode("ascii")
            if name in entries:
                message = f"entry {name} occurs twice"
                raise self._fail(message)
            windows = self._number(_MOST, f"the windows of {name}", least=0)
            columns = self._number(self._size // 4, f"the columns of {name}")
            values = np.frombuffer(self._read(4 * columns, f"the values of {name}"), dtype="<f4")
            entries[name] = windows, values.astype(np.float32, copy=False)
        chunks, dataset = None, ""
        if self._file.tell() < self._size:
            chunks = self._number(_MOST, "the number of windows", least=0)
        if self._file.tell() < self._size:
            raw = self._bytes(_DATASET_BYTES, "the name of the text")
            dataset = raw.decode(errors="replace")
        return LegacyContents(entries=entries, chunks=chunks, dataset=dataset)

    def _fail(self, what: str) -> ArtifactError:
        return ArtifactError(f"{self._path}: is no importance matrix: {what}")

    def _number(self, most: int, what: str, *, least: int = 1) -> int:
        value: int = struct.unpack("<i", self._read(4, what))[0]
        if not least <= value <= most:
            message = f"{what} is {value:,}; {least} to {most:,} are accepted"
            raise self._fail(message)
        return value

    def _bytes(self, most: int, what: str) -> bytes:
        length = self._number(most, f"the length of {what}", least=0)
        return bytes(self._read(length, what))

    def _read(self, count: int, what: str) -> bytearray:
        left = self._size - self._file.tell()
        data = exactly(self._file, count) if count <= left else None
        if data is None:
            message = f"it ends inside {what}: {count:,} bytes are needed, {left:,} are left"
            raise self._fail(message)
        return data
