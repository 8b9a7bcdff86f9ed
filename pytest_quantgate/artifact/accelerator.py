"""GPUs of this machine and their memory: NVIDIA through NVML, Apple's through sysctl.

What cannot be looked for is said in a note, never guessed.
"""

from __future__ import annotations

import contextlib
import platform
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_SYSCTL = "/usr/sbin/sysctl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerators:
    """The GPUs found: their memory in bytes together, names, and what could not be found out."""

    vram_bytes: int = 0
    unified: bool = False
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def find() -> Accelerators:
    """Look for GPUs that language models run on."""
    if platform.system() == "Darwin":
        return apple()
    return nvidia()


def nvidia() -> Accelerators:
    """Ask NVML, which comes with NVIDIA's driver, for the GPUs and the memory programs may have."""
    try:
        import pynvml  # noqa: PLC0415 - an optional package
    except ImportError:
        note = (
            "NVIDIA GPUs were not looked for: nvidia-ml-py is not installed"
            " (pip install 'pytest-quantgate[nvidia]')"
        )
        return Accelerators(notes=(note,))
    return _nvidia(pynvml)


def _nvidia(nvml: Any) -> Accelerators:  # noqa: ANN401 - an untyped module
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return Accelerators(notes=(f"no NVIDIA GPU: {error}",))
    try:
        names, total = [], 0
        for index in range(nvml.nvmlDeviceGetCount()):
            device = nvml.nvmlDeviceGetHandleByIndex(index)
            name = nvml.nvmlDeviceGetName(device)
            names.append(name.decode() if isinstance(name, bytes) else str(name))
            total += _usable(nvml, device)
    except nvml.NVMLError as error:
        return Accelerators(notes=(f"the memory of the NVIDIA GPU is unknown: {error}",))
    finally:
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()
    notes = () if names else ("no NVIDIA GPU: the driver lists none",)
    return Accelerators(vram_bytes=total, names=tuple(names), notes=notes)


def _usable(nvml: Any, device: Any) -> int:  # noqa: ANN401 - an untyped module and its handle
    """Return the memory of a device without what the driver keeps for itself."""
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(device, version=nvml.nvmlMemory_v2)
        return int(memory.total) - int(memory.reserved)
    except nvml.NVMLError:
        # Drivers before 510 do not tell the two apart.
        return int(nvml.nvmlDeviceGetMemoryInfo(device).total)


def apple(ask: Callable[[str], str] | None = None) -> Accelerators:
    """Tell whether this is an Apple machine whose GPU shares the memory.

    Args:
        ask: Returns the value of a sysctl name; raises OSError where it cannot.
    """
    try:
        name = (ask or _sysctl)("machdep.cpu.brand_string")
    except (OSError, subprocess.SubprocessError) as error:
        return Accelerators(notes=(f"Apple's GPU was not looked for: sysctl failed: {error}",))
    if not name.startswith("Apple"):
        return Accelerators(notes=(f"no GPU that shares memory: the processor is {name}",))
    return Accelerators(unified=True)


def _sysctl(name: str) -> str:
    done = subprocess.run(  # noqa: S603 - a fixed program of the system, by its full path
        [_SYSCTL, "-n", name], capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()
