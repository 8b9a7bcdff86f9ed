"""Matchers of plain text: contained, equal, found by a regular expression."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_quantgate.matchers.match import Match, shown
from pytest_quantgate.matchers.pattern import Pattern


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainsMatcher:
    """The expected text stands anywhere in the output, ignoring case."""

    expected: str

    def matches(self, output: str) -> Match:
        """Look for the expected text."""
        ok = self.expected.casefold() in output.casefold()
        says = "contains" if ok else "does not contain"
        return Match(ok=ok, reason=f"the output {says} '{shown(self.expected)}'")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactMatcher:
    """The output is the expected text, apart from blanks around either."""

    expected: str

    def matches(self, output: str) -> Match:
        """Compare the whole output."""
        ok = self.expected.strip() == output.strip()
        if ok:
            return Match(ok=True, reason=f"the output is '{shown(self.expected.strip())}'")
        reason = (
            f"the output is '{shown(output.strip())}', expected '{shown(self.expected.strip())}'"
        )
        return Match(ok=False, reason=reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegexMatcher:
    """A pattern of Python's `re` is found in the output, its dot matching newlines as well."""

    pattern: Pattern

    @classmethod
    def of(cls, expected: str) -> RegexMatcher:
        """Return the matcher of a pattern.

        Raises:
            ValueError: no regular expression, or one whose search could take for ever.
        """
        return cls(pattern=Pattern.of(expected, name="'expected'", dotall=True))

    def matches(self, output: str) -> Match:
        """Search the output."""
        ok = self.pattern.found_in(output)
        says = "matches" if ok else "does not match"
        return Match(ok=ok, reason=f"the output {says} the pattern '{shown(self.pattern.text)}'")
