"""Importance matrices: how strongly each column of each weight matrix is used, and their files.

The quantizer takes the mean square of what a column is multiplied with as that column's weight. Two
layouts of file are in use, both of llama.cpp's `llama-imatrix`: GGUF, and an older one without a magic.
"""

from __future__ import annotations

import dataclasses
import os
import re
import struct
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from pytest_quantgate.artifact.files import open_regular, write_atomically
from pytest_quantgate.artifact.gguf import read_header
from pytest_quantgate.artifact.imatrix.format import (
    CHUNK_COUNT,
    CHUNK_SIZE,
    COUNTS_SUFFIX,
    DATASETS,
    SUMS_SUFFIX,
    LegacyContents,
    LegacyReader,
    encode_gguf,
    encode_legacy,
    exactly,
)
from pytest_quantgate.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from pytest_quantgate.artifact.gguf import GgufHeader, TensorInfo

__all__ = ["Imatrix", "ImatrixEntry", "check_fits", "read_imatrix", "write_imatrix"]

_LAYER = re.compile(r"blk\.\d+\..+\.weight")
_MOST_TOKENS = 1 << 53
_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImatrixEntry:
    """What one weight tensor was multiplied with, summed over tokens.

    ``sums`` has the squares of the activations, of shape (matrices, columns); ``counts`` the number of
    tokens each of the matrices has seen, of shape (matrices,). A tensor of experts has a matrix for
    each expert; any other tensor has one, in which several stacked matrices lie side by side.
    """

    sums: NDArray[np.float32]
    counts: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Imatrix:
    """An importance matrix: its entries by the name of the weight tensor, and where it came from.

    ``datasets`` names the texts, ``chunks`` is how many windows of ``chunk_size`` tokens were read. Of
    an old file, which tells means over windows and not over tokens, ``chunk_size`` is 0 and the counts
    are numbers of windows.
    """

    entries: Mapping[str, ImatrixEntry]
    datasets: tuple[str, ...]
    chunks: int
    chunk_size: int

    @property
    def partial(self) -> tuple[str, ...]:
        """Tensors of which some matrix (an expert) has seen no token."""
        return tuple(name for name, entry in self.entries.items() if not entry.counts.all())

    def engine_values(self) -> dict[str, NDArray[np.float32]]:
        """Return what the quantizer takes: mean squares by tensor, flat, matrix after matrix.

        A matrix that has seen no token gets 1 in each column, as with llama.cpp's own quantizer.
        """
        values = {}
        for name, entry in self.entries.items():
            counts = entry.counts.astype(np.float32)[:, np.newaxis]
            seen = counts > 0
            means = np.ones_like(entry.sums)
            np.divide(entry.sums, counts, out=means, where=seen)
            values[name] = means.reshape(-1)
        return values

    def with_chunk_size(self, chunk_size: int) -> Imatrix:
        """Return the same matrix with sums over tokens, for one read from an old file.

        ``chunk_size`` is the length of the windows it was made with, which the file does not tell. A
        matrix that has its chunk size is returned as it is.
        """
        if self.chunk_size:
            return self
        entries = {
            name: ImatrixEntry(
                sums=entry.sums * np.float32(chunk_size), counts=entry.counts * chunk_size
            )
            for name, entry in self.entries.items()
        }
        chunks = max(int(entry.counts.max()) for entry in self.entries.values())
        return dataclasses.replace(
            self, entries=MappingProxyType(entries), chunks=chunks, chunk_size=chunk_size
        )


def read_imatrix(path: Path) -> Imatrix:
    """Read an importance matrix of either layout.

    Memory and time are bounded by the size of the file.

    Raises:
        ArtifactError: when there is no such file, it is a model or something else, is malformed or
            truncated, or holds a number that no sum of squares can be.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            magic = file.read(4)
            if magic == b"GGUF":
                imatrix = _from_gguf(path, file, size)
            else:
                file.seek(0)
                imatrix = _from_legacy(LegacyReader(path, file, size).contents())
        except OSError as error:
            message = f"{path}: cannot be read: {error.strerror}"
            raise ArtifactError(message) from error
    for name, entry in imatrix.entries.items():
        _check_entry(path, name, entry)
    return imatrix


def write_imatrix(imatrix: Imatrix, path: Path, *, legacy: bool = False) -> None:
    """Write an importance matrix, whole or not at all, replacing a file of that name.

    The bytes are those that llama.cpp's tool writes for the same numbers: GGUF, or the old layout with
    ``legacy``, which leaves out tensors that have seen no token.

    Raises:
        ArtifactError: when it has no entries, a name is too long, it cannot be written, or its chunk
            size, which GGUF files need, is unknown (`Imatrix.with_chunk_size`).
    """
    if not imatrix.entries:
        message = f"{path}: an importance matrix without entries is not written"
        raise ArtifactError(message)
    if legacy:
        try:
            data = encode_legacy(_to_legacy(imatrix))
        except struct.error as error:
            message = f"{path}: cannot be written in the old layout: {error}"
            raise ArtifactError(message) from None
        write_atomically(path, data)
        return
    if imatrix.chunk_size < 1:
        message = (
            f"{path}: cannot be written as GGUF: the importance matrix comes from an old file, which "
            "does not say how long its windows were; say it (--context)"
        )
        raise ArtifactError(message)
    try:
        data = encode_gguf(
            {name: (entry.sums, entry.counts) for name, entry in imatrix.entries.items()},
            datasets=imatrix.datasets,
            chunks=imatrix.chunks,
            chunk_size=imatrix.chunk_size,
        )
    except ValueError as error:
        message = f"{path}: cannot be written as GGUF: {error}"
        raise ArtifactError(message) from None
    write_atomically(path, data)


def check_fits(imatrix: Imatrix, *headers: GgufHeader) -> tuple[str, ...]:
    """Refuse the importance matrix of another model.

    Args:
        imatrix: The matrix.
        headers: The header of the model, or those of all its parts.

    Returns:
        The weight matrices of the model's layers that the importance matrix says nothing about.

    Raises:
        ArtifactError: when it speaks of tensors that the model has not or has in another size, or says
            nothing about most of the model.
    """
    tensors = {tensor.name: tensor for header in headers for tensor in header.tensors}
    model = headers[0].path.name
    wrong = [
        f"{name} {problem}"
        for name, entry in imatrix.entries.items()
        if (problem := _misfit(tensors.get(name), entry))
    ]
    if wrong:
        shown = "; ".join(wrong[:_SHOWN]) + ("; ..." if len(wrong) > _SHOWN else "")
        message = (
            f"the importance matrix is not of {model}: {len(wrong)} of its {len(imatrix.entries)} "
            f"entries do not fit ({shown}); make one from this model with `quantgate imatrix`"
        )
        raise ArtifactError(message)
    matrices = [
        name for name, tensor in tensors.items() if _LAYER.fullmatch(name) and len(tensor.shape) > 1
    ]
    uncovered = tuple(name for name in matrices if name not in imatrix.entries)
    if 2 * len(uncovered) > len(matrices):
        message = (
            f"the importance matrix says nothing about {len(uncovered)} of the {len(matrices)} weight "
            f"matrices of {model}, such as {uncovered[0]}; make one from this model with "
            "`quantgate imatrix`"
        )
        raise ArtifactError(message)
    return uncovered


def _misfit(tensor: TensorInfo | None, entry: ImatrixEntry) -> str:
    """Return what is wrong with an entry for a tensor; empty for nothing."""
    if tensor is None:
        return "is no tensor of the model"
    shape = (*tensor.shape, 1, 1, 1)
    wanted = shape[0] * shape[2]
    if entry.sums.size == wanted:
        return ""
    return f"has {entry.sums.size} columns, the model's {wanted}"


def _check_entry(path: Path, name: str, entry: ImatrixEntry) -> None:
    broken = np.flatnonzero(~(np.isfinite(entry.sums) & (entry.sums >= 0)))
    if broken.size:
        place = int(broken[0])
        message = (
            f"{path}: {name} has {entry.sums.reshape(-1)[place]} in column "
            f"{place % entry.sums.shape[1]}, which no sum of squares is; {broken.size} of its "
            f"{entry.sums.size} values are like this: make the importance matrix again"
        )
        raise ArtifactError(message)


# --- files -----------------------------------------------------------------------------------------


def _from_gguf(path: Path, file: BinaryIO, size: int) -> Imatrix:
    header = read_header(path)
    if header.file_size != size:
        message = f"{path}: changed while it was read; let nothing write to it"
        raise ArtifactError(message)
    kind = header.metadata.get("general.type")
    if kind != "imatrix":
        what = f"a model ({header.architecture})" if header.architecture else f"of type {kind!r}"
        message = f"{path}: is no importance matrix but {what}; make one with `quantgate imatrix`"
        raise ArtifactError(message)
    sums, counts = (
        {
            tensor.name.removesuffix(suffix): tensor
            for tensor in header.tensors
            if tensor.name.endswith(suffix)
        }
        for suffix in (SUMS_SUFFIX, COUNTS_SUFFIX)
    )
    lonely = sorted(sums.keys() ^ counts.keys())
    if lonely or not sums:
        what = f"{lonely[0]} has sums or counts, not both" if lonely else "it has no entries"
        message = f"{path}: malformed importance matrix: {what}"
        raise ArtifactError(message)
    entries = {}
    for name in sorted(sums):
        raw_counts = _tensor(path, file, header, counts[name]).reshape(-1)
        values = _tensor(path, file, header, sums[name])
        if values.size % raw_counts.size:
            message = (
                f"{path}: malformed importance matrix: {name} has {values.size} sums for "
                f"{raw_counts.size} counts"
            )
            raise ArtifactError(message)
        if not ((raw_counts >= 0) & (raw_counts <= _MOST_TOKENS)).all():
            message = f"{path}: malformed importance matrix: {name} has the counts {raw_counts[:8]}"
            raise ArtifactError(message)
        entries[name] = ImatrixEntry(
            sums=values.reshape(raw_counts.size, -1), counts=np.rint(raw_counts).astype(np.int64)
        )
    datasets = header.metadata.get(DATASETS)
    numbers = [header.metadata.get(key) for key in (CHUNK_COUNT, CHUNK_SIZE)]
    chunks, chunk_size = (number if isinstance(number, int) else -1 for number in numbers)
    if not isinstance(datasets, tuple) or not 0 <= chunks < 1 << 31 or chunk_size < 1:
        message = (
            f"{path}: malformed importance matrix: it must say {DATASETS}, {CHUNK_COUNT} and "
            f"{CHUNK_SIZE}; it says {datasets!r}, {numbers[0]!r} and {numbers[1]!r}"
        )
        raise ArtifactError(message)
    return Imatrix(
        entries=MappingProxyType(entries),
        datasets=tuple(map(str, datasets)),
        chunks=chunks,
        chunk_size=chunk_size,
    )


def _tensor(
    path: Path, file: BinaryIO, header: GgufHeader, tensor: TensorInfo
) -> NDArray[np.float32]:
    if tensor.type_name != "F32":
        message = (
            f"{path}: malformed importance matrix: {tensor.name} is of type {tensor.type_name}, it "
            "must be F32"
        )
        raise ArtifactError(message)
    file.seek(header.data_offset + tensor.offset)
    data = exactly(file, tensor.nbytes)
    if data is None:
        message = f"{path}: changed while it was read; let nothing write to it"
        raise ArtifactError(message)
    return np.frombuffer(data, dtype="<f4").astype(np.float32, copy=False)


def _from_legacy(contents: LegacyContents) -> Imatrix:
    entries = {
        name: ImatrixEntry(
            sums=values.reshape(1, -1),
            # A writer that counted no windows stored the means themselves.
            counts=np.array([max(windows, 1)], dtype=np.int64),
        )
        for name, (windows, values) in contents.entries.items()
    }
    chunks = contents.chunks
    if chunks is None:
        chunks = max(windows for windows, _ in contents.entries.values())
    return Imatrix(
        entries=MappingProxyType(entries),
        datasets=(contents.dataset,) if contents.dataset else (),
        chunks=chunks,
        chunk_size=0,
    )


def _to_legacy(imatrix: Imatrix) -> LegacyContents:
    entries = {}
    means = imatrix.engine_values()
    for name, entry in imatrix.entries.items():
        if not imatrix.chunk_size:
            entries[name] = int(entry.counts[0]), entry.sums.reshape(-1)
        elif entry.counts.any():
            windows = -(-int(entry.counts.max()) // imatrix.chunk_size)
            entries[name] = windows, means[name] * np.float32(windows)
    dataset = imatrix.datasets[-1] if imatrix.datasets else ""
    return LegacyContents(entries=entries, chunks=imatrix.chunks, dataset=dataset)
