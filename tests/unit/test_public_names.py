"""The names that packages promise are there, and cost nothing until they are asked for."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest


@pytest.mark.parametrize("package", ["pytest_quantgate", "pytest_quantgate.artifact"])
def test_every_public_name_resolves(package: str) -> None:
    """Each name of `__all__` is an object of its own name, and an unknown one is an AttributeError."""
    module = importlib.import_module(package)

    for name in module.__all__:
        found = getattr(module, name)
        assert getattr(found, "__name__", name) == name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = module.nothing


def test_importing_the_pipeline_loads_nothing_heavy() -> None:
    """Neither numpy nor the engine is loaded before a name that needs it."""
    program = (
        "import sys, pytest_quantgate.artifact;"
        "assert not {'numpy', 'llama_cpp', 'torch', 'psutil'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
