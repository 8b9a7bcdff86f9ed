"""Runs one gate case: stored measurement or probe, then judgement. The one composer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_quantgate import gates, stats
from pytest_quantgate.artifact import catalog, hardware, source
from pytest_quantgate.errors import MeasurementError, QuantgateError
from pytest_quantgate.evidence import CaseBench
from pytest_quantgate.gates.checksum import ChecksumSettings
from pytest_quantgate.gatherer import DEFAULT_TIMEOUT_SECONDS, Gatherer
from pytest_quantgate.keeper import BaselineKeeper
from pytest_quantgate.prepare import Preparer
from pytest_quantgate.records import (
    EngineSettings,
    GenerationRequest,
    Outcome,
    Pilot,
    Prompt,
    Verdict,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pytest_quantgate.baseline import Store
    from pytest_quantgate.cases import Case
    from pytest_quantgate.gates import GateSettings
    from pytest_quantgate.keeper import BaselineFolder
    from pytest_quantgate.plan import GateCase, ModelSource
    from pytest_quantgate.prepare import PreparedModel
    from pytest_quantgate.records import BenchmarkFigures, NoiseFloor, Progress, TextRequest

    ProgressCallback = Callable[[Progress], None]

BASELINE_METRICS = ("perplexity", "accuracy", "latency_ms", "memory_mb")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A case's evidence, ready to be judged."""

    case: GateCase
    settings: GateSettings
    evidence: Any
    bench: CaseBench
    stored: bool
    seconds: float


class GateRunner:
    """Runs the cases of one specification one after another, with one store and one probe."""

    def __init__(
        self,
        cases: Sequence[GateCase],
        *,
        store: Store,
        roots: Sequence[Path],
        threads: int | None = None,
        timeout: float | None = None,
        remeasure: bool = False,
        baselines: BaselineFolder | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> None:
        """Run cases against a store, with committed baselines if there is a folder for them.

        ``threads`` and ``timeout`` win over the specification's.
        """
        defaults = cases[0].defaults
        threads = threads or defaults.threads or hardware.usable_cores()
        timeout = timeout or defaults.timeout or DEFAULT_TIMEOUT_SECONDS
        self._base = cases[0].base
        self._roots = tuple(roots)
        self._gatherer = Gatherer(
            store=store,
            settings=EngineSettings(threads=threads),
            timeout=timeout,
            remeasure=remeasure,
            on_progress=on_progress,
        )
        self._preparer = Preparer(
            store=store,
            base=self._base,
            roots=roots,
            threads=threads,
            timeout=timeout,
            on_progress=on_progress,
        )
        self._keeper = BaselineKeeper(baselines, gatherer=self._gatherer, preparer=self._preparer)
        self._case_sets: dict[str, tuple[Case, ...]] = {}
        self._checksums = {
            (case.model, case.variant): case.settings
            for case in cases
            if isinstance(case.settings, ChecksumSettings)
        }

    def prepare(self, model: ModelSource) -> PreparedModel:
        """Return the file of a model named in the specification, made if need be."""
        return self._preparer.prepare(model)

    def bench(
        self,
        case: GateCase,
        *,
        literals: Mapping[str, float] | None = None,
        chosen_cases: frozenset[str] = frozenset(),
    ) -> CaseBench:
        """Return what answers a case's questions; ``literals`` replace the specification's.

        ``chosen_cases`` are the ids of the only cases to ask; empty for all of them.
        """
        return CaseBench(
            case,
            preparer=self._preparer,
            gatherer=self._gatherer,
            keeper=self._keeper,
            roots=self._roots,
            literals=case.literals if literals is None else literals,
            checksum=self._checksums.get((case.model, case.variant)),
            chosen_cases=chosen_cases,
            case_sets=self._case_sets,
        )

    def case_ids(self, case: GateCase) -> frozenset[str] | None:
        """Return the ids of the cases that a gate asks, none for a gate that asks no cases.

        None means that they are known only when the gate is measured, or that they cannot be read, which
        the gate will say.
        """
        try:
            return gates.kinds()[case.gate].case_ids(case.settings, self.bench(case))
        except QuantgateError:
            return None

    def measure(
        self,
        case: GateCase,
        *,
        overrides: Mapping[str, object] | None = None,
        chosen_cases: frozenset[str] = frozenset(),
    ) -> Measured:
        """Gather a case's evidence.

        ``overrides`` are the values of fixtures a project replaced: ``max_memory_mb`` sets the memory
        gate's limit, ``baseline_metrics`` holds literal baseline figures. ``chosen_cases`` are the ids
        of the only cases to ask; empty for all of them.

        Raises:
            QuantgateError: the evidence could not be had; never a verdict instead.
        """
        kind = gates.kinds()[case.gate]
        settings, literals = _overridden(case, kind, overrides or {})
        bench = self.bench(case, literals=literals, chosen_cases=chosen_cases)
        before = self._gatherer.measured
        started = time.perf_counter()
        evidence = kind.measure(settings, bench)
        return Measured(
            case=case,
            settings=settings,
            evidence=evidence,
            bench=bench,
            stored=kind.loads_model and self._gatherer.measured == before,
            seconds=time.perf_counter() - started,
        )

    def judge(self, measured: Measured) -> Verdict:
        """Hold a case's evidence against its limits.

        Raises:
            MeasurementError: the evidence decides none of the limits.
        """
        case = measured.case
        kind = gates.kinds()[case.gate]
        judgement = kind.judge(measured.settings, measured.evidence, measured.bench)
        if not judgement.checks:
            message = f"{case.id} was measured, but none of its limits could be judged"
            raise MeasurementError(message)
        chosen = measured.bench.chosen_cases
        if chosen:
            asked = {answered.id for answered in judgement.cases}
            if asked != chosen:
                message = f"{case.id} cannot ask single cases; run it without --quantgate-case"
                raise MeasurementError(message)
        outcome = stats.worst([check.outcome for check in judgement.checks])
        advice = judgement.advice
        if outcome is Outcome.FAIL:
            advice = (*advice, *_advice(case, measured.bench))
        return Verdict(
            spec=case.spec,
            key=(case.model, case.variant, case.gate),
            location=case.location,
            outcome=outcome,
            headline=judgement.headline,
            checks=judgement.checks,
            findings=judgement.findings,
            advice=advice,
            stored=measured.stored,
            seconds=measured.seconds,
            warn=judgement.warn,
            record=judgement.record,
            cases=judgement.cases,
        )

    def keep(self, case: GateCase, result: Pilot) -> None:
        """Store what a pilot of a case saw, for these very settings and models."""
        self._gatherer.keep("pilot", self.prepare(case.candidate), self._pilot_inputs(case), result)

    def kept(self, case: GateCase) -> Pilot | None:
        """Return the stored pilot of a case, None where there is none."""
        return self._gatherer.kept(
            "pilot", self.prepare(case.candidate), self._pilot_inputs(case), Pilot
        )

    def _pilot_inputs(self, case: GateCase) -> dict[str, str | None]:
        baseline = case.baseline
        corpus = getattr(case.settings, "corpus", None)
        return {
            "gate": case.gate,
            "settings": case.settings.model_dump_json(),
            "corpus": self.bench(case).corpus(corpus)[1],
            "context": str(case.defaults.context),
            "baseline": None if baseline is None else self.prepare(baseline).digest,
        }

    def noise_floor(
        self, cases: Sequence[GateCase], text: TextRequest, order: Sequence[int]
    ) -> NoiseFloor:
        """Measure how far the one baseline of some cases is from itself, and store it.

        Raises:
            QuantgateError: it cannot be measured.
        """
        baseline = cases[0].baseline
        if baseline is None:
            message = f"{cases[0].id} has no baseline whose noise could be measured"
            raise MeasurementError(message)
        candidates = {case.variant: self.prepare(case.candidate) for case in cases}
        return self._gatherer.measure_noise_floor(
            self.prepare(baseline), tuple(candidates.values()), text, order
        )

    def file(self, name: str) -> Path:
        """Return a file named in the specification."""
        return source.locate(name, base=self._base, roots=self._roots)

    def benchmark(self, model: ModelSource, prompts: Sequence[str]) -> BenchmarkFigures:
        """Return a model's `QuantizationBenchmark` figures on prompts, measured in a fresh probe.

        A probe of its own, because resident memory in this process would hold two models.
        """
        return self._gatherer.benchmark(self.prepare(model), prompts)

    def share_right(self, model: ModelSource, cases: Sequence[tuple[str, str]]) -> float:
        """Return the share of pairs (prompt, expected) whose output contains what is expected."""
        request = GenerationRequest(
            prompts=tuple(
                Prompt(id=f"case-{number}", prompt=prompt, max_tokens=50, until=expected)
                for number, (prompt, expected) in enumerate(cases, start=1)
            )
        )
        outputs = self._gatherer.generation(self.prepare(model), request).outputs
        pairs = zip(outputs, cases, strict=True)
        return sum(case[1].casefold() in output.text.casefold() for output, case in pairs) / len(
            cases
        )

    def close(self) -> None:
        """End the probe that is still running, if any."""
        self._gatherer.close()


def _overridden(
    case: GateCase, kind: gates.Gate[Any, Any], overrides: Mapping[str, object]
) -> tuple[GateSettings, Mapping[str, float]]:
    settings: GateSettings = case.settings
    literals: dict[str, float] = dict(case.literals)
    for fixture, field in kind.fixture_limits.items():
        if fixture in overrides:
            value = overrides[fixture]
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                message = f"the fixture {fixture} must return a number above 0, not {value!r}"
                raise MeasurementError(message)
            settings = settings.model_copy(update={field: float(value)})
    metrics = overrides.get("baseline_metrics")
    if metrics is not None:
        if not isinstance(metrics, Mapping):
            message = f"the fixture baseline_metrics must return a mapping, not {metrics!r}"
            raise MeasurementError(message)
        literals.update(_numbers(metrics))
    return settings, literals


def _numbers(metrics: Mapping[object, object]) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for name, value in metrics.items():
        if name not in BASELINE_METRICS:
            known = ", ".join(BASELINE_METRICS)
            message = f"the fixture baseline_metrics returns {name!r}; it may hold {known}"
            raise MeasurementError(message)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            message = f"the fixture baseline_metrics returns {value!r} for {name!r}, not a number"
            raise MeasurementError(message)
        numbers[str(name)] = float(value)
    return numbers


def _advice(case: GateCase, bench: CaseBench) -> tuple[str, ...]:
    """Say what to try when a quantized variant misses a limit."""
    if case.gate == "checksum":
        return ()
    advice: list[str] = []
    making = case.candidate.making
    if case.gate in ("memory", "latency"):
        advice.append(
            "measure what the deployment really needs (context, prompt length), or choose a smaller"
            " level"
        )
        return tuple(advice)
    higher = None if making is None else catalog.next_level_up(making.type_name)
    if higher is not None:
        advice.append(f"try the next level up: quantize: {higher}")
    header = bench.candidate.header
    fallbacks = header.fallbacks()
    if fallbacks:
        advice.append(
            f"{fallbacks} of {len(header.tensors)} tensors have rows that are no multiple of 256 and"
            f" were stored as another type ({header.bits_per_weight:.2f} bits per weight in all)"
        )
    return tuple(advice)
