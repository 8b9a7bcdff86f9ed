"""Every row of the published tables: it agrees, or the documentation lists it with the arithmetic."""

from __future__ import annotations

import pytest
from hardware_rows import PAGE, SECTION, TABLES, Row, all_rows, disagreements, refreshed

DIFFERING = frozenset(
    {
        '`recommend_quantization(24, 70, "chat")`',
        *(f"memory of {level}" for level in ("Q4_0", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M")),
        *(f"memory of {level}" for level in ("Q6_K", "Q8_0")),
        *(f"size of {level}" for level in ("Q4_0", "Q2_K")),
        "8 GB RAM: 7B Q8_0",
        "VRAM for 13B Q4_K_M",
        "192 GB unified: 405B Q4_K_M",
        *(f"{size} GB VRAM: 13B" for size in (4, 6, 12, 16)),
        *(f"{size} GB VRAM: 34B" for size in (8, 12, 16)),
        *(f"{size} GB VRAM: 70B" for size in (16, 24, 80)),
        "4 GB VRAM: 7B",
        "NF4 without a GPU",
        "INT8 without a GPU",
    }
)


@pytest.mark.parametrize(
    "row", [pytest.param(row, id=f"{table}-{row.name}") for table, row in all_rows()]
)
def test_a_row_agrees_or_is_known_to_differ(row: Row) -> None:
    """A row that begins to differ, and one that no longer does, are both news."""
    assert row.agrees == (row.name not in DIFFERING), f"{row.stated} / {row.ours}: {row.why}"


def test_the_page_has_every_row() -> None:
    """docs/hardware-tables.md shows all tables as they are now, and those rows apart that differ."""
    page = PAGE.read_text(encoding="utf-8")

    assert refreshed(page) == page, "run: python tests/unit/hardware_rows.py"
    assert {found[1] for found in SECTION.findall(page)} == {"disagreements", *TABLES}
    assert disagreements().count("\n") == len(DIFFERING) + 2


def test_names_are_unique() -> None:
    """No row hides behind another of the same name."""
    names = [row.name for _, row in all_rows()]

    assert len(set(names)) == len(names)
