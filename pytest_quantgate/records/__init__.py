"""The vocabulary: frozen values that travel between the stages, and nothing else.

Units are part of the names (``_ms``, ``_bytes``, ``_seconds``); a likelihood is in nats; a megabyte
(``MB`` in limits, ``MiB`` in texts) is 1,048,576 bytes.
"""

from __future__ import annotations

from pytest_quantgate.records.recipes import ImatrixRequest, Recipe, TensorOverride
from pytest_quantgate.records.requests import (
    DivergenceRequest,
    EngineSettings,
    GenerationRequest,
    LatencyRequest,
    LikelihoodRequest,
    MemoryRequest,
    Message,
    PassageRequest,
    Prompt,
    TextRequest,
)
from pytest_quantgate.records.results import (
    MEBIBYTE,
    BenchmarkFigures,
    Divergence,
    Generation,
    Latency,
    Likelihood,
    MemoryUse,
    ModelFacts,
    NoiseFloor,
    Output,
    Packed,
    PassageLikelihood,
    Progress,
    RequestTiming,
    TextFacts,
    TopTokens,
)
from pytest_quantgate.records.verdicts import (
    Check,
    Interval,
    Location,
    Outcome,
    Pilot,
    PilotLimit,
    Verdict,
)

__all__ = [
    "MEBIBYTE",
    "BenchmarkFigures",
    "Check",
    "Divergence",
    "DivergenceRequest",
    "EngineSettings",
    "Generation",
    "GenerationRequest",
    "ImatrixRequest",
    "Interval",
    "Latency",
    "LatencyRequest",
    "Likelihood",
    "LikelihoodRequest",
    "Location",
    "MemoryRequest",
    "MemoryUse",
    "Message",
    "ModelFacts",
    "NoiseFloor",
    "Outcome",
    "Output",
    "Packed",
    "PassageLikelihood",
    "PassageRequest",
    "Pilot",
    "PilotLimit",
    "Progress",
    "Prompt",
    "Recipe",
    "RequestTiming",
    "TensorOverride",
    "TextFacts",
    "TextRequest",
    "TopTokens",
    "Verdict",
]
