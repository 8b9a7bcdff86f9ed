"""Many texts decoded together in one session, each in a lane of its own.

Decoding one token for one text reads all weights; decoding one token for each of many texts reads them
once. So a number of lanes advance together, and a lane whose text has ended takes the next text at once,
whose tokens are processed in the same batches. What many texts begin with is decoded once, in a spare
lane, and copied to each of them.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.probe.backend import Batch, ContextShape
from pytest_quantgate.probe.prefixes import shared_prefixes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from pytest_quantgate.probe.backend import Backend, Session
    from pytest_quantgate.probe.prefixes import SharedPrefix

MOST_CELLS = 16384
"""Most tokens held in memory over all lanes: one very long prompt shall not multiply by 64."""

MOST_LANES = 256
"""Most texts decoded together, whatever a request says; llama.cpp's own limit."""

MOST_SPARE = 8
"""Most shared beginnings kept at one time."""

_WIDE = 24
"""From so many texts on, a step costs little more for a text that adds one token of its prompt."""

_STRIDE = 8
"""Tokens of a prompt that are fed in one step are a multiple of this, where a step is wide."""

_CELLS_PER_TOKEN = 128
"""A copy moves a lane's whole memory; so many cells take about as long as decoding one token."""


@dataclass(slots=True, kw_only=True, eq=False)
class Line:
    """A text in the making: what is given, what was added, and how much of it the session has seen."""

    tokens: NDArray[np.int32]
    room: int
    """Most tokens it can come to."""
    generated: list[int] = field(default_factory=list)
    fed: int = 0

    @property
    def complete(self) -> bool:
        """Whether everything there is has been fed, so that a next token can be chosen."""
        return self.fed == len(self.tokens) + len(self.generated)

    def portion(self, stride: int) -> int:
        """Return how many tokens are worth feeding at once: a multiple of the stride, or one.

        llama.cpp processes texts at once only as far as they are equally long. Prompts of all lengths
        would fall into many small batches; the few tokens that go beyond a multiple cost less one by
        one, beside the tokens of other texts.
        """
        left = max(1, len(self.tokens) - self.fed)
        return left // stride * stride or 1

    def feed(self, most: int) -> Sequence[int] | NDArray[np.int32]:
        """Return the next tokens to feed, at most ``most`` of them, and count them as fed."""
        given = len(self.tokens)
        pending = (
            self.tokens[self.fed : self.fed + most]
            if self.fed < given
            else self.generated[self.fed - given : self.fed - given + most]
        )
        self.fed += len(pending)
        return pending


def copy_cost(room: int) -> int:
    """Return what copying a lane of this room costs, in tokens that could be decoded instead."""
    return 4 + room // _CELLS_PER_TOKEN


def decode_together(
    backend: Backend,
    lines: Sequence[Line],
    *,
    together: int,
    choose: Callable[[Sequence[Line], NDArray[np.float32]], Sequence[bool]],
) -> None:
    """Decode lines until each has ended.

    Args:
        backend: What they are decoded with.
        lines: The texts, those first that shall start first; texts that share a beginning follow the
            first one of them.
        together: Most texts in work at one time. It is an upper bound: there are fewer where their
            memory would exceed `MOST_CELLS` tokens.
        choose: Is given lines that are complete, and the logits after the last token of each, which are
            good until it returns. It adds a token to a line, or says True for one that has ended.
    """
    room = max(line.room for line in lines)
    prefixes = shared_prefixes([line.tokens for line in lines], cost=copy_cost(room))
    most = min(MOST_LANES, max(1, MOST_CELLS // room))
    spare = min(len(prefixes), MOST_SPARE, max(1, most // 4))
    lanes = max(1, min(together, len(lines), most - spare))
    session = backend.open(ContextShape(sequences=lanes + spare, tokens=room))
    try:
        work = _Lanes(session, lines, prefixes, lanes=lanes, spare=spare, cost=copy_cost(room))
        while work.unfinished:
            work.advance(choose)
    finally:
        session.close()


class _Lanes:
    """The texts in work, those that wait, and the shared beginnings they wait for."""

    def __init__(
        self,
        session: Session,
        lines: Sequence[Line],
        prefixes: Sequence[SharedPrefix],
        *,
        lanes: int,
        spare: int,
        cost: int,
    ) -> None:
        self._session = session
        self._cost = cost
        self._free = set(range(lanes))
        self._spare = set(range(lanes, lanes + spare))
        self._active: dict[int, Line] = {}
        self._prefix_of: dict[int, int] = {}
        for number, prefix in enumerate(prefixes):
            self._prefix_of.update(dict.fromkeys(prefix.members, number))
        self._beginnings = [
            Line(tokens=lines[prefix.members[0]].tokens[: prefix.length], room=prefix.length)
            for prefix in prefixes
        ]
        self._kept: dict[int, int] = {}
        """The lane of each beginning that is being decoded or kept."""
        self._users = Counter(self._prefix_of.values())
        self._waiting = deque(self._queue(lines))

    @property
    def unfinished(self) -> bool:
        """Whether a text is in work or waits."""
        return bool(self._waiting or self._active)

    def advance(
        self, choose: Callable[[Sequence[Line], NDArray[np.float32]], Sequence[bool]]
    ) -> None:
        """Decode one batch and let tokens be chosen where texts are complete."""
        self._start()
        fed = self._select()
        complete = [
            lane for lane, _, _ in fed if lane in self._active and self._active[lane].complete
        ]
        logits = self._session.decode(_batch(fed, flagged=set(complete)))
        if not complete:
            return
        for lane, ended in zip(
            complete, choose([self._active[lane] for lane in complete], logits), strict=True
        ):
            if ended:
                del self._active[lane]
                self._session.forget(lane)
                self._free.add(lane)
        self._close_up()

    def _queue(self, lines: Sequence[Line]) -> list[tuple[Line, int | None]]:
        """Return lines in the order they start, those with one beginning side by side.

        A beginning is then kept from the first of its lines to the last, and no line waits for a spare
        lane that lines behind it hold.
        """
        groups: dict[int, list[tuple[Line, int | None]]] = {}
        for place, line in enumerate(lines):
            prefix = self._prefix_of.get(place)
            groups.setdefault(-1 - place if prefix is None else prefix, []).append((line, prefix))
        return [entry for group in groups.values() for entry in group]

    def _start(self) -> None:
        """Give free lanes to waiting lines, and spare ones to beginnings that these wait for."""
        for _, prefix in islice(self._waiting, len(self._free)):
            if prefix is not None and prefix not in self._kept and self._spare:
                lane = min(self._spare)
                self._spare.remove(lane)
                self._kept[prefix] = lane
        for lane in sorted(self._free):
            if not self._waiting:
                return
            line, prefix = self._waiting[0]
            if prefix is not None:
                if prefix not in self._kept or not self._beginnings[prefix].complete:
                    return
                self._session.copy(self._kept[prefix], lane)
                line.fed = len(self._beginnings[prefix].tokens)
                self._leave(prefix)
            self._waiting.popleft()
            self._free.remove(lane)
            self._active[lane] = line

    def _leave(self, prefix: int) -> None:
        """Free a beginning's lane when the last line has copied it."""
        self._users[prefix] -= 1
        if not self._users[prefix]:
            lane = self._kept.pop(prefix)
            self._session.forget(lane)
            self._spare.add(lane)

    def _select(self) -> list[tuple[int, int, Sequence[int] | NDArray[np.int32]]]:
        """Return what to feed, by lane: its number, the position, and the tokens."""
        pending = dict(self._active)
        for prefix, lane in self._kept.items():
            if not self._beginnings[prefix].complete:
                pending[lane] = self._beginnings[prefix]
        # Texts that generate need one place each and must not wait for long prompts; beginnings come
        # next, for others wait for them.
        order = sorted(
            pending,
            key=lambda lane: (not pending[lane].generated, lane in self._active, lane),
        )
        left = self._session.batch_limit
        stride = _STRIDE if len(pending) >= _WIDE else 1
        fed = []
        for lane in order:
            if left == 0:
                break
            position = pending[lane].fed
            tokens = pending[lane].feed(min(left, pending[lane].portion(stride)))
            left -= len(tokens)
            fed.append((lane, position, tokens))
        # llama.cpp processes sequences together as far as their numbers rise by one.
        return sorted(fed, key=lambda entry: entry[0])

    def _close_up(self) -> None:
        """Move the last texts into lanes that have become free between others.

        llama.cpp would process what lies on both sides of a free lane one after the other.
        """
        if self._waiting or not self._active:
            return
        to_come = max(
            line.room - len(line.tokens) - len(line.generated) for line in self._active.values()
        )
        if to_come <= self._cost:
            return
        while (target := min(self._free, default=MOST_LANES)) < (source := max(self._active)):
            self._session.copy(source, target)
            self._session.forget(source)
            self._active[target] = self._active.pop(source)
            self._free.remove(target)
            self._free.add(source)


def _batch(
    fed: Sequence[tuple[int, int, Sequence[int] | NDArray[np.int32]]], *, flagged: set[int]
) -> Batch:
    """Return tokens as a batch; logits are wanted after the last one of each flagged lane."""
    counts = [len(tokens) for _, _, tokens in fed]
    outputs = np.zeros(sum(counts), dtype=np.int8)
    ends = np.cumsum(counts) - 1
    outputs[ends[[lane in flagged for lane, _, _ in fed]]] = 1
    return Batch(
        tokens=np.concatenate([np.asarray(tokens, dtype=np.int32) for _, _, tokens in fed]),
        positions=np.concatenate(
            [
                np.arange(start, start + count, dtype=np.int32)
                for (_, start, _), count in zip(fed, counts, strict=True)
            ]
        ),
        sequences=np.repeat(np.array([lane for lane, _, _ in fed], dtype=np.int32), counts),
        outputs=outputs,
    )
