"""A task of lm-evaluation-harness, run by the harness itself over the model of this process.

The harness builds the prompts, filters the outputs and counts; what it asks a model is answered by
`pytest_quantgate.probe.examinee`. It reads local files only, and keeps what it caches in a folder that
is gone afterwards.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_quantgate.artifact.catalog import did_you_mean
from pytest_quantgate.errors import ArtifactError, MeasurementError, ProbeRefused, QuantgateError
from pytest_quantgate.probe.task_files import Code, TaskFolder
from pytest_quantgate.records import HarnessDocument, HarnessResult, Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_quantgate.probe.task_files import TaskFile
    from pytest_quantgate.probe.windows import Reader
    from pytest_quantgate.records import HarnessRequest

NO_FILTER = "none"
"""What the harness calls the outputs as they are."""

_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_EVALUATE_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
}

_PYTHON_SEED, _NUMPY_SEED = 0, 1234
"""What the harness seeds the generators with that code of a task may draw from."""


def measure_task(
    reader: Reader, request: HarnessRequest, report: Callable[[Progress], None]
) -> HarnessResult:
    """Run a task, or the tasks of a group or tag, and return what came of each document.

    A document's id is its number in the task, with the task's name before it where there are several.
    A metric's name is the harness's; that of another filter than none has the filter's name behind it.
    Of several tasks the metrics are means over the documents of all of them.

    Raises:
        ArtifactError: the task files changed, or the harness cannot make a task of them.
        MeasurementError: a figure that is none.
        ProbeRefused: the harness is not installed in a version this works with, or a document cannot be
            asked of this model.
    """
    started = time.monotonic()
    folder = TaskFolder(Path(request.folder_path))
    if folder.sha256 != request.files_sha256:
        message = (
            f"{folder.root} changed during the run: its files have the digest {folder.sha256[:16]}...,"
            f" they had {request.files_sha256[:16]}...; let nothing write to it and run again"
        )
        raise ArtifactError(message)
    files = folder.tasks(request.task)
    with tempfile.TemporaryDirectory(prefix="quantgate-tasks-") as caches:
        _go_offline(caches)
        report(Progress(step="loading the harness", done=0, total=1, unit="task"))
        tasks = _load(folder, files, request, caches)
        results = _evaluate(reader, tasks, request, report)
    runs = [_Run.of(tasks[file.name], results, several=len(files) > 1) for file in files]
    return HarnessResult(
        task=request.task,
        documents=tuple(document for run in runs for document in run.documents),
        metrics=_pooled(runs),
        standard_errors=runs[0].standard_errors if len(runs) == 1 else {},
        higher_is_better={key: value for run in runs for key, value in run.higher.items()},
        seconds=time.monotonic() - started,
    )


def _go_offline(caches: str) -> None:
    """Keep the harness and the libraries below it from the network and from the user's caches."""
    os.environ.update(_OFFLINE)
    # Read once, when the libraries are imported; later folders are named where data are loaded.
    os.environ.setdefault("HF_HOME", caches)
    os.environ.setdefault("HF_DATASETS_CACHE", caches)


def _load(
    folder: TaskFolder, files: tuple[TaskFile, ...], request: HarnessRequest, caches: str
) -> dict[str, Any]:
    """Return the harness's tasks by name."""
    manager = _manager()
    found = {}
    for file in files:
        config = _resolved(folder.prepared(file), {})
        if "dataset_kwargs" in config:
            config["dataset_kwargs"]["cache_dir"] = caches
        _check_metrics(file)
        with _harness_at_work(str(file.path)):
            task = manager.load([config])["tasks"][file.name]
        _set_fewshot(task, file, request)
        found[file.name] = task
    return found


def _manager() -> Any:  # noqa: ANN401 - the harness ships no types
    """Return what makes tasks, with templates that reach nothing but what they are given.

    Raises:
        ProbeRefused: the harness is not there, or too old.
    """
    try:
        from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415 - comes with it
        from lm_eval import tasks, utils  # noqa: PLC0415 - an extra, and seconds to import

        plain = utils.env
        manager = tasks.TaskManager(include_defaults=False)
    except (ImportError, AttributeError) as error:
        message = (
            f"lm-evaluation-harness cannot be used ({error}); install the extra: python -m pip install"
            " 'pytest-quantgate[lm-eval]'"
        )
        raise ProbeRefused(message) from error
    # Templates of the harness may call anything of Python's; those of a sandbox may not.
    sandboxed = ImmutableSandboxedEnvironment(
        loader=plain.loader, undefined=plain.undefined, keep_trailing_newline=True
    )
    sandboxed.filters.update(plain.filters)
    utils.env = sandboxed
    return manager


@contextlib.contextmanager
def _harness_at_work(what: str) -> Iterator[None]:
    """Turn what the harness stumbles over into an error that names the task's file."""
    try:
        yield
    except QuantgateError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        message = (
            f"{what}: lm-evaluation-harness cannot run this task: {type(error).__name__}: {text}"
        )
        raise ArtifactError(message) from error


def _resolved(value: Any, modules: dict[Path, Any]) -> Any:  # noqa: ANN401 - plain data of any shape
    """Return plain data with the functions themselves in place of their names."""
    if isinstance(value, dict):
        return {key: _resolved(each, modules) for key, each in value.items()}
    if isinstance(value, list):
        return [_resolved(each, modules) for each in value]
    if not isinstance(value, Code):
        return value
    module_name, _, name = value.reference.rpartition(".")
    path = value.folder.joinpath(*module_name.split(".")).with_suffix(".py")
    if path not in modules:
        modules[path] = _module(path, value)
    function = getattr(modules[path], name, None)
    if not callable(function):
        message = f"{path}: has no function {name!r}, which a task file beside it names"
        raise ArtifactError(message)
    return function


def _module(path: Path, code: Code) -> Any:  # noqa: ANN401 - a module
    spec = importlib.util.spec_from_file_location(f"quantgate_task_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        message = f"{path}: no such file, of which a task file beside it names {code}"
        raise ArtifactError(message)
    module = importlib.util.module_from_spec(spec)
    with _harness_at_work(str(path)):
        spec.loader.exec_module(module)
    return module


def _check_metrics(file: TaskFile) -> None:
    """Refuse metrics that the harness would look for elsewhere."""
    import lm_eval.api.metrics  # noqa: F401, PLC0415 - registers them
    from lm_eval.api.registry import metric_registry  # noqa: PLC0415 - an extra

    known = [str(name) for name in metric_registry]
    for name in file.metrics() or ():
        if name not in known:
            message = (
                f"{file.path}: lm-evaluation-harness has no metric {name!r}{did_you_mean(name, known)};"
                f" there are {', '.join(sorted(known))}"
            )
            raise ArtifactError(message)


def _set_fewshot(task: Any, file: TaskFile, request: HarnessRequest) -> None:  # noqa: ANN401 - the harness's
    """Set how many examples stand before each document, by the rules of the harness's command."""
    own = task.config.num_fewshot
    if request.fewshot is not None and own == 0 != request.fewshot:
        message = (
            f"{file.path}: says `num_fewshot: 0`, which the harness keeps, and {request.fewshot} are"
            " asked for; remove one of the two"
        )
        raise ArtifactError(message)
    task.set_config(key="num_fewshot", value=request.fewshot or own or 0)
    task.set_fewshot_seed(seed=request.seed)


def _evaluate(
    reader: Reader,
    tasks: Mapping[str, Any],
    request: HarnessRequest,
    report: Callable[[Progress], None],
) -> Any:  # noqa: ANN401 - the harness ships no types
    """Return what the harness makes of the tasks."""
    from lm_eval.evaluator import evaluate  # noqa: PLC0415 - an extra, and seconds to import

    from pytest_quantgate.probe.examinee import Examinee  # noqa: PLC0415 - needs the extra

    random.seed(_PYTHON_SEED)
    np.random.seed(_NUMPY_SEED)  # noqa: NPY002 - code of tasks draws from the old generator
    with _harness_at_work(request.task):
        return evaluate(
            lm=Examinee(reader, report, seed=request.seed),
            task_dict={"tasks": dict(tasks), "groups": {}, "group_map": {}},
            limit=request.limit,
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=request.apply_chat_template,
            fewshot_as_multiturn=request.apply_chat_template,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What came of one task."""

    documents: tuple[HarnessDocument, ...]
    metrics: Mapping[str, float]
    standard_errors: Mapping[str, float]
    higher: Mapping[str, bool]

    @classmethod
    def of(cls, task: Any, results: Any, *, several: bool) -> _Run:  # noqa: ANN401 - the harness's
        """Read the harness's results of a task."""
        from lm_eval.api.metrics import mean_stderr  # noqa: PLC0415 - an extra

        name = task.task_name
        samples: dict[int, list[Mapping[str, Any]]] = {}
        for sample in results["samples"][name]:
            samples.setdefault(int(sample["doc_id"]), []).append(sample)
        documents = tuple(
            _document(task, f"{name}/{number}" if several else str(number), samples[number])
            for number in sorted(samples)
        )
        metrics = {
            _key(*key.split(",", 1)): _number(value, key, name)
            for key, value in results["results"][name].items()
            if "," in key and "_stderr," not in key and isinstance(value, (int, float))
        }
        errors = {}
        for key, value in metrics.items():
            column = _column(documents, key)
            # The harness has this error for metrics that are means, and for others simulates one.
            if len(column) > 1 and math.isclose(value, sum(column) / len(column), abs_tol=1e-9):
                errors[key] = float(mean_stderr(column))
        higher = results["higher_is_better"][name]
        return cls(
            documents=documents,
            metrics=metrics,
            standard_errors=errors,
            higher={key: bool(higher.get(key.split(",")[0], True)) for key in metrics},
        )


def _document(task: Any, number: str, samples: list[Mapping[str, Any]]) -> HarnessDocument:  # noqa: ANN401 - the harness's
    """Return one document from its samples, one for each filter."""
    first = samples[0]
    metrics = {
        _key(metric, sample["filter"]): _number(sample[metric], metric, number)
        for sample in samples
        for metric in sample["metrics"]
        if isinstance(sample[metric], (bool, int, float, np.number))
    }
    text = task.doc_to_text(first["doc"])
    return HarnessDocument(
        id=number,
        question=text if isinstance(text, str) and text else str(first["arguments"][0][0]),
        expected=_expected(task, first),
        output=_output(task, first),
        metrics=metrics,
        choices=len(_choices(task, first)),
    )


def _expected(task: Any, sample: Mapping[str, Any]) -> str:  # noqa: ANN401 - the harness's
    """Return the right answer as a text: of a choice, the answer itself instead of its number."""
    target = sample["target"]
    choices = _choices(task, sample)
    if task.OUTPUT_TYPE == "multiple_choice" and task.multiple_input:
        target = task.doc_to_text(sample["doc"])
    wanted = target if isinstance(target, list) else [target]
    return " | ".join(
        choices[each] if isinstance(each, int) and 0 <= each < len(choices) else str(each)
        for each in wanted
    )


def _output(task: Any, sample: Mapping[str, Any]) -> str:  # noqa: ANN401 - the harness's
    """Return what the model answered as a text: of a choice, the most probable answer."""
    answers = [responses[0] for responses in sample["resps"]]
    choices = _choices(task, sample)
    if task.OUTPUT_TYPE == "multiple_choice" and choices:
        likelihoods = np.array([answer[0] for answer in answers[: len(choices)]])
        best = choices[int(likelihoods.argmax())]
        by_length = choices[int((likelihoods / [max(1, len(each)) for each in choices]).argmax())]
        return best if best == by_length else f"{best} (by length: {by_length})"
    if isinstance(answers[0], str):
        return answers[0]
    if isinstance(answers[0], float):
        return f"log-likelihood {answers[0]:.4f}"
    likelihood, greedy = answers[0]
    return f"log-likelihood {likelihood:.4f}{', as greedy decoding writes it' if greedy else ''}"


def _choices(task: Any, sample: Mapping[str, Any]) -> list[str]:  # noqa: ANN401 - the harness's
    if task.config.doc_to_choice is None:
        return []
    return [str(choice) for choice in task.doc_to_choice(sample["doc"])]


def _key(metric: str, name: str) -> str:
    return metric if name == NO_FILTER else f"{metric},{name}"


def _column(documents: tuple[HarnessDocument, ...], key: str) -> list[float]:
    """Return a metric of all documents, nothing where one of them has none."""
    column = [each.metrics[key] for each in documents if key in each.metrics]
    return column if len(column) == len(documents) else []


def _pooled(runs: list[_Run]) -> Mapping[str, float]:
    """Return the metrics of one task as they are, those of several over all their documents."""
    if len(runs) == 1:
        return runs[0].metrics
    documents = tuple(document for run in runs for document in run.documents)
    columns = {key: _column(documents, key) for run in runs for key in run.metrics}
    return {key: math.fsum(column) / len(column) for key, column in columns.items() if column}


def _number(value: Any, metric: str, what: str) -> float:  # noqa: ANN401 - a number of some kind
    number = float(value)
    if not math.isfinite(number):
        message = (
            f"the metric {metric} of {what} is {number}, which cannot be judged; the task's own code or"
            " the model's logits are broken"
        )
        raise MeasurementError(message)
    return number
