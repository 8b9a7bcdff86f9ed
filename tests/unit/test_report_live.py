"""The live line: which control sequences are written, when, and that nothing else is touched."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantgate.records import Progress
from pytest_quantgate.report.live import LiveLine, Screen

NEW = "\n\r\x1b[2K"
AGAIN = "\r\x1b[2K"


@dataclass(slots=True)
class Terminal:
    """A writer that keeps what is written, with a clock to move by hand."""

    fullwidth: int = 80
    width_of_current_line: int = 0
    now: float = 1000.0
    written: list[str] = field(default_factory=list)
    flushed: list[bool] = field(default_factory=list)

    def write(self, msg: str, *, flush: bool = False) -> None:
        """Keep text."""
        self.written.append(msg)
        self.flushed.append(flush)

    def clock(self) -> float:
        """Return the time."""
        return self.now

    def line(self) -> LiveLine:
        """Return a live line on this terminal."""
        return LiveLine(self, subject="m::v::perplexity", clock=self.clock)

    def take(self) -> str:
        """Return what was written since it was last asked."""
        text = "".join(self.written)
        self.written.clear()
        return text


def chunk(done: int, total: int = 40, step: str = "measuring") -> Progress:
    """Return progress of a step in chunks."""
    return Progress(step=step, done=done, total=total, unit="chunk")


def test_nothing_is_written_before_there_is_progress() -> None:
    """A line that was never shown is neither written nor cleared."""
    terminal = Terminal()

    terminal.line().clear()

    assert terminal.written == []


def test_the_first_progress_opens_a_line_below() -> None:
    """The cursor goes to a fresh line, which has step, count and subject, and is flushed."""
    terminal = Terminal()

    terminal.line().show(chunk(0))

    assert terminal.take() == f"{NEW}  measuring: chunk 0 of 40  [m::v::perplexity]"
    assert terminal.flushed[-1]


def test_the_line_is_rewritten_in_place_with_the_time_left() -> None:
    """After 10 of 40 chunks in 5 s, 15 s are left; no second line is opened."""
    terminal = Terminal()
    line = terminal.line()
    line.show(chunk(0))
    terminal.take()

    terminal.now += 5
    line.show(chunk(10))

    assert terminal.take() == (
        f"{AGAIN}  measuring: chunk 10 of 40, about 15 s left  [m::v::perplexity]"
    )


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.4, "0 s"), (89.4, "89 s"), (89.9, "90 s"), (90.0, "2 min"), (149.0, "2 min"),
     (3600.0, "60 min")],
)  # fmt: skip
def test_time_is_told_in_seconds_then_minutes(seconds: float, told: str) -> None:
    """From 90 seconds on minutes read better."""
    terminal = Terminal()
    line = terminal.line()
    line.show(chunk(0, total=2))
    terminal.now += seconds

    line.show(chunk(1, total=2))

    assert f"chunk 1 of 2, about {told} left  [" in terminal.take()


def test_what_was_done_before_the_first_look_does_not_count() -> None:
    """A step that starts at 30 of 40 is timed from there: 5 more in 5 s leave 5 s."""
    terminal = Terminal()
    line = terminal.line()
    line.show(chunk(30))
    terminal.now += 5

    line.show(chunk(35))

    assert "chunk 35 of 40, about 5 s left" in terminal.take()


@pytest.mark.parametrize(("later", "shown"), [(0.19, False), (0.2, True), (0.21, True)])
def test_it_is_rewritten_five_times_a_second_at_most(later: float, *, shown: bool) -> None:
    """Progress sooner than 0.2 s after the last is not shown."""
    terminal = Terminal(now=0.0)
    line = terminal.line()
    line.show(chunk(0))
    terminal.take()
    terminal.now = later

    line.show(chunk(1))

    assert bool(terminal.take()) is shown


def test_the_end_of_a_step_is_always_shown() -> None:
    """However soon it comes, the last chunk is shown, without a time left."""
    terminal = Terminal()
    line = terminal.line()
    line.show(chunk(39))
    terminal.take()

    line.show(chunk(40))

    assert terminal.take() == f"{AGAIN}  measuring: chunk 40 of 40  [m::v::perplexity]"


@pytest.mark.parametrize(
    "other", [chunk(0, step="quantizing"), chunk(0, total=41)], ids=["step", "total"]
)
def test_a_new_step_is_shown_at_once_and_timed_anew(other: Progress) -> None:
    """Another step or total starts over: shown without delay, and its time left is its own."""
    terminal = Terminal()
    line = terminal.line()
    line.show(chunk(0))
    terminal.now += 0.1
    line.show(chunk(40))
    terminal.take()

    line.show(other)
    first = terminal.take()
    terminal.now += 1
    line.show(Progress(step=other.step, done=1, total=other.total, unit="chunk"))

    assert first == f"{AGAIN}  {other.step}: chunk 0 of {other.total}  [m::v::perplexity]"
    assert f"about {other.total - 1} s left" in terminal.take()


def test_the_line_stays_within_the_terminal() -> None:
    """A line as wide as the terminal would wrap, so it ends one column before."""
    terminal = Terminal(fullwidth=20)

    terminal.line().show(chunk(0))

    assert terminal.take() == NEW + "  measuring: chunk 0 of 40"[:19]


@pytest.mark.parametrize(("column", "back"), [(0, ""), (1, "\x1b[1C"), (37, "\x1b[37C")])
def test_clearing_puts_the_cursor_back(column: int, back: str) -> None:
    """The line goes away and the cursor returns to its column of the line above, once."""
    terminal = Terminal(width_of_current_line=column)
    line = terminal.line()
    line.show(chunk(0))
    terminal.take()

    line.clear()

    assert terminal.take() == f"\r\x1b[2K\x1b[1A\r{back}"
    assert terminal.flushed[-1]
    line.clear()
    assert terminal.take() == ""


def test_a_cleared_line_opens_again() -> None:
    """After clearing, progress opens a new line and is timed anew, even of the same step."""
    terminal = Terminal()
    line = terminal.line()
    line.show(chunk(10))
    line.clear()
    terminal.take()

    line.show(chunk(11))

    assert terminal.take() == f"{NEW}  measuring: chunk 11 of 40  [m::v::perplexity]"


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 40)), max_size=20))
def test_lines_opened_are_lines_closed(steps: list[tuple[float, int]]) -> None:
    """Whatever progress comes, showing and clearing leave the cursor on the line it started on."""
    terminal = Terminal()
    line = terminal.line()
    for elapsed, done in steps:
        terminal.now += elapsed
        line.show(chunk(done))
    line.clear()
    text = terminal.take()

    assert text.count("\n") == text.count("\x1b[1A") == bool(steps)


def test_a_screen_leads_past_what_is_captured() -> None:
    """A duplicate made before descriptor 1 is pointed elsewhere still writes where it led."""
    reader, writer = os.pipe()
    elsewhere_reader, elsewhere = os.pipe()
    terminal = Terminal(fullwidth=99, width_of_current_line=7)
    screen = Screen(terminal, descriptor=writer)
    os.dup2(elsewhere, writer)

    LiveLine(screen, subject="é\udc80").show(chunk(0))
    screen.close()
    os.close(writer)
    os.close(elsewhere)

    with os.fdopen(reader, "rb") as shown, os.fdopen(elsewhere_reader, "rb") as captured:
        assert shown.read().decode() == f"{NEW}  measuring: chunk 0 of 40  [é?]"
        assert captured.read() == b""
    assert (screen.fullwidth, screen.width_of_current_line) == (99, 7)
    assert terminal.written == []


def test_a_screen_writes_when_told_to() -> None:
    """Text is kept until it is to be seen."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    screen = Screen(Terminal(), descriptor=writer)

    screen.write("a")
    with pytest.raises(BlockingIOError):
        os.read(reader, 9)
    screen.write("b", flush=True)

    assert os.read(reader, 9) == b"ab"
    screen.close()
    os.close(reader)
    os.close(writer)
