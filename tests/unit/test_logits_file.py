"""llama.cpp's logits file: what is written is read again, and nothing damaged is taken for whole."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_quantgate.artifact.logits_file import (
    LogitsFile,
    LogitsHeader,
    LogitsWriter,
    encode,
    read_header,
)
from pytest_quantgate.errors import ArtifactError

if TYPE_CHECKING:
    from pathlib import Path

HEADER = LogitsHeader(context=8, vocabulary=5, chunks=2)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A file of two windows of eight tokens over five."""
    path = tmp_path / "base.logits"
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, 5, (2, 8)).astype(np.int32)
    with LogitsWriter(path, HEADER, tokens) as file:
        for _ in range(2):
            file.add(encode(rng.normal(size=(3, 5)).astype(np.float32)))
    return path


def test_sizes_are_those_of_the_format() -> None:
    """Of eight tokens three are scored; five values are padded to six, and four come before them."""
    assert (3, 10, 20 + 64, 84 + 2 * 2 * 3 * 10) == (
        HEADER.scored,
        HEADER.record_values,
        HEADER.records_offset,
        HEADER.file_bytes,
    )
    assert 10 == LogitsHeader(context=8, vocabulary=6, chunks=1).record_values
    assert 255 == LogitsHeader(context=512, vocabulary=6, chunks=1).scored


@settings(deadline=None)
@given(st.integers(2, 3000), st.integers(1, 3), st.integers(0, 2**32 - 1), st.floats(0.01, 30))
def test_what_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, vocabulary: int, chunks: int, seed: int, spread: float
) -> None:
    """Tokens come back as they were, log-probabilities to half a step, but not below the floor."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, vocabulary, (chunks, 9)).astype(np.int32)
    logits = (rng.normal(size=(chunks, 4, vocabulary)) * spread).astype(np.float32)
    path = tmp_path_factory.getbasetemp() / "round.logits"
    header = LogitsHeader(context=9, vocabulary=vocabulary, chunks=chunks)
    with LogitsWriter(path, header, tokens) as file:
        for rows in logits:
            file.add(encode(rows))
    found = LogitsFile(path)

    assert header == found.header == read_header(path)
    assert (tokens == found.tokens).all()
    for chunk in range(chunks):
        window = found.window(chunk)
        decoded = window.scale[:, None] * window.steps.astype(np.float64) + window.least[:, None]
        lowered = logits[chunk].astype(np.float64) - logits[chunk].max(axis=1, keepdims=True)
        exact = np.maximum(lowered, -16) - np.log(np.exp(lowered).sum(axis=1, keepdims=True))
        assert np.abs(decoded - exact).max() <= 16 / 65535 / 2 * 1.02 + 1e-5
        best = logits[chunk].argmax(axis=1)
        assert [65535] * 4 == window.steps[np.arange(4), best].tolist()


def test_equal_logits_have_no_scale() -> None:
    """A row of equal values has scale 0 and steps 0; the pad of an odd vocabulary is 0."""
    record = encode(np.full((1, 5), 3, dtype=np.float32))

    assert [0.0, pytest.approx(-np.log(5))] == record[0, :4].view("<f4").tolist()
    assert [0] * 6 == record[0, 4:].tolist()


def test_the_floor_is_sixteen_below_the_greatest() -> None:
    """What lies at the floor or under it has step 0, what lies above it does not."""
    logits = np.array([[0, -15.99, -16, -16.01, -np.inf, -1e30]], dtype=np.float32)
    record = encode(logits)

    assert [65535, 41, 0, 0, 0, 0] == record[0, 4:].tolist()
    assert np.float32(16) / np.float32(65535) == record[0, :4].view("<f4")[0]


@pytest.mark.parametrize(
    ("offset", "data", "said"),
    [
        (0, b"_Logits_", r"is no logits file: it begins with b'_Logits_' instead of b'_logits_'"),
        (8, struct.pack("<i", 3), r"its context \(int32 at offset 8\) is 3; 4 to 1048576 can be"),
        (8, struct.pack("<i", 1 << 21), "its context .* is 2097152"),
        (12, struct.pack("<i", 1), r"its vocabulary \(int32 at offset 12\) is 1; 2 to"),
        (12, struct.pack("<i", -5), "its vocabulary .* is -5"),
        (16, struct.pack("<i", 0), r"its chunks \(int32 at offset 16\) is 0; 1 to"),
        (16, struct.pack("<i", 1 << 25), "its chunks .* is 33554432"),
        (16, struct.pack("<i", 3), "is 204 bytes long; 3 chunks of 8 .* of 5 take 296"),
        (12, struct.pack("<i", 7), "is 204 bytes long; 2 chunks of 8 .* of 7 take 228"),
        (24, struct.pack("<i", 5), "the token at offset 24 is 5; the vocabulary has 5"),
        (80, struct.pack("<i", -1), "the token at offset 80 is -1; the vocabulary has 5"),
    ],
)
def test_damage_is_named(written: Path, offset: int, data: bytes, said: str) -> None:
    """Each field that cannot be is an error with its place, its value and what could be."""
    raw = bytearray(written.read_bytes())
    raw[offset : offset + len(data)] = data
    written.write_bytes(raw)

    with pytest.raises(ArtifactError, match=said):
        LogitsFile(written)


@pytest.mark.parametrize(("scale", "least"), [(-1e-4, -3.0), (1.0, -3.0), (0.0, 0.1)])
def test_records_that_give_no_probabilities(written: Path, scale: float, least: float) -> None:
    """A scale below zero, or a probability above one, is an error with the place of the record."""
    raw = bytearray(written.read_bytes())
    offset = HEADER.records_offset + 60 + 20
    raw[offset : offset + 8] = struct.pack("<ff", scale, least)
    written.write_bytes(raw)
    file = LogitsFile(written)

    file.window(0)
    with pytest.raises(
        ArtifactError, match=rf"the record at offset {offset} \(chunk 2\) has scale"
    ):
        file.window(1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_records_of_a_broken_model_are_let_through(written: Path, value: float) -> None:
    """NaN is the model's fault, not the file's: whoever compares with it says so."""
    raw = bytearray(written.read_bytes())
    raw[HEADER.records_offset + 4 : HEADER.records_offset + 8] = struct.pack("<f", -value)
    written.write_bytes(raw)

    assert not np.isfinite(LogitsFile(written).window(0).least[0])


@pytest.mark.parametrize("extra", [-1, 1])
def test_a_file_is_exactly_as_long_as_it_must_be(written: Path, extra: int) -> None:
    """One byte too few or too many is an error with both lengths."""
    raw = written.read_bytes()
    written.write_bytes(raw[:extra] if extra < 0 else raw + b"\0")

    with pytest.raises(
        ArtifactError, match=f"is {204 + extra} bytes long; .* take 204: the program"
    ):
        read_header(written)


@given(st.binary(max_size=60))
def test_any_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Whatever a file holds, reading it ends in an error of this package."""
    path = tmp_path_factory.getbasetemp() / "any.logits"
    path.write_bytes(b"_logits_" + data)

    with pytest.raises(ArtifactError):
        LogitsFile(path)


def test_files_that_are_none(tmp_path: Path) -> None:
    """A missing file, a folder and an empty file are errors that name the path."""
    (tmp_path / "empty").touch()
    for name, said in (
        ("none", "no such file"),
        (".", "is a folder"),
        ("empty", "begins with b''"),
    ):
        with pytest.raises(ArtifactError, match=said):
            LogitsFile(tmp_path / name)


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    """After an error, or with windows missing, there is no file; an older one stays as it was."""
    path = tmp_path / "base.logits"
    path.write_bytes(b"older")
    tokens = np.zeros((2, 8), dtype=np.int32)
    with pytest.raises(KeyboardInterrupt), LogitsWriter(path, HEADER, tokens):
        raise KeyboardInterrupt
    with (
        pytest.raises(RuntimeError, match="0 of 2 windows were written"),
        LogitsWriter(path, HEADER, tokens),
    ):
        pass

    assert [path] == list(tmp_path.iterdir())
    assert b"older" == path.read_bytes()


def test_want_of_room_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that cannot hold the file is an error before anything is decoded, with the size."""

    def full(*_arguments: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    header = LogitsHeader(context=512, vocabulary=49152, chunks=10)
    writer = LogitsWriter(tmp_path / "x", header, np.zeros((10, 512), dtype=np.int32))
    with pytest.raises(ArtifactError, match="No space left on device; the file takes 239 MiB"):
        writer.__enter__()
    assert [] == list(tmp_path.iterdir())

    with pytest.raises(ArtifactError, match=r"no/x: cannot be written: No such file"):
        LogitsWriter(tmp_path / "no" / "x", HEADER, np.zeros((2, 8), np.int32)).__enter__()
