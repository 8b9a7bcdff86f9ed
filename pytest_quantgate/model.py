"""A verified model in this process, for the tests that a project writes itself."""

from __future__ import annotations

import contextlib
import io
import os
from typing import TYPE_CHECKING, Any

from pytest_quantgate.artifact import gguf, hardware, integrity
from pytest_quantgate.errors import ArtifactError

if TYPE_CHECKING:
    from pathlib import Path


SEED = 1
"""Sampling starts here: a test that samples should sample the same the next time."""


class QuantizedModel(os.PathLike[str]):
    """A loaded GGUF: callable like `llama_cpp.Llama`, and the path of its file.

    Everything `llama_cpp.Llama` offers is an attribute of this object, too; `llama` is the object
    itself. The file is verified against its checksum before it is loaded.
    """

    def __init__(self, path: Path, *, context: int = 512, threads: int | None = None) -> None:
        """Verify and load a model file.

        Args:
            path: the GGUF file.
            context: context length in tokens.
            threads: compute threads; the processors this process may use by default.

        Raises:
            IntegrityError: the checksum does not match, or there is none.
            ArtifactError: the file is no model the engine can load.
        """
        integrity.require(integrity.verify(path), required=True)
        gguf.check_architecture(gguf.read_header(path))
        self.path = path
        self.context = context
        self.threads = threads or hardware.usable_cores()
        self.llama = _load(path, context=context, threads=self.threads)

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


def _load(path: Path, *, context: int, threads: int) -> Any:  # noqa: ANN401 - llama_cpp.Llama
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
            return llama_cpp.Llama(
                model_path=str(path),
                n_ctx=context,
                n_threads=threads,
                n_threads_batch=threads,
                seed=SEED,
                verbose=True,
            )
        except (ValueError, RuntimeError, AssertionError) as error:
            message = f"the engine cannot load {path}: {log.reason()}"
            raise ArtifactError(message) from error
