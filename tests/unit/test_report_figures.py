"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest
from verdict_builder import check

from pytest_quantgate.records import Interval
from pytest_quantgate.report import figures


def interval(low: float, high: float) -> Interval:
    """Return an interval at the usual confidence."""
    return Interval(low=low, high=high, confidence=0.95)


ACCURACY: dict[str, object] = {
    "limit_name": "min",
    "statistic": "accuracy",
    "unit": "share",
    "value": 0.95,
    "interval": interval(0.7639, 0.9911),
    "limit": 0.9,
    "baseline": 0.975,
}
DROP: dict[str, object] = {
    "limit_name": "max_drop",
    "statistic": "accuracy drop",
    "value": 2.5,
    "interval": None,
    "unit": "pp",
    "limit": 2.0,
    "baseline": 0.975,
}
PEAK: dict[str, object] = {
    "limit_name": "max_mb",
    "statistic": "peak RSS",
    "value": 512.25,
    "interval": None,
    "unit": "MiB",
    "limit": 600.0,
    "baseline": 700.06,
}
TIME: dict[str, object] = {
    "limit_name": "max_p50_ms",
    "statistic": "request time, median",
    "value": 1234.56,
    "interval": interval(1200.0, 1300.04),
    "unit": "ms",
    "limit": 1500.0,
    "baseline": None,
}
TIME_RATIO: dict[str, object] = {
    "statistic": "request time ratio",
    "value": 0.98765,
    "interval": interval(0.9, 1.05),
    "limit": 1.5,
    "baseline": 1234.5,
}
SPEED: dict[str, object] = {
    "limit_name": "min_tokens_per_s",
    "statistic": "generation speed, median",
    "value": 48.77,
    "interval": None,
    "unit": "tokens/s",
    "limit": 40.0,
    "baseline": None,
}
KLD: dict[str, object] = {
    "limit_name": "max_mean",
    "statistic": "mean KLD",
    "value": 0.049123,
    "interval": interval(0.045114, 0.053064),
    "limit": 0.1,
    "baseline": None,
}
SAME_TOP: dict[str, object] = {
    "limit_name": "min_same_top",
    "statistic": "same top token",
    "value": 0.8801,
    "interval": interval(0.8712, 0.889),
    "limit": 0.8,
    "baseline": None,
}
RMS: dict[str, object] = {
    "limit_name": "max_rms_delta_p",
    "statistic": "RMS delta-p",
    "value": 5.024,
    "interval": interval(4.6, 5.5),
    "unit": "pp",
    "limit": 6.0,
    "baseline": None,
}
PER_BYTE: dict[str, object] = {
    "limit_name": "max",
    "statistic": "nll per byte",
    "value": 0.94524,
    "interval": interval(0.81424, 1.0274),
    "unit": "nats/byte",
    "limit": 1.2,
    "baseline": None,
}
POLICY: dict[str, object] = {"limit_name": "policy", "limit_text": "policy strict (1.02)"}
DIGEST: dict[str, object] = {
    "limit_name": "sha256",
    "statistic": "sha256",
    "value": None,
    "interval": None,
    "limit": None,
    "text": "0123456789ab",
    "limit_text": "sidecar model.gguf.sha256",
    "baseline": None,
}


@pytest.mark.parametrize(
    ("changes", "value", "limit", "baseline"),
    [
        ({}, "1.075 (1.061-1.090)", "max_ratio 1.1", "10.93"),
        (ACCURACY, "95.0% (76.4-99.1)", "min 0.9", "97.5%"),
        (DROP, "2.5 pp", "max_drop 2pp", "97.5%"),
        (PEAK, "512.2 MiB", "max_mb 600", "700.1 MiB"),
        (
            PEAK | {"statistic": "peak RSS ratio", "unit": "", "value": 0.5, "limit": 0.6},
            "0.500",
            "max_mb 0.6",
            "700.1 MiB",
        ),
        (TIME, "1234.6 ms (1200.0-1300.0)", "max_p50_ms 1500", ""),
        (TIME_RATIO, "0.988 (0.900-1.050)", "max_ratio 1.5", "1234 ms"),
        (SPEED, "48.8 tokens/s", "min_tokens_per_s 40", ""),
        (KLD, "0.04912 (0.0451-0.0531)", "max_mean 0.1", ""),
        (
            KLD | {"statistic": "mean KLD (lower bound)"},
            ">= 0.04912 (0.0451-0.0531)",
            "max_mean 0.1",
            "",
        ),
        (KLD | {"value": 0.00025149, "interval": None}, "0.0002515", "max_mean 0.1", ""),
        (SAME_TOP, "88.0% (87.1-88.9)", "min_same_top 0.8", ""),
        (RMS, "5.0 pp (4.6-5.5)", "max_rms_delta_p 6pp", ""),
        (PER_BYTE, "0.9452 nats/byte (0.814-1.03)", "max 1.2", ""),
        (POLICY, "1.075 (1.061-1.090)", "policy strict (1.02)", "10.93"),
        (DIGEST, "0123456789ab", "sidecar model.gguf.sha256", ""),
    ],
    ids=[
        "ratio",
        "accuracy",
        "drop",
        "peak",
        "peak ratio",
        "time",
        "time ratio",
        "speed",
        "kld",
        "kld, lower bound",
        "small kld",
        "same top",
        "rms",
        "per byte",
        "policy",
        "digest",
    ],
)
def test_each_figure_in_its_unit(
    changes: dict[str, object], value: str, limit: str, baseline: str
) -> None:
    """Value, limit and baseline of each kind of check, with the precision that they carry."""
    found = check(**changes)

    assert (figures.value(found), figures.limit(found), figures.baseline(found)) == (
        value,
        limit,
        baseline,
    )


def test_a_limit_in_points_has_no_digits_of_a_float() -> None:
    """0.07 * 100 is more than 7 in floats and still shown as 7."""
    assert figures.limit(check(**DROP | {"limit": 0.07 * 100})) == "max_drop 7pp"


def test_an_exact_value_has_no_interval() -> None:
    """Where everything was measured there is nothing to put in parentheses."""
    assert figures.value(check(interval=interval(1.0755, 1.0755))) == "1.075"
    assert figures.value(check(interval=None)) == "1.075"


def test_no_value_is_no_text() -> None:
    """A check without number and text shows nothing rather than a zero."""
    assert figures.value(check(value=None)) == ""
    assert figures.limit(check(limit=None)) == ""


@pytest.mark.parametrize(
    ("number", "shown"), [(0.9996, "1.000"), (1.0, "1.000"), (999.96, "1000"), (1234.4, "1234")]
)
def test_ratios_and_perplexities_have_four_digits(number: float, shown: str) -> None:
    """Zeros at the end stay, for they were measured; no number ends in a point."""
    assert figures.value(check(value=number, interval=None)) == shown
    if number >= 1:
        assert figures.baseline(check(baseline=number)) == shown


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (1.0612, math.inf, "1.075 (from 1.061)"),
        (-math.inf, 1.0901, "1.075 (up to 1.090)"),
        (-math.inf, math.inf, "1.075 (no bounds yet)"),
    ],
)
def test_a_bound_that_is_not_there_yet(low: float, high: float, shown: str) -> None:
    """An end that nothing limits is no number to print."""
    assert figures.value(check(interval=interval(low, high))) == shown


@pytest.mark.parametrize(
    ("name", "fail", "text"),
    [
        ("max_ratio", None, "95% interval"),
        ("max_ratio", 0.99, "99% / 95% bounds"),
        ("min_same_top", 0.99, "95% / 99% bounds"),
        ("max_ratio", 0.999, "99.9% / 95% bounds"),
    ],
)
def test_how_sure_the_ends_are(name: str, fail: float | None, text: str) -> None:
    """Low end, then high end: the one a limit passes by is the high end of a maximum."""
    bounds = Interval(low=1.0, high=2.0, confidence=0.95, fail_confidence=fail)

    assert figures.confidence(check(limit_name=name, interval=bounds)) == text


def test_what_is_certain_has_no_confidence() -> None:
    """No interval, one without width, and the largest value seen, which cannot be unseen."""
    assert figures.confidence(check(interval=None)) == ""
    assert figures.confidence(check(interval=interval(1.0, 1.0))) == ""
    seen = Interval(low=0.7, high=math.inf, confidence=1.0, fail_confidence=1.0)
    assert figures.confidence(check(interval=seen)) == ""


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [(0.00999, 0.01001, "0.010-0.0100"), (0.003001, 0.004283, "0.0030-0.0043")],
)
def test_bounds_of_small_numbers_have_fewer_digits(low: float, high: float, shown: str) -> None:
    """Three digits from 0.01 on and two below, so that both fit a column of the table."""
    bounds = Interval(low=low, high=high, confidence=0.95, fail_confidence=0.99)

    assert figures.value(check(**KLD | {"interval": bounds})).endswith(f" ({shown})")
