"""The values in a GGUF header: numbers, texts and arrays, read within bounds."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, BinaryIO

from pytest_quantgate.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAX_ARRAY_STRINGS = 1 << 22
"""Strings in all arrays of a header together; the largest vocabularies and merges have a tenth."""

MAX_TOKENS = 1 << 20
"""Tokens of a vocabulary; the largest have a quarter."""

MAX_TOKEN_BYTES = 65_535

_KEPT_STRING_BYTES = 1 << 20
_KEPT_TOTAL_BYTES = 32 << 20
_KEPT_ITEMS = 64
_BUFFER_BYTES = 1 << 18
_STRING = 8
_ARRAY = 9
_SCALARS: Mapping[int, tuple[str, struct.Struct]] = MappingProxyType(
    {
        0: ("u8", struct.Struct("<B")),
        1: ("i8", struct.Struct("<b")),
        2: ("u16", struct.Struct("<H")),
        3: ("i16", struct.Struct("<h")),
        4: ("u32", struct.Struct("<I")),
        5: ("i32", struct.Struct("<i")),
        6: ("f32", struct.Struct("<f")),
        7: ("bool", struct.Struct("<?")),
        10: ("u64", struct.Struct("<Q")),
        11: ("i64", struct.Struct("<q")),
        12: ("f64", struct.Struct("<d")),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Omitted:
    """A value too large to keep: ``count`` items of an array, or bytes of a string."""

    type_name: str
    count: int


Scalar = bool | int | float | str
Value = Scalar | tuple[Scalar, ...] | Omitted


class ValueReader:
    """Reads values one after the other, through a small buffer, never beyond the file's end."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        """Prepare to read an open file of ``size`` bytes; ``path`` is for messages."""
        self._path = path
        self._file = file
        self._size = size
        self._buffer = b""
        self._at = 0
        self._start = 0
        self._kept = 0
        self._array_strings = 0

    def _fail(self, what: str) -> ArtifactError:
        return ArtifactError(f"{self._path}: {what}")

    def _read(self, length: int, what: str) -> bytes:
        end = self._at + length
        if end > len(self._buffer):
            self._fill(length, what)
            end = length
        data = self._buffer[self._at : end]
        self._at = end
        return data

    def _fill(self, length: int, what: str) -> None:
        position = self._start + self._at
        if length > self._size - position:
            raise self._truncated(position + length, what)
        pieces = [self._buffer[self._at :]]
        have = len(pieces[0])
        while have < length:
            piece = self._file.read(max(_BUFFER_BYTES, length - have))
            if not piece:
                raise self._truncated(position + length, what)
            pieces.append(piece)
            have += len(piece)
        self._buffer = b"".join(pieces)
        self._start, self._at = position, 0

    def _skip(self, length: int, what: str) -> None:
        end = self._at + length
        if end <= len(self._buffer):
            self._at = end
            return
        position = self._start + end
        if position > self._size:
            raise self._truncated(position, what)
        self._file.seek(position)
        self._buffer, self._start, self._at = b"", position, 0

    def _truncated(self, need: int, what: str) -> ArtifactError:
        return self._fail(
            f"the file ends inside its header: {what} needs {need:,} bytes, the file has "
            f"{self._size:,}; incomplete download?"
        )

    def _number(self, code: str, what: str) -> int:
        layout = struct.Struct("<" + code)
        value: int = layout.unpack(self._read(layout.size, what))[0]
        return value

    def _text(self, limit: int, what: str) -> str:
        length = self._number("Q", f"the length of {what}")
        if length > limit:
            message = f"malformed header: {what} is {length:,} bytes long, {limit:,} are accepted"
            raise self._fail(message)
        data = self._read(length, what)
        self._kept += length
        if self._kept > _KEPT_TOTAL_BYTES:
            message = f"malformed header: names take more than {_KEPT_TOTAL_BYTES >> 20} MiB"
            raise self._fail(message)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            message = f"malformed header: {what} is not UTF-8: {data[:40]!r}"
            raise self._fail(message) from error

    def _value(self, kind: int, what: str, *, distinct: bool = False) -> tuple[Value, str]:
        if kind == _STRING:
            return self._string(what), "string"
        if kind == _ARRAY:
            return self._array(what, distinct=distinct), "array"
        if kind not in _SCALARS:
            message = f"malformed header: {what} is of unknown type {kind}"
            raise self._fail(message)
        type_name, layout = _SCALARS[kind]
        value: Scalar = layout.unpack(self._read(layout.size, what))[0]
        return value, type_name

    def _string(self, what: str) -> str | Omitted:
        length = self._number("Q", f"the length of {what}")
        if length > min(_KEPT_STRING_BYTES, _KEPT_TOTAL_BYTES - self._kept):
            self._skip(length, what)
            return Omitted(type_name="string", count=length)
        self._kept += length
        # Values are for reading only; vocabularies and licences in the wild break UTF-8.
        return self._read(length, what).decode(errors="replace")

    def _array(self, what: str, *, distinct: bool) -> tuple[Scalar, ...] | Omitted:
        kind = self._number("i", f"the item type of {what}")
        count = self._number("Q", f"the length of {what}")
        if kind == _STRING:
            return self._tokens(count, what) if distinct else self._strings(count, what)
        if kind not in _SCALARS:
            message = f"malformed header: {what} is an array of unknown type {kind}"
            raise self._fail(message)
        type_name, layout = _SCALARS[kind]
        if count > _KEPT_ITEMS:
            self._skip(count * layout.size, what)
            return Omitted(type_name=type_name, count=count)
        items = struct.Struct(f"<{count}{layout.format[1:]}")
        return items.unpack(self._read(items.size, what))

    def _strings(self, count: int, what: str) -> tuple[Scalar, ...] | Omitted:
        self._array_strings += count
        if self._array_strings > MAX_ARRAY_STRINGS:
            message = (
                f"malformed header: arrays of {self._array_strings:,} strings; "
                f"{MAX_ARRAY_STRINGS:,} are accepted"
            )
            raise self._fail(message)
        if count <= _KEPT_ITEMS:
            items = [self._string(what) for _ in range(count)]
            kept = tuple(item for item in items if isinstance(item, str))
            return kept if len(kept) == count else Omitted(type_name="string", count=count)
        length = struct.Struct("<Q")
        for _ in range(count):
            self._skip(length.unpack(self._read(8, what))[0], what)
        return Omitted(type_name="string", count=count)

    def _tokens(self, count: int, what: str) -> tuple[Scalar, ...] | Omitted:
        """Read strings that must differ from each other, as those of a vocabulary must."""
        if count > MAX_TOKENS:
            message = f"malformed header: {what} has {count:,} tokens; {MAX_TOKENS:,} are accepted"
            raise self._fail(message)
        kept: list[str] = []
        seen: set[int] = set()
        for index in range(count):
            length = self._number("Q", what)
            if length > MAX_TOKEN_BYTES:
                message = (
                    f"malformed header: token {index} is {length:,} bytes long, {MAX_TOKEN_BYTES:,} "
                    "are accepted"
                )
                raise self._fail(message)
            text = self._read(length, what)
            # The engine reads up to a zero and gives a name to a token that has none. The hash has
            # 64 bits: of a million tokens two share one once in thirty million vocabularies.
            data = text.partition(b"\0")[0] or f"[EMPTY_{index}]".encode()
            if hash(data) in seen:
                message = (
                    f"malformed header: token {index} of the vocabulary occurs twice: {data[:40]!r}"
                )
                raise self._fail(message)
            seen.add(hash(data))
            if count <= _KEPT_ITEMS:
                kept.append(text.decode(errors="replace"))
        return tuple(kept) if kept or not count else Omitted(type_name="string", count=count)
