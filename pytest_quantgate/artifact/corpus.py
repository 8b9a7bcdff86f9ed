"""The texts likelihood is measured on: the user's files, or one every Python carries."""

from __future__ import annotations

import codecs
import hashlib
from typing import TYPE_CHECKING

from pytest_quantgate.artifact.catalog import did_you_mean
from pytest_quantgate.artifact.files import open_regular, write_atomically
from pytest_quantgate.artifact.source import locate
from pytest_quantgate.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

BUILTIN_CORPORA = ("builtin:python-docs",)
"""Texts that need no file."""

_BLOCK_BYTES = 1 << 20


def corpus_text(name: str) -> str:
    """Return a builtin text.

    ``builtin:python-docs`` is the prose of the language reference that the standard library
    carries (`pydoc_data.topics`), topics in alphabetical order with a blank line between. It
    differs between versions of Python, which its digest shows. One newline is added at its end,
    because llama.cpp's tools take one away from every text they read.

    Raises:
        ArtifactError: for a name that is none of the builtin texts.
    """
    if name not in BUILTIN_CORPORA:
        hint = did_you_mean(name, BUILTIN_CORPORA) or "."
        message = f"{name!r} is not a builtin corpus{hint} There is {', '.join(BUILTIN_CORPORA)}"
        raise ArtifactError(message)
    # Only here: the module is 700 kB of text.
    from pydoc_data.topics import topics  # noqa: PLC0415 - loaded only for those who ask

    return "\n\n".join(topics[key] for key in sorted(topics)) + "\n"


def materialize_corpus(
    name: str, *, base: Path, roots: Sequence[Path], folder: Path
) -> tuple[Path, str]:
    """Return the path of a corpus file and the SHA-256 of its bytes, in hexadecimal.

    A file is used where it lies (`locate` says how it is named); a builtin text is written into
    ``folder`` once, under a name that has its digest.

    Raises:
        ArtifactError: when the file is missing, empty or not UTF-8, or cannot be written.
    """
    if name.startswith("builtin:"):
        return _write_builtin(name, folder)
    path = locate(name, base=base, roots=roots)
    return path, _check_text(path)


def _write_builtin(name: str, folder: Path) -> tuple[Path, str]:
    data = corpus_text(name).encode()
    digest = hashlib.sha256(data).hexdigest()
    path = folder / f"{name.partition(':')[2]}-{digest[:16]}.txt"
    try:
        present = path.is_file() and path.read_bytes() == data
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"{path}: the text of {name} cannot be kept there: {error.strerror}"
        raise ArtifactError(message) from error
    if not present:
        write_atomically(path, data)
    return path, digest


def _check_text(path: Path) -> str:
    """Return the digest of a file that is UTF-8 text with something in it."""
    digest = hashlib.sha256()
    decoder = codecs.getincrementaldecoder("utf-8")()
    done = 0
    blank = True
    with open_regular(path) as file:
        while True:
            block = file.read(_BLOCK_BYTES)
            # Bytes of a character that the last block cut in two.
            pending = len(decoder.getstate()[0])
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                place = done - pending + error.start
                message = (
                    f"{path}: not UTF-8 text: {error.reason} at byte {place}; convert it, such as "
                    "with `iconv -t UTF-8`"
                )
                raise ArtifactError(message) from error
            if not block:
                break
            digest.update(block)
            done += len(block)
            blank = blank and not text.strip()
    if blank:
        size = f"{done} bytes of white space" if done else "empty"
        message = f"{path}: the corpus is {size}; name a text to measure on"
        raise ArtifactError(message)
    return digest.hexdigest()
