"""Verdicts as user properties: flat for people, whole for the report, plain for every transport."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from verdict_builder import KEY, LOCATION, check, verdict

from pytest_quantgate.records import (
    Answer,
    AnsweredCase,
    Check,
    Interval,
    Location,
    Outcome,
    Parting,
    TokenChance,
    Verdict,
)
from pytest_quantgate.report import properties

finite = st.floats(allow_nan=False, allow_infinity=False)
bounds = st.floats(allow_nan=False)
checks = st.builds(
    Check,
    limit_name=st.text(min_size=1),
    statistic=st.text(),
    outcome=st.sampled_from(Outcome),
    value=st.none() | finite,
    interval=st.none()
    | st.builds(
        Interval, low=bounds, high=bounds, confidence=finite, fail_confidence=st.none() | finite
    ),
    limit=st.none() | finite,
    baseline=st.none() | finite,
)
verdicts = st.builds(
    Verdict,
    spec=st.text(),
    key=st.tuples(st.text(), st.text(), st.text()),
    location=st.builds(
        Location, path=st.text(), line=st.none() | st.integers(1, 10**6), column=st.none()
    ),
    outcome=st.sampled_from(Outcome),
    headline=st.text(),
    checks=st.lists(checks, max_size=3).map(tuple),
    findings=st.lists(st.text(), max_size=2).map(tuple),
    stored=st.booleans(),
    warn=st.booleans(),
    seconds=finite,
    record=st.dictionaries(
        st.text(), st.none() | st.booleans() | st.integers(-(2**53), 2**53) | finite | st.text()
    ),
)


@given(verdicts)
def test_a_verdict_survives_its_properties(found: Verdict) -> None:
    """Through JSON, as xdist and report files carry it, a verdict comes back equal, types too."""
    carried = json.loads(json.dumps(properties.of_verdict(found)))

    back = properties.verdict_of([(name, value) for name, value in carried])

    assert back == found
    assert back is not None
    assert {name: type(value) for name, value in back.record.items()} == {
        name: type(value) for name, value in found.record.items()
    }


def test_flat_figures_for_tools() -> None:
    """JUnit readers find model, variant, gate, verdict and each limit without parsing JSON."""
    found = verdict(
        check(),
        check(limit_name="sha256", value=None, text="0123", limit_text="sidecar", baseline=None),
        stored=True,
    )

    *flat, (name, whole) = properties.of_verdict(found)

    assert flat == [
        ("quantgate.model", "smollm2-135m"),
        ("quantgate.variant", "Q4_K_M"),
        ("quantgate.gate", "perplexity"),
        ("quantgate.spec", "gates.yaml:12:7"),
        ("quantgate.verdict", "pass"),
        ("quantgate.max_ratio.value", 1.0755),
        ("quantgate.max_ratio.limit", 1.1),
        ("quantgate.max_ratio.baseline", 10.9285),
        ("quantgate.sha256.value", "0123"),
        ("quantgate.sha256.limit", "sidecar"),
    ]
    assert name == "quantgate.record"
    assert isinstance(whole, str)
    assert json.loads(whole)["stored"] is True


def test_a_gate_is_named_before_it_is_measured() -> None:
    """A gate that ends in an error is still known by model, variant and gate, without a verdict."""
    found = properties.of_case(KEY, LOCATION)

    assert properties.key_of(found) == KEY
    assert properties.verdict_of(found) is None


@pytest.mark.parametrize(
    "others", [[], [("quantgate.model", "m")], [("example", 1), ("quantgate.record", 5)]]
)
def test_other_tests_have_neither(others: list[tuple[str, object]]) -> None:
    """Reports of tests that are no gates have no key and no verdict."""
    assert properties.key_of(others) is None
    assert properties.verdict_of(others) is None


def test_no_verdict_carries_a_number_that_is_none() -> None:
    """NaN is no JSON and no verdict: it is refused where it would be written."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        properties.of_verdict(verdict(check(value=math.nan)))


def test_an_end_without_limit_travels_as_text() -> None:
    """JSON has no infinity: any reader gets a record it can parse, and we get the bound back."""
    found = verdict(check(interval=Interval(low=0.5, high=math.inf, confidence=0.95)))

    (whole,) = (value for name, value in properties.of_verdict(found) if name == "quantgate.record")
    assert isinstance(whole, str)

    carried = json.loads(whole, parse_constant=pytest.fail)
    assert carried["checks"][0]["interval"]["high"] == "inf"
    assert properties.verdict_of([("quantgate.record", whole)]) == found


def test_no_bound_is_no_number() -> None:
    """An end may be infinite, but not NaN."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        properties.of_verdict(
            verdict(check(interval=Interval(low=math.nan, high=1.0, confidence=0.95)))
        )


def answered(
    name: str, *, baseline: float | None, candidate: float, length: int = 1
) -> AnsweredCase:
    """Return a case with texts of this length."""
    chance = TokenChance(token=1, text=" x", probability=0.5, rank=1)
    text = "a" * (length - 1) + "z"

    def answer(right: float) -> Answer:
        return Answer(right=right, output=text, reason=text, finish="eog", token_ids=(1, 2))

    return AnsweredCase(
        id=name,
        question=text,
        expected=text,
        candidate=answer(candidate),
        baseline=None if baseline is None else answer(baseline),
        tags=("fact",),
        parting=Parting(
            position=1,
            common=text,
            baseline=(chance, chance),
            candidate=(chance, chance),
            near_tie=False,
        ),
    )


@pytest.mark.parametrize(("flipped", "carried"), [(49, 49), (50, 50), (51, 50)])
def test_a_record_carries_flips_up_to_a_number(flipped: int, carried: int) -> None:
    """Of thousands of cases the record has the first fifty that flipped, and the counts of all."""
    cases = [
        answered("right", baseline=1, candidate=1),
        *(answered(f"case-{number}", baseline=1, candidate=0) for number in range(flipped)),
        answered("wrong", baseline=0, candidate=0),
    ]

    found = properties.of_verdict(verdict(cases=tuple(cases)))

    back = properties.verdict_of(found)
    assert back is not None
    assert [case.id for case in back.cases] == [f"case-{number}" for number in range(carried)]
    assert ("quantgate.flips.lost", flipped) in found
    assert ("quantgate.flips.gained", 0) in found


@pytest.mark.parametrize(("length", "cut"), [(1999, 1999), (2000, 2000), (2001, 2000)])
def test_long_texts_of_a_flip_are_cut(length: int, cut: int) -> None:
    """Texts keep their first 2,000 characters, what is common its last; token numbers stay behind."""
    whole = answered("long", baseline=0, candidate=1, length=length)

    back = properties.verdict_of(properties.of_verdict(verdict(cases=(whole,))))

    assert back is not None
    (found,) = back.cases
    assert found.flip == "gained"
    texts = [found.question, found.expected, found.candidate.output, found.candidate.reason]
    assert texts == [whole.question[:cut]] * 4
    assert found.parting is not None
    assert found.parting.common == whole.question[-cut:]
    assert found.candidate.token_ids == ()


def test_cases_without_a_baseline_count_no_flips() -> None:
    """Where nothing was compared, no figure says that nothing flipped."""
    found = properties.of_verdict(verdict(cases=(answered("alone", baseline=None, candidate=0),)))

    assert not [name for name, _ in found if "flips" in name]
    back = properties.verdict_of(found)
    assert back is not None
    assert back.cases == ()
