"""Answered cases as JSON Lines: a row for each case of each gate, for programs and for later reading."""

from __future__ import annotations

import dataclasses
import json
import shlex
from typing import TYPE_CHECKING

from pytest_quantgate.artifact import files
from pytest_quantgate.errors import ArtifactError

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_quantgate.records import AnsweredCase, Verdict

FORMAT = 1
"""Version of the rows; it changes when a key goes away or comes to mean something else."""

_LINE_ENDS = {ord(end): f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"}
"""What is no line end in JSON, but one to many readers of lines."""


def again(gate_id: str, case_id: str) -> str:
    """Return the command that asks one case of a gate again, ready to be pasted into a shell.

    ``gate_id`` is that of the pytest item, ``<specification>::<model>::<variant>::<gate>``.
    """
    spec = gate_id.partition("::")[0]
    return shlex.join(["pytest", "--quantgate", spec, gate_id, "--quantgate-case", case_id])


def rows(verdict: Verdict) -> str:
    """Return a line of JSON for each answered case of a gate, in the order of its verdict.

    Keys: ``format``, ``spec``, ``model``, ``variant``, ``gate``, those of `AnsweredCase` as they are
    (``candidate``, ``baseline`` and ``parting`` are objects or null), ``flip`` (``lost``, ``gained``
    or null) and ``again``, the command that asks this one case again.

    Raises:
        ValueError: a figure is no number.
    """
    return "".join(_row(verdict, case) for case in verdict.cases)


def _row(verdict: Verdict, case: AnsweredCase) -> str:
    row = {
        "format": FORMAT,
        "spec": verdict.spec,
        **dict(zip(("model", "variant", "gate"), verdict.key, strict=True)),
        **dataclasses.asdict(case),
        "flip": case.flip,
        "again": again("::".join((verdict.spec, *verdict.key)), case.id),
    }
    line = json.dumps(row, ensure_ascii=False, allow_nan=False).translate(_LINE_ENDS)
    # Half of a surrogate pair is no text: its escape is, and means the same to a reader of JSON.
    return line.encode("utf-8", errors="backslashreplace").decode("utf-8") + "\n"


class AnswerFile:
    """The answers of a run, written once at its end; what a gate answered last counts."""

    def __init__(self, path: Path) -> None:
        """Begin without answers."""
        self.path = path
        self._rows: dict[str, str] = {}

    def take(self, node_id: str, text: str | None) -> None:
        """Keep what an attempt at a gate answered, or forget the attempt before if it is None."""
        self._rows.pop(node_id, None)
        if text:
            self._rows[node_id] = text

    def write(self) -> str:
        """Write all answers, gates in the order of their ids, and return what to say of it.

        The file is replaced as a whole, by an empty one where nothing was answered, so that it
        never holds answers of a run before.

        Raises:
            ArtifactError: it cannot be written.
        """
        text = "".join(self._rows[node_id] for node_id in sorted(self._rows))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            message = f"{self.path.parent}: cannot be made: {files.reason(error)}"
            raise ArtifactError(message) from error
        files.write_atomically(self.path, text.encode("utf-8"))
        count, gates = text.count("\n"), len(self._rows)
        cases = "1 case" if count == 1 else f"{count:,} cases"
        return f"{cases} of {gates} {'gate' if gates == 1 else 'gates'}"
