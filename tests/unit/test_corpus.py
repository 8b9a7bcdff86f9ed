"""Texts to measure on: builtin ones written once, files used where they lie."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from pytest_quantgate.artifact import corpus
from pytest_quantgate.artifact.corpus import corpus_text, materialize_corpus
from pytest_quantgate.errors import ArtifactError

if TYPE_CHECKING:
    from pathlib import Path


def materialized(name: str, folder: Path) -> tuple[Path, str]:
    """Return a corpus with everything in one folder."""
    return materialize_corpus(name, base=folder, roots=[folder], folder=folder / "corpora")


def test_builtin_text_is_the_language_reference() -> None:
    """It is long prose, the same each time, with one newline that the engine's tools take away."""
    text = corpus_text("builtin:python-docs")

    assert text == corpus_text("builtin:python-docs")
    assert len(text) > 300_000
    assert 'The "assert" statement' in text
    assert text.endswith("\n")


def test_unknown_builtin_suggests_the_known() -> None:
    """A slip is answered with the name that exists."""
    with pytest.raises(ArtifactError) as caught:
        corpus_text("builtin:python-doc")

    assert str(caught.value) == (
        "'builtin:python-doc' is not a builtin corpus; did you mean 'builtin:python-docs'? There is "
        "builtin:python-docs"
    )


def test_builtin_is_written_once(tmp_path: Path) -> None:
    """The file has the text, its name the digest; it is not written again while it is right."""
    path, digest = materialized("builtin:python-docs", tmp_path)
    stamp = path.stat().st_mtime_ns

    assert path.parent == tmp_path / "corpora"
    assert path.name == f"python-docs-{digest[:16]}.txt"
    assert path.read_bytes() == corpus_text("builtin:python-docs").encode()
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert materialized("builtin:python-docs", tmp_path) == (path, digest)
    assert path.stat().st_mtime_ns == stamp


def test_damaged_builtin_is_written_anew(tmp_path: Path) -> None:
    """A file that was changed is not measured on."""
    path, digest = materialized("builtin:python-docs", tmp_path)
    path.write_text("something else")

    assert materialized("builtin:python-docs", tmp_path) == (path, digest)
    assert path.read_bytes() == corpus_text("builtin:python-docs").encode()
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_builtin_needs_a_folder_to_lie_in(tmp_path: Path) -> None:
    """A file in the place of the folder is named."""
    (tmp_path / "corpora").touch()

    with pytest.raises(ArtifactError, match="cannot be kept there: "):
        materialized("builtin:python-docs", tmp_path)


@pytest.mark.parametrize(
    "length", [corpus._BLOCK_BYTES - 1, corpus._BLOCK_BYTES, corpus._BLOCK_BYTES + 1]
)
def test_files_are_used_in_place(tmp_path: Path, length: int) -> None:
    """A text file is returned as it is, whatever block a character is cut by."""
    path = tmp_path / "text.txt"
    path.write_bytes("é".encode() * (length // 2) + b"a" * (length % 2))

    assert materialized("text.txt", tmp_path) == (
        path,
        hashlib.sha256(path.read_bytes()).hexdigest(),
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the corpus is empty; name a text to measure on"),
        (b" \n\t\n", "the corpus is 4 bytes of white space; name a text to measure on"),
        (
            b"caf\xe9 au lait",
            "not UTF-8 text: invalid continuation byte at byte 3; convert it, such as with `iconv",
        ),
        (b"end\xc3", "not UTF-8 text: unexpected end of data at byte 3; convert it"),
        (
            b"a" * (corpus._BLOCK_BYTES - 1) + b"\xe2\x82x",
            f"not UTF-8 text: invalid continuation byte at byte {corpus._BLOCK_BYTES - 1}; ",
        ),
        (
            b"a" * (corpus._BLOCK_BYTES + 10) + b"\xff",
            f"not UTF-8 text: invalid start byte at byte {corpus._BLOCK_BYTES + 10}; ",
        ),
        ("text".encode("utf-16"), "not UTF-8 text: invalid start byte at byte 0; "),
    ],
)
def test_refuses_what_is_no_text(tmp_path: Path, content: bytes, reason: str) -> None:
    """Nothing to measure, or bytes of another encoding with their place."""
    path = tmp_path / "text.txt"
    path.write_bytes(content)

    with pytest.raises(ArtifactError) as caught:
        materialized("text.txt", tmp_path)

    assert str(caught.value).startswith(f"{path}: {reason}")


def test_refuses_folders_and_missing_files(tmp_path: Path) -> None:
    """A corpus is a regular file inside the project."""
    with pytest.raises(ArtifactError, match="is a folder, not a file"):
        materialized(".", tmp_path)
    with pytest.raises(ArtifactError, match="no such file"):
        materialized("text.txt", tmp_path)
