"""The statistics that `llama-perplexity --kl-divergence` prints, from the numbers of each token.

Formulas, and float32 where the tool has it, are those of llama.cpp's tools/perplexity/perplexity.cpp
(`kl_divergence`, `log_softmax`): tokens are taken for independent in every ±, and a percentile is
interpolated linearly at share * (n - 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

Group = Literal["perplexity", "divergence", "probability"]

_FEWEST_FOR_ERROR = 10
_FEWEST_FOR_COVARIANCE = 10

_PERCENTILES = {
    "99.9%": ("p99_9", 0.999),
    "99.0%": ("p99", 0.99),
    "95.0%": ("p95", 0.95),
    "90.0%": ("p90", 0.9),
    "75.0%": ("p75", 0.75),
    "Median": ("median", 0.5),
    "25.0%": ("p25", 0.25),
    "10.0%": ("p10", 0.1),
    "5.0%": ("p5", 0.05),
    "1.0%": ("p1", 0.01),
    "0.1%": ("p0_1", 0.001),
}
_QUARTILES = frozenset({"75.0%", "25.0%"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistic:
    """One line of the tool's output.

    ``key`` is its name in records; ``value`` and ``error`` (the ±) are nats, perplexities or shares,
    NaN where the tool divides by zero; ``percent`` tells that it is shown as a percentage with so many
    digits, or in plain digits where it is None.
    """

    group: Group
    label: str
    key: str
    value: float
    error: float | None = None
    percent: int | None = None

    @property
    def text(self) -> str:
        """The figures with the digits the tool prints."""
        if self.percent is None:
            shown = f"{self.value:.6f}"
            return shown if self.error is None else f"{shown} ± {self.error:.6f}"
        shown = f"{100 * self.value:.{self.percent}f}"
        if self.error is not None:
            shown += f" ± {100 * self.error:.{self.percent}f}"
        return f"{shown}%"


def statistics(
    nll: NDArray[np.float32],
    base_nll: NDArray[np.float32],
    kld: NDArray[np.float32],
    same_top: NDArray[Any],
) -> tuple[Statistic, ...]:
    """Return every statistic in the order of the tool.

    Args:
        nll: Negative log-likelihood of each scored token under the candidate, in nats; any shape.
        base_nll: The same under the baseline.
        kld: Divergence KL(baseline || candidate) at each token, in nats.
        same_top: Whether both hold the same token for the most likely one, at each token.

    Raises:
        ValueError: the shapes differ, or there is no token.
    """
    if not nll.shape == base_nll.shape == kld.shape == same_top.shape:
        message = (
            f"shapes differ: {nll.shape}, {base_nll.shape}, {kld.shape} and {same_top.shape} for"
            " likelihoods, divergence and most likely tokens"
        )
        raise ValueError(message)
    if nll.size < 1:
        message = "there is no token to make statistics of"
        raise ValueError(message)
    own, base = (part.reshape(-1).astype(np.float32) for part in (nll, base_nll))
    return (
        *_perplexities(own, base),
        *_divergences(kld.reshape(-1).astype(np.float32)),
        *_probabilities(delta_p(own, base), same_top.reshape(-1)),
    )


def delta_p(nll: NDArray[Any], base_nll: NDArray[Any]) -> NDArray[np.float32]:
    """Return by how much the right token's probability changed, at each position.

    In float32 as in the tool, which rounds before it sums.
    """
    return np.exp(-nll.astype(np.float32)) - np.exp(-base_nll.astype(np.float32))


def _perplexities(own: NDArray[np.float32], base: NDArray[np.float32]) -> Iterator[Statistic]:
    mean, error = _mean(own, own * own)
    base_mean, base_error = _mean(base, base * base)
    covariance = _covariance(own, base)
    value, base_value = math.exp(mean), math.exp(base_mean)
    spread = value * error, base_value * base_error
    yield _plain("perplexity", "Mean PPL(Q)", "perplexity", value, spread[0])
    yield _plain("perplexity", "Mean PPL(base)", "baseline_perplexity", base_value, spread[1])
    product = error * base_error
    yield Statistic(
        group="perplexity",
        label="Cor(ln(PPL(Q)), ln(PPL(base)))",
        key="correlation",
        value=covariance / product if product > 0 else math.nan,
        percent=2,
    )
    log_ratio = mean - base_mean
    log_error = _root(error**2 + base_error**2 - 2 * covariance)
    ratio = math.exp(log_ratio)
    yield _plain("perplexity", "Mean ln(PPL(Q)/PPL(base))", "log_ratio", log_ratio, log_error)
    yield _plain("perplexity", "Mean PPL(Q)/PPL(base)", "ratio", ratio, ratio * log_error)
    difference_error = _root(spread[0] ** 2 + spread[1] ** 2 - 2 * value * base_value * covariance)
    yield _plain(
        "perplexity",
        "Mean PPL(Q)-PPL(base)",
        "difference",
        value - base_value,
        difference_error,
    )


def _divergences(kld: NDArray[np.float32]) -> Iterator[Statistic]:
    exact = kld.astype(np.float64)
    mean, error = _mean(exact, exact * exact)
    yield _plain("divergence", "Mean KLD", "kld", mean, error)
    for name, key, value in _ordered(np.sort(kld), quartiles=False):
        yield _plain("divergence", f"{name} KLD", f"kld_{key}", value)


def _probabilities(delta: NDArray[np.float32], same_top: NDArray[Any]) -> Iterator[Statistic]:
    mean, error = _mean(delta, delta * delta)
    yield _share("Mean Δp", "delta_p", mean, error)
    for name, key, value in _ordered(np.sort(delta), quartiles=True):
        yield _share(f"{name} Δp", f"delta_p_{key}", value)
    squares = (delta * delta).astype(np.float64)
    square, square_error = _mean(squares, squares * squares)
    root = math.sqrt(square)
    yield _share("RMS Δp", "rms_delta_p", root, 0.5 / root * square_error if root > 0 else 0.0)
    count = same_top.size
    same = float(np.count_nonzero(same_top)) / count
    same_error = math.sqrt(same * (1 - same) / (count - 1)) if count > 1 else 0.0
    yield _share("Same top p", "same_top", same, same_error)


def _mean(values: NDArray[Any], squares: NDArray[Any]) -> tuple[float, float]:
    count = values.size
    mean = float(values.sum(dtype=np.float64)) / count
    variance = float(squares.sum(dtype=np.float64)) / count - mean * mean
    known = variance > 0 and count > _FEWEST_FOR_ERROR
    return mean, math.sqrt(variance / (count - 1)) if known else 0.0


def _covariance(own: NDArray[np.float32], base: NDArray[np.float32]) -> float:
    count = own.size
    if count < _FEWEST_FOR_COVARIANCE:
        return 0.0
    means = [float(part.sum(dtype=np.float64)) / count for part in (own, base)]
    product = float((own * base).sum(dtype=np.float64)) / count
    return (product - means[0] * means[1]) / (count - 1)


def _ordered(ordered: NDArray[np.float32], *, quartiles: bool) -> Iterator[tuple[str, str, float]]:
    """Yield name, key and value of extremes and percentiles, from the top down."""
    yield "Maximum", "max", float(ordered[-1])
    for name, (key, share) in _PERCENTILES.items():
        if quartiles or name not in _QUARTILES:
            yield name, key, _percentile(ordered, share)
    yield "Minimum", "min", float(ordered[0])


def _percentile(ordered: NDArray[np.float32], share: float) -> float:
    if share == 0.5:  # noqa: PLR2004 - the median has a rule of its own in the tool
        half = ordered.size // 2
        if ordered.size % 2:
            return float(ordered[half])
        return float(np.float32(0.5) * (ordered[half] + ordered[half - 1]))
    position = np.float32(share) * np.float32(ordered.size - 1)
    below = int(position)
    weight = position - np.float32(below)
    above = min(below + 1, ordered.size - 1)
    return float((np.float32(1) - weight) * ordered[below] + weight * ordered[above])


def _root(square: float) -> float:
    # Rounding may leave a hair below zero where both models agree.
    return math.sqrt(max(0.0, square))


def _plain(
    group: Group, label: str, key: str, value: float, error: float | None = None
) -> Statistic:
    return Statistic(group=group, label=label, key=key, value=value, error=error)


def _share(label: str, key: str, value: float, error: float | None = None) -> Statistic:
    return Statistic(group="probability", label=label, key=key, value=value, error=error, percent=3)
