"""Tables and picture of the calibration study; see `calibration.py`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from calibration_rules import FAIL_RISK, PASS_RISK, SHIPPED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from calibration import Cell, Counts
    from calibration_rules import Ends

    Results = Mapping[str, Sequence[tuple[Cell, Counts]]]

RATIOS = (0.5, 0.7, 0.9, 0.97, 1.0, 1.03, 1.1, 1.3, 2.0)
NAMES = {
    SHIPPED.name: "**shipped**: as above, and one hidden window",
    "betting": "betting, 0 to 1 only",
}


def tables(
    results: Results,
    written: Sequence[tuple[Cell, Mapping[float, Ends]]],
    *,
    orders: int,
    few: int,
) -> str:
    """Return the study's results as a page."""
    shipped = results[SHIPPED.name]
    texts = {cell.text: cell.windows for cell, _ in shipped}
    lines = [
        "# Calibration of the sampling rule",
        "",
        "Written by `python bench/calibration.py simulate` from `values.npz`: SmolLM2-135M-Instruct",
        "(F16 made of the demo model's Q4_1 file), every window of 512 tokens of each text scored under",
        f"F16 and its quantizations. {orders} random orders a cell with the limit at the true value,",
        f"{few} away from it. A false PASS is one with the limit a hair below the true value, a false",
        "FAIL one with the limit at it; the rules aim at 5% and 1%.",
        "",
        "Texts: " + ", ".join(f"{name} ({count} windows)" for name, count in texts.items()) + ".",
        "",
        "## Rules",
        "",
        *rules(results),
        "",
        "Windows used: mean for Q4_K_M's log ratio on the longest text, true value at 0.7 and 1.3 times",
        "the limit. *Cells beyond*: cells whose rate is above 5% (1%) by more than twice its own Monte",
        "Carlo error. *Same* is the shift outwards only, the Edgeworth term where it widens a bound;",
        "*risk spent late* gives each look twice the risk of the one before it. A hidden window is one",
        "that was not drawn and is 20 standard deviations out.",
        "",
        "## The shipped rule, cell by cell",
        "",
        *each_cell(shipped),
        "",
        "## Windows used by the shipped rule",
        "",
        *windows_used(shipped, {"log ratio", "mean KLD", "KLD p99", "flips"}),
        "",
        "## Windows used against written limits",
        "",
        *against_increases(written, few),
        "",
    ]
    return "\n".join(lines)


def rules(results: Results) -> list[str]:
    """Return the table that compares rules, over all cells."""
    head = (
        "rule", "worst false PASS", "mean", "cells beyond", "worst false FAIL", "mean",
        "cells beyond", "windows at 0.7", "at 1.3",
    )  # fmt: skip
    rows = []
    for name, found in results.items():
        longest = max(cell.windows for cell, _ in found)
        wanted = (longest, "Q4_K_M", "log ratio")
        used = [
            f"{count.mean_windows(ratio):.0f}"
            for cell, count in found
            if (cell.windows, cell.variant, cell.statistic) == wanted
            for ratio in (0.7, 1.3)
        ]
        passes = [(count.false_pass(), count.orders[1.0]) for _, count in found]
        fails = [(count.false_fail(), count.orders[1.0]) for _, count in found]
        rows.append(
            (
                NAMES.get(name, name),
                *_summary(passes, PASS_RISK),
                *_summary(fails, FAIL_RISK),
                *(used or ("-", "-")),
            )
        )
    return _table(head, rows)


def _summary(rates: Sequence[tuple[float, int]], aim: float) -> tuple[str, str, str]:
    beyond = sum(rate - aim > 2 * math.sqrt(rate * (1 - rate) / orders) for rate, orders in rates)
    worst = max(rate for rate, _ in rates)
    mean = sum(rate for rate, _ in rates) / len(rates)
    return f"{worst:.2%}", f"{mean:.2%}", f"{beyond} of {len(rates)}"


def each_cell(found: Sequence[tuple[Cell, Counts]]) -> list[str]:
    """Return error rates of one rule at and near the limit."""
    head = (
        "text", "variant", "statistic", "false PASS", "true at 1.03", "at 1.1", "false FAIL",
        "true at 0.97", "at 0.9",
    )  # fmt: skip
    rows = [
        (
            cell.text,
            cell.variant,
            cell.statistic,
            *(f"{count.false_pass(ratio):.2%}" for ratio in (1.0, 1.03, 1.1)),
            *(f"{count.false_fail(ratio):.2%}" for ratio in (1.0, 0.97, 0.9)),
        )
        for cell, count in found
    ]
    return _table(head, rows)


def windows_used(found: Sequence[tuple[Cell, Counts]], statistics: set[str]) -> list[str]:
    """Return the mean number of windows by true value / limit."""
    head = ("text", "variant", "statistic", *(f"{ratio:g}" for ratio in RATIOS))
    rows = [
        (
            f"{cell.text} ({cell.windows})",
            cell.variant,
            cell.statistic,
            *(f"{count.mean_windows(ratio):.0f}" for ratio in RATIOS),
        )
        for cell, count in found
        if cell.statistic in statistics
    ]
    return _table(head, rows)


def against_increases(
    written: Sequence[tuple[Cell, Mapping[float, Ends]]], orders: int
) -> list[str]:
    """Return what ``max_increase`` decides: the verdict, windows on average, share of wrong ones."""
    increases = list(written[0][1])
    head = ("text", "variant", "true increase", *(f"{increase:.1%}" for increase in increases))
    rows = []
    for cell, ends in written:
        true = math.expm1(float(cell.values[1.0].mean()))
        shown = []
        for increase in increases:
            end = ends[increase]
            wrong = end.fails if true <= increase else end.passes
            verdict = "pass" if true <= increase else "fail"
            shown.append(f"{verdict} at {end.windows / orders:.0f}, wrong {wrong / orders:.2%}")
        rows.append((f"{cell.text} ({cell.windows})", cell.variant, f"{true:.2%}", *shown))
    return _table(head, rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        f"|{' --- |' * len(head)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


# --- the picture ------------------------------------------------------------------------------------

SHOWN = {
    "t, looks not corrected": ("t at every look, uncorrected", "#b8b8b8"),
    "t": ("t, corrected for looks", "#8c6bb1"),
    "t, Johnson's shift": ("t with Johnson's shift", "#e08214"),
    SHIPPED.name: ("shipped rule", "#1b7837"),
}
LINES = {"Q8_0": "#2166ac", "Q4_K_M": "#1b7837", "Q2_K": "#b2182b"}
ROW, LEFT, WIDTH = 22, 130, 300


def picture(results: Results) -> str:
    """Return the worst error rates by statistic and rule, and the windows used, as an SVG."""
    statistics = list(dict.fromkeys(cell.statistic for cell, _ in results[SHIPPED.name]))
    height = ROW * len(statistics)
    longest = max(cell.windows for cell, _ in results[SHIPPED.name])
    parts = [
        *_rates(results, statistics, place=0, aim=PASS_RISK, top=0.3, title="worst false PASS"),
        *_rates(results, statistics, place=1, aim=FAIL_RISK, top=0.1, title="worst false FAIL"),
    ]
    for row, (name, color) in enumerate(SHOWN.values()):
        x = 20 + row * 210
        parts += [_dot(x, height + 96, color), _text(x + 10, height + 100, name)]
    parts += _windows(results[SHIPPED.name], top=height + 150, longest=longest)
    total = height + 150 + 250
    label = "Error rates of sampling rules by statistic, and windows used by true value over limit"
    return (
        f'<svg role="img" aria-label="{label}" xmlns="http://www.w3.org/2000/svg"'
        f' viewBox="0 0 900 {total}" font-family="sans-serif" font-size="12">\n'
        f'<rect width="900" height="{total}" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _rates(
    results: Results, statistics: list[str], *, place: int, aim: float, top: float, title: str
) -> list[str]:
    left = LEFT + place * 420
    height = ROW * len(statistics)

    def across(rate: float) -> float:
        return left + WIDTH * min(rate, top) / top

    parts = [
        _text(left, 24, f"{title}, of texts and variants (aim {aim:.0%})", weight="bold"),
        _line(across(aim), 36, across(aim), 44 + height, "#d6604d", dashed=True),
    ]
    for step in range(6):
        rate = top * step / 5
        parts += [
            _line(across(rate), 40, across(rate), 40 + height, "#e6e6e6"),
            _text(across(rate), 58 + height, f"{rate:.0%}", anchor="middle"),
        ]
    for row, statistic in enumerate(statistics):
        y = 40 + ROW * (row + 0.5)
        parts += [_text(left - 8, y + 4, statistic, anchor="end")] if place == 0 else []
        for rule, (_, color) in SHOWN.items():
            counts = [count for cell, count in results[rule] if cell.statistic == statistic]
            worst = max((count.false_fail() if place else count.false_pass()) for count in counts)
            parts.append(_dot(across(worst), y, color))
    return parts


def _windows(found: Sequence[tuple[Cell, Counts]], *, top: float, longest: int) -> list[str]:
    """Draw the mean number of windows against true value / limit, both on log scales."""
    low, high = math.log(RATIOS[0]), math.log(RATIOS[-1])

    def at(ratio: float, windows: float) -> tuple[float, float]:
        x = LEFT + 600 * (math.log(ratio) - low) / (high - low)
        return x, top + 200 - 190 * math.log(windows / 16) / math.log(longest / 16)

    text = next(cell.text for cell, _ in found if cell.windows == longest)
    parts = [
        _text(
            LEFT, top - 8, f"mean windows used of {longest} ({text}), by log ratio / its limit",
            weight="bold",
        )
    ]  # fmt: skip
    for windows in (*(size for size in (16, 32, 64, 128, 256) if size < longest), longest):
        (x, y), (end, _) = at(RATIOS[0], windows), at(RATIOS[-1], windows)
        parts += [_line(x, y, end, y, "#e6e6e6"), _text(x - 8, y + 4, str(windows), anchor="end")]
    (x, y), (end, _) = at(RATIOS[0], longest / 8), at(RATIOS[-1], longest / 8)
    parts += [_line(x, y, end, y, "#d6604d", dashed=True), _text(end + 6, y + 4, "1/8 of all")]
    for ratio in RATIOS:
        if ratio in {0.97, 1.03}:  # no room beside 1
            continue
        x, _ = at(ratio, 16)
        parts.append(_text(x, top + 218, f"{ratio:g}", anchor="middle"))
    for cell, count in found:
        if cell.windows != longest or cell.statistic != "log ratio":
            continue
        color = LINES[cell.variant]
        points = [at(ratio, count.mean_windows(ratio)) for ratio in RATIOS]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        row = list(LINES).index(cell.variant)
        parts += [
            _dot(LEFT + 660, top + 20 + 20 * row, color),
            _text(LEFT + 670, top + 24 + 20 * row, cell.variant),
        ]
    return parts


def _dot(x: float, y: float, color: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{color}" fill-opacity="0.85"/>'


def _line(x1: float, y1: float, x2: float, y2: float, color: str, *, dashed: bool = False) -> str:
    dashes = ' stroke-dasharray="4 3"' if dashed else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}"{dashes}/>'
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}"'
        f' fill="#333333">{escape(text)}</text>'
    )
