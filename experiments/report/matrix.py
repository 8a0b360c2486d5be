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
LEFT, TOP = 40.0, 4.0
"""Pixels left of the triangle and above it."""
LARGEST_SIDE = 46.0
SPAN = 470.0
"""Pixels that the cells may take, across and down."""
NUMBER_SIDE, SIGN_SIDE = 34.0, 13.0
"""Pixels of a cell's side from which it holds a number, and a sign."""
WITH_INTERVALS = 1000
"""Pairs up to which the page holds their intervals."""


def oriented(
    rows: Sequence[Mapping[str, Any]], layers: Sequence[float]
) -> dict[tuple[int, int], Mapping[str, Any]]:
    """Each comparison (layer_b less layer_a) under (row, column) = (deeper, shallower),
    turned to row less column.
    """
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
    ends = [finite(row.get(key)) for row in rows for key in ("layer_a", "layer_b")]
    layers = sorted({layer for layer in ends if layer is not None})
    cells = oriented(rows, layers)
    if not cells:
        return None
    labels = [layer_label(layer) for layer in layers]
    n = len(layers)
    side = min(LARGEST_SIDE, SPAN / max(n - 1, 1))
    # The first layer is in no row, the last in no column.
    grid = Cells(LEFT, TOP, side, side, n - 1, n - 1)
    box = Box(grid.right + 30, grid.bottom + 30)
    body, n_better, n_worse = _body(cells, grid)
    body += _ticks(labels, grid)
    n_tested = sum(cell["p"] is not None for cell in cells.values())
    words = (
        f"Of {plural(n_tested, 'pair')} of layers, {n_better + n_worse} differ after Holm's "
        f"correction (p < {LEVEL}): the deeper layer is better in {n_better} "
        f"and worse in {n_worse}."
    )
    if not n_tested:
        words = "No pair of layers could be tested: there are too few test sentences."
    drawing = svg(
        box,
        body,
        title=f"{name}: every pair of layers compared",
        desc=words,
        uid=uid,
        attrs=f' width="{px(box.width)}"',
    )
    unit = ", in points" if side >= NUMBER_SIDE else ""
    caption = f"{words} Cells: {metric} of the row's layer minus the column's{unit}."
    if len(cells) > WITH_INTERVALS:
        caption += " The intervals of all pairs are in results.json."
    else:
        caption += " Intervals are of one pair each, without the correction."
    data = {"labels": labels, "metric": metric, "left": LEFT, "top": TOP, "side": side}
    return drawing, {**data, **_numbers(cells, n)}, caption


def _body(
    cells: Mapping[tuple[int, int], Mapping[str, Any]], grid: Cells
) -> tuple[list[str], int, int]:
    """The cells with their signs, and in how many the deeper layer is better and worse."""
    sizes = [abs(cell["difference"]) for cell in cells.values() if cell["difference"] is not None]
    largest = max(sizes, default=0.0)
    gap = 1.0 if grid.width < 20 else 2.0
    signs: list[str] = []
    places: dict[str, list[tuple[int, int]]] = {}
    n_better = n_worse = 0
    for (deeper, shallower), cell in sorted(cells.items()):
        difference, p = cell["difference"], cell["p"]
        kind = "even"
        if p is not None and p < LEVEL and difference is not None:
            is_better = difference > 0
            n_better += is_better
            n_worse += difference < 0
            step = step_of(difference, largest)
            kind = f"{'up' if is_better else 'down'}{step}"
            x, y = grid.x(shallower), grid.y(deeper - 1)
            signs += _sign(difference, step, x, y, grid.width, gap)
        places.setdefault(kind, []).append((deeper - 1, shallower))
    coloured = [_cells(kind, at, grid, gap) for kind, at in sorted(places.items())]
    return [*coloured, *signs], n_better, n_worse


def _ticks(labels: Sequence[str], grid: Cells) -> list[str]:
    """Layers left of the rows and under the columns: the first, the last,
    and round ones between.
    """
    n = len(labels)
    every = label_step(n, grid.width * (n - 1), 20.0)
    out = []
    for i, label in enumerate(labels):
        is_end = i in (0, n - 1)
        is_round = label.isdigit() and int(label) % every == 0
        # Where not every layer has room, one beside an end has none.
        is_crowded = every > 1 and i in (1, n - 2)
        if not (is_end or is_round) or is_crowded:
            continue
        if i > 0:
            out.append(grid.row_tick(i - 1, label))
        if i < n - 1:
            out.append(grid.column_tick(i, label))
    return out


def _cells(kind: str, places: Sequence[tuple[int, int]], grid: Cells, gap: float) -> str:
    """All cells of a colour as one path.

    A cell is 1 wide, and each begins where the one before it in its row does: short whole numbers,
    which compress to little.
    """
    width = f"{1 - gap / grid.width:.3f}".lstrip("0")
    square = f"h{width}v{width}h-{width}z"
    out: list[str] = []
    row_before = column_before = -1
    for row, column in places:
        is_same_row = row == row_before
        start = f"m{column - column_before} 0" if is_same_row else f"M{column} {row}"
        out.append(start + square)
        row_before, column_before = row, column
    place = f"translate({px(grid.left)} {px(grid.top)}) scale({grid.width:.4f})"
    return f'<path class="m-{kind}" transform="{place}" d="{"".join(out)}"/>'


def _sign(difference: float, step: int, x: float, y: float, side: float, gap: float) -> list[str]:
    """The difference in a cell, or its sign where there is less room."""
    if side >= NUMBER_SIDE:
        text, style, below = signed(100 * difference, 1), "m-text", 3.0
    elif side >= SIGN_SIDE:
        text, style, below = "+" if difference > 0 else "−", "m-text m-sign", 2.6
    else:
        return []
    middle = f'x="{px(x + (side - gap) / 2)}" y="{px(y + side / 2 + below)}"'
    place = f'text-anchor="middle" {middle}'
    return [f'<text class="{style} m-on{step}" {place}>{text}</text>']


def _numbers(cells: Mapping[tuple[int, int], Mapping[str, Any]], n: int) -> dict[str, list[Any]]:
    """What pointer and table read: whole thousandths of difference, interval and p; and the places,
    where some have none.
    """
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
