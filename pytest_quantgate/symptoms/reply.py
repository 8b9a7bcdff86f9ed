"""What both models wrote on open prompts, and what can be seen of each text."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING

from pytest_quantgate.records import Answer, Continuation, ContinuationRequest, Output, Prompt
from pytest_quantgate.symptoms.gibberish import REPLACEMENT, KnownWords, broken_characters
from pytest_quantgate.symptoms.repetition import Run, longest_run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_quantgate.gates import Bench

_SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What both models wrote on one prompt, which ``asked`` is the text of."""

    prompt: Prompt
    asked: str
    candidate: Output
    baseline: Output

    def of_both(self, measure: Callable[[Output], float]) -> tuple[float, float]:
        """Return a measure of the candidate's and of the baseline's text."""
        return measure(self.candidate), measure(self.baseline)


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """All pairs, and what other texts say of them.

    ``surprise`` is the baseline's mean negative log-likelihood of the tokens of both models' texts, in
    nats, by the id of the prompt; it lacks prompts on which a model wrote nothing. ``words`` are those
    that the baseline knows; None where nobody asked for them.
    """

    pairs: tuple[Pair, ...] = ()
    surprise: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    words: KnownWords | None = None

    def of_both(self, measure: Callable[[Output], float]) -> list[tuple[float, float]]:
        """Return a measure of both texts of each pair."""
        return [pair.of_both(measure) for pair in self.pairs]

    def means(self, measure: Callable[[Output], float]) -> tuple[float, float]:
        """Return the means of a measure over the candidate's and over the baseline's texts."""
        own, base = zip(*self.of_both(measure), strict=True)
        return fmean(own), fmean(base)

    def unknown_shares(self) -> list[tuple[float, float]]:
        """Return the share of unknown words in both texts of each pair."""
        if self.words is None:
            return []
        words = self.words
        return [
            (
                words.unknown_share(index, pair.candidate.text),
                words.unknown_share(index, pair.baseline.text),
            )
            for index, pair in enumerate(self.pairs)
        ]


def run_of(output: Output) -> Run:
    """Return the longest run of an output."""
    return _run(output.text)


@functools.lru_cache(maxsize=4096)
def _run(text: str) -> Run:
    # Asked for by each measure that rests on it, and the slowest of all.
    return longest_run(text)


def novel_text(output: Output) -> str:
    """Return an output up to where its loop begins its second round, without a character cut in two.

    What a loop says again surprises nobody, so surprise is looked for in what comes before.
    """
    run = run_of(output)
    if run.is_loop:
        return output.text[: run.first_ends]
    return output.text.rstrip(REPLACEMENT) if output.finish == "length" else output.text


def broken(output: Output) -> int:
    """Return how many characters of an output are no text; an empty output counts as one."""
    if not output.text.strip():
        return 1
    return broken_characters(output.text, cut=output.finish == "length")


def text_answer(output: Output) -> Answer:
    """Return an open text as an answer: right where it neither runs in circles nor is broken."""
    run = run_of(output)
    reasons = []
    if run.is_loop:
        part = " ".join(output.text[run.first_starts : run.first_ends].split())
        if len(part) > _SHOWN_CHARACTERS:
            part = part[:_SHOWN_CHARACTERS] + "..."
        reasons.append(f"says again and again {part!r}")
    if not output.text.strip():
        reasons.append("the output is empty")
    elif broken(output):
        reasons.append(f"{broken(output)} of its characters are no text")
    return Answer.of(output, right=float(not reasons), reason="; ".join(reasons))


def baseline_surprise(pairs: Sequence[Pair], bench: Bench) -> dict[str, tuple[float, float]]:
    """Let the baseline read both models' texts, each up to its loop; return `Texts.surprise`.

    Raises:
        QuantgateError: the baseline could not be asked.
    """
    # Apart, so that what the baseline thinks of its own texts is kept for all variants.
    own = _read("candidate", [(pair.prompt, pair.candidate) for pair in pairs], bench)
    base = _read("baseline", [(pair.prompt, pair.baseline) for pair in pairs], bench)
    return {name: (surprise, base[name]) for name, surprise in own.items() if name in base}


def _read(author: str, texts: Sequence[tuple[Prompt, Output]], bench: Bench) -> dict[str, float]:
    """Return the baseline's mean surprise at what a model wrote, by the id of the prompt."""
    continuations = tuple(
        Continuation(
            id=f"{author}:{prompt.id}",
            context=prompt.prompt or "",
            continuation=novel,
            messages=prompt.messages,
        )
        for prompt, output in texts
        if (novel := novel_text(output)).strip()
    )
    if not continuations:
        return {}
    request = ContinuationRequest(continuations=continuations)
    return {
        score.id.removeprefix(f"{author}:"): score.nll / score.tokens
        for score in bench.continuations("baseline", request).scores
        if score.tokens
    }
