"""The state of an active run: specifications, verdicts, and what the terminal says of them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_quantgate.baseline import Store
from pytest_quantgate.errors import Problem, SpecError
from pytest_quantgate.gate import GateRunner
from pytest_quantgate.keeper import BaselineFolder
from pytest_quantgate.plan import plan
from pytest_quantgate.prepare import engine_name
from pytest_quantgate.records import Location
from pytest_quantgate.report import properties, table
from pytest_quantgate.report.live import LiveLine, Screen
from pytest_quantgate.session.export import AnswerExport
from pytest_quantgate.session.selection import GateSelection
from pytest_quantgate.spec import load_spec, spec_from_mapping

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from pytest_quantgate.model import QuantizedModel
    from pytest_quantgate.plan import GateCase
    from pytest_quantgate.records import Progress

HOOK = "pytest_quantgate_spec"
BASELINE_WRITTEN = "quantgate_baseline_written"
"""User property of a report whose gate wrote a committed baseline: the file's name."""

QUIET = -1
STDOUT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedSpec:
    """A specification with its planned cases and the runner that measures them."""

    path: Path
    cases: tuple[GateCase, ...]
    runner: GateRunner


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a test or gate runs on: one variant of one model of one specification.

    ``case`` is set for gates; tests of the project's own see all the variant's ``cases``.
    """

    session: QuantgateSession
    loaded: LoadedSpec
    model: str
    variant: str
    case: GateCase | None = None

    @property
    def cases(self) -> tuple[GateCase, ...]:
        """Return the gates of this variant."""
        return tuple(
            case
            for case in self.loaded.cases
            if (case.model, case.variant) == (self.model, self.variant)
        )


@dataclass(slots=True)
class _Walk:
    """Folders that are walked only because a specification lies below them."""

    forced: set[Path] = field(default_factory=set)


class QuantgateSession:
    """Registered as a plugin when a specification is named."""

    def __init__(
        self,
        config: pytest.Config,
        specs: Sequence[Path],
        options: Mapping[str, Any],
        *,
        chosen_cases: frozenset[str] = frozenset(),
    ) -> None:
        """Take the specifications over and make pytest collect them.

        ``chosen_cases`` are the ids of the only cases to ask; empty for all.
        """
        self.config = config
        self.options = options
        self.specs = list(specs)
        self.store = Store(Path(os.path.abspath(config.rootpath / str(options["store"]))))
        self.baselines = self._baseline_folder()
        self.selection = GateSelection(self, chosen_cases)
        self.written: list[str] = []
        self.rows: dict[str, table.Row] = {}
        self.resident: dict[Path, QuantizedModel] = {}
        self._walk = _Walk()
        self._loaded: dict[Path, LoadedSpec] = {}
        self._live: LiveLine | None = None
        self._is_worker = hasattr(config, "workerinput")
        config.pluginmanager.register(self.selection, "quantgate-selection")
        if options["answers"]:
            export = AnswerExport(config, self._folder(options["answers"]))
            config.pluginmanager.register(export, "quantgate-answers")
        for plugin in config.pluginmanager.get_plugins():
            self._add_conftest(plugin)
        for spec in self.specs:
            self._make_collected(spec)

    def _baseline_folder(self) -> BaselineFolder | None:
        if not self.options["baselines"]:
            return None
        path = self._folder(self.options["baselines"])
        if path.exists() and not path.is_dir():
            message = f"--quantgate-baselines: {path} is a file; name a folder"
            raise pytest.UsageError(message)
        return BaselineFolder(
            path=path,
            shown=os.path.relpath(path, self.config.rootpath),
            update=self.options["update_baselines"],
            chunks=self.options["baseline_chunks"],
        )

    # --- collecting ---

    def _add_conftest(self, plugin: object) -> None:
        origin = getattr(plugin, "__file__", None)
        if callable(getattr(plugin, HOOK, None)) and isinstance(origin, str):
            path = Path(os.path.abspath(origin))
            if path.suffix == ".py" and path not in self.specs:
                self.specs.append(path)

    def _make_collected(self, spec: Path) -> None:
        """Name a specification as an argument unless an argument covers it already."""
        base = self.config.invocation_params.dir
        for argument in self.config.args:
            if spec.is_relative_to(os.path.abspath(base / str(argument).partition("::")[0])):
                return
        self.config.args.append(str(spec))

    def ignores(self, path: Path, *, ignored: bool | None) -> bool | None:
        """Decide whether a walk leaves a path out, given what pytest decided."""
        leads_to_spec = any(spec == path or spec.is_relative_to(path) for spec in self.specs)
        if ignored and leads_to_spec:
            self._walk.forced.add(path)
            return False
        if not ignored and not leads_to_spec and path.parent in self._walk.forced:
            return True
        return ignored

    def is_spec(self, path: Path) -> bool:
        """Tell whether a file is a specification, be it a conftest.py that implements the hook."""
        if path.name == "conftest.py" and path not in self.specs:
            # A conftest.py below the arguments is loaded only when the walk reaches its folder.
            for plugin in self.config.pluginmanager.get_plugins():
                if getattr(plugin, "__file__", None) == str(path):
                    self._add_conftest(plugin)
        return path in self.specs

    def load(self, path: Path) -> LoadedSpec:
        """Read and plan a specification once.

        Raises:
            SpecError: it cannot be used; all problems at once.
        """
        if path not in self._loaded:
            root = self.config.rootpath
            if not path.is_relative_to(root):
                root = path.parent
            further = tuple(self._folder(name) for name in self.options["root"])
            roots = (root, self.store.root, *further)
            # Names that lead outside are refused here by their letters, except where further
            # folders are allowed; wherever they lead is checked again when a file is opened.
            outside = bool(further)
            if path.suffix == ".py":
                parsed = spec_from_mapping(
                    self._from_conftest(path),
                    origin=path.name,
                    base=path.parent,
                    root=root,
                    allow_outside=outside,
                )
            else:
                parsed = load_spec(path, root=root, allow_outside=outside)
            cases = plan(parsed)
            runner = GateRunner(
                cases,
                store=self.store,
                roots=roots,
                threads=self.options["threads"],
                timeout=self.options["timeout"],
                remeasure=self.options["remeasure"],
                baselines=self.baselines,
                on_progress=self._on_progress,
            )
            self._loaded[path] = LoadedSpec(path=path, cases=cases, runner=runner)
        return self._loaded[path]

    def _folder(self, name: str) -> Path:
        return Path(os.path.abspath(self.config.rootpath / name))

    def _from_conftest(self, path: Path) -> Mapping[str, object]:
        for plugin in self.config.pluginmanager.get_plugins():
            if getattr(plugin, "__file__", None) == str(path) and hasattr(plugin, HOOK):
                manager = self.config.pluginmanager
                others = [other for other in manager.get_plugins() if other is not plugin]
                caller = manager.subset_hook_caller(HOOK, remove_plugins=others)
                answers = caller(config=self.config)
                if answers:
                    mapping: Mapping[str, object] = answers[0]
                    return mapping
        message = f"it returns no specification: define {HOOK}(config) that returns a mapping"
        raise SpecError([Problem(location=Location(path=path.name), message=message)])

    def parametrize(self, metafunc: pytest.Metafunc) -> None:
        """Run a test of the project's own once for each variant."""
        subjects: list[Subject] = []
        for path in self.specs:
            try:
                loaded = self.load(path)
            except SpecError:
                # The specification's own collector reports it; the run fails either way.
                continue
            keys = dict.fromkeys((case.model, case.variant) for case in loaded.cases)
            subjects.extend(
                Subject(session=self, loaded=loaded, model=model, variant=variant)
                for model, variant in keys
            )
        if subjects:
            metafunc.parametrize(
                "quantgate_variant",
                subjects,
                indirect=True,
                ids=[f"{subject.model}-{subject.variant}" for subject in subjects],
            )

    # --- running ---

    def _on_progress(self, progress: Progress) -> None:
        if self._live is not None:
            # What pytest wrote of this test's line must be on the screen before a line below it.
            self.config.get_terminal_writer().flush()
            self._live.show(progress)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:  # noqa: ANN401 - pytest's
        """Show a live line below the report while something is measured."""
        terminal = self.config.pluginmanager.get_plugin("terminalreporter")
        if terminal is None or self._is_worker or self.config.get_verbosity() < 0:
            return (yield)
        writer = self.config.get_terminal_writer()
        if not writer.hasmarkup or not os.isatty(STDOUT):
            return (yield)
        # Nothing is captured here yet, so descriptor 1 is the terminal.
        screen = Screen(writer, descriptor=STDOUT)
        self._live = LiveLine(screen, subject=item.nodeid)
        try:
            return (yield)
        finally:
            self._live = None
            screen.close()

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what became of each gate, last attempt first; runs in the controller under xdist."""
        for name, value in report.user_properties:
            if name == BASELINE_WRITTEN and value not in self.written:
                self.written.append(str(value))
        key = properties.key_of(report.user_properties)
        if key is None or not (report.when == "call" or report.failed):
            return
        before = self.rows.get(report.nodeid)
        if report.when == "teardown" and before is not None:
            return
        self.rows[report.nodeid] = table.Row(
            key=key,
            verdict=properties.verdict_of(report.user_properties),
            reason=_reason(report),
            attempts=1 if before is None else before.attempts + 1,
        )

    def end_progress(self) -> None:
        """Take the live line away: what is measured next, or pytest itself, writes there."""
        if self._live is not None:
            self._live.clear()

    def take_written(self) -> tuple[str, ...]:
        """Return the committed baselines that were written since this was last asked."""
        return () if self.baselines is None else self.baselines.take_written()

    def release(self, *, keep: Collection[Path] = ()) -> None:
        """Free the models that are loaded in this process, but for the ones to keep."""
        for path in [path for path in self.resident if path not in keep]:
            self.resident.pop(path).close()

    # --- reporting ---

    def pytest_report_header(self) -> str:
        """Name specifications, store, baselines and engine; no model is touched for it."""
        names = ", ".join(os.path.relpath(spec, self.config.rootpath) for spec in self.specs)
        store = os.path.relpath(self.store.root, self.config.rootpath)
        kept = "" if self.baselines is None else f", baselines {self.baselines.shown}"
        return f"quantgate: {names}, store {store}{kept}, engine {engine_name()}"

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:  # noqa: ANN401 - pytest's
        """Print the table of verdicts, and which baselines wait to be committed."""
        if self._is_worker or not self.rows or self.config.get_verbosity() < QUIET:
            return
        if self.config.getoption("no_summary", default=False):
            return
        writer = self.config.get_terminal_writer()
        terminalreporter.section("quantgate")
        terminalreporter.write(
            table.render(
                list(self.rows.values()),
                unjudged=sum(name not in self.rows for name in self.selection.planned),
                width=writer.fullwidth,
                color=writer.hasmarkup,
            )
        )
        for name in self.written:
            terminalreporter.write(f"baseline written: {name} and its .npz; commit both\n")

    def pytest_unconfigure(self) -> None:
        """Leave no probe and no model behind."""
        for loaded in self._loaded.values():
            loaded.runner.close()
        self.release()


def _reason(report: pytest.TestReport) -> str:
    """Return one line that says why a gate has no verdict."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(crash.message) if crash is not None else report.longreprtext
    return text.strip().partition("\n")[0]
