"""The bench of one gate case: what a gate may ask, answered by a run's tools for that case's models."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from pytest_quantgate.artifact import corpus, files, integrity, source
from pytest_quantgate.artifact.imatrix.domain import domain_warning
from pytest_quantgate.cases import named_cases
from pytest_quantgate.errors import ArtifactError, MeasurementError
from pytest_quantgate.gates.kld import KldSettings
from pytest_quantgate.gatherer import Company
from pytest_quantgate.keeper import UNKNOWN_TYPE, Wanted
from pytest_quantgate.records import TextRequest
from pytest_quantgate.sampling import SamplingSettings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pytest_quantgate.artifact.integrity import Verification
    from pytest_quantgate.cases import Case
    from pytest_quantgate.committed import CommittedBaseline
    from pytest_quantgate.gates import Role
    from pytest_quantgate.gates.checksum import ChecksumSettings
    from pytest_quantgate.gatherer import Gatherer
    from pytest_quantgate.keeper import BaselineKeeper
    from pytest_quantgate.plan import GateCase, ModelSource
    from pytest_quantgate.prepare import PreparedModel, Preparer
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
    )

COMPARED_BYTES = 64 * 1024 * 1024
"""Longest text whose words are compared with those of another one."""


class CaseBench:
    """The bench of one gate case: what `pytest_quantgate.gates.Bench` promises."""

    def __init__(
        self,
        case: GateCase,
        *,
        preparer: Preparer,
        gatherer: Gatherer,
        keeper: BaselineKeeper,
        roots: Sequence[Path],
        literals: Mapping[str, float],
        checksum: ChecksumSettings | None,
        case_sets: dict[str, tuple[Case, ...]],
        chosen_cases: frozenset[str] = frozenset(),
    ) -> None:
        """Tie a case to the tools of its run.

        ``checksum`` are the settings of its checksum gate; ``case_sets`` keeps the files of cases that
        the run has read, by their names.
        """
        self._chosen_cases = chosen_cases
        self._case_sets = case_sets
        self._case = case
        self._preparer = preparer
        self._gatherer = gatherer
        self._keeper = keeper
        self._roots = tuple(roots)
        self._literals = literals
        self._checksum = checksum
        self._models: dict[Role, PreparedModel] = {}
        self._texts: dict[str, str] = {}
        self._baselines: dict[tuple[str, int, int], CommittedBaseline | None] = {}
        self._notes: list[str] = []
        gatherer.drawing = None

    @property
    def gate_id(self) -> str:
        """Id of the pytest item of the gate."""
        return f"{self._case.spec}::{self._case.id}"

    @property
    def candidate_name(self) -> str:
        """Name of the variant under test."""
        return self._case.variant

    @property
    def baseline_name(self) -> str:
        """Name by which texts call the baseline."""
        baseline = self._case.baseline
        if baseline is None or baseline.quantize is None:
            return "the baseline"
        return f"the {baseline.quantize} baseline"

    @property
    def literals(self) -> Mapping[str, float]:
        """Baseline figures written down as numbers."""
        return self._literals

    @property
    def context(self) -> int:
        """The specification's context length in tokens."""
        return self._case.defaults.context

    @property
    def candidate(self) -> PreparedModel:
        """The candidate's file, made if need be."""
        return self._model("candidate")

    @property
    def candidate_type(self) -> str:
        """Type of the variant's weights by its header."""
        return self.candidate.header.file_type or UNKNOWN_TYPE

    @property
    def baseline_type(self) -> str:
        """Type of the baseline's weights, by its own header or that of its committed baseline."""
        baseline = self._models.get("baseline")
        if baseline is None:
            for found in self._baselines.values():
                if found is not None:
                    return found.header.model.file_type
            baseline = self._model("baseline")
        return baseline.header.file_type or UNKNOWN_TYPE

    @property
    def notes(self) -> tuple[str, ...]:
        """What to say of where the baseline's figures came from."""
        return tuple(self._notes)

    def corpus(self, name: str | None) -> tuple[Path, str]:
        """Return path and SHA-256 of a text."""
        name = name or self._case.defaults.corpus
        path, digest = corpus.materialize_corpus(
            name,
            base=self._case.base,
            roots=self._roots,
            folder=self._gatherer.store.root / "corpora",
        )
        if digest not in self._texts:
            self._compare_with_calibration(name, path, digest)
        self._texts[digest] = name
        return path, digest

    def file(self, name: str) -> Path:
        """Return a file named in the specification."""
        return source.locate(name, base=self._case.base, roots=self._roots)

    def verification(self, *, literal: str | None, sums: Path | None) -> Verification:
        """Hash the candidate's file and hold it against its checksum."""
        return self._preparer.verification(self.candidate.path, literal=literal, sums=sums)

    def announce(self, done: int, total: int) -> None:
        """Let progress be told of the whole drawing instead of the block that is asked for now."""
        self._gatherer.drawing = (done, total)

    def text(self, role: Role, request: TextRequest) -> TextFacts:
        """Return how one of the models reads a text."""
        if role == "baseline" and (found := self._committed(request, self._seed)) is not None:
            return found.facts()
        return self._gatherer.text(self._verified(role), request, company=self._company(role))

    def likelihood(self, role: Role, request: LikelihoodRequest) -> Likelihood:
        """Return the likelihood of windows of a text under one of the models."""
        if role == "baseline" and request.chunks is not None and not request.top:
            text = TextRequest(
                corpus_path=request.corpus_path,
                corpus_sha256=request.corpus_sha256,
                context=request.context,
            )
            found = self._committed(text, self._seed)
            if found is not None and found.holds(request.chunks):
                return found.likelihood(request.chunks)
        model = self._verified(role)
        return self._gatherer.likelihood(model, request, company=self._company(role))

    def divergence(self, request: DivergenceRequest) -> Divergence:
        """Return how far the candidate's predictions are from the baseline's."""
        candidate = self._verified("candidate")
        baseline = self._verified("baseline") if request.reference == "live" else None
        return self._gatherer.divergence(candidate, baseline, request)

    def passages(self, role: Role, request: PassageRequest) -> PassageLikelihood:
        """Return the likelihood of passages of a text, cut by bytes, under one of the models."""
        model = self._verified(role)
        return self._gatherer.passages(model, request, company=self._company(role))

    def passage_count(self, path: Path, passage_bytes: int) -> int:
        """Return how many passages of that many bytes a text has."""
        return _text_bytes(path) // passage_bytes

    def served_chunks(
        self, request: TextRequest, *, seed: int, distributions: bool = False
    ) -> int | None:
        """Return how many windows the baseline can answer for, None where it can be run itself."""
        found = self._committed(request, seed)
        if found is None or self._keeper.can_run(self._baseline):
            return None
        sample = found.header.sample
        return sample.top_chunks if distributions else sample.chunks

    def committed(self, request: TextRequest, *, seed: int) -> tuple[Path, str] | None:
        """Return path and SHA-256 of a committed baseline's arrays, if they have distributions."""
        found = self._committed(request, seed)
        if found is None or not found.header.sample.top_chunks:
            return None
        return found.arrays_path, found.header.arrays_sha256

    def noise_floor(self, request: TextRequest) -> NoiseFloor | None:
        """Return how far the baseline is from itself on a text, None where nobody measured it."""
        found = self._committed(request, self._seed)
        if found is not None:
            return found.noise_floor() or self._gatherer.noise_floor(
                found.header.model.sha256, request
            )
        digest = self._keeper.digest(self._baseline)
        return None if digest is None else self._gatherer.noise_floor(digest, request)

    def generation(self, role: Role, request: GenerationRequest) -> Generation:
        """Return one of the models' continuations."""
        return self._gatherer.generation(self._verified(role), request, company=self._company(role))

    def cases(self, name: str) -> tuple[Case, ...]:
        """Return the cases of a file named in the specification, or of a built-in set."""
        if name not in self._case_sets:
            self._case_sets[name] = named_cases(name, self.file)
        return self._case_sets[name]

    @property
    def chosen_cases(self) -> frozenset[str]:
        """Ids of the only cases to ask; empty for all of them."""
        return self._chosen_cases

    def next_tokens(self, role: Role, request: NextTokensRequest) -> NextTokens:
        """Return what may follow beginnings under one of the models."""
        model = self._verified(role)
        return self._gatherer.next_tokens(model, request, company=self._company(role))

    def continuations(self, role: Role, request: ContinuationRequest) -> ContinuationScores:
        """Return how likely continuations are under one of the models."""
        model = self._verified(role)
        return self._gatherer.continuations(model, request, company=self._company(role))

    def choices(self, role: Role, request: ChoiceRequest) -> ChoiceScores:
        """Return how likely the answers of questions are under one of the models."""
        model = self._verified(role)
        return self._gatherer.choices(model, request, company=self._company(role))

    def harness(self, role: Role, request: HarnessRequest) -> HarnessResult:
        """Return what came of a task of lm-evaluation-harness under one of the models."""
        model = self._verified(role)
        return self._gatherer.harness(model, request, company=self._company(role))

    def memory(self, role: Role, request: MemoryRequest) -> MemoryUse:
        """Return the memory a fresh probe of one of the models used."""
        return self._gatherer.memory(self._verified(role), request)

    def latency(self, request: LatencyRequest, *, paired: bool) -> Latency:
        """Return timed requests of the candidate, alternated with the baseline's if paired."""
        candidate = self._verified("candidate")
        baseline = self._verified("baseline") if paired else None
        return self._gatherer.latency(candidate, baseline, request)

    @property
    def _baseline(self) -> ModelSource:
        baseline = self._case.baseline
        if baseline is None:
            message = f"model {self._case.model!r} has no baseline to measure"
            raise MeasurementError(message)
        return baseline

    @property
    def _sampling(self) -> SamplingSettings | None:
        settings: object = self._case.settings
        return settings if isinstance(settings, SamplingSettings) else None

    @property
    def _seed(self) -> int:
        sampling = self._sampling
        return 0 if sampling is None else sampling.seed

    def _company(self, role: Role) -> Company:
        """Return what else to keep loaded while one model is asked: the other, if it was asked too."""
        settings: object = self._case.settings
        if (
            isinstance(settings, KldSettings)
            and settings.logits_file is None
            and self._keeper.can_run(self._baseline)
        ):
            pair = (self._verified("candidate"), self._verified("baseline"))
            return Company(beside=pair[1] if role == "candidate" else pair[0], lockstep=pair)
        return Company(beside=self._models.get("baseline" if role == "candidate" else "candidate"))

    def _committed(self, request: TextRequest, seed: int) -> CommittedBaseline | None:
        """Return the committed baseline for a text, settled once; None where none are kept."""
        place = (request.corpus_sha256, request.context, seed)
        if place not in self._baselines:
            sampling = self._sampling
            wanted = Wanted(
                model=self._case.model,
                source=self._baseline,
                text=request,
                text_name=self._texts.get(request.corpus_sha256, request.corpus_path),
                chunks=None if sampling is None else sampling.chunks,
                seed=seed,
            )
            found = self._keeper.baseline(wanted, lambda: self._verified("baseline"))
            self._baselines[place] = None if found is None else found[0]
            self._notes.extend(() if found is None else found[1])
            self._require_two()
        return self._baselines[place]

    def _model(self, role: Role) -> PreparedModel:
        if role not in self._models:
            named = self._case.candidate if role == "candidate" else self._baseline
            self._models[role] = self._preparer.prepare(named)
            if role == "baseline":
                self._require_as_committed()
        return self._models[role]

    def _verified(self, role: Role) -> PreparedModel:
        """Return a model that may be loaded: its checksum holds, and it is no copy of the other."""
        model = self._model(role)
        literal = sums = None
        required = False
        if role == "candidate" and self._checksum is not None:
            required = True
            literal = self._checksum.sha256
            sums = None if self._checksum.sums is None else self.file(self._checksum.sums)
        verification = self._preparer.verification(model.path, literal=literal, sums=sums)
        integrity.require(verification, required=required)
        self._require_two()
        return model

    def _compare_with_calibration(self, name: str, path: Path, digest: str) -> None:
        """Note what is to be said of an importance matrix that came from a text."""
        making = self._case.candidate.making
        text = self._preparer.calibration_text(self._case.candidate)
        if text is None or making is None:
            return
        other, other_digest = text
        if other_digest == digest:
            self._notes.append(
                f"the importance matrix was computed from {name}, which this gate measures on, too:"
                " figures flatter the variant; judge on another text"
            )
        elif max(path.stat().st_size, other.stat().st_size) <= COMPARED_BYTES:
            # Texts too short to compare are no reason to say anything.
            with contextlib.suppress(ArtifactError):
                warning = domain_warning(
                    other.read_text(encoding="utf-8"),
                    path.read_text(encoding="utf-8"),
                    text_name=f"the importance matrix's text {making.imatrix}",
                    corpus_name=name,
                )
                self._notes.extend([warning] if warning else [])

    def _require_as_committed(self) -> None:
        """Refuse a baseline that turned out, when it was made, to be another than was committed."""
        for found in self._baselines.values():
            if found is not None:
                found.require({"model.sha256": self._models["baseline"].digest})

    def _require_two(self) -> None:
        """Refuse a baseline that is the candidate's own file."""
        candidate = self._models.get("candidate")
        if candidate is None:
            return
        baselines = {
            found.header.model.sha256 for found in self._baselines.values() if found is not None
        }
        if "baseline" in self._models:
            baselines.add(self._models["baseline"].digest)
        if candidate.digest in baselines:
            message = (
                f"{self._case.variant} and the baseline are the same file (sha256"
                f" {candidate.digest[:16]}...): a comparison of a model with itself proves nothing"
            )
            raise MeasurementError(message)


def _text_bytes(path: Path) -> int:
    """Return the length of a text without the newline at its end, which measuring leaves out."""
    with files.open_regular(path) as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - 1))
        return size - (stream.read(1) == b"\n")
