"""Files of multiple-choice questions: what is read from them, and every problem at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantgate.errors import ArtifactError, SpecError
from pytest_quantgate.questions import (
    MAX_PROBLEMS,
    PROMPT,
    PROMPT_WITH_CHOICES,
    Format,
    Question,
    Wording,
    format_of,
    load_questions,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

TASK = "Cooking: A man cuts bread. He\n{}\neats it.\nsings.\nruns.\nsleeps.\n"


def load(
    folder: Path,
    text: str,
    kind: Format = "jsonl",
    *,
    prompt: str = PROMPT,
    letters: bool = False,
    limit: int | None = None,
) -> tuple[Question, ...]:
    """Load a file with this text."""
    path = folder / "tasks"
    path.write_text(text, encoding="utf-8", newline="")
    wording = Wording(prompt=prompt, letters=letters)
    return load_questions(path, shown="tasks", kind=kind, wording=wording, limit=limit)


def problems(
    folder: Path, text: str, kind: Format = "jsonl", *, letters: bool = False
) -> list[str]:
    """Return the problems of a text as they are shown, without the lines they are about."""
    with pytest.raises(SpecError) as caught:
        load(folder, text, kind, letters=letters)
    return [f"{found.location}: {found.message}" for found in caught.value.problems]


def line(**values: object) -> str:
    """Return one line of JSON: a good question but for these values; None removes one."""
    entry: dict[str, object] = {"question": "Q?", "choices": ["a", "b", "c"], "answer": 1, **values}
    return json.dumps({key: value for key, value in entry.items() if value is not None})


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.txt", "hellaswag"), ("a.CSV", "winogrande"), ("a.jsonl", "jsonl"), ("a.bin", None)],
)
def test_formats_go_by_the_end_of_the_name(name: str, kind: Format | None) -> None:
    """The end of a file's name says its format, in capitals too; an unknown end says nothing."""
    assert format_of(Path(name)) == kind


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """A file that cannot be read, or is no text, is an error with its name."""
    with pytest.raises(ArtifactError, match=r"cannot read the task file t.txt: No such file"):
        load_questions(tmp_path / "no", shown="t.txt", kind="jsonl", wording=Wording())
    (tmp_path / "bytes").write_bytes(b"ab\xff")
    with pytest.raises(ArtifactError, match=r"the task file t.txt is not UTF-8 at byte 2"):
        load_questions(tmp_path / "bytes", shown="t.txt", kind="jsonl", wording=Wording())


@pytest.mark.parametrize("kind", ["hellaswag", "winogrande", "jsonl"])
def test_an_empty_file(tmp_path: Path, kind: Format) -> None:
    """A file without questions is an error, not a gate without questions."""
    assert [
        f"tasks:1:1: there are no {kind} questions here; name a file that has some"
    ] == problems(tmp_path, "\n\n", kind)


# --- HellaSwag -------------------------------------------------------------------------------------


def test_hellaswag(tmp_path: Path) -> None:
    """Six lines are a context, the number of the right ending and four endings."""
    found = load(tmp_path, TASK.format(2) + TASK.format(0).replace("\n", "\r\n"), "hellaswag")

    assert found[0] == Question(
        id="task-1",
        context="Cooking: A man cuts bread. He",
        answers=(" eats it.", " sings.", " runs.", " sleeps."),
        right=2,
    )
    assert (found[1].id, found[1].right, found[1].answers) == ("task-2", 0, found[0].answers)
    assert found[0].shown == found[0].context


def test_the_first_questions_of_a_file(tmp_path: Path) -> None:
    """A limit keeps the first ones, and more than there are is all of them."""
    text = "".join(TASK.format(number % 4) for number in range(5))

    for limit in (1, 4, 5, 6):
        assert min(limit, 5) == len(load(tmp_path, text, "hellaswag", limit=limit))


def test_problems_of_hellaswag(tmp_path: Path) -> None:
    """Lines that are no whole tasks, other numbers and empty endings are told with their lines."""
    text = TASK.format(4) + TASK.format(1).replace("runs.", " ") + "\nrest\n"
    found = problems(tmp_path, text, "hellaswag")

    assert found[0].startswith("tasks:14:1: 14 lines are no whole number of tasks of 6 lines")
    assert found[1].startswith(
        "tasks:1:1: the second line of a task is the number of its right ending, 0 to 3, and it is '4'"
    )
    assert found[2] == "tasks:7:1: answer 3 is empty"


# --- Winogrande ------------------------------------------------------------------------------------


def test_winogrande(tmp_path: Path) -> None:
    """A sentence is cut at its gap; commas in it are quoted."""
    text = '0,Ann saw Bea so _ ran.,Ann,Bea,2\nx7,"If wet, the _ was\'t dry.",bed,cup,1'
    found = load(tmp_path, text, "winogrande")

    assert found[0] == Question(
        id="0", context="Ann saw Bea so ", answers=("Ann", "Bea"), right=1, tail=" ran."
    )
    assert (found[1].id, found[1].context, found[1].tail) == ("x7", "If wet, the ", " was't dry.")
    assert found[0].shown == "Ann saw Bea so _ ran."
    assert found[0].to_choice().tail == " ran."


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("0,a _ b,c,d", "4 fields; a line has 5"),
        ("0,a, _ b,c,d,1", "6 fields; a line has 5"),
        ("0,a b,c,d,1", "the sentence has no gap; write '_'"),
        ("0,a _ ,c,d,1", "nothing follows the gap"),
        ("0,a _ b,c,d,0", "the right choice is 1 or 2, not '0'"),
        ("0,a _ b,c,d,3", "the right choice is 1 or 2, not '3'"),
        ("0,a _ b,,d,1", "the number or a choice is empty"),
        ('0,"a" _ b,c,d,1', "no CSV: "),
    ],
)
def test_problems_of_winogrande(tmp_path: Path, row: str, said: str) -> None:
    """Each problem names its line and what is wrong; good lines beside it change nothing."""
    found = problems(tmp_path, f"1,a _ b,c,d,1\n{row}\n2,a _ b,c,d,2\n", "winogrande")

    assert [said in message and message.startswith("tasks:2:1: ") for message in found] == [True]


# --- JSON Lines ------------------------------------------------------------------------------------

SHAPES: Mapping[str, dict[str, object]] = {
    "ARC": {
        "id": "q1",
        "question": "Q?",
        "choices": {"text": ["a", "b", "c"], "label": ["A", "B", "C"]},
        "answerKey": "B",
    },
    "ARC, numbered": {
        "id": "q1",
        "question": "Q?",
        "choices": {"text": ["a", "b", "c"], "label": ["1", "2", "3"]},
        "answerKey": "2",
    },
    "OpenBookQA": {
        "id": "q1",
        "question_stem": "Q?",
        "choices": {"text": ["a", "b", "c"], "label": ["A", "B", "C"]},
        "answerKey": "B",
    },
    "MMLU": {"id": "q1", "question": "Q?", "choices": ["a", "b", "c"], "answer": 1},
    "letter": {"id": "q1", "question": "Q?", "choices": ["a", "b", "c"], "answer": "B"},
    "place": {"id": "q1", "question": "Q?", "choices": ["a", "b", "c"], "answer": "1"},
    "TruthfulQA": {
        "id": "q1",
        "question": "Q?",
        "mc1_targets": {"choices": ["a", "b", "c"], "labels": [0, 1, 0]},
    },
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_of_json(tmp_path: Path, shape: str) -> None:
    """The same question in every shape in which the known sets are published."""
    found = load(tmp_path, json.dumps(SHAPES[shape]) + "\n")

    assert found == (
        Question(id="q1", context="Question: Q?\nAnswer:", answers=(" a", " b", " c"), right=1),
    )


def test_letters_and_wordings(tmp_path: Path) -> None:
    """Answers may be letters, with the choices listed; braces in a question are its own."""
    text = line(question="What is {choices}?")
    found = load(tmp_path, text, prompt=PROMPT_WITH_CHOICES, letters=True)[0]

    assert found.context == "What is {choices}?\nA. a\nB. b\nC. c\nAnswer:"
    assert (found.answers, found.right) == ((" A", " B", " C"), 1)
    assert load(tmp_path, text, prompt="Q: {question}")[0].context == "Q: What is {choices}?"


def test_names_and_tags(tmp_path: Path) -> None:
    """Without an id, subject and number or the line are one; subjects and categories are tags."""
    text = "\n".join(
        [
            line(subject="law", index=7),
            "",
            line(category="myth", tags=["x", "myth"]),
            line(id=5),
        ]
    )
    found = load(tmp_path, text)

    assert [question.id for question in found] == ["law-7", "line-3", "5"]
    assert [question.tags for question in found] == [("law",), ("x", "myth"), ()]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON: Expecting property name"),
        ("[]", "a question is a JSON object such as"),
        (line(question=None), "it has no text under 'question' or 'question_stem'"),
        (line(question=" "), "it has no text under 'question' or 'question_stem'"),
        (line(choices=None), "it has no answers"),
        (line(choices=["a", 1]), "it has no answers"),
        (line(choices=["a"], answer=0), "1 answers are no choice; give 2 or more"),
        (line(choices=["a", " "]), "answer 2 is empty"),
        (line(answer=None), "it does not say which answer is right"),
        (line(answer=3), "the right answer is number 3, and they go from 0 to 2"),
        (line(answer=-1), "the right answer is number -1"),
        (line(answer=True), "the right answer is True; it must be its place from 0, or its letter"),
        (line(answer="x"), "the right answer is 'x'"),
        (line(choices={"text": ["a", "b"], "label": ["A"]}), "as many entries under 'label'"),
        (
            line(choices={"text": ["a", "b"], "label": ["A", "B"]}, answer="C"),
            "the right answer is 'C'; it must be one of A, B",
        ),
        (
            line(mc1_targets={"choices": ["a", "b"], "labels": [1, 1]}),
            "'mc1_targets' must have 'labels' with exactly one 1",
        ),
        (line(tags="law"), "'tags' is a list of texts"),
    ],
)
def test_problems_of_json(tmp_path: Path, text: str, said: str) -> None:
    """Each problem names its line and what is wrong."""
    found = problems(tmp_path, f"{line(id='a')}\n{text}\n{line(id='b')}\n")

    assert [said in message and message.startswith("tasks:2:1: ") for message in found] == [True]


@pytest.mark.parametrize("count", [25, 26, 27])
def test_as_many_answers_as_letters(tmp_path: Path, count: int) -> None:
    """There are 26 letters; more answers are a problem where letters stand for them, and only there."""
    text = line(choices=[f"answer {number}" for number in range(count)])

    assert count == len(load(tmp_path, text)[0].answers)
    if count <= 26:
        assert count == len(load(tmp_path, text, letters=True)[0].answers)
    else:
        assert ["27 answers are more than there are letters for"] == [
            message.partition(": ")[2] for message in problems(tmp_path, text, letters=True)
        ]


def test_ids_are_told_apart(tmp_path: Path) -> None:
    """An id that is taken is a problem that names the line which has it."""
    found = problems(tmp_path, "\n".join(line(id="x") for _ in range(3)))

    assert found == [
        "tasks:2:1: question id 'x' is taken by line 1",
        "tasks:3:1: question id 'x' is taken by line 1",
    ]


@pytest.mark.parametrize("over", [-1, 0, 1, 5])
def test_many_problems_are_bounded(tmp_path: Path, over: int) -> None:
    """A hundred problems are told, and of more how many there are."""
    found = problems(tmp_path, "{\n" * (MAX_PROBLEMS + over))

    assert len(found) == MAX_PROBLEMS + min(over, 1)
    if over > 0:
        assert found[-1].endswith(f"... and {over} more problems in this file")


@given(st.text(max_size=200), st.sampled_from(["hellaswag", "winogrande", "jsonl"]))
def test_any_text_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, text: str, kind: Format
) -> None:
    """No text makes the reader fail in another way than with its problems."""
    data = text.encode("utf-8", errors="ignore").decode("utf-8")
    try:
        found = load(tmp_path_factory.getbasetemp(), data, kind)
    except SpecError:
        return
    assert all(0 <= question.right < len(question.answers) for question in found)
