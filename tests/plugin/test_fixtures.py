"""The fixtures for tests that a project writes itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

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
      accuracy: {cases: cases.jsonl, min: 0.5}
      memory: {max_mb: 1500}
"""

# Any text holds a space: the tiny model knows no facts, and none are needed here.
CASES = '{"id": "space", "prompt": "The first of the two", "expected": " "}\n'

# The four tests of a published recipe, bodies unchanged; its literal baseline figures give way to
# the measured fixture.
RECIPE = '''\
import pytest
from pytest_quantgate import QuantizationBenchmark

TEST_PROMPTS = [
    "The import statement combines two operations; it searches for the named module, then it binds",
    "A function definition is an executable statement. Its execution binds the function name in the",
]


@pytest.fixture
def benchmark_prompts():
    return TEST_PROMPTS


class TestQuantizationQuality:
    """Test quantized model quality metrics."""

    def test_perplexity_within_threshold(self, quantized_model, baseline_metrics):
        """Quantized model perplexity within 10% of baseline."""
        benchmark = QuantizationBenchmark(TEST_PROMPTS)
        results = benchmark.benchmark(quantized_model)

        max_perplexity = baseline_metrics["perplexity"] * 1.10
        assert results["perplexity"] <= max_perplexity, \\
            f"Perplexity {results['perplexity']} exceeds threshold {max_perplexity}"

    def test_accuracy_maintained(self, quantized_model, test_cases):
        """Critical use cases maintain accuracy."""
        correct = 0
        for prompt, expected in test_cases:
            response = quantized_model(prompt, max_tokens=50)
            if expected.lower() in response["choices"][0]["text"].lower():
                correct += 1

        accuracy = correct / len(test_cases)
        assert accuracy >= 0.90, f"Accuracy {accuracy} below 90% threshold"

    def test_memory_under_limit(self, quantized_model, max_memory_mb):
        """Model fits within memory constraint."""
        import psutil
        process = psutil.Process()
        memory_mb = process.memory_info().rss / (1024 * 1024)

        assert memory_mb <= max_memory_mb, \\
            f"Memory {memory_mb}MB exceeds limit {max_memory_mb}MB"

    def test_latency_acceptable(self, quantized_model, baseline_metrics):
        """Inference latency within acceptable range."""
        benchmark = QuantizationBenchmark(TEST_PROMPTS)
        results = benchmark.benchmark(quantized_model)

        # Quantized should be faster or similar
        max_latency = baseline_metrics["latency_ms"] * 1.5
        assert results["latency_ms"] <= max_latency
'''


@pytest.fixture
def own_tests(project: Project) -> Project:
    """A project with a specification and cases, for tests of its own."""
    project.spec(SPEC)
    (project.path / "cases.jsonl").write_text(CASES, encoding="utf-8")
    return project


def test_the_recipe_runs_on_a_real_model(own_tests: Project) -> None:
    """The published class passes for each variant, with nothing changed in its four tests."""
    own_tests.pytester.makepyfile(test_quantization=RECIPE.replace("* 1.5", "* 15"))

    result = own_tests.gate("test_quantization.py", "-v", "-m", "not quantgate")

    result.assert_outcomes(passed=8, deselected=4)
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
            "accuracy: {cases: cases.jsonl, min: 0.5}",
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
