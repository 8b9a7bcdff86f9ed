"""What a model file holds, from its header: metadata, tensors by role and layer, where it came from.

Nothing here reads the tensors' data, except of an importance matrix, which is nothing but data.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.artifact.catalog import QUANTIZATION_TYPES, TENSOR_TYPES_BY_NAME
from pytest_quantgate.artifact.gguf import chat_template, read_header, read_parts
from pytest_quantgate.artifact.imatrix import read_imatrix
from pytest_quantgate.artifact.integrity import expected_checksum
from pytest_quantgate.artifact.roles import ROLE_GROUPS, Group, Role, role_of
from pytest_quantgate.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
    from pathlib import Path

    from pytest_quantgate.artifact.gguf import GgufHeader
    from pytest_quantgate.artifact.gguf.chat_template import TemplateScan
    from pytest_quantgate.artifact.gguf.format import TensorInfo, Value
    from pytest_quantgate.artifact.imatrix import ImatrixEntry

_RECORD_BYTES = 16 << 20
_ROLE_ORDER = {role: place for place, role in enumerate(ROLE_GROUPS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedTensor:
    """One tensor of a model: ``shape`` with the row length first, ``bytes`` without padding.

    ``fell_back`` tells that its rows do not fit the blocks of the file's type, so that the engine
    chose another one. ``part`` counts the files of a split model from 1.
    """

    name: str
    layer: int | None
    stack: str
    role: Role
    group: Group
    type: str
    shape: tuple[int, ...]
    weights: int
    bytes: int
    fell_back: bool
    part: int

    @property
    def bits_per_weight(self) -> float:
        """Bits an element takes."""
        return 8 * self.bytes / self.weights


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeUse:
    """How many tensors of a share have a type, and in which layers."""

    type: str
    tensors: int
    layers: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The tensors of one role or one layer, together.

    ``types`` has the type of most weights first. ``role`` is None for a layer, ``layer`` None for a
    role and for what lies outside the layers.
    """

    role: Role | None
    layer: int | None
    stack: str
    tensors: int
    weights: int
    bytes: int
    types: tuple[TypeUse, ...]

    @property
    def bits_per_weight(self) -> float:
        """Bits an element takes on average."""
        return 8 * self.bytes / self.weights


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInspection:
    """What a model says of itself, all parts of it together.

    ``file_type`` is the quantization type it claims, ``metadata`` that of its first part.
    ``checksum`` says who vouches for the file (not whether rightly: nothing is hashed here), or is
    empty; ``provenance_file`` is the record of how it was made, if it lies beside it, and ``command``
    the one that it says makes the same file. ``templates`` names its chat templates and what is
    suspicious about them.
    """

    path: Path
    parts: tuple[Path, ...]
    kind: str
    version: int
    architecture: str
    file_type: str | None
    metadata: Mapping[str, Value]
    tensors: tuple[InspectedTensor, ...]
    file_bytes: int
    checksum: str
    provenance_file: Path | None
    command: str
    templates: TemplateScan

    @property
    def weights(self) -> int:
        """Number of weights in all tensors."""
        return sum(tensor.weights for tensor in self.tensors)

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors, without padding."""
        return sum(tensor.bytes for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Bits an element takes on average; nan without tensors."""
        return 8 * self.tensor_bytes / self.weights if self.weights else math.nan

    @property
    def fallen(self) -> tuple[InspectedTensor, ...]:
        """The tensors whose rows do not fit the blocks of the file's type."""
        return tuple(tensor for tensor in self.tensors if tensor.fell_back)

    @property
    def provenance(self) -> Mapping[str, Value]:
        """What the file itself tells of how it was made: `quantgate.*` and `quantize.imatrix.*`."""
        prefixes = ("quantgate.", "quantize.imatrix.")
        return {key: value for key, value in self.metadata.items() if key.startswith(prefixes)}

    def by_role(self) -> tuple[Share, ...]:
        """Return one share for each role that occurs, in the order of a model."""
        shares = _shares(self.tensors, lambda tensor: tensor.role)
        return tuple(sorted(shares, key=lambda share: _ROLE_ORDER[share.role or "other"]))

    def by_layer(self) -> tuple[Share, ...]:
        """Return one share for what lies outside the layers, and one for each layer, in order."""
        shares = _shares(self.tensors, lambda tensor: (tensor.stack, tensor.layer))
        return tuple(
            sorted(
                shares, key=lambda share: (share.stack, -1 if share.layer is None else share.layer)
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedEntry:
    """What an importance matrix has on one weight tensor.

    ``matrices`` is the number of experts, or 1, ``unseen`` how many of them no token has reached;
    ``counts`` are the smallest and the largest number of tokens. ``concentration`` is the share of all
    squares that falls on the most used hundredth of the columns: 0.01 if all are alike.
    """

    name: str
    layer: int | None
    role: Role
    columns: int
    matrices: int
    unseen: int
    counts: tuple[int, int]
    concentration: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ImatrixInspection:
    """What an importance matrix holds; ``chunk_size`` is 0 in the older layout, which lacks it."""

    path: Path
    layout: str
    file_bytes: int
    datasets: tuple[str, ...]
    chunks: int
    chunk_size: int
    entries: tuple[InspectedEntry, ...]


def inspect(path: Path) -> ModelInspection | ImatrixInspection:
    """Tell what a file holds: a model (any part of a split one names it), or an importance matrix.

    Raises:
        ArtifactError: when it is neither, a part of it is missing, or it is malformed.
    """
    try:
        header = read_header(path)
    except ArtifactError as not_gguf:
        if not path.is_file() or _starts_as_gguf(path):
            raise
        try:
            return _inspect_imatrix(path, "legacy")
        except ArtifactError as error:
            if path.suffix in (".dat", ".imatrix"):
                raise
            raise not_gguf from error
    if header.metadata.get("general.type") == "imatrix":
        return _inspect_imatrix(path, "GGUF")
    return _inspect_model(path)


def _starts_as_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def _inspect_model(path: Path) -> ModelInspection:
    headers = read_parts(path)
    first = headers[0]
    record = first.path.with_name(f"{first.path.name}.json")
    kind = first.metadata.get("general.type", "model")
    return ModelInspection(
        path=path,
        parts=tuple(header.path for header in headers),
        kind=kind if isinstance(kind, str) else "model",
        version=first.version,
        architecture=first.architecture,
        file_type=first.file_type,
        metadata=first.metadata,
        tensors=_inspected(headers),
        file_bytes=sum(header.file_size for header in headers),
        checksum=_checksum(first.path),
        provenance_file=record if record.is_file() else None,
        command=_recorded_command(record),
        templates=chat_template.scan(first),
    )


def _inspected(headers: Sequence[GgufHeader]) -> tuple[InspectedTensor, ...]:
    placed = [
        (tensor, part) for part, header in enumerate(headers, start=1) for tensor in header.tensors
    ]
    names = {tensor.name for tensor, _ in placed}
    output = "output.weight" if "output.weight" in names else "token_embd.weight"
    file_type = headers[0].file_type
    found = []
    for tensor, part in placed:
        place = role_of(tensor.name)
        found.append(
            InspectedTensor(
                name=tensor.name,
                layer=place.layer,
                stack=place.stack,
                role=place.role,
                group=place.group,
                type=tensor.type_name,
                shape=tensor.shape,
                weights=tensor.elements,
                bytes=tensor.nbytes,
                fell_back=tensor.name != output and _fell_back(tensor, file_type),
                part=part,
            )
        )
    return tuple(found)


def _fell_back(tensor: TensorInfo, file_type: str | None) -> bool:
    """Tell whether rows do not fit the blocks of the file's type; as `GgufHeader.fallbacks` counts."""
    if file_type is None or file_type not in QUANTIZATION_TYPES or len(tensor.shape) == 1:
        return False
    block = TENSOR_TYPES_BY_NAME[QUANTIZATION_TYPES[file_type].base].block_size
    kept = not TENSOR_TYPES_BY_NAME[tensor.type_name].quantized and tensor.type_name != "F16"
    return tensor.shape[0] % block != 0 and not kept


def _checksum(path: Path) -> str:
    try:
        expected = expected_checksum(path)
    except ArtifactError as error:
        return f"unclear: {error}"
    return "" if expected is None else f"{expected.source}, sha256 {expected.digest}"


def _inspect_imatrix(path: Path, layout: str) -> ImatrixInspection:
    matrix = read_imatrix(path)
    return ImatrixInspection(
        path=path,
        layout=layout,
        file_bytes=path.stat().st_size,
        datasets=matrix.datasets,
        chunks=matrix.chunks,
        chunk_size=matrix.chunk_size,
        entries=tuple(_entry(name, entry) for name, entry in matrix.entries.items()),
    )


def _entry(name: str, entry: ImatrixEntry) -> InspectedEntry:
    place = role_of(name)
    matrices, columns = entry.sums.shape
    squares = np.sort(entry.sums.sum(axis=0, dtype=np.float64))
    most_used = max(1, round(columns / 100))
    total = float(squares.sum())
    return InspectedEntry(
        name=name,
        layer=place.layer,
        role=place.role,
        columns=columns,
        matrices=matrices,
        unseen=int(np.count_nonzero(entry.counts == 0)),
        counts=(int(entry.counts.min()), int(entry.counts.max())),
        # Where nothing was multiplied, all columns are alike.
        concentration=float(squares[-most_used:].sum()) / total if total else most_used / columns,
    )


def _recorded_command(record: Path) -> str:
    """Return the command in a record, or nothing for any other JSON file that has its name."""
    try:
        with record.open("rb") as file:
            contents = json.loads(file.read(_RECORD_BYTES))
    except (OSError, ValueError, RecursionError):
        return ""
    command = contents.get("command") if isinstance(contents, dict) else None
    return command if isinstance(command, str) else ""


def _shares(
    tensors: Iterable[InspectedTensor], key: Callable[[InspectedTensor], Hashable]
) -> list[Share]:
    gathered: dict[Hashable, list[InspectedTensor]] = {}
    for tensor in tensors:
        gathered.setdefault(key(tensor), []).append(tensor)
    return [_share(each) for each in gathered.values()]


def _share(tensors: list[InspectedTensor]) -> Share:
    first = tensors[0]
    one_role = all(tensor.role == first.role for tensor in tensors)
    one_layer = all(
        (tensor.stack, tensor.layer) == (first.stack, first.layer) for tensor in tensors
    )
    weights: Counter[str] = Counter()
    for tensor in tensors:
        weights[tensor.type] += tensor.weights
    return Share(
        role=first.role if one_role else None,
        layer=first.layer if one_layer else None,
        stack=first.stack if one_layer else "",
        tensors=len(tensors),
        weights=weights.total(),
        bytes=sum(tensor.bytes for tensor in tensors),
        types=tuple(_type_use(tensors, name) for name, _ in weights.most_common()),
    )


def _type_use(tensors: list[InspectedTensor], name: str) -> TypeUse:
    chosen = [tensor for tensor in tensors if tensor.type == name]
    layers = {tensor.layer for tensor in chosen if tensor.layer is not None}
    return TypeUse(type=name, tensors=len(chosen), layers=tuple(sorted(layers)))
