"""The cases that come along, how they are named, and the schema for editors."""

from __future__ import annotations

import importlib.resources
import json
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from bench_stub import StubBench
from jsonschema import Draft202012Validator

from pytest_quantgate.cases import BUILTIN_SETS, builtin_path, load_cases, named_cases
from pytest_quantgate.cases.schema import json_schema, schema_text
from pytest_quantgate.errors import ArtifactError, SpecError
from pytest_quantgate.spec import load_spec

if TYPE_CHECKING:
    from pathlib import Path

VALIDATOR = Draft202012Validator(json_schema())


# --- the built-in set -------------------------------------------------------------------------------


def test_the_everyday_cases_are_what_the_guide_says() -> None:
    """Kinds and languages are tags, every kind of match is there, and no case is without a tag."""
    cases = load_cases(builtin_path("builtin:everyday"), shown="builtin:everyday")
    tags = Counter(tag for case in cases for tag in case.tags)

    assert len(cases) >= 80
    kinds = {"fact", "arithmetic", "extraction", "json", "instruction", "code", "chat"}
    assert min(tags[kind] for kind in kinds) >= 14
    assert min(tags[language] for language in ("german", "french", "spanish")) >= 10
    assert all(len(case.tags) == 2 for case in cases)
    assert {case.match for case in cases} == {
        "contains",
        "exact",
        "regex",
        "number",
        "json",
        "json_schema",
        "choice",
    }
    assert all(case.max_tokens is not None and case.max_tokens <= 48 for case in cases)


def test_what_is_expected_is_nowhere_given_away() -> None:
    """No case is right by its question alone: an output without words is wrong for all of them."""
    cases = load_cases(builtin_path("builtin:everyday"), shown="builtin:everyday")

    assert [case.id for case in cases if case.judge("").ok or case.judge("...").ok] == []


def test_json_cases_satisfy_their_own_schema() -> None:
    """What a case expects is JSON that its schema allows."""
    cases = load_cases(builtin_path("builtin:everyday"), shown="builtin:everyday")
    both = [case for case in cases if case.expected_value is not None and case.schema_matcher]

    assert len(both) >= 12
    for case in both:
        assert case.schema_matcher is not None
        assert case.schema_matcher.matches(case.expected).ok, case.id
        assert case.judge(case.expected).ok, case.id


def test_a_name_is_a_set_or_a_file(tmp_path: Path) -> None:
    """A built-in name needs no file, and any other one is looked up."""
    (tmp_path / "own.jsonl").write_text('{"prompt": "p", "expected": "e"}', encoding="utf-8")
    bench = StubBench(folder=tmp_path)

    assert len(bench.cases("own.jsonl")) == 1
    assert len(bench.cases("builtin:everyday")) >= 80
    assert named_cases("own.jsonl", bench.file) == bench.cases("own.jsonl")


def test_an_unknown_set_is_told_with_the_known_ones() -> None:
    """A misspelled set names the one that was meant."""
    with pytest.raises(ArtifactError) as caught:
        builtin_path("builtin:evryday")
    assert str(caught.value) == (
        "'builtin:evryday' is not a built-in case set; did you mean 'builtin:everyday'? There is"
        " builtin:everyday"
    )
    with pytest.raises(ArtifactError, match=r"set\. There is builtin:everyday"):
        builtin_path("other")
    assert all(builtin_path(name).is_file() for name in BUILTIN_SETS)


def specification(folder: Path, cases: str) -> Path:
    """Write a specification whose accuracy gate takes these cases."""
    path = folder / "gates.yaml"
    path.write_text(
        "quantgate: 1\nmodels:\n  m:\n    variants: {v: {source: v.gguf}}\n    gates:\n"
        f"      accuracy: {{cases: '{cases}', min: 0.5}}\n",
        encoding="utf-8",
    )
    return path


def test_a_specification_may_name_the_set(tmp_path: Path) -> None:
    """The built-in set needs no file beside the specification."""
    parsed = load_spec(specification(tmp_path, "builtin:everyday"))

    gates = parsed.spec.models["m"].gates.model_dump()
    assert gates["accuracy"]["cases"] == "builtin:everyday"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "builtin:everday",
            "no built-in set of cases 'builtin:everday'; did you mean 'builtin:everyday'?",
        ),
        (
            "../other/cases.jsonl",
            "'cases' points outside the project: '../other/cases.jsonl' is",
        ),
    ],
)
def test_a_specification_with_cases_that_cannot_be(tmp_path: Path, name: str, message: str) -> None:
    """A wrong name is told when the specification is read, before any model is loaded."""
    with pytest.raises(SpecError) as caught:
        load_spec(specification(tmp_path, name))
    assert message in str(caught.value)


# --- the schema -------------------------------------------------------------------------------------


def test_the_shipped_schema_is_the_generated_one() -> None:
    """The file is what the model says; `schema_text()` returns what to write into it."""
    shipped = importlib.resources.files("pytest_quantgate") / "cases.schema.json"

    assert shipped.read_text(encoding="utf-8") == schema_text()
    Draft202012Validator.check_schema(json_schema())
    assert '"null"' not in schema_text()


def test_the_schema_takes_what_the_reader_takes() -> None:
    """The built-in set, as one list, is underlined nowhere."""
    text = builtin_path("builtin:everyday").read_text(encoding="utf-8")
    cases = [json.loads(line) for line in text.splitlines()]

    VALIDATOR.validate(cases)


@pytest.mark.parametrize(
    "case",
    [
        {"prompt": "p", "expected": "e", "expect": "e"},
        {"expected": "e"},
        {"prompt": "p", "messages": [{"role": "user", "content": "c"}], "expected": "e"},
        {"prompt": "", "expected": "e"},
        {"messages": [], "expected": "e"},
        {"messages": [{"role": "bot", "content": "c"}], "expected": "e"},
        {"prompt": "p", "expected": "e", "match": "fuzzy"},
        {"prompt": "p", "expected": "e", "max_tokens": 0},
        {"prompt": "p", "expected": "e", "weight": 0},
        {"prompt": "p", "expected": "e", "stop": [""]},
        {"prompt": "p", "expected": 1, "match": "number", "which": "second"},
    ],
)
def test_the_schema_refuses_what_the_reader_refuses(
    tmp_path: Path, case: dict[str, object]
) -> None:
    """What the editor underlines is a problem when the file is read."""
    path = tmp_path / "cases.json"
    path.write_text(json.dumps([case]), encoding="utf-8")

    assert not VALIDATOR.is_valid([case])
    with pytest.raises(SpecError):
        load_cases(path, shown="cases.json")
