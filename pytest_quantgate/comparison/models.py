"""The models of a comparison: files, and what is made from one source, each with a short name."""

from __future__ import annotations

from collections import Counter
from itertools import takewhile
from typing import TYPE_CHECKING

from pytest_quantgate.artifact.catalog import did_you_mean
from pytest_quantgate.artifact.quantization.recipe import FLOATS, recipe_for
from pytest_quantgate.errors import ArtifactError
from pytest_quantgate.plan import Making, ModelSource

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def named_models(
    sources: Sequence[str],
    *,
    source: str | None = None,
    types: Sequence[str] = (),
    allow_requantize: bool = False,
    baseline: str | None = None,
) -> tuple[ModelSource, ...]:
    """Return the models to compare, the reference first, each with a short name of its own.

    Args:
        sources: files, or ``package:<import name>/<file>``; their names are what their file names do
            not have in common.
        source: what the ``types`` are made from. Where the first type is F32, F16 or BF16 the others
            are made from that one, as variants are made from a specification's baseline.
        types: quantization types.
        allow_requantize: whether a quantized file may be made into another quantized type.
        baseline: name or source of the reference, by default the first model.

    Raises:
        ArtifactError: fewer than two models, two of one name, an unknown type or baseline, or types
            without a source and the reverse.
    """
    if bool(types) != (source is not None):
        message = (
            "--type says what to make of --source: name both, such as --source model-f16.gguf --type"
            " Q8_0 --type Q4_K_M"
        )
        raise ArtifactError(message)
    made = tuple(_made(source or "", types, allow_requantize=allow_requantize))
    taken = {model.name for model in made}
    named = [
        ModelSource(name=place if name in taken else name, source=place)
        for name, place in zip(_short_names(sources), sources, strict=True)
    ]
    models = [*named, *made]
    if len(models) < 2:  # noqa: PLR2004 - a comparison
        count = f"{len(models)} model{'s' * (len(models) != 1)}"
        message = f"{count} to compare; name two or more (paths, or --source and --type)"
        raise ArtifactError(message)
    twice = [name for name, count in Counter(model.name for model in models).items() if count > 1]
    if twice:
        message = f"two of the models are {twice[0]}; name each once"
        raise ArtifactError(message)
    if baseline is None:
        return tuple(models)
    for place, model in enumerate(models):
        if baseline in (model.name, model.source):
            return (model, *models[:place], *models[place + 1 :])
    known = [model.name for model in models]
    hint = did_you_mean(baseline, known) or f"; there are {', '.join(known)}"
    message = f"no model is called {baseline!r}{hint}"
    raise ArtifactError(message)


def _made(source: str, types: Sequence[str], *, allow_requantize: bool) -> Iterator[ModelSource]:
    first: ModelSource | None = None
    for name in types:
        making = Making(recipe=recipe_for(name), allow_requantize=allow_requantize)
        kind = making.recipe.type
        if first is None or first.making is None or first.making.recipe.type not in FLOATS:
            model = ModelSource(name=kind, source=source, making=making)
        else:
            model = ModelSource(name=kind, making=making, parent=first)
        first = first or model
        yield model


def _short_names(sources: Sequence[str]) -> list[str]:
    """Return file names without their ending and what all of them begin with."""
    stems = [name.rpartition("/")[2].removesuffix(".gguf") or name for name in sources]
    if len(set(stems)) < len(stems):
        return list(sources)
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*stems, strict=False))
    common = "".join(letters[0] for letters in same)
    # Cut behind a separator only: "model-Q4_0" and "model-Q4_1" are Q4_0 and Q4_1, not 0 and 1.
    cut = max(common.rfind(each) for each in "-. ") + 1
    short = [stem[cut:] for stem in stems]
    return short if len(stems) > 1 and all(short) else stems


def origin(model: ModelSource) -> str:
    """Return what a model was named as, or what it is made from and how."""
    source = model.source or (model.parent.name if model.parent is not None else "")
    return source if model.making is None else f"{source} as {model.quantize}"
