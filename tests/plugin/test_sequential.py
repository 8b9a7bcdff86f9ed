"""Gates that measure no more of a text than their verdict takes."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from conftest import Project

SPEC = """\
quantgate: 1
defaults: {corpus: corpus.txt, context: 64}
models:
  tiny:
    baseline: {source: tiny-f16.gguf}
    variants:
      Q8_0: {quantize: Q8_0}
      Q4_K_M: {quantize: Q4_K_M}
    gates:
      perplexity: {max_ratio: 1.5}
"""

# Q8_0 loses next to nothing, so a limit that allows next to nothing is not decided by 16 windows.
OPEN = SPEC.replace("      Q4_K_M: {quantize: Q4_K_M}\n", "").replace(
    "{max_ratio: 1.5}", "{max_ratio: 1.001, max_chunks: 16}"
)
WARN = OPEN.replace("max_chunks: 16", "max_chunks: 16, on_inconclusive: warn")

NO_PROBE = """\
from pytest_quantgate import client

def refuse(*_, **__):
    raise AssertionError("a probe was started")

client.Child = refuse
"""

COUNT_PROBES = """\
from pytest_quantgate import client, pool
from pytest_quantgate.errors import ProbeOutOfMemory

started = []
loaded = set()
original = {name: getattr(client.Probe, name) for name in ("__init__", "load", "kill")}

def init(self, *arguments, **named):
    started.append(self)
    original["__init__"](self, *arguments, **named)

def load(self, path, *arguments, **named):
    if FULL and loaded:
        raise ProbeOutOfMemory("no memory for a second model")
    loaded.add(self.pid)
    return original["load"](self, path, *arguments, **named)

def kill(self):
    loaded.discard(self.pid)
    original["kill"](self)

for name, method in {"__init__": init, "load": load, "kill": kill}.items():
    setattr(client.Probe, name, method)

def pytest_unconfigure():
    print("STARTED", len(started))
"""


def stored(project: Project, kind: str) -> Iterable[dict[str, object]]:
    """Return the keys of what a fresh store has of a kind of measurement."""
    folder = project.path / ".quantgate" / "measurements"
    for path in sorted(folder.glob(f"{kind}-*.json")):
        key: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))["key"]
        yield key


def test_a_clear_verdict_takes_the_first_block(project: Project, three_ways: list[str]) -> None:
    """Of some 190 windows, 16 are measured, and the table says so."""
    project.spec(SPEC)

    result = project.gate(*three_ways)

    result.assert_outcomes(passed=2)
    lines = [line for line in result.outlines if line.startswith("  perplexity")]
    assert len(lines) == 2
    assert all(re.search(r" 16 of 1\d\d chunks PASS", line) for line in lines)


def test_a_block_is_measured_once_for_all_that_need_it(project: Project) -> None:
    """Two variants share the baseline's block, and the key of a block shows its windows."""
    project.spec(SPEC)

    project.gate(fresh=True).assert_outcomes(passed=2)

    keys = list(stored(project, "likelihood"))
    assert len(keys) == 3
    assert len({key["model"] for key in keys}) == 3
    assert len({key["chunks_sha256"] for key in keys}) == 1
    assert keys[0]["chunks_count"] == 16
    assert len(str(keys[0]["chunks_first"]).split()) == 16
    assert len(list(stored(project, "text"))) == 3


def test_an_undecided_gate_fails_and_says_what_would_decide_it(
    project: Project, three_ways: list[str]
) -> None:
    """The budget is spent: inconclusive is a failure of its own, with the number of chunks to go."""
    project.spec(OPEN)

    result = project.gate(*three_ways)

    result.assert_outcomes(failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    text = " ".join(result.stdout.str().split())
    assert "inconclusive: perplexity ratio" in text
    assert re.search(r"max_ratio is undecided.* chunks", text)
    result.stdout.fnmatch_lines(["1 gate: 1 inconclusive"])


def test_an_undecided_gate_can_warn_instead(project: Project, three_ways: list[str]) -> None:
    """With on_inconclusive: warn it passes, pytest lists a warning, and the table keeps the truth."""
    project.spec(WARN)

    result = project.gate(*three_ways)

    result.assert_outcomes(passed=1, warnings=1)
    assert result.ret == pytest.ExitCode.OK
    text = " ".join(result.stdout.str().split())
    assert "QuantgateWarning: inconclusive: perplexity ratio" in text
    assert "gates.yaml:9: QuantgateWarning" in text
    result.stdout.fnmatch_lines(["*INCONCLUSIVE*", "1 gate: 1 inconclusive"])


def test_the_warning_can_be_filtered_by_name(project: Project) -> None:
    """`-W` takes the public name, and turns the warning into a failure or into nothing."""
    project.spec(WARN)

    strict = project.gate("-W", "error::pytest_quantgate.QuantgateWarning")
    silent = project.gate("-W", "ignore::pytest_quantgate.QuantgateWarning")

    strict.assert_outcomes(failed=1)
    silent.assert_outcomes(passed=1, warnings=0)


def test_a_divergence_brings_the_likelihoods_along(project: Project, three_ways: list[str]) -> None:
    """Both models in lockstep; the perplexity gate after it finds the same windows measured."""
    project.spec(SPEC + "      kld: {max_mean: 0.5, min_same_top: 0.5}\n")

    result = project.gate(*three_ways, fresh=True)

    result.assert_outcomes(passed=4)
    lines = [" ".join(line.split()) for line in result.outlines]
    assert sum(line.startswith("kld") and line.endswith("PASS") for line in lines) == 2
    if "-n2" not in three_ways:
        assert sum(line.startswith("perplexity") and line.endswith("PASS*") for line in lines) == 2
    assert len(list(stored(project, "divergence"))) == 2
    assert len(list(stored(project, "likelihood"))) == 3


def test_the_second_run_starts_no_probe(project: Project) -> None:
    """Everything a sequential gate asks is stored, the text's windows too."""
    project.spec(SPEC + "      kld: {max_mean: 0.5}\n")
    project.gate(fresh=True).assert_outcomes(passed=4)
    project.pytester.makeconftest(NO_PROBE)

    again = project.gate(fresh=True)

    again.assert_outcomes(passed=4)
    again.stdout.fnmatch_lines(["[*] stored measurement*"])
    project.gate("--quantgate-remeasure", "-k", "kld", fresh=True).assert_outcomes(errors=2)


def test_measuring_anew_measures_a_block_once(project: Project) -> None:
    """With --quantgate-remeasure two variants still share the baseline's block of this run."""
    project.spec(SPEC)
    project.gate(fresh=True)
    folder = project.path / ".quantgate" / "measurements"
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}

    result = project.gate("--quantgate-remeasure", "-v", fresh=True)

    result.assert_outcomes(passed=2)
    assert {path for path in before if path.stat().st_mtime_ns > before[path]} == set(before)
    assert set(before) == set(folder.iterdir())


@pytest.mark.parametrize(("full", "started"), [(False, 2), (True, 10)], ids=["room", "full"])
def test_models_that_are_asked_in_turn_stay_loaded(
    project: Project, *, full: bool, started: int
) -> None:
    """Block by block, baseline and candidate: two probes; one at a time where memory is short."""
    project.spec(OPEN.replace("max_chunks: 16", "max_chunks: 64"))
    # The quantized file is made by a probe as well: not in the run that counts them.
    project.gate()
    (project.path / ".quantgate").mkdir()
    (project.path / ".quantgate" / "models").symlink_to(project.shared_store / "models")
    project.pytester.makeconftest(COUNT_PROBES.replace("FULL", str(full)))

    result = project.gate("-s", fresh=True)

    # Two texts and four blocks of each. Where memory is short, each question about the other model
    # starts a probe, and once two, before it is known.
    result.stdout.fnmatch_lines([f"STARTED {started}"])
    result.stdout.fnmatch_lines(["*64 of 1?? chunks*"])


def test_models_that_do_not_fit_together_cannot_be_compared_in_lockstep(project: Project) -> None:
    """There is no way round: the message says so, and that a logits file is one."""
    project.spec(OPEN.replace("perplexity: {max_ratio: 1.001, max_chunks: 16}", "kld: {max: 1}"))
    project.pytester.makeconftest(COUNT_PROBES.replace("FULL", "True"))

    result = project.gate(fresh=True)

    result.assert_outcomes(errors=1)
    text = " ".join(result.stdout.str().split())
    assert "ProbeOutOfMemory: no memory for a second model Q8_0 and its baseline have to be" in text
    assert "use a machine with more of it, or a logits file" in text
