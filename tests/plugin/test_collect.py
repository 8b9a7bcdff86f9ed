"""Gates are collected as ordinary items, and the other tests of a run stay as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Project

OTHER = """\
def test_one():
    pass

def test_two():
    pass
"""

IDS = [
    "gates.yaml::tiny::Q8_0::checksum",
    "gates.yaml::tiny::Q8_0::perplexity",
    "gates.yaml::tiny::Q4_K_M::checksum",
    "gates.yaml::tiny::Q4_K_M::perplexity",
]


def collected(result: pytest.RunResult) -> list[str]:
    """Return the node ids that ``--collect-only -q`` printed."""
    return [line for line in result.outlines if "::" in line]


def test_gates_have_nested_ids_in_the_order_of_the_specification(project: Project) -> None:
    """Ids are gates.yaml::<model>::<variant>::<gate>, and nothing else is collected."""
    result = project.gate("--collect-only", "-q")

    assert IDS == collected(result)
    assert result.ret == pytest.ExitCode.OK


def test_collecting_touches_no_model(project: Project) -> None:
    """A machine without the model file, and without a store, can collect."""
    (project.path / "tiny-f16.gguf").unlink()

    result = project.gate("--collect-only", "-q", fresh=True)

    assert IDS == collected(result)
    assert not (project.path / ".quantgate").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-k", "Q8_0 and perplexity"], IDS[1:2]),
        (["-m", "quantgate(variant='Q4_K_M')"], IDS[2:]),
        (["-m", "quantgate(gate='checksum')"], [IDS[0], IDS[2]]),
        (["gates.yaml::tiny::Q8_0"], IDS[:2]),
        (["gates.yaml::tiny::Q8_0::perplexity"], IDS[1:2]),
    ],
)
def test_gates_are_selected_like_any_test(
    project: Project, arguments: list[str], expected: list[str]
) -> None:
    """-k, -m with the marker's arguments and node ids choose among gates."""
    assert expected == collected(project.gate("--collect-only", "-q", *arguments))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["."],
        ["test_other.py"],
        ["gates.yaml", "test_other.py"],
        ["test_other.py", "gates.yaml"],
        ["test_other.py::test_one", "test_other.py::test_two"],
    ],
    ids=" ".join,
)
def test_other_tests_are_neither_lost_nor_doubled(
    project: Project, three_ways: list[str], arguments: list[str]
) -> None:
    """However the run names its tests, each other test and each gate is there once."""
    project.pytester.makepyfile(test_other=OTHER)

    result = project.gate(
        "-v", "-m", "not quantgate or quantgate(gate='checksum')", *arguments, *three_ways
    )

    result.assert_outcomes(passed=4, deselected=0 if "-n2" in three_ways else 2)


def test_a_specification_in_an_unwalked_folder_is_collected(project: Project) -> None:
    """norecursedirs hides a stray test beside the specification, and not the specification."""
    project.spec(name=".github/gates.yaml")
    (project.path / ".github" / "test_stray.py").write_text("def test_stray(): pass\n")

    result = project.gate("--collect-only", "-q", spec=".github/gates.yaml")

    assert [f".github/{each}" for each in IDS] == collected(result)


def test_ignoring_a_specification_does_not_lose_it(project: Project) -> None:
    """--ignore cannot make a gate run green by leaving the gates out."""
    assert IDS == collected(project.gate("--collect-only", "-q", "--ignore=gates.yaml"))


def test_a_specification_outside_the_folder_is_collected(project: Project) -> None:
    """A path that leads out of the rootdir works, too."""
    inner = project.path / "inner"
    inner.mkdir()
    (inner / "pytest.ini").write_text("[pytest]\n")
    project.pytester.chdir()

    result = project.run(
        "--rootdir", str(inner), "--quantgate", "gates.yaml", "--collect-only", "-q"
    )

    assert [each.rpartition("::")[2] for each in collected(result)] == [
        each.rpartition("::")[2] for each in IDS
    ]


def test_several_specifications(project: Project) -> None:
    """--quantgate may be given more than once; the same file counts once."""
    project.spec(name="more.yaml")

    result = project.gate(
        "--quantgate", "more.yaml", "--quantgate", "./gates.yaml", "--collect-only", "-q"
    )

    assert sorted([*IDS, *(each.replace("gates", "more", 1) for each in IDS)]) == sorted(
        collected(result)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "*gates.yaml:1:1: *empty*"),
        ("quantgate: 1\nmodels: {}\n", "*gates.yaml:2:9: *"),
    ],
)
def test_an_empty_specification_is_an_error(
    project: Project, three_ways: list[str], text: str, message: str
) -> None:
    """Nothing to gate is no success."""
    project.spec(text)

    result = project.gate(*three_ways)

    result.stdout.fnmatch_lines([message])
    assert result.ret not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)


def test_every_problem_is_told_at_once_with_its_place(project: Project) -> None:
    """One run shows all that is wrong, each with line and column, without a traceback."""
    project.spec("""\
        quantgate: 1
        models:
          tiny:
            baseline: {source: tiny-f16.gguf}
            variants:
              Q8_0: {quantise: Q8_0}
            gates:
              perplexty: {max_ratio: 1.1}
              memory: {max_mb: lots}
        """)

    result = project.gate()

    result.stdout.fnmatch_lines(
        [
            "gates.yaml:6:14: unknown key 'quantise'*did you mean 'quantize'?*",
            "gates.yaml:8:7: unknown*'perplexty'*did you mean 'perplexity'?*",
            "gates.yaml:9:24: *'lots'*",
        ]
    )
    result.stdout.no_fnmatch_line("*Traceback*")
    assert result.ret == pytest.ExitCode.INTERRUPTED


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.yaml", "*--quantgate: no such specification: absent.yaml*"),
        (".", "*--quantgate: . is a folder; name the specification file in it*"),
    ],
)
def test_a_specification_that_is_not_there_is_a_usage_error(
    project: Project, three_ways: list[str], name: str, message: str
) -> None:
    """A wrong name ends the run before it starts, with pytest's exit code for usage errors."""
    result = project.gate(*three_ways, spec=name)

    result.stderr.fnmatch_lines([message])
    assert result.ret == pytest.ExitCode.USAGE_ERROR


def test_markers_are_registered(project: Project) -> None:
    """A suite with --strict-markers may use the marker, with and without gating."""
    project.pytester.makepyfile(
        test_marked="import pytest\n@pytest.mark.quantgate\ndef test_marked(): pass\n"
    )

    project.run("--strict-markers", "test_marked.py").assert_outcomes(passed=1)
    project.run("--markers").stdout.fnmatch_lines(
        ["@pytest.mark.quantgate(model, variant, gate): *"]
    )
