"""Case files that are one list: JSON arrays and YAML."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_quantgate.cases import Case, load_cases
from pytest_quantgate.cases.reading import MAX_PROBLEMS
from pytest_quantgate.errors import SpecError

if TYPE_CHECKING:
    from pathlib import Path

CASES = [
    {"id": "sum", "prompt": "2 + 2 =", "expected": 4, "match": "number", "absolute": 0.5},
    {
        "messages": [{"role": "user", "content": "Grüße: sag\nja"}],
        "expected": "no",
        "stop": ["\n"],
        "tags": ["chat", "german"],
    },
    {"prompt": "JSON:", "expected": {"a": [1, None, True, "010"]}, "match": "json"},
]
PLAIN = [
    {"prompt": "2 + 2 =", "expected": "4"},
    {"prompt": "3 + 3 =", "expected": "6"},
]
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])).filter(
    lambda text: "\ufeff" not in text
)


def load(folder: Path, content: str | bytes, *, name: str = "cases.yaml") -> tuple[Case, ...]:
    """Load a case file of this name and content."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return load_cases(path, shown=name)


def problems(folder: Path, content: str | bytes, *, name: str = "cases.yaml") -> list[str]:
    """Return what is wrong with a case file, one ``line:column message`` each."""
    with pytest.raises(SpecError) as caught:
        load(folder, content, name=name)
    return [
        f"{problem.location.line}:{problem.location.column} {problem.message}"
        for problem in caught.value.problems
    ]


# --- the same cases, whatever the file --------------------------------------------------------------


def test_all_formats_give_the_same_cases(tmp_path: Path) -> None:
    """Lines, an array, and YAML in either style are the same cases; only names of their own differ."""
    lines = load(tmp_path, "\n".join(map(json.dumps, CASES)), name="cases.jsonl")
    array = load(tmp_path, json.dumps(CASES, indent=2), name="cases.json")
    block = load(tmp_path, yaml.safe_dump(CASES, allow_unicode=True))
    flow = load(tmp_path, json.dumps(CASES), name="cases.yml")

    assert [case.id for case in lines] == ["sum", "line-2", "line-3"]
    assert [case.id for case in array] == ["sum", "case-2", "case-3"]
    assert array == block == flow
    assert [case.expected for case in array] == [case.expected for case in lines]


@pytest.mark.parametrize("name", ["cases.JSON", "cases.json", "cases.yaml"])
def test_a_byte_order_mark_and_line_ends_do_not_matter(tmp_path: Path, name: str) -> None:
    """Files from any editor are read."""
    text = json.dumps(PLAIN, indent=1).replace("\n", "\r\n")

    assert len(load(tmp_path, f"\ufeff{text}\r\n", name=name)) == 2


def test_a_list_that_is_long_is_read_at_once(tmp_path: Path) -> None:
    """Thousands of cases are an ordinary file."""
    many = [{"id": f"c{number}", **PLAIN[0]} for number in range(3000)]

    for name in ("cases.json", "cases.yaml"):
        assert len(load(tmp_path, json.dumps(many, indent=0), name=name)) == 3000


@given(TEXTS.filter(bool))
@example("0E0")
def test_any_text_survives_yaml(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """What another program writes as YAML is read as it was meant.

    In quotes: without them YAML 1.1 takes ``0E0`` for a text and YAML 1.2, which is read here, for 0.
    """
    content = yaml.safe_dump(
        [{"prompt": text, "expected": text}], allow_unicode=True, default_style='"'
    )
    (only,) = load(tmp_path_factory.mktemp("cases"), content)

    assert (only.prompt, only.expected) == (text, text)


# --- words without quotes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("null", None),
        ("~", None),
        ("", None),
        ("true", True),
        ("false", False),
        ("7", 7),
        ("-7", -7),
        ("0.5", 0.5),
        ("1e-3", 0.001),
        ("no", "no"),
        ("on", "on"),
        ("010", "010"),
        ("1:30", "1:30"),
        ("0x1F", "0x1F"),
        ("2024-05-01", "2024-05-01"),
        (".5", ".5"),
        ("'7'", "7"),
        ('"true"', "true"),
    ],
)
def test_what_words_without_quotes_stand_for(tmp_path: Path, word: str, value: object) -> None:
    """Only JSON's own words and numbers are more than text, so that an answer `no` stays one."""
    (case,) = load(tmp_path, f"- prompt: p\n  match: json\n  expected: [{word or '~'}]\n")

    assert case.expected_value == [value]


def test_a_number_is_no_text(tmp_path: Path) -> None:
    """Where a text is expected, a number without quotes is refused and the remedy named."""
    assert problems(tmp_path, "- prompt: p\n  expected: 7\n") == [
        "1:3 'expected' should be a valid string, not 7; put it in quotes"
    ]


# --- what is wrong ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            "prompt: p\nexpected: e\n",
            "1:1 a YAML file of cases is one list; begin each case with '- '",
        ),
        (
            "- prompt: p\n  expected: &a e\n",
            "2:13 anchors and aliases are not read in case files; write it out",
        ),
        ("- *a\n", "1:3 anchors and aliases are not read in case files; write it out"),
        (
            "- !!python/name:os.system x\n",
            "1:3 the tag tag:yaml.org,2002:python/name:os.system is not read in case files; remove"
            " it",
        ),
        ("- prompt: p\n  prompt: q\n", "2:3 key 'prompt' is written twice"),
        ("- <<: {prompt: p}\n", "1:3 a key is a word or a text in quotes"),
        ("- ? [a]\n  : b\n", "1:5 a key is a word or a text in quotes"),
        ("- " + "[" * 70 + "]" * 70, "1:68 nested deeper than 64 levels"),
        ("- prompt: 'p\n", "2:1 not valid YAML: found unexpected end of stream"),
        (
            "- prompt: p\n  expected: e\n---\n- prompt: p\n",
            "3:1 a second document begins here; write one list",
        ),
        (
            "- prompt: p\n  expected: \x07\n",
            "2:13 the character U+0007 is not allowed in YAML; remove it",
        ),
        ("- text\n", '1:3 a case is a JSON object such as {"prompt": "2 + 2 =", "expected": "4"}'),
    ],
)
def test_what_is_wrong_with_yaml(tmp_path: Path, content: str, expected: str) -> None:
    """What YAML allows and a list of cases has no use for is refused with its place."""
    assert problems(tmp_path, content)[0] == expected


def test_problems_have_the_place_of_their_key(tmp_path: Path) -> None:
    """In YAML a problem points to the value that is wrong, and quotes its line."""
    content = "- prompt: p\n  expected: e\n  stop:\n    - ''\n- prompt: p\n  expect: e\n"
    with pytest.raises(SpecError) as caught:
        load(tmp_path, content)

    assert str(caught.value) == (
        "cases.yaml:4:7: 'stop.0' is empty\n    - ''\n"
        "cases.yaml:6:11: unknown key 'expect'; a case has id, prompt, messages, expected, match,"
        " json_schema, options, absolute, relative, which, notation, max_tokens, stop, tags, weight\n"
        "    expect: e"
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{}", "1:1 a .json file of cases is one array; name a file with an object a line .jsonl"),
        (
            '[{"prompt": "p",\n "expected": "e"} {}]',
            "2:19 not JSON: expecting ',' or ']' behind a case",
        ),
        (
            '[{"prompt": "p", "expected": "e"}]\n\n]',
            "3:1 not JSON: something stands behind the array",
        ),
        ('[{"prompt": "p", "expected": "e"},\n]', "2:1 not JSON: Expecting value"),
        ('[{"prompt": "p"\n "expected": "e"}]', "2:2 not JSON: Expecting ',' delimiter"),
        ('[{"prompt": "p", "expected": "e"}', "1:34 not JSON: expecting ',' or ']' behind a case"),
        ('[\n{"prompt": "p", "prompt": "e"}]', "2:1 key 'prompt' is written twice"),
        ('[\n\n{"prompt": "p"}]', "3:1 missing key 'expected'"),
        ("[" * 100_000, "1:2 not JSON: nested too deeply"),
    ],
)
def test_what_is_wrong_with_an_array(tmp_path: Path, content: str, expected: str) -> None:
    """A fault in an array is told with its line, as far as the array could be read."""
    assert problems(tmp_path, content, name="cases.json") == [expected]


@pytest.mark.parametrize("name", ["cases.json", "cases.yaml"])
@pytest.mark.parametrize("content", ["", "\n\n", "[]", "  \n"])
def test_an_empty_list_is_refused(tmp_path: Path, name: str, content: str) -> None:
    """No cases would be no test at all."""
    assert problems(tmp_path, content, name=name) == [
        "1:1 the case file is empty; write one JSON object a line"
    ]


@pytest.mark.parametrize("name", ["cases.json", "cases.yaml"])
def test_bytes_that_are_no_utf8_are_named(tmp_path: Path, name: str) -> None:
    """Another encoding is told by its first byte that is none of UTF-8's, with its place."""
    assert problems(tmp_path, b'[\n {"prompt": "caf\xe9"}]', name=name) == [
        "2:17 not UTF-8: byte 0xe9; save the file as UTF-8"
    ]


def test_ids_are_taken_once(tmp_path: Path) -> None:
    """A second case of an id is refused at the id, and the first one named by its line."""
    content = "- {id: a, prompt: p, expected: e}\n- prompt: p\n  expected: e\n  id: a\n"

    assert problems(tmp_path, content) == ["4:7 case id 'a' is taken by line 1"]


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_very_many_problems_are_counted(tmp_path: Path, extra: int) -> None:
    """The first hundred problems are told, and of the others how many they are."""
    count = MAX_PROBLEMS + extra
    found = problems(tmp_path, "- prompt: p\n" * count)

    assert found[:MAX_PROBLEMS] == [
        f"{line}:3 missing key 'expected'" for line in range(1, min(count, MAX_PROBLEMS) + 1)
    ]
    assert found[MAX_PROBLEMS:] == (["101:3 and 1 more problems from here on"] if extra > 0 else [])


@given(st.text(max_size=60) | st.binary(max_size=60), st.sampled_from(["json", "yaml"]))
def test_no_content_breaks_the_reader(
    tmp_path_factory: pytest.TempPathFactory, content: str | bytes, ending: str
) -> None:
    """Whatever a file holds, it is cases or a list of problems."""
    path = tmp_path_factory.mktemp("cases") / f"cases.{ending}"
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    path.write_bytes(data)
    try:
        assert load_cases(path, shown="c") != ()
    except SpecError as error:
        assert error.problems  # noqa: PT017 - the alternative to cases
