"""Intervals and decisions: published values, SciPy's own, and what must hold for any numbers."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from pytest_quantgate import stats
from pytest_quantgate.records import Interval, Outcome

finite = st.floats(min_value=-1e6, max_value=1e6)
samples = st.lists(finite, min_size=2, max_size=30)
confidences = st.floats(min_value=0.5, max_value=0.999)


def interval(low: float, high: float) -> Interval:
    """Return an interval at the usual confidence."""
    return Interval(low=low, high=high, confidence=0.95)


# --- looks -----------------------------------------------------------------------------------------


def students(values: list[float], *, confidence: float, population: int | None = None) -> Interval:
    """Return the interval of Student's t by SciPy, corrected for a finite population."""
    count = len(values)
    half = float(scipy_stats.t.ppf((1 + confidence) / 2, count - 1) * scipy_stats.sem(values))
    if population is not None:
        half *= math.sqrt((population - count) / (population - 1))
    mean = math.fsum(values) / count
    return Interval(low=mean - half, high=mean + half, confidence=confidence)


def look(values: list[float], **changes: float) -> Interval:
    """Return the bounds of a look as gates take it, changed where a test says so."""
    settings: dict[str, float] = {"pass_confidence": 0.95, "fail_confidence": 0.99, **changes}
    return stats.look_interval(
        values,
        population=int(settings.pop("population", 10**9)),
        looks=int(settings.pop("looks", 1)),
        **settings,
    )


def test_a_look_at_symmetric_values_is_students_t_with_an_allowance_for_skewness() -> None:
    """n = 16, mean 10, s = 1: 10 + 1.753 / 4; and skewness errors (0.564): 2 up, 1.5 down."""
    half = math.sqrt(15 / 16)  # sixteen values at +-half around the mean have s = 1
    found = look([10 - half, 10 + half] * 8)

    shift = 2 * 0.5643 * (1 + 2 * 1.7531**2) / (6 * 16)
    assert found.high == pytest.approx(10 + 1.7531 / 4 + shift, abs=2e-4)
    shift = 1.5 * 0.5643 * (1 + 2 * 2.6025**2) / (6 * 16)
    assert found.low == pytest.approx(10 - 2.6025 / 4 - shift, abs=2e-4)
    assert (found.confidence, found.fail_confidence) == (0.95, 0.99)


def test_a_look_divides_its_risk_among_looks() -> None:
    """Six looks at 95% are each one at 1 - 0.05/6."""
    values = [1.0, 2.0, 4.0, 4.5, 7.0]

    several = look(values, looks=6)
    single = look(values, pass_confidence=1 - 0.05 / 6, fail_confidence=1 - 0.01 / 6)

    assert (several.low, several.high) == pytest.approx((single.low, single.high), rel=1e-12)


def test_skewness_moves_the_bound_it_endangers_and_no_other() -> None:
    """A tail to the right lifts the upper bound; the lower one stays at Student's, never above it."""
    values = [1.0] * 15 + [4.0]  # so skewed that no allowance turns the sign
    found = look(values)

    student = students(values, confidence=0.98)  # 99% on the lower side
    assert found.low == pytest.approx(student.low, rel=1e-7)
    assert found.high > students(values, confidence=0.90).high


@pytest.mark.parametrize("population", [4, 3])
def test_a_look_at_all_values_is_exact(population: int) -> None:
    """Nothing is left to doubt, not even without any spread."""
    exact = Interval(low=2.5, high=2.5, confidence=1.0, fail_confidence=1.0)

    assert look([1.0, 2.0, 3.0, 4.0], population=population) == exact
    assert look([2.5] * 4, population=population) == exact


def test_equal_values_decide_nothing_while_values_are_missing() -> None:
    """No spread is no evidence of none, unless a least variance is known."""
    found = look([0.0] * 16, population=17)
    assert (found.low, found.high) == (-math.inf, math.inf)

    floored = look([0.0] * 16, population=600, variance_floor=0.01)
    assert 0.1 / 4 < floored.high < 0.1
    assert -0.2 < floored.low < -0.1 / 4


def test_equal_values_have_no_spread_to_the_last_bit() -> None:
    """Three times 0.1 has a mean beside 0.1, which must not become a spread."""
    for value in (0.1, 0.7, 1e-300, 1e100 / 7):
        assert look([value] * 3, population=600).high == math.inf


def test_two_values_of_more_decide_nothing() -> None:
    """Two values have no skewness to be told, so it may be any."""
    found = look([1.0, 2.0])

    assert (found.low, found.high) == (-math.inf, math.inf)


@pytest.mark.parametrize("count", [0, 1])
def test_a_look_takes_two_values(count: int) -> None:
    """With less there is no spread at all."""
    with pytest.raises(ValueError, match=f"^an interval needs at least 2 values, got {count}$"):
        look([1.0] * count)


@given(
    st.lists(finite, min_size=3, max_size=30),
    st.integers(min_value=1, max_value=60),
    st.integers(min_value=1, max_value=9),
)
def test_a_look_is_wider_than_students_and_widens_with_looks(
    values: list[float], further: int, looks: int
) -> None:
    """Every correction is made outwards."""
    population = len(values) + further
    found = look(values, population=population, looks=looks)
    more = look(values, population=population, looks=looks + 1)
    student = students(values, population=population, confidence=0.90)

    slack = 1e-9 * (1 + max(map(abs, values)))
    assert found.high >= student.high - slack
    assert found.low <= student.low + slack
    assert more.low <= found.low + slack
    assert found.high <= more.high + slack


@given(
    st.lists(st.integers(min_value=-50, max_value=50), min_size=3, max_size=30),
    st.integers(min_value=1, max_value=60),
    st.floats(min_value=0.1, max_value=10),
    st.floats(min_value=-10, max_value=10),
)
def test_a_look_does_not_depend_on_unit_and_origin(
    values: list[int], further: int, unit: float, origin: float
) -> None:
    """Values in another unit, from another origin, have the same bounds in it."""
    population = len(values) + further
    found = look([float(value) for value in values], population=population)
    moved = look([origin + unit * value for value in values], population=population)

    assume(math.isfinite(found.high))
    expected = (origin + unit * found.low, origin + unit * found.high)
    assert (moved.low, moved.high) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_bound_that_passes_is_the_more_careful_one(sign: int) -> None:
    """At the same confidence, and whichever way values are turned, it is further from the mean."""
    values = [sign * value for value in (1.0, 2.0, 3.0, 4.0, 5.0) * 4]
    found = look(values, fail_confidence=0.95)

    assert found.high - sign * 3.0 > sign * 3.0 - found.low


def test_a_pass_leaves_room_for_a_window_that_was_not_drawn() -> None:
    """One of N values may be 20 standard deviations out; without correction of the rest, 20 s / N."""
    values = [1.0, 2.0, 3.0, 4.0, 5.0] * 4
    spread = math.sqrt(40 / 19)
    few, many = (look(values, population=count) for count in (21, 10**9))

    assert few.low <= 3.0 - 0.01  # no room is left below
    assert few.high - 3.0 >= 20 * spread / 21
    assert many.high - 3.0 < few.high - 3.0


def test_looks_see_through_one_window_that_is_far_out() -> None:
    """84 values near 1 and one at 3 in 2000 orders, limit at their mean: the one is mostly not drawn."""
    import numpy as np  # noqa: PLC0415 - this test only

    generator = np.random.default_rng(8)
    population = np.append(generator.normal(1, 0.12, 84), 3.0)
    limit = float(population.mean())
    passed = 0
    for _ in range(2000):
        order = generator.permutation(population).tolist()
        found = [look(order[:count], population=85, looks=4) for count in (16, 32, 64)]
        passed += any(each.high < limit for each in found)

    assert passed / 2000 <= 0.05


def test_looks_keep_their_promise_on_a_skewed_population() -> None:
    """592 lognormal values in 2000 random orders, limit at the mean: <= 5% and 1% err at any look."""
    import numpy as np  # noqa: PLC0415 - this test only

    generator = np.random.default_rng(7)
    population = generator.lognormal(0, 0.35, 592)
    limit = float(population.mean())
    passed = failed = 0
    for _ in range(2000):
        order = generator.permutation(population).tolist()
        for count in (16, 32, 64, 128, 256, 512):
            found = look(order[:count], population=592, looks=7)
            if found.high < limit or found.low > limit:
                passed += found.high < limit
                failed += found.low > limit
                break

    assert passed / 2000 <= 0.05
    assert failed / 2000 <= 0.01


# --- percentiles of tokens -------------------------------------------------------------------------


def percentile(tokens: object, share: float, *, population: int, looks: int = 6) -> Interval:
    """Return the bounds of a quantile at the usual confidences."""
    import numpy as np  # noqa: PLC0415 - these tests only

    return stats.share_quantile_interval(
        np.asarray(tokens),
        share,
        population=population,
        looks=looks,
        pass_confidence=0.95,
        fail_confidence=0.99,
    )


def test_a_percentile_of_all_tokens_is_exact() -> None:
    """With every chunk there it is NumPy's quantile, as llama.cpp's tool interpolates it."""
    found = percentile([[1.0, 2.0], [3.0, 4.0]], 0.75, population=2)

    assert found == Interval(low=3.25, high=3.25, confidence=1.0, fail_confidence=1.0)


def test_a_percentile_is_bounded_from_both_sides() -> None:
    """64 of 600 chunks of 255 tokens bound the 95th percentile of an exponential, ln 20, closely."""
    import numpy as np  # noqa: PLC0415 - this test only

    tokens = np.random.default_rng(3).exponential(size=(64, 255))
    found = percentile(tokens, 0.95, population=600)

    assert 2.7 < found.low < math.log(20) < found.high < 3.3
    assert (found.confidence, found.fail_confidence) == (0.95, 0.99)


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99])
def test_a_percentile_decides_as_the_share_above_the_limit_does(share: float) -> None:
    """Limits away from the bounds are decided alike by percentile and by share of tokens above."""
    import numpy as np  # noqa: PLC0415 - this test only

    tokens = np.random.default_rng(4).gamma(0.5, size=(32, 255))
    found = percentile(tokens, share, population=600)

    for limit in np.quantile(tokens, np.linspace(0.3, 0.999, 30)):
        above = look(
            (tokens > limit).mean(axis=1).tolist(),
            population=600,
            looks=6,
            variance_floor=share * (1 - share) / 255,
        )
        assert stats.at_most(found, limit) is stats.at_most(above, 1 - share)


def test_chunks_without_a_high_token_are_no_proof_of_a_high_percentile() -> None:
    """16 chunks of which no token is above 1 say nothing of the 99.9th percentile of 600."""
    found = percentile([[1.0] * 255] * 16, 0.999, population=600)

    assert (found.low, found.high) == (-math.inf, math.inf)


def test_enough_chunks_without_a_high_token_bound_a_percentile() -> None:
    """The same 16 chunks do bound the 95th percentile: 5% of their tokens should be above it."""
    found = percentile([[1.0] * 255] * 16, 0.95, population=600)

    assert found.high == 1.0


# --- before and after ------------------------------------------------------------------------------


def needed(values: list[float], limit: float, population: int) -> int:
    """Return the chunks needed at the usual confidences."""
    return stats.chunks_needed(
        values,
        limit=limit,
        population=population,
        looks=6,
        pass_confidence=0.95,
        fail_confidence=0.99,
    )


@pytest.mark.parametrize("limit", [1.1, 0.9])
def test_as_many_chunks_as_needed_decide(limit: float) -> None:
    """So many values with nearly the same moments part mean and limit; a seventh less does not."""
    values = [0.7, 1.3] * 8
    found = needed(values, limit, 10**6)

    def decided(count: int) -> bool:
        drawn = look(([0.7, 1.3] * count)[:count], population=10**6, looks=6)
        return stats.at_most(drawn, limit) is not Outcome.INCONCLUSIVE

    assert decided(found + found % 2)
    assert not decided(found * 6 // 14 * 2)


def test_a_failure_takes_more_chunks_than_a_pass() -> None:
    """It is surer, so at the same distance from the limit it takes more."""
    values = [0.7, 1.3] * 8

    assert needed(values, 0.9, 10**6) > needed(values, 1.1, 10**6)


def test_a_mean_on_its_limit_takes_all_chunks() -> None:
    """Only a complete count decides what is on the limit."""
    assert needed([1.0, 3.0] * 8, 2.0, 590) == 590


@given(
    st.lists(finite, min_size=3, max_size=30),
    finite,
    st.integers(min_value=1, max_value=100),
)
def test_chunks_needed_are_more_than_there_are_and_no_more_than_there_can_be(
    values: list[float], limit: float, further: int
) -> None:
    """The answer is always something a user can act upon."""
    population = len(values) + further

    assert len(values) < needed(values, limit, population) <= population


def test_the_detectable_effect_is_textbook() -> None:
    """n = 16 of very many, sd 1, one look: (1.753 + 0.842) / 4."""
    found = stats.detectable(1.0, 16, population=10**9, looks=1, pass_confidence=0.95)

    assert found == pytest.approx((1.7531 + 0.8416) / 4, abs=1e-4)


def test_every_effect_is_detectable_with_all_chunks() -> None:
    """An exact verdict needs no distance from the limit."""
    assert stats.detectable(1.0, 16, population=16, looks=1, pass_confidence=0.95) == 0.0


# --- proportions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe, Statistics in Medicine 17, 1998, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_has_the_published_values(
    successes: int, trials: int, low: float, high: float
) -> None:
    """The four examples of Newcombe's comparison come out to the printed digit."""
    found = stats.wilson_interval(successes, trials)

    assert (round(found.low, 4), round(found.high, 4)) == (low, high)
    assert found.confidence == 0.95


@given(st.integers(min_value=1, max_value=5000), st.data(), confidences)
def test_wilson_interval_is_scipys(trials: int, data: st.DataObject, confidence: float) -> None:
    """Any proportion has the interval that SciPy computes, its ends within [0, 1]."""
    successes = data.draw(st.integers(min_value=0, max_value=trials))

    found = stats.wilson_interval(successes, trials, confidence=confidence)

    reference = scipy_stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=1e-9)
    assert 0 <= found.low <= successes / trials <= found.high <= 1


def test_wilson_interval_ends_exactly_at_the_ends() -> None:
    """None and all leave no room beyond 0 and 1, to the last bit."""
    for trials in range(1, 200):
        assert stats.wilson_interval(0, trials).low == 0.0
        assert stats.wilson_interval(trials, trials).high == 1.0


# --- quantiles -------------------------------------------------------------------------------------


@given(st.lists(finite, min_size=1, max_size=40), st.floats(min_value=0, max_value=1))
def test_quantile_is_numpys(values: list[float], share: float) -> None:
    """The sample quantile is NumPy's default one and lies between the extremes."""
    import numpy as np  # noqa: PLC0415 - the reference of this test only

    found = stats.quantile(values, share)

    assert found == pytest.approx(float(np.quantile(values, share)), rel=1e-9, abs=1e-6)
    slack = 1e-9 * max(map(abs, values))
    assert min(values) - slack <= found <= max(values) + slack


def test_quantile_ends_are_the_extremes() -> None:
    """Share 0 is the smallest value, 1 the largest, a half the middle."""
    values = [3.0, 1.0, 2.0]

    assert [stats.quantile(values, share) for share in (0.0, 0.5, 1.0)] == [1.0, 2.0, 3.0]


def test_quantile_interval_of_six_is_their_range() -> None:
    """Six values hold the median between their extremes with 1 - 2/64 = 96.875%."""
    found = stats.quantile_interval([6, 2, 5, 1, 4, 3], 0.5)

    assert found is not None
    assert (found.low, found.high) == (1, 6)
    assert found.confidence == pytest.approx(0.96875, abs=1e-12)


def test_quantile_interval_of_five_does_not_exist() -> None:
    """Five values hold the median with 93.75% at most, so nothing is claimed."""
    assert stats.quantile_interval([1, 2, 3, 4, 5], 0.5) is None


@pytest.mark.parametrize(
    ("count", "ranks"),
    # Ranks of the 95% interval of the median in tables such as Conover's, Practical Nonparametric
    # Statistics, 1999, A3: n = 10 gives X(2) to X(9), n = 20 X(6) to X(15), n = 25 X(8) to X(18).
    [(6, (1, 6)), (8, (1, 8)), (9, (2, 8)), (10, (2, 9)), (20, (6, 15)), (25, (8, 18))],
)
def test_quantile_interval_has_the_tabled_ranks(count: int, ranks: tuple[int, int]) -> None:
    """The interval of a median ends at the order statistics that tables name."""
    found = stats.quantile_interval([float(rank) for rank in range(1, count + 1)], 0.5)

    assert found is not None
    assert (found.low, found.high) == ranks


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95])
def test_quantile_interval_keeps_its_promise(share: float) -> None:
    """Each tail beyond the bounds holds at most 2.5%, and one rank less would hold more."""
    for count in range(1, 160):
        ranks = [float(rank) for rank in range(1, count + 1)]
        found = stats.quantile_interval(ranks, share)
        binomial = scipy_stats.binom(count, share)
        if found is None:
            assert binomial.cdf(0) > 0.025 or binomial.sf(count - 1) > 0.025
            continue
        low, high = int(found.low), int(found.high)
        assert binomial.cdf(low - 1) <= 0.025 < binomial.cdf(low)
        assert binomial.sf(high - 1) <= 0.025 < binomial.sf(high - 2)
        assert found.confidence >= 0.95


@given(st.lists(finite, min_size=8, max_size=40), confidences)
def test_quantile_interval_holds_the_median_and_widens_with_confidence(
    values: list[float], confidence: float
) -> None:
    """The sample median lies inside; where more confidence can be had, the interval is no narrower."""
    found = stats.quantile_interval(values, 0.5, confidence=confidence)
    assume(found is not None)
    assert found is not None

    assert found.low <= stats.quantile(values, 0.5) <= found.high
    assert found.confidence >= confidence
    wider = stats.quantile_interval(values, 0.5, confidence=confidence + (1 - confidence) / 2)
    if wider is not None:
        assert wider.low <= found.low
        assert found.high <= wider.high


# --- decisions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (0.5, 0.9, Outcome.PASS),
        (0.5, 1.0, Outcome.PASS),
        (1.0, 1.0, Outcome.PASS),
        (0.5, math.nextafter(1.0, 2), Outcome.INCONCLUSIVE),
        (1.0, 1.5, Outcome.INCONCLUSIVE),
        (math.nextafter(1.0, 2), 1.5, Outcome.FAIL),
    ],
)
def test_at_most_decides_at_the_last_bit(low: float, high: float, outcome: Outcome) -> None:
    """At most 1: the limit itself still passes, one float above it does not."""
    assert stats.at_most(interval(low, high), 1.0) is outcome


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (1.1, 1.5, Outcome.PASS),
        (1.0, 1.5, Outcome.PASS),
        (1.0, 1.0, Outcome.PASS),
        (math.nextafter(1.0, 0), 1.5, Outcome.INCONCLUSIVE),
        (0.5, 1.0, Outcome.INCONCLUSIVE),
        (0.5, math.nextafter(1.0, 0), Outcome.FAIL),
    ],
)
def test_at_least_decides_at_the_last_bit(low: float, high: float, outcome: Outcome) -> None:
    """At least 1: the limit itself still passes, one float below it does not."""
    assert stats.at_least(interval(low, high), 1.0) is outcome


@given(finite, finite, finite)
def test_decisions_mirror_each_other(a: float, b: float, limit: float) -> None:
    """At least a limit is at most its negative, seen from the other side."""
    low, high = min(a, b), max(a, b)

    assert stats.at_least(interval(low, high), limit) is stats.at_most(
        interval(-high, -low), -limit
    )


@given(finite, finite, finite)
def test_a_looser_limit_never_turns_a_pass(a: float, b: float, limit: float) -> None:
    """Whoever passes a limit passes every looser one; whoever fails fails every tighter one."""
    found = interval(min(a, b), max(a, b))

    if stats.at_most(found, limit) is Outcome.PASS:
        assert stats.at_most(found, limit + 1) is Outcome.PASS
    if stats.at_most(found, limit) is Outcome.FAIL:
        assert stats.at_most(found, limit - 1) is Outcome.FAIL


@pytest.mark.parametrize(
    ("outcomes", "worst"),
    [
        ([], Outcome.PASS),
        ([Outcome.PASS, Outcome.PASS], Outcome.PASS),
        ([Outcome.PASS, Outcome.INCONCLUSIVE], Outcome.INCONCLUSIVE),
        ([Outcome.INCONCLUSIVE, Outcome.FAIL, Outcome.PASS], Outcome.FAIL),
    ],
)
def test_the_worst_outcome_counts(outcomes: list[Outcome], worst: Outcome) -> None:
    """A failure outweighs doubt, and doubt outweighs any number of passes."""
    assert stats.worst(outcomes) is worst
