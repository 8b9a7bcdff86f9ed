"""Quality gates for quantized language models, as ordinary pytest items that block deployment.

Importing this package imports nothing else: it is loaded in every pytest run of everybody who has the
plugin installed. The public names below are resolved on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "ModelConverter",
    "QuantgateWarning",
    "QuantizationBenchmark",
    "QuantizationSelector",
    "QuantizedModel",
    "SecureQuantizer",
    "__version__",
    "calculate_model_size",
    "recommend_quantization",
    "safe_load_quantized",
    "verify_model_integrity",
]

if TYPE_CHECKING:
    from pytest_quantgate.artifact.integrity import verify_model_integrity
    from pytest_quantgate.artifact.selection.estimate import calculate_model_size
    from pytest_quantgate.artifact.selection.recommendation import (
        QuantizationSelector,
        recommend_quantization,
    )
    from pytest_quantgate.benchmark import QuantizationBenchmark
    from pytest_quantgate.errors import QuantgateWarning
    from pytest_quantgate.model import QuantizedModel, safe_load_quantized
    from pytest_quantgate.pipeline.conversion import ModelConverter
    from pytest_quantgate.pipeline.quantization import SecureQuantizer

_HOMES = {
    "ModelConverter": "pytest_quantgate.pipeline.conversion",
    "QuantgateWarning": "pytest_quantgate.errors",
    "QuantizationBenchmark": "pytest_quantgate.benchmark",
    "QuantizationSelector": "pytest_quantgate.artifact.selection.recommendation",
    "QuantizedModel": "pytest_quantgate.model",
    "SecureQuantizer": "pytest_quantgate.pipeline.quantization",
    "calculate_model_size": "pytest_quantgate.artifact.selection.estimate",
    "recommend_quantization": "pytest_quantgate.artifact.selection.recommendation",
    "safe_load_quantized": "pytest_quantgate.model",
    "verify_model_integrity": "pytest_quantgate.artifact.integrity",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    import importlib  # noqa: PLC0415 - only paid for by whoever asks for a name

    return getattr(importlib.import_module(_HOMES[name]), name)
