"""The kld gate: each limit on real-looking divergences, the three references, lower bounds, guards."""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from bench_stub import StubBench, as_bench, divergence, likelihood
from pydantic import ValidationError

from pytest_quantgate import sampling
from pytest_quantgate.errors import ArtifactError, MeasurementError
from pytest_quantgate.gates import Judgement, kinds
from pytest_quantgate.gates.kld import GATE, KldSettings, sampled_limits
from pytest_quantgate.records import (
    Check,
    Divergence,
    DivergenceRequest,
    NoiseFloor,
    Outcome,
    Packed,
    TextRequest,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NOISE = np.random.default_rng(11)
CHUNKS, TOKENS = 220, 64
KLD: NDArray[Any] = _NOISE.lognormal(-4, 1.2, (CHUNKS, TOKENS)) * _NOISE.lognormal(
    0, 0.2, (CHUNKS, 1)
)
SAME: NDArray[Any] = _NOISE.random((CHUNKS, TOKENS)) < 0.93
OWN = likelihood(_NOISE.normal(2.5, 0.3, CHUNKS).tolist(), tokens=TOKENS)
BASE = likelihood(_NOISE.normal(2.4, 0.3, CHUNKS).tolist(), tokens=TOKENS)
TEXT = divergence(KLD, SAME, own=OWN, base=BASE)
"""A text of 220 windows: mean KLD about 0.039, 7% of the most likely tokens changed."""

FOUR = divergence(
    np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6], [0.0, 0.7]]),
    np.array([[1, 1], [1, 0], [1, 1], [1, 1]]),
)
"""A text of four windows of two tokens: sums that can be done in the head."""


def settings(**values: object) -> KldSettings:
    """Return settings as a specification would give them."""
    return KldSettings.model_validate(values)


def bench(found: Divergence, **changes: object) -> StubBench:
    """Return a bench with a whole text's divergence."""
    return replace(StubBench(diverged=found), **changes)  # type: ignore[arg-type]


def judged(stub: StubBench, **values: object) -> Judgement:
    """Measure and judge."""
    given = settings(**values)
    return GATE.judge(given, GATE.measure(given, as_bench(stub)), as_bench(stub))


def only(judgement: Judgement) -> Check:
    """Return the only check of a judgement."""
    (check,) = judgement.checks
    assert isinstance(check, Check)
    return check


# --- limits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "statistic", "value"),
    [
        ("max_mean", "mean KLD", 0.35),
        ("max_median", "median KLD", 0.35),
        ("max_p90", "90% KLD", 0.63),
        ("max_p95", "95% KLD", 0.665),
        ("max_p99", "99% KLD", 0.693),
        ("max_p999", "99.9% KLD", 0.6993),
        ("max", "maximum KLD", 0.7),
    ],
)
def test_limits_on_the_divergence(name: str, statistic: str, value: float) -> None:
    """On a whole text each statistic is a number; a thousandth above it passes, below it fails."""
    check = only(judged(bench(FOUR), **{name: value * 1.001}))

    assert (check.limit_name, check.statistic) == (name, statistic)
    assert check.value == pytest.approx(value, rel=1e-6)
    assert check.outcome is Outcome.PASS
    assert only(judged(bench(FOUR), **{name: value * 0.999})).outcome is Outcome.FAIL


def test_a_limit_on_the_most_likely_token() -> None:
    """7 of 8 agree: exactly that share passes, a hair more is missed; shown as a percentage."""
    check = only(judged(bench(FOUR), min_same_top=0.875))

    assert (check.statistic, check.value, check.outcome) == ("same top token", 0.875, Outcome.PASS)
    missed = judged(bench(FOUR), min_same_top=math.nextafter(0.875, 1))
    assert only(missed).outcome is Outcome.FAIL
    assert missed.headline == "same top token 87.50% < min_same_top 0.875; all 4 chunks"


def test_a_limit_on_the_change_of_probability() -> None:
    """Probabilities 1/2 against 1/4 everywhere: the root mean square is 25 points."""
    own = likelihood([math.log(4)] * 4, tokens=2, spread=0.0)
    base = likelihood([math.log(2)] * 4, tokens=2, spread=0.0)
    stub = bench(divergence(FOUR.kld.array(), own=own, base=base))

    found = judged(stub, max_rms_delta_p="25.1pp")
    check = only(found)

    assert (check.statistic, check.unit, check.outcome) == ("RMS delta-p", "pp", Outcome.PASS)
    assert check.value == pytest.approx(25)
    assert check.limit == pytest.approx(25.1)
    assert found.headline == "RMS delta-p 25.000 pp <= max_rms_delta_p 25.1pp; all 4 chunks"
    assert only(judged(stub, max_rms_delta_p="24.9pp")).outcome is Outcome.FAIL


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ({"max_mean": 0.08}, Outcome.PASS),
        ({"max_mean": 0.02}, Outcome.FAIL),
        ({"max_p99": 0.8}, Outcome.PASS),
        ({"max_p99": 0.1}, Outcome.FAIL),
        ({"min_same_top": 0.8}, Outcome.PASS),
        ({"min_same_top": 0.99}, Outcome.FAIL),
        ({"max_rms_delta_p": "90pp"}, Outcome.PASS),
        ({"max_rms_delta_p": "1pp"}, Outcome.FAIL),
    ],
)
def test_clear_cases_take_few_windows(values: dict[str, object], outcome: Outcome) -> None:
    """What is far from its limit is decided on at most 64 of 220 windows."""
    found = judged(bench(TEXT), **values)

    assert only(found).outcome is outcome
    assert found.record["chunks"] in (16, 32, 64)
    assert found.headline.endswith(f"{found.record['chunks']} of 220 chunks decided it")


def test_a_maximum_passes_on_all_windows_only() -> None:
    """One token above it ends it at once; without one, every window has to be seen."""
    largest = float(TEXT.kld.array().max())

    assert judged(bench(TEXT), max=largest).record["chunks"] == 220
    early = judged(bench(TEXT), max=0.05)
    assert early.record["chunks"] == 16
    assert only(early).outcome is Outcome.FAIL


def test_equal_windows_prove_nothing_of_the_rest() -> None:
    """Not one changed token in 16 windows is no proof of a share of 99.9%."""
    stub = bench(divergence(KLD, np.ones(KLD.shape), own=OWN, base=BASE))

    check = only(judged(stub, min_same_top=0.999, max_chunks=16))

    assert check.outcome is Outcome.INCONCLUSIVE
    assert check.value == 1.0
    assert only(judged(stub, min_same_top=0.9, max_chunks=16)).outcome is Outcome.PASS


def test_the_values_behind_each_limit() -> None:
    """Means, shares above, maxima, agreement with its sign turned, squares: one for each window."""
    found = {
        limit.name: limit
        for limit in sampled_limits(
            settings(max_mean=0.3, max_p90=0.45, max=1.0, min_same_top=0.9, max_rms_delta_p="5pp"),
            FOUR,
        )
    }

    assert found["max_mean"].values == pytest.approx((0.15, 0.35, 0.55, 0.35))
    assert found["max_p90"].values == (0.0, 0.0, 1.0, 0.5)
    assert found["max_p90"].bound == pytest.approx(0.1)
    assert found["max"].values == pytest.approx((0.2, 0.4, 0.6, 0.7))
    assert found["min_same_top"].values == (-1.0, -0.5, -1.0, -1.0)
    assert (found["min_same_top"].bound, found["min_same_top"].shown(-0.9)) == (-0.9, 0.9)
    assert found["max_rms_delta_p"].bound == pytest.approx(0.0025)
    assert found["max_rms_delta_p"].shown(0.0025) == pytest.approx(5)


# --- lower bounds ----------------------------------------------------------------------------------

COMMITTED = bench(
    replace(TEXT, precision="lower bound"), served=32, arrays=(Path("m.npz"), "d" * 64)
)


def test_a_lower_bound_cannot_pass() -> None:
    """Within the limit it ends at the first look that would have passed, inconclusive, and says why."""
    found = judged(COMMITTED, max_mean=0.08, max_p90=0.5)

    assert [check.outcome for check in found.checks] == [Outcome.INCONCLUSIVE] * 2
    assert [check.statistic for check in found.checks] == [
        "mean KLD (lower bound)",
        "90% KLD (lower bound)",
    ]
    assert found.record["chunks"] == 16
    assert found.headline.startswith("mean KLD (lower bound) 0.0")
    assert found.headline.endswith(
        " ~ max_mean 0.08; 16 of 220 chunks, and a lower bound cannot pass"
    )
    assert found.findings[0] == (
        "a lower bound of the KLD, from the most likely tokens that the committed baseline holds;"
        " perplexities, delta-p and same top token are exact, over 16 of 220 chunks of 64 scored tokens"
    )
    assert found.findings[1].startswith("max_mean and max_p90 cannot pass on a lower bound")


def test_a_lower_bound_can_fail() -> None:
    """Above the limit it is proof: the true value is higher still."""
    found = judged(COMMITTED, max_mean=0.02)

    assert only(found).outcome is Outcome.FAIL


def test_a_lower_bound_can_be_accepted_and_keeps_its_name() -> None:
    """The specification may let it pass; the label stays in headline, check and table."""
    found = judged(COMMITTED, max_mean=0.08, accept_lower_bound=True)

    assert only(found).outcome is Outcome.PASS
    assert only(found).statistic == "mean KLD (lower bound)"
    assert found.headline.endswith(" <= max_mean 0.08; 16 of 220 chunks decided it")
    assert any(finding.startswith("Mean KLD: >= 0.0") for finding in found.findings)
    assert any(finding.startswith("Maximum KLD: >= ") for finding in found.findings)
    assert not any(">=" in finding for finding in found.findings if "KLD" not in finding)
    assert found.record["precision"] == "lower bound"


def test_what_a_committed_baseline_holds_exactly_passes() -> None:
    """Agreement and changes of probability need no full distribution."""
    found = judged(COMMITTED, min_same_top=0.8, max_rms_delta_p="90pp")

    assert [check.outcome for check in found.checks] == [Outcome.PASS] * 2
    assert [check.statistic for check in found.checks] == ["same top token", "RMS delta-p"]


def test_a_committed_baseline_ends_where_its_windows_do() -> None:
    """Undecided after its 32 windows, the message says whose end it was."""
    found = judged(COMMITTED, min_same_top=0.925)

    assert found.record["chunks"] == 32
    assert "the committed baseline has 32 of 220 chunks; about " in found.findings[1]


# --- what is asked ---------------------------------------------------------------------------------


def test_models_are_compared_in_lockstep() -> None:
    """Tokens of both, then blocks of windows in the seed's order, live."""
    stub = bench(TEXT)

    GATE.measure(settings(max_mean=0.08, corpus="own.txt", seed=2), as_bench(stub))

    text = TextRequest(corpus_path="own.txt", corpus_sha256="c" * 64, context=512)
    assert stub.asked == [
        ("candidate", text),
        ("baseline", text),
        (text,),
        (text, 2, True),
        (
            DivergenceRequest(
                reference="live",
                corpus_path="own.txt",
                corpus_sha256="c" * 64,
                context=512,
                chunks=sampling.order(2, 220)[:16],
            ),
        ),
    ]


def test_a_committed_baseline_stands_in_for_an_absent_one() -> None:
    """Where the baseline cannot be run, its arrays are named in the request."""
    stub = replace(COMMITTED, asked=[])

    GATE.measure(settings(max_mean=0.02), as_bench(stub))

    (request,) = stub.asked[-1]
    assert isinstance(request, DivergenceRequest)
    assert (request.reference, request.reference_path) == ("committed", "m.npz")
    assert request.reference_sha256 == "d" * 64
    assert request.corpus_path == "default.txt"


def test_a_committed_baseline_without_distributions_serves_no_divergence() -> None:
    """Likelihoods alone say nothing of the rest of a prediction."""
    with pytest.raises(
        MeasurementError, match="no committed baseline holds its most likely tokens"
    ):
        judged(bench(TEXT, served=0), max_mean=0.1)


def logits_file(folder: Path, *, context: int = 16, chunks: int = 4, vocabulary: int = 10) -> Path:
    """Write a logits file of zeros, whole by its header."""
    path = folder / "base.logits"
    scored = context - 1 - context // 2
    values = 4 + 2 * ((vocabulary + 1) // 2)
    body = bytes(4 * context * chunks + 2 * chunks * scored * values)
    path.write_bytes(struct.pack("<8siii", b"_logits_", context, vocabulary, chunks) + body)
    return path


def test_a_logits_file_takes_the_place_of_baseline_and_text(tmp_path: Path) -> None:
    """Context and windows come from its header; neither text nor baseline is asked for."""
    path = logits_file(tmp_path)
    stub = bench(replace(FOUR, precision="16-bit"), folder=tmp_path)

    found = judged(stub, max_mean=0.4, logits_file="base.logits")

    ((request,),) = stub.asked
    assert isinstance(request, DivergenceRequest)
    assert (request.reference, request.reference_path) == ("logits", str(path))
    assert len(request.reference_sha256) == 64
    assert (request.corpus_path, request.corpus_sha256, request.context) == ("", "", 16)
    assert request.chunks == sampling.order(0, 4)
    assert only(found).sample == "all 4 chunks"
    assert found.findings[0].startswith(
        "KLD from a logits file, whose log-probabilities are rounded"
    )


def test_a_text_given_with_a_logits_file_is_passed_on(tmp_path: Path) -> None:
    """Then the probe can hold the file's tokens against it."""
    logits_file(tmp_path)
    stub = bench(FOUR, folder=tmp_path)

    GATE.measure(
        settings(max_mean=0.4, logits_file="base.logits", corpus="own.txt"), as_bench(stub)
    )

    ((request,),) = stub.asked
    assert isinstance(request, DivergenceRequest)
    assert request.corpus_path == str(tmp_path / "own.txt")
    assert request.corpus_sha256 == "c" * 64


def test_a_logits_file_of_another_context_is_refused(tmp_path: Path) -> None:
    """Its windows are what they are."""
    logits_file(tmp_path)
    stub = bench(FOUR, folder=tmp_path)
    given = settings(max_mean=0.4, logits_file="base.logits", context=512)

    with pytest.raises(ArtifactError, match="has windows of 16 tokens, and the gate asks for 512"):
        GATE.measure(given, as_bench(stub))


def test_what_is_no_logits_file_is_refused(tmp_path: Path) -> None:
    """Before any model is started."""
    (tmp_path / "base.logits").write_text("no logits")
    stub = bench(FOUR, folder=tmp_path)

    with pytest.raises(ArtifactError, match="is no logits file"):
        judged(stub, max_mean=0.4, logits_file="base.logits")
    assert stub.asked == []


# --- guards ----------------------------------------------------------------------------------------


def test_other_tokens_are_refused_before_anything_is_compared() -> None:
    """Positions of two tokenizers do not correspond."""
    other = replace(TEXT, baseline=replace(BASE, tokens_sha256="b" * 64))

    with pytest.raises(MeasurementError, match="their predictions cannot be compared"):
        judged(bench(other), max_mean=0.1)


@pytest.mark.parametrize(
    ("side", "name"), [("candidate", "Q4_K_M"), ("baseline", "the F16 baseline")]
)
def test_guessing_is_an_error_of_either_model(side: str, name: str) -> None:
    """A model near ln(vocabulary) is broken, not bad."""
    guess = likelihood([10.0] * CHUNKS, tokens=TOKENS)
    found = replace(TEXT, **{side: guess})  # type: ignore[arg-type]

    with pytest.raises(
        MeasurementError, match=f"^{name} predicts the text no better than guessing"
    ):
        judged(bench(found), max_mean=0.1)


def test_a_guessing_logits_file_is_called_so(tmp_path: Path) -> None:
    """There need be no baseline in the specification to name."""
    logits_file(tmp_path)
    guess = likelihood([10.0] * 4, tokens=2)
    found = replace(FOUR, precision="16-bit", baseline=guess)

    with pytest.raises(MeasurementError, match=r"^the logits file predicts the text no better"):
        judged(bench(found, folder=tmp_path), max_mean=0.4, logits_file="base.logits")


def test_the_same_weights_under_two_names_are_an_error() -> None:
    """No divergence at all between two types is a mistake; between files of one type it is possible."""
    same = divergence(np.zeros((4, 2)), own=likelihood([2.0] * 4, tokens=2))

    with pytest.raises(MeasurementError, match=r"^every likelihood of Q4_K_M equals"):
        judged(bench(same), max_mean=0.1)
    assert only(judged(bench(same, types=("F16", "F16")), max_mean=0.1)).value == 0.0


@pytest.mark.parametrize(
    ("values", "refused"),
    [
        ({"max_mean": 0.0119}, True),
        ({"max_mean": 0.0121}, False),
        ({"max_p99": 0.001}, False),
    ],
)
def test_a_mean_inside_the_noise_is_refused(values: dict[str, object], *, refused: bool) -> None:
    """A limit on the mean within three times the baseline's own divergence from itself."""
    floor = NoiseFloor(log_ratio=0.5, kld=0.004, chunks=40, settings=())
    stub = bench(TEXT, floor=floor)
    if refused:
        with pytest.raises(MeasurementError, match=r"at least 0\.012$"):
            judged(stub, **values)
    else:
        judged(stub, **values)


# --- what is said ----------------------------------------------------------------------------------


def test_everything_the_tool_prints_is_said_and_recorded() -> None:
    """Its table line by line in the findings, its numbers under names of their own in the record."""
    found = judged(bench(TEXT), max_mean=0.08)

    assert found.findings[0] == (
        "exact KLD from both models' full logits, over 16 of 220 chunks of 64 scored tokens"
    )
    labels = [finding.partition(": ")[0] for finding in found.findings[1:]]
    assert labels[:7] == [
        "Mean PPL(Q)",
        "Mean PPL(base)",
        "Cor(ln(PPL(Q)), ln(PPL(base)))",
        "Mean ln(PPL(Q)/PPL(base))",
        "Mean PPL(Q)/PPL(base)",
        "Mean PPL(Q)-PPL(base)",
        "Mean KLD",
    ]
    assert labels[-2:] == ["RMS Δp", "Same top p"]
    assert len(labels) == 34
    for key in (
        "kld",
        "kld_error",
        "kld_p99_9",
        "delta_p",
        "rms_delta_p",
        "same_top",
        "correlation",
    ):
        assert isinstance(found.record[key], float)
    assert found.record["kld"] == pytest.approx(only(found).value, rel=1e-6)
    assert {
        key: found.record[key] for key in ("chunks", "population", "scored_tokens", "ended")
    } == {
        "chunks": 16,
        "population": 220,
        "scored_tokens": 1024,
        "ended": "decided",
    }


def test_a_figure_that_divides_by_nothing_is_recorded_as_none() -> None:
    """Where no likelihood varies there is no correlation, and a record holds finite numbers."""
    flat = likelihood([2.1] * 4, tokens=2, spread=0.0)
    found = judged(bench(replace(FOUR, candidate=flat)), max_mean=1.0)

    assert found.record["correlation"] is None


def test_undecided_says_so_and_may_warn() -> None:
    """The open limit, how many more windows would decide it, and the choice of the specification."""
    value = float(KLD.mean())

    found = judged(bench(TEXT), max_mean=value * 1.02, max_chunks=16, on_inconclusive="warn")

    assert only(found).outcome is Outcome.INCONCLUSIVE
    assert found.warn
    assert found.findings[1].startswith(
        "max_mean is undecided: max_chunks ended it at 16 of 220 chunks; about "
    )


def test_notes_of_the_bench_are_passed_on() -> None:
    """What happened to the baseline's files belongs before the long table."""
    found = judged(bench(TEXT, notes=("baseline written; commit it",)), max_mean=0.08)

    assert found.findings[1] == "baseline written; commit it"


# --- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "right"),
    [
        ({"max_mean": 0.0}, False),
        ({"max_mean": 1e-9}, True),
        ({"min_same_top": 0.0}, False),
        ({"min_same_top": 1.0}, True),
        ({"min_same_top": math.nextafter(1, 2)}, False),
        ({"max_rms_delta_p": "5pp"}, True),
        ({"max_rms_delta_p": "0pp"}, False),
        ({"max_rms_delta_p": 0.05}, False),
        ({"logits_file": ""}, False),
        ({"accept_lower_bound": True}, True),
        ({"accept_lower_bound": "yes"}, False),
        ({"max_p98": 1.0}, False),
    ],
)
def test_what_settings_accept(values: dict[str, object], *, right: bool) -> None:
    """Each setting has its bounds, and numbers are not made from texts."""
    if right:
        settings(**values)
    else:
        with pytest.raises(ValidationError):
            settings(**values)


def test_a_baseline_is_needed_unless_its_logits_are_at_hand() -> None:
    """Every limit compares with the baseline's predictions, which a file may hold."""
    assert GATE.needs_baseline(settings(max_mean=0.1))
    assert not GATE.needs_baseline(settings(max_mean=0.1, logits_file="base.logits"))
    assert settings(max_mean=0.1, accept_lower_bound=True).limits_given() == ("max_mean",)
    assert kinds()["kld"] is GATE


def test_rounding_below_nothing_is_let_be() -> None:
    """Values of a logits file may make a divergence a hair negative, and its bounds end there."""
    kld = np.array(KLD)
    kld[:, 0] = -1e-5
    found = replace(TEXT, kld=Packed.of(kld, "<f4"), precision="16-bit")
    (limit,) = sampled_limits(settings(max_mean=0.1), found)

    assert limit.least == pytest.approx(-1e-5)
