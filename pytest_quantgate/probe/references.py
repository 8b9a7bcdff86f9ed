"""Where a baseline's predictions come from: the other probe, a logits file, a committed baseline."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_quantgate.artifact.files import open_regular
from pytest_quantgate.artifact.logits_file import LogitsFile, LogitsHeader, LogitsWriter, encode
from pytest_quantgate.errors import ArtifactError, MeasurementError, ProbeRefused
from pytest_quantgate.probe.divergence import (
    CommittedReference,
    FullReference,
    LogitsReference,
    measure_divergence,
)
from pytest_quantgate.probe.exchange import SharedWindows
from pytest_quantgate.probe.likelihood import token_nll
from pytest_quantgate.probe.windows import Windows, check_numbers, tokens_digest
from pytest_quantgate.records import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from pytest_quantgate.probe.divergence import Reference
    from pytest_quantgate.probe.exchange import CompareRequest, Exchange, ShareRequest
    from pytest_quantgate.probe.windows import Reader
    from pytest_quantgate.records import Divergence, DivergenceRequest, TextRequest

    Report = Callable[[Progress], None]

_BLOCK_BYTES = 1 << 22
_ARRAYS: Mapping[str, tuple[str, int]] = {
    "nll": ("f", 2),
    "chunks": ("iu", 1),
    "top_ids": ("iu", 3),
    "top_log_probs": ("f", 3),
}
"""What a committed baseline's file must have: kind of numbers and dimensions."""


def measure_against_file(reader: Reader, request: DivergenceRequest, report: Report) -> Divergence:
    """Compare a candidate with a logits file or a committed baseline.

    Raises:
        ArtifactError: the reference or the corpus cannot be read, changed, or is not what it must be.
        MeasurementError: one of the models answered with something that is no number.
        ProbeRefused: the request, the model and the reference do not fit one another.
    """
    windows: Windows
    reference: Reference
    if request.reference == "logits":
        windows, reference = _logits_reference(reader, request)
    elif request.reference == "committed":
        windows, reference = _committed_reference(reader, request, report)
    else:
        message = "a live reference takes two probes that take turns, not one"
        raise ProbeRefused(message)
    total = len(windows.numbers)

    def tell(done: int) -> None:
        report(Progress(step="divergence", done=done, total=total, unit="chunk"))

    tell(0)
    return measure_divergence(reader, windows, reference, tell, sequences=request.sequences)


def share_logits(
    reader: Reader, exchange: Exchange, share: ShareRequest, report: Report
) -> SharedWindows:
    """Decode the first windows of a request and leave their logits to the candidate's probe.

    Raises:
        ArtifactError: the corpus cannot be read, changed, is no UTF-8 text, or is too short.
        ProbeOutOfMemory: there is no memory for the logits.
        ProbeRefused: the request or the model does not fit this measurement.
    """
    started = time.monotonic()
    request = share.request
    windows = _cut(reader, request, report)
    windows = windows.part(0, reader.together(request.context, request.sequences))
    report(_progress(share))
    for _, rows in reader.logits(windows, sequences=request.sequences):
        room = exchange.reserve(rows.shape)
        with ThreadPoolExecutor(max_workers=reader.settings.threads) as pool:
            list(pool.map(np.copyto, room, rows))
    return SharedWindows(
        chunks=windows.numbers,
        context=windows.context,
        vocabulary=reader.facts.vocabulary,
        tokens_sha256=windows.sha256,
        description=reader.facts.description,
        seconds=time.monotonic() - started,
    )


def compare_shared(
    reader: Reader, exchange: Exchange, compare: CompareRequest, report: Report
) -> Divergence:
    """Decode the windows whose logits the baseline's probe has left, and compare.

    Raises:
        ArtifactError: the corpus cannot be read, changed, is no UTF-8 text, or is too short.
        MeasurementError: the models read the text differently, or one answered with something that is
            no number.
        ProbeRefused: the request or the model does not fit this measurement.
    """
    request, shared = compare.request, compare.shared
    windows = reader.cut(
        request.corpus_path,
        sha256=request.corpus_sha256,
        context=shared.context,
        chunks=shared.chunks,
        report=report,
    )
    _require_equal("vocabulary", reader.facts.vocabulary, shared.vocabulary)
    _require_equal("digest of the text's tokens", windows.sha256, shared.tokens_sha256)
    logits = exchange.view((*windows.targets.shape, shared.vocabulary))

    def tell(done: int) -> None:
        report(_progress(compare, done))

    tell(0)
    return measure_divergence(
        reader,
        windows,
        FullReference(logits, shared.description),
        tell,
        sequences=request.sequences,
        baseline_seconds=shared.seconds,
    )


def write_logits(
    reader: Reader, request: TextRequest, chunks: int | None, path: Path, report: Report
) -> int:
    """Write the logits file of a text's first windows, as the tool does; return how many there are.

    Raises:
        ArtifactError: the corpus cannot be read, changed, is no UTF-8 text, or is too short, or the
            file cannot be written.
        MeasurementError: the model answered with something that is no number.
        ProbeRefused: the request or the model does not fit this measurement.
    """
    windows = reader.cut(
        request.corpus_path, sha256=request.corpus_sha256, context=request.context, report=report
    )
    if chunks is not None:
        windows = windows.part(0, max(chunks, 0))
        check_numbers(windows.numbers, windows.available, what="chunk")
    total = len(windows.numbers)
    header = LogitsHeader(context=windows.context, vocabulary=reader.facts.vocabulary, chunks=total)
    with (
        LogitsWriter(path, header, windows.tokens) as file,
        ThreadPoolExecutor(max_workers=reader.settings.threads) as pool,
    ):
        for start, rows in reader.logits(windows, sequences=None):
            end = start + len(rows)
            group = windows.part(start, end)
            reader.require_finite(np.stack(list(pool.map(token_nll, rows, group.targets))), group)
            for records in pool.map(encode, rows):
                file.add(records)
            report(Progress(step="logits", done=end, total=total, unit="chunk"))
    return total


def _logits_reference(
    reader: Reader, request: DivergenceRequest
) -> tuple[Windows, LogitsReference]:
    path = Path(request.reference_path)
    file = _logits_file(path, request.reference_sha256, _stamp(path))
    header = file.header
    if request.context != header.context:
        message = (
            f"logits file {path} has windows of {header.context} tokens; {request.context} are asked"
            f" for: set the context to {header.context}, or write the file again"
        )
        raise ProbeRefused(message)
    reader.check(header.context)
    if header.vocabulary != reader.facts.vocabulary:
        message = (
            f"logits file {path} is over a vocabulary of {header.vocabulary} tokens, the candidate's"
            f" has {reader.facts.vocabulary}: it was written with a model of another tokenizer"
        )
        raise ArtifactError(message)
    chunks = tuple(range(header.chunks)) if request.chunks is None else request.chunks
    check_numbers(chunks, header.chunks, what="chunk")
    windows = Windows(
        numbers=chunks,
        tokens=file.tokens[np.array(chunks, dtype=np.intp)],
        available=header.chunks,
        total=file.tokens.size,
        sha256=tokens_digest(file.tokens),
    )
    reference = LogitsReference(
        lambda place: file.window(chunks[place]), f"model behind the logits file {path.name}"
    )
    return windows, reference


def _committed_reference(
    reader: Reader, request: DivergenceRequest, report: Report
) -> tuple[Windows, CommittedReference]:
    path = Path(request.reference_path)
    arrays = _committed_arrays(path, request.reference_sha256, _stamp(path))
    windows = _cut(reader, request, report)
    ids = arrays["top_ids"]
    places = {int(chunk): place for place, chunk in enumerate(arrays["chunks"][: len(ids)])}
    if missing := [number for number in windows.numbers if number not in places]:
        message = (
            f"committed baseline {path} has the most likely tokens of {len(places)} windows, and chunk"
            f" {missing[0]} is none of them: ask for those it has, or make it again with more"
        )
        raise ProbeRefused(message)
    scored = windows.targets.shape[1]
    if ids.shape[1] != scored:
        message = (
            f"committed baseline {path} has {ids.shape[1]} tokens a window, {scored} are scored in"
            f" windows of {windows.context}: it was made with another context"
        )
        raise ArtifactError(message)
    largest = int(ids.max())
    if largest >= reader.facts.vocabulary:
        message = (
            f"committed baseline {path} lists token {largest}, the candidate's vocabulary has"
            f" {reader.facts.vocabulary}: it was made with a model of another tokenizer"
        )
        raise ArtifactError(message)
    chosen = np.array([places[number] for number in windows.numbers], dtype=np.intp)
    reference = CommittedReference(
        nll=arrays["nll"][chosen],
        ids=ids[chosen],
        log_probs=arrays["top_log_probs"][chosen],
        description=f"model behind the committed baseline {path.name}",
    )
    return windows, reference


def _cut(reader: Reader, request: DivergenceRequest, report: Report) -> Windows:
    return reader.cut(
        request.corpus_path,
        sha256=request.corpus_sha256,
        context=request.context,
        chunks=request.chunks,
        report=report,
    )


def _progress(place: ShareRequest | CompareRequest, done: int = 0) -> Progress:
    return Progress(step="divergence", done=place.done + done, total=place.total, unit="chunk")


def _require_equal(what: str, candidate: object, baseline: object) -> None:
    if candidate != baseline:
        message = (
            f"the {what} is {candidate} for the candidate and {baseline} for the baseline: their"
            " predictions cannot be compared token by token; nll_per_byte can compare them"
        )
        raise MeasurementError(message)


def _stamp(path: Path) -> tuple[int, int]:
    """Return what changes when a file does: its length and time of change."""
    with open_regular(path) as file:
        status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=1)
def _logits_file(path: Path, sha256: str, _changed: tuple[int, int]) -> LogitsFile:
    file = LogitsFile(path)
    _require_digest(path, sha256)
    return file


@functools.lru_cache(maxsize=1)
def _committed_arrays(
    path: Path, sha256: str, _changed: tuple[int, int]
) -> Mapping[str, NDArray[Any]]:
    _require_digest(path, sha256)
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in _ARRAYS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        message = f"committed baseline {path} cannot be read: {error}; make it again"
        raise ArtifactError(message) from error
    for name, (kinds, dimensions) in _ARRAYS.items():
        array = arrays[name]
        if array.dtype.kind not in kinds or array.ndim != dimensions or not array.size:
            message = (
                f"committed baseline {path}: its array {name} is {array.dtype} of shape {array.shape};"
                f" {dimensions} dimensions of kind {kinds!r} are needed: make it again"
            )
            raise ArtifactError(message)
    ids, log_probs, nll = arrays["top_ids"], arrays["top_log_probs"], arrays["nll"]
    if (
        ids.shape != log_probs.shape
        or ids.shape[1] != nll.shape[1]
        or not len(ids) <= len(nll) == len(arrays["chunks"])
    ):
        message = (
            f"committed baseline {path}: the shapes of its arrays do not fit:"
            f" {', '.join(f'{name} {array.shape}' for name, array in arrays.items())}; make it again"
        )
        raise ArtifactError(message)
    if not (np.isfinite(log_probs).all() and np.isfinite(nll).all() and ids.min() >= 0):
        message = f"committed baseline {path} has values that are no likelihoods; make it again"
        raise ArtifactError(message)
    return arrays


def _require_digest(path: Path, sha256: str) -> None:
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    if digest.hexdigest() != sha256:
        message = (
            f"{path}: its sha256 is {digest.hexdigest()[:16]}..., {sha256[:16] or 'nothing'}... is"
            " expected: it is another file, or changed during the run"
        )
        raise ArtifactError(message)
