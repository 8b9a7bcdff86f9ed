"""The engine's own quantizer, called through its C interface, and what it says in its log."""

from __future__ import annotations

import ctypes
import importlib.metadata
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_quantgate.records import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# Levels of ggml.h; a continued line belongs to the level of the one before.
_LEVEL_ERROR = 4
_LEVEL_CONTINUED = 5
_TENSOR = re.compile(r"\[\s*(\d+)/\s*(\d+)\] ")
_REASON = re.compile(r"failed to quantize: (.+)", re.DOTALL)
_FALLBACK = re.compile(r"WARNING: (\d+) of \d+ tensor\(s\) required fallback")


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeRun:
    """How a run of the engine ended: ``failure`` is its reason, None for success."""

    failure: str | None
    tensors: int
    fallback_tensors: int
    engine: str


class _Log:
    """Reads the engine's log as it is written."""

    def __init__(self, on_progress: Callable[[Progress], None] | None) -> None:
        self.tensors = 0
        self.fallback_tensors = 0
        self.raised: BaseException | None = None
        self._on_progress = on_progress
        self._level = 0
        self._errors: list[str] = []

    @property
    def errors(self) -> str:
        """What was logged as an error, on one line: the reason of the end, if one was given."""
        text = "".join(self._errors)
        reason = _REASON.search(text)
        return " ".join((reason[1] if reason else text).split())

    def write(self, level: int, text: str) -> None:
        """Take one piece of log; never raises, being called from native code."""
        self._level = self._level if level == _LEVEL_CONTINUED else level
        if self._level == _LEVEL_ERROR:
            self._errors.append(text)
        fallback = _FALLBACK.search(text)
        if fallback is not None:
            self.fallback_tensors = int(fallback[1])
        tensor = _TENSOR.match(text)
        if tensor is None:
            return
        number, self.tensors = int(tensor[1]), int(tensor[2])
        # The line announces a tensor: those before it are done.
        self.progress(number - 1)

    def progress(self, done: int) -> None:
        """Report progress and keep what the report raises, to be raised when native code ends."""
        if self._on_progress is None or self.raised is not None:
            return
        try:
            self._on_progress(
                Progress(step="quantize", done=done, total=self.tensors, unit="tensor")
            )
        except BaseException as error:  # noqa: BLE001 - native code cannot pass it on
            self.raised = error


def run(
    source: Path,
    target: Path,
    *,
    ftype: int,
    threads: int,
    allow_requantize: bool,
    on_progress: Callable[[Progress], None] | None,
) -> NativeRun:
    """Let the engine write ``target``, over whatever it holds, from ``source``.

    The engine may report success for a file it could not write: check the result.
    """
    # Native code: loaded only in the process that is meant to run it.
    import llama_cpp  # noqa: PLC0415 - see above

    log = _Log(on_progress)
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = ftype
    parameters.nthread = threads
    parameters.allow_requantize = allow_requantize
    llama_cpp.llama_backend_init()
    with _listening(llama_cpp, log):
        code = llama_cpp.llama_model_quantize(
            bytes(source), bytes(target), ctypes.byref(parameters)
        )
    if log.raised is not None:
        raise log.raised
    failure = None
    if code != 0 or log.errors:
        failure = log.errors or f"the engine ended with code {code} and gave no reason"
    else:
        log.progress(log.tensors)
    return NativeRun(
        failure=failure,
        tensors=log.tensors,
        fallback_tensors=log.fallback_tensors,
        engine=(
            f"llama-cpp-python {importlib.metadata.version('llama-cpp-python')}, "
            f"llama.cpp {llama_cpp.llama_version().decode()}"
        ),
    )


@contextmanager
def _listening(llama_cpp: Any, log: _Log) -> Iterator[None]:  # noqa: ANN401 - an untyped module
    """Hear the engine's log and pass it on to whoever heard it before."""
    before = llama_cpp.llama_log_callback()
    before_data = ctypes.c_void_p()
    llama_cpp.llama_log_get(ctypes.byref(before), ctypes.byref(before_data))

    def hear(level: int, text: bytes, _data: object) -> None:
        log.write(level, text.decode(errors="replace"))
        if before:
            before(level, text, before_data)

    callback = llama_cpp.llama_log_callback(hear)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p())
    try:
        yield
    finally:
        llama_cpp.llama_log_set(before, before_data)
        # The engine keeps a bare pointer: whatever it calls must outlive this function.
        _ALIVE[:] = [before]


_ALIVE: list[object] = []
