"""Lists of checksums over several files: a `SHA256SUMS` of some, or of everything in a folder.

Both are what `sha256sum` writes and `sha256sum -c` checks. Of a whole folder a list says more than its
lines: a file that it does not name does not belong there.
"""

from __future__ import annotations

import os
import posixpath
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_quantgate.artifact.files import write_atomically
from pytest_quantgate.artifact.integrity import model_parts, sha256_file
from pytest_quantgate.artifact.integrity.sums import entries, name_lines
from pytest_quantgate.errors import ArtifactError, IntegrityError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from pytest_quantgate.records import Progress

    OnProgress = Callable[[Progress], None] | None

LIST_NAME = "SHA256SUMS"
SIGNATURE_NAME = "model.sig"
"""A folder's signature, which is made after its list and so cannot stand in it."""

_OWN = frozenset({LIST_NAME, SIGNATURE_NAME})


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedFile:
    """A file whose digest is not the listed one."""

    name: str
    expected: str
    actual: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ListVerification:
    """How files stand against a list of checksums; names are relative to the list's folder.

    ``unlisted`` is empty where only the list's own files were asked for (`verify_list`).
    """

    listing: Path
    matched: tuple[str, ...]
    changed: tuple[ChangedFile, ...]
    missing: tuple[str, ...]
    unlisted: tuple[str, ...]
    seconds: float
    bytes: int

    @property
    def ok(self) -> bool:
        """Whether every file is there, is what the list says, and is in the list."""
        return not (self.changed or self.missing or self.unlisted)


def folder_files(folder: Path, *, ignore: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the names of all files in a folder and below it, relative to it and sorted.

    Links to files count as the files they lead to. The folder's own list and signature are left
    out, and whatever is named in ``ignore`` (files or folders, relative to ``folder``).

    Raises:
        ArtifactError: for a link to a folder, a link to nowhere, a pipe or device, or a folder that
            cannot be read: nobody could say what such a folder holds.
    """
    left_out = {posixpath.normpath(name) for name in ignore}
    if not folder.is_dir():
        message = f"{folder}: is no folder"
        raise ArtifactError(message)
    return tuple(sorted(_below(folder, "", left_out)))


def _below(folder: Path, prefix: str, left_out: set[str]) -> Iterator[str]:
    try:
        found = list(os.scandir(folder / prefix))
    except OSError as error:
        message = f"{folder / prefix}: cannot be read: {error.strerror}"
        raise ArtifactError(message) from error
    for entry in found:
        name = prefix + entry.name
        if name in left_out or (name in _OWN and entry.is_file()):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _below(folder, f"{name}/", left_out)
        elif entry.is_file():
            yield name
        else:
            kind = "a link to a folder or to nowhere" if entry.is_symlink() else "a pipe or device"
            message = (
                f"{folder / name}: is {kind}, whose content no list of files can vouch for; put the "
                "files themselves there, or leave it out with --ignore"
            )
            raise ArtifactError(message)


def write_manifest(
    folder: Path, *, ignore: Iterable[str] = (), on_progress: OnProgress = None
) -> Path:
    """Write `SHA256SUMS` into a folder, over all files in it and below, and return its path.

    Raises:
        ArtifactError: a file cannot be read or named, the list cannot be written, or there is no
            file.
    """
    names = folder_files(folder, ignore=ignore)
    if not names:
        message = f"{folder}: holds no files to make a list of"
        raise ArtifactError(message)
    digests = [sha256_file(folder / name, on_progress=on_progress) for name in names]
    target = folder / LIST_NAME
    write_atomically(target, name_lines(names, digests).encode())
    return target


def write_sums(files: Sequence[Path], *, on_progress: OnProgress = None) -> Path:
    """Write the digests of models, all of their parts, into `SHA256SUMS` in their folder.

    Lines of other files that are there already stay.

    Returns:
        The path of the list.

    Raises:
        ArtifactError: the files are in several folders, or one cannot be read, or the list cannot be
            written.
        IntegrityError: the list that is there is malformed.
    """
    parts = list(dict.fromkeys(part for file in files for part in model_parts(file)))
    folders = {part.parent for part in parts}
    if len(folders) != 1:
        shown = ", ".join(sorted(map(str, folders)))
        message = f"one {LIST_NAME} lists the files of one folder, these are in {shown}"
        raise ArtifactError(message)
    target = folders.pop() / LIST_NAME
    lines = _claims(target) if os.path.lexists(target) else {}
    for part in parts:
        lines[part.name] = sha256_file(part, on_progress=on_progress)
    names = sorted(lines)
    write_atomically(target, name_lines(names, [lines[name] for name in names]).encode())
    return target


def verify_list(sums: Path, *, on_progress: OnProgress = None) -> ListVerification:
    """Hold the files of a list against it, as `sha256sum -c` does.

    Raises:
        IntegrityError: the list is malformed, empty or contradicts itself.
        ArtifactError: the list or a file cannot be read.
    """
    return _verify(sums, _claims(sums), None, on_progress)


def verify_manifest(
    folder: Path, *, ignore: Iterable[str] = (), on_progress: OnProgress = None
) -> ListVerification:
    """Hold a folder against its `SHA256SUMS`: what changed, what is missing, and what is too many.

    Raises:
        IntegrityError: there is no list, or it is malformed, empty, contradicts itself or names
            files outside the folder.
        ArtifactError: the list or a file cannot be read.
    """
    sums = folder / LIST_NAME
    present = folder_files(folder, ignore=ignore)
    if not os.path.lexists(sums):
        message = (
            f"{folder}: has no {LIST_NAME}; make one where the files were made with: "
            f"quantgate checksum {folder} --manifest"
        )
        raise IntegrityError(message)
    claims = _claims(sums)
    outside = [name for name in claims if name.startswith(("/", "../")) or name == ".."]
    if outside:
        message = f"{sums}: names {outside[0]!r}, which is outside the folder; remove the line"
        raise IntegrityError(message)
    return _verify(sums, claims, present, on_progress)


def _claims(sums: Path) -> dict[str, str]:
    claims: dict[str, str] = {}
    for digest, name in entries(sums):
        plain = posixpath.normpath(name or "")
        if claims.setdefault(plain, digest) != digest:
            message = f"{sums}: has different checksums for {plain}; keep the right one"
            raise IntegrityError(message)
    if not claims:
        message = f"{sums}: holds no checksum; write it again with `quantgate checksum`"
        raise IntegrityError(message)
    return claims


def _verify(
    sums: Path, claims: dict[str, str], present: tuple[str, ...] | None, on_progress: OnProgress
) -> ListVerification:
    began = time.perf_counter()
    matched, missing, changed = [], [], []
    size = 0
    for name, expected in claims.items():
        path = sums.parent / name
        if not os.path.lexists(path):
            missing.append(name)
            continue
        actual = sha256_file(path, on_progress=on_progress)
        size += path.stat().st_size
        if actual == expected:
            matched.append(name)
        else:
            changed.append(ChangedFile(name=name, expected=expected, actual=actual))
    unlisted = () if present is None else tuple(name for name in present if name not in claims)
    return ListVerification(
        listing=sums,
        matched=tuple(matched),
        changed=tuple(changed),
        missing=tuple(missing),
        unlisted=unlisted,
        seconds=time.perf_counter() - began,
        bytes=size,
    )
