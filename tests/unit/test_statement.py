"""What is said of limits on a part of a text: how much, how sure, and what would decide it."""

from __future__ import annotations

import math
from typing import Literal

import pytest
from verdict_builder import check

from pytest_quantgate import statement
from pytest_quantgate.limits import Draw, SampledLimit
from pytest_quantgate.records import Outcome
from pytest_quantgate.sampling import Drawn, SamplingSettings, schedule

PLAN = schedule(220)
VALUES = tuple(0.05 + 0.03 * math.sin(each) for each in range(16))


def drawn(chunks: int, ended: Literal["decided", "complete", "max_chunks", "max_time"]) -> Drawn:
    """Return how a draw ended."""
    return Drawn(chunks=chunks, ended=ended)


def limit(bound: float, *, lower_bound: bool = False, name: str = "max_mean") -> SampledLimit:
    """Return a limit on sixteen chunks."""
    return SampledLimit(
        name=name,
        statistic="mean KLD",
        limit=bound,
        bound=bound,
        values=VALUES,
        lower_bound=lower_bound,
    )


def undecided(
    *limits: SampledLimit,
    ended: Literal["decided", "complete", "max_chunks", "max_time"] = "max_chunks",
    served: int | None = None,
    max_chunks: int | None = 16,
) -> tuple[str, ...]:
    """Return what is said after sixteen chunks."""
    settings = SamplingSettings(max_chunks=max_chunks)
    draw = Draw.of(PLAN, settings)
    return statement.undecided(limits, draw, drawn(16, ended), settings, served=served)


@pytest.mark.parametrize(
    ("outcome", "end", "barred", "text"),
    [
        (Outcome.PASS, drawn(16, "decided"), False, "16 of 220 chunks decided it"),
        (Outcome.FAIL, drawn(16, "decided"), False, "16 of 220 chunks decided it"),
        (Outcome.PASS, drawn(220, "complete"), False, "all 220 chunks"),
        (Outcome.INCONCLUSIVE, drawn(32, "max_time"), False, "32 of 220 chunks did not decide it"),
        (
            Outcome.INCONCLUSIVE,
            drawn(16, "decided"),
            True,
            "16 of 220 chunks, and a lower bound cannot pass",
        ),
        (
            Outcome.INCONCLUSIVE,
            drawn(220, "complete"),
            True,
            "all 220 chunks, and a lower bound cannot pass",
        ),
        (Outcome.INCONCLUSIVE, drawn(32, "max_chunks"), True, "32 of 220 chunks did not decide it"),
    ],
)
def test_the_end_of_a_headline(outcome: Outcome, end: Drawn, *, barred: bool, text: str) -> None:
    """It says how much of the text the verdict took, and whether that was enough."""
    assert statement.ending(outcome, end, PLAN, barred=barred) == text


def test_passages_are_called_passages() -> None:
    """The unit is the gate's own."""
    assert statement.sample(drawn(16, "decided"), PLAN, unit="passages") == "16 of 220 passages"


def test_a_budget_says_how_many_more_would_decide() -> None:
    """Chunks now, more, in all, and the key to change."""
    (text,) = undecided(limit(0.06))

    needed = limit(0.06).needed(Draw.of(PLAN, SamplingSettings()))
    assert 16 < needed < 220
    assert text == (
        "max_mean is undecided: max_chunks ended it at 16 of 220 chunks; about"
        f" {needed - 16} more chunks ({needed} of 220 in all) would decide it: raise max_chunks"
    )


def test_an_end_by_time_is_called_so() -> None:
    """Then the time is what to raise."""
    (text,) = undecided(limit(0.06), ended="max_time")

    assert text.startswith("max_mean is undecided: max_time ended it at 16 of 220 chunks; about ")
    assert text.endswith(" in all) would decide it: raise max_time")


@pytest.mark.parametrize(("max_chunks", "told"), [(None, True), (64, True), (16, False)])
def test_a_committed_baseline_may_be_what_ended_it(max_chunks: int | None, *, told: bool) -> None:
    """Where it has no more windows, raising a budget would not help, and the text does not say so."""
    (text,) = undecided(limit(0.06), served=16, max_chunks=max_chunks)

    start = "max_mean is undecided: the committed baseline has 16 of 220 chunks; about "
    end = (
        " would decide it: write it anew with more (quantgate_baseline_chunks), or have the"
        " baseline's model at hand"
    )
    assert (text.startswith(start) and text.endswith(end)) is told


def test_a_limit_may_be_open_where_another_failed() -> None:
    """Then nothing ended too early: one failure is enough."""
    found = undecided(limit(0.06), limit(0.01, name="max_p99"), ended="decided")

    assert found == ("max_mean is undecided at 16 of 220 chunks, where another limit failed",)


def test_lower_bounds_are_explained_once() -> None:
    """All limits that a lower bound keeps from passing stand in one sentence, with the ways out."""
    found = undecided(
        limit(1.0, lower_bound=True), limit(2.0, lower_bound=True, name="max_p99"), ended="decided"
    )

    assert found == (
        "max_mean and max_p99 cannot pass on a lower bound, which is all that the most likely tokens"
        " of a committed baseline give: the true value may be above the limit; set"
        " accept_lower_bound: true to let it pass all the same, or have the baseline's model at hand",
    )


def test_what_is_decided_needs_no_words() -> None:
    """A limit that passed or failed is in the table already."""
    assert undecided(limit(1.0), limit(0.01, name="max_p99"), ended="decided") == ()


def test_the_worst_check_speaks_first_come_first() -> None:
    """A failure before a doubt before a pass; of equals the first one of the specification."""
    checks = [
        check(limit_name=name, outcome=outcome)
        for name, outcome in (
            ("a", Outcome.PASS),
            ("b", Outcome.INCONCLUSIVE),
            ("c", Outcome.FAIL),
            ("d", Outcome.FAIL),
        )
    ]

    assert [statement.decisive(checks[:end]).limit_name for end in (1, 2, 3, 4)] == list("abcc")


@pytest.mark.parametrize(
    ("name", "signs"), [("max_ratio", ["<=", "~", ">"]), ("min_same_top", [">=", "~", "<"])]
)
def test_signs_between_value_and_limit(name: str, signs: list[str]) -> None:
    """A minimum is kept from above, and what is open is neither."""
    outcomes = (Outcome.PASS, Outcome.INCONCLUSIVE, Outcome.FAIL)

    found = [statement.sign(check(limit_name=name, outcome=outcome)) for outcome in outcomes]

    assert found == signs
