"""Which tensor types a quantization type gives to which parts of a model.

Taken from the engine's dry runs over models of published shapes (llama-cpp-python 0.3.36);
`bench/estimate.py` holds the sizes that follow from it against new dry runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_quantgate.artifact.catalog import TENSOR_TYPES_BY_NAME, quantization_type

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_quantgate.artifact.roles import Role

Shares = tuple[tuple[str, float], ...]
"""Tensor types and the share of the tensors that has each; the shares sum to 1."""

GROUPED_HEADS = 4
"""From this many query heads per key head, the engine spends more bits on the small value tensors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """The types of one quantization type: ``default`` and what differs from it.

    ``grouped_value`` is the type of the value projections where several query heads share one.
    """

    default: str
    embedding: str
    output: str
    parts: Mapping[Role, Shares] = field(default_factory=dict)
    grouped_value: str | None = None

    def shares(self, role: Role, *, grouped: bool) -> Shares:
        """Return the types that the tensors of a role get.

        ``grouped`` tells that at least `GROUPED_HEADS` query heads share a key head.
        """
        if role == "embedding":
            return ((self.embedding, 1.0),)
        if role == "output":
            return ((self.output, 1.0),)
        if role == "attention_v" and grouped and self.grouped_value:
            return ((self.grouped_value, 1.0),)
        # Experts are treated as the feed-forward they stand for.
        alike: Role = _LIKE.get(role, role)
        return self.parts.get(alike, ((self.default, 1.0),))


_EXPERTS: dict[Role, Role] = {
    "expert_gate": "ffn_gate",
    "expert_up": "ffn_up",
    "expert_down": "ffn_down",
    "shared_expert_gate": "ffn_gate",
    "shared_expert_up": "ffn_up",
    "shared_expert_down": "ffn_down",
}
_LIKE: Mapping[Role, Role] = MappingProxyType(_EXPERTS)


def _some(better: str, share: float, rest: str) -> Shares:
    return ((better, share), (rest, 1 - share))


def _mixes() -> Mapping[str, Mix]:
    eighth, half = 1 / 8, 1 / 2
    return MappingProxyType(
        {
            "IQ2_XXS": Mix(
                default="IQ2_XXS",
                embedding="Q2_K",
                output="Q5_K",
                grouped_value="Q4_K",
                parts={
                    "attention_v": (("Q2_K", 1.0),),
                    "ffn_down": _some("Q2_K", eighth, "IQ2_XXS"),
                },
            ),
            "IQ2_M": Mix(
                default="IQ2_S",
                embedding="IQ3_S",
                output="Q5_K",
                grouped_value="Q4_K",
                parts={
                    "attention_v": (("IQ3_S", 1.0),),
                    "attention_output": (("IQ3_S", 1.0),),
                    "ffn_down": _some("IQ3_S", eighth, "IQ2_S"),
                },
            ),
            "Q2_K": Mix(
                default="Q2_K",
                embedding="Q2_K",
                output="Q6_K",
                grouped_value="Q4_K",
                parts={
                    "attention_v": (("Q3_K", 1.0),),
                    "attention_output": (("Q3_K", 1.0),),
                    "ffn_down": (("Q3_K", 1.0),),
                },
            ),
            "IQ3_XS": Mix(
                default="IQ3_XXS",
                embedding="IQ3_S",
                output="Q6_K",
                grouped_value="Q4_K",
                parts={
                    "attention_v": (("IQ3_S", 1.0),),
                    "attention_output": (("IQ3_S", 1.0),),
                    "ffn_down": (("IQ3_S", 1.0),),
                    "ffn_gate": _some("IQ3_S", 1 / 4, "IQ3_XXS"),
                    "ffn_up": _some("IQ3_S", 1 / 4, "IQ3_XXS"),
                },
            ),
            "Q3_K_M": Mix(
                default="Q3_K",
                embedding="Q3_K",
                output="Q6_K",
                parts={
                    "attention_v": _some("Q5_K", 1 / 16, "Q4_K"),
                    "attention_output": (("Q4_K", 1.0),),
                    "ffn_down": _some("Q5_K", 1 / 16, "Q4_K"),
                },
            ),
            "IQ4_XS": Mix(
                default="IQ4_XS",
                embedding="IQ4_XS",
                output="Q6_K",
                grouped_value="Q5_K",
                parts={"ffn_down": _some("Q5_K", eighth, "IQ4_XS")},
            ),
            "Q4_K_S": Mix(
                default="Q4_K",
                embedding="Q4_K",
                output="Q6_K",
                parts={
                    "attention_v": _some("Q5_K", eighth, "Q4_K"),
                    "ffn_down": _some("Q5_K", eighth, "Q4_K"),
                },
            ),
            "Q4_K_M": Mix(
                default="Q4_K",
                embedding="Q4_K",
                output="Q6_K",
                parts={
                    "attention_v": _some("Q6_K", half, "Q4_K"),
                    "ffn_down": _some("Q6_K", half, "Q4_K"),
                },
            ),
            "Q5_K_M": Mix(
                default="Q5_K",
                embedding="Q5_K",
                output="Q6_K",
                parts={
                    "attention_v": _some("Q6_K", half, "Q5_K"),
                    "ffn_down": _some("Q6_K", half, "Q5_K"),
                },
            ),
        }
    )


MIXES: Mapping[str, Mix] = _mixes()
"""The types that treat parts of a model differently; `mix_of` has an answer for every type."""

_OUTPUT_BITS = TENSOR_TYPES_BY_NAME["Q6_K"].bits_per_weight


def mix_of(name: str) -> Mix:
    """Return the mix of a quantization type; of one that is not in `MIXES`, base type and output.

    Raises:
        ArtifactError: for a name the engine does not know.
    """
    kind = quantization_type(name)
    if kind.name in MIXES:
        return MIXES[kind.name]
    base = TENSOR_TYPES_BY_NAME[kind.base]
    output = "Q6_K" if base.bits_per_weight < _OUTPUT_BITS else base.name
    return Mix(default=base.name, embedding=base.name, output=output)


def stored_type(name: str, row: int, *, output: bool = False) -> str:
    """Return the tensor type that rows of this length get where ``name`` is wanted.

    The engine's rules for rows that do not fill the blocks of the type, and for such rows of the
    output (llama.cpp, llama-quant.cpp, `tensor_type_fallback` and its caller).
    """
    kind = TENSOR_TYPES_BY_NAME[name]
    if row % kind.block_size == 0:
        return name
    if output and row % TENSOR_TYPES_BY_NAME["Q8_0"].block_size == 0:
        return "Q8_0"
    smaller = _FALLBACKS.get(name, "IQ4_NL" if name.startswith("IQ") else "F16")
    return smaller if row % TENSOR_TYPES_BY_NAME[smaller].block_size == 0 else "F16"


_FALLBACKS = MappingProxyType(
    {
        "Q2_K": "Q4_0",
        "Q3_K": "Q4_0",
        "TQ1_0": "Q4_0",
        "TQ2_0": "Q4_0",
        "Q4_K": "Q5_0",
        "Q5_K": "Q5_1",
        "Q6_K": "Q8_0",
    }
)
