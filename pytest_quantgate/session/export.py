"""Answers of a run as a file: gathered from the reports of gates, whichever process measured them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from pytest_quantgate.errors import ArtifactError
from pytest_quantgate.records import Verdict
from pytest_quantgate.report import answers, properties

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

_ANSWERS = "quantgate_answers"
"""Attribute of a report whose gate asked cases: its answers as text.

It travels from worker to controller as a user property does, but is not written into XML: of some
thousand cases it has megabytes.
"""


class AnswerExport:
    """Registered as a plugin when the answers of a run are to be written to a file."""

    def __init__(self, config: pytest.Config, path: Path) -> None:
        """Take the file over that the run is to write.

        Raises:
            pytest.UsageError: a folder is in its place.
        """
        if path.is_dir():
            message = f"--quantgate-answers: {path} is a folder; name a file in it"
            raise pytest.UsageError(message)
        self._config = config
        self._file = answers.AnswerFile(path)
        self._told = ""
        self._problem = ""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Let the report of a gate's call carry its answers to the process that writes them."""
        report = yield
        if isinstance(item, pytest.Function) and call.when == "call":
            verdict = item.funcargs.get("quantgate_verdict")
            if isinstance(verdict, Verdict):
                setattr(report, _ANSWERS, answers.rows(verdict))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the answers of a gate's last attempt; none of one that ended in an error."""
        is_gate = properties.key_of(report.user_properties) is not None
        if is_gate and (report.when == "call" or (report.when == "setup" and report.failed)):
            self._file.take(report.nodeid, getattr(report, _ANSWERS, None))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the file; where that is impossible, the run fails."""
        config = self._config
        refused = session.exitstatus == pytest.ExitCode.USAGE_ERROR
        if refused or config.option.collectonly or hasattr(config, "workerinput"):
            return
        try:
            shown = os.path.relpath(self._file.path, config.rootpath)
            self._told = f"answers written: {shown}, {self._file.write()}"
        except ArtifactError as error:
            self._problem = f"ERROR: --quantgate-answers: {error}"
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:  # noqa: ANN401 - pytest's
        """Say what was written, or why nothing was."""
        if self._problem:
            terminalreporter.write_line(self._problem, red=True)
        elif self._told and self._config.get_verbosity() >= 0:
            terminalreporter.write_line(self._told)
