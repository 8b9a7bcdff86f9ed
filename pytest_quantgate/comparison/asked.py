"""The prompts of a comparison: cases with expected answers, or lines of a text."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.artifact.files import near_names, open_regular
from pytest_quantgate.cases import named_cases
from pytest_quantgate.errors import ArtifactError
from pytest_quantgate.records import Message, Prompt

if TYPE_CHECKING:
    from pytest_quantgate.cases import Case
    from pytest_quantgate.report.comparison import Reply

CASE_SUFFIXES = (".jsonl", ".json", ".yaml", ".yml")
"""How the name of a file of cases ends; other files have a prompt a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One prompt, with the case it belongs to if it has an expected answer."""

    id: str
    text: str
    case: Case | None = None

    def judged(self, reply: Reply) -> Reply:
        """Return a reply with right or wrong, if an answer is expected."""
        if self.case is None:
            return reply
        match = self.case.judge(reply.output)
        return dataclasses.replace(reply, right=match.ok, reason=match.reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The prompts of one file, all of them cases or none; ``name`` is the file's, for people."""

    name: str
    questions: tuple[Question, ...]

    @property
    def expects(self) -> bool:
        """Whether there are expected answers."""
        return self.questions[0].case is not None

    def prompts(self, *, max_tokens: int, chat: bool) -> tuple[Prompt, ...]:
        """Return what models are asked; with ``chat``, lines as messages of a user.

        Raises:
            ArtifactError: ``chat`` with cases, which have messages where they want some.
        """
        if self.expects and chat:
            message = (
                f"{self.name} holds cases, which say themselves whether they are chats ('messages');"
                " leave out --chat"
            )
            raise ArtifactError(message)
        return tuple(
            _prompt(question, max_tokens=max_tokens, chat=chat) for question in self.questions
        )


def load_asked(name: str) -> Asked:
    """Read prompts: a built-in case set, a file of cases, or a text file with one prompt a line.

    Blank lines are left out; a line's id is its number.

    Raises:
        ArtifactError: the file is missing, empty, or not UTF-8.
        SpecError: a file of cases with problems, each with its place.
    """
    if name.startswith("builtin:") or name.lower().endswith(CASE_SUFFIXES):
        cases = named_cases(name, _existing)
        questions = [Question(id=case.id, text=case.question, case=case) for case in cases]
    else:
        questions = [
            Question(id=f"line-{number}", text=line)
            for number, line in enumerate(_lines(name), start=1)
            if line.strip()
        ]
    if not questions:
        message = (
            f"{name}: holds no prompt; write one a line, or name a file of cases (.jsonl, .yaml)"
        )
        raise ArtifactError(message)
    return Asked(name=name.rpartition("/")[2], questions=tuple(questions))


def _prompt(question: Question, *, max_tokens: int, chat: bool) -> Prompt:
    if question.case is not None:
        # Outputs are compared as a whole, not up to where an expected answer turns up.
        return dataclasses.replace(question.case.to_prompt(max_tokens=max_tokens), until=None)
    if not chat:
        return Prompt(id=question.id, prompt=question.text, max_tokens=max_tokens)
    messages = (Message(role="user", content=question.text),)
    return Prompt(id=question.id, messages=messages, max_tokens=max_tokens)


def _existing(name: str) -> Path:
    path = Path(name)
    if not path.exists():
        message = f"{name}: no such file{near_names(path)}"
        raise ArtifactError(message)
    return path


def _lines(name: str) -> list[str]:
    with open_regular(Path(name)) as stream:
        data = stream.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"{name}:{line}: not UTF-8: byte 0x{data[error.start]:02x}; save it as UTF-8"
        raise ArtifactError(message) from error
    return text.replace("\r\n", "\n").split("\n")
