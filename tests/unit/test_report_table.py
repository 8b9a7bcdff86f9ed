"""The closing table: 80 columns, with and without colour, and every fate of a gate."""

from __future__ import annotations

import re

import pytest
from verdict_builder import KEY, RATIO, check, verdict

from pytest_quantgate.records import Interval, Outcome
from pytest_quantgate.report.table import Row, render

SEQUENCE = re.compile(r"\x1b\[[0-9;]*m")
STORED = "* stored measurement; --quantgate-remeasure measures anew"


def row(gate: str = "perplexity", *, variant: str = "Q4_K_M", **changes: object) -> Row:
    """Return a row of a verdict."""
    return Row(key=(KEY[0], variant, gate), verdict=verdict(**changes))


def error(reason: str, *, attempts: int = 1) -> Row:
    """Return a row of a gate that could not be measured."""
    return Row(key=(*KEY[:2], "latency"), verdict=None, reason=reason, attempts=attempts)


def lines(*rows: Row, unjudged: int = 0, width: int = 80, color: bool = False) -> list[str]:
    """Render rows and return the lines without blanks at their ends."""
    text = render(rows, unjudged=unjudged, width=width, color=color)
    return [line.rstrip() for line in text.splitlines()]


SPEED = check(
    limit_name="min_tokens_per_s",
    statistic="generation speed, median",
    outcome=Outcome.INCONCLUSIVE,
    value=139.21,
    interval=Interval(low=120.1, high=150.2, confidence=0.97),
    unit="tokens/s",
    limit=130.0,
    baseline=None,
    sample="10 requests",
)
CROWD = (
    row(stored=True),
    Row(
        key=(*KEY[:2], "latency"),
        verdict=verdict(SPEED, check(statistic="request time ratio"), stored=True),
        attempts=12,
    ),
    error("ProbeCrashed: the probe died of SIGABRT while it loaded the model " + "x" * 100),
    row("memory", variant="a-variant-whose-name-is-longer-than-a-terminal-is-wide" + "-more" * 9),
)


def test_a_table_in_full() -> None:
    """One gate: the header, the variant, the gate with everything, and the totals."""
    assert lines(row()) == [
        "gate         value               limit         baseline sample           verdict",
        "smollm2-135m::Q4_K_M",
        "  perplexity 1.075 (1.061-1.090) max_ratio 1.1 10.93    16 of 220 chunks PASS",
        "1 gate: 1 passed",
    ]


def test_lower_bounds_are_marked() -> None:
    """In the table a value that can only be higher has its sign."""
    bounded = check(
        statistic="mean KLD (lower bound)",
        limit_name="max_mean",
        value=0.0491,
        interval=None,
        limit=0.1,
        baseline=None,
    )

    assert lines(Row(key=(*KEY[:2], "kld"), verdict=verdict(bounded)))[2] == (
        "  kld >= 0.04910 max_mean 0.1          16 of 220 chunks PASS"
    )


def test_variants_head_their_gates() -> None:
    """Each variant is named once above its gates; further limits of a gate follow unnamed."""
    several = verdict(RATIO, check(limit_name="max", statistic="perplexity", limit=12.0))
    found = lines(
        Row(key=KEY, verdict=several), row("memory"), row("memory", variant="Q8_0"), width=120
    )

    assert found[1] == "smollm2-135m::Q4_K_M"
    names = [line[:12].strip() for line in found[1:-1]]
    assert names == ["smollm2-135m", "perplexity", "", "memory", "smollm2-135m", "memory"]
    assert found[5] == "smollm2-135m::Q8_0"
    assert found[-1] == "3 gates: 3 passed"


@pytest.mark.parametrize("color", [False, True])
@pytest.mark.parametrize("width", [80, 100, 200])
def test_no_line_is_wider_than_the_terminal(width: int, *, color: bool) -> None:
    """Long names, reasons, limits and verdicts are folded, and none of them is cut."""
    found = [SEQUENCE.sub("", line) for line in lines(*CROWD, width=width, color=color)]

    assert max(map(len, found)) <= width
    text = re.sub(r"\s+", "", "".join(found))
    for part in (
        "a-variant-whose-name-is-longer-than-a-terminal-is-wide" + "-more" * 9,
        "diedofSIGABRTwhileitloadedthemodel" + "x" * 100,
        "INCONCLUSIVE*",
        "attempt12",
        "139.2tokens/s",
    ):
        assert part in text


def test_a_long_name_takes_no_room_from_the_figures() -> None:
    """The name of a variant runs across all columns and leaves their widths alone."""
    assert lines(CROWD[3])[0] == lines(row("memory"))[0]


def test_colour_only_where_it_is_wanted() -> None:
    """Without colour there is no control character at all; with it each verdict has its own."""
    rows = [
        row(),
        row("kld", outcome=Outcome.FAIL),
        error("why"),
    ]
    rows[1] = Row(key=rows[1].key, verdict=verdict(check(outcome=Outcome.FAIL)))
    rows.append(Row(key=rows[0].key, verdict=verdict(check(outcome=Outcome.INCONCLUSIVE))))

    plain = render(rows, unjudged=0, width=80, color=False)
    colored = render(rows, unjudged=0, width=80, color=True)

    assert re.sub(r"[^\x00-\x1f\x7f-\x9f]", "", plain).strip("\n") == ""
    assert [line.rstrip() for line in SEQUENCE.sub("", colored).splitlines()] == [
        line.rstrip() for line in plain.splitlines()
    ]
    for sequence, word in (
        ("32", "PASS"),
        ("1;31", "FAIL"),
        ("1;31", "ERROR"),
        ("33", "INCONCLUSIVE"),
    ):
        assert f"\x1b[{sequence}m{word}" in colored


@pytest.mark.parametrize(
    ("name", "value"),
    [("NO_COLOR", "1"), ("FORCE_COLOR", "1"), ("TERM", "dumb"), ("COLUMNS", "40")],
)
@pytest.mark.parametrize("color", [False, True])
def test_the_environment_has_no_say(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, *, color: bool
) -> None:
    """Whether there is colour and how wide a line is, pytest decides, and nobody after it."""
    expected = render(CROWD, unjudged=1, width=120, color=color)
    monkeypatch.setenv(name, value)

    assert render(CROWD, unjudged=1, width=120, color=color) == expected


def test_an_error_says_why() -> None:
    """A gate that was not measured has its reason below it, across all columns."""
    found = lines(row(), error("ProbeTimedOut: no answer within 60 s"), error(""))

    assert found[3:] == [
        "  latency    not measured" + " " * 48 + "ERROR",
        "    ProbeTimedOut: no answer within 60 s",
        "  latency    not measured" + " " * 48 + "ERROR",
        "3 gates: 1 passed, 2 error",
    ]


def test_brackets_are_no_markup() -> None:
    """Names and reasons are shown as they are, brackets and colons included."""
    found = lines(
        Row(key=("m[red]", "v[/]", ":bug:"), verdict=None, reason="KeyError: [bold]x[/bold] :bug:")
    )

    assert found[1] == "m[red]::v[/]"
    assert found[2].startswith("  :bug:")
    assert found[3] == "    KeyError: [bold]x[/bold] :bug:"


def test_stored_measurements_are_marked() -> None:
    """An asterisk at the verdict and one line below explain that nothing was measured."""
    found = lines(row(stored=True))

    assert found[2].endswith("PASS*")
    assert found[-1] == STORED
    assert STORED not in lines(row())


@pytest.mark.parametrize(("attempts", "shown"), [(1, False), (2, True)])
def test_attempts_are_told(attempts: int, *, shown: bool) -> None:
    """From the second attempt on the verdict, or the error, says which one it is of."""
    found = lines(Row(key=KEY, verdict=verdict(), attempts=attempts))
    failed = lines(error("why", attempts=attempts))

    assert any(line.endswith("attempt 2") for line in found) is shown
    assert any(line.endswith("attempt 2") for line in failed) is shown


def test_totals_count_every_planned_gate() -> None:
    """What was planned and never ran is counted too: an omission would read as a pass."""
    fates = [
        Row(key=KEY, verdict=verdict(check(outcome=outcome)))
        for outcome in (Outcome.PASS, Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE)
    ]

    found = lines(*fates, error("why"), unjudged=3)

    assert found[-1] == (
        "8 gates: 2 passed, 1 failed, 1 inconclusive, 1 error, 3 planned but not judged"
    )
