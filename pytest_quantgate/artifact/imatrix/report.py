"""What an importance matrix is asked for and what is reported of it, apart from the computation."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.artifact import corpus
from pytest_quantgate.artifact.files import open_regular, write_atomically
from pytest_quantgate.errors import ArtifactError

if TYPE_CHECKING:
    from pytest_quantgate.artifact.gguf import GgufHeader
    from pytest_quantgate.records import ImatrixRequest

SHORTEST_CONTEXT = 16
"""Tokens of the shortest window: llama.cpp's tool does not look at products with fewer rows."""

PROVENANCE_SCHEMA = 1
"""Version of the layout of ``<output>.json``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImatrixReport:
    """What was made, from what: sizes in bytes, digests in hexadecimal.

    ``entries`` weight tensors have an entry; those of ``partial`` have experts that no token was sent
    to. ``chunks`` windows of ``context`` tokens were read, of the ``available`` ones of the text, which
    took ``seconds``.
    """

    model: str
    model_sha256: str
    text: str
    text_sha256: str
    output: str
    output_bytes: int
    output_sha256: str
    context: int
    chunks: int
    available: int
    entries: int
    partial: tuple[str, ...]
    seconds: float
    engine: str


def check_request(request: ImatrixRequest, header: GgufHeader) -> None:
    """Refuse numbers that cannot be meant.

    Raises:
        ArtifactError: naming the first of them.
    """
    trained = header.metadata.get(f"{header.architecture}.context_length")
    problem = None
    if request.context < SHORTEST_CONTEXT:
        problem = f"a context of {request.context} is too short; use {SHORTEST_CONTEXT} or more"
    elif isinstance(trained, int) and request.context > trained:
        problem = (
            f"a context of {request.context} is longer than the {trained} tokens that "
            f"{Path(request.model).name} was trained on"
        )
    elif request.chunks is not None and request.chunks < 1:
        problem = f"{request.chunks} chunks measure nothing; ask for 1 or more, or leave it out"
    elif request.threads < 1:
        problem = f"{request.threads} threads compute nothing; use 1 or more"
    if problem is not None:
        raise ArtifactError(problem)


def text_bytes(name: str) -> bytes:
    """Return the bytes of a text, which are UTF-8: those of a file, or of a builtin text.

    Raises:
        ArtifactError: when there is no such text, or it is blank or not UTF-8.
    """
    if name.startswith("builtin:"):
        return corpus.corpus_text(name).encode()
    path = Path(name)
    with open_regular(path) as file:
        data = file.read()
    try:
        blank = not data.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        message = f"{path}: not UTF-8 text: {error.reason} at byte {error.start}; convert it first"
        raise ArtifactError(message) from error
    if blank:
        message = f"{path}: the text is empty; name one to compute with"
        raise ArtifactError(message)
    return data


def write_provenance(written: ImatrixReport, request: ImatrixRequest) -> None:
    """Write where an importance matrix came from, as JSON beside it.

    Raises:
        ArtifactError: when it cannot be written.
    """
    output = Path(written.output)
    document = {
        "schema": PROVENANCE_SCHEMA,
        "created": dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
        "engine": written.engine,
        "model": {"name": Path(written.model).name, "sha256": written.model_sha256},
        "text": {
            "name": written.text
            if written.text.startswith("builtin:")
            else Path(written.text).name,
            "sha256": written.text_sha256,
        },
        "context": written.context,
        "chunks": written.chunks,
        "process_output": request.process_output,
        "parse_special": request.parse_special,
        "output": {
            "name": output.name,
            "bytes": written.output_bytes,
            "sha256": written.output_sha256,
            "entries": written.entries,
            "partial": list(written.partial),
        },
    }
    text = json.dumps(document, indent=2) + "\n"
    write_atomically(output.with_name(output.name + ".json"), text.encode())
