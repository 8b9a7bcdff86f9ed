"""Likelihood over the counting model: windows, BOS, digests, and corpora that cannot be scored."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from counting import CERTAINTY, TOKEN_NLL, VOCABULARY, CountingBackend
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_quantgate.errors import ArtifactError, ProbeRefused
from pytest_quantgate.probe import likelihood
from pytest_quantgate.probe.likelihood import (
    measure_likelihood,
    measure_text,
    token_nll,
    top_tokens,
)
from pytest_quantgate.probe.windows import Reader, read_corpus
from pytest_quantgate.records import EngineSettings, Likelihood, LikelihoodRequest, TextRequest

SURPRISE = TOKEN_NLL + CERTAINTY
"""What a token costs that the model did not foretell."""


def reader(backend: CountingBackend | None = None, *, batch: int = 2048) -> Reader:
    """Return a reader with a model loaded in this process."""
    backend = backend or CountingBackend(add_bos=False)
    engine = EngineSettings(threads=1, batch=batch)
    return Reader(backend, backend.load(Path("good.gguf"), engine), engine)


def score(
    folder: Path,
    data: bytes,
    *,
    context: int = 16,
    chunks: tuple[int, ...] | None = None,
    sequences: int | None = 4,
    top: int = 0,
    batch: int = 2048,
    by: Reader | None = None,
) -> Likelihood:
    """Score a text in this process."""
    corpus = folder / "corpus.txt"
    corpus.write_bytes(data)
    request = LikelihoodRequest(
        corpus_path=str(corpus),
        corpus_sha256=hashlib.sha256(data).hexdigest(),
        context=context,
        chunks=chunks,
        sequences=sequences,
        top=top,
    )
    return measure_likelihood(by or reader(batch=batch), request, lambda _progress: None)


ALPHABET = bytes(range(32, 80))


def test_second_halves_are_scored(tmp_path: Path) -> None:
    """Of 16 tokens, the 7 after the first 9 are scored; each one was foretold."""
    result = score(tmp_path, ALPHABET)

    assert (7, 3, 48, VOCABULARY) == (
        result.chunk_tokens,
        result.available_chunks,
        result.corpus_tokens,
        result.vocabulary,
    )
    assert [7 * TOKEN_NLL] * 3 == pytest.approx(result.chunk_nll)
    assert [7 * TOKEN_NLL**2] * 3 == pytest.approx(result.chunk_nll2)


@pytest.mark.parametrize(("position", "scored"), [(8, False), (9, True), (15, True)])
def test_a_surprise_counts_where_it_is_scored(tmp_path: Path, position: int, scored: bool) -> None:  # noqa: FBT001 - parametrized
    """An unforeseen token costs more in the scored part and nothing before it."""
    data = bytearray(ALPHABET)
    data[position] = 120
    # The token after it is foretold wrongly as well, unless it lies in the next window.
    surprises = 0 if not scored else 1 if position == 15 else 2
    if position == 8:
        # It is not scored itself, but the next one is.
        surprises = 1

    result = score(tmp_path, bytes(data))

    expected = (7 - surprises) * TOKEN_NLL + surprises * SURPRISE
    assert expected == pytest.approx(result.chunk_nll[0])


@pytest.mark.parametrize("sequences", [1, 2, 3, 4])
def test_grouping_changes_nothing(tmp_path: Path, sequences: int) -> None:
    """However many windows are decoded together, the scores are the same."""
    rng = np.random.default_rng(1)
    data = bytes(rng.integers(32, 120, 16 * 7).astype(np.uint8))

    assert score(tmp_path, data, sequences=sequences).chunk_nll == score(tmp_path, data).chunk_nll


def test_bos_replaces_the_first_token_of_each_window(tmp_path: Path) -> None:
    """BOS takes the place of a window's first token, which is not scored and not fed."""
    backend = CountingBackend(add_bos=True)
    score(tmp_path, ALPHABET[:-1], by=reader(backend), sequences=3)

    (session,) = backend.sessions
    assert [0, 0, 0] == [history[0] for history in session.histories]
    assert list(ALPHABET[16:31]) == session.histories[1][1:]


def test_batch_bounds_the_group(tmp_path: Path) -> None:
    """Only as many windows are decoded together as fit a batch."""
    backend = CountingBackend(add_bos=False)
    score(tmp_path, ALPHABET, by=reader(backend, batch=47))

    assert [32, 16] == backend.sessions[0].batches


def test_digest_is_of_the_token_ids(tmp_path: Path) -> None:
    """The digest is that of the whole text's ids as little-endian int32."""
    expected = hashlib.sha256(np.frombuffer(ALPHABET, np.uint8).astype("<i4").tobytes()).hexdigest()

    assert expected == score(tmp_path, ALPHABET, chunks=(1,)).tokens_sha256


def test_windows_are_scored_in_the_order_they_are_asked_for(tmp_path: Path) -> None:
    """Windows may be chosen in any order; each has the figures it has among all of them."""
    rng = np.random.default_rng(1)
    data = bytes(rng.integers(32, 120, 16 * 7).astype(np.uint8))
    every = score(tmp_path, data)
    chosen = (5, 0, 6, 2)
    result = score(tmp_path, data, chunks=chosen, sequences=3)

    assert tuple(range(7)) == every.chunks
    assert chosen == result.chunks
    assert tuple(every.chunk_nll[chunk] for chunk in chosen) == result.chunk_nll
    assert tuple(every.chunk_nll2[chunk] for chunk in chosen) == result.chunk_nll2
    assert (every.token_nll.array()[list(chosen)] == result.token_nll.array()).all()


def test_each_tokens_own_likelihood_is_told(tmp_path: Path) -> None:
    """The figures of the tokens are of shape (windows, scored tokens) and add up to the windows'."""
    result = score(tmp_path, ALPHABET)
    tokens = result.token_nll.array()

    assert (3, 7) == tokens.shape
    assert "<f4" == result.token_nll.dtype
    assert tokens.sum(axis=1) == pytest.approx(result.chunk_nll, rel=1e-6)
    assert None is result.top


@pytest.mark.parametrize(
    ("chunks", "said"),
    [
        ((), "no chunk is asked for; ask for one or more of the 3 there are"),
        ((0, 3), "there is no chunk 3: the text has 3, numbered from 0 to 2"),
        ((-1,), "there is no chunk -1: the text has 3"),
        ((2, 0, 2), "chunk 2 is asked for more than once; ask for it once"),
        (tuple(range(3, 9)), r"there is no chunk 3, 4, 5, 6, 7, \.\.\.: "),
    ],
)
def test_windows_that_cannot_be_chosen(tmp_path: Path, chunks: tuple[int, ...], said: str) -> None:
    """A choice that is empty, goes past the text or repeats itself is refused with the numbers."""
    with pytest.raises(ProbeRefused, match=said):
        score(tmp_path, ALPHABET, chunks=chunks)


def test_a_text_is_tokenized_once_and_a_session_is_kept(tmp_path: Path) -> None:
    """Blocks of one shape share tokens and session; another shape frees the old session first."""
    backend = CountingBackend(add_bos=False)
    kept = reader(backend)
    corpus = tmp_path / "corpus.txt"
    first = score(tmp_path, ALPHABET, chunks=(2,), by=kept)
    facts = measure_text(
        kept,
        TextRequest(
            corpus_path=str(corpus), corpus_sha256=hashlib.sha256(ALPHABET).hexdigest(), context=16
        ),
        lambda _progress: None,
    )
    again = score(tmp_path, ALPHABET, chunks=(2, 0), by=kept)

    assert first.chunk_nll[0] == again.chunk_nll[0]
    assert 1 == len(backend.tokenized) == len(backend.sessions)
    assert (3, 48, first.tokens_sha256, VOCABULARY) == (
        facts.chunks,
        facts.tokens,
        facts.tokens_sha256,
        facts.vocabulary,
    )

    score(tmp_path, ALPHABET, context=8, by=kept)
    kept.release()

    assert [True, True] == [session.closed for session in backend.sessions]
    assert 1 == len(backend.tokenized)


def test_most_likely_tokens_are_told(tmp_path: Path) -> None:
    """The foretold token comes first, then the lowest ids of all the equal rest."""
    result = score(tmp_path, ALPHABET, top=3, chunks=(1,))
    assert result.top is not None
    ids, log_probs = result.top.ids.array(), result.top.log_probs.array()

    assert (1, 7, 3) == ids.shape == log_probs.shape
    assert ("<u2", "<f4") == (result.top.ids.dtype, result.top.log_probs.dtype)
    assert list(ALPHABET[25:32]) == ids[0, :, 0].tolist()
    assert [[0, 1]] * 7 == ids[0, :, 1:].tolist()
    assert -TOKEN_NLL == pytest.approx(log_probs[0, :, 0])
    assert -TOKEN_NLL - CERTAINTY == pytest.approx(log_probs[0, :, 1])


@pytest.mark.parametrize(("top", "said"), [(-1, "-1 most"), (257, "257 most likely tokens cannot")])
def test_more_tokens_than_there_are_cannot_be_told(tmp_path: Path, top: int, said: str) -> None:
    """At least one and at most the whole vocabulary."""
    assert 256 == score(tmp_path, ALPHABET, top=256).vocabulary
    with pytest.raises(ProbeRefused, match=said):
        score(tmp_path, ALPHABET, top=top)


@pytest.mark.parametrize(("limit", "fits"), [(12 * 231 - 1, False), (12 * 231, True)])
def test_an_answer_must_be_able_to_carry_the_tokens(
    tmp_path: Path,
    limit: int,
    fits: bool,  # noqa: FBT001 - parametrized
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More tokens at more positions than a frame holds are refused before anything is decoded."""
    monkeypatch.setattr(likelihood, "FRAME_LIMIT_BYTES", limit)
    if fits:
        assert score(tmp_path, ALPHABET, top=10).top is not None
        return
    with pytest.raises(ProbeRefused, match=r"10 .* tokens at 21 positions .* takes 209 in all"):
        score(tmp_path, ALPHABET, top=10)


@given(st.integers(1, 5), st.integers(1, 40), st.data())
def test_top_tokens_are_those_of_a_stable_sort(
    rows: int, vocabulary: int, data: st.DataObject
) -> None:
    """Ties included, they are the first of a stable sort by falling logit."""
    k = data.draw(st.integers(1, vocabulary))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    logits = rng.integers(-3, 3, (rows, vocabulary)).astype(np.float32)

    assert (np.argsort(-logits, axis=1, kind="stable")[:, :k] == top_tokens(logits, k)).all()


@pytest.mark.parametrize(("length", "enough"), [(31, False), (32, True), (33, True)])
def test_two_windows_are_needed(tmp_path: Path, length: int, enough: bool) -> None:  # noqa: FBT001 - parametrized
    """A corpus shorter than two windows is an error that says how many tokens are needed."""
    data = ALPHABET[:length]
    if enough:
        assert 2 == len(score(tmp_path, data).chunk_nll)
        return

    with pytest.raises(ArtifactError, match="has 31 tokens; 32 are needed, two windows of 16"):
        score(tmp_path, data)


def test_one_newline_at_the_end_is_dropped(tmp_path: Path) -> None:
    """As `llama-perplexity -f` does: one, not two, and no other white space."""
    path = tmp_path / "corpus.txt"
    for data, text in ((b"a\n", "a"), (b"a\n\n", "a\n"), (b"a\r\n", "a\r"), (b" a ", " a ")):
        path.write_bytes(data)

        assert text == read_corpus(path, sha256=hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"caf\xe9 au lait", "is no UTF-8 text: byte 0xe9 at offset 3; save it as UTF-8"),
    ],
)
def test_corpora_that_cannot_be_scored(tmp_path: Path, data: bytes, said: str) -> None:
    """An empty corpus and one in another encoding are errors."""
    with pytest.raises(ArtifactError, match=said):
        score(tmp_path, data)


def test_a_corpus_that_changed_is_an_error(tmp_path: Path) -> None:
    """The digest is that of the file the run began with."""
    path = tmp_path / "corpus.txt"
    path.write_text("a")
    with pytest.raises(ArtifactError, match="changed during the run: its sha256 is ca978112ca1b"):
        read_corpus(path, sha256="0" * 64)
    with pytest.raises(ArtifactError, match=r"missing\.txt cannot be read: No such file"):
        read_corpus(tmp_path / "missing.txt", sha256="0" * 64)


@pytest.mark.parametrize(
    ("context", "sequences", "said"),
    [
        (3, 4, "a context of 3 tokens is too short; use 4 or more"),
        (2049, 4, "a context of 2049 tokens exceeds the batch of 2048"),
        (16, 0, "windows in groups of 0 measure nothing; ask for 1 or more"),
    ],
)
def test_requests_that_measure_nothing(
    tmp_path: Path, context: int, sequences: int, said: str
) -> None:
    """A request that cannot have a result is refused."""
    with pytest.raises(ProbeRefused, match=said):
        score(tmp_path, ALPHABET, context=context, sequences=sequences)


def test_vocabularies_that_end_texts_are_refused(tmp_path: Path) -> None:
    """Perplexity has no meaning where each text is ended by a token."""
    with pytest.raises(ProbeRefused, match="ends every text with an end-of-text token"):
        score(tmp_path, ALPHABET, by=reader(CountingBackend(add_eos=True)))


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(2, 70_000), st.integers(0, 2**32 - 1))
def test_token_nll_is_the_textbook_formula(rows: int, vocabulary: int, seed: int) -> None:
    """It agrees with a log-softmax in float64 to the precision of float32, block by block."""
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=(rows, vocabulary)) * 10).astype(np.float32)
    targets = rng.integers(0, vocabulary, rows).astype(np.int32)
    exact = logits.astype(np.float64)
    exact = np.log(np.exp(exact - exact.max(1, keepdims=True)).sum(1)) + exact.max(1)
    exact -= logits[np.arange(rows), targets]

    assert exact == pytest.approx(token_nll(logits, targets), abs=2e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_token_nll_keeps_what_is_no_number(value: float) -> None:
    """A row with NaN or infinity anywhere has no finite score; a forbidden token (-inf) is harmless."""
    logits = np.zeros((3, 8), dtype=np.float32)
    logits[1, 5] = value
    logits[2, 5] = -np.inf
    scores = token_nll(logits, np.zeros(3, dtype=np.int32))

    assert [True, False, True] == np.isfinite(scores).tolist()
