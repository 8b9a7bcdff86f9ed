"""`quantgate checksum`, `verify` and `sign` of lists, folders and signatures, from a shell."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from test_signing import Keys, make_keys
from typer.testing import CliRunner

from pytest_quantgate import cli


def run(*arguments: str) -> tuple[int, str]:
    """Run a command in this process; return exit code and output."""
    done = CliRunner().invoke(cli.app, list(arguments))
    return done.exit_code, done.output


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two models, in the current one."""
    monkeypatch.chdir(tmp_path)
    path = Path("dist")
    path.mkdir()
    for name in ("a.gguf", "b.gguf"):
        (path / name).write_text(name)
    return path


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """A pair of keys."""
    return make_keys(tmp_path, "key")


def test_sums_of_two_models(folder: Path) -> None:
    """`sha256sum -c` checks the list, and `verify` does."""
    models = [str(folder / name) for name in ("a.gguf", "b.gguf")]

    assert run("checksum", *models, "--sums") == (0, "wrote dist/SHA256SUMS\n")
    subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=folder, check=True)  # noqa: S607 - whichever there is
    assert run("verify", "dist/SHA256SUMS") == (
        0,
        "dist/SHA256SUMS: ok, 2 of 2 files match (SHA256SUMS)\n",
    )
    # It vouches for each of them alone, too.
    assert run("verify", models[1])[0] == 0


def test_a_folder_that_changed(folder: Path) -> None:
    """Changed, missing and unlisted files have a line each, and the exit code is 1."""
    assert run("checksum", "dist", "--manifest") == (0, "wrote dist/SHA256SUMS\n")
    assert run("verify", "dist") == (0, "dist: ok, 2 of 2 files match (SHA256SUMS)\n")
    (folder / "a.gguf").write_text("changed")
    (folder / "b.gguf").rename(folder / "c.gguf")

    code, output = run("verify", "dist")

    lines = output.splitlines()
    assert code == 1
    assert lines[0].startswith("dist/a.gguf: MISMATCH, sha256 ")
    assert lines[1:] == [
        "dist/b.gguf: MISSING",
        "dist/c.gguf: NOT LISTED in SHA256SUMS",
        "dist: FAILED, 0 of 2 files match, 1 not listed",
    ]


@pytest.mark.usefixtures("folder")
def test_a_folder_without_a_list() -> None:
    """Nobody vouches for it: exit code 1, and the command that changes that."""
    assert run("verify", "dist") == (
        1,
        "dist: no SHA256SUMS; make one with: quantgate checksum dist --manifest\n",
    )


def test_one_json_document(folder: Path) -> None:
    """With --json there is nothing but the document, for good and for bad results."""
    code, output = run("checksum", "dist/a.gguf", "--json")
    assert (code, json.loads(output)) == (0, {"written": ["dist/a.gguf.sha256"]})
    run("checksum", "dist", "--manifest")
    (folder / "b.gguf").unlink()

    code, output = run("verify", "dist/a.gguf", "dist", "--json")

    document = json.loads(output)
    assert (code, document["ok"]) == (1, False)
    assert [each["ok"] for each in document["results"]] == [True, False]
    assert document["results"][0]["outcome"] == "match"
    assert document["results"][1]["missing"] == ["b.gguf"]


def test_sign_and_verify(folder: Path, keys: Keys) -> None:
    """A signature lies where `verify` looks for it; a changed model, and one without, exit 1."""
    public = ("--public-key", str(keys.public))

    assert run("sign", "dist/a.gguf", "--key", str(keys.private)) == (
        0,
        "wrote dist/a.gguf.sig\n",
    )
    assert run("verify", "dist/a.gguf", *public) == (
        0,
        f"dist/a.gguf: ok, signed (dist/a.gguf.sig) with the key of {keys.public}\n",
    )
    (folder / "a.gguf").write_text("changed")
    code, output = run("verify", "dist/a.gguf", "dist/b.gguf", *public)
    assert code == 1
    assert output.splitlines() == [
        "REFUSED: dist/a.gguf must not be used: it is not what was signed: its content changed",
        "REFUSED: dist/b.gguf: has no signature (dist/b.gguf.sig); do not use it, or ask its "
        "publisher for one",
    ]


def test_sign_a_folder(keys: Keys, folder: Path) -> None:
    """Named signatures and JSON, too."""
    signed = run("sign", str(folder), "--key", str(keys.private), "-o", "x.sig", "--json")
    assert json.loads(signed[1]) == {"written": ["x.sig"]}

    check = ("verify", str(folder), "--signature", "x.sig", "--public-key", str(keys.public))
    assert run(*check) == (0, f"dist: ok, 2 files, signed (x.sig) with the key of {keys.public}\n")
    document = json.loads(run(*check, "--json")[1])
    assert set(document["results"][0]["digests"]) == {"a.gguf", "b.gguf"}


def test_the_password_comes_from_the_environment(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not stand on a command line."""
    locked = make_keys(tmp_path, "locked", password="secret")  # noqa: S106 - of a key made just now
    arguments = (
        "sign",
        str(folder),
        "--key",
        str(locked.private),
        "--password-env",
        "KEY_PASSWORD",
    )
    monkeypatch.delenv("KEY_PASSWORD", raising=False)
    assert "the environment has no variable KEY_PASSWORD" in run(*arguments)[1]

    monkeypatch.setenv("KEY_PASSWORD", "secret")
    assert run(*arguments) == (0, "wrote dist/model.sig\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("checksum", "dist", "--sums", "--manifest"),
        ("verify", "dist", "--signature", "a.sig"),
        ("verify", "dist", "dist", "--signature", "a.sig", "--public-key", "a.pem"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_options_that_contradict_each_other(arguments: tuple[str, ...]) -> None:
    """They are refused before anything is read."""
    assert run(*arguments)[0] == 2
