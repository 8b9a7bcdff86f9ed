"""Matchers: when an output is right, what each says about it, and expectations they refuse."""

from __future__ import annotations

import json
import re
import time
import warnings
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pytest_quantgate.errors import MeasurementError
from pytest_quantgate.matchers import Kind, Match, matcher_for
from pytest_quantgate.matchers.automaton import Automaton
from pytest_quantgate.matchers.numbers import Notation, numbers
from pytest_quantgate.matchers.pattern import Pattern, parse
from pytest_quantgate.matchers.structure import (
    DEEPEST_NESTING,
    Refused,
    equal,
    field_scores,
    find_json,
)

if TYPE_CHECKING:
    from collections.abc import Callable

LINES = "b\\n" * 30
OPTIONS = ["Rome", "Paris", "New York", "New York City"]
CITY = {
    "type": "object",
    "properties": {"name": {"type": "string", "pattern": "^[A-Z]"}, "size": {"minimum": 0}},
    "patternProperties": {"^x-": {"type": "integer"}},
    "additionalProperties": False,
    "required": ["name"],
}


def judged(kind: Kind, expected: object, output: str, **options: object) -> Match:
    """Return what a matcher says about an output."""
    return matcher_for(kind, expected, **options).matches(output)


def refused(kind: Kind, expected: object, **options: object) -> str:
    """Return why no matcher takes an expectation."""
    with pytest.raises(ValueError, match=r".") as caught:
        matcher_for(kind, expected, **options)
    assert type(caught.value) is ValueError
    return str(caught.value)


# --- text ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "expected", "output", "match"),
    [
        ("contains", "STRASSE", "Hauptstra\u00dfe 1", (True, "the output contains 'STRASSE'")),
        ("contains", "4", "", (False, "the output does not contain '4'")),
        ("exact", " Paris ", "Paris\n", (True, "the output is 'Paris'")),
        ("exact", "Paris", "Paris.", (False, "the output is 'Paris.', expected 'Paris'")),
        ("exact", "a", "b\n" * 40, (False, f"the output is '{LINES}...', expected 'a'")),
        ("regex", "a.b", "a\nb", (True, "the output matches the pattern 'a.b'")),
        ("regex", "^a$", "ba", (False, "the output does not match the pattern '^a$'")),
    ],
)
def test_text(kind: Kind, expected: str, output: str, match: tuple[bool, str]) -> None:
    """`contains` ignores case, `exact` outer blanks, a dot is any character; reasons say it."""
    assert judged(kind, expected, output) == Match(ok=match[0], reason=match[1])


# --- regular expressions ---------------------------------------------------------------------------

PLACES = [r"\b", r"\B", r"\A", r"\Z", "^", "$", "(?:)"]
CLASSES = [r"\w", r"\W", r"\s", r"\d", "[ab]", "[^a]", r"[^\W_]", r"[a-c\d]", "."]
ATOMS = st.sampled_from([*PLACES, *CLASSES, "a", "b", "\u00e9", "K", r"\n", "{e}"])
REPEATS = st.sampled_from(
    ["*", "+", "?", "*?", "+?", "??", "{2}", "{1,2}", "{0,2}?", "{2,}", "{,3}"]
)
HEADS = st.sampled_from(["(", "(?:", "(?i:", "(?m:", "(?s:", "(?-s:", "(?=", "(?!"])
BEHIND = st.sampled_from(["(?<=a)", "(?<!a)", "(?<=ab)", "(?<=^)", "(?<!\\w)", "(?<=a(?=b))"])


def _larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds("{}{}".format, inner, inner),
        st.builds("(?:{}|{})".format, inner, inner),
        st.builds("(?:{}){}".format, inner, REPEATS),
        st.builds("{}{})".format, HEADS, inner),
        BEHIND,
    )


@given(
    st.recursive(ATOMS, _larger, max_leaves=8),
    st.text("aabbABcK\u212ak\n \u00e9\u00c9e\u03011_", max_size=8),
    st.sampled_from([0, int(re.DOTALL)]),
)
def test_the_automaton_finds_what_re_finds(pattern: str, text: str, flags: int) -> None:
    """Whatever a pattern combines, both engines agree whether a text has a match."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compiled = re.compile(pattern, flags)
    except re.error:
        assume(condition=False)
    automaton = Automaton.of(parse(pattern, flags), flags=compiled.flags)

    assert automaton.found_in(text) is (compiled.search(text) is not None)


@pytest.mark.parametrize(
    ("pattern", "output", "found"),
    [
        (r"(a|aa)+$", "a" * 5_000 + "b", False),
        (r"(a+)+$", "a" * 5_000 + "b", False),
        (r"(a|b|ab)*c", "ab" * 2_500, False),
        (r".*.*.*.*x", "a" * 5_000, False),
        (r"^(?=(a|aa)+$)b|a\Z", "a" * 5_000, True),
        (r"(?:a?){50}a{50}", "a" * 50, True),
        (r"(\w+) \1", "a" * 5_000, False),
        (r"(?<!b)(x+x+)+y", "x" * 5_000, False),
        (r"(?:a|aa)+(?!)", "a" * 5_000, False),
        (r"(?:[^a]|b)+(?u:\w)(?-i:c|[^b-c])+c", "b" * 2_000 + "wac", True),
        (r"(?:(a)|b)(?(1)b|a)", "a" * 5_000 + "ab", True),
    ],
)
def test_no_search_hangs(pattern: str, output: str, *, found: bool) -> None:
    """What takes a backtracking engine for ever is answered under a second of processor time."""
    matcher = matcher_for("regex", pattern)
    start = time.process_time()

    assert matcher.matches(output).ok is found
    assert time.process_time() - start < 1


def test_a_pattern_stays_what_it_is_on_long_outputs() -> None:
    """The engine that long outputs get reads words, ends and case as `re` does."""
    for pattern in (r"(?i)\bk\u00d6ln\b.*$", r"^(?!.*sorry).*Paris", "\u00e9{2}\\W"):
        for text in ("K\u00f6ln", "Paris", "Paris, sorry", "\u00e9\u00e9.", "\u00e9\u00e9\u00e9"):
            for padding in ("", " " * 2_001):
                output = padding + text
                expected = re.search(pattern, output, re.DOTALL) is not None
                assert judged("regex", pattern, output).ok is expected


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        (
            "(",
            "'expected' is no regular expression: missing ), unterminated subpattern at position 0",
        ),
        ("(" * 5_000, "'expected' is no regular expression: nested too deeply"),
        (
            "a" * 10_001,
            "'expected' has 10001 characters, of a regular expression at most 10000 are taken",
        ),
        (
            r"(a|bb)*\1",
            "searching with 'expected' could take for ever, as it has a reference to a group beside"
            " nested or several repetitions; write it without",
        ),
        (
            "(?:(?:a{1,99}){1,99}){1,99}",
            "searching with 'expected' could take for ever, as it has more than 5000 states beside"
            " nested or several repetitions; write it without",
        ),
        (
            "(?:(?=a{4000})b*){2000}",
            "searching with 'expected' could take for ever, as it has more than 5000 states beside"
            " nested or several repetitions; write it without",
        ),
    ],
)
def test_patterns_that_are_refused(pattern: str, reason: str) -> None:
    """What is no pattern, or could not be searched in bounded time, is told when it is read."""
    assert refused("regex", pattern) == reason
    assert Pattern.of("a" * 10_000, name="it").found_in("a" * 10_000)


# --- numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("42", [42]),
        ("It is 42.", [42]),
        ("-42 \u221242 +42", [-42, -42, 42]),
        ("40-42 x-42 (3)-2", [40, 42, 42, 3, 2]),
        ("- 42", [42]),
        ("1,234,567.5 and 1234.5", ["1234567.5", "1234.5"]),
        ("1'234 1\u2019234 1\u00a0234 1\u202f234", [1234] * 4),
        ("1 234", [1, 234]),
        ("1,2,3 and 3,14", [1, 2, 3, 3, 14]),
        ("1,234'567", [1, 234567]),
        (".5 -.5", ["1/2", "-1/2"]),
        ("1.2.3 H2O v2 a.5", []),
        ("5km 42nd 3D", [5, 42, 3]),
        ("\u20ac42 $ 42 -$42 $-42 42 \u20ac", [42, 42, -42, -42, 42]),
        ("50% 50 % 12.5 percent 5 per cent", ["1/2", "1/2", "1/8", "1/20"]),
        ("3/4 -3/4 1 1/2 1\u00bd \u2153", ["3/4", "-3/4", "3/2", "3/2", "1/3"]),
        ("1/2/2024", [1, 2, 2024]),
        ("1/0", [1, 0]),
        ("1.5e3 2E-1 3e", [1500, "1/5", 3]),
        ("1.5 x 10^3 2\u00d710\u207b\u00b9 2\u00b710^{2} 2*10^\u22121", [1500, "1/5", 200, "1/5"]),
        ("\u0664\u0662", [42]),
        ("--42", [42]),
    ],
)
def test_what_a_number_is(text: str, values: list[int | str]) -> None:
    """Signs, groups, currencies, shares, fractions and powers are read exactly."""
    assert [found.value for found in numbers(text)] == [Fraction(value) for value in values]


def test_numbers_with_a_decimal_comma() -> None:
    """The other notation swaps point and comma; what is none in it is not guessed."""
    found = numbers("1.234,5 3,14 1.234 3.14 1,2,3", notation="comma")

    assert [one.value for one in found] == [Fraction(2469, 2), Fraction(157, 50), 1234]


@given(st.integers(-(10**12), 10**12), st.integers(0, 6), st.sampled_from(["point", "comma"]))
def test_written_numbers_are_read_back(value: int, places: int, notation: Notation) -> None:
    """A number written with groups of three in either notation is that number."""
    whole, decimals = divmod(abs(value), 10**places)
    text = f"{whole:,}" + (f".{decimals:0{places}}" if places else "")
    if notation == "comma":
        text = text.translate(str.maketrans(".,", ",."))
    text = f"about {'-' if value < 0 else ''}{text}, so"

    assert [found.value for found in numbers(text, notation=notation)] == [
        Fraction(value, 10**places)
    ]


@given(st.text("0123456789.,'/%eE+-\u2212^x\u00d7 $\u00bd\u00b2=ans", max_size=40))
def test_no_text_breaks_the_numbers(text: str) -> None:
    """Whatever stands there is right or wrong."""
    for options in ({}, {"notation": "comma"}, {"which": "first"}, {"which": "last"}):
        assert judged("number", 42, text, **options).reason


@pytest.mark.parametrize(
    ("output", "which", "match"),
    [
        ("41, then 42", "answer", (True, "the last number is 42, as expected")),
        ("41, then 42", "first", (False, "the first number is 41, expected 42")),
        ("2 = 41, not 42", "answer", (False, "the number behind '=' is 41, expected 42")),
        (
            "3 = 3; Answer: 42 or 7",
            "answer",
            (True, "the number behind 'answer' is 42, as expected"),
        ),
        ("The answers: 41 42", "answer", (True, "the last number is 42, as expected")),
        ("42 is the answer", "answer", (True, "the last number is 42, as expected")),
        ("= 41, 42", "last", (True, "the last number is 42, as expected")),
        ("none", "answer", (False, "the output has no number, expected 42")),
        ("", "last", (False, "the output has no number, expected 42")),
        (
            "1e401",
            "last",
            (False, "the last number is 1e401, which has more than 400 digits, expected 42"),
        ),
        ("1e400", "last", (False, "the last number is 1e400, expected 42")),
        ("42%", "answer", (False, "the last number is 42%, expected 42")),
    ],
)
def test_which_number_counts(output: str, which: str, match: tuple[bool, str]) -> None:
    """The number behind the last marker counts, else the last one; or what the case says."""
    assert judged("number", "42", output, which=which) == Match(ok=match[0], reason=match[1])


@pytest.mark.parametrize(
    ("output", "options", "match"),
    [
        (
            "0.19999",
            {"absolute": 0.1},
            (False, "the last number is 0.19999, expected 0.3 within 0.1"),
        ),
        ("0.2", {"absolute": 0.1}, (True, "the last number is 0.2, within 0.1 of 0.3")),
        ("0.4", {"absolute": 0.1}, (True, "the last number is 0.4, within 0.1 of 0.3")),
        (
            "0.40001",
            {"absolute": 0.1},
            (False, "the last number is 0.40001, expected 0.3 within 0.1"),
        ),
        ("0.303", {"relative": 0.01}, (True, "the last number is 0.303, within 1% of 0.3")),
        (
            "0.3031",
            {"relative": 0.01},
            (False, "the last number is 0.3031, expected 0.3 within 1%"),
        ),
        (
            "0.5",
            {"relative": 0.01, "absolute": 0.2},
            (True, "the last number is 0.5, within 0.2 or 1% of 0.3"),
        ),
        ("0.30", {"absolute": 0.1}, (True, "the last number is 0.30, as expected")),
        ("0.3000001", {}, (False, "the last number is 0.3000001, expected 0.3")),
    ],
)
def test_tolerances(output: str, options: dict[str, object], match: tuple[bool, str]) -> None:
    """A distance equal to the larger tolerance is within it, to the last decimal."""
    assert judged("number", 0.3, output, **options) == Match(ok=match[0], reason=match[1])


@pytest.mark.parametrize(
    ("expected", "options", "reason"),
    [
        ("many", {}, "'expected' is 'many'; write one number, such as 42 or 3.5"),
        ("1 2", {}, "'expected' is '1 2'; write one number, such as 42 or 3.5"),
        ("5 km", {}, "'expected' is '5 km'; write one number, such as 42 or 3.5"),
        ("1e999", {}, "'expected' is '1e999'; write one number, such as 42 or 3.5"),
        (True, {}, "'expected' is 'True'; write one number, such as 42 or 3.5"),
        (float("nan"), {}, "'expected' is 'nan'; write one number, such as 42 or 3.5"),
        (1, {"absolute": -1}, "'absolute' is -1; write a tolerance of 0 or more, such as 0.5"),
        (1, {"relative": "1%"}, "'relative' is '1%'; write a tolerance of 0 or more, such as 0.5"),
        (1, {"which": "best"}, "'which' is 'best'; it is one of answer, last, first"),
        (1, {"notation": "us"}, "'notation' is 'us'; it is one of point, comma"),
        (1, {"tolerance": 1}, "the matcher 'number' has no option tolerance"),
    ],
)
def test_numbers_that_are_refused(
    expected: object, options: dict[str, object], reason: str
) -> None:
    """An expectation is exactly one number, and tolerances are none below zero."""
    assert refused("number", expected, **options) == reason


# --- JSON ------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(JSON, st.sampled_from(["{}", " {}\n", "So:\n```json\n{}\n```\nDone [1].", "```\n{}\n```"]))
def test_json_is_found_and_equal_to_itself(value: object, around: str) -> None:
    """Any value is found alone and in a fenced block, its keys in any order."""
    output = around.replace("{}", json.dumps(value, sort_keys=True))

    assert equal(find_json(output), value)
    assert judged("json", json.dumps(value), output) == Match(
        ok=True, reason="the output's JSON is the expected one"
    )


@given(st.text('[]{}",:1 \\`\na', max_size=60))
def test_no_text_breaks_the_json(text: str) -> None:
    """Whatever a model writes is compared or refused."""
    assert judged("json", [1], text).reason
    assert judged("json_schema", {"type": "array"}, text).reason


@pytest.mark.parametrize(
    ("output", "value"),
    [
        ('The answer is {"a": [1]}, or {"a": 2}.', {"a": [1]}),
        ('see [this] and {"a": 1}', {"a": 1}),
        ('{not {"b": 1}} {"a": "}"}', {"a": "}"}),
        ("1e2", 100),
        ('"text"', "text"),
        ("[" * DEEPEST_NESTING + "]" * DEEPEST_NESTING, ...),
    ],
)
def test_where_json_stands(output: str, value: object) -> None:
    """The whole output, or the first balanced object or array in it."""
    found = find_json(output)

    assert value is ... or equal(found, value)


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("", "the output is empty"),
        ("none", "the output is not JSON and holds none: Expecting value at character 1"),
        (
            '{"a": {"b": 1}',
            "the output is not JSON and holds none: Expecting ',' delimiter at character 15",
        ),
        ("```\n1\n```\n```\n2\n```", "the output has 2 fenced blocks, expected one with JSON"),
        ("```\nx\n```", "the fenced block is not JSON: Expecting value at character 1"),
        ('{"a": 1, "a": 1}', "the key 'a' is written twice in the JSON"),
        ('So {"b": {"a": 1, "a": 1}}', "the key 'a' is written twice in the JSON"),
        ("[NaN]", "NaN in the JSON is no number"),
        ("[-Infinity]", "-Infinity in the JSON is no number"),
        ("1e999", "the number 1e999 in the JSON is too large"),
        ("1" * 401, "a number in the JSON has more than 400 digits"),
        ("[" * 65 + "]" * 65, "the JSON is nested 65 levels deep, at most 64 are read"),
        ("[" * 99_999, "the JSON is nested 99999 levels deep, at most 64 are read"),
    ],
)
def test_json_that_is_refused(output: str, reason: str) -> None:
    """What is no JSON, or read differently by different readers, is wrong, and says why."""
    with pytest.raises(Refused) as caught:
        find_json(output)
    assert str(caught.value) == reason
    assert judged("json", 1, output) == Match(ok=False, reason=reason)
    assert judged("json_schema", {}, output) == Match(ok=False, reason=reason)


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ('{"a": 1.0, "b": [true]}', "the output's JSON is the expected one"),
        ('{"a": true, "b": [true]}', "$.a is true, expected 1"),
        ('{"a": 1, "b": [1]}', "$.b[0] is 1, expected true"),
        ('{"a": "1", "b": [true]}', '$.a is "1", expected 1'),
        ('{"a": 1, "b": []}', "$.b has 0 items, expected 1"),
        ('{"b": [true]}', "$.a is missing"),
        ('{"a": 1, "b": [true], "c": 0}', "$.c is not expected"),
        ("[]", '$ is [], expected {"a": 1, "b": [true]}'),
    ],
)
def test_the_first_difference_is_told(output: str, reason: str) -> None:
    """Numbers compare by value, and true is not 1."""
    match = judged("json", '{"a": 1, "b": [true]}', output)

    assert match.reason == reason
    assert match.ok is reason.startswith("the output's")


@pytest.mark.parametrize("expected", ["Paris", "NaN", float("nan"), {1}, '{"a": 1, "a": 1}'])
def test_expected_json_is_json(expected: object) -> None:
    """What could never be equal is refused when it is read."""
    assert refused("json", expected).startswith("'expected' is not JSON that can be compared: ")


# --- JSON Schema -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ('{"name": "Rome", "x-a": 1}', "the output's JSON satisfies the schema"),
        ("{}", "$ breaks 'required' of the schema: 'name' is a required property"),
        (
            '{"name": "rome"}',
            "$.name breaks 'pattern' of the schema: \"rome\" does not match '^[A-Z]'",
        ),
        (
            '{"name": "Rome", "size": -1}',
            "$.size breaks 'minimum' of the schema: -1 is less than the minimum of 0",
        ),
        (
            '{"name": "Rome", "y": 1}',
            "$ breaks 'additionalProperties' of the schema: \"y\" is not among the properties",
        ),
        (
            '{"name": "Rome", "x-a": true}',
            "$['x-a'] breaks 'type' of the schema: True is not of type 'integer'",
        ),
        (
            '"' + "n" * 300 + '"',
            "$ breaks 'type' of the schema: "
            "'" + "n" * 59 + " ... " + "n" * 75 + "' is not of type 'object'",
        ),
    ],
)
def test_what_satisfies_a_schema(output: str, reason: str) -> None:
    """The fault that explains most is told, with its place and the keyword it breaks."""
    match = judged("json_schema", CITY, output)

    assert match.ok is reason.endswith("satisfies the schema")
    assert match.reason == reason


def test_schemas_beyond_keywords() -> None:
    """Booleans are schemas, references lead inside, and other properties may have a schema."""
    nested = {
        "$defs": {"t": {"items": {"$ref": "#/$defs/t"}, "type": "array"}},
        "$ref": "#/$defs/t",
    }
    others = {"additionalProperties": {"type": "integer"}}

    assert judged("json_schema", "true", "1").ok
    assert judged("json_schema", "false", "1").reason == (
        "$ breaks 'false' of the schema: False schema does not allow 1"
    )
    assert judged("json_schema", nested, "[[], [[]]]").ok
    assert not judged("json_schema", nested, "[[], [1]]").ok
    assert judged("json_schema", others, '{"a": 1}').ok
    assert not judged("json_schema", others, '{"a": "1"}').ok
    assert judged("json_schema", CITY | {"type": ["object", "array"]}, "[]").ok


def test_patterns_of_a_schema_do_not_hang() -> None:
    """Values and keys are searched in bounded time."""
    slow = "^(a|aa)+$"
    schemas: list[object] = [
        {"properties": {"k": {"pattern": slow}}},
        {"patternProperties": {slow: False}},
        {"patternProperties": {slow: {}}, "additionalProperties": False},
    ]
    text = "a" * 2_000 + "b"
    start = time.process_time()

    found = [judged("json_schema", one, json.dumps({"k": text, text: 1})).ok for one in schemas]

    assert found == [False, True, False]
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (
            "{",
            "the schema is not JSON that can be compared: Expecting property name enclosed in"
            " double quotes at character 2",
        ),
        ([1], "the schema is wrong at $: [1] is not of type 'object', 'boolean'"),
        ({"minimum": "1"}, "the schema is wrong at $.minimum: '1' is not of type 'number'"),
        (
            {"$schema": "http://json-schema.org/draft-07/schema#"},
            'the schema is of "http://json-schema.org/draft-07/schema#"; draft 2020-12 is supported',
        ),
        (
            {"items": {"$ref": "https://example.org/a.json"}},
            'the schema refers to "https://example.org/a.json", which is not in it; nothing is'
            " fetched, copy it under '$defs'",
        ),
        (
            {"$ref": "#/definitions/a"},
            'the schema refers to "#/definitions/a", which is not in it; nothing is fetched, copy'
            " it under '$defs'",
        ),
        ({"$ref": "#"}, "the schema refers to itself without end; remove the loop of $ref"),
        (
            {"$ref": "#/definitions/a", "definitions": {"a": {"pattern": "["}}},
            "the schema's pattern '[' is no regular expression: unterminated character set at"
            " position 0",
        ),
        (
            {"patternProperties": {r"(a|bb)*\1": {}}},
            r"searching with the schema's pattern '(a|bb)*\1' could take for ever, as it has a"
            " reference to a group beside nested or several repetitions; write it without",
        ),
        (
            {"patternProperties": {}, "unevaluatedProperties": False},
            "the schema has both 'unevaluatedProperties' and 'patternProperties'; use"
            " 'additionalProperties' with the latter",
        ),
    ],
)
def test_schemas_that_are_refused(schema: object, reason: str) -> None:
    """A schema is checked once, when it is read, and is complete in itself."""
    assert refused("json_schema", schema) == reason


def test_a_schema_that_loops_on_some_outputs() -> None:
    """A loop that only some values reach is an error, not a wrong answer."""
    schema = {
        "if": {"const": 7},
        "then": {"$ref": "#/$defs/a"},
        "$defs": {"a": {"$ref": "#/$defs/a"}},
    }
    matcher = matcher_for("json_schema", schema)

    assert matcher.matches("8").ok
    with pytest.raises(MeasurementError, match=r"^the schema refers to itself without end; remove"):
        matcher.matches("7")


# --- choice ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "output",
    ["B", "b", " B. ", "(b)", "[B]", "b) Paris", "B: Paris", "Paris", "PARIS!", "**B**", "`B`",
     "The answer is B", "Answer: B", "answer: **B**", "The answer is (B) Paris.", "B is right",
     "Option b is right", "Paris, a city", "It is Paris, where I live", "B because", "Why?\nb. Paris"],
)  # fmt: skip
def test_how_an_option_is_chosen(output: str) -> None:
    """By label in its usual forms or by full text, in a sentence as well."""
    for expected in ("B", "b", "paris"):
        assert judged("choice", expected, output, options=OPTIONS) == Match(
            ok=True, reason="the output chooses B, as expected"
        )


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("A", "the output chooses A, expected B"),
        ("The answer is A because", "the output chooses A, expected B"),
        ("New York City", "the output chooses D, expected B"),
        ("New York, of course", "the output chooses C, expected B"),
        ("", "the output names none of the options, expected B"),
        ("A city in France", "the output names none of the options, expected B"),
        ("The answer is a city", "the output names none of the options, expected B"),
        ("Parisian", "the output names none of the options, expected B"),
        ("e.g. plan b.", "the output names none of the options, expected B"),
        ("A or B", "the output names A and B, which is ambiguous, expected B"),
        ("B, not Rome", "the output names A and B, which is ambiguous, expected B"),
        ("New York City or New York", "the output names C and D, which is ambiguous, expected B"),
    ],
)
def test_wrong_choices(output: str, reason: str) -> None:
    """Another option, none, and two are wrong; an article is no label."""
    assert judged("choice", "B", output, options=OPTIONS) == Match(ok=False, reason=reason)


def test_labels_of_ones_own() -> None:
    """Options may bring their labels."""
    options = {"1": "yes", "2": "no"}

    assert judged("choice", "no", "(2)", options=options).ok
    assert not judged("choice", "2", "1.", options=options).ok


@given(st.text("ABab .:()*[]\n'answeroption", max_size=40))
def test_no_text_breaks_the_choice(text: str) -> None:
    """Whatever a model writes chooses or does not."""
    assert judged("choice", "A", text, options=["a b", "n"]).reason


@pytest.mark.parametrize(
    ("expected", "options", "reason"),
    [
        ("A", (), "there are 0 options; write at least 2"),
        ("A", ["x"], "there are 1 options; write at least 2"),
        ("A", ["x"] * 27, "there are 27 options, at most 26"),
        ("C", ["x", "y"], "'expected' is 'C', which names 0 of the options A: x, B: y"),
        (1, ["x", "y"], "'expected' is 1, which names 0 of the options A: x, B: y"),
        ("A", ["x", "X"], "two options are named 'x'"),
        ("A", ["B", "A"], "two options are named 'a'"),
        (
            "A",
            ["x", ""],
            "the option 'B': '' is none; write a label of one to three letters or digits, and a"
            " text",
        ),
    ],
)
def test_choices_that_are_refused(expected: object, options: object, reason: str) -> None:
    """Options are told apart, and one of them is expected."""
    assert refused("choice", expected, options=options) == reason


# --- fields ----------------------------------------------------------------------------------------


def test_fields_are_scored() -> None:
    """Objects are gone into, arrays are one field, and what nobody asked for stands apart."""
    expected = {"name": "Ann", "age": 31, "home": {"city": "Bonn", "zip": "53111"}, "tags": [1, 2]}
    output = (
        'Sure: {"age": 31.0, "home": {"city": "Ulm", "street": "x"}, "tags": [1, 2], "name": "Ann"}'
    )

    scores = field_scores(output, expected)

    assert scores.right == ("name", "age", "tags")
    assert (scores.wrong, scores.missing) == (("home.city",), ("home.zip",))
    assert (scores.unexpected, scores.reason) == (("home.street",), "")
    assert scores.share == 3 / 5
    assert field_scores('{"home": 1}', {"home": {"city": "Ulm"}}).unexpected == ()
    assert field_scores('{"a": {"b": 1}}', {"a": 1}).wrong == ("a",)


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("", "the output is empty"),
        ("[1]", "the output's JSON is an array, expected an object"),
        ("true", "the output's JSON is a boolean, expected an object"),
        ("1", "the output's JSON is a number, expected an object"),
    ],
)
def test_without_an_object_all_fields_are_missing(output: str, reason: str) -> None:
    """An output without an object has no right field, and says why."""
    scores = field_scores(output, '{"a": 1, "b": 2}')

    assert (scores.missing, scores.share, scores.reason) == (("a", "b"), 0, reason)


@given(st.dictionaries(st.text(), JSON, min_size=1, max_size=4))
def test_an_object_has_all_its_own_fields(value: dict[str, object]) -> None:
    """What is expected scores 1 against itself, without anything unexpected."""
    scores = field_scores(json.dumps(value), value)

    assert scores.share == 1
    assert scores.unexpected == ()


@pytest.mark.parametrize("expected", [{}, [1], "[]"])
def test_fields_need_an_object(expected: object) -> None:
    """Without fields there is nothing to score."""
    with pytest.raises(
        ValueError, match=r"^'expected' is no JSON object with fields; field scores"
    ):
        field_scores("{}", expected)


# --- all -------------------------------------------------------------------------------------------


def test_kinds_and_options_are_checked() -> None:
    """Unknown names and expectations that are no text are told."""
    assert refused("fuzzy", "x") == (  # type: ignore[arg-type]
        "unknown matcher 'fuzzy'; there are contains, exact, regex, number, json, json_schema,"
        " choice"
    )
    assert refused("exact", "x", which="last") == "the matcher 'exact' has no option which"
    assert refused("contains", "") == "the expected text is ''; write some text"
    assert refused("regex", 3) == "the expected text is 3; write some text"


HOSTILE: list[Callable[[], str]] = [
    lambda: '"\\' * 50_000,
    lambda: "[x]" * 20_000,
    lambda: "```x\n" * 20_000,
    lambda: "1'" * 20_000,
    lambda: "answer " * 10_000 + "\n" * 10_000,
    lambda: "$" * 20_000 + "." * 20_000 + "1/" * 10_000,
]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_output_takes_long(text: Callable[[], str]) -> None:
    """Every matcher reads a long, awkward output in about linear time."""
    output = text()
    start = time.process_time()
    for kind in ("number", "json"):
        assert judged(kind, "12", output).reason
    assert judged("choice", "A", output, options=["a b", "c"]).reason

    assert time.process_time() - start < 2
