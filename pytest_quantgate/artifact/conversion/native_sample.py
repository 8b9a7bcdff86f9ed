"""How the engine reads texts with a GGUF model, and what it predicts along given tokens.

Native code, which can abort the process: run it only inside a probe.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from llama_cpp import llama_cpp as native

from pytest_quantgate.artifact.engine import EngineLog, listening, set_parameters
from pytest_quantgate.errors import ArtifactError, MeasurementError, ProbeRefused
from pytest_quantgate.records import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

_ROWS = 64


def probe_operation(
    arguments: dict[str, object], report: Callable[[Progress], None]
) -> dict[str, object]:
    """Sample a model for a probe.

    Arguments: ``model``, the path of a GGUF file; ``texts``; ``windows``, lists of tokens, and
    ``logits``, the path of a numpy file with a row of float32 for each of their tokens (both may be
    empty); ``threads``.

    Returns:
        ``tokens``: for each text its tokens without and with those that the model puts around a text;
        ``vocabulary``: the number of tokens; ``kind``: the family of the tokenizer; and where windows
        are given, how far the model's logits are from those of the file: ``positions``, ``same_top``
        (share of positions with the same most likely token), ``mean_kld`` and ``max_kld`` (nats, of the
        file's distribution from the model's), ``relative_error`` (energy of the difference of
        centred logits by that of the file's).

    Raises:
        ArtifactError: for arguments of the wrong kind.
        MeasurementError: the model answers with something that is no number.
        ProbeRefused: the engine cannot open the model or does not fit the file of logits.
    """
    model, texts, windows = (arguments.get(key) for key in ("model", "texts", "windows"))
    logits, threads = arguments.get("logits"), arguments.get("threads")
    if not (
        isinstance(model, str)
        and isinstance(texts, list)
        and isinstance(windows, list)
        and isinstance(logits, str)
        and isinstance(threads, int)
    ):
        message = f"model_sample: cannot use the arguments {arguments!r}"
        raise ArtifactError(message)
    with _opened(Path(model)) as opened:
        vocab = native.llama_model_get_vocab(opened)
        size = int(native.llama_vocab_n_tokens(vocab))
        answer: dict[str, object] = {
            "tokens": [
                [_tokens(vocab, text, add_special=special) for special in (False, True)]
                for text in texts
            ],
            "vocabulary": size,
            "kind": _FAMILIES.get(int(native.llama_vocab_type(vocab)), "other"),
        }
        if windows:
            wanted = np.load(logits, mmap_mode="r", allow_pickle=False)
            answer |= _agreement(opened, size, windows, wanted, threads, report)
    return answer


_FAMILIES = {
    native.LLAMA_VOCAB_TYPE_SPM: "sentencepiece",
    native.LLAMA_VOCAB_TYPE_BPE: "bpe",
}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    parameters = native.llama_model_default_params()
    # On the processor, and with weights as they are in the file: this is about the file.
    set_parameters(parameters, n_gpu_layers=0, check_tensors=True)
    with listening(native, EngineLog()) as log:
        model = native.llama_model_load_from_file(os.fsencode(path), parameters)
    if not model:
        message = f"the engine cannot open it: {log.reason}"
        raise ProbeRefused(message)
    try:
        vocab = native.llama_model_get_vocab(model)
        if not vocab or native.llama_vocab_type(vocab) == native.LLAMA_VOCAB_TYPE_NONE:
            message = "it has no vocabulary"
            raise ProbeRefused(message)
        yield model
    finally:
        native.llama_model_free(model)


def _tokens(vocab: Any, text: str, *, add_special: bool) -> list[int]:  # noqa: ANN401 - a C pointer
    data = text.encode("utf-8")
    # Room for BOS and EOS beside at most one token for each byte and a space in front.
    room = len(data) + 3
    tokens = np.empty(room, dtype=np.int32)
    count = native.llama_tokenize(
        vocab,
        data,
        len(data),
        tokens.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
        room,
        add_special,
        True,  # noqa: FBT003 - positional in C; special tokens in the text are read as such
    )
    if count < 0:
        message = f"the engine makes {-count} tokens of {len(data)} bytes"
        raise ProbeRefused(message)
    return [int(token) for token in tokens[:count]]


def _agreement(
    model: Any,  # noqa: ANN401 - a C pointer
    vocabulary: int,
    windows: Sequence[Sequence[int]],
    wanted: NDArray[np.float32],
    threads: int,
    report: Callable[[Progress], None],
) -> dict[str, object]:
    positions = sum(map(len, windows))
    shared = wanted.shape[1] if wanted.ndim == 2 else 0  # noqa: PLR2004 - rows and columns
    if wanted.shape[:1] != (positions,) or not 0 < shared <= vocabulary:
        # Vocabularies are padded at the end, for speed, more or less than the source's.
        message = (
            f"it has {vocabulary} tokens, and the source gives logits of shape {wanted.shape} for "
            f"{positions} positions"
        )
        raise ProbeRefused(message)
    klds = np.empty(positions)
    same = np.empty(positions, dtype=bool)
    difference = energy = 0.0
    done = 0
    for window in windows:
        report(Progress(step="logits", done=done, total=positions, unit="token"))
        rows = _logits(model, vocabulary, window, threads)[:, :shared]
        for start in range(0, len(window), _ROWS):
            ours = rows[start : start + _ROWS].astype(np.float64)
            part = slice(done + start, done + start + len(ours))
            theirs = wanted[part].astype(np.float64)
            if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
                whose = "source" if np.isfinite(ours).all() else "converted model"
                message = f"the {whose} predicts something that is no number"
                raise MeasurementError(message)
            klds[part], same[part] = _compared(theirs, ours)
            # A constant added to all logits of a position changes no probability.
            ours -= ours.mean(axis=1, keepdims=True)
            theirs -= theirs.mean(axis=1, keepdims=True)
            difference += float(np.square(ours - theirs).sum())
            energy += float(np.square(theirs).sum())
        done += len(window)
    return {
        "positions": positions,
        "same_top": float(same.mean()),
        "mean_kld": float(klds.mean()),
        "max_kld": float(klds.max()),
        "relative_error": difference / energy if energy else float(difference > 0),
    }


def _compared(
    theirs: NDArray[np.float64], ours: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return for each row the divergence of ``ours`` from ``theirs``, and whether the top agrees."""
    logs = [rows - rows.max(axis=1, keepdims=True) for rows in (theirs, ours)]
    p, q = (rows - np.log(np.exp(rows).sum(axis=1, keepdims=True)) for rows in logs)
    return (np.exp(p) * (p - q)).sum(axis=1), p.argmax(axis=1) == q.argmax(axis=1)


def _logits(
    model: Any,  # noqa: ANN401 - a C pointer
    vocabulary: int,
    window: Sequence[int],
    threads: int,
) -> NDArray[np.float32]:
    """Return the logits at each token of a window, in a context of its own."""
    count = len(window)
    parameters = native.llama_context_default_params()
    set_parameters(
        parameters,
        n_ctx=count,
        n_batch=count,
        n_ubatch=count,
        n_seq_max=1,
        n_threads=threads,
        n_threads_batch=threads,
        swa_full=False,
    )
    with listening(native, EngineLog()) as log:
        context = native.llama_init_from_model(model, parameters)
        if not context:
            message = f"the engine makes no context of {count} tokens: {log.reason}"
            raise ProbeRefused(message)
        batch = native.llama_batch_init(count, 0, 1)
        try:
            for place, token in enumerate(window):
                batch.token[place] = token
                batch.pos[place] = place
                batch.n_seq_id[place] = 1
                batch.seq_id[place][0] = 0
                batch.logits[place] = True
            batch.n_tokens = count
            code = native.llama_decode(context, batch)
            if code != 0:
                message = f"the engine returned {code} for {count} tokens: {log.reason}"
                raise ProbeRefused(message)
            # The array dies with the context.
            return np.array(
                np.ctypeslib.as_array(native.llama_get_logits(context), (count, vocabulary))
            )
        finally:
            native.llama_batch_free(batch)
            native.llama_free(context)
