"""A grid of effects: a row for each layer, a column for each head, coloured where the effect is clear of chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..report.charts import Box, label_step, px, svg
from ..report.matrix import step_of
from ..report.words import interval, p_value, plural, signed
from .reading import LEVEL, clear_of_chance

CELLS = 4000
"""Cells that a drawing can hold; a grid with more is a ranking."""


def effect_grid(
    records: Sequence[Mapping[str, Any]], *, uid: str, title: str, names: Sequence[str]
) -> tuple[str, list[list[str]], str] | None:
    """The drawing, what the pointer reads (name, effect, interval and tests) and a caption; None for too many cells.

    Orange cells make the metric lower when they are edited, blue ones higher, in four shades by size; cells whose
    false-discovery rate is 5% or more stay grey.
    """
    if not records or len(records) > CELLS:
        return None
    layers = sorted({int(r["layer"]) for r in records})
    columns = sorted({int(r["index"] or 0) for r in records})
    side = max(7.0, min(30.0, 620.0 / max(len(columns), 1), 620.0 / len(layers)))
    left, top = 34.0, 6.0
    box = Box(left + side * len(columns) + 6, top + side * len(layers) + (34 if len(columns) > 1 else 8))
    clear = clear_of_chance(records)
    largest = max((abs(float(r["effect"])) for r in clear), default=0.0)
    gap = 1.0 if side < 16 else 2.0
    body, tips = [], []
    for record, name in zip(records, names, strict=True):
        effect, is_clear = float(record["effect"]), bool(clear_of_chance([record]))
        kind = f"{'up' if effect > 0 else 'down'}{step_of(effect, largest)}" if is_clear else "even"
        x = left + side * columns.index(int(record["index"] or 0))
        y = top + side * layers.index(int(record["layer"]))
        body.append(f'<rect class="m-{kind}" data-k="{len(tips)}" x="{px(x)}" y="{px(y)}" ')
        body.append(f'width="{px(side - gap)}" height="{px(side - gap)}"/>')
        if is_clear and side >= 13:
            body.append(f'<text class="m-text m-sign m-on{step_of(effect, largest)}" text-anchor="middle" ')
            body.append(
                f'x="{px(x + (side - gap) / 2)}" y="{px(y + side / 2 + 2.6)}">{"+" if effect > 0 else "−"}</text>'
            )
        tests = f"p = {p_value(record.get('p'))}, q = {p_value(record.get('q'))}".replace("= <", "< ")
        tests = tests if record.get("exact", True) else "an estimate"
        tips.append([name, signed(effect), f"{interval(record.get('low'), record.get('high'))}; {tests}"])
    body += _ticks(layers, side, lambda at: (left - 6, top + at + side / 2 + 3), "end", 14.0)
    if len(columns) > 1:
        under = top + side * len(layers) + 13
        body += _ticks(columns, side, lambda at: (left + at + side / 2 - 1, under), "middle", 20.0)
        middle, axis = left + side * len(columns) / 2, str(records[0].get("component", "")).removesuffix("s")
        body.append(
            f'<text class="tick" x="{px(middle)}" y="{px(under + 15)}" text-anchor="middle">{escape(axis)}</text>'
        )
    words = (
        f"{plural(len(records), 'cell')}, layers from top to bottom: {len(clear)} have an effect that is clear of chance "
        f"(false-discovery rate below {LEVEL}), the largest {largest:.3g}. Grey cells are not clear of it."
    )
    drawing = svg(box, body, title=title, desc=words, uid=f"{uid}-svg", attrs=f' width="{px(box.width)}"')
    return drawing, tips, words


def _ticks(values: Sequence[int], side: float, place: Any, anchor: str, each: float) -> list[str]:
    every = label_step(len(values), side * len(values), each)
    out = []
    for i, value in enumerate(values):
        if i % every == 0:
            x, y = place(i * side)
            out.append(f'<text class="tick" x="{px(x)}" y="{px(y)}" text-anchor="{anchor}">{escape(str(value))}</text>')
    return out
