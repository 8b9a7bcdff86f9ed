"""A level from a few numbers, as scripts ask for it."""

from __future__ import annotations

from types import MappingProxyType

from pytest_quantgate.artifact.hardware import Target
from pytest_quantgate.artifact.selection.estimate import GIBIBYTE, GIGABYTE, estimate_memory
from pytest_quantgate.artifact.selection.rules import (
    DEFAULT_CONTEXT,
    LEVELS,
    MARGIN,
    SMALL_MODEL,
    USE_CASES,
    require,
)
from pytest_quantgate.artifact.selection.select import choose
from pytest_quantgate.artifact.selection.shape import shape_of_parameters
from pytest_quantgate.errors import ArtifactError

# Perplexity of Llama 2 7B on WikiText-2, from the comparison that `recommend_quantization` follows.
_PERPLEXITY = MappingProxyType(
    {
        "F16": 5.47,
        "Q8_0": 5.48,
        "Q6_K": 5.52,
        "Q5_K_M": 5.58,
        "Q4_K_M": 5.68,
        "Q3_K_M": 6.12,
        "Q2_K": 7.24,
    }
)


class QuantizationSelector:
    """Chooses a level from two numbers: parameters of the model and memory of the machine."""

    def __init__(self, *, context: int = DEFAULT_CONTEXT, cache_type: str = "f16") -> None:
        """Choose for this context, in tokens, and this type of cache."""
        self._context = context
        self._cache_type = cache_type

    def select(
        self, model_params_b: float, available_ram_gb: float, quality_priority: str = "balanced"
    ) -> str:
        """Return the level for a model on a processor.

        Args:
            model_params_b: Parameters in billions.
            available_ram_gb: Memory of the machine in GiB, of which the system gets its share.
            quality_priority: ``quality``, ``balanced`` or ``speed``.

        Raises:
            ValueError: when nothing fits, or a value is none of a model or machine.
        """
        try:
            choice = choose(
                shape_of_parameters(model_params_b * GIGABYTE),
                Target(ram_bytes=_whole(available_ram_gb)),
                context=self._context,
                cache_type=self._cache_type,
                priority=quality_priority,
            )
        except ArtifactError as error:
            raise ValueError(str(error)) from error
        return choice.level


def recommend_quantization(
    available_vram_gb: float,
    model_size_billions: float,
    use_case: str,
    quality_priority: float = 0.5,
) -> str:
    """Return a level for a model on a GPU as one line: its size there and its relative quality.

    ``quality_priority`` counts from 0 (speed) to 1 (quality); from a third to two thirds is balanced.
    The size is the memory that must be free, in GB; quality is the perplexity of the full model by
    that of the level, published for Llama 2 7B, and left out where none is.

    Raises:
        ValueError: for a value that is none of a model, machine, use case or priority.
    """
    if not 0 <= quality_priority <= 1:
        message = f"a quality priority of {quality_priority!r} cannot be; 0 to 1 are accepted"
        raise ValueError(message)
    third = 1 / 3
    priority = "speed" if quality_priority < third else "balanced"
    try:
        shape = shape_of_parameters(model_size_billions * GIGABYTE)
        target = Target(ram_bytes=0, vram_bytes=_whole(available_vram_gb))
        require("use case", use_case, USE_CASES)
    except ArtifactError as error:
        raise ValueError(str(error)) from error
    try:
        choice = choose(
            shape,
            target,
            use_case=use_case,
            priority="quality" if quality_priority > 2 * third else priority,
        )
    except ArtifactError:
        small = shape.parameters < SMALL_MODEL
        least = next(each for each in LEVELS if not (small and each in ("IQ2_XXS", "Q2_K")))
        need = estimate_memory(shape, least, context=DEFAULT_CONTEXT, device="gpu")
        size = need.required_bytes * (1 + MARGIN) / GIGABYTE
        return f"Model too large. Need {size:.1f}GB minimum for {least}"
    size = choice.estimate.required_bytes / GIGABYTE
    known = _PERPLEXITY.get(choice.level)
    quality = f", Quality: {_PERPLEXITY['F16'] / known:.0%}" if known else ""
    return f"{choice.level} (Est. size: {size:.1f}GB{quality})"


def _whole(gibibytes: float) -> int:
    if not 0 < gibibytes < 1 << 20:
        message = f"{gibibytes!r} GB of memory cannot be"
        raise ArtifactError(message)
    return round(gibibytes * GIBIBYTE)
