r"""Searching with patterns of Python's `re` in time that is bounded by pattern and text.

`re` backtracks: ``(a|aa)+$`` takes more than the age of the universe on eighty letters. Engines that
do not backtrack read a pattern differently (``\b``, ``\w``, ``$``, case), which would change what
cases mean. So patterns stay `re`'s. Those that leave it few ways to go (one repetition without
an end, few alternatives) are searched by it. For the others, their syntax tree as `re` parsed it
becomes an automaton, walked once from the end of the text to its start; each single character is
still tested by `re`. Whether there is a match does not depend on the order of attempts, so
both agree. What an automaton cannot express (references to groups, atomic groups) is refused where
the pattern is not of the first kind.
"""

from __future__ import annotations

import importlib
import math
import re
import sys
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_quantgate.matchers.automaton import Automaton, Inexpressible

if TYPE_CHECKING:
    from collections.abc import Iterable

LONGEST_PATTERN = 10_000  # characters
# Searching takes up to text length times ways; without end counts as an ordinary output's length.
_ENDLESS = 1_000
_MOST_WAYS = 16 * _ENDLESS
_FEW_TURNS = 8
_LONGEST_BACKTRACKED = 2_000  # characters of a text


def parse(text: str, flags: int) -> Any:  # noqa: ANN401 - its classes are not public
    """Return `re`'s own syntax tree of a pattern, whose flags are in ``.state.flags``."""
    # The parser has no public name; the tree has been the same for many versions.
    name = "re._parser" if sys.version_info >= (3, 11) else "sre_parse"
    return importlib.import_module(name).parse(text, flags)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """A pattern whose search ends."""

    text: str
    _compiled: re.Pattern[str] = field(repr=False, compare=False)
    _automaton: Automaton | None = field(repr=False, compare=False)
    _few_ways: bool = field(repr=False, compare=False)

    @classmethod
    def of(cls, text: str, *, name: str, dotall: bool = False) -> Pattern:
        """Compile a pattern; ``name`` is what sentences call it.

        Raises:
            ValueError: no regular expression, too long or large, or one whose search could take
                for ever.
        """
        if len(text) > LONGEST_PATTERN:
            message = (
                f"{name} has {len(text)} characters, of a regular expression at most {LONGEST_PATTERN}"
                " are taken"
            )
            raise ValueError(message)
        flags = int(re.DOTALL) if dotall else 0
        try:
            with warnings.catch_warnings():
                # It warns of syntax that may change its meaning in some later Python.
                warnings.simplefilter("ignore")
                compiled = re.compile(text, flags)
                tree = parse(text, flags)
        except (re.error, OverflowError, RecursionError) as error:
            why = "nested too deeply" if isinstance(error, RecursionError) else error
            message = f"{name} is no regular expression: {why}"
            raise ValueError(message) from error
        few = _ways(tree) <= _MOST_WAYS
        try:
            automaton = Automaton.of(tree, flags=compiled.flags)
        except Inexpressible as error:
            if not few:
                message = (
                    f"searching with {name} could take for ever, as it has {error} beside"
                    " nested or several repetitions; write it without"
                )
                raise ValueError(message) from error
            automaton = None
        except RecursionError as error:
            message = f"{name} is no regular expression: nested too deeply"
            raise ValueError(message) from error
        return cls(text=text, _compiled=compiled, _automaton=automaton, _few_ways=few)

    def found_in(self, text: str) -> bool:
        """Tell whether there is a match anywhere, as ``re.search`` would."""
        backtrack = self._few_ways and len(text) <= _LONGEST_BACKTRACKED
        if backtrack or self._automaton is None:
            return self._compiled.search(text) is not None
        return self._automaton.found_in(text)


def _ways(tree: Iterable[tuple[Any, Any]]) -> float:
    """Return an upper limit of the ways to try a pattern at one place of an ordinary output."""
    ways = 1.0
    for op, argument in tree:
        name = str(op)
        if name == "BRANCH":
            ways *= sum(_ways(branch) for branch in argument[1])
        elif name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            least, most, body = argument
            most = min(int(most), _ENDLESS)
            inner = _ways(body)
            ways *= max(most - min(int(least), _ENDLESS), 0) + 1
            if inner > 1:
                ways *= inner**most if most <= _FEW_TURNS else math.inf
        elif name == "SUBPATTERN":
            ways *= _ways(argument[3])
        elif name in ("ASSERT", "ASSERT_NOT"):
            ways *= _ways(argument[1])
        elif name == "ATOMIC_GROUP":
            ways *= _ways(argument)
        elif name == "GROUPREF_EXISTS":
            ways *= _ways(argument[1]) + _ways(argument[2] or ())
    return ways
