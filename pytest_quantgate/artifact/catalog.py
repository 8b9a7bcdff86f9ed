"""What the engine can read and write: tensor types, quantization types, architectures.

Facts of llama.cpp as llama-cpp-python 0.3.36 carries it; a test holds the tensor types against the
installed engine.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_quantgate.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ENGINE_VERSION = (0, 3, 36)
"""The version of llama-cpp-python the tables below were taken from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorType:
    """How the elements of a tensor are stored: ``block_size`` of them in ``block_bytes`` bytes."""

    name: str
    block_size: int
    block_bytes: int

    @property
    def bits_per_weight(self) -> float:
        """Bits one element takes."""
        return 8 * self.block_bytes / self.block_size

    @property
    def quantized(self) -> bool:
        """Whether elements share a block, which is what the engine calls quantized."""
        return self.block_size > 1


def _tensor_types() -> Mapping[int, TensorType]:
    rows = {
        0: ("F32", 1, 4),
        1: ("F16", 1, 2),
        2: ("Q4_0", 32, 18),
        3: ("Q4_1", 32, 20),
        6: ("Q5_0", 32, 22),
        7: ("Q5_1", 32, 24),
        8: ("Q8_0", 32, 34),
        9: ("Q8_1", 32, 36),
        10: ("Q2_K", 256, 84),
        11: ("Q3_K", 256, 110),
        12: ("Q4_K", 256, 144),
        13: ("Q5_K", 256, 176),
        14: ("Q6_K", 256, 210),
        15: ("Q8_K", 256, 292),
        16: ("IQ2_XXS", 256, 66),
        17: ("IQ2_XS", 256, 74),
        18: ("IQ3_XXS", 256, 98),
        19: ("IQ1_S", 256, 50),
        20: ("IQ4_NL", 32, 18),
        21: ("IQ3_S", 256, 110),
        22: ("IQ2_S", 256, 82),
        23: ("IQ4_XS", 256, 136),
        24: ("I8", 1, 1),
        25: ("I16", 1, 2),
        26: ("I32", 1, 4),
        27: ("I64", 1, 8),
        28: ("F64", 1, 8),
        29: ("IQ1_M", 256, 56),
        30: ("BF16", 1, 2),
        34: ("TQ1_0", 256, 54),
        35: ("TQ2_0", 256, 66),
        39: ("MXFP4", 32, 17),
        40: ("NVFP4", 64, 36),
        41: ("Q1_0", 128, 18),
        42: ("Q2_0", 64, 18),
    }
    return MappingProxyType(
        {
            number: TensorType(name=name, block_size=size, block_bytes=data)
            for number, (name, size, data) in rows.items()
        }
    )


TENSOR_TYPES: Mapping[int, TensorType] = _tensor_types()
"""The tensor types a GGUF file may hold, by their number in it; missing numbers were removed."""

TENSOR_TYPES_BY_NAME: Mapping[str, TensorType] = MappingProxyType(
    {kind.name: kind for kind in TENSOR_TYPES.values()}
)


WEIGHTS_7B, WEIGHTS_8B = 6_738_415_616, 8_030_261_248
"""Weights of Llama 2 7B and Llama 3.1 8B, whose shapes stand for models of their size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationType:
    """A recipe the engine quantizes a whole model by.

    ``ftype`` is its number in llama.cpp (``general.file_type``), ``base`` the tensor type most
    weights get; the recipe may give some tensors another one. ``needs_imatrix`` tells that the
    engine refuses it without an importance matrix, for some tensor of an ordinary model at least.

    ``bits_7b`` and ``bits_8b`` are the bits per weight of whole models, of the shapes of Llama 2 7B
    (6.74e9 weights) and Llama 3.1 8B (8.03e9): what the engine's dry run says, with an importance
    matrix for those that need one. They agree with the table in llama.cpp's tools/quantize/README.
    """

    name: str
    ftype: int
    base: str
    bits_7b: float
    bits_8b: float
    summary: str
    needs_imatrix: bool = False

    @property
    def bits_per_weight(self) -> float:
        """Bits per weight of the base type; a file has more, for its embeddings, output and mix."""
        return TENSOR_TYPES_BY_NAME[self.base].bits_per_weight


def _quantization_types() -> Mapping[str, QuantizationType]:
    plain = (
        ("F32", 0, "F32", 32.000, 32.000, "32-bit floating point, lossless"),
        ("F16", 1, "F16", 16.001, 16.000, "16-bit floating point, the usual baseline"),
        ("BF16", 32, "BF16", 16.001, 16.000, "16-bit brain floating point, as many are published"),
        ("Q8_0", 7, "Q8_0", 8.501, 8.501, "8 bits, as good as lossless"),
        ("Q6_K", 18, "Q6_K", 6.564, 6.563, "6 bits in super-blocks, hardly measurable loss"),
        ("Q5_1", 9, "Q5_1", 6.012, 6.038, "5 bits with a minimum per block, older than Q5_K"),
        ("Q5_0", 8, "Q5_0", 5.522, 5.570, "5 bits, older than Q5_K"),
        ("Q5_K_M", 17, "Q5_K", 5.678, 5.704, "5 bits in super-blocks, 6 for the most sensitive"),
        ("Q5_K_S", 16, "Q5_K", 5.522, 5.570, "5 bits in super-blocks throughout"),
        ("Q4_1", 3, "Q4_1", 5.032, 5.103, "4 bits with a minimum per block, older than Q4_K"),
        ("Q4_0", 2, "Q4_0", 4.541, 4.636, "4 bits, the fastest on many processors"),
        ("Q4_K_M", 15, "Q4_K", 4.844, 4.894, "4 bits in super-blocks, 6 for the most sensitive"),
        ("Q4_K_S", 14, "Q4_K", 4.578, 4.667, "4 bits in super-blocks, 5 for a few tensors"),
        ("IQ4_NL", 25, "IQ4_NL", 4.568, 4.682, "4 bits on a curved scale"),
        ("IQ4_XS", 30, "IQ4_XS", 4.330, 4.460, "4 bits on a curved scale in super-blocks"),
        ("MXFP4_MOE", 38, "MXFP4", 8.501, 8.501, "4-bit floats for the experts, Q8_0 for the rest"),
        ("Q3_K_L", 13, "Q3_K", 4.270, 4.298, "3 bits in super-blocks, 5 for the most sensitive"),
        (
            "Q3_K_M",
            12,
            "Q3_K",
            3.915,
            3.996,
            "3 bits in super-blocks, 4 and 5 for the most sensitive",
        ),
        ("Q3_K_S", 11, "Q3_K", 3.499, 3.643, "3 bits in super-blocks throughout"),
        ("IQ3_M", 27, "IQ3_S", 3.697, 3.763, "3 bits from a codebook, 4 for the most sensitive"),
        ("IQ3_S", 26, "IQ3_S", 3.499, 3.661, "3 bits from a codebook"),
        (
            "Q2_K",
            10,
            "Q2_K",
            3.006,
            3.159,
            "2 bits in super-blocks, 3 and 4 for the most sensitive",
        ),
        ("Q2_0", 41, "Q2_0", 2.379, 2.680, "2 bits, blocks of 64"),
        (
            "TQ2_0",
            37,
            "TQ2_0",
            2.199,
            2.517,
            "ternary weights in 2 bits, for models trained that way",
        ),
        ("TQ1_0", 36, "TQ1_0", 1.838, 2.191, "ternary weights packed, for models trained that way"),
        ("Q1_0", 40, "Q1_0", 1.232, 1.482, "1 bit, for models trained that way"),
    )
    with_imatrix = (
        ("IQ3_XS", 22, "IQ3_S", 3.319, 3.498, "3 bits from two codebooks"),
        ("IQ3_XXS", 23, "IQ3_XXS", 3.068, 3.255, "3 bits from a smaller codebook"),
        ("Q2_K_S", 21, "Q2_K", 2.753, 2.970, "2 bits in super-blocks throughout"),
        ("IQ2_M", 29, "IQ2_S", 2.801, 2.929, "2 bits from a codebook, 3 for the most sensitive"),
        ("IQ2_S", 28, "IQ2_XS", 2.607, 2.740, "2 bits from a codebook"),
        ("IQ2_XS", 20, "IQ2_XS", 2.415, 2.588, "2 bits from a smaller codebook"),
        ("IQ2_XXS", 19, "IQ2_XXS", 2.201, 2.382, "2 bits from the smallest codebook"),
        ("IQ1_M", 31, "IQ1_M", 1.959, 2.146, "under 2 bits, with finer scales"),
        ("IQ1_S", 24, "IQ1_S", 1.814, 2.004, "the smallest of all, rarely usable"),
    )
    found = [
        QuantizationType(
            name=name,
            ftype=ftype,
            base=base,
            bits_7b=bits_7b,
            bits_8b=bits_8b,
            summary=summary,
            needs_imatrix=needs,
        )
        for rows, needs in ((plain, False), (with_imatrix, True))
        for name, ftype, base, bits_7b, bits_8b, summary in rows
    ]
    return MappingProxyType({kind.name: kind for kind in found})


QUANTIZATION_TYPES: Mapping[str, QuantizationType] = _quantization_types()
"""Every recipe the engine can produce, by its upper-case name."""

_ALIASES = MappingProxyType({"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"})

FILE_TYPES: Mapping[int, str] = MappingProxyType(
    # NVFP4 files exist but come from other tools: the engine reads them and cannot make them.
    {kind.ftype: kind.name for kind in QUANTIZATION_TYPES.values()} | {39: "NVFP4"}
)
"""Names of the values of ``general.file_type``."""

LADDER = ("Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "F16")
"""The levels advice climbs and descends, from the smallest; none needs an importance matrix."""

IMATRIX_LADDER = (
    *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "IQ3_S"),
    *("IQ3_M", "IQ4_XS", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "F16"),
)
"""The same for those who have an importance matrix: smaller for the quality below 4 bits."""

_LEVEL_UP = MappingProxyType(
    {
        "IQ1_S": "IQ1_M",
        "IQ1_M": "IQ2_XXS",
        "IQ2_XXS": "IQ2_XS",
        "IQ2_XS": "IQ2_S",
        "IQ2_S": "IQ2_M",
        "IQ2_M": "IQ3_XXS",
        "IQ3_XXS": "IQ3_XS",
        "IQ3_XS": "IQ3_S",
        "IQ3_S": "IQ3_M",
        "IQ3_M": "IQ4_XS",
        "IQ4_XS": "Q4_K_M",
        "IQ4_NL": "Q4_K_M",
        "MXFP4_MOE": "Q4_K_M",
        "Q1_0": "Q2_K",
        "TQ1_0": "TQ2_0",
        "TQ2_0": "Q2_K",
        "Q2_0": "Q2_K",
        "Q2_K_S": "Q2_K",
        "Q2_K": "Q3_K_M",
        "Q3_K_S": "Q3_K_M",
        "Q3_K_M": "Q4_K_M",
        "Q3_K_L": "Q4_K_M",
        "Q4_0": "Q4_K_M",
        "Q4_K_S": "Q4_K_M",
        "Q4_1": "Q5_K_M",
        "Q4_K_M": "Q5_K_M",
        "Q5_0": "Q5_K_M",
        "Q5_K_S": "Q5_K_M",
        "Q5_1": "Q6_K",
        "Q5_K_M": "Q6_K",
        "Q6_K": "Q8_0",
        "Q8_0": "F16",
    }
)

_TRAINED_FOR = frozenset({"TQ1_0", "TQ2_0", "Q1_0"})

_ARCHITECTURES = """
afmoe apertus arcee arctic arwkv7 baichuan bailingmoe bailingmoe2 bailingmoe3 bert bitnet bloom
chameleon chatglm codeshell cogvlm cohere2 cohere2moe command-r dbrx deci deepseek deepseek2
deepseek2-ocr deepseek32 deepseek4 dflash dots1 dots3note dream eagle3 ernie4_5 ernie4_5-moe
eurobert exaone exaone-moe exaone4 falcon falcon-h1 gemma gemma-embedding gemma2 gemma3 gemma3n
gemma4 gemma4-assistant glm-dsa glm4 glm4moe glm5-next gpt-oss gpt2 gptj gptneox granite
granite_swa granitehybrid granitemoe graniteswitch grok grovemoe hrm_text hunyuan-dense
hunyuan-moe hunyuan_vl hy_v3 hy_v4 internlm2 jais jais2 jamba jina-bert-v2 jina-bert-v3 kimi-k3
kimi-linear laguna lfm2 lfm2moe llada llada-moe llama llama-embed llama4 maincoder mamba mamba2
maple mellum mimo2 minicpm minicpm3 minimax-01 minimax-m2 minimax-m3 mistral3 mistral4
modern-bert mpt muse-glimmer nanbeige nemotron nemotron_h nemotron_h_moe neo-bert nomic-bert
nomic-bert-moe olmo olmo2 olmoe openelm orion paddleocr pangu-embedded phi2 phi3 phimoe plamo
plamo2 plamo3 plm pockettts qwen qwen2 qwen2moe qwen2vl qwen3 qwen35 qwen35moe qwen3moe
qwen3next qwen3tts qwen3vl qwen3vlmoe qwen4exp refact rnd1 rwkv6 rwkv6qwen2 rwkv7 seed_oss
smallthinker smollm3 spark2_5 stablelm starcoder starcoder2 step35 t5 t5encoder talkie
wavtokenizer-dec xverse
"""

ARCHITECTURES = frozenset(_ARCHITECTURES.split())
"""Values of ``general.architecture`` the engine loads as a model."""


def quantization_type(name: str) -> QuantizationType:
    """Return the recipe of that name, in any case; ``Q4_K`` and its like mean the M mix.

    Raises:
        ArtifactError: for a name the engine does not know, with the nearest ones.
    """
    key = name.strip().upper().replace("-", "_")
    key = _ALIASES.get(key, key)
    if key in QUANTIZATION_TYPES:
        return QUANTIZATION_TYPES[key]
    hint = did_you_mean(key, QUANTIZATION_TYPES) or "."
    known = ", ".join(QUANTIZATION_TYPES)
    message = f"{name!r} is not a quantization type{hint} Known are {known}"
    raise ArtifactError(message)


def next_level_up(name: str) -> str | None:
    """Return the type to try when this one lost too much quality, or None at the top of the ladder.

    Never a smaller type, and from the older formats to the K-quants of the next level.

    Raises:
        ArtifactError: for a name the engine does not know.
    """
    return _LEVEL_UP.get(quantization_type(name).name)


def next_level_down(name: str, *, imatrix: bool = False) -> str | None:
    """Return the type to try when this one is too large, or None at the bottom of the ladder.

    It is the largest level that is smaller: of `LADDER`, or of `IMATRIX_LADDER` with ``imatrix`` and
    for a type that needs one. Below the types that models are trained for is nothing.

    Raises:
        ArtifactError: for a name the engine does not know.
    """
    kind = quantization_type(name)
    if kind.name in _TRAINED_FOR:
        return "TQ1_0" if kind.name == "TQ2_0" else None
    # Its size is that of the model's experts: the whole of a mixture is near its base.
    bits = kind.bits_per_weight if kind.name == "MXFP4_MOE" else kind.bits_8b
    ladder = IMATRIX_LADDER if imatrix or kind.needs_imatrix else LADDER
    smaller = [each for each in ladder if QUANTIZATION_TYPES[each].bits_8b < bits]
    return smaller[-1] if smaller else None


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x' or 'y'?`` for the nearest known names, or nothing.

    Compared without case, so that `q4_k_n` finds `Q4_K_M`.
    """
    by_lower = {name.lower(): name for name in sorted(known)}
    near = difflib.get_close_matches(wrong.lower(), list(by_lower), n=2, cutoff=0.6)
    if not near:
        return ""
    return "; did you mean " + " or ".join(repr(by_lower[name]) for name in near) + "?"
