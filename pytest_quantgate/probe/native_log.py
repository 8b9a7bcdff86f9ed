"""What the engine says about itself: its log, and the last words before it aborts."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import faulthandler
import os
from typing import Any

_STDERR = 2

# Levels as ggml.h numbers them; llama-cpp-python's own logger still has an older order.
_LEVEL_DEBUG, _LEVEL_WARNING, _LEVEL_ERROR, _LEVEL_CONTINUED = 1, 3, 4, 5


class NativeLog:
    """Receives the engine's log: writes it to standard error and remembers why things failed.

    In a process that is not a probe it only remembers: standard error is not its own there.
    """

    def __init__(self, native: Any) -> None:  # noqa: ANN401 - a module of ctypes functions
        """Take the engine's log over for this process; the object must outlive every native call.

        Args:
            native: The low-level module of llama-cpp-python.
        """
        self.echo = True
        self._kept: collections.deque[tuple[int, str]] = collections.deque(maxlen=200)
        self._level = _LEVEL_DEBUG
        self._line = ""
        # The engine keeps bare pointers to both callbacks.
        self._on_log = native.llama_log_callback(self._receive)
        self._on_abort = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(self._last_words)
        native.llama_log_set(self._on_log, ctypes.c_void_p(0))
        # This function lives in a library that libllama depends on. A wheel holds that library three
        # times, and opening it by path maps a second copy with globals of its own; asking libllama's
        # handle finds the copy in use.
        set_abort_callback = native._lib.ggml_set_abort_callback  # noqa: SLF001 - the only handle to it
        set_abort_callback.argtypes = [type(self._on_abort)]
        set_abort_callback.restype = ctypes.c_void_p
        set_abort_callback(self._on_abort)

    def forget(self) -> None:
        """Start a new chapter: `reason` and `lines` look no further back than this."""
        self._kept.clear()

    def lines(self) -> tuple[str, ...]:
        """Return the remembered lines, oldest first, without debug output."""
        return tuple(line for _, line in self._kept)

    def reason(self) -> str:
        """Return the engine's own explanation: its errors, or its warnings where it logged none."""
        for level in (_LEVEL_ERROR, _LEVEL_WARNING):
            found = [line for own, line in self._kept if own == level]
            if found:
                return "; ".join(dict.fromkeys(found))
        return "the engine gave no reason"

    def _receive(self, level: int, text: bytes | None, _user_data: object) -> None:
        if level != _LEVEL_CONTINUED:
            self._level = level
        if self._level == _LEVEL_DEBUG or not text:
            return
        if self.echo:
            with contextlib.suppress(OSError):
                os.write(_STDERR, text)
        self._line += text.decode("utf-8", errors="replace")
        *whole, self._line = self._line.split("\n")
        self._kept.extend((self._level, line.strip()) for line in whole if line.strip())

    def _last_words(self, text: bytes | None) -> None:
        # The engine aborts when this returns; a Python traceback would push the message out of the
        # last lines of the log, and says nothing that the message does not.
        faulthandler.disable()
        with contextlib.suppress(OSError):
            os.write(_STDERR, b"engine assertion: " + (text or b"?").rstrip() + b"\n")
