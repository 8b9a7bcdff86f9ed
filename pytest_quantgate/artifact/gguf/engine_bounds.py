"""Numbers in a header on which the engine ends the whole process instead of refusing the file.

They are the assertions of llama.cpp's reader of hyperparameters (``llama_model_base::load_hparams``)
that stand before it has checked anything else, and that of its normalizations. Gates survive them,
since they load models in probes; a process that loads a model itself does not.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_quantgate.errors import ArtifactError

if TYPE_CHECKING:
    from pytest_quantgate.artifact.gguf import GgufHeader

MAX_LAYERS = 512
MAX_EXPERTS = 1024
_EPSILONS = (
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
    "attention.group_norm_epsilon",
)
_ROPE_SCALINGS = frozenset({"none", "linear", "yarn", "longrope"})


def require_bounds(header: GgufHeader) -> None:
    """Refuse a model whose counts of layers or experts cannot be.

    Raises:
        ArtifactError: with the key and its value.
    """
    layers = _number(header, "block_count")
    if layers is not None:
        _require(header, "block_count", 1, MAX_LAYERS)
        for key in ("nextn_predict_layers", "posnet.block_count", "convnext.block_count"):
            _require(header, key, 0, layers)
    experts = _number(header, "expert_count") or 0
    _require(header, "expert_count", 0, MAX_EXPERTS)
    _require(header, "expert_used_count", 1 if experts else 0, experts)
    _require(header, "expert_group_count", 0, max(experts - 1, 0))
    groups = _number(header, "expert_group_count") or 0
    if groups > 1:
        if experts % groups:
            raise _refusal(header, "expert_group_count", groups, f"a divisor of {experts}")
        _require(header, "expert_group_used_count", 1, groups - 1)
    for key in _EPSILONS:
        value = header.metadata.get(f"{header.architecture}.{key}", 0.0)
        if not isinstance(value, float) or not 0 <= value < math.inf:
            raise _refusal(header, key, value, "a finite float from 0")
    _require_scaling(header)


def _require_scaling(header: GgufHeader) -> None:
    key = "rope.scaling.type"
    value = header.metadata.get(f"{header.architecture}.{key}", "none")
    if value not in _ROPE_SCALINGS:
        raise _refusal(header, key, value, f"one of {', '.join(sorted(_ROPE_SCALINGS))}")


def _number(header: GgufHeader, key: str) -> int | None:
    """Return the value of a key of the architecture; of one for each layer, the largest."""
    value = header.metadata.get(f"{header.architecture}.{key}")
    if isinstance(value, tuple):
        numbers = [each for each in value if isinstance(each, int)]
        return max(numbers, default=None)
    return value if isinstance(value, int) else None


def _require(header: GgufHeader, key: str, lowest: int, highest: int) -> None:
    value = _number(header, key)
    if value is not None and not lowest <= value <= highest:
        raise _refusal(header, key, value, f"{lowest} to {highest}")


def _refusal(header: GgufHeader, key: str, value: object, accepted: str) -> ArtifactError:
    return ArtifactError(
        f"{header.path}: malformed header: {header.architecture}.{key} is {value!r}; "
        f"{accepted} is accepted"
    )
