"""Whether a model file is, bit for bit, the one somebody vouched for (SHA-256)."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pytest_quantgate.artifact.files import open_regular, write_atomically
from pytest_quantgate.artifact.integrity.sums import (
    ExpectedChecksum,
    hexadecimal,
    listed,
    recorded,
    sum_lines,
)
from pytest_quantgate.errors import ArtifactError, IntegrityError
from pytest_quantgate.records import Progress

__all__ = [
    "ExpectedChecksum",
    "Verification",
    "expected_checksum",
    "model_digest",
    "model_parts",
    "package_checksum",
    "require",
    "sha256_file",
    "sha256_open",
    "verify",
    "verify_model_integrity",
    "write_sidecar",
]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import BinaryIO

_log = logging.getLogger(__name__)

_SHOWN_DIGITS = 16
_BLOCK_BYTES = 1 << 20
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """How a model stands against its checksum.

    ``digests`` are those of ``parts``. Of a model in several parts, ``expected`` and ``actual`` are
    those of the first part that is not as it should be, or of the whole when all are
    (`model_digest`). ``command`` makes the sidecar that is looked for. ``bytes`` is what was read.
    """

    path: Path
    parts: tuple[Path, ...]
    digests: tuple[str, ...]
    source: str
    outcome: Literal["match", "mismatch", "missing"]
    expected: str | None
    actual: str
    command: str
    seconds: float
    bytes: int


def sha256_file(path: Path, *, on_progress: Callable[[Progress], None] | None = None) -> str:
    """Return the SHA-256 of a file in lower-case hexadecimal, telling how many bytes are done.

    Raises:
        ArtifactError: when the file is missing, unreadable or no regular file.
    """
    with open_regular(path) as file:
        return sha256_open(file, path, on_progress=on_progress)


def sha256_open(
    file: BinaryIO, path: Path, *, on_progress: Callable[[Progress], None] | None = None
) -> str:
    """Return the SHA-256 of an open file from its start; ``path`` is for messages.

    Raises:
        ArtifactError: when it cannot be read.
    """
    digest = hashlib.sha256()
    view = memoryview(bytearray(_BLOCK_BYTES))
    done = 0
    total = os.fstat(file.fileno()).st_size
    try:
        file.seek(0)
        # `hashlib.file_digest` is newer than Python 3.10 and not faster.
        while count := file.readinto(view):  # type: ignore[attr-defined]
            digest.update(view[:count])
            done += count
            if on_progress is not None:
                on_progress(
                    Progress(step="checksum", done=done, total=max(done, total), unit="byte")
                )
    except OSError as error:
        message = f"{path}: cannot be read beyond byte {done:,}: {error.strerror}"
        raise ArtifactError(message) from error
    return digest.hexdigest()


def model_parts(path: Path) -> tuple[Path, ...]:
    """Return the files of a model: the file itself, or all parts of its split, in order.

    A split is ``<prefix>-00001-of-00003.gguf`` and so on; any part names it.

    Raises:
        ArtifactError: when parts are missing, or the numbers in the name make no sense.
    """
    match = _PART.fullmatch(path.name)
    if match is None:
        return (path,)
    number, count = int(match[2]), int(match[3])
    if not 1 <= number <= count:
        message = f"{path}: part {number} of {count} cannot be; the parts of a model count from 1"
        raise ArtifactError(message)
    parts = tuple(
        path.with_name(f"{match[1]}-{index:05}-of-{count:05}.gguf") for index in range(1, count + 1)
    )
    missing = [part.name for part in parts if not part.exists()]
    if missing:
        names = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if missing[5:] else "")
        message = f"{path}: {len(missing)} of {count} parts of the model are missing: {names}"
        raise ArtifactError(message)
    return parts


def model_digest(path: Path, *, on_progress: Callable[[Progress], None] | None = None) -> str:
    """Return the digest that identifies a model.

    It is the SHA-256 of its file; of a model in parts, the SHA-256 of the lines that `sha256sum`
    prints for the parts in their order, in the folder they are in.

    Raises:
        ArtifactError: when a part is missing or unreadable.
    """
    parts = model_parts(path)
    return digest_of_parts(
        parts, tuple(sha256_file(part, on_progress=on_progress) for part in parts)
    )


def digest_of_parts(parts: tuple[Path, ...], digests: tuple[str, ...]) -> str:
    """Return what `model_digest` does, for parts whose own digests are known."""
    if len(parts) == 1:
        return digests[0]
    return hashlib.sha256(sum_lines(parts, digests).encode()).hexdigest()


def expected_checksum(
    path: Path, *, literal: str | None = None, sums: Path | None = None
) -> ExpectedChecksum | None:
    """Return the digest a file should have, or None when nobody vouches for it.

    In this order: ``literal`` (hexadecimal), the file ``sums`` that lists it, and what lies around:
    ``model.gguf.sha256``, ``model.sha256``, ``SHA256SUMS`` in its folder, and the RECORD of the
    installed distribution it belongs to. Those of the last group that exist must agree.

    Raises:
        IntegrityError: for a malformed digest, a sums file without the file, a sidecar of another
            file, or sources that disagree.
        ArtifactError: when a sums file or sidecar cannot be read.
    """
    if literal is not None:
        digest = hexadecimal(literal.strip(), "the checksum in the specification")
        return ExpectedChecksum(digest=digest, source="the specification")
    if sums is not None:
        found = listed(sums, path, f"sums file {sums.name}", sidecar=False)
        if found is None:
            message = (
                f"{sums}: does not list {path.name}; add the line that `sha256sum {path.name}` "
                "prints"
            )
            raise IntegrityError(message)
        return found
    around = list(_around(path))
    for other in around[1:]:
        if other.digest != around[0].digest:
            message = (
                f"{path}: {around[0].source} says {around[0].digest}, {other.source} says "
                f"{other.digest}; remove the one that is out of date"
            )
            raise IntegrityError(message)
    return around[0] if around else None


def verify(
    path: Path,
    *,
    literal: str | None = None,
    sums: Path | None = None,
    files: Sequence[BinaryIO] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Verification:
    """Hold a model, all of its parts, against the digests `expected_checksum` finds.

    A ``literal`` for a model in parts is its `model_digest`. A mismatch or a missing checksum is an
    outcome, not an error. With ``files``, the open files of the parts in order, those are hashed
    and nothing is opened by name but what vouches for them (`opening.OpenModel`).

    Raises:
        ArtifactError: when a file is missing or unreadable.
        IntegrityError: when what vouches for the file is malformed or contradicts itself.
    """
    began = time.perf_counter()
    parts = model_parts(path)
    whole = literal is not None and len(parts) > 1
    expected = [
        expected_checksum(path if whole else part, literal=literal, sums=sums) for part in parts
    ]
    if files is None:
        digests = tuple(sha256_file(part, on_progress=on_progress) for part in parts)
        size = sum(part.stat().st_size for part in parts)
    else:
        digests = tuple(
            sha256_open(file, part, on_progress=on_progress)
            for file, part in zip(files, parts, strict=True)
        )
        size = sum(os.fstat(file.fileno()).st_size for file in files)
    actual = digest_of_parts(parts, digests)
    outcome: Literal["match", "mismatch", "missing"]
    if whole or len(parts) == 1:
        outcome, wanted = _compare(expected[0], actual)
        source = expected[0].source if expected[0] else ""
    else:
        outcome, wanted, actual, source = _compare_parts(parts, expected, digests)
    return Verification(
        path=path,
        parts=parts,
        digests=digests,
        source=source,
        outcome=outcome,
        expected=wanted,
        actual=actual,
        command=_sidecar_command(path, alone=len(parts) == 1),
        seconds=time.perf_counter() - began,
        bytes=size,
    )


def verify_model_integrity(path: str | os.PathLike[str]) -> bool:
    """Tell whether a model, all of its parts, is what its checksum says.

    False for another digest and for a model nobody vouches for; which of them, is logged as
    ``model.checksum_mismatch`` or ``model.no_checksum``. To load the model, use
    `safe_load_quantized`: between this answer and a load by name the file can change.

    Raises:
        ArtifactError: a file is missing or unreadable.
        IntegrityError: what vouches for the file is malformed or contradicts itself.
    """
    verification = verify(Path(path))
    if verification.outcome == "missing":
        _log.warning("model.no_checksum model=%s", verification.path.name)
    elif verification.outcome == "mismatch":
        _log.error(
            "model.checksum_mismatch model=%s expected=%s actual=%s",
            verification.path.name,
            (verification.expected or "")[:_SHOWN_DIGITS],
            verification.actual[:_SHOWN_DIGITS],
        )
    return verification.outcome == "match"


def require(verification: Verification, *, required: bool) -> None:
    """Refuse a model whose checksum does not match, and with ``required`` one that has none.

    Raises:
        IntegrityError: the model must not be loaded.
    """
    name = verification.path.name
    if verification.outcome == "mismatch":
        message = (
            f"{name} is not loaded: its sha256 is {verification.actual[:_SHOWN_DIGITS]}..., but"
            f" {verification.source} says {(verification.expected or '')[:_SHOWN_DIGITS]}..."
        )
        raise IntegrityError(message)
    if verification.outcome == "missing" and required:
        message = f"{name} is not loaded: it has no checksum; make one with: {verification.command}"
        raise IntegrityError(message)


def package_checksum(path: Path) -> str | None:
    """Return the SHA-256 that the RECORD of an installed distribution has for a file, or None.

    Raises:
        IntegrityError: when the record is malformed.
    """
    found = recorded(path)
    return None if found is None else found.digest


def write_sidecar(
    path: Path,
    *,
    digests: Mapping[Path, str] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Path:
    """Write ``<file>.sha256`` for a model and return its path; `sha256sum -c` reads it.

    For a model in parts it is the first part's sidecar and lists all of them. ``digests`` spares
    reading parts whose digest is known.

    Raises:
        ArtifactError: when a part is missing or unreadable, or the sidecar cannot be written.
    """
    parts = model_parts(path)
    known = digests or {}
    made = (known.get(part) or sha256_file(part, on_progress=on_progress) for part in parts)
    text = sum_lines(parts, tuple(made))
    sidecar = parts[0].with_name(parts[0].name + ".sha256")
    write_atomically(sidecar, text.encode())
    return sidecar


def _sidecar_command(path: Path, *, alone: bool) -> str:
    """Return what to type to make the sidecar; for a single file, with the tool every Linux has."""
    name = shlex.quote(str(path))
    command = f"quantgate checksum {name}"
    if alone:
        command += f"  (or: sha256sum {name} > {shlex.quote(f'{path}.sha256')})"
    return command


def _compare(
    expected: ExpectedChecksum | None, actual: str
) -> tuple[Literal["match", "mismatch", "missing"], str | None]:
    if expected is None:
        return "missing", None
    return ("match" if expected.digest == actual else "mismatch"), expected.digest


def _compare_parts(
    parts: tuple[Path, ...], expected: list[ExpectedChecksum | None], digests: tuple[str, ...]
) -> tuple[Literal["match", "mismatch", "missing"], str | None, str, str]:
    """Judge part by part: a mismatch weighs more than a missing checksum."""
    judged = [
        (*_compare(claim, digest), digest, claim.source if claim else part.name)
        for part, claim, digest in zip(parts, expected, digests, strict=True)
    ]
    for wrong in ("mismatch", "missing"):
        for outcome, wanted, digest, source in judged:
            if outcome == wrong:
                return outcome, wanted, digest, source
    whole = digest_of_parts(parts, digests)
    return "match", whole, whole, judged[0][3]


def _around(path: Path) -> Iterator[ExpectedChecksum]:
    """Yield every claim about a file that lies around it."""
    match = _PART.fullmatch(path.name)
    names = [path.name + ".sha256", path.stem + ".sha256"]
    if match is not None:
        names += [f"{match[1]}-00001-of-{match[3]}.gguf.sha256", f"{match[1]}.sha256"]
    for name in dict.fromkeys(names):
        sidecar = path.with_name(name)
        if os.path.lexists(sidecar):
            found = listed(sidecar, path, f"sidecar {name}", sidecar=True)
            if found is not None:
                yield found
    listing = path.with_name("SHA256SUMS")
    if os.path.lexists(listing):
        found = listed(listing, path, "SHA256SUMS", sidecar=False)
        if found is not None:
            yield found
    found = recorded(path)
    if found is not None:
        yield found
