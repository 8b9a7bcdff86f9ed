"""One child process under supervision: its pipes, its clock, its memory, its log, and its death."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import selectors
import signal
import subprocess
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from pytest_quantgate.errors import ProbeCrashed, ProbeError, ProbeOutOfMemory, ProbeTimedOut
from pytest_quantgate.probe import protocol
from pytest_quantgate.records import MEBIBYTE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

LOG_LINES = 20
"""How many of the last lines of the child's log go into an error."""

LOG_LIMIT_BYTES = 16 * MEBIBYTE
"""How long the log may become before all but its tail is dropped."""

SPINS = "1000"
"""How often a thread of the engine looks for the others before it sleeps."""

_LOG_TAIL_BYTES = 64 * 1024
_LOG_LINE_CHARACTERS = 300
_TICK_SECONDS = 0.1
_READ_BYTES = 1 << 16
_DEATH_SECONDS = 5.0

_HINTS = {
    "SIGABRT": "an assertion of the engine failed; the log says which",
    "SIGBUS": "the model file may have been cut short while it was in use",
    "SIGFPE": "the engine divided by zero; the model's metadata may be damaged",
    "SIGILL": "the engine was built for another CPU; reinstall it on this machine",
    "SIGKILL": "something outside of the probe killed it",
    "SIGSEGV": "the engine read memory that is not its own; the model file may be damaged",
}


class Deadline:
    """A point in time that a whole exchange must be over by."""

    def __init__(self, seconds: float) -> None:
        """Start the clock."""
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds that are left; zero or less when it has passed."""
        return self._end - time.monotonic()


@contextlib.contextmanager
def shared_memory() -> Iterator[int]:
    """Make memory without a name for children to share, and lend its descriptor to start them with.

    It is empty and takes no memory until a child makes it larger, and is gone with the last child.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("quantgate-exchange", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class Log:
    """The child's standard error, in a file without a name that the parent owns."""

    def __init__(self) -> None:
        """Create the file."""
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - lives as the child
        # Both sides write at the end, wherever that is after `trim`. tempfile leaves the flag out.
        flags = fcntl.fcntl(self._file, fcntl.F_GETFL)
        fcntl.fcntl(self._file, fcntl.F_SETFL, flags | os.O_APPEND)

    def fileno(self) -> int:
        """Return the descriptor to start the child with."""
        return self._file.fileno()

    def trim(self) -> None:
        """Drop all but the tail of a log that a flood has made too long."""
        if os.fstat(self.fileno()).st_size > LOG_LIMIT_BYTES:
            tail = self._tail_bytes()
            os.ftruncate(self.fileno(), 0)
            self._file.write(tail)

    def tail(self) -> str:
        """Return the last lines, each of bearable length and without control characters."""
        if self._file.closed:
            return ""
        text = self._tail_bytes().decode("utf-8", errors="replace")
        lines = [
            re.sub(r"[^\t -~\u00a0-\U0010ffff]", "", line).rstrip() for line in text.split("\n")
        ]
        kept = [line for line in lines if line][-LOG_LINES:]
        return "\n".join(line[:_LOG_LINE_CHARACTERS] for line in kept)

    def close(self) -> None:
        """Delete the file."""
        self._file.close()

    def _tail_bytes(self) -> bytes:
        size = os.fstat(self.fileno()).st_size
        return os.pread(self.fileno(), _LOG_TAIL_BYTES, max(0, size - _LOG_TAIL_BYTES))


class Child:
    """A process that speaks `pytest_quantgate.probe.protocol` on its standard input and output.

    Every error raised here comes after the process was killed, and carries its phase and log.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        max_rss_bytes: int | None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Start the process in a session of its own.

        Args:
            command: Program and arguments.
            env: Its whole environment.
            max_rss_bytes: Kill it when its resident set is larger than this; None sets no limit.
            pass_fds: Descriptors it inherits under their numbers.

        Raises:
            ProbeCrashed: it cannot be started.
        """
        self.phase = "starting"
        self._max_rss_bytes = max_rss_bytes
        self._log = Log()
        self._kernel_kills = _kernel_kills()
        try:
            # A new session, because Ctrl-C in the terminal is for the parent, which kills the child.
            self._process = subprocess.Popen(  # noqa: S603 - our own module, and no shell
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log.fileno(),
                env=env,
                bufsize=0,
                start_new_session=True,
                pass_fds=pass_fds,
            )
        except OSError as error:
            self._log.close()
            message = f"a probe cannot be started with {command[0]}: {error.strerror}"
            raise ProbeCrashed(message, phase=self.phase) from error
        if self._process.stdin is None or self._process.stdout is None:
            message = "subprocess gave no pipes"
            raise RuntimeError(message)
        self._stdin = self._process.stdin.fileno()
        self._stdout = self._process.stdout.fileno()
        # Neither a full nor an empty pipe may keep the supervisor from its clock.
        os.set_blocking(self._stdin, False)
        os.set_blocking(self._stdout, False)
        self._decoder = protocol.Decoder()
        self._messages: list[dict[str, Any]] = []
        self._broken: protocol.ProtocolError | None = None
        self._closed = False

    @property
    def pid(self) -> int:
        """Process id, also of a child that has ended."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def send(self, frame: bytes, deadline: Deadline) -> None:
        """Write one frame of the protocol.

        Raises:
            ProbeError: the child died or did not read in time.
        """
        data = memoryview(frame)
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdin, selectors.EVENT_WRITE)
            while data:
                self._await(selector, deadline)
                try:
                    data = data[os.write(self._stdin, data) :]
                except BlockingIOError:
                    continue
                except BrokenPipeError as error:
                    raise self._autopsy() from error

    def receive(self, deadline: Deadline) -> dict[str, Any]:
        """Return the next message.

        Raises:
            ProbeTimedOut: none came in time.
            ProbeCrashed: the child died, or wrote what is no message.
            ProbeOutOfMemory: the child was killed for memory.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            while not self._messages:
                if self._broken is not None:
                    what = f"answered with nonsense: {self._broken}"
                    raise self.fail(ProbeCrashed, what) from self._broken
                self._await(selector, deadline)
                data = os.read(self._stdout, _READ_BYTES)
                if not data:
                    raise self._autopsy()
                try:
                    for message in self._decoder.feed(data):
                        self._messages.append(message)
                except protocol.ProtocolError as error:
                    # What came whole before it is still worth hearing.
                    self._broken = error
        return self._messages.pop(0)

    def ended(self, operation: str) -> ProbeError:
        """Return why a child that has ended cannot be asked: what it died of, or that it was killed."""
        if self._closed:
            message = f"the probe (pid {self.pid}) has ended and cannot run {operation!r}"
            return ProbeCrashed(message, phase=self.phase)
        return self._autopsy()

    def fail(self, kind: type[ProbeError], what: str) -> ProbeError:
        """Kill the child and return an error that says what it did, in which phase, and its log."""
        log = self._log.tail()
        self.kill()
        return kind(f"the probe (pid {self.pid}, {self.phase}) {what}", phase=self.phase, log=log)

    def leave(self, seconds: float) -> None:
        """Give the child this long to end by itself, then end it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        self.kill()

    def kill(self) -> None:
        """End the child and all it started, and free what it held. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        # Until it is waited for, the number cannot belong to another group.
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._log.close()

    def _await(self, selector: selectors.BaseSelector, deadline: Deadline) -> None:
        """Wait until the pipe is ready, and watch clock, memory and log meanwhile."""
        while True:
            if deadline.left <= 0:
                what = f"gave no answer within {deadline.seconds:g} seconds and was killed"
                raise self.fail(ProbeTimedOut, what)
            ready = selector.select(min(_TICK_SECONDS, deadline.left))
            self._log.trim()
            self._watch_memory()
            if ready:
                return

    def _watch_memory(self) -> None:
        if self._max_rss_bytes is None:
            return
        try:
            used = psutil.Process(self.pid).memory_info().rss
        except psutil.Error:
            # It is dying; the pipe will say so.
            return
        if used > self._max_rss_bytes:
            what = (
                f"was killed: it used {used / MEBIBYTE:.0f} MiB of memory, the limit is"
                f" {self._max_rss_bytes / MEBIBYTE:.0f} MiB"
            )
            raise self.fail(ProbeOutOfMemory, what)

    def _autopsy(self) -> ProbeError:
        """Return what a child that no longer speaks has died of."""
        try:
            status = self._process.wait(_DEATH_SECONDS)
        except subprocess.TimeoutExpired:
            return self.fail(ProbeCrashed, "closed its channel without an answer")
        if status >= 0:
            return self.fail(ProbeCrashed, f"left with exit status {status} before it answered")
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        if name == "SIGKILL" and _kernel_kills() != self._kernel_kills:
            what = "was killed by the kernel, which had run out of memory; the model needs more"
            return self.fail(ProbeOutOfMemory, what)
        hint = f" ({_HINTS[name]})" if name in _HINTS else ""
        return self.fail(ProbeCrashed, f"was killed by {name}{hint}")


def _kernel_kills() -> tuple[int, ...]:
    """Return how often the kernel has killed for memory: on the machine, and in this container."""
    counts = []
    for path in (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events")):
        with contextlib.suppress(OSError):
            match = re.search(r"^oom_kill (\d+)$", path.read_text("ascii"), re.MULTILINE)
            counts.append(int(match.group(1)) if match else 0)
    return tuple(counts)


def probe_environment() -> dict[str, str]:
    """Return the environment a probe starts with."""
    environment = dict(os.environ)
    # Without it, an assertion of the engine starts a debugger and waits for its backtrace.
    environment["GGML_NO_BACKTRACE"] = "1"
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & environment.keys():
        # The engine's threads meet some hundred times a token. GNU OpenMP lets the early one spin for
        # milliseconds; on a busy machine it spins while the late one waits for its processor.
        # Giving up after microseconds costs nothing on an idle machine and a factor of ten less there.
        environment["GOMP_SPINCOUNT"] = SPINS
    # A numpy.py or json.py in the folder that pytest happens to run in is none of the probe's.
    environment["PYTHONSAFEPATH"] = "1"
    # A package that was put on the path by hand (a checkout, pytest's `pythonpath`) is found there too.
    home = Path(__file__).resolve().parents[1]
    if str(home) not in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        parts = [environment.get("PYTHONPATH", ""), str(home)]
        environment["PYTHONPATH"] = os.pathsep.join(part for part in parts if part)
    return environment
