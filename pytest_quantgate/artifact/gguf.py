"""The header of a GGUF file: what it says it holds, checked before native code sees it."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from pytest_quantgate.artifact.catalog import (
    ARCHITECTURES,
    ENGINE_VERSION,
    FILE_TYPES,
    QUANTIZATION_TYPES,
    TENSOR_TYPES_BY_NAME,
    did_you_mean,
    quantization_type,
)
from pytest_quantgate.artifact.files import open_regular
from pytest_quantgate.artifact.gguf_format import HeaderReader, Omitted, TensorInfo, Value
from pytest_quantgate.errors import ArtifactError

__all__ = ["GgufHeader", "Omitted", "TensorInfo", "Value", "check_architecture", "read_header"]

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_GUESSED = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHeader:
    """What a GGUF file says of itself; of a split model, what this one part says.

    ``data_offset`` is where tensor data begins in the file.
    """

    path: Path
    version: int
    metadata: Mapping[str, Value]
    tensors: tuple[TensorInfo, ...]
    alignment: int
    data_offset: int
    file_size: int

    @property
    def architecture(self) -> str:
        """The value of ``general.architecture``, or an empty string."""
        value = self.metadata.get("general.architecture", "")
        return value if isinstance(value, str) else ""

    @property
    def file_type(self) -> str | None:
        """The quantization type the file claims to be of, or None where it claims none we know."""
        value = self.metadata.get("general.file_type")
        # The engine marks a type it guessed with a flag.
        return FILE_TYPES.get(value & ~_GUESSED) if isinstance(value, int) else None

    @property
    def parameters(self) -> int:
        """Number of weights, in all tensors."""
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors, without padding."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Bits of tensor data per weight; nan for a part without tensors."""
        return 8 * self.tensor_bytes / self.parameters if self.tensors else float("nan")

    @property
    def type_counts(self) -> Mapping[str, int]:
        """How many tensors have each type, most frequent first."""
        return dict(Counter(tensor.type_name for tensor in self.tensors).most_common())

    @property
    def quantized(self) -> bool:
        """Whether any tensor is of a quantized type."""
        return any(TENSOR_TYPES_BY_NAME[name].quantized for name in self.type_counts)

    @property
    def expected_size(self) -> int:
        """The size up to the end of the last tensor, in bytes."""
        if not self.tensors:
            return self.data_offset
        return self.data_offset + self.tensors[-1].offset + self.tensors[-1].nbytes

    def fallbacks(self, type_name: str | None = None) -> int:
        """Return how many weight tensors cannot have their type: their rows do not fit its blocks.

        The engine gives such tensors a type of smaller blocks, usually a larger one. The count is
        worked out from the shapes: tensors of two dimensions or more whose row length is no
        multiple of the block of ``type_name`` (by default the file's own type). It leaves out the
        output, for which the engine chooses another type beforehand, and what it never quantizes.

        Raises:
            ArtifactError: for a type name the engine does not know.
        """
        name = type_name or self.file_type
        if name is None:
            return 0
        if type_name is None and name not in QUANTIZATION_TYPES:
            return 0
        block = TENSOR_TYPES_BY_NAME[quantization_type(name).base].block_size
        names = {tensor.name for tensor in self.tensors}
        output = "output.weight" if "output.weight" in names else "token_embd.weight"
        return sum(
            len(tensor.shape) > 1
            and tensor.name != output
            and tensor.shape[0] % block != 0
            # A row that fits no block at all is stored as F16.
            and (TENSOR_TYPES_BY_NAME[tensor.type_name].quantized or tensor.type_name == "F16")
            for tensor in self.tensors
        )


def read_header(path: Path) -> GgufHeader:
    """Return the header of a GGUF file, having checked all that can be checked without the data.

    Reads the header only, in time and memory bounded by its counts. Numbers, strings up to 1 MiB
    and arrays of up to 64 items are kept; of larger ones only type and count.

    Raises:
        ArtifactError: when there is no such file, it is not GGUF, of another version or byte order,
            malformed, or shorter than it says.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            contents = HeaderReader(path, file, size).contents()
        except OSError as error:
            message = f"{path}: cannot be read: {error.strerror}"
            raise ArtifactError(message) from error
    return GgufHeader(
        path=path,
        version=contents.version,
        metadata=contents.metadata,
        tensors=contents.tensors,
        alignment=contents.alignment,
        data_offset=contents.data_offset,
        file_size=size,
    )


def check_architecture(header: GgufHeader) -> None:
    """Refuse a model whose architecture the engine cannot load.

    An engine newer than this package's list may know more and is left to speak for itself.

    Raises:
        ArtifactError: for an architecture that is missing or unknown, with the nearest names.
    """
    name = header.architecture
    if not name:
        message = (
            f"{header.path}: has no general.architecture, so it is not a language model; name the "
            "file with the model's weights"
        )
        raise ArtifactError(message)
    try:
        installed = version("llama-cpp-python")
    except PackageNotFoundError:
        installed = ".".join(map(str, ENGINE_VERSION))
    digits = tuple(int(part) for part in re.findall(r"\d+", installed)[:3])
    if name in ARCHITECTURES or digits > ENGINE_VERSION:
        return
    message = (
        f"{header.path}: architecture {name!r} is not one the engine knows (llama-cpp-python "
        f"{installed}){did_you_mean(name, ARCHITECTURES)}"
    )
    raise ArtifactError(message)
