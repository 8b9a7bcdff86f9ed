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
from pytest_quantgate.artifact.gguf.chat_template import require_harmless
from pytest_quantgate.artifact.gguf.engine_bounds import require_bounds
from pytest_quantgate.artifact.gguf.format import HeaderReader, Omitted, TensorInfo, Value
from pytest_quantgate.artifact.integrity import model_parts
from pytest_quantgate.errors import ArtifactError

__all__ = [
    "GgufHeader",
    "Omitted",
    "TensorInfo",
    "Value",
    "check_architecture",
    "check_model",
    "read_header",
    "read_parts",
]

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import BinaryIO

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


def read_header(path: Path, *, file: BinaryIO | None = None) -> GgufHeader:
    """Return the header of a GGUF file, having checked all that can be checked without the data.

    Reads the header only, in time and memory bounded by its counts. Numbers, strings up to 1 MiB
    and arrays of up to 64 items are kept; of larger ones only type and count. With ``file``, that
    open file is read, and ``path`` is for messages.

    Raises:
        ArtifactError: when there is no such file, it is not GGUF, of another version or byte order,
            malformed, or shorter than it says.
    """
    if file is None:
        with open_regular(path) as opened:
            return read_header(path, file=opened)
    size = os.fstat(file.fileno()).st_size
    try:
        file.seek(0)
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


def read_parts(path: Path, *, files: Sequence[BinaryIO] | None = None) -> tuple[GgufHeader, ...]:
    """Return the headers of all parts of a model, which make one model together.

    With ``files``, the open files of the parts in order, those are read.

    Raises:
        ArtifactError: when a part is missing or malformed, or the parts contradict each other.
    """
    paths = model_parts(path)
    opened = files or (None,) * len(paths)
    headers = tuple(read_header(part, file=file) for part, file in zip(paths, opened, strict=True))
    if len(headers) > 1:
        _check_parts(headers)
    return headers


def _check_parts(headers: tuple[GgufHeader, ...]) -> None:
    first = headers[0]
    seen: set[str] = set()
    for header in headers:
        if header.metadata.get("split.count", 0) != len(headers):
            message = (
                f"{header.path}: its name says that it is one of {len(headers)} parts, its header "
                "does not; give it the name it was published under"
            )
            raise ArtifactError(message)
        for key, absent in (("split.tensors.count", None), ("general.architecture", "")):
            ours, theirs = header.metadata.get(key, absent), first.metadata.get(key, absent)
            # Only the first part has to say what kind of model it is.
            if ours not in {theirs, absent} or (absent is None and ours is None):
                message = (
                    f"{header.path}: {key} is {ours!r}, in {first.path.name} it is {theirs!r}; "
                    "these are not parts of one model"
                )
                raise ArtifactError(message)
        twice = seen.intersection(tensor.name for tensor in header.tensors)
        if twice:
            message = f"{header.path}: tensor {min(twice)!r} is in an earlier part, too"
            raise ArtifactError(message)
        seen.update(tensor.name for tensor in header.tensors)
    total = first.metadata["split.tensors.count"]
    if len(seen) != total:
        message = (
            f"{first.path}: its {len(headers)} parts have {len(seen)} tensors together, the model "
            f"{total}; fetch them again"
        )
        raise ArtifactError(message)


def check_model(path: Path, *, files: Sequence[BinaryIO] | None = None) -> GgufHeader:
    """Check all that can be checked of a model before native code sees it.

    The headers of all parts, that the parts make one model, that the engine knows the architecture
    and does not end the process over a number (`engine_bounds`), and that no chat template reaches
    for what it should not (`chat_template.scan`).

    Args:
        path: the file, or any part of a split model.
        files: the open files of the parts in order (`opening.OpenModel`); by default they are
            opened by name.

    Returns:
        The header of the file; of a split model, of its first part.

    Raises:
        ArtifactError: the model is malformed, incomplete or unknown to the engine.
        SecurityError: a chat template is suspicious.
    """
    header = read_parts(path, files=files)[0]
    check_architecture(header)
    require_bounds(header)
    require_harmless(header)
    return header


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
