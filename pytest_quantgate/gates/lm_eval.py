"""A task of lm-evaluation-harness: share of documents answered right, paired by document."""

from __future__ import annotations

import importlib.metadata
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, model_validator

from pytest_quantgate import answers, flips
from pytest_quantgate.answers import ANSWER_LIMITS, AnsweredSample, AnswerLimits
from pytest_quantgate.answers.drawing import require_answers
from pytest_quantgate.artifact.catalog import did_you_mean
from pytest_quantgate.errors import ArtifactError, MeasurementError, ProbeRefused
from pytest_quantgate.gates import Bench, Gate, GateSettings, Judgement, Role
from pytest_quantgate.probe.task_files import TaskFolder
from pytest_quantgate.records import (
    Answer,
    AnsweredCase,
    HarnessDocument,
    HarnessRequest,
    HarnessResult,
)
from pytest_quantgate.sampling import Drawn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_quantgate.probe.task_files import TaskFile

DISTRIBUTION = "lm-eval"
"""Name by which the harness is installed."""

USUAL_METRICS = ("acc", "exact_match")
"""The metric that is judged where none is named and a task has one of these."""

_SUFFIX = ".yaml"
_CLOSE = 1e-9


class LmEvalSettings(AnswerLimits, GateSettings):
    """Limits on the documents of a task, and which task it is."""

    limit_names: ClassVar[tuple[str, ...]] = ANSWER_LIMITS

    task: str = Field(
        min_length=1,
        description="Task file of lm-evaluation-harness (.yaml), or a task, group or tag by name",
    )
    folder: str | None = Field(
        default=None,
        min_length=1,
        description="Folder of task files and their data; by default that of the task file",
    )
    metric: str | None = Field(
        default=None,
        min_length=1,
        description="Metric to judge: acc or exact_match by default; another filter's as metric,filter",
    )
    fewshot: int | None = Field(
        default=None, ge=0, description="Examples before each document; as the task says by default"
    )
    limit: int | None = Field(
        default=None, ge=1, description="Documents of each task that count, from its start"
    )
    apply_chat_template: bool = Field(
        default=False, description="Whether prompts go through the model's own chat template"
    )
    trust_task_code: bool = Field(
        default=False, description="Whether Python functions that task files name may run"
    )
    seed: int = Field(
        default=1234, ge=0, description="Seed of the examples and of outputs drawn by chance"
    )

    @model_validator(mode="after")
    def _whole_tasks(self) -> LmEvalSettings:
        for name in ("max_cases", "max_time"):
            if getattr(self, name) is not None:
                message = (
                    f"`{name}` has no place here: the harness asks a task as a whole; use `limit` for"
                    " its first documents"
                )
                raise ValueError(message)
        if self.folder is None and not self.task.endswith(_SUFFIX):
            message = (
                f"`task: {self.task}` is a name; add the `folder` that has the task files, or write the"
                f" path of a task file ({_SUFFIX})"
            )
            raise ValueError(message)
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class LmEvalEvidence:
    """Documents as both models answered them, the metric that is judged, and the harness's results."""

    sample: AnsweredSample
    metric: str
    results: Mapping[Role, HarnessResult]
    harness: str


class LmEvalGate(Gate[LmEvalSettings, LmEvalEvidence]):
    """`min`, `max_drop` and `max_flips` on the documents of a task of lm-evaluation-harness."""

    name = "lm_eval"
    settings = LmEvalSettings

    def needs_baseline(self, settings: LmEvalSettings) -> bool:
        """Drops and flips compare with the baseline."""
        return settings.compares()

    def measure(self, settings: LmEvalSettings, bench: Bench) -> LmEvalEvidence:
        """Run the task over the candidate and, where a limit compares, over the baseline."""
        request = _request(settings, bench)
        roles: tuple[Role, ...] = ("candidate",)
        if self.needs_baseline(settings):
            roles = ("baseline", "candidate")
        results = {role: bench.harness(role, request) for role in roles}
        own, base = results["candidate"], results.get("baseline")
        metric = _metric(own, settings.metric)
        return LmEvalEvidence(
            sample=_sample(_cases(own, base, metric), settings, bench),
            metric=metric,
            results=results,
            harness=request.harness,
        )

    def case_ids(self, settings: LmEvalSettings, bench: Bench) -> None:
        """Return nothing: the harness numbers documents when it runs a task."""

    def judge(self, settings: LmEvalSettings, evidence: LmEvalEvidence, bench: Bench) -> Judgement:
        """Hold the share of right documents, its drop and the flips against the limits."""
        own = evidence.results["candidate"]
        found = answers.judge_answers(
            settings,
            evidence.sample,
            bench,
            statistic=evidence.metric,
            unit="documents",
            chance=_chance(own),
        )
        findings = (
            *found.findings,
            _as_the_harness(evidence, bench),
            *flips.listing(evidence.sample.cases, bench),
            *bench.notes,
        )
        return Judgement(
            headline=f"{own.task}: {found.headline}",
            checks=found.checks,
            findings=findings,
            record={
                **found.record,
                "task": own.task,
                "metric": evidence.metric,
                "standard_error": own.standard_errors.get(evidence.metric),
                "harness": evidence.harness,
            },
            warn=found.warn,
            cases=evidence.sample.cases,
        )


def _request(settings: LmEvalSettings, bench: Bench) -> HarnessRequest:
    """Return what to ask a probe, after everything was refused that the task files give reason to.

    Raises:
        ArtifactError: there is no such task, or it cannot be run from the files of its folder.
        MeasurementError: the task has no such metric.
        ProbeRefused: the harness is not installed.
    """
    version = _harness_version()
    folder, name = _named(settings, bench)
    tasks = folder.tasks(name)
    for task in tasks:
        folder.prepared(task)
        if not settings.trust_task_code and (code := task.code()):
            message = (
                f"{task.path}: runs Python of its own: {', '.join(code)}; read it, and if it may run"
                " here, write `trust_task_code: true`"
            )
            raise ArtifactError(message)
    _require_listed(settings.metric, tasks)
    return HarnessRequest(
        task=name,
        folder_path=str(folder.root),
        files_sha256=folder.sha256,
        fewshot=settings.fewshot,
        limit=settings.limit,
        seed=settings.seed,
        apply_chat_template=settings.apply_chat_template,
        harness=version,
    )


def _harness_version() -> str:
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        message = (
            f"the gate lm_eval needs {DISTRIBUTION}, which is not installed; install the extra: python"
            " -m pip install 'pytest-quantgate[lm-eval]'"
        )
        raise ProbeRefused(message) from None


def _named(settings: LmEvalSettings, bench: Bench) -> tuple[TaskFolder, str]:
    """Return the folder of the task files, and the name of the task in it."""
    path = bench.file(settings.task) if settings.task.endswith(_SUFFIX) else None
    if settings.folder is not None:
        folder = TaskFolder(bench.file(settings.folder))
    elif path is not None:
        folder = TaskFolder(path.parent)
    if path is None:
        return folder, settings.task
    if not path.resolve().is_relative_to(folder.root):
        message = f"{path}: lies outside the folder {folder.root}; name a task file in it"
        raise ArtifactError(message)
    return folder, folder.name_in(path)


def _require_listed(metric: str | None, tasks: Sequence[TaskFile]) -> None:
    """Refuse a metric that a task file does not list, before minutes are spent on it."""
    for task in tasks:
        listed = task.metrics()
        if metric is None or listed is None:
            continue
        name = metric.split(",")[0]
        if name not in listed:
            message = (
                f"{task.path}: lists no metric {name!r}{did_you_mean(name, listed)}; it has"
                f" {', '.join(listed)}"
            )
            raise MeasurementError(message)


def _metric(result: HarnessResult, wanted: str | None) -> str:
    """Return the name of the metric to judge: the one that is wanted, or the usual one.

    Raises:
        MeasurementError: there is no such metric, or none that can be judged document by document.
    """
    reasons = {name: _why_not(result, name) for name in _metrics(result)}
    fit = [name for name, reason in reasons.items() if reason is None]
    if not fit:
        why = "; ".join(f"{name} {reason}" for name, reason in reasons.items())
        message = f"task {result.task} has no metric that can be judged document by document: {why}"
        raise MeasurementError(message)
    if wanted is None:
        usual = [name for name in USUAL_METRICS if name in fit][:1] or fit
        if len(usual) == 1:
            return usual[0]
        message = f"task {result.task} has several metrics; name the `metric` to judge"
    else:
        found = [name for name in reasons if name.split(",")[0] == wanted]
        found = [wanted] if wanted in reasons else found
        if len(found) == 1 and found[0] in fit:
            return found[0]
        if found:
            why = "is several metrics, one of each filter"
            if len(found) == 1:
                why = str(reasons[found[0]])
            message = f"task {result.task}: {wanted} {why}"
        else:
            message = f"task {result.task} has no metric {wanted!r}{did_you_mean(wanted, reasons)}"
    message = f"{message}; to judge there is {', '.join(fit)}"
    raise MeasurementError(message)


def _metrics(result: HarnessResult) -> list[str]:
    names = dict.fromkeys(result.metrics)
    return list(names | dict.fromkeys(name for each in result.documents for name in each.metrics))


def _why_not(result: HarnessResult, metric: str) -> str | None:
    """Return why a metric cannot be judged document by document; None where it can."""
    column = [each.metrics[metric] for each in result.documents if metric in each.metrics]
    if len(column) < len(result.documents) or not column:
        return "is no number of each document"
    if min(column) < 0 or max(column) > 1:
        return (
            f"lies between {min(column):.4g} and {max(column):.4g}, not between 0 and 1 (for likelihoods"
            " there are the gates perplexity and nll_per_byte)"
        )
    if not result.higher_is_better.get(metric, True):
        return "is better where it is lower, which limits on right answers cannot say"
    whole = result.metrics.get(metric)
    if whole is None or not math.isclose(whole, math.fsum(column) / len(column), abs_tol=_CLOSE):
        return "is put together in another way than by the mean of its documents"
    return None


def _cases(own: HarnessResult, base: HarnessResult | None, metric: str) -> tuple[AnsweredCase, ...]:
    """Return the documents with both models' answers.

    Raises:
        MeasurementError: the models were asked different documents.
    """
    others = {} if base is None else {each.id: each for each in base.documents}
    if base is not None and list(others) != [each.id for each in own.documents]:
        message = (
            f"task {own.task}: {len(own.documents)} documents came back of one model and"
            f" {len(base.documents)} of the other, and they are not the same; measure both anew with"
            " --quantgate-remeasure"
        )
        raise MeasurementError(message)
    return tuple(
        AnsweredCase(
            id=each.id,
            question=each.question,
            expected=each.expected,
            candidate=_answer(each, metric),
            baseline=_answer(others[each.id], metric) if others else None,
            tags=_tags(each.id),
        )
        for each in own.documents
    )


def _answer(document: HarnessDocument, metric: str) -> Answer:
    return Answer(right=document.metrics[metric], output=document.output)


def _tags(name: str) -> tuple[str, ...]:
    """Return the task that a document of several tasks is of, which stands before its number."""
    task = name.rpartition("/")[0]
    return (task,) if task else ()


def _sample(
    cases: tuple[AnsweredCase, ...], settings: LmEvalSettings, bench: Bench
) -> AnsweredSample:
    """Return the documents as a sample: all of them, or those that the user chose.

    Examples before documents are drawn document after document, so that those of a part of a task
    would be others: a task is asked as a whole, and judged at one look.
    """
    if bench.chosen_cases:
        return answers.draw_answers(settings, cases, lambda chosen: chosen, bench=bench)
    tags = sorted({tag for case in cases for tag in case.tags})
    for tag in settings.slices or ():
        if tag not in tags:
            there = (
                f"there are {', '.join(tags)}" if tags else "there is one task, and no slices of it"
            )
            near = did_you_mean(tag, tags)
            message = f"`slices` names {tag!r}, and no task has that name{near}; {there}"
            raise MeasurementError(message)
    sample = AnsweredSample(
        cases=cases, population=len(cases), drawn=Drawn(chunks=len(cases), ended="complete")
    )
    require_answers(sample, bench)
    return sample


def _as_the_harness(evidence: LmEvalEvidence, bench: Bench) -> str:
    """Say the metric as the harness prints it, for those who compare."""
    names = {"candidate": bench.candidate_name, "baseline": bench.baseline_name}
    figures = []
    for role, result in evidence.results.items():
        error = result.standard_errors.get(evidence.metric)
        shown = "" if error is None else f" ± {error:.4f}"
        figures.append(f"{names[role]} {result.metrics[evidence.metric]:.4f}{shown}")
    return (
        f"as lm-evaluation-harness {evidence.harness} prints {evidence.metric}: {', '.join(figures)};"
        " the verdict does not use its ±"
    )


def _chance(result: HarnessResult) -> float | None:
    """Return the share that guessing would have right, None where answers are not chosen."""
    choices = [document.choices for document in result.documents]
    return sum(1 / each for each in choices) / len(choices) if all(choices) else None


GATE = LmEvalGate()
