"""The statistics of `llama-perplexity --kl-divergence`: by hand, and term by term as the tool sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantgate.divergence_statistics import Statistic, delta_p, statistics

NLL = np.array([[math.log(2), math.log(4)], [math.log(2), math.log(8)]], dtype=np.float32)
BASE = np.array([[math.log(2), math.log(2)], [math.log(4), math.log(4)]], dtype=np.float32)
KLD = np.array([[0.1, 0.4], [0.2, 0.3]], dtype=np.float32)
SAME = np.array([[1, 0], [1, 1]], dtype=np.uint8)


def by_key(found: tuple[Statistic, ...]) -> dict[str, Statistic]:
    """Return statistics by their names in records."""
    return {each.key: each for each in found}


def test_four_tokens_by_hand() -> None:
    """Two models at probabilities 1/2 1/4 1/2 1/8 and 1/2 1/2 1/4 1/4: every value from its formula."""
    found = by_key(statistics(NLL, BASE, KLD, SAME))

    log2 = math.log(2)
    values = {
        "perplexity": 2 ** (7 / 4),
        "baseline_perplexity": 2 ** (6 / 4),
        "log_ratio": log2 / 4,
        "ratio": 2**0.25,
        "difference": 2**1.75 - 2**1.5,
        "kld": 0.25,
        "kld_max": 0.4,
        "kld_p90": 0.37,
        "kld_median": 0.25,
        "kld_p10": 0.13,
        "kld_min": 0.1,
        "delta_p": (0 - 0.25 + 0.25 - 0.125) / 4,
        "delta_p_max": 0.25,
        "delta_p_p75": 0.0625,
        "delta_p_median": -0.0625,
        "delta_p_p25": -0.15625,
        "delta_p_min": -0.25,
        "rms_delta_p": math.sqrt((0.0625 + 0.0625 + 0.015625) / 4),
        "same_top": 0.75,
    }
    assert {key: found[key].value for key in values} == pytest.approx(values, rel=1e-6)
    assert found["same_top"].error == pytest.approx(math.sqrt(0.75 * 0.25 / 3))


def test_ten_tokens_and_fewer_have_no_error() -> None:
    """As in the tool an error takes more than ten tokens and a covariance ten; same top needs two."""
    for count, spread in ((10, False), (11, True)):
        nll = np.linspace(1, 2, count, dtype=np.float32)
        found = by_key(statistics(nll, nll[::-1], nll, np.ones(count)))
        assert bool(found["perplexity"].error) is spread
        assert bool(found["kld"].error) is spread
        assert math.isnan(found["correlation"].value) is not spread
    alone = by_key(statistics(NLL[:1, :1], BASE[:1, :1], KLD[:1, :1], SAME[:1, :1]))
    assert alone["same_top"].error == 0.0
    assert alone["rms_delta_p"].value == alone["rms_delta_p"].error == 0.0


def test_the_lines_of_the_tool() -> None:
    """Names, order and digits are the tool's: six decimals, and percentages of three."""
    nll = np.tile(NLL, (3, 2))
    base = np.tile(BASE, (3, 2))
    found = statistics(nll, base, np.tile(KLD, (3, 2)), np.tile(SAME, (3, 2)))

    assert [(each.label, each.text) for each in found] == [
        ("Mean PPL(Q)", "3.363586 ± 0.403088"),
        ("Mean PPL(base)", "2.828427 ± 0.204398"),
        ("Cor(ln(PPL(Q)), ln(PPL(base)))", "30.15%"),
        ("Mean ln(PPL(Q)/PPL(base))", "0.173287 ± 0.119839"),
        ("Mean PPL(Q)/PPL(base)", "1.189207 ± 0.142513"),
        ("Mean PPL(Q)-PPL(base)", "0.535159 ± 0.393161"),
        ("Mean KLD", "0.250000 ± 0.023313"),
        ("Maximum KLD", "0.400000"),
        ("99.9% KLD", "0.400000"),
        ("99.0% KLD", "0.400000"),
        ("95.0% KLD", "0.400000"),
        ("90.0% KLD", "0.400000"),
        ("Median KLD", "0.250000"),
        ("10.0% KLD", "0.100000"),
        ("5.0% KLD", "0.100000"),
        ("1.0% KLD", "0.100000"),
        ("0.1% KLD", "0.100000"),
        ("Minimum KLD", "0.100000"),
        ("Mean Δp", "-3.125 ± 3.855%"),
        ("Maximum Δp", "25.000%"),
        ("99.9% Δp", "25.000%"),
        ("99.0% Δp", "25.000%"),
        ("95.0% Δp", "25.000%"),
        ("90.0% Δp", "25.000%"),
        ("75.0% Δp", "6.250%"),
        ("Median Δp", "-6.250%"),
        ("25.0% Δp", "-15.625%"),
        ("10.0% Δp", "-25.000%"),
        ("5.0% Δp", "-25.000%"),
        ("1.0% Δp", "-25.000%"),
        ("0.1% Δp", "-25.000%"),
        ("Minimum Δp", "-25.000%"),
        ("RMS Δp", "18.750 ± 1.551%"),
        ("Same top p", "75.000 ± 9.029%"),
    ]


tokens = st.tuples(
    st.floats(0, 20, width=32),
    st.floats(0, 20, width=32),
    st.floats(0, 30, width=32),
    st.booleans(),
)


@given(st.lists(tokens, min_size=12, max_size=60))
def test_sums_are_the_tools(rows: list[tuple[float, float, float, bool]]) -> None:
    """Token by token in one loop, as the tool adds them up: means, errors, percentiles, shares."""
    own, base, kld, same = (
        np.array(column, dtype=np.float32) for column in zip(*rows, strict=True)
    )
    found = by_key(statistics(own, base, kld, same))

    def mean(values: list[float], squares: list[float]) -> tuple[float, float]:
        count = len(values)
        centre = sum(values) / count
        variance = sum(squares) / count - centre * centre
        return centre, math.sqrt(variance / (count - 1)) if variance > 0 else 0.0

    def percentile(values: list[float], share: float) -> float:
        position = share * (len(values) - 1)
        below = int(position)
        above = min(below + 1, len(values) - 1)
        return values[below] + (position - below) * (values[above] - values[below])

    centre, error = mean([float(x) for x in own], [float(x * x) for x in own])
    assert math.log(found["perplexity"].value) == pytest.approx(centre, rel=1e-9, abs=1e-9)
    if error > 1e-3:
        assert found["perplexity"].error == pytest.approx(math.exp(centre) * error, rel=1e-4)
    assert found["kld"].value == pytest.approx(sum(map(float, kld)) / len(kld), rel=1e-9)
    ordered = sorted(map(float, kld))
    for key, share in (
        ("kld_p99_9", 0.999),
        ("kld_p90", 0.9),
        ("kld_p10", 0.1),
        ("kld_p0_1", 0.001),
    ):
        assert found[key].value == pytest.approx(percentile(ordered, share), rel=1e-4, abs=1e-4)
    assert found["kld_median"].value == pytest.approx(float(np.median(kld)), rel=1e-6)
    changes = [float(np.exp(-a) - np.exp(-b)) for a, b in zip(own, base, strict=True)]
    square = sum(change * change for change in changes) / len(changes)
    assert found["rms_delta_p"].value == pytest.approx(math.sqrt(square), rel=1e-5, abs=1e-12)
    assert found["same_top"].value == sum(row[3] for row in rows) / len(rows)


@given(st.lists(st.floats(0, 20, width=32), min_size=12, max_size=40))
def test_a_model_does_not_differ_from_itself(values: list[float]) -> None:
    """With equal likelihoods every difference is 0 and no square root is of less than nothing."""
    nll = np.array(values, dtype=np.float32)

    found = by_key(statistics(nll, nll, np.zeros_like(nll), np.ones(len(nll))))

    for key in ("log_ratio", "difference", "kld", "delta_p", "rms_delta_p"):
        assert found[key].value == 0.0
        # What the tool adds up in floats leaves a hair, here and there.
        assert found[key].error == pytest.approx(0, abs=1e-3 * found["perplexity"].value)
    assert found["ratio"].value == found["same_top"].value == 1.0


def test_a_change_of_probability_is_rounded_as_in_the_tool() -> None:
    """exp in float32 on both sides, then a difference in float32."""
    found = delta_p(NLL, BASE)

    assert found.dtype == np.float32
    assert found.tolist() == [
        [0.0, pytest.approx(-0.25)],
        [pytest.approx(0.25), pytest.approx(-0.125)],
    ]


def test_what_makes_no_statistics() -> None:
    """Arrays that do not belong together, and none at all."""
    with pytest.raises(ValueError, match="shapes differ"):
        statistics(NLL, BASE, KLD, SAME[:1])
    with pytest.raises(ValueError, match="no token"):
        statistics(NLL[:0], BASE[:0], KLD[:0], SAME[:0])
