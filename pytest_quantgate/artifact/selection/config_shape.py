"""The shape of a Hugging Face model: its config.json, held against the tensors of its files."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from pytest_quantgate.artifact.conversion.safetensors import tensor_shapes
from pytest_quantgate.artifact.selection.shape import Dimensions, ModelShape
from pytest_quantgate.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_CONFIG_BYTES = 1 << 20
_DEVIATION = 0.05
_TABLES = ("lm_head.weight", "embed_tokens.weight")


def shape_of_config(folder: Path) -> ModelShape:
    """Return the shape of a Hugging Face model from its ``config.json``.

    Decoders with attention and gated feed-forward, with or without experts; sliding windows count as
    full attention, which is more than such a model needs. Where the folder has safetensors files,
    their number of weights must be what the configuration makes, to 5%.

    Raises:
        ArtifactError: when the file is missing, is no JSON object, lacks a number, or is of a model
            that is built otherwise.
    """
    path = folder / "config.json"
    config = _config(path)
    stored = {
        name: math.prod(lengths)
        for file in sorted(folder.glob("*.safetensors"))
        for name, lengths in tensor_shapes(file).items()
    }
    tied = config.get("tie_word_embeddings", True) is True
    if stored:
        # A shared matrix is stored once, under either name.
        tied = not all(any(name.endswith(end) for name in stored) for end in _TABLES)
    # Models that also see or hear keep the language model's numbers one level down.
    inner = config.get("text_config")
    numbers = inner if isinstance(inner, dict) else config
    shape = _dimensions(path, numbers, tied=tied).shape(folder.resolve().name, "its config.json")
    held = sum(stored.values())
    if held and abs(shape.parameters / held - 1) > _DEVIATION:
        message = (
            f"{path}: describes {shape.parameters:,} weights if built as usual, the files hold"
            f" {held:,}; convert the model to GGUF and name that file"
        )
        raise ArtifactError(message)
    return shape


def _config(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_CONFIG_BYTES + 1)
    except OSError as error:
        message = f"{path}: cannot be read: {error.strerror}; name a model's folder or GGUF file"
        raise ArtifactError(message) from error
    try:
        config = json.loads(data) if len(data) <= _CONFIG_BYTES else None
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        message = f"{path}: is not a JSON object of at most 1 MiB"
        raise ArtifactError(message)
    return config


def _dimensions(path: Path, config: Mapping[str, Any], *, tied: bool) -> Dimensions:
    def number(*keys: str, default: int | None = None) -> int:
        for key in keys:
            value = config.get(key)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
            if value is not None:
                message = f"{path}: {key} is {value!r}; a positive whole number is needed"
                raise ArtifactError(message)
        if default is None:
            message = f"{path}: has no {keys[0]}, so the memory of the model cannot be estimated"
            raise ArtifactError(message)
        return default

    embedding = number("hidden_size", "n_embd", "d_model")
    heads = number("num_attention_heads", "n_head")
    experts = number("num_local_experts", "num_experts", "n_routed_experts", default=0)
    ffn = number("intermediate_size", "n_inner", "ffn_dim", default=4 * embedding)
    return Dimensions(
        layers=number("num_hidden_layers", "n_layer"),
        embedding=embedding,
        heads=heads,
        kv_heads=number("num_key_value_heads", default=heads),
        head_size=number("head_dim", default=max(1, embedding // heads)),
        feed_forward=number("moe_intermediate_size", default=ffn) if experts else ffn,
        vocabulary=number("vocab_size"),
        tied=tied,
        experts=experts,
        context_train=number("max_position_embeddings", "n_positions", default=0) or None,
    )
