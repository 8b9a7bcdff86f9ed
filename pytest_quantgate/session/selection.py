"""Which gates a run is to judge: that all are there, and which of them have the cases it is about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_quantgate.artifact.catalog import did_you_mean
from pytest_quantgate.report import properties

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_quantgate.session.state import QuantgateSession

_REFUSED = "quantgate_refused"
"""Key of a worker's output: why it will not run what it collected."""


class GateSelection:
    """Registered as a plugin when a specification is named.

    ``planned`` are the node ids of the gates that the run is to judge.
    """

    def __init__(self, run: QuantgateSession, chosen_cases: frozenset[str]) -> None:
        """Select gates of a run; ``chosen_cases`` are the ids of the only cases to ask, if any."""
        self.planned: list[str] = []
        self._run = run
        self._chosen_cases = chosen_cases
        self._chosen: dict[str, frozenset[str]] = {}
        self._refused: list[str] = []

    def chosen(self, item: pytest.Item) -> frozenset[str]:
        """Return the ids of the only cases a gate is to ask; empty for all of them."""
        return self._chosen.get(item.nodeid, frozenset())

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(
        self, session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Refuse a run that lacks gates or cases it should have; leave gates out that have no case."""
        gates = [item for item in items if properties.key_of(item.user_properties) is not None]
        self.planned = [item.nodeid for item in gates]
        if session.testsfailed:
            # What is missing is missing because of the errors that are reported already.
            return
        found = {item.path for item in gates}
        narrowed = any("::" in str(argument) for argument in config.args)
        missing = [spec for spec in self._run.specs if spec not in found]
        if missing and not narrowed:
            self._refuse(items, [f"--quantgate: no gates were collected from {x}" for x in missing])
        elif self._chosen_cases:
            self._choose(items, gates)

    def _choose(self, items: list[pytest.Item], gates: Sequence[pytest.Item]) -> None:
        """Deselect gates that have none of the chosen cases, and keep which each other is to ask.

        Gates that know their cases only when they are measured are left the ids that no other has.
        """
        found = {item.nodeid: self._case_ids(item) for item in gates}
        known = frozenset[str]().union(*(ids for ids in found.values() if ids is not None))
        left = self._chosen_cases - known
        if left and None not in found.values():
            unknown = "--quantgate-case: no gate of this run has a case"
            self._refuse(
                items, [f"{unknown} {name!r}{did_you_mean(name, known)}" for name in sorted(left)]
            )
            return
        for node_id, ids in found.items():
            chosen = left if ids is None else ids & self._chosen_cases
            if chosen:
                self._chosen[node_id] = chosen
        others = [item for item in gates if item.nodeid not in self._chosen]
        items[:] = [item for item in items if item not in others]
        self._run.config.hook.pytest_deselected(items=others)
        self.planned = list(self._chosen)

    def _case_ids(self, item: pytest.Item) -> frozenset[str] | None:
        key = properties.key_of(item.user_properties)
        loaded = self._run.load(item.path)
        case = next(each for each in loaded.cases if each.key == key)
        return loaded.runner.case_ids(case)

    def _refuse(self, items: list[pytest.Item], reasons: list[str]) -> None:
        """End the run before anything is measured.

        Raises:
            pytest.UsageError: in a process that has a terminal; xdist would not pass it on.
        """
        output: dict[str, Any] | None = getattr(self._run.config, "workeroutput", None)
        if output is None:
            raise pytest.UsageError(*reasons)
        items.clear()
        output[_REFUSED] = reasons

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:  # noqa: ANN401 - xdist's
        """Take over why workers would not run; each says the same."""
        self._refused = getattr(node, "workeroutput", {}).get(_REFUSED, self._refused)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """End as a usage error where workers refused."""
        if self._refused:
            session.exitstatus = pytest.ExitCode.USAGE_ERROR

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:  # noqa: ANN401 - pytest's
        """Say why workers refused, or that limits were not judged."""
        for reason in self._refused:
            terminalreporter.write_line(f"ERROR: {reason}", red=True)
        if self._chosen_cases and self._run.rows:
            names = ", ".join(sorted(self._chosen_cases))
            terminalreporter.write_line(
                f"only these cases were asked, and no limit was judged (--quantgate-case): {names}"
            )
