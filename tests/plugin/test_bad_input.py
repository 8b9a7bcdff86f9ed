"""Every bad input is an error with one clear message: what, where, and what to do."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Project

FILE = """\
quantgate: 1
defaults: {corpus: corpus.txt, context: 128}
models:
  tiny:
    baseline: {source: tiny-f16.gguf}
    variants:
      given: {source: given.gguf}
    gates:
      perplexity: {max: 1000}
"""


def flat(result: pytest.RunResult) -> str:
    """Return what was printed, without line breaks."""
    return " ".join(result.stdout.str().split())


def one_error(result: pytest.RunResult) -> str:
    """Check that the run's one gate is an error without a traceback, and return the output."""
    result.assert_outcomes(errors=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    text = flat(result)
    assert "Traceback" not in text
    assert "gates.yaml:9:7: tiny::given::perplexity" in text
    return text


def truncated(project: Project, path: Path) -> None:
    """Write the first half of a model."""
    data = (project.path / "tiny-f16.gguf").read_bytes()
    path.write_bytes(data[: len(data) // 2])


def renamed_text(_: Project, path: Path) -> None:
    """Write a text under a model's name."""
    path.write_text("<html>404 not found</html>")


def folder(_: Project, path: Path) -> None:
    """Make a folder under a model's name."""
    path.mkdir()


def empty(_: Project, path: Path) -> None:
    """Write nothing under a model's name."""
    path.write_bytes(b"")


def unknown_architecture(project: Project, path: Path) -> None:
    """Write a model of an architecture the engine does not know."""
    data = (project.path / "tiny-f16.gguf").read_bytes()
    key, value = b"general.architecture", b"llama"
    assert data.count(key) == 1
    at = data.index(value, data.index(key))
    path.write_bytes(data[:at] + b"lxama" + data[at + len(value) :])


def absent(_: Project, __: Path) -> None:
    """Write nothing at all."""


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (absent, "given.gguf"),
        (folder, "given.gguf"),
        (truncated, "incomplete"),
        (renamed_text, "GGUF"),
        (empty, "empty"),
        (unknown_architecture, "lxama"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_files_that_are_no_models(
    project: Project, make: Callable[[Project, Path], None], expected: str
) -> None:
    """A missing, broken or foreign file is refused before native code sees it."""
    project.spec(FILE)
    make(project, project.path / "given.gguf")

    text = one_error(project.gate())

    assert "ArtifactError" in text
    assert expected in text


GOOD = FILE.replace("{source: given.gguf}", "{quantize: Q8_0}")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "corpus.txt"),
        (b"A short text.", "256 are needed"),
        (b"fine so far \xff\xfe and on" * 100, "UTF-8"),
        (None, "corpus.txt"),
    ],
    ids=["empty", "short", "not-utf-8", "missing"],
)
def test_texts_that_cannot_be_measured_on(
    project: Project, data: bytes | None, expected: str
) -> None:
    """An empty, short, binary or missing corpus is an error."""
    project.spec(GOOD)
    corpus = project.path / "corpus.txt"
    if data is None:
        corpus.unlink()
    else:
        corpus.write_bytes(data)

    assert expected in one_error(project.gate())


CASES = GOOD.replace("perplexity: {max: 1000}", "accuracy: {cases: cases.jsonl, min: 0.5}")


def test_malformed_cases_are_told_by_line(project: Project) -> None:
    """All wrong lines of a case file are named at once."""
    project.spec(CASES)
    (project.path / "cases.jsonl").write_text(
        '{"prompt": "a", "expected": "b"}\n{"prompt": "a", "expected": \n{"prompt": "a"}\n'
    )

    result = project.gate()

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["*cases.jsonl:2:*: not JSON: *", "*cases.jsonl:3:1: missing key 'expected'*"]
    )


def test_a_path_outside_the_project_is_refused(project: Project) -> None:
    """A specification cannot reach out of the project unless a folder is allowed."""
    outside = project.path.parent / "outside"
    outside.mkdir(exist_ok=True)
    model = outside / "given.gguf"
    model.write_bytes((project.path / "tiny-f16.gguf").read_bytes())
    project.spec(FILE.replace("given.gguf", "../outside/given.gguf"))

    refused = project.gate()
    allowed = project.gate("--quantgate-root", str(outside))

    refused.stdout.fnmatch_lines(["gates.yaml:7:*outside*"])
    assert refused.ret == pytest.ExitCode.INTERRUPTED
    allowed.assert_outcomes(passed=1)


def test_a_link_out_of_the_project_is_refused(project: Project) -> None:
    """A symbolic link inside the project that leads outside is found when it is opened."""
    outside = project.path.parent / "linked.gguf"
    outside.write_bytes((project.path / "tiny-f16.gguf").read_bytes())
    (project.path / "given.gguf").symlink_to(outside)
    project.spec(FILE)

    assert "outside the project" in one_error(project.gate())


def test_a_store_that_cannot_be_written(project: Project) -> None:
    """The run says so before it measures, and names the option."""
    project.spec(GOOD.replace("{quantize: Q8_0}", "{source: tiny-f16.gguf}"))
    (project.path / "blocked").write_text("a file where the folder should be")

    result = project.run("--quantgate", "gates.yaml", "--quantgate-store", "blocked")

    text = one_error(result)
    assert "StoreError" in text
    assert "choose another folder with --quantgate-store" in text


def test_a_stored_measurement_of_other_settings_is_refused(project: Project) -> None:
    """A file that lies under the wrong key is named with the field and both values."""
    project.spec(GOOD)
    project.gate(fresh=True).assert_outcomes(passed=1)
    (stored,) = (project.path / ".quantgate" / "measurements").glob("likelihood-*.json")
    document = json.loads(stored.read_text())
    document["key"]["context"] = 64
    stored.write_text(json.dumps(document))

    text = one_error(project.gate(fresh=True))

    assert "was measured with other settings (context is 64 there and 128 here)" in text


def test_an_edited_measurement_is_refused(project: Project) -> None:
    """Nobody can pass a gate by writing a better number into the store."""
    project.spec(GOOD)
    project.gate(fresh=True)
    (stored,) = (project.path / ".quantgate" / "measurements").glob("likelihood-*.json")
    document = json.loads(stored.read_text())
    document["result"]["chunk_nll"] = [1.0 for _ in document["result"]["chunk_nll"]]
    stored.write_text(json.dumps(document))

    assert "was changed after it was written" in one_error(project.gate(fresh=True))


def test_a_made_model_that_was_replaced_is_refused(project: Project) -> None:
    """A file in the store that is not the one the store made is not loaded."""
    project.spec(GOOD)
    project.gate(fresh=True)
    (made,) = (project.path / ".quantgate" / "models").glob("*/*.gguf")
    made.write_bytes((project.path / "tiny-f16.gguf").read_bytes())

    text = one_error(project.gate(fresh=True))

    assert "is not the file the store made" in text


def test_two_runs_at_once_on_one_store(project: Project) -> None:
    """Both succeed, and each measurement is there once."""
    arguments = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--quantgate",
        "gates.yaml",
        "--quantgate-store",
        "both",
    ]

    both = [
        subprocess.Popen(
            arguments, cwd=project.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in both]

    assert [process.returncode for process in both] == [0, 0], outputs
    names = [path.name for path in (project.path / "both" / "measurements").iterdir()]
    assert len([name for name in names if name.startswith("likelihood-")]) == 3
    assert [name for name in names if "partial" in name] == []


SAME = FILE.replace("given.gguf", "copy.gguf").replace("max: 1000", "max_ratio: 1.1")


def test_a_model_is_not_compared_with_itself(project: Project) -> None:
    """A copy of the baseline under another name proves nothing and is an error."""
    project.spec(SAME)
    (project.path / "copy.gguf").write_bytes((project.path / "tiny-f16.gguf").read_bytes())

    text = one_error(project.gate())

    assert "given and the baseline are the same file" in text


CHECKSUM = FILE.replace("perplexity: {max: 1000}", "checksum: {}\n      perplexity: {max: 1000}")


def test_a_model_without_checksum_fails_with_the_command(project: Project) -> None:
    """The checksum gate fails and the others of the variant do not load the file."""
    project.spec(CHECKSUM)
    (project.path / "given.gguf").write_bytes((project.path / "tiny-f16.gguf").read_bytes())

    result = project.gate()

    result.assert_outcomes(failed=1, errors=1)
    text = flat(result)
    assert re.search(
        r"given.gguf has no checksum; make one with: quantgate checksum \S*given.gguf", text
    )
    assert "IntegrityError: given.gguf is not loaded: it has no checksum" in text


def test_the_advised_command_makes_the_gate_pass(project: Project) -> None:
    """What the message says to run is what helps."""
    project.spec(CHECKSUM)
    (project.path / "given.gguf").write_bytes((project.path / "tiny-f16.gguf").read_bytes())
    command = [sys.executable, "-c", "from pytest_quantgate.cli import main; main()"]
    subprocess.run([*command, "checksum", "given.gguf"], cwd=project.path, check=True)

    project.gate().assert_outcomes(passed=2)


def test_a_tampered_model_is_not_loaded(project: Project) -> None:
    """One changed byte fails the checksum gate, and nothing else runs the file."""
    project.spec(CHECKSUM)
    data = bytearray((project.path / "tiny-f16.gguf").read_bytes())
    data[-1] ^= 1
    (project.path / "given.gguf").write_bytes(data)
    sidecar = (project.path / "tiny-f16.gguf.sha256").read_text()
    (project.path / "given.gguf.sha256").write_text(sidecar.replace("tiny-f16", "given"))

    result = project.gate()

    result.assert_outcomes(failed=1, errors=1)
    assert "but sidecar given.gguf.sha256 says" in flat(result)
