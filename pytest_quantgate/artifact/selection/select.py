"""Which quantization fits a machine: the rules over estimated memory.

A level is chosen only where its estimate and a margin for the estimate's error fit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_quantgate.artifact.catalog import quantization_type
from pytest_quantgate.artifact.selection.estimate import GIBIBYTE, estimate_memory
from pytest_quantgate.artifact.selection.rules import (
    DEFAULT_CONTEXT,
    DEMANDING,
    GPU_START,
    MARGIN,
    PRIORITIES,
    RUNTIMES,
    START,
    TOLERATED_LOSS,
    USE_CASES,
    Wish,
    forbidden,
    require,
)
from pytest_quantgate.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_quantgate.artifact.hardware import Target
    from pytest_quantgate.artifact.selection.estimate import Device, MemoryEstimate
    from pytest_quantgate.artifact.selection.rules import Placement
    from pytest_quantgate.artifact.selection.shape import ModelShape

    Estimator = Callable[[str, Device], MemoryEstimate]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A level that was not chosen, why, and what it would take (bytes that must be free)."""

    level: str
    reason: str
    required_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A level for a machine.

    ``placement`` is where the model runs; of ``split``, ``gpu_layers`` layers are on the GPU.
    ``capacity_bytes`` is the memory a model may have there, ``headroom_bytes`` what is left of it.
    ``next_down`` is the level to take when that is too little, None where the rules forbid a smaller
    one.
    """

    level: str
    runtime: str
    placement: Placement
    estimate: MemoryEstimate
    capacity_bytes: int
    rejected: tuple[Rejection, ...]
    next_down: str | None
    advice: tuple[str, ...]
    gpu_layers: int | None = None

    @property
    def headroom_bytes(self) -> int:
        """Memory that is left beside the model."""
        return self.capacity_bytes - self.estimate.required_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """A level on a machine; ``reason`` says why it cannot be chosen, empty where it can."""

    level: str
    placement: Placement
    estimate: MemoryEstimate
    capacity: int
    reason: str


def choose(
    shape: ModelShape,
    target: Target,
    *,
    context: int = DEFAULT_CONTEXT,
    cache_type: str = "f16",
    priority: str = "balanced",
    use_case: str | None = None,
    runtime: str = "llama.cpp",
    margin: float = MARGIN,
    q4_loss: float | None = None,
    estimator: Estimator | None = None,
) -> Choice:
    """Choose a level for a model on a machine.

    Args:
        shape: The model.
        target: The machine.
        context: Tokens the cache must hold.
        cache_type: Type of keys and values.
        priority: ``quality`` takes the best that fits, ``balanced`` the best that still pays,
            ``speed`` the smallest that the rules allow.
        use_case: One of `USE_CASES`, or None for no special one.
        runtime: What will run the model, one of `RUNTIMES`.
        margin: Share of the estimate that must be free beside it, for its error.
        q4_loss: Loss measured at the starting point (0.03 for 3%), which rules it out above 2%.
        estimator: Memory of a level on a device, where it is known better than from the shape.

    Raises:
        ArtifactError: when nothing fits or the runtime cannot run on the machine, and for values that
            are none of those above.
    """
    require("priority", priority, PRIORITIES)
    require("runtime", runtime, RUNTIMES)
    if use_case is not None:
        require("use case", use_case, USE_CASES)
    if not 0 <= margin <= 1 or not (q4_loss is None or math.isfinite(q4_loss)):
        message = f"a margin of {margin!r} or a loss of {q4_loss!r} cannot be; write 0.1 for 10%"
        raise ArtifactError(message)
    wish = Wish(
        shape=shape,
        target=target,
        priority=priority,
        use_case=use_case,
        runtime=runtime,
        margin=margin,
        q4_loss=q4_loss,
    )
    if runtime in ("vllm", "tgi") and not target.vram_bytes:
        message = (
            f"{runtime} needs a GPU with memory of its own: AWQ and GPTQ have no kernels for"
            f" processors; use a GGUF level with llama.cpp on {target.name}"
        )
        raise ArtifactError(message)

    def estimated(level: str, device: Device) -> MemoryEstimate:
        return estimate_memory(
            shape, level, context=context, cache_type=cache_type, device=device, flags=target.flags
        )

    places = _places(wish)
    candidates = [
        _candidate(wish, level, places[0], estimator or estimated) for level in wish.levels
    ]
    if len(places) > 1 and _wants_more(wish, candidates):
        both = [_candidate(wish, level, places[1], estimator or estimated) for level in wish.levels]
        if _any_at_start(wish, both) or all(each.reason for each in candidates):
            candidates = both
    return _decided(wish, candidates)


def _places(wish: Wish) -> tuple[Placement, ...]:
    target = wish.target
    if target.unified:
        return ("unified",)
    if not target.vram_bytes:
        return ("cpu",)
    # Only llama.cpp and what is built on it shares a model between GPU and processor.
    splits = wish.gguf and target.usable_ram_bytes > 0
    return ("gpu", "split") if splits else ("gpu",)


def _wants_more(wish: Wish, candidates: list[_Candidate]) -> bool:
    """Tell whether what fits the GPU alone is so small that slow layers are the lesser evil."""
    if wish.priority == "speed":
        return all(each.reason for each in candidates)
    return not _any_at_start(wish, candidates)


def _any_at_start(wish: Wish, candidates: list[_Candidate]) -> bool:
    least = wish.levels.index(START if wish.gguf else GPU_START)
    return any(not each.reason for each in candidates[least:])


def _candidate(wish: Wish, level: str, placement: Placement, estimator: Estimator) -> _Candidate:
    target = wish.target
    device: Device = "gpu" if placement == "split" else placement
    estimate = estimator(level, device)
    capacity = {
        "gpu": target.vram_bytes,
        "split": target.vram_bytes + target.usable_ram_bytes,
    }.get(placement, target.usable_ram_bytes)
    return _Candidate(
        level=level,
        placement=placement,
        estimate=estimate,
        capacity=capacity,
        reason=forbidden(wish, level) or _too_large(wish, estimate, capacity),
    )


def _too_large(wish: Wish, estimate: MemoryEstimate, capacity: int) -> str:
    need = estimate.required_bytes
    if need > capacity:
        return f"needs {_size(need)}, {_size(capacity)} can be used"
    if need * (1 + wish.margin) > capacity:
        return (
            f"needs {_size(need)} of {_size(capacity)}, and less than {wish.margin:.0%} is left for"
            " the estimate's error"
        )
    return ""


def _decided(wish: Wish, candidates: list[_Candidate]) -> Choice:
    fitting = [number for number, each in enumerate(candidates) if not each.reason]
    if not fitting:
        raise ArtifactError(_nothing(wish, candidates))
    start = candidates[wish.levels.index(START)].level if wish.gguf else GPU_START
    lossy = wish.q4_loss is not None and wish.q4_loss > TOLERATED_LOSS
    better = [number for number in fitting if number > wish.levels.index(start)]
    usable = better if lossy and better else fitting
    split = candidates[0].placement == "split"
    number = _preferred(wish, usable, split=split)
    chosen = candidates[number]
    rejected = tuple(
        Rejection(
            level=each.level,
            reason=each.reason or _passed_over(wish, candidates, at, number, lossy=lossy),
            required_bytes=each.estimate.required_bytes,
        )
        for at, each in enumerate(candidates)
        if at != number
    )
    return Choice(
        level=chosen.level,
        runtime=wish.runtime,
        placement=chosen.placement,
        estimate=chosen.estimate,
        capacity_bytes=chosen.capacity,
        rejected=rejected,
        next_down=_next_down(wish, number),
        advice=tuple(_advice(wish, chosen, lossy=lossy, helped=bool(better))),
        gpu_layers=_gpu_layers(wish, chosen) if chosen.placement == "split" else None,
    )


def _preferred(wish: Wish, fitting: list[int], *, split: bool) -> int:
    if wish.priority == "quality":
        return fitting[-1]
    if wish.priority == "speed" or split:
        # Of a model that the GPU cannot hold, every byte more is computed slowly.
        fast = [number for number in fitting if number >= wish.start]
        return fast[0] if fast else fitting[-1]
    enough = [number for number in fitting if number <= wish.enough]
    return enough[-1] if enough else fitting[0]


def _passed_over(
    wish: Wish, candidates: list[_Candidate], at: int, chosen: int, *, lossy: bool
) -> str:
    name = candidates[chosen].level
    if at > chosen:
        if wish.priority == "speed" or candidates[chosen].placement == "split":
            return f"larger than {name}, so slower"
        return f"larger, and {name} is enough" + (f" for {wish.use_case}" if wish.use_case else "")
    if lossy and wish.q4_loss is not None:
        return f"the starting point lost {wish.q4_loss:.1%}, more than {TOLERATED_LOSS:.0%}"
    return f"loses more than {name}, which fits"


def _next_down(wish: Wish, number: int) -> str | None:
    for level in reversed(wish.levels[:number]):
        if not forbidden(wish, level):
            return level
    return None


def _advice(wish: Wish, chosen: _Candidate, *, lossy: bool, helped: bool) -> list[str]:
    found = []
    number = wish.levels.index(chosen.level)
    if wish.shape.quantized and wish.gguf and chosen.level != wish.shape.level:
        found.append(
            f"{wish.shape.name} is quantized already: make {chosen.level} from the 16-bit model,"
            " quantizing twice loses twice"
        )
    if wish.gguf and number < wish.levels.index(START):
        found.append(
            f"{chosen.level} loses noticeably: measure it with the perplexity gate, and compare with a"
            f" smaller model at {START}"
        )
    elif wish.use_case in DEMANDING and number < wish.start:
        found.append(
            f"{wish.use_case} wants {wish.levels[wish.start]} or better, which does not fit: test"
            " critical cases with the accuracy gate"
        )
    if lossy and not helped:
        found.append(
            f"{START} lost {wish.q4_loss:.1%} and nothing better fits: use a smaller model or"
            " less context"
        )
    elif chosen.level == START and not lossy:
        found.append(f"take Q5_K_M when the gates show that {START} loses more than 2%")
    if wish.gguf and quantization_type(chosen.level).needs_imatrix:
        found.append(f"{chosen.level} needs an importance matrix: quantgate imatrix")
    if chosen.placement == "split":
        found.append("layers on the processor are slow: a smaller level or context fits the GPU")
    if chosen.estimate.repacked_bytes:
        found.append(
            f"the process will show up to {_size(chosen.estimate.total_bytes)}: the engine copies"
            f" {_size(chosen.estimate.repacked_bytes)} of weights into another layout, and the system"
            " drops the file's pages behind them when it needs memory"
        )
    return found


def _gpu_layers(wish: Wish, chosen: _Candidate) -> int:
    estimate, layers = chosen.estimate, len(wish.shape.kv_widths)
    fixed = estimate.runtime_bytes + estimate.compute_bytes + estimate.output_bytes
    each = (estimate.weights_bytes + estimate.kv_cache_bytes) / max(1, layers)
    room = wish.target.vram_bytes / (1 + wish.margin) - fixed
    return max(0, min(layers, math.floor(room / each)))


def _nothing(wish: Wish, candidates: list[_Candidate]) -> str:
    allowed = [each for each in candidates if not forbidden(wish, each.level)]
    least = min(allowed or candidates, key=lambda each: each.estimate.required_bytes)
    what = (
        f"{wish.shape.name} needs {_size(least.estimate.required_bytes)} at {least.level}, the"
        f" smallest level the rules allow, with {least.estimate.context:,} tokens of context;"
        f" {_size(least.capacity)} can be used"
    )
    if least.estimate.required_bytes <= least.capacity:
        what += f" and {wish.margin:.0%} of the need must stay free for the estimate's error"
    return (
        f"No quantization fits in {_memory(wish.target)}: {what}. Take a smaller model, a shorter"
        " context or a smaller type of cache (q8_0)"
    )


def _memory(target: Target) -> str:
    ram = f"{target.ram_bytes / GIBIBYTE:.4g}GB {'unified memory' if target.unified else 'RAM'}"
    vram = f"{target.vram_bytes / GIBIBYTE:.4g}GB VRAM"
    if not target.vram_bytes:
        return ram
    return f"{vram} and {ram}" if target.ram_bytes else vram


def _size(size: int) -> str:
    if size < GIBIBYTE:
        return f"{size / (1 << 20):.0f} MiB"
    return f"{size / GIBIBYTE:.2f} GiB"
