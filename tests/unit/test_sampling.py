"""Order, looks and budgets of a sequential measurement."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pytest_quantgate.errors import MeasurementError
from pytest_quantgate.records import Outcome
from pytest_quantgate.sampling import (
    BLOCK,
    FIRST_LOOK,
    Drawn,
    SamplingSettings,
    Schedule,
    draw,
    order,
    schedule,
)

# --- order -----------------------------------------------------------------------------------------


def test_an_order_is_the_same_everywhere() -> None:
    """These orders are part of every committed baseline, so they may never change."""
    assert order(0, 8) == (7, 4, 3, 2, 6, 0, 5, 1)
    assert order(1, 8) == (7, 4, 6, 5, 2, 3, 0, 1)


@given(st.integers(min_value=0, max_value=2**64), st.integers(min_value=0, max_value=300))
def test_an_order_has_every_chunk_once(seed: int, population: int) -> None:
    """Nothing is left out and nothing comes twice."""
    assert sorted(order(seed, population)) == list(range(population))


def test_seeds_differ() -> None:
    """Another seed is another order, of a thousand chunks for sure."""
    assert order(0, 1000) != order(1, 1000)


# --- schedule --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("population", "looks"),
    [
        (590, (16, 32, 64, 128, 256, 512, 590)),
        (512, (16, 32, 64, 128, 256, 512)),
        (17, (16, 17)),
        (16, (16,)),
        (15, (15,)),
        (1, (1,)),
    ],
)
def test_looks_double_up_to_the_whole_text(population: int, looks: tuple[int, ...]) -> None:
    """From 16 on each look is at twice the chunks, and the last one at all of them."""
    found = schedule(population)

    assert found == Schedule(population=population, budget=population, looks=looks)


@pytest.mark.parametrize(
    ("max_chunks", "available", "looks"),
    [
        (100, None, (16, 32, 64, 100)),
        (None, 100, (16, 32, 64, 100)),
        (64, 100, (16, 32, 64)),
        (100, 64, (16, 32, 64)),
        (1000, 1000, (16, 32, 64, 128, 256, 512, 590)),
        (16, None, (16,)),
    ],
)
def test_a_budget_ends_the_looks(
    max_chunks: int | None, available: int | None, looks: tuple[int, ...]
) -> None:
    """The smallest of text, budget and what can be served is the last look."""
    found = schedule(590, max_chunks=max_chunks, available=available)

    assert found == Schedule(population=590, budget=looks[-1], looks=looks)


def test_every_look_shares_the_risk() -> None:
    """The one at all chunks stands for an end by time, which may come between two of them."""
    assert schedule(590).statistical_looks == 7
    assert schedule(590, max_chunks=64).statistical_looks == 3
    assert schedule(10).statistical_looks == 1


@pytest.mark.parametrize(("population", "available"), [(590, FIRST_LOOK - 1), (590, 0), (0, None)])
def test_too_few_chunks_are_an_error(population: int, available: int | None) -> None:
    """A part below the first look decides nothing, and nothing decides less."""
    with pytest.raises(MeasurementError, match=r"chunks are there to be measured of a text of"):
        schedule(population, available=available)


def test_too_few_chunks_are_named() -> None:
    """The message says how many there are, of how many, and what to do."""
    with pytest.raises(MeasurementError) as caught:
        schedule(590, available=8)

    assert str(caught.value) == (
        "8 chunks are there to be measured of a text of 590: a verdict on the whole text takes at least"
        " 16; measure the baseline on more of them, or name a text with more"
    )


def test_the_first_look_itself_is_enough() -> None:
    """A part of exactly 16 chunks can decide; all of a text of fewer can as well."""
    assert schedule(590, available=FIRST_LOOK).looks == (16,)
    assert schedule(3, available=3).looks == (3,)


# --- draw ------------------------------------------------------------------------------------------


class Bench:
    """Takes blocks and answers as told: undecided before ``decided_at`` chunks, a pass from there."""

    def __init__(self, decided_at: int, *, block_seconds: float = 1.0) -> None:
        """Start with nothing taken, at second 0."""
        self.decided_at = decided_at
        self.block_seconds = block_seconds
        self.taken: list[tuple[int, int]] = []
        self.looks: list[int] = []

    def take(self, start: int, stop: int) -> None:
        """Keep what was asked for."""
        self.taken.append((start, stop))

    def decide(self, count: int) -> Outcome:
        """Judge what was taken."""
        self.looks.append(count)
        return Outcome.PASS if count >= self.decided_at else Outcome.INCONCLUSIVE

    def clock(self) -> float:
        """Return the seconds that the blocks took."""
        return len(self.taken) * self.block_seconds

    def draw(self, plan: Schedule, max_seconds: float | None = None) -> Drawn:
        """Draw by a schedule."""
        return draw(plan, self.take, self.decide, max_seconds=max_seconds, clock=self.clock)


def test_a_draw_ends_at_the_look_that_decides() -> None:
    """Blocks of 16 are taken one after another, and no more of them than it needs."""
    bench = Bench(decided_at=50)

    assert bench.draw(schedule(590)) == Drawn(chunks=64, ended="decided")
    assert bench.looks == [16, 32, 64]
    assert bench.taken == [(0, 16), (16, 32), (32, 48), (48, 64)]


def test_a_draw_of_everything_is_complete() -> None:
    """The last block is as short as what is left, and the end is no matter of deciding."""
    bench = Bench(decided_at=10**9)

    assert bench.draw(schedule(40)) == Drawn(chunks=40, ended="complete")
    assert bench.looks == [16, 32, 40]
    assert bench.taken == [(0, 16), (16, 32), (32, 40)]
    assert Bench(decided_at=0).draw(schedule(5)) == Drawn(chunks=5, ended="complete")


@pytest.mark.parametrize("decided_at", [40, 10**9])
def test_a_draw_ends_with_its_budget(decided_at: int) -> None:
    """The budget is the last look: it may decide, and if not, nothing more is measured."""
    bench = Bench(decided_at=decided_at)

    found = bench.draw(schedule(590, max_chunks=40))

    assert found.chunks == 40
    assert found.ended == ("decided" if decided_at == 40 else "max_chunks")
    assert bench.looks == [16, 32, 40]


def test_a_draw_ends_with_its_time_between_looks() -> None:
    """What is there after the block in which time ran out is judged once more."""
    bench = Bench(decided_at=10**9)

    assert bench.draw(schedule(590), max_seconds=6.5) == Drawn(chunks=112, ended="max_time")
    assert bench.looks == [16, 32, 64, 112]


def test_the_last_judgement_may_decide() -> None:
    """An end by time with a verdict is a verdict."""
    bench = Bench(decided_at=100)

    assert bench.draw(schedule(590), max_seconds=6.5) == Drawn(chunks=112, ended="decided")


@pytest.mark.parametrize(
    ("seconds", "chunks"),
    [(0.0, 16), (0.5, 16), (1.0, 16), (2.0, 32), (3.999, 64), (4.0, 64), (4.001, 80)],
)
def test_time_is_looked_at_after_each_block(seconds: float, chunks: int) -> None:
    """A block is finished, and a look that falls on the end is taken once."""
    bench = Bench(decided_at=10**9)

    assert bench.draw(schedule(590), max_seconds=seconds) == Drawn(chunks=chunks, ended="max_time")
    assert bench.looks[-1] == chunks
    assert len(set(bench.looks)) == len(bench.looks)


def test_a_complete_draw_is_complete_however_late() -> None:
    """Nothing is inconclusive for time when nothing is left to measure."""
    bench = Bench(decided_at=10**9)

    assert bench.draw(schedule(16), max_seconds=0.0) == Drawn(chunks=16, ended="complete")


@given(
    st.integers(min_value=1, max_value=400),
    st.integers(min_value=16, max_value=400) | st.none(),
    st.integers(min_value=1, max_value=500),
    st.floats(min_value=0, max_value=30) | st.none(),
)
def test_a_draw_takes_each_chunk_once_in_aligned_blocks(
    population: int, max_chunks: int | None, decided_at: int, seconds: float | None
) -> None:
    """Whatever ends it, blocks follow each other, start at multiples of 16, and the end was judged."""
    bench = Bench(decided_at=decided_at)
    plan = schedule(population, max_chunks=max_chunks)

    found = bench.draw(plan, seconds)

    assert [chunk for start, stop in bench.taken for chunk in range(start, stop)] == list(
        range(found.chunks)
    )
    assert all(start % BLOCK == 0 for start, _ in bench.taken)
    assert bench.looks[-1] == found.chunks
    assert len(bench.looks) <= plan.statistical_looks


# --- settings --------------------------------------------------------------------------------------


def test_settings_have_the_promised_defaults() -> None:
    """Sure of a pass with 95%, of a failure with 99%, and no doubt lets a model through."""
    found = SamplingSettings()

    assert (found.seed, found.pass_confidence, found.fail_confidence) == (0, 0.95, 0.99)
    assert found.on_inconclusive == "fail"
    assert (found.chunks, found.max_chunks, found.max_time) == (None, None, None)


def test_a_time_is_given_with_its_unit() -> None:
    """Seconds come out."""
    assert SamplingSettings.model_validate({"max_time": "5min"}).max_time == 300.0


@pytest.mark.parametrize(
    "settings",
    [
        {"max_time": 300},
        {"max_time": "0s"},
        {"max_chunks": 15},
        {"chunks": 1},
        {"context": 7},
        {"corpus": ""},
        {"seed": -1},
        {"seed": 1.0},
        {"on_inconclusive": "skip"},
        {"pass_confidence": 0.5},
        {"pass_confidence": 1.0},
        {"fail_confidence": 0.5},
        {"fail_confidence": 1.0},
        {"windows": 4},
    ],
)
def test_settings_out_of_their_bounds_are_refused(settings: dict[str, Any]) -> None:
    """Each is one step beyond its bound, or unknown."""
    with pytest.raises(ValidationError):
        SamplingSettings.model_validate(settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_chunks": 16},
        {"chunks": 2},
        {"context": 8},
        {"seed": 0},
        {"on_inconclusive": "warn"},
        {"pass_confidence": 0.501},
        {"fail_confidence": 0.999},
    ],
)
def test_settings_at_their_bounds_are_accepted(settings: dict[str, Any]) -> None:
    """Each is the last value that is allowed."""
    found = SamplingSettings.model_validate(settings)

    assert found.model_dump(exclude_defaults=True) == {
        key: value for key, value in settings.items() if key != "seed"
    } | ({"on_inconclusive": "warn"} if "on_inconclusive" in settings else {})


@pytest.mark.parametrize(
    ("taken", "look"), [(0, 16), (15, 16), (16, 32), (31, 32), (32, 64), (99, 100), (100, 100)]
)
def test_the_next_look(taken: int, look: int) -> None:
    """It is the first look beyond what was taken, and the budget where there is none."""
    assert schedule(220, max_chunks=100).next_look(taken) == look
