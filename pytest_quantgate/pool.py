"""Loaded models: which probes are kept for the next question, and which end for memory's sake.

One model is kept, or the two of a case that asks them in turn, block by block; never three.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import psutil

from pytest_quantgate import measure
from pytest_quantgate.artifact import integrity
from pytest_quantgate.errors import ProbeOutOfMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pytest_quantgate.measure import Probe
    from pytest_quantgate.prepare import PreparedModel
    from pytest_quantgate.records import EngineSettings

ResultT = TypeVar("ResultT")


@dataclass(slots=True)
class _Kept:
    """A probe that is kept for one model, which it may have yet to load."""

    probe: Probe
    loaded: bool = False


class ProbePool:
    """Starts probes, loads models into them, and keeps what is about to be asked again."""

    def __init__(self, settings: EngineSettings, *, timeout: float) -> None:
        """Load models with these settings, within ``timeout`` seconds each."""
        self.settings = settings
        self._timeout = timeout
        self._kept: dict[str, _Kept] = {}
        self._lockstep: tuple[str, str] | None = None
        self._crowded: set[frozenset[str]] = set()

    def ask(
        self,
        model: PreparedModel,
        question: Callable[[Probe], ResultT],
        *,
        beside: PreparedModel | None = None,
    ) -> ResultT:
        """Ask a probe that has the model loaded; nothing is kept where that fails.

        Args:
            model: Whom to ask.
            question: What to ask, asked again if memory did not suffice for two models at once.
            beside: The model that is asked in turn with this one: it stays loaded if it is, as
                long as there is memory for both.

        Raises:
            ProbeError: the probe could not be started, or brought no answer home.
        """
        name = _name(model)
        both = frozenset({name} if beside is None else {name, _name(beside)})
        self._end(self._kept.keys() - both)
        if len(both) > 1 and not self._room_for(model):
            self._crowded.add(both)
        if both in self._crowded:
            self._end(self._kept.keys() - {name})
        in_company = any(kept.loaded for other, kept in self._kept.items() if other != name)
        try:
            return self._ask(model, question)
        except ProbeOutOfMemory:
            if not in_company:
                raise
        self._crowded.add(both)
        return self._ask(model, question)

    def ask_lockstep(
        self,
        candidate: PreparedModel,
        baseline: PreparedModel,
        question: Callable[[Probe, Probe], ResultT],
    ) -> ResultT:
        """Ask two probes that share memory, the candidate's and the baseline's; both stay loaded.

        Raises:
            ProbeOutOfMemory: the models do not fit into memory together.
            ProbeError: a probe could not be started, or brought no answer home.
        """
        self.start_lockstep(candidate, baseline)
        try:
            second = self._loaded(baseline)
            return question(self._loaded(candidate), second)
        except ProbeOutOfMemory as error:
            self.close()
            message = (
                f"{error}\n{candidate.name} and its baseline have to be in memory together to be"
                " compared position by position: use a machine with more of it, or a logits file"
            )
            raise ProbeOutOfMemory(message, phase=error.phase) from error
        except BaseException:
            self.close()
            raise

    def start_lockstep(self, candidate: PreparedModel, baseline: PreparedModel) -> None:
        """See that what is kept is a pair of probes for `ask_lockstep`, models loaded or not."""
        names = (_name(candidate), _name(baseline))
        if self._lockstep == names and all(self._kept[name].probe.alive for name in names):
            return
        self.close()
        pair = measure.start_pair(timeout=measure.START_SECONDS)
        self._kept = {name: _Kept(probe) for name, probe in zip(names, pair, strict=True)}
        self._lockstep = names

    @contextlib.contextmanager
    def fresh(self, model: PreparedModel) -> Iterator[Probe]:
        """Lend a new probe of its own, with no other kept beside it."""
        self.close()
        with measure.Probe.start() as probe:
            probe.load(model.path, self.settings, timeout=self._timeout)
            yield probe

    def close(self) -> None:
        """End all that is kept."""
        self._end(list(self._kept))

    def _ask(self, model: PreparedModel, question: Callable[[Probe], ResultT]) -> ResultT:
        try:
            return question(self._loaded(model))
        except BaseException:
            self.close()
            raise

    def _loaded(self, model: PreparedModel) -> Probe:
        """Return the kept probe of a model, started and loaded if it is not."""
        name = _name(model)
        if name in self._kept and not self._kept[name].probe.alive:
            self._end([name])
        if name not in self._kept:
            self._kept[name] = _Kept(measure.Probe.start())
        kept = self._kept[name]
        if not kept.loaded:
            kept.probe.load(model.path, self.settings, timeout=self._timeout)
            kept.loaded = True
        return kept.probe

    def _room_for(self, model: PreparedModel) -> bool:
        """Tell whether a model that is not loaded yet would fit beside the one that is."""
        name = _name(model)
        if name in self._kept and self._kept[name].loaded:
            return True
        if not any(kept.loaded for kept in self._kept.values()):
            return True
        size = sum(part.stat().st_size for part in integrity.model_parts(model.path))
        # Weights are mapped or copied, never less than their size; what computing takes comes on top,
        # and is found out when a probe runs out of memory.
        return psutil.virtual_memory().available > size

    def _end(self, names: Iterable[str]) -> None:
        for name in list(names):
            self._kept.pop(name).probe.close()
            self._lockstep = None


def _name(model: PreparedModel) -> str:
    return f"{model.digest} {model.path}"
