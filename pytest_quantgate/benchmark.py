"""The benchmark of the field's recipes: perplexity, latency and memory on a list of prompts."""

from __future__ import annotations

import math
import os
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from pytest_quantgate.errors import MeasurementError
from pytest_quantgate.model import QuantizedModel
from pytest_quantgate.records import MEBIBYTE, EngineSettings, Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

LATENCY_PROMPTS = 5
LATENCY_TOKENS = 50

DEFAULT_PROMPTS: tuple[str, ...] = (
    (
        "A library lends books to its readers for three weeks. A reader who needs a book for longer may"
        " ask for two more weeks, unless another reader has asked for it in the meantime."
    ),
    (
        "Water boils at a lower temperature on a mountain than at the sea, because the air above it is"
        " thinner and presses less on its surface. Cooking an egg there takes more time."
    ),
    (
        "To reset the device, hold the button on its back for ten seconds until the light turns red. Let"
        " it go, wait until the light turns green, and connect the device to the network again."
    ),
    (
        "The meeting begins at nine in the morning and ends at noon. Please send your questions to the"
        " office by Wednesday, so that we can print the answers and hand them out to everybody."
    ),
    (
        "A function should do one thing. When a function does two things, give each a name of its"
        " own and call them one after the other; whoever reads the program will thank you."
    ),
    (
        "The train to the coast leaves from platform four. It stops at every village on the way, takes a"
        " little more than two hours, and runs once an hour until ten o'clock in the evening."
    ),
)
"""Texts that `baseline_metrics` is measured on unless a project overrides `benchmark_prompts`."""


class QuantizationBenchmark:
    """Measure a model in this process on a list of prompts."""

    def __init__(self, prompts: Sequence[str]) -> None:
        """Keep the prompts.

        Raises:
            MeasurementError: there are none.
        """
        self.prompts = tuple(prompts)
        if not self.prompts or not all(isinstance(prompt, str) for prompt in self.prompts):
            message = "QuantizationBenchmark needs a list of at least one prompt"
            raise MeasurementError(message)

    def benchmark(self, model: QuantizedModel | str | os.PathLike[str]) -> dict[str, float]:
        """Return the model's figures on the prompts.

        Args:
            model: the fixture `quantized_model`, or the path of a model file with a checksum.

        Returns:
            ``perplexity``: exp of the mean negative log-likelihood of all tokens of all prompts, each
            read on its own after the model's beginning-of-text token, the first token unscored.
            ``latency_ms``: mean time to complete each of the first five prompts with 50 tokens,
            greedy, after one completion that is not counted.
            ``memory_mb``: resident set of this process afterwards, in MB of 1,048,576 bytes.

        Raises:
            ArtifactError: the file cannot be loaded.
            MeasurementError: the prompts have no token to score, or a likelihood is not finite.
        """
        if isinstance(model, QuantizedModel):
            return self._measure(model)
        loaded = QuantizedModel(Path(os.fspath(model)))
        try:
            return self._measure(loaded)
        finally:
            loaded.close()

    def _measure(self, model: QuantizedModel) -> dict[str, float]:
        return {
            "perplexity": self._perplexity(model),
            "latency_ms": self._latency(model),
            "memory_mb": psutil.Process().memory_info().rss / MEBIBYTE,
        }

    def _perplexity(self, model: QuantizedModel) -> float:
        # The engine is loaded by now; these modules would load it.
        from pytest_quantgate.probe.likelihood import text_nll  # noqa: PLC0415 - see above
        from pytest_quantgate.probe.llama import LlamaBackend  # noqa: PLC0415 - see above

        backend = LlamaBackend()
        backend.adopt(model.llama.model, model.path, EngineSettings(threads=model.threads))
        likelihoods = text_nll(backend, self.prompts)
        if not likelihoods:
            message = "the prompts have no token to score: each needs at least two tokens"
            raise MeasurementError(message)
        mean = math.fsum(likelihoods) / len(likelihoods)
        if not math.isfinite(mean):
            message = "the model's likelihood of the prompts is not a finite number"
            raise MeasurementError(message)
        return math.exp(mean)

    def _latency(self, model: QuantizedModel) -> float:
        # The same number of tokens whichever model answers: ending early is no speed.
        endless = {int(model.llama.token_eos()): -math.inf}
        times: list[float] = []
        for number, prompt in enumerate((self.prompts[0], *self.prompts[:LATENCY_PROMPTS])):
            model.llama.reset()
            started = time.perf_counter()
            model(prompt, max_tokens=LATENCY_TOKENS, temperature=0.0, logit_bias=endless)
            if number > 0:
                times.append((time.perf_counter() - started) * 1000)
        return statistics.fmean(times)


def probe_operation(
    arguments: Mapping[str, Any], report: Callable[[Progress], None]
) -> dict[str, Any]:
    """Benchmark a model file in a probe: ``path``, ``prompts`` in, the figures out."""
    report(Progress(step="benchmark", done=0, total=1, unit="model"))
    figures = QuantizationBenchmark(arguments["prompts"]).benchmark(arguments["path"])
    report(Progress(step="benchmark", done=1, total=1, unit="model"))
    return dict(figures)
