"""Every pair of layers compared: a triangle of coloured cells and the numbers behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .charts import Box, label_step, px, svg
from .words import finite, interval, layer_label, p_value, plural, signed

LEVEL = 0.05


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
        difference, low, high = (finite(row.get(k)) for k in ("difference", "low", "high"))
        if a < b:
            a, b = b, a
        else:
            difference = None if difference is None else -difference
            low, high = (None if high is None else -high), (None if low is None else -low)
        cells[a, b] = {
            "difference": difference,
            "low": low,
            "high": high,
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
    box = Box(left + side * (n - 1) + 30, side * (n - 1) + 34)
    largest = max(
        (abs(c["difference"]) for c in cells.values() if c["difference"] is not None), default=0.0
    )
    every = label_step(n, side * (n - 1), 20.0)
    body: list[str] = []
    pairs: list[list[Any]] = []
    better = worse = 0
    for (a, b), cell in sorted(cells.items()):
        d, p = cell["difference"], cell["p"]
        x, y = left + b * side, (a - 1) * side + 4
        clear = p is not None and p < LEVEL and d is not None
        kind = "even"
        if clear and d is not None:
            better, worse = better + (d > 0), worse + (d < 0)
            kind = f"{'up' if d > 0 else 'down'}{step_of(d, largest)}"
        gap = 1.0 if side < 20 else 2.0
        body.append(f'<rect class="m-{kind}" data-k="{len(pairs)}" x="{px(x)}" y="{px(y)}" ')
        body.append(f'width="{px(side - gap)}" height="{px(side - gap)}"/>')
        if clear and d is not None and side >= 34:
            text = signed(100 * d, 1)
            body.append(f'<text class="m-text m-on{step_of(d, largest)}" text-anchor="middle" ')
            body.append(f'x="{px(x + (side - gap) / 2)}" y="{px(y + side / 2 + 3)}">{text}</text>')
        elif clear and d is not None and side >= 13:
            sign = "+" if d > 0 else "−"
            body.append(
                f'<text class="m-text m-sign m-on{step_of(d, largest)}" text-anchor="middle" '
            )
            body.append(
                f'x="{px(x + (side - gap) / 2)}" y="{px(y + side / 2 + 2.6)}">{sign}</text>'
            )
        pairs.append(
            [labels[a], labels[b], signed(d), interval(cell["low"], cell["high"]), p_value(p), d, p]
        )
    for i, label in enumerate(labels):
        shown = i in (0, n - 1) or (label.isdigit() and int(label) % every == 0)
        crowded = every > 1 and (0 < i < 2 or n - 2 <= i < n - 1)
        if not shown or crowded:
            continue
        if i > 0:
            y = (i - 1) * side + side / 2 + 7
            body.append(
                f'<text class="tick" x="{px(left - 7)}" y="{px(y)}" text-anchor="end">{escape(label)}</text>'
            )
        if i < n - 1:
            x = left + i * side + side / 2 - 1
            body.append(
                f'<text class="tick" x="{px(x)}" y="{px(box.height - 12)}" text-anchor="middle">{escape(label)}</text>'
            )
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
    return drawing, {"pairs": pairs, "metric": metric}, caption
