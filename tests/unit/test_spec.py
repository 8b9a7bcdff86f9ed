"""Specifications from end to end: files and Python mappings, read or refused."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from pytest_quantgate.errors import Problem, SpecError
from pytest_quantgate.gates import kinds
from pytest_quantgate.spec import ParsedSpec, Spec, load_spec, spec_from_mapping

VALID = """\
quantgate: 1
defaults:
  context: 256
models:
  tiny:
    baseline: {source: models/tiny-f16.gguf, quantize: F16}
    variants:
      Q8_0: {quantize: Q8_0}
      Q4_K_M: {quantize: {type: Q4_K_M}}
      shipped:
        source: dist/tiny.gguf
        gates: {perplexity: {max: 20}}
    gates:
      perplexity: {max_ratio: 1.10, max_increase: 3%}
      checksum: {}
      accuracy: {cases: cases/critical.jsonl, min: 0.9, max_drop: 2pp}
"""


def _write(folder: Path, text: str) -> Path:
    path = folder / "gates.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_valid_specification_becomes_models(tmp_path: Path) -> None:
    """Every part of the format arrives as a typed value, with its defaults."""
    parsed = load_spec(_write(tmp_path, VALID))
    model = parsed.spec.models["tiny"]
    assert parsed.spec.defaults.model_dump() == {
        "corpus": "builtin:python-docs",
        "context": 256,
        "threads": None,
        "timeout": 1800.0,
    }
    assert model.baseline is not None
    assert model.baseline.quantize is not None
    assert model.baseline.quantize.type == "F16"
    assert list(model.variants) == ["Q8_0", "Q4_K_M", "shipped"]
    assert model.variants["Q4_K_M"].quantize is not None
    assert model.variants["Q4_K_M"].quantize.type == "Q4_K_M"
    given_gates = model.gates.given()
    assert set(given_gates) == {"perplexity", "checksum", "accuracy"}
    assert given_gates["perplexity"].model_dump()["max_increase"] == pytest.approx(0.03)
    assert given_gates["accuracy"].model_dump()["max_drop"] == pytest.approx(0.02)


def test_a_parsed_specification_knows_places_and_order(tmp_path: Path) -> None:
    """Locations are those of the keys; keys come in the order of the text."""
    parsed = load_spec(_write(tmp_path, VALID))
    assert parsed.path == tmp_path / "gates.yaml"
    assert parsed.base == tmp_path
    assert parsed.shown == "gates.yaml"
    assert str(parsed.location("models", "tiny", "gates", "perplexity")) == "gates.yaml:14:7"
    assert parsed.keys("models", "tiny", "gates") == ("perplexity", "checksum", "accuracy")
    assert parsed.keys("models", "tiny", "variants", "Q8_0", "gates") == ()


def test_a_parsed_specification_cannot_be_changed(tmp_path: Path) -> None:
    """Stages that share it cannot disturb each other."""
    parsed = load_spec(_write(tmp_path, VALID))
    with pytest.raises(dataclasses.FrozenInstanceError):
        parsed.base = tmp_path  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        parsed.spec.defaults.context = 8  # type: ignore[misc]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, a folder and a pipe are problems of the specification, not tracebacks."""
    with pytest.raises(SpecError) as caught:
        load_spec(tmp_path / "none.yaml")
    assert str(caught.value) == (
        "none.yaml: the specification cannot be read: No such file or directory"
    )
    with pytest.raises(SpecError, match="the specification cannot be read: Is a directory"):
        load_spec(tmp_path)
    with pytest.raises(SpecError, match="the specification cannot be read: not a regular file"):
        load_spec(Path(os.devnull))


def test_a_python_mapping_becomes_the_same_specification(tmp_path: Path) -> None:
    """A project may build its specification; paths and tuples are understood."""
    data = {
        "quantgate": 1,
        "models": {
            "tiny": {
                "baseline": {"source": Path("b.gguf")},
                "variants": {"v": {"quantize": "Q8_0"}},
                "gates": {"perplexity": {"max_ratio": 1.1}},
            }
        },
    }
    parsed = spec_from_mapping(data, origin="conftest.py", base=tmp_path)
    assert parsed.spec.models["tiny"].baseline is not None
    assert parsed.spec.models["tiny"].baseline.source == "b.gguf"
    assert parsed.path == tmp_path / "conftest.py"
    place = parsed.location("models", "tiny", "gates", "perplexity")
    assert str(place) == "conftest.py: at models.tiny.gates.perplexity"


def test_problems_of_a_python_mapping_are_told_by_their_keys(tmp_path: Path) -> None:
    """Without lines, the way to a value is its place; values of other types are refused."""
    data: dict[str, object] = {
        "quantgate": 1,
        "defaults": {"timeout": float("nan"), 3: 4, "corpus": b"x"},
        "models": {
            "m": {
                "variants": {"v": {"source": "a\0b"}},
                "gates": {"perplexity": {"max_ratoi": 1.1, "max": None}},
            }
        },
    }
    with pytest.raises(SpecError) as caught:
        spec_from_mapping(data, origin="conftest.py", base=tmp_path)
    assert str(caught.value).splitlines() == [
        (
            "conftest.py: at defaults.timeout: nan is not a finite number; write the number that"
            " is meant"
        ),
        "conftest.py: at defaults: the key 3 is no text; write '3'",
        "conftest.py: at defaults.corpus: a value of type bytes cannot be part of a specification",
        (
            "conftest.py: at models.m.variants.v.source: the text holds the character U+0000; write it"
            " on one line"
        ),
        (
            "conftest.py: at models.m.gates.perplexity.max: 'max' of gate 'perplexity' has no value;"
            " write one, or remove the key"
        ),
        (
            "conftest.py: at models.m.gates.perplexity.max_ratoi: unknown key 'max_ratoi' in gate"
            " 'perplexity'; did you mean 'max_ratio' or 'max_time'? Valid keys: max, max_ratio,"
            " max_increase, policy, corpus, context, chunks, seed, max_chunks, max_time,"
            " on_inconclusive, pass_confidence, fail_confidence"
        ),
    ]


def test_a_python_mapping_that_holds_itself_is_refused(tmp_path: Path) -> None:
    """Depth and number of values are bounded for mappings as they are for files."""
    data: dict[str, object] = {}
    data["models"] = data
    with pytest.raises(SpecError, match="nested deeper than 50 levels"):
        spec_from_mapping(data, origin="conftest.py", base=tmp_path)
    with pytest.raises(SpecError, match="more than 100,000 values"):
        spec_from_mapping({"models": [1] * 100_001}, origin="conftest.py", base=tmp_path)


def test_every_key_of_the_format_says_what_it_is_for() -> None:
    """Editors show a description for each key, gates' settings included."""
    shapes: list[type[BaseModel]] = [Spec, *(kind.settings for kind in kinds().values())]
    for shape in shapes:
        assert all(field.description for field in shape.model_fields.values()), shape


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    start=st.integers(0, len(VALID)),
    length=st.integers(0, 12),
    inserted=st.text(alphabet="ab1.:-[]{}&*!|'\"%#, \n\té~", max_size=6),
)
def test_a_damaged_specification_is_read_or_refused(
    tmp_path: Path, start: int, length: int, inserted: str
) -> None:
    """Any slip of the hand ends in a specification or in problems that each have a place."""
    text = VALID[:start] + inserted + VALID[start + length :]
    problems: tuple[Problem, ...] | None = None
    try:
        load_spec(_write(tmp_path, text))
    except SpecError as error:
        problems = error.problems
    assert problems is None or problems
    for problem in problems or ():
        assert problem.location.line
        assert "Input should" not in problem.message


_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "m",
                    "baseline",
                    "metrics",
                    "variants",
                    "gates",
                    "source",
                    "quantize",
                    "type",
                    *kinds(),
                ]
            )
            | st.integers(),
            inner,
            max_size=4,
        )
    ),
    max_leaves=25,
)


@settings(max_examples=200, deadline=None)
@given(_ANYTHING)
def test_any_python_value_is_read_or_refused(value: object) -> None:
    """A hook may return anything in its mapping; only a `SpecError` comes of it."""
    problems: tuple[Problem, ...] | None = None
    try:
        spec_from_mapping({"quantgate": 1, "models": value}, origin="hook", base=Path())
    except SpecError as error:
        problems = error.problems
    assert problems is None or problems
    assert all("Input should" not in problem.message for problem in problems or ())


_NAMES = st.from_regex(r"\A[A-Za-z0-9._+-]{1,8}\Z")
_POSITIVE = st.floats(0.001, 1e6)
_GATES = st.fixed_dictionaries(
    {},
    optional={
        "checksum": st.just({}),
        "memory": st.builds(lambda limit: {"max_mb": limit}, _POSITIVE),
        "perplexity": st.builds(
            lambda ratio, rise: {"max_ratio": ratio, "max_increase": f"{rise}%"},
            _POSITIVE,
            st.integers(0, 500),
        ),
        "latency": st.builds(lambda limit: {"max_ratio": limit, "repeats": 30}, _POSITIVE),
    },
).filter(bool)
_SPECS = st.fixed_dictionaries(
    {
        "quantgate": st.just(1),
        "models": st.dictionaries(
            _NAMES,
            st.fixed_dictionaries(
                {
                    "baseline": st.just({"source": "b.gguf"}),
                    "variants": st.dictionaries(
                        _NAMES, st.just({"quantize": {"type": "Q8_0"}}), min_size=1, max_size=3
                    ),
                    "gates": _GATES,
                }
            ),
            min_size=1,
            max_size=3,
        ),
    }
)


@settings(max_examples=100, deadline=None)
@given(_SPECS)
def test_a_valid_specification_loses_nothing(data: dict[str, object]) -> None:
    """What is written is what arrives, key by key and in order."""
    parsed = spec_from_mapping(data, origin="hook", base=Path())
    assert _written(parsed) == data


def _written(parsed: ParsedSpec) -> dict[str, object]:
    """Return the keys of a specification that were given, percentages in their own form."""
    plain = parsed.spec.model_dump(exclude_unset=True)
    for model in plain["models"].values():
        perplexity = model["gates"].get("perplexity", {})
        if "max_increase" in perplexity:
            perplexity["max_increase"] = f"{round(perplexity['max_increase'] * 100)}%"
    found: dict[str, object] = plain
    return found
