"""`quantgate …` from a shell: what it prints, where, and with which exit code."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import pytest_quantgate
from pytest_quantgate import cli
from pytest_quantgate.spec import schema_text

CONTENT = b"model" * 100
DIGEST = hashlib.sha256(CONTENT).hexdigest()
SOURCE = Path(pytest_quantgate.__file__).parents[1]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in the current folder, named without it."""
    monkeypatch.chdir(tmp_path)
    Path("model.gguf").write_bytes(CONTENT)
    return Path("model.gguf")


def run(*arguments: str) -> tuple[int, str]:
    """Run a command in this process; return exit code and output."""
    done = CliRunner().invoke(cli.app, list(arguments))
    return done.exit_code, done.output


def test_checksum_writes_sidecars_that_verify(model: Path) -> None:
    """``checksum`` names each file it wrote, and ``verify`` then finds them and exits 0."""
    Path("b.gguf").write_bytes(b"b")

    assert run("checksum", "model.gguf", "b.gguf") == (
        0,
        "wrote model.gguf.sha256\nwrote b.gguf.sha256\n",
    )
    assert Path("model.gguf.sha256").read_text(encoding="utf-8") == f"{DIGEST}  model.gguf\n"
    code, output = run("verify", "model.gguf", "b.gguf")
    assert code == 0
    assert output.splitlines()[0] == f"{model}: ok, sha256 {DIGEST} (sidecar model.gguf.sha256)"


@pytest.mark.usefixtures("model")
def test_verify_exits_1_on_another_file() -> None:
    """A mismatch names both digests; the files after it are checked all the same."""
    run("checksum", "model.gguf")
    Path("model.gguf").write_bytes(b"changed")
    actual = hashlib.sha256(b"changed").hexdigest()
    Path("good.gguf").write_bytes(CONTENT)
    run("checksum", "good.gguf")

    assert run("verify", "model.gguf", "good.gguf") == (
        1,
        f"model.gguf: MISMATCH, sha256 {actual}, but sidecar model.gguf.sha256 says {DIGEST}\n"
        f"good.gguf: ok, sha256 {DIGEST} (sidecar good.gguf.sha256)\n",
    )


@pytest.mark.usefixtures("model")
def test_verify_exits_1_where_nobody_vouches() -> None:
    """A file without a checksum does not pass, and the output has the command that makes one."""
    code, output = run("verify", "model.gguf")

    assert code == 1
    assert output.startswith(
        "model.gguf: no checksum; make one with: quantgate checksum model.gguf"
    )


def test_schema_is_the_shipped_one() -> None:
    """``schema`` prints the JSON Schema byte for byte, ready to be redirected to a file."""
    code, output = run("schema")

    assert code == 0
    assert output == schema_text()
    assert json.loads(output)["title"] == "pytest-quantgate specification"


def test_version() -> None:
    """``--version`` prints name and version."""
    assert run("--version") == (0, f"quantgate {pytest_quantgate.__version__}\n")


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_names_every_command(arguments: list[str]) -> None:
    """Without arguments, or on request, there is help with each command."""
    _, output = run(*arguments)

    plain = re.sub(r"\x1b\[[0-9;]*m", "", output)
    for part in (
        "Quality gates for quantized language models; `pytest --quantgate SPEC` runs them.",
        "Write checksums in the form `sha256sum -c` reads: FILE.sha256 beside each model, or a list.",
        "Hold models and folders against their checksums, or their signatures; exit 1 unless all match.",
        "Print the JSON Schema of gates.yaml, for editors.",
        "Show the version",
    ):
        assert " ".join(part.split()) in " ".join(re.sub(r"[│|]", " ", plain).split())


@pytest.mark.parametrize("arguments", [["checksum"], ["verify"], ["frobnicate"], ["--bogus"]])
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    """A missing file, an unknown command and an unknown option are errors of usage."""
    assert run(*arguments)[0] == 2


def test_a_known_error_is_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What cannot be done is told on standard error without a traceback, with exit code 2."""
    missing = tmp_path / "none.gguf"
    monkeypatch.setattr(sys, "argv", ["quantgate", "checksum", str(missing)])

    with pytest.raises(SystemExit) as caught:
        cli.main()

    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("quantgate: ")
    assert str(missing) in captured.err
    assert "Traceback" not in captured.err


def test_it_runs_from_a_shell(model: Path) -> None:
    """In a process of its own, output, exit code and what it imports are those of a small tool."""
    code = (
        "import sys; sys.argv[0] = 'quantgate'\n"
        "from pytest_quantgate.cli import main\n"
        "try:\n    main()\nfinally:\n"
        "    print(sorted({'numpy', 'scipy', 'llama_cpp', 'pytest'} & set(sys.modules)))"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, "checksum", str(model)],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "wrote model.gguf.sha256\n[]\n", "")
