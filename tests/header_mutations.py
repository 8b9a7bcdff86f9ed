"""Mutated GGUF headers, from seeds that never change; run as a program, it reads them all.

The program has little memory and little time, so that what would take much of either ends it. It prints
one JSON document: how many headers there were, how many were accepted, and the longest time of one.
"""

from __future__ import annotations

import json
import os
import random
import resource
import struct
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from gguf_writer import ARRAY, F16, Q4_K, Q8_0, STRING, Gguf, Tensor, text

from pytest_quantgate.artifact.gguf import check_model, read_header
from pytest_quantgate.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterator

TINY = Path(__file__).parent / "models" / "tiny-f16.gguf"
MEMORY_BYTES = 512 << 20
"""Address space of the program beyond what it starts with."""

TEMPLATE = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] | trim }}{% endfor %}"

# Where the formats of integers end, and what readers have stumbled over.
INTERESTING = (
    *(0, 1, 2, 3, 8, 9, 12, 13, 31, 32, 63, 64, 127, 128, 255, 256, 1023, 1024, 65_535, 65_536),
    *((1 << bits) + delta for bits in (30, 31, 32, 61, 62, 63, 64) for delta in (-1, 0, 1)),
    *(-1, -(1 << 31), -(1 << 63), 100_000, 100_001, 1 << 22, 1 << 40),
)


def corpus() -> dict[str, bytes]:
    """Return the headers that mutations start from, each with another feature of the format."""
    base = Gguf()
    several = (
        Tensor("token_embd.weight", (256, 4), Q8_0),
        Tensor("blk.0.attn_q.weight", (256, 2), Q4_K),
        Tensor("blk.0.attn_norm.weight", (256,)),
        Tensor("output.weight", (256, 4), F16),
    )
    words = tuple(f"w{index}" for index in range(80))
    return {
        "small": base.encode(),
        "types": Gguf(tensors=several).encode(),
        "template": base.with_metadata(("tokenizer.chat_template", STRING, TEMPLATE)).encode(),
        "arrays": base.with_metadata(
            ("tokenizer.ggml.tokens", ARRAY, (STRING, words)),
            ("tokenizer.ggml.scores", ARRAY, (6, tuple(0.5 for _ in words))),
            ("x.none", ARRAY, (STRING, ())),
        ).encode(),
        "scalars": base.with_metadata(
            *((f"x.{kind}", kind, 1) for kind in (0, 1, 2, 3, 4, 5, 7, 10, 11)),
            ("x.6", 6, 0.5),
            ("x.12", 12, 0.5),
            ("general.alignment", 4, 32),
        ).encode(),
        "split": base.with_metadata(
            ("split.no", 2, 0), ("split.count", 2, 1), ("split.tensors.count", 5, 3)
        ).encode(),
        "version 2": Gguf(version=2).encode(),
        # As a scanner of models once had it for a sample: a magic, a version and nothing else.
        "zeros": b"GGUF" + struct.pack("<I", 3) + bytes(200),
        "tiny": _without_most_data(TINY),
    }


def _without_most_data(path: Path) -> bytes:
    """Return a header whose tensors lie beyond the end: what is read before that is found out."""
    return path.read_bytes()[: read_header(path).data_offset + 64]


def mutations(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield ``count`` mutated headers with the names of what they were made from."""
    choice = random.Random(seed)  # noqa: S311 - repeatable on purpose
    seeds = list(corpus().items())
    for index in range(count):
        name, content = seeds[index % len(seeds)]
        data = bytearray(content)
        for _ in range(choice.choice((1, 1, 1, 2, 3, 8))):
            _mutate(data, choice)
        yield name, bytes(data)


def _mutate(data: bytearray, choice: random.Random) -> None:
    # Counts and lengths are where it hurts, and they stand near the beginning of small headers.
    at = int(len(data) * choice.random() ** 2)
    kind = choice.randrange(7)
    if kind == 0:
        data[at : at + 1] = bytes([choice.randrange(256)])
    elif kind == 1:
        layout = choice.choice("BHIQ")
        size = struct.calcsize(layout)
        value = choice.choice(INTERESTING) & ((1 << 8 * size) - 1)
        data[at : at + size] = struct.pack(f"<{layout}", value)
    elif kind == 2:
        del data[at : at + choice.choice((1, 4, 8, 16, 64))]
    elif kind == 3:
        data[at:at] = choice.randbytes(choice.choice((1, 4, 8, 16)))
    elif kind == 4:
        length = choice.choice((4, 8, 24, 64))
        data[at:at] = data[at : at + length]
    elif kind == 5:
        data[at:at] = text("x" * choice.choice((0, 1, 63, 64))) + struct.pack("<I", 4)
    else:
        del data[max(at, 1) :]


def read_all(count: int, seed: int, seconds: float) -> dict[str, object]:
    """Read mutated headers until all are done or the time is up; anything unexpected is raised."""
    accepted = read = 0
    slowest = 0.0
    end = time.monotonic() + seconds
    for name, data in mutations(count, seed):
        began = time.monotonic()
        if began > end:
            break
        # A file that is nowhere: disks are slow.
        with os.fdopen(os.memfd_create("model"), "w+b", buffering=0) as file:
            file.write(data)
            try:
                check_model(Path("model.gguf"), files=[file])
                accepted += 1
            except ArtifactError:
                pass
            except BaseException as error:
                message = f"header {read} of seed {seed}, made from {name!r}: {error!r}"
                raise RuntimeError(message) from error
        slowest = max(slowest, time.monotonic() - began)
        read += 1
    return {"read": read, "accepted": accepted, "slowest": slowest}


def limit_memory() -> None:
    """Let this process have little more memory than it has."""
    now = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = now * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    limit_memory()
    sys.stdout.write(json.dumps(read_all(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))))
