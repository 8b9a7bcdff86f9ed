"""What is concluded from answered cases, and how it is said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_quantgate import paired_shares, statement, stats
from pytest_quantgate.answers.drawing import silent
from pytest_quantgate.answers.held import HeldLimit, held_limits
from pytest_quantgate.answers.tally import Certainty, Tally
from pytest_quantgate.errors import MeasurementError
from pytest_quantgate.records import Check, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_quantgate.answers.drawing import AnsweredSample
    from pytest_quantgate.answers.settings import AnswerLimits
    from pytest_quantgate.gates import Bench
    from pytest_quantgate.records import AnsweredCase

_BOUND = 0.975
"""Confidence of each end of an interval of 95%."""

_SHOWN_LIMITS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerJudgement:
    """What a gate puts into its `Judgement`, to which it adds the cases and their listing."""

    headline: str
    checks: tuple[Check, ...]
    findings: tuple[str, ...]
    record: dict[str, float | int | str | bool | None]
    warn: bool


def judge_answers(
    settings: AnswerLimits,
    sample: AnsweredSample,
    bench: Bench,
    *,
    statistic: str = "accuracy",
    unit: str = "cases",
    chance: float | None = None,
) -> AnswerJudgement:
    """Hold answers against the limits; of cases that the user chose, only tell which are right.

    ``statistic`` names the share of right answers, ``unit`` what is asked, ``chance`` is the share that
    guessing gets right.

    Raises:
        MeasurementError: no limit at all, answers no better than guesses where a limit would not show
            it, or a slice that the baseline answers nothing of, so that no drop could show in it.
    """
    if bench.chosen_cases:
        return _chosen(sample, unit=unit)
    limits = tuple(held_limits(settings, sample.literal))
    if not limits:
        message = f"{bench.gate_id} has no limit to judge; give one of min, max_drop, max_flips"
        raise MeasurementError(message)
    judge = _Judge(
        settings=settings,
        sample=sample,
        bench=bench,
        statistic=statistic,
        unit=unit,
        limits=limits,
        sure=Certainty(
            looks=sample.looks,
            pass_confidence=settings.pass_confidence,
            fail_confidence=settings.fail_confidence,
        ),
        tallies={tag: Tally.of(sample.part(tag)) for tag in settings.by_slice()},
    )
    checks = judge.checks()
    outcome = stats.worst([check.outcome for check in checks])
    judge.require_room(checks)
    if chance is not None:
        judge.require_skill(chance, outcome)
    return AnswerJudgement(
        headline=judge.headline(checks),
        checks=checks,
        findings=tuple(judge.findings(checks)),
        record=judge.record(chance),
        warn=outcome is Outcome.INCONCLUSIVE and settings.on_inconclusive == "warn",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judge:
    """A sample with everything it is judged by."""

    settings: AnswerLimits
    sample: AnsweredSample
    bench: Bench
    statistic: str
    unit: str
    limits: tuple[HeldLimit, ...]
    sure: Certainty
    tallies: Mapping[str | None, Tally]

    def checks(self) -> tuple[Check, ...]:
        """Return every limit held against the answers."""
        return tuple(
            held.check(
                self.tallies[held.tag],
                self.sample.total(held.tag),
                self.sure,
                statistic=self.statistic,
                sample=self._asked(held.tag),
            )
            for held in self.limits
        )

    def require_room(self, checks: Sequence[Check]) -> None:
        """Refuse a drop that passes because the baseline has nothing to lose."""
        for held, check in zip(self.limits, checks, strict=True):
            tally = self.tallies[held.tag]
            passes = held.kind == "max_drop" and check.outcome is Outcome.PASS
            if passes and tally.paired and tally.kept + tally.lost == 0:
                message = (
                    f"{self.bench.baseline_name} answers none of {self._asked(held.tag)} with the tag"
                    f" {held.tag!r} as expected, so no drop can show in them; check the expected"
                    " answers, or remove max_drop from the slice"
                )
                raise MeasurementError(message)

    def require_skill(self, chance: float, outcome: Outcome) -> None:
        """Refuse answers that guessing gives as well.

        Where there is a baseline, its answers are those that must be better: a candidate that only
        guesses has failed.
        """
        tally = self.tallies[None]
        share, name = tally.share(), self.bench.candidate_name
        if tally.paired:
            share, name = tally.baseline_share(), self.bench.baseline_name
        elif outcome is Outcome.FAIL:
            return
        trials = tally.effective
        low = paired_shares.wilson_lower(share * trials, trials, confidence=_BOUND)
        if low > chance:
            return
        high = paired_shares.wilson_upper(share * trials, trials, confidence=_BOUND)
        message = (
            f"{name} answers {share:.1%} of {self._asked(None)} right, between {low:.1%} and"
            f" {high:.1%} with 95% confidence, and guessing {chance:.1%}: such answers cannot tell"
            f" a good variant from a broken one; ask more {self.unit}, or easier ones"
        )
        raise MeasurementError(message)

    def headline(self, checks: Sequence[Check]) -> str:
        """Return the share, the limits that ended worst, and how much was asked."""
        tally = self.tallies[None]
        outcome = stats.worst([check.outcome for check in checks])
        text = f"{self.statistic} {tally.share():.1%} ({self._right(tally)})"
        shown = [
            (held, check)
            for held, check in zip(self.limits, checks, strict=True)
            if check.outcome is outcome
        ]
        for held, check in shown[:_SHOWN_LIMITS]:
            text += self._against(held, check)
        if len(shown) > _SHOWN_LIMITS:
            text += f" and {len(shown) - _SHOWN_LIMITS} more limits"
        reference = tally.baseline_share() if tally.paired else self.sample.literal
        if reference is not None:
            text += f"; {self.bench.baseline_name} {reference:.1%}"
        asked = self._asked(None)
        if outcome is Outcome.INCONCLUSIVE:
            return f"{text}; {asked} did not decide it"
        return text if tally.cases == self.sample.population else f"{text}; {asked} decided it"

    def findings(self, checks: Sequence[Check]) -> Iterator[str]:
        """Yield what is to be said of the answers, and of every limit that is open."""
        whole = self.tallies[None]
        for tag, tally in self.tallies.items():
            if tag is not None and tally.cases:
                yield f"slice {tag!r}: {self._right(tally)} right{self._of_baseline(tally)}"
        if whole.paired:
            yield self._flips(whole)
        if not self.sample.total(None).alike:
            yield (
                f"the weights make the {whole.cases} {self.unit} tell as much as"
                f" {whole.effective:.1f} of equal weight"
            )
        quiet = sum(silent(case.candidate) for case in self.sample.cases)
        if quiet:
            base = [case.baseline for case in self.sample.cases if case.baseline is not None]
            also = f", {sum(map(silent, base))} of {self.bench.baseline_name}" if base else ""
            yield f"empty outputs: {quiet} of {self.bench.candidate_name}{also}"
        pairs = zip(self.limits, checks, strict=True)
        undecided = [held for held, check in pairs if check.outcome is Outcome.INCONCLUSIVE]
        yield from map(self._open, undecided)
        if undecided and self._ended() == "complete":
            yield (
                f"what decides: more {self.unit} of the kind, a wider limit, or, where these"
                f" {self.unit} are all that matter, `cases_are: all`"
            )

    def record(self, chance: float | None) -> dict[str, float | int | str | bool | None]:
        """Return the plain figures."""
        tally = self.tallies[None]
        key = self.statistic.replace(" ", "_")
        lost, gained = self._flipped()
        exact = tally.paired and tally.whole
        found: dict[str, float | int | str | bool | None] = {
            key: tally.share(),
            "right": sum(case.candidate.right == 1 for case in self.sample.cases),
            "cases": tally.cases,
            "population": self.sample.population,
            "effective_cases": tally.effective,
            f"baseline_{key}": tally.baseline_share() if tally.paired else self.sample.literal,
            "flips": lost + gained if tally.paired else None,
            "lost": lost if tally.paired else None,
            "gained": gained if tally.paired else None,
            "mcnemar_p": paired_shares.mcnemar_p(tally.counts()) if exact else None,
            "cases_are": self.settings.cases_are,
            "seed": self.settings.seed,
            "looks": self.sample.looks,
            "ended": self._ended(),
        }
        if chance is not None:
            found["chance"] = chance
        for tag, part in self.tallies.items():
            if tag is not None and part.cases:
                found[f"{key} ({tag})"] = part.share()
        return found

    def _ended(self) -> str:
        ended = self.sample.drawn.ended
        return "max_cases" if ended == "max_chunks" else ended

    def _asked(self, tag: str | None) -> str:
        """Return how much was asked: "128 of 1000 cases", or "60 cases"."""
        asked, there = self.tallies[tag].cases, self.sample.total(tag).cases
        return f"{asked} {self.unit}" if asked == there else f"{asked} of {there} {self.unit}"

    def _right(self, tally: Tally) -> str:
        """Return how many are right: "18 of 20 cases", with weights and parts of cases as they sum."""
        if tally.alike:
            return f"{_short(tally.share() * tally.cases)} of {tally.cases} {self.unit}"
        weights = f"{_short(tally.right)} of {_short(tally.weight)} by weight"
        return f"{weights}, {tally.cases} {self.unit}"

    def _of_baseline(self, tally: Tally) -> str:
        if not tally.paired:
            return ""
        right = tally.kept + tally.lost
        if tally.alike:
            right *= tally.cases / tally.weight
        return f" ({self.bench.baseline_name}: {_short(right)})"

    def _flipped(self) -> tuple[int, int]:
        """Return how many cases were lost, and gained."""
        ways = [case.flip for case in self.sample.cases]
        return ways.count("lost"), ways.count("gained")

    def _flips(self, tally: Tally) -> str:
        lost, gained = self._flipped()
        text = f"{lost + gained} of {tally.cases} {self.unit} flip: {lost} lost, {gained} gained"
        if tally.whole and lost + gained:
            probability = paired_shares.mcnemar_p(tally.counts())
            text += f" (exact McNemar test: p = {probability:.2g})"
        return text

    def _against(self, held: HeldLimit, check: Check) -> str:
        """Return one limit behind the share: " < min 90.0%", or ", drop 3.1 pp > max_drop 2 pp"."""
        sign = statement.sign(check)
        value = check.value
        if held.kind == "min":
            text = f"{sign} min {held.limit:.1%}"
            if held.tag is None:
                return f" {text}"
            return f", {held.tag} {'-' if value is None else f'{value:.1%}'} {text}"
        if held.kind == "max_drop":
            shown = "-" if value is None else f"{value:.1f} pp"
            text = f"drop {shown} {sign} max_drop {held.limit * 100:g} pp"
        else:
            shown = "-" if value is None else f"{value:.1%}"
            text = f"flips {shown} {sign} max_flips {held.limit * 100:g}%"
        return f", {text}" if held.tag is None else f", {held.tag} {text}"

    def _open(self, held: HeldLimit) -> str:
        """Say of an open limit why it is, how many cases would decide it, and what to do."""
        tally, total = self.tallies[held.tag], self.sample.total(held.tag)
        of_tag = "" if held.tag is None else f" with the tag {held.tag!r}"
        start = f"{held.name} is undecided"
        ended = self._ended()
        if ended == "decided":
            return f"{start} at {self._asked(held.tag)}{of_tag}, where another limit failed"
        needed = held.needed(tally, total, self.sure)
        if needed is None:
            more = f"as the answers stand, no number of {self.unit} within reach would decide it"
        else:
            more = f"about {needed} {self.unit}{of_tag} in all would decide it"
        if ended == "complete":
            return f"{start} at all {total.cases} {self.unit}{of_tag}: {more}"
        if needed is not None and needed > total.cases:
            more += f", and there are {total.cases}"
        return (
            f"{start}: {ended} ended it at {self._asked(held.tag)}{of_tag}; {more}: raise {ended}"
        )


def _chosen(sample: AnsweredSample, *, unit: str) -> AnswerJudgement:
    """Tell of each chosen case whether it is right, and nothing of the gate's limits."""
    checks = tuple(_case_check(case) for case in sample.cases)
    right = sum(check.outcome is Outcome.PASS for check in checks)
    asked = len(checks)
    return AnswerJudgement(
        headline=(
            f"{right} of {asked} chosen {unit} right; the other {sample.population - asked} of"
            f" {sample.population} were not asked, and no limit was judged"
        ),
        checks=checks,
        findings=(),
        record={
            "right": right,
            "cases": asked,
            "population": sample.population,
            "chosen_cases": True,
        },
        warn=False,
    )


def _case_check(case: AnsweredCase) -> Check:
    return Check(
        limit_name="case",
        statistic=f"case {case.id}",
        outcome=Outcome.PASS if case.candidate.right == 1 else Outcome.FAIL,
        text="right" if case.candidate.right == 1 else "wrong",
        limit_text="right",
        sample="1 case",
    )


def _short(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
