"""Shapes of models: from a header, a folder, or a number of parameters."""

from __future__ import annotations

import dataclasses
import json
import struct
from pathlib import Path

import pytest

from pytest_quantgate.artifact.gguf import read_header
from pytest_quantgate.artifact.selection.config_shape import shape_of_config
from pytest_quantgate.artifact.selection.estimate import weights_bytes
from pytest_quantgate.artifact.selection.shape import (
    PUBLISHED,
    ModelShape,
    shape_of_headers,
    shape_of_parameters,
)
from pytest_quantgate.errors import ArtifactError

TINY = Path(__file__).parents[1] / "models" / "tiny-f16.gguf"


def published(name: str) -> ModelShape:
    """Return the shape of a published model."""
    return dict(PUBLISHED)[name].shape(name, "")


SMOLLM2 = published("SmolLM2-135M")


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("SmolLM2-135M", 134.5),
        ("Qwen2.5-0.5B", 494.0),
        ("Llama-3.2-1B", 1235.8),
        ("Llama-3.2-3B", 3212.7),
        ("Mistral-7B", 7241.7),
        ("Qwen2.5-14B", 14770.0),
        ("Yi-34B", 34388.9),
        ("Llama-2-70B", 68976.6),
        ("Llama-3.1-405B", 405853.4),
    ],
)
def test_published_shapes_have_the_published_number_of_weights(name: str, millions: float) -> None:
    """The numbers of a shape make the number of weights its model is known for."""
    assert published(name).parameters / 1e6 == pytest.approx(millions, rel=1e-3)


def test_a_number_of_parameters_takes_the_nearest_shape() -> None:
    """Weights are as many as asked for, layers and cache those of a model of about that size."""
    shape = shape_of_parameters(7e9)

    assert shape.parameters == pytest.approx(7e9, rel=1e-6)
    assert (32, 32 * 2 * 1024) == (len(shape.kv_widths), shape.kv_width)
    assert "Mistral-7B" in shape.source
    assert shape.name == "a 7B model"


@pytest.mark.parametrize(
    ("count", "fine"), [(999_999, False), (1e6, True), (1e13, True), (1.1e13, False)]
)
def test_numbers_of_parameters_have_bounds(count: float, fine: bool) -> None:  # noqa: FBT001 - a parameter
    """From a million to ten million million."""
    if fine:
        assert shape_of_parameters(count).parameters == pytest.approx(count, rel=1e-4)
        return
    with pytest.raises(ArtifactError, match="is no size of a model; 1e6 to 1e13 are accepted"):
        shape_of_parameters(count)


def test_nan_is_no_number_of_parameters() -> None:
    """NaN is refused like any other number that is none."""
    with pytest.raises(ArtifactError, match="is no size of a model"):
        shape_of_parameters(float("nan"))


def test_the_shape_of_a_file() -> None:
    """Weights, cache, vocabulary and size are those of the header."""
    header = read_header(TINY)
    shape = shape_of_headers([header])

    assert shape.parameters == header.parameters
    assert weights_bytes(shape) == header.tensor_bytes
    assert weights_bytes(shape) + shape.metadata_bytes == pytest.approx(header.file_size, abs=64)
    assert (shape.level, shape.quantized, shape.vocabulary) == ("F16", False, 768)
    assert shape.context_train == 2048
    layers = header.metadata["llama.block_count"]
    heads = header.metadata["llama.attention.head_count_kv"]
    assert len(shape.kv_widths) == layers
    assert isinstance(heads, int)
    assert shape.kv_widths[0] % (2 * heads) == 0


def test_a_header_that_does_not_tell() -> None:
    """A number that is needed and missing is named."""
    header = read_header(TINY)
    metadata = {key: value for key, value in header.metadata.items() if "block_count" not in key}

    with pytest.raises(ArtifactError, match=r"llama\.block_count is None, so its memory cannot be"):
        shape_of_headers([dataclasses.replace(header, metadata=metadata)])


CONFIG = {
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
    "max_position_embeddings": 8192,
}


def folder(path: Path, config: object, tensors: dict[str, list[int]] | None = None) -> Path:
    """Write a model's folder, with the header of a safetensors file where there are tensors."""
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if tensors is not None:
        header: dict[str, object] = {}
        end = 0
        for name, shape in tensors.items():
            size = 2
            for length in shape:
                size *= length
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
            end += size
        data = json.dumps(header).encode()
        (path / "model.safetensors").write_bytes(struct.pack("<Q", len(data)) + data + bytes(end))
    return path


def test_the_shape_of_a_folder(tmp_path: Path) -> None:
    """A config.json makes the same shape as the published numbers."""
    shape = shape_of_config(folder(tmp_path, CONFIG))

    assert (shape.weights, shape.kv_widths) == (SMOLLM2.weights, SMOLLM2.kv_widths)
    assert (shape.tied, shape.context_train) == (True, 8192)
    assert shape.name == tmp_path.name


def test_a_language_model_inside_another(tmp_path: Path) -> None:
    """The numbers may stand one level down."""
    assert shape_of_config(folder(tmp_path, {"text_config": CONFIG})).kv_widths == SMOLLM2.kv_widths


def test_experts_count(tmp_path: Path) -> None:
    """Each expert has a feed-forward of its own."""
    few = shape_of_config(folder(tmp_path, CONFIG | {"num_local_experts": 1}))
    many = shape_of_config(folder(tmp_path, CONFIG | {"num_local_experts": 8}))

    assert many.parameters - few.parameters == 30 * 7 * (3 * 576 * 1536 + 576)


SMALL = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 32,
}
LINEAR = {"model.layers.0.all": [4 * 64 + 3 * 128 + 24], "model.embed_tokens.weight": [32, 8]}


def test_files_tell_whether_the_output_is_the_embedding(tmp_path: Path) -> None:
    """Both matrices stored: two; one of them, whatever its name: one."""
    both = LINEAR | {"lm_head.weight": [32, 8]}
    other = {"model.layers.0.all": LINEAR["model.layers.0.all"], "lm_head.weight": [32, 8]}

    assert not shape_of_config(folder(tmp_path, SMALL, both)).tied
    assert shape_of_config(folder(tmp_path, SMALL, LINEAR)).tied
    assert shape_of_config(folder(tmp_path, SMALL, other)).tied


def test_files_that_hold_another_model(tmp_path: Path) -> None:
    """A folder whose tensors are not those its configuration makes is not guessed at."""
    with pytest.raises(
        ArtifactError, match="describes 920 weights if built as usual, the files hold"
    ):
        shape_of_config(folder(tmp_path, SMALL, LINEAR | {"more": [100]}))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hidden_size": 8}, "has no num_attention_heads"),
        (CONFIG | {"vocab_size": 0}, "vocab_size is 0; a positive whole number is needed"),
        (CONFIG | {"hidden_size": "576"}, "hidden_size is '576'"),
        (CONFIG | {"num_hidden_layers": True}, "num_hidden_layers is True"),
        ([], "is not a JSON object of at most 1 MiB"),
    ],
)
def test_a_folder_that_does_not_tell(tmp_path: Path, config: object, message: str) -> None:
    """What is missing or wrong in a config.json is named."""
    with pytest.raises(ArtifactError, match=message):
        shape_of_config(folder(tmp_path, config))


def test_a_folder_without_a_configuration(tmp_path: Path) -> None:
    """Any folder that is no model's is refused, and one whose configuration is endless."""
    with pytest.raises(ArtifactError, match="cannot be read: No such file"):
        shape_of_config(tmp_path)
    (tmp_path / "config.json").write_text(" " * (1 << 20) + "{}")
    with pytest.raises(ArtifactError, match="is not a JSON object"):
        shape_of_config(tmp_path)
