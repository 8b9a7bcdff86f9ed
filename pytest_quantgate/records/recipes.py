"""How a model file is to be made from another one, and an importance matrix from a text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorOverride:
    """Another type for some tensors: those in whose names ``pattern`` is found.

    ``pattern`` is a regular expression, ``type`` a tensor type such as ``Q6_K``. Of several
    overrides that fit a tensor, the first counts.
    """

    pattern: str
    type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to quantize: what llama.cpp's quantizer takes, by its names.

    ``type`` is the quantization type, ``imatrix`` the path of an importance matrix (empty: none),
    ``output_tensor`` and ``embedding`` tensor types, ``pure`` the base type for all tensors
    without the type's own mix. ``strategy`` is the name the recipe came from, for the record.
    """

    type: str
    imatrix: str = ""
    overrides: tuple[TensorOverride, ...] = ()
    output_tensor: str | None = None
    embedding: str | None = None
    leave_output: bool = False
    pure: bool = False
    strategy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImatrixRequest:
    """Run a text through a model and sum up what each weight is multiplied with.

    ``model``, ``text`` and ``output`` are paths; ``chunks`` windows of ``context`` tokens are read,
    from the start of the text, all of them for None.
    """

    model: str
    text: str
    output: str
    threads: int
    context: int = 512
    chunks: int | None = None
    process_output: bool = False
    parse_special: bool = False
    overwrite: bool = False
