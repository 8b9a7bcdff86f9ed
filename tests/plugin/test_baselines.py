"""Baselines that a team commits: written once, used without the baseline's model, refused when stale."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

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
SHIPPED = """\
quantgate: 1
defaults: {corpus: corpus.txt, context: 64}
models:
  tiny:
    baseline: {source: tiny-f16.gguf}
    variants:
      shipped: {source: tiny-f16-Q8_0.gguf}
    gates:
      perplexity: {max_ratio: 1.5}
"""
KLD = "      kld: {max_mean: 0.5, min_same_top: 0.5}\n"
STEM = "tiny--corpus-64-seed0"
WRITTEN = f"baseline written: baselines/{STEM}.json and its .npz; commit both"


def flat(result: pytest.RunResult) -> str:
    """Return what was printed, without line breaks."""
    return " ".join(result.stdout.str().split())


def kept(project: Project, *arguments: str, fresh: bool = False) -> pytest.RunResult:
    """Run gates with committed baselines."""
    return project.gate("--quantgate-baselines", "baselines", *arguments, fresh=fresh)


@pytest.fixture
def committed(project: Project) -> Path:
    """The header of a baseline of 32 windows; the variant it is for lies in the project as a file."""
    project.spec(SPEC)
    kept(project, "--quantgate-baseline-chunks=32", "-k", "Q8_0").assert_outcomes(passed=1)
    (made,) = (project.shared_store / "models").glob("*/tiny-f16-Q8_0.gguf")
    shutil.copy(made, project.path)
    project.spec(SHIPPED)
    header: Path = project.path / "baselines" / f"{STEM}.json"
    return header


def without_the_baseline(project: Project) -> None:
    """Take the baseline's model away, as on a machine that never had it."""
    (project.path / "tiny-f16.gguf").unlink()


def edit(path: Path, *keys: str, value: object) -> None:
    """Change one value of a header."""
    header = json.loads(path.read_text(encoding="utf-8"))
    part = header
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    path.write_text(json.dumps(header), encoding="utf-8")


# --- the first run -----------------------------------------------------------------------------------


def test_the_first_run_writes_a_baseline_and_says_so(
    project: Project, three_ways: list[str]
) -> None:
    """Two files for both variants, named at the end of the run; the second run writes nothing."""
    project.spec(SPEC)

    result = kept(project, *three_ways, "--quantgate-baseline-chunks=20", "-rA")
    again = kept(project, *three_ways)

    result.assert_outcomes(passed=2)
    folder = project.path / "baselines"
    assert sorted(path.name for path in folder.iterdir()) == [f"{STEM}.json", f"{STEM}.npz"]
    header = json.loads((folder / f"{STEM}.json").read_text(encoding="utf-8"))
    # Whole blocks, so that they can be shared.
    assert header["sample"]["chunks"] == header["sample"]["top_chunks"] == 32
    assert header["model"]["file_type"] == "F16"
    assert result.outlines.count(WRITTEN) == 1
    assert f"the baseline was measured and written to baselines/{STEM}.json" in flat(result)
    again.assert_outcomes(passed=2)
    assert "baseline written" not in flat(again)


def test_the_header_line_names_the_folder(project: Project) -> None:
    """Who reads the report knows that committed baselines were used; the ini does it too."""
    project.pytester.makeini("[pytest]\nquantgate_baselines = kept/here\n")

    result = project.run("--quantgate", "gates.yaml", "--collect-only")

    result.stdout.fnmatch_lines(["quantgate: *, store .quantgate, baselines kept/here, engine *"])


def test_the_figures_are_those_without_committing(project: Project) -> None:
    """A committed baseline changes no digit of a ratio."""
    project.spec(SPEC)

    project.gate("--junitxml=live.xml", "-k", "Q8_0")
    kept(project, "--junitxml=first.xml", "-k", "Q8_0")
    kept(project, "--junitxml=second.xml", "-k", "Q8_0")

    figures = [
        dict(
            re.findall(
                r'name="(quantgate\.max_ratio\.\w+)" value="([^"]+)"',
                (project.path / f"{name}.xml").read_text(encoding="utf-8"),
            )
        )
        for name in ("live", "first", "second")
    ]
    assert figures[0] == figures[1] == figures[2]
    assert set(figures[0]) >= {"quantgate.max_ratio.value", "quantgate.max_ratio.baseline"}


# --- without the baseline's model --------------------------------------------------------------------


def test_the_candidate_alone_is_enough(
    project: Project, committed: Path, three_ways: list[str]
) -> None:
    """Where the baseline's model never was, its ratio is judged all the same."""
    without_the_baseline(project)

    result = kept(project, *three_ways, fresh=True)

    result.assert_outcomes(passed=1)
    measurements = project.path / ".quantgate" / "measurements"
    assert len(list(measurements.glob("likelihood-*.json"))) == 1
    assert committed.exists()


def test_a_divergence_from_it_is_a_lower_bound(project: Project, committed: Path) -> None:
    """Which is named so, and passes a limit only where the specification accepts that."""
    del committed
    without_the_baseline(project)
    project.spec(SHIPPED + KLD)

    refused = kept(project, "-k", "kld", fresh=True)
    project.spec(SHIPPED + KLD.replace("0.5}", "0.5, accept_lower_bound: true}"))
    accepted = kept(project, "-k", "kld", "-rA", fresh=True)

    refused.assert_outcomes(failed=1)
    assert "max_mean cannot pass on a lower bound" in flat(refused)
    accepted.assert_outcomes(passed=1)
    assert "lower bound" in flat(accepted)


def test_beyond_its_windows_it_decides_nothing(project: Project, committed: Path) -> None:
    """With the baseline's model the measuring goes on; without it, 32 windows are the budget."""
    del committed
    project.spec(SHIPPED.replace("1.5", "1.001"))

    longer = kept(project)
    without_the_baseline(project)
    ended = kept(project)

    assert "32 of" not in flat(longer)
    ended.assert_outcomes(failed=1)
    text = flat(ended)
    assert "inconclusive: perplexity ratio" in text
    assert re.search(r"32 of 1\d\d chunks did not decide it", text)
    assert "committed baseline" in text


def test_neither_model_nor_baseline(project: Project) -> None:
    """The message says what is missing and where to write it."""
    project.spec(SHIPPED)
    shutil.copy(project.path / "tiny-f16.gguf", project.path / "tiny-f16-Q8_0.gguf")
    without_the_baseline(project)

    result = kept(project)

    result.assert_outcomes(errors=1)
    text = flat(result)
    assert (
        f"ArtifactError: the committed baseline baselines/{STEM}.json is not there, because the"
        " baseline's model is not at hand: 'tiny-f16.gguf': no such file"
    ) in text
    assert "write it where the model is" in text


def test_a_variant_that_is_the_baseline_itself(project: Project, committed: Path) -> None:
    """The header's digest gives it away without the baseline's file."""
    del committed
    (project.path / "tiny-f16.gguf").rename(project.path / "tiny-f16-Q8_0.gguf")

    result = kept(project)

    result.assert_outcomes(errors=1)
    assert "shipped and the baseline are the same file" in flat(result)


# --- something else, somewhere else ------------------------------------------------------------------


def other_text(project: Project, _: Path) -> None:
    """Change the text."""
    with (project.path / "corpus.txt").open("a", encoding="utf-8") as stream:
        stream.write("One more line.\n")


def other_model(project: Project, _: Path) -> None:
    """Put another model in the place of the baseline."""
    shutil.copy(project.path / "tiny-f16-Q8_0.gguf", project.path / "tiny-f16.gguf")
    (made,) = (project.shared_store / "models").glob("*/tiny-f16-Q4_K_M.gguf")
    shutil.copy(made, project.path / "tiny-f16-Q8_0.gguf")


def other_source(project: Project, _: Path) -> None:
    """Name the same file differently."""
    shutil.copy(project.path / "tiny-f16.gguf", project.path / "moved.gguf")
    project.spec(SHIPPED.replace("tiny-f16.gguf", "moved.gguf"))


def other_recipe(project: Project, _: Path) -> None:
    """Make the baseline in another type."""
    project.spec(SHIPPED.replace("tiny-f16.gguf}", "tiny-f16.gguf, quantize: BF16}"))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (other_text, "text.sha256 is '"),
        (other_model, "model.sha256 is '"),
        (other_source, "model.source is 'tiny-f16.gguf' there and 'moved.gguf' here"),
        (other_recipe, "model.quantize is None there and 'BF16' here"),
    ],
)
def test_a_baseline_of_something_else_is_refused(
    project: Project, committed: Path, change: Callable[[Project, Path], None], field: str
) -> None:
    """An error that names the field and both values, and the option that measures anew."""
    project.spec(SPEC)
    project.gate("-k", "Q4_K_M")
    project.spec(SHIPPED)
    change(project, committed)

    result = kept(project)

    result.assert_outcomes(errors=1)
    text = flat(result)
    assert f"baselines/{STEM}.json was measured on something else: {field}" in text
    assert "measure anew with --quantgate-update-baselines" in text


def test_every_field_that_can_change_a_number_is_compared(
    project: Project, committed: Path
) -> None:
    """All that differ are named at once; the machine is not among them."""
    changes: dict[str, object] = {
        "model.name": "large",
        "model.source": "other.gguf",
        "model.quantize": "F16",
        "model.sha256": "0" * 64,
        "text.name": "other.txt",
        "text.sha256": "1" * 64,
        "text.context": 128,
        "text.chunks": 1000,
        "engine.version": "llama-cpp-python 0.2.0",
        "engine.batch": 512,
        "engine.ubatch": 256,
        "engine.flash_attention": "on",
        "engine.gpu_layers": 99,
        "engine.repack": False,
        "machine.threads": 64,
        "machine.description": "Another",
    }
    for place, value in changes.items():
        edit(committed, *place.split("."), value=value)

    text = flat(kept(project))

    named = set(re.findall(r"([a-z]+\.[a-z0-9_]+) is \S+ ?\S* there and", text))
    assert named == {place for place in changes if not place.startswith("machine.")}


def test_another_machine_is_said_and_not_refused(project: Project, committed: Path) -> None:
    """A baseline that served one kind of processor only could not be committed."""
    edit(committed, "machine", "arithmetic", value="aarch64-0123456789ab")
    edit(committed, "machine", "description", value="Another processor")

    result = kept(project, "-rA")

    result.assert_outcomes(passed=1)
    assert (
        "the baseline was measured on another kind of machine (Another processor); the last digits"
        " of a ratio may come from that"
    ) in flat(result)


def test_a_baseline_that_is_made_is_compared_once_it_is(project: Project, committed: Path) -> None:
    """Where it is not at hand at first, its digest is compared when windows beyond need it."""
    made = SHIPPED.replace("tiny-f16.gguf}", "tiny-f16.gguf, quantize: Q5_K_M}")
    project.spec(made.replace("1.5", "1.001"))
    edit(committed, "model", "quantize", value="Q5_K_M")

    result = kept(project, fresh=True)

    result.assert_outcomes(errors=1)
    assert re.search(r"something else: model.sha256 is '\w+' there and '\w+' here;", flat(result))


def test_a_damaged_baseline_is_an_error(project: Project, committed: Path) -> None:
    """Merge conflicts happen to committed files."""
    committed.write_text("<<<<<<< HEAD\n" + committed.read_text(), encoding="utf-8")

    result = kept(project)

    result.assert_outcomes(errors=1)
    assert f"ArtifactError: baselines/{STEM}.json is no committed baseline" in flat(result)


# --- measured anew -----------------------------------------------------------------------------------


def test_a_refused_baseline_is_updated(
    project: Project, committed: Path, three_ways: list[str]
) -> None:
    """--quantgate-update-baselines measures and writes it, once for all variants; then it is used."""
    project.spec(SPEC)
    other_text(project, committed)

    updated = kept(project, *three_ways, "--quantgate-update-baselines")
    after = kept(project, *three_ways)

    updated.assert_outcomes(passed=2)
    assert updated.outlines.count(WRITTEN) == 1
    after.assert_outcomes(passed=2)
    assert WRITTEN not in after.outlines
    assert json.loads(committed.read_text(encoding="utf-8"))["sample"]["chunks"] == 128


def test_an_update_without_a_difference_changes_no_file(project: Project, committed: Path) -> None:
    """Nothing to review where nothing changed."""
    before = committed.read_bytes()

    result = kept(project, "--quantgate-update-baselines", "--quantgate-baseline-chunks=32", "-rA")

    result.assert_outcomes(passed=1)
    assert WRITTEN not in result.outlines
    assert f"baselines/{STEM}.json holds the same already" in flat(result)
    assert committed.read_bytes() == before


def test_an_update_needs_the_model(project: Project, committed: Path) -> None:
    """Nothing is overwritten by a run that cannot measure."""
    before = committed.read_bytes()
    without_the_baseline(project)

    result = kept(project, "--quantgate-update-baselines")

    result.assert_outcomes(errors=1)
    assert "cannot be measured anew, because the baseline's model is not at hand" in flat(result)
    assert committed.read_bytes() == before


def test_another_seed_and_a_cut_text_have_files_of_their_own(project: Project) -> None:
    """Gates that draw differently do not fight over one file."""
    cut = "    gates:\n      perplexity: {max_ratio: 1.5, chunks: 40, seed: 7}\n"
    project.spec(SPEC.partition("    gates:")[0] + cut)

    kept(project, "-k", "Q8_0").assert_outcomes(passed=1)

    path = project.path / "baselines" / "tiny--corpus-64-first40-seed7.json"
    sample = json.loads(path.read_text(encoding="utf-8"))["sample"]
    assert (sample["population"], sample["chunks"], sample["seed"]) == (40, 40, 7)


def test_gates_without_a_baseline_write_none(project: Project) -> None:
    """An absolute limit compares with nothing."""
    project.spec(SPEC.replace("max_ratio: 1.5", "max: 1000"))

    kept(project).assert_outcomes(passed=2)

    assert not (project.path / "baselines").exists()
