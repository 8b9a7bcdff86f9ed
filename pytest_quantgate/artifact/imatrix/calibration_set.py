"""Calibration texts: passages drawn from a user's own documents, short ones to long ones.

An importance matrix knows what its text made the model do. Passages that cover a domain's documents
evenly, at several lengths, tell it more than the first pages of one of them.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_quantgate.artifact.files import open_regular, write_atomically
from pytest_quantgate.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

FEWEST, MOST = 128, 512
"""How many passages a set may have."""

SUFFIXES = (".txt", ".md", ".jsonl")
"""Kinds of documents that are read."""

RECORD_KEYS = ("text", "content", "prompt", "messages")
"""Where the text of a line of a .jsonl file is looked for, in this order."""

_MOST_BYTES = 1 << 30
_LEANS = (0.0, 0.5, 1.0, 2.0)
_SENTENCE = re.compile(r"(?<=[.!?。！？…])\s+|\n+")  # noqa: RUF001 - full stops of other scripts
_SPACE = re.compile(r"\s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """A range of lengths, in characters: from ``shortest`` to below ``longest``."""

    name: str
    shortest: int
    longest: int


BANDS = (
    Band(name="short", shortest=80, longest=400),
    Band(name="medium", shortest=400, longest=1200),
    Band(name="long", shortest=1200, longest=2400),
)
"""Lengths by default: English text has some 4 characters per token, so the longest fill 512 tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A piece of a document: ``start`` is its first character's number, ``band`` its length's name."""

    text: str
    document: str
    start: int
    band: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """What a set has of one length: passages wanted, found in the documents, and taken."""

    band: Band
    wanted: int
    found: int
    taken: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSet:
    """Passages in the order they are written, and what they cover."""

    passages: tuple[Passage, ...]
    coverage: tuple[Coverage, ...]
    documents: int
    seed: int

    @property
    def text(self) -> str:
        """The passages with a blank line between."""
        return "\n\n".join(passage.text for passage in self.passages) + "\n"

    @property
    def used_documents(self) -> int:
        """How many documents the passages come from."""
        return len({passage.document for passage in self.passages})

    @property
    def sha256(self) -> str:
        """Digest of the text as it is written."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the documents could not give."""
        return tuple(
            f"the documents have only {each.found} {each.band.name} passages ({each.band.shortest} to "
            f"{each.band.longest} characters), {each.wanted} are wanted; others took their place: add "
            "documents of that kind"
            for each in self.coverage
            if each.found < each.wanted
        )

    def write(self, path: Path) -> None:
        """Write the text as UTF-8, whole or not at all, replacing a file of that name.

        Raises:
            ArtifactError: when it cannot be written.
        """
        write_atomically(path, self.text.encode())


def sample_passages(
    files: Sequence[Path],
    *,
    count: int = 256,
    seed: int = 0,
    lengths: Sequence[Band] = BANDS,
) -> CalibrationSet:
    """Draw passages from documents.

    Documents are cut at ends of sentences into passages that do not overlap. Each of the lengths gets
    an equal share of the set as far as there are enough passages, and within a length the documents take
    turns, so that a large one does not crowd out the others. The same files, count and seed give the
    same set.

    Args:
        files: Text files, Markdown, or JSON lines, each line of which is a document.
        count: How many passages.
        seed: Chooses among the many possible sets.
        lengths: The ranges to cover, from short to long.

    Raises:
        ArtifactError: for a count outside of 128 to 512, a file that cannot be used, and documents that
            do not have that many passages.
    """
    if not FEWEST <= count <= MOST:
        message = f"{count} passages: a calibration set has {FEWEST} to {MOST}"
        raise ArtifactError(message)
    documents = dict(_documents(files))
    # Where equal shares would use the text up too soon, more of it goes into shorter passages.
    for lean in _LEANS:
        generator = random.Random(seed)  # noqa: S311 - no secrets
        pools = _pools(documents, lengths, lean, generator)
        found = {band: sum(map(len, pool.values())) for band, pool in pools.items()}
        if sum(found.values()) >= count:
            break
    if sum(found.values()) < count:
        message = (
            f"the documents have {sum(found.values())} passages of "
            f"{lengths[0].shortest} characters or more, {count} are wanted: add documents, or ask for "
            f"fewer (at least {FEWEST})"
        )
        raise ArtifactError(message)
    shares = _shares(count, [found[band.name] for band in lengths])
    chosen = [
        passage
        for band, share in zip(lengths, shares, strict=True)
        for passage in _take(pools[band.name], share, generator)
    ]
    generator.shuffle(chosen)
    return CalibrationSet(
        passages=tuple(chosen),
        coverage=tuple(
            Coverage(band=band, wanted=wanted, found=found[band.name], taken=share)
            for band, wanted, share in zip(
                lengths, _shares(count, [count] * len(lengths)), shares, strict=True
            )
        ),
        documents=len(documents),
        seed=seed,
    )


def _pools(
    documents: Mapping[str, str], lengths: Sequence[Band], lean: float, generator: random.Random
) -> dict[str, dict[str, list[Passage]]]:
    """Return the passages of all documents, each text once, by length and document."""
    pools: dict[str, dict[str, list[Passage]]] = {band.name: defaultdict(list) for band in lengths}
    seen: set[str] = set()
    for name, text in documents.items():
        for passage in _cut(name, text, lengths, lean, generator):
            same = " ".join(passage.text.split())
            if same not in seen:
                seen.add(same)
                pools[passage.band][name].append(passage)
    return pools


def _shares(count: int, found: Sequence[int]) -> list[int]:
    """Deal ``count`` out as evenly as the lengths allow, a remainder to the first ones."""
    shares = [0] * len(found)
    for _ in range(count):
        open_places = [index for index, share in enumerate(shares) if share < found[index]]
        shares[min(open_places, key=lambda index: shares[index])] += 1
    return shares


def _take(
    pool: dict[str, list[Passage]], share: int, generator: random.Random
) -> Iterator[Passage]:
    """Yield passages, one of each document in turn."""
    names = sorted(pool)
    generator.shuffle(names)
    for name in names:
        generator.shuffle(pool[name])
    left = share
    while left:
        for name in names[:left]:
            yield pool[name].pop()
        left -= len(names[:left])
        names = [name for name in names if pool[name]]


def _cut(
    name: str, text: str, lengths: Sequence[Band], lean: float, generator: random.Random
) -> Iterator[Passage]:
    """Yield passages of a document, from its start to its end, of lengths drawn one by one."""
    ends = [*(match.end() for match in _SENTENCE.finditer(text)), len(text)]
    weights = [(band.shortest + band.longest) ** -lean for band in lengths]
    start = 0
    place = 0
    while start < len(text):
        (band,) = generator.choices(lengths, weights)
        target = start + generator.randrange(band.shortest, band.longest)
        while place < len(ends) - 1 and ends[place] < target:
            place += 1
        end = ends[place]
        if end - start >= lengths[-1].longest:
            before = ends[place - 1] if place else start
            # A sentence without an end, or a table: it is cut where a word ends.
            end = before if before > start else _word_end(text, target)
        piece = text[start:end]
        stripped = piece.strip()
        kept = next(
            (each for each in lengths if each.shortest <= len(stripped) < each.longest), None
        )
        if kept is not None:
            offset = start + piece.index(stripped)
            yield Passage(text=stripped, document=name, start=offset, band=kept.name)
        start = end
        while place < len(ends) and ends[place] <= start:
            place += 1


def _word_end(text: str, target: int) -> int:
    space = _SPACE.search(text, target, target + 100)
    return space.end() if space else min(target, len(text))


# --- documents -------------------------------------------------------------------------------------


def _documents(files: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """Yield name and text of each document."""
    if not files:
        message = f"no documents are named; name files ({', '.join(SUFFIXES)})"
        raise ArtifactError(message)
    for path in files:
        if path.suffix.lower() not in SUFFIXES:
            message = f"{path}: documents end in {', '.join(SUFFIXES)}; convert it to text first"
            raise ArtifactError(message)
        text = _read(path)
        if path.suffix.lower() == ".jsonl":
            yield from _records(path, text)
        else:
            yield str(path), text


def _read(path: Path) -> str:
    with open_regular(path) as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        message = f"{path}: is larger than {_MOST_BYTES >> 30} GiB; name a part of it"
        raise ArtifactError(message)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = (
            f"{path}: not UTF-8 text: {error.reason} at byte {error.start}; convert it, such as with "
            "`iconv -t UTF-8`"
        )
        raise ArtifactError(message) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _records(path: Path, text: str) -> Iterator[tuple[str, str]]:
    # Only a newline ends a line of this format; `splitlines` knows ten more separators.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{path}:{number}"
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                message = f"{where}: not JSON: {error}"
                raise ArtifactError(message) from error
            yield where, _record_text(record, where)


def _record_text(record: object, where: str) -> str:
    if isinstance(record, str):
        return record
    if isinstance(record, dict):
        for key in RECORD_KEYS:
            value = record.get(key)
            if isinstance(value, str):
                return value
            turns = [turn.get("content") for turn in _turns(value)]
            if turns and all(isinstance(turn, str) for turn in turns):
                return "\n\n".join(map(str, turns))
        shown = ", ".join(map(str, record)) or "none"
        message = f"{where}: has no text under {', '.join(RECORD_KEYS)}; its keys are {shown}"
        raise ArtifactError(message)
    message = f"{where}: is a JSON {type(record).__name__}, not a text or an object with one"
    raise ArtifactError(message)


def _turns(value: object) -> list[dict[str, object]]:
    """Return the messages of a conversation; empty for what is none."""
    turns = value if isinstance(value, list) else []
    return [turn for turn in turns if isinstance(turn, dict)]
