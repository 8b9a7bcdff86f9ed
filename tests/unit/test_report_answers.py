"""Answered cases as JSON Lines: rows that any reader can read, and a file that is one run's."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from verdict_builder import verdict

from pytest_quantgate.errors import ArtifactError
from pytest_quantgate.records import Answer, AnsweredCase, Parting, TokenChance
from pytest_quantgate.report import answers

if TYPE_CHECKING:
    from pathlib import Path

finite = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=()))
chances = st.builds(
    TokenChance, token=st.integers(0), text=texts, probability=finite, rank=st.integers(1)
)
given_answers = st.builds(
    Answer,
    right=finite,
    output=texts,
    reason=texts,
    finish=texts,
    token_ids=st.lists(st.integers(0), max_size=3).map(tuple),
)
cases = st.builds(
    AnsweredCase,
    id=texts,
    question=texts,
    expected=texts,
    candidate=given_answers,
    baseline=st.none() | given_answers,
    tags=st.lists(texts, max_size=2).map(tuple),
    weight=finite,
    parting=st.none()
    | st.builds(
        Parting,
        position=st.integers(0),
        common=texts,
        baseline=st.tuples(chances, chances),
        candidate=st.tuples(chances, chances),
        near_tie=st.booleans(),
    ),
)
CASE = AnsweredCase(
    id="capital",
    question="Frage: Größe?\u2028",
    expected="groß",
    candidate=Answer(right=0, output="klein"),
    baseline=Answer(right=1, output="groß"),
)


@given(st.lists(cases, max_size=3))
def test_rows_carry_cases_whole(found: list[AnsweredCase]) -> None:
    """Whatever the texts hold, each case is one line of UTF-8 for every reader, and comes back equal."""
    text = answers.rows(verdict(cases=tuple(found)))

    # More line ends than `str.split("\n")` knows: a reader that splits at all of them must be right.
    lines = text.encode("utf-8").decode("utf-8").splitlines()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    known = TypeAdapter(list[AnsweredCase])
    keys = AnsweredCase.__dataclass_fields__
    plain = [{name: row[name] for name in keys} for row in rows]
    assert known.validate_python(plain) == found
    assert [row["flip"] for row in rows] == [case.flip for case in found]


def test_a_row_says_whose_it_is_and_how_to_ask_again() -> None:
    """Rows name format, specification, model, variant and gate; letters stay readable."""
    text = answers.rows(verdict(cases=(CASE,)))

    assert "Größe?\\u2028" in text
    row = json.loads(text)
    assert {name: row[name] for name in ("format", "spec", "model", "variant", "gate", "flip")} == {
        "format": 1,
        "spec": "gates.yaml",
        "model": "smollm2-135m",
        "variant": "Q4_K_M",
        "gate": "perplexity",
        "flip": "lost",
    }
    assert row["again"] == (
        "pytest --quantgate gates.yaml gates.yaml::smollm2-135m::Q4_K_M::perplexity"
        " --quantgate-case capital"
    )


@given(st.text())
def test_the_command_survives_a_shell(case_id: str) -> None:
    """Any id stands as one argument after --quantgate-case."""
    command = answers.again("gates.yaml::m::v::accuracy", case_id)

    assert shlex.split(command)[-2:] == ["--quantgate-case", case_id]


def test_a_figure_that_is_no_number_is_refused() -> None:
    """NaN is no JSON: it is refused where it would be written."""
    odd = AnsweredCase(
        id="x", question="", expected="", candidate=Answer(right=float("nan"), output="")
    )

    with pytest.raises(ValueError, match="not JSON compliant"):
        answers.rows(verdict(cases=(odd,)))


def test_the_file_holds_the_last_attempt_of_each_gate(tmp_path: Path) -> None:
    """Gates come in the order of their ids; an attempt replaces the one before, an error removes it."""
    file = answers.AnswerFile(tmp_path / "new" / "answers.jsonl")
    for node_id, text in (
        ("b", "b1\n"),
        ("c", "c1\n"),
        ("a", "a1\na2\n"),
        ("b", "b2\n"),
        ("c", None),
        ("d", ""),
    ):
        file.take(node_id, text)

    assert file.write() == "3 cases of 2 gates"
    assert (tmp_path / "new" / "answers.jsonl").read_text(encoding="utf-8") == "a1\na2\nb2\n"
    assert [path.name for path in file.path.parent.iterdir()] == ["answers.jsonl"]


def test_a_run_without_answers_leaves_none_of_the_run_before(tmp_path: Path) -> None:
    """The file is this run's: where nothing was answered it is empty."""
    path = tmp_path / "answers.jsonl"
    path.write_text("old\n", encoding="utf-8")
    file = answers.AnswerFile(path)

    assert file.write() == "0 cases of 0 gates"
    assert path.read_text(encoding="utf-8") == ""
    file.take("a", "a1\n")
    assert file.write() == "1 case of 1 gate"


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """A folder that is a file, or cannot be made, is named with the system's reason."""
    (tmp_path / "taken").write_text("", encoding="utf-8")

    with pytest.raises(ArtifactError, match=r"taken: cannot be made: File exists"):
        answers.AnswerFile(tmp_path / "taken" / "answers.jsonl").write()
