"""Prompts as a model reads them: the tokens that a continuation starts from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_quantgate.errors import ProbeRefused

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pytest_quantgate.probe.backend import Backend
    from pytest_quantgate.records import ModelFacts, Prompt


def prompt_tokens(backend: Backend, facts: ModelFacts, prompt: Prompt) -> NDArray[np.int32]:
    """Return the tokens a prompt starts from, with what the model expects before a text.

    Raises:
        ProbeRefused: nothing to continue, nothing to generate, or longer than the model can read.
    """
    templated = bool(prompt.messages)
    if prompt.prompt is not None and templated:
        message = f"case {prompt.id!r} has both a prompt and messages; write one of them"
        raise ProbeRefused(message)
    text = backend.chat(prompt.messages) if templated else prompt.prompt or ""
    tokens = text_tokens(backend, text, special=templated)
    need = len(tokens) + prompt.max_tokens
    problem = None
    if not len(tokens):
        problem = "its prompt has no tokens"
    elif prompt.max_tokens < 1:
        problem = f"max_tokens is {prompt.max_tokens}; generate at least one token"
    elif need > facts.context_train:
        problem = (
            f"{len(tokens)} prompt tokens and {prompt.max_tokens} to generate exceed the"
            f" {facts.context_train} tokens the model was trained for; shorten either"
        )
    elif "" in prompt.stop or prompt.until == "":
        problem = "an empty stop or until string would end every output at once"
    if problem is not None:
        message = f"case {prompt.id!r}: {problem}"
        raise ProbeRefused(message)
    return tokens


def text_tokens(backend: Backend, text: str, *, special: bool) -> NDArray[np.int32]:
    """Return the tokens of a text that goes on, with what the model expects before a text.

    Args:
        backend: The model.
        text: The text.
        special: Read it as the chat template wrote it, with its control tokens.
    """
    tokens = backend.tokenize(text, add_special=True, parse_special=special)
    if backend.add_eos and len(tokens):
        # An ended text has no continuation.
        tokens = tokens[:-1]
    # Many templates write BOS themselves, and the tokenizer has put another one before it.
    if special and len(tokens) > 1 and tokens[0] == tokens[1] == backend.bos:
        tokens = tokens[1:]
    return tokens
