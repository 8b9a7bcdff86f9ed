"""From a model named in a specification to a checked file on this machine.

A model is found where its source says, its header is checked before any native code sees it, and a
variant that only exists as a recipe ("the baseline, as Q4_K_M") is made once and kept in the store
under a key of its ingredients.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_quantgate.artifact import corpus, gguf, integrity, source
from pytest_quantgate.errors import ArtifactError, IntegrityError
from pytest_quantgate.pipeline import importance, quantization
from pytest_quantgate.probe import protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from pytest_quantgate.artifact.gguf import GgufHeader
    from pytest_quantgate.artifact.integrity import Verification
    from pytest_quantgate.baseline import Store
    from pytest_quantgate.plan import ImatrixSource, Making, ModelSource
    from pytest_quantgate.records import Progress

    ProgressCallback = Callable[[Progress], None]

ENGINE = "llama-cpp-python"


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedModel:
    """A model file that exists, with its digest and header; ``made`` if the store made it."""

    name: str
    path: Path
    digest: str
    header: GgufHeader
    made: bool


class Preparer:
    """Finds and makes model files for one specification; remembers what it found."""

    def __init__(
        self,
        *,
        store: Store,
        base: Path,
        roots: Sequence[Path],
        threads: int,
        timeout: float,
        on_progress: ProgressCallback | None = None,
    ) -> None:
        """Resolve names against ``base``; files must lie inside one of ``roots``."""
        self._store = store
        self._base = base
        self._roots = tuple(roots)
        self._threads = threads
        self._timeout = timeout
        self._on_progress = on_progress
        self._verified: dict[tuple[object, ...], Verification] = {}
        self._headers: dict[tuple[object, ...], GgufHeader] = {}

    def prepare(self, model: ModelSource) -> PreparedModel:
        """Return the model's file, made first if the store does not have it yet.

        Raises:
            ArtifactError: the file is missing, malformed, or cannot be made.
            ProbeError: the probe that makes it died.
        """
        made = model.source is None
        if made and model.parent is not None:
            origin = self.prepare(model.parent).path
        else:
            origin = self.origin(model)
        if model.making is not None:
            origin = self._made(origin, model.making)
            made = True
        return self._described(model, origin, made=made)

    def at_hand(self, model: ModelSource) -> PreparedModel | None:
        """Return the file of a model with a source, if it is there without being made; else None.

        Raises:
            ArtifactError: something is there that is no model, or not the file the store made.
        """
        try:
            origin = self.origin(model)
        except ArtifactError:
            return None
        if model.making is None:
            return self._described(model, origin, made=False)
        if model.source is None:
            return None
        imatrix = self._imatrix_at_hand(origin, model.making)
        if model.making.imatrix is not None and imatrix is None:
            return None
        target = self._target(origin, model.making, imatrix)
        if not target.exists():
            return None
        self._trusted(target)
        return self._described(model, target, made=True)

    def origin(self, model: ModelSource) -> Path:
        """Return the file a model is, or the one it is made from.

        Raises:
            ArtifactError: there is none, or it lies where it may not.
        """
        if model.source is not None:
            return source.locate(model.source, base=self._base, roots=self._roots)
        if model.parent is not None:
            return self.origin(model.parent)
        message = f"{model.name} names no file and nothing to make it from"
        raise ArtifactError(message)

    def _described(self, model: ModelSource, path: Path, *, made: bool) -> PreparedModel:
        header = self._header(path)
        return PreparedModel(
            name=model.name, path=path, digest=self.digest(path), header=header, made=made
        )

    def _header(self, path: Path) -> GgufHeader:
        """Return a model's header, read and checked once while the model stays as it is."""
        stamp = tuple(_stamp(part) for part in integrity.model_parts(path))
        if stamp not in self._headers:
            self._headers[stamp] = gguf.check_model(path)
        return self._headers[stamp]

    def verification(
        self, path: Path, *, literal: str | None = None, sums: Path | None = None
    ) -> Verification:
        """Return how a file stands against its checksum, hashed once while it stays as it is."""
        stamp = (literal, sums, _stamp(path))
        if stamp not in self._verified:
            self._verified[stamp] = integrity.verify(
                path, literal=literal, sums=sums, on_progress=self._on_progress
            )
        return self._verified[stamp]

    def digest(self, path: Path) -> str:
        """Return the digest of a model's bytes, computed once while the file stays as it is."""
        verification = self.verification(path)
        return integrity.digest_of_parts(verification.parts, verification.digests)

    def _made(self, origin: Path, making: Making) -> Path:
        imatrix = self._imatrix(origin, making)
        target = self._target(origin, making, imatrix)
        if not target.exists():
            with self._store.lock(f"model-{target.parent.name}", timeout=self._timeout):
                if not target.exists():
                    self._quantize(origin, target, making, imatrix)
        self._trusted(target)
        return target

    def _target(self, origin: Path, making: Making, imatrix: Path | None) -> Path:
        """Return where the store has, or would have, a file made from another."""
        self._header(origin)
        ingredients: dict[str, object] = {
            "source": self.digest(origin),
            "type": making.recipe.type,
            "engine": engine_build(),
        }
        # What is not said is left out: a plain type keeps its place in stores that exist.
        said = protocol.to_plain(replace(making.recipe, strategy="", imatrix=""))
        ingredients |= {key: value for key, value in said.items() if value and key != "type"}
        if imatrix is not None:
            ingredients["imatrix"] = integrity.sha256_file(imatrix)
        return self._place("models", ingredients) / f"{_stem(origin)}-{making.recipe.type}.gguf"

    def _place(self, kind: str, ingredients: Mapping[str, object]) -> Path:
        digest = hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()
        return self._store.root / kind / digest[:32]

    def _imatrix(self, origin: Path, making: Making) -> Path | None:
        """Return the importance matrix a recipe wants, computed first if it is to come from a text."""
        wanted = making.imatrix
        if wanted is None:
            return None
        if wanted.file is not None:
            return source.locate(wanted.file, base=self._base, roots=self._roots)
        target, text = self._imatrix_target(origin, wanted)
        if not _has_sidecar(target):
            with self._store.lock(f"imatrix-{target.parent.name}", timeout=self._timeout):
                if not _has_sidecar(target):
                    self._compute_imatrix(origin, target, text, wanted)
        self._trusted(target)
        return target

    def _imatrix_at_hand(self, origin: Path, making: Making) -> Path | None:
        wanted = making.imatrix
        if wanted is None or wanted.file is not None:
            return self._imatrix(origin, making)
        target, _ = self._imatrix_target(origin, wanted)
        if not _has_sidecar(target):
            return None
        self._trusted(target)
        return target

    def _imatrix_target(self, origin: Path, wanted: ImatrixSource) -> tuple[Path, Path]:
        """Return where the store has, or would have, an importance matrix, and its text."""
        text, digest = self._text(wanted)
        ingredients = {
            "model": self.digest(origin),
            "text": digest,
            "chunks": wanted.chunks,
            "context": wanted.context,
            "engine": engine_build(),
        }
        return self._place("imatrix", ingredients) / f"{_stem(origin)}.imatrix.gguf", text

    def _text(self, wanted: ImatrixSource) -> tuple[Path, str]:
        return corpus.materialize_corpus(
            wanted.text or "",
            base=self._base,
            roots=self._roots,
            folder=self._store.root / "corpora",
        )

    def calibration_text(self, model: ModelSource) -> tuple[Path, str] | None:
        """Return path and digest of the text that a model's importance matrix is computed from.

        Raises:
            ArtifactError: there is no such text, or it cannot be read.
        """
        wanted = None if model.making is None else model.making.imatrix
        return None if wanted is None or wanted.text is None else self._text(wanted)

    def _compute_imatrix(
        self, origin: Path, target: Path, text: Path, wanted: ImatrixSource
    ) -> None:
        _make_folder(target.parent)
        importance.compute_imatrix(
            origin,
            text,
            target,
            context=wanted.context,
            chunks=wanted.chunks,
            threads=self._threads,
            overwrite=True,
            timeout=self._timeout,
            on_progress=self._on_progress,
        )
        integrity.write_sidecar(target)

    def _trusted(self, target: Path) -> None:
        verification = self.verification(target)
        if verification.outcome != "match":
            message = (
                f"{target} is not the file the store made (sha256 {verification.actual[:16]}...,"
                f" its sidecar says {(verification.expected or 'nothing')[:16]}...);"
                f" delete {target.parent} to make it again"
            )
            raise IntegrityError(message)

    def _quantize(self, origin: Path, target: Path, making: Making, imatrix: Path | None) -> None:
        _make_folder(target.parent)
        recipe = making.recipe if imatrix is None else replace(making.recipe, imatrix=str(imatrix))
        quantization.quantize(
            origin,
            target,
            recipe=recipe,
            threads=self._threads,
            allow_requantize=making.allow_requantize,
            timeout=self._timeout,
            on_progress=self._on_progress,
        )


def _stamp(path: Path) -> tuple[object, ...]:
    """Return what changes when a file is replaced or written to."""
    status = path.stat()
    return (path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _has_sidecar(path: Path) -> bool:
    """Tell whether a computed file is complete: its sidecar is written last."""
    return path.exists() and path.with_name(f"{path.name}.sha256").exists()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"cannot make {folder}: {error.strerror}"
        raise ArtifactError(message) from error


def engine_name() -> str:
    """Return name and version of the engine, without loading it."""
    return f"{ENGINE} {importlib.metadata.version('llama_cpp_python')}"


@functools.cache
def engine_build() -> str:
    """Name the engine's build without loading it: version and digest of what was installed.

    Two builds of one version differ in their kernels, and so in low bits; the installer's RECORD
    lists the digest of every library file.
    """
    distribution = importlib.metadata.distribution("llama_cpp_python")
    record = distribution.read_text("RECORD") or ""
    libraries = sorted(line for line in record.splitlines() if "/lib/" in line)
    digest = hashlib.sha256("\n".join(libraries).encode()).hexdigest()[:12]
    return f"{engine_name()} {digest}"


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gguf")
