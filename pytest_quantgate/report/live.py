"""The live line below pytest's own output while something is measured; only on a terminal."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_quantgate.records import Progress

REFRESH_SECONDS = 0.2
ERASE_LINE = "\r\x1b[2K"
UP_ONE_LINE = "\x1b[1A"


class Writer(Protocol):
    """What is needed of pytest's terminal writer."""

    @property
    def fullwidth(self) -> int:
        """Columns of the terminal."""

    @property
    def width_of_current_line(self) -> int:
        """Columns already written on the current line."""

    def write(self, msg: str, *, flush: bool = False) -> None:
        """Write text."""


class Screen:
    """A `Writer` beside pytest's own, whose line it leaves as it is.

    pytest captures a test's output by pointing descriptor 1 elsewhere; a duplicate made while nothing
    is captured still leads to the terminal. And pytest counts columns by what went through its writer,
    control sequences included, so none may go through it.
    """

    def __init__(self, writer: Writer, *, descriptor: int) -> None:
        """Take sizes from ``writer``, and a duplicate of ``descriptor`` to write to."""
        self._writer = writer
        self._stream = os.fdopen(os.dup(descriptor), "w", errors="replace")

    @property
    def fullwidth(self) -> int:
        """Columns of the terminal."""
        return self._writer.fullwidth

    @property
    def width_of_current_line(self) -> int:
        """Columns that pytest has written on the current line."""
        return self._writer.width_of_current_line

    def write(self, msg: str, *, flush: bool = False) -> None:
        """Write text past pytest's writer."""
        self._stream.write(msg)
        if flush:
            self._stream.flush()

    def close(self) -> None:
        """Close the duplicate."""
        self._stream.close()


class LiveLine:
    """One line that is rewritten in place and leaves the lines above as they were."""

    def __init__(
        self, writer: Writer, *, subject: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Prepare a line about ``subject``; nothing is written before the first progress."""
        self._writer = writer
        self._subject = subject
        self._clock = clock
        self._column = 0
        self._shown = False
        self._last = 0.0
        self._step: tuple[str, int] | None = None
        self._started = 0.0
        self._done_at_start = 0

    def show(self, progress: Progress) -> None:
        """Show how far a step is, at most five times a second and always at its end."""
        now = self._clock()
        if self._step is None or (progress.step, progress.total) != self._step:
            self._step = (progress.step, progress.total)
            self._started = now
            self._done_at_start = progress.done
            self._last = 0.0
        elif now - self._last < REFRESH_SECONDS and progress.done < progress.total:
            return
        self._last = now
        if not self._shown:
            self._column = self._writer.width_of_current_line
            self._writer.write("\n")
            self._shown = True
        text = self._text(progress, now)[: self._writer.fullwidth - 1]
        self._writer.write(ERASE_LINE + text, flush=True)

    def clear(self) -> None:
        """Take the line away and put the cursor back where it was."""
        if self._shown:
            back = f"\x1b[{self._column}C" if self._column else ""
            self._writer.write(ERASE_LINE + UP_ONE_LINE + "\r" + back, flush=True)
            self._shown = False
            self._step = None

    def _text(self, progress: Progress, now: float) -> str:
        text = f"  {progress.step}: {progress.unit} {progress.done} of {progress.total}"
        gained = progress.done - self._done_at_start
        if gained > 0 and progress.done < progress.total:
            left = (now - self._started) / gained * (progress.total - progress.done)
            text += f", about {_duration(left)} left"
        return f"{text}  [{self._subject}]"


def _duration(seconds: float) -> str:
    if seconds < 90:  # noqa: PLR2004 - from here on minutes read better
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min"
