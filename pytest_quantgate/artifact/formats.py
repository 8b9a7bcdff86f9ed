"""Quantized formats of GPU runtimes: how many bits a weight takes there, scales included.

These quantize the linear layers of a model; embeddings, output and norms stay in 16 bits, so that a
whole model has more bits per weight than the format's name says.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_quantgate.artifact.catalog import WEIGHTS_7B, WEIGHTS_8B, did_you_mean
from pytest_quantgate.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Mapping

_FLOAT_BITS = 16
# Llama 2 7B: 32 layers, embedding 4096, feed-forward 11008, 32,000 tokens. Llama 3.1 8B: 32 layers,
# embedding 4096, 1024 for keys and values, feed-forward 14336, 128,256 tokens.
_LINEAR_7B = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
_LINEAR_8B = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFormat:
    """One format: ``bits`` of the numbers alone, and of the scales and zero points per group.

    ``group_size`` weights share a scale; 0 stands for a whole row. ``group_bits`` is what a group
    adds. ``runtimes`` read it; ``cpu`` tells whether any of them runs it without a GPU, ``at_load``
    that it is made while a 16-bit model is loaded, ``calibrated`` that making it takes sample texts.
    ``source`` names the paper the format comes from.
    """

    name: str
    bits: int
    group_size: int
    group_bits: float
    runtimes: tuple[str, ...]
    cpu: bool
    at_load: bool
    calibrated: bool
    summary: str
    source: str

    @property
    def bits_per_weight(self) -> float:
        """Bits a quantized weight takes, with its share of scales; of rows, for rows of 4096."""
        return self.bits + self.group_bits / (self.group_size or 4096)

    @property
    def bits_7b(self) -> float:
        """Bits per weight of a whole model of Llama 2 7B's shape."""
        return self.whole_model_bits(linear=_LINEAR_7B, weights=WEIGHTS_7B)

    @property
    def bits_8b(self) -> float:
        """Bits per weight of a whole model of Llama 3.1 8B's shape."""
        return self.whole_model_bits(linear=_LINEAR_8B, weights=WEIGHTS_8B)

    def whole_model_bits(self, *, linear: int, weights: int) -> float:
        """Return the bits per weight of a model with ``linear`` of its ``weights`` quantized.

        Raises:
            ArtifactError: when the numbers make no sense.
        """
        if not 0 <= linear <= weights or weights == 0:
            message = f"{linear:,} of {weights:,} weights in linear layers cannot be"
            raise ArtifactError(message)
        return (linear * self.bits_per_weight + (weights - linear) * _FLOAT_BITS) / weights


_QLORA = "Dettmers et al. 2023, QLoRA, arXiv:2305.14314"
_GPTQ = "Frantar et al. 2022, GPTQ, arXiv:2210.17323"
_AWQ = "Lin et al. 2023, AWQ, arXiv:2306.00978"
_GPU_RUNTIMES = ("vllm", "tgi", "transformers")


def _four_bit(name: str, numbers: str, *, double: bool) -> WeightFormat:
    # A 32-bit scale for 64 weights, or an 8-bit one and a 32-bit scale for 256 of those.
    return WeightFormat(
        name=name,
        bits=4,
        group_size=64,
        group_bits=8 + 32 / 256 if double else 32,
        runtimes=("transformers",),
        cpu=True,
        at_load=True,
        calibrated=False,
        summary=f"bitsandbytes: {numbers}" + (", scales quantized as well" if double else ""),
        source=_QLORA,
    )


def _calibrated(name: str, bits: int, method: str, source: str) -> WeightFormat:
    # Of each group a 16-bit scale and a zero point of as many bits as the weights.
    return WeightFormat(
        name=name,
        bits=bits,
        group_size=128,
        group_bits=16 + bits,
        runtimes=_GPU_RUNTIMES,
        cpu=False,
        at_load=False,
        calibrated=True,
        summary=f"{method}, groups of 128",
        source=source,
    )


def _formats() -> Mapping[str, WeightFormat]:
    normal, floating = "4-bit numbers spaced as a normal distribution", "4-bit floats"
    rounding = "errors of rounding made good in later columns"
    found = (
        _four_bit("NF4", normal, double=False),
        _four_bit("NF4-DQ", normal, double=True),
        _four_bit("FP4", floating, double=False),
        _four_bit("FP4-DQ", floating, double=True),
        WeightFormat(
            name="INT8",
            bits=8,
            group_size=0,
            group_bits=32,
            runtimes=("transformers",),
            cpu=True,
            at_load=True,
            calibrated=False,
            summary="bitsandbytes: a scale per row, outliers of the activations in 16 bits",
            source="Dettmers et al. 2022, LLM.int8(), arXiv:2208.07339",
        ),
        *(_calibrated(f"GPTQ-{bits}BIT", bits, rounding, _GPTQ) for bits in (3, 4, 8)),
        _calibrated("AWQ-4BIT", 4, "weights of large activations scaled up first", _AWQ),
    )
    return MappingProxyType({each.name: each for each in found})


WEIGHT_FORMATS: Mapping[str, WeightFormat] = _formats()
"""The formats by their upper-case names; ``-DQ`` means double quantization of the scales."""

_ALIASES = MappingProxyType(
    {"GPTQ": "GPTQ-4BIT", "AWQ": "AWQ-4BIT", "LLM.INT8()": "INT8", "BNB-NF4": "NF4"}
)


def weight_format(name: str) -> WeightFormat:
    """Return the format of that name, in any case; ``GPTQ`` and ``AWQ`` mean their 4 bits.

    Raises:
        ArtifactError: for an unknown name, with the nearest ones.
    """
    key = name.strip().upper().replace("_", "-")
    key = _ALIASES.get(key, key)
    if key in WEIGHT_FORMATS:
        return WEIGHT_FORMATS[key]
    hint = did_you_mean(key, WEIGHT_FORMATS) or "."
    known = ", ".join(WEIGHT_FORMATS)
    message = f"{name!r} is not a format of weights{hint} Known are {known}"
    raise ArtifactError(message)
