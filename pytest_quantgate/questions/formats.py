"""HellaSwag's text and Winogrande's CSV, as llama.cpp's tools read them."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from pytest_quantgate.questions.question import GAP, Question, Unusable, new_question
from pytest_quantgate.questions.task_file import LONGEST_EXCERPT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_quantgate.questions.task_file import TaskFile

_HELLASWAG_LINES = 6
_HELLASWAG_ENDINGS = 4
_WINOGRANDE_FIELDS = 5


def hellaswag(file: TaskFile) -> Iterator[Question]:
    """Read context, number of the right ending and four endings, one a line."""
    count, rest = divmod(len(file.lines), _HELLASWAG_LINES)
    if rest:
        file.tell(
            len(file.lines),
            f"{len(file.lines)} lines are no whole number of tasks of {_HELLASWAG_LINES} lines:"
            f" context, number of the right ending (0 to {_HELLASWAG_ENDINGS - 1}),"
            f" {_HELLASWAG_ENDINGS} endings",
        )
    tasks = (
        (
            place * _HELLASWAG_LINES + 1,
            file.lines[place * _HELLASWAG_LINES : (place + 1) * _HELLASWAG_LINES],
        )
        for place in range(count)
    )
    return file.each(_hellaswag_task, tasks)


def _hellaswag_task(line: int, lines: Sequence[str]) -> Question:
    context, label, *endings = lines
    if label.strip() not in map(str, range(_HELLASWAG_ENDINGS)):
        message = (
            f"the second line of a task is the number of its right ending, 0 to"
            f" {_HELLASWAG_ENDINGS - 1}, and it is {label.strip()[:LONGEST_EXCERPT]!r}; is a line"
            " missing before?"
        )
        raise Unusable(message)
    return new_question(
        identity=f"task-{(line - 1) // _HELLASWAG_LINES + 1}",
        context=context,
        answers=endings,
        right=int(label),
    )


def winogrande(file: TaskFile) -> Iterator[Question]:
    """Read number, sentence with a gap, two words for it, and which is right (1 or 2)."""
    reader = csv.reader(file.lines, strict=True)

    def rows() -> Iterator[tuple[int, list[str]]]:
        while True:
            line = reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                file.tell(max(reader.line_num, 1), f"no CSV: {error}")
                continue
            yield line, row

    return file.each(_winogrande_row, rows())


def _winogrande_row(_line: int, row: Sequence[str]) -> Question:
    if len(row) != _WINOGRANDE_FIELDS:
        message = (
            f"{len(row)} fields; a line has {_WINOGRANDE_FIELDS}: number, sentence, first choice,"
            " second choice, which of them is right (quote a sentence that has commas)"
        )
        raise Unusable(message)
    identity, sentence, first, second, right = row
    before, gap, tail = sentence.partition(GAP)
    if not gap:
        message = f"the sentence has no gap; write {GAP!r} where the choice goes"
        raise Unusable(message)
    if not tail.strip():
        message = "nothing follows the gap; what follows it is what is scored"
        raise Unusable(message)
    if right.strip() not in ("1", "2"):
        message = f"the right choice is 1 or 2, not {right.strip()[:LONGEST_EXCERPT]!r}"
        raise Unusable(message)
    if not (first.strip() and second.strip() and identity.strip()):
        message = "the number or a choice is empty"
        raise Unusable(message)
    return Question(
        id=identity.strip(),
        context=before,
        answers=(first, second),
        right=int(right) - 1,
        tail=tail,
    )
