"""How parent and probe talk: framed JSON over two pipes, and the plain form of records.

A frame is a 4-byte big-endian length followed by that many bytes of UTF-8 JSON, always an object.
The probe opens with a hello; then each request ``{"id", "operation", "arguments"}`` is answered by any
number of ``progress`` events and exactly one ``result`` or ``error`` event with the same id. NaN and
infinity have no JSON form and never travel. Only the standard library is imported here, because
this is the one module of the folder that the parent process loads.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import struct
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pytest_quantgate import errors

if TYPE_CHECKING:
    from collections.abc import Iterator

PROTOCOL = 1
"""Version of everything in this module; both sides must have the same."""

FRAME_LIMIT_BYTES = 64 * 1024 * 1024
"""Longest frame either side accepts: the continuations of 100,000 cases fit several times over."""

MESSAGE_ERRORS: Mapping[str, type[errors.QuantgateError]] = {
    kind.__name__: kind
    for kind in (
        errors.ArtifactError,
        errors.ConversionError,
        errors.IntegrityError,
        errors.QuantizationError,
        errors.SecurityError,
        errors.MeasurementError,
        errors.StoreError,
        errors.ProbeCrashed,
        errors.ProbeOutOfMemory,
        errors.ProbeRefused,
    )
}
"""The errors a probe may raise on purpose, by the name they travel under."""

_HEADER = struct.Struct(">I")

RecordT = TypeVar("RecordT")


class ProtocolError(Exception):
    """Bytes or values that are not this protocol; the other side cannot be trusted further."""


# --- frames ----------------------------------------------------------------------------------------


def encode(message: Mapping[str, object]) -> bytes:
    """Return one frame.

    Raises:
        ProtocolError: the message has no JSON form (NaN, foreign types) or is too long.
    """
    try:
        body = json.dumps(message, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        payload = body.encode("utf-8")
    except (TypeError, ValueError) as error:
        text = f"a message has no plain JSON form: {error}"
        raise ProtocolError(text) from error
    if len(payload) > FRAME_LIMIT_BYTES:
        text = f"a message is {len(payload)} bytes long; the limit is {FRAME_LIMIT_BYTES}"
        raise ProtocolError(text)
    return _HEADER.pack(len(payload)) + payload


class Decoder:
    """Cuts a stream of bytes into messages, however the stream was split on its way."""

    def __init__(self) -> None:
        """Start with an empty buffer."""
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Yield each message that ``data`` completes.

        Raises:
            ProtocolError: a length over the limit, or a frame that holds no JSON object.
        """
        self._buffer += data
        while len(self._buffer) >= _HEADER.size:
            (length,) = _HEADER.unpack_from(self._buffer)
            if length > FRAME_LIMIT_BYTES:
                text = (
                    f"a frame announces {length} bytes; the limit is {FRAME_LIMIT_BYTES}"
                    f" (first bytes: {bytes(self._buffer[:16])!r})"
                )
                raise ProtocolError(text)
            end = _HEADER.size + length
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[_HEADER.size : end])
            del self._buffer[:end]
            yield _parse(payload)


def _parse(payload: bytes) -> dict[str, Any]:
    def reject(constant: str) -> float:
        text = f"a frame holds {constant}, which is no JSON number"
        raise ProtocolError(text)

    try:
        message = json.loads(payload, parse_constant=reject)
    except (ValueError, RecursionError) as error:
        text = f"a frame holds no JSON: {error} (first bytes: {payload[:16]!r})"
        raise ProtocolError(text) from error
    if not isinstance(message, dict):
        text = f"a frame holds a JSON {type(message).__name__}, not an object"
        raise ProtocolError(text)
    return message


# --- records ---------------------------------------------------------------------------------------


def to_plain(record: object) -> dict[str, Any]:
    """Return a record as nested dicts and lists.

    Raises:
        TypeError: ``record`` is no dataclass instance.
    """
    if not dataclasses.is_dataclass(record) or isinstance(record, type):
        text = f"{record!r} is no record"
        raise TypeError(text)
    return dataclasses.asdict(record)


def from_plain(kind: type[RecordT], value: object) -> RecordT:
    """Rebuild a record from its plain form, checking every field against its annotation.

    Raises:
        ProtocolError: a field is missing, unknown, or of another type; the text names its path.
    """
    rebuilt: RecordT = _rebuild(kind, value, kind.__name__)
    return rebuilt


@functools.cache
def _field_types(kind: type) -> Mapping[str, object]:
    return get_type_hints(kind)


def _wrong(where: str, expected: str, value: object) -> ProtocolError:
    shown = repr(value)
    if len(shown) > 80:  # noqa: PLR2004 - room for one line
        shown = shown[:77] + "..."
    return ProtocolError(f"{where} should be {expected}, is {shown}")


def _rebuild(kind: Any, value: object, where: str) -> Any:  # noqa: ANN401 - any annotation, any value
    origin = get_origin(kind)
    if origin is Literal:
        if value not in get_args(kind):
            raise _wrong(where, f"one of {get_args(kind)}", value)
        return value
    if origin is tuple or origin is Mapping:
        return _rebuild_many(kind, value, where)
    if origin is Union or isinstance(kind, types.UnionType):
        if value is None and types.NoneType in get_args(kind):
            return None
        (inner,) = (part for part in get_args(kind) if part is not types.NoneType)
        return _rebuild(inner, value, where)
    if dataclasses.is_dataclass(kind):
        return _rebuild_record(kind, value, where)
    return _scalar(kind, value, where)


def _rebuild_many(kind: Any, value: object, where: str) -> Any:  # noqa: ANN401 - as its caller
    element = get_args(kind)[-1] if get_origin(kind) is Mapping else get_args(kind)[0]
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise _wrong(where, "a list", value)
        return tuple(_rebuild(element, item, f"{where}[{i}]") for i, item in enumerate(value))
    if not isinstance(value, Mapping):
        raise _wrong(where, "an object", value)
    return {key: _rebuild(element, item, f"{where}[{key!r}]") for key, item in value.items()}


def _rebuild_record(kind: Any, value: object, where: str) -> Any:  # noqa: ANN401 - as its caller
    if not isinstance(value, Mapping):
        raise _wrong(where, "an object", value)
    hints = _field_types(kind)
    fields = dataclasses.fields(kind)
    unknown = set(value) - {field.name for field in fields}
    missing = {
        field.name
        for field in fields
        if field.name not in value
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    }
    if unknown or missing:
        text = f"{where} has unknown fields {sorted(unknown)} and lacks {sorted(missing)}"
        raise ProtocolError(text)
    arguments = {
        name: _rebuild(hints[name], item, f"{where}.{name}") for name, item in value.items()
    }
    return kind(**arguments)


def _scalar(kind: Any, value: object, where: str) -> Any:  # noqa: ANN401 - as its caller
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise _wrong(where, "a finite number", value)
        return float(value)
    # bool is an int to isinstance, but true is no count.
    if type(value) is not kind:
        raise _wrong(where, f"a value of type {kind.__name__}", value)
    return value
