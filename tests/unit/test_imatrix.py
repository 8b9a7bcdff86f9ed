"""Importance matrices as files: what is read, written and refused."""

from __future__ import annotations

import dataclasses
import os
import resource
import struct
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from gguf_writer import ARRAY, F16, STRING, Gguf, Tensor
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pytest_quantgate.artifact.gguf import GgufHeader, read_header
from pytest_quantgate.artifact.imatrix import (
    Imatrix,
    ImatrixEntry,
    check_fits,
    read_imatrix,
    write_imatrix,
)
from pytest_quantgate.errors import ArtifactError

U32 = 4
TINY = Path(__file__).parents[1] / "models" / "tiny-f16.gguf"
TOOLS = [
    Path(__file__).parents[1] / "real" / "transcripts" / f"llama-imatrix-experts.{suffix}"
    for suffix in ("gguf", "dat")
]


def entry(sums: object, counts: object) -> ImatrixEntry:
    """Return an entry of these numbers."""
    values = np.array(sums, dtype=np.float32)
    return ImatrixEntry(sums=np.atleast_2d(values), counts=np.array(counts, dtype=np.int64))


def matrix(entries: dict[str, ImatrixEntry], *, chunk_size: int = 32) -> Imatrix:
    """Return a matrix of these entries."""
    return Imatrix(
        entries=MappingProxyType(entries), datasets=("text.txt",), chunks=3, chunk_size=chunk_size
    )


PLAIN = matrix({"blk.0.attn_q.weight": entry([64.0, 32.0, 0.0], [32])})


@st.composite
def matrices(draw: st.DrawFn) -> Imatrix:
    """Draw an importance matrix as a program may write it."""
    names = draw(
        st.lists(st.from_regex(r"\Ablk\.[0-9]\.[a-z_]{1,8}\.weight\Z"), min_size=1, unique=True)
    )
    numbers = st.floats(0, 2.0**99, width=32)
    entries = {}
    for name in sorted(names):
        shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 9)))
        entries[name] = ImatrixEntry(
            sums=draw(arrays.arrays(np.float32, shape, elements=numbers)),
            counts=draw(arrays.arrays(np.int64, shape[:1], elements=st.integers(0, 1 << 24))),
        )
    return Imatrix(
        entries=MappingProxyType(entries),
        datasets=tuple(draw(st.lists(st.text(max_size=20), max_size=3))),
        chunks=draw(st.integers(0, (1 << 31) - 1)),
        chunk_size=draw(st.integers(1, 4096)),
    )


# --- values ----------------------------------------------------------------------------------------


def test_the_engine_gets_means() -> None:
    """Sums are divided by counts, matrix by matrix; an expert that saw nothing weighs all alike."""
    found = matrix(
        {
            "blk.0.attn_q.weight": entry([64.0, 32.0, 0.0], [32]),
            "blk.0.ffn_up_exps.weight": entry([[6.0, 9.0], [0.0, 0.0], [5.0, 1.0]], [3, 0, 1]),
        }
    )

    values = found.engine_values()

    assert [2.0, 1.0, 0.0] == values["blk.0.attn_q.weight"].tolist()
    assert [2.0, 3.0, 1.0, 1.0, 5.0, 1.0] == values["blk.0.ffn_up_exps.weight"].tolist()
    assert all(value.dtype == np.float32 and value.ndim == 1 for value in values.values())
    assert found.partial == ("blk.0.ffn_up_exps.weight",)


def test_an_old_file_gets_its_chunk_size() -> None:
    """Means over windows become sums over tokens; the means stay, and a known size is kept."""
    old = matrix({"blk.0.attn_q.weight": entry([6.0, 3.0], [3])}, chunk_size=0)

    new = old.with_chunk_size(512)

    assert (new.chunks, new.chunk_size) == (3, 512)
    assert new.entries["blk.0.attn_q.weight"].counts.tolist() == [1536]
    assert new.engine_values()["blk.0.attn_q.weight"].tolist() == [2.0, 1.0]
    assert new.with_chunk_size(128) is new


# --- files -----------------------------------------------------------------------------------------


@given(written=matrices())
def test_a_file_holds_all_of_it(written: Imatrix, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is written as GGUF is read back to the last bit."""
    path = tmp_path_factory.getbasetemp() / "imatrix.gguf"

    write_imatrix(written, path)
    read = read_imatrix(path)

    assert (read.datasets, read.chunks, read.chunk_size) == (
        written.datasets,
        written.chunks,
        written.chunk_size,
    )
    assert list(read.entries) == list(written.entries)
    for name, each in written.entries.items():
        assert np.array_equal(read.entries[name].sums, each.sums)
        assert np.array_equal(read.entries[name].counts, each.counts)


@given(written=matrices())
def test_the_old_layout_holds_the_means(
    written: Imatrix, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What is written in the old layout has the same means, but for tensors that saw nothing."""
    path = tmp_path_factory.getbasetemp() / "imatrix.dat"
    kept = {name for name, each in written.entries.items() if each.counts.any()}
    if not kept:
        return

    write_imatrix(written, path, legacy=True)
    read = read_imatrix(path)

    assert (set(read.entries), read.chunk_size) == (kept, 0)
    for name, values in read.engine_values().items():
        assert values == pytest.approx(written.engine_values()[name], rel=1e-6, abs=1e-37)


@pytest.mark.parametrize("path", TOOLS, ids=["gguf", "dat"])
def test_a_file_that_ends_early_is_refused(path: Path, tmp_path: Path) -> None:
    """Wherever a file was cut off, what is left of it is no importance matrix."""
    data = path.read_bytes()
    cut = tmp_path / path.name
    whole = len(data) if path.suffix == ".gguf" else len(data) - 20
    for length in [*range(200), *range(200, whole - 1, 97), whole - 65]:
        cut.write_bytes(data[:length])
        with pytest.raises(ArtifactError):
            read_imatrix(cut)


@given(data=st.binary(max_size=200))
def test_anything_else_is_refused(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Bytes that are none of the layouts end in an error of this package, never another one."""
    path = tmp_path_factory.getbasetemp() / "anything"
    path.write_bytes(data)

    with pytest.raises(ArtifactError):
        read_imatrix(path)


@given(place=st.integers(0, 2000), value=st.binary(min_size=1, max_size=8))
@pytest.mark.parametrize("path", TOOLS, ids=["gguf", "dat"])
def test_a_changed_header_is_read_or_refused(
    path: Path, place: int, value: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A few wrong bytes give numbers that make sense, or an error of this package."""
    data = bytearray(path.read_bytes())
    data[place : place + len(value)] = value
    changed = tmp_path_factory.getbasetemp() / "changed"
    changed.write_bytes(data)

    try:
        read = read_imatrix(changed)
    except ArtifactError:
        return

    for each in read.entries.values():
        assert np.isfinite(each.sums).all()
        assert (each.counts >= 0).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0], ids=str)
@pytest.mark.parametrize("legacy", [False, True], ids=["gguf", "dat"])
def test_impossible_numbers_are_refused(value: float, legacy: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a parameter
    """NaN, infinity and negative sums are told with tensor, column and how many there are."""
    broken = matrix({"blk.0.attn_q.weight": entry([1.0, value, 2.0, value], [32])}, chunk_size=0)
    broken = broken if legacy else dataclasses.replace(broken, chunk_size=32)
    path = tmp_path / "imatrix"
    write_imatrix(broken, path, legacy=legacy)

    with pytest.raises(ArtifactError) as caught:
        read_imatrix(path)

    assert f"imatrix: blk.0.attn_q.weight has {value:.1f} in column 1" in str(caught.value)
    assert "2 of its 4 values are like this" in str(caught.value)


PARTS = (Tensor("a.in_sum2", (8,)), Tensor("a.counts", (1,)))
METADATA: dict[str, tuple[int, object]] = {
    "general.type": (STRING, "imatrix"),
    "imatrix.datasets": (ARRAY, (STRING, ("a.txt",))),
    "imatrix.chunk_count": (U32, 1),
    "imatrix.chunk_size": (U32, 16),
}


def gguf(key: str = "", value: tuple[int, object] | None = None, *tensors: Tensor) -> Gguf:
    """Return a GGUF importance matrix with another value of a key, None for no such key."""
    values = {**METADATA, key: value} if key else {**METADATA}
    rows = tuple((name, *found) for name, found in values.items() if found is not None)
    return Gguf(metadata=rows, tensors=tensors or PARTS)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (gguf("general.type", (STRING, "model")), "no importance matrix but of type 'model'"),
        (gguf("general.type"), "no importance matrix but of type None"),
        (gguf("imatrix.chunk_size", (U32, 0)), "it says ('a.txt',), 1 and 0"),
        (gguf("imatrix.chunk_count", (U32, 1 << 31)), "it says ('a.txt',), 2147483648 and 16"),
        (gguf("imatrix.chunk_count"), "it says ('a.txt',), None and 16"),
        (gguf("imatrix.datasets"), "it says None, 1 and 16"),
        (gguf("", None, PARTS[0]), "a has sums or counts, not both"),
        (gguf("", None, Tensor("a.weight", (8,))), "it has no entries"),
        (
            gguf("", None, Tensor("a.in_sum2", (8,), F16), PARTS[1]),
            "is of type F16, it must be F32",
        ),
        (gguf("", None, PARTS[0], Tensor("a.counts", (1, 3))), "a has 8 sums for 3 counts"),
    ],
)
def test_malformed_files_are_refused(file: Gguf, message: str, tmp_path: Path) -> None:
    """Each thing that can be wrong with a GGUF matrix has its sentence."""
    path = tmp_path / "im.gguf"
    path.write_bytes(file.encode())

    with pytest.raises(ArtifactError) as caught:
        read_imatrix(path)

    assert message in str(caught.value)


def test_impossible_counts_are_refused(tmp_path: Path) -> None:
    """A count that is negative or no number is malformed."""
    data = gguf().encode()
    path = tmp_path / "im.gguf"
    for count in (-1.0, float("nan"), float("inf"), 2.0**54):
        path.write_bytes(data[:-32] + struct.pack("<f", count) + bytes(28))
        with pytest.raises(ArtifactError, match="malformed importance matrix: a has the counts"):
            read_imatrix(path)


def test_a_model_is_no_importance_matrix() -> None:
    """A model given by mistake is called one."""
    with pytest.raises(ArtifactError) as caught:
        read_imatrix(TINY)

    assert f"{TINY}: is no importance matrix but a model (llama); make one with" in str(
        caught.value
    )


def legacy_file(
    name: bytes = b"a", *, entries: int = 1, windows: int = 1, columns: int = 1
) -> bytes:
    """Return a file of the old layout whose entries are all alike."""
    one = struct.pack("<i", len(name)) + name + struct.pack("<ii", windows, columns)
    return struct.pack("<i", entries) + (one + struct.pack("<f", 1.0) * max(columns, 0)) * entries


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it ends inside the number of entries: 4 bytes are needed, 0 are left"),
        (legacy_file(entries=0), "the number of entries is 0; 1 to 100,000 are accepted"),
        (struct.pack("<i", 100_001), "the number of entries is 100,001; 1 to 100,000"),
        (legacy_file(b""), "entry 0 has the name b''"),
        (legacy_file(b"\xff"), r"entry 0 has the name b'\xff'"),
        (legacy_file(b"a" * 64), "the length of the name of entry 0 is 64; 0 to 63 are accepted"),
        (legacy_file(entries=2), "entry a occurs twice"),
        (legacy_file(windows=-1), "the windows of a is -1; 0 to 2,147,483,647 are accepted"),
        (legacy_file(columns=0), "the columns of a is 0; 1 to 4 are accepted"),
    ],
)
def test_malformed_old_files_are_refused(data: bytes, message: str, tmp_path: Path) -> None:
    """The old layout has no magic: each number is checked before anything is done with it."""
    path = tmp_path / "im.dat"
    path.write_bytes(data)

    with pytest.raises(ArtifactError) as caught:
        read_imatrix(path)

    assert f"{path}: is no importance matrix: {message}" in str(caught.value)


def test_the_shortest_old_file(tmp_path: Path) -> None:
    """The end of an old file may be missing; a name of 63 bytes is the longest; no windows are one."""
    path = tmp_path / "im.dat"
    path.write_bytes(legacy_file(b"a" * 63, windows=0, columns=2))

    found = read_imatrix(path)

    assert (found.datasets, found.chunks, list(found.entries)) == ((), 0, ["a" * 63])
    assert found.engine_values()["a" * 63].tolist() == [1.0, 1.0]


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    """No entries, a long name and an unknown chunk size are refused, and no file is left."""
    path = tmp_path / "im.gguf"
    long = "blk." + "a" * (63 - 4 - len(".in_sum2"))
    with pytest.raises(ArtifactError, match="without entries is not written"):
        write_imatrix(matrix({}), path)
    with pytest.raises(ArtifactError, match="is 64 bytes long, 63 are allowed"):
        write_imatrix(matrix({long + "b": entry([1.0], [1])}), path)
    with pytest.raises(ArtifactError, match=r"does not say how long its windows were"):
        write_imatrix(matrix(dict(PLAIN.entries), chunk_size=0), path)
    assert list(tmp_path.iterdir()) == []

    write_imatrix(matrix({long: entry([1.0], [1])}), path)

    assert list(read_imatrix(path).entries) == [long]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_is_said(tmp_path: Path) -> None:
    """Where nothing may be written, the message says so."""
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ArtifactError, match=r"im\.gguf: cannot be written: Permission denied"):
            write_imatrix(PLAIN, tmp_path / "im.gguf")
    finally:
        tmp_path.chmod(0o700)


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    """When the file does not fit, the message says why, the old file stays and no part is left."""
    path = tmp_path / "im.gguf"
    write_imatrix(PLAIN, path)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(ArtifactError, match=r"im\.gguf: cannot be written: File too large"):
            write_imatrix(PLAIN, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


def test_counts_beyond_the_old_layout_are_said(tmp_path: Path) -> None:
    """The old layout counts windows in 31 bits: one more is refused."""
    most = (1 << 31) - 1
    path = tmp_path / "im.dat"
    write_imatrix(matrix({"a": entry([1.0], [most])}, chunk_size=1), path, legacy=True)
    assert read_imatrix(path).entries["a"].counts.tolist() == [most]

    with pytest.raises(ArtifactError, match="cannot be written in the old layout: "):
        write_imatrix(matrix({"a": entry([1.0], [most + 1])}, chunk_size=1), path, legacy=True)


# --- whose matrix ----------------------------------------------------------------------------------


def header(tmp_path: Path, *tensors: Tensor, name: str = "model.gguf") -> GgufHeader:
    """Return the header of a model with these tensors."""
    path = tmp_path / name
    path.write_bytes(Gguf(tensors=(Tensor("token_embd.weight", (3, 4)), *tensors)).encode())
    return read_header(path)


def test_a_matrix_of_the_model_fits(tmp_path: Path) -> None:
    """Entries with as many columns as the rows of their tensors are accepted, parts of a model too."""
    attention, experts = (
        Tensor("blk.0.attn_q.weight", (3, 5)),
        Tensor("blk.0.ffn_up_exps.weight", (2, 7, 3)),
    )
    both = matrix(
        {
            **PLAIN.entries,
            "blk.0.ffn_up_exps.weight": entry(np.ones((3, 2)), [1, 1, 1]),
        }
    )

    assert check_fits(both, header(tmp_path, attention, experts)) == ()
    assert check_fits(PLAIN, header(tmp_path, attention, experts)) == ("blk.0.ffn_up_exps.weight",)
    parts = header(tmp_path, attention), header(tmp_path, experts, name="other.gguf")
    assert check_fits(both, *parts) == ()


def test_the_matrix_of_another_model_is_refused(tmp_path: Path) -> None:
    """The first misfits and their number are told."""
    model = header(tmp_path, Tensor("blk.0.attn_q.weight", (4, 4)))
    names = [f"blk.{layer}.attn_k.weight" for layer in range(3)]
    other = matrix({**PLAIN.entries, **{name: entry([1.0], [1]) for name in names}})

    with pytest.raises(ArtifactError) as caught:
        check_fits(other, model)

    assert str(caught.value) == (
        "the importance matrix is not of model.gguf: 4 of its 4 entries do not fit "
        "(blk.0.attn_q.weight has 3 columns, the model's 4; blk.0.attn_k.weight is no tensor of the "
        "model; blk.1.attn_k.weight is no tensor of the model; ...); make one from this model with "
        "`quantgate imatrix`"
    )


def test_a_matrix_of_half_a_model_is_the_least(tmp_path: Path) -> None:
    """A matrix may be silent about half of the weight matrices, not about more."""
    tensors = [
        Tensor("blk.0.attn_q.weight", (3, 5)),
        Tensor("blk.0.attn_k.weight", (3, 5)),
        Tensor("blk.1.attn_q.weight", (3, 5)),
    ]

    assert check_fits(PLAIN, header(tmp_path, *tensors[:2])) == ("blk.0.attn_k.weight",)
    with pytest.raises(ArtifactError) as caught:
        check_fits(PLAIN, header(tmp_path, *tensors))

    assert (
        "says nothing about 2 of the 3 weight matrices of model.gguf, such as blk.0.attn_k.weight"
        in str(caught.value)
    )
