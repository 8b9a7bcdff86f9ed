"""Generation over the counting model: what is fed, when a text ends, and what is refused."""

from __future__ import annotations

import pytest
from counting import CountingBackend, CountingSession
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_quantgate.errors import ProbeRefused
from pytest_quantgate.probe.generation import MOST_CELLS, measure_generation
from pytest_quantgate.records import (
    EngineSettings,
    GenerationRequest,
    Message,
    Output,
    Progress,
    Prompt,
)


def generate(
    *prompts: Prompt, parallel: int = 32, batch: int = 64, backend: CountingBackend | None = None
) -> tuple[tuple[Output, ...], CountingSession]:
    """Continue prompts in this process; return the outputs and the session they were made in."""
    from pathlib import Path  # noqa: PLC0415 - for this alone

    backend = backend or CountingBackend()
    facts = backend.load(Path("good.gguf"), EngineSettings(threads=1, batch=batch))
    request = GenerationRequest(prompts=prompts, parallel=parallel)
    outputs = measure_generation(backend, facts, request, lambda _progress: None).outputs
    (session,) = backend.sessions
    assert session.closed
    return outputs, session


def test_counts_to_the_limit() -> None:
    """A continuation ends after max_tokens; prompt tokens include BOS."""
    (output,), _ = generate(Prompt(id="a", prompt="abc", max_tokens=4))

    assert Output(id="a", text="defg", tokens=4, finish="length", prompt_tokens=4) == output


@pytest.mark.parametrize(
    ("prompt", "text", "finish", "tokens"),
    [
        (Prompt(id="a", prompt="a", max_tokens=9, stop=("e",)), "bcd", "stop", 4),
        (Prompt(id="a", prompt="a", max_tokens=9, stop=("zz", "def", "ef")), "bc", "stop", 5),
        (Prompt(id="a", prompt="a", max_tokens=9, stop=("b",)), "", "stop", 1),
        (Prompt(id="a", prompt="a", max_tokens=9, until="DE"), "bcde", "until", 4),
        (Prompt(id="a", prompt="a", max_tokens=3, until="d"), "bcd", "until", 3),
        (Prompt(id="a", prompt="\x06", max_tokens=9), "\x07\x08\x09", "eog", 3),
        (Prompt(id="a", prompt="\x06", max_tokens=3), "\x07\x08\x09", "length", 3),
        (Prompt(id="a", prompt="\x09", max_tokens=9), "", "eog", 0),
    ],
)
def test_ends(prompt: Prompt, text: str, finish: str, tokens: int) -> None:
    """A text ends at the earliest stop string, which is cut off, at `until`, or at the end token."""
    (output,), _ = generate(prompt)

    assert (text, finish, tokens) == (output.text, output.finish, output.tokens)


def test_bytes_are_joined_before_they_are_read() -> None:
    """Bytes that are no UTF-8 become replacement characters; half a character is not yet there."""
    (output,), _ = generate(Prompt(id="a", prompt="~", max_tokens=3, until="\ufffd"))

    assert ("\x7f\ufffd\ufffd", "length") == (output.text, output.finish)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 30)), min_size=1, max_size=12),
    st.integers(1, 6),
    st.sampled_from([8, 16, 64]),
)
def test_slots_never_mix(shapes: list[tuple[int, int]], parallel: int, batch: int) -> None:
    """Each text gets its own continuation, in the order asked for, whatever shares its batches."""
    prompts = [
        Prompt(id=str(i), prompt=chr(80 + i) * length, max_tokens=most)
        for i, (length, most) in enumerate(shapes)
    ]
    outputs, session = generate(*prompts, parallel=parallel, batch=batch)

    assert [
        "".join(chr(81 + i + k) for k in range(most)) for i, (_, most) in enumerate(shapes)
    ] == [output.text for output in outputs]
    assert max(session.batches) <= batch
    assert min(parallel, len(shapes)) == session.shape.sequences


def test_a_free_slot_is_filled_at_once() -> None:
    """Three texts in two slots take as many steps as the slots' longest share of them."""
    _, session = generate(
        Prompt(id="long", prompt="a", max_tokens=8),
        Prompt(id="short", prompt="a", max_tokens=4),
        Prompt(id="next", prompt="a", max_tokens=4),
        parallel=2,
    )

    assert 8 == len(session.batches)


def test_memory_bounds_the_slots() -> None:
    """No more texts are decoded together than fit the cells; the result is the same."""
    backend = CountingBackend()
    longest = backend.facts().context_train
    prompts = [Prompt(id=str(i), prompt="a" * (longest - 2), max_tokens=1) for i in range(40)]
    outputs, session = generate(*prompts, parallel=40, batch=2048, backend=backend)

    assert MOST_CELLS // longest == session.shape.sequences
    assert {"b"} == {output.text for output in outputs}


def test_templates_that_write_bos_get_no_second_one() -> None:
    """A chat template's own BOS is not doubled by the tokenizer's."""
    messages = (Message(role="user", content="ab"),)
    (output,), _ = generate(Prompt(id="a", messages=messages, max_tokens=1))

    assert (3, "c") == (output.prompt_tokens, output.text)


def test_control_words_in_a_plain_prompt_are_text() -> None:
    """What looks like a control token in a plain prompt is not one."""
    (output,), _ = generate(Prompt(id="a", prompt="<s>", max_tokens=1))

    assert 4 == output.prompt_tokens


def test_end_of_text_is_taken_off_a_prompt() -> None:
    """A vocabulary that ends every text still continues prompts."""
    (output,), _ = generate(
        Prompt(id="a", prompt="a", max_tokens=1), backend=CountingBackend(add_eos=True)
    )

    assert (2, "b") == (output.prompt_tokens, output.text)


@pytest.mark.parametrize(("extra", "fits"), [(-1, True), (0, True), (1, False)])
def test_training_context_is_the_limit(extra: int, fits: bool) -> None:  # noqa: FBT001 - parametrized
    """Prompt and output together may fill the context the model was trained for, and no more."""
    size = CountingBackend().facts().context_train
    prompt = Prompt(id="case-7", prompt="a" * (size - 1 - 5 + extra), max_tokens=5)
    if fits:
        (output,), _ = generate(prompt)

        assert "bcdef" == output.text
        return

    with pytest.raises(
        ProbeRefused,
        match=r"case 'case-7': 508 prompt tokens and 5 to generate exceed the 512 tokens the model",
    ):
        generate(prompt)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (Prompt(id="x", prompt="a", max_tokens=0), "case 'x': max_tokens is 0; generate at least"),
        (Prompt(id="x", prompt="a", stop=("",)), "case 'x': an empty stop or until string"),
        (Prompt(id="x", prompt="a", until=""), "case 'x': an empty stop or until string"),
        (
            Prompt(id="x", prompt="a", messages=(Message(role="user", content="b"),)),
            "case 'x' has both a prompt and messages",
        ),
    ],
)
def test_refusals_name_the_case(prompt: Prompt, said: str) -> None:
    """A prompt that cannot be continued is refused by its id."""
    with pytest.raises(ProbeRefused, match=said):
        generate(prompt)


def test_nothing_to_continue_is_refused() -> None:
    """An empty prompt without BOS, no prompts and no slots are refused."""
    with pytest.raises(ProbeRefused, match="case 'x': its prompt has no tokens"):
        generate(Prompt(id="x", prompt=""), backend=CountingBackend(add_bos=False))
    with pytest.raises(ProbeRefused, match="0 prompts, 32 at a time, measure nothing"):
        generate()
    with pytest.raises(ProbeRefused, match="1 prompts, 0 at a time, measure nothing"):
        generate(Prompt(id="x", prompt="a"), parallel=0)


def test_progress_counts_cases() -> None:
    """Progress starts at none, rises by one, and ends at all."""
    from pathlib import Path  # noqa: PLC0415 - for this alone

    backend = CountingBackend()
    facts = backend.load(Path("good.gguf"), EngineSettings(threads=1))
    seen: list[Progress] = []
    request = GenerationRequest(
        prompts=tuple(Prompt(id=str(i), prompt="a", max_tokens=2) for i in range(3))
    )
    measure_generation(backend, facts, request, seen.append)

    assert [0, 1, 2, 3] == [progress.done for progress in seen]
    assert {("generation", 3, "case")} == {(p.step, p.total, p.unit) for p in seen}
