"""Models are verified before they are loaded, and what is loaded is what was verified."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import llama_cpp
import pytest
from split_writer import split_in_two

from pytest_quantgate import model as room
from pytest_quantgate.artifact.gguf import check_model, read_header
from pytest_quantgate.artifact.integrity import (
    model_digest,
    opening,
    verify_model_integrity,
    write_sidecar,
)
from pytest_quantgate.artifact.integrity.opening import OpenModel
from pytest_quantgate.errors import ArtifactError, IntegrityError, SecurityError
from pytest_quantgate.model import QuantizedModel, safe_load_quantized

if TYPE_CHECKING:
    from collections.abc import Callable

TINY = Path(__file__).parents[1] / "models" / "tiny-f16.gguf"
NAME = "quantgate tiny"
EVIL = "quantgate EVIL"
PROMPT = "The first of the two"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model with its checksum in a folder where models may lie."""
    path = tmp_path / "allowed" / "model.gguf"
    path.parent.mkdir()
    shutil.copy(TINY, path)
    write_sidecar(path)
    return path


@pytest.fixture
def evil(model: Path) -> bytes:
    """Another model of the same size: another name, and other weights up to the last byte."""
    content = bytearray(model.read_bytes().replace(NAME.encode(), EVIL.encode()))
    start = read_header(model).data_offset
    content[start:] = bytes(len(content) - start)
    return bytes(content)


def load(model: Path, **options: Any) -> QuantizedModel:  # noqa: ANN401 - of the function under test
    """Load a model from the folder where it may lie."""
    options.setdefault("allowed_dirs", model.parent)
    return safe_load_quantized(model, context=32, threads=1, **options)


def described(loaded: QuantizedModel) -> tuple[str, str]:
    """Return the name a loaded model has and what it says, and free it."""
    answer = loaded(PROMPT, max_tokens=6, temperature=0.0)["choices"][0]["text"]
    name = loaded.metadata["general.name"]
    loaded.close()
    return name, answer


@pytest.fixture(scope="module")
def truth() -> tuple[str, str]:
    """What the model is and says when it is loaded by its name."""
    return described(QuantizedModel(TINY, context=32, threads=1))


@pytest.mark.parametrize("mapped", [False, True])
def test_loads_what_is_vouched_for(model: Path, truth: tuple[str, str], *, mapped: bool) -> None:
    """The model is the one that was asked for, under its own name, copied or in place."""
    loaded = load(model, mapped=mapped)

    assert loaded.model_path == str(loaded) == str(model)
    assert described(loaded) == truth


def test_loads_by_a_trusted_digest(model: Path, truth: tuple[str, str]) -> None:
    """With a digest from elsewhere, the file needs no checksum beside it, and the digest decides."""
    digest = model_digest(model)
    model.with_name("model.gguf.sha256").unlink()

    assert described(load(model, sha256=digest)) == truth
    with pytest.raises(SecurityError, match=r"Model integrity check failed: .* the specification"):
        load(model, sha256="0" * 64)


def test_loads_a_split_model(tmp_path: Path, truth: tuple[str, str]) -> None:
    """All parts are opened, verified and loaded together, whichever is named."""
    first, second = split_in_two(TINY, tmp_path)
    write_sidecar(first)
    assert check_model(second).path == first

    assert described(load(second)) == truth
    assert described(QuantizedModel(first, context=32, threads=1)) == truth

    second.write_bytes(second.read_bytes()[:-1] + b"!")
    with pytest.raises(SecurityError, match="Model integrity check failed"):
        load(first)


def test_refuses_what_is_not_vouched_for(model: Path) -> None:
    """A changed file, a file without a checksum, and a checksum that is none."""
    content = model.read_bytes()
    model.write_bytes(content[:-1] + b"!")
    assert not verify_model_integrity(model)
    with pytest.raises(SecurityError, match=r"Model integrity check failed: model\.gguf is not"):
        load(model)

    model.write_bytes(content)
    sidecar = model.with_name("model.gguf.sha256")
    sidecar.write_text("garbage")
    with pytest.raises(SecurityError, match=r"Model integrity check failed: .* is not a SHA-256"):
        load(model)

    sidecar.unlink()
    with pytest.raises(SecurityError, match=r"Model integrity check failed: .* has no checksum"):
        load(model)
    # The fixtures' way of loading says so, too.
    with pytest.raises(IntegrityError, match="has no checksum"):
        QuantizedModel(model)


def test_refuses_what_lies_elsewhere(tmp_path: Path, model: Path) -> None:
    """By its name, by dots, by a link to a file and by a link to a folder: inside is inside."""
    outside = tmp_path / "outside" / "model.gguf"
    outside.parent.mkdir()
    shutil.copy(model, outside)
    write_sidecar(outside)
    allowed = model.parent
    (allowed / "link.gguf").symlink_to(outside)
    write_sidecar(allowed / "link.gguf")
    (allowed / "door").symlink_to(outside.parent)
    (tmp_path / "allowed-not").mkdir()
    for path in (
        outside,
        allowed / ".." / "outside" / "model.gguf",
        allowed / "link.gguf",
        allowed / "door" / "model.gguf",
        tmp_path / "allowed-not" / "model.gguf",
    ):
        with pytest.raises(SecurityError, match=r"^Model outside allowed directory: "):
            load(path, allowed_dirs=[allowed])
    with pytest.raises(SecurityError, match="allowed is no folder at all"):
        load(model, allowed_dirs=[])


def test_links_inside_are_no_harm(tmp_path: Path, model: Path, truth: tuple[str, str]) -> None:
    """A link that stays inside, and a folder that is allowed by way of a link."""
    (model.parent / "link.gguf").symlink_to(model.name)
    write_sidecar(model.parent / "link.gguf")
    (tmp_path / "models").symlink_to("allowed")

    assert described(load(model.parent / "link.gguf")) == truth
    assert described(
        load(tmp_path / "models" / "model.gguf", allowed_dirs=str(tmp_path / "models"))
    )


def test_missing_files_are_named(model: Path) -> None:
    """They are no matter of security."""
    with pytest.raises(ArtifactError, match="no such file; did you mean") as caught:
        load(model.with_name("modell.gguf"))
    assert not isinstance(caught.value, SecurityError)


# --- between verification and loading --------------------------------------------------------------


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Let something happen when everything is verified and the engine is about to open the file."""
    real = room._load

    def arrange(happens: Callable[[], object]) -> None:
        def loading(*arguments: Any, **options: Any) -> object:  # noqa: ANN401 - passed on
            happens()
            return real(*arguments, **options)

        monkeypatch.setattr(room, "_load", loading)

    return arrange


def exchange(model: Path, content: bytes) -> None:
    """Put another file under the model's name."""
    other = model.with_name("other")
    other.write_bytes(content)
    other.replace(model)


def test_there_is_a_window_when_files_go_by_their_names(model: Path, evil: bytes) -> None:
    """What this is about: verified by name, exchanged, loaded by name is another model."""
    assert verify_model_integrity(model)
    exchange(model, evil)
    llama = llama_cpp.Llama(model_path=str(model), n_ctx=32, n_threads=1, verbose=False)

    assert llama.metadata["general.name"] == EVIL
    llama.close()


def test_an_exchanged_file_is_not_what_is_opened(model: Path, evil: bytes) -> None:
    """The engine is given the open file: whatever gets its name, it reads what was verified."""
    verified = model.read_bytes()
    with OpenModel(model) as opened, opened.loadable() as name:
        exchange(model, evil)
        assert name.read_bytes() == verified
        model.unlink()
        assert name.read_bytes() == verified


@pytest.mark.parametrize("leased", [True, False])
def test_an_exchange_is_noticed(
    model: Path,
    evil: bytes,
    meanwhile: Callable[[Callable[[], object]], None],
    monkeypatch: pytest.MonkeyPatch,
    *,
    leased: bool,
) -> None:
    """Harmless as it is, somebody is at work there: the model is not returned."""
    if not leased:
        monkeypatch.setattr(opening, "_lease", lambda *_: False)
    meanwhile(lambda: exchange(model, evil))

    with pytest.raises(SecurityError) as caught:
        load(model)

    assert str(caught.value) == (
        f"{model}: was written, replaced or renamed while it was verified and loaded; nothing of it "
        "is used. Find out who writes there, verify it and load it again"
    )


WRITER = """
import os, sys
path, content = sys.argv[1:]
data = open(content, "rb").read()
before = os.stat(path)
with open(path, "r+b") as file:
    file.write(data)
os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
"""


def test_a_writer_waits_and_is_noticed(
    tmp_path: Path,
    model: Path,
    evil: bytes,
    meanwhile: Callable[[Callable[[], object]], None],
) -> None:
    """The kernel holds whoever opens the file for writing until it is loaded, and tells of it."""
    with OpenModel(model) as opened:
        if not opened.leased:
            pytest.skip("this file system, or this user, has no leases on files")
    (tmp_path / "evil").write_bytes(evil)
    writers: list[subprocess.Popen[bytes]] = []

    def write() -> None:
        with OpenModel(model) as watch:
            command = [sys.executable, "-c", WRITER, str(model), str(tmp_path / "evil")]
            writers.append(subprocess.Popen(command))
            end = time.monotonic() + 60
            while time.monotonic() < end:
                try:
                    watch.require_unchanged()
                except SecurityError:
                    return
                time.sleep(0.02)

    meanwhile(write)

    with pytest.raises(SecurityError, match="was opened for writing while it was verified and"):
        load(model)
    assert writers[0].wait(timeout=60) == 0
    # It went on when the file was given back, and now the file is another.
    assert model.read_bytes() == evil


def test_writing_without_a_lease_is_noticed(
    model: Path,
    evil: bytes,
    meanwhile: Callable[[Callable[[], object]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the system has no leases, the times of the file tell, though they were set back."""
    monkeypatch.setattr(opening, "_lease", lambda *_: False)
    arguments = ["-c", WRITER, str(model), str(model.with_name("evil"))]
    model.with_name("evil").write_bytes(evil)
    meanwhile(lambda: subprocess.run([sys.executable, *arguments], check=True))

    with pytest.raises(SecurityError, match="was written, replaced or renamed while it was"):
        load(model)


def test_a_file_that_is_being_written_is_refused(model: Path) -> None:
    """It is not complete yet, or somebody can change it at any time."""
    with OpenModel(model) as opened:
        leased = opened.leased
    if not leased:
        pytest.skip("this file system, or this user, has no leases on files")

    with model.open("r+b"), pytest.raises(SecurityError, match="another process has it open for"):
        load(model)


RESTLESS = """
import os, random, sys, time
path, good, evil, mode, stop = sys.argv[1:]
contents = [open(name, "rb").read() for name in (evil, good)]
pause = random.Random(0)
while not os.path.exists(stop):
    for content in contents:
        if mode == "exchange":
            open(path + ".new", "wb").write(content)
            os.replace(path + ".new", path)
        else:
            with open(path, "r+b") as file:
                file.write(content)
            if mode == "stealth":
                os.utime(path, (1, 1))
        time.sleep(pause.random() * 0.2)
"""


@pytest.mark.parametrize("mode", ["exchange", "write", "stealth"])
@pytest.mark.parametrize("leased", [True, False])
def test_a_race_is_never_lost(
    model: Path,
    evil: bytes,
    truth: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    mode: str,
    leased: bool,
) -> None:
    """While another process exchanges or rewrites the file all the time, only the good one loads."""
    if not leased:
        monkeypatch.setattr(opening, "_lease", lambda *_: False)
    good, bad, stop = (model.with_name(name) for name in ("good", "evil", "stop"))
    shutil.copy(model, good)
    bad.write_bytes(evil)
    arguments = [str(path) for path in (model, good, bad, mode, stop)]
    outcomes: Counter[str] = Counter()
    with subprocess.Popen([sys.executable, "-c", RESTLESS, *arguments]) as restless:
        end = time.monotonic() + 3
        while time.monotonic() < end:
            try:
                loaded = load(model)
            except SecurityError:
                outcomes["refused"] += 1
            else:
                outcomes["good" if described(loaded) == truth else "EVIL"] += 1
        stop.touch()
        assert restless.wait(timeout=90) == 0

    assert outcomes["EVIL"] == 0
    assert outcomes["refused"] > 0
    assert outcomes.total() > 2


# --- what the header check is for -------------------------------------------------------------------

LOADER = """
import os, sys
os.environ["GGML_NO_BACKTRACE"] = "1"
import llama_cpp
llama = llama_cpp.Llama(model_path=sys.argv[1], n_ctx=32, n_threads=1, verbose=False)
llama("The", max_tokens=1)
"""


@pytest.mark.parametrize(
    "key",
    [
        b"llama.block_count\x04\0\0\0",
        b"llama.attention.layer_norm_rms_epsilon\x06\0\0\0",
        b"tokenizer.ggml.tokens",
    ],
    ids=["layers", "epsilon", "tokens"],
)
def test_what_is_refused_ends_the_engine(tmp_path: Path, key: bytes) -> None:
    """The engine does not survive what the check refuses: the check is needed, and is in time."""
    content = bytearray(TINY.read_bytes())
    at = content.index(key) + len(key)
    if key.startswith(b"tokenizer"):
        # The type, the kind of items and their number, then the first two of them.
        at += 16
        for _ in range(300):
            length = int.from_bytes(content[at : at + 8], "little")
            following = at + 8 + length
            if content[following : following + 8] == content[at : at + 8]:
                content[following + 8 : following + 8 + length] = content[at + 8 : following]
                break
            at = following
    else:
        content[at : at + 4] = b"\xff" * 3 + (b"\xbf" if b"epsilon" in key else b"\0")
    path = tmp_path / "model.gguf"
    path.write_bytes(content)

    with pytest.raises(ArtifactError, match="malformed header"):
        check_model(path)
    done = subprocess.run(
        [sys.executable, "-c", LOADER, str(path)], capture_output=True, check=False, timeout=120
    )
    assert done.returncode != 0
