"""Rows of hardware and size tables of published guides, each beside what the package answers.

``python tests/unit/hardware_rows.py`` writes them into docs/hardware-tables.md, between its
``<!-- table: NAME -->`` and ``<!-- end -->`` comments; `test_hardware_rows` fails when the page differs
from what this would write, or when another row than those listed there disagrees.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.artifact.catalog import QUANTIZATION_TYPES
from pytest_quantgate.artifact.formats import WEIGHT_FORMATS
from pytest_quantgate.artifact.hardware import Target
from pytest_quantgate.artifact.selection.estimate import (
    GIBIBYTE,
    GIGABYTE,
    MemoryEstimate,
    calculate_model_size,
    estimate_memory,
    weights_bytes,
)
from pytest_quantgate.artifact.selection.recommendation import (
    QuantizationSelector,
    recommend_quantization,
)
from pytest_quantgate.artifact.selection.select import choose
from pytest_quantgate.artifact.selection.shape import shape_of_parameters
from pytest_quantgate.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGE = Path(__file__).parents[2] / "docs" / "hardware-tables.md"
SECTION = re.compile(r"(<!-- table: ([\w-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)

SIZE_TOLERANCE = 0.05
MEMORY_TOLERANCE = 0.10


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row or cell: what it says, what the package says, whether they agree, and the arithmetic."""

    name: str
    stated: str
    ours: str
    agrees: bool
    why: str


def size_gb(billions: float, level: str) -> float:
    """Return the size of a model's tensors at a level, in GB of 10**9 bytes."""
    return weights_bytes(shape_of_parameters(billions * GIGABYTE), level) / GIGABYTE


def memory(billions: float, level: str, context: int, *, gpu: bool = False) -> MemoryEstimate:
    """Return the estimate for a model of this many parameters."""
    shape = shape_of_parameters(billions * GIGABYTE)
    return estimate_memory(shape, level, context=context, device="gpu" if gpu else "cpu")


def near(ours: float, stated: float, tolerance: float) -> bool:
    """Tell whether two figures are the same to a share of the stated one."""
    return abs(ours / stated - 1) <= tolerance


def parts(estimate: MemoryEstimate) -> str:
    """Return the sum of an estimate in GiB."""
    sizes = (
        ("weights", estimate.weights_bytes),
        ("cache", estimate.kv_cache_bytes),
        ("compute", estimate.compute_bytes),
        ("runtime", estimate.runtime_bytes),
    )
    terms = " + ".join(f"{size / GIBIBYTE:.2f} {name}" for name, size in sizes)
    return f"{terms} = {estimate.required_bytes / GIBIBYTE:.2f} GiB"


# --- bits and sizes --------------------------------------------------------------------------------


def relative_memory() -> Iterator[Row]:
    """Memory relative to F16, as a pipeline guide has it."""
    stated = {
        "Q4_0": 50,
        "Q4_K_S": 50,
        "Q4_K_M": 52,
        "Q5_K_S": 58,
        "Q5_K_M": 60,
        "Q6_K": 66,
        "Q8_0": 75,
        "F16": 100,
    }
    yield from _relative(stated, "memory")


def relative_size() -> Iterator[Row]:
    """Size relative to F16, as a lesson on inference has it."""
    stated = {
        "F16": 100,
        "Q8_0": 50,
        "Q6_K": 40,
        "Q5_K_M": 35,
        "Q4_K_M": 30,
        "Q4_0": 25,
        "Q2_K": 15,
    }
    yield from _relative(stated, "size")


def _relative(stated: dict[str, int], what: str) -> Iterator[Row]:
    for level, percent in stated.items():
        kind = QUANTIZATION_TYPES[level]
        share = 100 * kind.bits_7b / QUANTIZATION_TYPES["F16"].bits_7b
        yield Row(
            name=f"{what} of {level}",
            stated=f"{percent}%",
            ours=f"{share:.0f}%",
            agrees=near(share, percent, MEMORY_TOLERANCE),
            why=f"{kind.bits_7b:.2f} of 16 bits per weight",
        )


def base_bits() -> Iterator[Row]:
    """Bits per weight of the type most tensors get."""
    for level, stated in {"Q4_K_M": 4.5, "Q4_K_S": 4.5, "Q5_K_M": 5.5, "Q6_K": 6.5}.items():
        kind = QUANTIZATION_TYPES[level]
        yield Row(
            name=level,
            stated=f"{stated}",
            ours=f"{kind.bits_per_weight:.4g}",
            agrees=near(kind.bits_per_weight, stated, 0.01),
            why=f"the base type; a whole 7B file has {kind.bits_7b:.2f}, with its mix and output",
        )


def bare_sizes() -> Iterator[Row]:
    """Parameters times bits, without scales, in GB of 10**9 bytes."""
    table = {
        7: (28, 14, 7, 3.5),
        13: (52, 26, 13, 6.5),
        70: (280, 140, 70, 35),
    }
    for billions, sizes in table.items():
        for precision, stated in zip(("FP32", "FP16", "INT8", "INT4"), sizes, strict=True):
            bits = calculate_model_size(billions, precision)["bits_per_param"]
            ours = billions * bits / 8
            yield Row(
                name=f"{billions}B {precision}",
                stated=f"{stated} GB",
                ours=f"{ours:g} GB",
                agrees=ours == stated,
                why=f"{billions}e9 x {bits} / 8",
            )


def computed_sizes() -> Iterator[Row]:
    """The output of `calculate_model_size` for 70B, which counts in 2**30 bytes."""
    stated = {
        "FP32": (260.8, 200.0),
        "FP16": (130.4, 100.0),
        "INT8": (65.2, 50.0),
        "INT4": (32.6, 25.0),
    }
    for precision, (size, relative) in stated.items():
        found = calculate_model_size(70, precision)
        yield Row(
            name=f"70B @ {precision}",
            stated=f"{size} GB ({relative}%)",
            ours=f"{found['size_gb']} GB ({found['relative_to_fp16']}%)",
            agrees=(found["size_gb"], found["relative_to_fp16"]) == (size, relative),
            why=f"70e9 x {found['bits_per_param']} / 8 / 2**30",
        )


def file_sizes() -> Iterator[Row]:
    """Sizes of 7B files, from four guides."""
    stated = (
        ("pipeline guide", {"Q4_K_M": 4.1, "Q5_K_M": 4.8, "Q8_0": 7.2, "F16": 14.0}),
        (
            "course",
            {"Q2_K": 2.7, "Q3_K_M": 3.3, "Q4_K_M": 4.1, "Q5_K_M": 4.8, "Q6_K": 5.5, "Q8_0": 7.2},
        ),
        (
            "lesson",
            {"F16": 13.5, "Q8_0": 7.2, "Q6_K": 5.5, "Q5_K_M": 4.8, "Q4_K_M": 4.1, "Q4_0": 3.8},
        ),
    )
    for guide, sizes in stated:
        for level, size in sizes.items():
            ours = size_gb(7, level)
            yield Row(
                name=f"{guide}: 7B {level}",
                stated=f"{size} GB",
                ours=f"{ours:.2f} GB",
                agrees=near(ours, size, SIZE_TOLERANCE),
                why=f"7.00e9 weights at {8 * ours / 7:.2f} bits; Llama 2 7B has 6.74e9",
            )


def rounded_sizes() -> Iterator[Row]:
    """Sizes that a lesson and a skill give with a tilde."""
    stated = (
        (7, "Q4_K_M", 4),
        (7, "Q5_K_M", 5),
        (7, "Q8_0", 7),
        (7, "F16", 14),
        (13, "Q4_K_M", 8),
        (13, "Q5_K_M", 9),
        (13, "Q8_0", 14),
        (34, "Q4_K_M", 20),
    )
    for billions, level, size in stated:
        ours = size_gb(billions, level)
        yield Row(
            name=f"about {billions}B {level}",
            stated=f"~{size} GB",
            ours=f"{ours:.1f} GB",
            agrees=near(ours, size, MEMORY_TOLERANCE),
            why=f"{8 * ours / billions:.2f} bits per weight",
        )


# --- memory ----------------------------------------------------------------------------------------


def ram_required() -> Iterator[Row]:
    """RAM of the machine for a 7B model, read at 512 tokens, the default of the guide's own code."""
    for level, stated in {"Q4_K_M": 6, "Q5_K_M": 7, "Q8_0": 10, "F16": 18}.items():
        estimate = memory(7, level, 512)
        ours = least_ram(estimate.required_bytes) / GIBIBYTE
        yield Row(
            name=f"RAM for 7B {level}",
            stated=f"{stated} GB",
            ours=f"{ours:.1f} GiB",
            agrees=near(ours, stated, MEMORY_TOLERANCE),
            why=f"{parts(estimate)}, and the system's share",
        )


def least_ram(need: int) -> int:
    """Return the smallest RAM, to 1/64 GiB, that leaves a need beside the system's share."""
    step = GIBIBYTE // 64
    ram = need // step * step
    while Target(ram_bytes=ram).usable_ram_bytes < need:
        ram += step
    return ram


def _fits(
    name: str, estimate: MemoryEstimate, capacity: int, *, stated: bool, note: str = ""
) -> Row:
    fits = estimate.required_bytes <= capacity
    words = {True: "fits", False: "does not fit"}
    return Row(
        name=name,
        stated=words[stated] + note,
        ours=words[fits],
        agrees=fits == stated,
        why=f"{parts(estimate)} of {capacity / GIBIBYTE:.2f}",
    )


def ram_only() -> Iterator[Row]:
    """What fits a machine without a GPU, at 4,096 tokens."""
    rows = (
        (8, 7, "Q4_K_M", True, ""),
        (8, 7, "Q8_0", True, " (tight)"),
        (8, 13, "Q4_K_M", False, ""),
        (16, 7, "Q8_0", True, ""),
        (16, 7, "F16", False, ""),
        (16, 13, "Q4_K_M", True, ""),
        (16, 13, "Q5_K_M", True, ""),
        (32, 7, "F16", True, ""),
        (32, 13, "Q8_0", True, ""),
        (32, 34, "Q4_K_M", True, ""),
    )
    for ram, billions, level, stated, note in rows:
        target = Target(ram_bytes=ram * GIBIBYTE)
        estimate = memory(billions, level, 4096)
        name = f"{ram} GB RAM: {billions}B {level}"
        yield _fits(name, estimate, target.usable_ram_bytes, stated=stated, note=note)


def vram() -> Iterator[Row]:
    """What fits a GPU with a context."""
    rows = (
        (8, 7, "Q4_K_M", 4096, True),
        (8, 7, "Q8_0", 2048, True),
        (8, 13, "Q4_K_M", 4096, False),
        (12, 7, "Q8_0", 8192, True),
        (12, 13, "Q4_K_M", 4096, True),
        (12, 13, "Q5_K_M", 2048, True),
        (24, 13, "Q8_0", 8192, True),
        (24, 34, "Q4_K_M", 4096, True),
        (24, 70, "Q4_K_M", 4096, False),
    )
    for size, billions, level, context, stated in rows:
        estimate = memory(billions, level, context, gpu=True)
        name = f"{size} GB VRAM: {billions}B {level}, {context // 1024}K"
        yield _fits(name, estimate, size * GIBIBYTE, stated=stated)


def vram_needed() -> Iterator[Row]:
    """What a GPU must have, where a guide says that it does not fit."""
    for billions, level, stated in ((13, "Q4_K_M", 10), (70, "Q4_K_M", 40)):
        estimate = memory(billions, level, 4096, gpu=True)
        ours = estimate.required_bytes / GIBIBYTE
        yield Row(
            name=f"VRAM for {billions}B {level}",
            stated=f"~{stated} GB",
            ours=f"{ours:.1f} GiB",
            agrees=near(ours, stated, MEMORY_TOLERANCE),
            why=parts(estimate),
        )


def apple() -> Iterator[Row]:
    """What Apple's machines take, at 4,096 tokens."""
    rows = (
        (8, 7, "Q4_K_M"),
        (16, 13, "Q4_K_M"),
        (16, 7, "Q8_0"),
        (32, 34, "Q4_K_M"),
        (32, 13, "Q8_0"),
        (64, 70, "Q4_K_M"),
        (192, 70, "Q8_0"),
        (192, 405, "Q4_K_M"),
    )
    for ram, billions, level in rows:
        target = Target(ram_bytes=ram * GIBIBYTE, unified=True)
        estimate = memory(billions, level, 4096)
        name = f"{ram} GB unified: {billions}B {level}"
        yield _fits(name, estimate, target.usable_ram_bytes, stated=True)


def quick_reference() -> Iterator[Row]:
    """The best level for a GPU, at 4,096 tokens: each cell of a table of GPUs and models."""
    cells = {
        4: ("Q3_K_M", "IQ2_XXS", "none", "none"),
        6: ("Q4_K_M", "Q2_K", "none", "none"),
        8: ("Q6_K", "Q3_K_M", "IQ2_XXS", "none"),
        12: ("Q8_0", "Q4_K_M", "Q2_K", "none"),
        16: ("F16", "Q5_K_M", "Q3_K_M", "IQ2_XXS"),
        24: ("F16", "Q8_0/F16", "Q4_K_M", "Q2_K"),
        48: ("F16", "F16", "Q8_0", "Q4_K_M"),
        80: ("F16", "F16", "F16", "Q6_K"),
    }
    for size, levels in cells.items():
        for billions, stated in zip((7, 13, 34, 70), levels, strict=True):
            yield _cell(size, billions, stated)


def _cell(size: int, billions: int, stated: str) -> Row:
    capacity = size * GIBIBYTE
    shape = shape_of_parameters(billions * GIGABYTE)
    target = Target(ram_bytes=0, vram_bytes=capacity)
    try:
        ours = choose(shape, target, priority="quality").level
    except ArtifactError:
        ours = "none"
    shown = (
        stated.split("/", maxsplit=1)[0]
        if stated != "none"
        else "IQ2_XXS"
        if billions >= 13
        else "Q3_K_M"
    )
    sums = [f"{shown}: {parts(memory(billions, shown, 4096, gpu=True))}"]
    if ours not in ("none", shown):
        sums.append(f"{ours}: {parts(memory(billions, ours, 4096, gpu=True))}")
    return Row(
        name=f"{size} GB VRAM: {billions}B",
        stated=stated,
        ours=ours,
        agrees=ours in stated.split("/"),
        why="; ".join(sums),
    )


def cpu_support() -> Iterator[Row]:
    """Which formats run without a GPU."""
    stated = {"GGUF": False, "AWQ-4BIT": False, "GPTQ-4BIT": False, "NF4": False, "INT8": False}
    stated["GGUF"] = True
    for name, says in stated.items():
        ours = name == "GGUF" or WEIGHT_FORMATS[name].cpu
        runtimes = "llama.cpp" if name == "GGUF" else ", ".join(WEIGHT_FORMATS[name].runtimes)
        yield Row(
            name=f"{name} without a GPU",
            stated="yes" if says else "no",
            ours="yes" if ours else "no",
            agrees=ours == says,
            why=f"runs under {runtimes}"
            + ("; bitsandbytes has kernels for processors" * (ours > says)),
        )


# --- worked results --------------------------------------------------------------------------------


def worked() -> Iterator[Row]:
    """Calls whose result a guide states."""
    ours = QuantizationSelector().select(7.0, 8.0, "balanced")
    yield Row(
        name='`QuantizationSelector().select(7.0, 8.0, "balanced")`',
        stated="Q5_K_M",
        ours=ours,
        agrees=ours == "Q5_K_M",
        why=f"{parts(memory(7, 'Q5_K_M', 4096))} of 6.00; Q6_K: {parts(memory(7, 'Q6_K', 4096))}",
    )
    calls = (
        (24, 70, "chat", "Q4_K_M"),
        (12, 7, "coding", "Q6_K or Q8_0"),
        (8, 13, "reasoning", "Q3_K_M"),
    )
    for size, billions, use_case, stated in calls:
        level = recommend_quantization(size, billions, use_case).split(" ")[0]
        shown = stated.split(" ")[0]
        yield Row(
            name=f'`recommend_quantization({size}, {billions}, "{use_case}")`',
            stated=stated,
            ours=level,
            agrees=level in stated.split(" or "),
            why=f"{shown}: {parts(memory(billions, shown, 4096, gpu=True))} of {size}.00",
        )


TABLES: dict[str, Callable[[], Iterator[Row]]] = {
    "worked": worked,
    "relative-memory": relative_memory,
    "relative-size": relative_size,
    "base-bits": base_bits,
    "bare-sizes": bare_sizes,
    "computed-sizes": computed_sizes,
    "file-sizes": file_sizes,
    "rounded-sizes": rounded_sizes,
    "ram-required": ram_required,
    "ram-only": ram_only,
    "vram": vram,
    "vram-needed": vram_needed,
    "apple": apple,
    "quick-reference": quick_reference,
    "cpu-support": cpu_support,
}


def all_rows() -> list[tuple[str, Row]]:
    """Return every row with the name of its table."""
    return [(name, row) for name, rows in TABLES.items() for row in rows()]


def disagreements() -> str:
    """Return the rows that the package disagrees with, as a table of Markdown."""
    lines = ["| Row | Says | Package | Arithmetic |", "|---|---|---|---|"]
    lines += [
        f"| {row.name} | {row.stated} | {row.ours} | {row.why} |"
        for _, row in all_rows()
        if not row.agrees
    ]
    return "\n".join(lines) + "\n"


def markdown(name: str) -> str:
    """Return one table of Markdown."""
    if name == "disagreements":
        return disagreements()
    lines = ["| Row | Says | Package | |", "|---|---|---|---|"]
    lines += [
        f"| {row.name} | {row.stated} | {row.ours} | {'agrees' if row.agrees else 'differs'} |"
        for row in TABLES[name]()
    ]
    return "\n".join(lines) + "\n"


def refreshed(page: str) -> str:
    """Return the page with its tables as they should be."""
    return SECTION.sub(lambda found: found[1] + markdown(found[2]) + found[4], page)


if __name__ == "__main__":
    PAGE.write_text(refreshed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
