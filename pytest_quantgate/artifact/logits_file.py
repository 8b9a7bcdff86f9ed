"""The logits file of `llama-perplexity --save-all-logits`: read with every doubt, written to the byte.

Little-endian, without alignment: 8 bytes ``_logits_``; int32 context, vocabulary, chunks; the token ids
of all chunks as int32; then, for each chunk, one record for each scored position. A record is float32
scale, float32 least log-probability, and a uint16 step for each token of the vocabulary, padded to
an even number: log p = scale * step + least. What lies more than 16 nats below the most likely token
is raised to that. The layout is that of llama.cpp's tools/perplexity/perplexity.cpp.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.artifact.files import open_regular
from pytest_quantgate.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray
    from typing_extensions import Self

MAGIC = b"_logits_"

_HEAD = struct.Struct("<8siii")
_SCALE_VALUES = 4
"""Scale and least log-probability, counted in uint16."""

_MOST_STEPS = np.float32(65535)
_DEPTH = np.float32(16)
"""Nats below the greatest logit at which the tool stops telling values apart."""

_BOUNDS = {"context": (4, 1 << 20), "vocabulary": (2, 1 << 22), "chunks": (1, 1 << 24)}


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitsHeader:
    """What a logits file is about: tokens of a window, size of the vocabulary, number of windows."""

    context: int
    vocabulary: int
    chunks: int

    @property
    def scored(self) -> int:
        """Positions of a window that have a record."""
        return self.context - 1 - self.context // 2

    @property
    def record_values(self) -> int:
        """Length of a record in uint16."""
        return _SCALE_VALUES + 2 * ((self.vocabulary + 1) // 2)

    @property
    def records_offset(self) -> int:
        """Where the first record begins, in bytes."""
        return _HEAD.size + 4 * self.context * self.chunks

    @property
    def file_bytes(self) -> int:
        """How long the file must be."""
        return self.records_offset + 2 * self.chunks * self.scored * self.record_values


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitsWindow:
    """The log-probabilities of one window: ``scale * steps + least``, row by row.

    ``steps`` has shape (scored positions, vocabulary) and is a view of the file; ``scale`` and
    ``least`` have one value for each position.
    """

    scale: NDArray[np.float32]
    least: NDArray[np.float32]
    steps: NDArray[np.uint16]


def read_header(path: Path) -> LogitsHeader:
    """Return what a logits file is about, having checked that it is one and is whole.

    Raises:
        ArtifactError: it cannot be read, is of another kind, or its length is not what it must be.
    """
    with open_regular(path) as file:
        head = file.read(_HEAD.size)
        length = os.fstat(file.fileno()).st_size
    if len(head) < _HEAD.size or not head.startswith(MAGIC):
        message = (
            f"{path}: is no logits file: it begins with {head[: len(MAGIC)]!r} instead of {MAGIC!r};"
            " write one with llama-perplexity --save-all-logits"
        )
        raise ArtifactError(message)
    _, context, vocabulary, chunks = _HEAD.unpack(head)
    values = {"context": context, "vocabulary": vocabulary, "chunks": chunks}
    for place, (name, (least, most)) in enumerate(_BOUNDS.items()):
        if not least <= values[name] <= most:
            message = (
                f"{path}: its {name} (int32 at offset {len(MAGIC) + 4 * place}) is {values[name]};"
                f" {least} to {most} can be: the file is damaged, write it again"
            )
            raise ArtifactError(message)
    header = LogitsHeader(context=context, vocabulary=vocabulary, chunks=chunks)
    if length != header.file_bytes:
        message = (
            f"{path}: is {length} bytes long; {chunks} chunks of {context} tokens over a vocabulary of"
            f" {vocabulary} take {header.file_bytes}: the program that wrote it did not end well, write"
            " it again"
        )
        raise ArtifactError(message)
    return header


class LogitsFile:
    """A logits file, mapped: only the windows that are looked at are read."""

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            ArtifactError: it is no logits file, is not whole, or has tokens outside its vocabulary.
        """
        self.path = path
        self.header = header = read_header(path)
        with open_regular(path) as file:
            try:
                self._map = mmap.mmap(file.fileno(), header.file_bytes, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                message = f"{path}: cannot be mapped: {error}; let nothing write to it"
                raise ArtifactError(message) from error
        count = header.chunks * header.context
        # A copy: it is small, and a file that is changed afterwards cannot change it.
        self.tokens: NDArray[np.int32] = (
            np.frombuffer(self._map, "<i4", count, _HEAD.size)
            .astype(np.int32)
            .reshape(header.chunks, header.context)
        )
        outside = np.flatnonzero((self.tokens < 0) | (self.tokens >= header.vocabulary))
        if outside.size:
            place = int(outside[0])
            message = (
                f"{path}: the token at offset {_HEAD.size + 4 * place} is"
                f" {self.tokens.reshape(-1)[place]}; the vocabulary has {header.vocabulary}: the file"
                " is damaged, write it again"
            )
            raise ArtifactError(message)

    def window(self, chunk: int) -> LogitsWindow:
        """Return the records of one window, 0 to `LogitsHeader.chunks` - 1.

        Raises:
            ArtifactError: a record's scale or least log-probability cannot be; NaN and infinity are
                let through, because a model that produced them is another fault.
        """
        header = self.header
        width = header.record_values
        values = header.scored * width
        offset = header.records_offset + 2 * chunk * values
        records = np.frombuffer(self._map, "<u2", values, offset).reshape(header.scored, width)
        scale, least = np.ascontiguousarray(records[:, :_SCALE_VALUES]).view("<f4").T
        # The most likely token has a probability of 1 at most; float32 may go past it a little.
        wrong = np.flatnonzero((scale < 0) | (least + scale * _MOST_STEPS > np.float32(1e-3)))
        if wrong.size:
            row = int(wrong[0])
            message = (
                f"{self.path}: the record at offset {offset + 2 * row * width} (chunk {chunk + 1}) has"
                f" scale {scale[row]:g} and least log-probability {least[row]:g}, which give no"
                " probabilities: the file is damaged, write it again"
            )
            raise ArtifactError(message)
        return LogitsWindow(
            scale=scale,
            least=least,
            steps=records[:, _SCALE_VALUES : _SCALE_VALUES + header.vocabulary],
        )


class LogitsWriter:
    """Writes a logits file window by window; it is there, whole, when the ``with`` statement ends."""

    def __init__(self, path: Path, header: LogitsHeader, tokens: NDArray[np.int32]) -> None:
        """Prepare to write.

        Args:
            path: The file; one of that name is replaced at the end.
            header: What it is about.
            tokens: Shape (chunks, context), as they are in the text, without BOS in their places.
        """
        self.path = path
        self.header = header
        self._tokens = tokens
        self._partial = path.with_name(f".{secrets.token_hex(8)}.partial")
        self._written = 0

    def __enter__(self) -> Self:
        """Create the file, with room for all of it.

        Raises:
            ArtifactError: it cannot be created, or the disk has no room.
        """
        header = self.header
        with self._named():
            self._file = self._partial.open("xb")
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._file.fileno(), 0, header.file_bytes)
            self._file.write(
                _HEAD.pack(MAGIC, header.context, header.vocabulary, header.chunks)
                + self._tokens.astype("<i4").tobytes()
            )
        return self

    def add(self, records: NDArray[np.uint16]) -> None:
        """Write the records of the next window, as `encode` returns them.

        Raises:
            ArtifactError: they cannot be written.
        """
        with self._named():
            self._file.write(records.astype("<u2", copy=False).tobytes())
        self._written += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put the file in its place, or remove what there is of it after an error.

        Raises:
            ArtifactError: it cannot be written.
        """
        if error is not None:
            self._abandon()
            return
        if self._written != self.header.chunks:
            self._abandon()
            message = f"{self._written} of {self.header.chunks} windows were written"
            raise RuntimeError(message)
        with self._named():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._partial.replace(self.path)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._abandon()
            need = self.header.file_bytes / (1 << 20)
            message = (
                f"{self.path}: cannot be written: {error.strerror}; the file takes {need:.0f} MiB,"
                " fewer chunks take less"
            )
            raise ArtifactError(message) from error

    def _abandon(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self._partial.unlink()


def encode(logits: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the records of some rows of logits, of shape (rows, `LogitsHeader.record_values`).

    The arithmetic is the tool's (`log_softmax` with ``uint16_t *`` in perplexity.cpp), in float32 but
    for the sum. Its exponential is correctly rounded but for some in a thousand, which a float64
    exponential comes nearer to than numpy's own in float32.
    """
    rows, vocabulary = logits.shape
    header = LogitsHeader(context=4, vocabulary=vocabulary, chunks=1)
    records = np.zeros((rows, header.record_values), dtype="<u2")
    # Numbers that are none become none here too, and whoever reads them says so.
    with np.errstate(all="ignore"):
        for row, values in enumerate(logits):
            greatest = values.max()
            least = np.maximum(values.min(), greatest - _DEPTH)
            powers = np.exp((values - greatest).astype(np.float64)).astype(np.float32)
            log_sum = np.float32(np.log(powers.sum(dtype=np.float64)))
            scale = (greatest - least) / _MOST_STEPS
            records[row, :_SCALE_VALUES] = np.array(
                [scale, least - greatest - log_sum], dtype="<f4"
            ).view("<u2")
            if scale:
                # Rounded half to even, as adding and removing 1.5 * 2**23 does.
                steps = np.rint((np.float32(1) / scale) * (values - least))
                steps[~(values > least)] = 0
                records[row, _SCALE_VALUES : _SCALE_VALUES + vocabulary] = steps
    return records
