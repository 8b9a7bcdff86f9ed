"""Chat templates: ordinary ones pass, what reaches out of a template is found, and nothing is run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from gguf_writer import ARRAY, STRING, Gguf
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_quantgate.artifact.gguf import check_model, read_header
from pytest_quantgate.artifact.gguf.chat_template import MAX_TEMPLATE_BYTES, scan, scan_text
from pytest_quantgate.errors import SecurityError

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_quantgate.artifact.gguf import GgufHeader

ORDINARY = """\
{%- macro part(text, kind='text') -%}{{ '<' ~ kind ~ '>' + text | trim }}{%- endmacro -%}
{%- set ns = namespace(system=none, first=true) -%}
{%- set users = messages | selectattr('role', 'equalto', 'user') | list -%}
{%- if messages[0]['role'] == 'system' -%}{%- set ns.system = messages[0].content -%}{%- endif -%}
{%- for message in messages -%}
  {%- if message.role not in ['user', 'assistant'] -%}{{ raise_exception('unknown role') }}{%- endif -%}
  {%- generation -%}
    {{ part(message['content'].split('</think>')[-1].lstrip('\\n')) }}
  {%- endgeneration -%}
  {%- for call in message.tool_calls or [] -%}
    {{ loop.index0 }}{{ '%02d' % loop.index }}{{ call.arguments | tojson(indent=2) }}
    {%- for key, value in call.arguments.items() -%}{{ call.arguments[key | trim] }}{%- endfor -%}
    {%- if loop.last -%}{%- break -%}{%- endif -%}
  {%- endfor -%}
{%- endfor -%}
{{ strftime_now('%d %b %Y') }}{{ tools | map(attribute='function.name') | join(', ') }}
{{ '{} of {}'.format(users | length, range(3) | max) }}{{ messages | sort(attribute='role') }}
{%- if add_generation_prompt -%}{{ bos_token }}assistant:{%- endif -%}
"""


def header_of(folder: Path, *entries: tuple[str, int, object]) -> GgufHeader:
    """Return the header of a file with these entries beside the usual ones."""
    path = folder / "model.gguf"
    path.write_bytes(Gguf().with_metadata(*entries).encode())
    return read_header(path)


def test_ordinary_templates_have_no_findings() -> None:
    """Macros, tools, namespaces, loop control and marks of training are what templates use."""
    assert scan_text(ORDINARY) == ()


@pytest.mark.parametrize(
    ("template", "finding"),
    [
        ("{{ x.__class__ }}", "reaches for the attribute '__class__'"),
        ("{{ x._private }}", "reaches for the attribute '_private'"),
        ("{{ x.gi_frame.f_builtins }}", "reaches for the attribute 'f_builtins'"),
        ("{% set ns.__class__ = 1 %}", "reaches for the attribute '__class__'"),
        ("{{ x['__class__'] }}", "reaches for the item '__class__'"),
        (r"{{ x['\x5f\x5fmro\x5f\x5f'] }}", "reaches for the item '__mro__'"),
        ("{{ x['__cl' ~ 'ass__'] }}", "puts the name of the item together from '__class__'"),
        ("{{ x[('_' * 2) ~ y] }}", "puts the name of the item together from '_'"),
        ("{{ x['%s'|format(y)] }}", "puts the name of the item together from '%s'"),
        ("{{ x['ab'.replace('a', y)] }}", "puts the name of the item together from 'aba'"),
        ("{{ x['~~class~~'|replace('~', y)] }}", "puts the name of the item together"),
        ("{% set k = '__ssalc__'|reverse %}", "has the text '__ssalc__', a name of Python's"),
        ("{% set k = '%c' % 95 %}", "makes letters out of numbers"),
        ("{% set k = '%c'|format(95) %}", "makes letters out of numbers"),
        ("{{ x|attr('y') }}", "uses the filter attr, which looks attributes up by a text"),
        ("{% filter attr('y') %}x{% endfilter %}", "uses the filter attr"),
        ("{{ x|map('attr', 'y') }}", "uses the filter attr through map"),
        ("{{ x|map(y) }}", "uses a filter by a name it works out"),
        ("{{ x|map(attribute='a.__b__') }}", "reaches for the attribute 'a.__b__'"),
        ("{{ x|map(attribute=y) }}", "with the filter map, by a name it works out"),
        ("{{ x|selectattr(y) }}", "with the filter selectattr, by a name it works out"),
        ("{{ x|sort(false, false, y) }}", "with the filter sort, by a name it works out"),
        ("{{ x|groupby('__class__') }}", "reaches for the attribute '__class__'"),
        ("{{ x|tojson(*y) }}", "hides what it gives to the filter tojson"),
        ("{{ '{0.real}'.format(x) }}", "fills a text with the method format"),
        ("{{ y.format(x) }}", "fills a text with the method format, which can read attributes"),
        ("{{ '{a.b}'.format_map(x) }}", "fills a text with the method format_map"),
        ("{{ f() }}", "calls the unknown function 'f'"),
        ("{{ x.system('ls') }}", "calls the unknown method 'system'"),
        ("{{ x['y']() }}", "calls something that has no name"),
        ("{{ self }}", "uses 'self', an object with ways out of the template"),
        ("{{ lipsum }}", "uses 'lipsum', an object with ways out of the template"),
        ("{% include 'x' %}", "loads another template (include)"),
        ("{% import 'x' as y %}", "loads another template (import)"),
        ("{% from 'x' import y %}", "loads another template (fromimport)"),
        ("{% extends 'x' %}", "loads another template (extends)"),
        ("{% foo %}", "cannot be parsed: Encountered unknown tag 'foo'."),
        ("{{ " + "(" * 9000 + " }}", ": is nested too deeply to be looked through"),
        ("{{ " + "9" * 5000 + " }}", ": cannot be parsed: Exceeds the limit"),
    ],
)
def test_finds_what_reaches_out(template: str, finding: str) -> None:
    """Each way out of a template, plain or in disguise, is found."""
    assert any(finding in found for found in scan_text(template))


def test_findings_name_their_line() -> None:
    """A reader finds the place; what occurs twice on a line is told once."""
    assert scan_text("a\nb {{ x._y }}{{ x._y }}\n") == (", line 2: reaches for the attribute '_y'",)


@pytest.mark.parametrize(("more", "accepted"), [(-1, True), (0, True), (1, False)])
def test_templates_have_a_largest_size(more: int, accepted: bool) -> None:  # noqa: FBT001 - a parameter of the table
    """A mebibyte is looked through, a byte more is refused."""
    assert (scan_text("a" * (MAX_TEMPLATE_BYTES + more)) == ()) is accepted


def test_every_template_of_a_model_is_scanned(tmp_path: Path) -> None:
    """Variants for tools are templates, too; the list of their names is not."""
    header = header_of(
        tmp_path,
        ("tokenizer.chat_template", STRING, ORDINARY),
        ("tokenizer.chat_template.tool_use", STRING, "{{ x.__class__ }}"),
        ("tokenizer.chat_templates", ARRAY, (STRING, ("tool_use",))),
    )

    found = scan(header)

    assert found.names == ("tokenizer.chat_template", "tokenizer.chat_template.tool_use")
    assert found.present
    assert found.suspicious
    assert found.findings == (
        "tokenizer.chat_template.tool_use, line 1: reaches for the attribute '__class__'",
    )


def test_a_model_without_a_template_has_nothing_to_scan(tmp_path: Path) -> None:
    """Base models have none."""
    found = scan(header_of(tmp_path))

    assert (found.present, found.suspicious) == (False, False)


def test_templates_that_are_none_are_findings(tmp_path: Path) -> None:
    """A number, and a text too long to have been kept, cannot be looked through."""
    number = header_of(tmp_path, ("tokenizer.chat_template", 4, 1))
    assert scan(number).findings == ("tokenizer.chat_template is no text",)

    size = MAX_TEMPLATE_BYTES + 1
    long = header_of(tmp_path, ("tokenizer.chat_template", STRING, "a" * size))
    assert scan(long).findings == (
        "tokenizer.chat_template is 1,048,577 bytes long, too long to be looked through; 1,048,576 "
        "are accepted",
    )


def test_a_suspicious_model_is_refused(tmp_path: Path) -> None:
    """The check before loading refuses it and shows the first findings."""
    template = "".join(f"{{{{ x._{name} }}}}" for name in "abcde")
    path = header_of(tmp_path, ("tokenizer.chat_template", STRING, template)).path

    with pytest.raises(SecurityError) as caught:
        check_model(path)

    assert str(caught.value) == (
        f"{path}: its chat template is suspicious: tokenizer.chat_template, line 1: reaches for the "
        "attribute '_a'; tokenizer.chat_template, line 1: reaches for the attribute '_b'; "
        "tokenizer.chat_template, line 1: reaches for the attribute '_c'; and 2 more. A program that "
        "runs it might run more than a template; use the file of a publisher you trust"
    )


PIECES = st.sampled_from(
    ["{{", "}}", "{%", "%}", "x", ".", "__class__", "|", "attr", "(", ")", "[", "]", "'", " ", "if"]
)


@given(st.one_of(st.text(max_size=100), st.lists(PIECES, max_size=30).map("".join)))
@settings(max_examples=300, deadline=None)
def test_any_text_is_looked_through(template: str) -> None:
    """Whatever stands there, the answer is findings or none, never another error."""
    assert isinstance(scan_text(template), tuple)
