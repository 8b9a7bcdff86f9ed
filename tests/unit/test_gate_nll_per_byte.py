"""The nll_per_byte gate: ratios of sums over passages of equal text, whatever the tokens."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from bench_stub import StubBench, as_bench, passages
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pytest_quantgate import sampling
from pytest_quantgate.errors import MeasurementError
from pytest_quantgate.gates import Judgement, kinds
from pytest_quantgate.gates.nll_per_byte import (
    GATE,
    NllPerByteSettings,
    merged,
    per_byte,
    sampled_limits,
)
from pytest_quantgate.records import Check, Outcome, PassageLikelihood, PassageRequest

if TYPE_CHECKING:
    from pytest_quantgate.gates import Role

_NOISE = np.random.default_rng(3)
TEXT_BASE = _NOISE.normal(900, 100, 300)
TEXT_OWN = TEXT_BASE * 1.05 + _NOISE.normal(0, 12, 300)
"""A text of 300 passages of which one model needs about 5% more nats than the other."""


def settings(**values: object) -> NllPerByteSettings:
    """Return settings as a specification would give them."""
    return NllPerByteSettings.model_validate(values)


def bench(
    own: PassageLikelihood, base: PassageLikelihood | None = None, **changes: object
) -> StubBench:
    """Return a bench with the passages of one model or two."""
    likelihoods: dict[Role, PassageLikelihood] = {"candidate": own}
    if base is not None:
        likelihoods["baseline"] = base
    return replace(StubBench(passage_likelihoods=likelihoods), **changes)  # type: ignore[arg-type]


def judged(stub: StubBench, **values: object) -> Judgement:
    """Measure and judge."""
    given_settings = settings(**values)
    evidence = GATE.measure(given_settings, as_bench(stub))
    return GATE.judge(given_settings, evidence, as_bench(stub))


def long(**values: object) -> Judgement:
    """Judge the text of 300 passages, the variant with another vocabulary."""
    own = passages(TEXT_OWN.tolist(), vocabulary=32000, tokens=300)
    return judged(bench(own, passages(TEXT_BASE.tolist())), **values)


def only(judgement: Judgement) -> Check:
    """Return the only check of a judgement."""
    (check,) = judgement.checks
    assert isinstance(check, Check)
    return check


# --- values ----------------------------------------------------------------------------------------


def test_nats_per_byte_are_a_ratio_of_sums() -> None:
    """(3 + 9) / (10 + 50) bytes, not the mean of 0.3 and 0.18."""
    found = passages([3.0, 9.0], lengths=(10, 50))

    assert per_byte(found) == 0.2
    assert only(judged(bench(found), max=0.2)).value == 0.2


@pytest.mark.parametrize("name", ["max", "max_ratio", "max_increase"])
def test_a_whole_text_is_exact(name: str) -> None:
    """At the value it passes, one float (or a thousandth of a percent) below it fails."""
    own, base = passages([300.0, 330.0]), passages([310.0, 290.0])
    value = {"max": 630 / 2048, "max_ratio": 1.05, "max_increase": 1.05}[name]
    limits: tuple[object, object] = (value, math.nextafter(value, 0))
    if name == "max_increase":
        limits = ("5%", "4.999%")

    passed, failed = (judged(bench(own, base), **{name: limit}) for limit in limits)

    assert only(passed).value == pytest.approx(value, rel=1e-15)
    assert only(passed).outcome is Outcome.PASS
    assert only(failed).outcome is Outcome.FAIL
    assert only(passed).sample == "all 2 passages"


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ({"max_ratio": 1.1}, Outcome.PASS),
        ({"max_increase": "1%"}, Outcome.FAIL),
        ({"max": 1.5}, Outcome.PASS),
        ({"max": 0.5}, Outcome.FAIL),
    ],
)
def test_clear_cases_take_sixteen_passages(values: dict[str, object], outcome: Outcome) -> None:
    """What is far from its limit is decided at the first look."""
    found = long(**values)

    assert only(found).outcome is outcome
    assert only(found).sample == "16 of 300 passages"
    assert found.headline.endswith("; 16 of 300 passages decided it")


def test_the_bounds_are_of_the_ratio() -> None:
    """They hold the true ratio, are narrow by pairing, and carry both confidences."""
    check = only(long(max_ratio=1.1))

    assert check.interval is not None
    assert check.interval.low < TEXT_OWN.sum() / TEXT_BASE.sum() < check.interval.high
    assert check.interval.high - check.interval.low < 0.05
    assert (check.interval.confidence, check.interval.fail_confidence) == (0.95, 0.99)


def test_a_budget_may_leave_it_undecided() -> None:
    """Then the message counts passages, and the gate warns where it may."""
    found = long(max_ratio=1.0505, max_chunks=16, on_inconclusive="warn")

    assert only(found).outcome is Outcome.INCONCLUSIVE
    assert found.warn
    assert found.findings[-1].startswith(
        "max_ratio is undecided: max_chunks ended it at 16 of 300 passages; about "
    )
    assert " more passages (" in found.findings[-1]


def test_the_values_behind_a_limit() -> None:
    """Differences at the limit in units of the mean denominator, which are to be 0 at most."""
    own, base = passages([310.0, 330.0]), passages([290.0, 310.0])

    (absolute, ratio) = sampled_limits(settings(max=0.3, max_ratio=1.05), own, base)

    assert absolute.values == pytest.approx((310 / 1024 - 0.3, 330 / 1024 - 0.3))
    assert ratio.values == pytest.approx(((310 - 304.5) / 300, (330 - 325.5) / 300))
    assert (absolute.bound, ratio.bound) == (0.0, 0.0)
    assert ratio.shown(0.01) == pytest.approx(1.06)


@given(st.permutations(range(6)), st.integers(1, 5))
def test_blocks_in_any_order_are_the_text(order: list[int], cut: int) -> None:
    """Merged, the passages stand as in the text."""
    whole = passages([float(10 + number) for number in range(6)], lengths=tuple(range(20, 26)))

    def block(chosen: list[int]) -> PassageLikelihood:
        return replace(
            whole,
            passages=tuple(chosen),
            nll=tuple(whole.nll[each] for each in chosen),
            bytes=tuple(whole.bytes[each] for each in chosen),
            tokens=tuple(whole.tokens[each] for each in chosen),
        )

    assert merged([block(order[:cut]), block(order[cut:])]) == replace(whole, seconds=3.0)


# --- what is asked ---------------------------------------------------------------------------------


def test_both_models_are_asked_for_the_same_passages() -> None:
    """In the seed's order, the baseline first; no tokens are asked about, for they may differ."""
    stub = bench(passages([310.0] * 20), passages([300.0] * 19 + [301.0]))

    GATE.measure(
        settings(max_ratio=1.2, corpus="own.txt", passage_bytes=512, seed=4, max_chunks=16),
        as_bench(stub),
    )

    request = PassageRequest(
        corpus_path="own.txt",
        corpus_sha256="c" * 64,
        passage_bytes=512,
        passages=sampling.order(4, 20)[:16],
    )
    assert stub.asked == [(Path("own.txt"), 512), ("baseline", request), ("candidate", request)]


def test_an_absolute_limit_needs_no_baseline() -> None:
    """``max`` measures the variant alone."""
    stub = bench(passages([310.0, 320.0]))

    found = judged(stub, max=0.4)

    assert [asked[0] for asked in stub.asked[1:]] == ["candidate"]
    assert found.headline == "nll per byte 0.3076 nats <= max 0.4; all 2 passages"
    assert found.record["baseline_nll_per_byte"] is None
    assert found.checks[0].unit == "nats/byte"


# --- guards ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "base", "name"),
    [(2600.0, 300.0, "Q4_K_M"), (310.0, 2600.0, "the F16 baseline")],
)
def test_guessing_is_an_error_of_either_model(own: float, base: float, name: str) -> None:
    """A model near ln(vocabulary) a token is broken, not bad."""
    with pytest.raises(
        MeasurementError, match=f"^{name} predicts the text no better than guessing"
    ):
        judged(bench(passages([own] * 2), passages([base] * 2)), max_ratio=2.0)


def test_other_bytes_are_no_comparison() -> None:
    """Both must have scored the same text, passage by passage."""
    stub = bench(
        passages([310.0, 320.0], lengths=(100, 101)), passages([300.0, 310.0], lengths=100)
    )

    with pytest.raises(MeasurementError) as caught:
        judged(stub, max_ratio=1.1)

    assert str(caught.value) == (
        "Q4_K_M and the F16 baseline scored 101 and 100 bytes of passage 1: they are not of the same"
        " text, so their likelihoods cannot be compared"
    )


def test_the_same_weights_under_two_names_are_an_error() -> None:
    """Equal to the last bit where the types differ."""
    stub = bench(passages([300.0, 310.0]), passages([300.0, 310.0]))

    with pytest.raises(MeasurementError, match=r"^every likelihood of Q4_K_M equals"):
        judged(stub, max_ratio=1.1)
    assert only(judged(replace(stub, types=("F16", "F16")), max_ratio=1.1)).value == 1.0


def test_a_text_without_a_passage_is_an_error() -> None:
    """Nothing to measure is no verdict."""
    with pytest.raises(MeasurementError, match="has no passage of 2048 bytes"):
        judged(bench(passages([])), max=1.0)


# --- what is said ----------------------------------------------------------------------------------


def test_figures_for_people_and_tools() -> None:
    """Nats and bits per byte, and how long each tokenizer's tokens are."""
    own = passages([310.0, 320.0], tokens=200, vocabulary=32000)
    stub = bench(own, passages([300.0, 310.0]), notes=("a note",))

    found = judged(stub, max_ratio=1.1)

    assert found.headline == (
        "nll per byte ratio 1.0328 <= max_ratio 1.1 (0.3076 against 0.2979 nats); all 2 passages"
    )
    assert found.findings == (
        "0.3076 nats per byte (0.4438 bits per byte; 5.12 bytes a token of a vocabulary of 32000), over"
        " all 2 passages of 2048 bytes",
        "the F16 baseline: 0.2979 nats per byte (0.4297 bits per byte; 4.00 bytes a token of a"
        " vocabulary of 49152)",
        "a note",
    )
    assert found.record == {
        "nll_per_byte": 630 / 2048,
        "bits_per_byte": 630 / 2048 / math.log(2),
        "baseline_nll_per_byte": 610 / 2048,
        "passages": 2,
        "population": 2,
        "passage_bytes": 2048,
        "scored_bytes": 2048,
        "scored_tokens": 400,
        "baseline_scored_tokens": 512,
        "vocabulary": 32000,
        "seed": 0,
        "ended": "complete",
    }


# --- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "right"),
    [
        ({"max": 0.0}, False),
        ({"max": 0.001}, True),
        ({"max_ratio": 0.0}, False),
        ({"max_increase": "3%"}, True),
        ({"max_increase": 1.03}, False),
        ({"passage_bytes": 63}, False),
        ({"passage_bytes": 64}, True),
        ({"context": 512}, False),
        ({"chunks": 40}, False),
        ({"max_chunks": 16}, True),
        ({"corpus": ""}, False),
    ],
)
def test_what_settings_accept(values: dict[str, object], *, right: bool) -> None:
    """Windows of tokens have no place here; everything else is as in the other sampled gates."""
    if right:
        settings(**values)
    else:
        with pytest.raises(ValidationError):
            settings(**values)


def test_which_limits_need_a_baseline() -> None:
    """A ratio and an increase do, an absolute limit does not."""
    assert not GATE.needs_baseline(settings(max=1.0))
    assert GATE.needs_baseline(settings(max=1.0, max_ratio=1.1))
    assert GATE.needs_baseline(settings(max_increase="3%"))
    assert list(NllPerByteSettings.model_fields)[:3] == list(NllPerByteSettings.limit_names)
    assert "context" not in NllPerByteSettings.model_json_schema()["properties"]
    assert kinds()["nll_per_byte"] is GATE
