"""Probes over llama.cpp and the tests' own model: what they measure, and what they refuse."""

from __future__ import annotations

import hashlib
import math
import os
import pydoc_data.topics
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest

from pytest_quantgate import measure
from pytest_quantgate.errors import ArtifactError, ProbeCrashed, ProbeRefused
from pytest_quantgate.records import (
    MEBIBYTE,
    EngineSettings,
    GenerationRequest,
    LatencyRequest,
    Likelihood,
    LikelihoodRequest,
    MemoryRequest,
    Message,
    ModelFacts,
    PassageRequest,
    Prompt,
)

pytestmark = pytest.mark.real

TINY = Path(__file__).parents[1] / "models" / "tiny-f16.gguf"
SETTINGS = EngineSettings(threads=1)
SECONDS = 120.0


@pytest.fixture(scope="module")
def loaded() -> tuple[measure.Probe, ModelFacts]:
    """A probe with the tiny model, kept for the module."""
    probe = measure.Probe.start()
    return probe, probe.load(TINY, SETTINGS, timeout=SECONDS)


@pytest.fixture(scope="module", autouse=True)
def close(loaded: tuple[measure.Probe, ModelFacts]) -> object:
    """End the module's probe after its last test."""
    yield
    loaded[0].close()


@pytest.fixture(scope="module")
def probe(loaded: tuple[measure.Probe, ModelFacts]) -> measure.Probe:
    """The module's probe."""
    return loaded[0]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some pages of the language reference, which the model was not trained on."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    topics = pydoc_data.topics.topics
    path.write_text("\n\n".join(topics[name] for name in sorted(topics)[:8]) + "\n", "utf-8")
    return path


def likelihood(
    probe: measure.Probe,
    corpus: Path,
    *,
    chunks: tuple[int, ...] = tuple(range(6)),
    sequences: int | None = None,
) -> Likelihood:
    """Score windows of 128 tokens, the first six by default."""
    digest = hashlib.sha256(corpus.read_bytes()).hexdigest()
    request = LikelihoodRequest(
        corpus_path=str(corpus),
        corpus_sha256=digest,
        context=128,
        chunks=chunks,
        sequences=sequences,
    )
    return probe.likelihood(request, timeout=SECONDS)


def test_facts(loaded: tuple[measure.Probe, ModelFacts]) -> None:
    """A loaded model and its engine say what they are."""
    _, facts = loaded

    assert (768, 2048, True) == (facts.vocabulary, facts.context_train, facts.add_bos)
    assert 1_967_872 == facts.parameters
    assert "llama" in facts.description
    assert "llama.cpp" == facts.engine
    assert llama_cpp.__version__ in facts.engine_version
    assert "CPU" in facts.system_info


def test_likelihood_is_that_of_the_published_algorithm(probe: measure.Probe, corpus: Path) -> None:
    """The high-level API, window by window, gives the same perplexity to four digits."""
    model = llama_cpp.Llama(
        str(TINY), n_ctx=128, logits_all=True, n_threads=1, n_threads_batch=1, verbose=False
    )
    try:
        text = corpus.read_bytes()[:-1]
        tokens = model.tokenize(text, add_bos=True, special=False)
        expected = []
        for chunk in range(6):
            window = tokens[chunk * 128 : (chunk + 1) * 128]
            model.n_tokens = 0
            model.eval([model.token_bos(), *window[1:]])
            logits = np.asarray(model.scores[:128], dtype=np.float64)
            wanted = np.array(window[65:])
            rows = logits[64:127]
            top = rows.max(axis=1)
            sums = np.log(np.exp(rows - top[:, None]).sum(axis=1)) + top
            expected.append(float((sums - rows[np.arange(63), wanted]).sum()))
    finally:
        model.close()

    result = likelihood(probe, corpus)

    assert 63 == result.chunk_tokens
    assert len(tokens) == result.corpus_tokens
    assert len(tokens) // 128 == result.available_chunks
    # The high-level API switches flash attention off, which changes the low bits.
    assert expected == pytest.approx(result.chunk_nll, rel=2e-3)
    assert math.fsum(expected) == pytest.approx(math.fsum(result.chunk_nll), rel=5e-4)


def test_likelihood_is_the_same_every_time(probe: measure.Probe, corpus: Path) -> None:
    """The same request has the same answer to the last bit, and the grouping hardly matters."""
    first = likelihood(probe, corpus)

    assert first.chunk_nll == likelihood(probe, corpus).chunk_nll
    assert first.chunk_nll == pytest.approx(
        likelihood(probe, corpus, sequences=1).chunk_nll, rel=2e-3
    )


def test_windows_hardly_depend_on_their_company(probe: measure.Probe, corpus: Path) -> None:
    """In another order, and so beside other windows, each window has its likelihood to low bits."""
    order = (5, 2, 0, 4)
    every, some = likelihood(probe, corpus), likelihood(probe, corpus, chunks=order)

    assert order == some.chunks
    assert [every.chunk_nll[chunk] for chunk in order] == pytest.approx(some.chunk_nll, rel=2e-3)


def test_passages_of_the_same_bytes_are_scored(probe: measure.Probe, corpus: Path) -> None:
    """Passages have the bytes asked for; each one's likelihood does not depend on the others."""
    digest = hashlib.sha256(corpus.read_bytes()).hexdigest()
    ways = [
        probe.passages(
            PassageRequest(
                corpus_path=str(corpus),
                corpus_sha256=digest,
                passage_bytes=512,
                passages=passages,
            ),
            timeout=SECONDS,
        )
        for passages in (tuple(range(9)), (7, 3), (3,))
    ]

    every, two, one = ways
    assert all(255 <= size <= 259 for size in every.bytes)
    assert (len(corpus.read_bytes()) - 1) // 512 == every.available_passages
    assert 768 == every.vocabulary
    assert [every.nll[7], every.nll[3]] == pytest.approx(two.nll, rel=2e-3)
    assert every.nll[3] == pytest.approx(one.nll[0], rel=2e-3)
    # Better than even odds for each byte of a text of its language, and no miracle.
    per_byte = sum(every.nll) / sum(every.bytes)
    assert 0.5 < per_byte < math.log(256)


def test_reading_makes_room_for_what_comes_next(probe: measure.Probe, corpus: Path) -> None:
    """A kept session changes nothing for what is measured after it, nor that for what comes again."""
    request = GenerationRequest(prompts=(Prompt(id="x", prompt="The", max_tokens=8),))
    first = likelihood(probe, corpus, chunks=(1, 2)), probe.generation(request, timeout=SECONDS)
    again = likelihood(probe, corpus, chunks=(1, 2)), probe.generation(request, timeout=SECONDS)

    assert first[0].chunk_nll == again[0].chunk_nll
    assert first[1].outputs == again[1].outputs


def test_generation_is_that_of_single_requests(corpus: Path) -> None:
    """Texts decoded together are the ones that the high-level API gives one at a time."""
    words = corpus.read_text("utf-8").split()
    texts = [" ".join(words[start : start + 5 + start % 7]) for start in range(0, 60, 5)]
    model = llama_cpp.Llama(str(TINY), n_ctx=512, n_threads=1, n_threads_batch=1, verbose=False)
    try:
        answers: list[Any] = [model(text, max_tokens=12, temperature=0) for text in texts]
    finally:
        model.close()

    prompts = tuple(Prompt(id=str(i), prompt=text, max_tokens=12) for i, text in enumerate(texts))
    with measure.Probe.start() as probe:
        probe.load(TINY, EngineSettings(threads=1, flash_attention="off"), timeout=SECONDS)
        result = probe.generation(GenerationRequest(prompts=prompts, parallel=5), timeout=SECONDS)

    assert [prompt.id for prompt in prompts] == [output.id for output in result.outputs]
    same = sum(
        answer["choices"][0]["text"] == output.text
        for answer, output in zip(answers, result.outputs, strict=True)
    )
    # Where two tokens are equally likely to the last bits, the batch's shape may decide.
    assert len(texts) - 1 <= same


def test_messages_go_through_the_models_template(probe: measure.Probe) -> None:
    """A conversation is templated, begins with one BOS, and differs from the bare prompt."""
    request = GenerationRequest(
        prompts=(
            Prompt(id="chat", messages=(Message(role="user", content="ab"),), max_tokens=3),
            Prompt(id="bare", prompt="ab", max_tokens=3),
        )
    )
    chat, bare = probe.generation(request, timeout=SECONDS).outputs

    assert chat.prompt_tokens > bare.prompt_tokens


def test_any_text_can_be_continued(probe: measure.Probe) -> None:
    """Quotes, other scripts, emoji and control words in a prompt are text like any other."""
    texts = ("it\u2019s", "\u4f60\u597d", "\U0001f600", "<s></s>", "\x00", " ")
    prompts = tuple(Prompt(id=repr(text), prompt=text, max_tokens=4) for text in texts)
    outputs = probe.generation(GenerationRequest(prompts=prompts), timeout=SECONDS).outputs

    assert all(output.tokens >= 1 or output.finish == "eog" for output in outputs)


def test_times_are_plausible(probe: measure.Probe) -> None:
    """A request of the tiny model takes time, and less than a second for each token."""
    request = LatencyRequest(prompt_tokens=32, output_tokens=4, warmup=1, repeats=3)
    result = measure.measure_latency(probe, None, request, machine="m", timeout=SECONDS)

    assert 3 == len(result.candidate)
    for timing in result.candidate:
        assert 3 == len(timing.token_ms)
        assert 0 < timing.total_ms < 4000


def test_memory_is_that_of_a_fresh_probe(probe: measure.Probe) -> None:
    """Loading and working takes memory; more context takes more; a used probe is refused."""
    peaks = []
    for context in (256, 2048):
        with measure.Probe.start() as fresh:
            fresh.load(TINY, SETTINGS, timeout=SECONDS)
            use = fresh.memory(
                MemoryRequest(context=context, sequences=4, output_tokens=2), timeout=SECONDS
            )
        assert TINY.stat().st_size == use.file_bytes
        assert use.before_load_bytes < use.peak_rss_bytes < 2048 * MEBIBYTE
        peaks.append(use.peak_rss_bytes)

    assert peaks[0] < peaks[1]
    likelihood_first = LatencyRequest(prompt_tokens=4, output_tokens=1)
    probe.open_latency(likelihood_first, timeout=SECONDS)
    with pytest.raises(ProbeRefused, match="measure memory in a fresh probe"):
        probe.memory(MemoryRequest(), timeout=SECONDS)


def test_a_short_corpus_is_refused_and_the_probe_goes_on(
    probe: measure.Probe, tmp_path: Path, corpus: Path
) -> None:
    """A corpus too short for two windows says so; the next corpus is measured."""
    short = tmp_path / "short.txt"
    short.write_text("Too short.", "utf-8")
    with pytest.raises(ArtifactError, match=r"has \d+ tokens; 256 are needed"):
        likelihood(probe, short)

    assert 2 == len(likelihood(probe, corpus, chunks=(4, 1)).chunk_nll)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file"),
        (b"", "is no GGUF file: it starts with b''"),
        (b"GGML", "is no GGUF file: it starts with b'GGML'"),
        (b"GGUF\x03\x00\x00\x00", r"model\.gguf cannot be loaded: .*(tensor|read|fail)"),
    ],
)
def test_files_that_are_no_model(content: bytes | None, said: str, tmp_path: Path) -> None:
    """A missing, empty, foreign or cut file is refused with its reason, and the probe lives on."""
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    with measure.Probe.start() as fresh:
        with pytest.raises(ProbeRefused, match=said):
            fresh.load(path, SETTINGS, timeout=SECONDS)

        assert fresh.alive
        with pytest.raises(ProbeRefused, match="is a folder; name the GGUF file itself"):
            fresh.load(tmp_path, SETTINGS, timeout=SECONDS)


def test_a_cut_model_is_refused(tmp_path: Path) -> None:
    """A model that lacks its last bytes is refused with the engine's reason."""
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(TINY.read_bytes()[:-1000])
    with (
        measure.Probe.start() as fresh,
        pytest.raises(
            ProbeRefused, match=r"cut\.gguf cannot be loaded: .*not within the file bounds"
        ),
    ):
        fresh.load(cut, SETTINGS, timeout=SECONDS)


def test_an_unknown_architecture_is_refused_with_the_engines_reason(tmp_path: Path) -> None:
    """What the engine logs is what the user reads."""
    data = TINY.read_bytes()
    assert 1 == data.count(b"\x05\x00\x00\x00\x00\x00\x00\x00llama")
    other = tmp_path / "other.gguf"
    other.write_bytes(
        data.replace(
            b"\x05\x00\x00\x00\x00\x00\x00\x00llama", b"\x05\x00\x00\x00\x00\x00\x00\x00lhama"
        )
    )
    with (
        measure.Probe.start() as fresh,
        pytest.raises(ProbeRefused, match="unknown model architecture: 'lhama'"),
    ):
        fresh.load(other, SETTINGS, timeout=SECONDS)


def test_an_engine_assertion_leaves_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """An assertion inside llama.cpp aborts the probe; its text is in the error."""
    monkeypatch.setenv(
        "PYTHONPATH",
        os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(Path(__file__).parent)]).strip(
            os.pathsep
        ),
    )
    monkeypatch.setitem(measure.BACKENDS, "asserting", "asserting_backend:AssertingBackend")
    with measure.Probe.start("asserting") as fresh:
        with pytest.raises(ProbeCrashed, match="SIGABRT") as caught:
            fresh.load(TINY, SETTINGS, timeout=SECONDS)

        assert "engine assertion: " in caught.value.log
        assert "GGML_ASSERT" in caught.value.log
        assert "Fatal Python error" not in caught.value.log
