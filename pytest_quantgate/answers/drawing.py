"""Which cases are asked, in what order, until every limit on them is decided."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

from pytest_quantgate import sampling, stats
from pytest_quantgate.answers.held import held_limits
from pytest_quantgate.answers.tally import Certainty, Tally, Total
from pytest_quantgate.artifact.catalog import did_you_mean
from pytest_quantgate.errors import MeasurementError
from pytest_quantgate.records import AnsweredCase, Outcome
from pytest_quantgate.sampling import Drawn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_quantgate.answers.settings import AnswerLimits
    from pytest_quantgate.gates import Bench
    from pytest_quantgate.records import Answer

BLOCK = 128
"""Cases that are asked together, and the fewest of a larger file that a verdict may rest on.

Enough to fill a batch twice at the usual 64 decoded together, and to hold bounds of a few points.
"""

_SHOWN_NAMES = 5


class Askable(Protocol):
    """What can be asked of a model: a case, a question, a document."""

    @property
    def id(self) -> str:
        """A name of its own within the file."""

    @property
    def tags(self) -> tuple[str, ...]:
        """The slices that it belongs to."""

    @property
    def weight(self) -> float:
        """How much it counts."""


AskableT = TypeVar("AskableT", bound=Askable)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredSample:
    """What was asked of ``population`` cases, in the order of the file, and what ended it.

    ``literal`` is the baseline's share of right answers where it was written down. ``totals`` are the
    cases there are to ask, all of them under None, and those of a slice with limits under its tag;
    where it is empty, they are those that were asked. ``looks`` are the looks that share the risk.
    """

    cases: tuple[AnsweredCase, ...]
    population: int
    drawn: Drawn
    literal: float | None = None
    totals: Mapping[str | None, Total] = field(default_factory=dict)
    looks: int = 1

    def part(self, tag: str | None) -> tuple[AnsweredCase, ...]:
        """Return the cases that carry a tag, all of them for None."""
        return self.cases if tag is None else tuple(c for c in self.cases if tag in c.tags)

    def total(self, tag: str | None) -> Total:
        """Return the cases there are to ask that carry a tag, all of them for None."""
        known = self.totals.get(tag)
        return known or Total.of([case.weight for case in self.part(tag)])


def draw_answers(
    settings: AnswerLimits,
    items: Sequence[AskableT],
    ask: Callable[[Sequence[AskableT]], Sequence[AnsweredCase]],
    *,
    bench: Bench,
    literal: float | None = None,
    statistic: str = "accuracy",
    clock: Callable[[], float] = time.monotonic,
) -> AnsweredSample:
    """Ask cases until every limit is decided, or one is missed, or there is nothing left to ask.

    Up to 128 cases are asked at once; of more, blocks in the order of the seed, with looks at 128, 256,
    512, … of them. ``ask`` answers cases in the order it is given them, by both models where a limit
    compares; ``literal`` takes the place of the baseline's answers. Where the user chose cases, those
    are asked and no others.

    Raises:
        MeasurementError: no case, a case or a slice that there is not, a limit that a written down
            figure cannot serve, or answers that tell nothing.
    """
    if bench.chosen_cases:
        return _chosen(items, ask, bench)
    _require_limits(settings, items, literal=literal, bench=bench, statistic=statistic)
    budget = min(len(items), settings.max_cases or len(items))
    looks = looks_up_to(budget)
    order = sampling.order(settings.seed, len(items))
    totals = {
        tag: Total.of([item.weight for item in items if tag is None or tag in item.tags])
        for tag in settings.by_slice()
    }
    answered: dict[int, AnsweredCase] = {}
    started = clock()

    def sample(drawn: Drawn) -> AnsweredSample:
        return AnsweredSample(
            cases=tuple(answered[place] for place in sorted(answered)),
            population=len(items),
            drawn=drawn,
            literal=literal,
            totals=totals,
            looks=len(looks),
        )

    for start in range(0, budget, BLOCK):
        stop = min(start + BLOCK, budget)
        bench.announce(start, next(look for look in looks if look > start))
        places = sorted(order[start:stop])
        answers = ask([items[place] for place in places])
        answered.update(zip(places, answers, strict=True))
        late = settings.max_time is not None and clock() - started >= settings.max_time
        if not late and stop not in looks:
            continue
        found = sample(Drawn(chunks=stop, ended="complete"))
        require_answers(found, bench)
        if stop == len(items):
            return found
        if settled(settings, found) is not Outcome.INCONCLUSIVE:
            return sample(Drawn(chunks=stop, ended="decided"))
        if late:
            return sample(Drawn(chunks=stop, ended="max_time"))
    return sample(Drawn(chunks=budget, ended="max_chunks"))


def settled(settings: AnswerLimits, sample: AnsweredSample) -> Outcome:
    """Return the outcome of all limits together, as far as the sample decides them."""
    sure = Certainty(
        looks=sample.looks,
        pass_confidence=settings.pass_confidence,
        fail_confidence=settings.fail_confidence,
    )
    return stats.worst(
        [
            held.outcome(Tally.of(sample.part(held.tag)), sample.total(held.tag), sure)
            for held in held_limits(settings, sample.literal)
        ]
    )


def require_answers(sample: AnsweredSample, bench: Bench) -> None:
    """Refuse answers that cannot tell a good variant from a broken one.

    Raises:
        MeasurementError: nobody, or not even the baseline, answers a case right, or a model says nothing
            at all and that is no miss of the candidate alone.
    """
    cases = sample.cases
    own_right = any(case.candidate.right for case in cases)
    own_silent = all(silent(case.candidate) for case in cases)
    pairs = [case.baseline for case in cases if case.baseline is not None]
    base_right = any(answer.right for answer in pairs)
    base_silent = bool(pairs) and all(silent(answer) for answer in pairs)
    many = f"the {len(cases)} cases asked"
    if own_silent and (base_silent or not pairs or own_right):
        who = f"{bench.candidate_name} gives"
        if base_silent:
            who = f"{bench.candidate_name} and {bench.baseline_name} give"
        message = (
            f"{who} no output to any of {many}, so there is nothing to judge; check the chat template,"
            " the stop texts, and that no expectation is met by an empty output"
        )
        raise MeasurementError(message)
    if pairs and not base_right:
        who = f"{bench.baseline_name} answers none"
        if not own_right:
            who = f"neither {bench.candidate_name} nor {bench.baseline_name} answers one"
        message = (
            f"{who} of {many} as expected: such cases cannot tell a good variant from a broken one;"
            " check the expected answers and the chat template"
        )
        raise MeasurementError(message)


def silent(answer: Answer) -> bool:
    """Tell whether a model was to write an answer and wrote nothing."""
    return bool(answer.finish) and not answer.output.strip()


def looks_up_to(budget: int) -> tuple[int, ...]:
    """Return the numbers of cases at which a verdict is looked for: 128, 256, 512, … and the budget."""
    looks = []
    look = BLOCK
    while look < budget:
        looks.append(look)
        look *= 2
    return (*looks, budget)


def _chosen(
    items: Sequence[AskableT],
    ask: Callable[[Sequence[AskableT]], Sequence[AnsweredCase]],
    bench: Bench,
) -> AnsweredSample:
    known = [item.id for item in items]
    for name in sorted(bench.chosen_cases - set(known)):
        message = f"{bench.gate_id} has no case {name!r}{_known(name, known)}"
        raise MeasurementError(message)
    wanted = [item for item in items if item.id in bench.chosen_cases]
    return AnsweredSample(
        cases=tuple(ask(wanted)),
        population=len(items),
        drawn=Drawn(chunks=len(wanted), ended="complete"),
    )


def _known(name: str, known: Sequence[str]) -> str:
    """Return what there is instead of a name: those near to it, or the first few."""
    near = did_you_mean(name, known)
    if near or not known:
        return near
    return f"; there are {len(known)}, such as {', '.join(map(repr, known[:_SHOWN_NAMES]))}"


def _require_limits(
    settings: AnswerLimits,
    items: Sequence[Askable],
    *,
    literal: float | None,
    bench: Bench,
    statistic: str,
) -> None:
    """Refuse what no answer could be held against, before anything is asked."""
    if not items:
        message = f"{bench.gate_id} has no case to ask, so there is nothing to judge"
        raise MeasurementError(message)
    tags = sorted({tag for item in items for tag in item.tags})
    for tag, limits in settings.by_slice().items():
        if tag is not None and tag not in tags:
            message = (
                f"no case of {bench.gate_id} has the tag {tag!r} of `slices`{_known(tag, tags)}"
            )
            raise MeasurementError(message)
        if literal is None:
            continue
        if limits.max_flips is not None or (tag is not None and limits.max_drop is not None):
            name = "max_flips" if limits.max_flips is not None else f"max_drop of slice {tag!r}"
            message = (
                f"{name} compares case by case, and all that is known of {bench.baseline_name} is its"
                f" {statistic} of {literal:.4g}; give the model a baseline that can be run"
            )
            raise MeasurementError(message)
