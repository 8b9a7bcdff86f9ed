"""A verified model in this process, for the tests that a project writes itself."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_quantgate.artifact import gguf, hardware, integrity
from pytest_quantgate.artifact.integrity.opening import OpenModel
from pytest_quantgate.errors import ArtifactError, IntegrityError, SecurityError

if TYPE_CHECKING:
    from collections.abc import Iterable

    StrPath = str | os.PathLike[str]

SEED = 1
"""Sampling starts here: a test that samples should sample the same the next time."""


class QuantizedModel(os.PathLike[str]):
    """A loaded GGUF: callable like `llama_cpp.Llama`, and the path of its file.

    Everything `llama_cpp.Llama` offers is an attribute of this object, too; `llama` is the object
    itself. The file is verified against its checksum before it is loaded, and the bytes that are
    loaded are those that were verified: both are read through one open file.
    """

    def __init__(self, path: Path, *, context: int = 512, threads: int | None = None) -> None:
        """Verify and load a model file.

        Args:
            path: the GGUF file.
            context: context length in tokens.
            threads: compute threads; the processors this process may use by default.

        Raises:
            IntegrityError: the checksum does not match, or there is none.
            SecurityError: the file was written while it was loaded, or is suspicious.
            ArtifactError: the file is no model the engine can load.
        """
        with OpenModel(path) as opened:
            verification = integrity.verify(path, files=opened.files)
            integrity.require(verification, required=True)
            self._take(opened, path, context=context, threads=threads, mapped=True)

    def _take(
        self, opened: OpenModel, path: Path, *, context: int, threads: int | None, mapped: bool
    ) -> None:
        """Load verified files."""
        gguf.check_model(path, files=opened.files)
        self.path = path
        self.context = context
        self.threads = threads or hardware.usable_cores()
        with opened.loadable() as name:
            llama = _load(name, path, context=context, threads=self.threads, mapped=mapped)
        try:
            opened.require_unchanged()
        except BaseException:
            llama.close()
            raise
        self.llama = llama

    def __call__(self, prompt: str, **arguments: Any) -> Any:  # noqa: ANN401 - llama_cpp's own
        """Complete a prompt; arguments and answer are those of `llama_cpp.Llama`."""
        return self.llama(prompt, **arguments)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - llama_cpp's own
        """Offer what `llama_cpp.Llama` offers."""
        if name == "llama":  # not loaded, or closed
            raise AttributeError(name)
        return getattr(self.llama, name)

    def __fspath__(self) -> str:
        """Return the path of the model's file."""
        return str(self.path)

    def __str__(self) -> str:
        """Return the path of the model's file."""
        return str(self.path)

    def __repr__(self) -> str:
        """Name the file."""
        return f"QuantizedModel({str(self.path)!r})"

    def close(self) -> None:
        """Free the model; it cannot be called afterwards."""
        llama = self.__dict__.pop("llama", None)
        if llama is not None:
            llama.close()


def safe_load_quantized(
    path: StrPath,
    *,
    allowed_dirs: StrPath | Iterable[StrPath],
    sha256: str | None = None,
    context: int = 512,
    threads: int | None = None,
    mapped: bool = False,
) -> QuantizedModel:
    """Load a model that is verified and lies where models may lie; nothing else is loaded.

    The file is opened once, and everything that follows is about that open file: where it really
    lies, its digest, its header, and what the engine reads. Exchanging the file on the way changes
    nothing; writing into it is noticed, and the model is not returned.

    Args:
        path: the GGUF file, or any part of a split model.
        allowed_dirs: folders. The file must be below one of them, by its name and, wherever links
            lead, in truth.
        sha256: the digest it must have, from a source you trust (of a split model its
            `model_digest`); by default that of the checksum that lies beside it.
        context: context length in tokens.
        threads: compute threads; the processors this process may use by default.
        mapped: let the engine use the file in place instead of copying it into memory. That saves
            memory where several processes load the model, but what is written into the file later
            changes the loaded model.

    Raises:
        SecurityError: the file lies elsewhere, its checksum is missing, malformed or another, it is
            being written, or its chat template is suspicious.
        ArtifactError: there is no such file, or it is no model the engine can load.
    """
    named = Path(path)
    folders = _folders(allowed_dirs)
    place = named.parent.resolve() / named.name
    _require_inside(place, folders, named)
    with OpenModel(place) as opened:
        for real in opened.places:
            _require_inside(real, folders, named)
        try:
            verification = integrity.verify(place, literal=sha256, files=opened.files)
            integrity.require(verification, required=True)
        except IntegrityError as error:
            message = f"Model integrity check failed: {error}"
            raise SecurityError(message) from error
        model = QuantizedModel.__new__(QuantizedModel)
        model._take(opened, place, context=context, threads=threads, mapped=mapped)  # noqa: SLF001 - the other way to make one
        return model


def _folders(allowed: StrPath | Iterable[StrPath]) -> tuple[Path, ...]:
    several = [allowed] if isinstance(allowed, (str, os.PathLike)) else allowed
    return tuple(Path(folder).resolve() for folder in several)


def _require_inside(place: Path, folders: tuple[Path, ...], named: Path) -> None:
    if not any(place.is_relative_to(folder) for folder in folders):
        where = ", ".join(map(str, folders)) or "no folder at all"
        message = f"Model outside allowed directory: {named} is {place}; allowed is {where}"
        raise SecurityError(message)


def _load(name: Path, path: Path, *, context: int, threads: int, mapped: bool) -> Any:  # noqa: ANN401 - llama_cpp.Llama
    """Load the file that ``name`` leads to; ``path`` is what people call it."""
    # Takes a second, and loads native code.
    import llama_cpp  # noqa: PLC0415 - see above

    from pytest_quantgate.probe.llama import native_log  # noqa: PLC0415 - see above

    log = native_log()
    # This process is not a probe: its standard error belongs to others.
    log.echo = False
    log.forget()
    # verbose=False would redirect the file descriptors of the whole process while it works, which
    # fights pytest's capture; the log above keeps the engine's talk out of the way instead.
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            llama = llama_cpp.Llama(
                model_path=str(name),
                use_mmap=mapped,
                n_ctx=context,
                n_threads=threads,
                n_threads_batch=threads,
                seed=SEED,
                verbose=True,
            )
        except (ValueError, RuntimeError, AssertionError) as error:
            reason = log.reason().replace(str(name), str(path))
            message = f"the engine cannot load {path}: {reason}"
            raise ArtifactError(message) from error
    # The open file has this name no longer.
    llama.model_path = str(path)
    return llama
