"""A probe that dies costs its own gate; pytest and the other gates go on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from conftest import Project

SPEC = """\
quantgate: 1
defaults: {corpus: long.txt, context: 512}
models:
  tiny:
    baseline: {source: tiny-f16.gguf}
    variants:
      Q8_0: {quantize: Q8_0}
    gates:
      checksum: {}
      kld: {max: 1000}  # which passes on all windows only
      perplexity: {max: 1000}
      memory: {max_mb: 1500}
"""

# Sends a signal to the first probe that is at work on the divergence.
ASSASSIN = """\
import os, signal, threading, time
import psutil, pytest

def strike():
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for child in psutil.Process().children():
            try:
                if "pytest_quantgate.probe" in child.cmdline() and child.cpu_times().user > 1:
                    os.kill(child.pid, signal.SIGNAME)
                    return
            except psutil.Error:
                pass
        time.sleep(0.005)

@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    if item.name == "kld":
        threading.Thread(target=strike, daemon=True).start()
    return (yield)
"""


@pytest.fixture
def long_project(project: Project, corpus_text: str) -> Project:
    """A project whose divergence gate takes seconds."""
    project.spec(SPEC)
    (project.path / "long.txt").write_text(corpus_text * 6, encoding="utf-8")
    return project


def probes_at_work(parent: int, seconds: float) -> list[int]:
    """Return the probes of a process that have computed for so many seconds."""
    found = []
    for child in psutil.Process(parent).children(recursive=True):
        try:
            if "pytest_quantgate.probe" in child.cmdline() and child.cpu_times().user > seconds:
                found.append(child.pid)
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGABRT"])
def test_a_killed_probe_is_an_error_of_its_gate(long_project: Project, name: str) -> None:
    """The gate is an error that names signal and phase; the gates before and after it pass."""
    long_project.pytester.makeconftest(ASSASSIN.replace("SIGNAME", name))

    result = long_project.gate(fresh=True)

    result.assert_outcomes(passed=3, errors=1)
    text = " ".join(result.stdout.str().split())
    # Of the pair, one may be struck while it waits for the other: then its phase is what it did last.
    assert re.search(rf"the probe \(pid \d+, [^)]+\) was killed by {name}", text)
    assert "Traceback" not in text
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def take_interrupts() -> None:
    """Undo what a shell does to the background jobs of a script, which never see Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(project: Project) -> subprocess.Popen[str]:
    """Start a run that gates for seconds, and wait until its probe is at work."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "--quantgate", "gates.yaml", "--quantgate-store", "own"],
        cwd=project.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=take_interrupts,  # noqa: PLW1509 - there are no threads here
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if probes_at_work(process.pid, 1):
            return process
        time.sleep(0.01)
    process.kill()
    pytest.fail("no probe came to work")


def gone(pids: list[int], seconds: float = 5) -> bool:
    """Wait until none of the processes is alive."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(psutil.pid_exists(pid) for pid in pids):
            return True
        time.sleep(0.02)
    return False


def test_ctrl_c_leaves_no_probe(long_project: Project) -> None:
    """An interrupt ends pytest with its own exit code and takes the probe along."""
    process = start(long_project)
    children = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]

    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)

    assert process.returncode == pytest.ExitCode.INTERRUPTED, output
    assert "KeyboardInterrupt" in output
    assert gone(children)


def test_a_killed_pytest_leaves_no_probe_and_no_lock(long_project: Project) -> None:
    """After SIGKILL nothing runs on, and the next run succeeds on the same store."""
    process = start(long_project)
    children = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]

    process.kill()
    process.communicate(timeout=60)

    assert gone(children)
    again = long_project.run("--quantgate", "gates.yaml", "--quantgate-store", "own")
    again.assert_outcomes(passed=4)
