"""Makes a quantized model file: whole, verified and with its papers, or not at all.

Native code, which can abort the process: call `quantize` only inside a probe.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import fcntl
import json
import os
import re
import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.artifact import integrity, native_quantize
from pytest_quantgate.artifact.catalog import QuantizationType, quantization_type
from pytest_quantgate.artifact.files import write_atomically
from pytest_quantgate.artifact.gguf import GgufHeader, read_header
from pytest_quantgate.artifact.sums import sum_lines
from pytest_quantgate.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_quantgate.records import Progress

PROVENANCE_SCHEMA = 1
"""Version of the layout of ``<target>.json``."""

_PARTIAL = re.compile(r"\..+\.\d+\.partial", re.DOTALL)
_FLOATS = frozenset({"F32", "F16", "BF16"})
_TIGHT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeReport:
    """What was made: sizes in bytes, digests in hexadecimal.

    ``fallback_tensors`` of ``tensors`` got another type than the recipe has for them, because their
    rows do not fit its blocks; the engine counts them.
    """

    type_name: str
    source: str
    target: str
    source_bytes: int
    target_bytes: int
    source_sha256: str
    target_sha256: str
    bits_per_weight: float
    tensors: int
    fallback_tensors: int
    seconds: float
    engine: str


def quantize(
    source: Path,
    target: Path,
    *,
    type_name: str,
    threads: int,
    allow_requantize: bool = False,
    overwrite: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> QuantizeReport:
    """Quantize a GGUF model and write it, its sidecar ``.sha256`` and its provenance ``.json``.

    The model appears under its name only when it is whole: it is written under a temporary name in
    the same folder, its header is read back, and then it is renamed. ``source`` may be any part of
    a split model; the result is one file. Turning a quantized model into floats is always allowed,
    into another quantized type only with ``allow_requantize``, since it loses twice.

    Raises:
        ArtifactError: for an unknown type or one that needs an importance matrix, a source that
            cannot be used, a target that exists (unless ``overwrite``) or cannot be written, and
            when the engine refuses or the result is not whole.
    """
    kind = quantization_type(type_name)
    parts = integrity.model_parts(source)
    header = read_header(parts[0])
    _check_recipe(kind, header, allow_requantize=allow_requantize)
    _check_target(parts, target, overwrite=overwrite)
    began = time.perf_counter()
    source_digest = integrity.model_digest(source)
    with _partial_file(target) as partial:
        run = native_quantize.run(
            parts[0],
            partial,
            ftype=kind.ftype,
            threads=threads,
            allow_requantize=allow_requantize or kind.name in _FLOATS,
            on_progress=on_progress,
        )
        made = _checked_result(partial, target, kind, run)
        digest = integrity.sha256_file(partial)
        report = QuantizeReport(
            type_name=kind.name,
            source=str(source),
            target=str(target),
            source_bytes=sum(part.stat().st_size for part in parts),
            target_bytes=made.file_size,
            source_sha256=source_digest,
            target_sha256=digest,
            bits_per_weight=made.bits_per_weight,
            tensors=len(made.tensors),
            fallback_tensors=run.fallback_tensors,
            seconds=time.perf_counter() - began,
            engine=run.engine,
        )
        _publish(partial, target, report)
    return report


def probe_operation(
    arguments: dict[str, object], report: Callable[[Progress], None]
) -> dict[str, object]:
    """Run `quantize` for a probe: its arguments and its report as plain data.

    ``source``, ``target``, ``type_name`` and ``threads`` are needed; ``allow_requantize`` and
    ``overwrite`` may be left out.

    Raises:
        ArtifactError: as `quantize`, and for arguments of the wrong kind.
    """
    source, target, type_name = (arguments.get(key) for key in ("source", "target", "type_name"))
    threads = arguments.get("threads")
    allow, overwrite = (arguments.get(key, False) for key in ("allow_requantize", "overwrite"))
    if not (
        isinstance(source, str)
        and isinstance(target, str)
        and isinstance(type_name, str)
        and isinstance(threads, int)
        and isinstance(allow, bool)
        and isinstance(overwrite, bool)
    ):
        message = f"quantize: cannot use the arguments {arguments!r}"
        raise ArtifactError(message)
    result = quantize(
        Path(source),
        Path(target),
        type_name=type_name,
        threads=threads,
        allow_requantize=allow,
        overwrite=overwrite,
        on_progress=report,
    )
    return dataclasses.asdict(result)


def _check_recipe(kind: QuantizationType, header: GgufHeader, *, allow_requantize: bool) -> None:
    if kind.needs_imatrix:
        message = (
            f"{kind.name} needs an importance matrix, which is not supported here; make the file "
            "with `llama-quantize --imatrix` and name it as a source, or choose Q2_K or larger"
        )
        raise ArtifactError(message)
    if header.quantized and kind.name not in _FLOATS and not allow_requantize:
        message = (
            f"{header.path}: is already quantized ({header.file_type or 'unknown type'}), and "
            f"quantizing it again to {kind.name} loses twice; start from an F16, BF16 or F32 file, "
            "make one from it first (type F16), or allow requantizing"
        )
        raise ArtifactError(message)


def _check_target(parts: tuple[Path, ...], target: Path, *, overwrite: bool) -> None:
    if not target.parent.is_dir():
        message = f"{target}: the folder {target.parent} does not exist; make it first"
        raise ArtifactError(message)
    if not os.path.lexists(target):
        return
    if any(target.exists() and target.samefile(part) for part in parts):
        message = f"{target}: is the source itself; write to another file"
        raise ArtifactError(message)
    if not overwrite:
        message = f"{target}: exists already; remove it, or allow overwriting"
        raise ArtifactError(message)
    if not target.is_file():
        message = f"{target}: exists and is not a file, so it cannot be overwritten"
        raise ArtifactError(message)


@contextmanager
def _partial_file(target: Path) -> Iterator[Path]:
    """Give a locked temporary name beside the target and leave nothing of it behind.

    The lock lasts as long as this process, however it ends: a partial file that can be locked
    belongs to nobody any more, whatever process has its number now.
    """
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        _remove_leftovers(target.parent)
        handle = _locked(partial)
    except FileExistsError:
        message = f"{partial}: is being written by this process; wait for it"
        raise ArtifactError(message) from None
    except OSError as error:
        message = f"{target}: cannot be written in {target.parent}: {error.strerror}"
        raise ArtifactError(message) from error
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)
        os.close(handle)


def _locked(partial: Path) -> int:
    """Create a file and lock it; another run may tidy it away between the two."""
    while True:
        handle = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return handle
        os.close(handle)


def _remove_leftovers(folder: Path) -> None:
    """Delete the partial files of runs that were killed."""
    for path in folder.iterdir():
        if not _PARTIAL.fullmatch(path.name):
            continue
        try:
            handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        except OSError:
            # Somebody is writing it, or it is somebody else's.
            continue
        finally:
            os.close(handle)


def _checked_result(
    partial: Path, target: Path, kind: QuantizationType, run: native_quantize.NativeRun
) -> GgufHeader:
    """Return the header of what the engine wrote, which on a full disk it calls a success."""
    reason = run.failure
    if reason is None:
        try:
            header = read_header(partial)
        except ArtifactError as error:
            reason = str(error).removeprefix(f"{partial}: ")
        else:
            if header.file_type == kind.name and len(header.tensors) == run.tensors:
                return header
            reason = (
                f"the result has {len(header.tensors)} tensors of {run.tensors} and is of type "
                f"{header.file_type}"
            )
    free = shutil.disk_usage(partial.parent).free
    full = f"; the disk is full ({free:,} bytes free)" if free < _TIGHT_BYTES else ""
    message = f"{target}: could not be made as {kind.name}: {reason}{full}"
    raise ArtifactError(message)


def _publish(partial: Path, target: Path, report: QuantizeReport) -> None:
    """Write the file's papers, then give it its name: whoever finds it finds them too."""
    sidecar, provenance = (
        target.with_name(target.name + suffix) for suffix in (".sha256", ".json")
    )
    try:
        write_atomically(sidecar, sum_lines([target], [report.target_sha256]).encode())
        write_atomically(provenance, _provenance(report).encode())
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(target)
        _sync_folder(target.parent)
    except (OSError, ArtifactError) as error:
        # An old file of that name, if there was one, is then without papers: it has to be vouched
        # for anew, which is better than papers of another file.
        for paper in (sidecar, provenance):
            if paper.is_file():
                paper.unlink()
        if isinstance(error, ArtifactError):
            raise
        message = f"{target}: cannot be put in place: {error.strerror}"
        raise ArtifactError(message) from error


def _provenance(report: QuantizeReport) -> str:
    """Return where the file came from, as JSON."""
    document = {
        "schema": PROVENANCE_SCHEMA,
        "created": dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
        "recipe": {"type": report.type_name},
        "engine": report.engine,
        "source": {
            "name": Path(report.source).name,
            "bytes": report.source_bytes,
            "sha256": report.source_sha256,
        },
        "output": {
            "name": Path(report.target).name,
            "bytes": report.target_bytes,
            "sha256": report.target_sha256,
            "bits_per_weight": round(report.bits_per_weight, 4),
            "tensors": report.tensors,
            "fallback_tensors": report.fallback_tensors,
        },
    }
    return json.dumps(document, indent=2) + "\n"


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
