"""Numbers as people read them: units, precision and intervals in one place."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_quantgate.records import Check

SHARES = frozenset({"accuracy"})


def value(check: Check) -> str:
    """Return the measured value with its unit and, where it has one, its interval."""
    if check.text or check.value is None:
        return check.text
    text = quantity(check.value, check)
    interval = check.interval
    if interval is None or interval.low == interval.high:
        return text
    low, high = (_bare(bound, check) for bound in (interval.low, interval.high))
    return f"{text} ({low}-{high})"


def limit(check: Check) -> str:
    """Return the limit with its key, such as ``max_ratio 1.1``."""
    if check.limit_text or check.limit is None:
        return check.limit_text
    if check.statistic in SHARES:
        return f"{check.limit_name} {check.limit:.4g}"
    return f"{check.limit_name} {check.limit:g}" + ("pp" if check.unit == "pp" else "")


def baseline(check: Check) -> str:
    """Return the baseline's own figure, which for a ratio is what it was divided by."""
    if check.baseline is None:
        return ""
    if check.statistic.startswith("accuracy"):
        return f"{check.baseline:.1%}"
    if check.statistic.startswith("peak"):
        return f"{check.baseline:.1f} MiB"
    if "time" in check.statistic:
        return f"{check.baseline:.0f} ms"
    return _four_digits(check.baseline)


def quantity(number: float, check: Check) -> str:
    """Return a number of a check with its unit."""
    text = _bare(number, check)
    if check.statistic in SHARES:
        return f"{text}%"
    return f"{text} {check.unit}" if check.unit else text


def _bare(number: float, check: Check) -> str:
    if check.statistic in SHARES:
        return f"{number * 100:.1f}"
    if check.unit in ("MiB", "pp", "ms", "tokens/s"):
        return f"{number:.1f}"
    return _four_digits(number) if number >= 1 else f"{number:.3f}"


def _four_digits(number: float) -> str:
    # With "#" zeros at the end stay, and so does the point of a number without decimals.
    return f"{number:#.4g}".removesuffix(".")
