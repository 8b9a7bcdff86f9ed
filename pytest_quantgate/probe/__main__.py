"""The child process that a model runs in: ``python -m pytest_quantgate.probe --backend <class>``.

The class is named ``module:attribute``. Requests come in on standard input, answers go out on what was
standard output when the process started; from then on standard output is standard error, so that
nothing a native library prints can get between two answers. Whoever started the probe owns it: when
standard input ends, the probe ends at once, even inside native code.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import os
import queue
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_quantgate.errors import ProbeOutOfMemory, ProbeRefused, QuantgateError
from pytest_quantgate.probe import protocol
from pytest_quantgate.records import (
    ChoiceRequest,
    ContinuationRequest,
    DivergenceRequest,
    EngineSettings,
    GenerationRequest,
    HarnessRequest,
    LatencyRequest,
    LikelihoodRequest,
    MemoryRequest,
    NextTokensRequest,
    PassageRequest,
    Progress,
    TextRequest,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_quantgate.probe.backend import Backend
    from pytest_quantgate.probe.exchange import Exchange
    from pytest_quantgate.probe.timing import LatencyBench
    from pytest_quantgate.probe.windows import Reader
    from pytest_quantgate.records import ModelFacts

    Report = Callable[[Progress], None]

STDIN, STDOUT, STDERR = 0, 1, 2

OPERATIONS: Mapping[str, str] = {
    "quantize": "pytest_quantgate.artifact.quantization.quantize:probe_operation",
    "imatrix": "pytest_quantgate.artifact.imatrix.native_imatrix:probe_operation",
    "plan_memory": "pytest_quantgate.artifact.selection.native_memory:probe_operation",
    "model_sample": "pytest_quantgate.artifact.conversion.native_sample:probe_operation",
    "benchmark": "pytest_quantgate.benchmark:probe_operation",
}
"""Work that needs the engine's process but not the loaded model: ``operation(arguments, report)``."""


class Model:
    """The one model of this process and what was measured with it."""

    def __init__(self, backend: Backend, exchange: int | None = None) -> None:
        """Start with nothing loaded; ``exchange`` is a descriptor of memory shared with a probe."""
        self._backend = backend
        self._descriptor = exchange
        self._shared: Exchange | None = None
        self._reader: Reader | None = None
        self._loaded: tuple[ModelFacts, EngineSettings, Path, int] | None = None
        self._used_by: str | None = None
        self._bench: LatencyBench | None = None

    def load(self, arguments: Mapping[str, Any], report: Report) -> dict[str, Any]:
        """Load the model; a probe has one, so that its memory is that model's."""
        # numpy and the measuring modules come in with this; they are no part of the model's memory.
        from pytest_quantgate.probe import generation, memory  # noqa: F401, PLC0415 - see above

        if self._loaded is not None:
            message = f"this probe has loaded {self._loaded[2].name}; start another one"
            raise ProbeRefused(message)
        path = Path(arguments["path"])
        settings = protocol.from_plain(EngineSettings, arguments["settings"])
        before = memory.current_rss_bytes()
        report(Progress(step=f"loading {path.name}", done=0, total=1, unit="model"))
        facts = self._backend.load(path, settings)
        self._loaded = (facts, settings, path, before)
        return protocol.to_plain(facts)

    def text(self, arguments: Mapping[str, Any], report: Report) -> dict[str, Any]:
        """Tell how the model reads a text."""
        from pytest_quantgate.probe.likelihood import measure_text  # noqa: PLC0415 - numpy

        request = protocol.from_plain(TextRequest, arguments)
        return protocol.to_plain(measure_text(self._read("text"), request, report))

    def likelihood(self, arguments: Mapping[str, Any], report: Report) -> dict[str, Any]:
        """Score a text."""
        from pytest_quantgate.probe.likelihood import measure_likelihood  # noqa: PLC0415 - numpy

        request = protocol.from_plain(LikelihoodRequest, arguments)
        return protocol.to_plain(measure_likelihood(self._read("likelihood"), request, report))

    def passages(self, arguments: Mapping[str, Any], report: Report) -> dict[str, Any]:
        """Score passages of a text."""
        from pytest_quantgate.probe.passages import measure_passages  # noqa: PLC0415 - numpy

        request = protocol.from_plain(PassageRequest, arguments)
        return protocol.to_plain(measure_passages(self._read("passages"), request, report))

    def divergence(self, arguments: Mapping[str, Any], report: Report) -> dict[str, Any]:
        """Compare with a baseline's predictions in a file."""
        from pytest_quantgate.probe import references  # noqa: PLC0415 - numpy

        request = protocol.from_plain(DivergenceRequest, arguments)
        return protocol.to_plain(
            references.measure_against_file(self._read("divergence"), request, report)
        )

    def write_logits(self, arguments: Mapping[str, Any], report: Report) -> dict[str, Any]:
        """Write a logits file."""
        from pytest_quantgate.probe import references  # noqa: PLC0415 - numpy

        request = protocol.from_plain(TextRequest, arguments["request"])
        path = Path(arguments["path"])
        chunks = references.write_logits(
            self._read("logits"), request, arguments["chunks"], path, report
        )
        return {"chunks": chunks}

    def share_logits(self, arguments: Mapping[str, Any], report: Report) -> dict[str, Any]:
        """Leave logits to the other probe of a pair."""
        from pytest_quantgate.probe import exchange, references  # noqa: PLC0415 - numpy

        share = protocol.from_plain(exchange.ShareRequest, arguments)
        return protocol.to_plain(
            references.share_logits(self._read("divergence"), self._exchange(), share, report)
        )

    def compare_shared(self, arguments: Mapping[str, Any], report: Report) -> dict[str, Any]:
        """Compare with the logits that the other probe of a pair has left."""
        from pytest_quantgate.probe import exchange, references  # noqa: PLC0415 - numpy

        compare = protocol.from_plain(exchange.CompareRequest, arguments)
        return protocol.to_plain(
            references.compare_shared(self._read("divergence"), self._exchange(), compare, report)
        )

    def generation(self, arguments: Mapping[str, Any], report: Report) -> dict[str, Any]:
        """Continue prompts."""
        from pytest_quantgate.probe.generation import measure_generation  # noqa: PLC0415 - numpy

        facts, _, _, _ = self._use("generation")
        self._release()
        request = protocol.from_plain(GenerationRequest, arguments)
        return protocol.to_plain(measure_generation(self._backend, facts, request, report))

    def next_tokens(self, arguments: Mapping[str, Any], report: Report) -> dict[str, Any]:
        """Tell what may follow beginnings."""
        from pytest_quantgate.probe.beginnings import measure_next_tokens  # noqa: PLC0415 - numpy

        facts, _, _, _ = self._use("next_tokens")
        self._release()
        request = protocol.from_plain(NextTokensRequest, arguments)
        return protocol.to_plain(measure_next_tokens(self._backend, facts, request, report))

    def continuations(self, arguments: Mapping[str, Any], report: Report) -> dict[str, Any]:
        """Score what may follow given texts."""
        from pytest_quantgate.probe.scoring import measure_continuations  # noqa: PLC0415 - numpy

        request = protocol.from_plain(ContinuationRequest, arguments)
        return protocol.to_plain(
            measure_continuations(self._read("continuations"), request, report)
        )

    def choices(self, arguments: Mapping[str, Any], report: Report) -> dict[str, Any]:
        """Score the answers of multiple-choice questions."""
        from pytest_quantgate.probe.scoring import measure_choices  # noqa: PLC0415 - numpy

        request = protocol.from_plain(ChoiceRequest, arguments)
        return protocol.to_plain(measure_choices(self._read("choices"), request, report))

    def harness(self, arguments: Mapping[str, Any], report: Report) -> dict[str, Any]:
        """Run a task of lm-evaluation-harness."""
        from pytest_quantgate.probe.harness import measure_task  # noqa: PLC0415 - numpy and more

        request = protocol.from_plain(HarnessRequest, arguments)
        return protocol.to_plain(measure_task(self._read("harness"), request, report))

    def memory(self, arguments: Mapping[str, Any], report: Report) -> dict[str, Any]:
        """Measure the peak memory of this process, which must have done nothing but load."""
        from pytest_quantgate.probe.memory import measure_memory  # noqa: PLC0415 - numpy

        if self._used_by is not None:
            message = (
                f"this probe has measured {self._used_by}, whose memory would be counted too; measure"
                " memory in a fresh probe"
            )
            raise ProbeRefused(message)
        facts, _, path, before = self._use("memory")
        use = measure_memory(
            self._backend,
            facts,
            protocol.from_plain(MemoryRequest, arguments),
            report,
            path=path,
            before_load_bytes=before,
        )
        return protocol.to_plain(use)

    def open_latency(self, arguments: Mapping[str, Any], _report: Report) -> dict[str, Any]:
        """Prepare for timed requests of one shape."""
        from pytest_quantgate.probe.timing import LatencyBench  # noqa: PLC0415 - numpy

        facts, _, _, _ = self._use("latency")
        self._release()
        if self._bench is not None:
            self._bench.close()
            self._bench = None
        request = protocol.from_plain(LatencyRequest, arguments)
        self._bench = LatencyBench(self._backend, facts, request)
        return {}

    def time_request(self, _arguments: Mapping[str, Any], _report: Report) -> dict[str, Any]:
        """Time one request."""
        if self._bench is None:
            message = "no latency measurement is open; send 'open_latency' first"
            raise ProbeRefused(message)
        return protocol.to_plain(self._bench.time_request())

    def _read(self, name: str) -> Reader:
        """Return the reader, which keeps tokens and a session from one request to the next."""
        from pytest_quantgate.probe.windows import Reader  # noqa: PLC0415 - numpy

        facts, settings, _, _ = self._use(name)
        if self._reader is None:
            self._reader = Reader(self._backend, facts, settings)
        return self._reader

    def _exchange(self) -> Exchange:
        from pytest_quantgate.probe.exchange import Exchange  # noqa: PLC0415 - numpy

        if self._descriptor is None:
            message = "this probe shares no memory with another; start the two as a pair"
            raise ProbeRefused(message)
        if self._shared is None:
            self._shared = Exchange(self._descriptor)
        return self._shared

    def _release(self) -> None:
        """Free what reading keeps: other measurements want the memory."""
        if self._reader is not None:
            self._reader.release()

    def _use(self, name: str) -> tuple[ModelFacts, EngineSettings, Path, int]:
        if self._loaded is None:
            message = f"no model is loaded; send 'load' before {name!r}"
            raise ProbeRefused(message)
        self._used_by = name
        return self._loaded


class Channel:
    """The way out: whole frames on a descriptor that nothing else in the process knows."""

    def __init__(self, descriptor: int) -> None:
        """Write to this descriptor."""
        self._descriptor = descriptor

    def send(self, message: Mapping[str, object]) -> None:
        """Write one frame."""
        data = memoryview(protocol.encode(message))
        while data:
            data = data[os.write(self._descriptor, data) :]


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve requests until the parent says ``close`` or goes away."""
    channel = Channel(os.dup(STDOUT))
    os.dup2(STDERR, STDOUT)
    # The parent decides what Ctrl-C means; a probe that left on its own would look like a crash.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Only the thread that failed: the log's last lines are few, and the engine's own matter more.
    faulthandler.enable(all_threads=False)
    # Read by the engine when it is loaded: without it an assertion starts a debugger.
    os.environ["GGML_NO_BACKTRACE"] = "1"
    requests = _listen()

    parser = argparse.ArgumentParser(prog="pytest_quantgate.probe")
    parser.add_argument("--backend", required=True, metavar="MODULE:ATTRIBUTE")
    parser.add_argument("--exchange", type=int, metavar="DESCRIPTOR")
    parsed = parser.parse_args(arguments)
    target = parsed.backend
    try:
        backend: Backend = _resolve(target)()
    except Exception as error:  # noqa: BLE001 - the parent is told, whatever it was
        traceback.print_exc()
        reason = f"the backend {target} cannot start: {type(error).__name__}: {error}"
        channel.send({**_hello(), "error": reason})
        return 1
    channel.send(
        {
            **_hello(),
            "python": sys.version.split()[0],
            "backend": target,
            "engine": backend.engine,
            "engine_version": backend.engine_version,
        }
    )
    model = Model(backend, parsed.exchange)
    while (request := requests.get())["operation"] != "close":
        _answer(request, model, channel)
    return 0


def _hello() -> dict[str, Any]:
    return {"event": "hello", "protocol": protocol.PROTOCOL, "pid": os.getpid()}


def _listen() -> queue.SimpleQueue[dict[str, Any]]:
    """Read requests in a thread that ends the process when there can be no more of them."""
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    source = os.dup(STDIN)
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - a device
        os.dup2(nothing.fileno(), STDIN)

    def listen() -> None:
        decoder = protocol.Decoder()
        status = 1
        try:
            while data := os.read(source, 1 << 16):
                for message in decoder.feed(data):
                    requests.put(message)
            status = 0
        except BaseException:  # noqa: BLE001 - without this thread the probe would outlive its parent
            traceback.print_exc()
        # The main thread may be inside native code for minutes to come.
        os._exit(status)

    threading.Thread(target=listen, name="requests", daemon=True).start()
    return requests


def _answer(request: Mapping[str, Any], model: Model, channel: Channel) -> None:
    """Carry one request out and send what came of it."""
    number = request["id"]

    def report(progress: Progress) -> None:
        channel.send({"id": number, "event": "progress", **protocol.to_plain(progress)})

    try:
        result = _operation(request["operation"], model)(request["arguments"], report)
        channel.send({"id": number, "event": "result", "result": result})
    except Exception as error:  # noqa: BLE001 - the parent is told, whatever it was
        traceback.print_exc()
        kind, text = _describe(error)
        channel.send({"id": number, "event": "error", "kind": kind, "message": text})


def _describe(error: Exception) -> tuple[str, str]:
    name = type(error).__name__
    if isinstance(error, QuantgateError) and name in protocol.MESSAGE_ERRORS:
        return name, str(error)
    if isinstance(error, MemoryError):
        return (
            ProbeOutOfMemory.__name__,
            f"out of memory: {str(error) or 'an array cannot be allocated'}",
        )
    return "ProbeCrashed", f"the probe failed: {name}: {error}"


def _operation(name: str, model: Model) -> Callable[[dict[str, Any], Report], dict[str, Any]]:
    own: Mapping[str, Callable[[dict[str, Any], Report], dict[str, Any]]] = {
        "load": model.load,
        "text": model.text,
        "likelihood": model.likelihood,
        "passages": model.passages,
        "divergence": model.divergence,
        "write_logits": model.write_logits,
        "share_logits": model.share_logits,
        "compare_shared": model.compare_shared,
        "generation": model.generation,
        "next_tokens": model.next_tokens,
        "continuations": model.continuations,
        "choices": model.choices,
        "harness": model.harness,
        "memory": model.memory,
        "open_latency": model.open_latency,
        "time_request": model.time_request,
    }
    if name in own:
        return own[name]
    if name in OPERATIONS:
        found: Callable[[dict[str, Any], Report], dict[str, Any]] = _resolve(OPERATIONS[name])
        return found
    message = f"unknown operation {name!r}; there are {', '.join(sorted({*own, *OPERATIONS}))}"
    raise ProbeRefused(message)


def _resolve(target: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


if __name__ == "__main__":
    sys.exit(main())
