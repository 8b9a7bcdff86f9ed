"""Makes a quantized model file: whole, verified and with its papers, or not at all.

Native code, which can abort the process: call `quantize` and `dry_run` only inside a probe.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.artifact import integrity, papers
from pytest_quantgate.artifact.gguf import GgufHeader, read_header
from pytest_quantgate.artifact.partial import partial_file, require_free
from pytest_quantgate.artifact.quantization import native_quantize, prediction, provenance
from pytest_quantgate.artifact.quantization.plan import (
    FallenTensor,
    QuantizationPlan,
    check_importance,
    planned,
)
from pytest_quantgate.artifact.quantization.recipe import from_plain
from pytest_quantgate.errors import ArtifactError, QuantizationError
from pytest_quantgate.records import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_quantgate.records import Progress

    ProgressCallback = Callable[[Progress], None]

_TIGHT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeShare:
    """How many tensors of a file have a type, and how many bytes they take."""

    type: str
    tensors: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeReport:
    """What was made: sizes in bytes, digests in hexadecimal.

    ``fallbacks`` are the ``fallback_tensors`` that got another type than the recipe has for them.
    ``unweighted_tensors`` were quantized without importance though there is an importance matrix.
    ``peak_rss_bytes`` is the largest resident set of the process, with what it had mapped of the
    source; ``seconds`` is all of it, digests included.
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
    fallbacks: tuple[FallenTensor, ...]
    unweighted_tensors: int
    peak_rss_bytes: int
    seconds: float
    engine: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """What a recipe would make of a model, without making it.

    ``file_bytes`` is the size of the file, ``tensor_bytes`` that of its weights without padding,
    ``types`` what they are made of, largest share first. With ``needs_imatrix`` it could only be made
    with an importance matrix, and the recipe has none.
    """

    type_name: str
    source: str
    file_bytes: int
    tensor_bytes: int
    bits_per_weight: float
    tensors: int
    types: tuple[TypeShare, ...]
    fallbacks: tuple[FallenTensor, ...]
    needs_imatrix: bool


def quantize(
    source: Path,
    target: Path,
    *,
    recipe: Recipe,
    threads: int,
    allow_requantize: bool = False,
    overwrite: bool = False,
    embed_provenance: bool = False,
    on_progress: ProgressCallback | None = None,
) -> QuantizeReport:
    """Quantize a GGUF model and write it, its sidecar ``.sha256`` and its provenance ``.json``.

    The model appears under its name only when it is whole: it is written under a temporary name in
    the same folder, its header is read back, and then it is renamed. ``source`` may be any part of
    a split model; the result is one file. Turning a quantized model into floats is always allowed,
    into another quantized type only with ``allow_requantize``, since it loses twice. Unless
    ``embed_provenance`` writes the origin into the metadata, the bytes are those that llama.cpp's
    `llama-quantize` of the same build writes.

    Raises:
        QuantizationError: for a recipe that cannot be carried out or has a part without effect, a
            source of the wrong kind, a target that exists (unless ``overwrite``) or is an ingredient,
            too little room, and when the engine refuses or the result is not whole.
        IntegrityError: when the source is not what its checksum says.
        ArtifactError: for an unknown type, and files that cannot be read or written.
    """
    began = time.perf_counter()
    plan = planned(source, recipe, threads=threads, allow_requantize=allow_requantize)
    recipe = plan.recipe
    check_importance(plan)
    _check_target(plan, target, overwrite=overwrite)
    stamps = _stamps(plan.parts)
    verification = integrity.verify(plan.parts[0], on_progress=on_progress)
    integrity.require(verification, required=False)
    origin = provenance.Origin(
        recipe=recipe,
        source=source,
        source_bytes=sum(part.stat().st_size for part in plan.parts),
        source_sha256=integrity.digest_of_parts(plan.parts, verification.digests),
        imatrix_sha256=integrity.sha256_file(Path(recipe.imatrix)) if recipe.imatrix else "",
        allow_requantize=allow_requantize,
        engine=native_quantize.engine(),
    )
    metadata: dict[str, str | int] = {}
    if plan.imatrix is not None:
        metadata |= provenance.imatrix_keys(recipe.imatrix, plan.imatrix)
    if embed_provenance:
        metadata |= provenance.embedded_keys(origin)
    _check_room(target, prediction.file_bytes(plan.headers, plan.types, metadata))
    with partial_file(target) as partial:
        run = native_quantize.run(
            plan.parts[0],
            partial,
            dataclasses.replace(plan.native, metadata=metadata),
            on_progress=on_progress,
        )
        made = _checked_result(partial, target, plan, run)
        if _stamps(plan.parts) != stamps:
            message = f"{source}: was changed while it was quantized; let nothing write to it"
            raise QuantizationError(message)
        report = QuantizeReport(
            type_name=recipe.type,
            source=str(source),
            target=str(target),
            source_bytes=origin.source_bytes,
            target_bytes=made.file_size,
            source_sha256=origin.source_sha256,
            target_sha256=integrity.sha256_file(partial, on_progress=on_progress),
            bits_per_weight=made.bits_per_weight,
            tensors=len(made.tensors),
            fallback_tensors=len(plan.fallbacks),
            fallbacks=plan.fallbacks,
            unweighted_tensors=len(run.unweighted),
            peak_rss_bytes=native_quantize.peak_rss_bytes(),
            seconds=time.perf_counter() - began,
            engine=origin.engine,
        )
        paper = provenance.document(origin, report, embedded=embed_provenance)
        papers.publish(partial, target, sha256=report.target_sha256, provenance=paper)
    return report


def dry_run(
    source: Path, *, recipe: Recipe, threads: int, allow_requantize: bool = False
) -> DryRun:
    """Return what `quantize` would make, from the headers alone: it takes milliseconds.

    A type that needs an importance matrix is answered without one, too.

    Raises:
        QuantizationError: as `quantize`, for the recipe and the source.
        ArtifactError: for an unknown type, and files that cannot be read.
    """
    plan = planned(source, recipe, threads=threads, allow_requantize=allow_requantize)
    keys = provenance.imatrix_keys(plan.recipe.imatrix, plan.imatrix) if plan.imatrix else {}
    sizes = {
        tensor.name: prediction.tensor_bytes(tensor, plan.types[tensor.name])
        for tensor in plan.tensors
    }
    by_type: dict[str, list[int]] = {}
    for name, size in sizes.items():
        by_type.setdefault(plan.types[name], []).append(size)
    shares = [
        TypeShare(type=name, tensors=len(found), bytes=sum(found))
        for name, found in by_type.items()
    ]
    return DryRun(
        type_name=plan.recipe.type,
        source=str(source),
        file_bytes=prediction.file_bytes(plan.headers, plan.types, keys),
        tensor_bytes=sum(sizes.values()),
        bits_per_weight=8 * sum(sizes.values()) / sum(each.elements for each in plan.tensors),
        tensors=len(plan.tensors),
        types=tuple(sorted(shares, key=lambda share: -share.bytes)),
        fallbacks=plan.fallbacks,
        needs_imatrix=bool(plan.needy),
    )


def probe_operation(arguments: dict[str, object], report: ProgressCallback) -> dict[str, object]:
    """Run `quantize`, or with ``dry_run`` `dry_run`, for a probe: arguments and answer as plain data.

    ``source``, ``threads``, ``recipe`` (or ``type_name``) and, unless it is a dry run, ``target`` are
    needed; ``allow_requantize``, ``overwrite`` and ``embed_provenance`` may be left out.

    Raises:
        ArtifactError: as these, and for arguments of the wrong kind.
    """
    known = {"source", "target", "recipe", "type_name", "threads", "dry_run"}
    flags = {"allow_requantize", "overwrite", "embed_provenance"}
    source, threads = arguments.get("source"), arguments.get("threads")
    dry, target = arguments.get("dry_run", False), arguments.get("target")
    chosen = {name: arguments.get(name, False) for name in flags}
    type_name = arguments.get("type_name")
    if not (
        isinstance(source, str)
        and isinstance(threads, int)
        and isinstance(dry, bool)
        and (dry or isinstance(target, str))
        and all(isinstance(flag, bool) for flag in chosen.values())
        and arguments.keys() <= known | flags
    ):
        message = f"quantize: cannot use the arguments {arguments!r}"
        raise ArtifactError(message)
    recipe = (
        Recipe(type=type_name)
        if isinstance(type_name, str)
        else from_plain(arguments.get("recipe"))
    )
    allow = bool(chosen["allow_requantize"])
    if dry:
        return dataclasses.asdict(
            dry_run(Path(source), recipe=recipe, threads=threads, allow_requantize=allow)
        )
    result = quantize(
        Path(source),
        Path(str(target)),
        recipe=recipe,
        threads=threads,
        allow_requantize=allow,
        overwrite=bool(chosen["overwrite"]),
        embed_provenance=bool(chosen["embed_provenance"]),
        on_progress=report,
    )
    return dataclasses.asdict(result)


def _check_target(plan: QuantizationPlan, target: Path, *, overwrite: bool) -> None:
    taken = {"the source itself": plan.parts}
    if plan.imatrix is not None:
        taken["the importance matrix"] = (Path(plan.recipe.imatrix),)
    require_free(target, taken, overwrite=overwrite, error=QuantizationError)


def _check_room(target: Path, need: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if free < need:
        message = (
            f"{target}: needs {need:,} bytes, {target.parent} has {free:,} free; free some space or "
            "write to another disk"
        )
        raise QuantizationError(message)


def _stamps(parts: Sequence[Path]) -> list[tuple[int, ...]]:
    """Return what changes when somebody writes to a file."""
    found = (part.stat() for part in parts)
    return [(each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns) for each in found]


def _checked_result(
    partial: Path, target: Path, plan: QuantizationPlan, run: native_quantize.NativeRun
) -> GgufHeader:
    """Return the header of what the engine wrote, which on a full disk it calls a success."""
    reason = run.failure
    if reason is None:
        try:
            header = read_header(partial)
        except ArtifactError as error:
            reason = str(error).removeprefix(f"{partial}: ")
        else:
            types = {tensor.name: tensor.type_name for tensor in header.tensors}
            if header.file_type == plan.recipe.type and types == plan.types:
                return header
            reason = (
                f"the result has {len(types)} tensors of {len(plan.types)}, or other types than were "
                f"planned, and is of type {header.file_type}"
            )
    free = shutil.disk_usage(partial.parent).free
    full = f"; the disk is full ({free:,} bytes free)" if free < _TIGHT_BYTES else ""
    message = f"{target}: could not be made as {plan.recipe.type}: {reason}{full}"
    raise QuantizationError(message)
