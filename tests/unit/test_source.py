"""Files found by name, and only where they may lie."""

from __future__ import annotations

import subprocess
import sys
import types
from typing import TYPE_CHECKING

import pytest

from pytest_quantgate.artifact.files import write_atomically
from pytest_quantgate.artifact.source import locate
from pytest_quantgate.errors import ArtifactError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project with one model in it."""
    folder = tmp_path / "project"
    (folder / "dist").mkdir(parents=True)
    (folder / "dist" / "model.gguf").write_bytes(b"model")
    return folder


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of an installed package that must not be imported."""
    folder = tmp_path / "site" / "quantgate_sample"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (folder / "data" / "tiny.gguf").write_bytes(b"tiny")
    (tmp_path / "site" / "quantgate_single.py").write_text("raise RuntimeError('imported')\n")
    (tmp_path / "secret").write_bytes(b"secret")
    monkeypatch.syspath_prepend(folder.parent)
    return folder


def refusal(name: str, base: Path) -> str:
    """Return why a name is refused."""
    with pytest.raises(ArtifactError) as caught:
        locate(name, base=base, roots=[base])
    return str(caught.value)


def test_paths_are_relative_to_the_specification(project: Path) -> None:
    """A relative path, one with dots and an absolute one lead to the same file."""
    model = project / "dist" / "model.gguf"

    for name in ("dist/model.gguf", "dist/../dist/model.gguf", str(model)):
        assert locate(name, base=project, roots=[project]) == model


def test_missing_file_lists_near_names(project: Path) -> None:
    """A slip of the pen is answered with what is there."""
    message = refusal("dist/modle.gguf", project)

    assert message == (
        f"'dist/modle.gguf': no such file ({project}/dist/modle.gguf); did you mean 'model.gguf'?"
    )
    assert refusal("dits/model.gguf", project).endswith(
        f"; the folder {project}/dits does not exist"
    )
    assert "no such file" in refusal("dist/model.gguf/x", project)


@pytest.mark.parametrize("name", ["", "  ", "a\0b"])
def test_refuses_names_of_nothing(project: Path, name: str) -> None:
    """An empty name is not the folder itself."""
    assert "names no file" in refusal(name, project)


@pytest.mark.parametrize("name", ["hf:owner/model/file.gguf", "https://host/model.gguf"])
def test_refuses_other_kinds_of_names(project: Path, name: str) -> None:
    """A name of a kind that is not supported is not taken for a path."""
    kind = name.split(":", maxsplit=1)[0]

    assert refusal(name, project) == (
        f"{name!r}: names that start with {kind}: are not supported here; write a path or "
        "package:<import name>/<file>"
    )


def test_a_file_with_a_colon_is_a_file(project: Path) -> None:
    """What exists under the very name is found."""
    (project / "run:3.gguf").touch()

    assert locate("run:3.gguf", base=project, roots=[project]) == project / "run:3.gguf"


def test_refuses_what_lies_outside(project: Path) -> None:
    """Dots, absolute paths and links cannot lead out of the allowed folders."""
    outside = project.parent / "outside.gguf"
    outside.touch()
    (project / "link.gguf").symlink_to(outside)
    (project / "folder").symlink_to(project.parent)

    for name in ("../outside.gguf", str(outside), "link.gguf", "folder/outside.gguf"):
        message = refusal(name, project)
        assert message == f"{name!r}: {outside} lies outside the project; allowed is {project}"
    assert locate("../outside.gguf", base=project, roots=[project, project.parent]) == outside


def test_links_inside_keep_their_name(project: Path) -> None:
    """A link is followed for the check and kept for its name, beside which its checksum lies."""
    (project / "current.gguf").symlink_to("dist/model.gguf")
    (project / "gone.gguf").symlink_to("dist/gone.gguf")
    (project / "loop.gguf").symlink_to("loop.gguf")

    assert locate("current.gguf", base=project, roots=[project]) == project / "current.gguf"
    assert "no such file" in refusal("gone.gguf", project)
    assert "cannot be reached" in refusal("loop.gguf", project)


def test_finds_files_of_packages_without_importing(project: Path, package: Path) -> None:
    """The package's code does not run, wherever in it the file is."""
    model = package / "data" / "tiny.gguf"

    for name in ("quantgate_sample/data/tiny.gguf", "quantgate_sample.data/tiny.gguf"):
        assert locate(f"package:{name}", base=project, roots=[project]) == model
    assert "quantgate_sample" not in sys.modules


@pytest.mark.usefixtures("package")
def test_refusals_for_packages(project: Path) -> None:
    """Each way of getting a package's file wrong has its sentence."""
    assert refusal("package:quantgate_absent/m.gguf", project) == (
        "'package:quantgate_absent/m.gguf': the package quantgate_absent is not installed; install "
        "the distribution that has it, such as `pip install quantgate-absent`"
    )
    assert refusal("package:quantgate_sample/data/tyni.gguf", project) == (
        "'package:quantgate_sample/data/tyni.gguf': the installed package quantgate_sample has no "
        "file 'data/tyni.gguf'; did you mean 'tiny.gguf'?"
    )
    assert "no package with a folder" in refusal("package:quantgate_single/m.gguf", project)
    assert "no package with a folder" in refusal("package:quantgate_sample.no/m.gguf", project)
    assert "write package:<import name>/<file>" in refusal("package:quantgate_sample", project)
    assert "write package:<import name>/<file>" in refusal("package:../x/m.gguf", project)


def test_no_way_out_of_a_package(project: Path, package: Path) -> None:
    """Dots and links cannot lead from a package to other files of the machine."""
    (package / "link.gguf").symlink_to(package.parent.parent / "secret")

    for file in ("../../secret", "link.gguf", str(package.parent.parent / "secret")):
        message = refusal(f"package:quantgate_sample/{file}", project)
        assert f"{package.parent.parent / 'secret'} lies outside quantgate_sample" in message


def test_module_without_spec_is_not_installed(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module somebody put together in memory has no place to look in."""
    monkeypatch.setitem(sys.modules, "quantgate_bare", types.ModuleType("quantgate_bare"))

    assert "is not installed" in refusal("package:quantgate_bare/m.gguf", project)


def test_atomic_writing_leaves_the_old_file_or_the_new(tmp_path: Path) -> None:
    """A write that fails half-way changes nothing and leaves nothing behind."""
    target = tmp_path / "report.json"
    target.write_text("old")
    script = (
        "import resource, sys, pathlib\n"
        "from pytest_quantgate.artifact.files import write_atomically\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "write_atomically(pathlib.Path(sys.argv[1]), b'x' * 2000)\n"
    )

    failed = subprocess.run(
        [sys.executable, "-c", script, target], check=False, capture_output=True, text=True
    )

    assert f"ArtifactError: {target}: cannot be written: File too large" in failed.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert target.read_text() == "old"
    write_atomically(target, b"new")
    assert target.read_text() == "new"
    with pytest.raises(ArtifactError, match="cannot be written: No such file"):
        write_atomically(tmp_path / "no" / "report.json", b"")
