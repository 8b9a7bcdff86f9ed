"""Quantized files are, byte for byte, those of llama.cpp's own tool.

A transcript keeps the digests of the tool's files; where the tool is built (bench/build_tools.py), it
is run, too.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from quantizing import TINY, importance

from pytest_quantgate.artifact import hardware
from pytest_quantgate.artifact.quantization.recipe import recipe_for
from pytest_quantgate.pipeline.quantization import quantize
from pytest_quantgate.records import TensorOverride

if TYPE_CHECKING:
    from pytest_quantgate.records import Recipe

TRANSCRIPT: dict[str, Any] = json.loads(
    (Path(__file__).parent / "transcripts" / "llama-quantize.json").read_text("utf-8")
)
BUILD = Path(__file__).parents[2] / "bench" / ".build"
TOOL = BUILD / importlib.metadata.version("llama_cpp_python") / "bin" / "llama-quantize"
SAME_ENGINE = (
    hardware.this_machine().arithmetic == TRANSCRIPT["arithmetic"]
    and importlib.metadata.version("llama_cpp_python") == TRANSCRIPT["engine"]
)

CASES: dict[str, tuple[Recipe, tuple[str, ...]]] = {
    "BF16": (recipe_for("BF16"), ()),
    "Q8_0": (recipe_for("Q8_0"), ()),
    "Q4_K_M": (recipe_for("Q4_K_M"), ()),
    "Q2_K": (recipe_for("Q2_K"), ()),
    "Q5_0-pure": (recipe_for("Q5_0", pure=True), ("--pure",)),
    "IQ2_XS-imatrix": (
        recipe_for("IQ2_XS", imatrix="imatrix.gguf"), ("--imatrix", "imatrix.gguf"),
    ),
    "Q4_0-imatrix": (recipe_for("Q4_0", imatrix="./imatrix.gguf"), ("--imatrix", "./imatrix.gguf")),
    "Q4_K_M-embedding": (
        recipe_for("Q4_K_M", embedding="Q5_1"), ("--token-embedding-type", "q5_1"),
    ),
    "Q4_K_M-output": (
        recipe_for("Q4_K_M", output_tensor="Q8_0"), ("--output-tensor-type", "q8_0"),
    ),
    "Q4_K_M-overrides": (
        recipe_for(
            "Q4_K_M",
            overrides=(
                TensorOverride(pattern=r"blk\.[01]\.attn_v", type="Q8_0"),
                TensorOverride(pattern="ffn", type="Q3_K"),
            ),
        ),
        ("--tensor-type", r"blk\.[01]\.attn_v=q8_0", "--tensor-type", "ffn=q3_k"),
    ),
    "Q4_K_M-mixed-precision": (
        recipe_for("Q4_K_M", strategy="mixed-precision"),
        (
            "--tensor-type", "attn_=q6_k",
            "--tensor-type", r"^(per_layer_)?token_embd\.=q8_0",
            "--tensor-type", r"^output\.=q6_k",
        ),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model and an importance matrix, under names that end up in files."""
    path = tmp_path_factory.mktemp("tool")
    shutil.copy(TINY, path / "model.gguf")
    importance(TINY, path / "imatrix.gguf")
    return path


@pytest.fixture(scope="module")
def made(folder: Path) -> dict[str, str]:
    """The digest of each case, made once."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, (recipe, _) in CASES.items():
            report = quantize(Path("model.gguf"), Path(f"{name}.gguf"), recipe=recipe, timeout=300)
            found[name] = report.target_sha256
    return found


@pytest.mark.skipif(not SAME_ENGINE, reason="the digests are those of another processor or engine")
def test_the_digests_are_the_tools(made: dict[str, str]) -> None:
    """Every recipe gives the file whose digest is kept from the tool."""
    assert made == TRANSCRIPT["digests"]


@pytest.mark.skipif(not TOOL.exists(), reason="llama-quantize is not built: bench/build_tools.py")
@pytest.mark.parametrize("name", CASES)
def test_the_files_are_the_tools(name: str, made: dict[str, str], folder: Path) -> None:
    """The tool, asked for the same, writes the same bytes."""
    recipe, options = CASES[name]
    command = [str(TOOL), *options, "model.gguf", "tool.gguf", recipe.type, "2"]

    subprocess.run(command, cwd=folder, check=True, capture_output=True)

    assert made[name] == hashlib.sha256((folder / "tool.gguf").read_bytes()).hexdigest()
