"""A task of lm-evaluation-harness: what is asked, and what came of each of its documents."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - read at run time to load stored records
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class HarnessRequest:
    """Ask for a task of lm-evaluation-harness, or the first ``limit`` documents of it.

    ``task`` is the name of a task; ``folder_path`` is where tasks of the project's own lie, and
    ``files_sha256`` the digest of all files in it. ``fewshot`` is the number of examples before each
    document, None for what the task says; ``harness`` is the version of lm-evaluation-harness.
    """

    task: str
    folder_path: str = ""
    files_sha256: str = ""
    fewshot: int | None = None
    limit: int | None = None
    seed: int = 0
    apply_chat_template: bool = False
    harness: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HarnessDocument:
    """One document of a task: what was asked and expected, what came, and its figure of each metric.

    ``choices`` is the number of answers it chooses from, 0 where it writes its own.
    """

    id: str
    question: str
    expected: str
    output: str
    metrics: Mapping[str, float]
    choices: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HarnessResult:
    """A task's documents, and its metrics over all of them as the harness has them.

    ``standard_errors`` are the harness's own, by metric; ``higher_is_better`` says which way each goes.
    """

    task: str
    documents: tuple[HarnessDocument, ...]
    metrics: Mapping[str, float]
    standard_errors: Mapping[str, float]
    higher_is_better: Mapping[str, bool]
    seconds: float
