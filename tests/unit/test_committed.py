"""Committed baselines: written so that a person can review them, read only if they are sound."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_quantgate import committed, paired, sampling
from pytest_quantgate.committed import arrays as stored_arrays
from pytest_quantgate.committed.header import EnginePart, MachinePart, ModelPart, TextPart
from pytest_quantgate.errors import ArtifactError, MeasurementError
from pytest_quantgate.gates.perplexity import perplexity
from pytest_quantgate.records import Likelihood, NoiseFloor, Packed, TextFacts, TopTokens

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

TOKENS = 7
AVAILABLE = 40
RESTORE = "restore both files, or measure anew with --quantgate-update-baselines"

MODEL = ModelPart(
    name="tiny", source="tiny-f16.gguf", quantize=None, sha256="a" * 64, file_type="F16"
)
ENGINE = EnginePart(
    version="llama-cpp-python 0.3.36",
    batch=2048,
    ubatch=512,
    flash_attention="auto",
    gpu_layers=0,
    repack=True,
)
MACHINE = MachinePart(
    description="Test processor, 2 cores",
    arithmetic="x86_64-0123456789ab",
    build="llama-cpp-python 0.3.36 0123456789ab",
    threads=2,
)
FLOOR = NoiseFloor(log_ratio=1e-5, kld=2e-6, chunks=32, settings=("batch 512", "threads 1"))


def text(*, vocabulary: int = 100, chunks: int | None = None) -> TextPart:
    """Return a text of 40 windows."""
    return TextPart(
        name="texts/manual.txt",
        sha256="b" * 64,
        context=16,
        chunks=chunks,
        available_chunks=AVAILABLE,
        tokens=AVAILABLE * 16 + 3,
        tokens_sha256="c" * 64,
        vocabulary=vocabulary,
    )


def block(chunks: Sequence[int], *, top: int = 4, vocabulary: int = 100) -> Likelihood:
    """Return windows whose figures depend on their numbers only."""
    rows = []
    for chunk in chunks:
        rng = np.random.default_rng(chunk)
        logits = rng.normal(size=(TOKENS, vocabulary)) * 3
        log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        rows.append(log_probs)
    log_probs = np.stack(rows)
    nll = -log_probs[..., 0]
    ids = np.argsort(-log_probs, axis=2)[..., :top]
    kept = np.take_along_axis(log_probs, ids, axis=2)
    return Likelihood(
        chunks=tuple(chunks),
        chunk_nll=tuple(nll.sum(axis=1).tolist()),
        chunk_nll2=tuple(np.square(nll).sum(axis=1).tolist()),
        token_nll=Packed.of(nll, "<f4"),
        chunk_tokens=TOKENS,
        available_chunks=AVAILABLE,
        corpus_tokens=AVAILABLE * 16 + 3,
        tokens_sha256="c" * 64,
        vocabulary=vocabulary,
        seconds=1.0,
        top=TopTokens(ids=Packed.of(ids, "<u4"), log_probs=Packed.of(kept, "<f4")) if top else None,
    )


def blocks(
    *, seed: int = 0, population: int = AVAILABLE, vocabulary: int = 100
) -> list[Likelihood]:
    """Return two blocks of 16 windows in a seed's order, the first with most likely tokens."""
    order = sampling.order(seed, population)
    return [
        block(order[:16], vocabulary=vocabulary),
        block(order[16:32], top=0, vocabulary=vocabulary),
    ]


def write(path: Path, **changes: Any) -> bool:  # noqa: ANN401 - arguments of `committed.write`
    """Write a baseline of those blocks."""
    arguments: dict[str, Any] = {
        "model": MODEL,
        "text": text(),
        "seed": 0,
        "blocks": blocks(),
        "noise_floor": FLOOR,
        "engine": ENGINE,
        "machine": MACHINE,
        "made": "2026-01-02T03:04:05+00:00",
    }
    return committed.write(path, **{**arguments, **changes})


def read(path: Path) -> committed.CommittedBaseline:
    """Read a baseline that is there."""
    found = committed.read(path, shown="baselines/x.json")
    assert found is not None
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a baseline has been written, in a folder that was not there before."""
    path = tmp_path / "baselines" / "x.json"
    assert write(path)
    return path


# --- what is written is what is read ---------------------------------------------------------------


def test_likelihoods_come_back_to_the_last_bit(path: Path) -> None:
    """Any windows, in any order, are those that were measured; others are not there."""
    found = read(path)
    first, second = blocks()
    wanted = (second.chunks[3], first.chunks[0])

    got = found.likelihood(wanted)

    assert found.holds(wanted)
    assert not found.holds((first.chunks[0], AVAILABLE))
    merged = paired.merged([first, second])
    places = [merged.chunks.index(chunk) for chunk in wanted]
    assert got.chunks == wanted
    assert got.chunk_nll == tuple(merged.chunk_nll[place] for place in places)
    assert got.chunk_nll2 == tuple(merged.chunk_nll2[place] for place in places)
    np.testing.assert_array_equal(got.token_nll.array(), merged.token_nll.array()[places])
    assert dataclasses.replace(got, token_nll=first.token_nll) == dataclasses.replace(
        first,
        chunks=wanted,
        chunk_nll=got.chunk_nll,
        chunk_nll2=got.chunk_nll2,
        seconds=0.0,
        top=None,
    )


def test_text_and_noise_floor_come_back(path: Path) -> None:
    """How the baseline reads the text, and how far it is from itself."""
    assert read(path).facts() == TextFacts(
        chunks=40, tokens=643, tokens_sha256="c" * 64, vocabulary=100
    )
    assert read(path).noise_floor() == FLOOR
    write(path, noise_floor=None)
    assert read(path).noise_floor() is None


@pytest.mark.parametrize(("vocabulary", "dtype"), [(65536, "uint16"), (65537, "uint32")])
def test_arrays_are_small(tmp_path: Path, vocabulary: int, dtype: str) -> None:
    """Identities take two bytes as long as the vocabulary lets them, log-probabilities always."""
    path = tmp_path / "x.json"
    write(path, text=text(vocabulary=vocabulary), blocks=blocks(vocabulary=vocabulary))

    with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
        found = {name: (str(arrays[name].dtype), arrays[name].shape) for name in arrays.files}

    assert found == {
        "chunks": ("int32", (32,)),
        "nll": ("float32", (32, 7)),
        "chunk_nll": ("float64", (32,)),
        "chunk_nll2": ("float64", (32,)),
        "top_ids": (dtype, (16, 7, 4)),
        "top_log_probs": ("float16", (16, 7, 4)),
    }
    assert read(path).header.sample.top_chunks == 16


def test_the_header_can_be_reviewed(path: Path) -> None:
    """Every part has its own lines, digests and figures included."""
    header = json.loads(path.read_text(encoding="utf-8"))

    assert list(header) == [
        "quantgate_baseline",
        "model",
        "text",
        "sample",
        "metrics",
        "noise_floor",
        "engine",
        "machine",
        "arrays_sha256",
        "made",
    ]
    figures = perplexity(paired.merged(blocks()))
    assert header["metrics"] == {
        "perplexity": figures.value,
        "perplexity_error": figures.error,
    }
    assert header["sample"] == {
        "seed": 0,
        "population": 40,
        "chunks": 32,
        "scored_tokens": 7,
        "top": 4,
        "top_chunks": 16,
    }
    data = path.with_suffix(".npz").read_bytes()
    assert header["arrays_sha256"] == hashlib.sha256(data).hexdigest()
    assert path.read_text(encoding="utf-8").count("\n") > 40


def test_the_same_measurement_is_no_difference_to_review(path: Path) -> None:
    """Written again with the same content, the files stay as they are, date included."""
    before = {each: each.read_bytes() for each in path.parent.iterdir()}

    assert not write(path, made="2027-01-01T00:00:00+00:00")

    assert {each: each.read_bytes() for each in path.parent.iterdir()} == before
    assert write(path, model=MODEL.model_copy(update={"sha256": "d" * 64}), made="2027")
    assert read(path).header.made == "2027"


def test_a_damaged_baseline_is_written_over(path: Path) -> None:
    """Updating repairs what could not be read."""
    path.write_text("{", encoding="utf-8")

    assert write(path)
    assert read(path).header.model == MODEL


def test_a_cut_text_has_another_population(tmp_path: Path) -> None:
    """With `chunks: 20` the order is that of the first 20 windows, of which there may be fewer."""
    path = tmp_path / "x.json"
    order = sampling.order(3, 20)
    write(path, text=text(chunks=20), seed=3, blocks=[block(order[:16]), block(order[16:])])

    assert read(path).header.sample.population == 20
    assert read(path).holds(range(20))


def test_blocks_out_of_order_are_not_written(tmp_path: Path) -> None:
    """A sample that is not the start of the seed's order is no random sample."""
    with pytest.raises(MeasurementError, match="chunks is not the start of the seed's order"):
        write(tmp_path / "x.json", seed=1)
    assert list(tmp_path.iterdir()) == []


def test_no_file_is_none(tmp_path: Path) -> None:
    """Where there is no header there is no baseline, arrays or not."""
    (tmp_path / "x.npz").write_bytes(b"")

    assert committed.read(tmp_path / "x.json", shown="x.json") is None


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """A file in the folder's place is named."""
    (tmp_path / "baselines").write_text("in the way", encoding="utf-8")

    with pytest.raises(ArtifactError, match="baselines: cannot be made: File exists"):
        write(tmp_path / "baselines" / "x.json")


@pytest.mark.parametrize(
    ("given_text", "chunks", "expected"),
    [
        ("corpus.txt", None, "tiny--corpus-512-seed0"),
        ("texts/my manual.txt", 100, "tiny--texts-my-manual-512-first100-seed0"),
        ("builtin:python-docs", None, "tiny--python-docs-512-seed0"),
        ("../a/b.md", None, "tiny--a-b.md-512-seed0"),
        ("package:my.texts/a.txt", None, "tiny--package-my.texts-a-512-seed0"),
    ],
)
def test_names_say_what_was_measured(given_text: str, chunks: int | None, expected: str) -> None:
    """Model, text, window, cut and seed; nothing that a file system or a shell minds."""
    assert (
        committed.file_stem(model="tiny", text=given_text, context=512, chunks=chunks, seed=0)
        == expected
    )


# --- something else ----------------------------------------------------------------------------------


EXPECTED: dict[str, object] = {
    "model.name": "tiny",
    "model.source": "tiny-f16.gguf",
    "model.quantize": None,
    "model.sha256": "a" * 64,
    "text.name": "texts/manual.txt",
    "text.sha256": "b" * 64,
    "text.context": 16,
    "text.chunks": None,
    "sample.seed": 0,
    "engine.version": "llama-cpp-python 0.3.36",
    "engine.batch": 2048,
    "engine.flash_attention": "auto",
}


def test_what_it_was_measured_on_is_accepted(path: Path) -> None:
    """Nothing differs, nothing is said."""
    read(path).require(EXPECTED)


@pytest.mark.parametrize("field", list(EXPECTED))
def test_any_difference_is_refused(path: Path, field: str) -> None:
    """The message names the field, both values, and what to do."""
    with pytest.raises(ArtifactError) as caught:
        read(path).require({**EXPECTED, field: "other"})

    assert str(caught.value) == (
        "baselines/x.json was measured on something else:"
        f" {field} is {EXPECTED[field]!r} there and 'other' here; restore what it was measured on, or"
        " measure anew with --quantgate-update-baselines"
    )


def test_all_differences_are_named_at_once(path: Path) -> None:
    """Nobody learns of them one by one."""
    with pytest.raises(
        ArtifactError, match=r"model\.source is .* here, sample\.seed is 0 there and 5"
    ):
        read(path).require({**EXPECTED, "model.source": "x", "sample.seed": 5})


# --- damaged files -----------------------------------------------------------------------------------


def refusal(path: Path) -> str:
    """Return why a baseline is refused."""
    with pytest.raises(ArtifactError) as caught:
        committed.read(path, shown="baselines/x.json")
    return str(caught.value)


def edit(path: Path, *keys: str, value: object) -> None:
    """Change one value of a header."""
    header = json.loads(path.read_text(encoding="utf-8"))
    part = header
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    path.write_text(json.dumps(header), encoding="utf-8")


@pytest.mark.parametrize(
    ("keys", "value", "expected"),
    [
        (("quantgate_baseline",), 2, "quantgate_baseline: Input should be 1"),
        (("surplus",), 1, "surplus: Extra inputs are not permitted"),
        (("model", "sha256"), None, "model.sha256: Input should be a valid string"),
        (("sample", "chunks"), "32", "sample.chunks: Input should be a valid integer"),
        (("sample", "population"), 39, "the whole: Value error, sample.population is 39"),
        (("text", "available_chunks"), 41, "the whole: Value error, sample.population is 40"),
        (("metrics", "perplexity"), float("nan"), "metrics.perplexity: Input should be a finite"),
    ],
)
def test_a_header_of_another_form_is_refused(
    path: Path, keys: tuple[str, ...], value: object, expected: str
) -> None:
    """The first field that is wrong is named."""
    edit(path, *keys, value=value)

    message = refusal(path)

    assert message.startswith(f"baselines/x.json is no committed baseline: {expected}")
    assert message.endswith(RESTORE)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"version https://git-lfs"])
def test_a_header_that_is_no_json_is_refused(path: Path, content: bytes) -> None:
    """Whatever lies there, the message says what it should be."""
    path.write_bytes(content)

    assert "baselines/x.json is no committed baseline" in refusal(path)


@pytest.mark.parametrize("name", ["perplexity", "perplexity_error"])
def test_edited_figures_are_refused(path: Path, name: str) -> None:
    """Nobody improves a figure in a review: it is computed from the arrays again."""
    edit(path, "metrics", name, value=1.5)

    message = refusal(path)

    assert message.startswith(
        "baselines/x.json was changed after it was written: metrics.perplexity"
    )
    assert "1.5" in message


def test_arrays_of_another_baseline_are_refused(path: Path, tmp_path: Path) -> None:
    """Header and arrays are committed together."""
    other = tmp_path / "other.json"
    write(other, seed=1, blocks=blocks(seed=1))
    arrays = other.with_suffix(".npz").read_bytes()
    path.with_suffix(".npz").write_bytes(arrays)

    assert refusal(path).startswith(
        "baselines/x.npz does not belong to baselines/x.json: its sha256 is"
        f" {hashlib.sha256(arrays).hexdigest()[:16]}..., the header says "
    )


@pytest.mark.parametrize("content", [None, b"", b"PK"])
def test_missing_arrays_are_refused(path: Path, content: bytes | None) -> None:
    """A header without its arrays is half a baseline."""
    arrays = path.with_suffix(".npz")
    arrays.unlink()
    if content is not None:
        arrays.write_bytes(content)

    expected = "no such file" if content is None else "does not belong to"
    assert expected in refusal(path)


def resealed(path: Path, data: bytes) -> None:
    """Replace the arrays by bytes for which the header vouches, as a forger would."""
    path.with_suffix(".npz").write_bytes(data)
    edit(path, "arrays_sha256", value=hashlib.sha256(data).hexdigest())


def changed(path: Path, change: Callable[[dict[str, NDArray[Any]]], object]) -> None:
    """Change the arrays, and seal them again."""
    with np.load(path.with_suffix(".npz")) as archive:
        arrays = {name: archive[name].copy() for name in archive.files}
    change(arrays)
    resealed(path, stored_arrays.pack(arrays))


def put(name: str, place: Any, value: Any) -> Callable[[dict[str, NDArray[Any]]], object]:  # noqa: ANN401
    """Return what sets one value of an array."""

    def change(arrays: dict[str, NDArray[Any]]) -> None:
        arrays[name][place] = value

    return change


def retyped(name: str, dtype: str) -> Callable[[dict[str, NDArray[Any]]], object]:
    """Return what gives an array another type."""

    def change(arrays: dict[str, NDArray[Any]]) -> None:
        arrays[name] = arrays[name].astype(dtype)

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda arrays: arrays.pop("nll"), "nll is missing"),
        (lambda arrays: arrays.update(more=np.zeros(1)), "more is no array of a baseline"),
        (
            lambda arrays: arrays.update(nll=arrays["nll"][:, :6]),
            "nll is float32 (32, 6) and should be float32 (32, 7)",
        ),
        (retyped("top_ids", "<i8"), "top_ids is int64 (16, 7, 4) and should be uint16"),
        (put("nll", (0, 0), np.nan), "nll has a number that is not finite"),
        (put("top_log_probs", (0, 0, 3), -np.inf), "top_log_probs has a number that is not finite"),
        (put("chunks", 0, 39), "chunks is not the start of the seed's order"),
        (put("chunk_nll", 0, 1.0), "chunk_nll is not the sum of nll"),
        (put("chunk_nll2", 0, 1.0), "chunk_nll2 is not the sum of the squares of nll"),
        (put("nll", (0, 0), -1.0), "nll has a probability of more than 1"),
        (put("top_ids", (0, 0, 0), 100), "top_ids has an id beyond a vocabulary of 100"),
        (put("top_log_probs", (0, 0, 3), 0.0), "top_log_probs is not in descending order"),
        (
            put("top_log_probs", (0, 0), -0.1),
            "top_log_probs has more than the whole probability",
        ),
    ],
)
def test_forged_arrays_are_refused(
    path: Path, change: Callable[[dict[str, NDArray[Any]]], object], expected: str
) -> None:
    """Arrays must be likelihoods of the windows that the header names, whatever vouches for them."""
    changed(path, change)

    message = refusal(path)

    assert message.startswith("baselines/x.npz is no baseline of baselines/x.json: ")
    assert expected in message
    assert message.endswith(RESTORE)


def test_objects_are_not_loaded(path: Path) -> None:
    """An array of Python objects, which would run code when loaded, is refused."""
    stream = io.BytesIO()
    np.savez_compressed(stream, nll=np.array([object()]))
    resealed(path, stream.getvalue())

    assert "Object arrays cannot be loaded" in refusal(path)


def test_an_archive_that_unfolds_without_end_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sizes are added up before anything is unfolded."""
    monkeypatch.setattr(stored_arrays, "MOST_BYTES", 1000)
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("nll.npy", bytes(1001))
    resealed(path, data.getvalue())

    assert "its arrays unfold to 1001 bytes" in refusal(path)


def test_a_file_that_is_far_too_long_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not read to its end."""
    monkeypatch.setattr(committed, "MOST_BYTES", path.stat().st_size)
    read_size = path.with_suffix(".npz").stat().st_size
    assert read_size > path.stat().st_size

    assert f"baselines/x.npz is longer than {path.stat().st_size} bytes" in refusal(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_file_that_may_not_be_read(path: Path) -> None:
    """The system's reason is passed on."""
    path.chmod(0)

    assert "Permission denied" in refusal(path)


@pytest.mark.parametrize(("offset", "value"), [(6, 84), (8, 1)], ids=["version", "encrypted"])
def test_an_archive_of_another_kind_is_refused(tmp_path: Path, offset: int, value: int) -> None:
    """An archive that says it needs another version of the format, or a password, is damage."""
    path = tmp_path / "x.json"
    write(path)
    stored = bytearray(path.with_suffix(".npz").read_bytes())
    stored[stored.index(b"PK\x01\x02") + offset] = value
    resealed(path, bytes(stored))

    assert "it is no archive of arrays" in refusal(path)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_damage_of_the_arrays_is_an_error_with_a_message(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Bytes cut or flipped, even if sealed again, are refused or change nothing that is used."""
    path = tmp_path_factory.mktemp("baselines") / "x.json"
    write(path)
    sound = read(path)
    stored = bytearray(path.with_suffix(".npz").read_bytes())
    if data.draw(st.booleans()):
        del stored[data.draw(st.integers(0, len(stored) - 1)) :]
    else:
        place = data.draw(st.integers(0, len(stored) - 1))
        stored[place] ^= data.draw(st.integers(1, 255))
    resealed(path, bytes(stored))

    found = None
    with contextlib.suppress(ArtifactError):
        found = committed.read(path, shown="baselines/x.json")
    if found is None:
        assert refusal(path).endswith(RESTORE)
    else:
        np.testing.assert_array_equal(found.nll, sound.nll)
        np.testing.assert_array_equal(found.chunk_nll, sound.chunk_nll)
