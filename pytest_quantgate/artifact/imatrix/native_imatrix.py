"""Computes an importance matrix: watches a model read a text.

Native code, which can abort the process: call `compute` only inside a probe. What is done, and in what
order, is what llama.cpp's `llama-imatrix` does; the files agree.
"""

from __future__ import annotations

import ctypes
import dataclasses
import hashlib
import importlib.metadata
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_quantgate.artifact import integrity
from pytest_quantgate.artifact.engine import EngineLog, listening
from pytest_quantgate.artifact.gguf import check_model
from pytest_quantgate.artifact.imatrix import Imatrix, write_imatrix
from pytest_quantgate.artifact.imatrix.activations import ActivationSums
from pytest_quantgate.artifact.imatrix.report import (
    SHORTEST_CONTEXT,
    ImatrixReport,
    check_request,
    text_bytes,
    write_provenance,
)
from pytest_quantgate.artifact.partial import require_free
from pytest_quantgate.errors import ArtifactError, ProbeOutOfMemory, ProbeRefused
from pytest_quantgate.records import ImatrixRequest, Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Report = Callable[[Progress], None]

BATCH_TOKENS = 2048
"""Most tokens decoded in one call, as many windows together as fit; llama.cpp's default."""

_MOST_SOURCES = 10
_OVERHEAD_BYTES = 32
_NO_MEMORY = "alloc"
_LAST_NODE = b"result_norm"


def compute(request: ImatrixRequest, report: Report, *, legacy: bool = False) -> ImatrixReport:
    """Read a text with a model, write its importance matrix and, beside it, its provenance as JSON.

    ``request.text`` is a file or the name of a builtin text; the file is named in the matrix as it is
    named here. ``legacy`` writes the old layout.

    Raises:
        ArtifactError: when the model, the text or the output cannot be used, or the text is too short.
        SecurityError: when the model's chat template is suspicious.
        MeasurementError: when activations are not finite.
        ProbeRefused: when the engine cannot run the model.
        ProbeOutOfMemory: when there is not enough memory for it.
    """
    began = time.perf_counter()
    model, output = Path(request.model), Path(request.output)
    parts = integrity.model_parts(model)
    check_request(request, check_model(model))
    taken = {"the model or the text itself": (*parts, Path(request.text))}
    require_free(output, taken, overwrite=request.overwrite)
    data = text_bytes(request.text)
    model_digest = integrity.model_digest(model, on_progress=report)
    imatrix, available, engine = _run(parts[0], data, request, report)
    write_imatrix(imatrix, output, legacy=legacy)
    written = ImatrixReport(
        model=request.model,
        model_sha256=model_digest,
        text=request.text,
        text_sha256=hashlib.sha256(data).hexdigest(),
        output=request.output,
        output_bytes=output.stat().st_size,
        output_sha256=integrity.sha256_file(output),
        context=request.context,
        chunks=imatrix.chunks,
        available=available,
        entries=len(imatrix.entries),
        partial=imatrix.partial,
        seconds=time.perf_counter() - began,
        engine=engine,
    )
    write_provenance(written, request)
    return written


def probe_operation(arguments: dict[str, object], report: Report) -> dict[str, object]:
    """Run `compute` for a probe: an `ImatrixRequest` in plain form, and ``legacy``.

    Raises:
        ArtifactError: as `compute`, and for arguments of the wrong kind.
    """
    values = dict(arguments)
    legacy = values.pop("legacy", False)
    kinds: dict[str, tuple[type, ...]] = {
        **dict.fromkeys(("model", "text", "output"), (str,)),
        **dict.fromkeys(("threads", "context"), (int,)),
        "chunks": (int, type(None)),
        **dict.fromkeys(("process_output", "parse_special", "overwrite"), (bool,)),
    }
    right = (
        isinstance(legacy, bool)
        and {"model", "text", "output", "threads"} <= values.keys() <= kinds.keys()
        and all(isinstance(value, kinds[name]) for name, value in values.items())
    )
    if not right:
        message = f"imatrix: cannot use the arguments {arguments!r}"
        raise ArtifactError(message)
    request: Any = values
    return dataclasses.asdict(compute(ImatrixRequest(**request), report, legacy=legacy is True))


# --- the engine ------------------------------------------------------------------------------------


class _Tensor(ctypes.Structure):
    """The engine's ``ggml_tensor``, of which llama-cpp-python has no description."""

    _fields_ = (
        ("type", ctypes.c_int32),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int32),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * _MOST_SOURCES),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
        ("extra", ctypes.c_void_p),
        ("padding", ctypes.c_char * 8),
    )


class _Watcher:
    """Looks at the products while the engine computes them."""

    def __init__(self, native: Any, sums: ActivationSums, *, process_output: bool) -> None:  # noqa: ANN401
        library = native._lib  # noqa: SLF001 - the only handle to the library in use
        for name, result, arguments in (
            ("ggml_tensor_overhead", ctypes.c_size_t, ()),
            ("ggml_op_name", ctypes.c_char_p, (ctypes.c_int,)),
            ("ggml_nbytes", ctypes.c_size_t, (ctypes.c_void_p,)),
            ("ggml_backend_buffer_is_host", ctypes.c_bool, (ctypes.c_void_p,)),
            ("ggml_backend_tensor_get", None, (ctypes.c_void_p,) * 2 + (ctypes.c_size_t,) * 2),
        ):
            function = getattr(library, name)
            function.restype, function.argtypes = result, list(arguments)
        overhead = library.ggml_tensor_overhead()
        if overhead != ctypes.sizeof(_Tensor) + _OVERHEAD_BYTES:
            message = (
                f"the engine's tensors are laid out in another way than is known here ({overhead} "
                f"bytes, not {ctypes.sizeof(_Tensor) + _OVERHEAD_BYTES}); install a llama-cpp-python "
                "that this package supports"
            )
            raise ProbeRefused(message)
        self._library = library
        self._sums = sums
        self._output = process_output
        self._product, self._routed = self._operation(b"MUL_MAT"), self._operation(b"MUL_MAT_ID")
        self.raised: BaseException | None = None
        self.callback = native.ggml_backend_sched_eval_callback(self._called)

    def _operation(self, name: bytes) -> int:
        """Return the number of an operation, which is another one in each version of the engine."""
        for number in range(256):
            found = self._library.ggml_op_name(number)
            if found == name:
                return number
        message = f"the engine has no operation {name.decode()}"
        raise ProbeRefused(message)

    def _called(self, address: int, asked: bool, _data: object) -> bool:  # noqa: FBT001 - how it is called
        """Answer whether a tensor is wanted, or look at it: False then ends the computation."""
        if self.raised is not None:
            # Wanted, and then ended: nothing is computed any more.
            return asked
        try:
            tensor = _Tensor.from_address(address)
            if asked:
                return self._wanted(tensor)
            if tensor.name == _LAST_NODE:
                # After it come the logits, which nobody reads: a fifth of a small model's work.
                return False
            self._look(tensor)
        except BaseException as error:  # noqa: BLE001 - native code cannot pass it on
            self.raised = error
            return asked
        return True

    def _wanted(self, tensor: _Tensor) -> bool:
        if tensor.op == self._routed:
            return True
        if tensor.op != self._product:
            return not self._output and tensor.name == _LAST_NODE
        rows = _Tensor.from_address(tensor.src[1])
        if rows.ne[1] < SHORTEST_CONTEXT or rows.type != 0:
            return False
        name = _weight(_Tensor.from_address(tensor.src[0]))
        return name.startswith("blk.") or (self._output and name == "output.weight")

    def _look(self, tensor: _Tensor) -> None:
        weights, rows = (_Tensor.from_address(tensor.src[index]) for index in (0, 1))
        name = _weight(weights)
        if rows.type != 0 or rows.nb[0] != np.dtype(np.float32).itemsize:
            message = f"{name}: is multiplied with activations of type {rows.type}, not float32"
            raise ProbeRefused(message)
        activations = self._array(tensor.src[1], rows, np.dtype(np.float32))
        if tensor.op == self._product:
            matrices = (weights.ne[3], weights.ne[2])
            self._sums.add(name, activations, matrices=matrices, source=tensor.src[1])
            return
        if rows.ne[3] != 1:
            message = f"{name}: the experts' activations have four dimensions"
            raise ProbeRefused(message)
        chosen = self._array(tensor.src[2], _Tensor.from_address(tensor.src[2]), np.dtype(np.int32))
        self._sums.add_experts(name, activations[0], chosen[0, 0], experts=weights.ne[2])

    def _array(self, address: int, tensor: _Tensor, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return a tensor's data, its last dimension first: a view where it lies in host memory."""
        size = self._library.ggml_nbytes(address)
        if self._library.ggml_backend_buffer_is_host(tensor.buffer):
            buffer = (ctypes.c_char * size).from_address(tensor.data)
        else:
            buffer = (ctypes.c_char * size)()
            self._library.ggml_backend_tensor_get(address, buffer, 0, size)
        shape, strides = tuple(tensor.ne)[::-1], tuple(tensor.nb)[::-1]
        data: NDArray[Any] = np.ndarray(shape, dtype, buffer, strides=strides)
        return data


def _weight(tensor: _Tensor) -> str:
    """Return the name of a weight; copies for a device are called ``<device>#<name>#<number>``."""
    name: bytes = tensor.name
    parts = name.decode(errors="replace").split("#")
    return parts[1] if len(parts) > 1 else parts[0]


def _run(
    model: Path, data: bytes, request: ImatrixRequest, report: Report
) -> tuple[Imatrix, int, str]:
    """Return the matrix, the number of windows there are, and who computed it."""
    # Native code: loaded only in the process that is meant to run it.
    from llama_cpp import llama_cpp as native  # noqa: PLC0415 - see above

    native.llama_backend_init()
    sums = ActivationSums()
    watcher = _Watcher(native, sums, process_output=request.process_output)
    with listening(native, EngineLog()) as log:
        report(Progress(step=f"loading {model.name}", done=0, total=1, unit="model"))
        pointer = native.llama_model_load_from_file(
            os.fsencode(model), native.llama_model_default_params()
        )
        if not pointer:
            what = f"{model.name} cannot be loaded"
            raise _failure(what, log)
        try:
            reading = _Reading(native, pointer, request, log, model.name)
            chunks, available = reading.chunks(data, report)
            reading.run(chunks, watcher, report)
        finally:
            native.llama_model_free(pointer)
    engine = (
        f"llama-cpp-python {importlib.metadata.version('llama-cpp-python')}, "
        f"llama.cpp {native.llama_version().decode()}"
    )
    imatrix = sums.imatrix(datasets=[request.text], chunk_size=request.context)
    return imatrix, available, engine


class _Reading:
    """One model reading one text."""

    def __init__(
        self,
        native: Any,  # noqa: ANN401 - an untyped module
        model: Any,  # noqa: ANN401 - a pointer of it
        request: ImatrixRequest,
        log: EngineLog,
        name: str,
    ) -> None:
        self._native = native
        self._model = model
        self._request = request
        self._log = log
        self._name = name
        self._vocab = native.llama_model_get_vocab(model)
        lacks = None
        if native.llama_vocab_type(self._vocab) == native.LLAMA_VOCAB_TYPE_NONE:
            lacks = "has no vocabulary"
        elif not native.llama_model_has_decoder(model) or native.llama_model_has_encoder(model):
            lacks = "is no decoder-only model"
        elif native.llama_vocab_get_add_eos(self._vocab):
            lacks = "ends every text with an end-of-text token, so that running text cannot be read"
        if lacks is not None:
            message = f"{name} {lacks}; no importance matrix can be computed"
            raise ProbeRefused(message)

    def chunks(self, data: bytes, report: Report) -> tuple[NDArray[np.int32], int]:
        """Return the windows that are wanted, of shape (windows, context), and how many there are."""
        report(Progress(step="tokenizing", done=0, total=1, unit="text"))
        # The tool takes one newline away from every text it reads.
        tokens = self._tokenize(data.removesuffix(b"\n"))
        context = self._request.context
        if len(tokens) < 2 * context:
            message = (
                f"{self._request.text}: has {len(tokens)} tokens; {2 * context} are needed, two windows "
                f"of {context}: use a longer text or a shorter context"
            )
            raise ArtifactError(message)
        available = len(tokens) // context
        windows = tokens[: available * context].reshape(available, context)[: self._request.chunks]
        if self._native.llama_vocab_get_add_bos(self._vocab):
            windows = windows.copy()
            windows[:, 0] = self._native.llama_vocab_bos(self._vocab)
        return windows, available

    def run(self, windows: NDArray[np.int32], watcher: _Watcher, report: Report) -> None:
        """Decode the windows while the watcher looks on."""
        native, request = self._native, self._request
        count, length = windows.shape
        together = max(1, BATCH_TOKENS // length)
        limit = min(BATCH_TOKENS, together * length)
        parameters = native.llama_context_default_params()
        for field, value in {
            "n_ctx": together * length,
            "n_batch": limit,
            "n_seq_max": together,
            "n_threads": request.threads,
            "n_threads_batch": request.threads,
            "swa_full": False,
            "cb_eval": watcher.callback,
        }.items():
            setattr(parameters, field, value)
        context = native.llama_init_from_model(self._model, parameters)
        if not context:
            what = f"no context of {together} x {length} tokens can be made for {self._name}"
            raise _failure(what, self._log)
        batch = native.llama_batch_init(limit, 0, 1)
        try:
            memory = native.llama_get_memory(context)
            for start in range(0, count, together):
                report(Progress(step="imatrix", done=start, total=count, unit="chunk"))
                if memory:
                    native.llama_memory_clear(memory, True)  # noqa: FBT003 - positional in C
                group = windows[start : start + together]
                # A window that is longer than a batch is read in several.
                for place in range(0, length, limit):
                    _fill(batch, group[:, place : place + limit], place)
                    code = native.llama_decode(context, batch)
                    if watcher.raised is not None:
                        raise watcher.raised
                    if code != 0:
                        what = f"chunk {start + 1} could not be read (code {code})"
                        raise _failure(what, self._log)
            report(Progress(step="imatrix", done=count, total=count, unit="chunk"))
        finally:
            native.llama_batch_free(batch)
            native.llama_free(context)

    def _tokenize(self, data: bytes) -> NDArray[np.int32]:
        # Room for BOS and EOS beside a token for each byte; characters that the vocabulary lacks, such
        # as a mark for spaces, can take more, and the engine says how many.
        room = len(data) + 2
        while True:
            tokens = np.empty(room, dtype=np.int32)
            count: int = self._native.llama_tokenize(
                self._vocab,
                data,
                len(data),
                tokens.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
                room,
                True,  # noqa: FBT003 - positional in C
                self._request.parse_special,
            )
            if count >= 0:
                return tokens[:count]
            if -count <= room or -count > np.iinfo(np.int32).max:
                message = f"{self._name}: the tokenizer failed on {self._request.text} ({count})"
                raise ProbeRefused(message)
            room = -count


def _fill(batch: Any, tokens: NDArray[np.int32], start: int) -> None:  # noqa: ANN401 - a structure
    """Put windows into a batch, all of whose tokens are outputs.

    The last layer computes nothing for the others, and would be missing their activations.
    """
    windows, length = tokens.shape
    count = tokens.size
    batch.n_tokens = count
    for field, values in (
        ("token", tokens.reshape(-1)),
        ("pos", np.tile(np.arange(start, start + length), windows)),
        ("n_seq_id", 1),
        ("logits", 1),
    ):
        np.ctypeslib.as_array(getattr(batch, field), (count,))[:] = values
    for index in range(count):
        batch.seq_id[index][0] = index // length


def _failure(what: str, log: EngineLog) -> ProbeRefused | ProbeOutOfMemory:
    kind = ProbeOutOfMemory if _NO_MEMORY in log.reason else ProbeRefused
    return kind(f"{what}: {log.reason}")
