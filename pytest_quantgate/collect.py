"""Gates as pytest items: ``gates.yaml::<model>::<variant>::<gate>``."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any

import pytest

from pytest_quantgate.errors import QuantgateError, QuantgateWarning
from pytest_quantgate.records import Outcome
from pytest_quantgate.report import message, properties
from pytest_quantgate.session import Subject

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_quantgate.plan import GateCase
    from pytest_quantgate.records import Verdict
    from pytest_quantgate.session import LoadedSpec, QuantgateSession


class SpecFile(pytest.Module):
    """A specification; a `pytest.Module` so that module-scoped fixtures find their scope."""

    def __init__(self, *, session_state: QuantgateSession, **arguments: Any) -> None:  # noqa: ANN401
        """Hold an empty module: a specification has no Python of its own."""
        super().__init__(**arguments)
        self.session_state = session_state
        self.obj = types.ModuleType(self.path.stem)

    def collect(self) -> Iterator[pytest.Item | pytest.Collector]:
        """Yield the models; every problem of the specification is one collection error."""
        try:
            loaded = self.session_state.load(self.path)
        except QuantgateError as error:
            raise self.CollectError(str(error)) from None
        for model in dict.fromkeys(case.model for case in loaded.cases):
            yield ModelNode.from_parent(self, name=model, loaded=loaded)


class ModelNode(pytest.Collector):
    """One model of a specification."""

    def __init__(self, *, loaded: LoadedSpec, **arguments: Any) -> None:  # noqa: ANN401 - pytest's
        """Keep the specification the model stands in."""
        super().__init__(**arguments)
        self.loaded = loaded

    def collect(self) -> Iterator[pytest.Item | pytest.Collector]:
        """Yield the variants."""
        variants = dict.fromkeys(
            case.variant for case in self.loaded.cases if case.model == self.name
        )
        for variant in variants:
            yield VariantNode.from_parent(self, name=variant, loaded=self.loaded)


class VariantNode(pytest.Collector):
    """One variant of a model."""

    def __init__(self, *, loaded: LoadedSpec, **arguments: Any) -> None:  # noqa: ANN401 - pytest's
        """Keep the specification the variant stands in."""
        super().__init__(**arguments)
        self.loaded = loaded

    def collect(self) -> Iterator[pytest.Item | pytest.Collector]:
        """Yield the gates."""
        model = self.parent.name if self.parent is not None else ""
        for case in self.loaded.cases:
            if (case.model, case.variant) == (model, self.name):
                item = GateItem.from_parent(
                    self, name=case.gate, callobj=judge, loaded=self.loaded, case=case
                )
                item.add_marker(
                    pytest.mark.quantgate(model=case.model, variant=case.variant, gate=case.gate)
                )
                yield item


class GateItem(pytest.Function):
    """One gate of one variant: measured in a fixture, judged in the call."""

    def __init__(self, *, loaded: LoadedSpec, case: GateCase, **arguments: Any) -> None:  # noqa: ANN401
        """Keep the case; it is data and survives being run again."""
        super().__init__(**arguments)
        self.loaded = loaded
        self.case = case
        self.user_properties.extend(properties.of_case(case.key, case.location))

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Point at the gate's line in the specification."""
        line = self.case.location.line
        return self.path, None if line is None else line - 1, self.case.id


def subject(session: QuantgateSession, request: pytest.FixtureRequest) -> Subject:
    """Return what the gate or test that requests a fixture runs on."""
    item = request.node
    if isinstance(item, GateItem):
        case = item.case
        return Subject(
            session=session,
            loaded=item.loaded,
            model=case.model,
            variant=case.variant,
            case=case,
        )
    parameter = getattr(request, "param", None)
    if not isinstance(parameter, Subject):
        pytest.fail("no specification could be loaded: see its collection error", pytrace=False)
    return parameter


def judge(quantgate_verdict: Verdict, request: pytest.FixtureRequest) -> None:
    """Fail where a limit was missed, with a message that stands alone; warn where that was asked."""
    item = request.node
    # Replaced, not added to: a gate that is run again keeps the figures of its last attempt.
    item.user_properties[:] = [
        *(each for each in item.user_properties if not each[0].startswith(properties.PREFIX)),
        *properties.of_verdict(quantgate_verdict),
    ]
    undecided = quantgate_verdict.outcome is Outcome.INCONCLUSIVE
    if undecided and quantgate_verdict.warn:
        item.warn(QuantgateWarning(message.failure(quantgate_verdict)))
    elif quantgate_verdict.outcome is not Outcome.PASS:
        pytest.fail(message.failure(quantgate_verdict), pytrace=False)
    # Of a gate that fails the message above says it all; of one that passes this is the only trace.
    item.add_report_section("call", "quantgate", message.evidence(quantgate_verdict))
