"""Small models to quantize, and `artifact.quantization.quantize` run in a process of its own."""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
from gguf_writer import F16, STRING, Gguf, Tensor, padded

from pytest_quantgate.artifact.gguf import read_header
from pytest_quantgate.artifact.imatrix import Imatrix, ImatrixEntry, write_imatrix

TINY = Path(__file__).parents[1] / "models" / "tiny-f16.gguf"

WIDTH, LAYERS, WORDS = 256, 8, 32

MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")

OPERATION = """
import json, sys
from pytest_quantgate.artifact.quantization.quantize import probe_operation
from pytest_quantgate.errors import ArtifactError
steps = []
try:
    answer = probe_operation(json.loads(sys.argv[1]), steps.append)
except ArtifactError as error:
    answer = {"refused": str(error), "kind": type(error).__name__}
answer["steps"] = [[step.step, step.done, step.total, step.unit] for step in steps]
json.dump(answer, sys.stdout)
"""


def run_child(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own, as a probe would."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)


def operate(arguments: dict[str, object]) -> dict[str, object]:
    """Carry out the operation in a child and return its answer."""
    child = run_child(OPERATION, json.dumps(arguments))
    assert child.returncode == 0, child.stderr
    answer: dict[str, object] = json.loads(child.stdout)
    return answer


def quantize(source: Path, target: Path, type_name: str, /, **others: object) -> dict[str, object]:
    """Quantize in a child and return its answer; ``recipe`` adds to the type."""
    recipe = {"type": type_name} | dict(others.pop("recipe", {}))  # type: ignore[call-overload]
    arguments = {"source": str(source), "target": str(target), "recipe": recipe, "threads": 2}
    return operate(arguments | others)


def refused(source: Path, target: Path, type_name: str, /, **others: object) -> str:
    """Return why a request is refused; nothing may be left in the folder of the target."""
    before = sorted(target.parent.iterdir()) if target.parent.is_dir() else None
    answer = quantize(source, target, type_name, **others)
    after = sorted(target.parent.iterdir()) if target.parent.is_dir() else None
    assert after == before
    return str(answer["refused"])


def types(path: Path) -> dict[str, str]:
    """Return the type of each tensor of a file."""
    return {tensor.name: tensor.type_name for tensor in read_header(path).tensors}


def weights(tensors: tuple[Tensor, ...]) -> bytes:
    """Return small random numbers for tensors, the same each time."""
    source = random.Random(0)  # noqa: S311 - weights, not secrets
    data = b""
    for tensor in tensors:
        code = "e" if tensor.type == F16 else "f"
        count = tensor.nbytes // struct.calcsize(code)
        # A few hundred different values are enough, and quick.
        values = [source.gauss(0, 0.05) for _ in range(min(count, 997))]
        row = struct.pack(f"<{len(values)}{code}", *values)
        data += (row * (tensor.nbytes // len(row) + 1))[: tensor.nbytes]
        data += bytes(padded(tensor.nbytes, 32) - tensor.nbytes)
    return data


def llama(width: int = WIDTH, *, output: bool = False, layers: int = LAYERS) -> Gguf:
    """Return a llama-shaped F16 model without a vocabulary, which quantizing does not need.

    Its embeddings are its output, too, unless it has an ``output``.
    """
    square = (width, width)
    tensors = [
        Tensor("token_embd.weight", (width, WORDS), F16),
        Tensor("output_norm.weight", (width,)),
    ]
    if output:
        tensors.append(Tensor("output.weight", (width, WORDS), F16))
    for layer in range(layers):
        tensors += [
            Tensor(f"blk.{layer}.{name}.weight", (width,)) for name in ("attn_norm", "ffn_norm")
        ]
        tensors += [Tensor(f"blk.{layer}.{name}.weight", square, F16) for name in MATRICES]
    metadata = (
        ("general.architecture", STRING, "llama"),
        ("general.file_type", 4, 1),
        ("llama.block_count", 4, layers),
        ("llama.context_length", 4, 64),
        ("llama.embedding_length", 4, width),
        ("llama.feed_forward_length", 4, width),
        ("llama.attention.head_count", 4, 4),
        ("llama.attention.layer_norm_rms_epsilon", 6, 1e-5),
        ("llama.vocab_size", 4, WORDS),
    )
    return Gguf(metadata=metadata, tensors=tuple(tensors), data=weights(tuple(tensors)))


def split(whole: Gguf, folder: Path) -> Path:
    """Write a model in two parts and return the second one's path."""
    middle, count = len(whole.tensors) // 2, len(whole.tensors)
    for number, tensors in enumerate((whole.tensors[:middle], whole.tensors[middle:])):
        part = replace(whole, tensors=tensors, data=weights(tensors)).with_metadata(
            ("split.no", 2, number), ("split.count", 2, 2), ("split.tensors.count", 5, count)
        )
        (folder / f"m-0000{number + 1}-of-00002.gguf").write_bytes(part.encode())
    return folder / "m-00002-of-00002.gguf"


def importance(model: Path, target: Path, *, without: str = "", wider: str = "") -> Path:
    """Write an importance matrix of a model, made up but the same each time, and return its path.

    ``without`` leaves out tensors whose names contain it, ``wider`` gives such tensors a column more.
    """
    entries = {}
    for tensor in read_header(model).tensors:
        if not tensor.name.startswith("blk.") or len(tensor.shape) == 1:
            continue
        if without and without in tensor.name:
            continue
        columns = tensor.shape[0] + (1 if wider and wider in tensor.name else 0)
        sums = (np.arange(columns, dtype=np.float32) * 37 % 97 + 1).reshape(1, -1)
        entries[tensor.name] = ImatrixEntry(sums=sums, counts=np.array([512], dtype=np.int64))
    matrix = Imatrix(
        entries=MappingProxyType(entries), datasets=("texts.txt",), chunks=4, chunk_size=512
    )
    write_imatrix(matrix, target)
    return target
