"""The kinds of gate: one module each, found by being in this folder.

A gate module defines one subclass of `Gate` named ``GATE`` (an instance): its settings (the keys a
specification may write), what it asks to be measured, and how it judges the answer. Measuring and
judging are apart because they fail apart: what cannot be measured is an error, what was measured and
missed its limit is a failure.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_quantgate.artifact.integrity import Verification
    from pytest_quantgate.cases import Case
    from pytest_quantgate.limits import Sampled
    from pytest_quantgate.records import (
        ChoiceRequest,
        ChoiceScores,
        ContinuationRequest,
        ContinuationScores,
        Divergence,
        DivergenceRequest,
        Generation,
        GenerationRequest,
        HarnessRequest,
        HarnessResult,
        Latency,
        LatencyRequest,
        Likelihood,
        LikelihoodRequest,
        MemoryRequest,
        MemoryUse,
        NextTokens,
        NextTokensRequest,
        NoiseFloor,
        PassageLikelihood,
        PassageRequest,
        TextFacts,
        TextRequest,
    )

Role = Literal["candidate", "baseline"]


class GateSettings(BaseModel):
    """Base of every gate's settings: frozen, strict, no unknown keys.

    ``limit_names`` are the fields that are limits; a gate that has some needs at least one of them,
    which `limits_given` tells.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    limit_names: ClassVar[tuple[str, ...]] = ()

    def limits_given(self) -> tuple[str, ...]:
        """Return the names of the limits that are set, in the order of the class."""
        return tuple(name for name in self.limit_names if getattr(self, name) is not None)


class Bench(Protocol):
    """What a gate may ask for. Answers come from the store where it has them, else from a probe."""

    @property
    def gate_id(self) -> str:
        """Id of the pytest item: ``gates.yaml::<model>::<variant>::<gate>``."""

    @property
    def candidate_name(self) -> str:
        """Name of the variant under test."""

    @property
    def baseline_name(self) -> str:
        """Name by which texts call the baseline, such as "the F16 baseline"."""

    @property
    def candidate_type(self) -> str:
        """Type of the variant's weights by its header, such as "Q4_K_M"."""

    @property
    def baseline_type(self) -> str:
        """Type of the baseline's weights, by its own header or that of its committed baseline."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of where the figures came from, said in the findings."""

    @property
    def literals(self) -> Mapping[str, float]:
        """Baseline figures written down as numbers (specification or fixture) instead of measured."""

    @property
    def context(self) -> int:
        """The context length of the specification's defaults, in tokens."""

    def corpus(self, name: str | None) -> tuple[Path, str]:
        """Return path and SHA-256 of a text: the one named, or the specification's default."""

    def file(self, name: str) -> Path:
        """Return a file named in the specification (cases, digests), inside the project."""

    def verification(self, *, literal: str | None, sums: Path | None) -> Verification:
        """Return how the candidate's file stands against its checksum."""

    def announce(self, done: int, total: int) -> None:
        """Say where a drawing stands whose next block is asked for now, for those who watch."""

    def text(self, role: Role, request: TextRequest) -> TextFacts:
        """Return how one of the models reads a text."""

    def likelihood(self, role: Role, request: LikelihoodRequest) -> Likelihood:
        """Return the likelihood of windows of a text under one of the models."""

    def divergence(self, request: DivergenceRequest) -> Divergence:
        """Return how far the candidate's predictions are from the baseline's."""

    def passages(self, role: Role, request: PassageRequest) -> PassageLikelihood:
        """Return the likelihood of passages of a text, cut by bytes, under one of the models."""

    def passage_count(self, path: Path, passage_bytes: int) -> int:
        """Return how many passages of that many bytes a text has."""

    def served_chunks(
        self, request: TextRequest, *, seed: int, distributions: bool = False
    ) -> int | None:
        """Return how many windows of a text the baseline can answer for.

        None means all of them, because the baseline itself can be run. A number means that there is
        only a committed baseline, which holds that many windows, the first ones of the seed's order;
        with ``distributions`` those whose most likely tokens it holds.
        """

    def committed(self, request: TextRequest, *, seed: int) -> tuple[Path, str] | None:
        """Return path and SHA-256 of a committed baseline's arrays, None where there is none."""

    def noise_floor(self, request: TextRequest) -> NoiseFloor | None:
        """Return how far the baseline is from itself on a text, None where nobody measured it."""

    def cases(self, name: str) -> tuple[Case, ...]:
        """Return the cases of a file named in the specification, or of a built-in set."""

    @property
    def chosen_cases(self) -> frozenset[str]:
        """Ids of the only cases to ask, on the user's demand; empty for all of them."""

    def generation(self, role: Role, request: GenerationRequest) -> Generation:
        """Return one of the models' continuations."""

    def next_tokens(self, role: Role, request: NextTokensRequest) -> NextTokens:
        """Return what may follow beginnings under one of the models."""

    def continuations(self, role: Role, request: ContinuationRequest) -> ContinuationScores:
        """Return how likely continuations are under one of the models."""

    def choices(self, role: Role, request: ChoiceRequest) -> ChoiceScores:
        """Return how likely the answers of questions are under one of the models."""

    def harness(self, role: Role, request: HarnessRequest) -> HarnessResult:
        """Return what came of a task of lm-evaluation-harness under one of the models."""

    def memory(self, role: Role, request: MemoryRequest) -> MemoryUse:
        """Return the memory a fresh probe of one of the models used."""

    def latency(self, request: LatencyRequest, *, paired: bool) -> Latency:
        """Return timed requests of the candidate, alternated with the baseline's if paired."""


SettingsT = TypeVar("SettingsT", bound=GateSettings)
EvidenceT = TypeVar("EvidenceT")


class Judgement(BaseModel):
    """What a gate concludes from its evidence; `gate.py` adds who, where and when.

    ``warn`` says that the outcome, being inconclusive, is to be a warning and no failure.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    headline: str
    checks: tuple[Any, ...]
    findings: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    record: dict[str, float | int | str | bool | None] = {}
    warn: bool = False
    cases: tuple[Any, ...] = ()
    """Every `AnsweredCase`, of gates that ask cases."""


class Gate(ABC, Generic[SettingsT, EvidenceT]):
    """One kind of gate."""

    name: ClassVar[str]
    """The key in a specification and the last part of the item's id."""

    settings: type[SettingsT]
    """The keys this gate takes."""

    metric: ClassVar[str | None] = None
    """The key of literal baseline figures that this gate compares with."""

    fixture_limits: ClassVar[Mapping[str, str]] = {}
    """Fixtures that set a limit when a project overrides them: fixture name to settings field."""

    loads_model: ClassVar[bool] = True
    """Whether a probe runs the model; False lets the gate run on a file that must not be loaded."""

    compares_windows: ClassVar[bool] = False
    """Whether limits compare the two models window by window of a text, above a noise floor."""

    @abstractmethod
    def needs_baseline(self, settings: SettingsT) -> bool:
        """Tell whether a limit compares with the baseline."""

    @abstractmethod
    def measure(self, settings: SettingsT, bench: Bench) -> EvidenceT:
        """Gather what `judge` needs; raises a `QuantgateError` when that is impossible."""

    @abstractmethod
    def judge(self, settings: SettingsT, evidence: EvidenceT, bench: Bench) -> Judgement:
        """Hold the evidence against the limits. Pure: measures nothing."""

    def case_ids(self, settings: SettingsT, bench: Bench) -> frozenset[str] | None:  # noqa: ARG002
        """Return the ids of the cases it asks; None: they are known only when it is measured.

        Raises:
            QuantgateError: they cannot be read.
        """
        return frozenset()

    def sampled(self, settings: SettingsT, evidence: EvidenceT) -> Sampled | None:  # noqa: ARG002
        """Return the limits of a gate that draws from a text, as they are decided; None for others."""
        return None


@functools.cache
def kinds() -> Mapping[str, Gate[Any, Any]]:
    """Return every kind of gate by name, in alphabetical order."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    found = (importlib.import_module(f"{__name__}.{name}").GATE for name in names)
    return {gate.name: gate for gate in found}
