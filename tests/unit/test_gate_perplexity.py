"""The perplexity gate: llama.cpp's formulas, sequential verdicts, what is asked and what is said."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from bench_stub import StubBench, as_bench, likelihood, part
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pytest_quantgate import sampling
from pytest_quantgate.errors import MeasurementError
from pytest_quantgate.gates import Judgement, kinds
from pytest_quantgate.gates.perplexity import (
    GATE,
    PerplexitySettings,
    perplexity,
    sampled_limits,
)
from pytest_quantgate.records import (
    Check,
    Likelihood,
    LikelihoodRequest,
    NoiseFloor,
    Outcome,
    Packed,
    TextRequest,
)

if TYPE_CHECKING:
    from pytest_quantgate.gates import Role

BASE = (2.0, 2.2, 1.9, 2.1)
OWN = (2.1, 2.25, 2.02, 2.19)
MEAN_DIFFERENCE = (0.1 + 0.05 + 0.12 + 0.09) / 4

_NOISE = np.random.default_rng(5)
TEXT_BASE = tuple(_NOISE.normal(2.4, 0.3, 220).tolist())
TEXT_OWN = tuple(base + _NOISE.normal(0.07, 0.03) for base in TEXT_BASE)
"""A text of 220 windows on which one model is about 7% worse than the other."""


def settings(**values: object) -> PerplexitySettings:
    """Return settings as a specification would give them."""
    return PerplexitySettings.model_validate(values)


def bench(own: Likelihood, base: Likelihood | None = None, **changes: object) -> StubBench:
    """Return a bench with a whole text under one model or two."""
    likelihoods: dict[Role, Likelihood] = {"candidate": own}
    if base is not None:
        likelihoods["baseline"] = base
    return replace(StubBench(likelihoods=likelihoods), **changes)  # type: ignore[arg-type]


def judged(stub: StubBench, **values: object) -> Judgement:
    """Measure and judge."""
    given = settings(**values)
    return GATE.judge(given, GATE.measure(given, as_bench(stub)), as_bench(stub))


def small(**values: object) -> Judgement:
    """Judge the text of four windows."""
    return judged(bench(likelihood(OWN), likelihood(BASE)), **values)


def long(**values: object) -> Judgement:
    """Judge the text of 220 windows."""
    return judged(bench(likelihood(TEXT_OWN), likelihood(TEXT_BASE)), **values)


def only(judgement: Judgement) -> Check:
    """Return the only check of a judgement."""
    (check,) = judgement.checks
    assert isinstance(check, Check)
    return check


# --- formulas --------------------------------------------------------------------------------------


def scored(chunks: list[list[float]]) -> Likelihood:
    """Return windows of tokens with these likelihoods."""
    return replace(
        likelihood([0.0] * len(chunks), tokens=len(chunks[0])),
        chunk_nll=tuple(math.fsum(chunk) for chunk in chunks),
        chunk_nll2=tuple(math.fsum(token**2 for token in chunk) for chunk in chunks),
        token_nll=Packed.of(np.array(chunks), "<f4"),
    )


def test_perplexity_by_hand() -> None:
    """Four tokens at 1, 2, 3, 2 nats: mean 2, variance 18/4 - 4 = 1/2, error e^2 sqrt(1/2 / 3)."""
    found = perplexity(scored([[1.0, 2.0], [3.0, 2.0]]))

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

    found = perplexity(scored(chunks))

    assert found.value == pytest.approx(math.exp(mean), rel=1e-12)
    if variance > 1e-6:
        expected = math.exp(mean) * math.sqrt(variance / (count - 1))
        assert found.error == pytest.approx(expected, rel=1e-6)


def test_tokens_of_equal_likelihood_leave_no_error() -> None:
    """Where rounding makes the variance negative, the error is 0 and not a complex number."""
    assert perplexity(likelihood([1.1, 1.1, 1.1], spread=0.0)).error == pytest.approx(0, abs=1e-6)


def test_the_order_of_measuring_does_not_change_a_digit() -> None:
    """A whole text sums in its own order, whatever the seed: the tool's figure to the last bit."""
    found = {long(max_ratio=1.0701, seed=seed).record["perplexity"] for seed in range(4)}

    assert found == {perplexity(likelihood(TEXT_OWN)).value}


# --- verdicts over a whole corpus ------------------------------------------------------------------


def test_a_whole_corpus_is_exact() -> None:
    """With every window measured the ratio is a number without interval, paired by window."""
    check = only(small(max_ratio=1.1))

    assert check.value == pytest.approx(math.exp(MEAN_DIFFERENCE), rel=1e-12)
    assert check.interval is not None
    assert (check.interval.low, check.interval.high) == (check.value, check.value)
    assert (check.interval.confidence, check.interval.fail_confidence) == (1.0, 1.0)
    assert check.sample == "all 4 chunks"
    assert check.baseline == pytest.approx(math.exp(2.05), rel=1e-12)
    assert check.statistic == "perplexity ratio"


@pytest.mark.parametrize("name", ["max_ratio", "max"])
def test_a_limit_on_a_whole_corpus_holds_to_the_last_bit(name: str) -> None:
    """Just above the value and at it passes; one float below it fails; there is no third verdict."""
    value = only(small(**{name: 100.0})).value
    assert value is not None

    outcomes = [
        only(small(**{name: limit})).outcome
        for limit in (math.nextafter(value, 0), value, math.nextafter(value, 100))
    ]

    assert outcomes == [Outcome.FAIL, Outcome.PASS, Outcome.PASS]


def test_an_increase_is_a_ratio_in_other_words() -> None:
    """A rise of 7.2% passes ``8%``, fails ``7%``, and is shown as the ratio it is."""
    stub = bench(likelihood((math.log(1.072),) * 2), likelihood([0.0, 0.0]))
    for text, outcome in (("8%", Outcome.PASS), ("7.2%", Outcome.PASS), ("7%", Outcome.FAIL)):
        check = only(judged(stub, max_increase=text))
        assert check.outcome is outcome, text
    assert (check.limit_name, check.limit) == ("max_increase", 1.07)


def test_no_increase_can_be_demanded() -> None:
    """``0%`` passes a variant that is no worse and fails one that is."""
    for shift, outcome in ((-1e-6, Outcome.PASS), (1e-6, Outcome.FAIL)):
        own = likelihood([mean + shift for mean in BASE])
        assert only(judged(bench(own, likelihood(BASE)), max_increase="0%")).outcome is outcome


# --- verdicts over a part --------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "outcome"), [(1.15, Outcome.PASS), (1.02, Outcome.FAIL)])
def test_a_clear_case_takes_sixteen_windows(limit: float, outcome: Outcome) -> None:
    """7% against 15% or 2% is decided at the first look, and both sides say so."""
    found = long(max_ratio=limit)
    check = only(found)

    assert check.outcome is outcome
    assert check.sample == "16 of 220 chunks"
    assert found.headline.endswith("; 16 of 220 chunks decided it")
    assert check.interval is not None
    assert (check.interval.confidence, check.interval.fail_confidence) == (0.95, 0.99)
    assert found.record["ended"] == "decided"


def test_a_close_case_ends_with_the_text() -> None:
    """A limit a hair above the true ratio is decided by all windows, and then exactly."""
    true = math.exp(sum(TEXT_OWN) / 220 - sum(TEXT_BASE) / 220)

    found = long(max_ratio=true * 1.00001)

    assert only(found).outcome is Outcome.PASS
    assert found.headline.endswith("; all 220 chunks")
    assert found.record["chunks"] == 220


def test_the_interval_is_of_paired_windows() -> None:
    """Windows that differ a lot but shift alike decide a ratio early and an absolute value late."""
    ratio = only(long(max_ratio=1.15))
    absolute = only(long(max=13.0))

    assert ratio.sample == "16 of 220 chunks"
    assert absolute.sample != ratio.sample
    assert absolute.statistic == "perplexity"


@pytest.mark.parametrize(("action", "warn"), [("fail", False), ("warn", True)])
def test_a_budget_may_leave_it_undecided(action: str, *, warn: bool) -> None:
    """Then the message says how many more windows would decide it, and the gate warns if it may."""
    found = long(max_ratio=1.075, max_chunks=16, on_inconclusive=action)

    assert only(found).outcome is Outcome.INCONCLUSIVE
    assert found.headline.startswith("perplexity ratio 1.0")
    assert " ~ max_ratio 1.075 (" in found.headline
    assert found.headline.endswith("; 16 of 220 chunks did not decide it")
    assert found.findings[3].startswith(
        "max_ratio is undecided: max_chunks ended it at 16 of 220 chunks; about "
    )
    assert found.findings[3].endswith(" of 220 in all) would decide it: raise max_chunks")
    assert found.warn is warn


def test_a_decided_gate_never_warns() -> None:
    """`on_inconclusive: warn` is about doubt: a miss stays a miss."""
    assert not long(max_ratio=1.02, on_inconclusive="warn").warn
    assert not long(max_ratio=1.15, on_inconclusive="warn").warn


def test_a_committed_baseline_ends_where_its_windows_do() -> None:
    """With 32 windows served the gate stops there and says whose end it was."""
    stub = bench(likelihood(TEXT_OWN), likelihood(TEXT_BASE), served=32)

    found = judged(stub, max_ratio=1.072)

    assert found.record["chunks"] == 32
    assert "the committed baseline has 32 of 220 chunks; about " in found.findings[3]


def test_windows_beyond_a_cut_do_not_count() -> None:
    """`chunks` makes the start of the text the whole of what the verdict is about."""
    found = long(max_ratio=1.15, chunks=16)

    assert only(found).sample == "all 16 chunks"
    assert found.record["population"] == 16
    assert found.record["available_chunks"] == 220


# --- policies --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "increase", "advice"),
    [
        (
            "strict",
            0.02,
            "the guide Quantization Strategy accepts a loss below 2%; beyond it, it takes Q5_K_M or"
            " Q5_K_S in place of a 4-bit type, and AWQ rather than GPTQ where the runtime has both",
        ),
        (
            "standard",
            0.05,
            "the guide Quantization Strategy asks to try a different quantization method before a loss"
            " above 5% is accepted",
        ),
        (
            "lenient",
            0.1,
            "the guides Model Quantization and Quantization for Inference end at 10%; the latter says"
            " to move up one quantization level when outputs get noticeably worse",
        ),
    ],
)
def test_a_policy_is_a_limit_with_its_advice(policy: str, increase: float, advice: str) -> None:
    """At the policy's increase it passes; beyond it fails, with what its guide says then."""
    base = likelihood([2.0, 2.0])
    within = likelihood([2 + math.log(1 + increase) - 1e-9] * 2)
    beyond = likelihood([2 + math.log(1 + increase) + 1e-9] * 2)

    passed = judged(bench(within, base), policy=policy)
    failed = judged(bench(beyond, base), policy=policy)

    assert only(passed).outcome is Outcome.PASS
    assert passed.advice == ()
    assert only(failed).outcome is Outcome.FAIL
    assert failed.advice == (advice,)
    text = f"policy {policy} ({1 + increase:g})"
    assert (only(failed).limit_name, only(failed).limit_text) == ("policy", text)
    assert f" > {text} (" in failed.headline


def test_other_limits_bring_no_policys_advice() -> None:
    """What a guide says belongs to its own threshold."""
    assert small(max_ratio=1.01, policy="lenient").advice == ()


# --- several limits, literal baselines -------------------------------------------------------------


def test_each_limit_has_its_check_and_the_worst_speaks() -> None:
    """Three limits give three checks; the headline is about the one that failed."""
    found = small(max=9.0, max_ratio=1.2, max_increase="5%")

    assert [(check.limit_name, check.outcome) for check in found.checks] == [
        ("max", Outcome.PASS),
        ("max_ratio", Outcome.PASS),
        ("max_increase", Outcome.FAIL),
    ]
    assert found.headline == (
        "perplexity ratio 1.0942 > max_increase 1.05 (8.499 against 7.768); all 4 chunks"
    )


def test_one_failure_ends_it_and_the_rest_stays_open() -> None:
    """A limit that a failure left undecided is called so, without asking for more windows."""
    found = long(max_ratio=1.02, max=12.0)

    assert [check.outcome for check in found.checks] == [Outcome.INCONCLUSIVE, Outcome.FAIL]
    assert found.findings[3] == "max is undecided at 16 of 220 chunks, where another limit failed"


def test_an_absolute_limit_needs_no_baseline() -> None:
    """``max`` alone speaks of perplexity alone."""
    found = judged(bench(likelihood(OWN)), max=8.0)

    assert found.headline == "perplexity 8.499 > max 8; all 4 chunks"
    assert found.record["baseline_perplexity"] is None
    assert found.record["design_effect"] is None
    assert judged(bench(likelihood(OWN)), max=9.0).headline == (
        "perplexity 8.499 <= max 9; all 4 chunks"
    )


@pytest.mark.parametrize(("literal", "outcome"), [(8.0, Outcome.PASS), (7.6, Outcome.FAIL)])
def test_a_literal_baseline_is_compared_with(literal: float, outcome: Outcome) -> None:
    """A baseline written down as a number takes the place of a measured one, and is called so."""
    found = judged(bench(likelihood(OWN), literals={"perplexity": literal}), max_ratio=1.1)

    assert found.checks[0].value == pytest.approx(math.exp(2.14) / literal, rel=1e-12)
    assert found.checks[0].outcome is outcome
    assert found.findings[1] == f"the F16 baseline: perplexity {literal:g} (given as a number)"


def test_the_values_behind_a_limit() -> None:
    """Per limit its name, the windows' values and the bound on their scale, for who plans with them."""
    found = sampled_limits(
        settings(max=9.0, policy="standard"), likelihood(OWN), likelihood(BASE), None
    )

    assert [limit.name for limit in found] == ["max", "policy"]
    assert [limit.bound for limit in found] == [math.log(9), math.log(1.05)]
    assert found[0].values == pytest.approx(OWN)
    assert found[1].values == pytest.approx((0.1, 0.05, 0.12, 0.09))


# --- what is asked ---------------------------------------------------------------------------------


def text(name: str, context: int) -> TextRequest:
    """Return the request for what a model makes of a text."""
    return TextRequest(corpus_path=name, corpus_sha256="c" * 64, context=context)


def windows(name: str, context: int, chunks: tuple[int, ...]) -> LikelihoodRequest:
    """Return the request for windows of a text."""
    return LikelihoodRequest(
        corpus_path=name, corpus_sha256="c" * 64, context=context, chunks=chunks
    )


def test_both_models_are_asked_the_same() -> None:
    """Tokens first, then the same windows of both in the seed's order: the gate's text and window."""
    stub = bench(likelihood(OWN), likelihood(BASE))

    GATE.measure(settings(max_ratio=1.1, corpus="own.txt", context=128, seed=3), as_bench(stub))

    request = windows("own.txt", 128, sampling.order(3, 4))
    assert stub.asked == [
        ("candidate", text("own.txt", 128)),
        ("baseline", text("own.txt", 128)),
        (text("own.txt", 128),),
        (text("own.txt", 128), 3, False),
        ("baseline", request),
        ("candidate", request),
    ]


def test_windows_are_asked_for_in_blocks() -> None:
    """Sixteen at a time, from one look to the next, none of them twice."""
    stub = bench(likelihood(TEXT_OWN), likelihood(TEXT_BASE))

    GATE.measure(settings(max_ratio=1.075, max_chunks=40), as_bench(stub))

    order = sampling.order(0, 220)
    asked = [request for role, request in stub.asked[4:] if role == "candidate"]
    assert asked == [
        windows("default.txt", 512, order[start:stop])
        for start, stop in ((0, 16), (16, 32), (32, 40))
    ]
    assert stub.announced == [(0, 16), (16, 32), (32, 40)]


def test_defaults_of_the_specification_apply() -> None:
    """Without keys of its own the gate takes the specification's text and window, all chunks."""
    stub = bench(likelihood(OWN), context=256)

    found = GATE.measure(settings(max=9.0), as_bench(stub))

    assert stub.asked == [
        ("candidate", text("default.txt", 256)),
        ("candidate", windows("default.txt", 256, sampling.order(0, 4))),
    ]
    assert (found.baseline, found.literal) == (None, None)


def test_a_literal_baseline_is_not_measured() -> None:
    """A figure given as a number spares the baseline's probe."""
    stub = bench(likelihood(OWN), literals={"perplexity": 8.0, "accuracy": 0.9})

    assert GATE.measure(settings(max_ratio=1.1), as_bench(stub)).literal == 8.0
    assert {asked[0] for asked in stub.asked} == {"candidate"}


def test_time_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """`max_time` reaches the draw in seconds."""
    seen: list[object] = []
    draw = sampling.draw

    def watched(*args: object, max_seconds: float | None) -> sampling.Drawn:
        seen.append(max_seconds)
        return draw(*args, max_seconds=max_seconds)  # type: ignore[arg-type]

    monkeypatch.setattr(sampling, "draw", watched)
    small(max_ratio=1.1, max_time="5min")

    assert seen == [300.0]


# --- guards ----------------------------------------------------------------------------------------


def test_other_tokens_are_refused_before_anything_is_measured() -> None:
    """Models that cut the text differently are an error, told from the tokens alone."""
    stub = bench(likelihood(OWN, tokens_sha256="b" * 64), likelihood(BASE))

    with pytest.raises(
        MeasurementError, match=r"have different tokenizers: .* Use the gate nll_per_"
    ):
        GATE.measure(settings(max_ratio=1.1), as_bench(stub))

    assert [asked[0] for asked in stub.asked] == ["candidate", "baseline"]


@pytest.mark.parametrize(
    ("own", "base", "name"),
    [((10.0,) * 4, BASE, "Q4_K_M"), (OWN, (10.0,) * 4, "the F16 baseline")],
)
def test_guessing_is_an_error_of_either_model(
    own: tuple[float, ...], base: tuple[float, ...], name: str
) -> None:
    """A model near ln(vocabulary) is broken, not bad."""
    with pytest.raises(
        MeasurementError, match=f"^{name} predicts the text no better than guessing"
    ):
        judged(bench(likelihood(own), likelihood(base)), max_ratio=2.0)


def test_the_same_weights_under_two_names_are_an_error() -> None:
    """Equal to the last bit where the types differ; where they do not, that is possible."""
    stub = bench(likelihood(BASE), likelihood(BASE))

    with pytest.raises(MeasurementError, match=r"^every likelihood of Q4_K_M equals"):
        judged(stub, max_ratio=1.1)
    assert only(judged(replace(stub, types=("F16", "F16")), max_ratio=1.1)).value == 1.0


@pytest.mark.parametrize(
    ("values", "refused"),
    [
        ({"max_ratio": 1.0029}, True),
        ({"max_ratio": 1.0031}, False),
        ({"max_ratio": 0.9971}, True),
        ({"max_ratio": 0.9969}, False),
        ({"max_increase": "0.29%"}, True),
        ({"policy": "strict"}, False),
        ({"max": 9.0}, False),
    ],
)
def test_limits_inside_the_noise_are_refused(values: dict[str, object], *, refused: bool) -> None:
    """A limit within three times what the baseline differs from itself by is refused beforehand."""
    floor = NoiseFloor(log_ratio=0.001, kld=0.0004, chunks=40, settings=())
    stub = bench(likelihood(OWN), likelihood(BASE), floor=floor)
    if refused:
        with pytest.raises(MeasurementError, match="is inside the noise"):
            GATE.measure(settings(**values), as_bench(stub))
        assert not any(isinstance(asked[-1], LikelihoodRequest) for asked in stub.asked)
    else:
        GATE.measure(settings(**values), as_bench(stub))


def test_a_text_without_windows_is_an_error() -> None:
    """Nothing to measure is no verdict."""
    empty = replace(part(likelihood(OWN), []), available_chunks=0)

    with pytest.raises(MeasurementError, match="has no whole window"):
        judged(bench(empty), max=9.0)


# --- what is said ----------------------------------------------------------------------------------


def test_figures_for_people_and_tools() -> None:
    """Findings give both perplexities as llama-perplexity prints them, the record plain numbers."""
    notes = ("the baseline was measured and written to baselines/m.json; commit it",)
    found = judged(bench(likelihood(OWN), likelihood(BASE), notes=notes), max_ratio=1.1)

    assert found.findings == (
        "perplexity 8.4994 ± 0.26675 over all 4 chunks of 255 scored tokens",
        "the F16 baseline: perplexity 7.7679 ± 0.24438",
        *found.findings[2:3],
        *notes,
    )
    own = perplexity(likelihood(OWN))
    effect = found.record["design_effect"]
    assert found.findings[2] == (
        f"design effect {effect:.2f}: the windows' differences vary that many times as much as if"
        " their tokens were independent"
    )
    assert found.record == {
        "perplexity": own.value,
        "perplexity_error": own.error,
        "baseline_perplexity": perplexity(likelihood(BASE)).value,
        "chunks": 4,
        "population": 4,
        "available_chunks": 4,
        "scored_tokens": 1020,
        "vocabulary": 49152,
        "design_effect": effect,
        "seed": 0,
        "ended": "complete",
    }
    assert found.headline == (
        "perplexity ratio 1.0942 <= max_ratio 1.1 (8.499 against 7.768); all 4 chunks"
    )


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
        ({"policy": "strict"}, True),
        ({"policy": "loose"}, False),
        ({"context": 7}, False),
        ({"context": 8}, True),
        ({"chunks": 1}, False),
        ({"chunks": 2}, True),
        ({"max_chunks": 15}, False),
        ({"max_chunks": 16}, True),
        ({"max_time": 90}, False),
        ({"max_time": "90s"}, True),
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
    """A ratio, an increase and a policy do, an absolute limit does not; all count as limits."""
    assert not GATE.needs_baseline(settings(max=9.0))
    assert GATE.needs_baseline(settings(max=9.0, max_ratio=1.1))
    assert GATE.needs_baseline(settings(max_increase="3%"))
    assert GATE.needs_baseline(settings(policy="strict"))
    given_limits = settings(max_increase="3%", max=9.0, policy="strict").limits_given()
    assert given_limits == ("max", "max_increase", "policy")
    assert settings(chunks=4, max_chunks=16).limits_given() == ()


def test_limits_come_first_in_the_reference() -> None:
    """The order of the keys is that of the documentation: limits, then what they are measured on."""
    names = list(PerplexitySettings.model_fields)

    assert names[:4] == list(PerplexitySettings.limit_names)
    assert kinds()["perplexity"] is GATE
