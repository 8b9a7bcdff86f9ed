"""What the keys of a specification demand of each other and of the places they name.

Each rule looks at what it needs and at nothing else, so that one mistake hides no other one: it
runs on the plain data, and leaves alone whatever was refused on the way there.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pytest_quantgate.artifact.catalog import (
    QUANTIZATION_TYPES,
    TENSOR_TYPES_BY_NAME,
    did_you_mean,
)
from pytest_quantgate.cases import BUILTIN_SETS
from pytest_quantgate.gates import GateSettings, kinds
from pytest_quantgate.spec.document import Document, Keys
from pytest_quantgate.spec.model import BUILTIN_CORPUS, shape_at

if TYPE_CHECKING:
    from pytest_quantgate.gates import Gate

Finding = tuple[Keys, str]

# Two characters at least, so that a drive letter is no scheme.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_PACKAGE = re.compile(r"package:([^/]*)/?(.*)")
_LOGITS_FILE = "logits_file"
"""The key of a gate that takes the baseline's predictions from a file."""
_TEXT_KEYS = frozenset({"corpus", "imatrix", "text"})
"""Keys that may name the built-in text."""
_CASES = "cases"
"""The key that may name a built-in set of cases."""
_FILE_KEYS = (
    frozenset(
        {"source", "sums", "file", "tasks", "task", "folder", "prompts", _CASES, _LOGITS_FILE}
    )
    | _TEXT_KEYS
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Where the files of a specification may be: ``root`` and ``base``, the folder of the file."""

    root: Path
    base: Path
    allow_outside: bool = False

    def escape(self, name: str) -> str | None:
        """Return where a path leads if that is outside, by its letters alone; None if inside."""
        target = normalized(self.base / name)
        folders = (normalized(self.base), normalized(self.root))
        if self.allow_outside or any(target.is_relative_to(folder) for folder in folders):
            return None
        return str(target)


def normalized(path: Path) -> Path:
    """Return the absolute path without ``..``, by its letters alone: symbolic links stay."""
    return Path(os.path.normpath(path.absolute()))


def broken_rules(document: Document, data: object, bounds: Bounds) -> Iterator[Finding]:
    """Yield each breach of a rule with the way to the value it is about."""
    spec = _mapping(data)
    yield from _file_names(spec.get("defaults"), ("defaults",), bounds)
    for name, model in _mapping(spec.get("models")).items():
        yield from _model(document, _mapping(model), ("models", name), bounds)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _model(
    document: Document, model: Mapping[str, Any], keys: Keys, bounds: Bounds
) -> Iterator[Finding]:
    baseline = model.get("baseline")
    yield from _baseline(document, baseline, (*keys, "baseline"), bounds)
    yield from _gates(document, model, model.get("gates"), (*keys, "gates"), bounds)
    for name, variant in _mapping(model.get("variants")).items():
        at = (*keys, "variants", name)
        yield from _file_names(variant, at, bounds)
        yield from _making(document, variant, at, bounds)
        yield from _variant(document, variant, baseline, at)
        if "gates" in _mapping(variant):
            yield from _gates(document, model, variant["gates"], (*at, "gates"), bounds)


def _baseline(
    document: Document, baseline: object, keys: Keys, bounds: Bounds
) -> Iterator[Finding]:
    yield from _file_names(baseline, keys, bounds)
    yield from _making(document, baseline, keys, bounds)
    if not isinstance(baseline, Mapping) or not _trusted(document, keys):
        return
    if "source" not in baseline and "metrics" not in baseline:
        yield (
            keys,
            "the baseline needs `source` (a model file) or `metrics` (its figures as numbers)",
        )
    elif "source" not in baseline and "quantize" in baseline:
        yield (*keys, "quantize"), "`quantize` of the baseline needs a `source` to be made from"
    if baseline.get("metrics") == {}:
        yield (*keys, "metrics"), "'metrics' is empty; give at least one figure, or remove it"


def _making(document: Document, owner: object, keys: Keys, bounds: Bounds) -> Iterator[Finding]:
    """Yield what is wrong with the `quantize` of a baseline or a variant."""
    at = (*keys, "quantize")
    raw = _mapping(owner).get("quantize")
    if isinstance(raw, str) and raw in QUANTIZATION_TYPES:
        yield from _type_demands(raw, {}, at)
    making = _mapping(raw)
    yield from _file_names(making, at, bounds)
    yield from _file_names(making.get("imatrix"), (*at, "imatrix"), bounds)
    if not isinstance(raw, Mapping) or not _trusted(document, at):
        return
    name = making.get("type")
    if name is None and "strategy" not in making:
        yield at, f"'quantize' of {keys[-1]!r} needs a `type`, such as Q4_K_M, or a `strategy`"
    kind = QUANTIZATION_TYPES.get(name) if isinstance(name, str) else None
    if kind is not None:
        yield from _type_demands(kind.name, making, at)
    if making.get("leave_output") is True and "output_tensor" in making:
        message = "'leave_output' and 'output_tensor' say different things; keep one of them"
        yield (*at, "leave_output"), message
    imatrix = making.get("imatrix")
    if isinstance(imatrix, Mapping) and _trusted(document, (*at, "imatrix")):
        yield from _imatrix(imatrix, (*at, "imatrix"))


def _type_demands(name: str, making: Mapping[str, Any], keys: Keys) -> Iterator[Finding]:
    kind = QUANTIZATION_TYPES[name]
    if kind.needs_imatrix and "imatrix" not in making:
        message = (
            f"quantization type {name!r} needs an importance matrix; add `imatrix` with a file or a"
            " text to compute it from, such as `imatrix: builtin:python-docs`"
        )
        yield keys, message
    if TENSOR_TYPES_BY_NAME[kind.base].quantized:
        return
    for key in ("imatrix", "overrides", "output_tensor", "embedding", "pure", "strategy"):
        if making.get(key):
            message = f"{key!r} has no effect on type {name}, which is not quantized; remove it"
            yield (*keys, key), message


def _imatrix(imatrix: Mapping[str, Any], keys: Keys) -> Iterator[Finding]:
    if ("file" in imatrix) == ("text" in imatrix):
        yield keys, "'imatrix' needs either a `file`, or a `text` to compute it from"
    elif "file" in imatrix:
        for key in ("chunks", "context"):
            if key in imatrix:
                message = f"{key!r} is about a `text`, and the importance matrix is a `file`"
                yield (*keys, key), message


def _variant(
    document: Document, variant: object, baseline: object, keys: Keys
) -> Iterator[Finding]:
    if not isinstance(variant, Mapping) or not _trusted(document, keys):
        return
    if "source" in variant:
        return
    if "quantize" not in variant:
        message = "needs `source` (a model file) or `quantize` (how to make it from the baseline)"
        yield keys, f"variant {keys[-1]!r} {message}"
    elif "source" not in _mapping(baseline) and _baseline_is_told(document, keys):
        message = (
            f"variant {keys[-1]!r} is made from the baseline, and model {keys[1]!r} has no baseline"
            " with a `source`; add one, or give the variant its own `source`"
        )
        yield (*keys, "quantize"), message


def _trusted(document: Document, keys: Keys) -> bool:
    """Tell whether what a mapping lacks is really absent, not just refused or misspelled."""
    node, shape = document.node(keys), shape_at(keys)
    if node is None or shape is None:
        return node is None
    return (
        not node.broken
        and isinstance(node.value, Mapping)
        and node.value.keys() <= shape.model_fields.keys()
    )


def _baseline_is_told(document: Document, keys: Keys) -> bool:
    """Tell whether a model, named by the first two keys, says all it has to say of its baseline."""
    model = keys[:2]
    return _trusted(document, model) and _trusted(document, (*model, "baseline"))


def _gates(
    document: Document, model: Mapping[str, Any], gates: object, keys: Keys, bounds: Bounds
) -> Iterator[Finding]:
    if gates == {} and not getattr(document.node(keys), "broken", False):
        yield keys, "'gates' is empty; give at least one of " + ", ".join(kinds())
    for name, settings in _mapping(gates).items():
        at = (*keys, name)
        yield from _file_names(settings, at, bounds)
        node = document.node(at)
        if name in kinds() and node is not None and node.clean():
            yield from _gate(document, model, settings, at)


def _gate(
    document: Document, model: Mapping[str, Any], raw: object, keys: Keys
) -> Iterator[Finding]:
    name = str(keys[-1])
    kind = kinds()[name]
    try:
        settings = kind.settings.model_validate(raw)
    except ValidationError:
        return
    limits = settings.limits_given()
    if settings.limit_names and not limits:
        yield keys, f"gate {name!r} has no limit; give one of {', '.join(settings.limit_names)}"
    if not kind.needs_baseline(settings) or not _baseline_is_told(document, keys):
        return
    baseline = _mapping(model.get("baseline"))
    if "source" in baseline or kind.metric in _mapping(baseline.get("metrics")):
        return
    relative = [limit for limit in limits if _compares(kind, settings, limit)]
    alone = [limit for limit in settings.limit_names if limit not in _relative_limits(kind)]
    at = (*keys, relative[0]) if relative else keys
    what = f"{relative[0]!r} of gate {name!r}" if relative else f"gate {name!r}"
    advice = "give the model a `baseline` with a `source`"
    if kind.metric:
        advice += f" or with `metrics: {{{kind.metric}: ...}}`"
    if _LOGITS_FILE in kind.settings.model_fields:
        advice += f", or the gate a `{_LOGITS_FILE}`"
    if alone:
        advice += f", or use a limit that stands alone ({', '.join(alone)})"
    yield at, f"{what} compares with a baseline, and model {keys[1]!r} has none for it; {advice}"


def _compares(kind: Gate[Any, Any], settings: GateSettings, limit: str) -> bool:
    others = {name: None for name in settings.limit_names if name != limit}
    return kind.needs_baseline(settings.model_copy(update=others))


def _relative_limits(kind: Gate[Any, Any]) -> frozenset[str]:
    """Return the limits of a kind that compare with the baseline, by asking for each alone."""
    names = kind.settings.limit_names
    return frozenset(
        name
        for name in names
        if kind.needs_baseline(kind.settings.model_construct(**{**dict.fromkeys(names), name: 1.0}))
    )


def _file_names(part: object, keys: Keys, bounds: Bounds) -> Iterator[Finding]:
    for key, value in _mapping(part).items():
        if key in _FILE_KEYS and isinstance(value, str) and value:
            message = _file_name(key, value, bounds)
            if message:
                yield (*keys, key), message


def _file_name(key: str, value: str, bounds: Bounds) -> str | None:
    scheme = _SCHEME.match(value)
    if scheme is None:
        return _path(key, value, bounds)
    if scheme[1] == "package":
        return _package(key, value)
    if scheme[1] == "builtin":
        if key == _CASES:
            hint = did_you_mean(value, BUILTIN_SETS) or f"; there is {', '.join(BUILTIN_SETS)}"
            return None if value in BUILTIN_SETS else f"no built-in set of cases {value!r}{hint}"
        if key not in _TEXT_KEYS:
            return f"{key!r} names a file, and {value!r} is a built-in text"
        known = f"the built-in text is {BUILTIN_CORPUS!r}"
        return None if value == BUILTIN_CORPUS else f"no built-in text {value!r}; {known}"
    return (
        f"{key!r} is {value!r}, and {scheme[1]}: names are not supported in this version;"
        " use a path or package:<import name>/<file>"
    )


def _package(key: str, value: str) -> str | None:
    match = _PACKAGE.fullmatch(value)
    module, file = (match[1], match[2]) if match else ("", "")
    parts = file.split("/")
    if not file or not all(part.isidentifier() for part in module.split(".")):
        return f"{key!r} is {value!r}; write package:<import name>/<file>"
    if any(part in {"", ".", ".."} for part in parts):
        return f"{key!r} points outside the package: {value!r}; name a file below its folder"
    return None


def _path(key: str, value: str, bounds: Bounds) -> str | None:
    if value.startswith("~"):
        return f"{key!r} is {value!r}, and `~` is not expanded; write a path relative to this file"
    target = bounds.escape(value)
    if target is None:
        return None
    return (
        f"{key!r} points outside the project: {value!r} is {target}; use a file below"
        f" {normalized(bounds.root)}, or package:<import name>/<file>"
    )
