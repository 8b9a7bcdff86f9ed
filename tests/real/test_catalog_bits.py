"""The real bits per weight of every type: the catalogue against the engine's own dry run."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from gguf_writer import F16, F32, STRING, Gguf, Tensor, padded

from pytest_quantgate.artifact.catalog import QUANTIZATION_TYPES
from pytest_quantgate.artifact.gguf import read_header

if TYPE_CHECKING:
    from pathlib import Path

U32, FLOAT = 4, 6

DRY_RUNS = """
import ctypes, json, re, sys
import llama_cpp as engine
said = []
@engine.llama_log_callback
def hear(level, text, data):
    said.append(text.decode(errors="replace"))
engine.llama_log_set(hear, ctypes.c_void_p())
engine.llama_backend_init()
ones = (ctypes.c_float * 4096)(*[1.0] * 4096)
# One entry is enough for the mix that the engine makes with an importance matrix.
entries = (engine.llama_model_imatrix_data * 2)()
entries[0].name, entries[0].size = b"blk.0.attn_q.weight", 4096
entries[0].data = ctypes.cast(ones, ctypes.POINTER(ctypes.c_float))
found = {}
for name, (number, needs_imatrix) in json.loads(sys.argv[2]).items():
    said.clear()
    parameters = engine.llama_model_quantize_default_params()
    parameters.ftype, parameters.dry_run, parameters.nthread = number, True, 1
    if needs_imatrix:
        parameters.imatrix = ctypes.cast(entries, ctypes.POINTER(engine.llama_model_imatrix_data))
    code = engine.llama_model_quantize(sys.argv[1].encode(), b"unused", ctypes.byref(parameters))
    sizes = re.findall(r"quant size *= *([0-9.]+) MiB", "".join(said))
    found[name] = float(sizes[0]) if code == 0 else "".join(said)[-500:]
json.dump(found, sys.stdout)
"""


def write_shape(path: Path, *, hidden: int, keys: int, vocabulary: int, rope: bool) -> None:
    """Write a llama of 32 layers and width 4096 as a sparse file: all header, no data on disk."""
    kept = Tensor("rope_freqs.weight", (64,), F32)
    tensors = [Tensor("token_embd.weight", (4096, vocabulary), F16), *([kept] if rope else [])]
    for layer in range(32):
        matrices = {
            "attn_q": (4096, 4096),
            "attn_k": (4096, keys),
            "attn_v": (4096, keys),
            "attn_output": (4096, 4096),
            "ffn_gate": (4096, hidden),
            "ffn_up": (4096, hidden),
            "ffn_down": (hidden, 4096),
        }
        prefix = f"blk.{layer}"
        tensors += [Tensor(f"{prefix}.{name}_norm.weight", (4096,)) for name in ("attn", "ffn")]
        tensors += [Tensor(f"{prefix}.{name}.weight", at, F16) for name, at in matrices.items()]
    tensors += [
        Tensor("output_norm.weight", (4096,)),
        Tensor("output.weight", (4096, vocabulary), F16),
    ]
    file = Gguf(
        metadata=(
            ("general.architecture", STRING, "llama"),
            ("general.file_type", U32, 1),
            ("llama.block_count", U32, 32),
            ("llama.context_length", U32, 4096),
            ("llama.embedding_length", U32, 4096),
            ("llama.feed_forward_length", U32, hidden),
            ("llama.attention.head_count", U32, 32),
            ("llama.attention.head_count_kv", U32, keys // 128),
            ("llama.attention.layer_norm_rms_epsilon", FLOAT, 1e-5),
            ("llama.rope.dimension_count", U32, 128),
            ("llama.vocab_size", U32, vocabulary),
        ),
        tensors=tuple(tensors),
    )
    header = file.header()
    size = sum(padded(tensor.nbytes, 32) for tensor in tensors)
    with path.open("wb") as out:
        out.write(header.ljust(padded(len(header), 32), b"\0"))
        out.truncate(padded(len(header), 32) + size)


@pytest.mark.real
@pytest.mark.parametrize("shape", ["7b", "8b"])
def test_real_bits_are_those_of_the_engine(shape: str, tmp_path: Path) -> None:
    """All types, over the shapes of Llama 2 7B and Llama 3.1 8B, to the third decimal."""
    path = tmp_path / "shape.gguf"
    if shape == "7b":
        write_shape(path, hidden=11008, keys=4096, vocabulary=32_000, rope=False)
    else:
        write_shape(path, hidden=14336, keys=1024, vocabulary=128_256, rope=True)
    weights = read_header(path).parameters
    wanted = {name: (kind.ftype, kind.needs_imatrix) for name, kind in QUANTIZATION_TYPES.items()}

    done = subprocess.run(
        [sys.executable, "-c", DRY_RUNS, path, json.dumps(wanted)],
        check=True,
        capture_output=True,
        text=True,
    )

    assert weights == {"7b": 6_738_415_616, "8b": 8_030_261_312}[shape]
    for name, mebibytes in json.loads(done.stdout).items():
        bits = mebibytes * 2**23 / weights
        ours = getattr(QUANTIZATION_TYPES[name], f"bits_{shape}")
        assert bits == pytest.approx(ours, abs=0.0006), name
