"""Checksums: computed, looked up in every notation, and compared without mercy."""

from __future__ import annotations

import base64
import hashlib
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_quantgate.artifact.integrity import (
    ExpectedChecksum,
    expected_checksum,
    model_digest,
    model_parts,
    package_checksum,
    sha256_file,
    verify,
    verify_model_integrity,
    write_sidecar,
)
from pytest_quantgate.errors import ArtifactError, IntegrityError

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_quantgate.records import Progress

CONTENT = b"weights"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a file nobody vouches for."""
    path = tmp_path / "model.gguf"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def split(tmp_path: Path) -> tuple[Path, ...]:
    """Return the three parts of a split model."""
    parts = tuple(tmp_path / f"big-0000{number}-of-00003.gguf" for number in (1, 2, 3))
    for part in parts:
        part.write_bytes(part.name.encode())
    return parts


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_digest_is_that_of_the_bytes(tmp_path: Path, size: int) -> None:
    """Whatever the length in blocks; progress ends at the size."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * size)
    steps: list[Progress] = []

    assert sha256_file(path, on_progress=steps.append) == hashlib.sha256(b"x" * size).hexdigest()
    assert [step.done for step in steps[-1:]] == [size] * (size > 0)
    assert {(step.total, step.unit) for step in steps} <= {(size, "byte")}


def test_digest_needs_a_file(tmp_path: Path) -> None:
    """Nothing there, or a folder, is an error and no digest."""
    with pytest.raises(ArtifactError, match="no such file"):
        sha256_file(tmp_path / "absent")
    with pytest.raises(ArtifactError, match="is a folder, not a file"):
        sha256_file(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        "{digest}  model.gguf\n",
        "{digest} *model.gguf\n",
        "{digest} model.gguf\n",
        "{digest}\tmodel.gguf",
        "{digest}",
        "{digest}\n\n",
        "{upper}  ./model.gguf\n",
        "{digest}  dist/model.gguf\n",
        "\ufeff{digest}  model.gguf\r\n",
        "# made by hand\n\n{digest}  model.gguf\n",
        "SHA256 (model.gguf) = {digest}\n",
        "SHA2-256(model.gguf)= {digest}\n",
        "MD5 (model.gguf) = 0123\nSHA256 (model.gguf) = {digest}\n",
        "{other}  other.gguf\n{digest}  model.gguf\n",
        "{other}  elsewhere/model.gguf\n{digest}  model.gguf\n",
    ],
)
def test_reads_sidecars_of_every_tool(model: Path, line: str) -> None:
    """Coreutils in both modes, one space, BSD, OpenSSL, bare digests, Windows line ends."""
    sidecar = model.with_name("model.gguf.sha256")
    sidecar.write_bytes(line.format(digest=DIGEST, upper=DIGEST.upper(), other=OTHER).encode())

    assert expected_checksum(model) == ExpectedChecksum(
        digest=DIGEST, source="sidecar model.gguf.sha256"
    )


@pytest.mark.parametrize("name", ["model.gguf.sha256", "model.sha256"])
def test_finds_sidecars_of_both_names(model: Path, name: str) -> None:
    """The suffix is added to the name or takes the place of its own."""
    model.with_name(name).write_text(f"{DIGEST}  model.gguf\n")

    verification = verify(model)

    assert (verification.outcome, verification.source) == ("match", f"sidecar {name}")


def test_finds_the_list_of_the_folder(model: Path) -> None:
    """SHA256SUMS counts where it lists the file, and is silent where it does not."""
    listing = model.with_name("SHA256SUMS")
    listing.write_text(f"{OTHER}  other.gguf\n")
    assert expected_checksum(model) is None

    listing.write_text(f"{OTHER}  other.gguf\n{DIGEST}  model.gguf\n")
    assert expected_checksum(model) == ExpectedChecksum(digest=DIGEST, source="SHA256SUMS")


def test_literal_goes_before_sums_before_sidecar(model: Path) -> None:
    """Who is asked explicitly is believed, and the others are not read."""
    model.with_name("model.gguf.sha256").write_text("garbage")
    sums = model.with_name("release.txt")
    sums.write_text(f"{OTHER}  model.gguf\n")

    literal = expected_checksum(model, literal=DIGEST.upper(), sums=sums)
    listed = expected_checksum(model, sums=sums)

    assert literal == ExpectedChecksum(digest=DIGEST, source="the specification")
    assert listed == ExpectedChecksum(digest=OTHER, source="sums file release.txt")


@pytest.mark.parametrize(
    ("sidecar", "reason"),
    [
        ("", "holds no checksum; write it again with `quantgate checksum model.gguf`"),
        ("# nothing\n", "holds no checksum"),
        (
            f"{OTHER}  other.gguf\n",
            "is the checksum of 'other.gguf', not of 'model.gguf'; write it",
        ),
        (f"{DIGEST[:-1]}  model.gguf\n", "is not a SHA-256: it has 63 characters, 64 hexadecimal"),
        (f"{DIGEST}0  model.gguf\n", "is not a SHA-256: it has 65 characters"),
        (f"{DIGEST[:-1]}g  model.gguf\n", "is not a SHA-256: it has 64 characters"),
        ("sha256:" + DIGEST, "is not a SHA-256"),
        ("<!DOCTYPE html>" + "x" * 100, "is not a SHA-256"),
        (
            f"{DIGEST}  model.gguf\n{OTHER}  model.gguf\n",
            "has 2 different checksums for model.gguf",
        ),
        (f"{DIGEST}\n{OTHER}\n", "has 2 different checksums for model.gguf"),
        (
            f"{DIGEST}  a/model.gguf\n{OTHER}  b/model.gguf\n",
            "has 2 different checksums for model.gguf; keep the right one",
        ),
    ],
)
def test_refuses_sidecars_that_say_nothing_sure(model: Path, sidecar: str, reason: str) -> None:
    """A sidecar that cannot be relied on is an error, never passed over."""
    path = model.with_name("model.gguf.sha256")
    path.write_text(sidecar)

    with pytest.raises(IntegrityError) as caught:
        verify(model)

    assert str(caught.value).startswith(str(path))
    assert reason in str(caught.value)


def test_refuses_sidecars_that_are_no_text(model: Path) -> None:
    """Binary digests, folders and dangling links are no sidecars."""
    path = model.with_name("model.gguf.sha256")
    path.write_bytes(b"\xff" * 32)
    with pytest.raises(IntegrityError, match="is not text: invalid start byte at byte 0"):
        verify(model)

    path.unlink()
    path.symlink_to("gone")
    with pytest.raises(ArtifactError, match="no such file"):
        verify(model)

    path.unlink()
    path.mkdir()
    with pytest.raises(ArtifactError, match="is a folder, not a file"):
        verify(model)


def test_refuses_lists_that_are_far_too_long(model: Path) -> None:
    """A model given as its own sums file is not read into memory."""
    sums = model.with_name("huge")
    with sums.open("wb") as file:
        file.truncate((16 << 20) + 1)

    with pytest.raises(IntegrityError, match="is 16,777,217 bytes long, which no list"):
        expected_checksum(model, sums=sums)


def test_refuses_witnesses_that_disagree(model: Path) -> None:
    """Two sidecars with different digests: both are named, neither is believed."""
    model.with_name("model.gguf.sha256").write_text(f"{DIGEST}  model.gguf\n")
    model.with_name("SHA256SUMS").write_text(f"{OTHER}  model.gguf\n")

    with pytest.raises(IntegrityError) as caught:
        verify(model)

    assert str(caught.value) == (
        f"{model}: sidecar model.gguf.sha256 says {DIGEST}, SHA256SUMS says {OTHER}; remove the one "
        "that is out of date"
    )


def test_explicit_sources_must_speak_of_the_file(model: Path) -> None:
    """A sums file without the file, or a literal that is no digest, is an error."""
    sums = model.with_name("sums")
    sums.write_text(f"{OTHER}  other.gguf\n")
    with pytest.raises(IntegrityError) as caught:
        expected_checksum(model, sums=sums)
    assert str(caught.value) == (
        f"{sums}: does not list model.gguf; add the line that `sha256sum model.gguf` prints"
    )

    sums.write_text(f"{DIGEST}\n")
    with pytest.raises(IntegrityError, match="sums:1: a checksum without the name of its file"):
        expected_checksum(model, sums=sums)
    with pytest.raises(IntegrityError, match="the checksum in the specification: 'abc' is not a"):
        expected_checksum(model, literal="abc")
    with pytest.raises(ArtifactError, match="no such file"):
        expected_checksum(model, sums=model.with_name("absent"))


def test_outcomes(model: Path) -> None:
    """Match, mismatch and missing are judged, with what was expected and found."""
    missing = verify(model)
    assert (missing.outcome, missing.expected, missing.actual) == ("missing", None, DIGEST)
    assert missing.source == ""
    assert missing.bytes == len(CONTENT)
    assert missing.command == (
        f"quantgate checksum {model}  (or: sha256sum {model} > {model}.sha256)"
    )

    match = verify(model, literal=DIGEST)
    assert (match.outcome, match.expected, match.actual) == ("match", DIGEST, DIGEST)
    assert match.parts == (model,)
    assert match.digests == (DIGEST,)

    mismatch = verify(model, literal=OTHER)
    assert (mismatch.outcome, mismatch.expected, mismatch.actual) == ("mismatch", OTHER, DIGEST)


@pytest.mark.parametrize("name", ["model.gguf", "with space.gguf", "with\\backslash\nline.gguf"])
def test_sidecars_are_those_of_coreutils(tmp_path: Path, name: str) -> None:
    """`sha256sum` writes the same bytes, checks ours, and we read what it wrote."""
    path = tmp_path / name
    path.write_bytes(CONTENT)

    sidecar = write_sidecar(path)

    theirs = subprocess.run(["sha256sum", name], cwd=tmp_path, check=True, capture_output=True)  # noqa: S607 - whichever coreutils there is
    assert sidecar.name == f"{name}.sha256"
    assert sidecar.read_bytes() == theirs.stdout
    subprocess.run(["sha256sum", "-c", sidecar.name], cwd=tmp_path, check=True)  # noqa: S607 - as above
    assert verify(path).outcome == "match"


def test_parts_of_a_split_model(split: tuple[Path, ...]) -> None:
    """Any part leads to all; one that is missing is named."""
    for part in split:
        assert model_parts(part) == split

    split[1].unlink()
    with pytest.raises(ArtifactError) as caught:
        model_parts(split[0])
    assert str(caught.value) == (
        f"{split[0]}: 1 of 3 parts of the model are missing: big-00002-of-00003.gguf"
    )


@pytest.mark.parametrize("name", ["m-00000-of-00002.gguf", "m-00003-of-00002.gguf"])
def test_refuses_parts_that_cannot_be(tmp_path: Path, name: str) -> None:
    """Parts count from 1 to their number."""
    with pytest.raises(ArtifactError, match="of 2 cannot be; the parts of a model count from 1"):
        model_parts(tmp_path / name)


@pytest.mark.parametrize("name", ["m.gguf", "m-0001-of-0002.gguf", "m-00001-of-00002.gguf.bak"])
def test_other_names_are_single_files(tmp_path: Path, name: str) -> None:
    """Only the exact pattern makes a split."""
    assert model_parts(tmp_path / name) == (tmp_path / name,)


def test_long_lists_of_missing_parts_are_cut(tmp_path: Path) -> None:
    """Five names are enough to know what to look for."""
    with pytest.raises(
        ArtifactError, match=r"100 of 100 parts .*-00005-of-00100\.gguf and 95 more"
    ):
        model_parts(tmp_path / "m-00001-of-00100.gguf")


def test_digest_of_a_split_model(split: tuple[Path, ...]) -> None:
    """It is the digest of what `sha256sum` prints for the parts."""
    listing = subprocess.run(
        ["sha256sum", *(part.name for part in split)],  # noqa: S607 - whichever coreutils there is
        cwd=split[0].parent,
        check=True,
        capture_output=True,
    )

    digest = hashlib.sha256(listing.stdout).hexdigest()
    assert {model_digest(part) for part in split} == {digest}
    assert verify(split[0], literal=digest).outcome == "match"
    assert verify(split[0], literal=sha256_file(split[0])).outcome == "mismatch"


def test_every_part_must_be_vouched_for(split: tuple[Path, ...]) -> None:
    """One sidecar lists all parts; a part it leaves out is missing, a changed one a mismatch."""
    assert verify(split[0]).outcome == "missing"

    sidecar = write_sidecar(split[2])
    assert sidecar.name == "big-00001-of-00003.gguf.sha256"
    match = verify(split[1])
    assert (match.outcome, match.actual) == ("match", model_digest(split[0]))
    assert match.command == f"quantgate checksum {split[1]}"

    split[2].write_bytes(b"changed")
    mismatch = verify(split[0])
    assert mismatch.outcome == "mismatch"
    assert mismatch.actual == hashlib.sha256(b"changed").hexdigest()
    assert mismatch.expected == hashlib.sha256(split[2].name.encode()).hexdigest()

    sums = sidecar.with_name("SHA256SUMS")
    sums.write_text("".join(sidecar.read_text().splitlines(keepends=True)[:2]))
    sidecar.unlink()
    missing = verify(split[0])
    assert (missing.outcome, missing.source) == ("missing", "big-00003-of-00003.gguf")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the model of an installed distribution, whose RECORD has its digest."""
    site = tmp_path / "site"
    model = site / "sample_models" / "tiny.gguf"
    model.parent.mkdir(parents=True)
    model.write_bytes(CONTENT)
    info = site / "sample_models-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sample-models\nVersion: 1.2\n")
    digest = base64.urlsafe_b64encode(bytes.fromhex(DIGEST)).rstrip(b"=").decode()
    (info / "RECORD").write_text(
        f"sample_models-1.2.dist-info/RECORD,,\nsample_models/tiny.gguf,sha256={digest},7\n"
    )
    monkeypatch.syspath_prepend(site)
    return model


def test_record_of_a_distribution_vouches(installed: Path) -> None:
    """A file that pip installed needs no sidecar; changing it shows."""
    assert package_checksum(installed) == DIGEST
    verification = verify(installed)
    assert (verification.outcome, verification.source) == ("match", "RECORD of sample-models 1.2")

    installed.write_bytes(b"changed")
    assert verify(installed).outcome == "mismatch"


def test_record_must_agree_with_a_sidecar(installed: Path) -> None:
    """A sidecar laid beside an installed file cannot outvote its distribution."""
    installed.with_name("tiny.gguf.sha256").write_text(OTHER)

    with pytest.raises(IntegrityError, match=r"RECORD of sample-models 1\.2 says"):
        verify(installed)


@pytest.mark.parametrize("field", ["md5=abc", "sha256=abc", "sha256=!!!", "sha256"])
def test_refuses_records_of_other_digests(installed: Path, field: str) -> None:
    """What is no SHA-256 does not count as one."""
    record = next(installed.parent.parent.glob("*.dist-info")) / "RECORD"
    record.write_text(f"sample_models/tiny.gguf,{field},7\n")

    with pytest.raises(IntegrityError, match="is not a SHA-256; reinstall the distribution"):
        package_checksum(installed)


def test_files_of_no_distribution_have_no_record(installed: Path, model: Path) -> None:
    """Files elsewhere, and files their distribution does not list, are nobody's."""
    extra = installed.with_name("extra.gguf")
    extra.touch()

    assert package_checksum(model) is None
    assert package_checksum(extra) is None


@given(content=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_sidecar_by_chance_vouches(model: Path, content: bytes) -> None:
    """Arbitrary bytes beside a model are an `IntegrityError`, never a match."""
    model.with_name("model.gguf.sha256").write_bytes(content)

    with pytest.raises(IntegrityError):
        verify(model)


def test_answers_yes_or_no(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Only a checksum that matches is a yes; the log says which no it was, without whole digests."""
    assert not verify_model_integrity(model)
    write_sidecar(model)
    assert verify_model_integrity(str(model))
    model.write_bytes(b"changed")
    assert not verify_model_integrity(model)

    actual = hashlib.sha256(b"changed").hexdigest()[:16]
    assert caplog.messages == [
        "model.no_checksum model=model.gguf",
        f"model.checksum_mismatch model=model.gguf expected={DIGEST[:16]} actual={actual}",
    ]
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]


def test_answers_for_the_sidecar_of_other_tools(model: Path) -> None:
    """`model.sha256` with one space between digest and name counts, too."""
    model.with_name("model.sha256").write_text(f"{DIGEST} model.gguf")

    assert verify_model_integrity(model)


def test_no_answer_without_a_file_or_with_a_broken_sidecar(model: Path) -> None:
    """What cannot be judged is an error, not a no."""
    with pytest.raises(ArtifactError, match="no such file"):
        verify_model_integrity(model.with_name("absent.gguf"))
    model.with_name("model.gguf.sha256").write_text("garbage")
    with pytest.raises(IntegrityError, match="is not a SHA-256"):
        verify_model_integrity(model)


def test_hashes_the_open_file(model: Path) -> None:
    """What lies under the name by now does not count."""
    write_sidecar(model)
    with model.open("rb", buffering=0) as file:
        model.unlink()
        model.write_bytes(b"exchanged")

        verification = verify(model, files=[file])

    assert (verification.outcome, verification.actual) == ("match", DIGEST)
    assert verification.bytes == len(CONTENT)
