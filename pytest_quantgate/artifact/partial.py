"""Large files in the making: under a name of their own until they are whole."""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pytest_quantgate.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

_PARTIAL = re.compile(r"\..+\.\d+\.partial", re.DOTALL)


def require_free(
    target: Path,
    taken: Mapping[str, Iterable[Path]],
    *,
    overwrite: bool,
    error: type[ArtifactError] = ArtifactError,
) -> None:
    """Refuse a target that cannot be written, is one of the ingredients, or exists.

    Args:
        target: the file that is to be made.
        taken: the ingredients, by what the message calls them.
        overwrite: whether another file of that name may be replaced.
        error: the class that is raised.
    """
    problem = None
    if not target.parent.is_dir():
        problem = f"the folder {target.parent} does not exist; make it first"
    elif not os.path.lexists(target):
        return
    elif (name := _ingredient(target, taken)) is not None:
        problem = f"is {name}; write to another file"
    elif not overwrite:
        problem = "exists already; remove it, or allow overwriting"
    elif not target.is_file():
        problem = "exists and is not a file, so it cannot be overwritten"
    if problem is not None:
        message = f"{target}: {problem}"
        raise error(message)


def _ingredient(target: Path, taken: Mapping[str, Iterable[Path]]) -> str | None:
    """Return what a target is already, by whatever name or link; None for another file."""
    if not target.exists():
        return None
    return next(
        (
            name
            for name, paths in taken.items()
            for path in paths
            if path.exists() and target.samefile(path)
        ),
        None,
    )


@contextmanager
def partial_file(target: Path) -> Iterator[Path]:
    """Give a locked temporary name beside the target and leave nothing of it behind.

    The lock lasts as long as this process, however it ends: a partial file that can be locked
    belongs to nobody any more, whatever process has its number now. What is to stay is renamed inside
    the ``with`` block, with `put_in_place`.

    Raises:
        ArtifactError: when the folder cannot be written, or this process writes the target already.
    """
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        remove_leftovers(target.parent)
        handle = _locked(partial)
    except FileExistsError:
        message = f"{partial}: is being written by this process; wait for it"
        raise ArtifactError(message) from None
    except OSError as error:
        message = f"{target}: cannot be written in {target.parent}: {error.strerror}"
        raise ArtifactError(message) from error
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)
        os.close(handle)


def put_in_place(partial: Path, target: Path) -> None:
    """Give a finished file its name, on the disk and not only in memory.

    Raises:
        OSError: when it cannot be renamed; the target is then what it was.
    """
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(target)
    handle = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_leftovers(folder: Path) -> None:
    """Delete the partial files of processes that were killed.

    Raises:
        OSError: when the folder cannot be listed.
    """
    for path in folder.iterdir():
        if not _PARTIAL.fullmatch(path.name):
            continue
        try:
            handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        except OSError:
            # Somebody is writing it, or it is somebody else's.
            continue
        finally:
            os.close(handle)


def _locked(partial: Path) -> int:
    """Create a file and lock it; another run may tidy it away between the two."""
    while True:
        handle = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return handle
        os.close(handle)
