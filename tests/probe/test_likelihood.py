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
from pytest_quantgate.probe.likelihood import measure_likelihood, read_corpus, token_nll
from pytest_quantgate.records import EngineSettings, Likelihood, LikelihoodRequest

SURPRISE = TOKEN_NLL + CERTAINTY
"""What a token costs that the model did not foretell."""


def score(
    folder: Path,
    data: bytes,
    *,
    context: int = 16,
    chunks: int | None = None,
    sequences: int = 4,
    batch: int = 2048,
    backend: CountingBackend | None = None,
) -> Likelihood:
    """Score a text in this process."""
    backend = backend or CountingBackend(add_bos=False)
    engine = EngineSettings(threads=1, batch=batch)
    facts = backend.load(Path("good.gguf"), engine)
    corpus = folder / "corpus.txt"
    corpus.write_bytes(data)
    request = LikelihoodRequest(
        corpus_path=str(corpus),
        corpus_sha256=hashlib.sha256(data).hexdigest(),
        context=context,
        chunks=chunks,
        sequences=sequences,
    )
    return measure_likelihood(backend, facts, engine, request, lambda _progress: None)


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
    score(tmp_path, ALPHABET[:-1], backend=backend, sequences=3)

    (session,) = backend.sessions
    assert [0, 0, 0] == [history[0] for history in session.histories]
    assert list(ALPHABET[16:31]) == session.histories[1][1:]


def test_batch_bounds_the_group(tmp_path: Path) -> None:
    """Only as many windows are decoded together as fit a batch."""
    backend = CountingBackend(add_bos=False)
    score(tmp_path, ALPHABET, batch=47, backend=backend)

    assert [32, 16] == backend.sessions[0].batches


def test_digest_is_of_the_token_ids(tmp_path: Path) -> None:
    """The digest is that of the whole text's ids as little-endian int32."""
    expected = hashlib.sha256(np.frombuffer(ALPHABET, np.uint8).astype("<i4").tobytes()).hexdigest()

    assert expected == score(tmp_path, ALPHABET, chunks=1).tokens_sha256


@pytest.mark.parametrize(("asked", "given_"), [(2, 2), (3, 3), (4, 3), (None, 3)])
def test_chunks_are_an_upper_bound(tmp_path: Path, asked: int | None, given_: int) -> None:
    """No more windows are scored than asked for, and no more than there are."""
    assert given_ == len(score(tmp_path, ALPHABET, chunks=asked).chunk_nll)


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
    ("context", "chunks", "sequences", "said"),
    [
        (3, None, 4, "a context of 3 tokens is too short; use 4 or more"),
        (2049, None, 4, "a context of 2049 tokens exceeds the batch of 2048"),
        (16, 0, 4, "0 chunks in groups of 4 measure nothing"),
        (16, 1, 0, "1 chunks in groups of 0 measure nothing"),
    ],
)
def test_requests_that_measure_nothing(
    tmp_path: Path, context: int, chunks: int | None, sequences: int, said: str
) -> None:
    """A request that cannot have a result is refused."""
    with pytest.raises(ProbeRefused, match=said):
        score(tmp_path, ALPHABET, context=context, chunks=chunks, sequences=sequences)


def test_vocabularies_that_end_texts_are_refused(tmp_path: Path) -> None:
    """Perplexity has no meaning where each text is ended by a token."""
    with pytest.raises(ProbeRefused, match="ends every text with an end-of-text token"):
        score(tmp_path, ALPHABET, backend=CountingBackend(add_eos=True))


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
