"""What users ask the model to do and what they expect: cases, their files, and those that come along."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.artifact.catalog import did_you_mean
from pytest_quantgate.cases.case import Case
from pytest_quantgate.cases.reading import load_cases
from pytest_quantgate.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BUILTIN_SETS", "Case", "builtin_path", "load_cases", "named_cases"]

BUILTIN_SETS = ("builtin:everyday",)
"""Case sets that need no file."""


def builtin_path(name: str) -> Path:
    """Return the file of a built-in case set.

    Raises:
        ArtifactError: for a name that is none of `BUILTIN_SETS`.
    """
    if name not in BUILTIN_SETS:
        hint = did_you_mean(name, BUILTIN_SETS) or "."
        message = f"{name!r} is not a built-in case set{hint} There is {', '.join(BUILTIN_SETS)}"
        raise ArtifactError(message)
    return Path(__file__).parent / f"{name.partition(':')[2]}.jsonl"


def named_cases(name: str, locate: Callable[[str], Path]) -> tuple[Case, ...]:
    """Return the cases of a built-in set, or of a file that ``locate`` finds by its name.

    Raises:
        ArtifactError: no such set or file, or one that cannot be read.
        SpecError: what is written there are no cases, with each problem's place.
    """
    path = builtin_path(name) if name.startswith("builtin:") else locate(name)
    return load_cases(path, shown=name)
