"""Structured output: how many outputs are JSON, satisfy their schema, and have the right fields."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from pytest_quantgate import answers, flips, statement, stats
from pytest_quantgate.answers import AnsweredSample, AnswerLimits, CaseVerdictSettings
from pytest_quantgate.answers.drawing import require_answers
from pytest_quantgate.answers.held import HeldLimit
from pytest_quantgate.answers.tally import Certainty, Tally, Total
from pytest_quantgate.cases.structure import Part, structure_of
from pytest_quantgate.errors import MeasurementError
from pytest_quantgate.gates import Bench, Gate, GateSettings, Judgement, Role
from pytest_quantgate.quantity import Points
from pytest_quantgate.records import Answer, AnsweredCase, GenerationRequest, Outcome
from pytest_quantgate.sampling import Drawn

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_quantgate.answers.tally import Kind
    from pytest_quantgate.cases import Case
    from pytest_quantgate.cases.structure import Structure
    from pytest_quantgate.records import Check, Output, Prompt

Way = Literal["free", "constrained"]

_KINDS = ("json", "json_schema")
_LIMITS: dict[str, tuple[Part, Kind]] = {
    "min_parse": ("parse", "min"),
    "min_schema": ("schema", "min"),
    "min_fields": ("fields", "min"),
    "max_drop_parse": ("parse", "max_drop"),
    "max_drop": ("schema", "max_drop"),
    "max_drop_fields": ("fields", "max_drop"),
}
_SHARES: dict[Part, str] = {
    "parse": "outputs that parse",
    "schema": "outputs that satisfy the schema",
    "fields": "right fields",
}
_ABSENT: dict[Part, str] = {
    "parse": "asks for JSON (match: json or json_schema)",
    "schema": "has a `json_schema`",
    "fields": "expects a JSON object with fields",
}


class StructuredSettings(CaseVerdictSettings, GateSettings):
    """Limits on the shares of outputs that parse, that satisfy their schema, and of right fields."""

    limit_names: ClassVar[tuple[str, ...]] = tuple(_LIMITS)

    cases: str = Field(
        min_length=1, description="File of cases (.jsonl, .json, .yaml) or builtin:everyday"
    )
    constrained: bool | Literal["both"] = Field(
        default=False,
        description="Whether only tokens that can lead to JSON of the schema are chosen, or both ways",
    )
    min_parse: float | None = Field(
        default=None, ge=0, le=1, description="Lowest share of outputs that are JSON"
    )
    min_schema: float | None = Field(
        default=None, ge=0, le=1, description="Lowest share of outputs that satisfy their schema"
    )
    min_fields: float | None = Field(
        default=None, ge=0, le=1, description="Lowest share of expected fields that are right"
    )
    max_drop_parse: Points | None = Field(
        default=None,
        description='Largest drop of the share that parses against the baseline, such as "2pp"',
    )
    max_drop: Points | None = Field(
        default=None,
        description='Largest drop of the share that satisfies the schema, such as "2pp"',
    )
    max_drop_fields: Points | None = Field(
        default=None, description='Largest drop of the share of right fields, such as "2pp"'
    )
    max_tokens: int = Field(
        default=128, ge=1, description="Longest output in tokens where a case names none"
    )
    parallel: int = Field(default=64, ge=1, le=256, description="Cases decoded together")

    def ways(self) -> tuple[Way, ...]:
        """Return how outputs are decoded; the first way is the one that cases are listed of."""
        if self.constrained == "both":
            return ("free", "constrained")
        return ("constrained",) if self.constrained else ("free",)

    def held(self) -> Iterator[tuple[str, Part, HeldLimit]]:
        """Yield each limit that is set: its key, the share it is on, and what decides it."""
        for name, (part, kind) in _LIMITS.items():
            limit = getattr(self, name)
            if limit is not None:
                held = HeldLimit(
                    kind=kind, limit=limit, tag=None, cases_are=self.cases_are, literal=None
                )
                yield name, part, held


@dataclass(frozen=True, slots=True, kw_only=True)
class StructuredEvidence:
    """The answers of each way of decoding, as a whole, and as the three shares count them.

    ``shares`` has the cases that each share is of, right by what it counts; ``population`` is how many
    cases the file has, of which those that do not ask for JSON are not asked.
    """

    sample: AnsweredSample
    shares: Mapping[tuple[Way, Part], tuple[AnsweredCase, ...]]
    file_cases: int


class StructuredGate(Gate[StructuredSettings, StructuredEvidence]):
    """Shares of outputs that parse, that satisfy their schema, and of fields that are right."""

    name = "structured"
    settings = StructuredSettings

    def needs_baseline(self, settings: StructuredSettings) -> bool:
        """Drops compare with the baseline."""
        return any(held.kind == "max_drop" for _, _, held in settings.held())

    def measure(self, settings: StructuredSettings, bench: Bench) -> StructuredEvidence:
        """Let the candidate and, for a drop, the baseline answer every case that asks for JSON."""
        every = bench.cases(settings.cases)
        cases = [case for case in every if case.match in _KINDS]
        asker = _Asker(settings=settings, bench=bench, paired=self.needs_baseline(settings))
        _require_parts(settings, cases, bench)
        shares: dict[tuple[Way, Part], tuple[AnsweredCase, ...]] = {}
        first, *others = settings.ways()

        def ask(asked: Sequence[Case]) -> Sequence[AnsweredCase]:
            answered, parts = asker.answers(asked, first)
            shares.update(parts)
            return answered

        if bench.chosen_cases:
            sample = answers.draw_answers(AnswerLimits(), cases, ask, bench=bench)
            return StructuredEvidence(sample=sample, shares=shares, file_cases=len(every))
        bench.announce(0, len(cases))
        sample = AnsweredSample(
            cases=tuple(ask(cases)),
            population=len(cases),
            drawn=Drawn(chunks=len(cases), ended="complete"),
        )
        require_answers(sample, bench)
        for way in others:
            shares.update(asker.answers(cases, way)[1])
        return StructuredEvidence(sample=sample, shares=shares, file_cases=len(every))

    def case_ids(self, settings: StructuredSettings, bench: Bench) -> frozenset[str]:
        """Return the ids of the cases that ask for JSON."""
        return frozenset(case.id for case in bench.cases(settings.cases) if case.match in _KINDS)

    def judge(
        self, settings: StructuredSettings, evidence: StructuredEvidence, bench: Bench
    ) -> Judgement:
        """Hold each share, and its drop, against its limits, for each way of decoding."""
        sample = evidence.sample
        listed = flips.listing(sample.cases, bench)
        if bench.chosen_cases:
            found = answers.judge_answers(AnswerLimits(), sample, bench)
            return Judgement(
                headline=found.headline,
                checks=found.checks,
                findings=(*found.findings, *listed, *bench.notes),
                record=found.record,
                cases=sample.cases,
            )
        judge = _Judge(settings=settings, evidence=evidence, bench=bench)
        checks = judge.checks()
        outcome = stats.worst([check.outcome for check in checks])
        return Judgement(
            headline=judge.headline(checks),
            checks=checks,
            findings=(*judge.findings(), *listed, *bench.notes),
            advice=tuple(judge.advice(checks)),
            record=judge.record(),
            warn=outcome is Outcome.INCONCLUSIVE and settings.on_inconclusive == "warn",
            cases=sample.cases,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asker:
    """Asks cases one way or the other."""

    settings: StructuredSettings
    bench: Bench
    paired: bool

    def answers(
        self, cases: Sequence[Case], way: Way
    ) -> tuple[tuple[AnsweredCase, ...], dict[tuple[Way, Part], tuple[AnsweredCase, ...]]]:
        """Return the cases as answered, right where they have the form, and as each share counts."""
        prompts = tuple(
            case.to_prompt(max_tokens=self.settings.max_tokens, constrained=way == "constrained")
            for case in cases
        )
        base = self._outputs("baseline", prompts) if self.paired else [None] * len(cases)
        own = self._outputs("candidate", prompts)
        answered: list[AnsweredCase] = []
        shares: dict[tuple[Way, Part], list[AnsweredCase]] = {(way, part): [] for part in _SHARES}
        for case, output, other in zip(cases, own, base, strict=True):
            found = structure_of(case, output.text)
            reference = None if other is None else structure_of(case, other.text)
            one = case.answered(
                candidate=_answer(output, found),
                baseline=None if other is None or reference is None else _answer(other, reference),
            )
            answered.append(one)
            for part in _SHARES:
                counted = _counted(one, found, reference, part)
                if counted is not None:
                    shares[way, part].append(counted)
        whole: Sequence[AnsweredCase] = answered
        if self.paired:
            whole = flips.with_partings(
                answered, {prompt.id: prompt for prompt in prompts}, self.bench
            )
        return tuple(whole), {key: tuple(each) for key, each in shares.items()}

    def _outputs(self, role: Role, prompts: tuple[Prompt, ...]) -> list[Output]:
        request = GenerationRequest(prompts=prompts, parallel=self.settings.parallel)
        outputs = self.bench.generation(role, request).outputs
        if len(outputs) != len(prompts):
            message = f"{len(outputs)} outputs came back for {len(prompts)} cases"
            raise MeasurementError(message)
        return list(outputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judge:
    """Evidence with everything it is judged by."""

    settings: StructuredSettings
    evidence: StructuredEvidence
    bench: Bench

    def checks(self) -> tuple[Check, ...]:
        """Return every limit held against its share, for each way of decoding."""
        return tuple(
            self._check(name, way, part, held)
            for way in self.settings.ways()
            for name, part, held in self.settings.held()
        )

    def headline(self, checks: Sequence[Check]) -> str:
        """Return the shares, and the limits that ended worst."""
        text = "; ".join(self._shares(way, "candidate") for way in self.settings.ways())
        outcome = stats.worst([check.outcome for check in checks])
        for check in checks:
            if check.outcome is outcome:
                points = check.unit == "pp"
                number = f"{check.value:.1f} pp" if points else f"{check.value:.1%}"
                limit = f"{check.limit:g} pp" if points else f"{check.limit:.1%}"
                part, _ = _LIMITS[check.limit_name.partition(" ")[0]]
                name = f"{part} drop" if points else part
                text += f"; {name} {number} {statement.sign(check)} {check.limit_name} {limit}"
        if self._paired:
            first = self.settings.ways()[0]
            text += f"; {self.bench.baseline_name}: {self._shares(first, 'baseline')}"
        return text

    def findings(self) -> Iterator[str]:
        """Yield how much was asked, and what is to be said of open limits."""
        asked, there = len(self.evidence.sample.cases), self.evidence.file_cases
        if asked < there:
            yield (
                f"{asked} of the {there} cases of {self.settings.cases} ask for JSON; the others were"
                " not asked"
            )
        for way in self.settings.ways():
            for name, part, held in self.settings.held():
                tally, total = self._tally(way, part)
                if held.outcome(tally, total, self._sure) is not Outcome.INCONCLUSIVE:
                    continue
                needed = held.needed(tally, total, self._sure)
                more = "no number of them within reach would decide it"
                if needed is not None:
                    more = f"about {needed} would decide it"
                yield (
                    f"{name}{self._of(way)} is undecided at all {tally.cases} cases, and {more}: add"
                    " cases of the kind, widen the limit, or, where these are all that matter, say"
                    " `cases_are: all`"
                )

    def advice(self, checks: Sequence[Check]) -> Iterator[str]:
        """Yield what to try where outputs decoded freely missed a limit of form."""
        failed = {
            (check.limit_name, check.statistic) for check in checks if check.outcome is Outcome.FAIL
        }
        formed = [name for name, (part, _) in _LIMITS.items() if part != "fields"]
        free = any(name in formed and "constrained" not in said for name, said in failed)
        if free and "free" in self.settings.ways():
            yield (
                "where the model is served with decoding constrained to the schema, judge it so"
                " (constrained: true); else take a higher level of quantization"
            )

    def record(self) -> dict[str, float | int | str | bool | None]:
        """Return the plain figures."""
        found: dict[str, float | int | str | bool | None] = {
            "cases": len(self.evidence.sample.cases),
            "file_cases": self.evidence.file_cases,
            "cases_are": self.settings.cases_are,
        }
        for way in self.settings.ways():
            ending = "_constrained" if way == "constrained" else ""
            for part in _SHARES:
                tally, _ = self._tally(way, part)
                found[f"{part}_cases"] = tally.cases
                found[f"{part}{ending}"] = tally.share() if tally.cases else None
                paired = tally.baseline_share() if tally.paired else None
                found[f"baseline_{part}{ending}"] = paired
        return found

    @property
    def _paired(self) -> bool:
        return any(case.baseline is not None for case in self.evidence.sample.cases)

    @property
    def _sure(self) -> Certainty:
        return Certainty(
            looks=1,
            pass_confidence=self.settings.pass_confidence,
            fail_confidence=self.settings.fail_confidence,
        )

    def _check(self, name: str, way: Way, part: Part, held: HeldLimit) -> Check:
        tally, total = self._tally(way, part)
        check = held.check(
            tally,
            total,
            self._sure,
            statistic=_SHARES[part],
            sample=f"{tally.cases} cases",
        )
        if held.kind == "max_drop" and check.outcome is Outcome.PASS and not check.baseline:
            message = (
                f"{self.bench.baseline_name} has no {_SHARES[part]} in {check.sample}, so {name} could"
                " not show a drop; check what the cases expect, or remove the limit"
            )
            raise MeasurementError(message)
        return replace(check, limit_name=f"{name}{self._of(way)}")

    def _of(self, way: Way) -> str:
        return " (constrained)" if way == "constrained" and len(self.settings.ways()) > 1 else ""

    def _tally(self, way: Way, part: Part) -> tuple[Tally, Total]:
        cases = self.evidence.shares[way, part]
        return Tally.of(cases), Total.of([case.weight for case in cases])

    def _shares(self, way: Way, role: Role) -> str:
        told = []
        for part in _SHARES:
            tally, _ = self._tally(way, part)
            if tally.cases:
                share = tally.share() if role == "candidate" else tally.baseline_share()
                told.append(f"{part} {share:.1%}")
        return f"{', '.join(told)}{self._of(way)}"


def _answer(output: Output, found: Structure) -> Answer:
    return Answer.of(output, right=float(found.conforms), reason=found.reason)


def _counted(
    case: AnsweredCase, found: Structure, reference: Structure | None, part: Part
) -> AnsweredCase | None:
    """Return a case as one of the shares counts it, None where it is not of that share."""
    own = found.right(part)
    if own is None:
        return None
    base = None if reference is None else reference.right(part)
    baseline = case.baseline
    if baseline is not None and base is not None:
        baseline = replace(baseline, right=base)
    return replace(case, candidate=replace(case.candidate, right=own), baseline=baseline)


def _require_parts(settings: StructuredSettings, cases: Sequence[Case], bench: Bench) -> None:
    """Refuse limits on a share that none of the cases is of, and constraints that none has."""
    with_part: dict[Part, bool] = {
        "parse": bool(cases),
        "schema": any(case.json_schema is not None for case in cases),
        "fields": any(isinstance(case.expected_value, dict) for case in cases),
    }
    wanted: list[tuple[str, Part]] = [("cases", "parse")]
    wanted += [(name, part) for name, part, _ in settings.held()]
    if settings.constrained:
        wanted.append(("constrained", "schema"))
    for name, part in wanted:
        if not with_part[part]:
            message = (
                f"`{name}` of {bench.gate_id} has nothing to judge: no case of {settings.cases}"
                f" {_ABSENT[part]}"
            )
            raise MeasurementError(message)


GATE = StructuredGate()
