"""Variants made by recipes: importance matrices, types per tensor, strategies."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pytest_quantgate.artifact.gguf import GgufHeader, read_header

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Project

SPEC = """\
quantgate: 1
defaults: {corpus: corpus.txt, context: 128}
models:
  tiny:
    baseline: {source: tiny-f16.gguf}
    variants:
      weighted:
        quantize:
          type: Q4_K_M
          imatrix: {text: other.txt, chunks: 4, context: 128}
          overrides: {attn_v: Q6_K, 'blk\\.0\\.ffn_down': Q5_0}
          embedding: Q8_0
      mixed: {quantize: {strategy: mixed-precision}}
    gates:
      checksum: {}
      perplexity: {max_ratio: 3}
"""

EMBEDDING = "token_embd.weight"


@pytest.fixture
def making(project: Project) -> Project:
    """A project with recipes, and a text of its own to compute an importance matrix from."""
    project.spec(SPEC)
    text = (project.path / "corpus.txt").read_text(encoding="utf-8")
    (project.path / "other.txt").write_text(text[9_000:15_000], encoding="utf-8")
    return project


def made(project: Project, name: str) -> Path:
    """Return the one file of a folder of the store."""
    (found,) = (project.path / ".quantgate").glob(f"{name}/*/*.gguf")
    return found


def tensor_types(header: GgufHeader) -> dict[str, str]:
    """Return the type of each tensor by its name."""
    return {tensor.name: tensor.type_name for tensor in header.tensors}


def test_recipes_are_made_once_and_as_they_say(making: Project) -> None:
    """Both variants pass; the file has the types that were asked for, and a second run makes nothing."""
    result = making.gate("-k", "weighted", fresh=True)
    result.assert_outcomes(passed=2, deselected=2)

    model, imatrix = made(making, "models"), made(making, "imatrix")
    kinds = tensor_types(read_header(model))
    assert {kind for name, kind in kinds.items() if "attn_v" in name} == {"Q6_K"}
    assert kinds["blk.0.ffn_down.weight"] == "Q5_0"
    assert kinds[EMBEDDING] == "Q8_0"
    paper: dict[str, Any] = json.loads(
        model.with_name(model.name + ".json").read_text(encoding="utf-8")
    )
    assert "attn_v" in json.dumps(paper["recipe"])
    before = {path: path.stat().st_mtime_ns for path in (model, imatrix)}

    again = making.gate("-k", "weighted", fresh=True)

    again.assert_outcomes(passed=2, deselected=2)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_strategy_is_a_recipe(making: Project) -> None:
    """The named mix gives a file whose attention is finer than its feed-forward layers."""
    making.gate("-k", "mixed", fresh=True).assert_outcomes(passed=2, deselected=2)

    kinds = tensor_types(read_header(made(making, "models")))
    assert kinds[EMBEDDING] == "Q8_0"
    assert kinds["blk.0.attn_q.weight"] != kinds["blk.1.ffn_up.weight"]


def test_another_recipe_is_another_file(making: Project) -> None:
    """A changed override makes a second file beside the first."""
    making.gate("-k", "mixed and checksum", fresh=True).assert_outcomes(passed=1, deselected=3)
    making.spec(SPEC.replace("mixed-precision}", "mixed-precision, overrides: {ffn_up: Q8_0}}"))

    making.gate("-k", "mixed and checksum", fresh=True).assert_outcomes(passed=1, deselected=3)

    found = sorted((making.path / ".quantgate").glob("models/*/*.gguf"))
    assert len(found) == 2
    kinds = [tensor_types(read_header(path))["blk.0.ffn_up.weight"] for path in found]
    assert "Q8_0" in kinds
    assert len(set(kinds)) == 2


def test_an_override_that_fits_nothing_is_an_error(making: Project) -> None:
    """A pattern without a tensor is told at the gate, and nothing is made."""
    making.spec(SPEC.replace("attn_v:", "atn_v:"))

    result = making.gate("-k", "weighted and perplexity", fresh=True)

    result.assert_outcomes(errors=1, deselected=3)
    assert "the override atn_v=Q6_K fits no tensor of this model" in " ".join(
        result.stdout.str().split()
    )
    assert list((making.path / ".quantgate").glob("models/*/*.gguf")) == []


def test_an_importance_matrix_of_the_judging_text_is_told(making: Project) -> None:
    """A matrix from the very text that judges flatters the variant, which the report says."""
    making.spec(SPEC.replace("text: other.txt", "text: corpus.txt"))

    result = making.gate("-k", "weighted and perplexity", "-rA", fresh=True)

    result.assert_outcomes(passed=1, deselected=3)
    assert (
        "the importance matrix was computed from corpus.txt, which this gate measures on, too:"
        " figures flatter the variant; judge on another text"
        in " ".join(result.stdout.str().split())
    )


def test_an_importance_matrix_of_another_domain_is_told(making: Project) -> None:
    """A matrix from a text with other words is for another use than the one that is judged."""
    words = " ".join(f"zebra{number % 700} giraffe{number % 300}" for number in range(3_000))
    (making.path / "other.txt").write_text(words, encoding="utf-8")

    result = making.gate("-k", "weighted and perplexity", "-rA", fresh=True)

    result.assert_outcomes(passed=1, deselected=3)
    text = " ".join(result.stdout.str().split())
    assert "the importance matrix's text other.txt is of another domain than corpus.txt" in text


def test_a_type_that_needs_a_matrix_is_made_with_one(making: Project) -> None:
    """IQ2_XS comes from a file with an importance matrix that another command made."""
    making.gate("-k", "weighted and checksum", fresh=True).assert_outcomes(passed=1, deselected=3)
    made(making, "imatrix").rename(making.path / "imatrix.gguf")
    making.spec(
        SPEC.replace(
            "mixed: {quantize: {strategy: mixed-precision}}",
            "small: {quantize: {type: IQ2_XS, imatrix: imatrix.gguf}}",
        )
    )

    making.gate("-k", "small and checksum", fresh=True).assert_outcomes(passed=1, deselected=3)
