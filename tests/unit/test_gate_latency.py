"""The latency gate: medians and a percentile with their intervals, pairs of requests, figures."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from bench_stub import StubBench, as_bench, latency, timing
from pydantic import ValidationError

from pytest_quantgate.gates.latency import GATE, LatencyEvidence, LatencySettings
from pytest_quantgate.records import LatencyRequest, Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_quantgate.gates import Judgement
    from pytest_quantgate.records import Check, RequestTiming

# Their median's 96.875% interval is 100 to 105: the extremes of six.
SIX = (100.0, 101.0, 102.0, 103.0, 104.0, 105.0)


def settings(**values: object) -> LatencySettings:
    """Return settings as a specification would give them."""
    return LatencySettings.model_validate(values)


def judge(
    limits: LatencySettings,
    own: Sequence[RequestTiming],
    base: Sequence[RequestTiming] = (),
    *,
    literal: float | None = None,
) -> Judgement:
    """Judge timed requests."""
    evidence = LatencyEvidence(latency=latency(own, base), literal=literal)
    return GATE.judge(limits, evidence, as_bench(StubBench()))


def only(judgement: Judgement) -> Check:
    """Return the single check of a judgement."""
    (check,) = judgement.checks
    found: Check = check
    return found


def requests(totals: Sequence[float]) -> tuple[RequestTiming, ...]:
    """Return requests of these total times."""
    return tuple(timing(total) for total in totals)


# --- limits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "outcome"),
    [
        (105.001, Outcome.PASS),
        (105.0, Outcome.PASS),
        (104.999, Outcome.INCONCLUSIVE),
        (102.5, Outcome.INCONCLUSIVE),
        (100.0, Outcome.INCONCLUSIVE),
        (99.999, Outcome.FAIL),
    ],
)
@pytest.mark.parametrize("name", ["max_p50_ms", "max_ttft_ms"])
def test_a_median_has_three_verdicts(name: str, limit: float, outcome: Outcome) -> None:
    """Above all six requests passes, below all fails, among them is undecided."""
    own = [timing(value * 2, ttft_ms=value) for value in SIX]
    if name == "max_p50_ms":
        own = [timing(value, ttft_ms=1.0, tokens=1) for value in SIX]

    check = only(judge(settings(**{name: limit}), own))

    assert check.outcome is outcome
    assert check.value == pytest.approx(102.5)
    assert check.interval is not None
    assert (check.interval.low, check.interval.high) == pytest.approx((100.0, 105.0))
    assert check.interval.confidence == pytest.approx(0.96875)
    assert (check.unit, check.sample) == ("ms", "6 requests")


@pytest.mark.parametrize(
    ("limit", "outcome"),
    [
        (20.001, Outcome.FAIL),
        (20.0, Outcome.INCONCLUSIVE),
        (10.001, Outcome.INCONCLUSIVE),
        (10.0, Outcome.PASS),
        (9.999, Outcome.PASS),
    ],
)
def test_a_speed_is_a_lower_limit(limit: float, outcome: Outcome) -> None:
    """``min_tokens_per_s`` is met at the slowest of six and missed above the fastest."""
    own = [timing(1.0 + 1000 * 4 / speed, ttft_ms=1.0) for speed in (10, 12, 14, 16, 18, 20)]

    check = only(judge(settings(min_tokens_per_s=limit), own))

    assert check.outcome is outcome
    assert check.value == pytest.approx(15)
    assert check.unit == "tokens/s"


def test_the_first_token_does_not_count_as_speed() -> None:
    """Speed is the tokens after the first over their own time, however long the prompt took."""
    slow_start = [timing(5000.0 + 80.0, ttft_ms=5000.0)] * 6

    assert only(judge(settings(min_tokens_per_s=1.0), slow_start)).value == pytest.approx(50)


@pytest.mark.parametrize(
    ("limit", "outcome"),
    [(1.2, Outcome.PASS), (1.1875, Outcome.PASS), (1.187, Outcome.INCONCLUSIVE),
     (1.0625, Outcome.INCONCLUSIVE), (1.0624, Outcome.FAIL)],
)  # fmt: skip
def test_a_ratio_is_of_neighbours(limit: float, outcome: Outcome) -> None:
    """Each request is divided by its neighbour: a machine that slows down for both changes nothing."""
    base = [timing(value, ttft_ms=value / 2, tokens=1) for value in (64, 128, 64, 256, 64, 512)]
    ratios = (1.0625, 1.125, 1.125, 1.125, 1.125, 1.1875)
    own = [
        timing(other.total_ms * ratio, ttft_ms=other.ttft_ms * ratio, tokens=1)
        for other, ratio in zip(base, ratios, strict=True)
    ]

    check = only(judge(settings(max_ratio=limit), own, base))

    assert check.outcome is outcome
    assert check.value == 1.125
    assert check.baseline == 96.0


def test_a_literal_baseline_is_compared_with() -> None:
    """A request time written down as a number divides every request."""
    own = requests(SIX)
    check = only(judge(settings(max_ratio=1.5), own, literal=70.0))

    assert (check.outcome, check.baseline) == (Outcome.PASS, 70.0)
    assert check.value == pytest.approx(102.5 / 70)
    assert only(judge(settings(max_ratio=1.4), own, literal=70.0)).outcome is Outcome.FAIL


def p95(count: int, limit: float, slowest: float = 200.0) -> Check:
    """Judge a 95th percentile over requests of 101, 102, … ms and a slowest one."""
    totals = [100.0 + number for number in range(1, count)] + [slowest]
    own = [timing(total, ttft_ms=1.0, tokens=1) for total in totals]
    return only(judge(settings(max_p95_ms=limit, repeats=count), own))


@pytest.mark.parametrize(
    ("limit", "outcome"),
    [
        (200.0, Outcome.PASS),
        (199.9, Outcome.INCONCLUSIVE),
        (101.0, Outcome.INCONCLUSIVE),
        (100.9, Outcome.FAIL),
    ],
)
def test_the_smallest_sample_bounds_p95_by_its_extremes(limit: float, outcome: Outcome) -> None:
    """Of 59 requests the slowest bounds the percentile with 1 - 0.95^59 = 95.15%."""
    check = p95(59, limit)

    assert check.outcome is outcome
    assert check.interval is not None
    assert check.interval.confidence == pytest.approx(0.9515, abs=0.0001)


def test_a_larger_sample_bounds_p95_on_both_sides() -> None:
    """From 72 requests on (0.95^72 < 0.025) the interval is between two order statistics."""
    at_71, at_72 = p95(71, 150.0).interval, p95(72, 150.0).interval
    assert at_71 is not None
    assert at_72 is not None
    assert at_71.low == pytest.approx(101.0)
    assert at_72.low == pytest.approx(164.0)
    assert at_72.high == 200.0
    assert p95(72, 163.9).outcome is Outcome.FAIL
    assert p95(72, 164.1).outcome is Outcome.INCONCLUSIVE


# --- what is asked ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "literals", "paired"),
    [
        ({"max_ratio": 1.5}, {}, True),
        ({"max_ratio": 1.5}, {"latency_ms": 80.0}, False),
        ({"max_p50_ms": 500.0}, {"latency_ms": 80.0}, False),
    ],
)
def test_the_baseline_runs_only_for_a_ratio(
    limits: dict[str, object], literals: dict[str, float], *, paired: bool
) -> None:
    """Requests alternate with the baseline's where a ratio is limited and no number is given."""
    bench = StubBench(timings=latency(requests(SIX)), literals=literals)

    found = GATE.measure(
        settings(prompt_tokens=7, output_tokens=5, warmup=0, repeats=6, **limits), as_bench(bench)
    )

    request = LatencyRequest(prompt_tokens=7, output_tokens=5, warmup=0, repeats=6)
    assert bench.asked == [(request, paired)]
    assert found.literal == (80.0 if literals and "max_ratio" in limits else None)


# --- what is said ----------------------------------------------------------------------------------


def test_figures_for_people_and_tools() -> None:
    """The findings give p50 and p95 of requests and gaps, speeds, shape and machine."""
    own = [timing(100.0, ttft_ms=20.0)] * 6
    base = [timing(80.0, ttft_ms=40.0)] * 6

    found = judge(settings(max_ratio=1.5), own, base)

    assert found.findings == (
        "Q4_K_M: request p50 100.0 ms, p95 100.0 ms (n = 6); first token p50 20.0 ms; between tokens"
        " p50 20.00 ms, p95 20.00 ms (n = 24); prompt 6400 tokens/s, generation 50.0 tokens/s",
        "the F16 baseline: request p50 80.0 ms, p95 80.0 ms; generation 100.0 tokens/s",
        "shape 128 prompt + 5 output tokens, on Test processor, 2 cores",
    )
    assert found.headline == ("request time ratio 1.25 <= max_ratio 1.5 (interval 1.25 to 1.25)")
    assert found.record == {
        "request_p50_ms": 100.0,
        "request_p95_ms": 100.0,
        "ttft_p50_ms": 20.0,
        "ttft_p95_ms": 20.0,
        "inter_token_p50_ms": 20.0,
        "inter_token_p95_ms": 20.0,
        "prompt_tokens_per_s": 6400.0,
        "generation_tokens_per_s": 50.0,
        "requests": 6,
        "machine": "Test processor, 2 cores",
        "baseline_request_p50_ms": 80.0,
        "baseline_generation_tokens_per_s": 100.0,
    }


@pytest.mark.parametrize(
    ("limits", "headline"),
    [
        (
            {"max_p50_ms": 90.0, "max_ttft_ms": 20.5},
            "request time, median 102 ms > max_p50_ms 90 (interval 100 to 105)",
        ),
        (
            {"max_p50_ms": 200.0, "max_ttft_ms": 20.5},
            "time to first token, median 20.5 ms ~ max_ttft_ms 20.5 (interval 20 to 21)",
        ),
        (
            {"min_tokens_per_s": 60.0},
            "generation speed, median 48.8 tokens/s < min_tokens_per_s 60 (interval 47.6 to 50)",
        ),
        (
            {"min_tokens_per_s": 40.0},
            "generation speed, median 48.8 tokens/s >= min_tokens_per_s 40 (interval 47.6 to 50)",
        ),
    ],
)
def test_the_headline(limits: dict[str, object], headline: str) -> None:
    """The worst limit speaks, with the sign of its outcome and its interval."""
    assert judge(settings(**limits), requests(SIX)).headline == headline


def test_seconds_are_told_in_plain_milliseconds() -> None:
    """From a thousand on no number is written as a power of ten."""
    totals = (999.0, 999.6, 1234.5, 1234.5, 1300.0, 12345.6)

    found = judge(settings(max_p50_ms=20000.0), requests(totals))

    assert found.headline == (
        "request time, median 1234 ms <= max_p50_ms 20000 (interval 999 to 12346)"
    )


def test_an_undecided_limit_says_what_to_do() -> None:
    """More requests or a quieter machine would decide it."""
    assert judge(settings(max_p50_ms=102.0), requests(SIX)).findings[-1] == (
        "max_p50_ms is undecided: its interval holds the limit; raise repeats (now 6) or measure on"
        " a quieter machine"
    )


# --- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "right"),
    [
        ({"repeats": 5}, False),
        ({"repeats": 6}, True),
        ({"max_p95_ms": 9.0, "repeats": 59}, True),
        ({"output_tokens": 1}, False),
        ({"output_tokens": 2}, True),
        ({"prompt_tokens": 0}, False),
        ({"prompt_tokens": 1}, True),
        ({"warmup": -1}, False),
        ({"warmup": 0}, True),
        *(({name: 0.0}, False) for name in LatencySettings.limit_names),
        *(({name: 0.1, "repeats": 59}, True) for name in LatencySettings.limit_names),
    ],
)
def test_what_settings_accept(values: dict[str, object], *, right: bool) -> None:
    """Each setting has its bounds; every limit is above 0."""
    if right:
        settings(**values)
    else:
        with pytest.raises(ValidationError):
            settings(**values)


def test_p95_needs_enough_requests() -> None:
    """58 requests stay below their 95th percentile too often, and the refusal does the arithmetic."""
    assert 0.95**59 < 0.05 < 0.95**58

    with pytest.raises(ValidationError) as caught:
        settings(max_p95_ms=9.0, repeats=10)

    assert (
        "max_p95_ms needs repeats of at least 59, not 10: with fewer, the chance that all stay below"
        " the 95th percentile (0.95^10 = 0.60) is not below 0.05"
    ) in str(caught.value)
    with pytest.raises(ValidationError, match="not 58"):
        settings(max_p95_ms=9.0, repeats=58)


def test_limits_and_the_baseline() -> None:
    """Five limits, of which the ratio alone compares with the baseline."""
    assert settings(min_tokens_per_s=1.0, max_ratio=2.0).limits_given() == (
        "max_ratio",
        "min_tokens_per_s",
    )
    assert GATE.needs_baseline(settings(max_ratio=2.0))
    assert not GATE.needs_baseline(settings(max_ttft_ms=2.0))
    assert math.isfinite(0.95**59)
