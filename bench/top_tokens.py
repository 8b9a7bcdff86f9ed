"""How much of the KLD a committed baseline's most likely tokens keep, and what they weigh.

    python bench/top_tokens.py [--text builtin:python-docs] [--type Q4_K_M] [--chunks 32]

The windows are the first of seed 0's order, as a committed baseline has them. For each k the baseline's
k most likely tokens are packed as the product packs them (and with float32 in place of float16), and
the candidate is held against them; the share is the mean of that lower bound over the mean of the exact
KLD on the same windows. Needs the extra ``demo`` (or --model).
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from perplexity import DEMO, quantized

from pytest_quantgate import measure, sampling
from pytest_quantgate.artifact import corpus, hardware, source
from pytest_quantgate.committed.arrays import fold, pack
from pytest_quantgate.records import (
    DivergenceRequest,
    EngineSettings,
    LikelihoodRequest,
    TextRequest,
)

if TYPE_CHECKING:
    from pytest_quantgate.records import Divergence

SIZES = (16, 32, 64, 128, 256)
WAIT = 3600


def mean_kld(found: Divergence) -> float:
    """Return the mean over all scored tokens, in nats."""
    return float(found.kld.array().mean(dtype="f8"))


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEMO)
    parser.add_argument("--text", default="builtin:python-docs")
    parser.add_argument("--type", default="Q4_K_M", dest="type_name")
    parser.add_argument("--chunks", type=int, default=32)
    parser.add_argument("--threads", type=int, default=hardware.usable_cores())
    arguments = parser.parse_args()
    settings = EngineSettings(threads=arguments.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text, digest = corpus.materialize_corpus(
            arguments.text, base=Path.cwd(), roots=(Path("/"),), folder=folder
        )
        origin = source.locate(arguments.model, base=Path.cwd(), roots=(Path("/"),))
        full = quantized(origin, folder / "full.gguf", "F16")
        variant = quantized(full, folder / "variant.gguf", arguments.type_name)
        candidate, baseline = measure.start_pair()
        with candidate, baseline:
            candidate.load(variant, settings, timeout=WAIT)
            baseline.load(full, settings, timeout=WAIT)
            facts = baseline.text(
                TextRequest(corpus_path=str(text), corpus_sha256=digest), timeout=WAIT
            )
            windows = sampling.order(0, facts.chunks)[: arguments.chunks]
            live = DivergenceRequest(
                reference="live", corpus_path=str(text), corpus_sha256=digest, chunks=windows
            )
            exact = mean_kld(measure.measure_divergence(candidate, baseline, live, timeout=WAIT))
            print(f"{arguments.type_name}, {len(windows)} of {facts.chunks} windows, {exact=:.5f}")
            for size in SIZES:
                request = LikelihoodRequest(
                    corpus_path=str(text), corpus_sha256=digest, chunks=windows, top=size
                )
                found = baseline.likelihood(request, timeout=WAIT)
                arrays = fold([found], vocabulary=facts.vocabulary)
                packed = pack(arrays)
                if found.top is None:
                    message = "the probe sent no most likely tokens"
                    raise SystemExit(message)
                wide = pack({**arrays, "top_log_probs": found.top.log_probs.array()})
                path = folder / f"{size}.npz"
                path.write_bytes(packed)
                committed = DivergenceRequest(
                    reference="committed",
                    corpus_path=str(text),
                    corpus_sha256=digest,
                    chunks=windows,
                    reference_path=str(path),
                    reference_sha256=hashlib.sha256(packed).hexdigest(),
                )
                bound = mean_kld(candidate.divergence(committed, timeout=WAIT))
                print(
                    f"k = {size}: keeps {bound / exact:.1%}, {len(packed) / 1e6:.2f} MB, with float32"
                    f" {len(wide) / 1e6:.2f} MB",
                    flush=True,
                )


if __name__ == "__main__":
    main()
