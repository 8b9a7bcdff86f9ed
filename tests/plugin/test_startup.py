"""Having the plugin installed costs a run that does not gate next to nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Project

LIST_MODULES = """\
import atexit, sys

def show():
    ours = sorted(name for name in sys.modules if name.partition(".")[0] == "pytest_quantgate")
    heavy = [name for name in ("yaml", "numpy", "scipy", "llama_cpp", "pydantic", "rich", "psutil",
                               "filelock", "multiprocessing") if name in sys.modules]
    print("OURS", ours, "HEAVY", heavy)

atexit.register(show)
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


def test_without_the_option_only_the_entry_module_is_imported(project: Project) -> None:
    """A run without --quantgate loads the package, its entry module, and nothing heavy."""
    project.pytester.makepyfile(test_other="def test_one(): pass\n")
    arguments = [
        "-p",
        "no:benchmark",
        "-p",
        "no:xdist",
        "-p",
        "no:hypothesispytest",
        "test_other.py",
    ]

    done = subprocess.run(
        [sys.executable, "-c", LIST_MODULES, *arguments],
        cwd=project.path,
        # A coverage that measures this suite would load itself into the process, and what it needs.
        env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")},
        capture_output=True,
        text=True,
        check=True,
    )

    assert "OURS ['pytest_quantgate', 'pytest_quantgate.plugin'] HEAVY []" in done.stdout


def test_the_header_line_appears_only_when_gating(project: Project) -> None:
    """One line names specification, store and engine; other runs do not see it."""
    project.pytester.makepyfile(test_other="def test_one(): pass\n")

    project.run("test_other.py").stdout.no_fnmatch_line("*quantgate: *")
    project.run("--quantgate", "gates.yaml", "--collect-only").stdout.fnmatch_lines(
        ["quantgate: gates.yaml, store .quantgate, engine llama-cpp-python *"]
    )


def test_the_plugin_can_be_switched_off(project: Project) -> None:
    """-p no:quantgate leaves pytest as if it were not installed."""
    project.pytester.makepyfile(test_other="def test_one(): pass\n")

    project.run("-p", "no:quantgate", "test_other.py").assert_outcomes(passed=1)
    refused = project.gate("-p", "no:quantgate")

    refused.stderr.fnmatch_lines(["*unrecognized arguments: --quantgate*"])
    assert refused.ret == pytest.ExitCode.USAGE_ERROR


def test_the_plugin_loads_by_name_without_entry_points(project: Project) -> None:
    """Where plugin autoloading is off, -p names the entry module."""
    project.pytester.makepyfile(test_other="def test_one(): pass\n")
    project.monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    result = project.run(
        "-p", "pytest_quantgate.plugin", "--quantgate", "gates.yaml", "--collect-only", "-q"
    )

    assert "gates.yaml::tiny::Q8_0::checksum" in result.outlines


@pytest.mark.parametrize("option", ["--help", "--fixtures"])
def test_help_and_fixtures_are_documented(project: Project, option: str) -> None:
    """pytest's own help lists options, ini settings and fixtures with their texts."""
    lines = "\n".join(project.run(option).outlines)

    expected = {
        "--help": [
            "--quantgate=SPEC",
            "--quantgate-store=DIR",
            "--no-quantgate-remeasure",
            "quantgate_required",
        ],
        "--fixtures": [
            "quantized_model",
            "baseline_model",
            "baseline_metrics",
            "max_memory_mb",
            "test_cases",
            "benchmark_prompts",
        ],
    }[option]
    assert [name for name in expected if name not in lines] == []
