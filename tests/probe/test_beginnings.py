"""What may follow a beginning, over the counting model: chances, ranks and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from counting import CERTAINTY, VOCABULARY, CountingBackend

from pytest_quantgate.errors import MeasurementError, ProbeRefused
from pytest_quantgate.probe.beginnings import measure_next_tokens
from pytest_quantgate.records import (
    Beginning,
    EngineSettings,
    NextToken,
    NextTokensRequest,
    Progress,
    Prompt,
)

SUM = float(np.exp(CERTAINTY) + VOCABULARY - 1)


def ask(
    *beginnings: Beginning, top: int = 3, name: str = "good.gguf", batch: int = 64
) -> tuple[NextToken, ...]:
    """Ask in this process."""
    backend = CountingBackend()
    facts = backend.load(Path(name), EngineSettings(threads=1, batch=batch))
    request = NextTokensRequest(beginnings=beginnings, top=top)
    found = measure_next_tokens(backend, facts, request, lambda _progress: None)
    assert backend.sessions[0].closed
    return found.beginnings


def beginning(text: str = "ab", *, generated: str = "", also: tuple[int, ...] = ()) -> Beginning:
    """Return a prompt with what was generated after it."""
    return Beginning(
        prompt=Prompt(id="case-1", prompt=text), generated=tuple(generated.encode()), also=also
    )


def test_chances_and_ranks() -> None:
    """The foremost tokens come first, equals by their ids, each with probability and rank."""
    (found,) = ask(beginning(also=(7, 0, ord("c"))))

    assert [(ord("c"), "c", 1), (0, "\0", 2), (1, "\x01", 3)] == [
        (chance.token, chance.text, chance.rank) for chance in found.top
    ]
    assert [np.exp(CERTAINTY) / SUM, 1 / SUM, 1 / SUM] == pytest.approx(
        [chance.probability for chance in found.top]
    )
    assert [(7, 9), (0, 2), (ord("c"), 1)] == [(chance.token, chance.rank) for chance in found.also]


def test_generated_tokens_belong_to_the_beginning() -> None:
    """What follows is told after the prompt and the generated tokens, in the order asked for."""
    found = ask(
        beginning("a", generated="xyz"),
        beginning("a"),
        beginning("m" * 90),
        beginning("m" * 90, generated="p"),
        batch=16,
    )

    assert ["{", "b", "n", "q"] == [one.top[0].text for one in found]


def test_a_vocabulary_has_no_more_tokens() -> None:
    """Asked for more tokens than there are, it gives them all, with a total probability of 1."""
    (found,) = ask(beginning(), top=VOCABULARY + 1)

    assert VOCABULARY == len(found.top)
    assert 1 == pytest.approx(sum(chance.probability for chance in found.top))


@pytest.mark.parametrize(("token", "fits"), [(-1, False), (0, True), (255, True), (256, False)])
def test_tokens_of_another_vocabulary_are_refused(token: int, fits: bool) -> None:  # noqa: FBT001 - parametrized
    """Ids outside the vocabulary would be undefined behaviour in an engine."""
    if fits:
        (found,) = ask(beginning(also=(token,)))
        assert token == found.also[0].token
        return

    with pytest.raises(ProbeRefused, match=rf"case 'case-1': token {token} was asked for"):
        ask(beginning(also=(token,)))


def test_refusals() -> None:
    """Generated ids that are none, too long a beginning, and empty questions are refused."""
    with pytest.raises(ProbeRefused, match="token 999 was generated, and this model's vocabulary"):
        ask(Beginning(prompt=Prompt(id="a", prompt="a"), generated=(999,)))
    with pytest.raises(ProbeRefused, match="a beginning of 513 tokens exceeds the 512 tokens"):
        ask(Beginning(prompt=Prompt(id="a", prompt="a", max_tokens=1), generated=(5,) * 511))
    with pytest.raises(ProbeRefused, match="0 beginnings, 3 tokens each, tell nothing"):
        ask()
    with pytest.raises(ProbeRefused, match="1 beginnings, 0 tokens each, tell nothing"):
        ask(beginning(), top=0)


def test_a_broken_model_tells_nothing() -> None:
    """NaN after a beginning is an error that names its case."""
    with pytest.raises(MeasurementError, match="after the beginning of case 'case-1'"):
        ask(beginning("m" * 90), name="later-nan.gguf", batch=16)


def test_progress_counts_beginnings() -> None:
    """Progress starts at none and ends at all."""
    backend = CountingBackend()
    facts = backend.load(Path("good.gguf"), EngineSettings(threads=1))
    seen: list[Progress] = []
    request = NextTokensRequest(beginnings=(beginning(), beginning("x")))
    measure_next_tokens(backend, facts, request, seen.append)

    assert [0, 1, 2] == [progress.done for progress in seen]
