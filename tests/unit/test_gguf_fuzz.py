"""No mutated header crashes the reader, takes memory without bound, or takes long."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import header_mutations
import pytest

import pytest_quantgate
from pytest_quantgate.artifact.gguf import check_model
from pytest_quantgate.errors import ArtifactError

COUNT = 2_500
SECONDS = 60.0
SOURCE = Path(pytest_quantgate.__file__).parents[1]

# Seeds of `mutations`.
SEEDS = (0, 1, 2)


def test_thousands_of_mutated_headers_are_read_or_refused() -> None:
    """In little memory and time; each header is accepted or an `ArtifactError`, nothing else."""
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join([str(SOURCE), environment.get("PYTHONPATH", "")])
    read = accepted = 0
    for seed in SEEDS:
        script = str(Path(header_mutations.__file__))
        arguments = [script, str(COUNT // len(SEEDS) + 1), str(seed), str(SECONDS)]
        done = subprocess.run(
            [sys.executable, *arguments],
            env=environment,
            timeout=3 * SECONDS,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        result = json.loads(done.stdout)
        read += result["read"]
        accepted += result["accepted"]
        # Two seconds for a header of 100 kB: whoever shares the machine may be busy.
        assert result["slowest"] < 2

    assert read >= 2_000
    # A mutation that hits a value leaves a good header: not everything is refused.
    assert 0 < accepted < read


@pytest.mark.parametrize("name", sorted(set(header_mutations.corpus()) - {"zeros", "tiny"}))
def test_the_seeds_are_good(tmp_path: Path, name: str) -> None:
    """What mutations start from is accepted, so that they fail for their own reasons."""
    path = tmp_path / "model.gguf"
    path.write_bytes(header_mutations.corpus()[name])

    assert check_model(path).architecture == "llama"


@pytest.mark.parametrize(("name", "reason"), [("zeros", "holds no tensors"), ("tiny", "truncated")])
def test_the_other_seeds_are_refused(tmp_path: Path, name: str, reason: str) -> None:
    """A header of zeros and one without its data have their reasons."""
    path = tmp_path / "model.gguf"
    path.write_bytes(header_mutations.corpus()[name])

    with pytest.raises(ArtifactError, match=reason):
        check_model(path)


def test_mutations_repeat() -> None:
    """A seed names the same headers on every machine and every run."""
    first = list(header_mutations.mutations(50, 7))

    assert first == list(header_mutations.mutations(50, 7))
    assert first != list(header_mutations.mutations(50, 8))
