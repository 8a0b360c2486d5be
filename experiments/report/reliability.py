"""The reliability diagram over the histogram of confidences: what was claimed, what came true, and what chance would show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .charts import Box, Plot, nice_ticks, px, svg
from .parts import Cell, Column, Table, score_cell
from .words import count, finite, interval, number

SIDE, HISTOGRAM = 360.0, 100.0
CAPTION = (
    "Bars and points: accuracy of each bin, with its 95% interval, at its mean confidence; on the diagonal a confidence says "
    "how often it is right. Pale bands: where 95% of perfectly calibrated models would lie by chance. Below: rows in each "
    "bin; the two lines are accuracy (blue) and mean confidence (orange)."
)


def diagram(record: Mapping[str, Any], uid: str) -> str:
    """One method's drawing; the bars of bin k bear ``data-k``, by which the page's script knows them.

    Above: a bar to the accuracy of each bin with its interval, a point at its mean confidence, the diagonal, and behind
    each bar the band in which 95% of perfectly calibrated models would have it. Below: how many rows each bin holds.
    """
    bins: Sequence[Mapping[str, Any]] = record["bins"]
    box = Box(SIDE, SIDE - 30.0, left=52.0, top=26.0, bottom=14.0)
    plot = Plot(box, 2, 0.0, 1.0)
    below = Box(SIDE, box.height + HISTOGRAM, left=52.0, top=box.height + 8.0, bottom=40.0)
    most = max((float(b["n"]) for b in bins), default=1.0)
    rows = Plot(below, 2, 0.0, most * 1.05)

    def x(value: float) -> float:
        return box.left + value * (box.x_end - box.left)

    out: list[str] = []
    for tick in nice_ticks(0.0, 1.0):
        out.append(f'<path class="grid" d="M{px(box.left)} {px(plot.y(tick))}H{px(box.x_end)}"/>')
        out.append(
            f'<text class="tick" x="{px(box.left - 8)}" y="{px(plot.y(tick) + 4)}" text-anchor="end">{number(tick, 1)}</text>'
        )
        out.append(
            f'<text class="tick" x="{px(x(tick))}" y="{px(below.y_end + 18)}" text-anchor="middle">{number(tick, 1)}</text>'
        )
    out.append('<g class="s-major">')
    for b in bins:
        top, bottom = plot.y(float(b["chance_high"])), plot.y(float(b["chance_low"]))
        out.append(_rect("choice", x(float(b["low"])), x(float(b["high"])), top, max(bottom, top + 1.0)))
    out.append("</g>")
    out.append(f'<path class="axis" d="M{px(x(0.0))} {px(plot.y(0.0))}L{px(x(1.0))} {px(plot.y(1.0))}"/>')
    out.append('<g class="s-score">')
    for k, b in enumerate(bins):
        left, right = x(float(b["low"])) + 1, x(float(b["high"])) - 1
        out.append(_rect("band", left, right, plot.y(float(b["accuracy"])), box.y_end, k))
        middle = (left + right) / 2
        low, high = (plot.y(float(b[f"accuracy_{side}"])) for side in ("low", "high"))
        out.append(f'<path class="bar" data-k="{k}" d="M{px(middle)} {px(low)}V{px(high)}"/>')
        out.append(
            f'<circle class="point" data-k="{k}" cx="{px(x(float(b["confidence"])))}" cy="{px(plot.y(float(b["accuracy"])))}" r="3.6"/>'
        )
    out.append('</g><g class="s-f1">')
    for k, b in enumerate(bins):
        left, right = x(float(b["low"])) + 1, x(float(b["high"])) - 1
        out.append(_rect("band", left, right, min(rows.y(float(b["n"])), below.y_end - 1), below.y_end, k))
    out.append("</g>")
    out.append(f'<path class="axis" d="M{px(below.left)} {px(below.y_end)}H{px(below.x_end)}"/>')
    for name, kind in (("accuracy", "score"), ("confidence", "control")):
        at = px(x(float(record[name])))
        out.append(f'<g class="s-{kind}"><path class="line" d="M{at} {px(below.top)}V{px(below.y_end)}"/></g>')
    out.append(
        f'<text class="tick" x="{px(below.left - 8)}" y="{px(rows.y(most) + 4)}" text-anchor="end">{count(most)}</text>'
    )
    out.append(f'<text class="name" x="0" y="{px(box.top - 12)}">accuracy</text>')
    out.append(f'<text class="name" x="0" y="{px(below.y_end)}">rows</text>')
    centre = px((box.left + box.x_end) / 2)
    named = f"confidence: {escape(str(record['method']))}"
    out.append(f'<text class="name" x="{centre}" y="{px(below.y_end + 35)}" text-anchor="middle">{named}</text>')
    words = "; ".join(
        f"confidence {number(b['confidence'])}: accuracy {number(b['accuracy'])}, {b['n']} rows" for b in bins
    )
    return svg(
        Box(SIDE, below.height),
        out,
        title=f"Reliability diagram of {record['method']}",
        desc=words,
        uid=f"{uid}-svg",
        attrs=f' width="{px(SIDE)}"',
    )


def tips(record: Mapping[str, Any]) -> list[list[str]]:
    """What the pointer reads of each bin: its confidences, its accuracy, the rest."""
    return [
        [
            f"confidence {number(b['low'], 2)} to {number(b['high'], 2)}, mean {number(b['confidence'])}",
            number(b["accuracy"]),
            f"{interval(b['accuracy_low'], b['accuracy_high'])}; by chance {interval(b['chance_low'], b['chance_high'])}; "
            f"n = {count(b['n'])}",
        ]
        for b in record["bins"]
    ]


def class_table(classes: Sequence[Mapping[str, Any]], uid: str) -> Table:
    """How the probability of each class fits its frequency."""
    columns = [
        Column("class", False),
        Column("support"),
        Column("share", hint="of the rows that have this label"),
        Column("probability", hint="mean probability of the class"),
        Column("ECE", hint="of the class's own probability"),
        Column("by chance"),
    ]
    rows = [
        [
            Cell(str(c.get("label")), head=True),
            Cell(count(c.get("support")), finite(c.get("support"))),
            *(score_cell(c.get(k)) for k in ("share", "probability", "ece", "ece_chance")),
        ]
        for c in classes
    ]
    return Table(f"{uid}-classes", "Calibration of each class", columns, rows, tall=True, compact=True)


def _rect(style: str, left: float, right: float, top: float, bottom: float, k: int | None = None) -> str:
    mark = "" if k is None else f' data-k="{k}"'
    return (
        f'<rect class="{style}"{mark} x="{px(left)}" y="{px(top)}" width="{px(max(right - left, 0.5))}" '
        f'height="{px(max(bottom - top, 0.0))}"/>'
    )
