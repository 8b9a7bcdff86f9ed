"""What the output of a case that asks for JSON is: JSON or not, of its schema or not, right or wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pytest_quantgate.cases.case import Case

Part = Literal["parse", "schema", "fields"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """What one output is: JSON or not, of its schema or not, and its share of right fields.

    ``schema`` is None where the case has none, ``fields`` where it expects no object. ``reason`` says
    what is wrong first.
    """

    parses: bool
    schema: bool | None
    fields: float | None
    reason: str

    def right(self, part: Part) -> float | None:
        """Return one of the three as a share, None where the case does not have it."""
        if part == "parse":
            return float(self.parses)
        if part == "fields":
            return self.fields
        return None if self.schema is None else float(self.schema)

    @property
    def conforms(self) -> bool:
        """Tell whether the output has the form that was asked for, whatever its values are."""
        return self.parses if self.schema is None else self.schema


def structure_of(case: Case, output: str) -> Structure:
    """Examine one output of a case that asks for JSON.

    Raises:
        MeasurementError: a schema that refers to itself without end on this output.
    """
    from pytest_quantgate.matchers.structure import Refused, field_scores, find_json  # noqa: PLC0415 - only cases of JSON need it

    fields = None
    wrong: tuple[str, ...] = ()
    if isinstance(case.expected_value, dict) and case.expected_value:
        scores = field_scores(output, case.expected_value)
        fields, wrong = scores.share, (*scores.wrong, *scores.missing)
    try:
        find_json(output)
    except Refused as error:
        schema = None if case.schema_matcher is None else False
        return Structure(parses=False, schema=schema, fields=fields, reason=str(error))
    schema = None
    reason = "the output is JSON"
    if case.schema_matcher is not None:
        match = case.schema_matcher.matches(output)
        schema, reason = match.ok, match.reason
    if schema is not False and wrong:
        reason += f", with wrong fields: {', '.join(wrong)}"
    return Structure(parses=True, schema=schema, fields=fields, reason=reason)
