"""How the engine is spoken to: its parameters, and what it says while one of its functions runs."""

from __future__ import annotations

import ctypes
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pytest_quantgate.errors import ProbeRefused

if TYPE_CHECKING:
    from collections.abc import Iterator

# Levels of ggml.h; a continued line belongs to the level of the one before.
_WARNING, _ERROR, _CONTINUED = 3, 4, 5


class Listener(Protocol):
    """Takes what the engine says."""

    def write(self, level: int, text: str) -> None:
        """Take one piece of log; must not raise, being called from native code."""


ListenerT = TypeVar("ListenerT", bound=Listener)


class EngineLog:
    """Keeps the engine's errors and warnings."""

    def __init__(self) -> None:
        """Start with nothing said."""
        self._said: list[tuple[int, str]] = []
        self._level = 0

    @property
    def reason(self) -> str:
        """The errors on one line, or the warnings where there were none."""
        for wanted in (_ERROR, _WARNING):
            text = "".join(text for level, text in self._said if level == wanted)
            if text.strip():
                return " ".join(text.split())
        return "the engine gave no reason"

    def write(self, level: int, text: str) -> None:
        """Take one piece of log; never raises, being called from native code."""
        self._level = self._level if level == _CONTINUED else level
        if self._level in (_WARNING, _ERROR):
            self._said.append((self._level, text))


def set_parameters(parameters: ctypes.Structure, **values: object) -> None:
    """Set fields of one of the engine's structures of parameters.

    Raises:
        ProbeRefused: the installed version has no such field, which ctypes would take in silence.
    """
    names = {field[0] for field in parameters._fields_}
    missing = values.keys() - names
    if missing:
        message = (
            f"the installed llama-cpp-python has no {', '.join(sorted(missing))} in"
            f" {type(parameters).__name__}; install a version that this package supports"
        )
        raise ProbeRefused(message)
    for name, value in values.items():
        setattr(parameters, name, value)


@contextmanager
def listening(native: Any, log: ListenerT) -> Iterator[ListenerT]:  # noqa: ANN401 - an untyped module
    """Have ``log`` hear the engine, passing all of it on to whoever heard it before.

    Args:
        native: The low-level module of llama-cpp-python.
        log: What is told.
    """
    before = native.llama_log_callback()
    before_data = ctypes.c_void_p()
    native.llama_log_get(ctypes.byref(before), ctypes.byref(before_data))

    def hear(level: int, text: bytes | None, _data: object) -> None:
        log.write(level, (text or b"").decode(errors="replace"))
        if before:
            before(level, text, before_data)

    callback = native.llama_log_callback(hear)
    native.llama_log_set(callback, ctypes.c_void_p())
    try:
        yield log
    finally:
        native.llama_log_set(before, before_data)
        # The engine keeps a bare pointer: whatever it calls must outlive this function.
        _ALIVE[:] = [before]


_ALIVE: list[object] = []
