"""Score bounds of the difference of two shares of the same cases."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HALVINGS = 60
"""Halvings of an interval no longer than 2: what is left is less than a float can tell."""


def score_high(up: float, down: float, n: float, quantile: float, *, corrected: bool) -> float:
    """Return the largest difference of the shares of ``up`` and ``down`` that is not rejected."""
    import numpy as np  # noqa: PLC0415 - judging numbers of windows takes no array

    inside, outside = (up - down) / n, 1.0
    ups, downs = np.array(up), np.array(down)

    def rejected(difference: float) -> bool:
        variance, third = (float(moment) for moment in moments(ups, downs, n, difference))
        distance = n * difference - (up - down)
        if corrected:
            skewness = max(0.0, -third / variance) if variance > 0 else 0.0
            distance -= 0.5 + max(0.0, quantile**2 - 1) / 6 * skewness
        return distance > quantile * math.sqrt(n * variance)

    if not rejected(outside):
        return outside
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        if rejected(middle):
            outside = middle
        else:
            inside = middle
    return inside


def moments(
    up: NDArray[Any], down: NDArray[Any], n: float, difference: float
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return variance and third central moment of one case's +1, 0 or -1, given their difference.

    Under the share of -1 that is likeliest for ``up`` and ``down`` in ``n`` cases: the larger root of
    Tango's quadratic equation, without cancellation.
    """
    import numpy as np  # noqa: PLC0415 - see above

    linear = (2 * n - up + down) * difference - up - down
    constant = -down * difference * (1 - difference)
    root = np.sqrt(np.maximum(linear**2 - 8 * n * constant, 0.0))
    safe = np.where(linear + root > 0, linear + root, 1.0)
    share = np.where(linear > 0, -2 * constant / safe, (root - linear) / (4 * n))
    share = np.maximum(share, max(0.0, -difference))
    flips = 2 * share + difference
    third = difference * (1 - 3 * flips + 2 * difference**2)
    return np.maximum(flips - difference**2, 0.0), third
