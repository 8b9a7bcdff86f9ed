"""Divergence: the formulas against plain ones, and two counting models in lockstep."""

from __future__ import annotations

import hashlib
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest
from counting import CERTAINTY, TOKEN_NLL, VOCABULARY
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_quantgate import errors, measure, supervision
from pytest_quantgate.artifact.logits_file import LogitsWindow, encode
from pytest_quantgate.probe.divergence import (
    CommittedReference,
    Comparison,
    FullReference,
    LogitsReference,
    Reference,
)
from pytest_quantgate.probe.exchange import Exchange
from pytest_quantgate.probe.likelihood import token_nll, top_tokens
from pytest_quantgate.records import DivergenceRequest, EngineSettings, Progress, TextRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    Logits = NDArray[np.float32]
    Pair = Callable[[str, str], tuple[measure.Probe, measure.Probe]]

SECONDS = 30.0
SEEDS = st.integers(0, 2**32 - 1)
ALPHABET = bytes(range(32, 80))


def models(rows: int, vocabulary: int, seed: int) -> tuple[Logits, Logits, NDArray[np.int32]]:
    """Return the logits of a baseline and of a model that was damaged a little, and targets."""
    rng = np.random.default_rng(seed)
    baseline = (rng.normal(size=(rows, vocabulary)) * rng.uniform(0.1, 8)).astype(np.float32)
    noise = rng.normal(size=baseline.shape) * rng.uniform(0, 2)
    return (
        baseline,
        (baseline + noise).astype(np.float32),
        rng.integers(0, vocabulary, rows).astype(np.int32),
    )


def log_softmax(logits: Logits) -> NDArray[np.float64]:
    """Return log-probabilities, all in float64."""
    lowered = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(lowered - np.log(np.exp(lowered).sum(axis=1, keepdims=True)))


def full_divergence(baseline: Logits, candidate: Logits) -> NDArray[np.float64]:
    """Return KL(baseline || candidate) by the textbook, row by row."""
    ours, theirs = log_softmax(baseline), log_softmax(candidate)
    return np.asarray((np.exp(ours) * (ours - theirs)).sum(axis=1))


def compare(reference: Reference, candidate: Logits, targets: NDArray[np.int32]) -> Comparison:
    """Compare a single window."""
    return reference.compare(0, candidate, targets)


def stored(baseline: Logits, targets: NDArray[np.int32], k: int, dtype: str) -> CommittedReference:
    """Return what a committed baseline keeps of logits."""
    ids = top_tokens(baseline, k)
    log_probs = np.take_along_axis(log_softmax(baseline), ids, axis=1)
    return CommittedReference(
        nll=token_nll(baseline, targets).astype(np.float32)[None],
        ids=ids.astype(np.uint16)[None],
        log_probs=log_probs.astype(dtype)[None],
        description="a baseline",
    )


def decoded(records: NDArray[np.uint16], vocabulary: int) -> LogitsWindow:
    """Return the records of one window as a file would."""
    scale, least = np.ascontiguousarray(records[:, :4]).view("<f4").T
    return LogitsWindow(scale=scale, least=least, steps=records[:, 4 : 4 + vocabulary])


# --- formulas --------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 6), st.integers(2, 70_000), SEEDS)
def test_full_logits_give_the_textbook_divergence(rows: int, vocabulary: int, seed: int) -> None:
    """It agrees with float64 to the precision of float32; likelihoods equal those measured alone."""
    baseline, candidate, targets = models(rows, vocabulary, seed)
    found = compare(FullReference(baseline[None], "b"), candidate, targets)

    assert full_divergence(baseline, candidate) == pytest.approx(found.kld, abs=2e-6, rel=1e-5)
    assert token_nll(candidate, targets).tolist() == found.candidate_nll.tolist()
    assert token_nll(baseline, targets).tolist() == found.baseline_nll.tolist()
    assert (baseline.argmax(axis=1) == candidate.argmax(axis=1)).tolist() == found.same_top.tolist()
    assert (found.kld >= 0).all()


def test_a_model_has_no_divergence_from_itself() -> None:
    """Equal logits have a divergence of exactly zero and the same top everywhere."""
    baseline, _, targets = models(50, 1000, 1)
    found = compare(FullReference(baseline[None], "b"), baseline.copy(), targets)

    assert [0.0] * 50 == found.kld.tolist()
    assert found.same_top.all()


def test_the_lowest_id_of_equal_logits_is_the_top() -> None:
    """As in the tool, the first of equal maxima counts, for every kind of reference."""
    baseline = np.array([[1, 3, 3, 0], [3, 1, 3, 0]], dtype=np.float32)
    candidate = np.array([[1, 3, 0, 3], [1, 0, 3, 3]], dtype=np.float32)
    targets = np.zeros(2, dtype=np.int32)
    references: list[Reference] = [
        FullReference(baseline[None], "b"),
        LogitsReference(lambda _place: decoded(encode(baseline), 4), "b"),
        stored(baseline, targets, 1, "f4"),
    ]

    for reference in references:
        assert [True, False] == compare(reference, candidate, targets).same_top.tolist()


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 6), st.integers(2, 70_000), SEEDS)
def test_a_logits_file_gives_the_tools_divergence(rows: int, vocabulary: int, seed: int) -> None:
    """Its 16 bits are decoded as the tool does, with the floor and without normalizing again."""
    baseline, candidate, targets = models(rows, vocabulary, seed)
    window = decoded(encode(baseline), vocabulary)
    found = compare(LogitsReference(lambda _place: window, "b"), candidate, targets)

    ours = window.scale[:, None] * window.steps.astype(np.float32) + window.least[:, None]
    apart = ours.astype(np.float64) - log_softmax(candidate)
    expected = np.where(ours > -16, np.exp(ours.astype(np.float64)) * apart, 0).sum(axis=1)
    assert expected == pytest.approx(found.kld, abs=5e-6, rel=1e-5)
    assert (-ours[np.arange(rows), targets]).tolist() == found.baseline_nll.tolist()
    assert token_nll(candidate, targets).tolist() == found.candidate_nll.tolist()
    assert (ours.argmax(axis=1) == candidate.argmax(axis=1)).tolist() == found.same_top.tolist()
    # Half a step in each of the two terms of a token's share, and what the floor cuts off.
    assert full_divergence(baseline, candidate) == pytest.approx(found.kld, abs=2e-2)


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 6), st.integers(2, 500), st.data(), st.sampled_from(["f2", "f4"]), SEEDS)
def test_likely_tokens_give_a_lower_bound(
    rows: int, vocabulary: int, data: st.DataObject, dtype: str, seed: int
) -> None:
    """However few tokens are stored, and however they are rounded, the divergence is never more."""
    k = data.draw(st.integers(1, vocabulary))
    baseline, candidate, targets = models(rows, vocabulary, seed)
    found = compare(stored(baseline, targets, k, dtype), candidate, targets)

    assert (found.kld <= full_divergence(baseline, candidate) + 2e-6).all()
    assert (found.kld >= 0).all()
    assert token_nll(candidate, targets).tolist() == found.candidate_nll.tolist()
    assert token_nll(baseline, targets).astype(np.float32).tolist() == found.baseline_nll.tolist()


def test_more_likely_tokens_bring_the_bound_nearer() -> None:
    """With all tokens stored in float32, the bound is the divergence itself."""
    baseline, candidate, targets = models(20, 300, 3)
    true = full_divergence(baseline, candidate).mean()
    shares = [
        compare(stored(baseline, targets, k, "f4"), candidate, targets).kld.mean() / true
        for k in (1, 16, 64, 300)
    ]

    assert sorted(shares) == shares
    assert shares[-1] == pytest.approx(1, abs=1e-3)


def test_a_certain_model_has_no_tail() -> None:
    """Where all probability is on the stored tokens, rounding makes no divergence of what is left."""
    baseline = np.zeros((1, 1000), dtype=np.float32)
    baseline[0, :2] = (60.0, 59.0)
    reference = stored(baseline, np.zeros(1, dtype=np.int32), 2, "f2")

    assert 1e-9 > compare(reference, baseline, np.zeros(1, dtype=np.int32)).kld[0]


def test_a_forbidden_token_is_harmless_where_both_forbid_it() -> None:
    """A logit of minus infinity adds nothing where the baseline has it; it is infinite where not."""
    rows = np.zeros((2, 8), dtype=np.float32)
    rows[:, 3] = -np.inf
    targets = np.zeros(2, dtype=np.int32)
    free = rows.copy()
    free[1, 3] = 0
    both = compare(FullReference(rows[None], "b"), rows, targets).kld
    only_candidate = compare(FullReference(free[None], "b"), rows, targets).kld
    only_baseline = compare(FullReference(rows[None], "b"), free, targets).kld
    window = decoded(encode(rows), 8)

    assert [0, 0] == both.tolist()
    assert [0, np.inf] == only_candidate.tolist()
    assert [0, np.log(8 / 7)] == pytest.approx(only_baseline.tolist(), abs=1e-6)
    filed = LogitsReference(lambda _place: window, "b")
    assert np.isfinite(compare(filed, rows, targets).kld).all()


# --- lockstep --------------------------------------------------------------------------------------


@pytest.fixture
def counting(counting_backends: None) -> Iterator[Pair]:
    """Makes pairs of counting models, and ends them."""
    assert counting_backends is None
    pairs: list[measure.Probe] = []

    def pair(candidate: str, baseline: str) -> tuple[measure.Probe, measure.Probe]:
        probes = measure.start_pair("CountingBackend", timeout=SECONDS)
        pairs.extend(probes)
        for probe, name in zip(probes, (candidate, baseline), strict=True):
            probe.load(Path(f"{name}.gguf"), EngineSettings(threads=1), timeout=SECONDS)
        return probes

    yield pair
    for probe in pairs:
        probe.kill()


def request(
    folder: Path,
    data: bytes = ALPHABET,
    *,
    chunks: tuple[int, ...] | None = None,
    sequences: int | None = None,
) -> DivergenceRequest:
    """Return a request for windows of sixteen bytes."""
    corpus = folder / "corpus.txt"
    corpus.write_bytes(data)
    return DivergenceRequest(
        reference="live",
        corpus_path=str(corpus),
        corpus_sha256=hashlib.sha256(data).hexdigest(),
        context=16,
        chunks=chunks,
        sequences=sequences,
    )


def test_two_models_are_compared_in_lockstep(counting: Pair, tmp_path: Path) -> None:
    """Group by group, two models give the divergence and both likelihoods, in the order asked for."""
    candidate, baseline = counting("certain-3", "good")
    seen: list[Progress] = []
    result = measure.measure_divergence(
        candidate,
        baseline,
        request(tmp_path, ALPHABET * 2, chunks=(5, 0, 3), sequences=2),
        timeout=SECONDS,
        on_progress=seen.append,
    )

    p = np.array([np.exp(CERTAINTY), *[1] * (VOCABULARY - 1)])
    q = np.array([np.exp(3), *[1] * (VOCABULARY - 1)])
    p, q = p / p.sum(), q / q.sum()
    assert "exact" == result.precision
    assert (5, 0, 3) == result.candidate.chunks == result.baseline.chunks
    assert (3, 7) == result.kld.shape == result.same_top.shape
    assert float((p * np.log(p / q)).sum()) == pytest.approx(result.kld.array(), rel=1e-5)
    assert result.same_top.array().all()
    assert [7 * TOKEN_NLL] * 3 == pytest.approx(result.baseline.chunk_nll)
    assert [-7 * np.log(q[0])] * 3 == pytest.approx(result.candidate.chunk_nll)
    assert (3, 7) == result.candidate.token_nll.array().shape
    assert (6, 97) == (result.baseline.available_chunks, result.baseline.corpus_tokens)
    assert [(0, 3), (2, 3), (2, 3), (3, 3)] == [(step.done, step.total) for step in seen]

    # The pair is well, and goes on with other windows, and all of them.
    again = measure.measure_divergence(candidate, baseline, request(tmp_path), timeout=SECONDS)
    assert (0, 1, 2) == again.candidate.chunks


@pytest.mark.parametrize(
    ("candidate", "said"),
    [
        ("wide", r"the vocabulary of .* is 257 for the candidate and 256 for the baseline"),
        ("shifted", r"the digest of the tokens of .* is \w{64} for the candidate and \w{64} for"),
    ],
)
def test_other_tokenizers_are_refused(
    counting: Pair, tmp_path: Path, candidate: str, said: str
) -> None:
    """Models of different vocabularies, or with other tokens for the text, are an error naming both."""
    pair = counting(candidate, "good")
    with pytest.raises(errors.MeasurementError, match=f"{said}.*nll_per_byte can compare"):
        measure.measure_divergence(*pair, request(tmp_path), timeout=SECONDS)

    assert all(probe.alive for probe in pair)


@pytest.mark.parametrize(
    ("candidate", "baseline", "said"),
    [
        ("later-nan", "good", r"the candidate produced NaN in chunk 2 \(tokens 16 to 31\)"),
        ("good", "later-nan", r"the baseline produced NaN in chunk 2 .* weights of this counts,"),
    ],
)
def test_a_broken_model_is_named(
    counting: Pair, tmp_path: Path, candidate: str, baseline: str, said: str
) -> None:
    """NaN of either model is an error that says whose, in which chunk, and its type."""
    pair = counting(candidate, baseline)
    with pytest.raises(errors.MeasurementError, match=said):
        measure.measure_divergence(*pair, request(tmp_path, sequences=1), timeout=SECONDS)

    assert all(probe.alive for probe in pair)


@pytest.mark.parametrize(
    ("candidate", "baseline", "phase"),
    [("later-segfault", "good", "chunk 2 of 3"), ("good", "later-segfault", "chunk 2 of 3")],
)
def test_when_one_dies_the_other_is_ended(
    counting: Pair, tmp_path: Path, candidate: str, baseline: str, phase: str
) -> None:
    """A probe that dies in the middle is a crash with its place; its partner does not survive it."""
    pair = counting(candidate, baseline)
    with pytest.raises(errors.ProbeCrashed, match=f"divergence, {phase}.*SIGSEGV"):
        measure.measure_divergence(*pair, request(tmp_path, sequences=1), timeout=SECONDS)

    assert not any(probe.alive for probe in pair)


def test_the_deadline_is_that_of_the_whole(counting: Pair, tmp_path: Path) -> None:
    """A probe that hangs in a later group is killed when the time of all groups is over."""
    pair = counting("later-hang", "good")
    with pytest.raises(errors.ProbeTimedOut, match="no answer within 1 seconds"):
        measure.measure_divergence(*pair, request(tmp_path, sequences=1), timeout=1)

    assert not any(probe.alive for probe in pair)


@pytest.mark.parametrize(
    ("chunks", "said"),
    [
        ((), "no chunk is asked for"),
        ((1, 3), "no chunk 3"),
        ((1, 2, 1), "chunk 1 is asked for more"),
    ],
)
def test_windows_that_cannot_be_compared(
    counting: Pair, tmp_path: Path, chunks: tuple[int, ...], said: str
) -> None:
    """A choice of windows that cannot be is refused before the first group, and the pair is well."""
    pair = counting("good", "good")
    with pytest.raises(errors.ProbeRefused, match=said):
        measure.measure_divergence(
            *pair, request(tmp_path, chunks=chunks, sequences=1), timeout=SECONDS
        )

    assert all(probe.alive for probe in pair)


@pytest.mark.usefixtures("counting_backends")
def test_lockstep_takes_a_pair(tmp_path: Path) -> None:
    """Two probes that share no memory, one probe alone, and another reference are refused."""
    asked = request(tmp_path)
    with measure.Probe.start("CountingBackend") as probe:
        probe.load(Path("good.gguf"), EngineSettings(threads=1), timeout=SECONDS)
        with pytest.raises(
            errors.ProbeRefused, match=r"shares no memory .*; start the two as a pair"
        ):
            measure.measure_divergence(probe, probe, asked, timeout=SECONDS)
        with pytest.raises(errors.ProbeRefused, match="takes two probes that take turns"):
            probe.divergence(asked, timeout=SECONDS)
        with pytest.raises(errors.ProbeRefused, match="a logits reference takes one probe"):
            measure.measure_divergence(
                probe, probe, DivergenceRequest(reference="logits"), timeout=SECONDS
            )


@pytest.mark.usefixtures("counting_backends")
def test_a_pair_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shared memory is the probes' alone; a pair of which one cannot start is ended."""
    before = os.listdir("/proc/self/fd")  # noqa: PTH208 - the listing itself opens one
    children = psutil.Process().children()
    for probe in measure.start_pair("CountingBackend", timeout=SECONDS):
        probe.close()
    start = measure.Probe.start
    started: list[measure.Probe] = []

    def once(*_args: object, **_kwargs: object) -> measure.Probe:
        if started:
            message = "only one"
            raise errors.ProbeCrashed(message)
        started.append(start("CountingBackend"))
        return started[0]

    monkeypatch.setattr(measure.Probe, "start", once)
    with pytest.raises(errors.ProbeCrashed, match="only one"):
        measure.start_pair("CountingBackend", timeout=SECONDS)

    assert not started[0].alive
    assert len(before) == len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - as above
    assert children == psutil.Process().children()


@pytest.mark.parametrize("named", [False, True])
def test_shared_memory_is_seen_by_both(named: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001 - parametrized
    """What one writes the other reads, also where memory is a file; it grows and never shrinks."""
    if named:
        monkeypatch.delattr(os, "memfd_create")
        monkeypatch.delattr(os, "posix_fallocate")
    with supervision.shared_memory() as descriptor:
        writer, reader = Exchange(descriptor), Exchange(descriptor)
        with pytest.raises(
            errors.ProbeRefused, match="has shared 0 bytes of logits; 24 are needed"
        ):
            reader.view((1, 2, 3))
        for shape in ((1, 2, 3), (2, 2, 3), (1, 2, 3)):
            writer.reserve(shape)[:] = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
            assert np.prod(shape) - 1 == reader.view(shape)[-1, -1, -1]
        assert 48 == os.fstat(descriptor).st_size


def test_want_of_room_is_out_of_memory() -> None:
    """Memory that cannot be had is an error that says how much and what to do, and no signal later."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with supervision.shared_memory() as descriptor:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
        try:
            with pytest.raises(
                errors.ProbeOutOfMemory,
                match=r"no room for 4 MiB of shared logits: .*; free memory",
            ):
                Exchange(descriptor).reserve((1, 1, 1 << 20))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_probe_tells_how_it_reads_a_text(counting: Pair, tmp_path: Path) -> None:
    """Windows, tokens, their digest and the vocabulary come without anything being decoded."""
    candidate, _ = counting("good", "good")
    asked = request(tmp_path)
    facts = candidate.text(
        TextRequest(corpus_path=asked.corpus_path, corpus_sha256=asked.corpus_sha256, context=15),
        timeout=SECONDS,
    )

    # The first token is the model's own beginning of a text.
    assert (3, 49, VOCABULARY) == (facts.chunks, facts.tokens, facts.vocabulary)
