"""The arithmetic of importance matrices, against the same written as plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pytest_quantgate.artifact.imatrix.activations import ActivationSums, add_squares
from pytest_quantgate.errors import MeasurementError

Floats = NDArray[np.float32]
Q, K, UP = "blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.ffn_up_exps.weight"


def normal(seed: int, *shape: int) -> Floats:
    """Return some activations."""
    values: Floats = np.empty(shape, dtype=np.float32)
    np.random.default_rng(seed).standard_normal(dtype=np.float32, out=values)
    return values


def summed_one_by_one(start: Floats, rows: Floats) -> Floats:
    """Return the sums as a loop over rows in single precision finds them."""
    sums: Floats = start.copy()
    for row in rows:
        sums += row * row
    return sums


@given(count=st.integers(0, 300), columns=st.integers(2, 700), seed=st.integers(0, 1000))
def test_rows_are_added_in_their_order(count: int, columns: int, seed: int) -> None:
    """Sums are to the last bit those of a loop, whatever the number of rows, and views are read too."""
    sums = np.abs(normal(seed, columns))
    rows = normal(seed + 1, count, 2 * columns)[:, ::2]
    expected = summed_one_by_one(sums, rows)

    add_squares(sums, rows)

    assert np.array_equal(sums, expected)


def test_a_weight_gets_sums_and_counts() -> None:
    """Two batches of tokens add up, and the windows are counted."""
    sums = ActivationSums()
    first, second = normal(1, 1, 1, 40, 8), normal(2, 1, 1, 24, 8)

    sums.add(Q, first)
    sums.add(Q, second)

    found = sums.imatrix(datasets=["a.txt"], chunk_size=16)
    expected = summed_one_by_one(np.zeros(8, np.float32), np.concatenate([first, second], 2)[0, 0])
    assert np.array_equal(found.entries[Q].sums, expected[np.newaxis])
    assert (found.entries[Q].counts.tolist(), found.chunks) == ([64], 4)
    assert (found.datasets, found.chunk_size) == (("a.txt",), 16)


def test_shared_activations_are_added_once() -> None:
    """Tensors with the same activations get the same sums, also where one of them started alone."""
    sums, apart = ActivationSums(), ActivationSums()
    batches = [normal(seed, 1, 1, 20, 8) for seed in range(3)]
    for number, rows in enumerate(batches):
        # The engine's memory has the same address in each batch, and other numbers.
        sums.add(Q, rows, source=7)
        if number:
            sums.add(K, rows, source=7)
        for name in (Q, K)[: 1 + bool(number)]:
            apart.add(name, rows)

    found, expected = (each.imatrix(datasets=[], chunk_size=1) for each in (sums, apart))

    for name in (Q, K):
        assert np.array_equal(found.entries[name].sums, expected.entries[name].sums)
        assert np.array_equal(found.entries[name].counts, expected.entries[name].counts)
    assert found.entries[K].counts.tolist() == [40]


def test_stacked_matrices_have_sums_of_their_own() -> None:
    """Activations go to the matrix they are multiplied with, the first again after the last."""
    sums = ActivationSums()
    rows = normal(3, 1, 4, 20, 8)

    sums.add(Q, rows, matrices=(1, 2))

    found = sums.imatrix(datasets=[], chunk_size=1).entries[Q]
    zero = np.zeros(8, np.float32)
    for place in (0, 1):
        expected = summed_one_by_one(zero, np.concatenate([rows[0, place], rows[0, place + 2]]))
        assert np.array_equal(found.sums[0, 8 * place : 8 * place + 8], expected)
    assert (found.sums.shape, found.counts.tolist()) == ((1, 16), [40])


@pytest.mark.parametrize("rows", [1, 3])
def test_experts_get_the_tokens_sent_to_them(rows: int) -> None:
    """Slot by slot, token by token; a row may serve all chosen experts or each has its own."""
    tokens, chosen_experts, experts = 50, 3, 5
    activations = normal(4, tokens, rows, 8)
    generator = np.random.default_rng(5)
    # Each token to three experts, the last of which nobody chooses.
    chosen = np.array([generator.permutation(4)[:3] for _ in range(tokens)], dtype=np.int32)
    sums = ActivationSums()

    sums.add_experts(UP, activations, chosen, experts=experts)

    expected, counts = np.zeros((experts, 8), np.float32), np.zeros(experts, np.int64)
    for slot in range(chosen_experts):
        for token in range(tokens):
            row = activations[token, slot % rows]
            expected[chosen[token, slot]] += row * row
            counts[chosen[token, slot]] += 1
    found = sums.imatrix(datasets=[], chunk_size=1)
    assert np.array_equal(found.entries[UP].sums, expected)
    assert np.array_equal(found.entries[UP].counts, counts)
    assert (int(counts[4]), found.partial) == (0, (UP,))


def test_experts_used_as_one_tensor_before() -> None:
    """A tensor whose experts were first used together counts those tokens for each of them."""
    sums = ActivationSums()
    sums.add(UP, normal(6, 1, 2, 16, 8), matrices=(1, 2))
    sums.add_experts(UP, normal(7, 4, 1, 8), np.array([[0]] * 4, np.int32), experts=2)

    found = sums.imatrix(datasets=[], chunk_size=1).entries[UP]

    assert (found.sums.shape, found.counts.tolist()) == ((2, 8), [20, 16])


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_numbers_that_are_none_are_told_at_once(value: float) -> None:
    """NaN, infinity and squares beyond float32 name the tensor they met."""
    rows = np.full((1, 1, 16, 8), value, dtype=np.float32)
    sums = ActivationSums()

    with pytest.raises(MeasurementError, match=f"that {Q} is multiplied with are not finite"):
        sums.add(Q, rows)
    with pytest.raises(MeasurementError, match=f"that {UP} is multiplied with are not finite"):
        sums.add_experts(UP, rows[0], np.zeros((1, 1), np.int32), experts=2)


def test_what_cannot_be_is_refused() -> None:
    """Another width, an expert that there is not, and nothing at all."""
    sums = ActivationSums()
    with pytest.raises(MeasurementError, match="the model multiplied no weights"):
        sums.imatrix(datasets=[], chunk_size=1)
    sums.add(Q, normal(8, 1, 1, 16, 8))
    with pytest.raises(MeasurementError, match="columns now, with"):
        sums.add(Q, normal(9, 1, 1, 16, 9))
    for expert in (-1, 2):
        with pytest.raises(MeasurementError, match="a token was sent to expert"):
            sums.add_experts(UP, normal(10, 1, 1, 8), np.array([[expert]], np.int32), experts=2)
