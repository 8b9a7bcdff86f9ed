"""The machine a number was measured on, as far as it can change the number."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from dataclasses import dataclass
from pathlib import Path

import psutil

# Instruction sets that llama.cpp's CPU kernels choose by; others do not change its arithmetic.
_FLAGS = (
    "sse3 ssse3 avx avx2 avx_vnni avx512f avx512bw avx512dq avx512vl avx512vbmi avx512_vnni"
    " avx512_bf16 avx512_fp16 amx_tile amx_int8 amx_bf16 f16c fma bmi2"
    " asimd asimdhp asimddp asimdfhm i8mm bf16 sve sve2 sme"
)
ARITHMETIC_FLAGS = frozenset(_FLAGS.split())
_LISTING = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Processor, its arithmetic instruction sets, usable cores and memory in bytes."""

    processor: str
    flags: tuple[str, ...]
    cores: int
    memory_bytes: int
    system: str

    @property
    def arithmetic(self) -> str:
        """Name what can change the low bits of a computed number: architecture and flags."""
        digest = hashlib.sha256(" ".join(self.flags).encode()).hexdigest()[:12]
        return f"{platform.machine()}-{digest}"

    def __str__(self) -> str:
        """Return one line for people, which also keys timings and memory readings."""
        memory = self.memory_bytes / 1024**3
        return f"{self.processor}, {self.cores} cores, {memory:.0f} GiB, {self.system}"


@functools.cache
def this_machine() -> Machine:
    """Describe the machine this process runs on."""
    processor, flags = _processor()
    return Machine(
        processor=processor,
        flags=flags,
        cores=usable_cores(),
        memory_bytes=psutil.virtual_memory().total,
        system=f"{platform.system()} {platform.machine()}",
    )


def usable_cores() -> int:
    """Return the number of processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor(listing: Path = _LISTING) -> tuple[str, tuple[str, ...]]:
    name = platform.processor() or platform.machine()
    flags: set[str] = set()
    try:
        text = listing.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return name, ()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            name = value.strip()
        elif key.strip() in ("flags", "Features"):
            flags.update(ARITHMETIC_FLAGS.intersection(value.split()))
            break
    return name, tuple(sorted(flags))
