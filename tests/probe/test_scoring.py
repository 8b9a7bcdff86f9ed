"""Likelihood of continuations and answers, over a model that remembers all it has read."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from counting import VOCABULARY, CountingBackend
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantgate.errors import MeasurementError, ProbeRefused
from pytest_quantgate.probe.groups import MOST_LINES, PIECE_TOKENS
from pytest_quantgate.probe.scoring import measure_choices, measure_continuations
from pytest_quantgate.probe.windows import Reader
from pytest_quantgate.records import (
    ChoiceQuestion,
    ChoiceRequest,
    Continuation,
    ContinuationRequest,
    EngineSettings,
    Message,
    Progress,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pytest_quantgate.probe.backend import Backend, Batch, ContextShape
    from pytest_quantgate.records import ChoiceScore, ContinuationScore, ModelFacts

TRAINED = 3000
WORD = st.text(alphabet="abc ", min_size=1, max_size=6)


def foretold(history: Sequence[int]) -> NDArray[np.float32]:
    """Return the logits after a history: chance, but the same for the same history."""
    rng = np.random.default_rng(zlib.crc32(bytes(history)))
    return rng.normal(size=VOCABULARY).astype(np.float32)


class RememberingSession:
    """Sequences that share one pool of cells, in which a token may belong to several of them."""

    def __init__(self, shape: ContextShape, *, batch: int, broken: bytes = b"") -> None:
        """Make room for a shape; histories that end in ``broken`` have no logits."""
        self.shape = shape
        self.batch_limit = batch
        self.histories: list[list[int]] = [[] for _ in range(shape.sequences)]
        self.batches: list[int] = []
        self.outputs = 0
        self._broken = broken

    def decode(self, batch: Batch) -> NDArray[np.float32]:
        """Append each token to its sequences, which must have been equal, and foretell the next one."""
        count = len(batch.tokens)
        assert 0 < count <= self.batch_limit
        self.batches.append(count)
        spans = np.ones(count, dtype=np.int32) if batch.spans is None else batch.spans
        rows = []
        for token, position, sequence, span, wanted in zip(
            batch.tokens.tolist(),
            batch.positions.tolist(),
            batch.sequences.tolist(),
            spans.tolist(),
            batch.outputs.tolist(),
            strict=True,
        ):
            members = self.histories[sequence : sequence + span]
            assert len(members) == span
            assert all(each == members[0] for each in members)
            assert position == len(members[0])
            for each in members:
                each.append(token)
            if wanted:
                broken = self._broken and bytes(members[0]).endswith(self._broken)
                rows.append(foretold(members[0]) * (np.nan if broken else 1))
        self.outputs += len(rows)
        return np.array(rows, dtype=np.float32).reshape(len(rows), VOCABULARY)

    def forget(self, sequence: int) -> None:
        """Empty one sequence."""
        self.histories[sequence] = []

    def copy(self, source: int, target: int) -> None:
        """Let an empty sequence go on from another one."""
        assert not self.histories[target]
        self.histories[target] = list(self.histories[source])

    def clear(self) -> None:
        """Empty all sequences."""
        self.histories = [[] for _ in self.histories]

    def close(self) -> None:
        """Have nothing to free."""


class RememberingBackend(CountingBackend):
    """Bytes for tokens, 0 for BOS, and sessions that remember."""

    def __init__(
        self,
        *,
        add_bos: bool = True,
        add_eos: bool = False,
        has_bos: bool = True,
        broken: bytes = b"",
    ) -> None:
        """Choose what texts begin and end with, and where the model is broken."""
        super().__init__(add_bos=add_bos, add_eos=add_eos)
        self.opened: list[RememberingSession] = []
        self._has_bos = has_bos
        self._broken = broken

    @property
    def bos(self) -> int | None:
        """Token 0, if there is one."""
        return super().bos if self._has_bos else None

    def facts(self) -> ModelFacts:
        """Describe a model with a longer context."""
        import dataclasses  # noqa: PLC0415 - for this one line

        return dataclasses.replace(super().facts(), context_train=TRAINED)

    def open(self, shape: ContextShape) -> RememberingSession:
        """Open a session."""
        self.opened.append(RememberingSession(shape, batch=2048, broken=self._broken))
        return self.opened[-1]


def reader_of(backend: RememberingBackend) -> Reader:
    """Return a reader with this backend."""
    engine = EngineSettings(threads=1)
    facts = backend.load(Path("good.gguf"), engine)
    remembering: Backend = backend
    return Reader(remembering, facts, engine)


def continued(
    asked: Sequence[Continuation], backend: RememberingBackend | None = None
) -> tuple[ContinuationScore, ...]:
    """Score continuations."""
    request = ContinuationRequest(continuations=tuple(asked))
    return measure_continuations(reader_of(backend or RememberingBackend()), request, ignore).scores


def chosen(
    asked: Sequence[ChoiceQuestion], backend: RememberingBackend | None = None
) -> tuple[tuple[ChoiceScore, ...], ...]:
    """Score questions."""
    request = ChoiceRequest(questions=tuple(asked))
    return measure_choices(reader_of(backend or RememberingBackend()), request, ignore).questions


def ignore(_progress: Progress) -> None:
    """Take no notice."""


def costs(tokens: bytes, first: int) -> list[float]:
    """Return what each token from ``first`` on costs, in nats, by the definition."""
    found = []
    for place in range(first, len(tokens)):
        logits = foretold(tokens[:place]).astype(np.float64)
        found.append(float(np.log(np.exp(logits).sum()) - logits[tokens[place]]))
    return found


# --- continuations ---------------------------------------------------------------------------------


@given(st.lists(st.tuples(WORD, WORD), min_size=1, max_size=12))
def test_continuations_cost_what_their_tokens_cost(pairs: list[tuple[str, str]]) -> None:
    """However contexts are shared, each continuation is scored given its own context and no other."""
    asked = [
        Continuation(id=str(number), context=context, continuation=text)
        for number, (context, text) in enumerate(pairs)
    ]
    for one, score in zip(asked, continued(asked), strict=True):
        given_text = one.context.rstrip()
        whole = b"\0" + (one.context + one.continuation).encode()
        expected = costs(whole, 1 + len(given_text))

        assert score.id == one.id
        assert score.tokens == len(expected)
        assert score.bytes == len(one.continuation)
        assert score.nll == pytest.approx(sum(expected))
        assert score.worst_nll == pytest.approx(max(expected))


def test_the_most_probable_continuation_is_greedy() -> None:
    """Greedy is a continuation whose every token is the most probable one at its place."""
    best = {
        letter: int(foretold(f"\0{letter}".encode()).argmax())
        for letter in map(chr, range(97, 123))
    }
    # Only ASCII is text of one byte a token.
    context, token = next((letter, token) for letter, token in best.items() if token < 128)
    found = continued(
        [
            Continuation(id="best", context=context, continuation=chr(token)),
            Continuation(id="next", context=context, continuation=chr((token + 1) % 128)),
            Continuation(id="more", context=context, continuation=chr(token) + "\x01\x01\x01"),
        ]
    )

    assert [True, False, False] == [score.greedy for score in found]


@pytest.mark.parametrize("length", [PIECE_TOKENS, PIECE_TOKENS + 1, 3 * PIECE_TOKENS + 7])
def test_long_beginnings_are_read_once(length: int) -> None:
    """Whole pieces of a beginning are kept for the next context; scores are those of each alone."""
    backend = RememberingBackend()
    stem = "".join(chr(97 + place % 23) for place in range(length))
    asked = [
        Continuation(id=f"{number}{end}", context=f"{stem}{number}", continuation=f" {end}")
        for number in range(4)
        for end in "xyz"
    ]
    found = continued(asked, backend)
    pieces = [size for size in backend.opened[0].batches if size == PIECE_TOKENS]

    assert length // PIECE_TOKENS == len(pieces)
    assert found == tuple(continued([one])[0] for one in reversed(asked))[::-1]


def test_a_shorter_beginning_after_a_longer_one() -> None:
    """Going back to fewer pieces keeps those that are still right and reads the others anew."""
    backend = RememberingBackend()
    stem = "a" * PIECE_TOKENS
    contexts = [f"{stem}{'b' * PIECE_TOKENS}c", f"{stem}{'d' * PIECE_TOKENS}", "e" * PIECE_TOKENS]
    asked = [
        Continuation(id=str(number), context=context, continuation="x")
        for number, context in enumerate(contexts)
    ]
    found = continued(asked, backend)

    assert found == tuple(continued([one])[0] for one in asked)
    assert not any(backend.opened[0].histories[8:])


def test_more_continuations_than_sequences() -> None:
    """A context with many continuations is decoded in parts."""
    backend = RememberingBackend()
    asked = [
        Continuation(id=str(number), context="ab", continuation=f"{number:03}")
        for number in range(MOST_LINES + 1)
    ]
    found = continued(asked, backend)

    assert 2 == len(backend.opened[0].batches)
    assert found == tuple(continued([one])[0] for one in asked)


def test_a_batch_is_split_where_it_is_too_long() -> None:
    """Long rests are decoded in several calls, with the same figures."""
    asked = [Continuation(id=letter, context="q", continuation=letter * 700) for letter in "abc"]
    backend = RememberingBackend()
    found = continued(asked, backend)

    assert max(backend.opened[0].batches) <= 512
    for one, score in zip(asked, found, strict=True):
        assert score.nll == pytest.approx(sum(costs(b"\0q" + one.continuation.encode(), 2)))


def test_nothing_before_a_continuation() -> None:
    """An empty context stands for BOS, which is put there even where texts begin without it."""
    without = RememberingBackend(add_bos=False)
    found = continued([Continuation(id="a", continuation="xy")], without)

    assert found[0].nll == pytest.approx(sum(costs(b"\0xy", 1)))
    assert found == continued([Continuation(id="a", continuation="xy")])


def test_messages_come_before_the_context() -> None:
    """A conversation goes through the template, whose BOS is not doubled."""
    turn = Message(role="user", content="hi")
    found = continued([Continuation(id="a", context="so ", continuation="x", messages=(turn,))])

    assert found[0].nll == pytest.approx(sum(costs(b"\0hiso x", 5)))


def test_texts_that_end_with_a_token_of_their_own() -> None:
    """An end-of-text token that the tokenizer adds has no place before a continuation."""
    found = continued(
        [Continuation(id="a", context="ab", continuation="c")], RememberingBackend(add_eos=True)
    )

    assert found[0].nll == pytest.approx(costs(b"\0abc", 3)[0])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (Continuation(id="a", context="x", continuation=""), "continuation 'a' is empty"),
        (
            Continuation(id="long", context="x" * TRAINED, continuation="y"),
            f"continuation 'long' is {TRAINED + 2} tokens long; the model was trained for {TRAINED}",
        ),
    ],
)
def test_continuations_that_cannot_be_scored(asked: Continuation, said: str) -> None:
    """The message names the continuation and the reason."""
    with pytest.raises(ProbeRefused, match=said):
        continued([asked])


@pytest.mark.parametrize(("over", "fits"), [(-1, True), (0, True), (1, False)])
def test_the_longest_text_a_model_can_read(over: int, fits: bool) -> None:  # noqa: FBT001 - a table
    """BOS, context and continuation together may be as long as the model was trained for."""
    asked = Continuation(id="a", context="x" * (TRAINED - 2 + over), continuation="y")
    if fits:
        assert 1 == continued([asked])[0].tokens
    else:
        with pytest.raises(ProbeRefused, match="shorten it"):
            continued([asked])


def test_no_beginning_to_be_had() -> None:
    """Without a token that begins a text, the first token of a text cannot be scored."""
    with pytest.raises(ProbeRefused, match="has nothing before it"):
        continued(
            [Continuation(id="a", continuation="x")],
            RememberingBackend(add_bos=False, has_bos=False),
        )


def test_nothing_to_score() -> None:
    """Empty requests are refused."""
    with pytest.raises(ProbeRefused, match="no continuation is given"):
        continued([])
    with pytest.raises(ProbeRefused, match="no question is given"):
        chosen([])


def test_broken_models_are_named() -> None:
    """NaN names the continuation in which it came."""
    asked = [Continuation(id=text, context="ab", continuation=text) for text in ("cd", "ef")]
    with pytest.raises(MeasurementError, match=r"produced NaN in continuation 'ef'"):
        continued(asked, RememberingBackend(broken=b"e"))


def test_progress_counts_contexts() -> None:
    """What is reported is how many contexts are done."""
    seen: list[Progress] = []
    asked = [
        Continuation(id=f"{context}{end}", context=context, continuation=end)
        for context in ("q", "r")
        for end in "xy"
    ]
    measure_continuations(
        reader_of(RememberingBackend()),
        ContinuationRequest(continuations=tuple(asked)),
        seen.append,
    )

    assert [(0, 2), (1, 2), (2, 2)] == [(step.done, step.total) for step in seen]


# --- choices ---------------------------------------------------------------------------------------


@given(st.lists(st.tuples(WORD, st.lists(WORD, min_size=2, max_size=5)), min_size=1, max_size=5))
def test_answers_are_scored_after_what_they_share(asked: list[tuple[str, list[str]]]) -> None:
    """llama.cpp's part begins where answers begin to differ, the whole answer where the context ends."""
    questions = [
        ChoiceQuestion(
            id=str(number), context=f"q{context}", answers=tuple(f" {a}" for a in answers)
        )
        for number, (context, answers) in enumerate(asked)
    ]
    for question, scores in zip(questions, chosen(questions), strict=True):
        whole = [b"\0" + (question.context + answer).encode() for answer in question.answers]
        shared = 0
        while all(shared < len(each) and each[shared] == whole[0][shared] for each in whole):
            shared += 1
        shared = min(shared, min(map(len, whole)) - 1)
        for tokens, score in zip(whole, scores, strict=True):
            own = costs(tokens, shared)
            full = costs(tokens, 1 + len(question.context.rstrip()))
            assert (score.own_tokens, score.tokens) == (len(own), len(full))
            assert score.own_nll == pytest.approx(sum(own))
            assert score.nll == pytest.approx(sum(full))


def test_a_question_does_not_depend_on_others() -> None:
    """A score is the same to the last bit whatever else is asked, in whatever order."""
    questions = [
        ChoiceQuestion(id=str(number), context=f"what {number}", answers=(" yes", " no", " maybe"))
        for number in range(9)
    ]
    together = chosen(questions)

    assert chosen(questions[::-1]) == together[::-1]
    assert tuple(chosen([question])[0] for question in questions) == together


def test_the_beginning_of_a_question_is_read_once() -> None:
    """A question costs its context once, and the last token of each answer, as llama.cpp reads it."""
    backend = RememberingBackend()
    chosen([ChoiceQuestion(id="a", context="12345678", answers=(" a", " b", " c"))], backend)

    assert [1 + 8 + 1 + 3] == backend.opened[0].batches
    assert 2 == backend.opened[0].outputs


def test_sentences_with_a_gap_are_scored_by_their_tails() -> None:
    """Where both sentences go on long enough, tails are scored but for their last token."""
    question = ChoiceQuestion(id="a", context="the ", answers=("cup", "box"), tail=" fell")
    for answer, score in zip(question.answers, chosen([question])[0], strict=True):
        tail = costs(f"\0the {answer} fell".encode(), 8)

        assert (4, 5) == (score.own_tokens, score.tokens)
        assert score.own_nll == pytest.approx(sum(tail[:-1]))
        assert score.nll == pytest.approx(sum(tail))


@pytest.mark.parametrize(("tail", "tails_only"), [(".", False), ("..", False), ("...", True)])
def test_short_sentences_are_scored_from_the_gap(tail: str, tails_only: bool) -> None:  # noqa: FBT001 - a table
    """With three tokens or fewer after the common beginning, the choice is scored, too."""
    question = ChoiceQuestion(id="a", context="the ", answers=("a", "b"), tail=tail)
    for answer, score in zip(question.answers, chosen([question])[0], strict=True):
        tokens = f"\0the {answer}{tail}".encode()
        scored = costs(tokens, 6 if tails_only else 5)[:-1]

        assert score.own_nll == pytest.approx(sum(scored))
        assert score.own_tokens == len(scored)


def test_one_answer_is_no_choice() -> None:
    """A question needs two answers."""
    with pytest.raises(ProbeRefused, match="question 'a' has 1 answers; a choice needs 2 or more"):
        chosen([ChoiceQuestion(id="a", context="q", answers=(" x",))])


def test_broken_answers_are_named() -> None:
    """NaN names the question and the answer."""
    question = ChoiceQuestion(id="q7", context="ab", answers=(" xy", " zw"))
    with pytest.raises(MeasurementError, match=r"NaN in answer 2 of question 'q7'"):
        chosen([question], RememberingBackend(broken=b"z"))
