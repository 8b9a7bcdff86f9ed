"""Drawing tokens: the distribution that is drawn from, and what a draw depends on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pytest_quantgate.errors import MeasurementError
from pytest_quantgate.probe.token_choice import Draw, best_allowed, greedy, nucleus
from pytest_quantgate.records import Decoding

if TYPE_CHECKING:
    from numpy.typing import NDArray


def counts(logits: list[float], decoding: Decoding, *, draws: int = 4000) -> list[int]:
    """Return how often each token is drawn."""
    draw = Draw(decoding, prompt="a", repeat=0)
    row = np.array(logits, dtype=np.float32)
    tokens = [draw.token(row, step=step) for step in range(draws)]
    return [tokens.count(token) for token in range(len(logits))]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax(temperature: float) -> None:
    """Over many steps tokens come as often as temperature says (chi-square test, fixed seed)."""
    logits = [2.0, 1.0, 0.5, 0.0, -1.0]
    found = counts(logits, Decoding(temperature=temperature))
    chances = np.exp(np.array(logits) / temperature)

    assert stats.chisquare(found, 4000 * chances / chances.sum()).pvalue > 0.001


def test_top_k_and_top_p_take_tokens_away() -> None:
    """Only the k foremost, and of those the fewest with the wanted share, are drawn."""
    logits = [float(value) for value in np.log([0.4, 0.3, 0.2, 0.1])]

    assert [True, True, False, False] == [
        count > 0 for count in counts(logits, Decoding(temperature=1.0, top_k=2))
    ]
    assert [True, True, True, False] == [
        count > 0 for count in counts(logits, Decoding(temperature=1.0, top_p=0.71))
    ]
    assert [True, False, False, False] == [
        count > 0 for count in counts(logits, Decoding(temperature=1.0, top_k=2, top_p=0.5))
    ]


@given(st.lists(st.floats(-8, 8), min_size=1, max_size=600), st.floats(0.01, 0.999))
def test_the_nucleus_is_the_smallest_one(scores: list[float], share: float) -> None:
    """The chosen tokens have the share, lack it without their least one, and pass none over."""
    array = np.array(scores)
    places = nucleus(array, share)
    chances = np.exp(array - array.max())
    inside = chances[places]

    assert inside.sum() >= share * chances.sum() * (1 - 1e-9)
    assert inside.sum() - inside.min() < share * chances.sum() * (1 + 1e-9)
    outside = np.delete(array, places)
    assert not outside.size or outside.max() <= array[places].min()


def test_a_large_vocabulary_gives_the_same_nucleus() -> None:
    """The shortcut for large vocabularies finds what sorting everything finds, tails included."""
    scores = np.random.default_rng(5).normal(size=5000)
    chances = np.exp(scores)
    order = np.argsort(-scores, kind="stable")
    for share in (0.1, 0.5, 0.99):
        count = int(np.searchsorted(np.cumsum(chances[order]), share * chances.sum())) + 1
        assert np.array_equal(np.sort(order[:count]), nucleus(scores, share))


class Odd:
    """Allows odd tokens from a limit on, and keeps how many it was asked about."""

    def __init__(self, least: int) -> None:
        """Start with no question."""
        self.least = least
        self.asked: list[int] = []

    def allowed(self, tokens: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Answer."""
        self.asked.append(len(tokens))
        fit: NDArray[np.bool_] = (tokens % 2 == 1) & (tokens >= self.least)
        return fit

    def accept(self, token: int) -> None:
        """Change nothing."""

    def close(self) -> None:
        """Keep nothing."""


@pytest.mark.parametrize(
    ("least", "best", "asked"),
    [(1, 1, [1]), (3, 3, [1, 64]), (64, 65, [1, 64, 200]), (200, None, [1, 64, 200])],
)
def test_a_grammar_is_asked_about_few_tokens_first(
    least: int, best: int | None, asked: list[int]
) -> None:
    """The foremost token it allows is found, and the whole vocabulary is looked at last."""
    ranking = -np.abs(np.arange(200, dtype=np.float32) - 1)
    odd = Odd(least)

    assert best == best_allowed(ranking, np.arange(200), odd)
    assert asked == odd.asked


def test_a_grammar_outweighs_top_k_and_top_p() -> None:
    """Where it refuses all that these leave, tokens are drawn from all that it allows."""
    row = np.array([5.0, 0.0, 4.0, 1.0], dtype=np.float32)
    draw = Draw(Decoding(temperature=1.0, top_k=2, top_p=0.9), prompt="a", repeat=0)

    assert {0, 2} == {draw.token(row, step=step) for step in range(50)}
    assert {1, 3} == {draw.token(row, step=step, grammar=Odd(0)) for step in range(50)}
    assert draw.token(row, step=0, grammar=Odd(4)) is None


def test_draws_depend_on_seed_prompt_repeat_and_step_alone() -> None:
    """Another seed, prompt, repeat or step draws other tokens; the same ones draw the same."""
    row = np.zeros(1000, dtype=np.float32)
    base = Draw(Decoding(temperature=1.0, seed=1), prompt="a", repeat=0)
    first = base.token(row, step=0)

    assert first == Draw(Decoding(temperature=1.0, seed=1), prompt="a", repeat=0).token(row, step=0)
    others = {
        base.token(row, step=1),
        Draw(Decoding(temperature=1.0, seed=2), prompt="a", repeat=0).token(row, step=0),
        Draw(Decoding(temperature=1.0, seed=1), prompt="b", repeat=0).token(row, step=0),
        Draw(Decoding(temperature=1.0, seed=1), prompt="a", repeat=1).token(row, step=0),
    }
    assert 5 == len(others | {first})


def test_like_models_draw_like_tokens() -> None:
    """Models whose chances differ a little draw the same token far more often than by chance."""
    generator = np.random.default_rng(3)
    row = generator.normal(size=200).astype(np.float32)
    moved = row + generator.normal(scale=0.02, size=200).astype(np.float32)
    draw = Draw(Decoding(temperature=1.0), prompt="a", repeat=0)
    same = sum(draw.token(row, step=step) == draw.token(moved, step=step) for step in range(500))

    assert same > 480


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_greedy_refuses_what_is_no_number(broken: float) -> None:
    """The most probable token is the lowest of equals; NaN and infinity are errors."""
    rows = np.array([[0, 2, 2], [-np.inf, -3, -np.inf]], dtype=np.float32)
    assert [1, 1] == greedy(rows).tolist()
    with pytest.raises(MeasurementError, match="NaN or infinity"):
        greedy(np.array([[0.0, broken, 1.0]], dtype=np.float32))
