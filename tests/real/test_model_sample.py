"""What a probe says of a model's tokens and predictions, and what it refuses to compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_quantgate.client import Probe
from pytest_quantgate.errors import ArtifactError, MeasurementError, ProbeRefused

TINY = Path(__file__).parents[1] / "models" / "tiny-f16.gguf"
SECONDS = 120.0
WINDOWS = [[1, 2, 3, 4, 5], [6, 7]]


def sample(logits: Path | None, *, model: Path = TINY, **others: Any) -> dict[str, Any]:  # noqa: ANN401 - arguments
    """Ask a probe, with windows where there are logits."""
    arguments = {
        "model": str(model),
        "texts": ["The first", ""],
        "windows": [] if logits is None else WINDOWS,
        "logits": str(logits),
        "threads": 1,
    }
    with Probe.start() as probe:
        return probe.run("model_sample", arguments | others, timeout=SECONDS)


def save(path: Path, logits: np.ndarray[Any, np.dtype[np.float32]]) -> Path:
    """Write a file of logits."""
    np.save(path, logits, allow_pickle=False)
    return path


def test_tokens_and_distance(tmp_path: Path) -> None:
    """Tokens come with and without those around a text; the distance from uniform logits is exact.

    From p uniform over n tokens, the KLD is -log n - mean(log q), and centred logits are all zero, so
    that nothing but the difference is left: the relative error is 1.
    """
    answer = sample(None)
    size = answer["vocabulary"]
    assert [len(plain) for plain, _ in answer["tokens"]] == [len(answer["tokens"][0][0]), 0]
    assert "mean_kld" not in answer

    far = sample(save(tmp_path / "zeros.npy", np.zeros((7, size), np.float32)))
    assert far["positions"] == 7
    assert far["relative_error"] == 1.0
    assert 0 < far["mean_kld"] <= far["max_kld"]
    fewer = sample(save(tmp_path / "fewer.npy", np.zeros((7, size - 1), np.float32)))
    assert fewer["positions"] == 7


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    """Logits of another number of tokens or positions, or that are no numbers, are refused."""
    size = sample(None)["vocabulary"]
    for shape in ((6, size), (8, size), (7, size + 1), (7,)):
        with pytest.raises(ProbeRefused, match="and the source gives logits of shape"):
            sample(save(tmp_path / "other.npy", np.zeros(shape, np.float32)))
    broken = np.zeros((7, size), np.float32)
    broken[6, size - 1] = np.nan
    with pytest.raises(MeasurementError, match="the source predicts something that is no number"):
        sample(save(tmp_path / "nan.npy", broken))


def test_models_that_do_not_open(tmp_path: Path) -> None:
    """The engine's reason is told, and arguments of another kind are refused."""
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(TINY.read_bytes()[:-1])
    with pytest.raises(ProbeRefused, match=r"the engine cannot open it: .*tensor"):
        sample(None, model=cut)
    with pytest.raises(ArtifactError, match="model_sample: cannot use the arguments"):
        sample(None, threads="2")
