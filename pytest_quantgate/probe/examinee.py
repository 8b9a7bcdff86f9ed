"""The model of a probe as lm-evaluation-harness asks it: three kinds of requests.

Texts are cut into tokens by the engine's tokenizer, where the harness would cut them: blanks at the end
of a context belong to what follows it, and a text with nothing before it follows the token that
begins a text.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lm_eval.api.model import LM

from pytest_quantgate.errors import ProbeRefused
from pytest_quantgate.probe.generation import measure_generation
from pytest_quantgate.probe.scoring import measure_continuations
from pytest_quantgate.records import (
    Continuation,
    ContinuationRequest,
    Decoding,
    GenerationRequest,
    Message,
    Prompt,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_quantgate.probe.windows import Reader
    from pytest_quantgate.records import Progress

DEFAULT_MAX_TOKENS = 256
"""Longest output where a task names none: the harness's own."""

_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Names for the longest output, in the order in which the harness heeds them."""

_DECODING = frozenset({"do_sample", "temperature", "top_k", "top_p", "until", *_LENGTHS})


class Examinee(LM):  # type: ignore[misc]  # the harness ships no types
    """Answers what the harness asks, and remembers which texts came out of the chat template."""

    def __init__(self, reader: Reader, report: Callable[[Progress], None], *, seed: int) -> None:
        """Answer with a reader's model; ``seed`` is that of sampled outputs."""
        super().__init__()
        self._reader = reader
        self._report = report
        self._seed = seed
        self._chats: dict[str, tuple[Message, ...]] = {}

    @property
    def tokenizer_name(self) -> str:
        """Name of what cuts texts, which the harness wants to know for caches that are not used."""
        return self._reader.facts.description

    def chat_template(self, chat_template: bool | str = False) -> str | None:  # noqa: FBT001, FBT002 - the harness's
        """Return nothing: the model's own template is applied by the engine."""
        del chat_template
        return None

    def apply_chat_template(
        self,
        chat_history: Sequence[Mapping[str, str]],
        add_generation_prompt: bool = True,  # noqa: FBT001, FBT002 - the harness's
    ) -> str:
        """Return turns as the text that the model was trained on.

        Raises:
            ProbeRefused: the task begins the answer itself, or the model brings no template.
        """
        if not add_generation_prompt:
            message = (
                "the task begins the answer itself (`gen_prefix`), which the chat templates of this"
                " engine cannot go on from; remove `gen_prefix` or `apply_chat_template`"
            )
            raise ProbeRefused(message)
        turns = tuple(Message(role=turn["role"], content=turn["content"]) for turn in chat_history)
        text = self._reader.backend.chat(turns)
        self._chats[text] = turns
        return text

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Return the log-likelihood of each continuation, and whether greedy decoding writes it."""
        return self._scored([request.args for request in requests], requests)

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Return the log-likelihood of each text as a whole, from its first token on.

        Raises:
            ProbeRefused: a text is longer than the model was trained for, which the harness would cut.
        """
        asked = [("", request.args[0]) for request in requests]
        return [likelihood for likelihood, _ in self._scored(asked, requests)]

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Return the output to each context, decoded as the task says."""
        outputs: dict[int, str] = {}
        asked: dict[Decoding, list[tuple[int, Prompt]]] = {}
        for place, request in enumerate(requests):
            context, options = request.args
            prompt = self._prompt(f"{request.task_name}/{request.doc_id}/{place}", context, options)
            asked.setdefault(_decoding(options, self._seed), []).append((place, prompt))
        for decoding, placed in asked.items():
            generation = measure_generation(
                self._reader.backend,
                self._reader.facts,
                GenerationRequest(prompts=tuple(prompt for _, prompt in placed), decoding=decoding),
                self._report,
            )
            for (place, _), output in zip(placed, generation.outputs, strict=True):
                outputs[place] = output.text
        return [outputs[place] for place in range(len(requests))]

    def _scored(
        self, asked: Sequence[tuple[str, str]], requests: Sequence[Any]
    ) -> list[tuple[float, bool]]:
        """Return log-likelihood and greediness of what follows each context."""
        continuations = []
        for (context, continuation), request in zip(asked, requests, strict=True):
            turns = self._chats.get(context, ())
            continuations.append(
                Continuation(
                    id=f"{request.task_name}/{request.doc_id}/{request.idx}",
                    context="" if turns else context,
                    continuation=continuation,
                    messages=turns,
                )
            )
        found = measure_continuations(
            self._reader, ContinuationRequest(continuations=tuple(continuations)), self._report
        )
        return [(-score.nll, score.greedy) for score in found.scores]

    def _prompt(self, name: str, context: str, options: Mapping[str, Any]) -> Prompt:
        until = options.get("until") or []
        stops = [until] if isinstance(until, str) else until
        given = [options[key] for key in _LENGTHS if options.get(key) is not None]
        turns = self._chats.get(context)
        return Prompt(
            id=name,
            prompt=None if turns else context,
            messages=turns or (),
            max_tokens=int(given[0]) if given else DEFAULT_MAX_TOKENS,
            stop=tuple(str(stop) for stop in stops if stop),
        )


def _decoding(options: Mapping[str, Any], seed: int) -> Decoding:
    """Return how a task wants its outputs decoded.

    Raises:
        ProbeRefused: it wants what is not done here, such as beams.
    """
    strange = sorted(key for key in options if key not in _DECODING)
    if strange:
        message = (
            f"the task decodes with {', '.join(strange)} (`generation_kwargs`), which is not done here;"
            f" known are {', '.join(sorted(_DECODING))}"
        )
        raise ProbeRefused(message)
    given = options.get("temperature")
    sampled = options.get("do_sample")
    if not (bool(given) if sampled is None else sampled):
        return Decoding()
    # Where a task names no temperature, transformers, to which the harness leaves it, takes 1.
    temperature = 1.0 if given is None else float(given)
    if not (math.isfinite(temperature) and temperature > 0):
        message = (
            f"the task samples at a temperature of {given}; write one above 0, or do not sample"
        )
        raise ProbeRefused(message)
    return Decoding(
        temperature=temperature,
        top_k=int(options.get("top_k") or 0),
        top_p=float(options.get("top_p") or 1.0),
        seed=seed,
    )
