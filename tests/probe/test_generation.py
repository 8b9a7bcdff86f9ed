"""Generation over the counting model: what is fed, when a text ends, and what is refused."""

from __future__ import annotations

import pytest
from counting import CountingBackend, CountingSession
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_quantgate.errors import MeasurementError, ProbeRefused
from pytest_quantgate.probe.generation import broken_bytes, measure_generation
from pytest_quantgate.probe.lanes import MOST_CELLS
from pytest_quantgate.records import (
    Decoding,
    EngineSettings,
    GenerationRequest,
    Message,
    Output,
    Progress,
    Prompt,
)


def generate(
    *prompts: Prompt,
    parallel: int = 32,
    batch: int = 64,
    backend: CountingBackend | None = None,
    decoding: Decoding | None = None,
    name: str = "good.gguf",
) -> tuple[tuple[Output, ...], CountingSession]:
    """Continue prompts in this process; return the outputs and the session they were made in."""
    from pathlib import Path  # noqa: PLC0415 - for this alone

    backend = backend or CountingBackend()
    facts = backend.load(Path(name), EngineSettings(threads=1, batch=batch))
    request = GenerationRequest(prompts=prompts, parallel=parallel, decoding=decoding or Decoding())
    outputs = measure_generation(backend, facts, request, lambda _progress: None).outputs
    (session,) = backend.sessions
    assert session.closed
    return outputs, session


def test_counts_to_the_limit() -> None:
    """A continuation ends after max_tokens; prompt tokens include BOS."""
    (output,), _ = generate(Prompt(id="a", prompt="abc", max_tokens=4))

    assert output == Output(
        id="a",
        text="defg",
        tokens=4,
        finish="length",
        prompt_tokens=4,
        token_ids=tuple(b"defg"),
    )


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

    assert ("\x7f\ufffd\ufffd", "length", 2) == (output.text, output.finish, output.broken_bytes)


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (b"", 0),
        ("aé€😀".encode(), 0),
        ("é".encode()[:1], 0),
        ("😀".encode()[:3], 0),
        (b"a" + "😀".encode()[:3] + b"a", 3),
        (b"\xff\xfea", 2),
        (b"\xc0\xaf", 2),
        ("é".encode()[1:] + "é".encode()[:1], 1),
    ],
)
def test_broken_bytes_are_counted(data: bytes, count: int) -> None:
    """Each byte that is no UTF-8 counts, but for those of a character that the end cuts in two."""
    assert count == broken_bytes(data)


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


def test_numbers_that_are_none_are_no_output() -> None:
    """A model that produces NaN is an error, whatever the other texts of the batch are."""
    with pytest.raises(MeasurementError, match="produced NaN or infinity while generating"):
        generate(
            Prompt(id="a", prompt="a", max_tokens=4),
            Prompt(id="b", prompt="b", max_tokens=4),
            name="later-nan.gguf",
        )


def test_greedy_repeats_are_one_text() -> None:
    """Without temperature a prompt is decoded once and its output given as often as it was asked for."""
    outputs, session = generate(
        Prompt(id="a", prompt="a", max_tokens=2),
        Prompt(id="b", prompt="b", max_tokens=2),
        decoding=Decoding(repeats=3),
    )

    assert ["bc"] * 3 + ["cd"] * 3 == [output.text for output in outputs]
    assert 2 == session.shape.sequences


def drawn(*ids: str, parallel: int = 32, repeats: int = 2) -> dict[str, list[tuple[int, ...]]]:
    """Draw short continuations of one text from nearly even chances, under these ids."""
    outputs, _ = generate(
        *(Prompt(id=name, prompt="abc", max_tokens=3) for name in ids),
        parallel=parallel,
        decoding=Decoding(temperature=1.0, top_k=40, seed=7, repeats=repeats),
        name="certain-1.gguf",
    )
    found: dict[str, list[tuple[int, ...]]] = {name: [] for name in ids}
    for output in outputs:
        found[output.id].append(output.token_ids)
    return found


def test_draws_do_not_depend_on_the_company() -> None:
    """The same seed, id and repeat draw the same tokens, whatever is decoded beside them."""
    alone = drawn("a")
    among = drawn("c", "b", "a", "d", parallel=3)

    assert alone["a"] == among["a"] == drawn("a", repeats=5)["a"][:2]
    assert 5 == len(set(drawn("a", repeats=5)["a"]))
    assert among["a"] != among["b"]


@pytest.mark.parametrize(
    ("decoding", "said"),
    [
        (Decoding(temperature=-0.1), "temperature is -0.1; use 0 or more"),
        (Decoding(temperature=float("nan")), "temperature is nan"),
        (Decoding(top_k=-1), "top_k is -1; use 0"),
        (Decoding(top_p=0.0), "top_p is 0.0; use more than 0 and at most 1"),
        (Decoding(top_p=1.01), "top_p is 1.01"),
        (Decoding(repeats=0), "repeats is 0; continue each prompt at least once"),
    ],
)
def test_decoding_that_means_nothing_is_refused(decoding: Decoding, said: str) -> None:
    """Settings outside their bounds are refused by name."""
    with pytest.raises(ProbeRefused, match=said):
        generate(Prompt(id="a", prompt="a"), decoding=decoding)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_grammars_bind(temperature: float) -> None:
    """With a schema only what its rules allow is chosen, and the rules are freed at the end."""
    backend = CountingBackend()
    outputs, _ = generate(
        Prompt(id="a", prompt="a", max_tokens=9, json_schema="bcxyz"),
        Prompt(id="b", prompt="a", max_tokens=4),
        Prompt(id="c", prompt="a", max_tokens=2, json_schema="bcxyz"),
        backend=backend,
        decoding=Decoding(temperature=temperature, top_k=1),
    )

    assert [("bcxyz", "eog"), ("bcde", "length"), ("bc", "length")] == [
        (output.text, output.finish) for output in outputs
    ]
    assert [True, True] == [grammar.closed for grammar in backend.grammars]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_refused_and_dead_grammars_name_the_case(temperature: float) -> None:
    """A schema without rules, and rules that no token can follow, are errors of the case."""
    decoding = Decoding(temperature=temperature)
    with pytest.raises(ProbeRefused, match="case 'x': no rules for nothing"):
        generate(Prompt(id="x", prompt="a", json_schema=""), decoding=decoding)
    with pytest.raises(
        ProbeRefused, match=r"case 'x': after 0 tokens no token of the vocabulary leads to JSON"
    ):
        generate(Prompt(id="x", prompt="a", json_schema="..."), decoding=decoding)


def test_what_prompts_begin_with_alike_is_decoded_once() -> None:
    """Tokens of a common beginning are processed once, and the outputs are those of whole prompts."""
    texts = [f"{'x' * 60}{chr(97 + number)}" for number in range(6)]
    outputs, session = generate(
        *(Prompt(id=text, prompt=text, max_tokens=2) for text in texts), parallel=2
    )

    assert ["bc", "cd", "de", "ef", "fg", "gh"] == [output.text for output in outputs]
    assert 61 + 6 * 2 == sum(session.batches)
    assert 61 == outputs[0].prompt_tokens - 1
