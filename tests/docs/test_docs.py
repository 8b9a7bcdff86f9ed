"""The documentation says what is so: commands exist, examples run, tables and links are right."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

import pages
import pytest
import reference_tables
import typer
import yaml
from pages import PAGES, ROOT, Block, blocks, named
from typer.testing import CliRunner

from pytest_quantgate import cli, errors
from pytest_quantgate.cases import load_cases
from pytest_quantgate.errors import SpecError
from pytest_quantgate.gates import kinds
from pytest_quantgate.spec import load_spec

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Project

# Programs that a page may name without being about them.
FOREIGN = frozenset({"pip", "script"})

SPACE = '{"id": "space", "prompt": "The first of the two", "expected": " "}\n'
"""A case that any text answers."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_resolve(page: Path) -> None:
    """Every link inside the project leads to a file, and to a heading where it names one."""
    broken = []
    for target in pages.links(page):
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in pages.anchors(file)):
            broken.append(target)

    assert broken == []


def test_tables_are_those_of_the_code() -> None:
    """docs/reference.md has the options, keys, fixtures and commands that exist."""
    page = reference_tables.PAGE.read_text(encoding="utf-8")

    assert reference_tables.refreshed(page) == page, "run: python tests/docs/reference_tables.py"
    assert set(reference_tables.tables()) == {
        found[1] for found in reference_tables.SECTION.findall(page)
    }


def test_every_gate_has_a_page() -> None:
    """Each kind of gate has its page, which the overview and the README link."""
    for name in (gate.replace("_", "-") for gate in kinds()):
        assert f"gate-{name}.md" in pages.links(ROOT / "docs" / "guide-gates.md")
        assert f"docs/gate-{name}.md" in pages.links(ROOT / "README.md")


def test_every_decision_is_listed() -> None:
    """The list of decisions has each file once, in order, by its title."""
    folder = ROOT / "docs" / "adr"
    files = sorted(path.name for path in folder.glob("0*.md"))

    assert files == pages.links(folder / "README.md")
    for number, name in enumerate(files, start=1):
        assert (folder / name).read_text(encoding="utf-8").startswith(f"# {number}. ")


def test_every_room_is_described() -> None:
    """The page on the architecture names each module and folder of the package, and no other."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.+?) \|", page, re.MULTILINE)
    described = {name.rstrip("/") for row in rows for name in re.findall(r"`([\w/]+)`", row)}
    package = ROOT / "pytest_quantgate"
    modules = {path.stem for path in package.glob("[!_]*.py")}
    inits = package.rglob("*/__init__.py")
    folders = {path.parent.relative_to(package).as_posix() for path in inits}

    assert modules | folders == described


SPECS = [block for block in blocks("yaml") if "quantgate: 1" in block.text]
SNIPPETS = [block for block in blocks("yaml") if block.name == "snippet"]
CASE_FILES = [block for block in blocks("yaml", "json") if block.name.startswith("cases/")]


@pytest.mark.parametrize("block", SPECS, ids=str)
def test_specifications_parse(block: Block, tmp_path: Path) -> None:
    """Every whole specification is one."""
    path = tmp_path / block.name
    path.write_text(block.text, encoding="utf-8")

    assert load_spec(path).spec.models


@pytest.mark.parametrize("block", SNIPPETS, ids=str)
def test_parts_of_specifications_parse(block: Block, tmp_path: Path) -> None:
    """Every gate that is shown alone can stand in a specification."""
    path = tmp_path / "gates.yaml"
    path.write_text(
        "quantgate: 1\nmodels:\n  tiny:\n    baseline: {source: a.gguf}\n"
        "    variants: {Q8_0: {quantize: Q8_0}}\n    gates:\n      " + block.text,
        encoding="utf-8",
    )

    assert load_spec(path).spec.models


@pytest.mark.parametrize("block", blocks("yaml", "python", "json", "toml"), ids=str)
def test_code_has_a_form_that_is_checked(block: Block) -> None:
    """No block escapes: it is a named file or a snippet, and Python compiles."""
    if block.language == "python":
        compile(block.text, str(block), "exec")
    elif block.language == "yaml":
        known = block in SPECS or block in SNIPPETS or block in CASE_FILES
        assert known or "jobs" in yaml.safe_load(block.text)
    assert block.name or block.language == "toml"


def test_the_case_file_loads(tmp_path: Path) -> None:
    """The cases on the page of the accuracy gate are cases."""
    (text,) = named("docs/gate-accuracy.md", "cases/critical.jsonl")
    path = tmp_path / "cases.jsonl"
    path.write_text(text, encoding="utf-8")

    cases = load_cases(path, shown="cases.jsonl")

    assert [case.match for case in cases] == ["contains", "contains", "regex", "exact"]
    assert cases[2].judge("Order no. 4711 was sent").ok


@pytest.mark.parametrize("block", CASE_FILES, ids=str)
def test_case_files_load(block: Block, tmp_path: Path) -> None:
    """Every file of cases that is shown is one, in the format of its name."""
    path = tmp_path / block.name.replace("/", "-")
    path.write_text(block.text, encoding="utf-8")

    assert load_cases(path, shown=block.name)


def commands() -> list[tuple[str, str]]:
    """Return every command of the documentation with its place, those of workflows included."""
    found = [
        (f"{block}: {command}", command)
        for block in blocks("console", "sh")
        for command in block.commands
    ]
    for block in blocks("yaml"):
        found += [(f"{block}: {line}", line) for line in re.findall(r"- run: (.+)", block.text)]
    for page in PAGES:
        inline = re.findall(r"`((?:pytest|quantgate) [^`]*)`", page.read_text(encoding="utf-8"))
        place = page.relative_to(ROOT)
        found += [(f"{place}: {line}", line) for line in inline if "..." not in line]
    return found


@pytest.mark.parametrize("command", [pytest.param(text, id=place) for place, text in commands()])
def test_commands_exist(command: str, pytester: pytest.Pytester) -> None:
    """Each command has a program that is there, and options that it takes."""
    program, *arguments = shlex.split(command.partition(" > ")[0])
    if program == "pytest":
        pytester.parseconfig(*arguments)
    elif program == "quantgate":
        _parse_quantgate(arguments)
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert [each for each in arguments if "=" not in each and each not in targets] == []
    elif program == "python":
        assert (ROOT / arguments[0]).is_file()
    else:
        assert program in FOREIGN


def _parse_quantgate(arguments: list[str]) -> None:
    group: Any = typer.main.get_command(cli.app)
    named = arguments[0] in group.commands and all(each.startswith("-") for each in arguments[1:])
    if named or any(each.startswith("[") for each in arguments):
        # A command that is only named, or its synopsis: what can be wrong are the names.
        options = {name for each in group.commands[arguments[0]].params for name in each.opts}
        assert {each.strip("[]") for each in arguments if "--" in each} <= options
        return
    if not arguments[0].startswith("-"):
        # Raises for an unknown option, and for a file that is needed and not named.
        group.commands[arguments[0]].make_context(arguments[0], arguments[1:])
        return
    assert CliRunner().invoke(cli.app, arguments).exit_code == 0


def test_the_picture_is_drawn_from_a_log(tmp_path: Path) -> None:
    """The script draws colours and text, and no line that was overwritten."""
    log = tmp_path / "run.log"
    log.write_bytes(
        b"gates.yaml \n\r\x1b[2K  likelihood: chunks 4 of 40\r\x1b[2K\x1b[1A\r\x1b[11C"
        b"\x1b[32m.\x1b[0m <&> /home/me/x\r\n\x1b[31mFAIL\x1b[0m\r\n"
    )
    out = tmp_path / "run.svg"
    script = ROOT / "docs" / "terminal_picture.py"

    subprocess.run(
        [sys.executable, script, log, out, "--title", "a <b>", "--replace", "/home/me", "~"],
        check=True,
    )

    drawn = ET.fromstring(out.read_text(encoding="utf-8"))  # noqa: S314 - just written
    text = "".join(drawn.itertext()).replace("\N{NO-BREAK SPACE}", " ")
    assert "gates.yaml . <&> ~/x" in text.replace("\n", "")
    assert "FAIL" in text
    assert "likelihood" not in text
    assert "url(http" not in out.read_text(encoding="utf-8")


def test_messages_are_those_of_the_code() -> None:
    """What the page on troubleshooting quotes is what the package says."""
    known = [" ".join(text.split()) for text in pages.sentences(ROOT / "pytest_quantgate")]
    quoted = pages.quoted_messages(ROOT / "docs" / "troubleshooting.md")
    unknown = []
    for message in quoted:
        kind, colon, rest = message.partition(": ")
        if colon and hasattr(errors, kind):
            message = rest  # noqa: PLW2901 - the name of a class is no part of the sentence
        parts = [part.strip(" :()") for part in message.split("...")]
        unknown += [
            part
            for part in parts
            if len(part.split()) > 1 and not any(part in text for text in known)
        ]

    # These are pytest's and a place in a file.
    assert set(unknown) == {"unrecognized arguments: --quantgate"}


def test_the_shown_problem_is_the_one_that_is_told(tmp_path: Path) -> None:
    """The page on the file shows the message for a misspelled key as it is."""
    shown = next(block.text for block in blocks("text") if block.page.name == "guide-spec.md")
    path = tmp_path / "gates.yaml"
    path.write_text(
        "quantgate: 1\nmodels:\n  tiny:\n    baseline:\n      source: a.gguf\n    variants:\n"
        "      Q8_0:\n        quantize: Q8_0\n    gates:\n      perplexity: {max_ration: 1.10}\n",
        encoding="utf-8",
    )

    with pytest.raises(SpecError) as caught:
        load_spec(path)

    assert str(caught.value) == shown.rstrip("\n")


# --- examples that run -----------------------------------------------------------------------------


@pytest.fixture
def example(project: Project) -> Project:
    """A project with the files the pages name: models in dist, cases, a text."""
    for folder in ("dist", "cases", "texts"):
        (project.path / folder).mkdir()
    for name in ("my-model-f16", "my-model-iq3", "assistant-f16"):
        shutil.copy(project.path / "tiny-f16.gguf", project.path / "dist" / f"{name}.gguf")
    (project.path / "cases" / "critical.jsonl").write_text(SPACE, encoding="utf-8")
    shutil.copy(project.path / "corpus.txt", project.path / "texts" / "sample.txt")
    return project


def test_the_quick_start_of_the_readme(example: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands work in their order, and its test runs once for each variant."""
    (spec,) = named("README.md", "gates.yaml")
    (own,) = named("README.md", "test_my_model.py")
    example.spec(spec)
    (example.path / "test_my_model.py").write_text(own, encoding="utf-8")
    readme = [block for block in blocks("console") if block.page.name == "README.md"]
    checksum, gate = (shlex.split(line) for line in readme[0].commands)
    monkeypatch.chdir(example.path)

    assert CliRunner().invoke(cli.app, checksum[1:]).exit_code == 0
    assert gate == ["pytest", "--quantgate", "gates.yaml"]
    result = example.gate("test_my_model.py", "-m", "not quantgate")
    result.assert_outcomes(passed=2, deselected=10)
    # The stand-in for the file made elsewhere is the baseline itself, with which nothing is compared.
    chosen = "checksum or (Q4_K_M and accuracy)"
    example.gate("-k", chosen).assert_outcomes(passed=3, deselected=9)


def test_the_guide_to_own_tests(example: Project) -> None:
    """Both test files of the page pass, here for one variant."""
    (spec,) = named("docs/guide-own-tests.md", "gates.yaml")
    example.spec(spec)
    for name in ("test_answers.py", "test_quality.py"):
        (text,) = named("docs/guide-own-tests.md", name)
        # Whoever runs this suite may be busy with other things: time is not what it is about.
        (example.path / name).write_text(text.replace("* 1.5", "* 15"), encoding="utf-8")
    sidecar = (example.path / "tiny-f16.gguf.sha256").read_text()
    (example.path / "dist" / "assistant-f16.gguf.sha256").write_text(
        sidecar.replace("tiny-f16", "assistant-f16")
    )

    result = example.gate(
        "test_answers.py", "test_quality.py", "-m", "not quantgate", "-k", "Q4_K_M"
    )

    result.assert_outcomes(passed=6, deselected=10)


def test_the_specification_in_python(example: Project) -> None:
    """The hook on the page is a specification whose gates pass on the tiny model."""
    (hook, _) = named("docs/guide-conftest.md", "conftest.py")
    example.pytester.makeconftest(hook)

    example.gate(spec="conftest.py").assert_outcomes(passed=4)


def test_the_fixtures_that_set_limits(example: Project) -> None:
    """The fixtures on the page reach the gates."""
    (_, fixtures) = named("docs/guide-conftest.md", "conftest.py")
    example.pytester.makeconftest(fixtures)
    example.spec(
        "quantgate: 1\ndefaults: {corpus: corpus.txt, context: 128}\nmodels:\n  tiny:\n"
        "    baseline: {source: tiny-f16.gguf}\n    variants: {Q8_0: {quantize: Q8_0}}\n"
        "    gates:\n      perplexity: {max_ratio: 50}\n      memory: {max_mb: 1}\n"
    )

    result = example.gate("-rA")

    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*perplexity 8.31 (given as a number)*", "*max_mb 6000*"])


def test_the_shown_failure_is_what_a_user_sees(example: Project) -> None:
    """Every line of the failure in the README is in the report of a variant that lost quality."""
    shown = next(block.text for block in blocks("text") if block.page.name == "README.md")
    example.spec(
        "quantgate: 1\ndefaults: {corpus: corpus.txt, context: 128}\nmodels:\n  tiny:\n"
        "    baseline: {source: tiny-f16.gguf, quantize: F16}\n    variants: {Q2_K: {quantize: Q2_K}}\n"
        "    gates:\n      perplexity: {max_ratio: 1.01}\n"
    )

    report = {_form(line) for line in example.gate("-k", "perplexity").outlines}

    lines = [_form(line) for line in shown.splitlines()]
    # Rows of the tiny model are multiples of 256, so that one line does not apply to it.
    missing = [line for line in lines if line not in report and "no multiple of" not in line]
    assert missing == []
    assert len(lines) > 4


def _form(line: str) -> str:
    """Return a line without its numbers and names."""
    line = re.sub(r"\d+(\.\d+)?", "0", line.replace("smollm2-135m", "tiny"))
    return re.sub("__+", "__", line)


def test_the_schema_command_prints_the_shipped_schema() -> None:
    """What the page tells to print is JSON, and the file that the package has."""
    printed = CliRunner().invoke(cli.app, ["schema"]).output

    assert json.loads(printed)["title"] == "pytest-quantgate specification"
    assert printed == (ROOT / "pytest_quantgate" / "gates.schema.json").read_text("utf-8")
