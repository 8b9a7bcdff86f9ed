"""Answers questions about prepared models: from the store where the answer lies, else from a probe."""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pytest_quantgate import measure
from pytest_quantgate.artifact import hardware
from pytest_quantgate.baseline import Key, Store, digested, request_inputs
from pytest_quantgate.errors import MeasurementError
from pytest_quantgate.pool import ProbePool
from pytest_quantgate.prepare import engine_build
from pytest_quantgate.probe import protocol
from pytest_quantgate.records import (
    BenchmarkFigures,
    ChoiceRequest,
    ChoiceScores,
    ContinuationRequest,
    ContinuationScores,
    Divergence,
    EngineSettings,
    Generation,
    GenerationRequest,
    HarnessRequest,
    HarnessResult,
    Latency,
    LatencyRequest,
    Likelihood,
    LikelihoodRequest,
    MemoryRequest,
    MemoryUse,
    NextTokens,
    NextTokensRequest,
    NoiseFloor,
    PassageLikelihood,
    TextFacts,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from _typeshed import DataclassInstance

    from pytest_quantgate.baseline import KeyValue
    from pytest_quantgate.prepare import PreparedModel
    from pytest_quantgate.records import (
        DivergenceRequest,
        PassageRequest,
        Progress,
        TextRequest,
    )

    ProgressCallback = Callable[[Progress], None]

ResultT = TypeVar("ResultT")

DEFAULT_TIMEOUT_SECONDS = 1800.0

DRAWN_UNITS = ("chunk", "passage", "case", "question")
"""What progress counts while a block of a text, or of cases, is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Company:
    """What else is loaded for a case while one of its models is asked.

    ``beside`` is the model that is asked in turn; ``lockstep`` are candidate and baseline where they
    will be asked together, so that probes are started as such a pair at once.
    """

    beside: PreparedModel | None = None
    lockstep: tuple[PreparedModel, PreparedModel] | None = None


ALONE = Company()


class Gatherer:
    """Answers questions about prepared models, from the store or by measuring.

    ``measured`` counts the answers that had to be measured; ``drawing`` is where a drawing in blocks
    stands, (chunks done, chunks at the next look), while there is one.
    """

    def __init__(
        self,
        *,
        store: Store,
        settings: EngineSettings,
        timeout: float,
        remeasure: bool = False,
        on_progress: ProgressCallback | None = None,
    ) -> None:
        """Tie a store to probes; each measurement may take ``timeout`` seconds."""
        self.store = store
        self.timeout = timeout
        self.measured = 0
        self.settings = settings
        self._remeasure = remeasure
        self.drawing: tuple[int, int] | None = None
        self._watcher = on_progress
        self._pool = ProbePool(settings, timeout=timeout)
        self._taken: set[str] = set()

    def text(
        self, model: PreparedModel, request: TextRequest, *, company: Company = ALONE
    ) -> TextFacts:
        """Return how a model reads a text."""
        return self._asked("text", model, request, TextFacts, company)

    def likelihood(
        self, model: PreparedModel, request: LikelihoodRequest, *, company: Company = ALONE
    ) -> Likelihood:
        """Return the likelihood of windows of a text under a model."""
        found = self._asked("likelihood", model, request, Likelihood, company)
        if request.top:
            self._keep_likelihood(model, dataclasses.replace(request, top=0), found)
        return found

    def divergence(
        self, candidate: PreparedModel, baseline: PreparedModel | None, request: DivergenceRequest
    ) -> Divergence:
        """Return how far a candidate's predictions are from a baseline's, or from a file's.

        The likelihoods that come with it are stored as what they are, too: whoever asks for the same
        windows of either model alone finds them.

        Raises:
            MeasurementError: a comparison with a live baseline is asked for, and there is none.
        """
        inputs = {
            **request_inputs(request),
            "baseline": None if baseline is None else baseline.digest,
        }

        def run() -> Divergence:
            if request.reference != "live":
                return self._pool.ask(
                    candidate,
                    lambda probe: probe.divergence(
                        request, timeout=self.timeout, on_progress=self.report
                    ),
                )
            if baseline is None:
                message = f"{candidate.name} has no baseline to be compared with in lockstep"
                raise MeasurementError(message)
            return self._pool.ask_lockstep(
                candidate,
                baseline,
                lambda own, other: measure.measure_divergence(
                    own, other, request, timeout=self.timeout, on_progress=self.report
                ),
            )

        found = self._stored("divergence", candidate, inputs, run, Divergence, once=True)
        if request.reference == "logits":
            # It says nothing of the text its tokens come from.
            return found
        alone = LikelihoodRequest(
            corpus_path=request.corpus_path,
            corpus_sha256=request.corpus_sha256,
            context=request.context,
            chunks=request.chunks,
            sequences=request.sequences,
        )
        self._keep_likelihood(candidate, alone, found.candidate)
        if request.reference == "live" and baseline is not None:
            self._keep_likelihood(baseline, alone, found.baseline)
        return found

    def passages(
        self, model: PreparedModel, request: PassageRequest, *, company: Company = ALONE
    ) -> PassageLikelihood:
        """Return the likelihood of passages of a text under a model."""
        return self._asked("passages", model, request, PassageLikelihood, company)

    def noise_floor(self, digest: str, request: TextRequest) -> NoiseFloor | None:
        """Return the stored noise floor of the model with a digest, None where nobody measured it."""
        return self.store.load(_noise_key(digest, request), NoiseFloor)

    def measure_noise_floor(
        self,
        model: PreparedModel,
        candidates: Sequence[PreparedModel],
        request: TextRequest,
        order: Sequence[int],
    ) -> NoiseFloor:
        """Measure how far a baseline is from itself when computed another way, and store it.

        Its candidates are measured twice the same way, which shows whether that repeats.
        """
        self._pool.close()
        runs = {
            name: (model.path, settings)
            for name, settings in measure.other_ways(self.settings).items()
        }
        runs |= {f"{each.name} again": (each.path, self.settings) for each in candidates}
        floor = measure.measure_noise_floor(
            runs,
            request,
            self.settings,
            order=order,
            timeout=self.timeout,
            on_progress=self.report,
        )
        self.store.save(_noise_key(model.digest, request), floor)
        self.measured += 1
        return floor

    def keep(
        self, kind: str, model: PreparedModel, inputs: Mapping[str, KeyValue], result: object
    ) -> None:
        """Store a result that was derived from measurements."""
        self.store.save(self._key(kind, model, inputs), result)

    def kept(
        self,
        kind: str,
        model: PreparedModel,
        inputs: Mapping[str, KeyValue],
        result_type: type[ResultT],
    ) -> ResultT | None:
        """Return what `keep` stored, None where there is nothing."""
        return self.store.load(self._key(kind, model, inputs), result_type)

    def generation(
        self, model: PreparedModel, request: GenerationRequest, *, company: Company = ALONE
    ) -> Generation:
        """Return a model's continuations."""
        return self._asked("generation", model, request, Generation, company)

    def next_tokens(
        self, model: PreparedModel, request: NextTokensRequest, *, company: Company = ALONE
    ) -> NextTokens:
        """Return what may follow beginnings under a model."""
        return self._asked("next_tokens", model, request, NextTokens, company)

    def continuations(
        self, model: PreparedModel, request: ContinuationRequest, *, company: Company = ALONE
    ) -> ContinuationScores:
        """Return how likely continuations are under a model."""
        return self._asked("continuations", model, request, ContinuationScores, company)

    def choices(
        self, model: PreparedModel, request: ChoiceRequest, *, company: Company = ALONE
    ) -> ChoiceScores:
        """Return how likely the answers of questions are under a model."""
        return self._asked("choices", model, request, ChoiceScores, company)

    def harness(
        self, model: PreparedModel, request: HarnessRequest, *, company: Company = ALONE
    ) -> HarnessResult:
        """Return what came of a task of lm-evaluation-harness under a model."""
        return self._asked("harness", model, request, HarnessResult, company)

    def memory(self, model: PreparedModel, request: MemoryRequest) -> MemoryUse:
        """Return the memory a fresh probe of a model used."""
        inputs = {**dataclasses.asdict(request), "machine": str(hardware.this_machine())}

        def run() -> MemoryUse:
            with self._alone(), self._pool.fresh(model) as probe:
                return probe.memory(request, timeout=self.timeout, on_progress=self.report)

        return self._stored("memory", model, inputs, run, MemoryUse)

    def latency(
        self, candidate: PreparedModel, baseline: PreparedModel | None, request: LatencyRequest
    ) -> Latency:
        """Return timed requests of a candidate, alternated with a baseline's if there is one."""
        machine = str(hardware.this_machine())
        inputs = {
            **dataclasses.asdict(request),
            "machine": machine,
            "baseline": None if baseline is None else baseline.digest,
        }

        def run() -> Latency:
            with contextlib.ExitStack() as stack:
                stack.enter_context(self._alone())
                own = stack.enter_context(self._pool.fresh(candidate))
                other = None
                if baseline is not None:
                    other = stack.enter_context(self._pool.fresh(baseline))
                return measure.measure_latency(
                    own,
                    other,
                    request,
                    machine=machine,
                    timeout=self.timeout,
                    on_progress=self.report,
                )

        return self._stored("latency", candidate, inputs, run, Latency)

    def benchmark(self, model: PreparedModel, prompts: Sequence[str]) -> BenchmarkFigures:
        """Return a model's `QuantizationBenchmark` figures, measured in a probe of its own."""
        inputs = {
            **digested("prompts", list(prompts)),
            "machine": str(hardware.this_machine()),
        }

        def run() -> BenchmarkFigures:
            self._pool.close()
            with self._alone(), measure.Probe.start() as probe:
                figures = probe.run(
                    "benchmark",
                    {"path": str(model.path), "prompts": list(prompts)},
                    timeout=self.timeout,
                    on_progress=self.report,
                )
            return BenchmarkFigures(**figures)

        return self._stored("benchmark", model, inputs, run, BenchmarkFigures)

    def close(self) -> None:
        """End the kept probe."""
        self._pool.close()

    def report(self, progress: Progress) -> None:
        """Tell who watches; a block of a drawing is told by its place in the drawing."""
        if self._watcher is None:
            return
        if self.drawing is not None and progress.unit in DRAWN_UNITS:
            done, total = self.drawing
            progress = dataclasses.replace(progress, done=done + progress.done, total=total)
        self._watcher(progress)

    def _asked(
        self,
        kind: str,
        model: PreparedModel,
        request: DataclassInstance,
        result_type: type[ResultT],
        company: Company,
    ) -> ResultT:
        """Return what is stored, or what a probe that is kept or started for it answers."""

        def run() -> ResultT:
            if company.lockstep is not None:
                self._pool.start_lockstep(*company.lockstep)
            return self._pool.ask(
                model,
                lambda probe: probe.ask(
                    kind, protocol.to_plain(request), result_type, self.timeout, self.report
                ),
                beside=company.beside,
            )

        inputs = request_inputs(request)
        return self._stored(kind, model, inputs, run, result_type, once=True)

    def _keep_likelihood(
        self, model: PreparedModel, request: LikelihoodRequest, found: Likelihood
    ) -> None:
        key = self._key("likelihood", model, request_inputs(request))
        if key.digest in self._taken or (not self._remeasure and self.store.path(key).exists()):
            return
        self.store.save(key, dataclasses.replace(found, top=None))
        self._taken.add(key.digest)

    def _key(self, kind: str, model: PreparedModel, inputs: Mapping[str, KeyValue]) -> Key:
        settings = dataclasses.asdict(self.settings)
        return Key(
            kind=kind,
            inputs={
                "model": model.digest,
                **inputs,
                "engine": engine_build(),
                "arithmetic": hardware.this_machine().arithmetic,
                **{f"engine_{name}": value for name, value in settings.items()},
            },
        )

    def _stored(
        self,
        kind: str,
        model: PreparedModel,
        inputs: Mapping[str, KeyValue],
        run: Callable[[], ResultT],
        result_type: type[ResultT],
        *,
        once: bool = False,
    ) -> ResultT:
        """Return a stored answer or a new one; ``once`` is never measured twice in one run."""
        key = self._key(kind, model, inputs)
        anew = self._remeasure and not (once and key.digest in self._taken)
        if not anew and (found := self.store.load(key, result_type)) is not None:
            return found
        # Before minutes of measuring, not after them.
        self.store.check_writable()
        started = time.time()
        with self.store.lock(key.digest[:32], timeout=self.timeout):
            # Another process may have measured it while this one waited for the lock.
            found = self.store.load(key, result_type)
            if found is not None and (not anew or self.store.path(key).stat().st_mtime >= started):
                return found
            result = run()
            self.store.save(key, result)
        self._taken.add(key.digest)
        self.measured += 1
        return result

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other timing and memory measurements of this user off the machine meanwhile."""
        folder = Path(tempfile.gettempdir()) / f"pytest-quantgate-{getpass.getuser()}"
        with Store(folder).lock("timing", timeout=self.timeout):
            yield


def _noise_key(digest: str, request: TextRequest) -> Key:
    return Key(
        kind="noise_floor",
        inputs={"model": digest, **request_inputs(request), "engine": engine_build()},
    )
