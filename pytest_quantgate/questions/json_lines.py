"""Questions of JSON Lines, in the shapes of ARC, MMLU, OpenBookQA and TruthfulQA."""

from __future__ import annotations

import json
import string
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_quantgate.questions.question import Question, Unusable, new_question

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_quantgate.questions.task_file import TaskFile

PROMPT = "Question: {question}\nAnswer:"
"""How a question of JSON Lines is asked where nothing else is said."""

PROMPT_WITH_CHOICES = "{question}\n{choices}\nAnswer:"
"""How it is asked where the answers are letters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """How questions of JSON Lines are asked.

    ``prompt`` has ``{question}`` and may have ``{choices}``, one a line with its letter before it;
    with ``letters`` the answers that are scored are the letters and not the texts.
    """

    prompt: str = PROMPT
    letters: bool = False


def json_lines(file: TaskFile, wording: Wording) -> Iterator[Question]:
    """Read one question a line; empty lines are none."""
    entries = ((line, text) for line, text in enumerate(file.lines, start=1) if text.strip())
    return file.each(lambda line, text: _json_question(line, text, wording), entries)


def _json_question(line: int, text: str, wording: Wording) -> Question:
    try:
        entry = json.loads(text)
    except json.JSONDecodeError as error:
        message = f"not JSON: {error.msg} at column {error.colno}"
        raise Unusable(message) from error
    if not isinstance(entry, dict):
        message = (
            'a question is a JSON object such as {"question": ..., "choices": [...], "answer": 0}'
        )
        raise Unusable(message)
    asked = entry.get("question", entry.get("question_stem"))
    if not isinstance(asked, str) or not asked.strip():
        message = "it has no text under 'question' or 'question_stem'"
        raise Unusable(message)
    choices, labels, right = _choices(entry)
    letters = tuple(string.ascii_uppercase[: len(choices)])
    if wording.letters and len(letters) < len(choices):
        message = f"{len(choices)} answers are more than there are letters for"
        raise Unusable(message)
    listed = "\n".join(
        f"{letter}. {choice}" for letter, choice in zip(letters, choices, strict=False)
    )
    place = _right(right, labels)
    return new_question(
        identity=_identity(entry, line),
        context=_worded(wording.prompt, question=asked.strip(), choices=listed),
        answers=letters if wording.letters else choices,
        right=place,
        tags=_tags(entry),
    )


def _worded(prompt: str, *, question: str, choices: str) -> str:
    # One pass: what a question has in braces is its own.
    parts = prompt.split("{question}")
    return question.join(part.replace("{choices}", choices) for part in parts)


def _choices(entry: Mapping[str, object]) -> tuple[tuple[str, ...], tuple[str, ...], object]:
    """Return the answers, their labels, and what names the right one."""
    targets = entry.get("mc1_targets")
    if isinstance(targets, dict):
        texts, flags = targets.get("choices"), targets.get("labels")
        if not isinstance(flags, list) or flags.count(1) != 1:
            message = "'mc1_targets' must have 'labels' with exactly one 1"
            raise Unusable(message)
        return _texts(texts), (), flags.index(1)
    found = entry.get("choices")
    right = entry.get("answerKey", entry.get("answer"))
    if isinstance(found, dict):
        texts, names = _texts(found.get("text")), found.get("label")
        if not isinstance(names, list) or len(names) != len(texts):
            message = "'choices' must have as many entries under 'label' as under 'text'"
            raise Unusable(message)
        return texts, tuple(map(str, names)), right
    return _texts(found), (), right


def _texts(found: object) -> tuple[str, ...]:
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        message = (
            "it has no answers: 'choices' is a list of texts, or has such a list under 'text' and"
            " their names under 'label'"
        )
        raise Unusable(message)
    return tuple(found)


def _right(right: object, labels: Sequence[str]) -> int:
    """Return the place that a label, a letter or a number names."""
    if isinstance(right, str) and right in labels:
        return labels.index(right)
    if isinstance(right, int) and not isinstance(right, bool):
        return right
    if isinstance(right, str) and not labels:
        if right in tuple(string.ascii_uppercase):
            return string.ascii_uppercase.index(right)
        if right.isdecimal():
            return int(right)
    if right is None:
        message = "it does not say which answer is right; give 'answer' or 'answerKey'"
    else:
        known = f"one of {', '.join(labels)}" if labels else "its place from 0, or its letter"
        message = f"the right answer is {right!r}; it must be {known}"
    raise Unusable(message)


def _identity(entry: Mapping[str, object], line: int) -> str:
    own = entry.get("id")
    if isinstance(own, (str, int)) and str(own).strip():
        return str(own)
    subject, index = entry.get("subject"), entry.get("index")
    if isinstance(subject, str) and isinstance(index, int):
        return f"{subject}-{index}"
    return f"line-{line}"


def _tags(entry: Mapping[str, object]) -> tuple[str, ...]:
    written = entry.get("tags", [])
    if not isinstance(written, list) or not all(isinstance(tag, str) for tag in written):
        message = "'tags' is a list of texts"
        raise Unusable(message)
    named = [entry[key] for key in ("subject", "category") if isinstance(entry.get(key), str)]
    return tuple(dict.fromkeys([*written, *map(str, named)]))
