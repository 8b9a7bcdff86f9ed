"""A project to gate: the tiny model, a text and cases in a folder of their own."""

from __future__ import annotations

import os
import pydoc_data.topics
import shutil
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_quantgate import measure

pytest_plugins = ["pytester"]

MODELS = Path(__file__).parent / "models"
TINY = MODELS / "tiny-f16.gguf"

SPEC = """\
quantgate: 1
defaults: {corpus: corpus.txt, context: 128}
models:
  tiny:
    baseline: {source: tiny-f16.gguf}
    variants:
      Q8_0: {quantize: Q8_0}
      Q4_K_M: {quantize: Q4_K_M}
    gates:
      checksum: {}
      perplexity: {max_ratio: 1.5}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A folder with a model, a corpus and a specification, and pytest to run in it.

    Measurements and made models are shared by all tests of a session: what one has measured, the
    next finds in the store, as runs of a project do.
    """

    pytester: pytest.Pytester
    monkeypatch: pytest.MonkeyPatch
    shared_store: Path

    @property
    def path(self) -> Path:
        """The project's folder."""
        return self.pytester.path

    def spec(self, text: str = SPEC, name: str = "gates.yaml") -> Path:
        """Write a specification."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    def gate(
        self, *arguments: str, spec: str = "gates.yaml", fresh: bool = False
    ) -> pytest.RunResult:
        """Run ``pytest --quantgate``; ``fresh`` gives the run a store of its own."""
        store = self.path / ".quantgate" if fresh else self.shared_store
        return self.run("--quantgate", spec, "--quantgate-store", str(store), *arguments)

    def run(self, *arguments: str) -> pytest.RunResult:
        """Run pytest in a process of its own."""
        return self.pytester.runpytest_subprocess(*arguments, timeout=300)


@pytest.fixture(scope="session")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that lasts as long as the session."""
    return tmp_path_factory.mktemp("quantgate-store")


@pytest.fixture(scope="session")
def corpus_text() -> str:
    """About 24 kB of prose that every Python carries."""
    topics: dict[str, str] = pydoc_data.topics.topics
    return "\n\n".join(topics[name] for name in sorted(topics))[:24_000]


@pytest.fixture
def project(
    pytester: pytest.Pytester,
    shared_store: Path,
    corpus_text: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Project:
    """A project with the tiny model, its checksum, a corpus and a specification."""
    # Colours and annotations must not depend on where the suite runs.
    for name in ("CI", "GITHUB_ACTIONS", "FORCE_COLOR", "PY_COLORS", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    # As probes have it; tests of a project load models in its own process, too.
    monkeypatch.setenv("GOMP_SPINCOUNT", measure.SPINS)
    shutil.copy(TINY, pytester.path / TINY.name)
    shutil.copy(MODELS / f"{TINY.name}.sha256", pytester.path)
    (pytester.path / "corpus.txt").write_text(corpus_text, encoding="utf-8")
    project = Project(pytester=pytester, monkeypatch=monkeypatch, shared_store=shared_store)
    project.spec()
    # One thread: with two, each waits for the other, and the other core may be busy.
    pytester.makeini("[pytest]\nquantgate_threads = 1\n")
    # Coverage of the processes a test starts is data of the suite, not of the project under test.
    if "COVERAGE_PROCESS_START" in os.environ:
        monkeypatch.setenv(
            "COVERAGE_PROCESS_START", os.path.abspath(os.environ["COVERAGE_PROCESS_START"])
        )
    return project


@pytest.fixture(params=[[], ["-n0"], ["-n2"]], ids=["plain", "n0", "n2"])
def three_ways(request: pytest.FixtureRequest) -> list[str]:
    """Arguments that run a test without xdist's options, with -n0 and with -n2."""
    arguments: list[str] = request.param
    return arguments


@pytest.fixture
def counting_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let probes find the counting model of tests/probe, and its misbehaving kin, by name."""
    parts = [os.environ.get("PYTHONPATH", ""), str(Path(__file__).parent / "probe")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(part for part in parts if part))
    for name in ("CountingBackend", "SlowHello", "OtherProtocol", "DiesAtStart", "Unstartable"):
        monkeypatch.setitem(measure.BACKENDS, name, f"counting:{name}")
    monkeypatch.setitem(measure.BACKENDS, "nowhere", "no_such_module:Backend")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs llama.cpp by the folder it lies in."""
    for item in items:
        if "real" in item.path.parts:
            item.add_marker("real")
