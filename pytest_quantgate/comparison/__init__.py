"""Models side by side on prompts: outputs, where they part, what each takes."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.artifact import hardware, integrity
from pytest_quantgate.baseline import Store
from pytest_quantgate.comparison.asked import Asked, load_asked
from pytest_quantgate.comparison.difference import difference, median, place
from pytest_quantgate.comparison.interview import Interview, template
from pytest_quantgate.comparison.models import named_models, origin
from pytest_quantgate.errors import MeasurementError
from pytest_quantgate.gatherer import DEFAULT_TIMEOUT_SECONDS, Gatherer
from pytest_quantgate.prepare import Preparer, engine_name
from pytest_quantgate.records import EngineSettings
from pytest_quantgate.report.comparison import ComparedModel, ComparedPrompt, Comparison

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_quantgate.plan import ModelSource
    from pytest_quantgate.prepare import PreparedModel
    from pytest_quantgate.records import Progress

    ProgressCallback = Callable[[Progress], None]
    Say = Callable[[str], None]

__all__ = ["Asked", "compare", "load_asked", "named_models"]


def compare(
    models: Sequence[ModelSource],
    asked: Asked,
    *,
    store: Path,
    max_tokens: int = 64,
    chat: bool | None = None,
    memory: bool = True,
    speed: bool = True,
    remeasure: bool = False,
    threads: int | None = None,
    timeout: float | None = None,
    on_progress: ProgressCallback | None = None,
    say: Say | None = None,
) -> Comparison:
    """Ask models the same and put their answers side by side.

    Args:
        models: the reference first (`named_models`).
        asked: the prompts (`load_asked`).
        store: folder for answers and made models; what lies there is not measured again.
        max_tokens: the longest output, where a case does not say.
        chat: whether lines are asked as messages of a user, in each model's own template; by default
            where every model brings one.
        memory: whether the peak memory of a fresh probe is measured.
        speed: whether generation is timed, in turns with the reference.
        remeasure: measure anew what the store has.
        threads: compute threads, by default as many as there are processors.
        timeout: seconds for one measurement.
        on_progress: told how far a probe is.
        say: told what is done next.

    Raises:
        ArtifactError: a model that cannot be had, or is not what its checksum says.
        ProbeError: a model that could not be asked; nothing is left out of a comparison.
        MeasurementError: two of the models are the same file.
    """
    threads = threads or hardware.usable_cores()
    timeout = timeout or DEFAULT_TIMEOUT_SECONDS
    tell = say or (lambda _: None)
    folder = Store(store.absolute())
    preparer = Preparer(
        store=folder,
        base=Path.cwd(),
        # Whoever runs a command names files; nobody else's specification does.
        roots=(Path(Path.cwd().anchor),),
        threads=threads,
        timeout=timeout,
        on_progress=on_progress,
    )
    gatherer = Gatherer(
        store=folder,
        settings=EngineSettings(threads=threads),
        timeout=timeout,
        remeasure=remeasure,
        on_progress=on_progress,
    )
    with contextlib.closing(gatherer):
        prepared = _prepared(models, preparer, tell)
        if chat is None:
            chat = not asked.expects and all(template(model) is not None for model in prepared)
        prompts = asked.prompts(max_tokens=max_tokens, chat=chat)
        interview = Interview(gatherer, prepared, tell)
        replies = [
            [question.judged(reply) for question, reply in zip(asked.questions, each, strict=True)]
            for each in interview.replies(prompts)
        ]
        figures = interview.figures([origin(model) for model in models], memory=memory, speed=speed)
    compared = tuple(
        ComparedPrompt(
            id=question.id,
            question=question.text,
            expected=None if question.case is None else question.case.expected,
            tags=() if question.case is None else question.case.tags,
            replies=tuple(each[number] for each in replies),
        )
        for number, question in enumerate(asked.questions)
    )
    return _comparison(figures, compared, asked=asked, max_tokens=max_tokens, chat=chat)


def _prepared(
    models: Sequence[ModelSource], preparer: Preparer, say: Say
) -> tuple[PreparedModel, ...]:
    """Return the files of the models, made if need be, all of them verified and different."""
    found: dict[str, PreparedModel] = {}
    for model in models:
        if model.making is not None:
            say(f"{model.name}: {origin(model)}, made if the store does not have it")
        prepared = preparer.prepare(model)
        integrity.require(preparer.verification(prepared.path), required=False)
        if prepared.digest in found:
            message = (
                f"{model.name} and {found[prepared.digest].name} are the same file (sha256"
                f" {prepared.digest[:16]}...): a comparison of a model with itself proves nothing"
            )
            raise MeasurementError(message)
        found[prepared.digest] = prepared
    return tuple(found.values())


def _comparison(
    models: tuple[ComparedModel, ...],
    prompts: tuple[ComparedPrompt, ...],
    *,
    asked: Asked,
    max_tokens: int,
    chat: bool,
) -> Comparison:
    """Return everything that was found, what matters most first."""
    right = sum(bool(prompt.replies[0].right) for prompt in prompts)
    return Comparison(
        models=models,
        prompts=tuple(sorted(prompts, key=place)),
        differences=tuple(
            difference(model.name, prompts, number)
            for number, model in enumerate(models[1:], start=1)
        ),
        prompts_name=asked.name,
        surprise=median(prompt.replies[0].surprise for prompt in prompts),
        right=right if asked.expects else None,
        chat=chat,
        max_tokens=max_tokens,
        machine=str(hardware.this_machine()),
        engine=engine_name(),
    )
