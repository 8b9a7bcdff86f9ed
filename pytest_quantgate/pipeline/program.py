"""A program that is no probe: it says what it does on its standard error, and ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

from pytest_quantgate.errors import ConversionError
from pytest_quantgate.supervision import Log

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from pytest_quantgate.supervision import Deadline

_TICK_SECONDS = 0.1
_TAIL_BYTES = 4096
_SHOWN_LINES = 8
_PERCENT = re.compile(rb"(\d{1,3})%\|")
# The last line of a traceback, or what a program logs before it gives up.
_REASON = re.compile(r"(?:ERROR:[\w.-]+:|[\w.]*(?:Error|Exception):) *(?:Error: *)?(\S.*)")


def run(
    command: Sequence[str],
    *,
    name: str,
    environment: Mapping[str, str],
    folder: Path,
    deadline: Deadline,
    on_percent: Callable[[int], None] | None = None,
) -> None:
    """Run a program to its end; however this call ends, the program and all it started are gone.

    Args:
        command: Program and arguments.
        name: What messages call it.
        environment: Its whole environment.
        folder: Where it runs.
        deadline: When it must be over.
        on_percent: Told the last percentage of a progress bar that it has drawn.

    Raises:
        ConversionError: it failed or took too long, with its reason and the last lines of its log.
    """
    log = Log()
    try:
        process = _started(command, name, environment, folder, log)
        try:
            status = _ended(process, log, deadline, on_percent)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdin is not None:
                process.stdin.close()
        if status is None:
            reason = f"{name} was not done within {deadline.seconds:g} seconds and was stopped"
            raise ConversionError(_with_lines(reason, log.tail()))
        if status != 0:
            raise ConversionError(_with_lines(_why(name, status, log.tail()), log.tail()))
    finally:
        log.close()


def _started(
    command: Sequence[str], name: str, environment: Mapping[str, str], folder: Path, log: Log
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(  # noqa: S603 - our own modules, and no shell
            command,
            # Programs of ours end when it ends (`conversion.lifeline`), should this process be killed.
            stdin=subprocess.PIPE,
            stdout=log.fileno(),
            stderr=log.fileno(),
            env=dict(environment),
            cwd=folder,
            # Ctrl-C in the terminal is for the parent, which ends the program.
            start_new_session=True,
        )
    except OSError as error:
        message = f"{name} cannot be started with {command[0]}: {error.strerror}"
        raise ConversionError(message) from error


def _ended(
    process: subprocess.Popen[bytes],
    log: Log,
    deadline: Deadline,
    on_percent: Callable[[int], None] | None,
) -> int | None:
    """Return the exit status, or None when the time is over, and watch the log meanwhile."""
    shown = -1
    while deadline.left > 0:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(min(_TICK_SECONDS, deadline.left))
        log.trim()
        if on_percent is None:
            continue
        size = os.fstat(log.fileno()).st_size
        found = _PERCENT.findall(os.pread(log.fileno(), _TAIL_BYTES, max(0, size - _TAIL_BYTES)))
        if found and int(found[-1]) != shown:
            shown = int(found[-1])
            on_percent(shown)
    return None


def _why(name: str, status: int, tail: str) -> str:
    if status < 0:
        try:
            killer = signal.Signals(-status).name
        except ValueError:
            killer = f"signal {-status}"
        hint = "; the machine may have run out of memory" if killer == "SIGKILL" else ""
        return f"{name} was killed by {killer}{hint}"
    reasons = [match[1] for match in map(_REASON.match, tail.splitlines()) if match is not None]
    if not reasons:
        return f"{name} ended with exit status {status}"
    return f"{name} failed: {reasons[-1]}"


def _with_lines(message: str, tail: str) -> str:
    lines = tail.splitlines()[-_SHOWN_LINES:]
    if not lines:
        return message
    return "\n".join([message, "last lines of its log:", *(f"  {line}" for line in lines)])
