"""YAML text to a tree with places: syntax, bounds and everything that is refused while reading."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pytest_quantgate.errors import SpecError
from pytest_quantgate.spec import text as text_module
from pytest_quantgate.spec.document import MAX_DEPTH, MAX_NODES, Document, Mark
from pytest_quantgate.spec.text import MAX_BYTES, scan_document

LOADERS = [
    pytest.param(yaml.SafeLoader, id="python"),
    pytest.param(getattr(yaml, "CSafeLoader", yaml.SafeLoader), id="libyaml"),
]


def _heads(text: str | bytes) -> list[str]:
    """Return the first line of every problem of a text."""
    data = text.encode() if isinstance(text, str) else text
    try:
        _, problems = scan_document(data, path="gates.yaml")
    except SpecError as error:
        problems = list(error.problems)
    return [f"{problem.location}: {problem.message}" for problem in problems]


def _document(text: str) -> Document:
    document, problems = scan_document(text.encode(), path="gates.yaml")
    assert problems == []
    return document


INDENTATION = "this line does not go with the lines above it; check the indentation"


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(
    ("text", "head"),
    [
        ("", "1:1: the specification is empty; it starts with `quantgate: 1`"),
        ("# nothing\n", "1:1: the specification is empty; it starts with `quantgate: 1`"),
        ("---\n", "1:1: the specification is empty; it starts with `quantgate: 1`"),
        ("a: 1\n\tb: 2", "2:1: a tab cannot be here; indent with spaces"),
        ("a:\n\t- b", "2:1: a tab cannot be here; indent with spaces"),
        ("a:\n  b: 1\n\tc: 2", "3:1: a tab cannot be here; indent with spaces"),
        ("a: @x", "1:4: a plain text cannot begin with '@'; quote it"),
        ("a: %x", "1:4: a plain text cannot begin with '%'; quote it"),
        ("a: 'x", "1:4: the quoted text that begins here is not closed"),
        ('a: "x\n', "1:4: the quoted text that begins here is not closed"),
        ("a: [1\nb: 2", "1:4: the list that begins here with `[` is not closed properly"),
        ("a: {b: 1", "1:4: the mapping that begins here with `{` is not closed properly"),
        (
            "a: b: c",
            (
                "1:5: a `:` where none can be; quote the value if it holds `: `,"
                " else check the indentation"
            ),
        ),
        ("a: - b", "1:4: a list item cannot be here; put it on its own line"),
        ("- a\nb: 1", f"2:1: {INDENTATION}"),
        ("a: 'x' y", f"1:8: {INDENTATION}"),
        ("a:\n  b: 1\n c: 2", f"3:2: {INDENTATION}"),
        ("a: 1\n---\nb: 2", "2:1: a second document starts here; a file holds one specification"),
        ("a: 1\n...\nb: 2", "3:1: text behind the end of the document; remove it"),
        (
            "key\nother: 1\n? ",
            (
                "2:6: a `:` where none can be; quote the value if it holds `: `,"
                " else check the indentation"
            ),
        ),
        (
            "<<<<<<< HEAD\na: 1\n=======\na: 2\n>>>>>>> branch\n",
            "1:1: a merge conflict that is not resolved begins here",
        ),
        ("a: *x", "1:4: the alias '*x' has no anchor above it"),
        ("a: &x [*x]", "1:8: the alias '*x' stands for what it is part of"),
        ("a: &x 1\nb: &x 2", "2:4: the anchor '&x' is there already, on line 1"),
        ("a: 1\nb: 2\na: 3", "3:1: the key 'a' is there already, on line 1"),
        ("a: {b: 1, b: 1}", "1:11: the key 'b' is there already, on line 1"),
        (
            "a: !!python/object:os.system {}",
            ("1:4: the tag '!!python/object:os.system' is not supported; remove it"),
        ),
        ("a: !foo x", "1:4: the tag '!foo' is not supported; remove it"),
        ("a: !!int 3", "1:4: the tag '!!int' is not supported; remove it"),
        ("!!str a: 3", "1:1: the tag '!!str' is not supported; remove it"),
        (
            "a: &x {b: 1}\nc:\n  <<: *x",
            "3:3: merge keys (`<<`) are not supported; use an alias for a whole value",
        ),
        ("? [a]\n: b", "1:3: a key must be a plain text"),
        ("? {a: 1}\n: b", "1:3: a key must be a plain text"),
        ("&x a: 1", "1:1: a key cannot carry an anchor; put it before the value"),
        (
            "a: no",
            (
                "1:4: no is a truth value in one version of YAML and a text in the other;"
                " write true or false, or quote it: 'no'"
            ),
        ),
        ("a: |\n  x\n", "1:4: the text holds the character U+000A; write it on one line"),
        ('"a\\nb": 1', "1:1: the text holds the character U+000A; write it on one line"),
    ],
)
def test_each_thing_refused_in_yaml(
    text: str, head: str, loader: type[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both of PyYAML's parsers lead to the same place and the same sentence, and to no other."""
    monkeypatch.setattr(text_module, "LOADER", loader)
    assert _heads(text) == [f"gates.yaml:{head}"]


@pytest.mark.skipif(LOADERS[0].values == LOADERS[1].values, reason="PyYAML without libyaml")
def test_a_colon_needs_a_space_behind_it() -> None:
    """Here libyaml is the stricter one; the other parser reads a key without a value."""
    assert _heads("a: {b:}") == ["gates.yaml:1:6: a `:` needs a space behind it"]


@pytest.mark.parametrize(
    ("data", "head"),
    [
        (
            b"a: 1\nb: \xff\xfe",
            "gates.yaml:2:4: not UTF-8: byte 0xff at offset 8; save the file as UTF-8",
        ),
        (
            "a: 1".encode("utf-16"),
            "gates.yaml:1:1: not UTF-8: byte 0xff at offset 0; save the file as UTF-8",
        ),
        (b"a: x\x00", "gates.yaml:1:5: the character U+0000 is not allowed in YAML; remove it"),
        (
            b"a: 1\r\nb: \x1b[0m",
            ("gates.yaml:2:4: the character U+001B is not allowed in YAML; remove it"),
        ),
    ],
)
def test_bytes_that_are_no_yaml_text(data: bytes, head: str) -> None:
    """Encodings and control characters are told with their offset or place."""
    assert _heads(data) == [head]


def test_a_byte_order_mark_is_no_part_of_the_first_key() -> None:
    """Editors that write a byte order mark do not shift or rename anything."""
    document = _document("\ufeffa: 1")
    assert document.root.plain() == {"a": 1}
    assert str(document.location(("a",))) == "gates.yaml:1:1"


def test_a_file_may_be_as_large_as_the_limit_and_no_larger() -> None:
    """The limit itself is read; one byte more is refused before it is parsed."""
    text = "a: 1\n#"
    for size in (MAX_BYTES - 1, MAX_BYTES):
        assert _heads(text + "x" * (size - len(text))) == []
    assert _heads(text + "x" * (MAX_BYTES + 1 - len(text))) == [
        "gates.yaml: the file is larger than 1,048,576 bytes, which no specification needs"
    ]


def test_values_may_be_nested_to_the_limit_and_no_deeper() -> None:
    """The deepest level allowed is read, one more is refused, and a thousand do no harm."""
    for depth in (MAX_DEPTH - 1, MAX_DEPTH):
        assert _heads("[" * depth + "]" * depth) == []
    for depth in (MAX_DEPTH + 1, 1000):
        heads = _heads("[" * depth + "]" * depth)
        assert heads == ["gates.yaml:1:51: nested deeper than 50 levels"]


def test_aliases_count_as_what_they_stand_for_in_depth() -> None:
    """An alias to a nest inside a nest is as deep as both."""
    nest = "[" * 25 + "]" * 25
    assert _heads(f"a: &x {nest}\nb: {'[' * 24}*x{']' * 24}") == []
    assert _heads(f"a: &x {nest}\nb: {'[' * 25}*x{']' * 25}") == [
        "gates.yaml:2:29: aliases expand to more than 50 levels"
    ]


def test_aliases_that_multiply_are_refused() -> None:
    """A billion values from a few lines are refused by count, before they exist."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    heads = _heads("\n".join(lines))
    assert heads == ["gates.yaml:6:10: aliases expand to more than 100,000 values"]


def test_values_are_counted_to_the_limit_and_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """The greatest number of values is read and one more is refused, without any alias."""
    assert MAX_NODES == 100_000
    monkeypatch.setattr(text_module, "MAX_NODES", 100)
    for count in (98, 99):
        assert _heads("[" + "1," * count + "]") == []
    assert _heads("[" + "1," * 100 + "]") == [
        "gates.yaml:1:200: the specification has more than 100 values"
    ]


def test_all_refusals_of_one_text_are_told_together() -> None:
    """Whatever the parser can go on behind is told at once, up to the syntax error that ends it."""
    assert _heads("a: yes\nb: 08\na: !x 1\nc: [1") == [
        (
            "gates.yaml:1:4: yes is a truth value in one version of YAML and a text in the other;"
            " write true or false, or quote it: 'yes'"
        ),
        (
            "gates.yaml:2:4: 08 has a leading zero, which can mean base 8; remove the zero,"
            " or quote it"
        ),
        "gates.yaml:3:4: the tag '!x' is not supported; remove it",
        "gates.yaml:3:1: the key 'a' is there already, on line 1",
        "gates.yaml:4:4: the list that begins here with `[` is not closed properly",
    ]


def test_keys_and_values_know_their_places() -> None:
    """Keys, values, list items and what an alias stands for are found where they are written."""
    document = _document("a: &x\n  b: [1, 'two']\nc: *x\n")
    assert document.root.plain() == {"a": {"b": [1, "two"]}, "c": {"b": [1, "two"]}}
    assert document.mark(("a", "b"), of_key=True) == Mark(2, 3)
    assert document.mark(("a", "b"), of_key=False) == Mark(2, 6)
    assert document.mark(("a", "b", 1), of_key=False) == Mark(2, 10)
    assert document.mark(("c",), of_key=False) == Mark(3, 4)
    assert document.mark(("c", "b"), of_key=True) == Mark(2, 3)
    assert document.mark(("a", "none", "at", "all"), of_key=True) == Mark(1, 1)


def test_quoted_scalars_and_keys_are_texts() -> None:
    """Quotes end every dispute, and keys are texts without them."""
    document = _document("""yes: "no"\n1.5: '08'\nnull: "1e-3"\n'<<': 3\n""")
    assert document.root.plain() == {"yes": "no", "1.5": "08", "null": "1e-3", "<<": 3}


def test_an_excerpt_shows_the_line_above_and_a_caret() -> None:
    """A problem is shown in its text; columns count characters, whatever their bytes are."""
    _, problems = scan_document("é: 1\nü🎉: yes\n".encode(), path="gates.yaml")
    assert problems[0].excerpt == "     1 | é: 1\n     2 | ü🎉: yes\n       |     ^"


def test_an_excerpt_of_a_long_line_shows_the_part_that_matters() -> None:
    """The window moves along with the place, and the caret with the window."""
    line = "a: [" + ", ".join(["'x'"] * 100) + ", yes]"
    _, problems = scan_document(line.encode(), path="gates.yaml")
    shown, caret = problems[0].excerpt.splitlines()
    assert len(shown) <= 9 + 96
    assert shown[caret.index("^") :].startswith("yes")


@settings(max_examples=300, deadline=None)
@given(
    st.text(alphabet=st.sampled_from(list("ab1.:-[]{}&*!|>'\"%@#?,~<= \n\té\x00\\")), max_size=60)
)
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text makes the reader fail in another way than with a `SpecError`."""
    _heads(text)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """No bytes make the reader fail in another way than with a `SpecError`."""
    _heads(data)


_TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cn", "Co", "Cs", "Zl", "Zp"]), max_size=9)
_PLAIN = st.recursive(
    st.booleans() | st.integers(-(2**53), 2**53) | st.decimals(0, 1, places=4).map(float) | _TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(_TEXTS, _PLAIN, min_size=1, max_size=4))
def test_plain_data_is_read_back(data: dict[str, object]) -> None:
    """Strictness costs nothing that plain data needs: what JSON can say comes back as it was."""
    text = json.dumps(data, ensure_ascii=False)
    # Python writes 0.0001 with an exponent, in the form that is in dispute.
    assume("e-" not in text)
    assert _document(text).root.plain() == data
