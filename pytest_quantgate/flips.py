"""Cases whose answers flipped between baseline and candidate: where they part, and how to tell of them.

A share of right answers says how many cases were lost; which ones, and at which token the two models
went different ways, is what a person can act on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

from pytest_quantgate.errors import ProbeRefused
from pytest_quantgate.records import Beginning, NextTokensRequest, Parting
from pytest_quantgate.report import answers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_quantgate.gates import Bench, Role
    from pytest_quantgate.records import (
        Answer,
        AnsweredCase,
        NextToken,
        NextTokens,
        Prompt,
        TokenChance,
    )

NEAR_TIE_NATS = 0.4
"""Two tokens whose log-probabilities are no further apart are a near tie.

It is how far decoding cases together moves one token's against another's in 99 of 100 tokens of a
Q4_K_M model (decision 21).
"""

SHOWN_FLIPS = 10
"""Flips of each direction that findings show; the export holds all of them."""

SHOWN_WRONG = 10
"""Cases that findings show which are wrong without having flipped."""

SHOWN_CHARACTERS = 300
SHOWN_TAIL = 60

_Fate = Literal["lost", "gained", "wrong", "wrong in both", "right"]

_BOTH: tuple[Role, Role] = ("baseline", "candidate")
_SHOWN: dict[_Fate, int] = {
    "lost": SHOWN_FLIPS,
    "gained": SHOWN_FLIPS,
    "wrong": SHOWN_WRONG,
    "wrong in both": SHOWN_WRONG,
}


class Asker(Protocol):
    """What `with_partings` needs of a bench: two models to ask, and the cases that a user named."""

    @property
    def chosen_cases(self) -> frozenset[str]:
        """Ids of cases to look at in any case."""

    def next_tokens(self, role: Role, request: NextTokensRequest) -> NextTokens:
        """Return what may follow beginnings under one of the models."""


def with_partings(
    cases: Sequence[AnsweredCase], prompts: Mapping[str, Prompt], bench: Asker
) -> tuple[AnsweredCase, ...]:
    """Return the cases, those that flipped with the token at which the two outputs part.

    Both models are asked for their chances at that token: of what the baseline chose and of what the
    candidate chose. A case that the user named by its id is looked at even where it did not flip.

    A case stays as it is where no one token can be told: where nothing was generated, where both
    generated the same tokens, or where the two models read the same token numbers as different
    texts, because their vocabularies differ. Outputs must be greedy ones: of an output that was drawn
    by chance, the token that ended it is not known.

    Args:
        cases: answered cases, in any order.
        prompts: what the models were asked, by the id of the case.
        bench: what asks the models.

    Raises:
        QuantgateError: the models could not be asked.
    """
    forks = [
        fork
        for case in cases
        if (case.flip or case.id in bench.chosen_cases)
        and (fork := _fork(case, prompts[case.id])) is not None
    ]
    forks = _with_endings(forks, bench)
    if not forks:
        return tuple(cases)
    request = NextTokensRequest(
        beginnings=tuple(
            Beginning(prompt=fork.prompt, generated=fork.common, also=fork.asked())
            for fork in forks
        ),
        top=1,
    )
    try:
        chances = {role: bench.next_tokens(role, request).beginnings for role in _BOTH}
    except ProbeRefused:
        # Each has read these prompts and continued them: what one refuses is a token of the other
        # that its vocabulary lacks.
        return tuple(cases)
    partings = {
        fork.id: _parting(fork, baseline, candidate)
        for fork, baseline, candidate in zip(
            forks, chances["baseline"], chances["candidate"], strict=True
        )
    }
    return tuple(
        replace(case, parting=partings[case.id]) if case.id in partings else case for case in cases
    )


def listing(cases: Sequence[AnsweredCase], bench: Bench) -> tuple[str, ...]:
    """Return findings on answered cases: each flip in both directions, and cases that are wrong anyway.

    A finding may have several lines. At most `SHOWN_FLIPS` flips of each direction are shown and at
    most `SHOWN_WRONG` other wrong cases, of which those that the baseline answers wrong, too, are named
    only; the last finding says how to ask one case again and how to have all answers in a file. Cases
    that the user named by their ids are all shown, right or wrong.
    """
    if bench.chosen_cases:
        return tuple(_told(case, bench) for case in cases)
    lines: list[str] = []
    for fate, most in _SHOWN.items():
        found = [case for case in cases if _fate(case) == fate]
        if fate == "wrong in both":
            # They say nothing of quantization: their names are enough.
            lines += [f"wrong in both: {', '.join(case.id for case in found[:most])}"][: len(found)]
        else:
            lines += [_told(case, bench) for case in found[:most]]
        if len(found) > most:
            lines.append(f"... and {len(found) - most} more {fate}")
    if lines:
        lines.append(_how_to_see_more(cases, bench))
    return tuple(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fork:
    """Where two outputs to one prompt differ first: the equal tokens, and the next one of each.

    The next token of an output that ended there is None until its model has been asked.
    """

    id: str
    prompt: Prompt
    common: tuple[int, ...]
    chosen: tuple[int | None, int | None]
    """What baseline and candidate chose."""
    texts: tuple[str, str]

    def asked(self) -> tuple[int, ...]:
        """Return the tokens of interest: both choices, then each common one once."""
        choices = [token for token in self.chosen if token is not None]
        return (*choices, *dict.fromkeys(self.common))


def _fork(case: AnsweredCase, prompt: Prompt) -> _Fork | None:
    if case.baseline is None:
        return None
    ours = (case.baseline, case.candidate)
    if not all(answer.finish for answer in ours):
        return None
    first, second = (answer.token_ids for answer in ours)
    same = alike(first, second)
    chosen = (_at(first, same), _at(second, same))
    if chosen == (None, None):
        return None
    for answer, token in zip(ours, chosen, strict=True):
        # A schema masks tokens, and a limit ends an output whatever its model would have chosen next.
        if token is None and (prompt.json_schema is not None or answer.finish == "length"):
            return None
    return _Fork(
        id=case.id,
        prompt=prompt,
        common=first[:same],
        chosen=chosen,
        texts=(case.baseline.output, case.candidate.output),
    )


def alike(first: Sequence[object], second: Sequence[object]) -> int:
    """Return how many elements two sequences begin with alike."""
    pairs = zip(first, second, strict=False)
    differing = (place for place, (one, other) in enumerate(pairs) if one != other)
    return next(differing, min(len(first), len(second)))


def _at(tokens: tuple[int, ...], place: int) -> int | None:
    return tokens[place] if place < len(tokens) else None


def _with_endings(forks: Sequence[_Fork], bench: Asker) -> list[_Fork]:
    """Ask models whose outputs ended for the token that ended them: their most probable one."""
    known = {fork.id: fork for fork in forks}
    for place, role in enumerate(_BOTH):
        ended = [fork for fork in forks if fork.chosen[place] is None]
        if not ended:
            continue
        request = NextTokensRequest(
            beginnings=tuple(
                Beginning(prompt=fork.prompt, generated=fork.common) for fork in ended
            ),
            top=1,
        )
        following = bench.next_tokens(role, request).beginnings
        for fork, next_token in zip(ended, following, strict=True):
            ending = next_token.top[0].token
            if ending in fork.chosen:
                # Alone in a batch the model would have gone on as the other one did: which token
                # ended its output cannot be told any more.
                del known[fork.id]
                continue
            first, second = fork.chosen
            chosen = (ending, second) if place == 0 else (first, ending)
            known[fork.id] = replace(fork, chosen=chosen)
    return [known[fork.id] for fork in forks if fork.id in known]


def _parting(fork: _Fork, baseline: NextToken, candidate: NextToken) -> Parting | None:
    """Put the chances of both models together; None where they do not share a vocabulary."""
    if [each.text for each in baseline.also] != [each.text for each in candidate.also]:
        return None
    pieces = {chance.token: chance.text for chance in baseline.also}
    chances = [(answer.also[0], answer.also[1]) for answer in (baseline, candidate)]
    return Parting(
        position=len(fork.common),
        common=_common_text([pieces[token] for token in fork.common], fork.texts),
        baseline=(chances[0][0], chances[1][0]),
        candidate=(chances[0][1], chances[1][1]),
        near_tie=any(
            _apart(first.probability, second.probability) <= NEAR_TIE_NATS
            for first, second in chances
        ),
    )


def _apart(first: float, second: float) -> float:
    """Return the distance of two probabilities in nats."""
    if not (first > 0 and second > 0):
        return math.inf
    return abs(math.log(first) - math.log(second))


def _common_text(pieces: Sequence[str], texts: tuple[str, str]) -> str:
    """Return the text of the tokens that two outputs begin with alike.

    Tokens of parts of characters have no texts of their own, and a stop string that was cut off shows
    in the tokens only: then it is what the two texts begin with alike.
    """
    joined = "".join(pieces)
    if all(text.startswith(joined) for text in texts):
        return joined
    return texts[0][: alike(*texts)]


def _fate(case: AnsweredCase) -> _Fate:
    if case.flip is not None:
        return case.flip
    if case.candidate.right == 1:
        return "right"
    return "wrong" if case.baseline is None else "wrong in both"


def _told(case: AnsweredCase, bench: Bench) -> str:
    """Return what there is to say of one case, its first line saying what became of it."""
    names: dict[Role, str] = {"baseline": bench.baseline_name, "candidate": bench.candidate_name}
    tags = f" [{', '.join(case.tags)}]" if case.tags else ""
    lines = [
        f"{_fate(case)}: {case.id}{tags}: {_short(case.question)}",
        f"    expected: {_plain(case.expected)}",
    ]
    if case.baseline is not None:
        lines.append(f"    {names['baseline']}: {_answer(case.baseline)}")
    lines.append(f"    {names['candidate']}: {_answer(case.candidate)}")
    if case.parting is not None:
        lines.append(f"    {_parted(case.parting, names)}")
    return "\n".join(lines)


def _answer(answer: Answer) -> str:
    text = _short(answer.output)
    if answer.right == 1:
        return f"{text}, right"
    wrong = "wrong" if answer.right == 0 else f"right in {answer.right:.0%} of its repeats"
    return f"{text}, {wrong}" + (f": {_plain(answer.reason)}" if answer.reason else "")


def _parted(parting: Parting, names: Mapping[Role, str]) -> str:
    count = f"{parting.position} token" + ("" if parting.position == 1 else "s")
    after = f"after {count}, {_tail(parting.common)}," if parting.position else "at the first token"
    base_own, base_other = parting.baseline
    other, own = parting.candidate
    text = (
        f"they part {after} where {names['baseline']} has {_token(base_own)}"
        f" ({_chance(base_own)}; {names['candidate']} {_chance(base_other)})"
        f" and {names['candidate']} {_token(own)}"
        f" ({_chance(own)}; {names['baseline']} {_chance(other)})"
    )
    if parting.near_tie:
        text += ": a near tie, which the cases decoded beside it can turn"
    return text


def _token(chance: TokenChance) -> str:
    return repr(chance.text) if chance.text else f"token {chance.token}"


def _chance(chance: TokenChance) -> str:
    return f"{chance.probability:.1%}, rank {chance.rank}"


def _how_to_see_more(cases: Sequence[AnsweredCase], bench: Bench) -> str:
    """Return the command that asks the first case of the list again, ready to be pasted."""
    first = next(case for fate in _SHOWN for case in cases if _fate(case) == fate)
    return (
        f"ask one case again: {answers.again(bench.gate_id, first.id)}; have every answer in a file:"
        " --quantgate-answers FILE.jsonl"
    )


def _short(text: str) -> str:
    return repr(_cut(text))


def _plain(text: str) -> str:
    """Return a text without quotation marks, unless it would break the line."""
    cut = _cut(text)
    return cut if cut.isprintable() else repr(cut)


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def _tail(text: str) -> str:
    """Return the end of a text: what was said last is what the next token goes on with."""
    return repr(text if len(text) <= SHOWN_TAIL else f"...{text[-SHOWN_TAIL:]}")
