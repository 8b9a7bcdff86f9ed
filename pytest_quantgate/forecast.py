"""`quantgate plan` and `quantgate calibrate`: a specification's pilots, gate by gate, as texts."""

from __future__ import annotations

import contextlib
import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate import calibration
from pytest_quantgate.baseline import Store
from pytest_quantgate.errors import QuantgateError
from pytest_quantgate.gate import GateRunner
from pytest_quantgate.plan import plan
from pytest_quantgate.prepare import engine_name
from pytest_quantgate.report import forecast
from pytest_quantgate.spec import load_spec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pytest_quantgate.plan import GateCase
    from pytest_quantgate.records import Pilot

    Say = Callable[[str], None]

Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A planned specification with what measures its gates."""

    cases: tuple[GateCase, ...]
    runner: GateRunner


@contextlib.contextmanager
def opened(
    spec: Path,
    *,
    store: Path,
    roots: Sequence[Path] = (),
    threads: int | None = None,
    timeout: float | None = None,
) -> Iterator[Project]:
    """Plan a specification for measuring outside of pytest; probes end with the context.

    Names in it may lead into the folder the command is run in, that of the specification, and
    ``roots``.

    Raises:
        SpecError: it cannot be used.
    """
    path = spec.absolute()
    here = Path.cwd()
    root = here if path.is_relative_to(here) else path.parent
    parsed = load_spec(path, root=root, allow_outside=bool(roots))
    cases = plan(parsed)
    folder = Store(store.absolute())
    runner = GateRunner(
        cases,
        store=folder,
        roots=(root, folder.root, *(each.absolute() for each in roots)),
        threads=threads,
        timeout=timeout,
    )
    try:
        yield Project(cases=cases, runner=runner)
    finally:
        runner.close()


def plan_text(project: Project, *, say: Say) -> str:
    """Return what a run will cost and can tell; pilots that are not stored are measured, a block each.

    A gate whose pilot cannot be measured is listed with the reason: a plan leaves no gate out.
    """
    pilots, reasons = _pilots(project, chunks=calibration.PLANNED_CHUNKS, say=say, anew=False)
    sampled = {case.key for case in calibration.sampled_cases(project.cases)}
    others = [case.key for case in project.cases if case.key not in sampled]
    return forecast.prospects(pilots, reasons, others=others)


def calibration_text(project: Project, *, chunks: int, say: Say) -> tuple[str, str]:
    """Return what was measured of every gate that draws from a text, and the limits proposed from it.

    Raises:
        QuantgateError: a noise floor cannot be measured.
    """
    parts: list[str] = []
    for model, floor in calibration.noise_floors(project.runner, project.cases, say=say):
        parts.append(forecast.noise(model, floor))
    pilots, reasons = _pilots(project, chunks=chunks, say=say, anew=True)
    parts += [forecast.calibrated(key, pilot) for key, pilot in pilots.items()]
    parts += [f"{'::'.join(key)}: {reason}\n" for key, reason in reasons.items()]
    today = dt.datetime.now(dt.timezone.utc).date().isoformat()
    return "".join(parts), forecast.proposals(pilots, reason=f"{today}, {engine_name()}")


def _pilots(
    project: Project, *, chunks: int, say: Say, anew: bool
) -> tuple[dict[Key, Pilot], dict[Key, str]]:
    pilots: dict[Key, Pilot] = {}
    reasons: dict[Key, str] = {}
    for case in calibration.sampled_cases(project.cases):
        found = _pilot(project, case, chunks=chunks, say=say, anew=anew)
        if isinstance(found, str):
            reasons[case.key] = found
        else:
            pilots[case.key] = found
    return pilots, reasons


def _pilot(project: Project, case: GateCase, *, chunks: int, say: Say, anew: bool) -> Pilot | str:
    """Return a pilot, or why there is none."""
    try:
        stored = None if anew else project.runner.kept(case)
        if stored is not None:
            return stored
        say(f"measuring up to {chunks} chunks for {case.id}")
        return calibration.measure_pilot(project.runner, case, chunks=chunks)
    except QuantgateError as error:
        return f"{type(error).__name__}: {error}"
