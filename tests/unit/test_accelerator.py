"""GPUs: what NVML and sysctl say, and what is said where they cannot be asked."""

from __future__ import annotations

import platform
import sys
from types import SimpleNamespace

import pytest

from pytest_quantgate.artifact import accelerator
from pytest_quantgate.artifact.accelerator import Accelerators, apple, find, nvidia


class NvmlError(Exception):
    """What NVML raises."""


class Nvml:
    """NVML of a machine with these GPUs; the real one needs their driver."""

    NVMLError = NvmlError
    nvmlMemory_v2 = 2  # noqa: N815 - NVML's name

    def __init__(
        self,
        *devices: tuple[str | bytes, int, int],
        absent: str = "",
        old: bool = False,
        broken: bool = False,
    ) -> None:
        """Have devices of (name, total, reserved) bytes, or none and a reason."""
        self._devices = devices
        self._absent = absent
        self._old = old
        self._broken = broken
        self.open = 0

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's name
        """Begin."""
        if self._absent:
            raise NvmlError(self._absent)
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802 - NVML's name
        """End."""
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802 - NVML's name
        """Return the number of devices."""
        return len(self._devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802 - NVML's name
        """Return a handle."""
        if self._broken:
            message = "GPU is lost"
            raise NvmlError(message)
        return index

    def nvmlDeviceGetName(self, device: int) -> str | bytes:  # noqa: N802 - NVML's name
        """Return a name, of older versions as bytes."""
        return self._devices[device][0]

    def nvmlDeviceGetMemoryInfo(  # noqa: N802 - NVML's name
        self, device: int, version: int = 1
    ) -> SimpleNamespace:
        """Return the memory; only newer drivers tell what is reserved."""
        if version > 1 and self._old:
            message = "Function Not Found"
            raise NvmlError(message)
        return SimpleNamespace(total=self._devices[device][1], reserved=self._devices[device][2])


def test_memory_without_the_drivers_share() -> None:
    """What the driver keeps is no program's; several GPUs count together."""
    nvml = Nvml(("A", 1000, 100), (b"B", 500, 50))

    assert accelerator._nvidia(nvml) == Accelerators(vram_bytes=1350, names=("A", "B"))
    assert nvml.open == 0


def test_older_drivers() -> None:
    """They tell the whole memory only."""
    assert accelerator._nvidia(Nvml(("A", 1000, 100), old=True)).vram_bytes == 1000


@pytest.mark.parametrize(
    ("nvml", "note"),
    [
        (
            Nvml(absent="NVML Shared Library Not Found"),
            "no NVIDIA GPU: NVML Shared Library Not Found",
        ),
        (Nvml(), "no NVIDIA GPU: the driver lists none"),
        (Nvml(("A", 1, 0), broken=True), "the memory of the NVIDIA GPU is unknown: GPU is lost"),
    ],
)
def test_gpus_that_are_not_found(nvml: Nvml, note: str) -> None:
    """No memory is assumed, and the reason is kept."""
    assert accelerator._nvidia(nvml) == Accelerators(notes=(note,))
    assert nvml.open == 0


def test_the_package_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, nothing is looked for, and how to have it is said."""
    monkeypatch.setitem(sys.modules, "pynvml", None)

    assert nvidia() == Accelerators(
        notes=(
            "NVIDIA GPUs were not looked for: nvidia-ml-py is not installed"
            " (pip install 'pytest-quantgate[nvidia]')",
        )
    )


def test_this_machine() -> None:
    """The real search ends with a GPU or a reason."""
    found = find()

    assert bool(found.vram_bytes or found.unified) != bool(found.notes)


def test_apples_machines() -> None:
    """Apple's own processors share the memory, Intel's in an Apple machine do not."""
    assert apple(lambda _name: "Apple M2 Max").unified
    other = apple(lambda _name: "Intel(R) Core(TM) i9")
    assert not other.unified
    assert other.notes == ("no GPU that shares memory: the processor is Intel(R) Core(TM) i9",)


@pytest.mark.skipif(platform.system() == "Darwin", reason="has a sysctl of this kind")
def test_a_sysctl_that_is_not_there() -> None:
    """A failing sysctl is said, too."""
    assert apple().notes[0].startswith("Apple's GPU was not looked for: sysctl failed: ")


def test_apples_system_is_asked_by_sysctl(monkeypatch: pytest.MonkeyPatch) -> None:
    """On macOS, NVML is not asked."""
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(accelerator, "_sysctl", lambda _name: "Apple M1")

    assert find() == Accelerators(unified=True)
