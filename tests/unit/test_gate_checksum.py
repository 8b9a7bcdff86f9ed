"""The checksum gate, on real files with real digests."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
from bench_stub import StubBench, as_bench
from pydantic import ValidationError

from pytest_quantgate.artifact import integrity
from pytest_quantgate.gates.checksum import GATE, ChecksumSettings
from pytest_quantgate.records import Outcome

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_quantgate.gates import Judgement

CONTENT = b"not really a model" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
OTHER = hashlib.sha256(b"another").hexdigest()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file to vouch for."""
    path = tmp_path / "model.gguf"
    path.write_bytes(CONTENT)
    return path


def judge(model: Path, *, literal: str | None = None) -> Judgement:
    """Verify a file for real and judge what was found."""
    verification = integrity.verify(model, literal=literal)
    return GATE.judge(ChecksumSettings(), verification, as_bench(StubBench()))


def test_the_expected_file_passes(model: Path) -> None:
    """A digest as the sidecar has it passes and says who vouched."""
    integrity.write_sidecar(model)

    found = judge(model)

    (check,) = found.checks
    assert check.outcome is Outcome.PASS
    assert (check.limit_name, check.text, check.limit_text, check.sample) == (
        "sha256",
        DIGEST[:12],
        "sidecar",
        "0.0 MB",
    )
    assert found.headline == f"sha256 {DIGEST[:16]}... is what sidecar model.gguf.sha256 says"
    assert (found.findings, found.advice) == ((), ())
    assert found.record == {
        "sha256": DIGEST,
        "expected": DIGEST,
        "source": "sidecar model.gguf.sha256",
        "parts": 1,
        "bytes": len(CONTENT),
    }


@pytest.mark.parametrize("bit", [1, 128])
def test_one_changed_bit_fails(model: Path, bit: int) -> None:
    """A single bit anywhere makes another file, with both digests in full and what to do."""
    integrity.write_sidecar(model)
    changed = bytearray(CONTENT)
    changed[-1] ^= bit
    model.write_bytes(changed)
    actual = hashlib.sha256(changed).hexdigest()

    found = judge(model)

    assert [check.outcome for check in found.checks] == [Outcome.FAIL]
    assert found.headline == (
        f"sha256 of model.gguf is {actual[:16]}..., but sidecar model.gguf.sha256 says"
        f" {DIGEST[:16]}..."
    )
    assert found.findings == (f"expected {DIGEST}", f"actual   {actual}")
    assert found.advice == (
        "do not load it: fetch it again from where it was published, or find who changed it",
    )


def test_a_file_nobody_vouched_for_fails(model: Path) -> None:
    """No checksum is no pass, and the message has the command that makes one."""
    found = judge(model)

    (check,) = found.checks
    assert (check.outcome, check.limit_text) == (Outcome.FAIL, "no checksum")
    assert found.headline == (
        f"model.gguf has no checksum; make one with: quantgate checksum {model}"
        f"  (or: sha256sum {model} > {model}.sha256)"
    )
    assert found.findings == (f"actual sha256 {DIGEST}",)
    assert found.advice == ("make the checksum where the file was made, not where it is checked",)
    assert found.record["expected"] is None


@pytest.mark.parametrize(
    ("literal", "outcome"),
    [(DIGEST, Outcome.PASS), (DIGEST.upper(), Outcome.PASS), (OTHER, Outcome.FAIL)],
)
def test_a_digest_in_the_specification_counts(model: Path, literal: str, outcome: Outcome) -> None:
    """A literal digest is compared in either case of its letters, and is named as the source."""
    found = judge(model, literal=literal)

    assert [check.outcome for check in found.checks] == [outcome]
    assert found.checks[0].limit_text == "specification"
    assert found.record["source"] == "the specification"


def test_what_is_asked(model: Path) -> None:
    """The literal and the sums file, found in the project, go to the verification."""
    verification = integrity.verify(model)
    bench = StubBench(folder=model.parent, verified=verification)

    found = GATE.measure(ChecksumSettings(sha256=OTHER, sums="SHA256SUMS"), as_bench(bench))
    GATE.measure(ChecksumSettings(), as_bench(bench))

    assert found is verification
    assert bench.asked == [(OTHER, model.parent / "SHA256SUMS"), (None, None)]


@pytest.mark.parametrize(
    ("values", "right"),
    [
        ({}, True),
        ({"sha256": "a" * 64}, True),
        ({"sha256": "A" * 64}, True),
        ({"sha256": "a" * 63}, False),
        ({"sha256": "a" * 65}, False),
        ({"sha256": "g" * 64}, False),
        ({"sha256": "a" * 64 + "\n"}, False),
        ({"sums": ""}, False),
        ({"sums": "S"}, True),
        ({"md5": "a"}, False),
    ],
)
def test_what_settings_accept(values: dict[str, object], *, right: bool) -> None:
    """A digest has 64 hexadecimal digits, and a gate without limits needs none."""
    if right:
        assert ChecksumSettings.model_validate(values).limits_given() == ()
    else:
        with pytest.raises(ValidationError):
            ChecksumSettings.model_validate(values)


def test_it_runs_on_files_that_must_not_be_loaded() -> None:
    """No model is loaded and no baseline needed to compare bytes."""
    assert not GATE.loads_model
    assert not GATE.needs_baseline(ChecksumSettings())
