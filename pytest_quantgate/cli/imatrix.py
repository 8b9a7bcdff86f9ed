"""`quantgate imatrix` and `passages`: importance matrices and the texts for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer


def register(_app: typer.Typer) -> None:
    """Add the commands of this module."""
