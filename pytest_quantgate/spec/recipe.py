"""The key `quantize`: how a file is made from another one."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from pytest_quantgate.artifact.catalog import QUANTIZATION_TYPES, did_you_mean
from pytest_quantgate.artifact.quantization.recipe import OVERRIDE_TYPES, STRATEGIES, recipe_for
from pytest_quantgate.records import Recipe, TensorOverride

MAKEABLE_TYPES = tuple(QUANTIZATION_TYPES)
"""What a model can be quantized to."""

PLAIN_TYPES = tuple(name for name, kind in QUANTIZATION_TYPES.items() if not kind.needs_imatrix)
"""What a model can be quantized to without an importance matrix."""

IMATRIX_SUFFIXES = (".gguf", ".dat", ".imatrix")
"""How the name of a file with an importance matrix ends; other names are texts."""

IMATRIX_CHUNKS = 128
"""Windows of a text that an importance matrix is computed from where none are given."""


class _Part(BaseModel):
    """Base of the mappings here: frozen, strict, no unknown keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


def _known(value: str, known: tuple[str, ...], what: str) -> str:
    if value in known:
        return value
    hint = did_you_mean(value, known) or f"; known are {', '.join(known)}"
    kind, text = "recipe", "{message}"
    raise PydanticCustomError(kind, text, {"message": f"unknown {what} {value!r}{hint}"})


def _checked_type(value: str) -> str:
    return _known(value, MAKEABLE_TYPES, "quantization type")


def _checked_tensor_type(value: str) -> str:
    return _known(value, OVERRIDE_TYPES, "tensor type")


def _checked_strategy(value: str) -> str:
    return _known(value, tuple(STRATEGIES), "strategy")


def _checked_pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        kind, text = "pattern", "{message}"
        message = f"{value!r} is not a regular expression: {error}"
        raise PydanticCustomError(kind, text, {"message": message}) from error
    return value


def _named_type(value: object) -> object:
    return {"type": value} if isinstance(value, str) else value


def _named_imatrix(value: object) -> object:
    if not isinstance(value, str):
        return value
    return {"file" if value.endswith(IMATRIX_SUFFIXES) else "text": value}


_TYPE_SCHEMA: dict[str, Any] = {"enum": list(MAKEABLE_TYPES)}
_PLAIN_TYPE_SCHEMA: dict[str, Any] = {"enum": list(PLAIN_TYPES)}
_TENSOR_TYPE_SCHEMA: dict[str, Any] = {"enum": list(OVERRIDE_TYPES)}

QuantizationName = Annotated[str, AfterValidator(_checked_type), WithJsonSchema(_TYPE_SCHEMA)]
TensorTypeName = Annotated[
    str, AfterValidator(_checked_tensor_type), WithJsonSchema(_TENSOR_TYPE_SCHEMA)
]
StrategyName = Annotated[
    str, AfterValidator(_checked_strategy), WithJsonSchema({"enum": list(STRATEGIES)})
]
Pattern = Annotated[str, Field(min_length=1), AfterValidator(_checked_pattern)]


class ImatrixOrigin(_Part):
    """Where an importance matrix comes from: a file, or a text that the unquantized model is run on."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["file"]}, {"required": ["text"]}]}
    )

    file: str | None = Field(
        default=None, min_length=1, description="Importance matrix made before (GGUF or .dat)"
    )
    text: str | None = Field(
        default=None,
        min_length=1,
        description="Text to compute it from: a UTF-8 file or builtin:python-docs",
    )
    chunks: int | None = Field(
        default=IMATRIX_CHUNKS,
        ge=1,
        description="Windows of the text that are read, from its start",
    )
    context: int = Field(default=512, ge=8, description="Window length in tokens")


ImatrixName = Annotated[
    ImatrixOrigin | None,
    BeforeValidator(_named_imatrix),
    WithJsonSchema({"anyOf": [{"type": "string"}, ImatrixOrigin.model_json_schema()]}),
]


class Quantize(_Part):
    """How to make a file from another one."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [{"required": ["type"]}, {"required": ["strategy"]}],
            "if": {
                "properties": {"type": {"not": _PLAIN_TYPE_SCHEMA}},
                "required": ["type"],
            },
            "then": {"required": ["imatrix"]},
        }
    )

    type: QuantizationName | None = Field(
        default=None, description="Quantization type as llama.cpp names it, such as Q4_K_M"
    )
    strategy: StrategyName | None = Field(
        default=None, description="Named mix of types; `type` and the keys below go before it"
    )
    imatrix: ImatrixName = Field(
        default=None,
        description=(
            "Importance matrix: a file (.gguf, .dat, .imatrix), a text to compute it from, or a"
            " mapping with `file`, or `text`, `chunks` and `context`"
        ),
    )
    overrides: dict[Pattern, TensorTypeName] = Field(
        default_factory=dict,
        description=(
            "Tensor types by a regular expression that is searched in tensor names; the first"
            " that fits counts"
        ),
    )
    output_tensor: TensorTypeName | None = Field(
        default=None, description="Tensor type of the output tensor"
    )
    embedding: TensorTypeName | None = Field(
        default=None, description="Tensor type of the token embeddings"
    )
    leave_output: bool = Field(default=False, description="Leave the output tensor as it is")
    pure: bool = Field(
        default=False, description="The type's base for all tensors, without its own mix"
    )
    allow_requantize: bool = Field(
        default=False, description="Quantize a model that is quantized already, which loses twice"
    )

    def recipe(self) -> Recipe:
        """Return what to do, but for the file of the importance matrix."""
        return recipe_for(
            type_name=self.type,
            strategy=self.strategy,
            overrides=tuple(
                TensorOverride(pattern=pattern, type=kind)
                for pattern, kind in self.overrides.items()
            ),
            output_tensor=self.output_tensor,
            embedding=self.embedding,
            leave_output=self.leave_output,
            pure=self.pure,
        )


Making = Annotated[Quantize, BeforeValidator(_named_type)]
MAKING_SCHEMA = WithJsonSchema({"anyOf": [_PLAIN_TYPE_SCHEMA, Quantize.model_json_schema()]})
MAKING_DESCRIPTION = (
    "How to make it: the name of a quantization type, or a mapping with `type` and further keys"
)
