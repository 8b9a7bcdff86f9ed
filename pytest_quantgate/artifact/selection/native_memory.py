"""What the engine plans to allocate for a model, asked without allocating it.

Native code, which can abort the process: call `plan` only inside a probe.
"""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from pytest_quantgate.artifact.catalog import TENSOR_TYPES
from pytest_quantgate.artifact.engine import listening, set_parameters
from pytest_quantgate.artifact.gguf import check_architecture, read_header
from pytest_quantgate.artifact.integrity import model_parts
from pytest_quantgate.artifact.selection.estimate import CACHE_TYPES, UBATCH
from pytest_quantgate.errors import ArtifactError
from pytest_quantgate.records import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

_MEBIBYTE = 1 << 20
_BATCH = 2048
# Caches of attention, one or two, and of recurrent layers name their cells behind the size; states
# beside them name their layers before it.
_CACHE = re.compile(r"\bsize =\s+([\d.]+) MiB \(\s*\d+ cells|layers = \d+, size =\s+([\d.]+) MiB")
_BUFFER = re.compile(r"\b(compute|output) buffer size =\s+([\d.]+) MiB")
_LEVEL_ERROR = 4
_LOAD_NONE = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedMemory:
    """The engine's plan for a context, in bytes.

    ``cache_bytes`` are keys, values and states; ``compute_bytes`` what a batch touches of which one
    token's logits are wanted; ``reserved_bytes`` what is set aside so that all logits could be;
    ``output_bytes`` the logits; ``process_bytes`` what the process had by then, with Python, the
    engine and the vocabulary.
    """

    context: int
    cache_type: str
    cache_bytes: int
    compute_bytes: int
    reserved_bytes: int
    output_bytes: int
    process_bytes: int


def probe_operation(
    arguments: dict[str, object], report: Callable[[Progress], None]
) -> dict[str, object]:
    """Run `plan` for a probe: ``model`` (a path), ``contexts`` and ``cache_type``, as plain data.

    Raises:
        ArtifactError: as `plan`, and for arguments of the wrong kind.
    """
    model, contexts = arguments.get("model"), arguments.get("contexts")
    cache_type = arguments.get("cache_type", "f16")
    if not (
        isinstance(model, str)
        and isinstance(contexts, list)
        and all(isinstance(each, int) for each in contexts)
        and isinstance(cache_type, str)
    ):
        message = f"plan_memory: cannot use the arguments {arguments!r}"
        raise ArtifactError(message)
    plans = plan(Path(model), tuple(contexts), cache_type, report)
    return {"plans": [asdict(each) for each in plans]}


def plan(
    path: Path,
    contexts: tuple[int, ...],
    cache_type: str,
    report: Callable[[Progress], None],
) -> tuple[PlannedMemory, ...]:
    """Ask the engine what it would allocate for a model at each context.

    No tensor is read and no buffer allocated: the engine says what it would take in its log.

    Raises:
        ArtifactError: for a file that is no model, a context the engine does not make, or a log that
            does not say it.
    """
    # Native code: loaded only in the process that is meant to run it.
    from llama_cpp import llama_cpp as native  # noqa: PLC0415 - see above

    first = model_parts(path)[0]
    check_architecture(read_header(first))
    if cache_type.lower() not in CACHE_TYPES:
        message = f"{cache_type!r} is not a type of the cache; there are {', '.join(CACHE_TYPES)}"
        raise ArtifactError(message)
    native.llama_backend_init()
    with listening(native, _Log()) as log:
        parameters = native.llama_model_default_params()
        set_parameters(parameters, no_alloc=True, load_mode=_LOAD_NONE, n_gpu_layers=0)
        model = native.llama_model_load_from_file(os.fsencode(first), parameters)
        if not model:
            message = f"{path}: cannot be loaded to plan its memory: {log.reason()}"
            raise ArtifactError(message)
        try:
            plans = []
            for done, context in enumerate(contexts):
                report(Progress(step="plan", done=done, total=len(contexts), unit="context"))
                plans.append(_planned(native, model, context, cache_type.lower(), log, path))
        finally:
            native.llama_model_free(model)
    return tuple(plans)


class _Log:
    def __init__(self) -> None:
        self._pieces: list[tuple[int, str]] = []

    def write(self, level: int, text: str) -> None:
        self._pieces.append((level, text))

    def take(self) -> str:
        text = "".join(piece for _, piece in self._pieces)
        self._pieces.clear()
        return text

    def reason(self) -> str:
        errors = "".join(text for level, text in self._pieces if level == _LEVEL_ERROR)
        return " ".join(errors.split()) or "the engine gave no reason"


def _planned(
    native: Any,  # noqa: ANN401 - an untyped module
    model: Any,  # noqa: ANN401 - a C pointer
    context: int,
    cache_type: str,
    log: _Log,
    path: Path,
) -> PlannedMemory:
    found = []
    for outputs in (1, 0):
        number = next(key for key, kind in TENSOR_TYPES.items() if kind.name.lower() == cache_type)
        parameters = native.llama_context_default_params()
        set_parameters(
            parameters,
            n_ctx=context,
            n_batch=min(_BATCH, context),
            n_ubatch=min(UBATCH, context),
            # 0 stands for as many as there are tokens in a batch.
            n_outputs_max=outputs,
            type_k=number,
            type_v=number,
            swa_full=False,
        )
        log.take()
        made = native.llama_init_from_model(model, parameters)
        if not made:
            message = f"{path}: a context of {context:,} tokens cannot be made: {log.reason()}"
            raise ArtifactError(message)
        process = psutil.Process().memory_info().rss
        native.llama_free(made)
        text = log.take()
        buffers: dict[str, float] = {}
        for name, size in _BUFFER.findall(text):
            buffers[name] = buffers.get(name, 0.0) + float(size)
        caches = [float(one or other) for one, other in _CACHE.findall(text)]
        if buffers.keys() != {"compute", "output"} or not caches:
            message = (
                f"{path}: the engine did not say what a context of {context:,} tokens takes; use the"
                " version of llama-cpp-python this package was made for"
            )
            raise ArtifactError(message)
        found.append((sum(caches), buffers["compute"], buffers["output"], process))
    (cache, compute, output, process), (_, reserved, _, _) = found
    return PlannedMemory(
        context=context,
        cache_type=cache_type,
        cache_bytes=round(cache * _MEBIBYTE),
        compute_bytes=round(compute * _MEBIBYTE),
        reserved_bytes=round(reserved * _MEBIBYTE),
        output_bytes=round(output * _MEBIBYTE),
        process_bytes=process,
    )
