"""The structured gate: three shares of JSON outputs, their drops, and both ways of decoding."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from bench_stub import StubBench, as_bench
from pydantic import ValidationError

from pytest_quantgate.cases import Case, load_cases
from pytest_quantgate.cases.structure import Structure, structure_of
from pytest_quantgate.errors import MeasurementError
from pytest_quantgate.gates.structured import GATE, StructuredSettings
from pytest_quantgate.records import Generation, GenerationRequest, Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pytest_quantgate.gates import Judgement, Role

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
RIGHT = '{"name": "Ida", "age": 31}'
OTHER = '{"name": "Ida", "age": 32}'
MISSHAPEN = '{"name": "Ida"}'
TALK = "Ida is 31."

EXAMPLES: dict[str, tuple[bool, bool, float]] = {
    RIGHT: (True, True, 1.0),
    OTHER: (True, True, 0.5),
    MISSHAPEN: (True, False, 0.5),
    TALK: (False, False, 0.0),
}


def write(
    folder: Path, count: int, *, plain: int = 0, keys: Mapping[str, object] | None = None
) -> str:
    """Write a file of cases that ask for JSON, and some that do not; return its name."""
    line = {"expected": json.loads(RIGHT), "match": "json", "json_schema": SCHEMA, **(keys or {})}
    rows: list[dict[str, object]] = [
        {"id": f"case-{number}", "prompt": "Ida is 31. JSON:", **line}
        for number in range(1, count + 1)
    ]
    rows += [{"id": f"plain-{number}", "prompt": "p", "expected": "e"} for number in range(plain)]
    text = "\n".join(json.dumps(row) for row in rows)
    (folder / "cases.jsonl").write_text(text, encoding="utf-8")
    return "cases.jsonl"


def case(folder: Path, **keys: object) -> Case:
    """Return one case that asks for JSON."""
    (only,) = load_cases(folder / write(folder, 1, keys=keys), shown="cases.jsonl")
    return only


def bench(
    folder: Path, candidate: Sequence[str], baseline: Sequence[str] = (), **more: object
) -> StubBench:
    """Return a bench whose models write these outputs."""
    texts = {"candidate": candidate, "baseline": baseline}
    return StubBench(folder=folder, texts=texts, **more)  # type: ignore[arg-type]


def judged(stub: StubBench, **limits: object) -> Judgement:
    """Measure and judge the file's cases."""
    settings = StructuredSettings.model_validate({"cases": "cases.jsonl", **limits})
    evidence = GATE.measure(settings, as_bench(stub))
    return GATE.judge(settings, evidence, as_bench(stub))


# --- one output -------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", EXAMPLES)
def test_what_an_output_is(tmp_path: Path, output: str) -> None:
    """An output parses, satisfies its schema, and has a share of its fields right."""
    found = structure_of(case(tmp_path), output)

    assert (found.parses, found.schema, found.fields) == EXAMPLES[output]


def test_what_a_case_does_not_have_is_not_counted(tmp_path: Path) -> None:
    """Without a schema, or without an object to compare with, there is no such share."""
    bare = case(tmp_path, expected=[1], json_schema=None)

    assert structure_of(bare, "[2]") == Structure(
        parses=True, schema=None, fields=None, reason="the output is JSON"
    )
    assert structure_of(bare, "[2]").conforms
    assert not structure_of(bare, "two").conforms


def test_the_reason_names_wrong_and_missing_fields(tmp_path: Path) -> None:
    """Where the form is right, the reason goes on with the values."""
    assert structure_of(case(tmp_path), OTHER).reason == (
        "the output's JSON satisfies the schema, with wrong fields: age"
    )
    loose = case(tmp_path, json_schema={"type": "object"})
    assert structure_of(loose, MISSHAPEN).reason.endswith("with wrong fields: age")
    assert structure_of(case(tmp_path), MISSHAPEN).reason == (
        "$ breaks 'required' of the schema: 'age' is a required property"
    )


# --- limits -----------------------------------------------------------------------------------------


def test_the_three_shares_are_counted_apart(tmp_path: Path) -> None:
    """Each limit is on its own share, and the headline has all three."""
    write(tmp_path, 4)
    found = judged(
        bench(tmp_path, [RIGHT, OTHER, MISSHAPEN, TALK]),
        min_parse=0.75,
        min_schema=0.5,
        min_fields=0.5,
        cases_are="all",
    )

    assert [(check.limit_name, check.value, check.outcome) for check in found.checks] == [
        ("min_parse", 0.75, Outcome.PASS),
        ("min_schema", 0.5, Outcome.PASS),
        ("min_fields", 0.5, Outcome.PASS),
    ]
    assert found.headline.startswith(
        "parse 75.0%, schema 50.0%, fields 50.0%; parse 75.0% >= min_parse 75.0%; schema"
    )
    assert found.record["schema"] == 0.5
    assert found.record["baseline_schema"] is None


@pytest.mark.parametrize(
    ("limit", "outcome"), [(0.49, Outcome.PASS), (0.5, Outcome.PASS), (0.51, Outcome.FAIL)]
)
def test_a_share_at_its_limit(tmp_path: Path, limit: float, outcome: Outcome) -> None:
    """Where the cases are all that matter, a share equal to its limit passes."""
    write(tmp_path, 2)
    found = judged(bench(tmp_path, [RIGHT, TALK]), min_schema=limit, cases_are="all")

    assert found.checks[0].outcome is outcome


def test_few_cases_leave_a_share_open(tmp_path: Path) -> None:
    """As a sample, four right outputs of four say little, and how many would is said."""
    write(tmp_path, 4)
    found = judged(bench(tmp_path, [RIGHT] * 4), min_schema=0.9)

    assert found.checks[0].outcome is Outcome.INCONCLUSIVE
    assert not found.warn
    assert any(
        finding.startswith("min_schema is undecided at all 4 cases, and about 2")
        and finding.endswith("say `cases_are: all`")
        for finding in found.findings
    )
    assert judged(bench(tmp_path, [RIGHT] * 4), min_schema=0.9, on_inconclusive="warn").warn


@pytest.mark.parametrize(
    ("limit", "outcome"), [("24pp", Outcome.FAIL), ("25pp", Outcome.PASS), ("26pp", Outcome.PASS)]
)
def test_a_drop_is_against_the_baseline_on_the_same_cases(
    tmp_path: Path, limit: str, outcome: Outcome
) -> None:
    """`max_drop` is of the share that satisfies the schema, in points, paired case by case."""
    write(tmp_path, 4)
    stub = bench(tmp_path, [RIGHT, RIGHT, MISSHAPEN, TALK], [RIGHT, RIGHT, RIGHT, TALK])
    found = judged(stub, max_drop=limit, cases_are="all")

    (check,) = found.checks
    assert (check.limit_name, check.value, check.outcome) == ("max_drop", 25.0, outcome)
    assert found.headline.endswith("; the F16 baseline: parse 75.0%, schema 75.0%, fields 75.0%")
    assert [each.flip for each in found.cases] == [None, None, "lost", None]
    assert found.record["baseline_schema"] == 0.75


def test_drops_of_the_other_shares(tmp_path: Path) -> None:
    """What parses and what fields are right may have limits of their own."""
    write(tmp_path, 2)
    stub = bench(tmp_path, [OTHER, TALK], [RIGHT, RIGHT])
    found = judged(stub, max_drop_parse="50pp", max_drop_fields="50pp", cases_are="all")

    assert [(check.limit_name, check.value, check.outcome) for check in found.checks] == [
        ("max_drop_parse", 50.0, Outcome.PASS),
        ("max_drop_fields", 75.0, Outcome.FAIL),
    ]


def test_a_limit_that_stands_alone_asks_no_baseline(tmp_path: Path) -> None:
    """Only a drop needs the other model."""
    write(tmp_path, 1)
    stub = bench(tmp_path, [RIGHT])
    judged(stub, min_parse=0.5, cases_are="all")

    assert [asked[0] for asked in stub.asked] == ["candidate"]
    assert not GATE.needs_baseline(StructuredSettings(cases="c", min_fields=0.5))
    for drop in ("max_drop", "max_drop_parse", "max_drop_fields"):
        assert GATE.needs_baseline(StructuredSettings.model_validate({"cases": "c", drop: "2pp"}))


def test_weights_count(tmp_path: Path) -> None:
    """A case of weight 3 is three quarters of two."""
    name = write(tmp_path, 2)
    heavy, light = (tmp_path / name).read_text(encoding="utf-8").splitlines()
    rows = [{**json.loads(heavy), "weight": 3}, json.loads(light)]
    (tmp_path / name).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = judged(bench(tmp_path, [RIGHT, TALK]), min_schema=0.7, cases_are="all")

    assert found.record["schema"] == 0.75


# --- ways of decoding -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("constrained", "schemas"),
    [(False, [False]), (True, [True]), ("both", [False, True])],
)
def test_the_schema_constrains_where_that_is_asked_for(
    tmp_path: Path, *, constrained: bool | str, schemas: list[bool]
) -> None:
    """The probe gets the schema with the prompt, or not, or is asked both ways."""
    write(tmp_path, 1)
    stub = bench(tmp_path, [RIGHT])
    judged(stub, min_schema=0.5, constrained=constrained, cases_are="all")

    requests = [asked[1] for asked in stub.asked]
    assert [
        request.prompts[0].json_schema is not None
        for request in requests
        if isinstance(request, GenerationRequest)
    ] == schemas


def test_both_ways_are_held_against_each_limit(tmp_path: Path) -> None:
    """With `both` there is a check of each way, and the listing is of free decoding."""
    write(tmp_path, 2)
    found = judged(
        bench(tmp_path, [RIGHT, TALK]), min_schema=0.6, constrained="both", cases_are="all"
    )

    assert [check.limit_name for check in found.checks] == [
        "min_schema",
        "min_schema (constrained)",
    ]
    assert found.headline == (
        "parse 50.0%, schema 50.0%, fields 50.0%; parse 50.0%, schema 50.0%, fields 50.0%"
        " (constrained); schema 50.0% < min_schema 60.0%; schema 50.0% < min_schema (constrained) 60.0%"
    )
    assert found.record["schema_constrained"] == 0.5
    assert len(found.cases) == 2
    assert found.advice == (
        "where the model is served with decoding constrained to the schema, judge it so"
        " (constrained: true); else take a higher level of quantization",
    )


# --- what cannot be judged --------------------------------------------------------------------------


def test_cases_that_do_not_ask_for_json_are_left_out_and_counted(tmp_path: Path) -> None:
    """A mixed file serves this gate with its JSON cases, which the findings say."""
    write(tmp_path, 2, plain=3)
    found = judged(bench(tmp_path, [RIGHT, RIGHT]), min_parse=0.5, cases_are="all")

    assert (
        "2 of the 5 cases of cases.jsonl ask for JSON; the others were not asked" in found.findings
    )


@pytest.mark.parametrize(
    ("keys", "limits", "message"),
    [
        (
            {"match": "contains", "expected": "e", "json_schema": None},
            {"min_parse": 0.5},
            "`cases` of gates.yaml::m::Q4_K_M::gate has nothing to judge: no case of cases.jsonl asks"
            " for JSON (match: json or json_schema)",
        ),
        (
            {"json_schema": None},
            {"max_drop": "2pp"},
            "`max_drop` of gates.yaml::m::Q4_K_M::gate has nothing to judge: no case of cases.jsonl"
            " has a `json_schema`",
        ),
        (
            {"json_schema": None},
            {"min_parse": 0.5, "constrained": True},
            "`constrained` of gates.yaml::m::Q4_K_M::gate has nothing to judge: no case of cases.jsonl"
            " has a `json_schema`",
        ),
        (
            {"expected": [1]},
            {"min_fields": 0.5},
            "`min_fields` of gates.yaml::m::Q4_K_M::gate has nothing to judge: no case of cases.jsonl"
            " expects a JSON object with fields",
        ),
    ],
)
def test_a_limit_that_no_case_serves_is_an_error(
    tmp_path: Path, keys: dict[str, object], limits: dict[str, object], message: str
) -> None:
    """A share of nothing is no pass."""
    write(tmp_path, 2, keys=keys)
    with pytest.raises(MeasurementError) as caught:
        judged(bench(tmp_path, [RIGHT] * 2, [RIGHT] * 2), **limits)
    assert str(caught.value) == message


def test_a_baseline_that_writes_no_json_is_an_error(tmp_path: Path) -> None:
    """A drop from nothing could never show."""
    write(tmp_path, 2)
    with pytest.raises(MeasurementError, match="neither Q4_K_M nor the F16 baseline answers one"):
        judged(bench(tmp_path, [TALK, TALK], [TALK, TALK]), max_drop="2pp")


def test_a_share_that_the_baseline_has_none_of_cannot_drop(tmp_path: Path) -> None:
    """Where the baseline has no field right, a drop of right fields would pass whatever happened."""
    write(tmp_path, 2, keys={"json_schema": {"type": "object"}})
    none = '{"size": 1}'
    with pytest.raises(MeasurementError) as caught:
        judged(bench(tmp_path, [none] * 2, [none] * 2), max_drop_fields="2pp", cases_are="all")
    assert str(caught.value) == (
        "the F16 baseline has no right fields in 2 cases, so max_drop_fields could not show a drop;"
        " check what the cases expect, or remove the limit"
    )


def test_missing_outputs_are_an_error(tmp_path: Path) -> None:
    """What did not come back is not judged."""

    class Short(StubBench):
        def generation(self, role: Role, request: GenerationRequest) -> Generation:
            whole = super().generation(role, request)
            return Generation(outputs=whole.outputs[:1], seconds=whole.seconds)

    write(tmp_path, 2)
    short = Short(folder=tmp_path, texts={"candidate": [RIGHT, RIGHT]})
    with pytest.raises(MeasurementError, match="1 outputs came back for 2 cases"):
        judged(short, min_parse=0.5)


def test_settings_are_told_apart() -> None:
    """`constrained` is yes, no or both, and shares are shares."""
    for wrong in ({"constrained": "free"}, {"min_parse": 1.1}, {"max_drop": 0.02}):
        with pytest.raises(ValidationError):
            StructuredSettings.model_validate({"cases": "c", **wrong})


# --- chosen cases -----------------------------------------------------------------------------------


def test_chosen_cases_are_asked_alone(tmp_path: Path) -> None:
    """On demand one case is asked, and no limit is judged."""
    write(tmp_path, 3)
    stub = bench(tmp_path, [TALK], chosen_cases=frozenset({"case-2"}))
    found = judged(stub, min_schema=0.1, constrained="both")

    assert [(check.statistic, check.outcome) for check in found.checks] == [
        ("case case-2", Outcome.FAIL)
    ]
    assert "no limit was judged" in found.headline


def test_an_unknown_case_is_an_error(tmp_path: Path) -> None:
    """A misspelled id names the one that was meant."""
    write(tmp_path, 3)
    stub = bench(tmp_path, [], chosen_cases=frozenset({"case2"}))
    with pytest.raises(MeasurementError, match="has no case 'case2'; did you mean"):
        judged(stub, min_schema=0.1)
