"""Measures of repetition and gibberish on texts, the figures that rest on them, and the remedies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantgate.artifact.catalog import QUANTIZATION_TYPES
from pytest_quantgate.cases import load_cases
from pytest_quantgate.errors import MeasurementError
from pytest_quantgate.records import Answer, AnsweredCase, Outcome, Output
from pytest_quantgate.symptoms import OPEN_PROMPTS, reply
from pytest_quantgate.symptoms.figures import Bounds
from pytest_quantgate.symptoms.gibberish import KnownWords, broken_characters, shown, words
from pytest_quantgate.symptoms.remedies import SIGNS
from pytest_quantgate.symptoms.repetition import (
    Run,
    compression_ratio,
    longest_run,
    pieces,
    repeated_share,
)

BOUNDS = Bounds(pass_confidence=0.95, fail_confidence=0.99, baseline_name="the F16 baseline")


def output(text: str, finish: str = "eog") -> Output:
    """Return an output with this text."""
    return Output(id="x", text=text, tokens=1, finish=finish, prompt_tokens=1)


# --- repetition ------------------------------------------------------------------------------------


def test_pieces_are_words_and_signs() -> None:
    """Case and blanks do not matter; scripts without blanks give a piece for each character."""
    assert pieces("The cat, the\n\nCAT!") == ["the", "cat", ",", "the", "cat", "!"]
    assert pieces("猫が3") == ["猫", "が", "3"]
    assert pieces(" \n") == []


@pytest.mark.parametrize(
    ("text", "repeated", "period"),
    [
        ("one two three four", 0, 0),
        ("go go go", 2, 1),
        ("a b a b a b c", 4, 2),
        ("x y a b c a b c a b c", 6, 3),
        ("", 0, 0),
    ],
)
def test_longest_run(text: str, repeated: int, period: int) -> None:
    """A run is as long as what is said again, and knows how long the part is that is."""
    run = longest_run(text)

    assert (run.repeated, run.period) == (repeated, period)


def test_a_run_knows_its_part() -> None:
    """The part that is repeated can be cut out of the text, blanks and capitals as they stand."""
    text = "Well. No,\nno, no, no, no, no, no, no"
    run = longest_run(text)

    assert text[run.first_starts : run.first_ends] == "No,"


@pytest.mark.parametrize(
    ("repeated", "period", "loop"),
    [(7, 1, False), (8, 1, True), (8, 4, True), (9, 5, False), (10, 5, True), (0, 0, False)],
)
def test_what_a_loop_is(repeated: int, period: int, *, loop: bool) -> None:
    """A loop says something three times at least, and eight words and signs again at least."""
    run = Run(repeated=repeated, period=period, first_starts=0, first_ends=0)

    assert run.is_loop is loop


@given(st.lists(st.sampled_from("abcd"), max_size=40))
def test_longest_run_is_the_longest(letters: list[str]) -> None:
    """No period has a longer stretch of letters that equal the one a period before."""

    def stretch(period: int) -> int:
        equal = "".join(
            "x" if letters[place] == letters[place - period] else " "
            for place in range(period, len(letters))
        )
        return max(map(len, equal.split(" ")), default=0)

    expected = max((stretch(period) for period in range(1, len(letters) // 2 + 1)), default=0)

    assert longest_run(" ".join(letters)).repeated == expected


@given(st.lists(st.sampled_from(["red", "green", "blue", "."]), min_size=1, max_size=12))
def test_any_part_said_often_enough_is_a_loop(part: list[str]) -> None:
    """Ten rounds of anything are a loop, and the novel text before them is one round at most."""
    text = " ".join(part * 10)

    assert longest_run(text).is_loop
    assert len(pieces(reply.novel_text(output(text)))) <= len(part)


@given(st.text())
def test_measures_take_any_text(text: str) -> None:
    """Whatever a model writes, measures are in their ranges."""
    assert 0 <= repeated_share(text) < 1
    assert compression_ratio(text) > 0
    assert 0 <= broken_characters(text) <= len(text)
    assert text.startswith(reply.novel_text(output(text)))


def test_repeated_share_counts_sequences_of_four() -> None:
    """Of the five sequences of "a b c d a b c d" one was there before; shorter texts have none."""
    assert repeated_share("a b c d a b c d") == pytest.approx(1 / 5)
    assert repeated_share("a a a") == 0
    assert repeated_share("a a a a") == 0
    assert repeated_share("a a a a a") == 1 / 2


def test_loops_compress_well() -> None:
    """A loop is shortened more than prose of the same length, and nothing is no ratio."""
    prose = "".join(np.random.default_rng(3).choice(list("abcdefghijklmnopqrstuvwxyz "), 400))

    assert compression_ratio("on and on " * 40) > 10
    assert compression_ratio(prose) < 2
    assert compression_ratio("") == 1


# --- gibberish -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("plain, straße, 東京, 🙂\n\tline\r\n", 0),
        ("a\ufffdb", 1),
        ("bell \x07", 1),
        ("private \ue000\ue001", 2),
        ("unassigned \U000e0fff", 1),
    ],
)
def test_broken_characters(text: str, count: int) -> None:
    """Replacement and control characters and unassigned ones are no text; all scripts are."""
    assert broken_characters(text) == count


def test_a_character_cut_in_two_is_no_breakage() -> None:
    """At the end of a text that its length ended, a replacement character is half of one."""
    assert broken_characters("ab\ufffd", cut=True) == 0
    assert broken_characters("a\ufffdb\ufffd", cut=True) == 1
    assert reply.broken(output("ab\ufffd", finish="length")) == 0
    assert reply.broken(output("ab\ufffd", finish="eog")) == 1


def test_nothing_is_broken_too() -> None:
    """An empty output counts as broken, for it is no text either."""
    assert reply.broken(output(" \n")) == 1
    assert reply.text_answer(output(" \n")).reason == "the output is empty"


def test_words_are_those_of_letters() -> None:
    """Digits and single letters are none."""
    assert words("Straße 42 isn't x86, a dog2go") == ["straße", "isn", "dog", "go"]


def test_both_models_are_read_with_the_same_eyes() -> None:
    """What only the baseline's own text on the prompt has does not count as known there."""
    known = KnownWords(
        "the corpus", prompts=["ask me", "why"], outputs=["grumpf the tree", "tree zork"]
    )

    assert known.unknown(0, "the tree grumpf ask zork blub") == ("grumpf", "blub")
    assert known.unknown(1, "the tree grumpf ask zork") == ("ask", "zork")
    assert known.unknown_share(0, "the grumpf grumpf 7") == 1 / 2
    assert known.unknown_share(0, "7 !") == 0


@given(st.lists(st.text(alphabet="ab c", max_size=12), min_size=2, max_size=6))
def test_a_text_that_equals_the_baselines_has_as_many_unknown_words(texts: list[str]) -> None:
    """Equal texts have equal shares, and words that two texts of the baseline share are known."""
    known = KnownWords("", prompts=[""] * len(texts), outputs=texts)
    doubled = KnownWords("", prompts=[""] * 2 * len(texts), outputs=texts * 2)

    for index, text in enumerate(texts):
        assert set(known.unknown(index, text)) <= set(words(text))
        assert doubled.unknown(index, text) == ()


def test_words_of_most_texts_are_shown_first() -> None:
    """Examples are those that most texts have, then by the alphabet."""
    assert shown([("b", "a"), ("b",), ("c",)], most=2) == ("b", "a")


# --- texts as answers ------------------------------------------------------------------------------


def test_an_ill_text_says_why() -> None:
    """The reason cites what is said again, and counts characters that are none."""
    looping = reply.text_answer(output("So it goes. And on, and on, and on, and on, and on, \x07"))

    assert looping.right == 0
    assert looping.reason == "says again and again 'And on,'; 1 of its characters are no text"
    assert reply.text_answer(output("So it goes.")) == Answer(
        right=1, output="So it goes.", finish="eog"
    )


def test_long_parts_are_shortened() -> None:
    """A part of many words is cited by its beginning."""
    part = " ".join(f"word{number}" for number in range(20)) + ". "
    reason = reply.text_answer(output(part * 4)).reason

    assert reason.startswith("says again and again 'word0 word1")
    assert reason.endswith("...'")
    assert len(reason) < 100


# --- figures ---------------------------------------------------------------------------------------


def answered(*, both: int = 0, lost: int = 0, gained: int = 0, none: int = 0) -> list[AnsweredCase]:
    """Return so many cases by who answers them right."""
    rows = [(1, 1)] * both + [(0, 1)] * lost + [(1, 0)] * gained + [(0, 0)] * none
    return [
        AnsweredCase(
            id=str(number),
            question="",
            expected="",
            candidate=Answer(right=own, output=""),
            baseline=Answer(right=base, output=""),
        )
        for number, (own, base) in enumerate(rows)
    ]


@pytest.mark.parametrize(
    ("lost", "outcome"),
    [(9, Outcome.PASS), (10, Outcome.PASS), (11, Outcome.FAIL)],
)
def test_all_cases_are_judged_as_they_are(lost: int, outcome: Outcome) -> None:
    """Where cases are all that matter, a drop of exactly the limit passes and one more case fails."""
    figure = BOUNDS.share(
        answered(both=100 - lost, lost=lost),
        name="facts.max_drop",
        limit=0.10,
        statistic="drop of right answers",
        cases_are="all",
    )

    assert figure.check.outcome is outcome
    assert figure.check.value == pytest.approx(lost)
    assert figure.check.baseline == 1
    assert not figure.undecided


def test_an_open_share_says_how_many_cases_it_takes() -> None:
    """A sample that neither passes nor fails is inconclusive, and told about how many would decide."""
    figure = BOUNDS.share(
        answered(both=27, lost=2), name="facts.max_drop", limit=0.10, statistic="drop"
    )

    assert figure.check.outcome is Outcome.INCONCLUSIVE
    assert figure.undecided.startswith("facts.max_drop is undecided at 29 cases: about ")
    assert figure.undecided.endswith(
        " cases of the kind would decide it; give more of them, or widen the limit"
    )


def test_ill_texts_are_counted_as_an_increase() -> None:
    """What the baseline shows of them itself is its figure, and the sample is one of texts."""
    figure = BOUNDS.ill_share(
        answered(both=20, lost=40, none=4), name="repetition.max_increase", limit=0.1, statistic="x"
    )

    assert figure.check.outcome is Outcome.FAIL
    assert figure.check.value == pytest.approx(62.5)
    assert figure.check.baseline == pytest.approx(4 / 64)
    assert figure.check.sample == "64 texts"


def test_a_baseline_without_room_is_an_error() -> None:
    """A drop that cannot go beyond the limit could never be missed."""
    with pytest.raises(MeasurementError, match=r"only 10% of 100 outputs of the F16 baseline"):
        BOUNDS.share(answered(both=10, none=90), name="x.max_drop", limit=0.1, statistic="x")

    BOUNDS.share(answered(both=11, none=89), name="x.max_drop", limit=0.1, statistic="x")


def test_means_take_enough_texts() -> None:
    """Sixteen texts are the fewest; fifteen are an error that asks for more."""
    with pytest.raises(MeasurementError, match=r"decided on 16 texts at least, and 15 can be read"):
        BOUNDS.mean([(0.0, 0.0)] * 15, name="x", limit=1.0, statistic="x")

    assert BOUNDS.mean([(0.0, 0.0)] * 16, name="x", limit=1.0, statistic="x").check.value == 0


@pytest.mark.parametrize(
    ("shift", "outcome"),
    [(0.0, Outcome.PASS), (0.1, Outcome.INCONCLUSIVE), (0.3, Outcome.FAIL)],
)
def test_means_are_decided_by_their_bounds(shift: float, outcome: Outcome) -> None:
    """Far below the limit passes, far above fails, at the limit is open and says what it takes."""
    base, own = np.random.default_rng(7).normal(0.2, 0.1, (2, 64)).tolist()
    pairs = [(shift + one, other) for one, other in zip(own, base, strict=True)]
    figure = BOUNDS.mean(pairs, name="x.max", limit=0.1, statistic="x", unit="pp")

    assert figure.check.outcome is outcome
    assert figure.check.limit == pytest.approx(10)
    assert bool(figure.undecided) is (outcome is Outcome.INCONCLUSIVE)


def test_texts_without_difference_prove_a_little() -> None:
    """Sixty-four equal texts pass a limit of 10 points, and not one of 2."""
    equal = [(0.5, 0.5)] * 64

    wide = BOUNDS.mean(equal, name="x", limit=0.10, statistic="x", unit="pp")
    narrow = BOUNDS.mean(equal, name="x", limit=0.02, statistic="x", unit="pp")

    assert wide.check.outcome is Outcome.PASS
    assert narrow.check.outcome is Outcome.INCONCLUSIVE


# --- remedies and prompts --------------------------------------------------------------------------


def test_each_sign_names_cause_and_remedy() -> None:
    """A variant of too few bits is told the likely cause, and the level that helps."""
    advice = {sign: SIGNS[sign].advice("Q2_K") for sign in SIGNS}

    assert list(advice) == ["repetition", "gibberish", "facts", "format"]
    assert (
        "the weights of the attention lost too many bits. Choose a higher level, Q5_K_M"
        in (advice["repetition"])
    )
    assert "Take Q4_K_M at the least and leave levels of 2 and 3 bits alone" in advice["gibberish"]
    assert "Choose a higher level for tasks that rest on knowledge, Q6_K or Q8_0" in advice["facts"]
    assert "Take Q5_K_M or higher where other programs read the output" in advice["format"]


def test_enough_bits_are_no_remedy() -> None:
    """From the level that helps on, and for types nobody knows, the cause is to be sought elsewhere."""
    for sign in SIGNS.values():
        assert sign.level in QUANTIZATION_TYPES
        assert "look for another cause" in sign.advice(sign.level)
        assert "look for another cause" in sign.advice("F16")
        assert "look for another cause" not in sign.advice("Q3_K_M")


def test_the_open_prompts_are_cases() -> None:
    """64 prompts come along, more than half of them chats, in four languages."""
    cases = load_cases(OPEN_PROMPTS, shown="open prompts")
    languages = {"english", "german", "french", "spanish"}

    assert len(cases) == 64
    assert all(case.id.startswith("open-") for case in cases)
    assert sum(bool(case.messages) for case in cases) > 32
    assert languages == {tag for case in cases for tag in case.tags} - {"open"}
