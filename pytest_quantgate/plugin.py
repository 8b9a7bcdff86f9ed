"""The pytest entry point: options, hooks and fixtures, with every body imported when it is needed.

This module is loaded in each pytest run of everybody who has the package installed, so it imports
pytest and the standard library and nothing else of ours. The hook specifications stand here for the
same reason: pytest must know them in every run, or a conftest.py that implements one would not load.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from pytest_quantgate.model import QuantizedModel
    from pytest_quantgate.session import QuantgateSession


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One ``--quantgate-*`` option and its ini twin ``quantgate_*``."""

    name: str
    kind: str
    default: Any
    help: str
    metavar: str = "VALUE"

    @property
    def flag(self) -> str:
        """Return the command-line spelling."""
        return "--quantgate-" + self.name.replace("_", "-")

    @property
    def ini(self) -> str:
        """Return the ini spelling."""
        return f"quantgate_{self.name}"


OPTIONS = (
    Option(
        name="store",
        kind="string",
        default=".quantgate",
        metavar="DIR",
        help="Folder for measurements and made models, relative to the rootdir (default: .quantgate)",
    ),
    Option(
        name="root",
        kind="paths",
        default=[],
        metavar="DIR",
        help="Further folder that models, corpora and cases may lie in, besides the rootdir",
    ),
    Option(
        name="threads",
        kind="int",
        default=None,
        metavar="N",
        help="Compute threads of each probe (default: the processors this process may use)",
    ),
    Option(
        name="timeout",
        kind="float",
        default=None,
        metavar="SECONDS",
        help="Longest time one measurement may take (default: the specification's, else 1800)",
    ),
    Option(
        name="remeasure",
        kind="bool",
        default=False,
        help="Measure anew instead of using stored measurements",
    ),
    Option(
        name="baselines",
        kind="string",
        default=None,
        metavar="DIR",
        help="Folder of committed baselines, relative to the rootdir; those missing are written",
    ),
    Option(
        name="update_baselines",
        kind="bool",
        default=False,
        help="Measure the committed baselines of this run anew and write them",
    ),
    Option(
        name="baseline_chunks",
        kind="int",
        default=128,
        metavar="N",
        help="Windows a committed baseline is measured on (default: 128)",
    ),
    Option(
        name="answers",
        kind="string",
        default=None,
        metavar="FILE",
        help="Write every answered case of every gate to this file of JSON Lines, relative to the"
        " rootdir",
    ),
    Option(
        name="required",
        kind="bool",
        default=False,
        help="Make tests that need --quantgate an error without it, instead of a skip",
    ),
)

CASE_HELP = (
    "Ask only this case, by its id, of the gates that have it; other gates are deselected, and no"
    " limit is judged"
)


class HookSpecs:
    """Hooks that a conftest.py may implement."""

    @pytest.hookspec
    def pytest_quantgate_spec(self, config: pytest.Config) -> Mapping[str, object]:  # type: ignore[empty-body]
        """Return a specification as a mapping of the same structure as gates.yaml.

        Called once for each conftest.py that implements it, when gating is on, in every xdist worker;
        the answer must be the same in each. Its gates are collected as
        ``conftest.py::<model>::<variant>::<gate>``.
        """


SESSION: pytest.StashKey[QuantgateSession] = pytest.StashKey()


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Make the hooks known."""
    pluginmanager.add_hookspecs(HookSpecs)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options and their ini twins from one table."""
    group = parser.getgroup("quantgate", "gate quantized language models")
    group.addoption(
        "--quantgate",
        dest="quantgate_specs",
        action="append",
        default=None,
        metavar="SPEC",
        help="Gate the models of this specification: a YAML file, or a conftest.py that implements"
        " pytest_quantgate_spec (repeatable)",
    )
    # No twin in an ini: a run whose limits nobody judges must be asked for anew each time.
    group.addoption(
        "--quantgate-case",
        dest="quantgate_cases",
        action="append",
        default=[],
        metavar="ID",
        help=CASE_HELP + " (repeatable)",
    )
    parser.addini(
        "quantgate_specs", "Specifications to gate in every run (--quantgate)", "linelist", []
    )
    for option in OPTIONS:
        dest = option.ini
        if option.kind == "bool":
            group.addoption(
                option.flag, dest=dest, action="store_true", default=None, help=option.help
            )
            group.addoption(
                option.flag.replace("--", "--no-", 1),
                dest=dest,
                action="store_false",
                default=None,
                help=f"Undo {option.flag}",
            )
            parser.addini(option.ini, option.help, "bool", option.default)
        elif option.kind == "paths":
            group.addoption(
                option.flag,
                dest=dest,
                action="append",
                default=None,
                metavar=option.metavar,
                help=option.help + " (repeatable)",
            )
            parser.addini(option.ini, option.help, "linelist", option.default)
        else:
            group.addoption(
                option.flag, dest=dest, default=None, metavar=option.metavar, help=option.help
            )
            parser.addini(option.ini, option.help, "string", None)


def option_value(config: pytest.Config, option: Option) -> Any:  # noqa: ANN401 - per option
    """Return an option's value: command line, else ini, else default.

    Raises:
        pytest.UsageError: the value is no number above 0 where one is needed.
    """
    value = config.getoption(option.ini)
    where = option.flag
    if value is None:
        value = config.getini(option.ini)
        where = option.ini
    if value is None or value == "":
        return option.default
    if option.kind not in ("int", "float"):
        return value
    try:
        number = int(value) if option.kind == "int" else float(value)
    except ValueError:
        number = 0
    if not 0 < number < float("inf"):
        kind = "whole number" if option.kind == "int" else "number"
        message = f"{where}: {value!r} is no {kind} above 0"
        raise pytest.UsageError(message)
    return number


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker and, when a specification is named, everything else."""
    config.addinivalue_line(
        "markers", "quantgate(model, variant, gate): a gate of a --quantgate specification"
    )
    named: Sequence[str] | None = config.getoption("quantgate_specs")
    # Names on the command line are relative to where pytest was started, names in an ini to the ini.
    folder = config.invocation_params.dir
    if named is None:
        named = config.getini("quantgate_specs")
        folder = config.rootpath
    if not named:
        _require_no_orphans(config)
        return
    specs: list[Path] = []
    for name in named:
        path = Path(os.path.abspath(folder / name))
        if path.is_dir():
            message = f"--quantgate: {name} is a folder; name the specification file in it"
            raise pytest.UsageError(message)
        if not path.is_file():
            message = f"--quantgate: no such specification: {name}"
            raise pytest.UsageError(message)
        if path not in specs:
            specs.append(path)
    options = {option.name: option_value(config, option) for option in OPTIONS}
    if options["update_baselines"] and not options["baselines"]:
        message = "--quantgate-update-baselines: name their folder with --quantgate-baselines DIR"
        raise pytest.UsageError(message)

    from pytest_quantgate.session import QuantgateSession  # noqa: PLC0415 - active runs only

    chosen = frozenset(config.getoption("quantgate_cases"))
    session = QuantgateSession(config, specs, options, chosen_cases=chosen)
    config.stash[SESSION] = session
    config.pluginmanager.register(session, "quantgate-session")


def _require_no_orphans(config: pytest.Config) -> None:
    """Refuse arguments that would be ignored because nothing is gated."""
    for flag, dest in (("case", "quantgate_cases"), ("answers", "quantgate_answers")):
        if config.getoption(dest):
            message = f"--quantgate-{flag}: name the specification with --quantgate SPEC"
            raise pytest.UsageError(message)


@pytest.hookimpl(wrapper=True)
def pytest_ignore_collect(
    collection_path: Path, config: pytest.Config
) -> Generator[None, bool | None, bool | None]:
    """Let a walk reach the specifications where norecursedirs or --ignore says otherwise."""
    ignored = yield
    session = config.stash.get(SESSION, None)
    return ignored if session is None else session.ignores(collection_path, ignored=ignored)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect a specification's gates."""
    session = parent.config.stash.get(SESSION, None)
    if session is None or not session.is_spec(file_path):
        return None
    from pytest_quantgate.collect import SpecFile  # noqa: PLC0415 - active runs only

    return SpecFile.from_parent(parent, path=file_path, session_state=session)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for a quantized model once for every variant of the specifications."""
    if "quantgate_variant" not in metafunc.fixturenames:
        return
    session = metafunc.config.stash.get(SESSION, None)
    if session is not None:
        session.parametrize(metafunc)


@pytest.fixture
def quantgate_variant(request: pytest.FixtureRequest) -> Any:  # noqa: ANN401 - a session.Subject
    """The variant a test runs on; tests that use it, or a fixture below, run once for each."""
    session = request.config.stash.get(SESSION, None)
    if session is not None:
        from pytest_quantgate.collect import subject  # noqa: PLC0415 - active runs only

        return subject(session, request)
    reason = "needs a specification: run pytest with --quantgate SPEC"
    required = next(option for option in OPTIONS if option.name == "required")
    if option_value(request.config, required):
        pytest.fail(f"{request.node.name} {reason} (quantgate_required is set)", pytrace=False)
    pytest.skip(reason)


@pytest.fixture
def quantized_model(
    quantgate_variant: Any,  # noqa: ANN401 - see above
    request: pytest.FixtureRequest,
) -> QuantizedModel:
    """The variant, verified and loaded in this process.

    Callable like `llama_cpp.Llama`, and an `os.PathLike` of its file.
    """
    from pytest_quantgate import fixtures  # noqa: PLC0415 - active runs only

    return fixtures.quantized_model(quantgate_variant, request)


@pytest.fixture
def baseline_model(
    quantgate_variant: Any,  # noqa: ANN401 - see above
    request: pytest.FixtureRequest,
) -> QuantizedModel:
    """The baseline of the variant, verified and loaded in this process like `quantized_model`."""
    from pytest_quantgate import fixtures  # noqa: PLC0415 - active runs only

    return fixtures.baseline_model(quantgate_variant, request)


@pytest.fixture
def benchmark_prompts() -> Sequence[str]:
    """Texts that `baseline_metrics` is measured on; override it with your own."""
    from pytest_quantgate import benchmark  # noqa: PLC0415 - active runs only

    return benchmark.DEFAULT_PROMPTS


@pytest.fixture
def test_cases(quantgate_variant: Any) -> Sequence[tuple[str, str]]:  # noqa: ANN401 - see above
    """Pairs of prompt and expected text, from the cases of the model's accuracy gate."""
    from pytest_quantgate import fixtures  # noqa: PLC0415 - active runs only

    return fixtures.test_cases(quantgate_variant)


@pytest.fixture
def max_memory_mb(quantgate_variant: Any) -> float | None:  # noqa: ANN401 - see above
    """The memory gate's `max_mb`; override it to set the limit of gates and tests alike."""
    from pytest_quantgate import fixtures  # noqa: PLC0415 - active runs only

    return fixtures.max_memory_mb(quantgate_variant)


@pytest.fixture
def baseline_metrics(
    quantgate_variant: Any,  # noqa: ANN401 - see above
    request: pytest.FixtureRequest,
) -> Mapping[str, float]:
    """The baseline's `perplexity`, `latency_ms`, `memory_mb` and `accuracy`, measured when read.

    Override it with a mapping of numbers to give gates and tests literal baseline figures.
    """
    from pytest_quantgate import fixtures  # noqa: PLC0415 - active runs only

    return fixtures.baseline_metrics(quantgate_variant, request)


@pytest.fixture
def quantgate_verdict(
    quantgate_variant: Any,  # noqa: ANN401 - see above
    max_memory_mb: float | None,
    baseline_metrics: Mapping[str, float],
    request: pytest.FixtureRequest,
) -> Any:  # noqa: ANN401 - a records.Verdict
    """The verdict of the gate being run; what cannot be measured is an error here."""
    from pytest_quantgate import fixtures  # noqa: PLC0415 - active runs only

    return fixtures.verdict(
        quantgate_variant,
        request,
        max_memory_mb=max_memory_mb,
        baseline_metrics=baseline_metrics,
    )
