"""What a run that gates ends with: outcomes, exit codes, messages, the table, the XML."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Project

BLOCKED = """\
quantgate: 1
defaults: {corpus: corpus.txt, context: 128}
models:
  tiny:
    baseline: {source: tiny-f16.gguf}
    variants:
      Q8_0: {quantize: Q8_0}
      Q2_K: {quantize: Q2_K}
    gates:
      perplexity: {max_ratio: 1.05, chunks: 40}
"""


def test_gates_that_hold_pass(project: Project, three_ways: list[str]) -> None:
    """A run whose limits all hold exits 0, plain and under xdist."""
    result = project.gate(*three_ways)

    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["4 gates: 4 passed"])
    assert result.ret == pytest.ExitCode.OK


def test_a_variant_that_lost_quality_is_blocked(project: Project, three_ways: list[str]) -> None:
    """Q2_K fails with exit 1, and its message names value, limit, baseline and what to try."""
    project.spec(BLOCKED)

    result = project.gate(*three_ways)

    result.assert_outcomes(passed=1, failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    text = result.stdout.str()
    summary = next(line for line in result.outlines if line.startswith("FAILED"))
    assert summary.startswith("FAILED gates.yaml::tiny::Q2_K::perplexity - ")
    assert re.search(
        r"perplexity ratio 1\.\d+ > max_ratio 1\.05 \(\d+\.?\d* against \d+\.?\d*\)", text
    )
    assert "gates.yaml:10:7: tiny::Q2_K::perplexity" in text
    assert "the baseline: perplexity" in text
    assert "advice: try the next level up: quantize: Q3_K_M" in text


def test_a_failing_gate_stands_alone_in_the_short_summary(project: Project) -> None:
    """With a wide terminal the one line says what was measured against which limit."""
    project.spec(BLOCKED)
    project.monkeypatch.setenv("COLUMNS", "200")

    result = project.gate()

    result.stdout.re_match_lines(
        [
            r"FAILED gates\.yaml::tiny::Q2_K::perplexity - (Failed: )?perplexity ratio 1\.\d+ >"
            r" max_ratio 1\.05 \([\d.]+ against [\d.]+\)"
        ]
    )


def test_the_table_fits_80_columns(project: Project) -> None:
    """The closing table has value with uncertainty, limit, baseline, sample, verdict; no colour."""
    project.spec(BLOCKED)

    lines = project.gate().outlines

    start = next(i for i, line in enumerate(lines) if "= quantgate =" in line)
    table = lines[start : start + 10]
    assert [line for line in table if len(line) > 80] == []
    assert "\x1b[" not in "\n".join(table)
    assert table[1].split() == ["gate", "value", "limit", "baseline", "sample", "verdict"]
    assert "tiny::Q8_0" in table[2]
    assert re.search(r"perplexity +\d\.\d+ \(.*PASS", " ".join(table[3:5]))
    assert any("FAIL" in line for line in table)


def test_the_table_has_colour_on_request(project: Project) -> None:
    """--color=yes colours the verdicts; NO_COLOR is pytest's own and needs nothing of ours."""
    lines = project.gate("--color=yes").outlines

    assert any("\x1b[32mPASS" in line for line in lines)


@pytest.mark.parametrize("arguments", [["-qq"], ["--no-summary"]])
def test_the_table_can_be_silenced(project: Project, arguments: list[str]) -> None:
    """A run that asks for less output gets no table."""
    project.gate(*arguments).stdout.no_fnmatch_line("*= quantgate =*")


def test_x_stops_at_the_first_failure(project: Project) -> None:
    """-x ends the run, and the table says how many planned gates were not judged."""
    project.spec(BLOCKED.replace("Q8_0: {quantize: Q8_0}", "A: {quantize: Q2_K}"))

    result = project.gate("-x")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["2 gates: 1 failed, 1 planned but not judged"])


def test_last_failed_runs_the_failed_gate_again(project: Project) -> None:
    """--lf chooses the gate that failed, and it fails again."""
    project.spec(BLOCKED)
    project.gate()

    again = project.gate("--lf")

    again.assert_outcomes(failed=1)
    assert again.ret == pytest.ExitCode.TESTS_FAILED


def test_reruns_judge_again(project: Project) -> None:
    """--reruns runs a failing gate again; its table row counts the attempts."""
    project.spec(BLOCKED)

    result = project.gate("--reruns", "1")

    assert result.parseoutcomes()["rerun"] == 1
    assert "attempt 2" in " ".join(result.stdout.str().split())
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_the_second_run_measures_nothing(project: Project) -> None:
    """Stored measurements are used and marked; --quantgate-remeasure measures anew."""
    first = project.gate(fresh=True)
    stored = sorted((project.path / ".quantgate" / "measurements").iterdir())
    times = [path.stat().st_mtime_ns for path in stored]

    second = project.gate(fresh=True)

    first.stdout.no_fnmatch_line("*stored measurement*")
    second.stdout.fnmatch_lines(["*PASS[*]*", "[*] stored measurement; --quantgate-remeasure*"])
    assert times == [path.stat().st_mtime_ns for path in stored]
    third = project.gate("--quantgate-remeasure", fresh=True)
    third.stdout.no_fnmatch_line("*stored measurement*")
    assert all(path.stat().st_mtime_ns > before for path, before in zip(stored, times, strict=True))


def test_junit_xml_carries_the_figures(project: Project) -> None:
    """pytest's own --junitxml has value, limit, baseline and the whole record of each gate."""
    project.spec(BLOCKED)

    project.gate("--junitxml=out.xml")

    cases = ET.parse(project.path / "out.xml").getroot().iter("testcase")  # noqa: S314 - our own
    properties = {
        case.get("name", "") + "/" + (case.get("classname") or ""): {
            each.get("name"): each.get("value") for each in case.iter("property")
        }
        for case in cases
    }
    failed = next(value for value in properties.values() if value["quantgate.verdict"] == "fail")
    assert failed["quantgate.variant"] == "Q2_K"
    assert float(failed["quantgate.max_ratio.limit"] or "") == 1.05
    assert float(failed["quantgate.max_ratio.value"] or "") > 1.05
    record = json.loads(failed["quantgate.record"] or "")
    assert record["key"] == ["tiny", "Q2_K", "perplexity"]
    assert record["record"]["chunks"] > 10


def test_errors_are_no_failures(project: Project) -> None:
    """What cannot be measured is a pytest error, in the XML too; the other gates still run."""
    project.spec(BLOCKED.replace("Q8_0: {quantize: Q8_0}", "gone: {source: gone.gguf}"))

    result = project.gate("--junitxml=out.xml")

    result.assert_outcomes(errors=1, failed=1)
    result.stdout.fnmatch_lines(["2 gates: 1 error, 1 failed"])
    suite = ET.parse(project.path / "out.xml").getroot().find("testsuite")  # noqa: S314 - our own
    assert suite is not None
    assert (suite.get("errors"), suite.get("failures")) == ("1", "1")


def plain_pytest(project: Project, *arguments: str, store: Path) -> pytest.RunResult:
    """Run gates with plugins of pytest's own switched off."""
    return project.run("--quantgate", "gates.yaml", "--quantgate-store", str(store), *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["-p", "no:cacheprovider"],
        ["-p", "no:junitxml"],
        ["-p", "no:xdist"],
        ["-p", "no:terminal"],
        ["-s"],
        ["--capture=sys"],
        ["-v"],
        ["--tb=no"],
    ],
    ids=" ".join,
)
def test_plugins_of_pytest_may_be_absent(project: Project, arguments: list[str]) -> None:
    """Gates judge without cache, XML, xdist, terminal or capture."""
    result = plain_pytest(project, *arguments, store=project.shared_store)

    assert result.ret == pytest.ExitCode.OK
