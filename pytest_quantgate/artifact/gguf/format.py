"""The bytes of a GGUF header, parsed within bounds.

The format is described in llama.cpp's ``gguf.h``; the rules are those of its reader and some bounds
it does not have, because a crafted header is the cheapest way into a process that trusts it.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_quantgate.artifact.catalog import TENSOR_TYPES
from pytest_quantgate.artifact.gguf.values import Omitted, Value, ValueReader

__all__ = [
    "MAX_ALIGNMENT",
    "MAX_DIMENSIONS",
    "MAX_KEYS",
    "MAX_KEY_BYTES",
    "MAX_NAME_BYTES",
    "MAX_TENSORS",
    "HeaderContents",
    "HeaderReader",
    "Omitted",
    "TensorInfo",
    "Value",
]

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_KEYS = 65_536
MAX_TENSORS = 100_000
MAX_KEY_BYTES = 65_535
MAX_NAME_BYTES = 63
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 1 << 20

_DEFAULT_ALIGNMENT = 32
_MAX_SIZE = (1 << 63) - 1
# The reader asks these by type without looking, or calculates with them before it looks.
_KNOWN_TYPES = MappingProxyType(
    {
        "general.architecture": "string",
        "general.alignment": "u32",
        "general.file_type": "u32",
        "split.no": "u16",
        "split.count": "u16",
        "split.tensors.count": "i32",
    }
)
# Of a token that occurs twice, the engine ends the process.
_VOCABULARY = "tokenizer.ggml.tokens"
_SPLIT_NAME = re.compile(r"-(\d{5})-of-(\d{5})\.gguf\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """One tensor: ``shape`` with the row length first, ``offset`` from the start of the data."""

    name: str
    shape: tuple[int, ...]
    type_name: str
    offset: int
    nbytes: int

    @property
    def elements(self) -> int:
        """Number of elements."""
        count = 1
        for length in self.shape:
            count *= length
        return count


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderContents:
    """What stands in a header; ``data_offset`` is where tensor data begins in the file."""

    version: int
    metadata: Mapping[str, Value]
    tensors: tuple[TensorInfo, ...]
    alignment: int
    data_offset: int


class HeaderReader(ValueReader):
    """Reads one header from start to end, through a small buffer, never beyond the file's end."""

    def contents(self) -> HeaderContents:
        """Read the header.

        Raises:
            ArtifactError: when it is malformed, or the file ends before its tensors do.
        """
        version_number = self._preamble()
        tensor_count = self._number("q", "the number of tensors")
        key_count = self._number("q", "the number of metadata keys")
        self._within(tensor_count, MAX_TENSORS, "tensors")
        self._within(key_count, MAX_KEYS, "metadata keys")
        metadata = self._metadata(key_count)
        alignment = self._alignment(metadata)
        raw = self._tensor_infos(tensor_count)
        end = self._start + self._at
        data_offset = _padded(end, alignment) if raw else end
        tensors = self._placed(raw, alignment, data_offset)
        self._check_split(metadata, tensors)
        return HeaderContents(
            version=version_number,
            metadata=MappingProxyType(metadata),
            tensors=tensors,
            alignment=alignment,
            data_offset=data_offset,
        )

    def _within(self, count: int, limit: int, what: str) -> None:
        if not 0 <= count <= limit:
            message = f"malformed header: claims {count:,} {what}; 0 to {limit:,} are accepted"
            raise self._fail(message)

    def _preamble(self) -> int:
        if self._size == 0:
            message = "the file is empty"
            raise self._fail(message)
        magic = self._read(min(4, self._size), "the magic")
        if magic != b"GGUF":
            start = magic + self._read(min(12, self._size - len(magic)), "the start")
            message = f"not a GGUF model: does not start with GGUF; it starts with {start!r}"
            raise self._fail(message)
        number = self._number("I", "the version")
        if number and number & 0xFFFF == 0:
            message = (
                "written for big-endian machines; convert the model again on this kind of machine"
            )
            raise self._fail(message)
        if number not in {2, 3}:
            message = (
                f"GGUF version {number} is not supported, 2 and 3 are; convert the model again"
            )
            raise self._fail(message)
        return number

    def _metadata(self, count: int) -> dict[str, Value]:
        metadata: dict[str, Value] = {}
        for index in range(count):
            key = self._text(MAX_KEY_BYTES, f"the name of metadata key {index}")
            if not key:
                message = f"malformed header: metadata key {index} has no name"
                raise self._fail(message)
            if key in metadata:
                message = f"malformed header: metadata key {key!r} occurs twice"
                raise self._fail(message)
            kind = self._number("i", f"the type of {key!r}")
            value, type_name = self._value(
                kind, f"the value of {key!r}", distinct=key == _VOCABULARY
            )
            wanted = _KNOWN_TYPES.get(key, type_name)
            if type_name != wanted:
                message = f"malformed header: {key!r} is of type {type_name}, it must be {wanted}"
                raise self._fail(message)
            metadata[key] = value
        return metadata

    def _alignment(self, metadata: Mapping[str, Value]) -> int:
        value = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        if not isinstance(value, int) or not 0 < value <= MAX_ALIGNMENT or value & (value - 1):
            message = (
                f"malformed header: general.alignment is {value!r}; it must be a power of two up "
                f"to {MAX_ALIGNMENT:,}"
            )
            raise self._fail(message)
        return value

    def _tensor_infos(self, count: int) -> list[TensorInfo]:
        seen: set[str] = set()
        tensors: list[TensorInfo] = []
        for index in range(count):
            name = self._text(MAX_NAME_BYTES, f"the name of tensor {index}")
            if name in seen:
                message = f"malformed header: tensor {name!r} occurs twice"
                raise self._fail(message)
            seen.add(name)
            tensors.append(self._tensor_info(name))
        return tensors

    def _tensor_info(self, name: str) -> TensorInfo:
        what = f"tensor {name!r}"
        dimensions = self._number("I", what)
        if dimensions > MAX_DIMENSIONS:
            message = (
                f"malformed header: {what} has {dimensions} dimensions, {MAX_DIMENSIONS} at most"
            )
            raise self._fail(message)
        shape: tuple[int, ...] = struct.unpack(
            f"<{dimensions}q", self._read(8 * dimensions, f"the shape of {what}")
        )
        number = self._number("i", f"the type of {what}")
        offset = self._number("Q", f"the place of {what}")
        elements = 1
        for length in shape:
            if length < 1:
                message = f"malformed header: {what} has the shape {list(shape)}"
                raise self._fail(message)
            elements *= length
        if number not in TENSOR_TYPES:
            message = (
                f"{what} is of type {number}, which the engine does not know or no longer reads"
            )
            raise self._fail(message)
        kind = TENSOR_TYPES[number]
        row = shape[0] if shape else 1
        if row % kind.block_size:
            message = (
                f"malformed header: {what} has rows of {row} elements, {kind.name} needs a "
                f"multiple of {kind.block_size}"
            )
            raise self._fail(message)
        nbytes = elements // kind.block_size * kind.block_bytes
        if max(elements, nbytes) > _MAX_SIZE - MAX_ALIGNMENT:
            message = f"malformed header: {what} has the impossible shape {list(shape)}"
            raise self._fail(message)
        return TensorInfo(name=name, shape=shape, type_name=kind.name, offset=offset, nbytes=nbytes)

    def _placed(
        self, tensors: list[TensorInfo], alignment: int, data_offset: int
    ) -> tuple[TensorInfo, ...]:
        expected = 0
        for tensor in tensors:
            if tensor.offset != expected:
                message = (
                    f"malformed header: tensor {tensor.name!r} is said to lie at {tensor.offset:,} "
                    f"of the data; after the tensors before it, it must be {expected:,}"
                )
                raise self._fail(message)
            expected += _padded(tensor.nbytes, alignment)
        need = data_offset + tensors[-1].offset + tensors[-1].nbytes if tensors else data_offset
        if need > self._size:
            message = (
                f"truncated: its tensors need {need:,} bytes, the file has {self._size:,}; "
                "incomplete download?"
            )
            raise self._fail(message)
        return tuple(tensors)

    def _check_split(self, metadata: Mapping[str, Value], tensors: tuple[TensorInfo, ...]) -> None:
        number, count = metadata.get("split.no", 0), metadata.get("split.count", 0)
        total = metadata.get("split.tensors.count")
        name = _SPLIT_NAME.search(self._path.name)
        if not isinstance(number, int) or not isinstance(count, int):
            return
        if count <= 1:
            if not tensors:
                message = (
                    "holds no tensors, only a vocabulary or settings; name a file with weights"
                )
                raise self._fail(message)
            return
        if number >= count:
            message = f"malformed header: says it is part {number + 1} of {count}"
            raise self._fail(message)
        if isinstance(total, int) and len(tensors) > total:
            message = (
                f"malformed header: this part has {len(tensors)} tensors, the whole model {total}"
            )
            raise self._fail(message)
        if name is None or (int(name[1]), int(name[2])) != (number + 1, count):
            message = (
                f"the file is part {number + 1} of {count} of a split model; its name must end in "
                f"-{number + 1:05}-of-{count:05}.gguf for the engine to find the others"
            )
            raise self._fail(message)


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
