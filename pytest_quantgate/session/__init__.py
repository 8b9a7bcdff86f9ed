"""An active run: what it holds, and the files it leaves behind."""

from __future__ import annotations

from pytest_quantgate.session.state import (
    BASELINE_WRITTEN,
    LoadedSpec,
    QuantgateSession,
    Subject,
)

__all__ = ["BASELINE_WRITTEN", "LoadedSpec", "QuantgateSession", "Subject"]
