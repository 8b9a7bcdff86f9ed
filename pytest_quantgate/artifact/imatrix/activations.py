"""Sums of squared activations, column by column: the arithmetic of importance matrices.

Additions are made in single precision, token after token, in the order of llama.cpp's `llama-imatrix`,
so that equal activations give equal files to the last bit.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.artifact.imatrix import Imatrix, ImatrixEntry
from pytest_quantgate.errors import MeasurementError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# Squares are kept for as many rows as stay in a core's own cache.
_BLOCK_BYTES = 1 << 17


class ActivationSums:
    """Grows an importance matrix, one product of a weight tensor with activations at a time."""

    def __init__(self) -> None:
        """Start with no entries."""
        self._sums: dict[str, NDArray[np.float32]] = {}
        self._counts: dict[str, NDArray[np.int64]] = {}
        self._last: tuple[int, NDArray[np.float32], NDArray[np.float32]] | None = None
        self._seen: set[str] = set()

    def add(
        self,
        name: str,
        activations: NDArray[np.float32],
        *,
        matrices: tuple[int, int] = (1, 1),
        source: int | None = None,
    ) -> None:
        """Add what a weight tensor was multiplied with.

        Args:
            name: The weight tensor.
            activations: Of shape (outer, inner, rows, columns), any strides.
            matrices: Lengths of the weight tensor's two outer dimensions, the outer one first: how many
                matrices are stacked in it. Activations beyond them begin with the first one again.
            source: Identity of the activations' tensor. Tensors that are multiplied with the same
                activations, one right after the other, are added up once.

        Raises:
            MeasurementError: for activations that are not finite, or of another width than before.
        """
        columns = activations.shape[-1]
        outer, inner = matrices
        sums = self._entry(name, (outer * inner, columns), counts=1)
        before = sums.copy()
        known = self._known(name, source)
        if known is not None and np.array_equal(known[0], before):
            sums[:] = known[1]
        else:
            for i, stack in enumerate(activations):
                for j, rows in enumerate(stack):
                    add_squares(sums[i % outer * inner + j % inner], rows)
            self._check(name, sums)
        self._counts[name] += activations.size // columns // (outer * inner)
        self._last = None if source is None else (source, before, sums)
        self._seen.add(name)

    def add_experts(
        self,
        name: str,
        activations: NDArray[np.float32],
        chosen: NDArray[np.int32],
        *,
        experts: int,
    ) -> None:
        """Add what the experts of a weight tensor were multiplied with.

        Args:
            name: The weight tensor.
            activations: Of shape (tokens, rows, columns): a row for each chosen expert, or one for all.
            chosen: Numbers of the experts each token goes to, of shape (tokens, chosen experts).
            experts: How many there are.

        Raises:
            MeasurementError: for activations that are not finite, or of another width than before, and
                for an expert that there is not.
        """
        tokens, rows, columns = activations.shape
        if chosen.size and not 0 <= int(chosen.min()) <= int(chosen.max()) < experts:
            message = f"{name}: a token was sent to expert {int(chosen.max())} of {experts}"
            raise MeasurementError(message)
        sums = self._entry(name, (experts, columns), counts=experts)
        # Slot by slot, in each token by token: the order of the additions.
        order = chosen.T.reshape(-1)
        for expert in np.unique(order):
            places = np.flatnonzero(order == expert)
            add_squares(sums[expert], activations[places % tokens, places // tokens % rows])
            self._check(name, sums[expert])
        self._counts[name] += np.bincount(order, minlength=experts)
        self._last = None

    def imatrix(self, *, datasets: Sequence[str], chunk_size: int) -> Imatrix:
        """Return what has been added up.

        Raises:
            MeasurementError: when nothing has.
        """
        if not self._sums:
            message = (
                "the model multiplied no weights that an importance matrix is about (blk.*): its "
                "architecture may compute in a way that is not known here"
            )
            raise MeasurementError(message)
        entries = {
            name: ImatrixEntry(
                sums=self._sums[name].reshape(len(self._counts[name]), -1),
                counts=self._counts[name],
            )
            for name in sorted(self._sums)
        }
        return Imatrix(
            entries=MappingProxyType(entries),
            datasets=tuple(datasets),
            chunks=max(int(entry.counts.max()) for entry in entries.values()) // chunk_size,
            chunk_size=chunk_size,
        )

    def _entry(self, name: str, shape: tuple[int, int], *, counts: int) -> NDArray[np.float32]:
        if name not in self._sums:
            self._sums[name] = np.zeros(shape, dtype=np.float32)
            self._counts[name] = np.zeros(counts, dtype=np.int64)
        sums = self._sums[name]
        if sums.size != shape[0] * shape[1]:
            message = f"{name}: is multiplied with {shape} columns now, with {sums.shape} before"
            raise MeasurementError(message)
        if counts > len(self._counts[name]):
            # So far all experts were used as one tensor.
            self._counts[name] = np.repeat(self._counts[name], counts)
        return sums.reshape(shape)

    def _known(
        self, name: str, source: int | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """Return the sums before and after the last addition, if it was of the same activations."""
        if name in self._seen:
            # The next batch has begun: the same place in memory holds other numbers now.
            self._seen.clear()
            return None
        last = self._last
        return last[1:] if last is not None and last[0] == source else None

    def _check(self, name: str, sums: NDArray[np.float32]) -> None:
        if not np.isfinite(sums).all():
            message = (
                f"the activations that {name} is multiplied with are not finite: the weights of the "
                "model are broken, or too large for the type they are computed in"
            )
            raise MeasurementError(message)


def add_squares(sums: NDArray[np.float32], rows: NDArray[np.float32]) -> None:
    """Add the squares of each row to ``sums``, row after row, in single precision."""
    count, columns = rows.shape
    block = max(1, _BLOCK_BYTES // (4 * columns))
    buffer = np.empty((min(block, count) + 1, columns), dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, count, block):
            part = rows[start : start + block]
            used = buffer[: len(part) + 1]
            used[0] = sums
            np.multiply(part, part, out=used[1:])
            # Along the first axis numpy adds row by row, as the tool does; along the last it would not.
            np.add.reduce(used, axis=0, out=sums)
