"""A finished model file gets its checksum, the record of its origin, and its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_quantgate.artifact.files import reason, write_atomically
from pytest_quantgate.artifact.integrity.sums import sum_lines
from pytest_quantgate.artifact.partial import put_in_place
from pytest_quantgate.errors import ArtifactError

if TYPE_CHECKING:
    from pathlib import Path


def publish(partial: Path, target: Path, *, sha256: str, provenance: str) -> None:
    """Write ``<target>.sha256`` and ``<target>.json``, then rename: whoever finds it finds them too.

    Raises:
        ArtifactError: one of them cannot be written; none is left.
    """
    sidecar, record = (target.with_name(target.name + suffix) for suffix in (".sha256", ".json"))
    try:
        write_atomically(sidecar, sum_lines([target], [sha256]).encode())
        write_atomically(record, provenance.encode())
        put_in_place(partial, target)
    except (OSError, ArtifactError) as error:
        # An old file of that name, if there was one, is then without papers: it has to be vouched
        # for anew, which is better than papers of another file.
        for paper in (sidecar, record):
            if paper.is_file():
                paper.unlink()
        if isinstance(error, ArtifactError):
            raise
        message = f"{target}: cannot be put in place: {reason(error)}"
        raise ArtifactError(message) from error
