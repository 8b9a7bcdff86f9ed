"""Keeps the committed baselines of a run: reads those there are, measures and writes those missing."""

from __future__ import annotations

import dataclasses
import datetime as dt
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_quantgate import committed, sampling
from pytest_quantgate.artifact import hardware
from pytest_quantgate.committed.header import EnginePart, MachinePart, ModelPart, TextPart
from pytest_quantgate.errors import ArtifactError
from pytest_quantgate.prepare import engine_build, engine_name
from pytest_quantgate.records import LikelihoodRequest, TextRequest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_quantgate.committed import CommittedBaseline
    from pytest_quantgate.gatherer import Gatherer
    from pytest_quantgate.plan import ModelSource
    from pytest_quantgate.prepare import PreparedModel, Preparer
    from pytest_quantgate.records import Likelihood

UNKNOWN_TYPE = "unknown"
"""What the type of a file is called that does not say."""


@dataclass(slots=True, kw_only=True)
class BaselineFolder:
    """The folder of committed baselines, and what a run does with it.

    ``shown`` is how messages call it; ``update`` measures every baseline anew that the run comes
    across, on ``chunks`` windows; ``settled`` are the files that this run has written or confirmed, and
    ``written`` those of them that changed and are yet to be reported.
    """

    path: Path
    shown: str
    update: bool = False
    chunks: int = 128
    settled: set[Path] = field(default_factory=set)
    written: list[str] = field(default_factory=list)

    def take_written(self) -> tuple[str, ...]:
        """Return the files that were written since this was last asked."""
        written = tuple(self.written)
        self.written.clear()
        return written


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which baseline: the one of a model on a text, cut into windows, in the order of a seed.

    ``text_name`` is the text in the specification; ``chunks`` are the windows that count, or None
    for all.
    """

    model: str
    source: ModelSource
    text: TextRequest
    text_name: str
    chunks: int | None
    seed: int


class BaselineKeeper:
    """Answers with committed baselines, written first where they are missing or to be renewed."""

    def __init__(
        self, folder: BaselineFolder | None, *, gatherer: Gatherer, preparer: Preparer
    ) -> None:
        """Work in a folder, if there is one; measure with ``gatherer``."""
        self.folder = folder
        self._gatherer = gatherer
        self._preparer = preparer

    def can_run(self, model: ModelSource) -> bool:
        """Tell whether a baseline's model can be had on this machine, made if need be."""
        return self._missing(model) is None

    def baseline(
        self, wanted: Wanted, prepared: Callable[[], PreparedModel]
    ) -> tuple[CommittedBaseline, tuple[str, ...]] | None:
        """Return a committed baseline and what to say of it, None where none are kept.

        Args:
            wanted: Which one.
            prepared: Returns the model to measure, checked; called only if it must be measured.

        Raises:
            ArtifactError: the files are damaged or of something else, or there are none and the
                model is not at hand either.
        """
        folder = self.folder
        if folder is None:
            return None
        stem = committed.file_stem(
            model=wanted.model,
            text=wanted.text_name,
            context=wanted.text.context,
            chunks=wanted.chunks,
            seed=wanted.seed,
        )
        path, shown = folder.path / f"{stem}.json", f"{folder.shown}/{stem}.json"
        renew = folder.update and path not in folder.settled
        found = None if renew else committed.read(path, shown=shown)
        notes = []
        if found is None:
            found, changed = self._write(path, wanted, prepared, shown=shown)
            notes.append(
                f"the baseline was measured and written to {shown}; commit it with its .npz"
                if changed
                else f"the baseline was measured anew, and {shown} holds the same already"
            )
        found.require(self._expected(wanted))
        machine = found.header.machine
        if (machine.arithmetic, machine.build) != _arithmetic():
            notes.append(
                f"the baseline was measured on another kind of machine ({machine.description}); the"
                " last digits of a ratio may come from that"
            )
        return found, tuple(notes)

    def digest(self, model: ModelSource) -> str | None:
        """Return the digest of a baseline's file, None where it is not at hand."""
        found = self._preparer.at_hand(model)
        return None if found is None else found.digest

    def _missing(self, model: ModelSource) -> str | None:
        try:
            self._preparer.origin(model)
        except ArtifactError as error:
            return str(error)
        return None

    def _write(
        self,
        path: Path,
        wanted: Wanted,
        prepared: Callable[[], PreparedModel],
        *,
        shown: str,
    ) -> tuple[CommittedBaseline, bool]:
        """Measure and write a baseline; return it, and whether it differs from what was there."""
        folder = self.folder
        reason = self._missing(wanted.source)
        if folder is None or reason is not None:
            state = "cannot be measured anew" if path.exists() else "is not there"
            message = (
                f"the committed baseline {shown} {state}, because the baseline's model is not at"
                f" hand: {reason}; write it where the model is, with --quantgate-baselines"
                " --quantgate-update-baselines, and commit it"
            )
            raise ArtifactError(message)
        model = prepared()
        facts = self._gatherer.text(model, wanted.text)
        order = sampling.order(wanted.seed, min(facts.chunks, wanted.chunks or facts.chunks))
        blocks = self._blocks(model, wanted.text, order, vocabulary=facts.vocabulary)
        engine = self._engine()
        with self._gatherer.store.lock(f"baseline-{path.stem}", timeout=self._gatherer.timeout):
            changed = committed.write(
                path,
                model=ModelPart(
                    name=wanted.model,
                    source=wanted.source.source,
                    quantize=wanted.source.quantize,
                    sha256=model.digest,
                    file_type=model.header.file_type or UNKNOWN_TYPE,
                ),
                text=TextPart(
                    name=wanted.text_name,
                    sha256=wanted.text.corpus_sha256,
                    context=wanted.text.context,
                    chunks=wanted.chunks,
                    available_chunks=facts.chunks,
                    tokens=facts.tokens,
                    tokens_sha256=facts.tokens_sha256,
                    vocabulary=facts.vocabulary,
                ),
                seed=wanted.seed,
                blocks=blocks,
                noise_floor=self._gatherer.noise_floor(model.digest, wanted.text),
                engine=engine,
                machine=self._machine(),
                made=dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
            )
            # Still under the lock: another process may be about to write its own.
            found = committed.read(path, shown=shown)
        if found is None:
            message = f"{shown} was written and is gone again; let nothing else write there"
            raise ArtifactError(message)
        folder.settled.add(path)
        if changed:
            folder.written.append(shown)
        return found, changed

    def _blocks(
        self, model: PreparedModel, text: TextRequest, order: tuple[int, ...], *, vocabulary: int
    ) -> list[Likelihood]:
        """Measure whole blocks, so that gates that need the same windows find them stored."""
        folder = self.folder
        wanted = len(order) if folder is None else min(folder.chunks, len(order))
        return [
            self._gatherer.likelihood(
                model,
                LikelihoodRequest(
                    corpus_path=text.corpus_path,
                    corpus_sha256=text.corpus_sha256,
                    context=text.context,
                    chunks=order[start : start + sampling.BLOCK],
                    top=min(committed.TOP, vocabulary) if start < committed.TOP_CHUNKS else 0,
                ),
            )
            for start in range(0, wanted, sampling.BLOCK)
        ]

    def _engine(self) -> EnginePart:
        settings = dataclasses.asdict(self._gatherer.settings)
        del settings["threads"]
        return EnginePart(version=engine_name(), **settings)

    def _machine(self) -> MachinePart:
        machine = hardware.this_machine()
        arithmetic, build = _arithmetic()
        return MachinePart(
            description=str(machine),
            arithmetic=arithmetic,
            build=build,
            threads=self._gatherer.settings.threads,
        )

    def _expected(self, wanted: Wanted) -> dict[str, object]:
        """Return what a baseline must have been measured on, by field of its header."""
        expected: dict[str, object] = {
            "model.name": wanted.model,
            "model.source": wanted.source.source,
            "model.quantize": wanted.source.quantize,
        }
        digest = self.digest(wanted.source)
        if digest is not None:
            expected["model.sha256"] = digest
        expected |= {
            "text.name": wanted.text_name,
            "text.sha256": wanted.text.corpus_sha256,
            "text.context": wanted.text.context,
            "text.chunks": wanted.chunks,
            "sample.seed": wanted.seed,
        }
        engine = self._engine().model_dump()
        return expected | {f"engine.{name}": value for name, value in engine.items()}


def _arithmetic() -> tuple[str, str]:
    """Return what of the machine, and of how the engine was built, can change the low bits."""
    return hardware.this_machine().arithmetic, engine_build()
