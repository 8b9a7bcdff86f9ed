"""Before a run: what limits can tell, what a verdict will cost, and which limits would hold.

A *pilot* measures a few dozen chunks of each gate that draws from a text, whatever its limits are. From
its spread follow the smallest effect a limit can tell from none, the chunks a verdict will take, and
limits that the variant would keep. The *noise floor* is how far the baseline is from itself when nothing
but batch size and thread count change; a limit inside it decides nothing.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from pytest_quantgate import gates, paired, sampling, stats
from pytest_quantgate.errors import MeasurementError
from pytest_quantgate.gates.perplexity import POLICIES
from pytest_quantgate.limits import MaximumLimit, PercentileLimit
from pytest_quantgate.records import Outcome, Pilot, PilotLimit, TextRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pytest_quantgate.gate import GateRunner
    from pytest_quantgate.gates import GateSettings
    from pytest_quantgate.limits import Draw, SampledLimit
    from pytest_quantgate.plan import GateCase
    from pytest_quantgate.records import NoiseFloor

PILOT_CHUNKS = 32
"""Chunks a pilot measures unless told otherwise."""

PLANNED_CHUNKS = sampling.BLOCK
"""Chunks that planning measures where nothing is stored: the first block, which the run takes over."""

NOISE_CHUNKS = sampling.BLOCK
"""Chunks that a model is compared with itself on."""

PROPOSED_LOOK = 64
"""A proposed limit is one that the variant would pass at this many chunks, four times in five."""

NEVER = 1 - 1e-12
"""A confidence that a pilot cannot reach, so that it measures all it was asked to."""


def sampled_cases(cases: Sequence[GateCase]) -> tuple[GateCase, ...]:
    """Return the gates that draw from a text."""
    return tuple(case for case in cases if _drawing(case.settings) is not None)


def measure_pilot(runner: GateRunner, case: GateCase, *, chunks: int = PILOT_CHUNKS) -> Pilot:
    """Measure the first chunks of a gate's order and store what they say of its limits.

    Raises:
        MeasurementError: the gate draws from no text.
        QuantgateError: the chunks cannot be measured.
    """
    settings = _sampling(case)
    opened = _opened(case.settings).model_copy(
        update={
            "max_chunks": chunks
            if settings.max_chunks is None
            else min(chunks, settings.max_chunks),
            "pass_confidence": NEVER,
            "fail_confidence": NEVER,
        }
    )
    measured = runner.measure(dataclasses.replace(case, settings=opened))
    kind = gates.kinds()[case.gate]
    found = kind.sampled(case.settings, measured.evidence)
    if found is None:
        raise MeasurementError(_NOT_SAMPLED.format(case=case.id))
    plan = sampling.schedule(found.draw.population, max_chunks=settings.max_chunks)
    draw = dataclasses.replace(
        found.draw,
        looks=plan.statistical_looks,
        pass_confidence=settings.pass_confidence,
        fail_confidence=settings.fail_confidence,
    )
    floor = None
    if kind.compares_windows and case.baseline is not None:
        floor = measured.bench.noise_floor(paired.text_request(measured.bench, settings))
    effect_at = min(PROPOSED_LOOK, plan.budget)
    pilot = Pilot(
        limits=tuple(_seen(limit, draw, effect_at, floor) for limit in found.limits),
        chunks=found.chunks,
        population=found.draw.population,
        budget=plan.budget,
        looks=plan.statistical_looks,
        effect_at=effect_at,
        seconds_per_chunk=found.seconds / found.chunks,
    )
    runner.keep(case, pilot)
    return pilot


def noise_floors(
    runner: GateRunner, cases: Sequence[GateCase], *, say: Callable[[str], None]
) -> Iterator[tuple[str, NoiseFloor]]:
    """Measure and store the noise floor of every baseline on every text its gates draw from.

    Raises:
        QuantgateError: a baseline cannot be measured.
    """
    groups: dict[tuple[str, TextRequest], list[GateCase]] = {}
    for case in sampled_cases(cases):
        if case.baseline is not None and gates.kinds()[case.gate].compares_windows:
            text = paired.text_request(runner.bench(case), _sampling(case))
            digest = runner.prepare(case.baseline).digest
            groups.setdefault((digest, text), []).append(case)
    for (_, text), group in groups.items():
        first, settings = group[0], _sampling(group[0])
        say(f"measuring the noise floor of {first.model}'s baseline")
        facts = runner.bench(first).text("baseline", text)
        population = paired.population(facts.chunks, settings.chunks)
        order = sampling.order(settings.seed, population)[:NOISE_CHUNKS]
        floor = runner.noise_floor(group, text, order)
        yield f"{first.model}, {settings.corpus or first.defaults.corpus}", floor


def _drawing(settings: object) -> sampling.SamplingSettings | None:
    return settings if isinstance(settings, sampling.SamplingSettings) else None


def _sampling(case: GateCase) -> sampling.SamplingSettings:
    settings = _drawing(case.settings)
    if settings is None:
        raise MeasurementError(_NOT_SAMPLED.format(case=case.id))
    return settings


_NOT_SAMPLED = "{case} draws from no text, so there is nothing to calibrate"


def _opened(settings: GateSettings) -> GateSettings:
    """Return the settings with limits that nothing can miss, so that nothing ends a pilot early."""
    opened: dict[str, object] = {}
    for name in settings.limits_given():
        if name == "policy":
            opened[name] = max(POLICIES, key=lambda policy: POLICIES[policy].increase)
        else:
            opened[name] = 1e-9 if name.startswith("min") else 1e9
    return settings.model_copy(update=opened)


def _seen(limit: SampledLimit, draw: Draw, effect_at: int, floor: NoiseFloor | None) -> PilotLimit:
    interval = limit.interval(draw)
    open_yet = limit.outcome(draw) is Outcome.INCONCLUSIVE
    effect = None
    # A percentile moves with the tail of its tokens, a maximum with a single one.
    if not isinstance(limit, MaximumLimit | PercentileLimit):
        effect = abs(limit.limit - limit.shown(limit.bound - _reach(limit, draw, effect_at)))
    return PilotLimit(
        name=limit.name,
        statistic=limit.statistic,
        unit=limit.unit,
        limit=limit.limit,
        value=limit.value(),
        low=_finite(interval.low),
        high=_finite(interval.high),
        detectable=effect,
        needed=limit.needed(draw) if open_yet else len(limit.values),
        proposed=_proposed(limit, draw, floor),
    )


def _reach(limit: SampledLimit, draw: Draw, chunks: int) -> float:
    """Return the smallest effect that so many chunks can tell, on the scale of the limit's values."""
    mean = limit.mean()
    squares = math.fsum((value - mean) ** 2 for value in limit.values)
    variance = max(limit.variance_floor, squares / max(len(limit.values) - 1, 1))
    return stats.detectable(
        math.sqrt(variance),
        chunks,
        population=draw.population,
        looks=draw.looks,
        pass_confidence=draw.pass_confidence,
    )


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _proposed(limit: SampledLimit, draw: Draw, floor: NoiseFloor | None) -> str | None:
    """Return the limit a specification would have, rounded away from the measured value."""
    if isinstance(limit, PercentileLimit):
        value = limit.interval(draw).high
    else:
        look = min(PROPOSED_LOOK, draw.population)
        value = limit.shown(limit.mean() + _reach(limit, draw, look))
    if isinstance(limit, MaximumLimit) or math.isinf(value):
        return None
    if limit.at_least:
        return f"{math.floor(value * 1000) / 1000:g}"
    return _written(limit, max(value, _least(limit, floor)))


def _written(limit: SampledLimit, value: float) -> str | None:
    """Return an upper limit in the form its key takes."""
    if limit.name == "max_increase":
        return f"{math.ceil((value - 1) * 1000) / 10:g}%"
    if limit.name == "policy":
        fitting = [name for name, policy in POLICIES.items() if value <= 1 + policy.increase]
        return min(fitting, key=lambda name: POLICIES[name].increase, default=None)
    if "ratio" in limit.statistic:
        return f"{math.ceil(value * 1000) / 1000:g}"
    return _rounded_up(value) + ("pp" if limit.unit == "pp" else "")


def _least(limit: SampledLimit, floor: NoiseFloor | None) -> float:
    """Return the smallest limit that is not inside the noise."""
    if floor is None:
        return -math.inf
    if "ratio" in limit.statistic:
        return math.exp(paired.NOISE_FACTOR * floor.log_ratio)
    if limit.name == "max_mean":
        return paired.NOISE_FACTOR * floor.kld
    return -math.inf


def _rounded_up(value: float) -> str:
    """Return a number with two digits, rounded up."""
    if value <= 0:
        return "0"
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.ceil(value / unit - 1e-9) * unit:.2g}"
