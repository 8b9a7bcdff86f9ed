"""Where a file is that somebody named: beside the specification, or inside an installed package."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.artifact.files import near_names
from pytest_quantgate.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Sequence

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_PACKAGE = re.compile(r"package:([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)/(.+)", re.ASCII)


def locate(name: str, *, base: Path, roots: Sequence[Path]) -> Path:
    """Return the absolute path of a named file or folder, which exists and lies where it may.

    A name is a path, relative to ``base``, or ``package:<import name>/<file>`` for a file that an
    installed package carries; the package is found and not imported. Wherever symbolic links lead,
    the file must lie inside one of ``roots`` (or inside the package). The folder of the returned
    path has its links resolved, the file itself keeps its name: its checksum lies beside it.

    Raises:
        ArtifactError: when nothing is there, with near names; when the place is not allowed; for
            another kind of name.
    """
    if "\0" in name or not name.strip():
        message = f"{name!r} names no file; write a path or package:<import name>/<file>"
        raise ArtifactError(message)
    if name.startswith("package:"):
        return _in_package(name)
    path = base / name
    scheme = _SCHEME.match(name)
    if scheme is not None and not os.path.lexists(path):
        message = (
            f"{name!r}: names that start with {scheme[1]}: are not supported here; write a path or "
            "package:<import name>/<file>"
        )
        raise ArtifactError(message)
    return _checked(path, name=name, roots=roots, rule="outside the project")


def _in_package(name: str) -> Path:
    match = _PACKAGE.fullmatch(name)
    if match is None:
        message = (
            f"{name!r}: write package:<import name>/<file>, such as package:my_models/tiny.gguf"
        )
        raise ArtifactError(message)
    package, file = match[1], match[2]
    folders = _package_folders(package, name)
    for folder in folders:
        if os.path.lexists(folder / file):
            return _checked(folder / file, name=name, roots=[folder], rule=f"outside {package}")
    near = near_names(folders[0] / file)
    message = f"{name!r}: the installed package {package} has no file {file!r}{near}"
    raise ArtifactError(message)


def _package_folders(package: str, name: str) -> list[Path]:
    top, *rest = package.split(".")
    try:
        # Only the top level: the finder imports the parents of a dotted name.
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        message = (
            f"{name!r}: the package {top} is not installed; install the distribution that has it, "
            f"such as `pip install {top.replace('_', '-')}`"
        )
        raise ArtifactError(message)
    folders = [Path(place).joinpath(*rest) for place in spec.submodule_search_locations or ()]
    folders = [folder for folder in folders if folder.is_dir()]
    if not folders:
        message = f"{name!r}: {package} is installed, but it is no package with a folder of its own"
        raise ArtifactError(message)
    return folders


def _checked(path: Path, *, name: str, roots: Sequence[Path], rule: str) -> Path:
    try:
        real = path.resolve(strict=True)
        place = path.parent.resolve(strict=True) / path.name if path.name != ".." else real
    except (FileNotFoundError, NotADirectoryError):
        message = f"{name!r}: no such file ({path.absolute()}){near_names(path)}"
        raise ArtifactError(message) from None
    except (OSError, RuntimeError) as error:
        # Python up to 3.12 tells a loop of symbolic links with a RuntimeError.
        reason = error.strerror if isinstance(error, OSError) else "a loop of symbolic links"
        message = f"{name!r}: cannot be reached ({path.absolute()}): {reason}"
        raise ArtifactError(message) from error
    allowed = [root.resolve() for root in roots]
    for candidate in (place, real):
        if not any(candidate.is_relative_to(root) for root in allowed):
            where = ", ".join(map(str, allowed)) or "no folder at all"
            message = f"{name!r}: {candidate} lies {rule}; allowed is {where}"
            raise ArtifactError(message)
    return place
