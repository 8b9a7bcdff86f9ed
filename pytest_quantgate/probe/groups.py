"""Likelihood of groups of token sequences, with what those of a group begin with decoded once.

The sequences of one group are decoded together and with nothing else: what other sequences stand in a
batch changes the last bits of a likelihood, and with a quantized model more than those. So a score
depends on its own group alone, unless the caller wants several together. Long beginnings are read in
pieces of fixed length, which are kept for the next group that begins with the same ones; a piece read
before is the same as one read again.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.errors import MeasurementError, ProbeRefused
from pytest_quantgate.probe.backend import Batch, ContextShape
from pytest_quantgate.probe.likelihood import BLOCK_VALUES
from pytest_quantgate.probe.windows import broken_model
from pytest_quantgate.records import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from pytest_quantgate.probe.backend import Session
    from pytest_quantgate.probe.windows import Reader

PIECE_TOKENS = 256
"""Length of the pieces of a beginning that are kept from one group to the next."""

MOST_PIECES = 8

MOST_LINES = 56
"""Sequences decoded together; a larger group is decoded in parts."""

_BATCH_TOKENS = 512
_SEQUENCES = MOST_PIECES + MOST_LINES


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Line:
    """A token sequence whose tokens from place ``first`` on are scored, given all before them.

    ``name`` says in messages what it is.
    """

    name: str
    tokens: NDArray[np.int32]
    first: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LineScore:
    """Of each scored token: its negative log-likelihood in nats, and whether it is the most probable."""

    nll: NDArray[np.float64]
    greedy: NDArray[np.bool_]


def score_groups(
    reader: Reader,
    groups: Sequence[Sequence[Line]],
    report: Callable[[Progress], None],
    *,
    step: str,
    unit: str,
    read_last: bool = False,
    together: int = 1,
) -> list[list[LineScore]]:
    """Score token sequences, group by group; those of one group should begin alike.

    Args:
        reader: Reads with the model.
        groups: What to score; the answer is in their order.
        report: Is told how many groups are done.
        step: What this is called in reports.
        unit: What a group is called in reports.
        read_last: Let the model read the last token of each line too, though nothing follows it, as
            llama.cpp's tools do: how many tokens are read together is in the last bits of a score.
        together: Decode so many groups at once, in the order given and with no beginning kept, as
            a tool does whose scores are wanted.

    Raises:
        MeasurementError: the model answered with something that is no number.
        ProbeRefused: a line that cannot be scored or is longer than the model can read; the text
            names it.
    """
    for line in (line for group in groups for line in group):
        _check(line, reader.facts.context_train)
    order = list(range(len(groups)))
    if together == 1:
        # Groups that begin alike follow one another, whatever the order they are asked for in.
        order.sort(key=lambda place: groups[place][0].tokens.astype(">u4").tobytes())
    bundles = [order[start : start + together] for start in range(0, len(order), together)]
    longest = max(len(line.tokens) for group in groups for line in group)
    cells = -(-(together * longest + _BATCH_TOKENS) // _BATCH_TOKENS) * _BATCH_TOKENS
    session = reader.session(
        ContextShape(sequences=_SEQUENCES, tokens=cells // _SEQUENCES, shared=True)
    )
    found: list[list[LineScore]] = [[] for _ in groups]
    report(Progress(step=step, done=0, total=len(groups), unit=unit))
    with ThreadPoolExecutor(max_workers=reader.settings.threads) as pool:
        desk = _Desk(session, pool, cells=cells, read_last=read_last)
        done = 0
        for bundle in bundles:
            if together == 1:
                scores = [desk.scores(groups[place]) for place in bundle]
            else:
                scores = desk.bundle_scores([groups[place] for place in bundle])
            for place, own in zip(bundle, scores, strict=True):
                found[place] = own
                for line, score in zip(groups[place], own, strict=True):
                    _require_finite(line, score, reader.facts.description)
            done += len(bundle)
            report(Progress(step=step, done=done, total=len(groups), unit=unit))
    return found


def _check(line: Line, trained: int) -> None:
    length = len(line.tokens)
    problem = None
    if not 0 < line.first < length:
        problem = f"has no token to score after token {line.first} of {length}"
    elif length > trained:
        problem = f"is {length} tokens long; the model was trained for {trained}: shorten it"
    if problem is not None:
        message = f"{line.name} {problem}"
        raise ProbeRefused(message)


def _require_finite(line: Line, score: LineScore, description: str) -> None:
    if not np.isfinite(score.nll).all():
        value = "NaN" if np.isnan(score.nll).any() else "infinity"
        raise MeasurementError(broken_model("model", f"{value} in {line.name}", description))


class _Desk:
    """A session and the pieces of beginnings that lie in it.

    Sequence i holds the first i + 1 pieces of the last beginning, so that going back to fewer of them
    means to empty whole sequences, which every kind of model can do. What is read next lies in the
    cells that were emptied, as it would in a fresh session.
    """

    def __init__(
        self, session: Session, pool: ThreadPoolExecutor, *, cells: int, read_last: bool
    ) -> None:
        self._session = session
        self._pool = pool
        self._cells = cells
        self._unread = 0 if read_last else 1
        self._pieces: list[NDArray[np.int32]] = []

    def scores(self, group: Sequence[Line]) -> list[LineScore]:
        """Score the lines of one group."""
        common = common_tokens([line.tokens[:-1] for line in group])
        # What the first scored token follows from must be read with the lines: its logits are wanted.
        given = min(common, *(line.first - 1 for line in group))
        pieces = min(given // PIECE_TOKENS, MOST_PIECES)
        self._hold(
            [
                group[0].tokens[start : start + PIECE_TOKENS]
                for start in range(0, pieces * PIECE_TOKENS, PIECE_TOKENS)
            ]
        )
        found: list[LineScore] = []
        for part in self._parts(group, common):
            found += self._score_part(part, common, held=pieces * PIECE_TOKENS)
        return found

    def _hold(self, pieces: list[NDArray[np.int32]]) -> None:
        """Let the session hold these pieces and no others."""
        known = 0
        for old, new in zip(self._pieces, pieces, strict=False):
            if not np.array_equal(old, new):
                break
            known += 1
        for level in reversed(range(known, len(self._pieces))):
            self._session.forget(level)
        self._pieces = pieces
        for level in range(known, len(pieces)):
            if level:
                self._session.copy(level - 1, level)
            self._read(pieces[level], level)

    def _read(self, piece: NDArray[np.int32], level: int) -> None:
        step = min(PIECE_TOKENS, self._session.batch_limit)
        for start in range(0, len(piece), step):
            part = piece[start : start + step]
            before = level * PIECE_TOKENS + start
            self._session.decode(
                Batch(
                    tokens=part,
                    positions=np.arange(before, before + len(part), dtype=np.int32),
                    sequences=np.full(len(part), level, dtype=np.int32),
                    outputs=np.zeros(len(part), dtype=np.int8),
                )
            )

    def _parts(self, group: Sequence[Line], common: int) -> Iterator[Sequence[Line]]:
        """Yield as many lines at a time as the session has sequences and cells for."""
        start, used = 0, common
        for end, line in enumerate(group):
            own = len(line.tokens) - self._unread - common
            if end > start and (used + own > self._cells or end - start == MOST_LINES):
                yield group[start:end]
                start, used = end, common
            used += own
        yield group[start:]

    def _score_part(self, lines: Sequence[Line], common: int, *, held: int) -> list[LineScore]:
        """Decode lines: first what they begin with alike, as one, then the rest of each."""
        tree = _Tree.of(lines, common, held=held, sequence=MOST_PIECES, unread=self._unread)
        if held:
            for sequence in tree.sequences:
                self._session.copy(held // PIECE_TOKENS - 1, sequence)
        return self._decoded([tree])[0]

    def bundle_scores(self, groups: Sequence[Sequence[Line]]) -> list[list[LineScore]]:
        """Score several groups in one batch, each as a beginning and what follows it."""
        self._hold([])
        trees: list[_Tree] = []
        for group in groups:
            sequence = MOST_PIECES + sum(len(tree.lines) for tree in trees)
            common = common_tokens([line.tokens[:-1] for line in group])
            trees.append(_Tree.of(group, common, held=0, sequence=sequence, unread=self._unread))
        return self._decoded(trees)

    def _decoded(self, trees: Sequence[_Tree]) -> list[list[LineScore]]:
        starts = np.cumsum([0] + [len(tree.batch.tokens) for tree in trees])
        nodes = np.concatenate(
            [start + tree.nodes for start, tree in zip(starts, trees, strict=False)]
        )
        batches = [tree.batch for tree in trees]
        whole = Batch(
            tokens=np.concatenate([batch.tokens for batch in batches]),
            positions=np.concatenate([batch.positions for batch in batches]),
            sequences=np.concatenate([batch.sequences for batch in batches]),
            outputs=np.concatenate([batch.outputs for batch in batches]),
            spans=np.concatenate([tree.spans for tree in trees]),
        )
        lines = [line for tree in trees for line in tree.lines]
        targets = np.concatenate([line.tokens[line.first :] for line in lines])
        nll, greedy = _score(self._session, whole, nodes, targets, self._pool)
        for tree in trees:
            for sequence in tree.sequences:
                self._session.forget(sequence)
        ends = np.cumsum([len(line.tokens) - line.first for line in lines])[:-1]
        scores = iter(
            LineScore(nll=own, greedy=best)
            for own, best in zip(np.split(nll, ends), np.split(greedy, ends), strict=True)
        )
        return [[next(scores) for _ in tree.lines] for tree in trees]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Tree:
    """Lines as a batch: what they begin with alike, once and for all of them, then the rest of each.

    ``nodes`` are the places in the batch whose logits foretell the scored tokens, line by line.
    """

    lines: Sequence[Line]
    sequences: list[int]
    batch: Batch
    spans: NDArray[np.int32]
    nodes: NDArray[np.intp]

    @classmethod
    def of(
        cls, lines: Sequence[Line], common: int, *, held: int, sequence: int, unread: int
    ) -> _Tree:
        """Lay out lines from place ``held`` on, in sequences from ``sequence`` on."""
        sequences = np.arange(sequence, sequence + len(lines), dtype=np.int32)
        rests = [line.tokens[common : len(line.tokens) - unread] for line in lines]
        lengths = [len(rest) for rest in rests]
        alike = common - held
        places = []
        begin = alike
        for line, length in zip(lines, lengths, strict=True):
            path = np.concatenate((np.arange(alike), np.arange(begin, begin + length)))
            places.append(path[line.first - 1 - held : len(line.tokens) - 1 - held])
            begin += length
        nodes = np.concatenate(places)
        outputs = np.zeros(begin, dtype=np.int8)
        outputs[nodes] = 1
        spans = np.ones(begin, dtype=np.int32)
        spans[:alike] = len(lines)
        batch = Batch(
            tokens=np.concatenate([lines[0].tokens[held:common], *rests]),
            positions=np.concatenate(
                [np.arange(held, common)] + [np.arange(common, common + size) for size in lengths]
            ).astype(np.int32),
            sequences=np.repeat(np.concatenate((sequences[:1], sequences)), [alike, *lengths]),
            outputs=outputs,
            spans=spans,
        )
        return cls(lines=lines, sequences=sequences.tolist(), batch=batch, spans=spans, nodes=nodes)


def common_tokens(sequences: Sequence[NDArray[np.int32]]) -> int:
    """Return how many tokens all sequences begin with alike."""
    length = min(len(each) for each in sequences)
    stacked = np.stack([each[:length] for each in sequences])
    different = np.flatnonzero((stacked != stacked[0]).any(axis=0))
    return int(different[0]) if different.size else length


def _score(
    session: Session,
    batch: Batch,
    nodes: NDArray[np.intp],
    targets: NDArray[np.int32],
    pool: ThreadPoolExecutor,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Decode a batch and score each target by the logits of its node, in calls the session can take."""
    nll = np.empty(len(nodes))
    greedy = np.empty(len(nodes), dtype=np.bool_)
    step = min(_BATCH_TOKENS, session.batch_limit)
    for start in range(0, len(batch.tokens), step):
        piece = batch.part(start, start + step)
        logits = session.decode(piece)
        mine = np.flatnonzero((nodes >= start) & (nodes < start + step))
        if not mine.size:
            continue
        rows = (np.cumsum(piece.outputs, dtype=np.intp) - 1)[nodes[mine] - start]
        highest, log_sums, best = _normalizers(logits, pool)
        with np.errstate(all="ignore"):
            reached = (logits[rows, targets[mine]] - highest[rows]).astype(np.float64)
            nll[mine] = log_sums[rows] - reached
        greedy[mine] = best[rows] == targets[mine]
    return nll, greedy


def _normalizers(
    logits: NDArray[np.float32], pool: ThreadPoolExecutor
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.intp]]:
    """Return each row's greatest logit, log of the summed exponentials below it, and its place.

    Maximum and exponentials are float32 and their sum float64, as in `likelihood.token_nll`.
    """
    block = max(1, BLOCK_VALUES // logits.shape[1])

    def reduce(start: int) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.intp]]:
        part = logits[start : start + block]
        # What is no number stays none through all of this, and the caller looks for it.
        with np.errstate(all="ignore"):
            best = part.argmax(axis=1)
            highest = part[np.arange(len(part)), best]
            powers = np.subtract(part, highest[:, None])
            np.exp(powers, out=powers)
            return highest, np.log(powers.sum(axis=1, dtype=np.float64)), best

    reduced = list(pool.map(reduce, range(0, len(logits), block)))
    highest, log_sums, best = (np.concatenate(column) for column in zip(*reduced, strict=True))
    return highest, log_sums, best
