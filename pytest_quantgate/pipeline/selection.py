"""Memory of a model and the level that fits a machine, with what the engine itself says of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.artifact.catalog import quantization_type
from pytest_quantgate.artifact.gguf import check_architecture, read_parts
from pytest_quantgate.artifact.hardware import this_machine, this_target
from pytest_quantgate.artifact.selection.config_shape import shape_of_config
from pytest_quantgate.artifact.selection.estimate import estimate_memory
from pytest_quantgate.artifact.selection.native_memory import PlannedMemory
from pytest_quantgate.artifact.selection.rules import DEFAULT_CONTEXT, LEVELS
from pytest_quantgate.artifact.selection.select import choose
from pytest_quantgate.artifact.selection.shape import shape_of_headers
from pytest_quantgate.client import Probe
from pytest_quantgate.pipeline.quantization import plan as plan_recipes
from pytest_quantgate.probe import protocol
from pytest_quantgate.records import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_quantgate.artifact.hardware import Target
    from pytest_quantgate.artifact.selection.estimate import Device, MemoryEstimate
    from pytest_quantgate.artifact.selection.select import Choice
    from pytest_quantgate.artifact.selection.shape import ModelShape
    from pytest_quantgate.records import Progress

    ProgressCallback = Callable[[Progress], None]

TIMEOUT = 600.0
"""Seconds that the engine may take to plan; it reads no weights, so that it takes one or two."""


def shape_of_model(path: Path) -> ModelShape:
    """Return the shape of a GGUF file, whole or in parts, or of a Hugging Face folder.

    Raises:
        ArtifactError: for what is no model.
    """
    if path.is_dir():
        return shape_of_config(path)
    headers = read_parts(path)
    check_architecture(headers[0])
    return shape_of_headers(headers)


def plan_memory(
    path: Path,
    contexts: Sequence[int],
    *,
    cache_type: str = "f16",
    timeout: float = TIMEOUT,
    on_progress: ProgressCallback | None = None,
) -> tuple[PlannedMemory, ...]:
    """Ask the engine, in a probe, what it would allocate for a GGUF model at each context.

    Raises:
        ArtifactError: when it cannot make such a context for this file.
        ProbeError: when the probe died or took too long.
    """
    arguments = {
        "model": os.fspath(path.absolute()),
        "contexts": list(contexts),
        "cache_type": cache_type,
    }
    with Probe.start() as probe:
        answer = probe.run("plan_memory", arguments, timeout=timeout, on_progress=on_progress)
    return tuple(protocol.from_plain(PlannedMemory, each) for each in answer["plans"])


def planned_weights(
    path: Path, levels: Sequence[str], *, timeout: float = TIMEOUT
) -> Mapping[str, int]:
    """Return the bytes of a GGUF model's tensors at each level, from the engine's dry runs.

    Raises:
        ArtifactError: for an unknown level or a file that cannot be quantized.
        ProbeError: when the probe died or took too long.
    """
    names = [quantization_type(level).name for level in levels]
    # What it costs in quality to quantize twice is no matter of size.
    runs = plan_recipes(
        path, [Recipe(type=name) for name in names], timeout=timeout, allow_requantize=True
    )
    return {name: run.tensor_bytes for name, run in zip(names, runs, strict=True)}


def estimate_model(
    path: Path,
    *,
    levels: Sequence[str] = (),
    contexts: Sequence[int] = (DEFAULT_CONTEXT,),
    cache_type: str = "f16",
    timeout: float = TIMEOUT,
    on_progress: ProgressCallback | None = None,
) -> tuple[MemoryEstimate, ...]:
    """Estimate the memory of a model on this processor, for each level and context.

    Of a GGUF file, without ``levels``, the file as it is. Weights come from the engine's dry run,
    caches and buffers from what it plans; of a Hugging Face folder both follow from its shape.

    Raises:
        ArtifactError: for what is no model, an unknown level or cache type, or a context that is
            none.
        ProbeError: when the probe died or took too long.
    """
    shape = shape_of_model(path)
    flags = this_machine().flags
    own = not path.is_dir()
    wanted: tuple[str | None, ...] = tuple(levels) or ((None,) if own else LEVELS)
    plans: dict[int, PlannedMemory] = {}
    weights: Mapping[str, int] = {}
    if own:
        found = plan_memory(
            path, contexts, cache_type=cache_type, timeout=timeout, on_progress=on_progress
        )
        plans = {each.context: each for each in found}
        weights = planned_weights(path, levels, timeout=timeout) if levels else {}
    return tuple(
        estimate_memory(
            shape,
            level,
            context=context,
            cache_type=cache_type,
            flags=flags,
            planned=plans.get(context),
            weights_bytes=None
            if level is None or not own
            else weights[quantization_type(level).name],
        )
        for level in wanted
        for context in contexts
    )


def select_level(
    model: Path | ModelShape,
    target: Target | None = None,
    *,
    context: int = DEFAULT_CONTEXT,
    cache_type: str = "f16",
    priority: str = "balanced",
    use_case: str | None = None,
    runtime: str = "llama.cpp",
    q4_loss: float | None = None,
    timeout: float = TIMEOUT,
    on_progress: ProgressCallback | None = None,
) -> Choice:
    """Choose a level for a model on a machine, by default this one.

    ``model`` is a GGUF file, a Hugging Face folder, or a shape; the other arguments are those of
    `artifact.choose`. Of a GGUF file, the engine is asked what it would take.

    Raises:
        ArtifactError: when nothing fits, or for what is no model, level, context or the like.
        ProbeError: when the probe died or took too long.
    """
    machine = target or this_target()
    shape = shape_of_model(model) if isinstance(model, Path) else model
    estimator = None
    if isinstance(model, Path) and not model.is_dir():
        (planned,) = plan_memory(
            model, [context], cache_type=cache_type, timeout=timeout, on_progress=on_progress
        )
        weights = planned_weights(model, LEVELS, timeout=timeout)

        def estimator(level: str, device: Device) -> MemoryEstimate:
            return estimate_memory(
                shape,
                level,
                context=context,
                cache_type=cache_type,
                device=device,
                flags=machine.flags,
                planned=planned,
                weights_bytes=weights.get(level),
            )

    return choose(
        shape,
        machine,
        context=context,
        cache_type=cache_type,
        priority=priority,
        use_case=use_case,
        runtime=runtime,
        q4_loss=q4_loss,
        estimator=estimator,
    )
