"""Calibration texts: which passages are drawn from documents, and what is said of them."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from pytest_quantgate import cli
from pytest_quantgate.artifact.imatrix.calibration_set import (
    BANDS,
    FEWEST,
    MOST,
    CalibrationSet,
    sample_passages,
)
from pytest_quantgate.errors import ArtifactError

WORDS = [
    "model",
    "number",
    "table",
    "river",
    "answer",
    "simple",
    "window",
    "letter",
    "market",
    "evening",
]


def prose(sentences: int, *, seed: int = 0) -> str:
    """Return sentences of five to twenty words, in paragraphs; each has a number of its own."""
    generator = random.Random(seed)  # noqa: S311 - no secrets
    lines = []
    for number in range(sentences):
        words = generator.choices(WORDS, k=generator.randrange(5, 20))
        lines.append(
            f"Sentence {seed}.{number} {' '.join(words)}.{generator.choice(' ' * 5 + chr(10))}"
        )
    return "".join(lines)


@pytest.fixture(autouse=True)
def documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Three documents of some 200 kB, one much larger than the others."""
    monkeypatch.chdir(tmp_path)
    sizes = {"a.txt": 2600, "b.md": 300, "c.txt": 300}
    for seed, (name, sentences) in enumerate(sizes.items()):
        Path(name).write_text(prose(sentences, seed=seed), encoding="utf-8")
    return [Path(name) for name in sizes]


def test_lengths_are_covered_evenly(documents: list[Path]) -> None:
    """Each length has its share, each passage is as long as its length says and is in its document."""
    drawn = sample_passages(documents, count=200)

    assert [67, 67, 66] == [each.taken for each in drawn.coverage]
    assert ["short", "medium", "long"] == [each.band.name for each in drawn.coverage]
    assert (len(drawn.passages), drawn.warnings) == (200, ())
    bands = {band.name: band for band in BANDS}
    for passage in drawn.passages:
        band = bands[passage.band]
        assert band.shortest <= len(passage.text) < band.longest
        text = Path(passage.document).read_text(encoding="utf-8")
        assert text[passage.start : passage.start + len(passage.text)] == passage.text
        # Between ends of sentences, wherever there are such.
        assert passage.text.startswith("Sentence ")
        assert passage.text.endswith(".")


def test_passages_do_not_overlap(documents: list[Path]) -> None:
    """No part of a document is in two passages."""
    drawn = sample_passages(documents, count=200)

    for document in map(str, documents):
        places = sorted(
            (each.start, each.start + len(each.text))
            for each in drawn.passages
            if each.document == document
        )
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(places))


def test_small_documents_are_not_crowded_out(documents: list[Path]) -> None:
    """Documents take turns: a small one gives what it has before a large one gives more."""
    drawn = sample_passages(documents, count=128)

    counts = {str(path): 0 for path in documents}
    for passage in drawn.passages:
        counts[passage.document] += 1
    assert (drawn.documents, drawn.used_documents) == (3, 3)
    # A tenth of the text, but far more than a tenth of the passages.
    assert min(counts["b.md"], counts["c.txt"]) >= 20


def test_a_seed_gives_one_set(documents: list[Path]) -> None:
    """The same seed draws the same passages in the same order, another one others."""
    first, again, other = (sample_passages(documents, seed=seed) for seed in (0, 0, 1))

    assert first == again
    assert first.sha256 == again.sha256
    assert first.sha256 != other.sha256
    assert {each.text for each in first.passages} != {each.text for each in other.passages}


@pytest.mark.parametrize("count", [FEWEST, MOST])
def test_the_least_and_the_most(count: int) -> None:
    """128 and 512 passages are drawn."""
    Path("large.txt").write_text(prose(9000), encoding="utf-8")

    assert len(sample_passages([Path("large.txt")], count=count).passages) == count


@pytest.mark.parametrize("count", [FEWEST - 1, MOST + 1])
def test_one_less_and_one_more_are_refused(documents: list[Path], count: int) -> None:
    """127 and 513 are not."""
    with pytest.raises(ArtifactError, match=f"{count} passages: a calibration set has 128 to 512"):
        sample_passages(documents, count=count)


def test_short_documents_are_warned_of() -> None:
    """Where there are too few long passages, others take their place, and it is said."""
    lines = [json.dumps({"text": prose(4, seed=seed)}) for seed in range(400)]
    Path("short.jsonl").write_text("\n".join(lines), encoding="utf-8")

    drawn = sample_passages([Path("short.jsonl")], count=150)

    assert len(drawn.passages) == 150
    assert drawn.documents == 400
    long = drawn.coverage[-1]
    assert (long.wanted, long.found, long.taken) == (50, 0, 0)
    assert drawn.warnings[-1] == (
        "the documents have only 0 long passages (1200 to 2400 characters), 50 are wanted; others "
        "took their place: add documents of that kind"
    )


def test_too_little_text_is_refused() -> None:
    """Documents that cannot give the passages are refused with the number there are."""
    Path("little.txt").write_text(prose(100), encoding="utf-8")

    with pytest.raises(ArtifactError, match=r"the documents have \d+ passages of 80 characters"):
        sample_passages([Path("little.txt")], count=128)


def test_the_same_text_is_taken_once(documents: list[Path]) -> None:
    """A copy of a document adds nothing."""
    Path("copy.txt").write_bytes(documents[0].read_bytes())
    alone = sample_passages([documents[0]], count=128)
    with_copy = sample_passages([documents[0], documents[0], Path("copy.txt")], count=128)

    texts = [each.text for each in with_copy.passages]
    assert len(set(texts)) == len(texts)
    assert alone.documents == 1


def test_records_of_every_kind_are_read() -> None:
    """A line of JSON is a text, has one under a known key, or is a conversation."""
    records: list[object] = []
    for seed in range(300):
        text = prose(12, seed=seed)
        kinds: tuple[object, ...] = (
            text,
            {"id": 1, "text": text},
            {"content": text},
            {"prompt": text},
            {"messages": [{"role": "user", "content": text}]},
        )
        records.append(kinds[seed % 5])
    # A separator of lines to Python, not to this format.
    records.append({"text": "one\N{LINE SEPARATOR}two " * 20})
    lines = "\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    Path("all.jsonl").write_text(lines + "\n\n", encoding="utf-8")

    drawn = sample_passages([Path("all.jsonl")], count=256)

    assert drawn.documents == 301
    kinds_used = {int(each.document.rpartition(":")[2]) % 5 for each in drawn.passages}
    assert kinds_used == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.pdf", b"", "a.pdf: documents end in .txt, .md, .jsonl; convert it to text first"),
        ("none.txt", None, "none.txt: no such file"),
        ("latin.txt", b"caf\xe9", "latin.txt: not UTF-8 text: unexpected end of data at byte 3"),
        ("a.jsonl", b'{"text": "a"}\n{', "a.jsonl:2: not JSON: "),
        ("a.jsonl", b"[" * 100_000, "a.jsonl:1: not JSON: "),
        ("a.jsonl", b"7", "a.jsonl:1: is a JSON int, not a text or an object with one"),
        ("a.jsonl", b'{"a": 1, "b": 2}', "text, content, prompt, messages; its keys are a, b"),
        ("a.jsonl", b'{"messages": [{"content": null}]}', "its keys are messages"),
        ("empty.txt", b"", "the documents have 0 passages"),
    ],
)
def test_what_cannot_be_read_is_refused(name: str, data: bytes | None, message: str) -> None:
    """Each kind of wrong document has its sentence, with the line."""
    if data is not None:
        Path(name).write_bytes(data)

    with pytest.raises(ArtifactError) as caught:
        sample_passages([Path(name)])

    assert message in str(caught.value)


def test_no_documents_are_refused() -> None:
    """At least one file is needed."""
    with pytest.raises(ArtifactError, match="no documents are named"):
        sample_passages([])


@settings(max_examples=40, deadline=None)
@given(
    pieces=st.lists(
        st.sampled_from(["word ", "end. ", "x" * 3000, "\n", "\n\n", "问。", "a" * 79 + "! "]),
        min_size=300,
        max_size=600,
    ),
    seed=st.integers(0, 100),
)
def test_any_text_gives_passages_of_its_own(
    pieces: list[str], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever a text looks like, passages are parts of it, of the right length, or it is refused."""
    text = "".join(pieces)
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_text(text, encoding="utf-8")

    try:
        drawn = sample_passages([path], count=128, seed=seed)
    except ArtifactError:
        return

    bands = {band.name: band for band in BANDS}
    for passage in drawn.passages:
        assert text[passage.start : passage.start + len(passage.text)] == passage.text
        assert bands[passage.band].shortest <= len(passage.text) < bands[passage.band].longest


def test_the_text_is_the_passages(documents: list[Path], tmp_path: Path) -> None:
    """The file has the passages in order, with blank lines between, as UTF-8."""
    drawn = sample_passages(documents, count=128)
    drawn.write(tmp_path / "calib.txt")

    written = (tmp_path / "calib.txt").read_bytes()

    assert written.decode() == "\n\n".join(each.text for each in drawn.passages) + "\n"
    assert isinstance(drawn, CalibrationSet)


# --- the command -----------------------------------------------------------------------------------


def run(*arguments: str) -> tuple[int, str, str]:
    """Run a command in this process; return exit code, output and errors."""
    done = CliRunner().invoke(cli.app, list(arguments))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def test_the_command_tells_the_coverage(documents: list[Path]) -> None:
    """`passages` writes the text and prints a line for each length and one for the file."""
    code, output, errors = run(
        "passages", *map(str, documents), "-o", "calib.txt", "--count", "150"
    )

    assert (code, errors) == (0, "")
    lines = output.splitlines()
    assert lines[0].startswith("short      80 to  400 characters:  50 of ")
    assert lines[1].startswith("medium    400 to 1200 characters:  50 of ")
    assert lines[2].startswith("long     1200 to 2400 characters:  50 of ")
    size = len(Path("calib.txt").read_text(encoding="utf-8"))
    assert lines[3] == f"wrote calib.txt: 150 passages of 3 of 3 documents, {size} characters"
    with pytest.raises(ArtifactError, match=r"calib\.txt: exists already"):
        run("passages", "a.txt", "-o", "calib.txt")


def test_the_command_compares_domains(documents: list[Path]) -> None:
    """With a corpus of another domain there is a warning, on standard error and in JSON."""
    arguments = ["passages", str(documents[0]), "-o", "calib.txt", "--count", "128", "--json"]

    code, output, errors = run(*arguments, "--corpus", "builtin:python-docs", "--seed", "3")

    assert (code, errors) == (0, "")
    document = json.loads(output)
    assert (document["passages"], document["seed"], document["documents"]) == (128, 3, 1)
    assert document["coverage"][0]["band"]["name"] == "short"
    (warning,) = document["warnings"]
    assert warning.startswith(
        "calib.txt is of another domain than builtin:python-docs: their words"
    )
