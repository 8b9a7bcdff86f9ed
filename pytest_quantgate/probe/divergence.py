"""How far a candidate's predictions are from a baseline's, position by position.

The Kullback-Leibler divergence is KL(baseline || candidate) in nats: the mean, over what the baseline
holds likely, of how much less likely the candidate holds it. The baseline's predictions come from
one of three references, which differ in how much of them they know.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from pytest_quantgate.errors import MeasurementError
from pytest_quantgate.probe.likelihood import BLOCK_VALUES, likelihood_of
from pytest_quantgate.records import Divergence, Packed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from pytest_quantgate.artifact.logits_file import LogitsWindow
    from pytest_quantgate.probe.windows import Reader, Windows

    Precision = Literal["exact", "16-bit", "lower bound"]

_FLOOR = np.float32(-16)
"""The tool leaves out tokens to which the baseline gives a log-probability of this or less."""

_LEAST_TAIL = 1e-30
"""Stands for a probability of nothing, whose logarithm is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One window: a figure for each scored position; log-likelihoods and divergence in nats."""

    candidate_nll: NDArray[np.float64]
    baseline_nll: NDArray[np.float64]
    kld: NDArray[np.float64]
    same_top: NDArray[np.bool_]


class Reference(Protocol):
    """A baseline's predictions for the windows of one request."""

    @property
    def precision(self) -> Precision:
        """What a divergence from it is."""

    @property
    def description(self) -> str:
        """What the baseline is, for messages."""

    def compare(
        self, place: int, logits: NDArray[np.float32], targets: NDArray[np.int32]
    ) -> Comparison:
        """Hold the candidate's logits against the baseline.

        Args:
            place: Of the window among the request's windows, from 0.
            logits: The candidate's, of shape (scored tokens, vocabulary).
            targets: Shape (scored tokens,), the ids that came next.
        """


def measure_divergence(
    reader: Reader,
    windows: Windows,
    reference: Reference,
    report: Callable[[int], None],
    *,
    sequences: int | None = None,
    baseline_seconds: float = 0.0,
) -> Divergence:
    """Decode windows with the candidate and compare them with a reference.

    Args:
        reader: Reads with the candidate.
        windows: What to compare on.
        reference: The baseline's predictions for these windows.
        report: Is told how many windows are done.
        sequences: Windows decoded together; as many as fit a batch by default.
        baseline_seconds: What the reference took to make.

    Raises:
        MeasurementError: one of the models answered with something that is no number.
        ProbeRefused: the request or the model does not fit this measurement.
    """
    started = time.monotonic()
    shape = windows.targets.shape
    candidate_nll, baseline_nll, kld = np.empty(shape), np.empty(shape), np.empty(shape)
    same_top = np.empty(shape, dtype=np.uint8)
    with ThreadPoolExecutor(max_workers=reader.settings.threads) as pool:
        for start, rows in reader.logits(windows, sequences=sequences):
            end = start + len(rows)
            group = windows.part(start, end)
            for place, found in enumerate(
                pool.map(reference.compare, range(start, end), rows, group.targets), start
            ):
                candidate_nll[place], baseline_nll[place] = found.candidate_nll, found.baseline_nll
                kld[place], same_top[place] = found.kld, found.same_top
            reader.require_finite(
                baseline_nll[start:end], group, side="baseline", description=reference.description
            )
            reader.require_finite(candidate_nll[start:end], group, side="candidate")
            _require_overlap(kld[start:end], group, reader.facts.description)
            report(end)
    seconds = time.monotonic() - started
    vocabulary = reader.facts.vocabulary
    return Divergence(
        candidate=likelihood_of(candidate_nll, windows, vocabulary=vocabulary, seconds=seconds),
        baseline=likelihood_of(
            baseline_nll, windows, vocabulary=vocabulary, seconds=baseline_seconds
        ),
        kld=Packed.of(kld, "<f4"),
        same_top=Packed.of(same_top, "|u1"),
        precision=reference.precision,
        seconds=seconds + baseline_seconds,
    )


class FullReference:
    """All logits of the baseline, as its own probe has computed them: the divergence is exact."""

    precision: Precision = "exact"

    def __init__(self, logits: NDArray[np.float32], description: str) -> None:
        """Compare with logits of shape (windows, scored tokens, vocabulary)."""
        self._logits = logits
        self.description = description

    def compare(
        self, place: int, logits: NDArray[np.float32], targets: NDArray[np.int32]
    ) -> Comparison:
        """Hold the candidate's logits against the baseline's.

        With d the logits less the row's greatest, e = exp(d) and S their sum, the divergence is
        sum(e_b (d_b - d_c)) / S_b - ln S_b + ln S_c: equal rows have exactly none.
        """
        found = _empty(len(targets))
        # What is no number stays none through all of this, and the caller looks for it.
        with np.errstate(all="ignore"):
            for rows in _blocks(*logits.shape):
                wanted = targets[rows]
                mine = _Softmax(logits[rows], wanted)
                theirs = _Softmax(self._logits[place, rows], wanted)
                apart = theirs.lowered - mine.lowered
                mine_log, theirs_log = mine.log_sum(), theirs.log_sum()
                found.candidate_nll[rows] = mine_log - mine.reached
                found.baseline_nll[rows] = theirs_log - theirs.reached
                np.multiply(apart, theirs.lowered, out=apart)
                cross = apart.sum(axis=1, dtype=np.float64)
                if not np.isfinite(cross).all():
                    # A token that the baseline rules out adds nothing, however far apart they are.
                    apart[theirs.lowered == 0] = 0
                    cross = apart.sum(axis=1, dtype=np.float64)
                # Rounding may fall below the least a divergence can be.
                exact = cross / theirs.sums - theirs_log + mine_log
                found.kld[rows] = np.maximum(exact, 0)
                found.same_top[rows] = mine.top == theirs.top
        return found


class LogitsReference:
    """A baseline's log-probabilities from llama.cpp's logits file, in the tool's own arithmetic."""

    precision: Precision = "16-bit"

    def __init__(self, windows: Callable[[int], LogitsWindow], description: str) -> None:
        """Compare with what ``windows`` returns for the place of a window."""
        self._windows = windows
        self.description = description

    def compare(
        self, place: int, logits: NDArray[np.float32], targets: NDArray[np.int32]
    ) -> Comparison:
        """Hold the candidate's logits against the file's values, rounded as they are.

        As in the tool, tokens below a floor are left out and nothing is normalized again, so that a
        divergence may be a little less than none.
        """
        window = self._windows(place)
        found = _empty(len(targets))
        with np.errstate(all="ignore"):
            for rows in _blocks(*logits.shape):
                wanted = targets[rows]
                part = logits[rows]
                mine = _Softmax(part, wanted)
                log_sum = mine.log_sum()
                found.candidate_nll[rows] = log_sum - mine.reached
                scale, least = window.scale[rows, None], window.least[rows, None]
                steps = window.steps[rows]
                likely = np.multiply(steps, scale, dtype=np.float32)
                likely += least
                found.baseline_nll[rows] = -likely[np.arange(len(part)), wanted]
                apart = likely - part
                apart += mine.greatest + log_sum.astype(np.float32)[:, None]
                kept = likely > _FLOOR
                np.exp(likely, out=likely)
                likely *= kept
                apart *= likely
                divergence = apart.sum(axis=1, dtype=np.float64)
                if not np.isfinite(divergence).all():
                    apart[~kept] = 0
                    divergence = apart.sum(axis=1, dtype=np.float64)
                found.kld[rows] = divergence
                # Decoding keeps the order of the steps, and equal ones equal.
                found.same_top[rows] = mine.top == steps.argmax(axis=1)
        return found


class CommittedReference:
    """The most likely tokens of a committed baseline: the divergence is a lower bound.

    Tokens that the baseline does not list count as one, which can only hide a difference (the data
    processing inequality). Every stored probability is moved, within what its rounding may have
    changed, to where it is nearest to the candidate's, so that rounding cannot add one either.
    """

    precision: Precision = "lower bound"

    def __init__(
        self,
        *,
        nll: NDArray[np.float32],
        ids: NDArray[np.integer],
        log_probs: NDArray[np.floating],
        description: str,
    ) -> None:
        """Compare with what is stored.

        Args:
            nll: Of the targets, of shape (windows, scored tokens).
            ids: The most likely tokens, most likely first, of shape (windows, scored tokens, k).
            log_probs: Theirs, of the same shape.
            description: What the baseline is, for messages.
        """
        self._nll = nll
        self._ids = ids
        self._log_probs = log_probs
        self.description = description

    def compare(
        self, place: int, logits: NDArray[np.float32], targets: NDArray[np.int32]
    ) -> Comparison:
        """Hold the candidate's logits against the listed tokens and the rest of the vocabulary."""
        found = _empty(len(targets))
        found.baseline_nll[:] = self._nll[place]
        with np.errstate(all="ignore"):
            for rows in _blocks(*logits.shape):
                mine = _Softmax(logits[rows], targets[rows])
                ids = self._ids[place, rows].astype(np.intp)
                found.candidate_nll[rows] = mine.log_sum() - mine.reached
                listed = np.take_along_axis(mine.lowered, ids, axis=1).astype(np.float64)
                listed /= mine.sums[:, None]
                found.kld[rows] = _partition_divergence(self._log_probs[place, rows], listed)
                found.same_top[rows] = mine.top == ids[:, 0]
        return found


class _Softmax:
    """What a block of rows of logits is reduced by.

    ``lowered`` are the logits less the row's greatest, until `log_sum` replaces them by their
    exponentials; ``reached`` is the target's. The sums equal those of `likelihood.token_nll`.
    """

    def __init__(self, logits: NDArray[np.float32], targets: NDArray[np.int32]) -> None:
        places = np.arange(len(logits))
        self.top = logits.argmax(axis=1)
        self.greatest = logits[places, self.top][:, None]
        self.lowered = logits - self.greatest
        self.reached = self.lowered[places, targets].astype(np.float64)

    def log_sum(self) -> NDArray[np.float64]:
        """Turn ``lowered`` into exponentials and return the logarithm of their sum."""
        np.exp(self.lowered, out=self.lowered)
        self.sums: NDArray[np.float64] = self.lowered.sum(axis=1, dtype=np.float64)
        logarithm: NDArray[np.float64] = np.log(self.sums)
        return logarithm


def _partition_divergence(
    log_probs: NDArray[np.floating], candidate: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the least divergence that stored log-probabilities can stand for, row by row.

    It is the sum of p ln(p / q) - p + q over the listed tokens and the rest, each term of which is
    none at p = q and grows with the distance; so each p is taken as near to q as its rounding allows.
    """
    half = np.spacing(np.abs(log_probs)).astype(np.float64) / 2
    stored = log_probs.astype(np.float64)
    least, most = np.exp(stored - half), np.exp(stored + half)
    rest = np.maximum(1 - candidate.sum(axis=1, keepdims=True), _LEAST_TAIL)
    q = np.concatenate((np.maximum(candidate, _LEAST_TAIL), rest), axis=1)
    p = np.clip(
        q,
        np.concatenate((least, np.maximum(1 - most.sum(axis=1, keepdims=True), 0)), axis=1),
        np.concatenate((most, np.maximum(1 - least.sum(axis=1, keepdims=True), 0)), axis=1),
    )
    terms = np.where(p > 0, p * np.log(np.maximum(p, _LEAST_TAIL) / q), 0) - p + q
    divergence: NDArray[np.float64] = np.maximum(terms.sum(axis=1), 0)
    return divergence


def _empty(positions: int) -> Comparison:
    return Comparison(
        candidate_nll=np.empty(positions),
        baseline_nll=np.empty(positions),
        kld=np.empty(positions),
        same_top=np.empty(positions, dtype=np.bool_),
    )


def _blocks(rows: int, vocabulary: int) -> Iterator[slice]:
    # Three arrays are worked on at once, where the likelihood has one.
    block = max(1, BLOCK_VALUES // 4 // vocabulary)
    return (slice(start, start + block) for start in range(0, rows, block))


def _require_overlap(kld: NDArray[np.float64], windows: Windows, description: str) -> None:
    broken = np.flatnonzero(~np.isfinite(kld).all(axis=1))
    if broken.size:
        message = (
            f"the divergence is infinite in chunk {windows.numbers[int(broken[0])] + 1}: the candidate"
            f" ({description}) gives no probability at all to a token that the baseline holds possible;"
            " its weights are broken"
        )
        raise MeasurementError(message)
