"""The JSON schema for editors: shipped as generated, and of one mind with the reader."""

from __future__ import annotations

import copy
import importlib.resources
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from pytest_quantgate.errors import SpecError
from pytest_quantgate.spec import json_schema, schema_text, spec_from_mapping

VALIDATOR = Draft202012Validator(json_schema())

SOUND: dict[str, Any] = {
    "quantgate": 1,
    "defaults": {"corpus": "builtin:python-docs", "context": 8, "threads": 1, "timeout": 0.5},
    "models": {
        "m": {
            "baseline": {
                "source": "b.gguf",
                "quantize": "F16",
                "metrics": {"perplexity": 9.5, "accuracy": 1, "latency_ms": 3, "memory_mb": 5},
            },
            "variants": {
                "Q8_0": {"quantize": {"type": "Q8_0"}},
                "other": {"source": "o.gguf", "gates": {"memory": {"max_mb": 5}}},
            },
            "gates": {
                "checksum": {"sha256": "0aF" + "1" * 61},
                "perplexity": {"max_ratio": 1.1, "max_increase": "3%", "chunks": 10},
                "accuracy": {"cases": "c.jsonl", "min": 0, "max_drop": "2.5 pp"},
                "memory": {"max_ratio": 1},
                "latency": {"max_ratio": 1.5, "repeats": 20},
            },
        }
    },
}

MODEL = ("models", "m")
REMOVED = object()


def _changed(keys: tuple[str, ...], value: object) -> dict[str, Any]:
    """Return the sound specification with the value at a way replaced, added or removed."""
    data = copy.deepcopy(SOUND)
    place: Any = data
    for key in keys[:-1]:
        place = place[key]
    if value is REMOVED:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    return data


def _is_read(data: dict[str, Any]) -> bool:
    try:
        spec_from_mapping(data, origin="test", base=Path())
    except SpecError:
        return False
    return True


def test_the_shipped_file_is_the_generated_one() -> None:
    """The file is what the models say; `schema_text()` returns what to write into it."""
    shipped = importlib.resources.files("pytest_quantgate") / "gates.schema.json"
    assert shipped.read_text(encoding="utf-8") == schema_text()


def test_the_schema_is_one() -> None:
    """It is valid itself, and knows no null: a key without a value is an error."""
    Draft202012Validator.check_schema(json_schema())
    assert '"null"' not in schema_text()
    assert "null" not in schema_text()


def test_a_sound_specification_is_accepted_by_both() -> None:
    """What the other cases change is right before."""
    assert VALIDATOR.is_valid(SOUND)
    assert _is_read(SOUND)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("defaults",), REMOVED),
        (("defaults",), {}),
        ((*MODEL, "baseline"), {"source": "x"}),
        ((*MODEL, "baseline", "metrics"), REMOVED),
        ((*MODEL, "baseline", "quantize"), {"type": "BF16"}),
        ((*MODEL, "variants", "a.b_c+d-e"), {"source": "x"}),
        ((*MODEL, "variants", "other", "quantize"), "Q4_K_M"),
        ((*MODEL, "variants", "other", "quantize"), {"type": "Q8_0", "imatrix": "x.txt"}),
        ((*MODEL, "variants", "other", "quantize"), {"type": "IQ2_XXS", "imatrix": "i.gguf"}),
        ((*MODEL, "variants", "other", "quantize"), {"strategy": "mixed-precision"}),
        (
            (*MODEL, "variants", "other", "quantize"),
            {
                "type": "Q4_K_M",
                "imatrix": {"text": "builtin:python-docs", "chunks": 8, "context": 64},
                "overrides": {"attn_v": "Q6_K", r"blk\.[01]\.ffn": "Q5_K"},
                "output_tensor": "Q6_K",
                "embedding": "Q8_0",
                "pure": True,
            },
        ),
        ((*MODEL, "gates"), {"checksum": {}}),
        ((*MODEL, "gates", "perplexity"), {"max": 1.5, "corpus": "t.txt"}),
        ((*MODEL, "gates", "latency", "warmup"), 0),
    ],
)
def test_both_accept(keys: tuple[str, ...], value: object) -> None:
    """The schema does not underline what the reader takes."""
    data = _changed(keys, value)
    assert _is_read(data)
    assert VALIDATOR.is_valid(data)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("quantgate",), REMOVED),
        (("quantgate",), 2),
        (("quantgate",), "1"),
        (("quantgate",), True),
        (("models",), REMOVED),
        (("models",), {}),
        (("models",), []),
        (("model",), {}),
        (("defaults",), None),
        (("defaults", "context"), 7),
        (("defaults", "context"), 8.5),
        (("defaults", "context"), None),
        (("defaults", "threads"), 0),
        (("defaults", "timeout"), 0),
        (("defaults", "corpus"), ""),
        (("models", "a b"), SOUND["models"]["m"]),
        ((*MODEL, "variants"), {}),
        ((*MODEL, "variants"), REMOVED),
        ((*MODEL, "variants", "a/b"), {"source": "x"}),
        ((*MODEL, "variants", "other"), {}),
        ((*MODEL, "variants", "other", "source"), 3),
        ((*MODEL, "variants", "other", "gates"), {}),
        ((*MODEL, "variants", "other", "gates"), None),
        ((*MODEL, "variants", "Q8_0", "quantize"), "Q4_KM"),
        ((*MODEL, "variants", "Q8_0", "quantize"), "IQ2_XXS"),
        ((*MODEL, "variants", "Q8_0", "quantize"), {}),
        ((*MODEL, "variants", "Q8_0", "quantize"), {"type": "q8_0"}),
        ((*MODEL, "variants", "Q8_0", "quantize"), {"type": "IQ2_XXS"}),
        ((*MODEL, "variants", "Q8_0", "quantize"), {"overrides": {"attn_v": "Q6_K"}}),
        ((*MODEL, "variants", "Q8_0", "quantize"), {"strategy": "best"}),
        ((*MODEL, "variants", "Q8_0", "quantize"), {"type": "Q8_0", "imatrix": {}}),
        (
            (*MODEL, "variants", "Q8_0", "quantize"),
            {"type": "Q8_0", "imatrix": {"file": "a", "text": "b"}},
        ),
        (
            (*MODEL, "variants", "Q8_0", "quantize"),
            {"type": "Q8_0", "imatrix": {"text": "b", "chunks": 0}},
        ),
        ((*MODEL, "variants", "Q8_0", "quantize"), {"type": "Q8_0", "overrides": {"a": "Q6"}}),
        ((*MODEL, "variants", "Q8_0", "quantize"), {"type": "Q8_0", "embedding": "q8_0"}),
        ((*MODEL, "baseline", "source"), ""),
        ((*MODEL, "baseline"), {"metrics": {}}),
        ((*MODEL, "baseline"), {"metrics": {"perplexity": 9}, "quantize": "F16"}),
        ((*MODEL, "baseline", "metrics", "perplexity"), 1),
        ((*MODEL, "baseline", "metrics", "accuracy"), 1.01),
        ((*MODEL, "baseline", "metrics", "speed"), 1),
        ((*MODEL, "gates"), REMOVED),
        ((*MODEL, "gates"), {}),
        ((*MODEL, "gates", "checksum"), None),
        ((*MODEL, "gates", "checksum", "sha256"), "abc"),
        ((*MODEL, "gates", "kld"), {}),
        ((*MODEL, "gates", "perplexity"), {}),
        ((*MODEL, "gates", "perplexity"), {"chunks": 10}),
        ((*MODEL, "gates", "perplexity", "max"), 1),
        ((*MODEL, "gates", "perplexity", "max_ratio"), "1.1"),
        ((*MODEL, "gates", "perplexity", "max_ratio"), None),
        ((*MODEL, "gates", "perplexity", "max_increase"), 3),
        ((*MODEL, "gates", "perplexity", "max_increase"), "3"),
        ((*MODEL, "gates", "perplexity", "max_increase"), "-3%"),
        ((*MODEL, "gates", "perplexity", "max_increase"), "3pp"),
        ((*MODEL, "gates", "perplexity", "max_increase"), "٣%"),
        ((*MODEL, "gates", "accuracy", "cases"), REMOVED),
        ((*MODEL, "gates", "accuracy", "max_drop"), "2%"),
        ((*MODEL, "gates", "accuracy", "min"), True),
        ((*MODEL, "gates", "memory", "max_mb"), 0),
        ((*MODEL, "gates", "latency", "repeats"), "10"),
    ],
)
def test_both_refuse(keys: tuple[str, ...], value: object) -> None:
    """The schema underlines what the reader refuses, as far as one key can tell."""
    data = _changed(keys, value)
    assert not _is_read(data)
    assert not VALIDATOR.is_valid(data)
