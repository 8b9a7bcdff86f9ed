"""The memory of this process: how much a model takes when it works, not what its file weighs."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from pytest_quantgate.errors import ProbeRefused
from pytest_quantgate.probe.backend import ContextShape
from pytest_quantgate.probe.timing import (
    check_shape,
    feed_prompt,
    feed_token,
    pseudo_random_tokens,
)
from pytest_quantgate.records import MemoryUse, Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_quantgate.probe.backend import Backend
    from pytest_quantgate.records import MemoryRequest, ModelFacts

_STATUS = Path("/proc/self/status")
_PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")


def measure_memory(
    backend: Backend,
    facts: ModelFacts,
    request: MemoryRequest,
    report: Callable[[Progress], None],
    *,
    path: Path,
    before_load_bytes: int,
) -> MemoryUse:
    """Fill the context of every sequence, generate, and return the peak of this process.

    Raises:
        ProbeRefused: the shape does not fit the model, or the system does not tell the peak.
    """
    filled = request.context - request.output_tokens
    need = check_shape(facts, filled, request.output_tokens)
    prompt = pseudo_random_tokens(backend, facts, filled)
    session = backend.open(ContextShape(sequences=request.sequences, tokens=need))
    try:
        for sequence in range(request.sequences):
            report(Progress(step="memory", done=sequence, total=request.sequences, unit="sequence"))
            token = feed_prompt(session, prompt, sequence=sequence)
            for position in range(filled, need):
                token = feed_token(session, token, position, sequence=sequence)
        peak = peak_rss_bytes()
    finally:
        session.close()
    return MemoryUse(
        peak_rss_bytes=peak,
        before_load_bytes=before_load_bytes,
        file_bytes=sum(part.stat().st_size for part in model_files(path)),
    )


def current_rss_bytes() -> int:
    """Return the resident set of this process now."""
    return int(psutil.Process().memory_info().rss)


def peak_rss_bytes() -> int:
    """Return the largest resident set this process has had.

    On Linux this is VmHWM, which starts anew when a program starts; the figure of getrusage survives
    exec and would be the parent's where the parent is the larger process.

    Raises:
        ProbeRefused: this system keeps no such figure.
    """
    if sys.platform == "linux":
        match = re.search(r"^VmHWM:\s+(\d+) kB$", _STATUS.read_text("ascii"), re.MULTILINE)
        if match:
            return int(match.group(1)) * 1024
    peak = getattr(psutil.Process().memory_info(), "peak_wset", None)
    if peak is None:
        message = (
            f"peak memory cannot be measured on {sys.platform}: the system keeps no such figure for a"
            " process; run the memory gate on Linux"
        )
        raise ProbeRefused(message)
    return int(peak)


def model_files(path: Path) -> tuple[Path, ...]:
    """Return the files a model lies in: all parts of a split GGUF, else the file itself."""
    match = _PART.search(path.name)
    if match is None:
        return (path,)
    prefix, count = path.name[: match.start()], match.group(1)
    names = (f"{prefix}-{part:05d}-of-{count}.gguf" for part in range(1, int(count) + 1))
    return tuple(path.with_name(name) for name in names)
