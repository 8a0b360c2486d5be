"""The reliability diagram over the histogram of confidences: accuracy of each bin,
and what chance would show.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from .axes import (
    Scale,
    diagonal,
    draw_names,
    draw_values,
    draw_values_across,
    level_line,
    tick,
    upright_line,
)
from .canvas import Box, px, rect, svg
from .parts import Cell, Column, Table, score_cell
from .schema import Interval
from .words import count, interval, number

SIDE, HISTOGRAM = 360.0, 100.0
CAPTION = (
    "Bars and points: accuracy of each bin with its 95% interval, at its mean confidence. "
    "On the diagonal, confidence equals accuracy. Pale bands: where 95% of perfectly "
    "calibrated models would lie by chance. Below: rows in each bin; "
    "the two lines are accuracy (blue) and mean confidence (orange)."
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
    """One method's drawing; the bars of bin k bear ``data-k``, by which the page's script knows
    them.

    Above: a bar to the accuracy of each bin with its interval, a point at its mean confidence, the
    diagonal, and behind each bar the band in which 95% of perfectly calibrated models would have
    it. Below: how many rows each bin holds.
    """
    bins = record.bins
    box = Box(SIDE, SIDE - 30.0, left=52.0, top=26.0, bottom=14.0)
    below = Box(SIDE, box.height + HISTOGRAM, left=52.0, top=box.height + 8.0, bottom=40.0)
    most = float(max((one.n for one in bins), default=1))
    x, y = Scale.across(box, 0.0, 1.0), Scale.upwards(box, 0.0, 1.0)
    rows = Scale.upwards(below, 0.0, most * 1.05)
    body = draw_values(box, y)
    body += draw_values_across(below, x, lines=False)
    body += _chance(bins, x, y)
    body.append(diagonal(x, y))
    body += _accuracies(bins, box, x, y)
    body += _counts(bins, below, x, rows)
    body.append(level_line(below, below.y_end, "axis"))
    for value, kind in ((record.accuracy, "score"), (record.confidence, "control")):
        if value is not None:
            body.append(f'<g class="s-{kind}">{upright_line(below, x(value), "line")}</g>')
    body.append(tick(below.left - 8, rows(most) + 4, count(most), "end"))
    body += draw_names(below, "", f"confidence: {record.method}")
    body.append(f'<text class="name" x="0" y="{px(box.top - 12)}">accuracy</text>')
    body.append(f'<text class="name" x="0" y="{px(below.y_end)}">rows</text>')
    words = [
        f"confidence {number(one.confidence)}: accuracy {number(one.accuracy)}, {one.n} rows"
        for one in bins
    ]
    return svg(
        Box(SIDE, below.height),
        body,
        title=f"Reliability diagram of {record.method}",
        desc="; ".join(words),
        uid=f"{uid}-svg",
        attrs=f' width="{px(SIDE)}"',
    )


SMALL = Box(240.0, 216.0, left=36.0, right=10.0, top=12.0, bottom=42.0)


def small_diagram(record: Diagrammed, uid: str) -> str:
    """The upper half of the drawing, small enough for several abreast."""
    x, y = Scale.across(SMALL, 0.0, 1.0), Scale.upwards(SMALL, 0.0, 1.0)
    body = [*draw_values(SMALL, y, 4), *draw_values_across(SMALL, x, lines=False)]
    body += _chance(record.bins, x, y)
    body.append(diagonal(x, y))
    body += _accuracies(record.bins, SMALL, x, y)
    body += draw_names(SMALL, "", "confidence")
    words = f"Accuracy over confidence, in {len(record.bins)} bins"
    title = f"Reliability of {record.method}, small"
    return svg(SMALL, body, title=title, desc=words, uid=f"{uid}-svg")


def _chance(bins: Sequence[Bin], x: Scale, y: Scale) -> list[str]:
    """Behind each bar, where 95% of perfectly calibrated models would have it."""
    out = ['<g class="s-major">']
    for one in bins:
        top, bottom = y(one.chance_interval.high), y(one.chance_interval.low)
        # A band without height would not be seen.
        bottom = max(bottom, top + 1.0)
        out.append(_rect("choice", x(one.interval.low), x(one.interval.high), top, bottom))
    return [*out, "</g>"]


def _accuracies(bins: Sequence[Bin], box: Box, x: Scale, y: Scale) -> list[str]:
    """A bar to each bin's accuracy with its interval, and a point at its mean confidence."""
    out = ['<g class="s-score">']
    for k, one in enumerate(bins):
        left, right = x(one.interval.low) + 1, x(one.interval.high) - 1
        out.append(_rect("band", left, right, y(one.accuracy), box.y_end, k))
        if one.accuracy_interval is not None:
            low, high = y(one.accuracy_interval.low), y(one.accuracy_interval.high)
            line = f"M{px((left + right) / 2)} {px(low)}V{px(high)}"
            out.append(f'<path class="bar" data-k="{k}" d="{line}"/>')
        place = f'cx="{px(x(one.confidence))}" cy="{px(y(one.accuracy))}"'
        out.append(f'<circle class="point" data-k="{k}" {place} r="3.6"/>')
    return [*out, "</g>"]


def _counts(bins: Sequence[Bin], below: Box, x: Scale, rows: Scale) -> list[str]:
    """The histogram: how many rows each bin holds."""
    out = ['<g class="s-f1">']
    for k, one in enumerate(bins):
        left, right = x(one.interval.low) + 1, x(one.interval.high) - 1
        top = min(rows(float(one.n)), below.y_end - 1)
        out.append(_rect("band", left, right, top, below.y_end, k))
    return [*out, "</g>"]


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
    # A narrow bin stays visible.
    width = max(right - left, 0.5)
    return rect(f'class="{style}"{mark}', left, top, width, bottom - top)
