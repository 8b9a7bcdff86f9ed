"""Blocks put together, and comparisons that would mean nothing."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from bench_stub import divergence, likelihood, part
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantgate import paired
from pytest_quantgate.errors import MeasurementError
from pytest_quantgate.records import NoiseFloor, Packed, TextFacts

NAMES = ("Q4_K_M", "the F16 baseline")
FLOOR = NoiseFloor(log_ratio=0.001, kld=0.0004, chunks=40, settings=("batch 512",))


def facts(tokens: int = 4096, digest: str = "a", vocabulary: int = 49152) -> TextFacts:
    """Return how a model reads a text."""
    return TextFacts(chunks=8, tokens=tokens, tokens_sha256=digest * 64, vocabulary=vocabulary)


# --- blocks ----------------------------------------------------------------------------------------


@given(st.permutations(range(7)), st.integers(1, 6))
def test_blocks_in_any_order_are_the_text(order: list[int], cut: int) -> None:
    """Merged, the windows stand as in the text: so a complete one has the tool's very last digit."""
    whole = likelihood([2.0 + number / 7 for number in range(7)], tokens=5)

    found = paired.merged([part(whole, order[:cut]), part(whole, order[cut:])])

    assert found.chunks == whole.chunks
    assert found.chunk_nll == whole.chunk_nll
    assert found.chunk_nll2 == whole.chunk_nll2
    assert found.token_nll == whole.token_nll
    assert found.seconds == 2 * whole.seconds
    assert found.top is None


def test_a_divergence_is_merged_with_both_likelihoods() -> None:
    """Arrays and both models' windows come into the same order."""
    kld = np.arange(8, dtype=np.float32).reshape(4, 2)
    same = np.array([[0, 1], [1, 1], [1, 0], [0, 0]])
    whole = divergence(kld, same, own=likelihood([1, 2, 3, 4.0], tokens=2))
    blocks = [
        divergence(kld[[2, 0]], same[[2, 0]], own=part(whole.candidate, [2, 0])),
        divergence(kld[[3, 1]], same[[3, 1]], own=part(whole.candidate, [3, 1])),
    ]

    found = paired.merged_divergence(blocks)

    assert found.kld.array().tolist() == kld.tolist()
    assert found.same_top == Packed.of(same, "|u1")
    assert found.candidate.chunk_nll == whole.candidate.chunk_nll
    assert found.precision == "exact"
    assert found.seconds == 6.0


@pytest.mark.parametrize(("chunks", "size"), [(None, 8), (2, 2), (8, 8), (9, 8)])
def test_the_population_is_the_text_or_its_start(chunks: int | None, size: int) -> None:
    """`chunks` cuts the text and does not lengthen it."""
    assert paired.population(8, chunks) == size


def test_a_text_without_a_window_is_no_text() -> None:
    """Nothing measured is an error, never a verdict."""
    with pytest.raises(MeasurementError, match=r"^the text has no whole window"):
        paired.population(0, None)


# --- tokens ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [facts(digest="b"), facts(vocabulary=49153)])
def test_other_tokens_are_refused(other: TextFacts) -> None:
    """Another digest or another vocabulary: likelihoods of other things."""
    with pytest.raises(MeasurementError):
        paired.require_same_tokens(facts(), other, names=NAMES, what="their perplexities")


def test_the_refusal_names_both_tokenizers_and_the_gate_to_use() -> None:
    """Counts, vocabularies, what cannot be compared, and nll_per_byte."""
    with pytest.raises(MeasurementError) as caught:
        paired.require_same_tokens(
            facts(), facts(5120, "b", 32000), names=NAMES, what="their perplexities"
        )

    assert str(caught.value) == (
        "Q4_K_M and the F16 baseline have different tokenizers: 4096 tokens of a vocabulary of 49152"
        " against 5120 of 32000 for the same text; their perplexities cannot be compared. Use the gate"
        " nll_per_byte, which compares models whatever their tokens are"
    )


# --- chance ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "guessing"), [(0.8999, False), (0.9001, True), (1.2, True)])
def test_guessing_is_no_measurement(share: float, *, guessing: bool) -> None:
    """From nine tenths of ln(vocabulary) on, a model is not judged."""
    nll = share * math.log(1000) * 50
    if guessing:
        with pytest.raises(MeasurementError):
            paired.require_skill("Q4_K_M", nll=nll, tokens=50, vocabulary=1000)
    else:
        paired.require_skill("Q4_K_M", nll=nll, tokens=50, vocabulary=1000)


def test_what_is_said_of_a_guessing_model() -> None:
    """Its mean, what guessing has, and the two usual causes."""
    with pytest.raises(MeasurementError) as caught:
        paired.require_skill("Q4_K_M", nll=1070.0, tokens=100, vocabulary=49152)

    assert str(caught.value) == (
        "Q4_K_M predicts the text no better than guessing: 10.70 nats a token, where guessing among"
        " 49152 tokens has 10.80 (and 90% of that is the most that is judged): broken weights or a"
        " wrong tokenizer"
    )


def test_no_token_is_no_measurement() -> None:
    """A mean of nothing is not 0."""
    with pytest.raises(MeasurementError, match=r"^no token of the text was scored under Q4_K_M"):
        paired.require_skill("Q4_K_M", nll=0.0, tokens=0, vocabulary=100)


# --- equal bits ------------------------------------------------------------------------------------


def test_equal_bits_under_two_types_are_one_model() -> None:
    """The message names both types and what to look at."""
    values = np.array([[1.0, 2.0], [3.0, 4.0]])

    with pytest.raises(MeasurementError) as caught:
        paired.require_difference(values, values.copy(), names=NAMES, types=("Q4_K_M", "F16"))

    assert str(caught.value) == (
        "every likelihood of Q4_K_M equals that of the F16 baseline to the last bit, though one file"
        " is of type Q4_K_M and the other of F16: the same weights under two names; check which file"
        " was quantized"
    )


def test_one_bit_is_a_difference_and_one_type_needs_none() -> None:
    """A single other bit is enough; two files of one type may well agree."""
    values = np.array([1.0, 2.0])
    other = np.array([1.0, math.nextafter(2, 3)])

    paired.require_difference(values, other, names=NAMES, types=("Q4_K_M", "F16"))
    paired.require_difference(values, values, names=NAMES, types=("F16", "F16"))


# --- noise -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("distance", "refused"), [(0.0029, True), (0.003, False), (0.1, False)])
def test_a_limit_must_be_three_times_the_noise(distance: float, *, refused: bool) -> None:
    """Just below three floors is refused, at three floors not."""
    limits = [("max_ratio", 1 + distance, distance)]
    if refused:
        with pytest.raises(MeasurementError):
            paired.require_beyond_noise(limits, floor=0.001, noise=FLOOR, advice="")
    else:
        paired.require_beyond_noise(limits, floor=0.001, noise=FLOOR, advice="")


def test_what_is_said_of_a_limit_in_the_noise() -> None:
    """Limit, floor, three times the floor, and what to write instead."""
    with pytest.raises(MeasurementError) as caught:
        paired.require_beyond_noise(
            [("max_mean", 0.001, 0.001)],
            floor=FLOOR.kld,
            noise=FLOOR,
            advice="take at least {least:.3g}",
        )

    assert str(caught.value) == (
        "max_mean 0.001 is inside the noise: it is 0.001 nats from no change, and the baseline alone"
        " is up to 0.0004 nats from itself when only batch size or threads change (over 40 chunks); a"
        " limit must be 3 times that, 0.0012: take at least 0.0012"
    )


def test_no_noise_refuses_nothing() -> None:
    """Where the baseline repeats to the last bit, even no increase at all can be asked for."""
    paired.require_beyond_noise([("max_increase", 1.0, 0.0)], floor=0.0, noise=FLOOR, advice="")


# --- design effect ---------------------------------------------------------------------------------


def test_the_design_effect_by_hand() -> None:
    """Differences 1 3 | 5 7: means 2 and 6 vary by 8, tokens by 20/3: 8 * 2 / (20/3) = 2.4."""
    own, base = likelihood([0.0, 0.0], tokens=2), likelihood([0.0, 0.0], tokens=2, spread=0.0)
    own = dataclasses.replace(own, token_nll=Packed.of(np.array([[1, 3], [5, 7]]), "<f4"))

    assert paired.design_effect(own, base) == pytest.approx(2.4)


def test_no_spread_has_no_design_effect() -> None:
    """Neither one window nor windows that differ alike at every token say anything of it."""
    base = likelihood([1.0, 2.0])

    assert paired.design_effect(likelihood([1.5, 2.5]), base) is None
    assert paired.design_effect(part(base, [0]), part(base, [1])) is None
