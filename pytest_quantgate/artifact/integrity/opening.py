"""A model's files held open, so that the bytes that were checked are the bytes that are loaded.

Between hashing a file by its name and loading it by its name, somebody can put another file there. Here
each file is opened once, hashed through that descriptor, and handed to the engine as
``/proc/self/fd/N``, which leads to the same file whatever happens to its name. Against writers of the
file itself there are two watchmen: a lease of the kernel (``fcntl(2)``, F_SETLEASE), which holds
whoever opens the file for writing until it is given back and tells that somebody tried, and the
file's size, times and number before and after.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.artifact.files import open_regular
from pytest_quantgate.artifact.integrity import model_parts
from pytest_quantgate.errors import ArtifactError, SecurityError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import BinaryIO

    from typing_extensions import Self

_DESCRIPTORS = Path("/proc/self/fd")
_GONE = " (deleted)"
# Times of files move in steps of up to 10 ms: two changes within one step look like one.
_CLOCK_STEP_NS = 20_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Identity:
    """What cannot stay as it is when a file is written, replaced or renamed."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int


class OpenModel:
    """All parts of a model, each opened once. Use it in a `with` statement.

    Attributes:
        path: the file that was named.
        parts: all files of the model, in order.
        files: the open files, in the order of ``parts``.
        leased: whether the system tells of writers; it does for the owner of the files, on local
            file systems.
    """

    def __init__(self, path: Path) -> None:
        """Open a model's files.

        Raises:
            ArtifactError: a part is missing, unreadable or no regular file.
            SecurityError: another process has a part open for writing.
        """
        self.path = path
        self.parts = model_parts(path)
        self.files: tuple[BinaryIO, ...] = ()
        self.leased = True
        try:
            for part in self.parts:
                file = open_regular(part)
                self.files += (file,)
                self.leased &= _lease(file, part)
            if not self.leased:
                self._wait_for_the_clock()
            self._identities = tuple(map(_identity, self.files))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the files."""
        self.close()

    def close(self) -> None:
        """Close the files, which gives back their leases and lets waiting writers go on."""
        for file in self.files:
            file.close()

    @property
    def places(self) -> tuple[Path, ...]:
        """Where the open files are, with all links resolved, as the kernel has it.

        Raises:
            ArtifactError: the system does not say.
            SecurityError: a file is at no place any more.
        """
        found = []
        for part, file in zip(self.parts, self.files, strict=True):
            place = _descriptor(file).readlink()
            if place.name.endswith(_GONE) and not os.path.lexists(place):
                message = f"{part}: was removed or replaced while it was opened; start again"
                raise SecurityError(message)
            found.append(place)
        return tuple(found)

    @contextlib.contextmanager
    def loadable(self) -> Iterator[Path]:
        """Give the name under which the engine finds the open files, and no others.

        Of a model in parts it is a link in a private folder, where all parts have the names the
        engine looks for; the folder is removed at the end.

        Raises:
            ArtifactError: the system has no names for open files.
        """
        if len(self.files) == 1:
            yield _descriptor(self.files[0])
            return
        with tempfile.TemporaryDirectory(prefix="quantgate-") as folder:
            for part, file in zip(self.parts, self.files, strict=True):
                Path(folder, part.name).symlink_to(_descriptor(file))
            yield Path(folder, self.parts[0].name)

    def require_unchanged(self) -> None:
        """Refuse what was loaded if anybody wrote, or began to write, one of the files meanwhile.

        Raises:
            SecurityError: what was loaded need not be what was verified.
        """
        for part, file, before in zip(self.parts, self.files, self._identities, strict=True):
            broken = self.leased and fcntl.fcntl(file, fcntl.F_GETLEASE) != fcntl.F_RDLCK
            if broken or _identity(file) != before:
                what = "opened for writing" if broken else "written, replaced or renamed"
                message = (
                    f"{part}: was {what} while it was verified and loaded; nothing of it is used. "
                    "Find out who writes there, verify it and load it again"
                )
                raise SecurityError(message)

    def _wait_for_the_clock(self) -> None:
        """Let the clock of the file system move on from the last change, so that another one shows."""
        newest = max(os.fstat(file.fileno()).st_ctime_ns for file in self.files)
        if time.time_ns() - newest < _CLOCK_STEP_NS:
            time.sleep(_CLOCK_STEP_NS / 1e9)


def _descriptor(file: BinaryIO) -> Path:
    path = _DESCRIPTORS / str(file.fileno())
    if not path.exists():
        message = (
            f"{_DESCRIPTORS} is not there, so a verified file cannot be loaded without a window in "
            "which it could be exchanged; mount /proc, or run on Linux"
        )
        raise ArtifactError(message)
    return path


def _identity(file: BinaryIO) -> _Identity:
    status = os.fstat(file.fileno())
    return _Identity(
        device=status.st_dev,
        inode=status.st_ino,
        size=status.st_size,
        modified_ns=status.st_mtime_ns,
        changed_ns=status.st_ctime_ns,
    )


def _lease(file: BinaryIO, part: Path) -> bool:
    """Ask to be told of writers; return whether the system does so for this file."""
    try:
        # The signal that tells of a writer ends a process unless it is one that is ignored.
        fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            message = (
                f"{part}: another process has it open for writing; wait until it is complete, and "
                "make its checksum then"
            )
            raise SecurityError(message) from None
        # Another user's file, or a file system without leases.
        return False
    return True
