"""Passages over the counting model: where they are cut, what of them is scored, and what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from counting import CERTAINTY, TOKEN_NLL, VOCABULARY, CountingBackend
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantgate.errors import ArtifactError, MeasurementError, ProbeRefused
from pytest_quantgate.probe.passages import measure_passages
from pytest_quantgate.probe.windows import Reader
from pytest_quantgate.records import EngineSettings, PassageLikelihood, PassageRequest, Progress

SURPRISE = TOKEN_NLL + CERTAINTY
"""What a token costs that the model did not foretell."""

COUNTED = bytes(range(32, 128)) * 2


def score(
    folder: Path,
    data: bytes,
    *,
    size: int = 32,
    passages: tuple[int, ...] | None = None,
    batch: int = 2048,
    backend: CountingBackend | None = None,
    name: str = "good.gguf",
    seen: list[Progress] | None = None,
) -> PassageLikelihood:
    """Score passages of a text in this process."""
    backend = backend or CountingBackend()
    engine = EngineSettings(threads=1, batch=batch)
    reader = Reader(backend, backend.load(Path(name), engine), engine)
    corpus = folder / "corpus.txt"
    corpus.write_bytes(data)
    request = PassageRequest(
        corpus_path=str(corpus),
        corpus_sha256=hashlib.sha256(data).hexdigest(),
        passage_bytes=size,
        passages=passages,
    )
    return measure_passages(reader, request, (seen if seen is not None else []).append)


def test_second_halves_are_scored(tmp_path: Path) -> None:
    """Of 32 bytes the last 16 are scored, the first of them too, given the 16 before."""
    data = bytearray(COUNTED[:96])
    data[32 + 16] = 200 - 128
    result = score(tmp_path, bytes(data))

    assert (0, 1, 2) == result.passages
    assert (3, VOCABULARY) == (result.available_passages, result.vocabulary)
    assert (16, 16, 16) == result.bytes == result.tokens
    assert [16 * TOKEN_NLL, 14 * TOKEN_NLL + 2 * SURPRISE, 16 * TOKEN_NLL] == pytest.approx(
        result.nll
    )


def test_halves_are_tokenized_apart(tmp_path: Path) -> None:
    """The first half begins as a text begins, the second as one that goes on."""
    backend = CountingBackend(add_bos=True)
    result = score(tmp_path, COUNTED[:64], passages=(1,), backend=backend)

    assert [COUNTED[32:48].decode(), COUNTED[48:64].decode()] == backend.tokenized
    assert [0, *COUNTED[32:64]] == backend.sessions[0].histories[0]
    assert (16,) == result.tokens


def test_characters_stay_whole(tmp_path: Path) -> None:
    """A cut within a character moves to the next one; every byte belongs to one passage."""
    data = ("a" * 15 + "\u20ac" + "b" * 13 + "\u20ac" + "c" * 30).encode()
    backend = CountingBackend(add_bos=False)
    result = score(tmp_path, data, backend=backend)

    assert ["a" * 15 + "\u20ac", "b" * 13 + "\u20ac", "c" * 14, "c" * 16] == backend.tokenized
    assert (16, 16) == result.bytes


@given(st.text(min_size=40, max_size=300), st.integers(32, 60))
def test_any_text_is_cut_without_loss(
    tmp_path_factory: pytest.TempPathFactory, text: str, size: int
) -> None:
    """Halves laid end to end are the text again, as far as it holds whole passages."""
    data = text.encode("utf-8", errors="ignore").removesuffix(b"\n")
    backend = CountingBackend(add_bos=False)
    if len(data) < size:
        return
    result = score(tmp_path_factory.getbasetemp(), data + b"\n", size=size, backend=backend)

    assert len(data) // size == result.available_passages == len(result.nll)
    joined = "".join(backend.tokenized).encode()
    assert data.startswith(joined)
    assert len(joined) in range(size * len(result.nll), size * len(result.nll) + 4)
    assert sum(result.bytes) == sum(len(part.encode()) for part in backend.tokenized[1::2])


def test_the_order_is_that_of_the_request_and_groups_change_nothing(tmp_path: Path) -> None:
    """Passages come in the order asked for; with a small batch in groups, with the same figures."""
    rng = np.random.default_rng(1)
    data = bytes(rng.integers(32, 120, 32 * 7).astype(np.uint8))
    every = score(tmp_path, data)
    seen: list[Progress] = []
    backend = CountingBackend()
    chosen = score(tmp_path, data, passages=(5, 0, 6), batch=128, backend=backend, seen=seen)

    assert tuple(every.nll[passage] for passage in (5, 0, 6)) == chosen.nll
    assert [66, 33] == backend.sessions[0].batches
    assert [0, 2, 3] == [step.done for step in seen]
    assert 1 == len(backend.sessions)


@pytest.mark.parametrize(
    ("size", "passages", "said"),
    [
        (31, None, "passages of 31 bytes are too short; use 32 bytes or more"),
        (32, (), "no passage is asked for"),
        (32, (6,), "there is no passage 6: the text has 6"),
        (32, (1, 1), "passage 1 is asked for more than once"),
    ],
)
def test_passages_that_cannot_be_chosen(
    tmp_path: Path, size: int, passages: tuple[int, ...] | None, said: str
) -> None:
    """Passages that are too short, or not there, are refused with the figures."""
    with pytest.raises(ProbeRefused, match=said):
        score(tmp_path, COUNTED, size=size, passages=passages)


@pytest.mark.parametrize(("batch", "fits"), [(32, False), (33, True)])
def test_a_passage_must_fit_a_batch(tmp_path: Path, batch: int, fits: bool) -> None:  # noqa: FBT001 - parametrized
    """A passage longer than a batch is refused with both figures."""
    if fits:
        assert 6 == len(score(tmp_path, COUNTED, batch=batch).nll)
        return
    with pytest.raises(ProbeRefused, match="passage 0 is 33 tokens long; the batch takes 32 and"):
        score(tmp_path, COUNTED, batch=batch)


@pytest.mark.parametrize(("size", "fits"), [(511, True), (512, False)])
def test_a_passage_must_fit_the_model(tmp_path: Path, size: int, fits: bool) -> None:  # noqa: FBT001 - parametrized
    """A passage longer than the context the model was trained for is refused with both figures."""
    if fits:
        assert 2 == len(score(tmp_path, COUNTED * 6, size=size).nll)
        return
    with pytest.raises(ProbeRefused, match=r"513 tokens long; .* was trained for 512: use shorter"):
        score(tmp_path, COUNTED * 6, size=size)


def test_a_text_must_hold_a_passage(tmp_path: Path) -> None:
    """A text shorter than one passage is an error with both figures; one just as long is scored."""
    assert 1 == score(tmp_path, COUNTED[:32] + b"\n").available_passages
    with pytest.raises(ArtifactError, match="has 31 bytes, fewer than one passage of 32"):
        score(tmp_path, COUNTED[:31])


def test_vocabularies_that_end_texts_are_refused(tmp_path: Path) -> None:
    """A token that ends a text has no place between two halves."""
    with pytest.raises(ProbeRefused, match="ends every text with an end-of-text token"):
        score(tmp_path, COUNTED, backend=CountingBackend(add_eos=True))


def test_nan_names_the_passage(tmp_path: Path) -> None:
    """A model that produces NaN is an error with the passage and the type of model."""
    with pytest.raises(
        MeasurementError, match="the model produced NaN in passage 2: the weights of this counts,"
    ):
        score(tmp_path, COUNTED, batch=33, name="later-nan.gguf")
