"""Hugging Face folders become GGUF files, which get their names when they are the same model.

The converter, transformers and the engine each run in a process of their own.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_quantgate.artifact import hardware, integrity, papers
from pytest_quantgate.artifact.catalog import quantization_type
from pytest_quantgate.artifact.conversion import agreement, convert, hf_folder
from pytest_quantgate.artifact.conversion import reference_sample as references
from pytest_quantgate.artifact.gguf import check_architecture, read_header
from pytest_quantgate.artifact.partial import partial_file
from pytest_quantgate.client import Probe
from pytest_quantgate.errors import (
    ArtifactError,
    ConversionError,
    MeasurementError,
    ProbeCrashed,
    ProbeRefused,
    QuantgateError,
)
from pytest_quantgate.pipeline import program
from pytest_quantgate.pipeline.quantization import SecureQuantizer
from pytest_quantgate.records import Progress
from pytest_quantgate.supervision import Deadline

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from pytest_quantgate.artifact.conversion.agreement import LogitAgreement, TokenAgreement
    from pytest_quantgate.artifact.conversion.reference_sample import Reference
    from pytest_quantgate.artifact.gguf import GgufHeader

    ProgressCallback = Callable[[Progress], None]

_CRASHES = (
    "the engine crashes on characters outside of the vocabulary, since the model has no tokens for "
    "single bytes; keep them away from it"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Workplace:
    """A private folder with a copy of the source to read, and how processes that read it are run."""

    folder: Path
    staged: Path
    threads: int
    deadline: Deadline
    on_progress: ProgressCallback | None

    def run(self, command: Sequence[str], *, name: str, step: str) -> None:
        """Run a command that reads the copy."""

        def show(percent: int) -> None:
            self.report(step, percent)

        self.report(step, 0)
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        program.run(
            command,
            name=name,
            environment=convert.environment(home, threads=self.threads),
            folder=home,
            deadline=self.deadline,
            on_percent=show,
        )

    def report(self, step: str, percent: int) -> None:
        """Tell how far it is."""
        if self.on_progress is not None:
            self.on_progress(Progress(step=step, done=percent, total=100, unit="%"))


def convert_folder(
    source: Path,
    target: Path,
    *,
    outtype: str = "f16",
    verify: str = "logits",
    threads: int | None = None,
    timeout: float = 3600.0,
    overwrite: bool = False,
    on_progress: ProgressCallback | None = None,
) -> convert.ConversionReport:
    """Convert a Hugging Face folder to a GGUF file and prove that it is the same model.

    The result appears under its name, with a checksum and the record of its origin beside it, when the
    engine has opened it, read sample texts with it as the source's tokenizer does, and predicted what
    the source predicts in transformers, as exactly as the type of the file allows
    (`artifact.conversion.agreement.BOUNDS`). Code in the folder is not run.

    Args:
        source: the folder, as transformers saves it.
        target: the file to write.
        outtype: one of `artifact.conversion.convert.OUTTYPES`.
        verify: one of `artifact.conversion.convert.VERIFICATIONS`; ``tokens`` leaves the predictions
            out, for models that do not fit into memory in float32.
        threads: as many as there are processors by default.
        timeout: seconds for all of it.
        overwrite: whether an existing target is replaced.
        on_progress: told step by step how far it is.

    Raises:
        ConversionError: the folder lacks something, the extra is not installed, the converter failed, or
            its result is not the same model; nothing is left of it.
        ArtifactError: a file cannot be read or written.
        ProbeError: the machine stopped the verification: no time or no memory.
    """
    began = time.perf_counter()
    convert.check_choices(outtype=outtype, verify=verify)
    folder = hf_folder.read_folder(source)
    convert.check_extra()
    convert.check_target(folder, target, overwrite=overwrite)
    convert.check_room(folder, target, outtype=outtype)
    if verify == "logits":
        convert.check_memory(folder)
    stamp = folder.stamp
    with (
        tempfile.TemporaryDirectory(prefix="quantgate-") as private,
        partial_file(target) as partial,
    ):
        work = _Workplace(
            folder=Path(private),
            staged=hf_folder.stage(folder, Path(private)),
            threads=threads or hardware.usable_cores(),
            deadline=Deadline(timeout),
            on_progress=on_progress,
        )
        notes = _converted(work, folder, partial, outtype)
        try:
            header = _checked_header(partial)
            reference = _sampled(work, folder, logits=verify == "logits")
            tokens, logits = _compared(work, partial, reference, header)
        except (ConversionError, MeasurementError, ProbeRefused, ProbeCrashed) as error:
            reason = str(error).replace(str(partial), target.name)
            message = f"{source}: its conversion is not the same model and was deleted: {reason}"
            raise ConversionError(message) from error
        if folder.stamp != stamp:
            message = f"{source}: was changed while it was converted; let nothing write to it"
            raise ConversionError(message)
        report = convert.ConversionReport(
            source=str(source),
            target=str(target),
            outtype=outtype,
            type_name=str(header.file_type),
            architecture=folder.architecture,
            parameters=header.parameters,
            tensors=len(header.tensors),
            target_bytes=header.file_size,
            source_sha256=hf_folder.digest(folder, on_progress=on_progress),
            target_sha256=integrity.sha256_file(partial, on_progress=on_progress),
            tokens=tokens,
            logits=logits,
            notes=(*notes, *tokens.notes, *_outside(work, partial, reference)),
            versions=reference.versions,
            seconds=time.perf_counter() - began,
        )
        papers.publish(
            partial, target, sha256=report.target_sha256, provenance=convert.provenance(report)
        )
    return report


def _converted(
    work: _Workplace, folder: hf_folder.HfFolder, partial: Path, outtype: str
) -> list[str]:
    """Run the converter and return its notes."""
    notes = work.folder / "notes.json"
    command = convert.converter_command(work.staged, partial, outtype=outtype, notes=notes)
    try:
        work.run(command, name="the converter", step="convert")
    except ConversionError as error:
        text = str(error).replace(str(work.staged), str(folder.path))
        hint = ""
        if "is not supported" in text or "not recognized" in text:
            hint = f"\na newer version may know this model ({convert.converter_version()} is installed)"
        message = f"{folder.path}: {text}{hint}"
        raise ConversionError(message) from error
    found = [str(note) for note in json.loads(notes.read_text("utf-8"))]
    if folder.brings_code:
        found.append("the folder brings code of its own, which was left out")
    return found


def _checked_header(partial: Path) -> GgufHeader:
    header = read_header(partial)
    check_architecture(header)
    if header.file_type not in agreement.BOUNDS:
        message = f"it is of type {header.file_type}, which nobody asked for"
        raise ConversionError(message)
    return header


def _sampled(work: _Workplace, folder: hf_folder.HfFolder, *, logits: bool) -> Reference:
    """Have transformers sample the source."""
    answer = work.folder / "answer.json"
    command = convert.reference_command(
        work.staged, answer, work.folder / "logits.npy" if logits else None
    )
    try:
        work.run(command, name="transformers", step="sample source")
    except ConversionError as error:
        text = str(error).replace(str(work.staged), str(folder.path))
        message = f"the source cannot be sampled, so nothing proves that it is: {text}"
        raise ConversionError(message) from error
    return references.from_plain(json.loads(answer.read_text("utf-8")))


def _compared(
    work: _Workplace, partial: Path, reference: Reference, header: GgufHeader
) -> tuple[TokenAgreement, LogitAgreement | None]:
    answer = _engine_sample(
        work,
        partial,
        agreement.texts_of(reference),
        windows=reference.windows,
    )
    tokens = agreement.check_tokens(reference, answer["tokens"], kind=str(answer["kind"]))
    if not reference.windows:
        return tokens, None
    logits = agreement.LogitAgreement(
        positions=int(answer["positions"]),
        same_top=float(answer["same_top"]),
        mean_kld=float(answer["mean_kld"]),
        max_kld=float(answer["max_kld"]),
        relative_error=float(answer["relative_error"]),
    )
    agreement.check_logits(logits, type_name=str(header.file_type))
    return tokens, logits


def _outside(work: _Workplace, partial: Path, reference: Reference) -> list[str]:
    """Return what is to be said of texts the vocabulary has no tokens for; some kill the engine."""
    texts = [reading.text for reading in reference.readings if reading.outside]
    if not texts:
        return []
    try:
        _engine_sample(work, partial, texts)
    except ProbeCrashed:
        return [_CRASHES]
    return []


def _engine_sample(
    work: _Workplace,
    partial: Path,
    texts: Sequence[str],
    *,
    windows: Sequence[Sequence[int]] = (),
) -> dict[str, Any]:
    arguments = {
        "model": str(partial.absolute()),
        "texts": list(texts),
        "windows": [list(window) for window in windows],
        "logits": str(work.folder / "logits.npy"),
        "threads": work.threads,
    }
    with Probe.start() as probe:
        return probe.run(
            "model_sample", arguments, timeout=work.deadline, on_progress=work.on_progress
        )


class ModelConverter:
    """Converts Hugging Face folders to GGUF files, and those to smaller types.

    The converter is a Python package and the engine llama-cpp-python's: no checkout of llama.cpp is
    needed.
    """

    def __init__(
        self,
        llama_cpp_dir: str | os.PathLike[str] | None = None,
        *,
        outtype: str = "f16",
        verify: str = "logits",
        threads: int | None = None,
        timeout: float = 3600.0,
        overwrite: bool = False,
    ) -> None:
        """Set what all conversions have in common.

        Args:
            llama_cpp_dir: accepted where scripts name it, and not used.
            outtype: type of the converted file, one of `artifact.conversion.convert.OUTTYPES`.
            verify: what is compared with the source, ``logits`` or ``tokens``.
            threads: as many as there are processors by default.
            timeout: seconds for a conversion, and for a quantization.
            overwrite: whether existing files are replaced.

        Raises:
            FileNotFoundError: when ``llama_cpp_dir`` is given and does not exist.
        """
        self.llama_cpp_dir = None if llama_cpp_dir is None else Path(llama_cpp_dir)
        if self.llama_cpp_dir is not None and not self.llama_cpp_dir.is_dir():
            message = f"the llama.cpp folder does not exist: {self.llama_cpp_dir}"
            raise FileNotFoundError(message)
        self._outtype = outtype
        self._verify = verify
        self._threads = threads
        self._timeout = timeout
        self._overwrite = overwrite

    def convert_hf_to_gguf(
        self,
        hf_model_path: str | os.PathLike[str],
        output_path: str | os.PathLike[str],
        quantization: str | None = None,
    ) -> str:
        """Convert a folder and return the path of the file.

        With ``quantization`` the file that was converted stays, and the one that is returned is made
        from it: ``<stem>_<quantization>.gguf`` in the same folder.

        Raises:
            ValueError: for a quantization type the engine cannot make; nothing is converted.
            ConversionError: when it fails, or the result is not the same model.
            QuantizationError: when quantizing fails; the converted file stays.
        """
        output = Path(output_path)
        if quantization is not None:
            try:
                quantization_type(quantization)
            except ArtifactError as error:
                message = f"Invalid quantization: {error}"
                raise ValueError(message) from error
        try:
            convert_folder(
                Path(hf_model_path),
                output,
                outtype=self._outtype,
                verify=self._verify,
                threads=self._threads,
                timeout=self._timeout,
                overwrite=self._overwrite,
            )
        except QuantgateError as error:
            message = f"Conversion failed: {error}"
            raise ConversionError(message) from error
        if quantization is None:
            return str(output_path)
        quantizer = SecureQuantizer(
            output.parent,
            self.llama_cpp_dir,
            threads=self._threads,
            timeout=self._timeout,
            overwrite=self._overwrite,
        )
        return quantizer.quantize(output.name, f"{output.stem}_{quantization}.gguf", quantization)
