"""The header of a GGUF file: read right, refused with a reason when it is wrong."""

from __future__ import annotations

import contextlib
import math
import os
import re
import struct
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from gguf_writer import ARRAY, F16, Q4_0, Q4_K, Q5_0, Q8_0, STRING, Gguf, Tensor, text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_quantgate.artifact.gguf import (
    GgufHeader,
    Omitted,
    check_architecture,
    check_model,
    read_header,
    read_parts,
)
from pytest_quantgate.artifact.gguf import values as gguf_values
from pytest_quantgate.errors import ArtifactError

if TYPE_CHECKING:
    from pathlib import Path


def header_of(folder: Path, model: Gguf | bytes, name: str = "model.gguf") -> GgufHeader:
    """Write a file and read its header."""
    path = folder / name
    path.write_bytes(model if isinstance(model, bytes) else model.encode())
    return read_header(path)


def refusal(folder: Path, model: Gguf | bytes, name: str = "model.gguf") -> str:
    """Return why a file is refused, without the path that every message begins with."""
    with pytest.raises(ArtifactError) as caught:
        header_of(folder, model, name)
    message = str(caught.value)
    assert message.startswith(f"{folder / name}: ")
    return message.removeprefix(f"{folder / name}: ")


def test_reads_what_the_header_says(tmp_path: Path) -> None:
    """Counts, sizes and names come out as they were written."""
    model = Gguf(
        tensors=(
            Tensor("token_embd.weight", (256, 2), Q8_0),
            Tensor("blk.0.attn_q.weight", (256, 3), Q4_K),
            Tensor("output_norm.weight", (256,)),
        )
    ).with_metadata(("general.name", STRING, "tiny"))

    header = header_of(tmp_path, model)

    assert header.version == 3
    assert header.architecture == "llama"
    assert header.file_type == "F32"
    assert header.metadata["general.name"] == "tiny"
    assert [tensor.shape for tensor in header.tensors] == [(256, 2), (256, 3), (256,)]
    assert [tensor.nbytes for tensor in header.tensors] == [544, 432, 1024]
    assert header.parameters == 6 * 256
    assert header.bits_per_weight == 8 * (544 + 432 + 1024) / (6 * 256)
    assert header.type_counts == {"Q8_0": 1, "Q4_K": 1, "F32": 1}
    assert header.quantized
    assert header.data_offset % 32 == 0
    assert header.expected_size == header.file_size == header.path.stat().st_size


def test_reads_every_scalar_and_small_array(tmp_path: Path) -> None:
    """Each type of value is kept with its value."""
    values: dict[int, object] = {0: 7, 1: -7, 2: 7, 3: -7, 4: 7, 5: -7, 6: 0.5, 7: True, 10: 7}
    values |= {11: -7, 12: 0.25}
    model = Gguf().with_metadata(
        *((f"x.{kind}", kind, value) for kind, value in values.items()),
        ("x.list", ARRAY, (5, (1, -2, 3))),
        ("x.words", ARRAY, (STRING, ("a", "b"))),
        ("x.none", ARRAY, (STRING, ())),
    )

    metadata = header_of(tmp_path, model).metadata

    assert {kind: metadata[f"x.{kind}"] for kind in values} == values
    assert metadata["x.list"] == (1, -2, 3)
    assert metadata["x.words"] == ("a", "b")
    assert metadata["x.none"] == ()


@pytest.mark.parametrize(("count", "kept"), [(63, True), (64, True), (65, False)])
@pytest.mark.parametrize("kind", [4, STRING])
def test_keeps_small_arrays_only(tmp_path: Path, kind: int, count: int, kept: bool) -> None:  # noqa: FBT001 - a parameter of the table
    """Of more than 64 items, only type and number are kept."""
    items = tuple("word" if kind == STRING else 1 for _ in range(count))

    value = header_of(tmp_path, Gguf().with_metadata(("x.items", ARRAY, (kind, items)))).metadata[
        "x.items"
    ]

    expected = Omitted(type_name="string" if kind == STRING else "u32", count=count)
    assert value == (items if kept else expected)


@pytest.mark.parametrize(("size", "kept"), [((1 << 20), True), ((1 << 20) + 1, False)])
def test_keeps_strings_up_to_a_mebibyte(tmp_path: Path, size: int, kept: bool) -> None:  # noqa: FBT001 - a parameter of the table
    """A longer string is passed over and what follows is still read."""
    model = Gguf().with_metadata(("x.long", STRING, "a" * size), ("x.after", 4, 5))

    metadata = header_of(tmp_path, model).metadata

    assert isinstance(metadata["x.long"], str) is kept
    assert metadata["x.after"] == 5


def test_string_values_need_not_be_utf8(tmp_path: Path) -> None:
    """A value in another encoding does not keep a model from being read."""
    header = header_of(tmp_path, Gguf().with_metadata(("general.name", STRING, text(b"caf\xe9"))))

    assert header.metadata["general.name"] == "caf\ufffd"


def test_file_type_knows_flag_and_absence(tmp_path: Path) -> None:
    """The engine's "guessed" flag is ignored; an unknown or missing type is None."""
    architecture = ("general.architecture", STRING, "llama")

    def file_type(*entries: tuple[str, int, object]) -> str | None:
        return header_of(tmp_path, Gguf(metadata=(architecture, *entries))).file_type

    assert file_type(("general.file_type", 4, 1024 + 15)) == "Q4_K_M"
    assert file_type(("general.file_type", 4, 39)) == "NVFP4"
    assert file_type(("general.file_type", 4, 6)) is None
    assert file_type() is None


def test_counts_fallbacks_by_row_length(tmp_path: Path) -> None:
    """Rows of 576 do not fit blocks of 256; output, norms and fitting rows are not counted."""
    tensors = (
        Tensor("token_embd.weight", (576, 4), Q8_0),
        Tensor("blk.0.attn_q.weight", (576, 4), Q5_0),
        Tensor("blk.0.ffn_down.weight", (1536, 4), Q4_K),
        Tensor("blk.0.odd.weight", (100, 4), F16),
        Tensor("blk.0.attn_norm.weight", (576,)),
        Tensor("blk.0.router.weight", (576, 4)),
    )
    tied = Gguf(tensors=tensors)
    untied = Gguf(tensors=(*tensors, Tensor("output.weight", (576, 4), Q8_0)))

    assert header_of(tmp_path, tied).fallbacks() == 0
    assert header_of(tmp_path, tied).fallbacks("Q4_K_M") == 2
    assert header_of(tmp_path, tied).fallbacks("Q8_0") == 1
    assert header_of(tmp_path, untied).fallbacks("Q4_K_M") == 3


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"GG", "not a GGUF model: does not start with GGUF; it starts with b'GG'"),
        (
            b"Once upon a time there was",
            "not a GGUF model: does not start with GGUF; it starts with b'Once upon a time'",
        ),
        (
            b"GGUF\x03\0\0\0",
            (
                "the file ends inside its header: the number of tensors needs 16 bytes, "
                "the file has 8; incomplete download?"
            ),
        ),
    ],
)
def test_refuses_what_is_no_gguf(tmp_path: Path, content: bytes, reason: str) -> None:
    """Empty, renamed and cut files are named for what they are."""
    assert refusal(tmp_path, content) == reason


def test_refuses_what_is_no_file(tmp_path: Path) -> None:
    """Missing files, folders and pipes are errors, and a pipe is not waited for."""
    (tmp_path / "model.gguf").touch()
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(ArtifactError, match=r"no such file; did you mean 'model\.gguf'\?"):
        read_header(tmp_path / "modell.gguf")
    with pytest.raises(ArtifactError, match="is a folder, not a file"):
        read_header(tmp_path)
    with pytest.raises(ArtifactError, match="is a pipe, socket or device, not a file"):
        read_header(tmp_path / "pipe")


def test_refuses_truncated_data(tmp_path: Path) -> None:
    """One byte less than the tensors need is too few; the last padding may be missing."""
    model = Gguf(tensors=(Tensor("a.weight", (3,)),))
    whole = model.encode()
    need = len(whole) - 20

    assert header_of(tmp_path, whole[:need]).expected_size == need
    assert refusal(tmp_path, whole[: need - 1]) == (
        f"truncated: its tensors need {need} bytes, the file has {need - 1}; incomplete download?"
    )


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        (0, "GGUF version 0 is not supported, 2 and 3 are; convert the model again"),
        (1, "GGUF version 1 is not supported, 2 and 3 are; convert the model again"),
        (2, None),
        (3, None),
        (4, "GGUF version 4 is not supported, 2 and 3 are; convert the model again"),
        (
            3 << 24,
            "written for big-endian machines; convert the model again on this kind of machine",
        ),
    ],
)
def test_accepts_versions_two_and_three(tmp_path: Path, version: int, reason: str | None) -> None:
    """Other versions and the other byte order are refused."""
    model = Gguf(version=version)

    if reason is None:
        assert header_of(tmp_path, model).version == version
    else:
        assert refusal(tmp_path, model) == reason


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Gguf(tensor_count=-1), "claims -1 tensors; 0 to 100,000 are accepted"),
        (Gguf(tensor_count=100_001), "claims 100,001 tensors"),
        (Gguf(key_count=65_537), "claims 65,537 metadata keys; 0 to 65,536 are accepted"),
        (Gguf(key_count=-(1 << 63)), "claims -9,223,372,036,854,775,808 metadata keys"),
        (Gguf().with_metadata(("", 4, 1)), "metadata key 2 has no name"),
        (Gguf().with_metadata(("x" * 65_536, 4, 1)), "65,536 bytes long, 65,535 are accepted"),
        (Gguf().with_metadata(("x", 4, 1), ("x", 4, 2)), "metadata key 'x' occurs twice"),
        (Gguf().with_metadata(("x", 13, b"")), "the value of 'x' is of unknown type 13"),
        (Gguf().with_metadata(("x", ARRAY, struct.pack("<iQ", 9, 1))), "array of unknown type 9"),
        (
            Gguf().with_metadata(("x", ARRAY, struct.pack("<iQ", STRING, (1 << 22) + 1))),
            "arrays of 4,194,305 strings; 4,194,304 are accepted",
        ),
        (Gguf().with_metadata(("general.alignment", 10, 32)), "of type u64, it must be u32"),
        (Gguf().with_metadata(("general.alignment", 4, 0)), "general.alignment is 0; it must be"),
        (Gguf().with_metadata(("general.alignment", 4, 48)), "general.alignment is 48; it must"),
        (Gguf().with_metadata(("general.alignment", 4, 1 << 21)), "general.alignment is 2097152"),
        (Gguf(metadata=(("general.architecture", 4, 1),)), "of type u32, it must be string"),
        (Gguf(tensors=(Tensor("a", (4,)), Tensor("a", (4,)))), "tensor 'a' occurs twice"),
        (Gguf(tensors=(Tensor("n" * 64, (4,)),)), "64 bytes long, 63 are accepted"),
        (Gguf(tensors=(Tensor("a", (1, 1, 1, 1, 1)),)), "has 5 dimensions, 4 at most"),
        (Gguf(tensors=(Tensor("a", (4, 0)),)), "tensor 'a' has the shape [4, 0]"),
        (Gguf(tensors=(Tensor("a", (-4,)),)), "tensor 'a' has the shape [-4]"),
        (Gguf(tensors=(Tensor("a", (1 << 62, 1 << 62)),), data=b""), "the impossible shape"),
        (Gguf(tensors=(Tensor("a", (1 << 62,)),), data=b""), "the impossible shape"),
        (Gguf(tensors=(Tensor("a", (4,), 4),)), "is of type 4, which the engine does not know"),
        (Gguf(tensors=(Tensor("a", (4,), 43),)), "is of type 43, which the engine does not"),
        (Gguf(tensors=(Tensor("a", (4,), -1),)), "is of type -1, which the engine does not"),
        (
            Gguf(tensors=(Tensor("a", (33,), Q4_0),)),
            "has rows of 33 elements, Q4_0 needs a multiple of 32",
        ),
        (
            Gguf(tensors=(Tensor("a", (4,)), Tensor("b", (4,), offset=16))),
            "'b' is said to lie at 16 of the data; after the tensors before it, it must be 32",
        ),
        (Gguf(tensors=()), "holds no tensors, only a vocabulary or settings"),
    ],
)
def test_refuses_malformed_headers(tmp_path: Path, model: Gguf, reason: str) -> None:
    """Each rule of the format and each bound has its sentence."""
    assert reason in refusal(tmp_path, model)


def test_refuses_keys_and_names_that_are_not_utf8(tmp_path: Path) -> None:
    """Names are shown to people and looked up, so they must be text."""
    content = Gguf().encode()

    assert "metadata key 0 is not UTF-8" in refusal(
        tmp_path, content.replace(b"general.arch", b"\xff" * 12)
    )
    assert "the name of tensor 0 is not UTF-8" in refusal(
        tmp_path, content.replace(b"token_embd", b"\xff" * 10)
    )


def test_accepts_the_largest_alignment(tmp_path: Path) -> None:
    """A mebibyte is accepted; the data then begins there."""
    model = replace(Gguf().with_metadata(("general.alignment", 4, 1 << 20)), alignment=1 << 20)

    header = header_of(tmp_path, model)

    assert (header.alignment, header.data_offset) == (1 << 20, 1 << 20)


def test_bounds_the_text_of_all_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many long keys cannot fill memory; values beyond the bound are passed over instead."""
    monkeypatch.setattr(gguf_values, "_KEPT_TOTAL_BYTES", 200)

    keys = Gguf().with_metadata(*((f"{index}" * 90, 4, 1) for index in range(3)))
    values = Gguf().with_metadata(("x", STRING, "a" * 190))

    assert "names take more than" in refusal(tmp_path, keys)
    assert header_of(tmp_path, values).metadata["x"] == Omitted(type_name="string", count=190)


def split_part(number: int, count: int, tensors: tuple[Tensor, ...] | None = None) -> Gguf:
    """Return a part of a split model, counted from 0."""
    part = Gguf() if tensors is None else Gguf(tensors=tensors)
    return part.with_metadata(
        ("split.no", 2, number), ("split.count", 2, count), ("split.tensors.count", 5, 3)
    )


def test_split_metadata_agrees_with_the_name(tmp_path: Path) -> None:
    """A part is accepted under its own name only, and the first may be without tensors."""
    assert header_of(tmp_path, split_part(1, 2), "m-00002-of-00002.gguf").tensors
    first = header_of(tmp_path, split_part(0, 2, ()), "m-00001-of-00002.gguf")
    assert math.isnan(first.bits_per_weight)

    message = refusal(tmp_path, split_part(0, 2), "m-00002-of-00002.gguf")
    assert message == (
        "the file is part 1 of 2 of a split model; its name must end in -00001-of-00002.gguf for "
        "the engine to find the others"
    )
    assert "says it is part 3 of 2" in refusal(tmp_path, split_part(2, 2))
    many = tuple(Tensor(f"t{index}", (4,)) for index in range(4))
    assert "this part has 4 tensors, the whole model 3" in refusal(tmp_path, split_part(0, 2, many))
    assert header_of(tmp_path, split_part(0, 1)).tensors


def test_names_the_nearest_known_architecture(tmp_path: Path) -> None:
    """An architecture the engine cannot load is refused before anything native sees the file."""
    check_architecture(header_of(tmp_path, Gguf()))

    unknown = header_of(tmp_path, Gguf(metadata=(("general.architecture", STRING, "lama"),)))
    pattern = r"architecture 'lama' is not one the engine knows \(llama-cpp-python [\d.]+\)"
    with pytest.raises(ArtifactError, match=pattern + re.escape("; did you mean 'llama'")):
        check_architecture(unknown)
    with pytest.raises(ArtifactError, match="has no general"):
        check_architecture(header_of(tmp_path, Gguf(metadata=())))


def test_leaves_newer_engines_to_speak_for_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list is of one version; a newer engine may know an architecture it does not have."""
    header = header_of(tmp_path, Gguf(metadata=(("general.architecture", STRING, "novel"),)))
    monkeypatch.setattr("pytest_quantgate.artifact.gguf.version", lambda _name: "0.3.37")

    check_architecture(header)


SAMPLE = (
    Gguf(tensors=(Tensor("token_embd.weight", (32, 2), Q8_0), Tensor("norm.weight", (32,))))
    .with_metadata(
        ("x.tokens", ARRAY, (STRING, tuple(f"t{index}" for index in range(70)))),
        ("x.scores", ARRAY, (6, (0.5,) * 70)),
        ("split.no", 2, 0),
        ("split.count", 2, 1),
    )
    .encode()
)


@given(
    changes=st.lists(
        st.tuples(st.integers(0, len(SAMPLE) - 1), st.integers(0, 255)), min_size=1, max_size=8
    ),
    length=st.one_of(st.just(len(SAMPLE)), st.integers(0, len(SAMPLE))),
)
@settings(
    max_examples=400, deadline=1000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_survives_any_mutation(tmp_path: Path, changes: list[tuple[int, int]], length: int) -> None:
    """Whatever bytes are changed or cut: a header that adds up or an `ArtifactError`, soon."""
    content = bytearray(SAMPLE)
    for place, value in changes:
        content[place] = value
    path = tmp_path / "model.gguf"
    path.write_bytes(content[:length])

    with contextlib.suppress(ArtifactError):
        header = read_header(path)
        assert header.expected_size <= header.file_size
        assert header.parameters >= 1


@given(
    number=st.sampled_from([2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1]), place=st.integers(8, 600)
)
@settings(
    max_examples=300, deadline=1000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_survives_huge_numbers_anywhere(tmp_path: Path, number: int, place: int) -> None:
    """A count or length of any size is held against the file before anything is allocated."""
    content = bytearray(SAMPLE)
    content[place : place + 8] = struct.pack("<Q", number)
    path = tmp_path / "model.gguf"
    path.write_bytes(content)

    with contextlib.suppress(ArtifactError):
        read_header(path)


def parts_of(folder: Path, *parts: Gguf) -> Path:
    """Write the parts of a split model and return the path of the last."""
    count = len(parts)
    for number, part in enumerate(parts, start=1):
        path = folder / f"m-{number:05}-of-{count:05}.gguf"
        path.write_bytes(part.encode())
    return path


def half(number: int, *names: str, total: int = 3, architecture: str | None = None) -> Gguf:
    """Return a half of a split model with these tensors, as `llama-gguf-split` makes them."""
    kind = "llama" if number == 0 and architecture is None else architecture
    own: tuple[tuple[str, int, object], ...] = ()
    if kind is not None:
        own = (("general.architecture", STRING, kind),)
    split = (("split.no", 2, number), ("split.count", 2, 2), ("split.tensors.count", 5, total))
    return Gguf(metadata=own + split, tensors=tuple(Tensor(name, (4,)) for name in names))


def test_parts_make_one_model(tmp_path: Path) -> None:
    """Whichever part is named, all are read, and the first speaks for the model."""
    last = parts_of(tmp_path, half(0, "a"), half(1, "b", "c"))

    assert [len(header.tensors) for header in read_parts(last)] == [1, 2]
    assert check_model(last).path.name == "m-00001-of-00002.gguf"
    last.write_bytes(half(1, "b", "c", architecture="llama").encode())
    assert check_model(last).architecture == "llama"


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (half(1, "b"), "its 2 parts have 2 tensors together, the model 3; fetch them again"),
        (half(1, "b", "c", "d"), "its 2 parts have 4 tensors together, the model 3"),
        (half(1, "a", "c"), "tensor 'a' is in an earlier part, too"),
        (half(1, "b", "c", total=4), "split.tensors.count is 4, in m-00001-of-00002.gguf it is 3"),
        (
            half(1, "b", "c", architecture="gemma"),
            "general.architecture is 'gemma', in m-00001-of-00002.gguf it is 'llama'; these are not",
        ),
        (half(0, "b", "c"), "the file is part 1 of 2 of a split model; its name must end in"),
        (
            Gguf(tensors=(Tensor("b", (4,)), Tensor("c", (4,)))),
            "its name says that it is one of 2 parts, its header does not; give it the name",
        ),
    ],
)
def test_refuses_parts_that_make_no_model(tmp_path: Path, second: Gguf, reason: str) -> None:
    """Parts of different models, too many and too few tensors have their sentences."""
    first = parts_of(tmp_path, half(0, "a"), second).with_name("m-00001-of-00002.gguf")

    with pytest.raises(ArtifactError) as caught:
        check_model(first)

    assert reason in str(caught.value)


def test_refuses_a_missing_part(tmp_path: Path) -> None:
    """It is named."""
    parts_of(tmp_path, half(0, "a"), half(1, "b", "c")).unlink()

    with pytest.raises(ArtifactError, match=r"1 of 2 parts .* missing: m-00002-of-00002\.gguf"):
        check_model(tmp_path / "m-00001-of-00002.gguf")


def bounded(folder: Path, *entries: tuple[str, int, object]) -> str:
    """Return why a model with these numbers is refused, or an empty text."""
    path = folder / "model.gguf"
    numbers = ((f"llama.{key}", kind, value) for key, kind, value in entries)
    path.write_bytes(Gguf().with_metadata(*numbers).encode())
    try:
        check_model(path)
    except ArtifactError as error:
        return str(error).removeprefix(f"{path}: malformed header: llama.")
    return ""


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([("block_count", 4, 0)], "block_count is 0; 1 to 512 is accepted"),
        ([("block_count", 4, 1)], ""),
        ([("block_count", 4, 512)], ""),
        ([("block_count", 4, 513)], "block_count is 513; 1 to 512 is accepted"),
        ([("block_count", 4, 4), ("nextn_predict_layers", 4, 4)], ""),
        (
            [("block_count", 4, 4), ("nextn_predict_layers", 4, 5)],
            "nextn_predict_layers is 5; 0 to 4 is accepted",
        ),
        ([("expert_count", 4, 1024), ("expert_used_count", 4, 1)], ""),
        ([("expert_count", 4, 1025)], "expert_count is 1025; 0 to 1024 is accepted"),
        ([("expert_used_count", 4, 1)], "expert_used_count is 1; 0 to 0 is accepted"),
        (
            [("expert_count", 4, 8), ("expert_used_count", 4, 0)],
            "expert_used_count is 0; 1 to 8 is accepted",
        ),
        ([("expert_count", 4, 8), ("expert_used_count", 4, 8)], ""),
        (
            [("expert_count", 4, 8), ("expert_used_count", ARRAY, (4, (2, 9)))],
            "expert_used_count is 9; 1 to 8 is accepted",
        ),
        (
            [("expert_count", 4, 8), ("expert_group_count", 4, 8)],
            "expert_group_count is 8; 0 to 7 is accepted",
        ),
        (
            [("expert_count", 4, 8), ("expert_group_count", 4, 3)],
            "expert_group_count is 3; a divisor of 8 is accepted",
        ),
        (
            [
                ("expert_count", 4, 8),
                ("expert_group_count", 4, 4),
                ("expert_group_used_count", 4, 4),
            ],
            "expert_group_used_count is 4; 1 to 3 is accepted",
        ),
        ([("attention.layer_norm_rms_epsilon", 6, 0.0)], ""),
        (
            [("attention.layer_norm_rms_epsilon", 6, -1.0)],
            "attention.layer_norm_rms_epsilon is -1.0; a finite float from 0 is accepted",
        ),
        (
            [("attention.layer_norm_epsilon", 6, float("nan"))],
            "attention.layer_norm_epsilon is nan; a finite float from 0 is accepted",
        ),
        ([("rope.scaling.type", STRING, "yarn")], ""),
        (
            [("rope.scaling.type", STRING, "yam")],
            "rope.scaling.type is 'yam'; one of linear, longrope, none, yarn is accepted",
        ),
    ],
)
def test_refuses_numbers_on_which_the_engine_aborts(
    tmp_path: Path, entries: list[tuple[str, int, object]], reason: str
) -> None:
    """At each bound: the last value that the engine takes and the first on which it aborts."""
    assert bounded(tmp_path, *entries) == reason


@pytest.mark.parametrize(
    ("tokens", "twice"),
    [
        (("a", "b"), None),
        (("a", "b", "a"), 2),
        (("a\0b", "a\0c"), 1),
        (("", ""), None),
        (("[EMPTY_1]", ""), 1),
        (tuple(f"t{index}" for index in range(70)), None),
        ((*(f"t{index}" for index in range(70)), "t3"), 70),
    ],
)
def test_tokens_occur_once(tmp_path: Path, tokens: tuple[str, ...], twice: int | None) -> None:
    """The engine aborts on a vocabulary in which a token, as it reads it, occurs twice."""
    model = Gguf().with_metadata(("tokenizer.ggml.tokens", ARRAY, (STRING, tokens)))

    if twice is None:
        kept = header_of(tmp_path, model).metadata["tokenizer.ggml.tokens"]
        assert kept == (tokens if len(tokens) <= 64 else Omitted(type_name="string", count=70))
    else:
        reason = f"malformed header: token {twice} of the vocabulary occurs twice: "
        assert refusal(tmp_path, model).startswith(reason)


def test_bounds_the_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens have a largest number and a largest length."""
    monkeypatch.setattr(gguf_values, "MAX_TOKENS", 2)
    monkeypatch.setattr(gguf_values, "MAX_TOKEN_BYTES", 3)

    def with_tokens(*tokens: str) -> Gguf:
        return Gguf().with_metadata(("tokenizer.ggml.tokens", ARRAY, (STRING, tokens)))

    assert header_of(tmp_path, with_tokens("abc", "b")).tensors
    assert "has 3 tokens; 2 are accepted" in refusal(tmp_path, with_tokens("a", "b", "c"))
    assert "token 1 is 4 bytes long, 3 are accepted" in refusal(tmp_path, with_tokens("a", "abcd"))
