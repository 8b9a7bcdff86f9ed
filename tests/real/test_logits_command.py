"""`quantgate logits`, and the gate that reads what it wrote."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from pytest_quantgate.artifact.logits_file import read_header

if TYPE_CHECKING:
    from conftest import Project

pytestmark = pytest.mark.real

COMMAND = (sys.executable, "-c", "from pytest_quantgate.cli import main; main()", "logits")

SPEC = """\
quantgate: 1
models:
  tiny:
    variants: {Q8_0: {source: tiny-Q8_0.gguf}}
    gates:
      kld: {max_mean: 0.01, min_same_top: 0.9, logits_file: base.logits}
"""


def test_a_gate_reads_what_the_command_wrote(project: Project) -> None:
    """The command says how many windows it wrote, and the gate needs no baseline and no text."""
    project.spec("""\
        quantgate: 1
        models:
          tiny:
            baseline: {source: tiny-f16.gguf}
            variants: {Q8_0: {quantize: Q8_0}}
            gates: {checksum: {}}
        """)
    project.gate(fresh=True).assert_outcomes(passed=1)
    (made,) = (project.path / ".quantgate" / "models").rglob("*Q8_0.gguf")
    made.rename(project.path / "tiny-Q8_0.gguf")
    target = project.path / "base.logits"

    result = project.pytester.run(
        *COMMAND,
        *("tiny-f16.gguf", "--text", "corpus.txt", "--output", target.name),
        *("--context", "64", "--chunks", "40", "--threads", "1"),
    )

    assert result.ret == 0
    assert result.outlines == ["wrote base.logits: 40 windows of 64 tokens"]
    assert (read_header(target).chunks, read_header(target).context) == (40, 64)
    project.spec(SPEC)
    gated = project.gate("-rA", fresh=True)
    gated.assert_outcomes(passed=1)
    gated.stdout.fnmatch_lines(["*mean KLD * <= max_mean 0.01; 16 of 40 chunks decided it"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.gguf", "--text", "corpus.txt"], "absent.gguf: no such file"),
        (["tiny-f16.gguf", "--text", "absent.txt"], "absent.txt: no such file"),
    ],
    ids=["model", "text"],
)
def test_what_is_missing_is_named(project: Project, arguments: list[str], message: str) -> None:
    """A file that is not there is one message and exit code 2, and no logits file is left."""
    result = project.pytester.run(*COMMAND, *arguments, "--output", "base.logits")

    assert result.ret == 2
    assert message in result.stderr.str()
    assert not (project.path / "base.logits").exists()
