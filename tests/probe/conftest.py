"""Probes over the counting model."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_quantgate import measure


@pytest.fixture(autouse=True)
def counting_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let probes find the counting model and its misbehaving kin by name."""
    parts = [os.environ.get("PYTHONPATH", ""), str(Path(__file__).parent)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(part for part in parts if part))
    for name in ("CountingBackend", "SlowHello", "OtherProtocol", "DiesAtStart", "Unstartable"):
        monkeypatch.setitem(measure.BACKENDS, name, f"counting:{name}")
    monkeypatch.setitem(measure.BACKENDS, "nowhere", "no_such_module:Backend")
