"""`quantgate plan` and `quantgate calibrate` on a real model, and what the gates make of it."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest
import yaml

from pytest_quantgate.spec import spec_from_mapping

if TYPE_CHECKING:
    from conftest import Project

pytestmark = pytest.mark.real

GATES = {
    "perplexity": {"max_ratio": 1.10, "max_increase": "9%", "policy": "lenient", "max": 400.0},
    "kld": {
        "max_mean": 0.30,
        "max_p99": 3.0,
        "max": 30.0,
        "min_same_top": 0.5,
        "max_rms_delta_p": "20pp",
    },
    "nll_per_byte": {"max_ratio": 1.10, "passage_bytes": 256},
}
PROPOSED = {
    "perplexity": {"max_ratio", "max_increase", "policy", "max"},
    "kld": {"max_mean", "max_p99", "min_same_top", "max_rms_delta_p"},
    "nll_per_byte": {"max_ratio"},
}
"""All of them, but for the largest divergence, for which only the whole text can speak."""


@pytest.fixture
def specified(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with one variant and every limit that is decided on part of a text."""
    project.spec(yaml.safe_dump(_spec(GATES)))
    monkeypatch.chdir(project.path)
    return project


def _spec(gates: object) -> dict[str, object]:
    return {
        "quantgate": 1,
        "defaults": {"corpus": "corpus.txt", "context": 32},
        "models": {
            "tiny": {
                "baseline": {"source": "tiny-f16.gguf"},
                "variants": {"Q4_0": {"quantize": "Q4_0"}},
                "gates": {"checksum": {}, **(gates if isinstance(gates, dict) else {})},
            }
        },
    }


THREADS = ("--threads", "1")
"""As the project's own configuration has it, which the command does not read."""

COMMAND = (sys.executable, "-c", "from pytest_quantgate.cli import main; main()")


def _run(project: Project, *arguments: str) -> str:
    result = project.pytester.run(*COMMAND, *arguments, *THREADS)
    assert result.ret == 0, result.stderr.str()
    return "".join(f"{line}\n" for line in result.outlines)


def test_a_plan_measures_what_the_run_takes_over(specified: Project) -> None:
    """Its first blocks are stored: the run that follows measures those windows no more."""
    text = _run(specified, "plan", "gates.yaml")

    assert "tiny::Q4_0\n  kld: " in text
    assert "measured whole, not drawn from a text: checksum (1 gates)" in text
    stored = _measurements(specified)
    assert _run(specified, "plan", "gates.yaml") == text
    assert _measurements(specified) == stored
    specified.gate("-k", "kld", fresh=True)
    after = _measurements(specified)
    assert stored <= after
    first = [name for name in after if name.startswith("divergence-")]
    keys = [_key(specified, name)["chunks_first"] for name in first]
    assert len(keys) == len(set(keys))


def test_calibration_proposes_limits_that_hold(specified: Project) -> None:
    """Every proposed limit is valid as it is printed, has its reason beside it, and passes."""
    text = _run(
        specified, "calibrate", "gates.yaml", "--chunks", "128", "--output", "proposed.yaml"
    )

    assert "noise floor" in text
    proposed = (specified.path / "proposed.yaml").read_text("utf-8")
    found = yaml.safe_load(proposed)["models"]["tiny"]["variants"]["Q4_0"]["gates"]
    assert {gate: set(limits) for gate, limits in found.items()} == PROPOSED
    limits = [line for line in proposed.splitlines() if "  # " in line]
    assert len(limits) == sum(map(len, PROPOSED.values()))
    found["nll_per_byte"]["passage_bytes"] = 256
    spec_from_mapping(_spec(found), origin="proposed", base=specified.path, root=specified.path)
    specified.spec(yaml.safe_dump(_spec(found)))
    specified.gate(fresh=True).assert_outcomes(passed=4)


def test_a_limit_inside_the_noise_is_refused(specified: Project) -> None:
    """After calibration a ratio nearer to 1 than three times the floor is an error, and not before."""
    near = {"perplexity": {"max_ratio": 1.0000001}}
    specified.spec(yaml.safe_dump(_spec(near)))
    specified.gate("-k", "perplexity", fresh=True).assert_outcomes(failed=1, deselected=1)

    _run(specified, "calibrate", "gates.yaml")

    result = specified.gate("-k", "perplexity", fresh=True)
    result.assert_outcomes(errors=1, deselected=1)
    result.stdout.fnmatch_lines(["*max_ratio 1.0000001 is inside the noise*"])


def test_what_cannot_be_measured_is_listed(specified: Project) -> None:
    """A gate without a pilot has its reason in the plan, and the others have theirs."""
    gates = {"perplexity": {"max_ratio": 1.1, "corpus": "short.txt"}, "kld": {"max_mean": 0.3}}
    (specified.path / "short.txt").write_text("Too short.", encoding="utf-8")
    specified.spec(yaml.safe_dump(_spec(gates)))

    text = _run(specified, "plan", "gates.yaml")

    assert "  perplexity: ArtifactError: corpus " in text
    assert "    max_mean 0.3: mean KLD " in text


def test_a_specification_that_is_none_ends_in_one_message(specified: Project) -> None:
    """The exit code says that nothing was planned, and the message has the place."""
    specified.spec("quantgate: 2\n")

    result = specified.pytester.run(*COMMAND, "plan", "gates.yaml")

    assert result.ret == 2
    result.stderr.fnmatch_lines(["gates.yaml:1:12: this version reads format 1 only*"])


def _measurements(project: Project) -> set[str]:
    return {path.name for path in (project.path / ".quantgate" / "measurements").iterdir()}


def _key(project: Project, name: str) -> dict[str, str]:
    document = json.loads((project.path / ".quantgate" / "measurements" / name).read_text("utf-8"))
    key: dict[str, str] = document["key"]
    return key
