"""The lines of a file of questions, and the problems found in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from pytest_quantgate.errors import Problem
from pytest_quantgate.questions.question import Unusable
from pytest_quantgate.records import Location

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_quantgate.questions.question import Question

MAX_PROBLEMS = 100
"""Problems that are told at once; whoever has more of them has one that repeats itself."""

LONGEST_EXCERPT = 100

ValueT = TypeVar("ValueT")


class TaskFile:
    """The lines of one file, and the problems found in them."""

    def __init__(self, shown: str, text: str) -> None:
        """Cut a text into lines; ``shown`` is the file's name in messages."""
        self.problems: list[Problem] = []
        self._shown = shown
        self.lines = [line.removesuffix("\r") for line in text.split("\n")]
        # The last line ends the file; others that are empty are lines.
        while self.lines and not self.lines[-1].strip():
            self.lines.pop()
        self._places: dict[str, int] = {}
        self.number = 0

    def tell(self, line: int, message: str) -> None:
        """Keep a problem of a line, which counts from 1."""
        text = self.lines[line - 1].strip() if line <= len(self.lines) else ""
        excerpt = text if len(text) <= LONGEST_EXCERPT else text[:LONGEST_EXCERPT] + "..."
        self.problems.append(
            Problem(
                location=Location(path=self._shown, line=line, column=1),
                message=message,
                excerpt=f"    {excerpt}" if excerpt else "",
            )
        )

    def each(
        self, read: Callable[[int, ValueT], Question], entries: Iterator[tuple[int, ValueT]]
    ) -> Iterator[Question]:
        """Yield the question of each entry that is one; ``entries`` are lines and what they hold."""
        for line, entry in entries:
            try:
                question = read(line, entry)
            except Unusable as error:
                self.tell(line, str(error))
                continue
            self.number = line
            yield question

    def unique(self, questions: Iterator[Question]) -> Iterator[Question]:
        """Yield the questions, telling of ids that are taken."""
        for question in questions:
            if question.id in self._places:
                before = self._places[question.id]
                self.tell(self.number, f"question id {question.id!r} is taken by line {before}")
            self._places.setdefault(question.id, self.number)
            yield question

    def bounded(self) -> tuple[Problem, ...]:
        """Return the problems, the last one saying how many more there are."""
        if len(self.problems) <= MAX_PROBLEMS:
            return tuple(self.problems)
        more = f"... and {len(self.problems) - MAX_PROBLEMS} more problems in this file"
        location = self.problems[MAX_PROBLEMS].location
        return (*self.problems[:MAX_PROBLEMS], Problem(location=location, message=more))
