"""Lists of checksums over several files and whole folders, and `sha256sum` on both sides of them."""

from __future__ import annotations

import hashlib
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from pytest_quantgate.artifact.integrity.manifest import (
    ChangedFile,
    folder_files,
    verify_list,
    verify_manifest,
    write_manifest,
    write_sums,
)
from pytest_quantgate.errors import ArtifactError, IntegrityError

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("config.json", "sub/deeper/part.gguf", "sub/with space", "sub/with\\back\nslash")


def digest(text: str) -> str:
    """Return the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with files in it and below, each with its name as content."""
    root = tmp_path / "model"
    for name in NAMES:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return root


def checked(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `sha256sum -c` in a folder."""
    return subprocess.run(
        ["sha256sum", "-c", "--strict", "SHA256SUMS"],  # noqa: S607 - whichever coreutils there is
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_sha256sum_checks_our_manifest(folder: Path) -> None:
    """Every file of the folder is in it, and another tool finds them good, or one of them changed."""
    path = write_manifest(folder)

    done = checked(folder)
    assert path == folder / "SHA256SUMS"
    assert done.returncode == 0
    assert done.stdout.count(": OK") == len(NAMES)
    assert verify_manifest(folder).ok

    (folder / NAMES[1]).write_text("changed")
    assert checked(folder).returncode == 1


def test_we_check_the_manifest_of_sha256sum(folder: Path) -> None:
    """What `find` and `sha256sum` wrote together is read, with its names that begin with a dot."""
    line = "find . -type f -print0 | xargs -0 sha256sum > ../sums && mv ../sums SHA256SUMS"
    subprocess.run(["sh", "-c", line], cwd=folder, check=True)  # noqa: S607 - what a user types

    found = verify_manifest(folder)

    assert found.ok
    assert sorted(found.matched) == sorted(NAMES)
    assert found.bytes == sum(len(name) for name in NAMES)


def test_tells_changed_missing_and_unlisted_files(folder: Path) -> None:
    """Each of the three is a failure of its own, by name."""
    write_manifest(folder)
    (folder / "config.json").write_text("{}")
    (folder / NAMES[1]).unlink()
    (folder / "sub" / "extra.bin").touch()

    found = verify_manifest(folder)

    assert not found.ok
    assert found.changed == (
        ChangedFile(name="config.json", expected=digest("config.json"), actual=digest("{}")),
    )
    assert found.missing == (NAMES[1],)
    assert found.unlisted == ("sub/extra.bin",)
    assert sorted(found.matched) == sorted(NAMES[2:])


@pytest.mark.parametrize("what", ["changed", "missing", "unlisted"])
def test_one_deviation_is_enough(folder: Path, what: str) -> None:
    """A folder is good only when all three lists are empty."""
    write_manifest(folder)
    assert verify_manifest(folder).ok

    if what == "changed":
        (folder / "config.json").write_text("{}")
    elif what == "missing":
        (folder / "config.json").unlink()
    else:
        (folder / ".hidden").touch()

    assert not verify_manifest(folder).ok


def test_leaves_out_its_own_and_what_it_is_told(folder: Path) -> None:
    """The list, a signature and ignored names do not count; a folder named like them does."""
    (folder / "model.sig").touch()
    (folder / ".git").mkdir()
    (folder / ".git" / "config").touch()
    write_manifest(folder, ignore=[".git"])

    assert verify_manifest(folder, ignore=[".git/"]).ok
    assert verify_manifest(folder).unlisted == (".git/config",)

    (folder / "model.sig").unlink()
    (folder / "model.sig").mkdir()
    (folder / "model.sig" / "hidden").touch()
    assert verify_manifest(folder, ignore=[".git"]).unlisted == ("model.sig/hidden",)


def test_links_to_files_count_as_the_files(folder: Path) -> None:
    """Caches of downloads are made of links; what they lead to is what is loaded."""
    blob = folder.parent / "blob"
    blob.write_text("content")
    (folder / "link.gguf").symlink_to(blob)
    write_manifest(folder)

    assert verify_manifest(folder).ok
    blob.write_text("other")
    assert [each.name for each in verify_manifest(folder).changed] == ["link.gguf"]


def test_refuses_what_no_list_can_vouch_for(folder: Path) -> None:
    """Links to folders or nowhere, and pipes, are errors, not gaps."""
    odd = folder / "odd"

    def refused(kind: str) -> None:
        with pytest.raises(ArtifactError) as caught:
            folder_files(folder)
        assert str(caught.value) == (
            f"{odd}: is {kind}, whose content no list of files can vouch for; put the files "
            "themselves there, or leave it out with --ignore"
        )
        odd.unlink()

    for target in ("sub", "gone"):
        odd.symlink_to(target)
        refused("a link to a folder or to nowhere")
    os.mkfifo(odd)
    refused("a pipe or device")


def test_refuses_folders_that_are_none(tmp_path: Path) -> None:
    """A file, nothing at all, and a folder without files."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()

    with pytest.raises(ArtifactError, match="is no folder"):
        write_manifest(tmp_path / "file")
    with pytest.raises(ArtifactError, match="is no folder"):
        verify_manifest(tmp_path / "absent")
    with pytest.raises(ArtifactError, match="holds no files to make a list of"):
        write_manifest(tmp_path / "empty")


def test_a_folder_without_a_list_is_refused(folder: Path) -> None:
    """Nobody vouches for it, and the message has the command that would."""
    with pytest.raises(IntegrityError) as caught:
        verify_manifest(folder)

    assert str(caught.value) == (
        f"{folder}: has no SHA256SUMS; make one where the files were made with: quantgate checksum "
        f"{folder} --manifest"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "holds no checksum"),
        ("# a comment\n", "holds no checksum"),
        (f"{digest('a')}  config.json\n{digest('b')}  ./config.json\n", "different checksums for"),
        (f"{digest('a')}  ../outside\n", "names '../outside', which is outside the folder"),
        (f"{digest('a')}  sub/../../outside\n", "names '../outside', which is outside the folder"),
        (f"{digest('a')}  /etc/hostname\n", "names '/etc/hostname', which is outside the folder"),
        (f"{digest('a')}\n", "a checksum without the name of its file"),
        ("garbage\n", "is not a SHA-256"),
    ],
)
def test_refuses_lists_that_say_nothing_sure(folder: Path, text: str, reason: str) -> None:
    """A list that is empty, contradicts itself or leads outside is an error."""
    (folder / "SHA256SUMS").write_text(text)

    with pytest.raises(IntegrityError) as caught:
        verify_manifest(folder)

    assert reason in str(caught.value)


@pytest.mark.parametrize("name", [" lead", "trail ", "*star", "tab\t", "caf\udce9"])
def test_refuses_names_that_lists_cannot_hold(tmp_path: Path, name: str) -> None:
    """What a reader would take for another name is not written."""
    (tmp_path / name).touch()

    with pytest.raises(ArtifactError, match="lists of checksums cannot name it for sure"):
        write_manifest(tmp_path)


def test_sums_of_some_files(folder: Path) -> None:
    """A list of named models keeps the lines of others and is replaced where it speaks of these."""
    first, second = folder / "a.gguf", folder / "b.gguf"
    first.write_text("a")
    second.write_text("b")

    assert write_sums([first]) == folder / "SHA256SUMS"
    first.write_text("changed")
    write_sums([first, second])

    assert (folder / "SHA256SUMS").read_text() == (
        f"{digest('changed')}  a.gguf\n{digest('b')}  b.gguf\n"
    )
    assert checked(folder).returncode == 0
    found = verify_list(folder / "SHA256SUMS")
    assert found.matched == ("a.gguf", "b.gguf")
    # Only the files of the list were asked for.
    assert found.ok


def test_sums_list_all_parts_of_a_split_model(tmp_path: Path) -> None:
    """One part names the others."""
    parts = [tmp_path / f"m-0000{index}-of-00002.gguf" for index in (1, 2)]
    for part in parts:
        part.write_text(part.name)

    write_sums([parts[1]])

    assert verify_list(tmp_path / "SHA256SUMS").matched == tuple(part.name for part in parts)


def test_sums_are_of_one_folder(folder: Path) -> None:
    """A SHA256SUMS lies beside what it lists."""
    with pytest.raises(ArtifactError, match="one SHA256SUMS lists the files of one folder, these"):
        write_sums([folder / "config.json", folder / NAMES[1]])
