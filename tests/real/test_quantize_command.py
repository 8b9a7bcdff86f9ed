"""`quantgate quantize` and the pipeline below it, from shells and from Python."""

from __future__ import annotations

import json
import logging
import os
import pty
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from quantizing import TINY, importance, types

from pytest_quantgate.artifact.integrity import sha256_file, verify
from pytest_quantgate.artifact.quantization.recipe import recipe_for
from pytest_quantgate.errors import (
    ProbeCrashed,
    ProbeTimedOut,
    QuantizationError,
)
from pytest_quantgate.pipeline.quantization import SecureQuantizer, plan, quantize

if TYPE_CHECKING:
    from pytest_quantgate.records import Progress

COMMAND = (sys.executable, "-c", "from pytest_quantgate.cli import main; main()", "quantize")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a model."""
    shutil.copy(TINY, tmp_path / "model-f16.gguf")
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder, without a terminal."""
    environment = os.environ | {"COLUMNS": "80", "NO_COLOR": "1"}
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )


def names(folder: Path) -> set[str]:
    """Return what lies in a folder, papers left out."""
    return {path.name for path in folder.iterdir() if path.suffix not in {".json", ".sha256"}}


# --- the command -----------------------------------------------------------------------------------


def test_several_types_at_once(folder: Path) -> None:
    """Each type becomes a file with its papers; a table tells size, bits, fallbacks, time, memory."""
    done = run(folder, "model-f16.gguf", "--type", "Q8_0", "--type", "q2_k", "--threads", "1")

    assert (done.returncode, done.stderr) == (0, "")
    head, first, second = done.stdout.splitlines()
    assert head.split() == ["type", "size", "bits", "fallbacks", "time", "peak", "memory", "file"]
    assert first.split()[:7] == ["Q8_0", "2.0", "MiB", "8.52", "0", "of", "29"]
    assert first.split()[-1] == "model-Q8_0.gguf"
    assert second.split()[:3] == ["Q2_K", "0.8", "MiB"]
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert names(folder) == {"model-f16.gguf", "model-Q8_0.gguf", "model-Q2_K.gguf"}
    assert verify(folder / "model-Q2_K.gguf").outcome == "match"


def test_everything_as_json(folder: Path) -> None:
    """One document on standard output has what the table has, and every digest and fallback."""
    importance(TINY, folder / "imatrix.gguf")
    (folder / "out").mkdir()

    done = run(
        folder, "model-f16.gguf", "--type", "Q4_K_S", "--output-dir", "out", "--imatrix",
        "imatrix.gguf", "--override", "attn_v=Q6_K", "--embedding", "Q8_0", "--json",
    )  # fmt: skip

    (report,) = json.loads(done.stdout)["files"]
    target = folder / "out" / "model-Q4_K_S.gguf"
    assert report["target_sha256"] == sha256_file(target)
    assert report["source_sha256"] == sha256_file(folder / "model-f16.gguf")
    assert (report["type_name"], report["fallbacks"]) == ("Q4_K_S", [])
    assert types(target)["blk.2.attn_v.weight"] == "Q6_K"
    embeddings = types(target)["token_embd.weight"]
    assert embeddings == "Q8_0"


def test_the_recorded_command_makes_the_same_file(folder: Path) -> None:
    """What the record says to type, typed in a folder with the same files, repeats every byte."""
    importance(TINY, folder / "imatrix.gguf")
    options = (
        "--strategy",
        "mixed-precision",
        "--imatrix",
        "imatrix.gguf",
        "--override",
        "ffn_up=Q3_K",
    )
    run(folder, "model-f16.gguf", "--type", "Q4_K_S", *options, "-o", "a.gguf")
    paper = json.loads((folder / "a.gguf.json").read_text())
    before = sha256_file(folder / "a.gguf")
    words = paper["command"].split()
    assert words[:2] == ["quantgate", "quantize"]

    done = run(folder, *words[2:], "--overwrite")

    assert done.returncode == 0, done.stderr
    assert sha256_file(folder / "a.gguf") == before


def test_a_dry_run_writes_nothing(folder: Path) -> None:
    """Sizes and types are told, also of a type that needs importance; JSON has them, too."""
    arguments = ("model-f16.gguf", "--type", "Q4_K_M", "--type", "IQ2_XS", "--dry-run")

    done = run(folder, *arguments)
    document = json.loads(run(folder, *arguments, "--json").stdout)

    head, first, second, *rest = done.stdout.splitlines()
    assert head.split() == ["type", "size", "bits", "fallbacks", "file"]
    assert first.split() == ["Q4_K_M", "1.2", "MiB", "4.90", "0", "of", "29", "model-Q4_K_M.gguf"]
    assert "needs imatrix" in second
    assert rest[0] == "Q4_K_M: 19 Q4_K, 3 Q6_K, 7 F32"
    assert [each["needs_imatrix"] for each in document["plans"]] == [False, True]
    assert document["plans"][0]["file_bytes"] == 1_227_360
    assert names(folder) == {"model-f16.gguf"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--type", "Q4_K_N"),
            "'Q4_K_N' is not a quantization type; did you mean 'Q4_K_S' or 'Q4_K_M'",
        ),
        ((), "neither a quantization type nor a strategy was named"),
        (("--type", "IQ1_S"), "IQ1_S needs an importance matrix for "),
        (("--type", "Q8_0", "--override", "attn"), "'attn' is not an override; write REGEX=TYPE"),
        (
            ("--type", "Q8_0", "--type", "Q4_0", "-o", "x.gguf"),
            "--output names one file; for several types give a folder with --output-dir",
        ),
        (
            ("--type", "Q4_K", "--type", "Q4_K_M"),
            "two of the types would be written to model-Q4_K_M.gguf; name each once",
        ),
        (("--type", "F16"), "model-F16.gguf: exists already; remove it, or allow overwriting"),
        (
            ("--type", "F16", "-o", "model-f16.gguf", "--overwrite"),
            "model-f16.gguf: is the source itself; write to another file",
        ),
    ],
)
def test_refusals(arguments: tuple[str, ...], message: str, folder: Path) -> None:
    """A known error is one message on standard error and exit code 2; nothing is written."""
    (folder / "model-F16.gguf").write_bytes(b"precious")

    done = run(folder, "model-f16.gguf", *arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"quantgate: {message}")
    assert names(folder) == {"model-f16.gguf", "model-F16.gguf"}


def test_problems_of_all_types_are_told_before_any_work(folder: Path) -> None:
    """A file that exists and a type that lacks its matrix are told together; nothing is made."""
    (folder / "model-Q4_0.gguf").write_bytes(b"precious")

    done = run(folder, "model-f16.gguf", *("--type", "Q8_0", "--type", "IQ2_XS", "--type", "Q4_0"))

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "quantgate: IQ2_XS needs an importance matrix for this model; make one with `quantgate"
        " imatrix` and name it (--imatrix), or choose a larger type",
        "model-Q4_0.gguf: exists already; remove it, or allow overwriting",
    ]
    assert names(folder) == {"model-f16.gguf", "model-Q4_0.gguf"}


def test_what_was_made_before_an_error_is_told(folder: Path) -> None:
    """Of several types one fails half-way: the others are listed, then comes the error."""
    arguments = ("quantize", "model-f16.gguf", "--type", "Q2_K", "--type", "Q8_0", "--json")
    done = subprocess.run(
        # No file may be larger than 1,536,000 bytes: Q2_K fits, Q8_0 does not.
        ["/bin/bash", "-c", 'ulimit -f 1500; exec "$@"', "bash", *COMMAND[:-1], *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 2
    assert [each["type_name"] for each in json.loads(done.stdout)["files"]] == ["Q2_K"]
    assert "model-Q8_0.gguf" in done.stderr
    assert names(folder) == {"model-f16.gguf", "model-Q2_K.gguf"}


def test_rows_that_do_not_fit_are_told(tmp_path: Path) -> None:
    """Fallbacks are summed up below the table."""
    from quantizing import llama  # noqa: PLC0415 - one test of this module

    (tmp_path / "narrow.gguf").write_bytes(llama(64, layers=1).encode())

    done = run(tmp_path, "narrow.gguf", "--type", "Q4_K_S", "--type", "Q8_0")

    assert done.stdout.splitlines()[-1] == (
        "Q4_K_S: rows do not fit the blocks: 6 Q4_K became Q5_0, 1 Q5_K became Q5_1"
    )


def test_a_terminal_sees_how_far_it_is(folder: Path) -> None:
    """On a terminal a line is drawn while the engine works, on standard error."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "model-f16.gguf", "--type", "Q4_K_M", "--threads", "1"],
        cwd=folder,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "80"},
        stdout=subprocess.DEVNULL,
        stderr=child,
    )
    os.close(child)
    seen = b""
    while True:
        try:
            data = os.read(parent, 4096)
        except OSError:
            break
        if not data:
            break
        seen += data
    os.close(parent)

    assert process.wait(timeout=60) == 0
    assert b"quantize" in seen
    assert b"29" in seen


# --- the pipeline ----------------------------------------------------------------------------------


def test_plans_of_several_recipes(folder: Path) -> None:
    """One probe answers for all of them, in their order."""
    plans = plan(folder / "model-f16.gguf", [recipe_for("Q8_0"), recipe_for("Q2_K")], threads=1)

    assert [each.type_name for each in plans] == ["Q8_0", "Q2_K"]
    assert [each.file_bytes for each in plans] == [2_117_472, 840_288]


@pytest.mark.parametrize(
    ("kind", "error"), [("kill", ProbeCrashed), ("interrupt", KeyboardInterrupt)]
)
def test_a_run_that_ends_half_way_leaves_nothing(
    kind: str, error: type[BaseException], folder: Path
) -> None:
    """The probe is killed from outside, or the user gives up: no file, not even a partial one."""
    seen: list[Progress] = []

    def end(progress: Progress) -> None:
        seen.append(progress)
        if progress.step == "quantize" and progress.done == 5:
            (partial,) = folder.glob(".*.partial")
            if kind == "interrupt":
                raise KeyboardInterrupt
            os.kill(int(partial.name.split(".")[-2]), signal.SIGKILL)

    target = folder / "out.gguf"
    recipe = recipe_for("IQ4_XS")
    with pytest.raises(error):
        quantize(folder / "model-f16.gguf", target, recipe=recipe, threads=1, on_progress=end)

    assert seen
    assert [path.name for path in folder.iterdir()] == ["model-f16.gguf"]


def test_a_run_that_hangs(folder: Path) -> None:
    """A probe that stopped half-way is killed at the deadline, and nothing is left of its file."""

    def hang(progress: Progress) -> None:
        if progress.step == "quantize" and progress.done == 5:
            (partial,) = folder.glob(".*.partial")
            os.kill(int(partial.name.split(".")[-2]), signal.SIGSTOP)

    with pytest.raises(ProbeTimedOut):
        quantize(
            folder / "model-f16.gguf",
            folder / "out.gguf",
            recipe=recipe_for("IQ4_XS"),
            threads=1,
            timeout=8.0,
            on_progress=hang,
        )

    assert [path.name for path in folder.iterdir()] == ["model-f16.gguf"]


# --- the class -------------------------------------------------------------------------------------


def test_the_quantizer_of_a_folder(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Names in a folder in, a path out; the checksum lies beside it, and the log has both ends."""
    (folder / "llama.cpp").mkdir()
    quantizer = SecureQuantizer(str(folder), str(folder / "llama.cpp"), threads=1)

    with caplog.at_level(logging.INFO):
        output = quantizer.quantize(
            input_model="model-f16.gguf", output_name="model-Q5_K_M.gguf", quantization="Q5_K_M"
        )

    assert output == str(folder / "model-Q5_K_M.gguf")
    assert verify(Path(output)).outcome == "match"
    assert [record.getMessage().split()[0] for record in caplog.records] == [
        "quantize.starting",
        "quantize.complete",
    ]
    with pytest.raises(QuantizationError, match=r"^Quantization failed: .* exists already"):
        quantizer.quantize("model-f16.gguf", "model-Q5_K_M.gguf", "Q5_K_M")
    again = SecureQuantizer(folder, overwrite=True, threads=1)
    assert again.quantize("model-f16.gguf", "model-Q5_K_M.gguf") == output
    assert json.loads((folder / "model-Q5_K_M.gguf.json").read_text())["recipe"]["type"] == "Q4_K_M"


def test_the_quantizers_errors(folder: Path) -> None:
    """What is missing, what is no type, what fails, and what lies elsewhere."""
    quantizer = SecureQuantizer(folder, threads=1)

    with pytest.raises(FileNotFoundError, match=r"^Model not found: .*/absent\.gguf$"):
        quantizer.quantize("absent.gguf", "out.gguf")
    with pytest.raises(
        ValueError, match=r"^Invalid quantization: 'Q4_K_X' .* did you mean 'Q4_K_S' or 'Q4_K_M'"
    ):
        quantizer.quantize("model-f16.gguf", "out.gguf", "Q4_K_X")
    with pytest.raises(
        QuantizationError, match=r"^Quantization failed: IQ2_XXS needs an importance"
    ):
        quantizer.quantize("model-f16.gguf", "out.gguf", "IQ2_XXS")
    for name in ("../out.gguf", "/out.gguf"):
        with pytest.raises(QuantizationError, match=r"^Quantization failed: .* leads out of "):
            quantizer.quantize("model-f16.gguf", name)
    with pytest.raises(FileNotFoundError, match=r"^the llama\.cpp folder does not exist: "):
        SecureQuantizer(folder, folder / "absent")
    with pytest.raises(FileNotFoundError, match=r"^the models folder does not exist: "):
        SecureQuantizer(folder / "absent")
    assert names(folder) == {"model-f16.gguf"}
