"""The machine: what can change a number, and nothing that cannot."""

from __future__ import annotations

import dataclasses
import os
import platform
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import pytest_quantgate
from pytest_quantgate.artifact import hardware
from pytest_quantgate.artifact.hardware import (
    ARITHMETIC_FLAGS,
    GIBIBYTE,
    Machine,
    Target,
    memory_limit,
    this_machine,
    this_target,
)
from pytest_quantgate.errors import ArtifactError

MACHINE = Machine(
    processor="Test processor",
    flags=("avx2", "fma"),
    cores=2,
    memory_bytes=16 * 1024**3 - 1,
    system="Linux x86_64",
)


def test_this_machine_is_described_from_what_it_says() -> None:
    """Processor, cores and memory are those of the machine the test runs on."""
    machine = this_machine()

    assert machine.processor
    assert 1 <= machine.cores <= (os.cpu_count() or 1)
    assert machine.memory_bytes == psutil.virtual_memory().total
    assert machine.system == f"{platform.system()} {platform.machine()}"
    assert set(machine.flags) <= ARITHMETIC_FLAGS
    assert list(machine.flags) == sorted(machine.flags)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names x86 instruction sets")
@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="reads /proc/cpuinfo")
def test_instruction_sets_are_read() -> None:
    """Each known set that the processor lists is found, and its name is the processor's own."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    listed = next(line for line in text.splitlines() if line.startswith("flags")).split()

    assert set(this_machine().flags) == ARITHMETIC_FLAGS.intersection(listed)
    assert this_machine().processor in text


def test_a_line_for_people() -> None:
    """One line names the machine, memory rounded to GiB."""
    assert str(MACHINE) == "Test processor, 2 cores, 16 GiB, Linux x86_64"


def test_arithmetic_is_architecture_and_instruction_sets() -> None:
    """Cores, memory and the processor's name leave the low bits alone; an instruction set may not."""
    same = dataclasses.replace(MACHINE, processor="Another", cores=64, memory_bytes=1)
    other = dataclasses.replace(MACHINE, flags=("avx2", "avx512f", "fma"))

    assert same.arithmetic == MACHINE.arithmetic
    assert other.arithmetic != MACHINE.arithmetic
    assert MACHINE.arithmetic.startswith(f"{platform.machine()}-")
    assert len(MACHINE.arithmetic) == len(platform.machine()) + 13


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="pins a process to a core")
def test_cores_are_those_a_process_may_use() -> None:
    """A process that is pinned to one core says one, as in a container with a processor set."""
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from pytest_quantgate.artifact.hardware import usable_cores; print(usable_cores())"
    )
    source = str(Path(pytest_quantgate.__file__).parents[1])

    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert done.stdout == "1\n"


def test_cores_where_a_process_cannot_be_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """On systems without affinity all processors count."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)

    assert hardware.usable_cores() == os.cpu_count()


X86 = """\
processor\t: 0
model name\t: Some(R) Processor: 9000
flags\t\t: fpu avx2 avx f16c sse4_2

processor\t: 1
model name\t: Another
flags\t\t: avx512f
"""
ARM = """\
processor\t: 0
BogoMIPS\t: 243.75
Features\t: fp asimd asimddp i8mm crc32
"""


@pytest.mark.parametrize(
    ("listing", "name", "flags"),
    [
        (X86, "Some(R) Processor: 9000", ("avx", "avx2", "f16c")),
        (ARM, platform.processor() or platform.machine(), ("asimd", "asimddp", "i8mm")),
        ("", platform.processor() or platform.machine(), ()),
        (None, platform.processor() or platform.machine(), ()),
    ],
    ids=["x86", "arm", "empty", "none"],
)
def test_what_a_listing_of_processors_says(
    tmp_path: Path, listing: str | None, name: str, flags: tuple[str, ...]
) -> None:
    """Name and instruction sets of the first processor count; without a listing there are none."""
    path = tmp_path / "cpuinfo"
    if listing is not None:
        path.write_text(listing, encoding="utf-8")

    assert hardware._processor(path) == (name, flags)


# --- targets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ram", "reserve"), [(4, 2), (8, 2), (12, 3), (16, 4), (24, 6), (32, 6), (192, 6)]
)
def test_the_systems_share(ram: int, reserve: int) -> None:
    """A quarter of the RAM, two GiB at least and six at most."""
    target = Target(ram_bytes=ram * GIBIBYTE)

    assert target.reserved_bytes == reserve * GIBIBYTE
    assert target.usable_ram_bytes == (ram - reserve) * GIBIBYTE


def test_a_declared_share() -> None:
    """The share can be declared; RAM smaller than it leaves nothing, not less."""
    assert Target(ram_bytes=8, reserve_bytes=3).usable_ram_bytes == 5
    assert Target(ram_bytes=8, reserve_bytes=0).usable_ram_bytes == 8
    assert Target(ram_bytes=GIBIBYTE).usable_ram_bytes == 0


@pytest.mark.parametrize(
    ("ram", "usable"), [(16, 16 * 2 / 3), (32, 32 * 2 / 3), (33, 33 * 3 / 4), (64, 48), (192, 144)]
)
def test_unified_memory(ram: int, usable: float) -> None:
    """The GPU may use two thirds up to 32 GiB and three quarters above."""
    target = Target(ram_bytes=ram * GIBIBYTE, unified=True)

    assert target.usable_ram_bytes == pytest.approx(usable * GIBIBYTE, abs=1)


def test_the_smaller_share_of_unified_memory_counts() -> None:
    """A large reserve takes more than the GPU's limit does."""
    target = Target(ram_bytes=16 * GIBIBYTE, unified=True, reserve_bytes=10 * GIBIBYTE)

    assert target.usable_ram_bytes == 6 * GIBIBYTE


@pytest.mark.parametrize(("ram", "vram"), [(0, 0), (-1, 1), (1, -1)])
def test_machines_that_cannot_be(ram: int, vram: int) -> None:
    """No memory and negative memory are no machine."""
    with pytest.raises(ArtifactError, match="cannot be; declare what it has"):
        Target(ram_bytes=ram, vram_bytes=vram)


def test_unified_memory_is_declared_once() -> None:
    """What is shared is not there twice."""
    with pytest.raises(ArtifactError, match="declare it as RAM, and no VRAM beside it"):
        Target(ram_bytes=8, vram_bytes=8, unified=True)


def test_this_machine_as_a_target() -> None:
    """RAM is at most the machine's, and what was not found is said."""
    target = this_target()

    assert 0 < target.ram_bytes <= this_machine().memory_bytes
    assert (target.cores, target.flags) == (this_machine().cores, this_machine().flags)
    assert this_machine().processor in target.name
    assert target.vram_bytes or target.unified or target.notes


def groups(root: Path, listing: str, files: dict[str, str]) -> Path:
    """Write a system's control groups."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(listing)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("listing", "files", "limit"),
    [
        ("0::/a/b\n", {"a/b/memory.max": "5000\n"}, 5000),
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": "4000\n"}, 4000),
        ("0::/a/b\n", {"a/b/memory.max": "3000\n", "a/memory.max": "4000\n"}, 3000),
        ("0::/\n", {"memory.max": "2000"}, 2000),
        ("0::/../host/x\n", {"memory.max": "2000"}, 2000),
        ("0::/a\n", {"a/memory.max": "max"}, 9000),
        ("0::/a\n", {"a/memory.max": "nonsense"}, 9000),
        ("5:cpu,memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": "6000"}, 6000),
        ("5:memory:/a\n", {"memory/memory.limit_in_bytes": "7000"}, 7000),
        ("5:memory:/a\n", {"memory/a/memory.limit_in_bytes": "9223372036854771712"}, 9000),
        ("5:cpu:/a\n", {"memory/a/memory.limit_in_bytes": "6000"}, 9000),
        ("garbage\n\n", {}, 9000),
    ],
)
def test_limits_of_control_groups(
    tmp_path: Path, listing: str, files: dict[str, str], limit: int
) -> None:
    """The least limit on the way to the root counts, in both versions."""
    found, note = memory_limit(9000, groups(tmp_path, listing, files))

    assert found == limit
    assert bool(note) == (limit < 9000)


def test_a_limit_is_said(tmp_path: Path) -> None:
    """Whoever sees less than the machine has is told why."""
    root = groups(tmp_path, "0::/\n", {"memory.max": str(GIBIBYTE)})

    assert memory_limit(4 * GIBIBYTE, root)[1] == "its control group allows 1.0 of 4.0 GiB"


def test_systems_without_control_groups(tmp_path: Path) -> None:
    """Where there are none, all memory counts."""
    assert memory_limit(9000, tmp_path) == (9000, "")
