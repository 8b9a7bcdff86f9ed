"""Where a quantized file came from: the record beside it, and the keys inside it."""

from __future__ import annotations

import datetime as dt
import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate import __version__
from pytest_quantgate.artifact.quantization.native_quantize import STRING_BYTES
from pytest_quantgate.artifact.quantization.recipe import STRATEGIES
from pytest_quantgate.errors import QuantizationError

if TYPE_CHECKING:
    from pytest_quantgate.artifact.imatrix import Imatrix
    from pytest_quantgate.artifact.quantization.quantize import QuantizeReport
    from pytest_quantgate.records import Recipe

SCHEMA = 2
"""Version of the layout of ``<target>.json``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a file is made from and how; digests are SHA-256 in hexadecimal."""

    recipe: Recipe
    source: Path
    source_bytes: int
    source_sha256: str
    imatrix_sha256: str
    allow_requantize: bool
    engine: str


def imatrix_keys(path: str, imatrix: Imatrix) -> dict[str, str | int]:
    """Return the keys that llama.cpp's `llama-quantize` writes where it is given this file.

    They are its name, first text, number of entries, and number of windows if any; texts are cut where
    the engine would cut them, but between two characters. A relative name is written as it is given, as
    the tool does; of an absolute one only the end, which is no other on another machine.
    """
    name = Path(path).name if Path(path).is_absolute() else path
    keys: dict[str, str | int] = {"quantize.imatrix.file": _cut(name)}
    if imatrix.datasets:
        keys["quantize.imatrix.dataset"] = _cut(imatrix.datasets[0])
    keys["quantize.imatrix.entries_count"] = len(imatrix.entries)
    if imatrix.chunks > 0:
        keys["quantize.imatrix.chunks_count"] = imatrix.chunks
    return keys


def embedded_keys(origin: Origin) -> dict[str, str | int]:
    """Return what `--embed-provenance` writes into a file: its origin, and no time of day.

    Numbers that may need more than 32 bits are texts, since the engine writes 32.

    Raises:
        QuantizationError: for a text that is longer than the engine can write.
    """
    recipe = origin.recipe
    keys: dict[str, str | int] = {
        "quantgate.schema": SCHEMA,
        "quantgate.version": __version__,
        "quantgate.engine": origin.engine,
        "quantgate.source.name": _name(origin.source),
        "quantgate.source.bytes": str(origin.source_bytes),
        "quantgate.source.sha256": origin.source_sha256,
        "quantgate.recipe.type": recipe.type,
    }
    said = {
        "strategy": recipe.strategy,
        "imatrix": _name(Path(recipe.imatrix)) if recipe.imatrix else "",
        "imatrix.sha256": origin.imatrix_sha256,
        "output_tensor": recipe.output_tensor or "",
        "embedding": recipe.embedding or "",
        "leave_output": "yes" if recipe.leave_output else "",
        "pure": "yes" if recipe.pure else "",
    }
    keys |= {f"quantgate.recipe.{name}": value for name, value in said.items() if value}
    for number, override in enumerate(recipe.overrides):
        keys[f"quantgate.recipe.override.{number}"] = f"{override.pattern}={override.type}"
    for key, value in keys.items():
        length = len(value.encode()) if isinstance(value, str) else 0
        if length > STRING_BYTES:
            message = (
                f"the provenance cannot be embedded: {key} would be {length} bytes long, the engine "
                f"writes {STRING_BYTES}; leave out --embed-provenance (the record beside the file has "
                "no such limit)"
            )
            raise QuantizationError(message)
    return keys


def document(origin: Origin, report: QuantizeReport, *, embedded: bool) -> str:
    """Return the record that lies beside a file, as JSON: no folders, and how to repeat it."""
    recipe = origin.recipe
    imatrix = None
    if recipe.imatrix:
        imatrix = {"name": _name(Path(recipe.imatrix)), "sha256": origin.imatrix_sha256}
    contents = {
        "schema": SCHEMA,
        "created": dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
        "command": command(origin, _name(Path(report.target)), embedded=embedded),
        "quantgate": __version__,
        "engine": origin.engine,
        "recipe": {
            "type": recipe.type,
            "strategy": recipe.strategy or None,
            "imatrix": imatrix,
            "overrides": [
                {"pattern": override.pattern, "type": override.type}
                for override in recipe.overrides
            ],
            "output_tensor": recipe.output_tensor,
            "embedding": recipe.embedding,
            "leave_output": recipe.leave_output,
            "pure": recipe.pure,
            "allow_requantize": origin.allow_requantize,
        },
        "source": {
            "name": _name(origin.source),
            "bytes": origin.source_bytes,
            "sha256": origin.source_sha256,
        },
        "output": {
            "name": _name(Path(report.target)),
            "bytes": report.target_bytes,
            "sha256": report.target_sha256,
            "bits_per_weight": round(report.bits_per_weight, 4),
            "tensors": report.tensors,
            "fallbacks": [
                {"tensor": fallen.name, "wanted": fallen.wanted, "got": fallen.got}
                for fallen in report.fallbacks
            ],
            "unweighted_tensors": report.unweighted_tensors,
        },
    }
    return json.dumps(contents, indent=2, ensure_ascii=False) + "\n"


def command(origin: Origin, target: str, *, embedded: bool) -> str:
    """Return the command that makes the same file, in a folder that has its ingredients."""
    recipe = origin.recipe
    words = ["quantgate", "quantize", _name(origin.source), "--type", recipe.type]
    fixed = STRATEGIES[recipe.strategy].overrides if recipe.strategy else ()
    if recipe.strategy:
        words += ["--strategy", recipe.strategy]
    if recipe.imatrix:
        words += ["--imatrix", _name(Path(recipe.imatrix))]
    for override in recipe.overrides:
        if override not in fixed:
            words += ["--override", f"{override.pattern}={override.type}"]
    if recipe.output_tensor:
        words += ["--output-tensor", recipe.output_tensor]
    if recipe.embedding:
        words += ["--embedding", recipe.embedding]
    flags = {
        "--leave-output": recipe.leave_output,
        "--pure": recipe.pure,
        "--allow-requantize": origin.allow_requantize,
        "--embed-provenance": embedded,
    }
    words += [flag for flag, wanted in flags.items() if wanted]
    return shlex.join([*words, "--output", target])


def _cut(text: str) -> str:
    return os.fsencode(text)[:STRING_BYTES].decode(errors="ignore")


def _name(path: Path) -> str:
    """Return the name of a file as text, also where it is not UTF-8."""
    return os.fsencode(path.name).decode(errors="replace")
