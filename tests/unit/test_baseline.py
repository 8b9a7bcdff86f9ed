"""The store: what is written is what is read, and everything else is refused with a reason."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest
from bench_stub import latency, likelihood, timing
from hypothesis import given, settings
from hypothesis import strategies as st

import pytest_quantgate
from pytest_quantgate.baseline import Key, Store
from pytest_quantgate.errors import StoreError
from pytest_quantgate.records import (
    BenchmarkFigures,
    Generation,
    Latency,
    Likelihood,
    MemoryUse,
    Output,
)

if TYPE_CHECKING:
    from collections.abc import Callable


SOURCE = Path(pytest_quantgate.__file__).parents[1]
KEY = Key(kind="memory", inputs={"model": "a" * 64, "context": 512, "repack": True, "note": None})
USE = MemoryUse(peak_rss_bytes=3, before_load_bytes=2, file_bytes=1)
ADVICE = "delete it to measure again"
ELSEWHERE = "choose another folder with --quantgate-store"

RESULTS: list[object] = [
    likelihood((2.1, 1 / 3, math.nextafter(1, 2)), available=7),
    Generation(
        outputs=(
            Output(id="é", text='\x00\n\u2028\U0001f600"', tokens=3, finish="eog", prompt_tokens=9),
        ),
        seconds=0.1 + 0.2,
    ),
    USE,
    latency((timing(1 / 7), timing(2.0)), (timing(3.0), timing(4.0))),
    latency((timing(1.0),)),
    BenchmarkFigures(perplexity=12.5, latency_ms=1e-300, memory_mb=5e15),
]


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a process that uses the same store."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def edit(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    """Change a stored document in place."""
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


# --- what is written is what is read ---------------------------------------------------------------


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: type(result).__name__)
def test_a_measurement_comes_back_as_it_was(tmp_path: Path, result: object) -> None:
    """Every kind of result survives the store to the last bit of its last number."""
    Store(tmp_path).save(KEY, result)

    assert Store(tmp_path).load(KEY, type(result)) == result


@settings(max_examples=30)  # each is written to the disk
@given(
    st.builds(
        BenchmarkFigures,
        perplexity=st.floats(allow_nan=False, allow_infinity=False),
        latency_ms=st.floats(allow_nan=False, allow_infinity=False),
        memory_mb=st.floats(allow_nan=False, allow_infinity=False),
    )
)
def test_any_finite_number_comes_back(
    tmp_path_factory: pytest.TempPathFactory, figures: BenchmarkFigures
) -> None:
    """No finite float is rounded on its way through the file."""
    store = Store(tmp_path_factory.mktemp("store"))
    store.save(KEY, figures)

    assert store.load(KEY, BenchmarkFigures) == figures


def test_plain_data_is_stored_as_it_is(tmp_path: Path) -> None:
    """A result that is JSON already needs no record around it."""
    Store(tmp_path).save(KEY, {"a": [1, None]})

    assert Store(tmp_path).load(KEY, dict) == {"a": [1, None]}


def test_nothing_stored_is_none(tmp_path: Path) -> None:
    """A store that does not exist yet has no measurement and is not created by asking."""
    store = Store(tmp_path / "new" / "store")

    assert store.load(KEY, MemoryUse) is None
    assert not (tmp_path / "new").exists()


def test_the_file_can_be_read_by_people(tmp_path: Path) -> None:
    """Name, key in clear, time and digest: a person can see what was measured on what, and when."""
    store = Store(tmp_path)
    store.save(KEY, USE)

    (path,) = (tmp_path / "measurements").iterdir()

    assert path == store.path(KEY)
    assert path.name == f"memory-{KEY.digest[:40]}.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    assert list(document) == ["key", "taken", "result", "sha256"]
    assert document["key"] == {"schema": 1, "kind": "memory", **KEY.inputs}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", document["taken"])
    assert document["result"] == {"peak_rss_bytes": 3, "before_load_bytes": 2, "file_bytes": 1}


def test_another_input_is_another_measurement(tmp_path: Path) -> None:
    """A change of any input, and the kind, leads to another file; the order of inputs does not."""
    store = Store(tmp_path)
    keys = [
        KEY,
        Key(kind="latency", inputs=KEY.inputs),
        *(Key(kind=KEY.kind, inputs={**KEY.inputs, name: "other"}) for name in KEY.inputs),
        Key(kind=KEY.kind, inputs={**KEY.inputs, "further": None}),
    ]

    assert len({store.path(key) for key in keys}) == len(keys)
    turned = Key(kind=KEY.kind, inputs=dict(reversed(list(KEY.inputs.items()))))
    assert store.path(turned) == store.path(KEY)


def test_a_newer_measurement_replaces_an_older(tmp_path: Path) -> None:
    """Saving again leaves one file, with the newer numbers, and nothing half-written beside it."""
    store = Store(tmp_path)
    store.save(KEY, USE)
    newer = MemoryUse(peak_rss_bytes=9, before_load_bytes=2, file_bytes=1)
    store.save(KEY, newer)

    assert store.load(KEY, MemoryUse) == newer
    assert len(list((tmp_path / "measurements").iterdir())) == 1


# --- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[1, 2]",
        b'"text"',
        b"null",
        b"{}",
        b'{"key": 1, "result": 2}',
        b'{"key": {}, "taken": "", "result": {"x": NaN}, "sha256": ""}',
        b'{"key": [], "taken": "", "result": {}, "sha256": ""}',
        b"[" * 200_000,
    ],
    ids=lambda content: repr(content[:20]),
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    """Whatever a file holds that the store did not write is an error, never a number."""
    store = Store(tmp_path)
    store.save(KEY, USE)
    path = store.path(KEY)
    path.write_bytes(content)

    with pytest.raises(StoreError) as caught:
        store.load(KEY, MemoryUse)

    assert str(caught.value) == f"the store's {path} is no stored measurement; {ADVICE}"


@settings(max_examples=30)  # each is written to the disk
@given(data=st.data())
def test_any_truncation_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """A file cut anywhere is an error; only its final newline can be spared."""
    store = Store(tmp_path_factory.mktemp("store"))
    store.save(KEY, RESULTS[3])
    path = store.path(KEY)
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 2))])

    with pytest.raises(StoreError):
        store.load(KEY, Latency)


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["result"].update(peak_rss_bytes=2),
        lambda document: document["result"].update(further=1),
        lambda document: document.update(taken="2020-01-01T00:00:00+00:00"),
        lambda document: document.pop("taken"),
        lambda document: document.update(sha256="0" * 64),
    ],
    ids=["number", "field", "time", "no time", "digest"],
)
def test_an_edited_file_is_refused(
    tmp_path: Path, change: Callable[[dict[str, object]], object]
) -> None:
    """A number that somebody made better by hand is not believed."""
    store = Store(tmp_path)
    store.save(KEY, USE)
    edit(store.path(KEY), change)

    with pytest.raises(StoreError) as caught:
        store.load(KEY, MemoryUse)

    assert str(caught.value) == (
        f"the store's {store.path(KEY)} was changed after it was written; {ADVICE}"
    )


def test_a_misplaced_file_names_every_difference(tmp_path: Path) -> None:
    """A file of other settings under this name is refused with each field and both its values."""
    store = Store(tmp_path)
    other = Key(kind="memory", inputs={"model": "a" * 64, "context": 1024, "repack": True})
    store.save(other, USE)
    store.path(other).rename(store.path(KEY))
    edit(store.path(KEY), lambda document: document["key"].update(schema=2))  # type: ignore[attr-defined]

    with pytest.raises(StoreError) as caught:
        store.load(KEY, MemoryUse)

    assert str(caught.value) == (
        f"the store's {store.path(KEY)} was measured with other settings (context is 1024 there and"
        f" 512 here, schema is 2 there and 1 here); {ADVICE}"
    )


def test_a_result_of_another_kind_is_refused(tmp_path: Path) -> None:
    """A sound file whose result has not the fields that are wanted is no stored measurement."""
    store = Store(tmp_path)
    store.save(KEY, USE)

    with pytest.raises(StoreError, match=r"is no stored measurement; delete it"):
        store.load(KEY, Likelihood)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_not_stored(tmp_path: Path, number: float) -> None:
    """NaN and infinity are refused before anything is written."""
    figures = BenchmarkFigures(perplexity=number, latency_ms=1.0, memory_mb=1.0)

    with pytest.raises(StoreError) as caught:
        Store(tmp_path).save(KEY, figures)

    assert str(caught.value) == "a measurement of memory holds a number that is not finite"
    assert list(tmp_path.iterdir()) == []


# --- folders and disks -----------------------------------------------------------------------------


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    """Writing, checking, locking and reading each say which path is in the way and what to do."""
    root = tmp_path / "store"
    root.write_text("in the way", encoding="utf-8")
    store = Store(root)
    path = store.path(KEY)

    def locked() -> None:
        with store.lock("x", timeout=0):
            pytest.fail("locked a file's inside")

    attempts: list[tuple[Callable[[], object], str]] = [
        (lambda: store.save(KEY, USE), f"the store cannot write {path}: Not a directory"),
        (
            store.check_writable,
            f"the store cannot write {root / '.gitignore'}: (File exists|Not a directory)",
        ),
        (locked, f"the store's {root / 'locks'} cannot be written: Not a directory"),
        (
            lambda: store.load(KEY, MemoryUse),
            f"the store's {path} cannot be read: Not a directory",
        ),
    ]
    for attempt, expected in attempts:
        with pytest.raises(StoreError, match=f"^{expected}; {ELSEWHERE}$"):
            attempt()
    assert root.read_text(encoding="utf-8") == "in the way"


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    """A folder under a measurement's name cannot be read, and is not replaced."""
    store = Store(tmp_path)
    store.path(KEY).mkdir(parents=True)

    with pytest.raises(StoreError, match="cannot be read: Is a directory"):
        store.load(KEY, MemoryUse)
    with pytest.raises(StoreError, match="cannot write"):
        store.save(KEY, USE)
    assert list((tmp_path / "measurements").iterdir()) == [store.path(KEY)]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_is_not_writable(tmp_path: Path) -> None:
    """A read-only folder is found out by the check, before anything is measured."""
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StoreError, match=f"Permission denied; {ELSEWHERE}$"):
            Store(tmp_path).check_writable()
    finally:
        tmp_path.chmod(0o700)


def test_the_check_creates_the_folder_and_keeps_it_out_of_git(tmp_path: Path) -> None:
    """A writable place becomes a store that no one commits by accident; checking twice is fine."""
    store = Store(tmp_path / "a" / "b")
    store.check_writable()
    store.check_writable()

    assert [path.name for path in store.root.iterdir()] == [".gitignore"]
    assert (store.root / ".gitignore").read_text(encoding="utf-8") == "*\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit leaves the old file whole, no part of the new one, and names the remedy."""
    store = Store(tmp_path)
    store.save(KEY, USE)
    path = store.path(KEY)
    opened = Path.open

    def on_a_full_disk(self: Path, *_: object) -> IO[bytes]:
        self.touch()
        return opened(Path("/dev/full"), "wb")

    with monkeypatch.context() as patched:
        # The kernel itself reports the full disk: what is written goes to the device.
        patched.setattr(Path, "open", on_a_full_disk)
        with pytest.raises(StoreError) as caught:
            store.save(KEY, RESULTS[0])

    assert str(caught.value) == (
        f"the store cannot write {path}: {os.strerror(errno.ENOSPC)}; free some space; {ELSEWHERE}"
    )
    assert store.load(KEY, MemoryUse) == USE
    assert list(path.parent.iterdir()) == [path]


def test_a_quota_cuts_nothing_in_half(tmp_path: Path) -> None:
    """Where the system stops a file from growing, the stored measurement before it stays readable."""
    pytest.importorskip("resource")
    Store(tmp_path).save(KEY, RESULTS[0])
    process = child(
        """
        import resource, sys
        from pathlib import Path
        from pytest_quantgate.baseline import Key, Store
        from pytest_quantgate.errors import StoreError
        from pytest_quantgate.records import Generation, Output

        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        store = Store(Path(sys.argv[1]))
        key = Key(kind="memory", inputs={
            "model": "a" * 64, "context": 512, "repack": True, "note": None})
        output = Output(id="a", text="x" * 100_000, tokens=1, finish="eog", prompt_tokens=1)
        try:
            store.save(key, Generation(outputs=(output,), seconds=1.0))
        except StoreError as error:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            print(error)
        """,
        tmp_path,
    )
    output, errors = process.communicate(timeout=60)

    assert errors == ""
    path = Store(tmp_path).path(KEY)
    assert output == f"the store cannot write {path}: File too large; {ELSEWHERE}\n"
    assert Store(tmp_path).load(KEY, Likelihood) == RESULTS[0]
    assert list(path.parent.iterdir()) == [path]


# --- several processes -----------------------------------------------------------------------------


def test_processes_measure_one_key_once(tmp_path: Path) -> None:
    """Of three processes that want one measurement, one takes it and the others find it."""
    code = """
        import sys, time
        from pathlib import Path
        from pytest_quantgate.baseline import Key, Store
        from pytest_quantgate.records import MemoryUse

        root, number = Path(sys.argv[1]), int(sys.argv[2])
        store, key = Store(root / "store"), Key(kind="memory", inputs={"model": "m"})
        (root / f"ready-{number}").touch()
        while len(list(root.glob("ready-*"))) < 3:
            time.sleep(0.005)
        with store.lock(key.digest, timeout=60):
            found = store.load(key, MemoryUse)
            if found is None:
                time.sleep(0.2)
                found = MemoryUse(
                    peak_rss_bytes=number, before_load_bytes=0, file_bytes=0)
                store.save(key, found)
                print("measured", end=" ")
        print(found.peak_rss_bytes)
        """
    processes = [child(code, tmp_path, number) for number in (1, 2, 3)]

    results = [process.communicate(timeout=60) for process in processes]

    assert [errors for _, errors in results] == ["", "", ""]
    words = [output.split() for output, _ in results]
    assert sum("measured" in output for output in words) == 1
    assert len({output[-1] for output in words}) == 1


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    """While a process rewrites a measurement over and over, each read finds one whole one."""
    store = Store(tmp_path)
    key = Key(kind="memory", inputs={"model": "m"})
    store.save(key, USE)
    process = child(
        """
        import sys
        from pathlib import Path
        from pytest_quantgate.baseline import Key, Store
        from pytest_quantgate.records import MemoryUse

        store, key = Store(Path(sys.argv[1])), Key(kind="memory", inputs={"model": "m"})
        for number in range(300):
            store.save(key, MemoryUse(
                peak_rss_bytes=10**number, before_load_bytes=0, file_bytes=0))
        """,
        tmp_path,
    )
    seen = set()
    while process.poll() is None:
        found = store.load(key, MemoryUse)
        assert found is not None
        seen.add(found.peak_rss_bytes)

    assert process.communicate()[1] == ""
    assert len(seen) > 1


def test_a_lock_that_is_held_too_long(tmp_path: Path) -> None:
    """Whoever waits in vain is told which lock, how long, and what to do; then it is free again."""
    process = child(
        """
        import sys, time
        from pathlib import Path
        from pytest_quantgate.baseline import Store

        with Store(Path(sys.argv[1])).lock("timing", timeout=5):
            print("held", flush=True)
            time.sleep(60)
        """,
        tmp_path,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        store = Store(tmp_path)
        started = time.monotonic()
        with pytest.raises(StoreError) as caught, store.lock("timing", timeout=1):
            pytest.fail("two processes hold one lock")
        assert 0.9 <= time.monotonic() - started < 10
        assert str(caught.value) == (
            f"another run has held {tmp_path / 'locks' / 'timing.lock'} for 1 s;"
            " wait for it to end or raise the timeout"
        )
        with store.lock("another", timeout=0):
            pass
    finally:
        process.kill()
        process.communicate()
    # A killed process leaves no lock behind.
    with store.lock("timing", timeout=5):
        pass


def test_a_lock_is_released_after_an_error(tmp_path: Path) -> None:
    """A measurement that fails does not lock the next one out."""
    store = Store(tmp_path)
    with pytest.raises(ZeroDivisionError), store.lock("x", timeout=0):
        raise ZeroDivisionError
    with store.lock("x", timeout=0):
        pass
