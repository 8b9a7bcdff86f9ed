"""Numbers as people read them: units, precision and intervals in one place."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_quantgate.records import Check, Interval

SHARES = frozenset({"same top token"})

LOWER_BOUND = " (lower bound)"
"""What the name of a statistic ends in whose true value can only be higher."""


def value(check: Check) -> str:
    """Return the measured value with its unit and, where it has one, its interval.

    A value that is only a lower bound of the true one is marked ``>=``.
    """
    if check.text or check.value is None:
        return check.text
    text = quantity(check.value, check)
    if check.statistic.endswith(LOWER_BOUND):
        text = f">= {text}"
    interval = check.interval
    if interval is None or interval.low == interval.high:
        return text
    return f"{text} ({_bounds(interval, check)})"


def confidence(check: Check) -> str:
    """Return how sure the interval is, such as ``99% / 95% bounds`` for its low and high end.

    Empty where everything was measured, and where a bound is as sure as the value itself.
    """
    interval = check.interval
    if interval is None or interval.low == interval.high:
        return ""
    if interval.fail_confidence is None:
        return f"{interval.confidence:.0%} interval"
    if interval.confidence == interval.fail_confidence == 1:
        return ""
    sure = [interval.fail_confidence, interval.confidence]
    if check.limit_name.startswith("min"):
        # What passes a limit from below is its low end.
        sure.reverse()
    return " / ".join(map(_percent, sure)) + " bounds"


def limit(check: Check) -> str:
    """Return the limit with its key, such as ``max_ratio 1.1``."""
    if check.limit_text or check.limit is None:
        return check.limit_text
    if _is_share(check):
        # As a specification has them: shares from below as numbers, from above as percentages.
        above = check.limit_name.startswith("max")
        written = _percent(check.limit) if above else f"{check.limit:.4g}"
        return f"{check.limit_name} {written}"
    return f"{check.limit_name} {check.limit:g}" + ("pp" if check.unit == "pp" else "")


def baseline(check: Check) -> str:
    """Return the baseline's own figure, which for a ratio is what it was divided by."""
    if check.baseline is None:
        return ""
    if _is_share(check) or check.unit == "pp":
        return f"{check.baseline:.1%}"
    if check.statistic.startswith("peak"):
        return f"{check.baseline:.1f} MiB"
    if "time" in check.statistic:
        return f"{check.baseline:.0f} ms"
    return _four_digits(check.baseline)


def quantity(number: float, check: Check) -> str:
    """Return a number of a check with its unit."""
    text = _bare(number, check)
    if _is_share(check):
        return f"{text}%"
    return f"{text} {check.unit}" if check.unit else text


def _bounds(interval: Interval, check: Check) -> str:
    # Fewer digits the smaller a number is: its zeros take their room in a table of 80 columns.
    shown = _few_digits if _is_small(check) else _bare
    low, high = (shown(bound, check) for bound in (interval.low, interval.high))
    if math.isinf(interval.low) and math.isinf(interval.high):
        return "no bounds yet"
    if math.isinf(interval.high):
        return f"from {low}"
    if math.isinf(interval.low):
        return f"up to {high}"
    return f"{low}-{high}"


def _percent(share: float) -> str:
    return f"{share * 100:.4g}%"


def _bare(number: float, check: Check) -> str:
    if _is_share(check):
        return f"{number * 100:.1f}"
    if check.unit in ("MiB", "pp", "ms", "tokens/s"):
        return f"{number:.1f}"
    return _four_digits(number) if number >= 1 or _is_small(check) else f"{number:.3f}"


def _is_share(check: Check) -> bool:
    return check.unit == "share" or check.statistic in SHARES


def _is_small(check: Check) -> bool:
    """Tell whether a statistic may be any number of zeros below 1, so that decimals say nothing."""
    return "KLD" in check.statistic or check.unit == "nats/byte"


def _few_digits(number: float, _check: Check) -> str:
    digits = 3 if abs(number) >= 0.01 else 2  # noqa: PLR2004 - two zeros behind the point
    return f"{number:#.{digits}g}".removesuffix(".")


def _four_digits(number: float) -> str:
    # With "#" zeros at the end stay, and so does the point of a number without decimals.
    return f"{number:#.4g}".removesuffix(".")
