"""Asking single cases of a gate again, and having the answers of a run in a file."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Project

SPEC = """\
quantgate: 1
defaults: {corpus: corpus.txt, context: 128}
models:
  tiny:
    baseline: {source: tiny-f16.gguf}
    variants:
      Q8_0:
        quantize: Q8_0
        gates:
          accuracy: {cases: other.jsonl, min: 0.5, max_tokens: 4, cases_are: all}
      Q2_K: {quantize: Q2_K}
    gates:
      checksum: {}
      accuracy: {cases: cases.jsonl, max_flips: 10%, max_tokens: 4, cases_are: all}
"""
Q8_0 = "gates.yaml::tiny::Q8_0::accuracy"
Q2_K = "gates.yaml::tiny::Q2_K::accuracy"

# Two bits break the one sentence that the tiny model knows by heart; any text has a character.
CASES = """\
{"id": "sentence", "prompt": "The dog ran to the", "expected": "end of"}
{"id": "other end", "prompt": "The dog ran to the", "expected": "^(?! end)", "match": "regex"}
{"id": "text", "prompt": "The first of the two", "expected": ".", "match": "regex"}
"""
OTHER = """\
{"id": "text", "prompt": "The first of the two", "expected": ".", "match": "regex"}
{"id": "numbers", "prompt": "1, 2, 3,", "expected": ".", "match": "regex"}
"""


@pytest.fixture
def answering(project: Project) -> Project:
    """A project whose two variants have gates with cases of their own."""
    project.spec(SPEC)
    (project.path / "cases.jsonl").write_text(CASES, encoding="utf-8")
    (project.path / "other.jsonl").write_text(OTHER, encoding="utf-8")
    return project


@pytest.fixture(params=[[], ["-n2"]], ids=["plain", "n2"])
def processes(request: pytest.FixtureRequest) -> list[str]:
    """Arguments that run gates in pytest's own process, and in two workers."""
    arguments: list[str] = request.param
    return arguments


def rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of answers."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def table(result: pytest.RunResult) -> str:
    """Return what a run prints from its table on."""
    return result.stdout.str().partition("= quantgate =")[2]


def test_a_failing_gate_says_how_to_ask_a_case_again_and_it_can_be(answering: Project) -> None:
    """The command of the findings asks that one case, shows it whole, and judges no limit."""
    first = answering.gate("-k", "Q2_K and accuracy")

    first.assert_outcomes(failed=1, deselected=3)
    text = first.stdout.str()
    assert "lost: sentence: 'The dog ran to the'" in text
    assert "gained: other end: 'The dog ran to the'" in text
    parted = r"they part at the first token where the baseline has ' ' \(\d+\.\d%, rank 1; Q2_K \d"
    assert re.search(parted, text)
    assert (
        f"ask one case again: pytest --quantgate gates.yaml {Q2_K} --quantgate-case sentence"
        in text
    )

    again = answering.gate(Q2_K, "--quantgate-case", "sentence")

    again.assert_outcomes(failed=1)
    assert again.ret == pytest.ExitCode.TESTS_FAILED
    text = again.stdout.str()
    assert (
        "0 of 1 chosen cases right; the other 2 of 3 were not asked, and no limit was judged"
        in text
    )
    assert "lost: sentence: 'The dog ran to the'" in text
    assert "max_flips" not in text
    assert (
        "only these cases were asked, and no limit was judged (--quantgate-case): sentence\n"
    ) in table(again)


def test_gates_without_the_cases_are_deselected(answering: Project, processes: list[str]) -> None:
    """Of all gates those that have a chosen case run, each with its own; also under xdist."""
    result = answering.gate(
        *processes, "--quantgate-case", "text", "--quantgate-case", "numbers", "-rP"
    )

    result.assert_outcomes(passed=2, **({} if "-n2" in processes else {"deselected": 2}))
    text = result.stdout.str()
    assert "1 of 1 chosen cases right; the other 2 of 3 were not asked, and no limit" in text
    assert "2 of 2 chosen cases right" in text
    result.stdout.fnmatch_lines(["2 gates: 2 passed"])


def test_other_tests_of_the_run_are_left_alone(answering: Project) -> None:
    """Choosing cases deselects gates, not the project's own tests."""
    answering.pytester.makepyfile(test_own="def test_own(): pass\n")

    result = answering.gate(".", "--quantgate-case", "numbers")

    result.assert_outcomes(passed=2, deselected=3)


def test_a_case_that_no_gate_has_is_a_usage_error(answering: Project, processes: list[str]) -> None:
    """A wrong id ends the run before anything is measured, naming the ids that are near."""
    result = answering.gate(
        *processes, "--quantgate-case=sentense", "--quantgate-case=text", fresh=True
    )

    message = (
        "--quantgate-case: no gate of this run has a case 'sentense'; did you mean 'sentence'?"
    )
    assert message in result.stdout.str() + result.stderr.str()
    assert result.ret not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    assert not (answering.path / ".quantgate" / "measurements").exists()


def test_cases_that_cannot_be_read_are_the_error_of_their_gate(answering: Project) -> None:
    """A broken file of cases might have the one that is meant: its gate says what is wrong."""
    (answering.path / "other.jsonl").write_text("{", encoding="utf-8")

    result = answering.gate("--quantgate-case=numbers")

    result.assert_outcomes(errors=1, deselected=3)
    assert "other.jsonl:1:" in result.stdout.str()


@pytest.mark.parametrize(
    "arguments", [["--quantgate-case=text"], ["--quantgate-answers=answers.jsonl"]]
)
def test_without_a_specification_nothing_is_ignored(
    answering: Project, arguments: list[str]
) -> None:
    """An option that could have no effect is refused."""
    result = answering.run(*arguments)

    flag = arguments[0].partition("=")[0]
    result.stderr.fnmatch_lines([f"*{flag}: name the specification with --quantgate SPEC"])
    assert result.ret == pytest.ExitCode.USAGE_ERROR


def test_every_answer_is_written(answering: Project, processes: list[str]) -> None:
    """The file has each case of each gate once, in one order, whichever process answered it."""
    result = answering.gate(
        *processes, "--quantgate-answers", "out/answers.jsonl", "--junitxml=report.xml"
    )

    assert "answers written: out/answers.jsonl, 5 cases of 2 gates" in table(result)
    found = rows(answering.path / "out" / "answers.jsonl")
    assert [(row["variant"], row["id"], row["flip"]) for row in found] == [
        ("Q2_K", "sentence", "lost"),
        ("Q2_K", "other end", "gained"),
        ("Q2_K", "text", None),
        ("Q8_0", "text", None),
        ("Q8_0", "numbers", None),
    ]
    assert found[0]["baseline"]["output"].startswith(" end of")
    assert found[0]["again"].endswith(f"{Q2_K} --quantgate-case sentence")
    assert [row["baseline"] for row in found[3:]] == [None, None]

    # Reports carry flips and their counts; megabytes of answers stay out of the XML.
    xml = ET.parse(answering.path / "report.xml")  # noqa: S314 - written by pytest itself
    (properties,) = (
        {each.get("name"): each.get("value") for each in test.iter("property")}
        for test in xml.iter("testcase")
        if test.get("name") == "accuracy" and "Q2_K" in ET.tostring(test, encoding="unicode")
    )
    assert properties["quantgate.flips.lost"] == "1"
    assert properties["quantgate.flips.gained"] == "1"
    record = json.loads(properties["quantgate.record"] or "")
    assert [case["id"] for case in record["cases"]] == ["sentence", "other end"]
    assert "quantgate_answers" not in (answering.path / "report.xml").read_text(encoding="utf-8")


def test_answers_are_those_of_the_last_attempt(answering: Project) -> None:
    """A gate that is run again, here by a worker, has its answers in the file once."""
    answering.gate("-n2", "--reruns=1", "-k", "Q2_K", "--quantgate-answers=answers.jsonl")

    assert [row["id"] for row in rows(answering.path / "answers.jsonl")] == [
        "sentence",
        "other end",
        "text",
    ]


def test_a_gate_that_ends_in_an_error_has_no_answers(answering: Project) -> None:
    """The file holds what was answered in this run, and nothing of a run before."""
    answering.gate("-k", "accuracy", "--quantgate-answers=answers.jsonl")
    (answering.path / "cases.jsonl").write_text("{", encoding="utf-8")

    result = answering.gate("-k", "accuracy", "--quantgate-answers=answers.jsonl")

    result.assert_outcomes(passed=1, errors=1, deselected=2)
    assert [row["variant"] for row in rows(answering.path / "answers.jsonl")] == ["Q8_0", "Q8_0"]


@pytest.mark.parametrize("arguments", [["--collect-only"], ["--quantgate-case=nowhere"]])
def test_a_run_that_asks_nothing_leaves_the_file_alone(
    answering: Project, arguments: list[str]
) -> None:
    """Collecting, and a run that is refused, are no runs whose answers could be written."""
    path = answering.path / "answers.jsonl"
    path.write_text("kept\n", encoding="utf-8")

    answering.gate(*arguments, "--quantgate-answers=answers.jsonl")

    assert path.read_text(encoding="utf-8") == "kept\n"


def test_answers_that_cannot_be_written_fail_the_run(answering: Project) -> None:
    """All gates pass, the file cannot be: the run says why and does not exit 0."""
    result = answering.gate("-k", "Q8_0", "--quantgate-answers=corpus.txt/answers.jsonl")

    result.assert_outcomes(passed=2, deselected=2)
    assert "ERROR: --quantgate-answers: " in result.stdout.str()
    assert "corpus.txt: cannot be made: File exists" in result.stdout.str().replace("\n", "")
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR


def test_a_folder_is_no_file_of_answers(answering: Project) -> None:
    """A folder in the file's place is refused before anything is measured."""
    (answering.path / "out").mkdir()

    result = answering.gate("--quantgate-answers=out")

    result.stderr.fnmatch_lines(["*--quantgate-answers: *out is a folder; name a file in it"])
    assert result.ret == pytest.ExitCode.USAGE_ERROR
