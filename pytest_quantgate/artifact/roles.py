"""What a tensor does in a model, told by its name.

Names are those of llama.cpp's ``llama-arch.cpp``: ``blk.<layer>.<what>.weight`` inside the layers,
plain names outside. What a type's mix treats specially goes by the same names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Role = Literal[
    "embedding",
    "output",
    "attention_q",
    "attention_k",
    "attention_v",
    "attention_kv",
    "attention_qkv",
    "attention_output",
    "attention_other",
    "ffn_gate",
    "ffn_up",
    "ffn_down",
    "ffn_other",
    "expert_gate",
    "expert_up",
    "expert_down",
    "shared_expert_gate",
    "shared_expert_up",
    "shared_expert_down",
    "router",
    "recurrent",
    "norm",
    "bias",
    "scale",
    "other",
]
"""What a tensor is for; ``recurrent`` covers state spaces, RWKV's mixing and short convolutions."""

Group = Literal[
    "embedding", "output", "attention", "feed-forward", "experts", "recurrent", "norm", "other"
]
"""The part of a model a role belongs to."""

_GROUPS: dict[Role, Group] = {
    "embedding": "embedding",
    "output": "output",
    "attention_q": "attention",
    "attention_k": "attention",
    "attention_v": "attention",
    "attention_kv": "attention",
    "attention_qkv": "attention",
    "attention_output": "attention",
    "attention_other": "attention",
    "ffn_gate": "feed-forward",
    "ffn_up": "feed-forward",
    "ffn_down": "feed-forward",
    "ffn_other": "feed-forward",
    "expert_gate": "experts",
    "expert_up": "experts",
    "expert_down": "experts",
    "shared_expert_gate": "experts",
    "shared_expert_up": "experts",
    "shared_expert_down": "experts",
    "router": "experts",
    "recurrent": "recurrent",
    "norm": "norm",
    "bias": "other",
    "scale": "other",
    "other": "other",
}
ROLE_GROUPS: Mapping[Role, Group] = MappingProxyType(_GROUPS)
"""The group of every role, in the order tables show them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRole:
    """Where a tensor stands: its layer, counted from 0 (None outside the layers), and its role.

    ``stack`` is ``enc`` or ``dec`` in models of two stacks, whose layers count from 0 each.
    """

    layer: int | None
    role: Role
    stack: str = ""

    @property
    def group(self) -> Group:
        """The part of the model the role belongs to."""
        return ROLE_GROUPS[self.role]


_PLACE = re.compile(r"(?:(?P<stack>enc|dec)\.)?blk\.(?P<layer>\d{1,9})\.(?P<rest>.+)", re.DOTALL)
# Read from the top, the first that is found counts.
_STEMS: tuple[tuple[str, Role], ...] = (
    (r"(?:^|[._])\w?norm\d?(?:[._]|$)|_ln$", "norm"),
    (r"^(?:position|token|per_layer_token)_embd$|^token_types$", "embedding"),
    (r"^nextn\.embed_tokens$", "embedding"),
    (r"^output$|^nextn\.shared_head_head$", "output"),
    (r"^exp_probs_b", "bias"),
    (r"^(?:ssm_|time_mix_|channel_mix_|shortconv\.)", "recurrent"),
    (r"^ffn_gate_(?:inp|tid2eid)", "router"),
    (r"^ffn_gate_shexp$", "shared_expert_gate"),
    (r"^ffn_up_shexp$", "shared_expert_up"),
    (r"^ffn_down_shexp$", "shared_expert_down"),
    (r"^ffn_gate(?:_up)?_(?:exps|chexps)$|^ffn_gate\.\d+$", "expert_gate"),
    (r"^ffn_up_(?:exps|chexps)$|^ffn_up\.\d+$", "expert_up"),
    (r"^ffn_down_(?:exps|chexps)$|^ffn_down\.\d+$", "expert_down"),
    (r"^ffn_gate$", "ffn_gate"),
    (r"^ffn_up$", "ffn_up"),
    (r"^ffn_down$", "ffn_down"),
    (r"^ffn[._]", "ffn_other"),
    (r"^(?:cross_|vis_)?attn_qkv$", "attention_qkv"),
    (r"^(?:cross_)?attn_q(?:_a|_b)?$", "attention_q"),
    (r"^(?:cross_)?attn_k(?:_b)?$", "attention_k"),
    (r"^(?:cross_)?attn_v(?:_b)?$", "attention_v"),
    (r"^attn_kv(?:_a_mqa|_b)?$", "attention_kv"),
    (r"^(?:vis_)?attn_output(?:_a|_b)?$|^(?:cross_)?attn_o$", "attention_output"),
    (r"^(?:indexer[._]|(?:cross_)?attn_)", "attention_other"),
)
_KINDS: dict[str, Role] = {"bias": "bias", "scale": "scale", "input_scale": "scale"}


def role_of(name: str) -> TensorRole:
    """Return the layer and role of the tensor of that name; a name nobody knows is ``other``.

    Norms of any part are ``norm``, biases ``bias``, whatever they belong to. A gate and an up matrix
    stored as one count as the gate.
    """
    place = _PLACE.fullmatch(name)
    layer = int(place["layer"]) if place else None
    stack = (place["stack"] or "") if place else ""
    rest = place["rest"] if place else name
    stem, _, kind = rest.rpartition(".")
    if kind in _KINDS:
        return TensorRole(layer=layer, role=_KINDS[kind], stack=stack)
    if kind != "weight":
        # Some are stored without a suffix: `ssm_a`, `attn_sinks`.
        stem = rest
    for pattern, role in _STEMS:
        if re.search(pattern, stem):
            return TensorRole(layer=layer, role=role, stack=stack)
    return TensorRole(layer=layer, role="other", stack=stack)
