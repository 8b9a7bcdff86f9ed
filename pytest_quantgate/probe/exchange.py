"""Memory that two probes share: the baseline's leaves its logits there for the candidate's.

The memory has no name. Whoever starts the probes makes it and gives both its descriptor; the
baseline's probe makes it as large as one group of windows needs, and both map it.
"""

from __future__ import annotations

import errno
import mmap
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.errors import ProbeOutOfMemory, ProbeRefused
from pytest_quantgate.records import MEBIBYTE, DivergenceRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

_VALUE_BYTES = 4
_NO_ROOM = (errno.ENOSPC, errno.ENOMEM, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedWindows:
    """What the baseline's probe says of the logits it has left: of which windows, and of whom.

    The logits have shape (chunks, scored tokens, ``vocabulary``); ``seconds`` is what they took.
    """

    chunks: tuple[int, ...]
    context: int
    vocabulary: int
    tokens_sha256: str
    description: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareRequest:
    """Ask the baseline's probe for its logits of the first windows of a request that fit a batch.

    ``done`` of ``total`` windows have been compared before; both are for reports alone.
    """

    request: DivergenceRequest
    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareRequest:
    """Ask the candidate's probe to compare itself with what the baseline's has left."""

    request: DivergenceRequest
    shared: SharedWindows
    done: int
    total: int


class Exchange:
    """The shared memory, as one of its two users has it."""

    def __init__(self, descriptor: int) -> None:
        """Use the memory behind an inherited descriptor."""
        self._descriptor = descriptor
        self._map: mmap.mmap | None = None

    def reserve(self, shape: tuple[int, int, int]) -> NDArray[np.float32]:
        """Make room for logits of a shape and return it, to be written.

        Raises:
            ProbeOutOfMemory: there is no memory for them.
        """
        size = _VALUE_BYTES * int(np.prod(shape))
        if size > os.fstat(self._descriptor).st_size:
            try:
                if hasattr(os, "posix_fallocate"):
                    # Memory that is promised only would end the process when it is written to.
                    os.posix_fallocate(self._descriptor, 0, size)
                else:
                    os.ftruncate(self._descriptor, size)
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                message = (
                    f"there is no room for {size / MEBIBYTE:.0f} MiB of shared logits:"
                    f" {error.strerror}; free memory (or the disk, where temporary files lie on one),"
                    " use a smaller batch, or measure against a logits file"
                )
                raise ProbeOutOfMemory(message) from error
        return self._mapped(size).reshape(shape)

    def view(self, shape: tuple[int, int, int]) -> NDArray[np.float32]:
        """Return the logits of a shape that the other probe has left.

        Raises:
            ProbeRefused: it has not left so many.
        """
        size = _VALUE_BYTES * int(np.prod(shape))
        there = os.fstat(self._descriptor).st_size
        if size > there:
            message = (
                f"the other probe has shared {there} bytes of logits; {size} are needed: start both"
                " probes anew"
            )
            raise ProbeRefused(message)
        return self._mapped(size).reshape(shape)

    def _mapped(self, size: int) -> NDArray[np.float32]:
        # Arrays over an older map keep it alive until they are gone.
        if self._map is None or len(self._map) < size:
            self._map = mmap.mmap(self._descriptor, os.fstat(self._descriptor).st_size)
        return np.frombuffer(self._map, dtype=np.float32, count=size // _VALUE_BYTES)
