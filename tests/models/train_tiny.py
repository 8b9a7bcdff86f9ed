"""Train the tiny Llama model of the tests and write it as an F16 GGUF file.

The model learns from the standard library of the Python that runs this script: the docstrings and
comments of its modules, and their source. The language reference in ``pydoc_data.topics`` is never
trained on, so it serves as held-out text.

The result is a real language model with a byte-level BPE vocabulary (any text can be tokenized) and
rows whose lengths are multiples of 256 (every K-quant applies without a fallback type).

Usage::

    python tests/models/train_tiny.py --out tests/models/tiny-f16.gguf --minutes 15

Needs torch, gguf and numpy. The seed is fixed: a run limited by ``--steps`` alone repeats itself on
the same machine, one limited by ``--minutes`` takes as many steps as fit.
"""

# torch is not among the project's dependencies, so its classes may have no types here.
# mypy: allow-subclassing-any, allow-untyped-calls, allow-untyped-decorators
# ruff: noqa: T201 - a script prints its results

from __future__ import annotations

import argparse
import ast
import hashlib
import heapq
import io
import math
import re
import sysconfig
import time
import tokenize
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from pydoc_data.topics import topics
from typing import TYPE_CHECKING

import gguf
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BOS, EOS = 0, 1
SPECIAL_TOKENS = ("<s>", "</s>")

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ message['role'] + ': ' + message['content'] + '\\n\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)

SKIPPED_FOLDERS = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "pydoc_data", "encodings"},
)

PROSE_SHARE = 0.6
"""Share of the training windows that are docstrings and comments; the rest is source."""

# ------------------------------------------------------------------------------------------------
# Text


def library_files() -> list[Path]:
    """Return the standard library's modules in a fixed order, without its tests and tables."""
    root = Path(sysconfig.get_paths()["stdlib"])
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py"))
    return [root / name for name in names if not SKIPPED_FOLDERS.intersection(name.split("/"))]


def comment_blocks(source: str) -> Iterator[str]:
    """Yield each run of at least two whole-line comments as one text."""
    block: list[str] = []
    last_line = -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or token.line[: token.start[1]].strip():
            continue
        if token.start[0] != last_line + 1:
            if len(block) > 1:
                yield "\n".join(block)
            block = []
        block.append(token.string.lstrip("#").removeprefix(" "))
        last_line = token.start[0]
    if len(block) > 1:
        yield "\n".join(block)


def module_prose(source: str) -> str:
    """Return the docstrings and comments of a module as one text."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, documented)]
    docstrings = (ast.get_docstring(node) for node in nodes)
    return "\n\n".join([*(text for text in docstrings if text), *comment_blocks(source)])


def training_texts() -> tuple[list[str], list[str]]:
    """Return the prose and the source of the standard library, one text per module."""
    prose, source = [], []
    for path in library_files():
        try:
            text = path.read_text("utf-8")
            words = module_prose(text)
        except (SyntaxError, UnicodeDecodeError, tokenize.TokenError):
            continue
        source.append(text)
        if len(words) > 100:
            prose.append(words)
    return prose, source


def held_out_text() -> str:
    """Return the language reference, which the model is measured on and never trained on."""
    return "\n".join(topics.values())


# ------------------------------------------------------------------------------------------------
# Vocabulary: byte-level BPE as in GPT-2

PRE_TOKEN = re.compile(r"'(?:s|t|re|ve|m|ll|d)| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")


def byte_letters() -> list[str]:
    """Return GPT-2's printable letter for each of the 256 bytes."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]


BYTE_LETTERS = byte_letters()


def letters(text: str) -> str:
    """Spell a text in the letters of its UTF-8 bytes."""
    return "".join(BYTE_LETTERS[byte] for byte in text.encode("utf-8"))


def learn_merges(texts: Iterable[str], count: int) -> list[tuple[str, str]]:
    """Learn the `count` most useful BPE merges; ties go to the smaller pair."""
    words = Counter(word for text in texts for word in PRE_TOKEN.findall(text))
    spelled = [(list(letters(word)), uses) for word, uses in words.items() if uses > 1]
    pair_uses: Counter[tuple[str, str]] = Counter()
    pair_words: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for index, (symbols, uses) in enumerate(spelled):
        for pair in pairwise(symbols):
            pair_uses[pair] += uses
            pair_words[pair].add(index)
    heap = [(-uses, pair) for pair, uses in pair_uses.items()]
    heapq.heapify(heap)
    merges: list[tuple[str, str]] = []
    while len(merges) < count and heap:
        uses_then, best = heapq.heappop(heap)
        if -uses_then != pair_uses[best]:
            continue  # an outdated entry: the current one is in the heap too
        merges.append(best)
        changed: set[tuple[str, str]] = set()
        for index in pair_words.pop(best):
            symbols, uses = spelled[index]
            for pair in pairwise(symbols):
                pair_uses[pair] -= uses
                changed.add(pair)
            symbols[:] = merged(symbols, best)
            for pair in pairwise(symbols):
                pair_uses[pair] += uses
                pair_words[pair].add(index)
                changed.add(pair)
        for pair in changed - {best}:
            heapq.heappush(heap, (-pair_uses[pair], pair))
    return merges


def merged(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    """Return the symbols with every occurrence of the pair joined."""
    out: list[str] = []
    position = 0
    while position < len(symbols):
        if tuple(symbols[position : position + 2]) == pair:
            out.append(pair[0] + pair[1])
            position += 2
        else:
            out.append(symbols[position])
            position += 1
    return out


class Vocabulary:
    """The tokens, and the encoder of the training text."""

    def __init__(self, merges: list[tuple[str, str]]) -> None:
        """Number the special tokens first, then the bytes, then the merges."""
        self.merges = merges
        self.tokens = [*SPECIAL_TOKENS, *BYTE_LETTERS, *(left + right for left, right in merges)]
        self._ids = {token: index for index, token in enumerate(self.tokens)}
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._known: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Tokenize a text, without special tokens."""
        return [token for word in PRE_TOKEN.findall(text) for token in self._encode_word(word)]

    def _encode_word(self, word: str) -> list[int]:
        if (known := self._known.get(word)) is not None:
            return known
        symbols = list(letters(word))
        while len(symbols) > 1:
            pairs = pairwise(symbols)
            best = min(pairs, key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if best not in self._ranks:
                break
            symbols = merged(symbols, best)
        ids = [self._ids[symbol] for symbol in symbols]
        self._known[word] = ids
        return ids

    def stream(self, texts: Iterable[str]) -> Tensor:
        """Tokenize texts into one sequence, each between BOS and EOS."""
        ids: list[int] = []
        for text in texts:
            ids += [BOS, *self.encode(text), EOS]
        return torch.tensor(ids, dtype=torch.int64)


# ------------------------------------------------------------------------------------------------
# Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The hyperparameters that the GGUF metadata repeats."""

    vocabulary: int = 768
    width: int = 256
    inner: int = 512
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    context: int = 2048
    rope_base: float = 10_000.0
    norm_eps: float = 1e-5

    @property
    def head_width(self) -> int:
        """Return the width of one attention head."""
        return self.width // self.heads


class Block(nn.Module):
    """One Llama layer: grouped-query attention and a gated feed-forward network.

    The parameters have the names of their GGUF tensors.
    """

    def __init__(self, shape: Shape) -> None:
        """Make the matrices of one layer."""
        super().__init__()
        self.shape = shape
        kv_width = shape.kv_heads * shape.head_width
        self.attn_norm = nn.RMSNorm(shape.width, eps=shape.norm_eps)
        self.attn_q = nn.Linear(shape.width, shape.width, bias=False)
        self.attn_k = nn.Linear(shape.width, kv_width, bias=False)
        self.attn_v = nn.Linear(shape.width, kv_width, bias=False)
        self.attn_output = nn.Linear(shape.width, shape.width, bias=False)
        self.ffn_norm = nn.RMSNorm(shape.width, eps=shape.norm_eps)
        self.ffn_gate = nn.Linear(shape.width, shape.inner, bias=False)
        self.ffn_up = nn.Linear(shape.width, shape.inner, bias=False)
        self.ffn_down = nn.Linear(shape.inner, shape.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Return the hidden states after this layer."""
        h: Tensor = self.attn_norm(x)
        q = rotate(self._heads(self.attn_q(h)), cos, sin)
        k = rotate(self._heads(self.attn_k(h)), cos, sin)
        v = self._heads(self.attn_v(h))
        group = self.shape.heads // self.shape.kv_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn_output(mixed.transpose(1, 2).flatten(2))
        h = self.ffn_norm(x)
        out: Tensor = x + self.ffn_down(functional.silu(self.ffn_gate(h)) * self.ffn_up(h))
        return out

    def _heads(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(2, (-1, self.shape.head_width)).transpose(1, 2)
        return heads


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions to adjacent pairs, llama.cpp's own order for this architecture."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return (
        torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
        .flatten(-2)
        .to(x.dtype)
    )


class Tiny(nn.Module):
    """The language model; the embedding is the output matrix too."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: Shape) -> None:
        """Make the model with random weights."""
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Embedding(shape.vocabulary, shape.width)
        self.blk = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.output_norm = nn.RMSNorm(shape.width, eps=shape.norm_eps)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                writes_residual = name.endswith(("attn_output.weight", "ffn_down.weight"))
                shrink = math.sqrt(2 * shape.layers) if writes_residual else 1.0
                nn.init.normal_(parameter, std=0.02 / shrink)
        exponents = torch.arange(0, shape.head_width, 2, dtype=torch.float64) / shape.head_width
        positions = torch.arange(shape.context, dtype=torch.float64)
        angles = torch.outer(positions, shape.rope_base**-exponents)
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits for every position of a batch of sequences."""
        length = tokens.shape[1]
        x: Tensor = self.token_embd(tokens)
        for block in self.blk:
            x = block(x, self.cos[:length], self.sin[:length])
        return functional.linear(self.output_norm(x), self.token_embd.weight)


# ------------------------------------------------------------------------------------------------
# Training


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long to train; whichever limit is nearer decides."""

    steps: int
    minutes: float
    tokens_per_step: int = 4096
    learning_rate: float = 6e-3
    warmup: float = 0.02

    def rate(self, progress: float) -> float:
        """Return the learning rate: linear warm-up, then a cosine down to zero."""
        if progress < self.warmup:
            return self.learning_rate * max(progress, 1e-4) / self.warmup
        done = (progress - self.warmup) / (1 - self.warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def windows(
    streams: list[Tensor], weights: Tensor, count: int, length: int, random: torch.Generator
) -> Tensor:
    """Draw windows of the training text, each with one more token than it has inputs."""
    rows = []
    for choice in torch.multinomial(weights, count, replacement=True, generator=random).tolist():
        stream = streams[choice]
        start = int(torch.randint(len(stream) - length - 1, (1,), generator=random))
        rows.append(stream[start : start + length + 1])
    return torch.stack(rows)


def train(model: Tiny, streams: list[Tensor], schedule: Schedule, seed: int) -> None:
    """Train the model: Muon for the matrices, AdamW for the embedding and the norms."""
    random = torch.Generator().manual_seed(seed)
    weights = torch.tensor([PROSE_SHARE, 1 - PROSE_SHARE])
    matrices = [p for name, p in model.named_parameters() if p.dim() == 2 and "embd" not in name]
    others = [p for name, p in model.named_parameters() if p.dim() == 1 or "embd" in name]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    began = time.monotonic()
    running = math.log(model.shape.vocabulary)
    step = 0
    while True:
        elapsed = (time.monotonic() - began) / 60
        progress = max(step / schedule.steps, elapsed / schedule.minutes)
        if progress >= 1:
            break
        length = model.shape.context if step % 8 == 7 else 512
        batch = windows(streams, weights, schedule.tokens_per_step // length, length, random)
        inputs, targets = batch[:, :-1].clone(), batch[:, 1:]
        inputs[:, 0] = BOS
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(progress)
            optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(inputs)
        loss = functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        running += (loss.item() - running) / min(step, 50)
        if step % 50 == 0:
            print(
                f"step {step}  {100 * progress:.1f} %  {elapsed:.1f} min  loss {running:.4f}",
                flush=True,
            )
    print(f"{step} steps, {step * schedule.tokens_per_step} tokens, loss {running:.4f}", flush=True)


@torch.inference_mode()
def perplexity(model: Tiny, tokens: Tensor, length: int = 512) -> float:
    """Return the perplexity as llama.cpp counts it: the second half of each window, BOS first."""
    losses = []
    for row in tokens[: len(tokens) // length * length].reshape(-1, 1, length):
        inputs = row.clone()
        inputs[:, 0] = BOS
        logits = model(inputs)[:, length // 2 : -1]
        targets = row[:, length // 2 + 1 :].flatten()
        losses.append(functional.cross_entropy(logits.flatten(0, 1), targets, reduction="none"))
    return math.exp(torch.cat(losses).double().mean().item())


# ------------------------------------------------------------------------------------------------
# Export


def export(model: Tiny, vocabulary: Vocabulary, path: Path) -> None:
    """Write the model as GGUF: matrices in F16, norms in F32."""
    shape = model.shape
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("quantgate tiny")
    writer.add_description("A tiny language model for tests, trained on Python's standard library")
    writer.add_license("MIT")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    special = len(SPECIAL_TOKENS)
    kinds = [gguf.TokenType.CONTROL] * special
    kinds += [gguf.TokenType.NORMAL] * (len(vocabulary.tokens) - special)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([f"{left} {right}" for left, right in vocabulary.merges])
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_add_bos_token(value=True)
    writer.add_add_eos_token(value=False)
    writer.add_add_space_prefix(value=False)
    writer.add_chat_template(CHAT_TEMPLATE)
    for name, parameter in model.named_parameters():
        values = parameter.detach().float().numpy()
        writer.add_tensor(name, values.astype(np.float16 if values.ndim == 2 else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_checksum(path: Path) -> None:
    """Write the file's SHA-256 beside it, in the form that ``sha256sum -c`` reads."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(path.name + ".sha256").write_text(f"{digest}  {path.name}\n", "utf-8")


def main() -> None:
    """Train, measure and export."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="GGUF file to write")
    parser.add_argument("--minutes", type=float, default=math.inf, help="Time to train for")
    parser.add_argument(
        "--steps", type=int, default=2_000, help="Steps of 4096 tokens to train for at most"
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--seed", type=int, default=20, help="Seed of the weights and the windows")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    shape = Shape()
    prose, source = training_texts()
    vocabulary = Vocabulary(learn_merges(prose, shape.vocabulary - 256 - len(SPECIAL_TOKENS)))
    streams = [vocabulary.stream(prose), vocabulary.stream(source)]
    print(
        f"training text: {len(streams[0])} tokens of prose, {len(streams[1])} of source", flush=True
    )

    model = Tiny(shape)
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    train(
        model, streams, Schedule(steps=arguments.steps, minutes=arguments.minutes), arguments.seed
    )

    held_out = held_out_text()
    tokens = torch.tensor([BOS, *vocabulary.encode(held_out)])
    print(
        f"held-out text: {len(held_out.encode())} bytes, {len(tokens)} tokens, "
        f"perplexity {perplexity(model, tokens):.4f}",
    )
    export(model, vocabulary, arguments.out)
    write_checksum(arguments.out)
    print(f"{arguments.out}: {arguments.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
