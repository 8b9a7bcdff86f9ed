"""The shape of a specification: which keys there are and what each may hold.

The JSON schema that editors use is generated from these classes, so every field says what it is
for. What one key demands of another (a limit against a baseline needs a baseline) is in `rules`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    create_model,
)
from pydantic_core import PydanticCustomError

from pytest_quantgate.gates import GateSettings, kinds
from pytest_quantgate.spec.recipe import MAKING_DESCRIPTION, MAKING_SCHEMA, Making

NAME_PATTERN = "^[A-Za-z0-9._+-]+$"
"""Names become parts of test ids, of `-k` expressions and of file names."""

BUILTIN_CORPUS = "builtin:python-docs"
"""The text that every Python brings along: the prose of its language reference."""


class _Part(BaseModel):
    """Base of every part of a specification: frozen, strict, no unknown keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


def _checked_name(value: str) -> str:
    if not re.fullmatch(NAME_PATTERN, value):
        kind, text = "name", "the name {shown} may hold letters, digits and . _ + - only"
        raise PydanticCustomError(kind, text, {"shown": repr(value)})
    return value


def _checked_version(value: object) -> object:
    # A Literal would take True and 1.0 for 1.
    if type(value) is int and value == 1:
        return value
    kind, text = "version", "this version reads format 1 only; write `quantgate: 1`"
    raise PydanticCustomError(kind, text)


Name = Annotated[str, AfterValidator(_checked_name)]

_NAMES: dict[str, Any] = {"propertyNames": {"pattern": NAME_PATTERN}}


_SOURCE = "Model file: a path relative to this file, or package:<import name>/<file>"


class Metrics(_Part):
    """Figures of a baseline written down as numbers instead of measured."""

    perplexity: float | None = Field(
        default=None, gt=1, description="Perplexity of the baseline on the same text"
    )
    accuracy: float | None = Field(
        default=None, ge=0, le=1, description="Share of the cases the baseline answers right"
    )
    latency_ms: float | None = Field(
        default=None, gt=0, description="Median request time of the baseline, in milliseconds"
    )
    memory_mb: float | None = Field(
        default=None, gt=0, description="Peak memory of the baseline in MB (1,048,576 bytes)"
    )

    def given(self) -> dict[str, float]:
        """Return the figures that are set, by name."""
        return {name: value for name, value in self if value is not None}


class Defaults(_Part):
    """What holds for every gate that does not say otherwise."""

    corpus: str = Field(
        default=BUILTIN_CORPUS,
        min_length=1,
        description=f"Text that likelihoods are measured on: a UTF-8 file or {BUILTIN_CORPUS}",
    )
    context: int = Field(default=512, ge=8, description="Context length in tokens")
    threads: int | None = Field(
        default=None,
        ge=1,
        description="Compute threads; by default the processors this process may use",
    )
    timeout: float = Field(
        default=1800.0, gt=0, description="Longest time one gate may take, in seconds"
    )


class Baseline(_Part):
    """What the variants of a model are compared with."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [{"required": ["source"]}, {"required": ["metrics"]}],
            "dependentRequired": {"quantize": ["source"]},
        }
    )

    source: str | None = Field(default=None, min_length=1, description=_SOURCE)
    quantize: Annotated[Making | None, MAKING_SCHEMA] = Field(
        default=None, description=MAKING_DESCRIPTION
    )
    metrics: Metrics | None = Field(
        default=None,
        description="Figures of the baseline as numbers; they are used instead of measuring it",
        json_schema_extra={"minProperties": 1},
    )


class GatesBase(_Part):
    """The gates of a model or variant: one optional key for each kind of gate."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    def given(self) -> dict[str, GateSettings]:
        """Return the settings of the gates that are set, by the name of the gate."""
        return {name: value for name, value in self if value is not None}


if TYPE_CHECKING:
    Gates = GatesBase
else:
    Gates = create_model(
        "Gates",
        __base__=GatesBase,
        __doc__=GatesBase.__doc__,
        **{
            name: (kind.settings, Field(default=None, description=kind.settings.__doc__))
            for name, kind in kinds().items()
        },
    )


class Variant(_Part):
    """One quantized file of a model: made elsewhere, or made from the baseline."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": ["source"]}, {"required": ["quantize"]}]}
    )

    source: str | None = Field(default=None, min_length=1, description=_SOURCE)
    quantize: Annotated[Making | None, MAKING_SCHEMA] = Field(
        default=None, description=MAKING_DESCRIPTION
    )
    gates: Gates | None = Field(
        default=None,
        description="Gates of this variant; each replaces the model's gate of its kind",
    )


class Model(_Part):
    """A model, its variants, and the gates that each of them must pass."""

    baseline: Baseline | None = Field(
        default=None, description="What the variants are compared with"
    )
    variants: dict[Name, Variant] = Field(
        min_length=1,
        description="Variants to hold against the gates, by name",
        json_schema_extra=_NAMES,
    )
    gates: Gates = Field(description="Gates that every variant of the model must pass")


class Spec(_Part):
    """Quality gates for quantized language models, as pytest-quantgate reads them."""

    quantgate: Annotated[Literal[1], BeforeValidator(_checked_version)] = Field(
        description="Version of this format"
    )
    defaults: Defaults = Field(
        default_factory=Defaults,
        description="What holds for every gate that does not say otherwise",
    )
    models: dict[Name, Model] = Field(
        min_length=1,
        description="Models to hold against their gates, by name",
        json_schema_extra=_NAMES,
    )


def shape_at(keys: tuple[str | int, ...]) -> type[BaseModel] | None:
    """Return the class of the mapping that stands at the end of a way, or None if none does."""
    shape: Any = Spec
    for key in keys:
        if isinstance(shape, type) and issubclass(shape, BaseModel):
            field = shape.model_fields.get(str(key))
            shape = None if field is None else _mapping_in(field.annotation)
        else:
            shape = None if shape is None else _mapping_in(shape.__args__[1])
    return cast("type[BaseModel]", shape) if isinstance(shape, type) else None


def _mapping_in(annotation: Any) -> Any:  # noqa: ANN401 - annotations have no common type
    """Return the class, or the ``dict[...]``, that an annotation allows among other things."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if getattr(annotation, "__origin__", None) is dict:
        return annotation
    found = (_mapping_in(part) for part in getattr(annotation, "__args__", ()))
    return next((part for part in found if part is not None), None)
