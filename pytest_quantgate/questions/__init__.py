"""Multiple-choice questions, as the files of the known task sets have them.

Three formats: the text that `llama-perplexity --hellaswag` reads, the CSV that `--winogrande` reads,
and JSON Lines in the shapes in which ARC, MMLU, OpenBookQA and TruthfulQA are published.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pytest_quantgate.errors import ArtifactError, SpecError
from pytest_quantgate.questions.formats import hellaswag, winogrande
from pytest_quantgate.questions.json_lines import PROMPT, PROMPT_WITH_CHOICES, Wording, json_lines
from pytest_quantgate.questions.question import Question
from pytest_quantgate.questions.task_file import MAX_PROBLEMS, TaskFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

__all__ = [
    "MAX_PROBLEMS",
    "PROMPT",
    "PROMPT_WITH_CHOICES",
    "SUFFIXES",
    "Format",
    "Question",
    "Wording",
    "format_of",
    "load_questions",
]

Format = Literal["hellaswag", "winogrande", "jsonl"]

SUFFIXES: Mapping[str, Format] = {".txt": "hellaswag", ".csv": "winogrande", ".jsonl": "jsonl"}
"""The format that the end of a file's name stands for."""


def format_of(path: Path) -> Format | None:
    """Return the format that the end of a file's name stands for, None for an unknown one."""
    return SUFFIXES.get(path.suffix.lower())


def load_questions(
    path: Path, *, shown: str, kind: Format, wording: Wording, limit: int | None = None
) -> tuple[Question, ...]:
    """Read the questions of a file, the first ``limit`` of them where that is given.

    Args:
        path: The file.
        shown: Its name in messages.
        kind: Its format.
        wording: How questions of JSON Lines are asked.
        limit: Questions to keep, from the first one on; all lines are checked.

    Raises:
        ArtifactError: the file cannot be read, or is no UTF-8 text.
        SpecError: what is written there are no questions, all of it, each with its line.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        message = f"cannot read the task file {shown}: {error.strerror or error}"
        raise ArtifactError(message) from error
    except UnicodeDecodeError as error:
        message = f"the task file {shown} is not UTF-8 at byte {error.start}; save it as UTF-8"
        raise ArtifactError(message) from error
    file = TaskFile(shown, text)
    readers: Mapping[Format, Callable[[], Iterator[Question]]] = {
        "hellaswag": lambda: hellaswag(file),
        "winogrande": lambda: winogrande(file),
        "jsonl": lambda: json_lines(file, wording),
    }
    questions = tuple(file.unique(readers[kind]()))
    if not questions and not file.problems:
        file.tell(1, f"there are no {kind} questions here; name a file that has some")
    if file.problems:
        raise SpecError(file.bounded())
    return questions[:limit]
