"""The store of measurements, keyed by everything that can change the number.

A measurement lies in ``measurements/<kind>-<digest of its key>.json`` with its key in clear, so that a
person can see what it was measured on, and with a digest of its content, so that an edited or
misplaced file is refused instead of believed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from pytest_quantgate.artifact import files
from pytest_quantgate.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from _typeshed import DataclassInstance

SCHEMA = 1

ResultT = TypeVar("ResultT")
KeyValue = str | int | float | bool | None

_ADAPTERS: dict[object, TypeAdapter[Any]] = {}

SHOWN_NUMBERS = 16
"""How many of a measurement's window numbers stand in its key in clear: those of a whole block."""

DELETE = "delete it to measure again"
MOVE = "choose another folder with --quantgate-store"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What was measured: a kind of measurement and every input that can change its result."""

    kind: str
    inputs: Mapping[str, KeyValue]

    @property
    def plain(self) -> dict[str, KeyValue]:
        """Return the key as it is written into the store."""
        return {"schema": SCHEMA, "kind": self.kind, **self.inputs}

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the key."""
        return _digest(self.plain)


class Store:
    """A folder of measurements, shared by every process that is pointed at it."""

    def __init__(self, root: Path) -> None:
        """Point at a folder; nothing is created before something is stored."""
        self.root = root

    def path(self, key: Key) -> Path:
        """Return where a measurement lies or would lie."""
        return self.root / "measurements" / f"{key.kind}-{key.digest[:40]}.json"

    def load(self, key: Key, kind: type[ResultT]) -> ResultT | None:
        """Return a stored measurement, or None where there is none.

        Raises:
            StoreError: the file cannot be read, is damaged, or belongs to another measurement.
        """
        path = self.path(key)
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _refusal(path, f"cannot be read: {error.strerror}", MOVE) from error
        try:
            document = json.loads(text, parse_constant=_refuse_constant)
            stored, result, sealed = document["key"], document["result"], document["sha256"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise _refusal(path, "is no stored measurement", DELETE) from error
        if stored != key.plain:
            raise _refusal(path, _difference(stored, key.plain), DELETE)
        if sealed != _digest([stored, document.get("taken"), result]):
            raise _refusal(path, "was changed after it was written", DELETE)
        try:
            # Made once a kind: dozens of blocks are read for one gate.
            if kind not in _ADAPTERS:
                _ADAPTERS[kind] = TypeAdapter(kind)
            found: ResultT = _ADAPTERS[kind].validate_json(json.dumps(result))
        except ValidationError as error:
            raise _refusal(path, "is no stored measurement", DELETE) from error
        return found

    def save(self, key: Key, result: object) -> None:
        """Store a measurement: whole or not at all.

        Raises:
            StoreError: the folder cannot be written, or a number is not finite.
        """
        taken = dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds")
        try:
            # Through JSON first: the digest must be of what a reader will read.
            plain = json.loads(json.dumps(_plain(result), allow_nan=False))
        except ValueError as error:
            message = f"a measurement of {key.kind} holds a number that is not finite"
            raise StoreError(message) from error
        sealed = _digest([key.plain, taken, plain])
        document = {"key": key.plain, "taken": taken, "result": plain, "sha256": sealed}
        _write(self.path(key), json.dumps(document, indent=1, allow_nan=False) + "\n")

    def check_writable(self) -> None:
        """Find out before minutes of measuring that nothing could be stored.

        Raises:
            StoreError: the folder cannot be created or written.
        """
        _write(self.root / ".gitignore", "*\n")

    @contextlib.contextmanager
    def lock(self, name: str, *, timeout: float) -> Iterator[None]:
        """Hold a lock among all processes that use this store.

        Raises:
            StoreError: another process held it for longer than ``timeout`` seconds.
        """
        folder = self.root / "locks"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held = FileLock(folder / f"{name}.lock", timeout=timeout)
            held.acquire()
        except Timeout as error:
            message = (
                f"another run has held {folder / name}.lock for {timeout:.0f} s;"
                " wait for it to end or raise the timeout"
            )
            raise StoreError(message) from error
        except OSError as error:
            raise _refusal(folder, f"cannot be written: {error.strerror}", MOVE) from error
        try:
            yield
        finally:
            held.release()


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.replace(path, text.encode())
    except OSError as error:
        message = f"the store cannot write {path}: {files.reason(error)}; {MOVE}"
        raise StoreError(message) from error


def _refusal(path: Path, reason: str, advice: str) -> StoreError:
    return StoreError(f"the store's {path} {reason}; {advice}")


def _refuse_constant(name: str) -> float:
    message = f"{name} is no JSON"
    raise ValueError(message)


def _plain(result: object) -> object:
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        return dataclasses.asdict(result)
    return result


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _difference(stored: object, expected: Mapping[str, KeyValue]) -> str:
    if not isinstance(stored, dict):
        return "is no stored measurement"
    parts = [
        f"{name} is {stored.get(name)!r} there and {expected.get(name)!r} here"
        for name in sorted(set(stored) | set(expected))
        if stored.get(name) != expected.get(name)
    ]
    return "was measured with other settings (" + ", ".join(parts) + ")"


def request_inputs(request: DataclassInstance) -> dict[str, KeyValue]:
    """Return what a request adds to a key: its fields, lists by count and digest, numbers by start."""
    inputs: dict[str, KeyValue] = {}
    for name, value in dataclasses.asdict(request).items():
        # Where a file lies does not change the number; its digest is in the key.
        if name.endswith("_path"):
            continue
        if isinstance(value, tuple):
            inputs |= digested(name, list(value))
            if all(isinstance(each, int) for each in value):
                inputs[f"{name}_first"] = " ".join(map(str, value[:SHOWN_NUMBERS]))
        elif isinstance(value, dict):
            inputs |= {f"{name}_{part}": each for part, each in value.items()}
        else:
            inputs[name] = value
    return inputs


def digested(name: str, value: list[Any]) -> dict[str, KeyValue]:
    """Return count and digest of a list that is too long to stand in a key."""
    text = json.dumps(value, sort_keys=True)
    return {
        f"{name}_count": len(value),
        f"{name}_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
