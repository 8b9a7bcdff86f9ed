"""The engine's own quantizer, called through its C interface, and what it says in its log."""

from __future__ import annotations

import ctypes
import importlib.metadata
import re
import resource
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_quantgate.artifact.engine import listening
from pytest_quantgate.records import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy import float32
    from numpy.typing import NDArray

# Levels of ggml.h; a continued line belongs to the level of the one before.
_LEVEL_ERROR = 4
_LEVEL_CONTINUED = 5
_TENSOR = re.compile(r"\[\s*(\d+)/\s*(\d+)\] (.+?)\s+- \[")
_PLANNED = re.compile(r"size = .*?(?:-> .*\((\w+)\))?\s*$")
_REASON = re.compile(r"failed to quantize: (.+)", re.DOTALL)
_FALLBACK = re.compile(r"WARNING: (\d+) of \d+ tensor\(s\) required fallback")
_FITS_NOT = re.compile(r"warning: (.+?)\s+- ncols\s+\d+ not divisible by\s+\d+ \(.* type\s+(\w+)\)")
_FALLEN = re.compile(r"-> falling back to\s+(\w+)")
_UNWEIGHTED = re.compile(r"did not find weights for (.+)")
_WANTS_IMATRIX = "will require an imatrix"

# Tags of llama_model_kv_override.
_TAG_INT = 0
_TAG_STRING = 3
_TYPE_COUNT = 43

STRING_BYTES = 127
"""Bytes of a string that the engine can write into a file's metadata."""

_NAMES_PER_PATTERN = 64
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeRecipe:
    """What the engine is asked for, in its own numbers.

    ``types`` gives single tensors another type, by their names; ``importance`` has a value for each
    column of a tensor; ``metadata`` is added to the file, in its order.
    """

    ftype: int
    threads: int
    allow_requantize: bool = False
    dry_run: bool = False
    pure: bool = False
    leave_output: bool = False
    output_tensor: int = _TYPE_COUNT
    embedding: int = _TYPE_COUNT
    types: Mapping[str, int] = field(default_factory=dict)
    importance: Mapping[str, NDArray[float32]] = field(default_factory=dict)
    metadata: Mapping[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeRun:
    """How a run of the engine ended: ``failure`` is its reason, None for success.

    ``types`` are the types that a dry run gives each tensor, None for one that stays as it is;
    ``fallen`` maps tensors to the type they cannot have and the one they get instead, and
    ``fallback_tensors`` is the engine's own count of them. ``unweighted`` were quantized without
    importance though other tensors have it.
    """

    failure: str | None
    tensors: int
    types: Mapping[str, str | None]
    fallen: Mapping[str, tuple[str, str]]
    fallback_tensors: int
    unweighted: tuple[str, ...]
    needs_imatrix: bool


class _Log:
    """Reads the engine's log as it is written, in pieces of lines."""

    def __init__(self, on_progress: Callable[[Progress], None] | None) -> None:
        self.tensors = 0
        self.types: dict[str, str | None] = {}
        self.fallen: dict[str, tuple[str, str]] = {}
        self.fallback_tensors = 0
        self.unweighted: list[str] = []
        self.needs_imatrix = False
        self.raised: BaseException | None = None
        self._on_progress = on_progress
        self._level = 0
        self._errors: list[str] = []
        self._current = ""
        self._unfit: tuple[str, str] | None = None

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
        if tensor := _TENSOR.match(text):
            number, self.tensors, self._current = int(tensor[1]), int(tensor[2]), tensor[3]
            # The line announces a tensor: those before it are done.
            self.progress(number - 1)
        elif self._current and (planned := _PLANNED.match(text)):
            self.types[self._current] = planned[1] and planned[1].upper()
            self._current = ""
        elif unfit := _FITS_NOT.match(text):
            self._unfit = unfit[1], unfit[2].upper()
        elif self._unfit and (fallen := _FALLEN.search(text)):
            self.fallen[self._unfit[0]] = self._unfit[1], fallen[1].upper()
            self._unfit = None
        elif unweighted := _UNWEIGHTED.search(text):
            self.unweighted.append(unweighted[1].strip())
        elif fallback := _FALLBACK.search(text):
            self.fallback_tensors = int(fallback[1])
        elif _WANTS_IMATRIX in text:
            self.needs_imatrix = True

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
    recipe: NativeRecipe,
    *,
    on_progress: Callable[[Progress], None] | None = None,
) -> NativeRun:
    """Let the engine write ``target``, over whatever it holds, from ``source``; a dry run does not.

    The engine may report success for a file it could not write: check the result. It takes the
    process with it for an output tensor or embedding of a type whose blocks do not fit, and where a
    type that cannot do without importance has none: check the recipe.
    """
    # Native code: loaded only in the process that is meant to run it.
    import llama_cpp  # noqa: PLC0415 - see above

    log = _Log(on_progress)
    # The arrays that the parameters point to must live as long as the call.
    parameters, _arrays = _parameters(llama_cpp, recipe)
    llama_cpp.llama_backend_init()
    with listening(llama_cpp, log):
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
        types=log.types,
        fallen=log.fallen,
        fallback_tensors=log.fallback_tensors,
        unweighted=tuple(log.unweighted),
        needs_imatrix=log.needs_imatrix,
    )


def engine() -> str:
    """Return name and version of the engine."""
    import llama_cpp  # noqa: PLC0415 - as above

    return (
        f"llama-cpp-python {importlib.metadata.version('llama-cpp-python')}, "
        f"llama.cpp {llama_cpp.llama_version().decode()}"
    )


def peak_rss_bytes() -> int:
    """Return the largest resident set this process has had, pages of mapped files included.

    On Linux this is VmHWM, which starts anew when a program starts; elsewhere it is what getrusage
    says, in bytes on macOS and in units of 1024 on other systems.
    """
    if _STATUS.exists():
        match = re.search(r"^VmHWM:\s+(\d+) kB$", _STATUS.read_text("ascii"), re.MULTILINE)
        if match:
            return int(match[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _parameters(llama_cpp: Any, recipe: NativeRecipe) -> tuple[Any, list[object]]:  # noqa: ANN401 - an untyped module
    """Return the engine's parameters and the arrays they point into."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = recipe.ftype
    parameters.nthread = recipe.threads
    parameters.allow_requantize = recipe.allow_requantize
    parameters.dry_run = recipe.dry_run
    parameters.pure = recipe.pure
    parameters.quantize_output_tensor = not recipe.leave_output
    parameters.output_tensor_type = recipe.output_tensor
    parameters.token_embedding_type = recipe.embedding
    alive: list[object] = []
    if recipe.types:
        patterns = _patterns(recipe.types)
        overrides = (llama_cpp.llama_model_tensor_override * (len(patterns) + 1))()
        for each, (pattern, number) in zip(overrides, patterns, strict=False):
            each.pattern, each.type = pattern, number
        overrides[len(patterns)].type = _TYPE_COUNT
        parameters.tt_overrides = overrides
        alive.append(overrides)
    if recipe.importance:
        entries = (llama_cpp.llama_model_imatrix_data * (len(recipe.importance) + 1))()
        for entry, (name, values) in zip(entries, recipe.importance.items(), strict=False):
            entry.name = name.encode()
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            entry.size = values.size
        parameters.imatrix = entries
        alive += [entries, *recipe.importance.values()]
    if recipe.metadata:
        keys = (llama_cpp.llama_model_kv_override * (len(recipe.metadata) + 1))()
        for slot, (key, value) in zip(keys, recipe.metadata.items(), strict=False):
            slot.key = key.encode()
            if isinstance(value, str):
                slot.tag, slot.value.val_str = _TAG_STRING, value.encode()[:STRING_BYTES]
            else:
                slot.tag, slot.value.val_i64 = _TAG_INT, value
        parameters.kv_overrides = keys
        alive.append(keys)
    return parameters, alive


def _patterns(types: Mapping[str, int]) -> list[tuple[bytes, int]]:
    """Return patterns that fit exactly the names of each type.

    The engine searches its own kind of regular expressions; of what Python decided, nothing is left
    for it to read otherwise. Names are joined because the engine tries every pattern on every tensor.
    """
    by_type: dict[int, list[str]] = {}
    for name, number in types.items():
        by_type.setdefault(number, []).append(re.sub(r"([^\w])", r"\\\1", name))
    patterns = []
    for number, names in by_type.items():
        for start in range(0, len(names), _NAMES_PER_PATTERN):
            joined = "|".join(names[start : start + _NAMES_PER_PATTERN])
            patterns.append((f"^(?:{joined})$".encode(), number))
    return patterns
