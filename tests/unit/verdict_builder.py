"""Short ways to write verdicts down."""

from __future__ import annotations

import dataclasses

from pytest_quantgate.records import Check, Interval, Location, Outcome, Verdict

KEY = ("smollm2-135m", "Q4_K_M", "perplexity")
LOCATION = Location(path="gates.yaml", line=12, column=7)

RATIO = Check(
    limit_name="max_ratio",
    statistic="perplexity ratio",
    outcome=Outcome.PASS,
    value=1.0755,
    interval=Interval(low=1.0612, high=1.0901, confidence=0.95, fail_confidence=0.99),
    limit=1.1,
    baseline=10.9285,
    sample="16 of 220 chunks",
)


def check(**changes: object) -> Check:
    """Return the ratio check with changes."""
    return dataclasses.replace(RATIO, **changes)  # type: ignore[arg-type]


def verdict(*checks: Check, **changes: object) -> Verdict:
    """Return a verdict with these checks, by default the ratio check, and with changes."""
    base = Verdict(
        spec="gates.yaml",
        key=KEY,
        location=LOCATION,
        outcome=(checks or (RATIO,))[0].outcome,
        headline=(
            "perplexity ratio 1.0755 <= max_ratio 1.1 (11.75 against 10.93); 16 of 220 chunks decided it"
        ),
        checks=checks or (RATIO,),
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]
