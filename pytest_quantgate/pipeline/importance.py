"""Importance matrices computed in a probe."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pytest_quantgate.artifact import hardware
from pytest_quantgate.artifact.imatrix.report import ImatrixReport
from pytest_quantgate.client import Probe
from pytest_quantgate.probe.protocol import to_plain
from pytest_quantgate.records import ImatrixRequest
from pytest_quantgate.supervision import Deadline

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_quantgate.records import Progress

__all__ = ["ImatrixReport", "compute_imatrix"]


def compute_imatrix(
    model: str | os.PathLike[str],
    text: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    context: int = 512,
    chunks: int | None = None,
    threads: int | None = None,
    process_output: bool = False,
    parse_special: bool = False,
    legacy: bool = False,
    overwrite: bool = False,
    timeout: float = 3600.0,
    on_progress: Callable[[Progress], None] | None = None,
) -> ImatrixReport:
    """Compute the importance matrix of a model from a text, and write it.

    With the same settings, engine and machine, the file has the bytes that llama.cpp's `llama-imatrix`
    writes. Beside it ``<output>.json`` says what it was made from.

    Args:
        model: A GGUF file, or any part of a split one. Best not quantized, or to 8 bits.
        text: A UTF-8 text, or ``builtin:python-docs``; it is named in the file as it is named here.
        output: The file to write.
        context: Tokens of a window.
        chunks: How many windows are read, from the start of the text; None for all.
        threads: Threads that compute; None for one on each processor.
        process_output: Also measure what the output tensor is multiplied with.
        parse_special: Read special tokens where the text spells them, such as ``<|im_start|>``.
        legacy: Write the old layout, for older programs.
        overwrite: Replace a file of that name.
        timeout: Longest time it may take, in seconds.
        on_progress: Told how far it is.

    Raises:
        ArtifactError: when the model, the text or the output cannot be used, or the text is too short.
        SecurityError: when the model's chat template is suspicious.
        MeasurementError: when the model computes no finite numbers.
        ProbeError: when the model cannot be run.
    """
    request = ImatrixRequest(
        model=os.fspath(model),
        text=os.fspath(text),
        output=os.fspath(output),
        threads=threads or hardware.usable_cores(),
        context=context,
        chunks=chunks,
        process_output=process_output,
        parse_special=parse_special,
        overwrite=overwrite,
    )
    deadline = Deadline(timeout)
    with Probe.start(timeout=deadline.left) as probe:
        return probe.ask(
            "imatrix",
            {**to_plain(request), "legacy": legacy},
            ImatrixReport,
            deadline,
            on_progress,
        )
