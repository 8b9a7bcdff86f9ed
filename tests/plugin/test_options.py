"""Each option works from the command line and from an ini file, and its values are checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_quantgate.plugin import OPTIONS

if TYPE_CHECKING:
    from conftest import Project

SHOW = """\
from pytest_quantgate.plugin import OPTIONS, option_value

def pytest_configure(config):
    for option in OPTIONS:
        print("VALUE", option.name, repr(option_value(config, option)))
"""


def shown(result: pytest.RunResult, name: str) -> str:
    """Return what an option was in a run with the conftest above."""
    prefix = f"VALUE {name} "
    return next(line.removeprefix(prefix) for line in result.outlines if line.startswith(prefix))


def test_every_option_is_tried_below() -> None:
    """The table of this file knows all options there are."""
    assert {option.name for option in OPTIONS} == {name for name, *_ in VALUES}


VALUES = [
    ("store", ["--quantgate-store=here"], "quantgate_store = here", "'here'", "'.quantgate'"),
    (
        "root",
        ["--quantgate-root=a", "--quantgate-root=b"],
        "quantgate_root =\n  a\n  b",
        "['a', 'b']",
        "[]",
    ),
    ("threads", ["--quantgate-threads=1"], "quantgate_threads = 1", "1", "None"),
    ("timeout", ["--quantgate-timeout=2.5"], "quantgate_timeout = 2.5", "2.5", "None"),
    ("remeasure", ["--quantgate-remeasure"], "quantgate_remeasure = true", "True", "False"),
    (
        "baselines",
        ["--quantgate-baselines=kept"],
        "quantgate_baselines = kept",
        "'kept'",
        "None",
    ),
    (
        "update_baselines",
        ["--quantgate-update-baselines"],
        "quantgate_update_baselines = true",
        "True",
        "False",
    ),
    (
        "baseline_chunks",
        ["--quantgate-baseline-chunks=32"],
        "quantgate_baseline_chunks = 32",
        "32",
        "128",
    ),
    (
        "answers",
        ["--quantgate-answers=out.jsonl"],
        "quantgate_answers = out.jsonl",
        "'out.jsonl'",
        "None",
    ),
    ("required", ["--quantgate-required"], "quantgate_required = true", "True", "False"),
]


@pytest.mark.parametrize(("name", "arguments", "ini", "value", "default"), VALUES)
def test_option_and_ini_twin(
    project: Project, name: str, arguments: list[str], ini: str, value: str, default: str
) -> None:
    """Command line and ini give the same value; without either the default holds."""
    project.pytester.makeconftest(SHOW)
    project.pytester.makeini("[pytest]\n")

    assert default == shown(project.run("--collect-only", "-s"), name)
    assert value == shown(project.run("--collect-only", "-s", *arguments), name)
    project.pytester.makeini(f"[pytest]\n{ini}\n")
    assert value == shown(project.run("--collect-only", "-s"), name)


@pytest.mark.parametrize("name", ["remeasure", "required", "update_baselines"])
def test_a_switch_of_the_ini_can_be_undone(project: Project, name: str) -> None:
    """--no-quantgate-* undoes what addopts or an ini switched on."""
    project.pytester.makeconftest(SHOW)
    project.pytester.makeini(f"[pytest]\nquantgate_{name} = true\n")

    flag = f"--no-quantgate-{name.replace('_', '-')}"
    assert shown(project.run("--collect-only", "-s", flag), name) == "False"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--quantgate-threads=0"], "--quantgate-threads: '0' is no whole number above 0"),
        (["--quantgate-threads=1.5"], "--quantgate-threads: '1.5' is no whole number above 0"),
        (
            ["--quantgate-baseline-chunks=0"],
            "--quantgate-baseline-chunks: '0' is no whole number above 0",
        ),
        (
            ["--quantgate-update-baselines"],
            "--quantgate-update-baselines: name their folder with --quantgate-baselines DIR",
        ),
        (["--quantgate-baselines=corpus.txt"], "corpus.txt is a file; name a folder"),
        (["--quantgate-timeout=-1"], "--quantgate-timeout: '-1' is no number above 0"),
        (["--quantgate-timeout=nan"], "--quantgate-timeout: 'nan' is no number above 0"),
    ],
)
def test_wrong_values_are_usage_errors(
    project: Project, arguments: list[str], message: str
) -> None:
    """A value that cannot be meant ends the run before it starts."""
    result = project.gate(*arguments)

    result.stderr.fnmatch_lines([f"*{message}*"])
    assert result.ret == pytest.ExitCode.USAGE_ERROR


def test_specifications_can_stand_in_the_ini(project: Project) -> None:
    """quantgate_specs gates in every run; names are relative to the rootdir."""
    project.pytester.makeini("[pytest]\nquantgate_specs = gates.yaml\n")
    inner = project.path / "inner"
    inner.mkdir()

    result = project.run("--collect-only", "-q", "inner")

    assert "gates.yaml::tiny::Q8_0::checksum" in result.outlines
