"""Lists of checksums, as `sha256sum`, BSD's `sha256` and package installers write them."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.artifact.files import open_regular
from pytest_quantgate.errors import ArtifactError, IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MAX_SUMS_BYTES = 16 << 20
_SHOWN_CHARACTERS = 80
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_LINE = re.compile(r"(\S+)(?:[ \t]+\*?(.+?))?[ \t]*")
_BSD_LINE = re.compile(r"([A-Za-z0-9/-]+) ?\((.+)\) ?= ?(\S+)")
_UNESCAPED = {"\\": "\\", "n": "\n", "r": "\r"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedChecksum:
    """A digest in lower-case hexadecimal and who says so ("sidecar model.gguf.sha256", …)."""

    digest: str
    source: str


def sum_lines(parts: Sequence[Path], digests: Sequence[str]) -> str:
    """Return what `sha256sum` prints for files in the folder it is run in."""
    return name_lines([part.name for part in parts], digests)


def name_lines(names: Sequence[str], digests: Sequence[str]) -> str:
    """Return what `sha256sum` prints, which marks names it had to escape with a backslash.

    Raises:
        ArtifactError: for a name that readers of such lists would take for another one.
    """
    lines = []
    for name, digest in zip(names, digests, strict=True):
        if name.startswith((" ", "\t", "*")) or name.endswith((" ", "\t")) or not _is_text(name):
            message = (
                f"{name!r}: begins or ends with a space or star, or is not UTF-8, so that lists of "
                "checksums cannot name it for sure; rename the file"
            )
            raise ArtifactError(message)
        escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        lines.append(f"{'' if escaped == name else chr(92)}{digest}  {escaped}\n")
    return "".join(lines)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def entries(sums: Path, *, bare: bool = False) -> tuple[tuple[str, str | None], ...]:
    """Return digest and name of each line of a list of checksums, in its order.

    With ``bare``, a line may be a digest without a name, which is None then.

    Raises:
        IntegrityError: when the list is malformed.
        ArtifactError: when it cannot be read.
    """
    return tuple(_entries(sums, bare=bare))


def listed(sums: Path, path: Path, source: str, *, sidecar: bool) -> ExpectedChecksum | None:
    """Return what a sidecar or sums file says of one file; None where a sums file does not list it.

    A name counts as the file's when it leads there from the folder of the sums file, or else when
    its last part is the same.

    Raises:
        IntegrityError: when the list is malformed or contradicts itself, or a sidecar speaks of
            another file.
        ArtifactError: when it cannot be read.
    """
    claims = entries(sums, bare=sidecar)
    target = _plain(path)
    exact = {
        digest for digest, name in claims if name is None or _plain(sums.parent / name) == target
    }
    found = exact or {digest for digest, name in claims if name and Path(name).name == path.name}
    if len(found) > 1:
        message = (
            f"{sums}: has {len(found)} different checksums for {path.name}; keep the right one"
        )
        raise IntegrityError(message)
    if found:
        return ExpectedChecksum(digest=found.pop(), source=source)
    if not claims:
        message = f"{sums}: holds no checksum; write it again with `quantgate checksum {path.name}`"
        raise IntegrityError(message)
    if sidecar:
        named = claims[0][1]
        message = (
            f"{sums}: is the checksum of {named!r}, not of {path.name!r}; write it again with "
            f"`quantgate checksum {path.name}`"
        )
        raise IntegrityError(message)
    return None


def _entries(sums: Path, *, bare: bool) -> Iterator[tuple[str, str | None]]:
    """Yield digest and name of each line; the name is None for a bare digest, where allowed."""
    with open_regular(sums) as file:
        size = os.fstat(file.fileno()).st_size
        if size > _MAX_SUMS_BYTES:
            message = f"{sums}: is {size:,} bytes long, which no list of checksums is"
            raise IntegrityError(message)
        data = file.read(_MAX_SUMS_BYTES)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"{sums}: is not text: {error.reason} at byte {error.start}"
        raise IntegrityError(message) from error
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.rstrip("\r").strip(" \t")
        if not line or line.startswith("#"):
            continue
        where = f"{sums}:{number}"
        escaped = line.startswith("\\")
        bsd = _BSD_LINE.fullmatch(line)
        match = _LINE.fullmatch(line.removeprefix("\\"))
        name: str | None
        if bsd is not None and not _DIGEST.fullmatch(line.split()[0]):
            algorithm, name, digest = bsd.groups()
            if algorithm.upper() not in {"SHA256", "SHA-256", "SHA2-256"}:
                continue
        elif match is not None:
            digest, name = match[1], match[2]
        else:
            digest, name = line, None
        if escaped and name is not None:
            name = re.sub(r"\\([\\nr])", lambda found: _UNESCAPED[found[1]], name)
        digest = hexadecimal(digest, where)
        if name is None and not bare:
            message = f"{where}: a checksum without the name of its file"
            raise IntegrityError(message)
        yield digest, name


def _plain(path: Path) -> str:
    """Return the absolute path without dots; links stay, as a sidecar speaks of the link's name."""
    return os.path.abspath(path)


def hexadecimal(digest: str, where: str) -> str:
    """Return a SHA-256 in lower case; ``where`` begins the message when it is none.

    Raises:
        IntegrityError: for anything but 64 hexadecimal digits.
    """
    if _DIGEST.fullmatch(digest) is None:
        shown = digest if len(digest) <= _SHOWN_CHARACTERS else digest[:_SHOWN_CHARACTERS] + "…"
        message = (
            f"{where}: {shown!r} is not a SHA-256: it has {len(digest)} characters, "
            "64 hexadecimal digits are needed"
        )
        raise IntegrityError(message)
    return digest.lower()


def recorded(path: Path) -> ExpectedChecksum | None:
    """Return what the RECORD of an installed distribution says of a file it brought, or None.

    The format is PyPA's "Recording installed projects".

    Raises:
        IntegrityError: when the record has something else than a SHA-256 for the file.
    """
    real = path.resolve()
    for entry in dict.fromkeys(Path(entry or ".").resolve() for entry in sys.path):
        # A file directly beside the packages is no distribution's own model.
        if not real.is_relative_to(entry) or real.parent == entry:
            continue
        relative = real.relative_to(entry).as_posix()
        for distribution in importlib.metadata.distributions(path=[str(entry)]):
            record = distribution.read_text("RECORD")
            if record is None or relative not in record:
                continue
            for row in csv.reader(record.splitlines()):
                if len(row) > 1 and row[0] == relative and row[1]:
                    source = f"RECORD of {distribution.name} {distribution.version}"
                    digest = _from_record(row[1], f"{source}, {relative}")
                    return ExpectedChecksum(digest=digest, source=source)
    return None


def _from_record(field: str, where: str) -> str:
    """Turn ``sha256=<base64url without padding>`` into hexadecimal."""
    algorithm, _, value = field.partition("=")
    try:
        digest = base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True)
    except ValueError:
        digest = b""
    if algorithm != "sha256" or len(digest) != hashlib.sha256().digest_size:
        message = f"{where}: {field!r} is not a SHA-256; reinstall the distribution"
        raise IntegrityError(message)
    return digest.hex()
