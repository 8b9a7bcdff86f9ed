"""Small language models with random weights, written on the spot: a mixture of experts."""

from __future__ import annotations

import random
import struct
from dataclasses import replace
from typing import TYPE_CHECKING

from gguf_writer import ARRAY, F32, STRING, Gguf, Tensor, padded

if TYPE_CHECKING:
    from pathlib import Path

U16, U32, I32, FLOAT, BOOL = 2, 4, 5, 6, 7
BYTE_TOKEN, CONTROL_TOKEN, UNKNOWN_TOKEN = 6, 3, 2
WIDTH, INNER, HEADS, LAYERS, EXPERTS, CHOSEN, CONTEXT = 64, 96, 4, 2, 6, 2, 1024


def byte_vocabulary() -> tuple[tuple[str, int, object], ...]:
    """Return the metadata of a tokenizer with a token for each byte and three special ones."""
    tokens = ("<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)))
    kinds = (UNKNOWN_TOKEN, CONTROL_TOKEN, CONTROL_TOKEN, *[BYTE_TOKEN] * 256)
    return (
        ("tokenizer.ggml.model", STRING, "llama"),
        ("tokenizer.ggml.tokens", ARRAY, (STRING, tokens)),
        ("tokenizer.ggml.scores", ARRAY, (FLOAT, (0.0,) * len(tokens))),
        ("tokenizer.ggml.token_type", ARRAY, (I32, kinds)),
        ("tokenizer.ggml.bos_token_id", U32, 1),
        ("tokenizer.ggml.eos_token_id", U32, 2),
        ("tokenizer.ggml.add_bos_token", BOOL, True),
        ("tokenizer.ggml.add_space_prefix", BOOL, False),
    )


def write_experts(path: Path, *, seed: int = 0) -> Path:
    """Write a model whose tokens are sent to two of six experts, with its weights in float32."""
    path.write_bytes(_experts(seed).encode())
    return path


def write_split_experts(folder: Path) -> tuple[Path, Path]:
    """Write the same model in two files and return them."""
    whole = _experts(0)
    middle, count = len(whole.tensors) // 2, len(whole.tensors)
    place = sum(padded(tensor.nbytes, 32) for tensor in whole.tensors[:middle])
    data = whole.data or b""
    parts = (
        replace(whole, tensors=whole.tensors[:middle], data=data[:place]),
        replace(whole, tensors=whole.tensors[middle:], data=data[place:], metadata=()),
    )
    paths = (folder / "experts-00001-of-00002.gguf", folder / "experts-00002-of-00002.gguf")
    for number, (path, part) in enumerate(zip(paths, parts, strict=True)):
        split = part.with_metadata(
            ("split.no", U16, number), ("split.count", U16, 2), ("split.tensors.count", I32, count)
        )
        path.write_bytes(split.encode())
    return paths


def _experts(seed: int) -> Gguf:
    tensors = [
        Tensor("token_embd.weight", (WIDTH, 259)),
        Tensor("output_norm.weight", (WIDTH,)),
        Tensor("output.weight", (WIDTH, 259)),
    ]
    for layer in range(LAYERS):
        tensors += [
            Tensor(f"blk.{layer}.{name}.weight", shape)
            for name, shape in {
                "attn_norm": (WIDTH,),
                **dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (WIDTH, WIDTH)),
                "ffn_norm": (WIDTH,),
                "ffn_gate_inp": (WIDTH, EXPERTS),
                **dict.fromkeys(("ffn_gate_exps", "ffn_up_exps"), (WIDTH, INNER, EXPERTS)),
                "ffn_down_exps": (INNER, WIDTH, EXPERTS),
            }.items()
        ]
    # Its sequence is the same in all versions of Python, and so is the file.
    generator = random.Random(seed)  # noqa: S311 - no secrets
    data = b""
    for tensor in tensors:
        count = tensor.nbytes // 4
        values = [generator.random() - 0.5 for _ in range(count)]
        scale = 4.0 if tensor.name == "token_embd.weight" else 0.5
        if tensor.name.endswith("norm.weight"):
            values, scale = [1.0] * count, 1.0
        packed = struct.pack(f"<{count}f", *(scale * value for value in values))
        data += packed.ljust(padded(len(packed), 32), b"\0")
    metadata = (
        ("general.architecture", STRING, "llama"),
        ("general.file_type", U32, F32),
        ("llama.context_length", U32, CONTEXT),
        ("llama.embedding_length", U32, WIDTH),
        ("llama.block_count", U32, LAYERS),
        ("llama.feed_forward_length", U32, INNER),
        ("llama.attention.head_count", U32, HEADS),
        ("llama.attention.layer_norm_rms_epsilon", FLOAT, 1e-5),
        ("llama.expert_count", U32, EXPERTS),
        ("llama.expert_used_count", U32, CHOSEN),
        *byte_vocabulary(),
    )
    return Gguf(metadata=metadata, tensors=tuple(tensors), data=data)
