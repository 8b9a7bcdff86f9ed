"""What tensors are for, by the names llama.cpp gives them."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantgate.artifact.gguf import read_header
from pytest_quantgate.artifact.roles import ROLE_GROUPS, TensorRole, role_of

TINY = Path(__file__).parents[1] / "models" / "tiny-f16.gguf"


@pytest.mark.parametrize(
    ("names", "role"),
    [
        ("token_embd position_embd token_types per_layer_token_embd", "embedding"),
        ("blk.40.nextn.embed_tokens", "embedding"),
        ("output blk.40.nextn.shared_head_head", "output"),
        ("blk.0.attn_q blk.0.attn_q_a blk.0.attn_q_b dec.blk.0.cross_attn_q", "attention_q"),
        ("blk.0.attn_k blk.0.attn_k_b enc.blk.0.attn_k", "attention_k"),
        ("blk.0.attn_v blk.0.attn_v_b", "attention_v"),
        ("blk.0.attn_kv_a_mqa blk.0.attn_kv_b blk.0.attn_kv", "attention_kv"),
        ("blk.0.attn_qkv", "attention_qkv"),
        ("blk.0.attn_output dec.blk.0.attn_o dec.blk.0.cross_attn_o", "attention_output"),
        (
            "blk.0.attn_gate blk.0.attn_sinks blk.0.indexer.attn_k enc.blk.0.attn_rel_b",
            "attention_other",
        ),
        ("blk.0.ffn_gate", "ffn_gate"),
        ("blk.0.ffn_up", "ffn_up"),
        ("blk.0.ffn_down", "ffn_down"),
        ("blk.0.ffn_latent_up", "ffn_other"),
        ("blk.0.ffn_gate_exps blk.0.ffn_gate.7 blk.0.ffn_gate_up_exps", "expert_gate"),
        ("blk.0.ffn_up_exps blk.0.ffn_up.7 blk.0.ffn_up_chexps", "expert_up"),
        ("blk.0.ffn_down_exps blk.0.ffn_down.7", "expert_down"),
        ("blk.0.ffn_gate_shexp", "shared_expert_gate"),
        ("blk.0.ffn_up_shexp", "shared_expert_up"),
        ("blk.0.ffn_down_shexp", "shared_expert_down"),
        ("blk.0.ffn_gate_inp blk.0.ffn_gate_inp_shexp", "router"),
        (
            "blk.0.ssm_in blk.0.time_mix_key blk.0.channel_mix_value blk.0.shortconv.conv",
            "recurrent",
        ),
        ("output_norm token_embd_norm blk.0.attn_norm blk.0.attn_q_norm blk.0.ffn_norm", "norm"),
        ("blk.0.attn_norm_2 blk.0.post_ffw_norm_1 blk.0.nextn.enorm blk.0.time_mix_ln", "norm"),
        ("blk.0.ffn_norm_exps blk.0.ssm_norm dec.blk.0.cross_attn_norm", "norm"),
        ("rope_freqs cls.output blk.0.laurel_l output_hc_base blk.0.layer_output_scale", "other"),
    ],
)
def test_roles_by_name(names: str, role: str) -> None:
    """Each name has its role, as a weight."""
    assert {role_of(f"{name}.weight").role for name in names.split()} == {role}


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("blk.3.attn_q.bias", "bias"),
        ("blk.3.attn_norm.bias", "bias"),
        ("blk.3.exp_probs_b.bias", "bias"),
        ("blk.3.exp_probs_b", "bias"),
        ("blk.3.ffn_up.scale", "scale"),
        ("blk.3.ffn_up.input_scale", "scale"),
        ("blk.3.ssm_a", "recurrent"),
        ("blk.3.attn_sinks", "attention_other"),
        ("output.weight", "output"),
        ("output.bias", "bias"),
        ("outputs.weight", "other"),
        ("", "other"),
    ],
)
def test_what_is_no_weight(name: str, role: str) -> None:
    """Biases and scales are that, whatever they belong to; some tensors have no suffix."""
    assert role_of(name).role == role


@pytest.mark.parametrize(
    ("name", "layer", "stack"),
    [
        ("blk.0.attn_q.weight", 0, ""),
        ("blk.127.attn_q.weight", 127, ""),
        ("enc.blk.5.attn_q.weight", 5, "enc"),
        ("dec.blk.5.cross_attn_q.weight", 5, "dec"),
        ("token_embd.weight", None, ""),
        ("xblk.5.attn_q.weight", None, ""),
        ("blk.five.attn_q.weight", None, ""),
    ],
)
def test_layers_and_stacks(name: str, layer: int | None, stack: str) -> None:
    """The layer is the number in the name, if there is one in its place."""
    place = role_of(name)

    assert (place.layer, place.stack) == (layer, stack)


def test_roles_of_a_whole_model() -> None:
    """The model of this suite has what a llama has, in three layers and nothing unknown."""
    places = [role_of(tensor.name) for tensor in read_header(TINY).tensors]

    assert {place.layer for place in places} == {None, 0, 1, 2}
    in_layer = [place.role for place in places if place.layer == 1]
    assert sorted(in_layer) == [
        *("attention_k", "attention_output", "attention_q", "attention_v"),
        *("ffn_down", "ffn_gate", "ffn_up", "norm", "norm"),
    ]
    assert [place.role for place in places if place.layer is None] == ["embedding", "norm"]


@pytest.mark.parametrize(
    ("role", "group"),
    [("attention_kv", "attention"), ("ffn_gate", "feed-forward"), ("router", "experts")],
)
def test_groups(role: str, group: str) -> None:
    """A role belongs to a part of the model."""
    (found,) = [each for each in ROLE_GROUPS if each == role]

    assert TensorRole(layer=None, role=found).group == group


@given(st.text(max_size=80))
def test_any_text_has_a_role(name: str) -> None:
    """No name is refused: headers have what their writers like."""
    assert role_of(name).role in ROLE_GROUPS


def test_names_of_the_installed_engine() -> None:
    """Of the tensors in layers that the engine knows, only those of rare designs are ``other``."""
    (package,) = find_spec("llama_cpp").submodule_search_locations  # type: ignore[union-attr,misc]
    library = next((Path(package) / "lib").glob("libllama.*"))
    pattern = rb"(?:(?:enc|dec)\.)?blk\.%d\.([a-z0-9_.]+)\0"
    names = {found.decode() for found in re.findall(pattern, library.read_bytes())}

    others = {name for name in names if role_of(f"blk.0.{name}.weight").role == "other"}

    assert len(names) > 100
    rare = ("altup_", "hc_", "laurel_", "ple_", "vis_", "nextn.eh_proj")
    unknown = {name for name in others if not name.startswith(rare)}
    assert unknown <= {"inp_gate", "layer_output_scale", "proj"}
