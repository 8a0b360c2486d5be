"""The doctor's map as a picture: a square for each check and kind of site,
narrow enough for a page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ....hooks.verify import worst
from ...report.axes import Cells
from ...report.canvas import Box, px, rect, svg
from ...report.parts import Heat
from .kinds import short_name
from .records import CheckRecord

SIDE, GAP = 22.0, 2.0
LETTER = 6.4
SLANTED = 84.0
"""Room under the squares for the names of kinds of sites, which stand aslant."""
SHADES = {"OK": "m-up2", "UNSUPPORTED": "m-even", "WRONG": "m-down4"}
WORDS = {"OK": "ok", "UNSUPPORTED": "not supported", "WRONG": "WRONG"}


def map_picture(
    uid: str,
    kinds: Sequence[str],
    grid: Mapping[str, Mapping[str, Sequence[CheckRecord]]],
    data: dict[str, Any],
) -> Heat:
    """Checks down, kinds of sites across; the pointer reads the worst of a square's layers.

    Args:
        data: the page's data; ``heats`` gets what the pointer reads.
    """
    left = 12.0 + LETTER * max(len(check) for check in grid)
    cells = Cells(left, 4.0, SIDE, SIDE, len(grid), len(kinds))
    body, tips = [], []
    for row, (check, by_kind) in enumerate(grid.items()):
        body.append(cells.row_tick(row, check))
        for column, kind in enumerate(kinds):
            square_records = by_kind.get(kind)
            if not square_records:
                continue
            status = worst(square_records)
            style = f'class="{SHADES[status]}" data-k="{len(tips)}"'
            body.append(rect(style, cells.x(column), cells.y(row), SIDE - GAP, SIDE - GAP))
            # Told by a sign too, for readers who do not see the colour.
            if status != "OK":
                middle = f'x="{px(cells.x(column) + (SIDE - GAP) / 2)}" y="{px(cells.y(row) + 14)}"'
                sign, shade = ("!", "m-on4") if status == "WRONG" else ("–", "name")
                text = f'<text class="m-text {shade}" text-anchor="middle" {middle}>{sign}</text>'
                body.append(text)
            tips.append(
                [
                    f"{check}: {kind or 'the whole model'}",
                    WORDS[status],
                    _measured(square_records, status),
                ]
            )
    for column, kind in enumerate(kinds):
        body.append(cells.slanted_tick(column, short_name(kind).removesuffix(".hook_normalized")))
    box = Box(cells.right + SLANTED, cells.bottom + SLANTED)
    caption = (
        "A square is a check (row) of a kind of site (column), the worst of all layers. "
        "Blue: within its bound at every layer. Grey with a dash: not supported. "
        "Orange with an exclamation mark: WRONG. No square: the check does not apply."
    )
    data.setdefault("heats", {})[uid] = {"tips": tips, "metric": "status"}
    width = f' width="{px(box.width)}"'
    drawing = svg(
        box, body, title="Checks by kinds of sites", desc=caption, uid=f"{uid}-svg", attrs=width
    )
    return Heat(uid, Markup(drawing), caption, label="Checks by kinds of sites", key=False)


def _measured(square_records: Sequence[CheckRecord], status: str) -> str:
    """The measured numbers of a square, and their bound."""
    same = [record for record in square_records if record.status == status]
    sizes = [record.measured for record in same if record.measured is not None]
    bounds = [record.bound for record in same if record.bound is not None]
    if not sizes or not bounds:
        return next((record.reason for record in same if record.reason), "")
    return f"measured {min(sizes):.1g} to {max(sizes):.1g}, bound {max(bounds):.1g}"
