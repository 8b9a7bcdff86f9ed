"""The fixtures for tests that a project writes itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from published_recipe import RECIPE

if TYPE_CHECKING:
    from conftest import Project

SPEC = """\
quantgate: 1
defaults: {corpus: corpus.txt, context: 512}
models:
  tiny:
    baseline: {source: tiny-f16.gguf}
    variants:
      Q8_0: {quantize: Q8_0}
      Q4_K_M: {quantize: Q4_K_M}
    gates:
      accuracy: {cases: cases.jsonl, cases_are: all, min: 0.5}
      memory: {max_mb: 1500}
"""

# Any text holds a space: the tiny model knows no facts, and none are needed here.
CASES = '{"id": "space", "prompt": "The first of the two", "expected": " "}\n'


@pytest.fixture
def own_tests(project: Project) -> Project:
    """A project with a specification and cases, for tests of its own."""
    project.spec(SPEC)
    (project.path / "cases.jsonl").write_text(CASES, encoding="utf-8")
    return project


def test_the_recipe_runs_on_a_real_model(own_tests: Project) -> None:
    """The published class passes for each variant; its latency test runs on a model worth timing.

    See tests/real/test_smollm2.py: the tiny model answers in milliseconds, all of them noise.
    """
    own_tests.pytester.makepyfile(test_quantization=RECIPE)

    result = own_tests.gate(
        "test_quantization.py", "-v", "-m", "not quantgate", "-k", "not latency"
    )

    result.assert_outcomes(passed=6, deselected=6)
    result.stdout.fnmatch_lines(
        [
            "*TestQuantizationQuality::test_perplexity_within_threshold[[]tiny-Q8_0[]] PASSED*",
            "*TestQuantizationQuality::test_perplexity_within_threshold[[]tiny-Q4_K_M[]] PASSED*",
        ]
    )


def test_the_recipe_is_skipped_without_a_specification(own_tests: Project) -> None:
    """Without --quantgate the tests skip and say why."""
    own_tests.pytester.makepyfile(test_quantization=RECIPE)

    result = own_tests.run("test_quantization.py", "-rs")

    result.assert_outcomes(skipped=4)
    result.stdout.fnmatch_lines(["*needs a specification: run pytest with --quantgate SPEC*"])


def test_required_makes_the_skip_an_error(own_tests: Project) -> None:
    """quantgate_required keeps CI from skipping its gates by a forgotten option."""
    own_tests.pytester.makepyfile(test_quantization=RECIPE)
    own_tests.pytester.makeini("[pytest]\nquantgate_required = true\n")

    result = own_tests.run("test_quantization.py")

    result.assert_outcomes(errors=4)
    result.stdout.fnmatch_lines(
        ["*needs a specification: run pytest with --quantgate SPEC (quantgate_required is set)*"]
    )


def test_quantized_model_is_a_llama_and_a_path(own_tests: Project) -> None:
    """It completes like `llama_cpp.Llama`, offers its methods, and names its file."""
    own_tests.pytester.makepyfile(
        test_model="""
        import os
        from pathlib import Path

        def test_model(quantized_model):
            answer = quantized_model("The ", max_tokens=3, temperature=0.0)
            assert answer["usage"]["completion_tokens"] == 3
            assert quantized_model.tokenize(b"abc", add_bos=False)
            assert Path(quantized_model).is_file()
            assert str(quantized_model) == os.fspath(quantized_model)
            assert Path(quantized_model).name.endswith(".gguf")

        def test_baseline(baseline_model, quantized_model):
            assert Path(baseline_model).name == "tiny-f16.gguf"
        """
    )

    own_tests.gate("test_model.py", "-m", "not quantgate").assert_outcomes(passed=4, deselected=4)


def test_a_model_is_verified_before_it_is_loaded(own_tests: Project) -> None:
    """A changed file, and one without a checksum, is not loaded: the fixture is an error."""
    own_tests.spec(SPEC.replace("Q8_0: {quantize: Q8_0}", "own: {source: own.gguf}"))
    own_tests.pytester.makepyfile(test_model="def test_model(quantized_model): pass\n")
    own = own_tests.path / "own.gguf"
    own.write_bytes((own_tests.path / "tiny-f16.gguf").read_bytes())
    arguments = ("test_model.py", "-m", "not quantgate", "-k", "own")

    result = own_tests.gate(*arguments)
    result.assert_outcomes(errors=1, deselected=5)
    result.stdout.fnmatch_lines(
        ["*IntegrityError: own.gguf is not loaded: it has no checksum; make one with: quantgate*"]
    )

    (own_tests.path / "own.gguf.sha256").write_text(f"{'0' * 64}  own.gguf\n")
    result = own_tests.gate(*arguments)
    result.assert_outcomes(errors=1, deselected=5)
    result.stdout.fnmatch_lines(["*IntegrityError: own.gguf is not loaded: its sha256 is *"])


def test_baseline_metrics_are_measured_once_and_stored(own_tests: Project) -> None:
    """All four figures of the baseline are there, positive, and the second run has them stored."""
    own_tests.pytester.makepyfile(
        test_metrics="""
        def test_metrics(baseline_metrics):
            figures = dict(baseline_metrics)
            assert set(figures) == {"perplexity", "accuracy", "latency_ms", "memory_mb"}
            assert figures["perplexity"] > 1
            assert figures["latency_ms"] > 0
            assert figures["memory_mb"] > 10
            assert 0 <= figures["accuracy"] <= 1
        """
    )
    arguments = ("test_metrics.py", "-m", "not quantgate")
    own_tests.gate(*arguments, fresh=True).assert_outcomes(passed=2, deselected=4)
    folder = own_tests.path / ".quantgate" / "measurements"
    stored = {path: path.stat().st_mtime_ns for path in folder.iterdir()}

    own_tests.gate(*arguments, fresh=True).assert_outcomes(passed=2, deselected=4)

    assert len(stored) == 2
    assert stored == {path: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("fixture", "gates", "message"),
    [
        (
            "max_memory_mb",
            "accuracy: {cases: cases.jsonl, cases_are: all, min: 0.5}",
            "tiny has no memory gate with max_mb to take max_memory_mb from; add one to gates.yaml or"
            " override the fixture max_memory_mb",
        ),
        (
            "test_cases",
            "memory: {max_mb: 1500}",
            "tiny has no accuracy gate to take test_cases from; add one to gates.yaml or override the"
            " fixture test_cases",
        ),
    ],
)
def test_a_fixture_without_its_gate_says_what_to_add(
    own_tests: Project, fixture: str, gates: str, message: str
) -> None:
    """A fixture that has nothing to return is an error with a remedy."""
    head = SPEC.partition("    gates:\n")[0]
    own_tests.spec(f"{head}    gates:\n      {gates}\n")
    own_tests.pytester.makepyfile(test_own=f"def test_own({fixture}): pass\n")

    result = own_tests.gate("test_own.py", "-m", "not quantgate", "-k", "Q8_0")

    result.assert_outcomes(errors=1, deselected=3)
    assert message in " ".join(result.stdout.str().split())
