"""What is told of models and importance matrices from their headers."""

from __future__ import annotations

from pathlib import Path

import gguf_writer
import numpy as np
import pytest
from gguf_writer import STRING, Gguf, Tensor

from pytest_quantgate.artifact.gguf import read_header
from pytest_quantgate.artifact.imatrix import Imatrix, ImatrixEntry, write_imatrix
from pytest_quantgate.artifact.inspection import (
    ImatrixInspection,
    ModelInspection,
    TypeUse,
    inspect,
)
from pytest_quantgate.errors import ArtifactError

TINY = Path(__file__).parents[1] / "models" / "tiny-f16.gguf"
Q4_0, Q8_0, Q5_0, Q4_K = gguf_writer.Q4_0, gguf_writer.Q8_0, gguf_writer.Q5_0, gguf_writer.Q4_K

MIXED = Gguf(
    metadata=(
        ("general.architecture", STRING, "llama"),
        ("general.file_type", 4, 15),
        ("quantgate.type", STRING, "Q4_K_M"),
        ("quantize.imatrix.file", STRING, "i.gguf"),
        ("tokenizer.chat_template", STRING, "{{ messages[0].content }}"),
    ),
    tensors=(
        Tensor("token_embd.weight", (288, 4), Q8_0),
        Tensor("blk.0.attn_q.weight", (256, 8), Q4_K),
        Tensor("blk.0.ffn_down.weight", (288, 8), Q5_0),
        Tensor("blk.0.attn_norm.weight", (288,)),
        Tensor("blk.1.attn_q.weight", (256, 8), Q8_0),
        Tensor("blk.1.ffn_down.weight", (288, 8), Q8_0),
        Tensor("output.weight", (288, 4), Q8_0),
    ),
)
"""Claims to be Q4_K_M; three of its tensors have rows that are no multiple of 256."""


def model(path: Path, file: Gguf = MIXED) -> ModelInspection:
    """Write a model and inspect it."""
    path.write_bytes(file.encode())
    found = inspect(path)
    assert isinstance(found, ModelInspection)
    return found


def test_a_real_model() -> None:
    """The totals are the header's; the sidecar is named, the template found harmless."""
    found, header = inspect(TINY), read_header(TINY)

    assert isinstance(found, ModelInspection)
    assert (found.kind, found.architecture, found.file_type) == ("model", "llama", "F16")
    assert found.weights == header.parameters
    assert found.tensor_bytes == header.tensor_bytes
    assert found.bits_per_weight == header.bits_per_weight
    assert found.file_bytes == TINY.stat().st_size
    assert found.checksum.startswith("sidecar tiny-f16.gguf.sha256, sha256 ")
    assert found.templates.names == ("tokenizer.chat_template",)
    assert not found.templates.suspicious
    assert found.provenance_file is None
    assert found.fallen == ()


def test_shares_add_up_to_the_whole() -> None:
    """Roles and layers are both a partition of the tensors."""
    found = inspect(TINY)
    assert isinstance(found, ModelInspection)

    for shares in (found.by_role(), found.by_layer()):
        assert sum(share.tensors for share in shares) == len(found.tensors)
        assert sum(share.weights for share in shares) == found.weights
        assert sum(share.bytes for share in shares) == found.tensor_bytes


def test_a_mix_by_role(tmp_path: Path) -> None:
    """Each role has its types, with the layers they are in, the one of most weights first."""
    shares = {share.role: share for share in model(tmp_path / "m.gguf").by_role()}

    assert list(shares) == ["embedding", "output", "attention_q", "ffn_down", "norm"]
    attention = shares["attention_q"]
    assert (attention.tensors, attention.weights, attention.layer) == (2, 2 * 256 * 8, None)
    assert set(attention.types) == {
        TypeUse(type="Q4_K", tensors=1, layers=(0,)),
        TypeUse(type="Q8_0", tensors=1, layers=(1,)),
    }
    assert attention.bits_per_weight == (4.5 + 8.5) / 2


def test_a_mix_by_layer(tmp_path: Path) -> None:
    """What is outside the layers comes first; then each layer with all of its types."""
    others, first, second = model(tmp_path / "m.gguf").by_layer()

    assert (others.layer, first.layer, second.layer) == (None, 0, 1)
    assert [use.type for use in first.types] == ["Q5_0", "Q4_K", "F32"]
    assert [(use.type, use.tensors) for use in second.types] == [("Q8_0", 2)]


def test_fallbacks_are_those_the_header_counts(tmp_path: Path) -> None:
    """Tensors whose rows do not fit the type are named; the output is no fallback."""
    found = model(tmp_path / "m.gguf")

    names = [tensor.name for tensor in found.fallen]
    assert names == ["token_embd.weight", "blk.0.ffn_down.weight", "blk.1.ffn_down.weight"]
    assert len(names) == read_header(tmp_path / "m.gguf").fallbacks()


def test_the_embedding_that_is_the_output_does_not_fall_back(tmp_path: Path) -> None:
    """Without an output matrix the embeddings are it, and have their type from the mix."""
    tied = Gguf(metadata=MIXED.metadata, tensors=MIXED.tensors[:-1])

    assert [each.name for each in model(tmp_path / "m.gguf", tied).fallen] == [
        "blk.0.ffn_down.weight",
        "blk.1.ffn_down.weight",
    ]


def test_where_a_file_came_from(tmp_path: Path) -> None:
    """Keys of provenance are picked out, and the record beside the file is found."""
    (tmp_path / "m.gguf.json").write_text('{"command": "quantgate quantize f16.gguf"}')

    found = model(tmp_path / "m.gguf")

    assert found.provenance == {"quantgate.type": "Q4_K_M", "quantize.imatrix.file": "i.gguf"}
    assert found.provenance_file == tmp_path / "m.gguf.json"
    assert found.command == "quantgate quantize f16.gguf"
    assert found.checksum == ""


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"command": 1}', "no JSON", "[" * 100_000])
def test_a_file_that_only_has_the_name_of_a_record(tmp_path: Path, text: str) -> None:
    """Any other file of that name is named and tells nothing."""
    (tmp_path / "m.gguf.json").write_text(text)

    found = model(tmp_path / "m.gguf")

    assert found.provenance_file is not None
    assert found.command == ""


def test_a_suspicious_template_is_told(tmp_path: Path) -> None:
    """Inspecting never runs a template and says what it reaches for."""
    evil = Gguf().with_metadata(("tokenizer.chat_template", STRING, "{{ ''.__class__ }}"))

    found = model(tmp_path / "m.gguf", evil)

    assert found.templates.suspicious
    assert "__class__" in found.templates.findings[0]


def test_checksums_that_contradict_each_other(tmp_path: Path) -> None:
    """What vouches for a file may be wrong itself; the file is inspected all the same."""
    (tmp_path / "m.gguf.sha256").write_text("0" * 64 + "  m.gguf\n")
    (tmp_path / "SHA256SUMS").write_text("1" * 64 + "  m.gguf\n")

    assert model(tmp_path / "m.gguf").checksum.startswith("unclear: ")


def part(number: int, tensors: tuple[Tensor, ...]) -> bytes:
    """Return a part of a model in two, counted from 0."""
    metadata = MIXED.metadata if number == 0 else ()
    keys = (("split.no", 2, number), ("split.count", 2, 2), ("split.tensors.count", 5, 7))
    return Gguf(metadata=metadata, tensors=tensors).with_metadata(*keys).encode()


@pytest.mark.parametrize("named", ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"])
def test_a_split_model_is_one(tmp_path: Path, named: str) -> None:
    """Any part names the model; tensors know their part, and the output in the last one counts."""
    (tmp_path / "m-00001-of-00002.gguf").write_bytes(part(0, MIXED.tensors[:3]))
    (tmp_path / "m-00002-of-00002.gguf").write_bytes(part(1, MIXED.tensors[3:]))

    found = inspect(tmp_path / named)

    assert isinstance(found, ModelInspection)
    assert [each.name for each in found.parts] == ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]
    assert [tensor.part for tensor in found.tensors] == [1, 1, 1, 2, 2, 2, 2]
    assert found.file_type == "Q4_K_M"
    assert len(found.fallen) == 3


def test_a_split_model_with_a_part_missing(tmp_path: Path) -> None:
    """A part alone is not inspected as if it were the whole."""
    (tmp_path / "m-00001-of-00002.gguf").write_bytes(part(0, MIXED.tensors[:3]))

    with pytest.raises(ArtifactError, match="1 of 2 parts of the model are missing"):
        inspect(tmp_path / "m-00001-of-00002.gguf")


def importance() -> Imatrix:
    """Return a matrix with a dense tensor, one of two experts, and one that saw nothing."""
    even = np.ones((1, 200), dtype=np.float32)
    peak = np.array([[1.0] * 99 + [101.0], [0.0] * 100], dtype=np.float32)
    return Imatrix(
        entries={
            "blk.0.attn_q.weight": ImatrixEntry(sums=even, counts=np.array([512])),
            "blk.1.ffn_up_exps.weight": ImatrixEntry(sums=peak, counts=np.array([512, 0])),
        },
        datasets=("texts.txt",),
        chunks=1,
        chunk_size=512,
    )


def test_an_importance_matrix(tmp_path: Path) -> None:
    """Entries have roles, columns and counts; concentration tells even from uneven ones."""
    path = tmp_path / "i.gguf"
    write_imatrix(importance(), path)

    found = inspect(path)

    assert isinstance(found, ImatrixInspection)
    assert (found.layout, found.chunks, found.chunk_size) == ("GGUF", 1, 512)
    assert found.datasets == ("texts.txt",)
    dense, experts = found.entries
    assert (dense.role, dense.layer, dense.columns, dense.matrices) == ("attention_q", 0, 200, 1)
    assert dense.concentration == pytest.approx(0.01)
    assert (experts.role, experts.matrices, experts.unseen) == ("expert_up", 2, 1)
    assert experts.counts == (0, 512)
    assert experts.concentration == pytest.approx(0.505)


@pytest.mark.parametrize("name", ["i.dat", "i.imatrix", "i.bin"])
def test_an_importance_matrix_of_the_older_layout(tmp_path: Path, name: str) -> None:
    """It has no magic and any name, and is recognized all the same."""
    write_imatrix(importance(), tmp_path / name, legacy=True)

    found = inspect(tmp_path / name)

    assert isinstance(found, ImatrixInspection)
    assert (found.layout, found.chunk_size, len(found.entries)) == ("legacy", 0, 2)


def test_what_is_neither(tmp_path: Path) -> None:
    """Of a text it is said that it is no model; of a broken matrix what is wrong with it."""
    (tmp_path / "text.txt").write_text("Once upon a time there was a model.")
    (tmp_path / "i.dat").write_text("Once upon a time there was a matrix.")

    with pytest.raises(ArtifactError, match="does not start with GGUF; it starts with b'Once"):
        inspect(tmp_path / "text.txt")
    with pytest.raises(ArtifactError) as caught:
        inspect(tmp_path / "i.dat")
    assert "GGUF" not in str(caught.value)
    with pytest.raises(ArtifactError, match="no such file"):
        inspect(tmp_path / "nothing.gguf")
    with pytest.raises(ArtifactError, match="is a folder, not a file"):
        inspect(tmp_path)


def test_a_truncated_model(tmp_path: Path) -> None:
    """A file that begins as GGUF is told what is wrong with it as one."""
    (tmp_path / "m.gguf").write_bytes(MIXED.encode()[:-40])

    with pytest.raises(ArtifactError, match="truncated: its tensors need"):
        inspect(tmp_path / "m.gguf")
