"""References that lie in files: what fits a candidate is compared with, and nothing else."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from counting import CERTAINTY, TOKEN_NLL, VOCABULARY, CountingBackend

from pytest_quantgate.errors import ArtifactError, MeasurementError, ProbeRefused
from pytest_quantgate.probe.likelihood import measure_likelihood
from pytest_quantgate.probe.references import measure_against_file, write_logits
from pytest_quantgate.probe.windows import Reader
from pytest_quantgate.records import (
    Divergence,
    DivergenceRequest,
    EngineSettings,
    LikelihoodRequest,
    Progress,
    TextRequest,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALPHABET = bytes(range(32, 96))


def reader(
    name: str = "good", *, batch: int = 48, backend: CountingBackend | None = None
) -> Reader:
    """Return a reader with a counting model of this name loaded."""
    backend = backend or CountingBackend(add_bos=False)
    engine = EngineSettings(threads=1, batch=batch)
    return Reader(backend, backend.load(Path(f"{name}.gguf"), engine), engine)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Four windows of sixteen bytes."""
    path = tmp_path / "corpus.txt"
    path.write_bytes(ALPHABET)
    return path


def digest(path: Path) -> str:
    """Return the digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write(corpus: Path, chunks: int | None = None, *, by: Reader | None = None) -> Path:
    """Write the logits of a model beside the corpus."""
    path = corpus.with_name("base.logits")
    request = TextRequest(corpus_path=str(corpus), corpus_sha256=digest(corpus), context=16)
    write_logits(by or reader(), request, chunks, path, lambda _progress: None)
    return path


def commit(corpus: Path, changes: dict[str, NDArray[Any] | None] | None = None) -> Path:
    """Write what a committed baseline keeps of three windows, two of them with likely tokens."""
    found = measure_likelihood(
        reader(),
        LikelihoodRequest(
            corpus_path=str(corpus),
            corpus_sha256=digest(corpus),
            context=16,
            chunks=(2, 0, 3),
            top=4,
        ),
        lambda _progress: None,
    )
    assert found.top is not None
    arrays = {
        "chunks": np.array(found.chunks, dtype="<i4"),
        "nll": found.token_nll.array(),
        "chunk_nll": np.array(found.chunk_nll),
        "chunk_nll2": np.array(found.chunk_nll2),
        "top_ids": found.top.ids.array()[:2],
        "top_log_probs": found.top.log_probs.array()[:2].astype("<f2"),
        **(changes or {}),
    }
    path = corpus.with_name("baseline.npz")
    kept: dict[str, Any] = {name: array for name, array in arrays.items() if array is not None}
    np.savez_compressed(path, **kept)
    return path


def compare(
    path: Path,
    corpus: Path | None = None,
    *,
    by: Reader | None = None,
    chunks: tuple[int, ...] | None = None,
    context: int = 16,
    sha256: str | None = None,
    seen: list[Progress] | None = None,
) -> Divergence:
    """Compare a candidate with a file: a committed baseline where there is a corpus."""
    request = DivergenceRequest(
        reference="logits" if corpus is None else "committed",
        corpus_path="" if corpus is None else str(corpus),
        corpus_sha256="" if corpus is None else digest(corpus),
        context=context,
        chunks=chunks,
        reference_path=str(path),
        reference_sha256=digest(path) if sha256 is None else sha256,
    )
    report = (seen if seen is not None else []).append
    return measure_against_file(by or reader("certain-3"), request, report)


def true_divergence() -> float:
    """Return the divergence of the less certain model from the other one."""
    p = np.array([np.exp(CERTAINTY), *[1] * (VOCABULARY - 1)])
    q = np.array([np.exp(3), *[1] * (VOCABULARY - 1)])
    p, q = p / p.sum(), q / q.sum()
    return float((p * np.log(p / q)).sum())


# --- logits files ----------------------------------------------------------------------------------


def test_a_logits_file_needs_no_text(corpus: Path) -> None:
    """Tokens and windows come from the file; the figures are those of the two models."""
    path = write(corpus)
    corpus.unlink()
    seen: list[Progress] = []
    found = compare(path, chunks=(3, 1), seen=seen)

    assert ("16-bit", (3, 1), (2, 7)) == (found.precision, found.candidate.chunks, found.kld.shape)
    assert true_divergence() == pytest.approx(found.kld.array(), abs=1e-4)
    assert TOKEN_NLL == pytest.approx(found.baseline.token_nll.array(), abs=1e-4)
    assert (4, 64, VOCABULARY) == (
        found.candidate.available_chunks,
        found.candidate.corpus_tokens,
        found.candidate.vocabulary,
    )
    assert found.same_top.array().all()
    assert [0, 2] == [step.done for step in seen]
    assert (0, 1, 2, 3) == compare(path).candidate.chunks


@pytest.mark.parametrize(("asked", "there"), [(None, 4), (1, 1), (4, 4), (5, 4)])
def test_as_many_windows_are_written_as_asked_for(
    corpus: Path, asked: int | None, there: int
) -> None:
    """As with the tool's --chunks, no more than asked for and no more than there are."""
    assert there == compare(write(corpus, asked)).candidate.available_chunks


@pytest.mark.parametrize("chunks", [0, -1])
def test_a_file_of_nothing_is_refused(corpus: Path, chunks: int) -> None:
    """A logits file without windows is not written."""
    with pytest.raises(ProbeRefused, match="no chunk is asked for"):
        write(corpus, chunks)
    assert not corpus.with_name("base.logits").exists()


def test_a_broken_model_writes_no_file(corpus: Path) -> None:
    """NaN is an error of the model that names the chunk, and no file is left."""
    with pytest.raises(MeasurementError, match="the model produced NaN in chunk 2"):
        write(corpus, by=reader("later-nan", batch=16))
    assert [corpus] == list(corpus.parent.iterdir())


def test_the_candidate_must_fit_the_file(corpus: Path) -> None:
    """Another context, another vocabulary, and windows the file lacks are refused with both values."""
    path = write(corpus)
    with pytest.raises(
        ProbeRefused, match=r"windows of 16 tokens; 32 are asked for: set the context"
    ):
        compare(path, context=32)
    with pytest.raises(ArtifactError, match=r"a vocabulary of 256 tokens, the candidate's has 257"):
        compare(path, by=reader("wide"))
    with pytest.raises(ProbeRefused, match="there is no chunk 4: the text has 4"):
        compare(path, chunks=(4,))
    with pytest.raises(ProbeRefused, match="a context of 16 tokens exceeds the batch of 15"):
        compare(path, by=reader(batch=15))
    with pytest.raises(ProbeRefused, match="ends every text with an end-of-text token"):
        compare(path, by=reader(backend=CountingBackend(add_eos=True)))


def test_the_file_must_be_the_one_that_was_named(corpus: Path) -> None:
    """A file of other bytes is refused, also when it changed after it was read once."""
    path = write(corpus)
    with pytest.raises(ArtifactError, match=r"its sha256 is \w{16}\.\.\., 0{16}\.\.\. is expected"):
        compare(path, sha256="0" * 64)
    named = digest(path)
    compare(path, sha256=named)
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ArtifactError, match="it is another file, or changed during the run"):
        compare(path, sha256=named)


def test_numbers_that_are_none_name_the_side(corpus: Path) -> None:
    """NaN in the file is the baseline's, NaN of the model the candidate's; both name the chunk."""
    path = write(corpus)
    with pytest.raises(
        MeasurementError, match=r"the candidate produced NaN in chunk 2 \(tokens 16"
    ):
        compare(path, by=reader("later-nan", batch=16))
    raw = bytearray(path.read_bytes())
    offset = 20 + 64 * 4 + 2 * 7 * 260 * 2 + 4
    raw[offset : offset + 4] = struct.pack("<f", float("nan"))
    path.write_bytes(raw)
    with pytest.raises(
        MeasurementError,
        match=r"the baseline produced NaN in chunk 3 .* model behind the logits file base\.logits",
    ):
        compare(path)


# --- committed baselines ---------------------------------------------------------------------------


def test_a_committed_baseline_gives_a_lower_bound(corpus: Path) -> None:
    """Windows are found by their numbers; likelihoods are those stored, the divergence at most true."""
    found = compare(commit(corpus), corpus, chunks=(0, 2))

    assert ("lower bound", (0, 2)) == (found.precision, found.baseline.chunks)
    assert TOKEN_NLL == pytest.approx(found.baseline.token_nll.array())
    assert found.same_top.array().all()
    # The counting model tells no two other tokens apart, so that nothing is lost with them.
    assert true_divergence() == pytest.approx(found.kld.array(), rel=1e-2)
    assert (found.kld.array() <= true_divergence() + 1e-6).all()
    assert 0 == pytest.approx(compare(commit(corpus), corpus, by=reader(), chunks=(2,)).kld.array())


def test_windows_without_likely_tokens_are_refused(corpus: Path) -> None:
    """Neither a window that is not in the file, nor one that has its likelihood there alone."""
    path = commit(corpus)
    for chunk in (1, 3):
        with pytest.raises(
            ProbeRefused,
            match=f"has the most likely tokens of 2 windows, and chunk {chunk} is none",
        ):
            compare(path, corpus, chunks=(0, chunk))


def test_a_committed_baseline_of_another_kind_is_refused(corpus: Path) -> None:
    """Another context and another vocabulary are errors that name both values."""
    with pytest.raises(ArtifactError, match="has 7 tokens a window, 3 are scored in windows of 8"):
        compare(commit(corpus), corpus, context=8, chunks=(0,))
    ids = np.full((2, 7, 4), VOCABULARY, dtype="<u2")
    with pytest.raises(ArtifactError, match="lists token 256, the candidate's vocabulary has 256"):
        compare(commit(corpus, {"top_ids": ids}), corpus, chunks=(0,))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"nll": None}, "cannot be read: .*nll"),
        ({"nll": np.zeros(3)}, r"its array nll is float64 of shape \(3,\); 2 dimensions"),
        ({"top_ids": np.zeros((2, 7, 4))}, r"its array top_ids is float64 of shape \(2, 7, 4\)"),
        ({"top_ids": np.zeros((2, 7, 3), dtype="<u2")}, r"do not fit: .*top_ids \(2, 7, 3\)"),
        ({"chunks": np.zeros(1, dtype="<i4")}, r"do not fit: .*chunks \(1,\)"),
        ({"nll": np.full((3, 7), np.nan, "<f4")}, "has values that are no likelihoods"),
        ({"top_log_probs": np.full((2, 7, 4), np.inf, "<f4")}, "values that are no likelihoods"),
        ({"top_ids": np.full((2, 7, 4), -1, "<i4")}, "has values that are no likelihoods"),
    ],
)
def test_damaged_arrays_are_named(
    corpus: Path, changes: dict[str, NDArray[Any] | None], said: str
) -> None:
    """Arrays that are missing, of another shape or kind, or no numbers are errors."""
    with pytest.raises(ArtifactError, match=said):
        compare(commit(corpus, changes), corpus, chunks=(0,))


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x80\x04.", b"[]"])
def test_files_that_are_no_arrays(corpus: Path, data: bytes) -> None:
    """Anything else than an archive of arrays is an error, and nothing in it is run."""
    path = corpus.with_name("other.npz")
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="cannot be read"):
        compare(path, corpus, chunks=(0,))
