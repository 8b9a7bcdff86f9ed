"""Timing and memory over the counting model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from counting import CountingBackend

from pytest_quantgate import measure
from pytest_quantgate.errors import ProbeRefused
from pytest_quantgate.probe import memory, timing
from pytest_quantgate.probe.backend import ContextShape
from pytest_quantgate.records import (
    EngineSettings,
    LatencyRequest,
    MemoryRequest,
    Progress,
)

pytestmark = pytest.mark.usefixtures("counting_backends")

SETTINGS = EngineSettings(threads=1)


def test_a_request_has_one_time_for_each_token() -> None:
    """The first token's time is apart; a request starts from an empty session each time."""
    backend = CountingBackend()
    bench = timing.LatencyBench(
        backend, backend.facts(), LatencyRequest(prompt_tokens=5, output_tokens=4)
    )
    for _ in range(2):
        result = bench.time_request()

        assert 3 == len(result.token_ms)
        assert min(result.ttft_ms, *result.token_ms) > 0
    (session,) = backend.sessions
    assert [5, 1, 1, 1] * 2 == session.batches
    bench.close()
    assert session.closed


def test_prompts_longer_than_a_batch_are_cut() -> None:
    """A long prompt is processed in several batches, and continued after its last token."""
    backend = CountingBackend()
    backend.load(Path("good.gguf"), EngineSettings(threads=1, batch=4))
    session = backend.open(ContextShape(sequences=1, tokens=16))
    token = timing.feed_prompt(session, np.arange(40, 50, dtype=np.int32))

    assert 50 == token
    assert [4, 4, 2] == backend.sessions[0].batches


def test_pseudo_random_tokens_are_the_same_for_a_vocabulary() -> None:
    """They are ordinary tokens, always the same ones, after BOS where the model wants it."""
    backend = CountingBackend()
    tokens = timing.pseudo_random_tokens(backend, backend.facts(), 300)

    assert 0 == tokens[0]
    assert not {0, 10} & set(tokens[1:].tolist())
    assert tokens.tolist() == timing.pseudo_random_tokens(backend, backend.facts(), 300).tolist()
    assert 100 < len(set(tokens.tolist()))


@pytest.mark.parametrize(
    ("prompt", "output", "fits"),
    [
        (500, 11, True),
        (500, 12, True),
        (500, 13, False),
        (0, 1, False),
        (1, 0, False),
    ],
)
def test_shapes(prompt: int, output: int, fits: bool) -> None:  # noqa: FBT001 - parametrized
    """A request needs a prompt and an output, and fits the context the model was trained for."""
    facts = CountingBackend().facts()
    if fits:
        assert prompt + output == timing.check_shape(facts, prompt, output)
        return

    with pytest.raises(ProbeRefused, match=f"{prompt} prompt and {output} output tokens cannot"):
        timing.check_shape(facts, prompt, output)


def test_pairs_alternate(monkeypatch: pytest.MonkeyPatch) -> None:
    """After warm-up, pairs are timed in the order AB BA AB, and each model has all its times."""
    order: list[int] = []
    real = measure.Probe.time_request

    def noted(probe: measure.Probe, *, timeout: float) -> object:
        order.append(probe.pid)
        return real(probe, timeout=timeout)

    monkeypatch.setattr(measure.Probe, "time_request", noted)
    seen: list[Progress] = []
    with (
        measure.Probe.start("CountingBackend") as one,
        measure.Probe.start("CountingBackend") as two,
    ):
        for probe in (one, two):
            probe.load(Path("good.gguf"), SETTINGS, timeout=30)
        result = measure.measure_latency(
            one,
            two,
            LatencyRequest(prompt_tokens=3, output_tokens=2, warmup=1, repeats=3),
            machine="this one",
            timeout=30,
            on_progress=seen.append,
        )
        a, b = one.pid, two.pid

    assert [a, b, a, b, b, a, a, b] == order
    assert (3, 3, "this one") == (len(result.candidate), len(result.baseline), result.machine)
    assert [1, 2, 3] == [progress.done for progress in seen]


def test_latency_without_repeats_is_refused() -> None:
    """No repeats, or a request that was never opened, time nothing."""
    with measure.Probe.start("CountingBackend") as probe:
        probe.load(Path("good.gguf"), SETTINGS, timeout=30)
        with pytest.raises(ProbeRefused, match="no latency measurement is open"):
            probe.time_request(timeout=30)
        with pytest.raises(ProbeRefused, match="0 repeats after 2 warm-ups measure nothing"):
            measure.measure_latency(probe, None, LatencyRequest(repeats=0), machine="", timeout=30)


def test_memory_needs_a_fresh_probe(tmp_path: Path) -> None:
    """Memory is measured first or not at all, and counts the files of the model."""
    model = tmp_path / "good.gguf"
    model.write_bytes(b"GGUF")
    with measure.Probe.start("CountingBackend") as probe:
        with pytest.raises(ProbeRefused, match="no model is loaded; send 'load' before 'memory'"):
            probe.memory(MemoryRequest(), timeout=30)
        probe.load(model, SETTINGS, timeout=30)
        use = probe.memory(MemoryRequest(context=64, output_tokens=4, sequences=2), timeout=30)

        assert 4 == use.file_bytes
        assert 0 < use.before_load_bytes <= use.peak_rss_bytes
        with pytest.raises(ProbeRefused, match=r"has measured memory.*in a fresh probe"):
            probe.memory(MemoryRequest(), timeout=30)


def test_every_part_of_a_split_model_counts() -> None:
    """A model in parts lies in all files that its name announces."""
    parts = memory.model_files(Path("d/m-00001-of-00003.gguf"))

    assert ["m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"] == [
        part.name for part in parts
    ]
    assert (Path("d/m.gguf"),) == memory.model_files(Path("d/m.gguf"))


def test_peak_is_of_this_process() -> None:
    """The peak is at least what the process has now."""
    assert memory.peak_rss_bytes() >= memory.current_rss_bytes() // 2
