"""The perplexity gate: llama.cpp's formulas, the three verdicts, what is asked and what is said."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from bench_stub import StubBench, as_bench, likelihood
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pytest_quantgate.errors import MeasurementError
from pytest_quantgate.gates.perplexity import (
    GATE,
    PerplexityEvidence,
    PerplexitySettings,
    perplexity,
)
from pytest_quantgate.records import Check, Likelihood, LikelihoodRequest, Outcome

if TYPE_CHECKING:
    from pytest_quantgate.gates import Judgement

BASE = (2.0, 2.2, 1.9, 2.1)
OWN = (2.1, 2.25, 2.02, 2.19)
MEAN_DIFFERENCE = (0.1 + 0.05 + 0.12 + 0.09) / 4


def settings(**values: object) -> PerplexitySettings:
    """Return settings as a specification would give them."""
    return PerplexitySettings.model_validate(values)


def judge(
    limits: PerplexitySettings,
    candidate: Likelihood,
    baseline: Likelihood | None = None,
    *,
    literal: float | None = None,
) -> Judgement:
    """Judge evidence without measuring any."""
    evidence = PerplexityEvidence(candidate=candidate, baseline=baseline, literal=literal)
    return GATE.judge(limits, evidence, as_bench(StubBench()))


def check_of(
    limits: PerplexitySettings,
    candidate: Likelihood,
    baseline: Likelihood | None = None,
    *,
    literal: float | None = None,
) -> Check:
    """Return the only check of a judgement."""
    (check,) = judge(limits, candidate, baseline, literal=literal).checks
    assert isinstance(check, Check)
    return check


# --- formulas --------------------------------------------------------------------------------------


def test_perplexity_by_hand() -> None:
    """Four tokens at 1, 2, 3, 2 nats: mean 2, variance 18/4 - 4 = 1/2, error e^2 sqrt(1/2 / 3)."""
    found = perplexity(
        Likelihood(
            chunk_nll=(3.0, 5.0),
            chunk_nll2=(5.0, 13.0),
            chunk_tokens=2,
            available_chunks=2,
            corpus_tokens=12,
            tokens_sha256="a" * 64,
            vocabulary=10,
            seconds=0.0,
        )
    )

    assert found.value == pytest.approx(7.38905609893065, rel=1e-15)
    assert found.error == pytest.approx(7.38905609893065 * 0.408248290463863, rel=1e-14)


@given(
    st.lists(st.lists(st.floats(0, 20), min_size=3, max_size=3), min_size=1, max_size=8),
)
def test_perplexity_is_llama_cpps(chunks: list[list[float]]) -> None:
    """Token by token, as `llama-perplexity` sums: exp(nll / n), with sqrt((nll2/n - m^2) / (n - 1))."""
    nll = nll2 = 0.0
    for token in (token for chunk in chunks for token in chunk):
        nll += token
        nll2 += token * token
    count = 3 * len(chunks)
    mean = nll / count
    variance = nll2 / count - mean * mean

    found = perplexity(
        Likelihood(
            chunk_nll=tuple(math.fsum(chunk) for chunk in chunks),
            chunk_nll2=tuple(math.fsum(token**2 for token in chunk) for chunk in chunks),
            chunk_tokens=3,
            available_chunks=len(chunks),
            corpus_tokens=8 * len(chunks),
            tokens_sha256="a" * 64,
            vocabulary=10,
            seconds=0.0,
        )
    )

    assert found.value == pytest.approx(math.exp(mean), rel=1e-12)
    if variance > 1e-6:
        expected = math.exp(mean) * math.sqrt(variance / (count - 1))
        assert found.error == pytest.approx(expected, rel=1e-6)


def test_tokens_of_equal_likelihood_leave_no_error() -> None:
    """Where rounding makes the variance negative, the error is 0 and not a complex number."""
    assert perplexity(likelihood([1.1, 1.1, 1.1], spread=0.0)).error == pytest.approx(0, abs=1e-6)


# --- verdicts over a whole corpus ------------------------------------------------------------------


def test_a_whole_corpus_is_exact() -> None:
    """With every window measured the ratio is a number without interval, paired by window."""
    check = check_of(settings(max_ratio=1.1), likelihood(OWN), likelihood(BASE))

    assert check.value == pytest.approx(math.exp(MEAN_DIFFERENCE), rel=1e-12)
    assert check.interval is not None
    assert (check.interval.low, check.interval.high) == (check.value, check.value)
    assert check.interval.confidence == 1.0
    assert check.sample == "all 4 chunks"
    assert check.baseline == pytest.approx(math.exp(2.05), rel=1e-12)
    assert check.statistic == "perplexity ratio"


@pytest.mark.parametrize("name", ["max_ratio", "max"])
def test_a_limit_on_a_whole_corpus_holds_to_the_last_bit(name: str) -> None:
    """Just above the value and at it passes; one float below it fails; there is no third verdict."""
    value = check_of(settings(**{name: 100.0}), likelihood(OWN), likelihood(BASE)).value
    assert value is not None

    outcomes = [
        check_of(settings(**{name: limit}), likelihood(OWN), likelihood(BASE)).outcome
        for limit in (math.nextafter(value, 0), value, math.nextafter(value, 100))
    ]

    assert outcomes == [Outcome.FAIL, Outcome.PASS, Outcome.PASS]


def test_an_increase_is_a_ratio_in_other_words() -> None:
    """A rise of 7.2% passes ``8%``, fails ``7%``, and is shown as the ratio it is."""
    value = (math.log(1.072),) * 2
    for text, outcome in (("8%", Outcome.PASS), ("7.2%", Outcome.PASS), ("7%", Outcome.FAIL)):
        check = check_of(settings(max_increase=text), likelihood(value), likelihood([0.0, 0.0]))
        assert check.outcome is outcome, text
    assert (check.limit_name, check.limit) == ("max_increase", 1.07)


def test_no_increase_can_be_demanded() -> None:
    """``0%`` passes a variant that is no worse and fails one that is."""
    limits = settings(max_increase="0%")
    for shift, outcome in ((-1e-9, Outcome.PASS), (0.0, Outcome.PASS), (1e-9, Outcome.FAIL)):
        own = likelihood([mean + shift for mean in BASE])
        assert check_of(limits, own, likelihood(BASE)).outcome is outcome


# --- verdicts over a sample ------------------------------------------------------------------------


def test_a_sample_has_three_verdicts() -> None:
    """With 4 of 40 windows: pass above the interval, fail below it, undecided within, bit by bit."""
    own, base = likelihood(OWN, available=40), likelihood(BASE, available=40)
    interval = check_of(settings(max_ratio=1.1), own, base).interval
    assert interval is not None
    expected = {
        math.nextafter(interval.high, 9): Outcome.PASS,
        interval.high: Outcome.PASS,
        math.nextafter(interval.high, 0): Outcome.INCONCLUSIVE,
        math.exp(MEAN_DIFFERENCE): Outcome.INCONCLUSIVE,
        interval.low: Outcome.INCONCLUSIVE,
        math.nextafter(interval.low, 0): Outcome.FAIL,
    }

    found = {limit: check_of(settings(max_ratio=limit), own, base).outcome for limit in expected}

    assert found == expected


def test_the_interval_is_of_paired_windows() -> None:
    """Windows that differ a lot but shift alike give a narrow ratio and a wide absolute value."""
    base = likelihood([1.0, 2.0, 3.0, 4.0], available=400)
    own = likelihood([1.1, 2.1, 3.1, 4.1001], available=400)

    ratio = check_of(settings(max_ratio=1.2), own, base)
    absolute = check_of(settings(max=20.0), own)

    assert ratio.outcome is Outcome.PASS
    assert ratio.interval is not None
    assert ratio.interval.high - ratio.interval.low < 0.001
    assert absolute.outcome is Outcome.INCONCLUSIVE
    assert ratio.sample == "4 of 400 chunks"


def test_the_sample_interval_by_hand() -> None:
    """t(3 df) = 3.18245, s = .0294, N = 8: exp(.09 +- 3.18245 s / 2 * sqrt(4/7))."""
    check = check_of(
        settings(max_ratio=1.1), likelihood(OWN, available=8), likelihood(BASE, available=8)
    )

    deviation = math.sqrt((0.01**2 + 0.04**2 + 0.03**2 + 0.0) / 3)
    half = 3.182446305284263 * deviation / 2 * math.sqrt(4 / 7)
    assert check.interval is not None
    assert check.interval.low == pytest.approx(math.exp(0.09 - half), rel=1e-9)
    assert check.interval.high == pytest.approx(math.exp(0.09 + half), rel=1e-9)
    assert check.interval.confidence == 0.95


def test_an_undecided_limit_says_how_many_windows_would_decide_it() -> None:
    """The advice is a number of windows between those measured and those there are."""
    found = judge(
        settings(max_ratio=1.1), likelihood(OWN, available=40), likelihood(BASE, available=40)
    )

    assert found.findings[-1] == "max_ratio is undecided: about 31 of 40 chunks would decide it"
    assert found.headline.startswith("perplexity ratio 1.0942 ~ max_ratio 1.1 (")


# --- several limits, literal baselines -------------------------------------------------------------


def test_each_limit_has_its_check_and_the_worst_speaks() -> None:
    """Three limits give three checks; the headline is about the one that failed."""
    found = judge(
        settings(max=9.0, max_ratio=1.2, max_increase="5%"), likelihood(OWN), likelihood(BASE)
    )

    assert [(check.limit_name, check.outcome) for check in found.checks] == [
        ("max", Outcome.PASS),
        ("max_ratio", Outcome.PASS),
        ("max_increase", Outcome.FAIL),
    ]
    assert found.headline == "perplexity ratio 1.0942 > max_increase 1.05 (8.499 against 7.768)"


def test_an_absolute_limit_needs_no_baseline() -> None:
    """``max`` alone speaks of perplexity alone."""
    found = judge(settings(max=8.0), likelihood(OWN))

    assert found.headline == "perplexity 8.499 > max 8"
    assert found.checks[0].statistic == "perplexity"
    assert found.record["baseline_perplexity"] is None
    assert judge(settings(max=9.0), likelihood(OWN)).headline == "perplexity 8.499 <= max 9"


@pytest.mark.parametrize(
    ("literal", "outcome"),
    [(8.0, Outcome.PASS), (7.6, Outcome.FAIL)],
)
def test_a_literal_baseline_is_compared_with(literal: float, outcome: Outcome) -> None:
    """A baseline written down as a number takes the place of a measured one, and is called so."""
    found = judge(settings(max_ratio=1.1), likelihood(OWN), literal=literal)

    assert found.checks[0].value == pytest.approx(math.exp(2.14) / literal, rel=1e-12)
    assert found.checks[0].outcome is outcome
    assert found.findings[1] == f"the F16 baseline: perplexity {literal:g} (given as a number)"


# --- what is asked ---------------------------------------------------------------------------------


def test_both_models_are_asked_the_same() -> None:
    """Baseline and candidate get one request: the gate's text and window before the defaults."""
    bench = StubBench(
        context=512, likelihoods={"baseline": likelihood(BASE), "candidate": likelihood(OWN)}
    )

    found = GATE.measure(
        settings(max_ratio=1.1, corpus="own.txt", context=128, chunks=4), as_bench(bench)
    )

    request = LikelihoodRequest(
        corpus_path="own.txt", corpus_sha256="c" * 64, context=128, chunks=4
    )
    assert bench.asked == [("baseline", request), ("candidate", request)]
    assert found.baseline is not None


def test_defaults_of_the_specification_apply() -> None:
    """Without keys of its own the gate takes the specification's text and window, all chunks."""
    bench = StubBench(context=256, likelihoods={"candidate": likelihood(OWN)})

    found = GATE.measure(settings(max=9.0), as_bench(bench))

    request = LikelihoodRequest(
        corpus_path="default.txt", corpus_sha256="c" * 64, context=256, chunks=None
    )
    assert bench.asked == [("candidate", request)]
    assert (found.baseline, found.literal) == (None, None)


def test_a_literal_baseline_is_not_measured() -> None:
    """A figure given as a number spares the baseline's probe."""
    bench = StubBench(
        literals={"perplexity": 8.0, "accuracy": 0.9}, likelihoods={"candidate": likelihood(OWN)}
    )

    assert GATE.measure(settings(max_ratio=1.1), as_bench(bench)).literal == 8.0
    assert [asked[0] for asked in bench.asked] == ["candidate"]


def test_other_tokens_cannot_be_compared() -> None:
    """Models that cut the text differently give an error that says what to do, not a ratio."""
    bench = StubBench(
        likelihoods={
            "baseline": likelihood(BASE),
            "candidate": likelihood(OWN, tokens_sha256="b" * 64),
        }
    )

    with pytest.raises(MeasurementError) as caught:
        GATE.measure(settings(max_ratio=1.1), as_bench(bench))

    assert str(caught.value) == (
        "the variant and the baseline read the text as different tokens (2048 of a vocabulary of"
        " 49152 against 2048 of 49152): their perplexities cannot be compared; use models with the"
        " same tokenizer, or an absolute `max`"
    )


# --- what is said ----------------------------------------------------------------------------------


def test_figures_for_people_and_tools() -> None:
    """Findings give both perplexities as llama-perplexity prints them, the record plain numbers."""
    found = judge(settings(max_ratio=1.1), likelihood(OWN), likelihood(BASE))

    assert found.findings == (
        "perplexity 8.4994 ± 0.26727 over all 4 chunks of 255 scored tokens",
        "the F16 baseline: perplexity 7.7679 ± 0.24486",
    )
    own = perplexity(likelihood(OWN))
    assert found.record == {
        "perplexity": own.value,
        "perplexity_error": own.error,
        "baseline_perplexity": perplexity(likelihood(BASE)).value,
        "chunks": 4,
        "available_chunks": 4,
        "scored_tokens": 1020,
        "vocabulary": 49152,
    }
    assert found.headline == "perplexity ratio 1.0942 <= max_ratio 1.1 (8.499 against 7.768)"


# --- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "right"),
    [
        ({"max": 1.0}, False),
        ({"max": math.nextafter(1, 2)}, True),
        ({"max_ratio": 0.0}, False),
        ({"max_ratio": 1e-9}, True),
        ({"max_ratio": "1.1"}, False),
        ({"max_increase": 0.03}, False),
        ({"max_increase": "3%"}, True),
        ({"context": 7}, False),
        ({"context": 8}, True),
        ({"chunks": 1}, False),
        ({"chunks": 2}, True),
        ({"corpus": ""}, False),
        ({"limit": 1}, False),
    ],
)
def test_what_settings_accept(values: dict[str, object], *, right: bool) -> None:
    """Each setting has its bounds, and numbers are not made from texts."""
    if right:
        settings(**values)
    else:
        with pytest.raises(ValidationError):
            settings(**values)


def test_which_limits_need_a_baseline() -> None:
    """A ratio and an increase do, an absolute limit does not; all count as limits."""
    assert not GATE.needs_baseline(settings(max=9.0))
    assert GATE.needs_baseline(settings(max=9.0, max_ratio=1.1))
    assert GATE.needs_baseline(settings(max_increase="3%"))
    given_limits = settings(max_increase="3%", max=9.0).limits_given()
    assert given_limits == ("max", "max_increase")
    assert settings(chunks=4).limits_given() == ()
