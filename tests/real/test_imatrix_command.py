"""`quantgate imatrix`: what it prints, what it leaves behind, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from gguf_writer import Gguf
from random_models import write_experts, write_split_experts
from typer.testing import CliRunner

from pytest_quantgate import cli
from pytest_quantgate.artifact.imatrix import native_imatrix, read_imatrix
from pytest_quantgate.artifact.integrity import sha256_file
from pytest_quantgate.client import Probe
from pytest_quantgate.errors import (
    ArtifactError,
    MeasurementError,
    ProbeRefused,
    ProbeTimedOut,
    QuantgateError,
)
from pytest_quantgate.pipeline import importance
from pytest_quantgate.records import ImatrixRequest

if TYPE_CHECKING:
    from pytest_quantgate.records import Progress

TINY = Path(__file__).parents[1] / "models" / "tiny-f16.gguf"
TEXT = "A sentence about models and numbers, which is read again and again. " * 100
ENTRIES = 21


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a text."""
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path


def names() -> list[str]:
    """Return what lies in the folder."""
    return sorted(path.name for path in Path().iterdir())


def run(*arguments: str) -> tuple[int, str, str]:
    """Run a command in this process; return exit code, output and errors."""
    done = CliRunner().invoke(cli.app, list(arguments))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def compute(*arguments: str) -> tuple[int, str, str]:
    """Compute with windows of 64 tokens and one thread."""
    return run("imatrix", str(TINY), "--context", "64", "--threads", "1", *arguments)


def test_writes_the_matrix_and_where_it_is_from() -> None:
    """One line says what was made; the file reads back; its provenance has all digests."""
    code, output, errors = compute("--text", "text.txt", "--chunks", "3", "-o", "im.gguf")

    assert (code, errors) == (0, "")
    assert output.startswith(f"wrote im.gguf: {ENTRIES} weight tensors, 3 of ")
    assert " windows of 64 tokens, " in output
    matrix = read_imatrix(Path("im.gguf"))
    assert (len(matrix.entries), matrix.chunks, matrix.chunk_size) == (ENTRIES, 3, 64)
    assert {3 * 64} == {int(entry.counts[0]) for entry in matrix.entries.values()}
    provenance = json.loads(Path("im.gguf.json").read_text(encoding="utf-8"))
    assert provenance["schema"] == 1
    assert provenance["model"] == {"name": TINY.name, "sha256": sha256_file(TINY)}
    assert provenance["text"] == {"name": "text.txt", "sha256": sha256_file(Path("text.txt"))}
    assert (provenance["context"], provenance["chunks"]) == (64, 3)
    assert provenance["output"]["sha256"] == sha256_file(Path("im.gguf"))
    assert "llama.cpp" in provenance["engine"]
    assert names() == ["im.gguf", "im.gguf.json", "text.txt"]


def test_json_is_the_whole_report() -> None:
    """``--json`` prints one document and nothing else; a builtin text is named as such."""
    code, output, errors = compute(
        "--text", "builtin:python-docs", "--chunks", "2", "-o", "im.dat", "--legacy", "--json"
    )

    assert (code, errors) == (0, "")
    report = json.loads(output)
    assert (report["text"], report["chunks"]) == ("builtin:python-docs", 2)
    assert (report["entries"], report["partial"], report["warnings"]) == (ENTRIES, [], [])
    assert report["available"] > 2
    matrix = read_imatrix(Path("im.dat"))
    assert (matrix.datasets, matrix.chunk_size) == (("builtin:python-docs",), 0)


def test_converts_between_the_layouts() -> None:
    """A matrix goes to the old layout and back; a file is replaced only when told."""
    compute("--text", "text.txt", "--chunks", "4", "-o", "im.gguf")

    assert run("imatrix", "--convert", "im.gguf", "-o", "im.dat", "--legacy")[0] == 0
    code, output, _ = run("imatrix", "--convert", "im.dat", "-o", "again.gguf", "--context", "64")

    assert (code, output) == (0, f"wrote again.gguf: {ENTRIES} weight tensors\n")
    first, again = read_imatrix(Path("im.gguf")), read_imatrix(Path("again.gguf"))
    assert (again.chunks, again.chunk_size) == (first.chunks, first.chunk_size)
    for name, values in first.engine_values().items():
        assert again.engine_values()[name] == pytest.approx(values, rel=3e-7)
    with pytest.raises(ArtifactError, match="exists already; remove it, or allow overwriting"):
        run("imatrix", "--convert", "im.gguf", "-o", "im.dat", "--legacy")


def test_what_is_missing_is_said() -> None:
    """Neither model nor matrix, or both, is a mistake on the command line."""
    assert "MODEL and --text are needed, or --convert" in run("imatrix", "-o", "a")[2]
    code, _, errors = run("imatrix", str(TINY), "--convert", "a", "-o", "b")
    assert code == 2
    assert "--convert takes an importance matrix and no MODEL or --text" in errors


def test_experts_that_saw_nothing_are_warned_of(folder: Path) -> None:
    """With few tokens some experts get none; the report names the tensors, a warning says what to do."""
    model = write_experts(folder / "experts.gguf")
    few = Path("few.txt")
    few.write_text("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", encoding="utf-8")

    code, _, errors = run(
        "imatrix", str(model), "--text", "few.txt", "--context", "16", "-o", "im.gguf"
    )

    assert code == 0
    assert "have experts that no token was sent to, such as blk." in errors
    matrix = read_imatrix(Path("im.gguf"))
    assert matrix.partial
    name = matrix.partial[0]
    silent = int((matrix.entries[name].counts == 0).argmax())
    columns = matrix.entries[name].sums.shape[1]
    values = matrix.engine_values()[name].reshape(-1, columns)
    assert (values[silent] == 1).all()


def test_a_model_in_parts_is_one_model(folder: Path) -> None:
    """Any part of a split model names it; its matrix is that of the whole file, byte by byte."""
    parts = write_split_experts(folder)
    whole = write_experts(folder / "experts.gguf")
    for model, name in ((whole, "whole.gguf"), (parts[1], "parts.gguf")):
        importance.compute_imatrix(model, "text.txt", name, context=64, chunks=4, threads=1)

    assert Path("parts.gguf").read_bytes() == Path("whole.gguf").read_bytes()
    parts[0].unlink()
    refused_at_once("experts-00001-of-00002.gguf", model=str(parts[1]))


def test_progress_is_told() -> None:
    """The caller hears of the windows, up to the last one."""
    told: list[Progress] = []

    importance.compute_imatrix(
        TINY, "text.txt", "im.gguf", context=64, chunks=35, threads=1, on_progress=told.append
    )

    windows = [step.done for step in told if step.step == "imatrix"]
    assert windows == [0, 32, 35]
    assert told[-1].total == 35


def refused(kind: type[QuantgateError], message: str, **arguments: Any) -> None:  # noqa: ANN401 - as `compute` has them
    """Compute with these arguments and see that it is refused and nothing is left behind."""
    before = names()
    given: dict[str, Any] = {
        "model": TINY,
        "text": "text.txt",
        "output": "im.gguf",
        "context": 64,
        "chunks": 2,
        "threads": 1,
    }
    with pytest.raises(kind) as caught:
        importance.compute_imatrix(**{**given, **arguments})
    assert message in str(caught.value)
    assert names() == before


def refused_at_once(message: str, **changes: Any) -> None:  # noqa: ANN401 - as the request has them
    """See that a request is refused before the engine is even loaded, and nothing is left behind."""
    before = names()
    request = ImatrixRequest(
        model=str(TINY), text="text.txt", output="im.gguf", threads=1, context=64, chunks=2
    )
    with pytest.raises(ArtifactError) as caught:
        native_imatrix.compute(dataclasses.replace(request, **changes), lambda _: None)
    assert message in str(caught.value)
    assert names() == before


def test_bad_requests_are_refused() -> None:
    """Each mistake has its sentence, and leaves nothing behind."""
    Path("latin.txt").write_bytes(b"caf\xe9 " * 100)
    Path("blank.txt").write_text(" \n", encoding="utf-8")
    Path("old.gguf").write_bytes(b"old")
    Path("folder.gguf").mkdir()
    Path("model.gguf").write_bytes(TINY.read_bytes())
    os.link("model.gguf", "link.gguf")
    Path("text.gguf").write_bytes(Path("text.txt").read_bytes())

    refused_at_once("nothing.txt: no such file", text="nothing.txt")
    refused_at_once("latin.txt: not UTF-8 text: ", text="latin.txt")
    refused_at_once("blank.txt: the text is empty", text="blank.txt")
    refused_at_once("'builtin:other' is not a builtin corpus", text="builtin:other")
    refused_at_once("old.gguf: exists already; remove it, or allow", output="old.gguf")
    refused_at_once("is not a file, so it cannot be", output="folder.gguf", overwrite=True)
    same = "is the model or the text itself; write to another file"
    refused_at_once(same, model="model.gguf", output="link.gguf", overwrite=True)
    refused_at_once(same, text="text.gguf", output="text.gguf", overwrite=True)
    refused_at_once("nowhere does not exist; make it first", output="nowhere/im.gguf")
    refused_at_once("model.ggf: no such file; did you mean 'model.gguf'", model="model.ggf")
    refused_at_once("text.txt: not a GGUF model", model="text.txt")
    refused_at_once("0 chunks measure nothing", chunks=0)
    refused_at_once("0 threads compute nothing", threads=0)
    refused_at_once("a context of 15 is too short; use 16 or more", context=15)
    refused_at_once("a context of 2049 is longer than the 2048 tokens", context=2049)
    assert Path("old.gguf").read_bytes() == b"old"


def test_the_shortest_text_is_two_windows() -> None:
    """A text of two windows is enough, one token less is not."""
    report = importance.compute_imatrix(
        TINY, "text.txt", "im.gguf", context=16, chunks=1, threads=1
    )
    tokens = read_imatrix(Path("im.gguf")).chunk_size * report.available
    assert report.chunks == 1
    # The longest windows of which the text still has two.
    longest = tokens // 2
    refused(ArtifactError, "tokens; ", context=longest + 16, output="no.gguf")

    report = importance.compute_imatrix(
        TINY, "text.txt", "long.gguf", context=longest, chunks=None, threads=1
    )

    assert (report.chunks, report.available) == (2, 2)


def test_overwriting_replaces_the_file() -> None:
    """With leave, an old matrix gives way to the new one."""
    Path("im.gguf").write_bytes(b"old")

    code, _, _ = compute("--text", "text.txt", "--chunks", "1", "-o", "im.gguf", "--overwrite")

    assert code == 0
    assert len(read_imatrix(Path("im.gguf")).entries) == ENTRIES


def test_a_broken_model_is_told_by_its_tensor(folder: Path) -> None:
    """Weights that give infinity are an error that names where it was seen, and no file."""
    model = write_experts(folder / "experts.gguf")
    data = bytearray(model.read_bytes())
    # The norms of the first layer are ones.
    ones = struct.pack("<64f", *[1.0] * 64)
    place = data.index(ones, data.index(ones) + len(ones))
    data[place : place + len(ones)] = struct.pack("<64f", *[1e30] * 64)
    model.write_bytes(data)

    refused(
        MeasurementError,
        "the activations that blk.0.attn_q.weight is multiplied with are not finite",
        model=model,
    )


def test_a_model_without_its_parts_is_refused_by_the_engine() -> None:
    """A header without weights the engine needs is an error with the engine's own reason."""
    Path("empty.gguf").write_bytes(Gguf().encode())

    refused(ProbeRefused, "empty.gguf cannot be loaded: ", model="empty.gguf")


def test_wrong_arguments_are_refused() -> None:
    """A probe refuses a request with unknown, missing or mistyped fields."""
    good = {"model": str(TINY), "text": "text.txt", "output": "im.gguf", "threads": 1}
    with Probe.start() as probe:
        for wrong in (
            {key: value for key, value in good.items() if key != "text"},
            {**good, "context": "512"},
            {**good, "legacy": 1},
            {**good, "colour": "red"},
        ):
            with pytest.raises(ArtifactError, match="imatrix: cannot use the arguments"):
                probe.run("imatrix", wrong, timeout=60)


def test_no_file_after_the_time_is_up() -> None:
    """A probe that is killed at its deadline leaves neither file nor part of one."""
    with pytest.raises(ProbeTimedOut):
        importance.compute_imatrix(
            TINY, "builtin:python-docs", "im.gguf", context=512, threads=1, timeout=1.5
        )

    assert names() == ["text.txt"]


def test_no_file_when_killed() -> None:
    """A command that is killed while it computes leaves neither file, part of one, nor process."""
    command = [
        *(sys.executable, "-c", "from pytest_quantgate.cli import main; main()"),
        *("imatrix", str(TINY), "--text", "builtin:python-docs", "-o", "im.gguf", "--threads", "1"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as child:
        family = psutil.Process(child.pid)
        while not (probes := family.children()) or probes[0].cpu_times().user < 1:
            assert child.poll() is None
            time.sleep(0.05)
        child.kill()
    _, alive = psutil.wait_procs(probes, timeout=30)

    assert alive == []
    assert names() == ["text.txt"]


def test_the_domain_of_the_text_is_compared() -> None:
    """A text unlike the gate's is warned of, with words that tell them apart."""
    prose = " ".join(
        f"Once upon a time the little fox {i % 7} went home to sleep." for i in range(300)
    )
    Path("tale.txt").write_text(prose, encoding="utf-8")

    code, _, errors = compute(
        *("--text", "tale.txt", "--chunks", "1", "-o", "im.gguf"),
        *("--corpus", "builtin:python-docs"),
    )

    assert code == 0
    assert "quantgate: warning: tale.txt is of another domain than builtin:python-docs" in errors
    assert "tale.txt has more of 'once', 'little', 'went', 'home', 'sleep'" in errors
