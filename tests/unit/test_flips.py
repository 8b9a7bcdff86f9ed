"""Flipped cases: at which token two outputs part, and what the findings say of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from bench_stub import StubBench, as_bench
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantgate import flips
from pytest_quantgate.errors import ProbeRefused
from pytest_quantgate.records import (
    Answer,
    AnsweredCase,
    NextToken,
    NextTokens,
    Parting,
    Prompt,
    TokenChance,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_quantgate.gates import Role
    from pytest_quantgate.records import NextTokensRequest

WORDS = {1: " It", 2: " is", 3: " Paris", 4: " Lyon", 5: ".", 9: "<end>"}
PARIS = {3: 0.6, 4: 0.3, 9: 0.1}
LYON = {3: 0.2, 4: 0.7, 9: 0.1}


@dataclass(slots=True, kw_only=True)
class Talkers(StubBench):
    """Two models that have the same chances at every place; ``words`` are their vocabularies."""

    beliefs: Mapping[Role, Mapping[int, float]] = field(default_factory=dict)
    words: Mapping[Role, Mapping[int, str]] = field(default_factory=dict)

    def next_tokens(self, role: Role, request: NextTokensRequest) -> NextTokens:
        """Return the chances after each beginning; tokens without one have none."""
        self.asked.append((role, request))
        words = self.words.get(role, WORDS)
        order = sorted(self.beliefs[role], key=lambda token: -self.beliefs[role][token])

        def chance(token: int) -> TokenChance:
            if token not in words:
                message = f"token {token} was asked for, and this model's vocabulary ends before it"
                raise ProbeRefused(message)
            return TokenChance(
                token=token,
                text=words[token],
                probability=self.beliefs[role].get(token, 0.0),
                rank=order.index(token) + 1 if token in order else len(words),
            )

        return NextTokens(
            beginnings=tuple(
                NextToken(
                    top=tuple(chance(token) for token in order[: request.top]),
                    also=tuple(chance(token) for token in beginning.also),
                )
                for beginning in request.beginnings
            ),
            seconds=0.1,
        )


def talkers(
    baseline: Mapping[int, float] = PARIS, candidate: Mapping[int, float] = LYON
) -> Talkers:
    """Return a bench whose models believe this."""
    return Talkers(beliefs={"baseline": baseline, "candidate": candidate})


def answer(tokens: Sequence[int], *, right: float, finish: str = "eog", reason: str = "") -> Answer:
    """Return an answer of these tokens."""
    return Answer(
        right=right,
        output="".join(WORDS[token] for token in tokens),
        reason=reason,
        finish=finish,
        token_ids=tuple(tokens),
    )


def case(
    baseline: Answer | None, candidate: Answer, *, name: str = "capital", expected: str = "Paris"
) -> AnsweredCase:
    """Return a case as the two models answered it."""
    return AnsweredCase(
        id=name,
        question="What is the capital of France?",
        expected=expected,
        candidate=candidate,
        baseline=baseline,
        tags=("fact", "english"),
    )


LOST = case(
    answer([1, 2, 3, 5], right=1),
    answer([1, 2, 4, 5], right=0, reason="the output does not contain 'Paris'"),
)


def parted(one: AnsweredCase, bench: Talkers, json_schema: str | None = None) -> Parting | None:
    """Return where the answers to one case part."""
    prompts = {one.id: Prompt(id=one.id, prompt=one.question, json_schema=json_schema)}
    (found,) = flips.with_partings([one], prompts, as_bench(bench))
    return found.parting


def test_a_flip_parts_at_the_first_different_token() -> None:
    """The parting has the common text, both choices, and each one's chances under both models."""
    bench = talkers()

    found = parted(LOST, bench)

    assert found == Parting(
        position=2,
        common=" It is",
        baseline=(
            TokenChance(token=3, text=" Paris", probability=0.6, rank=1),
            TokenChance(token=3, text=" Paris", probability=0.2, rank=2),
        ),
        candidate=(
            TokenChance(token=4, text=" Lyon", probability=0.3, rank=2),
            TokenChance(token=4, text=" Lyon", probability=0.7, rank=1),
        ),
        near_tie=False,
    )
    assert [role for role, _ in bench.asked] == ["baseline", "candidate"]


@pytest.mark.parametrize(
    ("baseline", "candidate"),
    [([3], [4]), ([1, 3], [1, 4]), ([1, 2, 1, 3], [1, 2, 1, 4, 5])],
)
def test_the_position_counts_equal_tokens(baseline: list[int], candidate: list[int]) -> None:
    """Outputs may part at once or late, and a token may come several times before."""
    found = parted(case(answer(baseline, right=1), answer(candidate, right=0)), talkers())

    assert found is not None
    assert found.position == len(baseline) - 1
    assert found.common == "".join(WORDS[token] for token in baseline[:-1])


@pytest.mark.parametrize("ended_by", ["baseline", "candidate"])
def test_an_output_that_ended_chose_its_end(ended_by: Role) -> None:
    """Where one output is the beginning of the other, its model is asked for what it ended with."""
    ends, goes_on = {9: 0.8, 3: 0.15, 4: 0.05}, {3: 0.9, 9: 0.1}
    short, long = answer([1, 2], right=0), answer([1, 2, 3], right=1)
    if ended_by == "baseline":
        found = parted(case(short, long), talkers(ends, goes_on))
    else:
        found = parted(case(long, short), talkers(goes_on, ends))

    assert found is not None
    own = found.baseline if ended_by == "baseline" else found.candidate
    assert [chance.text for chance in own] == ["<end>", "<end>"]
    assert sorted(chance.probability for chance in own) == [0.1, 0.8]


@pytest.mark.parametrize(
    ("baseline", "candidate"),
    [
        (answer([], right=1, finish=""), answer([], right=0, finish="")),
        (answer([], right=1), answer([], right=0)),
        (answer([1, 2], right=1), answer([1, 2], right=0.5)),
        (answer([1], right=1, finish="length"), answer([1, 2], right=0)),
    ],
    ids=["nothing generated", "both ended at once", "equal", "at its longest"],
)
def test_where_no_token_parts_two_outputs(baseline: Answer, candidate: Answer) -> None:
    """A flip without two different tokens has no parting, and nobody is asked for one."""
    bench = talkers()

    assert parted(case(baseline, candidate), bench) is None
    assert bench.asked == []


def test_a_schema_hides_which_token_ended_an_output() -> None:
    """With a schema an end may be forced: two tokens that were chosen part, an end does not."""
    ended = case(answer([1, 2], right=0), answer([1, 2, 3], right=1))

    assert parted(ended, talkers(), json_schema="{}") is None
    assert parted(LOST, talkers(), json_schema="{}") is not None


def test_an_end_that_a_batch_turned_is_unknown() -> None:
    """A model that alone would go on as the other did cannot say what ended its output."""
    ended = case(answer([1, 2], right=0), answer([1, 2, 3], right=1))

    assert parted(ended, talkers(PARIS, PARIS)) is None


def test_other_vocabularies_have_no_parting() -> None:
    """Equal numbers of two tokenizers are no equal tokens, be they other texts or none at all."""
    bench = talkers()
    bench.words = {"baseline": WORDS, "candidate": {**WORDS, 2: " was"}}
    assert parted(LOST, bench) is None

    bench.words = {"baseline": WORDS, "candidate": {1: " It", 2: " is", 4: " Lyon"}}
    assert parted(LOST, bench) is None


def test_parts_of_characters_have_no_text_of_their_own() -> None:
    """Where tokens cut a character, the common text is what both outputs begin with."""
    words = {1: "\ufffd", 2: "\ufffd", 3: " Paris", 4: " Lyon"}
    bench = talkers()
    bench.words = {"baseline": words, "candidate": words}
    texts = ("é Paris", "é Lyon")
    flipped = case(
        Answer(right=1, output=texts[0], finish="eog", token_ids=(1, 2, 3)),
        Answer(right=0, output=texts[1], finish="eog", token_ids=(1, 2, 4)),
    )

    found = parted(flipped, bench)

    assert found is not None
    assert (found.position, found.common) == (2, "é ")


@pytest.mark.parametrize(
    ("nats", "near"), [(0.99, True), (1.01, False), (-0.99, True), (-1.01, False)]
)
@pytest.mark.parametrize("role", ["baseline", "candidate"])
def test_a_near_tie_of_either_model(role: Role, nats: float, near: bool) -> None:  # noqa: FBT001 - a parameter
    """Two tokens as close as batching can move them, in one of the models, are a near tie."""
    close = {3: 0.4 * math.exp(nats * flips.NEAR_TIE_NATS), 4: 0.4}
    bench = talkers(close, LYON) if role == "baseline" else talkers(PARIS, close)

    found = parted(LOST, bench)

    assert found is not None
    assert found.near_tie is near


def test_a_token_without_any_chance_is_no_near_tie() -> None:
    """A probability too small for a float has no logarithm, and is no neighbour of anything."""
    found = parted(LOST, talkers({3: 1.0, 4: 0.0}, LYON))

    assert found is not None
    assert not found.near_tie


def test_only_flips_are_looked_at() -> None:
    """Cases that did not flip, or have no baseline, come back as they are and cost nothing."""
    bench = talkers()
    same = case(answer([1, 3], right=1), answer([1, 4], right=1), name="same")
    alone = case(None, answer([1, 4], right=0), name="alone")
    prompts = {name: Prompt(id=name, prompt="?") for name in ("same", "alone", "capital")}

    assert flips.with_partings([same, alone], prompts, as_bench(bench)) == (same, alone)
    assert bench.asked == []

    first, second, third = flips.with_partings([same, LOST, alone], prompts, as_bench(bench))
    assert (first, third) == (same, alone)
    assert second.parting is not None


def test_a_chosen_case_is_looked_at_even_if_it_did_not_flip() -> None:
    """Who asks for one case wants to see where two right answers part, too."""
    bench = talkers()
    bench.chosen_cases = frozenset({"capital"})

    assert parted(case(answer([1, 3], right=1), answer([1, 4], right=1)), bench) is not None


@given(
    st.lists(st.integers(1, 3), max_size=6),
    st.lists(st.integers(1, 3), max_size=6),
)
def test_a_parting_is_where_the_tokens_differ(baseline: list[int], candidate: list[int]) -> None:
    """For any two outputs the position is the first place at which they are not equal."""
    found = parted(
        case(answer(baseline, right=1), answer(candidate, right=0)),
        talkers({9: 0.5, 1: 0.2, 2: 0.2, 3: 0.1}, {9: 0.4, 1: 0.3, 2: 0.2, 3: 0.1}),
    )

    if baseline == candidate:
        assert found is None
        return
    assert found is not None
    place = found.position
    assert baseline[:place] == candidate[:place]
    assert (baseline[place : place + 1] or [9]) == [found.baseline[0].token]
    assert (candidate[place : place + 1] or [9]) == [found.candidate[0].token]


def test_the_listing_tells_a_flip_whole() -> None:
    """Prompt, expected, both outputs and the parting of each flip, then how to ask it again."""
    bench = talkers()
    prompts = {"capital": Prompt(id="capital", prompt="?")}
    cases = flips.with_partings([LOST], prompts, as_bench(bench))

    assert flips.listing(cases, as_bench(bench)) == (
        "lost: capital [fact, english]: 'What is the capital of France?'\n"
        "    expected: Paris\n"
        "    the F16 baseline: ' It is Paris.', right\n"
        "    Q4_K_M: ' It is Lyon.', wrong: the output does not contain 'Paris'\n"
        "    they part after 2 tokens, ' It is', where the F16 baseline has ' Paris'"
        " (60.0%, rank 1; Q4_K_M 20.0%, rank 2) and Q4_K_M ' Lyon' (70.0%, rank 1; the F16 baseline"
        " 30.0%, rank 2)",
        "ask one case again: pytest --quantgate gates.yaml gates.yaml::m::Q4_K_M::gate"
        " --quantgate-case capital; have every answer in a file: --quantgate-answers FILE.jsonl",
    )


def test_the_listing_tells_near_ties_and_ends() -> None:
    """A near tie is called one, a parting at once has no text before it, one token is singular."""
    ends = talkers({3: 0.5, 9: 0.49}, {9: 0.6, 3: 0.3})
    at_once = case(answer([3], right=1), answer([], right=0))
    prompts = {"capital": Prompt(id="capital", prompt="?")}

    told = flips.listing(flips.with_partings([at_once], prompts, as_bench(ends)), as_bench(ends))[0]
    assert (
        "they part at the first token where the F16 baseline has ' Paris' (50.0%, rank 1; Q4_K_M 30.0%,"
        " rank 2) and Q4_K_M '<end>' (60.0%, rank 1; the F16 baseline 49.0%, rank 2): a near tie,"
        " which the cases decoded beside it can turn"
    ) in told

    later = case(answer([1, 3], right=1), answer([1, 4], right=0))
    bench = as_bench(talkers())
    told = flips.listing(flips.with_partings([later], prompts, bench), bench)[0]
    assert "they part after 1 token, ' It', where" in told


@pytest.mark.parametrize(("count", "hidden"), [(9, 0), (10, 0), (11, 1)])
@pytest.mark.parametrize(("baseline", "word"), [(1, "lost"), (0, "gained")])
def test_flips_are_shown_up_to_a_number(count: int, hidden: int, baseline: int, word: str) -> None:
    """Ten flips of each direction are shown, and how many more there are is said."""
    cases = [
        case(answer([3], right=baseline), answer([4], right=1 - baseline), name=f"case-{number}")
        for number in range(count)
    ]

    *shown, how = flips.listing(cases, as_bench(talkers()))

    assert sum(text.startswith(f"{word}: case-") for text in shown) == count - hidden
    assert [text for text in shown if text.startswith("...")] == (
        [f"... and {hidden} more {word}"] if hidden else []
    )
    assert "--quantgate-case case-0;" in how


def test_cases_that_both_answer_wrong_are_named_only() -> None:
    """They say nothing of quantization; eleven of them are ten names and a number."""
    cases = [
        case(answer([4], right=0), answer([4], right=0), name=f"case-{number}")
        for number in range(11)
    ]

    assert flips.listing(cases, as_bench(talkers()))[:2] == (
        "wrong in both: " + ", ".join(f"case-{number}" for number in range(10)),
        "... and 1 more wrong in both",
    )


def test_without_a_baseline_wrong_cases_are_told_whole() -> None:
    """Where nothing is compared, the wrong answers are what there is to see."""
    wrong = case(None, answer([4], right=0, reason="no 'Paris'"), expected="Pa\nris")

    first, how = flips.listing([wrong], as_bench(talkers()))

    assert first == (
        "wrong: capital [fact, english]: 'What is the capital of France?'\n"
        "    expected: 'Pa\\nris'\n"
        "    Q4_K_M: ' Lyon', wrong: no 'Paris'"
    )
    assert how.startswith("ask one case again: ")


def test_all_right_needs_no_words() -> None:
    """Nothing flipped and nothing wrong: no findings, not even how to see more."""
    right = case(answer([3], right=1), answer([3], right=1))

    assert flips.listing([right], as_bench(talkers())) == ()


def test_chosen_cases_are_all_shown() -> None:
    """Who asks for cases sees them whole, right or wrong, without being told how to ask for them."""
    bench = talkers()
    bench.chosen_cases = frozenset({"one", "two"})
    cases = [
        case(answer([3], right=1), answer([3], right=1), name="one"),
        case(answer([4], right=0), answer([4], right=0), name="two"),
    ]

    first, second = flips.listing(cases, as_bench(bench))

    assert first.startswith("right: one [fact, english]: ")
    assert second.startswith("wrong in both: two [fact, english]: ")
    assert "Q4_K_M: ' Lyon', wrong" in second


def test_shares_of_repeats_and_long_texts() -> None:
    """A case answered several times says its share; texts are cut at 300 characters."""
    some = AnsweredCase(
        id="it's odd",
        question="q" * 301,
        expected="Paris",
        candidate=Answer(right=0.25, output="o" * 300, finish="eog"),
        baseline=Answer(right=1, output="Paris", finish="eog"),
    )

    first, how = flips.listing([some], as_bench(talkers()))

    assert first.startswith(f"lost: it's odd: '{'q' * 300}...'\n")
    assert f"Q4_K_M: '{'o' * 300}', right in 25% of its repeats" in first
    assert "--quantgate-case 'it'\"'\"'s odd';" in how
