"""Making a GGUF file from a Hugging Face folder: what is needed, what is started, what is recorded.

The converter and transformers run in processes of their own (`pytest_quantgate.pipeline.conversion`).
"""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import importlib.util
import json
import os
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

import pytest_quantgate
from pytest_quantgate.artifact import hardware
from pytest_quantgate.artifact.catalog import did_you_mean
from pytest_quantgate.artifact.partial import require_free
from pytest_quantgate.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_quantgate.artifact.conversion.agreement import LogitAgreement, TokenAgreement
    from pytest_quantgate.artifact.conversion.hf_folder import HfFolder

PROVENANCE_SCHEMA = 1
"""Version of the layout of ``<target>.json`` of a conversion."""

OUTTYPES = ("f32", "f16", "bf16", "q8_0", "auto")
"""Types the converter writes; ``auto`` is the 16-bit type that the weights have."""

VERIFICATIONS = ("logits", "tokens")
"""What is compared with the source: tokens and logits, or tokens only."""

_NEEDED = {
    "convert_hf_to_gguf": "convert-hf-to-gguf",
    "gguf": "gguf",
    "torch": "torch",
    "transformers": "transformers",
}
# Norms and biases stay in F32, which is next to nothing.
_WEIGHT_BYTES = {"f32": 4, "f16": 2, "bf16": 2, "q8_0": 34 / 32, "auto": 2}
_KEPT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH")
_GIBIBYTE = 1 << 30
# Beside its weights the reference needs room for Python, torch and one window of activations.
_OVERHEAD_BYTES = 1 << 29


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionReport:
    """What was made of which folder, and what was compared: sizes in bytes, digests in hexadecimal.

    ``source_sha256`` is the digest of the lines that `sha256sum` prints for the files that were read, by
    name. ``type_name`` is the type of the result. ``logits`` is None where only tokens were compared.
    """

    source: str
    target: str
    outtype: str
    type_name: str
    architecture: str
    parameters: int
    tensors: int
    target_bytes: int
    source_sha256: str
    target_sha256: str
    tokens: TokenAgreement
    logits: LogitAgreement | None
    notes: tuple[str, ...]
    versions: Mapping[str, str]
    seconds: float


def check_choices(*, outtype: str, verify: str) -> None:
    """Refuse a type the converter does not write, and an unknown way to verify.

    Raises:
        ConversionError: with the names that are known.
    """
    for what, name, known in (
        ("type the converter writes", outtype, OUTTYPES),
        ("way to verify a conversion", verify, VERIFICATIONS),
    ):
        if name not in known:
            message = (
                f"{name!r} is no {what}{did_you_mean(name, known)}; known are {', '.join(known)}"
            )
            raise ConversionError(message)


def check_extra() -> None:
    """Refuse to begin without the packages of the extra.

    Raises:
        ConversionError: with the names of those that are missing and how to install them.
    """
    missing = [name for module, name in _NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        message = (
            f"converting needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not "
            "installed; install the extra: python -m pip install 'pytest-quantgate[convert]'"
        )
        raise ConversionError(message)


def check_target(folder: HfFolder, target: Path, *, overwrite: bool) -> None:
    """Refuse a target that cannot be written, or must not be.

    Raises:
        ConversionError: with what is in the way.
    """
    taken = {"a file of the source": (*folder.files, *folder.parts)}
    require_free(target, taken, overwrite=overwrite, error=ConversionError)


def check_memory(folder: HfFolder) -> None:
    """Refuse to compare logits where the source does not fit into memory in float32.

    Raises:
        ConversionError: with what it takes, what there is, and the way out.
    """
    needed = 4 * folder.parameters + _OVERHEAD_BYTES
    memory = psutil.virtual_memory()
    free = min(memory.available, hardware.memory_limit(memory.total)[0])
    if needed > free:
        message = (
            f"{folder.path}: comparing logits takes about {needed / _GIBIBYTE:.1f} GiB of memory, and "
            f"{free / _GIBIBYTE:.1f} GiB are free; convert on a larger machine, or compare tokens only "
            "(--verify tokens), which leaves the weights unchecked"
        )
        raise ConversionError(message)


def check_room(folder: HfFolder, target: Path, *, outtype: str) -> None:
    """Refuse to begin where the result will not fit onto the disk.

    Raises:
        ConversionError: with what it takes and what there is.
    """
    needed = int(folder.parameters * _WEIGHT_BYTES[outtype])
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        message = (
            f"{target}: takes about {needed:,} bytes, and {free:,} are free on its disk; make room, or "
            "write to another one"
        )
        raise ConversionError(message)


def environment(home: Path, *, threads: int) -> dict[str, str]:
    """Return the environment of a process that reads a folder: offline, and without what is not needed.

    Args:
        home: an empty folder, where libraries look for caches, settings and credentials.
        threads: compute threads.
    """
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    kept |= {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
    package = str(Path(pytest_quantgate.__file__).parents[1])
    paths = [path for path in kept.get("PYTHONPATH", "").split(os.pathsep) if path]
    return kept | {
        "PYTHONPATH": os.pathsep.join(dict.fromkeys([*paths, package])),
        # A torch.py in the folder that somebody happens to work in is none of the converter's.
        "PYTHONSAFEPATH": "1",
        "PYTHONUTF8": "1",
        "HOME": str(home),
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": str(threads),
    }


def converter_command(folder: Path, partial: Path, *, outtype: str, notes: Path) -> list[str]:
    """Return the command that converts a staged folder."""
    module = "pytest_quantgate.artifact.conversion.converter"
    command = [sys.executable, "-m", module, str(folder), "--outtype", outtype]
    return [*command, "--outfile", str(partial.absolute()), "--notes", str(notes)]


def reference_command(folder: Path, answer: Path, logits: Path | None) -> list[str]:
    """Return the command that samples a staged folder, with logits if there is a file for them."""
    module = "pytest_quantgate.artifact.conversion.reference_sample"
    command = [sys.executable, "-m", module, str(folder), str(answer)]
    return command if logits is None else [*command, str(logits)]


def converter_version() -> str:
    """Return name and version of the converter package."""
    return f"convert-hf-to-gguf {importlib.metadata.version('convert-hf-to-gguf')}"


def provenance(report: ConversionReport) -> str:
    """Return where a converted file came from and what was compared, as JSON."""
    tokens, logits = report.tokens, report.logits
    source, target = Path(report.source), Path(report.target)
    document = {
        "schema": PROVENANCE_SCHEMA,
        "created": dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
        "converter": converter_version(),
        "command": shlex.join(
            ["quantgate", "convert", source.name, "-o", target.name, "--outtype", report.outtype]
        ),
        "source": {
            "name": source.name,
            "architecture": report.architecture,
            "parameters": report.parameters,
            "sha256": report.source_sha256,
        },
        "output": {
            "name": target.name,
            "type": report.type_name,
            "bytes": report.target_bytes,
            "sha256": report.target_sha256,
            "tensors": report.tensors,
        },
        "verified": {
            "texts": tokens.texts,
            "special_texts": tokens.special_texts,
            "texts_outside_the_vocabulary": tokens.outside,
            "logits": None
            if logits is None
            else {
                "positions": logits.positions,
                "same_top": logits.same_top,
                "mean_kld": logits.mean_kld,
                "max_kld": logits.max_kld,
                "relative_error": logits.relative_error,
            },
            "with": dict(report.versions),
        },
        "notes": list(report.notes),
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
