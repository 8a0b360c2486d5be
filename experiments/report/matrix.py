"""Every pair of layers compared: a triangle of coloured cells and the numbers behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .axes import Cells, label_step
from .canvas import Box, px, svg
from .schema import Interval
from .words import finite, layer_label, plural, signed

LEVEL = 0.05
TOP = 4.0
"""Pixels above the triangle."""
WITH_INTERVALS = 1000
"""Pairs up to which the page holds their intervals."""


def oriented(
    rows: Sequence[Mapping[str, Any]], layers: Sequence[float]
) -> dict[tuple[int, int], Mapping[str, Any]]:
    """Each comparison (layer_b less layer_a) under (row, column) = (deeper, shallower), turned to row less column."""
    index: dict[float | None, int] = {layer: i for i, layer in enumerate(layers)}
    cells: dict[tuple[int, int], Mapping[str, Any]] = {}
    for row in rows:
        a, b = index.get(finite(row.get("layer_a"))), index.get(finite(row.get("layer_b")))
        if a is None or b is None or a == b:
            continue
        difference, ends = finite(row.get("difference")), row.get("difference_interval")
        if a < b:
            a, b = b, a
        else:
            difference = None if difference is None else -difference
            ends = ends and Interval(-ends.high, -ends.low)
        cells[a, b] = {
            "difference": difference,
            "interval": ends,
            "p": finite(row.get("p_holm")),
        }
    return cells


def step_of(difference: float, largest: float) -> int:
    """One of four shades, by size."""
    return min(4, 1 + int(4 * abs(difference) / largest)) if largest > 0 else 1


def layer_matrix(
    rows: Sequence[Mapping[str, Any]], *, uid: str, name: str, metric: str
) -> tuple[str, dict[str, Any], str] | None:
    """The triangle, its data for pointer and table, and its caption; None without comparisons.

    A cell is coloured where Holm's correction leaves p < 0.05: blue where the deeper layer is
    better, orange where it is worse, and carries a sign so that colour is not needed to read it.
    """
    ends = [finite(r.get(k)) for r in rows for k in ("layer_a", "layer_b")]
    layers = sorted({x for x in ends if x is not None})
    cells = oriented(rows, layers)
    if not cells:
        return None
    labels = [layer_label(x) for x in layers]
    n = len(layers)
    side = min(46.0, 470.0 / max(n - 1, 1))
    left = 40.0
    grid = Cells(left, TOP, side, side, n - 1, n - 1)
    box = Box(grid.right + 30, grid.bottom + 30)
    largest = max(
        (abs(c["difference"]) for c in cells.values() if c["difference"] is not None), default=0.0
    )
    every = label_step(n, side * (n - 1), 20.0)
    gap = 1.0 if side < 20 else 2.0
    body: list[str] = []
    places: dict[str, list[tuple[int, int]]] = {}
    better = worse = 0
    for (a, b), cell in sorted(cells.items()):
        d, p = cell["difference"], cell["p"]
        kind = "even"
        if p is not None and p < LEVEL and d is not None:
            better, worse = better + (d > 0), worse + (d < 0)
            kind = f"{'up' if d > 0 else 'down'}{step_of(d, largest)}"
            body += _sign(d, step_of(d, largest), left + b * side, (a - 1) * side, side, gap)
        places.setdefault(kind, []).append((a, b))
    body = [_cells(kind, at, left, side, gap) for kind, at in sorted(places.items())] + body
    for i, label in enumerate(labels):
        shown = i in (0, n - 1) or (label.isdigit() and int(label) % every == 0)
        crowded = every > 1 and (0 < i < 2 or n - 2 <= i < n - 1)
        if not shown or crowded:
            continue
        # The first layer is in no row, the last in no column.
        if i > 0:
            body.append(grid.row_tick(i - 1, label))
        if i < n - 1:
            body.append(grid.column_tick(i, label))
    known = sum(c["p"] is not None for c in cells.values())
    words = (
        f"Of {plural(known, 'pair')} of layers, {better + worse} differ after Holm's correction "
        f"(p < {LEVEL}): the deeper layer is better in {better} and worse in {worse}."
    )
    drawing = svg(
        box,
        body,
        title=f"{name}: every pair of layers compared",
        desc=words,
        uid=uid,
        attrs=f' width="{px(box.width)}"',
    )
    caption = (
        words
        + f" Cells: {metric} of the row's layer minus the column's"
        + (", in points." if side >= 34 else ".")
    )
    if len(cells) > WITH_INTERVALS:
        caption += " The intervals of so many pairs are in results.json."
    data = {"labels": labels, "metric": metric, "left": left, "top": TOP, "side": side}
    return drawing, {**data, **_numbers(cells, n)}, caption


def _cells(
    kind: str, places: Sequence[tuple[int, int]], left: float, side: float, gap: float
) -> str:
    """All cells of a colour as one path: neighbours in a row are drawn from one another, which compresses to little."""
    width = px(side - gap)
    square = f"h{width}v{width}h-{width}z"
    out: list[str] = []
    before = (-1, -1)
    for a, b in places:
        is_neighbour = before == (a, b - 1)
        start = f"m{side:.3f} 0" if is_neighbour else f"M{px(left + b * side)} {px(_y(a, side))}"
        out.append(start + square)
        before = (a, b)
    return f'<path class="m-{kind}" d="{"".join(out)}"/>'


def _y(row: int, side: float) -> float:
    """Upper edge of a row; that of the first layer has no cell."""
    return (row - 1) * side + TOP


def _sign(d: float, step: int, x: float, y: float, side: float, gap: float) -> list[str]:
    """The difference in a cell, or its sign where there is less room."""
    middle = px(x + (side - gap) / 2)
    if side >= 34:
        text, style, below = signed(100 * d, 1), "m-text", 3.0
    elif side >= 13:
        text, style, below = "+" if d > 0 else "−", "m-text m-sign", 2.6
    else:
        return []
    place = f'text-anchor="middle" x="{middle}" y="{px(y + side / 2 + below)}"'
    return [f'<text class="{style} m-on{step}" {place}>{text}</text>']


def _numbers(cells: Mapping[tuple[int, int], Mapping[str, Any]], n: int) -> dict[str, list[Any]]:
    """What pointer and table read: whole thousandths of difference, interval and p; and the places, where some have none."""
    ordered = sorted(cells.items())
    out: dict[str, list[Any]] = {
        "difference": [_thousandths(cell["difference"]) for _, cell in ordered],
        "p": [_of_p(cell["p"]) for _, cell in ordered],
    }
    if len(ordered) < n * (n - 1) // 2:
        out |= {"a": [a for (a, _), _ in ordered], "b": [b for (_, b), _ in ordered]}
    if len(ordered) <= WITH_INTERVALS:
        ends = [cell["interval"] for _, cell in ordered]
        out["low"] = [one and _thousandths(one.low) for one in ends]
        out["high"] = [one and _thousandths(one.high) for one in ends]
    return out


def _of_p(p: float | None) -> int | None:
    """A p as the page shows it, in thousandths: 0 below 0.001, and hundredths from 0.1."""
    if p is None:
        return None
    return 10 * round(100 * p) if p >= 0.1 else math.floor(1000 * p)


def _thousandths(value: float | None) -> int | None:
    """The number as the page shows it, with three digits."""
    return None if value is None else round(1000 * value)
