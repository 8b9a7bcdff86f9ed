"""What is said before a run: cost, detectable effects, the noise floor, and limits that would hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_quantgate.records import NoiseFloor, Pilot, PilotLimit

Key = tuple[str, str, str]


def prospects(
    pilots: Mapping[Key, Pilot], reasons: Mapping[Key, str], *, others: Sequence[Key]
) -> str:
    """Return what a run will cost and can tell.

    Args:
        pilots: What was seen of the gates that draw from a text.
        reasons: Why such a gate has no pilot.
        others: The gates that draw from no text; they are listed, so that none is forgotten.
    """
    lines: list[str] = []
    variant = ("", "")
    for key in sorted({*pilots, *reasons}, key=[*pilots, *reasons].index):
        if key[:2] != variant:
            variant = key[:2]
            lines.append("::".join(variant))
        if key in pilots:
            lines += _prospect(key[2], pilots[key])
        else:
            lines.append(f"  {key[2]}: {reasons[key]}")
    if others:
        names = ", ".join(dict.fromkeys(key[2] for key in others))
        lines.append(f"measured whole, not drawn from a text: {names} ({len(others)} gates)")
    expected = sum(_expected(pilot) * pilot.seconds_per_chunk for pilot in pilots.values())
    most = sum(pilot.budget * pilot.seconds_per_chunk for pilot in pilots.values())
    windows = sum(_expected(pilot) for pilot in pilots.values())
    lines.append(
        f"in all about {windows} chunks, {duration(expected)}; at most"
        f" {sum(pilot.budget for pilot in pilots.values())} chunks, {duration(most)}, on this machine"
        " and less what is stored"
    )
    return "\n".join(lines) + "\n"


def calibrated(key: Key, pilot: Pilot) -> str:
    """Return what a pilot saw of one gate."""
    return "\n".join(["::".join(key), *_prospect(key[2], pilot)[1:]]) + "\n"


def noise(name: str, floor: NoiseFloor) -> str:
    """Return a noise floor in words."""
    ways = ", ".join(floor.settings)
    return (
        f"{name}: noise floor {floor.log_ratio:.3g} in ln(perplexity ratio) and {floor.kld:.3g} nats of"
        f" mean KLD, the baseline against itself over {floor.chunks} chunks with {ways}; limits within"
        " 3 times that are refused\n"
    )


def proposals(pilots: Mapping[Key, Pilot], *, reason: str) -> str:
    """Return limits that would hold, as a specification has them, each with its reason beside it."""
    lines = ["models:"]
    place: Key = ("", "", "")
    for key, pilot in pilots.items():
        proposed = [limit for limit in pilot.limits if limit.proposed is not None]
        if not proposed:
            continue
        if key[0] != place[0]:
            lines += [f"  {key[0]}:", "    variants:"]
        if key[:2] != place[:2]:
            lines += [f"      {key[1]}:", "        gates:"]
        place = key
        lines.append(f"          {key[2]}:")
        lines += [
            f"            {limit.name}: {limit.proposed}  # {_measured(limit, pilot)}; {reason}"
            for limit in proposed
        ]
    return "\n".join(lines) + "\n" if len(lines) > 1 else ""


def duration(seconds: float) -> str:
    """Return a time as people say it."""
    if seconds < 90:  # noqa: PLR2004 - from here on minutes read better
        return f"{seconds:.0f} s"
    if seconds < 5400:  # noqa: PLR2004 - and from here on hours
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _prospect(gate: str, pilot: Pilot) -> list[str]:
    budget = "" if pilot.budget == pilot.population else f", {pilot.budget} at most"
    cost = f"{pilot.seconds_per_chunk:.2g} s a chunk"
    lines = [f"  {gate}: {pilot.population} chunks{budget}, {pilot.looks} looks, {cost}"]
    lines += [
        f"    {limit.name} {limit.limit:g}: {_measured(limit, pilot)}; {_effect(limit, pilot)}; about"
        f" {limit.needed} chunks, {duration(limit.needed * pilot.seconds_per_chunk)}, to decide"
        for limit in pilot.limits
    ]
    return lines


def _measured(limit: PilotLimit, pilot: Pilot) -> str:
    low, high = ("?" if bound is None else f"{bound:.4g}" for bound in (limit.low, limit.high))
    unit = f" {limit.unit}" if limit.unit else ""
    return (
        f"{limit.statistic} {limit.value:.4g}{unit} ({low} to {high}) on {pilot.chunks} of"
        f" {pilot.population} chunks"
    )


def _effect(limit: PilotLimit, pilot: Pilot) -> str:
    if limit.detectable is None:
        return "detectable effect not known"
    unit = f" {limit.unit}" if limit.unit else ""
    return f"{limit.detectable:.2g}{unit} from the limit can be told at {pilot.effect_at} chunks"


def _expected(pilot: Pilot) -> int:
    """Return the chunks the slowest limit of a gate will take, looks being at 16, 32, 64 and so on."""
    needed = max((limit.needed for limit in pilot.limits), default=pilot.budget)
    look = 16
    while look < needed:
        look *= 2
    return min(look, pilot.budget)
