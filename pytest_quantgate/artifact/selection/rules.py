"""The rules a quantization is chosen by, before any memory is looked at.

Where they come from is in docs/guide-select.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, get_args

from pytest_quantgate.artifact.catalog import did_you_mean
from pytest_quantgate.artifact.formats import WEIGHT_FORMATS
from pytest_quantgate.artifact.selection.estimate import weights_bytes
from pytest_quantgate.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_quantgate.artifact.hardware import Target
    from pytest_quantgate.artifact.selection.shape import ModelShape

Priority = Literal["quality", "balanced", "speed"]
UseCase = Literal["chat", "coding", "reasoning", "creative"]
Runtime = Literal["llama.cpp", "ollama", "lm-studio", "vllm", "tgi", "transformers"]
Placement = Literal["cpu", "gpu", "split", "unified"]

PRIORITIES: tuple[str, ...] = get_args(Priority)
USE_CASES: tuple[str, ...] = get_args(UseCase)
RUNTIMES: tuple[str, ...] = get_args(Runtime)

DEFAULT_CONTEXT = 4096

MARGIN = 0.05
"""Share of an estimate that must stay free: twice its largest error seen (docs/guide-select.md)."""

LEVELS = ("IQ2_XXS", "Q2_K", "Q3_K_M", "IQ4_XS", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "F16")
"""The GGUF levels that are chosen from, by rising quality."""

START = "Q4_K_M"
"""Where a choice starts: what is smaller is taken only where this does not fit."""

TOLERATED_LOSS = 0.02
"""Above this loss of the starting point, the next level up is to be used."""

SMALL_MODEL = 13e9
LEAST_BITS_SMALL = 3

_GGUF_RUNTIMES = frozenset({"llama.cpp", "ollama", "lm-studio"})
_GPU_LEVELS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "vllm": ("GPTQ-3BIT", "GPTQ-4BIT", "AWQ-4BIT", "GPTQ-8BIT", "F16"),
        "tgi": ("GPTQ-3BIT", "GPTQ-4BIT", "AWQ-4BIT", "GPTQ-8BIT", "F16"),
        # bitsandbytes quantizes at load time, which only transformers itself does.
        "transformers": ("NF4", "GPTQ-4BIT", "AWQ-4BIT", "INT8", "F16"),
    }
)
GPU_START = "AWQ-4BIT"
# What is good enough, and where to start: coding and reasoning suffer first.
_ENOUGH: Mapping[str | None, str] = MappingProxyType(
    {None: "Q8_0", "chat": "Q5_K_M", "creative": "Q6_K", "coding": "Q8_0", "reasoning": "Q8_0"}
)
_START: Mapping[str | None, str] = MappingProxyType(
    {None: START, "chat": START, "creative": START, "coding": "Q6_K", "reasoning": "Q6_K"}
)
DEMANDING = frozenset({"coding", "reasoning"})
_BITS = re.compile(r"(?:I|T)?Q(\d)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is asked for: the arguments of `choose`."""

    shape: ModelShape
    target: Target
    priority: str
    use_case: str | None
    runtime: str
    margin: float
    q4_loss: float | None

    @property
    def levels(self) -> tuple[str, ...]:
        """Levels of the runtime, by rising quality."""
        return LEVELS if self.gguf else _GPU_LEVELS[self.runtime]

    @property
    def gguf(self) -> bool:
        """Whether the runtime reads GGUF."""
        return self.runtime in _GGUF_RUNTIMES

    @property
    def start(self) -> int:
        """Place of the level that speed takes."""
        if not self.gguf:
            return self.levels.index(GPU_START)
        return self.levels.index(_START[self.use_case])

    @property
    def enough(self) -> int:
        """Place of the level beyond which balanced does not go."""
        if not self.gguf:
            # Where AWQ cannot run, 8 bits stand between NF4, which loses much, and 16.
            more = self.use_case in DEMANDING or not self.target.vram_bytes
            return self.levels.index(GPU_START) + (1 if more else 0)
        return self.levels.index(_ENOUGH[self.use_case])


def require(what: str, value: str, known: tuple[str, ...]) -> None:
    """Refuse a value that is none of the known ones.

    Raises:
        ArtifactError: with the nearest ones.
    """
    if value not in known:
        hint = did_you_mean(value, known) or "."
        message = f"{value!r} is not a {what}{hint} There are {', '.join(known)}"
        raise ArtifactError(message)


def forbidden(wish: Wish, level: str) -> str:
    """Return why no memory would make this level a choice; an empty text where it is one."""
    shape = wish.shape
    bits = _BITS.match(level)
    if bits and int(bits[1]) < LEAST_BITS_SMALL and shape.parameters < SMALL_MODEL:
        return "below Q3, which models under 13B parameters do not survive"
    if level in WEIGHT_FORMATS and not wish.target.vram_bytes and not WEIGHT_FORMATS[level].cpu:
        return "AWQ and GPTQ need a GPU: they have no kernels for processors"
    if level == "GPTQ-4BIT":
        return "AWQ-4BIT takes the same memory and keeps quality slightly better"
    if shape.quantized and wish.gguf and level != shape.level:
        own = weights_bytes(shape)
        if weights_bytes(shape, level) >= own:
            return f"the source is {shape.level or 'quantized'} already: no quality comes back"
    return ""
