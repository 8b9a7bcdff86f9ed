"""The arrays of a committed baseline: from measurements to bytes, and back only if they are sound.

One ``.npz`` holds, for n windows of a text, m of them with distributions:

- ``chunks`` int32 (n,): numbers of the windows, the first n of the seed's order;
- ``nll`` float32 (n, tokens): negative log-likelihood of every scored token, in nats;
- ``chunk_nll``, ``chunk_nll2`` float64 (n,): its sum and sum of squares by window;
- ``top_ids`` uint16 or uint32 (m, tokens, k): for the first m windows the most likely tokens, most
  likely first;
- ``top_log_probs`` float16 (m, tokens, k): their log-probabilities in nats.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_quantgate import sampling

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import DTypeLike, NDArray

    from pytest_quantgate.records import Likelihood

    Arrays = Mapping[str, NDArray[Any]]

MOST_BYTES = 256 * 1024 * 1024
"""Longest file that is read, and most that its arrays may unfold to: many times what is written."""

_SUM_TOLERANCE = 1e-5
_SHARE_TOLERANCE = 1e-2


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What the arrays must be: numbers of windows, tokens and most likely ones, and whose they are."""

    seed: int
    population: int
    chunks: int
    tokens: int
    top_chunks: int
    top: int
    vocabulary: int


def fold(blocks: Sequence[Likelihood], *, vocabulary: int) -> dict[str, NDArray[Any]]:
    """Return the arrays of blocks of windows, in the types they are stored in."""
    import numpy as np  # noqa: PLC0415 - specifications are collected without it

    tops = [block.top for block in blocks if block.top is not None]
    none = [np.zeros((0, blocks[0].chunk_tokens, 0))]
    ids = np.concatenate([top.ids.array() for top in tops] or none)
    log_probs = np.concatenate([top.log_probs.array() for top in tops] or none)
    return {
        "chunks": np.array([chunk for block in blocks for chunk in block.chunks], "<i4"),
        "nll": np.concatenate([block.token_nll.array() for block in blocks]).astype("<f4"),
        "chunk_nll": np.array([value for block in blocks for value in block.chunk_nll], "<f8"),
        "chunk_nll2": np.array([value for block in blocks for value in block.chunk_nll2], "<f8"),
        "top_ids": ids.astype(_identity(vocabulary)),
        "top_log_probs": log_probs.astype("<f2"),
    }


def pack(arrays: Arrays) -> bytes:
    """Return arrays as the bytes of an ``.npz``; the same arrays are the same bytes."""
    import numpy as np  # noqa: PLC0415 - see above

    stream = io.BytesIO()
    members: dict[str, Any] = dict(arrays)
    np.savez_compressed(stream, **members)
    return stream.getvalue()


# RuntimeError is what zipfile has for encrypted members and for versions it does not know.
_DAMAGE = (
    *(OSError, EOFError, KeyError, RuntimeError),
    *(struct.error, zipfile.BadZipFile, zlib.error),
)


def unpack(data: bytes, shape: Shape) -> Arrays:
    """Return the arrays in the bytes of an ``.npz``.

    Raises:
        ValueError: it is none, or the arrays are not of that shape, or no likelihoods at all.
    """
    import numpy as np  # noqa: PLC0415 - see above

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as members:
            size = sum(member.file_size for member in members.infolist())
        if size > MOST_BYTES:
            message = f"its arrays unfold to {size} bytes"
            raise ValueError(message)
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except _DAMAGE as error:
        message = f"it is no archive of arrays ({error})"
        raise ValueError(message) from error
    require_sound(arrays, shape)
    return arrays


def require_sound(arrays: Arrays, shape: Shape) -> None:
    """Refuse arrays that cannot be a baseline's.

    Raises:
        ValueError: naming every array that is wrong, and how.
    """
    problems = sorted(_misshapen(arrays, shape)) or list(_implausible(arrays, shape))
    if problems:
        raise ValueError("; ".join(problems))


def _misshapen(arrays: Arrays, shape: Shape) -> Iterator[str]:
    import numpy as np  # noqa: PLC0415 - see above

    tops = (shape.top_chunks, shape.tokens, shape.top)
    wanted: dict[str, tuple[DTypeLike, tuple[int, ...]]] = {
        "chunks": ("<i4", (shape.chunks,)),
        "nll": ("<f4", (shape.chunks, shape.tokens)),
        "chunk_nll": ("<f8", (shape.chunks,)),
        "chunk_nll2": ("<f8", (shape.chunks,)),
        "top_ids": (_identity(shape.vocabulary), tops),
        "top_log_probs": ("<f2", tops),
    }
    for name in wanted.keys() ^ arrays.keys():
        yield f"{name} is {'missing' if name in wanted else 'no array of a baseline'}"
    for name in wanted.keys() & arrays.keys():
        found, (dtype, size) = arrays[name], wanted[name]
        if (found.dtype, found.shape) != (np.dtype(dtype), size):
            should = f"{np.dtype(dtype)} {size}"
            yield f"{name} is {found.dtype} {found.shape} and should be {should}"
        elif found.dtype.kind == "f" and not np.isfinite(found).all():
            yield f"{name} has a number that is not finite"


def _implausible(arrays: Arrays, shape: Shape) -> Iterator[str]:
    import numpy as np  # noqa: PLC0415 - see above

    nll, log_probs = arrays["nll"].astype("f8"), arrays["top_log_probs"].astype("f8")
    order = sampling.order(shape.seed, shape.population)[: shape.chunks]
    if arrays["chunks"].tolist() != list(order):
        yield "chunks is not the start of the seed's order"
    if (nll < -_SUM_TOLERANCE).any():
        yield "nll has a probability of more than 1"
    if not np.allclose(nll.sum(axis=1), arrays["chunk_nll"], rtol=_SUM_TOLERANCE):
        yield "chunk_nll is not the sum of nll"
    squares = np.square(nll).sum(axis=1)
    if not np.allclose(squares, arrays["chunk_nll2"], rtol=_SUM_TOLERANCE):
        yield "chunk_nll2 is not the sum of the squares of nll"
    if (arrays["top_ids"] >= shape.vocabulary).any():
        yield f"top_ids has an id beyond a vocabulary of {shape.vocabulary}"
    if (np.diff(log_probs) > 0).any():
        yield "top_log_probs is not in descending order"
    if (np.exp(log_probs).sum(axis=2) > 1 + _SHARE_TOLERANCE).any():
        yield "top_log_probs has more than the whole probability"


def _identity(vocabulary: int) -> str:
    return "<u2" if vocabulary <= 1 << 16 else "<u4"
