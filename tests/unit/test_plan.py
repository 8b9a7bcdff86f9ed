"""From a specification to its gates: order, sources, overrides and bounds."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest

from pytest_quantgate import plan as plan_module
from pytest_quantgate.errors import SpecError
from pytest_quantgate.plan import GateCase, ImatrixSource, Making, ModelSource, plan
from pytest_quantgate.records import Recipe, TensorOverride
from pytest_quantgate.spec import load_spec, spec_from_mapping

TEXT = """\
quantgate: 1
defaults: {context: 128}
models:
  zeta:
    baseline: {source: base.gguf, quantize: F16, metrics: {memory_mb: 100}}
    variants:
      made: {quantize: Q8_0}
      given:
        source: given.gguf
        gates:
          latency: {max_p50_ms: 5}
          perplexity: {max: 20}
      remade: {source: given.gguf, quantize: Q4_K_M}
    gates:
      perplexity: {max_ratio: 1.1}
      memory: {max_ratio: 2}
      checksum: {}
  alpha:
    baseline: {metrics: {perplexity: 12}}
    variants:
      only: {source: only.gguf}
    gates:
      perplexity: {max_ratio: 1.1}
"""


@pytest.fixture
def cases(tmp_path: Path) -> tuple[GateCase, ...]:
    """The gates of a specification that uses every part of the format."""
    path = tmp_path / "gates.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return plan(load_spec(path))


def _by_id(cases: tuple[GateCase, ...]) -> dict[str, GateCase]:
    return {case.id: case for case in cases}


def test_gates_come_in_the_order_of_the_specification(cases: tuple[GateCase, ...]) -> None:
    """Models, variants and gates are in written order; a checksum comes before what it guards."""
    assert [case.id for case in cases] == [
        "zeta::made::checksum",
        "zeta::made::perplexity",
        "zeta::made::memory",
        "zeta::given::checksum",
        "zeta::given::perplexity",
        "zeta::given::memory",
        "zeta::given::latency",
        "zeta::remade::checksum",
        "zeta::remade::perplexity",
        "zeta::remade::memory",
        "alpha::only::perplexity",
    ]
    assert cases[0].key == ("zeta", "made", "checksum")


def test_a_divergence_comes_before_the_perplexity_it_brings_along() -> None:
    """Wherever they are written: checksum, kld, perplexity, then the others as they stand."""
    gates = {
        "memory": {"max_mb": 1},
        "perplexity": {"max_ratio": 1.1},
        "latency": {"max_ratio": 2},
        "kld": {"max_mean": 0.1},
        "checksum": {},
    }
    model = {
        "baseline": {"source": "a.gguf"},
        "variants": {"v": {"source": "v.gguf"}},
        "gates": gates,
    }
    parsed = spec_from_mapping({"quantgate": 1, "models": {"m": model}}, origin="hook", base=Path())

    assert [case.gate for case in plan(parsed)] == [
        "checksum",
        "kld",
        "perplexity",
        "memory",
        "latency",
    ]


def test_a_variant_replaces_gates_of_its_model(cases: tuple[GateCase, ...]) -> None:
    """A gate of the variant replaces the whole gate of its kind, and is found where it stands."""
    found = _by_id(cases)
    own = found["zeta::given::perplexity"]
    assert own.settings.model_dump(exclude_unset=True) == {"max": 20.0}
    assert str(own.location) == "gates.yaml:12:11"
    shared = found["zeta::made::perplexity"]
    assert shared.settings.model_dump(exclude_unset=True) == {"max_ratio": 1.1}
    assert str(shared.location) == "gates.yaml:15:7"


def test_sources_say_what_a_model_is_made_from(cases: tuple[GateCase, ...]) -> None:
    """A file, a recipe for the baseline, and a recipe for another file are told apart."""
    found = _by_id(cases)
    baseline = ModelSource(
        name="baseline", source="base.gguf", making=Making(recipe=Recipe(type="F16"))
    )
    made = found["zeta::made::memory"]
    assert made.baseline == baseline
    assert made.candidate == ModelSource(
        name="made", making=Making(recipe=Recipe(type="Q8_0")), parent=baseline
    )
    given = ModelSource(name="given", source="given.gguf")
    assert found["zeta::given::memory"].candidate == given
    remade = ModelSource(
        name="remade", source="given.gguf", making=Making(recipe=Recipe(type="Q4_K_M"))
    )
    assert found["zeta::remade::memory"].candidate == remade


def test_a_recipe_is_told_in_full() -> None:
    """All that a mapping under `quantize` says is in the plan, and in the name of what is made."""
    quantize = {
        "type": "Q4_K_M",
        "imatrix": {"text": "builtin:python-docs", "chunks": 8},
        "overrides": {"attn_v": "Q6_K", "ffn": "Q5_K"},
        "output_tensor": "Q6_K",
        "embedding": "Q8_0",
        "pure": True,
        "allow_requantize": True,
    }
    data = {
        "quantgate": 1,
        "models": {
            "m": {
                "variants": {
                    "made": {"source": "b.gguf", "quantize": quantize},
                    "file": {"source": "b.gguf", "quantize": {"type": "Q2_K", "imatrix": "i.dat"}},
                },
                "gates": {"checksum": {}},
            }
        },
    }
    made, file = plan(spec_from_mapping(data, origin="test", base=Path()))

    assert made.candidate.making == Making(
        recipe=Recipe(
            type="Q4_K_M",
            overrides=(
                TensorOverride(pattern="attn_v", type="Q6_K"),
                TensorOverride(pattern="ffn", type="Q5_K"),
            ),
            output_tensor="Q6_K",
            embedding="Q8_0",
            pure=True,
        ),
        imatrix=ImatrixSource(text="builtin:python-docs", chunks=8),
        allow_requantize=True,
    )
    assert made.candidate.quantize == (
        "Q4_K_M (attn_v=Q6_K, ffn=Q5_K, imatrix builtin:python-docs, output Q6_K, embedding Q8_0,"
        " pure)"
    )
    assert file.candidate.making is not None
    assert file.candidate.making.imatrix == ImatrixSource(file="i.dat", chunks=128)


def test_figures_of_a_baseline_travel_with_the_gate(cases: tuple[GateCase, ...]) -> None:
    """A baseline of numbers only has no source; numbers beside a source are kept as well."""
    found = _by_id(cases)
    assert found["alpha::only::perplexity"].baseline is None
    assert dict(found["alpha::only::perplexity"].literals) == {"perplexity": 12.0}
    assert dict(found["zeta::made::memory"].literals) == {"memory_mb": 100.0}


def test_a_checksum_gate_guards_its_whole_variant(cases: tuple[GateCase, ...]) -> None:
    """Every gate of a variant knows whether its file must be verified before it is loaded."""
    assert [case.verify for case in cases] == [True] * 10 + [False]


def test_a_gate_carries_all_it_takes_to_run(tmp_path: Path, cases: tuple[GateCase, ...]) -> None:
    """Defaults, folder and name of the specification come along, and nothing can be changed."""
    case = cases[0]
    assert case.defaults.context == 128
    assert case.base == tmp_path
    assert case.spec == "gates.yaml"
    with pytest.raises(dataclasses.FrozenInstanceError):
        case.verify = False  # type: ignore[misc]
    with pytest.raises(TypeError):
        case.literals["perplexity"] = 1.0  # type: ignore[index]


def _mapping(variants: int) -> dict[str, Any]:
    gates = {"checksum": {}, "memory": {"max_mb": 1}}
    model = {
        "variants": {f"v{number}": {"source": "v.gguf"} for number in range(variants)},
        "gates": gates,
    }
    return {"quantgate": 1, "models": {"m": model}}


def test_gates_are_counted_to_the_limit_and_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """The greatest number of gates is planned; one variant more is refused with its count."""
    assert plan_module.MAX_CASES == 10_000
    monkeypatch.setattr(plan_module, "MAX_CASES", 20)
    for variants in (9, 10):
        parsed = spec_from_mapping(_mapping(variants), origin="hook", base=Path())
        assert len(plan(parsed)) == 2 * variants
    parsed = spec_from_mapping(_mapping(11), origin="hook", base=Path())
    with pytest.raises(SpecError) as caught:
        plan(parsed)
    assert str(caught.value) == (
        "hook: at models: the specification has 22 gates (variants times gates), and 20 are the"
        " most; split it"
    )


def test_a_large_specification_is_read_in_no_time(tmp_path: Path) -> None:
    """Five thousand gates cost far less than the collection of as many tests."""
    model = """\
  m{0}:
    baseline: {{source: m{0}.gguf, quantize: F16}}
    variants: {{Q8_0: {{quantize: Q8_0}}, Q4_K_M: {{quantize: Q4_K_M}}}}
    gates:
      checksum: {{}}
      perplexity: {{max_ratio: 1.1, max_increase: 3%}}
      accuracy: {{cases: c.jsonl, min: 0.9, max_drop: 2pp}}
      memory: {{max_mb: 600}}
      latency: {{max_ratio: 1.5}}
"""
    path = tmp_path / "gates.yaml"
    models = "".join(model.format(number) for number in range(500))
    path.write_text("quantgate: 1\nmodels:\n" + models, encoding="utf-8")
    started = time.process_time()
    assert len(plan(load_spec(path))) == 5000
    assert time.process_time() - started < 3
