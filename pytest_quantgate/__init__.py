"""Quality gates for quantized language models, as ordinary pytest items that block deployment.

Importing this package imports nothing else: it is loaded in every pytest run of everybody who has the
plugin installed. The public names below are resolved on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = ["QuantgateWarning", "QuantizationBenchmark", "QuantizedModel", "__version__"]

if TYPE_CHECKING:
    from pytest_quantgate.benchmark import QuantizationBenchmark
    from pytest_quantgate.errors import QuantgateWarning
    from pytest_quantgate.model import QuantizedModel

_HOMES = {
    "QuantgateWarning": "pytest_quantgate.errors",
    "QuantizationBenchmark": "pytest_quantgate.benchmark",
    "QuantizedModel": "pytest_quantgate.model",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    import importlib  # noqa: PLC0415 - only paid for by whoever asks for a name

    return getattr(importlib.import_module(_HOMES[name]), name)
