"""Case files: what a case is, when an output is right, and every way a line can be wrong."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantgate.cases import Case, load_cases
from pytest_quantgate.errors import ArtifactError, SpecError
from pytest_quantgate.matchers import matcher_for
from pytest_quantgate.records import Message, Prompt

if TYPE_CHECKING:
    from pathlib import Path

GOOD = '{"prompt": "2 + 2 =", "expected": "4"}'
A_CASE_HAS = (
    "a case has id, prompt, messages, expected, match, json_schema, options, absolute, relative, which,"
    " notation, max_tokens, stop, tags, weight"
)


def load(folder: Path, content: str | bytes) -> tuple[Case, ...]:
    """Load a case file of this content."""
    path = folder / "cases.jsonl"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return load_cases(path, shown="cases/critical.jsonl")


def problems(folder: Path, content: str | bytes) -> list[str]:
    """Return what is wrong with a case file, one ``line:column message`` each."""
    with pytest.raises(SpecError) as caught:
        load(folder, content)
    assert {problem.location.path for problem in caught.value.problems} == {"cases/critical.jsonl"}
    return [
        f"{problem.location.line}:{problem.location.column} {problem.message}"
        for problem in caught.value.problems
    ]


def load_one(folder: Path, **keys: object) -> Case:
    """Load a file with one case of these keys, and a prompt."""
    (only,) = load(folder, json.dumps({"prompt": "2 + 2 =", **keys}))
    return only


def problem(folder: Path, **keys: object) -> str:
    """Return what is wrong with a case of these keys, and a prompt."""
    (only,) = problems(folder, json.dumps({"prompt": "2 + 2 =", **keys}))
    return only.removeprefix("1:1 ")


# --- right files -----------------------------------------------------------------------------------


def test_a_line_with_all_keys(tmp_path: Path) -> None:
    """Every key of a line arrives in the case."""
    line = {
        "id": "capital",
        "messages": [
            {"role": "system", "content": "Answer in one word."},
            {"role": "user", "content": "Capital of France?"},
        ],
        "expected": "^Paris",
        "match": "regex",
        "max_tokens": 8,
        "stop": ["\n", "."],
        "tags": ["facts", "english"],
        "weight": 2,
    }

    assert load(tmp_path, json.dumps(line)) == (
        Case(
            id="capital",
            prompt=None,
            messages=(
                Message(role="system", content="Answer in one word."),
                Message(role="user", content="Capital of France?"),
            ),
            expected="^Paris",
            match="regex",
            matcher=matcher_for("regex", "^Paris"),
            max_tokens=8,
            stop=("\n", "."),
            tags=("facts", "english"),
            weight=2.0,
        ),
    )


def test_a_line_with_the_least(tmp_path: Path) -> None:
    """A prompt and an answer are a case: matched by `contains`, named for its line."""
    (only,) = load(tmp_path, GOOD)

    assert only == Case(
        id="line-1", prompt="2 + 2 =", expected="4", matcher=matcher_for("contains", "4")
    )
    assert (only.match, only.tags, only.weight) == ("contains", (), 1.0)


@pytest.mark.parametrize(
    "content",
    [
        f"{GOOD}\n\n{GOOD}\n",
        f"{GOOD}\r\n  \r\n{GOOD}\r\n",
        f"\ufeff{GOOD}\n\n{GOOD}",
    ],
)
def test_line_ends_blank_lines_and_byte_order_marks_do_not_matter(
    tmp_path: Path, content: str
) -> None:
    """Files from any editor are read, and lines keep their numbers."""
    assert [one.id for one in load(tmp_path, content)] == ["line-1", "line-3"]


@given(st.text(min_size=1).filter(lambda text: text.encode("utf-8", "ignore").decode() == text))
def test_any_text_survives_the_file(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Prompts and answers come back exactly, escaped or as they are."""
    folder = tmp_path_factory.mktemp("cases")
    for ascii_only in (True, False):
        line = json.dumps({"prompt": text, "expected": text}, ensure_ascii=ascii_only)
        (only,) = load(folder, line)
        assert (only.prompt, only.expected, only.question) == (text, text, text)


# --- right outputs ---------------------------------------------------------------------------------

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}


@pytest.mark.parametrize(
    ("keys", "output", "right"),
    [
        ({"expected": "paris"}, "It is PARIS.", True),
        ({"expected": "Paris"}, "It is Par is.", False),
        ({"expected": "Paris", "match": "exact"}, " Paris\n", True),
        ({"expected": "Paris", "match": "exact"}, "Paris.", False),
        ({"expected": r"a.b", "match": "regex"}, "a\nb", True),
        ({"expected": r"^Paris$", "match": "regex"}, "in Paris", False),
        ({"expected": 4, "match": "number"}, "2 + 2 = 4.0", True),
        ({"expected": 4, "match": "number"}, "5", False),
        ({"expected": "4", "match": "number", "absolute": 1}, "5", True),
        ({"expected": 4, "match": "number", "relative": 0.2}, "5", False),
        ({"expected": 4, "match": "number", "which": "first"}, "4, then 5", True),
        ({"expected": "4,5", "match": "number", "notation": "comma"}, "4,50 Euro", True),
        ({"expected": {"a": 1}, "match": "json"}, 'Sure: {"a": 1.0}', True),
        ({"expected": '{"a": 1}', "match": "json"}, '{"a": 2}', False),
        ({"expected": None, "match": "json"}, "null", True),
        ({"match": "json_schema", "json_schema": PERSON}, '{"name": "Ida", "age": 3}', True),
        ({"match": "json_schema", "json_schema": PERSON}, '{"name": "Ida"}', False),
        ({"expected": "B", "match": "choice", "options": ["run", "blue"]}, "B", True),
        ({"expected": "B", "match": "choice", "options": {"A": "run", "B": "blue"}}, "A", False),
    ],
)
def test_when_an_output_is_right(
    tmp_path: Path, keys: dict[str, object], output: str, *, right: bool
) -> None:
    """Each kind of match decides with the options that a case gives it."""
    assert load_one(tmp_path, **keys).judge(output).ok is right


def test_what_is_said_of_an_output(tmp_path: Path) -> None:
    """A judgement has its reason with it."""
    found = load_one(tmp_path, expected="4").judge("5")

    assert found.reason == "the output does not contain '4'"


def test_what_is_shown_of_an_expectation(tmp_path: Path) -> None:
    """Texts show as they are, values as JSON, and a schema where nothing else is expected."""
    assert load_one(tmp_path, expected=4, match="number").expected == "4"
    assert load_one(tmp_path, expected={"ä": [1]}, match="json").expected == '{"ä": [1]}'
    schema = load_one(tmp_path, match="json_schema", json_schema={"type": "array"})
    assert schema.expected == '{"type": "array"}'
    assert schema.json_schema == '{"type": "array"}'
    assert schema.schema_matcher is schema.matcher


def test_values_and_schemas_of_json_cases(tmp_path: Path) -> None:
    """A value is kept as such, also where it was written as text; a schema may stand beside it."""
    written = load_one(tmp_path, expected='{"a": 1}', match="json", json_schema={"type": "object"})
    assert written.expected_value == {"a": 1}
    assert written.schema_matcher is not None
    assert not written.schema_matcher.matches("[1]").ok
    both = load_one(tmp_path, expected={"a": 1}, match="json_schema", json_schema=PERSON)
    assert (both.expected, both.expected_value) == ('{"a": 1}', {"a": 1})
    assert load_one(tmp_path, expected="4").expected_value is None


def test_cases_can_be_told_apart_in_sets(tmp_path: Path) -> None:
    """A case with a JSON value can be hashed like any other."""
    found = {load_one(tmp_path, expected={"a": [1]}, match="json") for _ in range(2)}

    assert len(found) == 1


def test_what_a_probe_is_asked(tmp_path: Path) -> None:
    """Only `contains` may end an output early, and a schema goes along where it is to constrain."""
    assert load_one(tmp_path, id="one", expected="Paris").to_prompt(max_tokens=7) == Prompt(
        id="one", prompt="2 + 2 =", max_tokens=7, until="Paris"
    )
    for match in ("exact", "regex"):
        case = load_one(tmp_path, expected="Paris", match=match)
        assert case.to_prompt(max_tokens=7).until is None
    case = load_one(tmp_path, match="json_schema", json_schema={"type": "array"})
    assert case.to_prompt(max_tokens=7).json_schema is None
    assert case.to_prompt(max_tokens=7, constrained=True).json_schema == '{"type": "array"}'


def test_a_cases_own_length_wins(tmp_path: Path) -> None:
    """``max_tokens`` and ``stop`` of a line go to the probe; the last message is the question."""
    line = {
        "messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}],
        "expected": "c",
        "max_tokens": 3,
        "stop": ["\n"],
    }
    (only,) = load(tmp_path, json.dumps(line))

    asked = only.to_prompt(max_tokens=64)

    assert (asked.max_tokens, asked.stop, asked.prompt) == (3, ("\n",), None)
    assert asked.messages == only.messages
    assert only.question == "b"


# --- wrong lines -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"prompt": ', "1:12 not JSON: Expecting value"),
        ("{'prompt': 1}", "1:2 not JSON: Expecting property name enclosed in double quotes"),
        ('{"a": 1} x', "1:10 not JSON: Extra data"),
        (
            '{"prompt": "p", "expected": "e", "max_tokens": NaN}',
            "1:1 not JSON: NaN is no number",
        ),
        (
            '{"prompt": "p", "expected": "e", "max_tokens": -Infinity}',
            "1:1 not JSON: -Infinity is no number",
        ),
        ("[" * 100_000, "1:1 not JSON: nested too deeply"),
        (
            '{"prompt": "p", "expected": "e", "expected": "f"}',
            "1:1 key 'expected' is written twice",
        ),
        (
            '{"messages": [{"role": "user", "role": "user", "content": ""}], "expected": "e"}',
            "1:1 key 'role' is written twice",
        ),
        (
            "[1]",
            '1:1 a case is a JSON object such as {"prompt": "2 + 2 =", "expected": "4"}',
        ),
        (
            "null",
            '1:1 a case is a JSON object such as {"prompt": "2 + 2 =", "expected": "4"}',
        ),
        ('{"prompt": "p"}', "1:1 missing key 'expected'"),
        (
            '{"prompt": "p", "expected": "e", "expect": "f"}',
            f"1:1 unknown key 'expect'; {A_CASE_HAS}",
        ),
        (
            '{"prompt": "p", "expected": 5}',
            "1:1 'expected' should be a valid string, not 5; put it in quotes",
        ),
        ('{"prompt": "p", "expected": ""}', "1:1 'expected' is empty"),
        ('{"prompt": "", "expected": "e"}', "1:1 'prompt' is empty"),
        ('{"messages": [], "expected": "e"}', "1:1 'messages' is empty"),
        ('{"id": "", "prompt": "p", "expected": "e"}', "1:1 'id' is empty"),
        (
            '{"prompt": "p", "expected": "e", "match": "fuzzy"}',
            "1:1 'match' should be 'contains', 'exact', 'regex', 'number', 'json', 'json_schema' or"
            " 'choice', not 'fuzzy'",
        ),
        (
            '{"prompt": "p", "expected": "e", "max_tokens": 0}',
            "1:1 'max_tokens' should be greater than or equal to 1, not 0",
        ),
        (
            '{"prompt": "p", "expected": "e", "max_tokens": true}',
            "1:1 'max_tokens' should be a valid integer, not True",
        ),
        (
            '{"prompt": "p", "expected": "e", "stop": [1]}',
            "1:1 'stop.0' should be a valid string, not 1",
        ),
        ('{"prompt": "p", "expected": "e", "stop": [""]}', "1:1 'stop.0' is empty"),
        ('{"prompt": "p", "expected": "e", "tags": [""]}', "1:1 'tags.0' is empty"),
        (
            '{"prompt": "p", "expected": "e", "weight": 0}',
            "1:1 'weight' should be greater than 0, not 0",
        ),
        (
            '{"prompt": "p", "expected": "e", "weight": 1e999}',
            "1:1 'weight' should be a finite number, not inf",
        ),
        (
            '{"prompt": "p", "expected": "e", "tags": ["a", "b", "a"]}',
            "1:1 'tags' names a slice twice: a, b, a",
        ),
        (
            '{"messages": [{"role": "user"}], "expected": "e"}',
            "1:1 missing key 'messages.0.content'",
        ),
        (
            '{"messages": [{"role": "bot", "content": "c"}], "expected": "e"}',
            "1:1 'messages.0.role' should be 'system', 'user' or 'assistant', not 'bot'",
        ),
        (
            '{"messages": [{"role": "user", "content": "c", "name": "n"}], "expected": "e"}',
            "1:1 unknown key 'messages.0.name'; a message has role, content",
        ),
        ('{"expected": "e"}', "1:1 a case has either 'prompt' or 'messages'"),
        (
            '{"prompt": "p", "messages": [{"role": "user", "content": "c"}], "expected": "e"}',
            "1:1 a case has either 'prompt' or 'messages'",
        ),
        (
            '{"prompt": "p", "expected": "(", "match": "regex"}',
            "1:1 'expected' is no regular expression: missing ), unterminated subpattern at"
            " position 0",
        ),
    ],
)
def test_what_is_wrong_with_a_line(tmp_path: Path, line: str, expected: str) -> None:
    """Each fault is told in its own words, with its line and what would be right."""
    assert problems(tmp_path, line) == [expected]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"match": "json"}, "missing key 'expected'"),
        ({"match": "number"}, "missing key 'expected'"),
        ({"match": "exact", "expected": ""}, "'expected' is empty"),
        (
            {"match": "exact", "expected": True},
            "'expected' should be a valid string, not True; put it in quotes",
        ),
        (
            {"match": "number", "expected": "four"},
            "'expected' is 'four'; write one number, such as 42 or 3.5",
        ),
        (
            {"match": "json", "expected": "{"},
            "'expected' is not JSON that can be compared: Expecting property name enclosed in double"
            " quotes at character 2",
        ),
        ({"expected": "e", "absolute": 1}, "the matcher 'contains' has no option absolute"),
        (
            {"match": "json_schema"},
            "a case of the kind json_schema has its schema in the key 'json_schema'",
        ),
        (
            {"match": "json_schema", "json_schema": True, "which": "last"},
            "the matcher 'json_schema' has no option which",
        ),
        (
            {"match": "json_schema", "json_schema": True, "expected": [1]},
            "'expected' of the kind json_schema is an object, whose fields are compared",
        ),
        (
            {"expected": "e", "json_schema": True},
            "'json_schema' belongs to the kinds json and json_schema, not to 'contains'",
        ),
        (
            {"match": "json", "expected": 1, "json_schema": {"type": "strng"}},
            "the schema is wrong at $.type: 'strng' is not valid under any of the given schemas",
        ),
        (
            {"match": "choice", "expected": "C", "options": ["run", "blue"]},
            "'expected' is 'C', which names 0 of the options A: run, B: blue",
        ),
    ],
)
def test_keys_that_do_not_go_together(
    tmp_path: Path, keys: dict[str, object], expected: str
) -> None:
    """What a kind of match needs, and what it has no use for, is told when the file is read."""
    assert problem(tmp_path, **keys) == expected


def test_half_a_surrogate_pair_is_refused(tmp_path: Path) -> None:
    """An escape that is no character could not be sent to a model, so it is no text."""
    for line in (
        r'{"prompt": "p", "expected": "\ud800"}',
        r'{"prompt": "p", "expected": ["\uD800"], "match": "json"}',
    ):
        assert problems(tmp_path, line) == [
            r"1:1 not JSON: \ud800 is half of a surrogate pair and no character"
        ]
    assert load_one(tmp_path, expected="\U0001f600").expected == "\U0001f600"


def test_bytes_that_are_no_utf8_are_named(tmp_path: Path) -> None:
    """Another encoding is told by its first byte that is none of UTF-8's, with its column."""
    found = problems(tmp_path, GOOD.encode() + b'\n{"prompt": "caf\xe9", "expected": "e"}')

    assert found == ["2:16 not UTF-8: byte 0xe9"]


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff", "  \r\n\t"])
def test_an_empty_file_is_refused(tmp_path: Path, content: str) -> None:
    """No cases would be no test at all."""
    assert problems(tmp_path, content) == [
        "1:1 the case file is empty; write one JSON object a line"
    ]


def test_case_ids_are_taken_once(tmp_path: Path) -> None:
    """A second case of an id is refused, also where the id is the one a line number gave."""
    lines = [
        '{"id": "a", "prompt": "p", "expected": "e"}',
        '{"id": "line-3", "prompt": "p", "expected": "e"}',
        GOOD,
        '{"id": "a", "prompt": "q", "expected": "e"}',
    ]

    assert problems(tmp_path, "\n".join(lines)) == [
        "3:1 case id 'line-3' is taken by line 2",
        "4:1 case id 'a' is taken by line 1",
    ]


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    """A line with two faults gives two problems, and later lines give theirs; good ones none."""
    lines = [
        GOOD,
        '{"prompt": 1, "expected": "e", "max_tokens": "2"}',
        "not json",
        GOOD,
        '{"prompt": "p", "messages": [{"role": "user", "content": "c"}], "expected": "[",'
        ' "match": "regex"}',
    ]

    assert problems(tmp_path, "\n".join(lines)) == [
        "2:1 'prompt' should be a valid string, not 1",
        "2:1 'max_tokens' should be a valid integer, not '2'",
        "3:1 not JSON: Expecting value",
        "5:1 a case has either 'prompt' or 'messages'",
        "5:1 'expected' is no regular expression: unterminated character set at position 0",
    ]


def test_the_error_quotes_the_line(tmp_path: Path) -> None:
    """Below each problem stands its line, cut where it gets long."""
    line = '{"prompt": "' + "p" * 200 + '"}'
    with pytest.raises(SpecError) as caught:
        load(tmp_path, line)

    assert str(caught.value) == (
        "cases/critical.jsonl:1:1: missing key 'expected'\n    " + line[:100] + "..."
    )


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file and a folder are named as the specification names them."""
    for path, reason in (
        (tmp_path / "none.jsonl", "No such file or directory"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(ArtifactError) as caught:
            load_cases(path, shown="cases/critical.jsonl")
        assert str(caught.value) == f"cannot read the case file cases/critical.jsonl: {reason}"


@given(st.binary(max_size=80))
def test_no_bytes_break_the_reader(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    """Whatever a file holds, it is cases or a list of problems."""
    path = tmp_path_factory.mktemp("cases") / "cases.jsonl"
    path.write_bytes(content)
    try:
        assert load_cases(path, shown="c") != ()
    except SpecError as error:
        assert error.problems  # noqa: PT017 - the alternative to cases
