"""What the plugin's fixtures return in an active run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import pytest

from pytest_quantgate.cases import named_cases
from pytest_quantgate.errors import MeasurementError, QuantgateError
from pytest_quantgate.gates.accuracy import AccuracySettings
from pytest_quantgate.gates.memory import MemorySettings
from pytest_quantgate.model import QuantizedModel
from pytest_quantgate.session import BASELINE_WRITTEN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_quantgate.plan import GateCase, ModelSource
    from pytest_quantgate.records import BenchmarkFigures, Verdict
    from pytest_quantgate.session import Subject


class MeasuredMetrics(Mapping[str, float]):
    """The baseline's figures, measured when the first of them is read."""

    def __init__(self, figures: Mapping[str, Callable[[], float]]) -> None:
        """Keep how each figure is had."""
        self._figures = figures

    def __getitem__(self, name: str) -> float:
        """Return a figure; measures it unless the store has it."""
        if name not in self._figures:
            known = ", ".join(self._figures)
            message = f"baseline_metrics has no {name!r}; it has {known}"
            raise KeyError(message)
        return self._figures[name]()

    def __iter__(self) -> Iterator[str]:
        """Return the names of the figures."""
        return iter(self._figures)

    def __len__(self) -> int:
        """Return the number of figures."""
        return len(self._figures)


def quantized_model(subject: Subject, request: pytest.FixtureRequest) -> QuantizedModel:
    """Return the variant, verified and loaded; kept until a test needs another."""
    return _resident(subject, _case(subject).candidate, request)


def baseline_model(subject: Subject, request: pytest.FixtureRequest) -> QuantizedModel:
    """Return the baseline, verified and loaded; kept until a test does without it."""
    return _resident(subject, _baseline(subject), request)


def test_cases(subject: Subject) -> Sequence[tuple[str, str]]:
    """Return the prompts and expected texts of the accuracy gate's cases."""
    settings = next(
        (case.settings for case in subject.cases if isinstance(case.settings, AccuracySettings)),
        None,
    )
    if settings is None:
        message = (
            f"{subject.model} has no accuracy gate to take test_cases from; add one to"
            f" {subject.loaded.path.name} or override the fixture test_cases"
        )
        raise _error(MeasurementError(message))
    try:
        cases = named_cases(settings.cases, subject.loaded.runner.file)
    except QuantgateError as error:
        raise _error(error) from None
    # Whoever reads pairs looks for the one in what comes of the other; a pattern or a schema is not
    # to be found in any output.
    pairs = [
        (case.prompt, case.expected)
        for case in cases
        if case.prompt is not None and case.match in ("contains", "exact")
    ]
    if not pairs:
        message = (
            f"{settings.cases} has no case with a `prompt` whose output is to contain a text or to be"
            " one (match: contains or exact), so there are no pairs for test_cases; add such cases or"
            " override the fixture"
        )
        raise _error(MeasurementError(message))
    return pairs


def max_memory_mb(subject: Subject) -> float | None:
    """Return the memory gate's `max_mb`."""
    for case in subject.cases:
        if isinstance(case.settings, MemorySettings) and case.settings.max_mb is not None:
            return case.settings.max_mb
    if subject.case is None:
        message = (
            f"{subject.model} has no memory gate with max_mb to take max_memory_mb from; add one to"
            f" {subject.loaded.path.name} or override the fixture max_memory_mb"
        )
        raise _error(MeasurementError(message))
    return None


def baseline_metrics(subject: Subject, request: pytest.FixtureRequest) -> Mapping[str, float]:
    """Return the baseline's figures: numbers of the specification where it has them, else measured."""

    def benchmarked() -> BenchmarkFigures:
        prompts = request.getfixturevalue("benchmark_prompts")
        try:
            return subject.loaded.runner.benchmark(_baseline(subject), prompts)
        except QuantgateError as error:
            raise _error(error) from None

    def accuracy() -> float:
        cases = request.getfixturevalue("test_cases")
        try:
            return subject.loaded.runner.share_right(_baseline(subject), cases)
        except QuantgateError as error:
            raise _error(error) from None

    literals = _case(subject).literals
    measured: dict[str, Callable[[], float]] = {
        "perplexity": lambda: benchmarked().perplexity,
        "accuracy": accuracy,
        "latency_ms": lambda: benchmarked().latency_ms,
        "memory_mb": lambda: benchmarked().memory_mb,
    }
    for name, value in literals.items():
        measured[name] = lambda value=value: value  # type: ignore[misc]
    return MeasuredMetrics(measured)


def verdict(
    subject: Subject,
    request: pytest.FixtureRequest,
    *,
    max_memory_mb: float | None,
    baseline_metrics: Mapping[str, float],
) -> Verdict:
    """Measure and judge the gate being run, with the values of overridden fixtures as limits."""
    case = _case(subject)
    overrides: dict[str, object] = {}
    if max_memory_mb is not None:
        overrides["max_memory_mb"] = max_memory_mb
    if not isinstance(baseline_metrics, MeasuredMetrics):
        overrides["baseline_metrics"] = baseline_metrics
    runner = subject.loaded.runner
    # The model of the project's own tests must not stand in the way of what is measured now.
    subject.session.release()
    try:
        chosen = subject.session.selection.chosen(request.node)
        return runner.judge(runner.measure(case, overrides=overrides, chosen_cases=chosen))
    except QuantgateError as error:
        raise _error(error, case=case) from None
    finally:
        subject.session.end_progress()
        # Whatever became of the gate: a baseline that was written waits to be committed.
        request.node.user_properties.extend(
            (BASELINE_WRITTEN, name) for name in subject.session.take_written()
        )


def _case(subject: Subject) -> GateCase:
    return subject.case or subject.cases[0]


def _baseline(subject: Subject) -> ModelSource:
    baseline = _case(subject).baseline
    if baseline is None:
        message = (
            f"{subject.model} has no baseline to measure; give it one in {subject.loaded.path.name}"
        )
        raise _error(MeasurementError(message))
    return baseline


def _resident(
    subject: Subject, source: ModelSource, request: pytest.FixtureRequest
) -> QuantizedModel:
    session = subject.session
    try:
        runner = subject.loaded.runner
        path = runner.prepare(source).path
        wanted = {path}
        if {"quantized_model", "baseline_model"} <= set(request.fixturenames):
            wanted |= {
                runner.prepare(each).path for each in (_case(subject).candidate, _baseline(subject))
            }
        # Memory that a test reads off this process must be its own models' and nobody else's.
        session.release(keep=wanted)
        if path not in session.resident:
            session.resident[path] = QuantizedModel(
                path,
                context=_case(subject).defaults.context,
                threads=session.options["threads"],
            )
    except QuantgateError as error:
        raise _error(error) from None
    finally:
        session.end_progress()
    return session.resident[path]


def _error(error: QuantgateError, *, case: GateCase | None = None) -> BaseException:
    """Return what ends a fixture with a message instead of a traceback, as an error of its test."""
    place = "" if case is None else f"\n{case.location}: {case.id}"
    return pytest.fail.Exception(f"{type(error).__name__}: {error}{place}", pytrace=False)
