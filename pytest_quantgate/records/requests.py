"""What a probe is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How the engine runs a model: everything here can change the low bits of a number.

    ``threads`` is the number of compute threads; ``batch``/``ubatch`` are llama.cpp's logical and
    physical batch in tokens; ``repack`` lets the engine copy weights into the CPU's own layout.
    """

    threads: int
    batch: int = 2048
    ubatch: int = 512
    flash_attention: Literal["auto", "on", "off"] = "auto"
    gpu_layers: int = 0
    repack: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRequest:
    """Ask how a model reads a text: its tokens, and the windows `llama-perplexity` cuts it into."""

    corpus_path: str
    corpus_sha256: str
    context: int = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class LikelihoodRequest:
    """Ask for the negative log-likelihood of a text, in windows as `llama-perplexity` cuts them.

    ``chunks`` are the numbers of the windows to score, from 0 and in any order; None means all of
    them in order. ``sequences`` windows are decoded together, by default as many as the tool decodes:
    what fits a batch. It does not change which tokens are scored, but the last bits of their
    likelihood. ``top`` asks for that many most likely tokens at every scored position too.
    """

    corpus_path: str
    corpus_sha256: str
    context: int = 512
    chunks: tuple[int, ...] | None = None
    sequences: int | None = None
    top: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DivergenceRequest:
    """Ask how far the candidate's predictions are from the baseline's on windows of a text.

    ``reference`` says where the baseline's predictions come from: a second probe that decodes the same
    windows in lockstep (``live``), a file as `llama-perplexity --save-all-logits` writes it
    (``logits``), or a committed baseline, which holds the most likely tokens of some windows
    (``committed``). The last two lie at ``reference_path``, whose bytes have ``reference_sha256``.
    With ``logits`` the corpus is not read at all: tokens come from the file, and the corpus fields
    are empty.
    """

    reference: Literal["live", "logits", "committed"]
    corpus_path: str = ""
    corpus_sha256: str = ""
    context: int = 512
    chunks: tuple[int, ...] | None = None
    sequences: int | None = None
    reference_path: str = ""
    reference_sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassageRequest:
    """Ask for the likelihood of passages that are cut from a text by bytes, whatever the tokenizer.

    Passage i is the bytes from i * ``passage_bytes`` to (i + 1) * ``passage_bytes``, both moved
    forward to the next start of a character; its second half is scored, given its first half.
    """

    corpus_path: str
    corpus_sha256: str
    passage_bytes: int = 2048
    passages: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a chat."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One text to continue: either ``prompt`` or ``messages`` (through the model's own template).

    Generation ends at an end-of-generation token, at one of the ``stop`` strings, after
    ``max_tokens`` tokens, or as soon as the output contains ``until`` (case-insensitive), which saves
    the rest when a `contains` matcher is already satisfied. With ``json_schema``, a JSON Schema as
    text, only tokens are chosen that can lead to JSON of that schema.
    """

    id: str
    prompt: str | None = None
    messages: tuple[Message, ...] = ()
    max_tokens: int = 64
    stop: tuple[str, ...] = ()
    until: str | None = None
    json_schema: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How the next token is chosen: the most probable one, or at a ``temperature`` above 0 by chance.

    Chance is drawn from the ``top_k`` most probable tokens (0: all of them), of those from the fewest
    that together have the probability ``top_p``. Each prompt is continued ``repeats`` times, each time
    with numbers that follow from ``seed``, the prompt's id and the number of the repeat alone, so that
    they do not depend on what is decoded beside it.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    repeats: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """Ask for the continuation of many prompts, up to ``parallel`` of them decoded together."""

    prompts: tuple[Prompt, ...]
    parallel: int = 64
    decoding: Decoding = Decoding()


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """A prompt and the tokens that have been generated after it; ``also`` are tokens of interest."""

    prompt: Prompt
    generated: tuple[int, ...] = ()
    also: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NextTokensRequest:
    """Ask which tokens may follow beginnings: the ``top`` most probable ones and those of interest."""

    beginnings: tuple[Beginning, ...]
    top: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """A given text and what may follow it; ``messages``, if any, come before it in the template."""

    id: str
    context: str = ""
    continuation: str
    messages: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinuationRequest:
    """Ask for the likelihood of continuations, each given its context.

    Tokens are those of context and continuation as one text, cut where the tokens of the context
    alone end; blanks at the end of the context belong to the continuation, as lm-evaluation-harness
    has it. An empty context stands for what the model expects before a text.
    """

    continuations: tuple[Continuation, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceQuestion:
    """A question and its possible answers, as texts.

    Each answer is the text ``context`` + answer + ``tail``; a `winogrande` sentence has a tail, other
    questions none. An answer begins with the blank that separates it from the context.
    """

    id: str
    context: str
    answers: tuple[str, ...]
    tail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceRequest:
    """Ask how likely each answer of each question is.

    ``together`` questions that follow one another are decoded as one batch, which is in the low bits of
    their scores; with 1 a score depends on its own question alone.
    """

    questions: tuple[ChoiceQuestion, ...]
    together: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRequest:
    """Ask a fresh probe for its peak memory while it fills ``context`` tokens and generates."""

    context: int = 512
    sequences: int = 1
    output_tokens: int = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyRequest:
    """Ask for the time of single requests of one shape: prompt length and output length in tokens."""

    prompt_tokens: int = 128
    output_tokens: int = 32
    warmup: int = 2
    repeats: int = 10
