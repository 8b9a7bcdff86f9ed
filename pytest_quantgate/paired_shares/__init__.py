"""Right and wrong answers of two models to the same cases: how far apart their shares of right ones are.

Answers to one case are alike, whoever gives them, so the shares are compared pair by pair: only cases
that flip tell the models apart. Which bounds decide a gate is settled by how often they err, which
was counted over all outcomes of many populations; see `drop_interval`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pytest_quantgate import stats
from pytest_quantgate.paired_shares.population import Drawn, most
from pytest_quantgate.paired_shares.scores import score_high
from pytest_quantgate.records import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedCounts:
    """Cases by who answers them right; some, at least.

    Numbers of cases, or, of cases that differ in weight or are right in part, the numbers of cases that
    would tell as much: exact tests and bounds for a population take whole numbers only.

    Raises:
        ValueError: a negative number, or no case at all.
    """

    both_right: float
    baseline_only: float
    candidate_only: float
    both_wrong: float

    def __post_init__(self) -> None:
        """Refuse numbers that count nothing."""
        cells = (self.both_right, self.baseline_only, self.candidate_only, self.both_wrong)
        if min(cells) < 0 or sum(cells) == 0:
            message = f"paired counts are numbers of at least one case, got {cells}"
            raise ValueError(message)

    def whole(self) -> tuple[int, int, int]:
        """Return cases lost, gained and all of them, as whole numbers.

        Raises:
            ValueError: they are none.
        """
        numbers = (self.baseline_only, self.candidate_only, self.n)
        if not all(float(number).is_integer() for number in numbers):
            message = f"this takes whole numbers of cases, got {numbers} lost, gained and in all"
            raise ValueError(message)
        lost, gained, n = (int(number) for number in numbers)
        return lost, gained, n

    @property
    def n(self) -> float:
        """Number of cases."""
        return self.both_right + self.flips + self.both_wrong

    @property
    def flips(self) -> float:
        """Number of cases that one model answers right and the other one wrong."""
        return self.baseline_only + self.candidate_only

    @property
    def baseline_share(self) -> float:
        """Share of right answers of the baseline."""
        return (self.both_right + self.baseline_only) / self.n

    @property
    def candidate_share(self) -> float:
        """Share of right answers of the candidate."""
        return (self.both_right + self.candidate_only) / self.n

    @property
    def difference(self) -> float:
        """Candidate's share less the baseline's, as one quotient: shares would round apart."""
        return (self.candidate_only - self.baseline_only) / self.n

    @property
    def drop(self) -> float:
        """How far the candidate's share is below the baseline's; negative where it is above."""
        return (self.baseline_only - self.candidate_only) / self.n

    @property
    def flip_share(self) -> float:
        """Share of cases that flip."""
        return self.flips / self.n

    def swapped(self) -> PairedCounts:
        """Return the counts with the models in each other's place, so that a drop is a difference."""
        return PairedCounts(
            both_right=self.both_right,
            baseline_only=self.candidate_only,
            candidate_only=self.baseline_only,
            both_wrong=self.both_wrong,
        )


def mcnemar_p(counts: PairedCounts) -> float:
    """Return the exact two-sided p-value of "both models are right equally often".

    Given how many cases flip, each flips either way with probability 1/2 (McNemar, Psychometrika 12,
    1947, with the binomial instead of its approximation); 1 where none flips. No small p-value makes a
    gate pass, and no large one either: bounds decide.
    """
    from scipy import special  # noqa: PLC0415 - a second of import that only judging pays

    lost, gained, _ = counts.whole()
    return min(1.0, 2 * float(special.bdtr(min(lost, gained), lost + gained, 0.5)))


def newcombe_interval(
    counts: PairedCounts, *, pass_confidence: float, fail_confidence: float
) -> Interval:
    """Return Newcombe's hybrid score bounds of the difference, candidate less baseline.

    Method 10 of Newcombe, Statistics in Medicine 17, 1998, 2635-2650: the Wilson bounds of both shares,
    put together by the correlation of the answers, which is corrected for continuity. The difference
    is at most ``high`` with ``pass_confidence``, at least ``low`` with ``fail_confidence``; both 0.975
    make the usual interval of 95%. For comparison with figures of others, not to decide by: where few
    cases flip and shares are near one half, it errs most; see `drop_interval`.

    Raises:
        ValueError: a confidence that is not above 0.5 and below 1.
    """
    return Interval(
        low=0.0 - _newcombe_high(counts.swapped(), fail_confidence),
        high=_newcombe_high(counts, pass_confidence),
        confidence=pass_confidence,
        fail_confidence=fail_confidence,
    )


def tango_interval(
    counts: PairedCounts, *, pass_confidence: float, fail_confidence: float
) -> Interval:
    """Return Tango's score bounds of the difference, candidate less baseline.

    Tango, Statistics in Medicine 17, 1998, 891-908: the differences that the score test, with the share
    of flips that is likeliest under each, does not reject; found by halving. The difference is at most
    ``high`` with ``pass_confidence``, at least ``low`` with ``fail_confidence``; both 0.975 make the
    usual interval of 95%. For comparison with figures of others, not to decide by: see `drop_interval`.

    Raises:
        ValueError: a confidence that is not above 0.5 and below 1.
    """
    gained, lost = counts.candidate_only, counts.baseline_only
    low = score_high(lost, gained, counts.n, _normal(_risk(fail_confidence, 1)), corrected=False)
    high = score_high(gained, lost, counts.n, _normal(_risk(pass_confidence, 1)), corrected=False)
    return Interval(
        low=0.0 - low, high=high, confidence=pass_confidence, fail_confidence=fail_confidence
    )


def drop_interval(
    counts: PairedCounts,
    *,
    population: int | None = None,
    looks: int = 1,
    pass_confidence: float,
    fail_confidence: float,
) -> Interval:
    """Return the bounds that decide how far the candidate's share is below the baseline's.

    The drop is at most ``high`` with ``pass_confidence``, at least ``low`` with ``fail_confidence``,
    each at all of ``looks`` looks together (Bonferroni). ``population`` is the number of cases that
    these were drawn from at random, without replacement, and that the drop is about; None where it is
    about all cases of the kind. With all cases there is no doubt left.

    None: Tango's score bounds, moved outwards by half a case for continuity and by the term of the
    Cornish-Fisher expansion for skewness, (z^2 - 1) / 6 of its ratio to the variance, where that harms
    (as Gart and Nam, Biometrics 46, 1990, and Laud, Pharmaceutical Statistics 16, 2017, correct scores
    of unpaired shares). Counted over all outcomes for 16 to 400 cases, on a grid of shares of flips up
    to one half and of splits of them, a bound of 95% errs in at most 5.13% of samples, one of 99% in at
    most 1.04%; on a coarser grid Tango's own errs in up to 8.8% and 2.3%, Newcombe's (16 to 100 cases)
    in 13% and 5.3%.

    A population: the drops that the exact test does not reject which orders outcomes by Tango's score
    and takes the worst number of flips in the population, among those that the flips seen leave
    possible but for a twentieth of the risk (Berger and Boos, JASA 89, 1994). Counted over all outcomes
    of 10 to 99 cases out of 20 to 100, of which up to 16 flip, no bound errs in more than 0.95 of the
    samples that it may. The score, corrected for the population, errs in up to 1.9 times as many as a
    bound of 95% may, and 3.9 times for 99%, once more than half is drawn.

    Raises:
        ValueError: a confidence that is not above 0.5 and below 1, or more cases than the population.
    """
    if _complete(counts.n, population):
        return Interval(low=counts.drop, high=counts.drop, confidence=1.0, fail_confidence=1.0)

    pass_risk, fail_risk = _risk(pass_confidence, looks), _risk(fail_confidence, looks)
    if population is None:
        lost, gained, n = counts.baseline_only, counts.candidate_only, counts.n
        low = score_high(gained, lost, n, _normal(fail_risk), corrected=True)
        high = score_high(lost, gained, n, _normal(pass_risk), corrected=True)
    else:
        fell, rose, cases = counts.whole()
        # A drop is a rise of what is lost.
        found = Drawn(risen=fell, fallen=rose, n=cases, population=population)
        low, high = found.swapped().high(fail_risk), found.high(pass_risk)
    return Interval(
        low=0.0 - low,
        high=high,
        confidence=pass_confidence,
        fail_confidence=fail_confidence,
    )


def flips_interval(
    counts: PairedCounts,
    *,
    population: int | None = None,
    looks: int = 1,
    pass_confidence: float,
    fail_confidence: float,
) -> Interval:
    """Return the exact bounds of the share of cases that flip; see `share_interval`."""
    return share_interval(
        counts.flips,
        counts.n,
        population=population,
        looks=looks,
        pass_confidence=pass_confidence,
        fail_confidence=fail_confidence,
    )


def share_interval(
    successes: float,
    trials: float,
    *,
    population: int | None = None,
    looks: int = 1,
    pass_confidence: float,
    fail_confidence: float,
) -> Interval:
    """Return exact bounds of a share, each at all of ``looks`` looks together (Bonferroni).

    The share is at most ``high`` with ``pass_confidence``, at least ``low`` with ``fail_confidence``;
    for a limit from below count the failures. Clopper and Pearson, Biometrika 26, 1934, and the same
    turning round of the hypergeometric distribution where ``population`` cases are there to draw from.

    Raises:
        ValueError: a confidence that is not above 0.5 and below 1, or more cases than the population.
    """
    if _complete(trials, population):
        share = successes / trials
        return Interval(low=share, high=share, confidence=1.0, fail_confidence=1.0)
    failures = trials - successes
    # A population has no share between two whole numbers of cases; the estimate may be there.
    low = 1 - _share_high(failures, trials, population, _risk(fail_confidence, looks))
    high = _share_high(successes, trials, population, _risk(pass_confidence, looks))
    return Interval(
        low=min(low, successes / trials),
        high=max(high, successes / trials),
        confidence=pass_confidence,
        fail_confidence=fail_confidence,
    )


def wilson_lower(successes: float, trials: float, *, confidence: float) -> float:
    """Return the bound of Wilson's score interval that the share is at least, by itself.

    Raises:
        ValueError: a confidence that is not above 0.5 and below 1.
    """
    risk = _risk(confidence, 1)
    return stats.wilson_interval(successes, trials, confidence=1 - 2 * risk).low


def wilson_upper(successes: float, trials: float, *, confidence: float) -> float:
    """Return the bound of Wilson's score interval that the share is at most, by itself.

    Raises:
        ValueError: a confidence that is not above 0.5 and below 1.
    """
    risk = _risk(confidence, 1)
    return stats.wilson_interval(successes, trials, confidence=1 - 2 * risk).high


def _complete(drawn: float, population: int | None) -> bool:
    if population is not None and drawn > population:
        message = f"{drawn} cases cannot be drawn without replacement from {population}"
        raise ValueError(message)
    return drawn == population


def _risk(confidence: float, looks: int) -> float:
    if not 0.5 < confidence < 1:  # noqa: PLR2004 - at 0.5 a bound is the estimate
        message = f"a confidence is above 0.5 and below 1, got {confidence}"
        raise ValueError(message)
    return (1 - confidence) / looks


def _normal(risk: float) -> float:
    """Return the quantile of the normal distribution that is exceeded with a probability."""
    from scipy import special  # noqa: PLC0415 - see above

    return -float(special.ndtri(risk))


def _newcombe_high(counts: PairedCounts, confidence: float) -> float:
    """Return the upper bound of candidate less baseline."""
    candidate = counts.both_right + counts.candidate_only
    baseline = counts.both_right + counts.baseline_only
    failures = counts.n - baseline
    up = wilson_upper(candidate, counts.n, confidence=confidence) - candidate / counts.n
    down = wilson_upper(failures, counts.n, confidence=confidence) - failures / counts.n
    agreement = float(
        counts.both_right * counts.both_wrong - counts.baseline_only * counts.candidate_only
    )
    if agreement > 0:
        agreement = max(agreement - counts.n / 2, 0.0)
    margins = candidate * (counts.n - candidate) * baseline * failures
    correlation = agreement / math.sqrt(margins) if margins else 0.0
    square = up**2 - 2 * correlation * up * down + down**2
    return min(1.0, counts.difference + math.sqrt(max(square, 0.0)))


def _share_high(successes: float, trials: float, population: int | None, risk: float) -> float:
    """Return the largest share under which so few successes, or fewer, are likelier than the risk."""
    from scipy import special  # noqa: PLC0415 - see above

    if successes >= trials:
        return 1.0
    if population is None:
        return float(special.betaincinv(successes + 1, trials - successes, 1 - risk))
    return most(round(successes), round(trials), population, risk) / population
