"""Files opened and written so that nothing waits for ever and nothing is left half-written."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from typing import TYPE_CHECKING, BinaryIO

from pytest_quantgate.artifact.catalog import did_you_mean
from pytest_quantgate.errors import ArtifactError

if TYPE_CHECKING:
    from pathlib import Path


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading, unbuffered, without ever waiting for a pipe's other end.

    Raises:
        ArtifactError: when there is none, it may not be read, or it is a folder, pipe or device.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        message = f"{path}: no such file{near_names(path)}"
        raise ArtifactError(message) from None
    except OSError as error:
        message = f"{path}: cannot be opened: {error.strerror}"
        raise ArtifactError(message) from error
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(handle, "rb", buffering=0)
    os.close(handle)
    kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
    message = f"{path}: is {kind}, not a file"
    raise ArtifactError(message)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a small file that other processes see whole or not at all, replacing one of that name.

    Raises:
        ArtifactError: when it cannot be written.
    """
    try:
        replace(path, data)
    except OSError as error:
        message = f"{path}: cannot be written: {reason(error)}"
        raise ArtifactError(message) from error


def replace(path: Path, data: bytes) -> None:
    """Do what `write_atomically` does, for callers that have a sentence of their own for failures.

    Raises:
        OSError: when it cannot be written.
    """
    partial = path.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def reason(error: OSError) -> str:
    """Return why the system refused, and what to do where that is plain."""
    text = error.strerror or str(error)
    return f"{text}; free some space" if error.errno == errno.ENOSPC else text


def near_names(path: Path) -> str:
    """Return the nearest names in the folder of a missing file, as the end of a sentence."""
    folder = path.parent
    try:
        names = [entry.name for entry in folder.iterdir()]
    except OSError:
        return "" if folder.is_dir() else f"; the folder {folder} does not exist"
    return did_you_mean(path.name, names)
