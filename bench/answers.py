"""How often a verdict on answered cases is wrong, looks included, and how many cases it takes.

    python bench/answers.py [--runs 1000] [--seed 0]

Answers of two models are drawn at random with a known share, drop or share of flips, and judged as
gates judge them: at 128, 256, 512, ... cases until the limit is decided. It needs no model; the tables
go to bench/calibration/answers.md. It takes some minutes, half of them for `cases_are: all`, whose
bounds are exact: those are judged in a tenth of the runs, 100 at least.
"""

from __future__ import annotations

import argparse
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from pytest_quantgate.answers import AnswerLimits, drawing
from pytest_quantgate.answers.held import HeldLimit, held_limits
from pytest_quantgate.answers.tally import Certainty, Tally, Total
from pytest_quantgate.records import Answer, AnsweredCase, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

RESULTS = Path(__file__).parent / "calibration" / "answers.md"

BASELINE = 0.85
"""Share of right answers of the baseline."""
GAINED = 0.02
"""Share of cases that only the candidate answers right, wherever the limit is not on flips."""
LIMITS = ({"min": 0.8}, {"min": 0.9}, {"max_drop": "2pp"}, {"max_drop": "5pp"}, {"max_flips": "5%"})
SIZES = {"sample": (60, 250, 1000, 4000), "all": (200, 1000)}
AWAY = (0.0, 0.5, 2.0)
"""True value of what a limit is on: of its distance from a perfect candidate, so much of the limit's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What became of so many runs: shares of each outcome, and cases asked on average."""

    passed: float
    failed: float
    asked: float

    @classmethod
    def of(cls, outcomes: list[tuple[Outcome, int]]) -> Rates:
        """Count outcomes and the cases each took."""
        runs = len(outcomes)
        return cls(
            passed=sum(outcome is Outcome.PASS for outcome, _ in outcomes) / runs,
            failed=sum(outcome is Outcome.FAIL for outcome, _ in outcomes) / runs,
            asked=sum(asked for _, asked in outcomes) / runs,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Shares of cases: right by both models, lost, gained, and wrong by both."""

    kept: float
    lost: float
    gained: float

    @classmethod
    def at(cls, held: HeldLimit, true: float) -> World:
        """Return shares under which what the limit is on has a value."""
        if held.kind == "min":
            return (
                cls(kept=true - GAINED, lost=BASELINE - true + GAINED, gained=GAINED)
                if (true < BASELINE + GAINED)
                else cls(kept=BASELINE, lost=0.0, gained=true - BASELINE)
            )
        if held.kind == "max_drop":
            return cls(kept=BASELINE - true - GAINED, lost=true + GAINED, gained=GAINED)
        return cls(kept=BASELINE - 0.6 * true, lost=0.6 * true, gained=0.4 * true)

    def cells(self) -> list[float]:
        """Return the shares of all four kinds of cases, which sum to 1."""
        return [self.kept, self.lost, self.gained, 1 - self.kept - self.lost - self.gained]


def tally(cells: tuple[int, ...]) -> Tally:
    """Return counted cases, given as numbers of each kind."""
    kept, lost, gained, _ = cells
    cases = sum(cells)
    return Tally(
        cases=cases,
        weight=cases,
        right=kept + gained,
        lost=lost,
        gained=gained,
        kept=kept,
        effective=cases,
        alike=True,
        whole=True,
        paired=True,
    )


def judged(
    held: HeldLimit,
    size: int,
    runs: int,
    world: World,
    rng: np.random.Generator,
    *,
    beyond: int = 0,
) -> Rates:
    """Judge many files of a size, each asked in blocks until the limit is decided.

    Those of `all` have the true value to the case, or so many cases worse.
    """
    looks = drawing.looks_up_to(size)
    sure = Certainty(looks=len(looks), pass_confidence=0.95, fail_confidence=0.99)
    total = Total(cases=size, weight=size, alike=True)

    @functools.cache
    def outcome(cells: tuple[int, ...]) -> Outcome:
        return held.outcome(tally(cells), total, sure)

    found = []
    for _ in range(runs):
        seen = np.zeros(4, dtype=np.int64)
        # Files of "all" hold the true value to the case; the others are samples of what has it.
        left = None if held.cases_are == "sample" else exact(world, size, beyond)
        for start, look in zip((0, *looks), looks, strict=False):
            if left is None:
                drawn = rng.multinomial(look - start, world.cells())
            else:
                drawn = rng.multivariate_hypergeometric(left, look - start)
                left = left - drawn
            seen = seen + drawn
            end = outcome(tuple(seen.tolist()))
            if end is not Outcome.INCONCLUSIVE:
                break
        found.append((end, look))
    return Rates.of(found)


def exact(world: World, size: int, beyond: int) -> NDArray[np.int64]:
    """Return how many cases of each kind there are in a file, of which ``beyond`` more are lost."""
    kept, lost, gained, _ = (round(share * size) for share in world.cells())
    return np.array([kept - beyond, lost + beyond, gained, size - kept - lost - gained])


def weighed(
    held: HeldLimit, size: int, runs: int, *, repeats: int, rng: np.random.Generator
) -> Rates:
    """Judge samples whose cases differ in weight, and are answered several times, at the limit.

    Half of the cases are harder than the others: what one repeat tells, the next one repeats.
    """
    sure = Certainty(looks=1, pass_confidence=0.95, fail_confidence=0.99)
    total = Total(cases=size, weight=size, alike=False)
    found = []
    for _ in range(runs):
        weights = rng.choice([1.0, 2.0, 5.0], size=size)
        ease = rng.choice([-0.1, 0.1], size=size)
        base = rng.binomial(repeats, BASELINE + ease) / repeats
        own = rng.binomial(repeats, BASELINE - held.limit + ease) / repeats
        cases = [
            AnsweredCase(
                id=str(number),
                question="",
                expected="",
                candidate=Answer(right=float(own[number]), output=""),
                baseline=Answer(right=float(base[number]), output=""),
                weight=float(weights[number]),
            )
            for number in range(size)
        ]
        found.append((held.outcome(Tally.of(cases), total, sure), size))
    return Rates.of(found)


def limit_of(values: dict[str, object], cases_are: Literal["sample", "all"]) -> HeldLimit:
    """Return the one limit that these settings set."""
    settings = AnswerLimits.model_validate({**values, "cases_are": cases_are})
    (held,) = held_limits(settings, None)
    return held


def true_value(held: HeldLimit, away: float) -> float:
    """Return the value at the limit, or on its right or wrong side."""
    if away == 0:
        return held.limit
    return 1 - away * (1 - held.limit) if held.kind == "min" else away * held.limit


def tables(runs: int, seed: int) -> Iterator[str]:
    """Yield the lines of the report."""
    rng = np.random.default_rng(seed)
    yield "# How often verdicts on answered cases are wrong"
    yield ""
    yield (
        f"`python bench/answers.py` writes this. The baseline answers {BASELINE:.0%} right; a pass is to"
        " be wrong in at most 5% of runs, a failure in at most 1%."
    )
    yield from of_samples(runs, rng)
    yield from of_all(max(runs // 10, 100), rng)
    yield from of_weights(max(runs // 4, 100), rng)


def of_samples(runs: int, rng: np.random.Generator) -> Iterator[str]:
    """Yield the table of cases that stand for all of their kind."""
    yield ""
    yield f"## cases_are: sample, {runs} runs each"
    yield ""
    yield "With the true value at the limit both verdicts are wrong."
    yield ""
    yield (
        "| limit | cases | at it: passed | failed | at half of it: passed | asked | at twice: failed"
        " | asked |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for values in LIMITS:
        held = limit_of(dict(values), "sample")
        for size in SIZES["sample"]:
            at, half, twice = (
                judged(held, size, runs, World.at(held, true_value(held, away)), rng)
                for away in AWAY
            )
            yield (
                f"| {shown(values)} | {size} | {at.passed:.1%} | {at.failed:.1%} |"
                f" {half.passed:.0%} | {half.asked:.0f} | {twice.failed:.0%} | {twice.asked:.0f} |"
            )


def of_all(runs: int, rng: np.random.Generator) -> Iterator[str]:
    """Yield the table of files that hold every case that matters."""
    yield ""
    yield f"## cases_are: all, {runs} runs each"
    yield ""
    yield "A file at the limit is right to pass, one with a case more lost is right to fail."
    yield ""
    yield (
        "| limit | cases | at it: failed | asked | one case beyond: passed | asked"
        " | at half of it: asked | at twice: asked |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for values in LIMITS:
        held = limit_of(dict(values), "all")
        for size in SIZES["all"]:
            at, half, twice = (
                judged(held, size, runs, World.at(held, true_value(held, away)), rng)
                for away in AWAY
            )
            worse = judged(held, size, runs, World.at(held, held.limit), rng, beyond=1)
            yield (
                f"| {shown(values)} | {size} | {at.failed:.1%} | {at.asked:.0f} | {worse.passed:.1%} |"
                f" {worse.asked:.0f} | {half.asked:.0f} | {twice.asked:.0f} |"
            )


def of_weights(runs: int, rng: np.random.Generator) -> Iterator[str]:
    """Yield the table of cases that differ in weight and are answered several times."""
    yield ""
    yield f"## Weights of 1, 2 and 5, a true drop at the limit of 5pp, {runs} runs each"
    yield ""
    yield "| cases | repeats | passed | failed |"
    yield "| --- | --- | --- | --- |"
    held = limit_of({"max_drop": "5pp"}, "sample")
    for size in (60, 250):
        for repeats in (1, 4):
            rates = weighed(held, size, runs, repeats=repeats, rng=rng)
            yield f"| {size} | {repeats} | {rates.passed:.1%} | {rates.failed:.1%} |"


def shown(values: Mapping[str, object]) -> str:
    """Return a limit as a specification has it."""
    return ", ".join(f"{name} {limit}" for name, limit in values.items())


def main() -> None:
    """Write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    RESULTS.write_text("\n".join(tables(chosen.runs, chosen.seed)) + "\n", encoding="utf-8")
    print(RESULTS.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
