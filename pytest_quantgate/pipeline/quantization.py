"""Quantizing in a probe, which the engine may take down with it."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.artifact import hardware
from pytest_quantgate.artifact.catalog import quantization_type
from pytest_quantgate.artifact.partial import remove_leftovers
from pytest_quantgate.artifact.quantization.quantize import DryRun, QuantizeReport
from pytest_quantgate.artifact.quantization.recipe import canonical, recipe_for
from pytest_quantgate.client import Probe
from pytest_quantgate.errors import ArtifactError, QuantgateError, QuantizationError
from pytest_quantgate.probe import protocol
from pytest_quantgate.supervision import Deadline

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_quantgate.records import Progress, Recipe

_log = logging.getLogger(__name__)

_SHOWN_DIGITS = 16
_PART = re.compile(r"-\d{5}-of-\d{5}$")


def quantize(
    source: Path,
    target: Path,
    *,
    recipe: Recipe,
    threads: int | None = None,
    timeout: float = 3600.0,
    allow_requantize: bool = False,
    overwrite: bool = False,
    embed_provenance: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> QuantizeReport:
    """Quantize a model in a probe of its own, as `artifact.quantization.quantize.quantize` says.

    Args:
        source: the model, or any part of a split one.
        target: the file to write; its sidecar and its provenance lie beside it.
        recipe: what to make (`artifact.quantization.recipe.recipe_for`).
        threads: as many as there are processors by default; they do not change the bytes.
        timeout: seconds for all of it.
        allow_requantize: whether a quantized source may be made into another quantized type.
        overwrite: whether an existing target is replaced.
        embed_provenance: whether the origin is written into the file's metadata, too.
        on_progress: told tensor by tensor how far it is.

    Raises:
        ArtifactError: for a recipe, source or target that cannot be used, and a failed run.
        ProbeError: when the probe died or took too long; nothing is left of the file.
    """
    recipe = canonical(recipe)
    plain = {
        "source": os.fspath(source),
        "target": os.fspath(target),
        "recipe": protocol.to_plain(recipe),
        "threads": threads or hardware.usable_cores(),
        "allow_requantize": allow_requantize,
        "overwrite": overwrite,
        "embed_provenance": embed_provenance,
    }
    deadline = Deadline(timeout)
    try:
        with Probe.start() as probe:
            return probe.ask("quantize", plain, QuantizeReport, deadline, on_progress)
    except BaseException:
        # A probe that was killed could not clean up, and what it left may be many gigabytes.
        with contextlib.suppress(OSError):
            remove_leftovers(Path(target).parent)
        raise


def plan(
    source: Path,
    recipes: Sequence[Recipe],
    *,
    threads: int | None = None,
    timeout: float = 600.0,
    allow_requantize: bool = False,
) -> tuple[DryRun, ...]:
    """Return what each recipe would make of a model, in one probe and in milliseconds each.

    Raises:
        ArtifactError: for a recipe or source that cannot be used.
        ProbeError: when the probe died or took too long.
    """
    checked = [canonical(recipe) for recipe in recipes]
    deadline = Deadline(timeout)
    with Probe.start() as probe:
        return tuple(
            probe.ask(
                "quantize",
                {
                    "source": os.fspath(source),
                    "recipe": protocol.to_plain(recipe),
                    "threads": threads or hardware.usable_cores(),
                    "allow_requantize": allow_requantize,
                    "dry_run": True,
                },
                DryRun,
                deadline,
            )
            for recipe in checked
        )


class SecureQuantizer:
    """Quantizes the models of one folder, with checksums before and after.

    The engine is llama-cpp-python's, in a probe: no program of llama.cpp's is needed.
    """

    def __init__(
        self,
        models_dir: str | os.PathLike[str],
        llama_cpp_dir: str | os.PathLike[str] | None = None,
        *,
        threads: int | None = None,
        timeout: float = 3600.0,
        overwrite: bool = False,
    ) -> None:
        """Work in ``models_dir``.

        Args:
            models_dir: the folder of the models, those that are read and those that are made.
            llama_cpp_dir: accepted where scripts name it, and not used.
            threads: as many as there are processors by default.
            timeout: seconds for one model.
            overwrite: whether existing files are replaced.

        Raises:
            FileNotFoundError: when one of the folders does not exist.
        """
        self.models_dir = Path(models_dir)
        self.llama_cpp_dir = None if llama_cpp_dir is None else Path(llama_cpp_dir)
        for what, folder in (("models", self.models_dir), ("llama.cpp", self.llama_cpp_dir)):
            if folder is not None and not folder.is_dir():
                message = f"the {what} folder does not exist: {folder}"
                raise FileNotFoundError(message)
        self._threads = threads
        self._timeout = timeout
        self._overwrite = overwrite

    def quantize(self, input_model: str, output_name: str, quantization: str = "Q4_K_M") -> str:
        """Make ``output_name`` from ``input_model``, both in the folder, and return its path.

        A model with a checksum beside it must match it. The result has its own in
        ``<output_name>.sha256``, and its origin in ``<output_name>.json``.

        Raises:
            FileNotFoundError: when there is no such model.
            ValueError: for a type the engine cannot make, with the nearest names.
            QuantizationError: when it fails, a name leads out of the folder, or the output exists.
        """
        source, target = self._inside(input_model), self._inside(output_name)
        if not source.exists():
            message = f"Model not found: {source}"
            raise FileNotFoundError(message)
        try:
            kind = quantization_type(quantization)
        except ArtifactError as error:
            message = f"Invalid quantization: {error}"
            raise ValueError(message) from error
        _log.info("quantize.starting input=%s quantization=%s", input_model, kind.name)
        try:
            report = quantize(
                source,
                target,
                recipe=recipe_for(kind.name),
                threads=self._threads,
                timeout=self._timeout,
                overwrite=self._overwrite,
            )
        except QuantgateError as error:
            _log.error("quantize.failed input=%s: %s", input_model, error)
            message = f"Quantization failed: {error}"
            raise QuantizationError(message) from error
        _log.info(
            "quantize.complete output=%s input_checksum=%s output_checksum=%s size_mb=%.1f",
            output_name,
            report.source_sha256[:_SHOWN_DIGITS],
            report.target_sha256[:_SHOWN_DIGITS],
            report.target_bytes / 2**20,
        )
        return str(target)

    def _inside(self, name: str) -> Path:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            message = (
                f"Quantization failed: {name!r} leads out of {self.models_dir}; name a file in it"
            )
            raise QuantizationError(message)
        return self.models_dir / name


def default_target(source: Path, recipe: Recipe, folder: Path | None = None) -> Path:
    """Return where a quantized file lies when nobody says: beside its source, named by its recipe.

    Of ``model-F16.gguf`` and ``Q4_K_M`` it is ``model-Q4_K_M.gguf``; a type at the end of the stem gives
    way, and so do the numbers of a split.
    """
    stem = _without_ending(source.name)
    ending = "-".join(filter(None, (recipe.type, recipe.strategy)))
    return (folder or source.parent) / f"{stem}-{ending}.gguf"


def _without_ending(name: str) -> str:
    stem = _PART.sub("", name.removesuffix(".gguf"))
    head, _, ending = stem.rpartition("-") if "-" in stem else stem.rpartition(".")
    try:
        quantization_type(ending)
    except ArtifactError:
        return stem
    return head or stem
