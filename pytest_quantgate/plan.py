"""From a specification to the gates that will be run, in order; pure."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_quantgate.errors import Problem, SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pytest_quantgate.gates import GateSettings
    from pytest_quantgate.records import Location, Recipe
    from pytest_quantgate.spec import Baseline, Defaults, Model, ParsedSpec, Quantize, Variant

MAX_CASES = 10_000
"""Gates one specification may have; more are a slip, and no machine would come to their end."""

BASELINE = "baseline"
FIRST_GATES = ("checksum", "kld", "perplexity")
"""Gates that run before the others of their variant, in this order.

A file that fails its checksum must not be loaded by any of them. A divergence in lockstep brings the
likelihoods of both models along, so that the windows a perplexity gate wants are measured already.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImatrixSource:
    """Where an importance matrix comes from: a ``file``, or a ``text`` that the model is run on.

    Of a text, the first ``chunks`` windows of ``context`` tokens are read; all of them for None.
    """

    file: str | None = None
    text: str | None = None
    chunks: int | None = None
    context: int = 512

    def __str__(self) -> str:
        """Name the file or the text."""
        return self.file or self.text or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """How a model is made from another: a recipe, and what its importance matrix comes from."""

    recipe: Recipe
    imatrix: ImatrixSource | None = None
    allow_requantize: bool = False

    @property
    def type_name(self) -> str:
        """The quantization type."""
        return self.recipe.type

    def __str__(self) -> str:
        """Return the type, and behind it whatever else the recipe says."""
        recipe = self.recipe
        said = [f"{each.pattern}={each.type}" for each in recipe.overrides]
        said += [f"imatrix {self.imatrix}"] if self.imatrix else []
        said += [f"output {recipe.output_tensor}"] if recipe.output_tensor else []
        said += [f"embedding {recipe.embedding}"] if recipe.embedding else []
        said += ["output left"] if recipe.leave_output else []
        said += ["pure"] if recipe.pure else []
        name = f"{recipe.strategy} {recipe.type}".strip()
        return f"{name} ({', '.join(said)})" if said else name


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Where a model comes from: a ``source``, or the ``parent`` it is made from by ``making``.

    With both ``source`` and ``making`` it is made from its own source. ``name`` is the variant's,
    or ``baseline``.
    """

    name: str
    source: str | None = None
    making: Making | None = None
    parent: ModelSource | None = None

    @property
    def quantize(self) -> str | None:
        """What a variant is made as, for people and for committed headers; None for a file."""
        return None if self.making is None else str(self.making)


@dataclass(frozen=True, slots=True, kw_only=True)
class GateCase:
    """One gate of one variant of one model, with all it takes to run it.

    ``literals`` are the figures of the baseline that are given as numbers; ``location`` is where
    the gate is written, in the specification that messages call ``spec``; ``base`` is the folder
    that names are relative to; ``verify`` tells that the variant has a checksum gate, so that no
    other gate may load a file that fails it.
    """

    model: str
    variant: str
    gate: str
    settings: GateSettings
    candidate: ModelSource
    baseline: ModelSource | None
    literals: Mapping[str, float]
    location: Location
    spec: str
    base: Path
    defaults: Defaults
    verify: bool

    @property
    def key(self) -> tuple[str, str, str]:
        """Names of model, variant and gate."""
        return (self.model, self.variant, self.gate)

    @property
    def id(self) -> str:
        """The key as test ids have it: ``model::variant::gate``."""
        return "::".join(self.key)


def plan(parsed: ParsedSpec) -> tuple[GateCase, ...]:
    """Return the gates of a specification in its order, but `FIRST_GATES` of a variant first.

    Raises:
        SpecError: for more than `MAX_CASES` gates, and for none.
    """
    planned = [
        (model_name, variant_name, _gate_places(parsed, model_name, variant_name))
        for model_name, model in parsed.spec.models.items()
        for variant_name in model.variants
    ]
    count = sum(len(places) for _, _, places in planned)
    if not 0 < count <= MAX_CASES:
        message = (
            f"the specification has {count:,} gates (variants times gates), and {MAX_CASES:,} are"
            " the most; split it"
        )
        raise SpecError([Problem(location=parsed.location("models"), message=message)])
    return tuple(
        case
        for model_name, variant_name, places in planned
        for case in _cases(parsed, model_name, variant_name, places)
    )


def _gate_places(parsed: ParsedSpec, model: str, variant: str) -> dict[str, tuple[str, ...]]:
    """Return where each gate of a variant is written, the variant's own before the model's."""
    places: dict[str, tuple[str, ...]] = {}
    for owner in (("models", model), ("models", model, "variants", variant)):
        at = (*owner, "gates")
        places |= {gate: (*at, gate) for gate in parsed.keys(*at)}
    first = {gate: rank for rank, gate in enumerate(FIRST_GATES)}
    return dict(sorted(places.items(), key=lambda item: first.get(item[0], len(first))))


def _cases(
    parsed: ParsedSpec, model_name: str, variant_name: str, places: Mapping[str, tuple[str, ...]]
) -> Iterator[GateCase]:
    model = parsed.spec.models[model_name]
    variant = model.variants[variant_name]
    baseline = _baseline(model.baseline)
    candidate = ModelSource(
        name=variant_name,
        source=variant.source,
        making=_making(variant.quantize),
        parent=baseline if variant.source is None else None,
    )
    settings = _settings(model, variant)
    metrics = model.baseline.metrics if model.baseline else None
    literals = MappingProxyType(metrics.given() if metrics else {})
    for gate, place in places.items():
        yield GateCase(
            model=model_name,
            variant=variant_name,
            gate=gate,
            settings=settings[gate],
            candidate=candidate,
            baseline=baseline,
            literals=literals,
            location=parsed.location(*place),
            spec=parsed.shown,
            base=parsed.base,
            defaults=parsed.spec.defaults,
            verify="checksum" in places,
        )


def _baseline(baseline: Baseline | None) -> ModelSource | None:
    if baseline is None or baseline.source is None:
        return None
    return ModelSource(name=BASELINE, source=baseline.source, making=_making(baseline.quantize))


def _making(quantize: Quantize | None) -> Making | None:
    if quantize is None:
        return None
    imatrix = quantize.imatrix
    return Making(
        recipe=quantize.recipe(),
        imatrix=None if imatrix is None else ImatrixSource(**imatrix.model_dump()),
        allow_requantize=quantize.allow_requantize,
    )


def _settings(model: Model, variant: Variant) -> dict[str, GateSettings]:
    own = variant.gates.given() if variant.gates else {}
    return {**model.gates.given(), **own}
