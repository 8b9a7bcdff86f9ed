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
from pytest_quantgate.artifact.hardware import ARITHMETIC_FLAGS, Machine, this_machine

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
