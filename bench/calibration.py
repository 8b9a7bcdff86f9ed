"""How often a verdict from part of a text is wrong, on real windows, for the rule and its rivals.

    python bench/calibration.py measure --text python-docs=builtin:python-docs [--text NAME=FILE ...]
    python bench/calibration.py simulate [--orders 20000]

``measure`` scores every window of the texts under F16 and three types of the demo model and keeps one
row of figures per window in bench/calibration/values.npz (a few hundred kB). ``simulate`` draws these
windows in many thousand random orders, with the limit at the true value and around it, and writes what
each rule decided to bench/calibration/results.md and docs/images/calibration.svg. It needs no model.

``measure`` takes an hour on two cores; it needs the extra ``demo`` (or --model).
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import calibration_report
import numpy as np
from calibration_rules import (
    FAIL_RISK,
    PASS_RISK,
    RULES,
    SHIPPED,
    Ends,
    bet,
    bounds_at,
    decide,
    moments_at,
)
from perplexity import DEMO, quantized

from pytest_quantgate import measure as measuring
from pytest_quantgate import stats
from pytest_quantgate.artifact import corpus, hardware, source
from pytest_quantgate.records import DivergenceRequest, EngineSettings, TextRequest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]
    Array = NDArray[Any]

FOLDER = Path(__file__).parent / "calibration"
VALUES = FOLDER / "values.npz"
RESULTS = FOLDER / "results.md"
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "calibration.svg"

TYPES = ("Q8_0", "Q4_K_M", "Q2_K")
RATIOS = (0.5, 0.7, 0.9, 0.97, 1.0, 1.03, 1.1, 1.3, 2.0)
"""True value / limit."""
INCREASES = (0.005, 0.01, 0.02, 0.05, 0.10)
"""Limits that are written in specifications: ``max_increase``."""
SHARES = (0.95, 0.99, 0.999)
GROUP = 16
BETTABLE = ("flips", "RMS delta-p", *(f"KLD p{share * 100:g}" for share in SHARES))
"""Statistics whose value for a window lies between 0 and 1."""


def per_window(base: Numbers, own: Numbers, kld: Numbers, same: Numbers) -> dict[str, Array]:
    """Reduce figures of tokens, of shape (windows, tokens), to what is kept of each window.

    ``above`` counts, for each percentile and each of RATIOS, the tokens whose KLD is above the
    percentile divided by the ratio.
    """
    levels = np.quantile(kld, SHARES)[:, None] / np.array(RATIOS)
    above = (kld[None, None] > levels[:, :, None, None]).sum(axis=3)
    return {
        "difference": (own - base).mean(axis=1).astype("f4"),
        "nll": own.mean(axis=1).astype("f4"),
        "kld": kld.mean(axis=1).astype("f4"),
        "square": ((np.exp(-own) - np.exp(-base)) ** 2).mean(axis=1).astype("f4"),
        "flips": (same.shape[1] - same.sum(axis=1)).astype("u2"),
        "above": above.astype("u2"),
        "tokens": np.array(kld.shape[1]),
    }


def measure(texts: list[str], model: str, threads: int) -> None:
    """Score all windows of the texts and write what is kept of them."""
    kept: dict[str, Array] = {}
    settings = EngineSettings(threads=threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        origin = source.locate(model, base=Path.cwd(), roots=(Path("/"),))
        full = quantized(origin, folder / "F16.gguf", "F16")
        for type_name in TYPES:
            variant = quantized(full, folder / f"{type_name}.gguf", type_name)
            for each in texts:
                label, _, text = each.partition("=")
                path, digest = corpus.materialize_corpus(
                    text, base=Path.cwd(), roots=(Path("/"),), folder=folder
                )
                found = _tokens(variant, full, settings, str(path), digest)
                figures = per_window(*found)
                kept |= {f"{label}/{type_name}/{key}": value for key, value in figures.items()}
                print(f"{label} {type_name}: {len(found[0])} windows", flush=True)
    FOLDER.mkdir(exist_ok=True)
    arrays: dict[str, Any] = kept
    np.savez_compressed(VALUES, **arrays)


def _tokens(
    variant: Path, full: Path, settings: EngineSettings, text: str, digest: str
) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    candidate, baseline = measuring.start_pair(timeout=60)
    parts: list[tuple[Numbers, ...]] = []
    with candidate, baseline:
        candidate.load(variant, settings, timeout=600)
        baseline.load(full, settings, timeout=600)
        windows = candidate.text(
            TextRequest(corpus_path=text, corpus_sha256=digest), timeout=600
        ).chunks
        for start in range(0, windows, GROUP):
            request = DivergenceRequest(
                reference="live",
                corpus_path=text,
                corpus_sha256=digest,
                chunks=tuple(range(start, min(start + GROUP, windows))),
            )
            found = measuring.measure_divergence(candidate, baseline, request, timeout=3600)
            arrays = (found.baseline.token_nll, found.candidate.token_nll, found.kld)
            parts.append((*(each.array().astype("f8") for each in arrays), found.same_top.array()))
    base, own, kld, same = (np.concatenate(column) for column in zip(*parts, strict=True))
    return base, own, kld, same


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One statistic of one variant on one text.

    ``values`` has the windows' values and ``limits`` the limit on their scale, both by true / limit;
    the value at 1 is decided twice, with the limit at the mean and a hair below it. The variance of a
    window's share of tokens is at least that of independent ones.
    """

    text: str
    variant: str
    statistic: str
    values: Mapping[float, Numbers]
    limits: Mapping[float, float]
    variance_floor: float = 0.0

    @property
    def windows(self) -> int:
        """Number of windows of the text."""
        return len(self.values[1.0])


@dataclass(slots=True, kw_only=True)
class Counts:
    """What a rule decided of one cell, in so many orders, by true / limit."""

    orders: dict[float, int] = field(default_factory=lambda: defaultdict(int))
    passes: dict[float, int] = field(default_factory=lambda: defaultdict(int))
    fails: dict[float, int] = field(default_factory=lambda: defaultdict(int))
    windows: dict[float, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, ratio: float, orders: int, within: Ends, beyond: Ends) -> None:
        """Add orders that were decided with the limit at the true value and a hair below it."""
        self.orders[ratio] += orders
        self.fails[ratio] += within.fails
        self.passes[ratio] += beyond.passes
        self.windows[ratio] += within.windows

    def false_pass(self, ratio: float = 1.0) -> float:
        """Return the share of orders that passed a true value at or beyond its limit."""
        return self.passes[ratio] / self.orders[ratio]

    def false_fail(self, ratio: float = 1.0) -> float:
        """Return the share of orders that failed a true value at or within its limit."""
        return self.fails[ratio] / self.orders[ratio]

    def mean_windows(self, ratio: float) -> float:
        """Return how many windows were used on average."""
        return self.windows[ratio] / self.orders[ratio]


def cells(kept: Mapping[str, Array]) -> Iterator[Cell]:
    """Yield every statistic of every variant on every text."""
    for label in sorted({key.rpartition("/")[0] for key in kept}):
        text, variant = label.split("/")
        found = {
            key.rpartition("/")[2]: value
            for key, value in kept.items()
            if key.startswith(f"{label}/")
        }
        tokens = int(found["tokens"])
        whole = {
            "log ratio": found["difference"].astype("f8"),
            "perplexity": found["nll"].astype("f8"),
            "mean KLD": found["kld"].astype("f8"),
            "RMS delta-p": found["square"].astype("f8"),
            "flips": found["flips"] / tokens,
        }
        for statistic, values in whole.items():
            mean = float(values.mean())
            floor = mean * (1 - mean) / tokens if statistic == "flips" else 0.0
            yield Cell(
                text=text,
                variant=variant,
                statistic=statistic,
                values=dict.fromkeys(RATIOS, values),
                limits={ratio: _limit(statistic, mean, ratio) for ratio in RATIOS},
                variance_floor=floor,
            )
        for share, levels in zip(SHARES, found["above"] / tokens, strict=True):
            limits = dict.fromkeys(RATIOS, 1 - share) | {
                1.0: float(levels[RATIOS.index(1.0)].mean())
            }
            yield Cell(
                text=text,
                variant=variant,
                statistic=f"KLD p{share * 100:g}",
                values=dict(zip(RATIOS, levels, strict=True)),
                limits=limits,
                variance_floor=share * (1 - share) / tokens,
            )


def _limit(statistic: str, mean: float, ratio: float) -> float:
    """Return the limit, on the scale of the windows' values, that the true value is ``ratio`` times."""
    if statistic == "perplexity":
        return mean - math.log(ratio)
    return mean / ratio**2 if statistic == "RMS delta-p" else mean / ratio


def simulate(orders: int, batch: int = 2000) -> None:
    """Decide every cell in many orders under every rule, and write what came of it."""
    with np.load(VALUES) as stored:
        kept = {key: stored[key] for key in stored.files}
    generator = np.random.default_rng(20261121)
    results: dict[str, list[tuple[Cell, Counts]]] = defaultdict(list)
    written: list[tuple[Cell, dict[float, Ends]]] = []
    for cell in cells(kept):
        counts = {rule.name: Counts() for rule in RULES}
        betting = Counts()
        for done in range(0, orders, batch):
            order = _orders(generator, batch, cell.windows)
            if done == 0:
                _require_agreement(cell, order[:20])
                if cell.statistic == "log ratio":
                    written.append((cell, _increases(cell, order)))
            # Away from the limit the mean number of windows is wanted, for which one batch will do.
            for ratio in RATIOS if done == 0 else (1.0,):
                drawn, limit = cell.values[ratio][order], cell.limits[ratio]
                below = limit - 1e-9 * abs(limit)
                seen = {
                    looks: moments_at(drawn, looks, variance_floor=cell.variance_floor)
                    for looks in {rule.looks(cell.windows) for rule in RULES}
                }
                for rule in RULES:
                    looks = rule.looks(cell.windows)
                    bounds = bounds_at(rule, seen[looks])
                    within = decide(looks, *bounds, limit, cell.windows)
                    beyond = decide(looks, *bounds, below, cell.windows)
                    counts[rule.name].add(ratio, batch, within, beyond)
                if done == 0 and cell.statistic in BETTABLE and ratio in {0.7, 1.0, 1.3}:
                    betting.add(ratio, batch, bet(drawn, limit), bet(drawn, below))
        for name, count in counts.items():
            results[name].append((cell, count))
        if cell.statistic in BETTABLE:
            results["betting"].append((cell, betting))
        own = counts[SHIPPED.name]
        print(
            f"{cell.text} {cell.variant} {cell.statistic}: false pass {own.false_pass():.2%},"
            f" false fail {own.false_fail():.2%}",
            flush=True,
        )
    page = calibration_report.tables(results, written, orders=orders, few=batch)
    RESULTS.write_text(page, encoding="utf-8")
    PICTURE.write_text(calibration_report.picture(results), encoding="utf-8")


def _increases(cell: Cell, order: NDArray[np.intp]) -> dict[float, Ends]:
    looks = SHIPPED.looks(cell.windows)
    bounds = bounds_at(SHIPPED, moments_at(cell.values[1.0][order], looks))
    return {
        increase: decide(looks, *bounds, math.log1p(increase), cell.windows)
        for increase in INCREASES
    }


def _orders(generator: np.random.Generator, count: int, windows: int) -> NDArray[np.intp]:
    return generator.permuted(np.tile(np.arange(windows), (count, 1)), axis=1)


def _require_agreement(cell: Cell, order: NDArray[np.intp]) -> None:
    """Hold the rule as it is written for arrays against the one that ships."""
    drawn = cell.values[1.0][order]
    looks = SHIPPED.looks(cell.windows)
    seen = moments_at(drawn, looks, variance_floor=cell.variance_floor)
    upper, lower = bounds_at(SHIPPED, seen)
    for row, values in enumerate(drawn):
        for place, count in enumerate(looks):
            found = stats.look_interval(
                values[:count].tolist(),
                population=cell.windows,
                looks=len(looks) + 1,
                pass_confidence=1 - PASS_RISK,
                fail_confidence=1 - FAIL_RISK,
                variance_floor=cell.variance_floor,
            )
            theirs, ours = (found.low, found.high), (lower[row, place], upper[row, place])
            if not np.allclose(ours, theirs, rtol=1e-6, atol=1e-12):
                message = f"{cell}: look {count} has {theirs}, the study computes {ours}"
                raise SystemExit(message)


def main() -> None:
    """Measure or simulate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    steps = parser.add_subparsers(dest="step", required=True)
    first = steps.add_parser("measure")
    first.add_argument("--text", action="append", required=True, metavar="NAME=TEXT")
    first.add_argument("--model", default=DEMO)
    first.add_argument("--threads", type=int, default=hardware.usable_cores())
    second = steps.add_parser("simulate")
    second.add_argument("--orders", type=int, default=20000)
    arguments = parser.parse_args()
    if arguments.step == "measure":
        measure(arguments.text, arguments.model, arguments.threads)
    else:
        simulate(arguments.orders)


if __name__ == "__main__":
    main()
