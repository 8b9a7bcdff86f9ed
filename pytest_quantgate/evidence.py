"""Gathers what gates ask for: from the store where it lies, else from a probe.

One model is loaded at a time, except for the two that a latency gate alternates; a probe that has
loaded a model is kept for the next question about the same file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import hashlib
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_quantgate import measure
from pytest_quantgate.artifact import corpus, hardware, integrity, source
from pytest_quantgate.baseline import Key, Store
from pytest_quantgate.errors import MeasurementError
from pytest_quantgate.prepare import engine_build
from pytest_quantgate.records import (
    BenchmarkFigures,
    EngineSettings,
    Generation,
    GenerationRequest,
    Latency,
    LatencyRequest,
    Likelihood,
    LikelihoodRequest,
    MemoryRequest,
    MemoryUse,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pytest_quantgate.artifact.integrity import Verification
    from pytest_quantgate.baseline import KeyValue
    from pytest_quantgate.gates import Role
    from pytest_quantgate.gates.checksum import ChecksumSettings
    from pytest_quantgate.plan import GateCase
    from pytest_quantgate.prepare import PreparedModel, Preparer
    from pytest_quantgate.records import Progress

    ProgressCallback = Callable[[Progress], None]

ResultT = TypeVar("ResultT")

DEFAULT_TIMEOUT_SECONDS = 1800.0


class ProbePool:
    """Keeps the probe of the model that was asked about last."""

    def __init__(self, settings: EngineSettings, *, timeout: float) -> None:
        """Load models with these settings, within ``timeout`` seconds each."""
        self.settings = settings
        self._timeout = timeout
        self._kept: tuple[str, measure.Probe] | None = None

    @contextlib.contextmanager
    def loaded(self, model: PreparedModel) -> Iterator[measure.Probe]:
        """Lend a probe that has the model loaded; one that fails is not kept."""
        identity = f"{model.digest} {model.path}"
        if self._kept is not None and (self._kept[0] != identity or not self._kept[1].alive):
            self.close()
        if self._kept is None:
            self._kept = (identity, self._start(model))
        try:
            yield self._kept[1]
        except BaseException:
            self.close()
            raise

    @contextlib.contextmanager
    def fresh(self, model: PreparedModel) -> Iterator[measure.Probe]:
        """Lend a new probe of its own, with no other kept beside it."""
        self.close()
        probe = self._start(model)
        try:
            yield probe
        finally:
            probe.close()

    def close(self) -> None:
        """End the kept probe."""
        if self._kept is not None:
            self._kept[1].close()
            self._kept = None

    def _start(self, model: PreparedModel) -> measure.Probe:
        probe = measure.Probe.start()
        try:
            probe.load(model.path, self.settings, timeout=self._timeout)
        except BaseException:
            probe.kill()
            raise
        return probe


class Gatherer:
    """Answers questions about prepared models, from the store or by measuring.

    ``measured`` counts the answers that had to be measured.
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
        self._settings = settings
        self._remeasure = remeasure
        self._on_progress = on_progress
        self._pool = ProbePool(settings, timeout=timeout)

    def likelihood(self, model: PreparedModel, request: LikelihoodRequest) -> Likelihood:
        """Return the likelihood of a text under a model."""
        inputs = dataclasses.asdict(request)
        # Where the text lies does not change the number; its digest is in the key.
        del inputs["corpus_path"]

        def run() -> Likelihood:
            with self._pool.loaded(model) as probe:
                return probe.likelihood(
                    request, timeout=self.timeout, on_progress=self._on_progress
                )

        return self._stored("likelihood", model, inputs, run, Likelihood)

    def generation(self, model: PreparedModel, request: GenerationRequest) -> Generation:
        """Return a model's continuations."""
        plain = dataclasses.asdict(request)
        inputs = {**plain, **_digested("prompts", plain.pop("prompts"))}
        del inputs["prompts"]

        def run() -> Generation:
            with self._pool.loaded(model) as probe:
                return probe.generation(
                    request, timeout=self.timeout, on_progress=self._on_progress
                )

        return self._stored("generation", model, inputs, run, Generation)

    def memory(self, model: PreparedModel, request: MemoryRequest) -> MemoryUse:
        """Return the memory a fresh probe of a model used."""
        inputs = {**dataclasses.asdict(request), "machine": str(hardware.this_machine())}

        def run() -> MemoryUse:
            with self._alone(), self._pool.fresh(model) as probe:
                return probe.memory(request, timeout=self.timeout, on_progress=self._on_progress)

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
                    on_progress=self._on_progress,
                )

        return self._stored("latency", candidate, inputs, run, Latency)

    def benchmark(self, model: PreparedModel, prompts: Sequence[str]) -> BenchmarkFigures:
        """Return a model's `QuantizationBenchmark` figures, measured in a probe of its own."""
        inputs = {
            **_digested("prompts", list(prompts)),
            "machine": str(hardware.this_machine()),
        }

        def run() -> BenchmarkFigures:
            self._pool.close()
            with self._alone(), measure.Probe.start() as probe:
                figures = probe.run(
                    "benchmark",
                    {"path": str(model.path), "prompts": list(prompts)},
                    timeout=self.timeout,
                    on_progress=self._on_progress,
                )
            return BenchmarkFigures(**figures)

        return self._stored("benchmark", model, inputs, run, BenchmarkFigures)

    def close(self) -> None:
        """End the kept probe."""
        self._pool.close()

    def _stored(
        self,
        kind: str,
        model: PreparedModel,
        inputs: Mapping[str, KeyValue],
        run: Callable[[], ResultT],
        result_type: type[ResultT],
    ) -> ResultT:
        key = Key(
            kind=kind,
            inputs={
                "model": model.digest,
                **inputs,
                "engine": engine_build(),
                "arithmetic": hardware.this_machine().arithmetic,
                **{
                    f"engine_{name}": value
                    for name, value in dataclasses.asdict(self._settings).items()
                },
            },
        )
        if not self._remeasure and (found := self.store.load(key, result_type)) is not None:
            return found
        # Before minutes of measuring, not after them.
        self.store.check_writable()
        started = time.time()
        with self.store.lock(key.digest[:32], timeout=self.timeout):
            # Another process may have measured it while this one waited for the lock.
            found = self.store.load(key, result_type)
            if found is not None and (
                not self._remeasure or self.store.path(key).stat().st_mtime >= started
            ):
                return found
            result = run()
            self.store.save(key, result)
        self.measured += 1
        return result

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other timing and memory measurements of this user off the machine meanwhile."""
        folder = Path(tempfile.gettempdir()) / f"pytest-quantgate-{getpass.getuser()}"
        with Store(folder).lock("timing", timeout=self.timeout):
            yield


def _digested(name: str, value: list[Any]) -> dict[str, KeyValue]:
    """Return number and digest of a list that is too long to stand in a key."""
    text = json.dumps(value, sort_keys=True)
    return {
        f"{name}_count": len(value),
        f"{name}_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }


class CaseBench:
    """The bench of one gate case: what `pytest_quantgate.gates.Bench` promises."""

    def __init__(
        self,
        case: GateCase,
        *,
        preparer: Preparer,
        gatherer: Gatherer,
        roots: Sequence[Path],
        literals: Mapping[str, float],
        checksum: ChecksumSettings | None,
    ) -> None:
        """Tie a case to the tools of its run; ``checksum`` are the settings of its checksum gate."""
        self._case = case
        self._preparer = preparer
        self._gatherer = gatherer
        self._roots = tuple(roots)
        self._literals = literals
        self._checksum = checksum
        self._models: dict[Role, PreparedModel] = {}

    @property
    def candidate_name(self) -> str:
        """Name of the variant under test."""
        return self._case.variant

    @property
    def baseline_name(self) -> str:
        """Name by which texts call the baseline."""
        baseline = self._case.baseline
        if baseline is None or baseline.quantize is None:
            return "the baseline"
        return f"the {baseline.quantize} baseline"

    @property
    def literals(self) -> Mapping[str, float]:
        """Baseline figures written down as numbers."""
        return self._literals

    @property
    def context(self) -> int:
        """The specification's context length in tokens."""
        return self._case.defaults.context

    @property
    def candidate(self) -> PreparedModel:
        """The candidate's file, made if need be."""
        return self._model("candidate")

    def corpus(self, name: str | None) -> tuple[Path, str]:
        """Return path and SHA-256 of a text."""
        return corpus.materialize_corpus(
            name or self._case.defaults.corpus,
            base=self._case.base,
            roots=self._roots,
            folder=self._gatherer.store.root / "corpora",
        )

    def file(self, name: str) -> Path:
        """Return a file named in the specification."""
        return source.locate(name, base=self._case.base, roots=self._roots)

    def verification(self, *, literal: str | None, sums: Path | None) -> Verification:
        """Hash the candidate's file and hold it against its checksum."""
        return self._preparer.verification(self.candidate.path, literal=literal, sums=sums)

    def likelihood(self, role: Role, request: LikelihoodRequest) -> Likelihood:
        """Return the likelihood of a text under one of the models."""
        return self._gatherer.likelihood(self._verified(role), request)

    def generation(self, role: Role, request: GenerationRequest) -> Generation:
        """Return one of the models' continuations."""
        return self._gatherer.generation(self._verified(role), request)

    def memory(self, role: Role, request: MemoryRequest) -> MemoryUse:
        """Return the memory a fresh probe of one of the models used."""
        return self._gatherer.memory(self._verified(role), request)

    def latency(self, request: LatencyRequest, *, paired: bool) -> Latency:
        """Return timed requests of the candidate, alternated with the baseline's if paired."""
        candidate = self._verified("candidate")
        baseline = self._verified("baseline") if paired else None
        return self._gatherer.latency(candidate, baseline, request)

    def _model(self, role: Role) -> PreparedModel:
        if role not in self._models:
            named = self._case.candidate if role == "candidate" else self._case.baseline
            if named is None:
                message = f"model {self._case.model!r} has no baseline to measure"
                raise MeasurementError(message)
            self._models[role] = self._preparer.prepare(named)
        return self._models[role]

    def _verified(self, role: Role) -> PreparedModel:
        """Return a model that may be loaded: its checksum holds, and it is no copy of the other."""
        model = self._model(role)
        literal = sums = None
        required = False
        if role == "candidate" and self._checksum is not None:
            required = True
            literal = self._checksum.sha256
            sums = None if self._checksum.sums is None else self.file(self._checksum.sums)
        verification = self._preparer.verification(model.path, literal=literal, sums=sums)
        integrity.require(verification, required=required)
        if len(self._models) > 1 and len({each.digest for each in self._models.values()}) == 1:
            message = (
                f"{self._case.variant} and the baseline are the same file (sha256"
                f" {model.digest[:16]}...): a comparison of a model with itself proves nothing"
            )
            raise MeasurementError(message)
        return model
