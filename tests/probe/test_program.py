"""Programs that are run to their end, and ended when they do not come to it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

import pytest_quantgate
from pytest_quantgate.errors import ConversionError
from pytest_quantgate.pipeline import program
from pytest_quantgate.supervision import Deadline

PACKAGE = str(Path(pytest_quantgate.__file__).parents[1])


def run(code: str, folder: Path, *, seconds: float = 60.0) -> list[int]:
    """Run Python code as a program called *it*; return the percentages it has shown."""
    shown: list[int] = []
    program.run(
        [sys.executable, "-c", code],
        name="it",
        environment={"PATH": os.environ["PATH"], "PYTHONPATH": PACKAGE},
        folder=folder,
        deadline=Deadline(seconds),
        on_percent=shown.append,
    )
    return shown


def failure(code: str, folder: Path, *, seconds: float = 60.0) -> str:
    """Run code that fails; return the message."""
    with pytest.raises(ConversionError) as caught:
        run(code, folder, seconds=seconds)
    return str(caught.value)


def test_its_environment_folder_and_progress(tmp_path: Path) -> None:
    """It has the environment it was given and no other, and its bars are followed."""
    code = (
        "import os, sys, time\nfrom pathlib import Path\n"
        "Path('names').write_text(' '.join(sorted(os.environ)))\n"
        "for part in (10, 100):\n"
        "    print(f'\\rWriting: {part:3}%|###| 1/2', end='', file=sys.stderr, flush=True)\n"
        "    time.sleep(0.5)\n"
    )

    shown = run(code, tmp_path)

    assert shown == [10, 100]
    names = set((tmp_path / "names").read_text("utf-8").split())
    assert names - {"LC_CTYPE"} == {"PATH", "PYTHONPATH"}


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise ValueError('no such tensor')", "it failed: no such tensor"),
        ("raise Exception('bad tokenizer')", "it failed: bad tokenizer"),
        (
            "import sys; print('ERROR:hf-to-gguf:Error: x is not a directory'); sys.exit(3)",
            "it failed: x is not a directory",
        ),
        ("import sys; sys.exit(3)", "it ended with exit status 3"),
        ("import os; os.kill(os.getpid(), 11)", "it was killed by SIGSEGV"),
        (
            "import os; os.kill(os.getpid(), 9)",
            "it was killed by SIGKILL; the machine may have run out of memory",
        ),
    ],
)
def test_why_it_failed(code: str, reason: str, tmp_path: Path) -> None:
    """The reason is the last error it told, or how it ended."""
    assert failure(code, tmp_path).splitlines()[0] == reason


def test_the_last_lines_are_shown(tmp_path: Path) -> None:
    """Eight lines of its log follow the reason."""
    message = failure("for i in range(20): print('line', i)\nraise SystemExit(1)", tmp_path)

    assert message.splitlines()[1:] == ["last lines of its log:"] + [
        f"  line {number}" for number in range(12, 20)
    ]


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    """What cannot be started is named."""
    with pytest.raises(
        ConversionError, match="it cannot be started with /no/such/program: No such file"
    ):
        program.run(
            ["/no/such/program"],
            name="it",
            environment={},
            folder=tmp_path,
            deadline=Deadline(10),
        )


def alive(pid: int) -> bool:
    """Tell whether a process runs and is no zombie."""
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text("utf-8")


def test_what_takes_too_long_is_ended_with_its_children(tmp_path: Path) -> None:
    """At the deadline the whole group is killed, whatever it ignores."""
    code = (
        "import os, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "open('pids', 'w').write(f'{os.getpid()} {child.pid}')\n"
        "time.sleep(60)\n"
    )

    message = failure(code, tmp_path, seconds=2)

    assert message == "it was not done within 2 seconds and was stopped"
    pids = [int(pid) for pid in (tmp_path / "pids").read_text("utf-8").split()]
    end = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    assert [pid for pid in pids if alive(pid)] == []


def test_a_lifeline_ends_with_the_parent(tmp_path: Path) -> None:
    """A program that holds the lifeline is gone when its parent was killed."""
    inner = (
        "import os, time; from pytest_quantgate.artifact.conversion import lifeline; lifeline.hold(); "
        "open('pid', 'w').write(str(os.getpid())); time.sleep(60)"
    )
    code = (
        "import os, subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-c', {inner!r}], stdin=subprocess.PIPE,"
        " start_new_session=True)\n"
        "while not (os.path.exists('pid') and open('pid').read()): time.sleep(0.01)\n"
        "os.kill(os.getpid(), 9)\n"
    )

    assert "it was killed by SIGKILL" in failure(code, tmp_path)

    pid = int((tmp_path / "pid").read_text("utf-8"))
    end = time.monotonic() + 10
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(pid)
