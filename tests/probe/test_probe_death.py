"""Every way a probe can fail ends in a typed error that says what happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pytest_quantgate import errors, measure, supervision
from pytest_quantgate.records import (
    MEBIBYTE,
    EngineSettings,
    GenerationRequest,
    LikelihoodRequest,
    Progress,
    Prompt,
)

pytestmark = pytest.mark.usefixtures("counting_backends")

SETTINGS = EngineSettings(threads=1)
SECONDS = 30.0


def load(name: str, *, timeout: float = SECONDS, max_rss_bytes: int | None = None) -> measure.Probe:
    """Start a probe and load the model of this name; return the probe."""
    probe = measure.Probe.start("CountingBackend", max_rss_bytes=max_rss_bytes)
    try:
        probe.load(Path(f"{name}.gguf"), SETTINGS, timeout=timeout)
    except BaseException:
        survived = probe.alive
        probe.kill()
        assert not survived
        raise
    return probe


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("segfault", r"was killed by SIGSEGV \(the engine read memory that is not its own"),
        ("abort", r"was killed by SIGABRT \(an assertion of the engine failed"),
        ("sigkill", r"was killed by SIGKILL \(something outside of the probe killed it"),
        ("exit", r"left with exit status 0 before it answered"),
        ("garbage", r"answered with nonsense: a frame holds no JSON"),
        ("huge", r"answered with nonsense: a frame announces 2147483648 bytes"),
        ("foreign", r"answered with nonsense: \{'id': 77.* is no answer to request 1"),
        ("untyped", r"answered with nonsense: ModelFacts has unknown fields"),
        ("bug", r"the probe failed: IndexError: pop from empty list"),
    ],
)
def test_crash_is_named(name: str, said: str) -> None:
    """A probe that dies or speaks nonsense is a crash that names signal or nonsense, and the phase."""
    with pytest.raises(errors.ProbeCrashed, match=said) as caught:
        load(name)

    assert f"loading {name}.gguf" == caught.value.phase


def test_crash_shows_the_last_lines_of_the_log() -> None:
    """A flood on standard error is bounded; its last lines are in the error, fit for a terminal."""
    with pytest.raises(errors.ProbeCrashed, match="SIGSEGV") as caught:
        load("flood")

    lines = caught.value.log.splitlines()
    assert supervision.LOG_LINES == len(lines)
    assert any("the last line" in line for line in lines)
    assert "\x1b" not in caught.value.log


def test_python_error_shows_its_traceback() -> None:
    """An error in the probe's own code brings its traceback along."""
    with pytest.raises(errors.ProbeCrashed) as caught:
        load("bug")

    assert "IndexError: pop from empty list" in caught.value.log
    assert "in _bug" in caught.value.log


def test_hang_ends_at_the_deadline() -> None:
    """A probe that sleeps in native code is killed when its time is over, not later."""
    started = time.monotonic()
    with pytest.raises(
        errors.ProbeTimedOut, match=r"gave no answer within 0\.5 seconds and was killed"
    ) as caught:
        load("hang", timeout=0.5)

    assert time.monotonic() - started < 10
    assert "native code sleeps" in caught.value.log


def test_closed_channel_is_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe that lives on without its channel is killed."""
    monkeypatch.setattr(supervision, "_DEATH_SECONDS", 0.2)
    with pytest.raises(errors.ProbeCrashed, match="closed its channel without an answer"):
        load("closed")


def test_noise_on_standard_output_is_harmless() -> None:
    """What Python or C code prints cannot corrupt the channel."""
    with load("noise") as probe:
        assert probe.alive


def test_refusal_leaves_the_probe_alive() -> None:
    """A refused request is no crash: the next one is answered."""
    with measure.Probe.start("CountingBackend") as probe:
        with pytest.raises(errors.ProbeRefused, match="not this one"):
            probe.load(Path("refuse.gguf"), SETTINGS, timeout=SECONDS)

        facts = probe.load(Path("good.gguf"), SETTINGS, timeout=SECONDS)
        assert "counts" == facts.description

        with pytest.raises(errors.ProbeRefused, match=r"has loaded good\.gguf; start another"):
            probe.load(Path("good.gguf"), SETTINGS, timeout=SECONDS)


def test_growth_past_the_limit_is_out_of_memory() -> None:
    """A probe whose resident set passes the limit is killed, and the error names both figures."""
    with pytest.raises(
        errors.ProbeOutOfMemory, match=r"it used \d+ MiB of memory, the limit is 300 MiB"
    ):
        load("grow", max_rss_bytes=300 * MEBIBYTE)


def test_python_memory_error_is_out_of_memory() -> None:
    """An allocation that fails in Python is out of memory, and the probe survives it."""
    with measure.Probe.start("CountingBackend") as probe:
        with pytest.raises(errors.ProbeOutOfMemory, match="out of memory"):
            probe.load(Path("memory.gguf"), SETTINGS, timeout=SECONDS)

        assert probe.alive


def test_kernel_kill_is_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL while the kernel's count of memory kills rose is blamed on memory."""
    counts = iter([(1, 0), (2, 0)])
    monkeypatch.setattr(supervision, "_kernel_kills", lambda: next(counts))
    with pytest.raises(errors.ProbeOutOfMemory, match="killed by the kernel"):
        load("sigkill")


@pytest.mark.parametrize(
    ("backend", "kind", "said"),
    [
        ("nothing", errors.ProbeRefused, "there is no backend 'nothing'; there are .*llama"),
        ("nowhere", errors.ProbeRefused, "ModuleNotFoundError: No module named 'no_such_module'"),
        ("Unstartable", errors.ProbeRefused, "cannot start: .*ImportError: no runtime here"),
        ("OtherProtocol", errors.ProbeRefused, "speaks protocol 99, this package 1"),
        ("DiesAtStart", errors.ProbeCrashed, r"SIGILL \(the engine was built for another CPU"),
    ],
)
def test_start_fails(backend: str, kind: type[errors.ProbeError], said: str) -> None:
    """What keeps a probe from starting is said at once."""
    with pytest.raises(kind, match=said):
        measure.Probe.start(backend)


def test_slow_hello_times_out() -> None:
    """A probe that never says hello is killed at the deadline."""
    with pytest.raises(errors.ProbeTimedOut, match=r"starting.* within 0\.5 seconds"):
        measure.Probe.start("SlowHello", timeout=0.5)


def test_missing_interpreter() -> None:
    """An interpreter that is not there is an error that names it."""
    with pytest.raises(
        errors.ProbeCrashed, match="cannot be started with /no/such/python: No such"
    ):
        measure.Probe.start("CountingBackend", python="/no/such/python")


def test_death_names_the_chunk(tmp_path: Path) -> None:
    """Progress is reported until the probe dies, and the error says how far it had come."""
    seen: list[Progress] = []
    probe = load("later-segfault")
    with pytest.raises(errors.ProbeCrashed, match="likelihood, chunk 2 of 3"), probe:
        probe.likelihood(request(tmp_path), timeout=SECONDS, on_progress=seen.append)

    assert Progress(step="likelihood", done=1, total=3, unit="chunk") == seen[-1]
    assert not probe.alive


def test_nan_names_the_chunk(tmp_path: Path) -> None:
    """A model that produces NaN is an error of the measurement, and the probe is well."""
    with load("later-nan") as probe:
        with pytest.raises(errors.MeasurementError, match="the model produced NaN in chunk 2"):
            probe.likelihood(request(tmp_path), timeout=SECONDS)

        assert probe.alive


def request(folder: Path) -> LikelihoodRequest:
    """Return a request for three windows of sixteen bytes, one at a time."""
    import hashlib  # noqa: PLC0415 - for this alone

    corpus = folder / "corpus.txt"
    corpus.write_bytes(b"0123456789abcdef" * 3)
    digest = hashlib.sha256(corpus.read_bytes()).hexdigest()
    return LikelihoodRequest(corpus_path=str(corpus), corpus_sha256=digest, context=16, sequences=1)


def test_interrupt_in_the_parent_kills_the_probe(tmp_path: Path) -> None:
    """Ctrl-C while a probe works ends the probe and goes on its way."""

    def interrupt(_progress: Progress) -> None:
        raise KeyboardInterrupt

    probe = load("good")
    with pytest.raises(KeyboardInterrupt):
        probe.likelihood(request(tmp_path), timeout=SECONDS, on_progress=interrupt)

    assert not probe.alive
    with pytest.raises(errors.ProbeCrashed, match=r"has ended and cannot run 'likelihood'"):
        probe.likelihood(request(tmp_path), timeout=SECONDS)


def test_a_death_between_two_requests_is_named(tmp_path: Path) -> None:
    """A probe that was killed while nothing was asked of it says so at the next question."""
    with load("good") as probe:
        os.kill(probe.pid, signal.SIGKILL)
        os.waitid(os.P_PID, probe.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(errors.ProbeCrashed, match=r"was killed by SIGKILL \(something outside"):
            probe.likelihood(request(tmp_path), timeout=SECONDS)


def test_interrupt_in_the_child_is_ignored(tmp_path: Path) -> None:
    """SIGINT to the probe's process group does not end it: the parent decides."""
    with load("good") as probe:
        os.killpg(probe.pid, signal.SIGINT)

        assert 3 == len(probe.likelihood(request(tmp_path), timeout=SECONDS).chunk_nll)


_PARENT = """
import sys
from pathlib import Path
from pytest_quantgate import measure
from pytest_quantgate.records import EngineSettings

measure.BACKENDS["counting"] = "counting:CountingBackend"
probe = measure.Probe.start("counting")
print(probe.pid, flush=True)
probe.load(Path("hang.gguf"), EngineSettings(threads=1), timeout=60)
"""


def test_no_orphan_survives_its_parent() -> None:
    """When the parent is killed outright, the probe is gone within two seconds, even in native code."""
    home = str(Path(measure.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([home, os.environ["PYTHONPATH"]])}
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, env=environment, text=True
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        time.sleep(0.3)
        assert child.is_running()

        parent.kill()
        deadline = time.monotonic() + 2
        while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_nothing_is_leaked() -> None:
    """Probes that ended in any way leave no descriptor and no process behind."""
    before = os.listdir("/proc/self/fd")  # noqa: PTH208 - the listing itself opens one
    children = psutil.Process().children()

    load("good").close()
    probe = load("good")
    probe.kill()
    probe.kill()
    probe.close()
    with pytest.raises(errors.ProbeCrashed):
        load("exit")
    with pytest.raises(errors.ProbeRefused):
        measure.Probe.start("Unstartable")

    assert len(before) == len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - as above
    assert children == psutil.Process().children()


def test_close_lets_the_probe_leave_by_itself() -> None:
    """A probe that is closed ends with status 0 and is not killed."""
    probe = load("good")
    probe.close()

    assert 0 == probe._child._process.returncode


def test_unknown_operation_is_refused() -> None:
    """An operation that no file registers is refused with the names of those there are."""
    with (
        load("good") as probe,
        pytest.raises(
            errors.ProbeRefused, match=r"unknown operation 'dance'; there are .*quantize"
        ),
    ):
        probe.run("dance", {}, timeout=SECONDS)


@pytest.mark.parametrize(("extra", "cut"), [(-1, False), (0, False), (1, True)])
def test_log_is_cut_past_its_limit(
    extra: int,
    cut: bool,  # noqa: FBT001 - parametrized
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A log one byte too long keeps its tail and nothing else."""
    monkeypatch.setattr(supervision, "LOG_LIMIT_BYTES", 200_000)
    log = supervision.Log()
    try:
        os.write(log.fileno(), b"x" * (200_000 + extra - 5) + b"\nend\n")
        log.trim()

        size = os.fstat(log.fileno()).st_size
        assert (64 * 1024 if cut else 200_000 + extra) == size
        assert log.tail().endswith("end")
    finally:
        log.close()


def test_what_cannot_be_sent_is_refused_before_it_is_sent() -> None:
    """Half a character in a prompt has no UTF-8 form: the caller is told, and the probe is well."""
    prompt = Prompt(id="x", prompt="\ud800")
    with load("good") as probe:
        with pytest.raises(errors.ProbeRefused, match="'generation' cannot be asked of a probe"):
            probe.generation(GenerationRequest(prompts=(prompt,)), timeout=SECONDS)

        assert probe.alive


def test_a_long_request_passes_a_pipe_that_fills() -> None:
    """A request of megabytes arrives whole although a pipe holds a fraction of it."""
    prompts = tuple(Prompt(id=f"{i:0100000d}", prompt="a", max_tokens=1) for i in range(40))
    with load("good") as probe:
        outputs = probe.generation(GenerationRequest(prompts=prompts), timeout=SECONDS).outputs

    assert [prompt.id for prompt in prompts] == [output.id for output in outputs]
