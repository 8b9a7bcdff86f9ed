"""The syntax of chat templates: Jinja with what the loaders of models add to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jinja2
from jinja2.ext import Extension

if TYPE_CHECKING:
    from jinja2 import nodes
    from jinja2.parser import Parser


class GenerationBlocks(Extension):
    """``{% generation %}…{% endgeneration %}``, which marks what the model said, for training."""

    tags = frozenset({"generation"})  # type: ignore[assignment]  # its owner only looks names up

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return the statements inside; the mark itself does nothing."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def environment() -> jinja2.Environment:
    """Return what parses a template as the loaders do; it has no way to load other templates."""
    return jinja2.Environment(  # noqa: S701 - nothing is ever rendered
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[GenerationBlocks, "jinja2.ext.loopcontrols"],
    )
