"""From what an author wrote, in YAML or in Python, to a specification that can be acted upon.

Reading ends in one of two ways: a `ParsedSpec`, or one `SpecError` with every problem in its place.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from pytest_quantgate.errors import Problem, SpecError
from pytest_quantgate.records import Location
from pytest_quantgate.spec.diagnosis import empty_values, shape_problems
from pytest_quantgate.spec.mapping import scan_mapping
from pytest_quantgate.spec.model import (
    Baseline,
    Defaults,
    Gates,
    Metrics,
    Model,
    Spec,
    Variant,
)
from pytest_quantgate.spec.recipe import ImatrixOrigin, Quantize
from pytest_quantgate.spec.rules import Bounds, broken_rules, normalized
from pytest_quantgate.spec.schema import json_schema, schema_text
from pytest_quantgate.spec.text import MAX_BYTES, scan_document

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from pytest_quantgate.spec.document import Document

__all__ = [
    "Baseline",
    "Defaults",
    "Gates",
    "ImatrixOrigin",
    "Metrics",
    "Model",
    "ParsedSpec",
    "Quantize",
    "Spec",
    "Variant",
    "json_schema",
    "load_spec",
    "schema_text",
    "spec_from_mapping",
]

MAX_PROBLEMS = 100
"""Problems that are told at once; whoever has more of them has one that repeats itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedSpec:
    """A specification without problems, and where its parts are written.

    ``path`` is the file, or stands for the Python mapping it came from; ``base`` is the folder that
    relative names in it are resolved against; ``shown`` is the path as messages have it.
    """

    spec: Spec
    path: Path
    base: Path
    shown: str
    document: Document

    def location(self, *keys: str) -> Location:
        """Return where a key is written, such as ``("models", "tiny", "gates", "perplexity")``."""
        return self.document.location(keys)

    def keys(self, *keys: str) -> tuple[str, ...]:
        """Return the keys of the mapping at the end of a way, in the order they are written."""
        node = self.document.node(keys)
        return () if node is None or not isinstance(node.value, dict) else tuple(node.value)


def load_spec(path: Path, *, root: Path | None = None, allow_outside: bool = False) -> ParsedSpec:
    """Read a specification file.

    Args:
        path: the file.
        root: the folder that files named in the specification must be in, such as the project's;
            the folder of the specification is allowed as well, and the default. Only the letters
            of the names count here; whoever opens the files looks at symbolic links.
        allow_outside: whether files may be anywhere.

    Raises:
        SpecError: with every problem of the specification.
    """
    base = path.parent
    root = base if root is None else root
    shown = _shown(path, root)
    document, problems = scan_document(_contents(path, shown), path=shown)
    bounds = Bounds(root=root, base=base, allow_outside=allow_outside)
    spec = _checked(document, problems, bounds)
    return ParsedSpec(spec=spec, path=path, base=base, shown=shown, document=document)


def spec_from_mapping(
    data: Mapping[str, object],
    *,
    origin: str,
    base: Path,
    root: Path | None = None,
    allow_outside: bool = False,
) -> ParsedSpec:
    """Read a specification that was built in Python.

    Args:
        data: what a YAML file would hold, as mappings, lists, texts, paths and numbers.
        origin: what messages call it by, such as ``conftest.py``.
        base: the folder that relative names are resolved against.
        root: as in `load_spec`.
        allow_outside: as in `load_spec`.

    Raises:
        SpecError: with every problem of the specification.
    """
    document, problems = scan_mapping(data, origin=origin)
    bounds = Bounds(root=base if root is None else root, base=base, allow_outside=allow_outside)
    spec = _checked(document, problems, bounds)
    return ParsedSpec(spec=spec, path=base / origin, base=base, shown=origin, document=document)


def _contents(path: Path, shown: str) -> bytes:
    try:
        with path.open("rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                reason = "not a regular file"
            else:
                return file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = error.strerror or str(error)
    message = f"the specification cannot be read: {reason}"
    raise SpecError([Problem(location=Location(path=shown), message=message)])


def _shown(path: Path, root: Path) -> str:
    file, folder = normalized(path), normalized(root)
    return str(file.relative_to(folder)) if file.is_relative_to(folder) else str(path)


def _checked(document: Document, problems: list[Problem], bounds: Bounds) -> Spec:
    data = document.root.plain()
    problems = [*problems, *empty_values(document)]
    spec = None
    try:
        spec = Spec.model_validate(data)
    except ValidationError as error:
        problems += shape_problems(document, error)
    problems += [
        document.problem(keys, message) for keys, message in broken_rules(document, data, bounds)
    ]
    if problems:
        raise SpecError(_in_order(problems))
    if spec is None:
        message = "the specification is not valid, for a reason that could not be told"
        raise SpecError([document.problem((), message)])
    return spec


def _in_order(problems: Iterable[Problem]) -> list[Problem]:
    """Sort by place, without what an alias shows a second time."""
    distinct = dict.fromkeys(problems)
    ordered = sorted(distinct, key=lambda problem: _place(problem.location))
    if len(ordered) > MAX_PROBLEMS:
        left = len(ordered) - MAX_PROBLEMS
        path = ordered[0].location.path
        more = Problem(location=Location(path=path), message=f"and {left} more problems")
        ordered = [*ordered[:MAX_PROBLEMS], more]
    return ordered


def _place(location: Location) -> tuple[int, int]:
    return location.line or 0, location.column or 0
