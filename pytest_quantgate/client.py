"""The parent's end of a probe: starts the child process, asks it, and turns answers into records.

A probe is a process of its own because native code takes its process with it when it fails: an
assertion aborts, a bad file may crash, the kernel kills what asks for too much memory.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_quantgate.errors import ProbeCrashed, ProbeError, ProbeRefused
from pytest_quantgate.probe import protocol
from pytest_quantgate.records import (
    ChoiceRequest,
    ChoiceScores,
    ContinuationRequest,
    ContinuationScores,
    Divergence,
    DivergenceRequest,
    EngineSettings,
    Generation,
    GenerationRequest,
    HarnessRequest,
    HarnessResult,
    LatencyRequest,
    Likelihood,
    LikelihoodRequest,
    MemoryRequest,
    MemoryUse,
    ModelFacts,
    NextTokens,
    NextTokensRequest,
    PassageLikelihood,
    PassageRequest,
    Progress,
    RequestTiming,
    TextFacts,
    TextRequest,
)
from pytest_quantgate.supervision import Child, Deadline, probe_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self

    ProgressCallback = Callable[[Progress], None]

BACKENDS: dict[str, str] = {"llama": "pytest_quantgate.probe.llama:LlamaBackend"}
"""The runtimes by name: where the class of each one is, as ``module:attribute``."""

START_SECONDS = 120.0
"""Longest time a probe may take to import its runtime and say hello."""

CLOSE_SECONDS = 10.0
"""Longest time a probe may take to leave when asked to."""

RecordT = TypeVar("RecordT")


class Probe:
    """One child process with one model; use it in a ``with`` statement or call `close`.

    Every call takes a ``timeout`` in seconds for the whole call. A probe that died, hung or spoke
    nonsense is gone when the error is raised; one that refused is well and can be asked again.
    """

    def __init__(self, child: Child, *, engine: str, engine_version: str) -> None:
        """Speak for a process that has said hello; `start` is the way to make one."""
        self._child = child
        self._number = 0
        self.engine = engine
        self.engine_version = engine_version

    @classmethod
    def start(
        cls,
        backend: str = "llama",
        *,
        python: str = sys.executable,
        max_rss_bytes: int | None = None,
        timeout: float = START_SECONDS,
        exchange: int | None = None,
    ) -> Probe:
        """Start a probe and wait for its hello.

        Args:
            backend: A key of `BACKENDS`.
            python: The interpreter to run; it needs this package and the runtime.
            max_rss_bytes: Kill the probe when its resident set is larger than this.
            timeout: Seconds until the hello must have come.
            exchange: Descriptor of memory that it shares with another probe.

        Raises:
            ProbeRefused: there is no such backend, its runtime cannot be imported, or the
                interpreter has another version of this package.
            ProbeError: the process did not come up.
        """
        if backend not in BACKENDS:
            message = f"there is no backend {backend!r}; there are {', '.join(sorted(BACKENDS))}"
            raise ProbeRefused(message)
        command = [python, "-m", "pytest_quantgate.probe", "--backend", BACKENDS[backend]]
        if exchange is not None:
            command += ["--exchange", str(exchange)]
        child = Child(
            command,
            env=probe_environment(),
            max_rss_bytes=max_rss_bytes,
            pass_fds=() if exchange is None else (exchange,),
        )
        try:
            hello = child.receive(Deadline(timeout))
            _check_hello(child, hello, python)
        except BaseException:
            child.kill()
            raise
        return cls(child, engine=str(hello["engine"]), engine_version=str(hello["engine_version"]))

    def __enter__(self) -> Self:
        """Return the probe itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the probe: politely after success, at once after an error."""
        if error is None:
            self.close()
        else:
            self.kill()

    @property
    def alive(self) -> bool:
        """Whether the process runs and can be asked."""
        return self._child.alive

    @property
    def pid(self) -> int:
        """Process id, also of a probe that has ended."""
        return self._child.pid

    def load(
        self,
        path: Path,
        settings: EngineSettings,
        *,
        timeout: float,
        on_progress: ProgressCallback | None = None,
    ) -> ModelFacts:
        """Load a model; once in the life of a probe."""
        plain = {"path": os.fspath(path.absolute()), "settings": protocol.to_plain(settings)}
        return self.ask("load", plain, ModelFacts, timeout, on_progress)

    def text(
        self,
        request: TextRequest,
        *,
        timeout: float | Deadline,
        on_progress: ProgressCallback | None = None,
    ) -> TextFacts:
        """Tell how the model reads a text."""
        return self.ask("text", protocol.to_plain(request), TextFacts, timeout, on_progress)

    def likelihood(
        self,
        request: LikelihoodRequest,
        *,
        timeout: float,
        on_progress: ProgressCallback | None = None,
    ) -> Likelihood:
        """Score a text."""
        plain = protocol.to_plain(request)
        return self.ask("likelihood", plain, Likelihood, timeout, on_progress)

    def passages(
        self,
        request: PassageRequest,
        *,
        timeout: float,
        on_progress: ProgressCallback | None = None,
    ) -> PassageLikelihood:
        """Score passages of a text."""
        plain = protocol.to_plain(request)
        return self.ask("passages", plain, PassageLikelihood, timeout, on_progress)

    def divergence(
        self,
        request: DivergenceRequest,
        *,
        timeout: float,
        on_progress: ProgressCallback | None = None,
    ) -> Divergence:
        """Compare with a logits file or a committed baseline; a live one takes two probes."""
        plain = protocol.to_plain(request)
        return self.ask("divergence", plain, Divergence, timeout, on_progress)

    def write_logits(
        self,
        request: TextRequest,
        chunks: int | None,
        path: Path,
        *,
        timeout: float,
        on_progress: ProgressCallback | None = None,
    ) -> int:
        """Write the logits file of a text's first windows (None: all); return how many it has."""
        plain = {
            "request": protocol.to_plain(request),
            "chunks": chunks,
            "path": os.fspath(path.absolute()),
        }
        answer = self.run("write_logits", plain, timeout=timeout, on_progress=on_progress)
        return int(answer["chunks"])

    def generation(
        self,
        request: GenerationRequest,
        *,
        timeout: float,
        on_progress: ProgressCallback | None = None,
    ) -> Generation:
        """Continue prompts."""
        plain = protocol.to_plain(request)
        return self.ask("generation", plain, Generation, timeout, on_progress)

    def next_tokens(
        self,
        request: NextTokensRequest,
        *,
        timeout: float,
        on_progress: ProgressCallback | None = None,
    ) -> NextTokens:
        """Tell what may follow beginnings."""
        plain = protocol.to_plain(request)
        return self.ask("next_tokens", plain, NextTokens, timeout, on_progress)

    def continuations(
        self,
        request: ContinuationRequest,
        *,
        timeout: float,
        on_progress: ProgressCallback | None = None,
    ) -> ContinuationScores:
        """Score what may follow given texts."""
        plain = protocol.to_plain(request)
        return self.ask("continuations", plain, ContinuationScores, timeout, on_progress)

    def choices(
        self,
        request: ChoiceRequest,
        *,
        timeout: float,
        on_progress: ProgressCallback | None = None,
    ) -> ChoiceScores:
        """Score the answers of multiple-choice questions."""
        plain = protocol.to_plain(request)
        return self.ask("choices", plain, ChoiceScores, timeout, on_progress)

    def harness(
        self,
        request: HarnessRequest,
        *,
        timeout: float,
        on_progress: ProgressCallback | None = None,
    ) -> HarnessResult:
        """Run a task of lm-evaluation-harness."""
        plain = protocol.to_plain(request)
        return self.ask("harness", plain, HarnessResult, timeout, on_progress)

    def memory(
        self,
        request: MemoryRequest,
        *,
        timeout: float,
        on_progress: ProgressCallback | None = None,
    ) -> MemoryUse:
        """Measure peak memory; refused by a probe that has measured anything else before."""
        return self.ask("memory", protocol.to_plain(request), MemoryUse, timeout, on_progress)

    def open_latency(self, request: LatencyRequest, *, timeout: float) -> None:
        """Prepare for `time_request` calls of one shape."""
        self.run("open_latency", protocol.to_plain(request), timeout=timeout)

    def time_request(self, *, timeout: float) -> RequestTiming:
        """Time one request; one per call, so that two probes can take turns."""
        return self.ask("time_request", {}, RequestTiming, timeout)

    def run(
        self,
        operation: str,
        arguments: Mapping[str, Any],
        *,
        timeout: float | Deadline,
        on_progress: ProgressCallback | None = None,
    ) -> dict[str, Any]:
        """Have an operation carried out and return its plain answer.

        Args:
            operation: Its name.
            arguments: What it takes, in plain form.
            timeout: Seconds for this call, or the end of the several calls that it is one of.
            on_progress: Told how far the probe is.

        Raises:
            ProbeTimedOut: no answer came within ``timeout`` seconds; the probe was killed.
            ProbeOutOfMemory: the probe was killed for memory, or could not allocate.
            ProbeCrashed: the probe died, or failed in its own code and was killed.
            ProbeRefused: the probe says why it cannot.
            QuantgateError: what else the operation raised on purpose.
        """
        if not self.alive:
            raise self._child.ended(operation)
        self._number += 1
        self._child.phase = operation
        deadline = timeout if isinstance(timeout, Deadline) else Deadline(timeout)
        request = {"id": self._number, "operation": operation, "arguments": arguments}
        try:
            frame = protocol.encode(request)
        except protocol.ProtocolError as error:
            message = f"{operation!r} cannot be asked of a probe: {error}"
            raise ProbeRefused(message, phase=operation) from error
        try:
            self._child.send(frame, deadline)
            answer = self._answer(deadline, on_progress)
        except BaseException:
            # After Ctrl-C, or an error in `on_progress`, the answer to this call would be taken for
            # the next one's, and nobody is left who wants it.
            self.kill()
            raise
        if answer["event"] == "result":
            return dict(answer["result"])
        text = str(answer["message"])
        kind = protocol.MESSAGE_ERRORS.get(str(answer["kind"]), ProbeCrashed)
        if kind is ProbeCrashed:
            raise self._child.fail(ProbeCrashed, text)
        if issubclass(kind, ProbeError):
            raise kind(text, phase=self._child.phase)
        raise kind(text)

    def ask(
        self,
        operation: str,
        arguments: Mapping[str, Any],
        kind: type[RecordT],
        timeout: float | Deadline,
        on_progress: ProgressCallback | None = None,
    ) -> RecordT:
        """Have an operation carried out, as `run` does, and return its answer as a record."""
        answer = self.run(operation, arguments, timeout=timeout, on_progress=on_progress)
        try:
            return protocol.from_plain(kind, answer)
        except protocol.ProtocolError as error:
            raise self._child.fail(ProbeCrashed, f"answered with nonsense: {error}") from error

    def close(self) -> None:
        """Ask the probe to leave, and see that it does."""
        if self.alive:
            deadline = Deadline(CLOSE_SECONDS)
            frame = protocol.encode({"id": 0, "operation": "close", "arguments": {}})
            try:
                self._child.send(frame, deadline)
            except ProbeError:
                # It is gone, which is what was wanted.
                pass
            else:
                self._child.leave(deadline.left)
        self.kill()

    def kill(self) -> None:
        """End the probe at once. A second call does nothing."""
        self._child.kill()

    def _answer(self, deadline: Deadline, on_progress: ProgressCallback | None) -> dict[str, Any]:
        """Return the result or error event of the running request, reporting progress on the way."""
        needed = {"result": {"result"}, "error": {"kind", "message"}, "progress": set[str]()}
        while True:
            message = self._child.receive(deadline)
            event = message.get("event")
            if (
                message.get("id") != self._number
                or event not in needed
                or not needed[event] <= set(message)
                or not isinstance(message.get("result", {}), dict)
            ):
                shown = repr(message)[:200]
                what = f"answered with nonsense: {shown} is no answer to request {self._number}"
                raise self._child.fail(ProbeCrashed, what)
            if event != "progress":
                return message
            plain = {key: value for key, value in message.items() if key not in ("id", "event")}
            try:
                progress = protocol.from_plain(Progress, plain)
            except protocol.ProtocolError as error:
                what = f"answered with nonsense: {error}"
                raise self._child.fail(ProbeCrashed, what) from error
            self._child.phase = _phase(progress)
            if on_progress is not None:
                on_progress(progress)


def _phase(progress: Progress) -> str:
    if progress.total <= 1:
        return progress.step
    current = min(progress.done + 1, progress.total)
    return f"{progress.step}, {progress.unit} {current} of {progress.total}"


def _check_hello(child: Child, hello: Mapping[str, Any], python: str) -> None:
    if hello.get("event") != "hello":
        raise child.fail(ProbeCrashed, f"said {repr(hello)[:200]} instead of hello")
    if hello.get("protocol") != protocol.PROTOCOL:
        what = (
            f"speaks protocol {hello.get('protocol')}, this package {protocol.PROTOCOL}: {python} has"
            " another version of pytest-quantgate; install the same one there"
        )
        raise child.fail(ProbeRefused, what)
    if "error" in hello:
        raise child.fail(ProbeRefused, f"cannot start: {hello['error']}")
    if not {"engine", "engine_version"} <= set(hello):
        raise child.fail(ProbeCrashed, f"said an incomplete hello: {repr(hello)[:200]}")
