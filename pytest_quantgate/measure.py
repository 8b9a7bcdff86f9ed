"""What two probes measure together, taking turns; `Probe` is what one measures alone."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import math
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pytest_quantgate.artifact import hardware, integrity
from pytest_quantgate.artifact.files import open_regular
from pytest_quantgate.client import BACKENDS, START_SECONDS, Probe
from pytest_quantgate.errors import MeasurementError, ProbeRefused
from pytest_quantgate.probe import protocol
from pytest_quantgate.records import (
    Divergence,
    DivergenceRequest,
    EngineSettings,
    Latency,
    LatencyRequest,
    Likelihood,
    NoiseFloor,
    Packed,
    Progress,
    RequestTiming,
    TextRequest,
)
from pytest_quantgate.supervision import SPINS, Deadline, shared_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    ProgressCallback = Callable[[Progress], None]

__all__ = [
    "BACKENDS",
    "SPINS",
    "START_SECONDS",
    "Probe",
    "measure_divergence",
    "measure_latency",
    "measure_noise_floor",
    "other_ways",
    "start_pair",
    "write_logits",
]


def start_pair(
    backend: str = "llama",
    *,
    python: str = sys.executable,
    max_rss_bytes: int | None = None,
    timeout: float = START_SECONDS,
) -> tuple[Probe, Probe]:
    """Start two probes that share memory, for `measure_divergence`: a candidate's and a baseline's.

    Args:
        backend: A key of `BACKENDS`.
        python: The interpreter to run; it needs this package and the runtime.
        max_rss_bytes: Kill a probe when its resident set is larger than this.
        timeout: Seconds until each hello must have come.

    Raises:
        ProbeError: a probe did not come up; the other one is ended.
    """
    with shared_memory() as descriptor:
        first = Probe.start(
            backend,
            python=python,
            max_rss_bytes=max_rss_bytes,
            timeout=timeout,
            exchange=descriptor,
        )
        try:
            second = Probe.start(
                backend,
                python=python,
                max_rss_bytes=max_rss_bytes,
                timeout=timeout,
                exchange=descriptor,
            )
        except BaseException:
            first.kill()
            raise
    return first, second


def measure_divergence(
    candidate: Probe,
    baseline: Probe,
    request: DivergenceRequest,
    *,
    timeout: float,
    on_progress: ProgressCallback | None = None,
) -> Divergence:
    """Compare two models position by position, in lockstep.

    Group by group, as many windows as fit a batch: the baseline's probe decodes and leaves its logits
    in the memory both share, then the candidate's decodes the same windows and reduces both. Only
    what they are reduced to comes here.

    Args:
        candidate: A probe of `start_pair` with the candidate loaded.
        baseline: The other one, with the baseline loaded.
        request: What to compare on; its reference must be ``live``.
        timeout: Seconds for all of it.
        on_progress: Called after each group.

    Raises:
        MeasurementError: the models have different vocabularies or read the text differently, or one
            answered with something that is no number.
        ProbeRefused: the request does not fit the models, or the probes are no pair.
        ProbeError: a probe died or hung; the other one is killed too.
    """
    if request.reference != "live":
        message = f"a {request.reference} reference takes one probe: ask the candidate's alone"
        raise ProbeRefused(message)
    deadline = Deadline(timeout)
    try:
        parts = _compare_groups(candidate, baseline, request, deadline, on_progress)
    except BaseException:
        # One of a pair is of no use without the other, which would hold its model's memory.
        if not (candidate.alive and baseline.alive):
            candidate.kill()
            baseline.kill()
        raise
    return Divergence(
        candidate=_joined([part.candidate for part in parts]),
        baseline=_joined([part.baseline for part in parts]),
        kld=_packed([part.kld for part in parts]),
        same_top=_packed([part.same_top for part in parts]),
        precision=parts[0].precision,
        seconds=sum(part.seconds for part in parts),
    )


def _compare_groups(
    candidate: Probe,
    baseline: Probe,
    request: DivergenceRequest,
    deadline: Deadline,
    on_progress: ProgressCallback | None,
) -> list[Divergence]:
    chunks = _common_chunks(candidate, baseline, request, deadline)
    parts: list[Divergence] = []
    done = 0
    # One that asks for no windows is refused by the probe.
    while not parts or done < len(chunks):
        place = {"done": done, "total": len(chunks)}
        rest = dataclasses.replace(request, chunks=chunks[done:])
        shared = baseline.run(
            "share_logits",
            {"request": protocol.to_plain(rest), **place},
            timeout=deadline,
        )
        parts.append(
            candidate.ask(
                "compare_shared",
                {"request": protocol.to_plain(request), "shared": shared, **place},
                Divergence,
                timeout=deadline,
                on_progress=on_progress,
            )
        )
        done += len(parts[-1].candidate.chunks)
    return parts


def _common_chunks(
    candidate: Probe, baseline: Probe, request: DivergenceRequest, deadline: Deadline
) -> tuple[int, ...]:
    """Return the numbers of the windows to compare on, of a text that both models read alike."""
    text = TextRequest(
        corpus_path=request.corpus_path,
        corpus_sha256=request.corpus_sha256,
        context=request.context,
    )
    one, other = (probe.text(text, timeout=deadline) for probe in (candidate, baseline))
    for what, own, others in (
        ("vocabulary", one.vocabulary, other.vocabulary),
        ("number of tokens", one.tokens, other.tokens),
        ("digest of the tokens", one.tokens_sha256, other.tokens_sha256),
    ):
        if own != others:
            message = (
                f"the {what} of {request.corpus_path} is {own} for the candidate and {others} for the"
                " baseline: models with different tokenizers cannot be compared token by token; the"
                " gate nll_per_byte can compare them"
            )
            raise MeasurementError(message)
    return tuple(range(one.chunks)) if request.chunks is None else request.chunks


def _joined(parts: Sequence[Likelihood]) -> Likelihood:
    return dataclasses.replace(
        parts[0],
        chunks=tuple(chunk for part in parts for chunk in part.chunks),
        chunk_nll=tuple(value for part in parts for value in part.chunk_nll),
        chunk_nll2=tuple(value for part in parts for value in part.chunk_nll2),
        token_nll=_packed([part.token_nll for part in parts]),
        seconds=sum(part.seconds for part in parts),
    )


def _packed(parts: Sequence[Packed]) -> Packed:
    """Return arrays one below the other; their bytes need not be looked at for that."""
    data = b"".join(base64.b64decode(part.data) for part in parts)
    return Packed(
        dtype=parts[0].dtype,
        shape=(sum(part.shape[0] for part in parts), *parts[0].shape[1:]),
        data=base64.b64encode(data).decode("ascii"),
    )


def write_logits(
    model: Path,
    text: Path,
    target: Path,
    *,
    context: int,
    chunks: int | None,
    threads: int | None,
    timeout: float,
) -> int:
    """Write a model's logits of a text into a file of llama.cpp's format; return the windows written.

    Raises:
        IntegrityError: the model is not the one its checksum says.
        ArtifactError: the text cannot be read, or the file cannot be written.
        ProbeError: the model cannot be run.
    """
    integrity.require(integrity.verify(model), required=False)
    digest = hashlib.sha256(_bytes(text)).hexdigest()
    request = TextRequest(corpus_path=str(text), corpus_sha256=digest, context=context)
    settings = EngineSettings(threads=threads or hardware.usable_cores())
    deadline = Deadline(timeout)
    with Probe.start() as probe:
        probe.load(model, settings, timeout=deadline.left)
        return probe.write_logits(request, chunks, target, timeout=deadline.left)


def _bytes(path: Path) -> bytes:
    with open_regular(path) as file:
        return file.read()


def other_ways(settings: EngineSettings) -> dict[str, EngineSettings]:
    """Return other ways to compute the same: batch size, thread count, attention kernel; by name."""
    flash: Literal["on", "off"] = "on" if settings.flash_attention == "off" else "off"
    threads = 2 if settings.threads == 1 else 1
    return {
        f"ubatch {settings.ubatch // 4}": replace(settings, ubatch=settings.ubatch // 4),
        f"threads {threads}": replace(settings, threads=threads),
        f"flash attention {flash}": replace(settings, flash_attention=flash),
    }


def measure_noise_floor(
    runs: Mapping[str, tuple[Path, EngineSettings]],
    text: TextRequest,
    settings: EngineSettings,
    *,
    order: Sequence[int],
    timeout: float,
    on_progress: ProgressCallback | None = None,
) -> NoiseFloor:
    """Return how far models are from themselves when they are computed another way, or once more.

    Each run is a model and the settings to compute it with, which is compared with the same model under
    ``settings``; both decode the windows ``order`` in lockstep, and their divergence is exact.

    Raises:
        QuantgateError: the windows cannot be measured.
    """
    request = DivergenceRequest(
        reference="live",
        corpus_path=text.corpus_path,
        corpus_sha256=text.corpus_sha256,
        context=text.context,
        chunks=tuple(order),
    )
    ratios: list[float] = []
    divergences: list[float] = []
    for path, way in runs.values():
        other, plain = start_pair(timeout=START_SECONDS)
        with other, plain:
            other.load(path, way, timeout=timeout)
            plain.load(path, settings, timeout=timeout)
            found = measure_divergence(
                other, plain, request, timeout=timeout, on_progress=on_progress
            )
        tokens = found.candidate.chunk_tokens * len(found.candidate.chunk_nll)
        own, base = math.fsum(found.candidate.chunk_nll), math.fsum(found.baseline.chunk_nll)
        ratios.append(abs(own - base) / tokens)
        # Rounding can bring the mean a hair below 0.
        divergences.append(abs(float(found.kld.array().mean(dtype="f8"))))
    return NoiseFloor(
        log_ratio=max(ratios), kld=max(divergences), chunks=len(order), settings=tuple(runs)
    )


def measure_latency(
    candidate: Probe,
    baseline: Probe | None,
    request: LatencyRequest,
    *,
    machine: str,
    timeout: float,
    on_progress: ProgressCallback | None = None,
) -> Latency:
    """Time requests of two loaded models in turns, so that drift of the machine meets both alike.

    Each pair is timed one after the other, and the order alternates from pair to pair: AB BA AB …

    Args:
        candidate: The probe of the model under test.
        baseline: The probe of the model it is compared with, if any.
        request: Shape, warm-up and number of the requests.
        machine: What the times hold for, kept in the record.
        timeout: Seconds for each single request.
        on_progress: Called after each request of the candidate.

    Raises:
        ProbeRefused: no repeats are asked for, or the shape does not fit the model.
        ProbeError: a probe died or hung.
    """
    if request.repeats < 1 or request.warmup < 0:
        message = f"{request.repeats} repeats after {request.warmup} warm-ups measure nothing"
        raise ProbeRefused(message)
    probes = [candidate] if baseline is None else [candidate, baseline]
    for probe in probes:
        probe.open_latency(request, timeout=timeout)
    for _ in range(request.warmup):
        for probe in probes:
            probe.time_request(timeout=timeout)
    timings: dict[int, list[RequestTiming]] = {id(probe): [] for probe in probes}
    for pair in range(request.repeats):
        for probe in probes if pair % 2 == 0 else reversed(probes):
            timings[id(probe)].append(probe.time_request(timeout=timeout))
        if on_progress is not None:
            on_progress(
                Progress(step="latency", done=pair + 1, total=request.repeats, unit="request")
            )
    return Latency(
        candidate=tuple(timings[id(candidate)]),
        baseline=() if baseline is None else tuple(timings[id(baseline)]),
        prompt_tokens=request.prompt_tokens,
        output_tokens=request.output_tokens,
        machine=machine,
    )
