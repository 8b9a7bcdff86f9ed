"""The questions of one comparison: what models answer, where they part, what they take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_quantgate import stats
from pytest_quantgate.artifact import integrity
from pytest_quantgate.flips import alike, with_partings
from pytest_quantgate.gatherer import Company
from pytest_quantgate.records import (
    Answer,
    AnsweredCase,
    Continuation,
    ContinuationRequest,
    GenerationRequest,
    LatencyRequest,
    MemoryRequest,
)
from pytest_quantgate.report.comparison import ComparedModel, Reply, Speed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pytest_quantgate.gates import Role
    from pytest_quantgate.gatherer import Gatherer
    from pytest_quantgate.prepare import PreparedModel
    from pytest_quantgate.records import (
        MemoryUse,
        NextTokens,
        NextTokensRequest,
        Output,
        Parting,
        Prompt,
        RequestTiming,
    )

    Say = Callable[[str], None]

TIMED = LatencyRequest(prompt_tokens=64, output_tokens=16, warmup=1, repeats=8)
"""What speed is measured on: enough to tell types apart, and seconds for a model at 10 tokens/s."""

_TEMPLATE = "tokenizer.chat_template"

REMEMBERED_TOKENS = 512
"""Longest context that memory is measured with; a shorter one where a model knows no more."""


class Interview:
    """The questions of one comparison."""

    def __init__(self, gatherer: Gatherer, models: Sequence[PreparedModel], say: Say) -> None:
        """Ask models, the reference first; ``say`` is told what is done next."""
        self.models = tuple(models)
        self._gatherer = gatherer
        self._say = say

    @property
    def _reference(self) -> PreparedModel:
        return self.models[0]

    @property
    def _remembered(self) -> MemoryRequest:
        """Return what memory is measured with: the same for all, so that figures can be compared."""
        return MemoryRequest(context=min([REMEMBERED_TOKENS, *map(_context, self.models)]))

    def replies(self, prompts: Sequence[Prompt]) -> list[list[Reply]]:
        """Return what each model answers, and what the reference thinks of it."""
        request = GenerationRequest(prompts=tuple(prompts))
        base: tuple[Output, ...] = ()
        answered: list[list[Reply]] = []
        for model in self.models:
            self._say(f"{model.name}: {len(prompts)} prompts")
            # A model is asked in turns with the reference: both stay loaded if memory allows.
            company = Company(
                beside=self.models[1] if model is self._reference else self._reference
            )
            outputs = self._gatherer.generation(model, request, company=company).outputs
            base = base or outputs
            surprises = self._surprises(model, prompts, outputs)
            partings = {} if outputs is base else self._partings(model, prompts, outputs, base)
            answered.append(
                [
                    Reply(
                        output=output.text,
                        tokens=output.tokens,
                        finish=output.finish,
                        surprise=surprises.get(prompt.id),
                        equal_tokens=(
                            alike(output.token_ids, other.token_ids)
                            if self._comparable(model, prompt, output, other)
                            else None
                        ),
                        parting=partings.get(prompt.id),
                    )
                    for prompt, output, other in zip(prompts, outputs, base, strict=True)
                ]
            )
        return answered

    def figures(
        self, sources: Sequence[str], *, memory: bool, speed: bool
    ) -> tuple[ComparedModel, ...]:
        """Return what each model takes; ``sources`` say where they come from."""
        used: list[MemoryUse | None] = [None] * len(sources)
        speeds: list[Speed | None] = [None] * len(sources)
        if memory:
            for place, model in enumerate(self.models):
                self._say(f"{model.name}: memory of a fresh process")
                used[place] = self._gatherer.memory(model, self._remembered)
        if speed:
            speeds = list(self._speeds())
        return tuple(
            ComparedModel(
                name=model.name,
                source=named,
                sha256=model.digest,
                file_type=model.header.file_type or "unknown",
                bits_per_weight=model.header.bits_per_weight,
                file_bytes=sum(part.stat().st_size for part in integrity.model_parts(model.path)),
                weight_bytes=model.header.tensor_bytes,
                memory=use,
                speed=pace,
            )
            for named, model, use, pace in zip(sources, self.models, used, speeds, strict=True)
        )

    def _surprises(
        self, model: PreparedModel, prompts: Sequence[Prompt], outputs: Sequence[Output]
    ) -> dict[str, float]:
        """Return how surprised the reference is at outputs, in nats per byte; empty ones have none."""
        continuations = tuple(
            Continuation(
                id=prompt.id,
                context=prompt.prompt or "",
                continuation=output.text,
                messages=prompt.messages,
            )
            for prompt, output in zip(prompts, outputs, strict=True)
            if output.text
        )
        if not continuations:
            return {}
        found = self._gatherer.continuations(
            self._reference,
            ContinuationRequest(continuations=continuations),
            company=Company(beside=self.models[1] if model is self._reference else model),
        )
        return {score.id: score.nll / score.bytes for score in found.scores}

    def _comparable(self, model: PreparedModel, prompt: Prompt, own: Output, base: Output) -> bool:
        """Tell whether the tokens of two outputs mean the same, as far as can be seen.

        Headers keep no long lists, so that two vocabularies of one kind and length look alike; where
        tokens are shown, `with_partings` compares their texts, too.
        """
        return (
            _tokenizer(model) == _tokenizer(self._reference)
            and (not prompt.messages or template(model) == template(self._reference))
            and own.prompt_tokens == base.prompt_tokens
        )

    def _partings(
        self,
        model: PreparedModel,
        prompts: Sequence[Prompt],
        outputs: Sequence[Output],
        base: Sequence[Output],
    ) -> dict[str, Parting]:
        """Return where outputs part from the reference's, by the ids of the prompts."""
        differing = tuple(
            AnsweredCase(
                id=prompt.id,
                question="",
                expected="",
                candidate=Answer.of(own, right=0),
                baseline=Answer.of(other, right=0),
            )
            for prompt, own, other in zip(prompts, outputs, base, strict=True)
            if own.text != other.text and self._comparable(model, prompt, own, other)
        )
        pair = _Pair(
            gatherer=self._gatherer,
            models={"baseline": self._reference, "candidate": model},
            chosen_cases=frozenset(case.id for case in differing),
        )
        by_id = {prompt.id: prompt for prompt in prompts}
        found = with_partings(differing, by_id, pair)
        return {case.id: case.parting for case in found if case.parting is not None}

    def _speeds(self) -> Iterator[Speed]:
        base: list[RequestTiming] = []
        others: list[Speed] = []
        for model in self.models[1:]:
            self._say(f"{model.name}: speed, in turns with {self._reference.name}")
            latency = self._gatherer.latency(model, self._reference, TIMED)
            base += latency.baseline
            ratios = [
                _pace(own) / _pace(other)
                for own, other in zip(latency.candidate, latency.baseline, strict=True)
            ]
            interval = stats.quantile_interval(ratios, 0.5)
            others.append(
                Speed(
                    tokens_per_second=stats.quantile(
                        [_pace(each) for each in latency.candidate], 0.5
                    ),
                    requests=len(ratios),
                    ratio=stats.quantile(ratios, 0.5),
                    low=None if interval is None else interval.low,
                    high=None if interval is None else interval.high,
                )
            )
        pace = stats.quantile([_pace(each) for each in base], 0.5)
        yield Speed(tokens_per_second=pace, requests=len(base))
        yield from others


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """What `with_partings` asks: the reference as the baseline, and one other model."""

    gatherer: Gatherer
    models: Mapping[Role, PreparedModel]
    chosen_cases: frozenset[str]

    def next_tokens(self, role: Role, request: NextTokensRequest) -> NextTokens:
        """Return what may follow beginnings under one of the two."""
        other = self.models["candidate" if role == "baseline" else "baseline"]
        return self.gatherer.next_tokens(self.models[role], request, company=Company(beside=other))


def _tokenizer(model: PreparedModel) -> dict[str, object]:
    """Return what a header says of the tokenizer; long lists with their types and lengths only."""
    return {
        key: value
        for key, value in model.header.metadata.items()
        if key.startswith("tokenizer.") and key != _TEMPLATE
    }


def template(model: PreparedModel) -> object:
    """Return the chat template in a model's header, None where it brings none."""
    return model.header.metadata.get(_TEMPLATE)


def _pace(timing: RequestTiming) -> float:
    return len(timing.token_ms) * 1000 / math.fsum(timing.token_ms)


def _context(model: PreparedModel) -> int:
    """Return the longest context that a model was trained for, by its header."""
    header = model.header
    length = header.metadata.get(f"{header.architecture}.context_length")
    return length if isinstance(length, int) else REMEMBERED_TOKENS
