"""The reliability diagram over the histogram of confidences: accuracy of each bin, and what chance would show."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Protocol, runtime_checkable

from .charts import Box, Plot, nice_ticks, px, svg
from .parts import Cell, Column, Table, score_cell
from .schema import Interval
from .words import count, interval, number

SIDE, HISTOGRAM = 360.0, 100.0
CAPTION = (
    "Bars and points: accuracy of each bin with its 95% interval, at its mean confidence. On the diagonal, confidence equals "
    "accuracy. Pale bands: where 95% of perfectly calibrated models would lie by chance. Below: rows in each bin; the two "
    "lines are accuracy (blue) and mean confidence (orange)."
)


@runtime_checkable
class Bin(Protocol):
    """The rows whose confidence lies between the ends, the upper one included."""

    @property
    def interval(self) -> Interval: ...
    @property
    def n(self) -> int: ...
    @property
    def confidence(self) -> float: ...
    @property
    def accuracy(self) -> float: ...
    @property
    def accuracy_interval(self) -> Interval | None: ...
    @property
    def chance_interval(self) -> Interval: ...


@runtime_checkable
class Diagrammed(Protocol):
    """What a diagram is drawn from."""

    @property
    def method(self) -> str: ...
    @property
    def accuracy(self) -> float: ...
    @property
    def confidence(self) -> float | None: ...
    @property
    def bins(self) -> Sequence[Bin]: ...


@runtime_checkable
class OfClass(Protocol):
    """A row of the table of classes."""

    @property
    def label(self) -> str: ...
    @property
    def support(self) -> int: ...
    @property
    def share(self) -> float: ...
    @property
    def probability(self) -> float: ...
    @property
    def ece(self) -> float: ...
    @property
    def ece_chance(self) -> float: ...


def diagram(record: Diagrammed, uid: str) -> str:
    """One method's drawing; the bars of bin k bear ``data-k``, by which the page's script knows them.

    Above: a bar to the accuracy of each bin with its interval, a point at its mean confidence, the diagonal, and behind
    each bar the band in which 95% of perfectly calibrated models would have it. Below: how many rows each bin holds.
    """
    bins = record.bins
    box = Box(SIDE, SIDE - 30.0, left=52.0, top=26.0, bottom=14.0)
    plot = Plot(box, 2, 0.0, 1.0)
    below = Box(SIDE, box.height + HISTOGRAM, left=52.0, top=box.height + 8.0, bottom=40.0)
    most = float(max((b.n for b in bins), default=1))
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
        top, bottom = plot.y(b.chance_interval.high), plot.y(b.chance_interval.low)
        left, right = x(b.interval.low), x(b.interval.high)
        out.append(_rect("choice", left, right, top, max(bottom, top + 1.0)))
    out.append("</g>")
    out.append(
        f'<path class="axis" d="M{px(x(0.0))} {px(plot.y(0.0))}L{px(x(1.0))} {px(plot.y(1.0))}"/>'
    )
    out.append('<g class="s-score">')
    for k, b in enumerate(bins):
        left, right = x(b.interval.low) + 1, x(b.interval.high) - 1
        out.append(_rect("band", left, right, plot.y(b.accuracy), box.y_end, k))
        middle = (left + right) / 2
        if b.accuracy_interval is not None:
            low, high = plot.y(b.accuracy_interval.low), plot.y(b.accuracy_interval.high)
            out.append(f'<path class="bar" data-k="{k}" d="M{px(middle)} {px(low)}V{px(high)}"/>')
        out.append(
            f'<circle class="point" data-k="{k}" cx="{px(x(b.confidence))}" cy="{px(plot.y(b.accuracy))}" r="3.6"/>'
        )
    out.append('</g><g class="s-f1">')
    for k, b in enumerate(bins):
        left, right = x(b.interval.low) + 1, x(b.interval.high) - 1
        out.append(
            _rect("band", left, right, min(rows.y(float(b.n)), below.y_end - 1), below.y_end, k)
        )
    out.append("</g>")
    out.append(f'<path class="axis" d="M{px(below.left)} {px(below.y_end)}H{px(below.x_end)}"/>')
    for value, kind in ((record.accuracy, "score"), (record.confidence, "control")):
        if value is None:
            continue
        at = px(x(value))
        out.append(
            f'<g class="s-{kind}"><path class="line" d="M{at} {px(below.top)}V{px(below.y_end)}"/></g>'
        )
    out.append(
        f'<text class="tick" x="{px(below.left - 8)}" y="{px(rows.y(most) + 4)}" text-anchor="end">{count(most)}</text>'
    )
    out.append(f'<text class="name" x="0" y="{px(box.top - 12)}">accuracy</text>')
    out.append(f'<text class="name" x="0" y="{px(below.y_end)}">rows</text>')
    centre = px((box.left + box.x_end) / 2)
    named = f"confidence: {escape(str(record.method))}"
    out.append(
        f'<text class="name" x="{centre}" y="{px(below.y_end + 35)}" text-anchor="middle">{named}</text>'
    )
    words = "; ".join(
        f"confidence {number(b.confidence)}: accuracy {number(b.accuracy)}, {b.n} rows"
        for b in bins
    )
    return svg(
        Box(SIDE, below.height),
        out,
        title=f"Reliability diagram of {record.method}",
        desc=words,
        uid=f"{uid}-svg",
        attrs=f' width="{px(SIDE)}"',
    )


def tips(record: Diagrammed) -> list[list[str]]:
    """What the pointer reads of each bin: its confidences, its accuracy, the rest."""
    return [
        [
            f"confidence {interval(b.interval, 2)}, mean {number(b.confidence)}",
            number(b.accuracy),
            f"{interval(b.accuracy_interval)}; by chance {interval(b.chance_interval)}; "
            f"n = {count(b.n)}",
        ]
        for b in record.bins
    ]


def class_table(classes: Sequence[OfClass], uid: str) -> Table:
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
            Cell(c.label, head=True),
            Cell(count(c.support), float(c.support)),
            *(score_cell(value) for value in (c.share, c.probability, c.ece, c.ece_chance)),
        ]
        for c in classes
    ]
    return Table(
        f"{uid}-classes", "Calibration of each class", columns, rows, tall=True, compact=True
    )


def _rect(
    style: str, left: float, right: float, top: float, bottom: float, k: int | None = None
) -> str:
    mark = "" if k is None else f' data-k="{k}"'
    return (
        f'<rect class="{style}"{mark} x="{px(left)}" y="{px(top)}" width="{px(max(right - left, 0.5))}" '
        f'height="{px(max(bottom - top, 0.0))}"/>'
    )
