"""What is said before a run, from pilots built by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_quantgate.records import NoiseFloor, Pilot, PilotLimit
from pytest_quantgate.report import forecast

KEY = ("tiny", "Q4_K_M", "perplexity")

RATIO = PilotLimit(
    name="max_ratio",
    statistic="perplexity ratio",
    unit="",
    limit=1.1,
    value=1.0765,
    low=1.06041,
    high=1.0931,
    detectable=0.0114,
    needed=61,
    proposed="1.093",
)
PILOT = Pilot(
    limits=(RATIO,),
    chunks=32,
    population=220,
    budget=220,
    looks=5,
    effect_at=64,
    seconds_per_chunk=1.25,
)


def test_a_gate_is_told_with_its_cost_and_what_it_can_tell() -> None:
    """Windows, looks, the pilot's value with bounds, the detectable effect, and when it is decided."""
    text = forecast.prospects({KEY: PILOT}, {}, others=[])

    assert text.splitlines() == [
        "tiny::Q4_K_M",
        "  perplexity: 220 chunks, 5 looks, 1.2 s a chunk",
        "    max_ratio 1.1: perplexity ratio 1.077 (1.06 to 1.093) on 32 of 220 chunks; 0.011 from the"
        " limit can be told at 64 chunks; about 61 chunks, 76 s, to decide",
        "in all about 64 chunks, 80 s; at most 220 chunks, 5 min, on this machine and less what is"
        " stored",
    ]


@pytest.mark.parametrize(
    ("needed", "expected"), [(15, 16), (16, 16), (17, 32), (128, 128), (129, 220), (220, 220)]
)
def test_a_verdict_comes_at_a_look(needed: int, expected: int) -> None:
    """What a gate is expected to take is the first look at which its slowest limit is decided."""
    pilot = replace(PILOT, limits=(replace(RATIO, needed=1), replace(RATIO, needed=needed)))

    last = forecast.prospects({KEY: pilot}, {}, others=[]).splitlines()[-1]

    assert last.startswith(f"in all about {expected} chunks, ")


def test_a_budget_and_what_cannot_be_told_are_said() -> None:
    """A smaller budget is named; a limit without a detectable effect or a bound says so."""
    limit = replace(RATIO, detectable=None, high=None, unit="pp")
    pilot = replace(PILOT, limits=(limit,), budget=64)

    lines = forecast.prospects({KEY: pilot}, {}, others=[]).splitlines()

    assert lines[1] == "  perplexity: 220 chunks, 64 at most, 5 looks, 1.2 s a chunk"
    assert "1.077 pp (1.06 to ?) on 32 of 220 chunks; detectable effect not known;" in lines[2]


def test_no_gate_is_left_out() -> None:
    """Gates without a pilot are listed with the reason, gates that draw from no text by name."""
    others = [("tiny", "Q4_K_M", "memory"), ("tiny", "Q8_0", "memory"), ("tiny", "Q8_0", "latency")]

    text = forecast.prospects({KEY: PILOT}, {("tiny", "Q8_0", "kld"): "it broke"}, others=others)

    assert "tiny::Q8_0\n  kld: it broke\n" in text
    assert "measured whole, not drawn from a text: memory, latency (3 gates)\n" in text


def test_proposed_limits_are_part_of_a_specification() -> None:
    """They stand under model, variant and gate, each with its reason; what has none is left out."""
    silent = replace(PILOT, limits=(replace(RATIO, proposed=None),))
    pilots = {
        KEY: PILOT,
        ("tiny", "Q4_K_M", "kld"): PILOT,
        ("tiny", "Q8_0", "perplexity"): PILOT,
        ("tiny", "Q2_K", "perplexity"): silent,
    }
    reason = "  # perplexity ratio 1.077 (1.06 to 1.093) on 32 of 220 chunks; 2026-11-21, engine 1"

    text = forecast.proposals(pilots, reason="2026-11-21, engine 1")

    assert text.splitlines() == [
        "models:",
        "  tiny:",
        "    variants:",
        "      Q4_K_M:",
        "        gates:",
        "          perplexity:",
        f"            max_ratio: 1.093{reason}",
        "          kld:",
        f"            max_ratio: 1.093{reason}",
        "      Q8_0:",
        "        gates:",
        "          perplexity:",
        f"            max_ratio: 1.093{reason}",
    ]
    assert forecast.proposals({KEY: silent}, reason="") == ""


def test_a_noise_floor_is_told() -> None:
    """Both figures with their unit, how many chunks, and the ways it was computed."""
    floor = NoiseFloor(
        log_ratio=1.2e-4, kld=1.69e-6, chunks=16, settings=("ubatch 128", "threads 1")
    )

    assert forecast.noise("tiny, corpus.txt", floor) == (
        "tiny, corpus.txt: noise floor 0.00012 in ln(perplexity ratio) and 1.69e-06 nats of mean KLD,"
        " the baseline against itself over 16 chunks with ubatch 128, threads 1; limits within 3 times"
        " that are refused\n"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (7200, "2.0 h")],
)
def test_durations(seconds: float, text: str) -> None:
    """Seconds below a minute and a half, minutes below an hour and a half, then hours."""
    assert forecast.duration(seconds) == text
