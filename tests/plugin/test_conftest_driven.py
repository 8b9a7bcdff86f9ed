"""Gates from Python: a hook in conftest.py, and fixtures that change limits."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Project

HOOK = """\
def pytest_quantgate_spec(config):
    return {
        "quantgate": 1,
        "defaults": {"corpus": "corpus.txt", "context": 128},
        "models": {
            "tiny": {
                "baseline": {"source": "tiny-f16.gguf"},
                "variants": {"Q8_0": {"quantize": "Q8_0"}},
                "gates": {"perplexity": {"max_ratio": LIMIT}},
            }
        },
    }
"""


@pytest.mark.parametrize(("limit", "outcome"), [("1.5", "passed"), ("0.5", "failed")])
def test_a_conftest_is_a_specification(
    project: Project, three_ways: list[str], limit: str, outcome: str
) -> None:
    """--quantgate conftest.py gates what its hook returns."""
    project.pytester.makeconftest(HOOK.replace("LIMIT", limit))

    result = project.gate("-v", *three_ways, spec="conftest.py")

    result.assert_outcomes(**{outcome: 1})
    lines = [line for line in result.outlines if "conftest.py::tiny::Q8_0::perplexity" in line]
    assert any(outcome.upper() in line for line in lines)


def test_hook_and_file_gate_together(project: Project) -> None:
    """With --quantgate gates.yaml the gates of a conftest's hook are collected as well."""
    project.pytester.makeconftest(HOOK.replace("LIMIT", "1.5"))
    lower = project.path / "lower"
    lower.mkdir()
    (lower / "conftest.py").write_text(
        HOOK.replace("LIMIT", "1.4").replace("corpus.txt", "../corpus.txt")
    )

    result = project.gate("--collect-only", "-q")

    assert "conftest.py::tiny::Q8_0::perplexity" in result.outlines
    assert "lower/conftest.py::tiny::Q8_0::perplexity" in result.outlines
    assert "gates.yaml::tiny::Q8_0::checksum" in result.outlines


def test_without_gating_the_hook_is_not_called(project: Project) -> None:
    """A conftest that implements the hook loads, and does nothing, in a plain run."""
    project.pytester.makeconftest(HOOK.replace("LIMIT", "1 / 0"))
    project.pytester.makepyfile(test_other="def test_one(): pass\n")

    project.run().assert_outcomes(passed=1)


def test_problems_of_a_python_specification_are_told_by_their_keys(project: Project) -> None:
    """There is no line to point at, so the message names the way through the mapping."""
    project.pytester.makeconftest(HOOK.replace("LIMIT", "'much'"))

    result = project.gate(spec="conftest.py")

    result.stdout.fnmatch_lines(["*conftest.py*models.tiny.gates.perplexity.max_ratio*'much'*"])
    assert result.ret == pytest.ExitCode.INTERRUPTED


def test_a_conftest_without_the_hook_is_an_error(project: Project) -> None:
    """Naming a conftest that returns nothing does not end green."""
    project.pytester.makeconftest("")

    result = project.gate(spec="conftest.py")

    result.stdout.fnmatch_lines(["*conftest.py: *pytest_quantgate_spec(config)*"])
    assert result.ret == pytest.ExitCode.INTERRUPTED


MEMORY = """\
quantgate: 1
defaults: {corpus: corpus.txt, context: 128}
models:
  tiny:
    baseline: {source: tiny-f16.gguf}
    variants:
      Q8_0: {quantize: Q8_0}
    gates:
      memory: {max_mb: 2000}
      perplexity: {max_ratio: 1.5}
"""


def fixture(name: str, value: object, scope: str = "function") -> str:
    """Return a conftest that overrides a fixture."""
    return (
        f"import pytest\n\n@pytest.fixture(scope={scope!r})\ndef {name}():\n    return {value!r}\n"
    )


@pytest.mark.parametrize("scope", ["function", "module", "session"])
def test_max_memory_mb_sets_the_memory_limit(project: Project, scope: str) -> None:
    """A conftest that overrides max_memory_mb changes the limit of the memory gate, of any scope."""
    project.spec(MEMORY)
    project.gate().assert_outcomes(passed=2)
    project.pytester.makeconftest(fixture("max_memory_mb", 1, scope))

    result = project.gate()

    result.assert_outcomes(passed=1, failed=1)
    assert re.search(r"peak RSS \d+\.\d MiB > max_mb 1\b", result.stdout.str())


def test_baseline_metrics_replace_the_measured_baseline(project: Project) -> None:
    """Literal figures of an overridden baseline_metrics are what a relative limit compares with."""
    project.spec(MEMORY)
    project.pytester.makeconftest(fixture("baseline_metrics", {"perplexity": 2.0}))

    result = project.gate("-k", "perplexity")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the baseline: perplexity 2 (given as a number)*"])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "max_memory_mb",
            "lots",
            "the fixture max_memory_mb must return a number above 0, not 'lots'",
        ),
        ("max_memory_mb", 0, "the fixture max_memory_mb must return a number above 0, not 0"),
        ("baseline_metrics", 5, "the fixture baseline_metrics must return a mapping, not 5"),
        (
            "baseline_metrics",
            {"ppl": 2.0},
            "the fixture baseline_metrics returns 'ppl'; it may hold perplexity, accuracy,"
            " latency_ms, memory_mb",
        ),
        (
            "baseline_metrics",
            {"perplexity": "low"},
            "the fixture baseline_metrics returns 'low' for 'perplexity', not a number",
        ),
    ],
)
def test_overrides_that_cannot_be_meant_are_errors(
    project: Project, name: str, value: object, message: str
) -> None:
    """A fixture that returns nonsense ends the gate with an error, not with the written limit."""
    project.spec(MEMORY)
    project.pytester.makeconftest(fixture(name, value))

    result = project.gate("-k", "memory")

    result.assert_outcomes(errors=1)
    assert message in " ".join(result.stdout.str().split())


def test_a_module_scoped_autouse_fixture_does_not_break_gates(project: Project) -> None:
    """Gates have a module to scope to."""
    project.pytester.makeconftest(
        "import pytest\n\n@pytest.fixture(scope='module', autouse=True)\ndef everywhere():\n    yield\n"
    )

    project.gate().assert_outcomes(passed=4)
