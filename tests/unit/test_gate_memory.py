"""The memory gate: peaks in mebibytes, byte by byte around the limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from bench_stub import StubBench, as_bench
from pydantic import ValidationError

from pytest_quantgate.gates.memory import GATE, MemoryEvidence, MemorySettings
from pytest_quantgate.records import MEBIBYTE, MemoryRequest, MemoryUse, Outcome

if TYPE_CHECKING:
    from pytest_quantgate.gates import Judgement


def use(peak_bytes: int) -> MemoryUse:
    """Return memory figures with this peak."""
    return MemoryUse(
        peak_rss_bytes=peak_bytes,
        before_load_bytes=40 * MEBIBYTE,
        file_bytes=100 * MEBIBYTE + MEBIBYTE // 2,
    )


def judge(
    limits: dict[str, object], own: int, base: int | None = None, *, literal: float | None = None
) -> Judgement:
    """Judge peaks given in bytes."""
    evidence = MemoryEvidence(
        candidate=use(own),
        baseline=None if base is None else use(base),
        literal=literal,
        context=512,
    )
    settings = MemorySettings.model_validate(limits)
    return GATE.judge(settings, evidence, as_bench(StubBench()))


@pytest.mark.parametrize(
    ("excess", "outcome"), [(-1, Outcome.PASS), (0, Outcome.PASS), (1, Outcome.FAIL)]
)
def test_the_highest_peak(excess: int, outcome: Outcome) -> None:
    """``max_mb: 600`` is 600 * 1,048,576 bytes: that many pass, one byte more fails."""
    (check,) = judge({"max_mb": 600.0}, 600 * MEBIBYTE + excess).checks

    assert check.outcome is outcome
    assert (check.limit_name, check.unit, check.limit, check.sample) == (
        "max_mb",
        "MiB",
        600.0,
        "1 probe",
    )
    assert check.value == pytest.approx(600, abs=1e-5)


@pytest.mark.parametrize(
    ("excess", "outcome"), [(-1, Outcome.PASS), (0, Outcome.PASS), (1, Outcome.FAIL)]
)
def test_the_highest_ratio(excess: int, outcome: Outcome) -> None:
    """``max_ratio: 0.5`` allows exactly half of the baseline's peak and not a byte more."""
    (check,) = judge({"max_ratio": 0.5}, 100 * MEBIBYTE + excess, 200 * MEBIBYTE).checks

    assert check.outcome is outcome
    assert (check.limit_name, check.unit, check.baseline) == ("max_ratio", "", 200.0)


@pytest.mark.parametrize(("literal", "outcome"), [(200.0, Outcome.PASS), (199.9, Outcome.FAIL)])
def test_a_literal_baseline_is_compared_with(literal: float, outcome: Outcome) -> None:
    """A baseline peak written down in MB takes the place of a measured one."""
    (check,) = judge({"max_ratio": 0.5}, 100 * MEBIBYTE, literal=literal).checks

    assert (check.outcome, check.baseline) == (outcome, literal)


@pytest.mark.parametrize(
    ("limits", "headline"),
    [
        ({"max_mb": 200.0}, "peak RSS 150.0 MiB <= max_mb 200"),
        ({"max_mb": 149.5}, "peak RSS 150.0 MiB > max_mb 149.5"),
        (
            {"max_ratio": 0.6},
            "peak RSS ratio 0.500 <= max_ratio 0.6 (150.0 MiB against 300.0 MiB of the F16"
            " baseline)",
        ),
        (
            {"max_mb": 100.0, "max_ratio": 0.6},
            "peak RSS 150.0 MiB > max_mb 100 (150.0 MiB against 300.0 MiB of the F16 baseline)",
        ),
        (
            {"max_mb": 100.0, "max_ratio": 0.4},
            "peak RSS 150.0 MiB > max_mb 100, peak RSS ratio 0.500 > max_ratio 0.4 (150.0 MiB"
            " against 300.0 MiB of the F16 baseline)",
        ),
    ],
)
def test_the_headline(limits: dict[str, object], headline: str) -> None:
    """Failed limits are named alone; where all hold, all are."""
    base = 300 * MEBIBYTE if "max_ratio" in limits else None
    assert judge(limits, 150 * MEBIBYTE, base).headline == headline


def test_figures_for_people_and_tools() -> None:
    """The finding says what work was measured, the record repeats the figures."""
    found = judge({"max_ratio": 0.6}, 150 * MEBIBYTE, 300 * MEBIBYTE)

    assert found.findings == (
        "a fresh probe filled 512 tokens of context; it used 40.0 MiB before loading the file of"
        " 100.5 MiB",
    )
    assert found.record == {
        "peak_rss_mib": 150.0,
        "before_load_mib": 40.0,
        "file_mib": 100.5,
        "baseline_peak_rss_mib": 300.0,
        "context": 512,
    }


def test_each_model_does_the_declared_work_in_a_fresh_probe() -> None:
    """Both get one request: the gate's context before the specification's, and its sequences."""
    bench = StubBench(context=512, memories={"baseline": use(3), "candidate": use(2)})
    settings = MemorySettings(max_ratio=0.5, context=2048, sequences=4)

    found = GATE.measure(settings, as_bench(bench))

    request = MemoryRequest(context=2048, sequences=4)
    assert bench.asked == [("baseline", request), ("candidate", request)]
    assert (found.candidate, found.baseline, found.context) == (use(2), use(3), 2048)


def test_a_baseline_is_measured_only_where_it_counts() -> None:
    """Neither an absolute limit nor a literal baseline runs the baseline's probe."""
    bench = StubBench(context=256, memories={"candidate": use(2)}, literals={"memory_mb": 700.0})

    assert GATE.measure(MemorySettings(max_mb=9.0), as_bench(bench)).literal is None
    assert GATE.measure(MemorySettings(max_ratio=0.5), as_bench(bench)).literal == 700.0
    assert bench.asked == [("candidate", MemoryRequest(context=256))] * 2


@pytest.mark.parametrize(
    ("values", "right"),
    [
        ({"max_mb": 0.0}, False),
        ({"max_mb": 0.1}, True),
        ({"max_mb": "600"}, False),
        ({"max_ratio": 0.0}, False),
        ({"max_ratio": 0.1}, True),
        ({"context": 31}, False),
        ({"context": 32}, True),
        ({"sequences": 0}, False),
        ({"sequences": 1}, True),
        ({"sequences": 256}, True),
        ({"sequences": 257}, False),
    ],
)
def test_what_settings_accept(values: dict[str, object], *, right: bool) -> None:
    """Each setting has its bounds."""
    if right:
        MemorySettings.model_validate(values)
    else:
        with pytest.raises(ValidationError):
            MemorySettings.model_validate(values)


def test_limits_and_the_fixture_that_sets_one() -> None:
    """Two limits; ``max_memory_mb`` overridden in a project sets the first."""
    assert MemorySettings(max_mb=1.0, max_ratio=1.0).limits_given() == ("max_mb", "max_ratio")
    assert dict(GATE.fixture_limits) == {"max_memory_mb": "max_mb"}
    assert not GATE.needs_baseline(MemorySettings(max_mb=1.0))
    assert GATE.needs_baseline(MemorySettings(max_ratio=1.0))
