"""The message of one gate: its first line alone, then everything behind it."""

from __future__ import annotations

import dataclasses

import pytest
from verdict_builder import LOCATION, RATIO, check, verdict

from pytest_quantgate.records import Interval, Outcome
from pytest_quantgate.report import message

FAILED = verdict(
    check(outcome=Outcome.FAIL, limit=1.05),
    check(
        limit_name="max",
        statistic="perplexity",
        value=11.7539,
        interval=Interval(low=11.7539, high=11.7539, confidence=1.0, fail_confidence=1.0),
        limit=12.0,
        baseline=None,
        sample="all 220 chunks",
    ),
    headline=(
        "perplexity ratio 1.0755 > max_ratio 1.05 (11.75 against 10.93); 16 of 220 chunks decided it"
    ),
    findings=("perplexity 11.7539 ± 0.1 over all 220 chunks",),
    advice=("try the next level up: quantize: Q5_K_M",),
    stored=True,
)


def test_a_failure_tells_all() -> None:
    """Headline, place and name, each check with its uncertainty, findings, advice, provenance."""
    assert message.failure(FAILED).splitlines() == [
        "perplexity ratio 1.0755 > max_ratio 1.05 (11.75 against 10.93); 16 of 220 chunks decided it",
        "gates.yaml:12:7: smollm2-135m::Q4_K_M::perplexity",
        "  perplexity ratio: 1.075 (1.061-1.090), max_ratio 1.05, baseline 10.93, 99% / 95% bounds"
        " (16 of 220 chunks): fail",
        "  perplexity: 11.75, max 12 (all 220 chunks): pass",
        "  perplexity 11.7539 ± 0.1 over all 220 chunks",
        "  advice: try the next level up: quantize: Q5_K_M",
        "  all figures are stored measurements; --quantgate-remeasure measures anew",
    ]


@pytest.mark.parametrize(
    ("outcome", "prefix"), [(Outcome.FAIL, ""), (Outcome.INCONCLUSIVE, "inconclusive: ")]
)
def test_the_first_line_stands_alone(outcome: Outcome, prefix: str) -> None:
    """pytest's short summary shows one line: it has value, limit and whether it was decided."""
    found = verdict(outcome=outcome)

    first, second, *_ = message.failure(found).splitlines()

    assert first == prefix + found.headline
    assert second.startswith(str(LOCATION))


def test_evidence_is_the_same_for_what_passed() -> None:
    """A gate that passed shows the same lines, with its headline as it is."""
    passed = verdict()

    assert message.evidence(passed) == message.failure(passed)
    doubtful = dataclasses.replace(passed, outcome=Outcome.INCONCLUSIVE)
    assert message.evidence(doubtful).startswith(passed.headline)


def test_fresh_figures_say_nothing_of_the_store() -> None:
    """Only stored measurements are called so; without findings and advice there are three lines."""
    assert message.evidence(verdict(RATIO)).count("\n") == 2
    assert "stored" not in message.evidence(verdict())


def test_a_lower_bound_is_called_one() -> None:
    """Name and value both say that the true value can only be higher."""
    found = verdict(
        check(
            limit_name="max_mean",
            statistic="mean KLD (lower bound)",
            outcome=Outcome.INCONCLUSIVE,
            value=0.049123,
            interval=Interval(low=0.0451, high=0.0531, confidence=0.95, fail_confidence=0.99),
            limit=0.1,
            baseline=None,
        )
    )

    assert message.failure(found).splitlines()[2] == (
        "  mean KLD (lower bound): >= 0.04912 (0.0451-0.0531), max_mean 0.1, 99% / 95% bounds"
        " (16 of 220 chunks): inconclusive"
    )
