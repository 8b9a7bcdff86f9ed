"""A comparison as a table of 80 columns, as Markdown and as a page, with texts that mean harm."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from comparison_builder import cases, comparison, example, model, parting, prompt, reply
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_quantgate.report import comparison_html, comparison_markdown, comparison_table

SEQUENCE = re.compile(r"\x1b\[[0-9;]*m")
HARM = '<script>alert(1)</script> | `x` **b** </pre><img src="http://x/y.png" onerror="z"> \x1b[2J'


def lines(*, most: int = 20, width: int = 80, color: bool = False) -> list[str]:
    """Return the table of the example."""
    return comparison_table.render(example(), width=width, color=color, most=most).splitlines()


class Page(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        """Read a page."""
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[tuple[str, str | None]] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take down a tag."""
        self.tags.add(tag)
        self.attributes |= set(attrs)

    def handle_data(self, data: str) -> None:
        """Take down text."""
        self.text += data


def test_the_table_in_full() -> None:
    """Sizes, speeds and outputs, then sentences, then prompts with what there is to say of each."""
    shown = lines()

    assert shown[:18] == [
        "Q8_0 and Q2_K against F16: 2 prompts of prompts.txt, up to 64 tokens each,",
        "greedy",
        "",
        "model  bits     file  weights peak memory",
        "F16   16.12  258 MiB  256 MiB     408 MiB",
        "Q8_0   8.62  138 MiB  136 MiB     288 MiB",
        "Q2_K   5.25 84.0 MiB 82.0 MiB     234 MiB",
        "",
        "speed tokens/s       against F16",
        "F16       11.2",
        "Q8_0      62.1 5.50x (5.31-5.72)",
        "Q2_K      70.0             6.20x",
        "",
        "outputs identical equal tokens near ties nats/byte",
        "F16                                          0.250",
        "Q8_0       1 of 2            3    1 of 1     0.225",
        "Q2_K       0 of 2          1.5    0 of 2     1.000",
        "",
    ]
    assert shown[shown.index("line-1") :] == [
        "line-1",
        "  What is the capital of France?",
        "  F16  The capital is Paris.",
        "       surprises itself by 0.250 nats/byte",
        "  Q8_0 the same",
        "  Q2_K The capital is Lyon.",
        "       surprises F16 by 0.500 nats/byte; parts after 3 equal tokens",
        '         F16 chose " Paris": 60.0% under F16, 30.0% under Q2_K (rank 2)',
        '         Q2_K chose " Lyon": 10.0% under F16 (rank 2), 40.0% under Q2_K',
    ]
    text = " ".join("\n".join(shown).split())
    assert "parts after 3 equal tokens, at a near tie F16 chose" in text


def test_the_conditions_are_named() -> None:
    """Figures hold for an engine, a machine and a way of measuring."""
    text = " ".join(" ".join(lines()).split())

    assert (
        "llama-cpp-python 0.3.36; a processor, 2 cores, 24 GiB, Linux x86_64; peak memory" in text
    )
    assert (
        "is of a fresh process, 44.0 MiB of it before a model was loaded; tokens/s is the" in text
    )


def test_right_and_wrong_are_shown() -> None:
    """Cases have what was expected, the judgement with its reason, and which way they flipped."""
    text = comparison_table.render(cases(), width=80, color=False, most=20)

    assert "outputs identical equal tokens nats/byte  right lost gained" in text
    assert "  expected: Paris\n" in text
    assert "wrong (lost): no 'Paris' in it; surprises F16 by" in text
    assert "right (gained); surprises F16 by" in text
    assert text.index("\nlost\n") < text.index("\ngained\n") < text.index("\ncalm\n")


@pytest.mark.parametrize("width", [40, 80, 120])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    """Long names, prompts and outputs go on below."""
    long = "a-model-whose-name-is-longer-than-any-column-should-be" * 2
    compared = comparison(
        prompt("line-1" * 30, reply("word " * 60), reply("x" * 300, parting=parting(common=""))),
        models=(model("F16"), model(long)),
    )

    text = comparison_table.render(compared, width=width, color=False, most=20)

    assert max(map(len, text.splitlines())) <= width


def test_most_prompts_are_shown() -> None:
    """At the limit nothing is said, beyond it how many more there are."""
    assert not any("more prompts" in line for line in lines(most=2))
    assert lines(most=1)[-1] == "1 more prompts; -o FILE writes all of them, --show N shows more"
    assert lines(most=0)[-1] == "2 more prompts; -o FILE writes all of them, --show N shows more"


def test_colour_changes_no_text() -> None:
    """Without its colours a coloured table is the plain one."""
    coloured = lines(color=True)

    assert any(SEQUENCE.search(line) for line in coloured)
    assert [SEQUENCE.sub("", line).rstrip() for line in coloured] == lines()


def test_an_output_cannot_speak_to_the_terminal() -> None:
    """Escape sequences of a model are spelled out."""
    compared = comparison(prompt("line-1", reply(), reply(HARM), reply("")))

    text = comparison_table.render(compared, width=80, color=False, most=9)

    assert "\x1b" not in text
    assert "\\x1b[2J" in text
    assert "  Q2_K nothing" in text


def test_markdown_in_full() -> None:
    """Tables with their figures to the right, sentences, and outputs in fences."""
    text = comparison_markdown.render(example())

    assert text.startswith("# Comparison of models\n\nQ8\\_0 and Q2\\_K against F16: 2 prompts")
    assert (
        "| model | bits | file | weights | peak memory |\n| --- | ---: | ---: | ---: | ---: |\n"
        in text
    )
    assert "| Q8\\_0 | 62.1 | 5.50x \\(5.31-5.72\\) |" in text
    assert "## Where the difference matters\n\n- Q8\\_0: 1 of 2 outputs" in text
    assert "### line-1\n\n```text\nWhat is the capital of France?\n```\n" in text
    assert "**Q8\\_0**: the same\n" in text
    assert '- F16 chose " Paris": 60.0% under F16, 30.0% under Q2\\_K \\(rank 2\\)' in text


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet="`~a \n|<*_\\", max_size=40))
def test_no_output_leaves_its_fence(output: str) -> None:
    """A fence is longer than any inside it, and what follows it stands outside."""
    compared = comparison(prompt("line-1", reply(), reply("b"), reply(output)))

    text = comparison_markdown.render(compared)

    if output != "The capital is Paris.":
        block = text.partition("**Q2\\_K**\n\n")[2]
        fence = re.match(r"`+", block)
        assert fence is not None
        assert block.startswith(f"{fence[0]}text\n{output}\n{fence[0]}\n")
        assert max((len(found) for found in re.findall(r"`+", output)), default=0) < len(fence[0])


def test_markdown_that_means_harm() -> None:
    """Names, ids and expected answers are shown as they are."""
    compared = comparison(prompt(HARM, *(reply(right=True),) * 3, expected=HARM))

    text = comparison_markdown.render(compared)

    assert "<script>" not in text.replace("\\<script\\>", "")
    assert "\x1b" not in text


def test_the_page_in_full() -> None:
    """It has what the table has, marks where outputs part, and says it in the title."""
    text = comparison_html.render(example())
    page = Page(text)

    for line in (line.strip() for line in lines() if line.startswith("         ")):
        assert line in page.text
    assert "5.50x (5.31-5.72)" in page.text
    assert "<pre>The capital is<mark> Lyon.</mark></pre>" in text
    assert "<title>Q8_0 and Q2_K against F16: 2 prompts" in text


def test_the_page_needs_nothing_beside_it() -> None:
    """No scripts, no links, no pictures, and a policy that forbids them."""
    page = Page(comparison_html.render(cases()))

    assert not page.tags & {"script", "link", "img", "iframe", "a", "object"}
    assert {name for name, _ in page.attributes} & {"src", "href", "onerror", "onload"} == set()
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    assert ("content", policy) in page.attributes
    assert {("class", "flip lost"), ("class", "flip gained")} <= page.attributes


def test_a_page_that_means_harm() -> None:
    """Whatever a model, a case or a file says is text."""
    compared = comparison(
        prompt(HARM, reply(HARM, right=True), reply("b", right=False, reason=HARM), expected=HARM),
        models=(model(HARM), model("Q8_0")),
    )

    page = Page(comparison_html.render(compared))

    assert page.tags.isdisjoint({"script", "img"})
    assert page.text.count("<script>alert(1)</script>") >= 5
    assert "\x1b" not in page.text
