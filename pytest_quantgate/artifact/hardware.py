"""The machine: what of it can change a number, and how much memory a model may have on it."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from pytest_quantgate.artifact import accelerator
from pytest_quantgate.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterator

# Instruction sets that llama.cpp's CPU kernels choose by; others do not change its arithmetic.
_FLAGS = (
    "sse3 ssse3 avx avx2 avx_vnni avx512f avx512bw avx512dq avx512vl avx512vbmi avx512_vnni"
    " avx512_bf16 avx512_fp16 amx_tile amx_int8 amx_bf16 f16c fma bmi2"
    " asimd asimdhp asimddp asimdfhm i8mm bf16 sve sve2 sme"
)
ARITHMETIC_FLAGS = frozenset(_FLAGS.split())
_LISTING = Path("/proc/cpuinfo")
_ROOT = Path("/")
GIBIBYTE = 1 << 30

# Left to the system and other programs: the documents this follows say 2 GB of 8, 4 to 6 of more.
_RESERVE_SHARE = 4
_RESERVE_LEAST = 2 * GIBIBYTE
_RESERVE_MOST = 6 * GIBIBYTE
# What Metal recommends as working set: 10.7 GiB of 16, 21.3 of 32, 48 of 64, 72 of 96.
_SMALL_UNIFIED = 32 * GIBIBYTE


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A machine a model is to run on, found or declared; memory in bytes.

    ``unified`` says that the processor's memory is the GPU's as well, as Apple's machines have it;
    ``flags`` are instruction sets, as `Machine.flags`. ``notes`` tell what was looked for and not
    found. ``reserve_bytes`` is left to the system; None takes a quarter, 2 GiB at least and 6 at most.
    """

    ram_bytes: int
    vram_bytes: int = 0
    unified: bool = False
    cores: int = 1
    flags: tuple[str, ...] = ()
    name: str = "declared"
    notes: tuple[str, ...] = ()
    reserve_bytes: int | None = None

    def __post_init__(self) -> None:
        """Refuse what no machine has.

        Raises:
            ArtifactError: for memory that is negative or none at all, or a reserve beyond it.
        """
        reserve = self.reserve_bytes or 0
        if (
            min(self.ram_bytes, self.vram_bytes, reserve) < 0
            or self.ram_bytes + self.vram_bytes == 0
        ):
            message = (
                f"a machine with {self.ram_bytes:,} bytes of RAM, {self.vram_bytes:,} of VRAM and"
                f" {reserve:,} reserved cannot be; declare what it has"
            )
            raise ArtifactError(message)
        if self.unified and self.vram_bytes:
            message = "unified memory is the GPU's memory: declare it as RAM, and no VRAM beside it"
            raise ArtifactError(message)

    @property
    def reserved_bytes(self) -> int:
        """Memory left to the system and other programs."""
        if self.reserve_bytes is not None:
            return self.reserve_bytes
        return min(max(self.ram_bytes // _RESERVE_SHARE, _RESERVE_LEAST), _RESERVE_MOST)

    @property
    def usable_ram_bytes(self) -> int:
        """RAM a model may have; of unified memory, what the GPU may use of it."""
        left = max(0, self.ram_bytes - self.reserved_bytes)
        if not self.unified:
            return left
        small = self.ram_bytes <= _SMALL_UNIFIED
        return min(left, self.ram_bytes * 2 // 3 if small else self.ram_bytes * 3 // 4)


def this_target() -> Target:
    """Describe this machine as a target: RAM within the limits of its group, NVIDIA or Apple GPU."""
    machine = this_machine()
    memory, note = memory_limit(machine.memory_bytes)
    found = accelerator.find()
    return Target(
        ram_bytes=memory,
        vram_bytes=found.vram_bytes,
        unified=found.unified,
        cores=machine.cores,
        flags=machine.flags,
        name=", ".join((machine.processor, *found.names)),
        notes=tuple(each for each in (note, *found.notes) if each),
    )


def memory_limit(total: int, root: Path = _ROOT) -> tuple[int, str]:
    """Return the memory this process may have of ``total`` bytes, and why it is less, if it is.

    Containers and services limit it by control groups, of version 1 or 2; each group on the way to
    the root can.
    """
    try:
        listing = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return total, ""
    least = total
    for line in listing.splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and "memory" not in controllers.split(","):
            continue
        folder = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        least = min([least, *_limits(folder, path, name)])
    if least == total:
        return total, ""
    return least, f"its control group allows {least / GIBIBYTE:.1f} of {total / GIBIBYTE:.1f} GiB"


def _limits(folder: Path, group: str, name: str) -> Iterator[int]:
    """Yield the limits of a control group and those above it."""
    # Inside a container the path may be that of the host, of which only the end is there: the root.
    parts = [part for part in group.split("/") if part not in ("", "..")]
    for depth in range(len(parts), -1, -1):
        try:
            text = folder.joinpath(*parts[:depth], name).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        # "max", or a number beyond all memory, is no limit.
        if text.isdecimal():
            yield int(text)


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
