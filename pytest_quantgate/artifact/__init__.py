"""Model files and the texts they are measured on: found, guarded, read, made and chosen.

Nothing here knows of gates or pytest. Files are read with plain input and output, header by header
or block by block; native code is in the modules named ``native_*`` and runs only inside a probe.

The names below are the whole artifact pipeline for scripts, wherever their room is; they are resolved
on first use. What runs native code (`quantize`, `compute_imatrix`, `convert_folder`, `plan_memory`,
...) runs it in a probe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_quantgate.artifact.catalog import (
        QUANTIZATION_TYPES,
        TENSOR_TYPES,
        QuantizationType,
        TensorType,
        next_level_down,
        next_level_up,
        quantization_type,
    )
    from pytest_quantgate.artifact.conversion.convert import ConversionReport
    from pytest_quantgate.artifact.demonstration import (
        dequantize,
        group_dequantize,
        group_quantize,
        naive_quantize_int8,
        round_trip_error,
    )
    from pytest_quantgate.artifact.formats import WeightFormat, weight_format
    from pytest_quantgate.artifact.gguf import GgufHeader, check_model, read_header
    from pytest_quantgate.artifact.gguf.chat_template import TemplateScan
    from pytest_quantgate.artifact.hardware import Target, this_target
    from pytest_quantgate.artifact.imatrix import Imatrix, ImatrixEntry, read_imatrix, write_imatrix
    from pytest_quantgate.artifact.imatrix.calibration_set import CalibrationSet, sample_passages
    from pytest_quantgate.artifact.imatrix.domain import DomainDifference, domain_difference
    from pytest_quantgate.artifact.imatrix.report import ImatrixReport
    from pytest_quantgate.artifact.inspection import ImatrixInspection, ModelInspection, inspect
    from pytest_quantgate.artifact.integrity import (
        Verification,
        verify,
        verify_model_integrity,
        write_sidecar,
    )
    from pytest_quantgate.artifact.integrity.manifest import (
        verify_list,
        verify_manifest,
        write_manifest,
        write_sums,
    )
    from pytest_quantgate.artifact.integrity.signing import SignedModel, sign, verify_signature
    from pytest_quantgate.artifact.quantization.plan import FallenTensor
    from pytest_quantgate.artifact.quantization.quantize import DryRun, QuantizeReport, TypeShare
    from pytest_quantgate.artifact.quantization.recipe import (
        OVERRIDE_TYPES,
        STRATEGIES,
        parse_override,
        recipe_for,
    )
    from pytest_quantgate.artifact.roles import TensorRole, role_of
    from pytest_quantgate.artifact.selection.config_shape import shape_of_config
    from pytest_quantgate.artifact.selection.estimate import (
        MemoryEstimate,
        bits_per_weight,
        calculate_model_size,
        estimate_memory,
        weights_bytes,
    )
    from pytest_quantgate.artifact.selection.native_memory import PlannedMemory
    from pytest_quantgate.artifact.selection.recommendation import (
        QuantizationSelector,
        recommend_quantization,
    )
    from pytest_quantgate.artifact.selection.select import Choice, Rejection, choose
    from pytest_quantgate.artifact.selection.shape import (
        ModelShape,
        shape_of_headers,
        shape_of_parameters,
    )
    from pytest_quantgate.errors import (
        ArtifactError,
        ConversionError,
        IntegrityError,
        QuantizationError,
        SecurityError,
    )
    from pytest_quantgate.model import safe_load_quantized
    from pytest_quantgate.pipeline.conversion import ModelConverter, convert_folder
    from pytest_quantgate.pipeline.importance import compute_imatrix
    from pytest_quantgate.pipeline.quantization import SecureQuantizer, plan, quantize
    from pytest_quantgate.pipeline.selection import (
        estimate_model,
        plan_memory,
        planned_weights,
        select_level,
        shape_of_model,
    )
    from pytest_quantgate.records import Recipe, TensorOverride

__all__ = [
    "OVERRIDE_TYPES",
    "QUANTIZATION_TYPES",
    "STRATEGIES",
    "TENSOR_TYPES",
    "ArtifactError",
    "CalibrationSet",
    "Choice",
    "ConversionError",
    "ConversionReport",
    "DomainDifference",
    "DryRun",
    "FallenTensor",
    "GgufHeader",
    "Imatrix",
    "ImatrixEntry",
    "ImatrixInspection",
    "ImatrixReport",
    "IntegrityError",
    "MemoryEstimate",
    "ModelConverter",
    "ModelInspection",
    "ModelShape",
    "PlannedMemory",
    "QuantizationError",
    "QuantizationSelector",
    "QuantizationType",
    "QuantizeReport",
    "Recipe",
    "Rejection",
    "SecureQuantizer",
    "SecurityError",
    "SignedModel",
    "Target",
    "TemplateScan",
    "TensorOverride",
    "TensorRole",
    "TensorType",
    "TypeShare",
    "Verification",
    "WeightFormat",
    "bits_per_weight",
    "calculate_model_size",
    "check_model",
    "choose",
    "compute_imatrix",
    "convert_folder",
    "dequantize",
    "domain_difference",
    "estimate_memory",
    "estimate_model",
    "group_dequantize",
    "group_quantize",
    "inspect",
    "naive_quantize_int8",
    "next_level_down",
    "next_level_up",
    "parse_override",
    "plan",
    "plan_memory",
    "planned_weights",
    "quantization_type",
    "quantize",
    "read_header",
    "read_imatrix",
    "recipe_for",
    "recommend_quantization",
    "role_of",
    "round_trip_error",
    "safe_load_quantized",
    "sample_passages",
    "select_level",
    "shape_of_config",
    "shape_of_headers",
    "shape_of_model",
    "shape_of_parameters",
    "sign",
    "this_target",
    "verify",
    "verify_list",
    "verify_manifest",
    "verify_model_integrity",
    "verify_signature",
    "weight_format",
    "weights_bytes",
    "write_imatrix",
    "write_manifest",
    "write_sidecar",
    "write_sums",
]

_HOMES = {
    "ArtifactError": "pytest_quantgate.errors",
    "CalibrationSet": "pytest_quantgate.artifact.imatrix.calibration_set",
    "Choice": "pytest_quantgate.artifact.selection.select",
    "ConversionError": "pytest_quantgate.errors",
    "ConversionReport": "pytest_quantgate.artifact.conversion.convert",
    "DomainDifference": "pytest_quantgate.artifact.imatrix.domain",
    "DryRun": "pytest_quantgate.artifact.quantization.quantize",
    "FallenTensor": "pytest_quantgate.artifact.quantization.plan",
    "GgufHeader": "pytest_quantgate.artifact.gguf",
    "Imatrix": "pytest_quantgate.artifact.imatrix",
    "ImatrixEntry": "pytest_quantgate.artifact.imatrix",
    "ImatrixInspection": "pytest_quantgate.artifact.inspection",
    "ImatrixReport": "pytest_quantgate.artifact.imatrix.report",
    "IntegrityError": "pytest_quantgate.errors",
    "MemoryEstimate": "pytest_quantgate.artifact.selection.estimate",
    "ModelConverter": "pytest_quantgate.pipeline.conversion",
    "ModelInspection": "pytest_quantgate.artifact.inspection",
    "ModelShape": "pytest_quantgate.artifact.selection.shape",
    "OVERRIDE_TYPES": "pytest_quantgate.artifact.quantization.recipe",
    "PlannedMemory": "pytest_quantgate.artifact.selection.native_memory",
    "QUANTIZATION_TYPES": "pytest_quantgate.artifact.catalog",
    "QuantizationError": "pytest_quantgate.errors",
    "QuantizationSelector": "pytest_quantgate.artifact.selection.recommendation",
    "QuantizationType": "pytest_quantgate.artifact.catalog",
    "QuantizeReport": "pytest_quantgate.artifact.quantization.quantize",
    "Recipe": "pytest_quantgate.records",
    "Rejection": "pytest_quantgate.artifact.selection.select",
    "STRATEGIES": "pytest_quantgate.artifact.quantization.recipe",
    "SecureQuantizer": "pytest_quantgate.pipeline.quantization",
    "SecurityError": "pytest_quantgate.errors",
    "SignedModel": "pytest_quantgate.artifact.integrity.signing",
    "TENSOR_TYPES": "pytest_quantgate.artifact.catalog",
    "Target": "pytest_quantgate.artifact.hardware",
    "TemplateScan": "pytest_quantgate.artifact.gguf.chat_template",
    "TensorOverride": "pytest_quantgate.records",
    "TensorRole": "pytest_quantgate.artifact.roles",
    "TensorType": "pytest_quantgate.artifact.catalog",
    "TypeShare": "pytest_quantgate.artifact.quantization.quantize",
    "Verification": "pytest_quantgate.artifact.integrity",
    "WeightFormat": "pytest_quantgate.artifact.formats",
    "bits_per_weight": "pytest_quantgate.artifact.selection.estimate",
    "calculate_model_size": "pytest_quantgate.artifact.selection.estimate",
    "check_model": "pytest_quantgate.artifact.gguf",
    "choose": "pytest_quantgate.artifact.selection.select",
    "compute_imatrix": "pytest_quantgate.pipeline.importance",
    "convert_folder": "pytest_quantgate.pipeline.conversion",
    "dequantize": "pytest_quantgate.artifact.demonstration",
    "domain_difference": "pytest_quantgate.artifact.imatrix.domain",
    "estimate_memory": "pytest_quantgate.artifact.selection.estimate",
    "estimate_model": "pytest_quantgate.pipeline.selection",
    "group_dequantize": "pytest_quantgate.artifact.demonstration",
    "group_quantize": "pytest_quantgate.artifact.demonstration",
    "inspect": "pytest_quantgate.artifact.inspection",
    "naive_quantize_int8": "pytest_quantgate.artifact.demonstration",
    "next_level_down": "pytest_quantgate.artifact.catalog",
    "next_level_up": "pytest_quantgate.artifact.catalog",
    "parse_override": "pytest_quantgate.artifact.quantization.recipe",
    "plan": "pytest_quantgate.pipeline.quantization",
    "plan_memory": "pytest_quantgate.pipeline.selection",
    "planned_weights": "pytest_quantgate.pipeline.selection",
    "quantization_type": "pytest_quantgate.artifact.catalog",
    "quantize": "pytest_quantgate.pipeline.quantization",
    "read_header": "pytest_quantgate.artifact.gguf",
    "read_imatrix": "pytest_quantgate.artifact.imatrix",
    "recipe_for": "pytest_quantgate.artifact.quantization.recipe",
    "recommend_quantization": "pytest_quantgate.artifact.selection.recommendation",
    "role_of": "pytest_quantgate.artifact.roles",
    "round_trip_error": "pytest_quantgate.artifact.demonstration",
    "safe_load_quantized": "pytest_quantgate.model",
    "sample_passages": "pytest_quantgate.artifact.imatrix.calibration_set",
    "select_level": "pytest_quantgate.pipeline.selection",
    "shape_of_config": "pytest_quantgate.artifact.selection.config_shape",
    "shape_of_headers": "pytest_quantgate.artifact.selection.shape",
    "shape_of_model": "pytest_quantgate.pipeline.selection",
    "shape_of_parameters": "pytest_quantgate.artifact.selection.shape",
    "sign": "pytest_quantgate.artifact.integrity.signing",
    "this_target": "pytest_quantgate.artifact.hardware",
    "verify": "pytest_quantgate.artifact.integrity",
    "verify_list": "pytest_quantgate.artifact.integrity.manifest",
    "verify_manifest": "pytest_quantgate.artifact.integrity.manifest",
    "verify_model_integrity": "pytest_quantgate.artifact.integrity",
    "verify_signature": "pytest_quantgate.artifact.integrity.signing",
    "weight_format": "pytest_quantgate.artifact.formats",
    "weights_bytes": "pytest_quantgate.artifact.selection.estimate",
    "write_imatrix": "pytest_quantgate.artifact.imatrix",
    "write_manifest": "pytest_quantgate.artifact.integrity.manifest",
    "write_sidecar": "pytest_quantgate.artifact.integrity",
    "write_sums": "pytest_quantgate.artifact.integrity.manifest",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    import importlib  # noqa: PLC0415 - only paid for by whoever asks for a name

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Name what there is."""
    return sorted({*globals(), *__all__})
