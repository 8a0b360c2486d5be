"""Curves of several models in one picture: over relative depth,
0 in front of the first block and 1 behind the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from .axes import Plot, draw_axes, value_range
from .canvas import Box, px, svg
from .charts import Series, draw_end_labels, draw_series
from .parts import Heat
from .schema import Interval
from .words import finite, interval, number

TICKS = ("0", "0.25", "0.5", "0.75", "1")
KINDS = ("score", "control", "f1", "random", "plain")
"""Colours, in the order in which runs get them; a sixth run begins again."""


@dataclass(frozen=True)
class DepthCurve:
    """A quantity of one run at its layers, as a study gives it to a comparison.

    Args:
        title: what it is of: a property, a kind of part.
        metric: the quantity's name, with its unit where it has one.
        layers: blocks in front of each point's site: 0 for the embeddings.
        sites: each point's site.
        intervals: of 95%, None where there is none.
        is_change: whether the largest value either way is spoken of, and not the highest.
    """

    title: str
    metric: str
    layers: Sequence[float]
    sites: Sequence[str]
    values: Sequence[float | None]
    intervals: Sequence[Interval | None]
    is_change: bool = False

    @classmethod
    def of(
        cls,
        title: str,
        metric: str,
        records: Sequence[Any],
        value: str,
        *,
        is_change: bool = False,
    ) -> DepthCurve:
        """From the typed records of a study, by layer.

        Args:
            value: the field.
        """
        values = [finite(getattr(record, value)) for record in records]
        intervals = [getattr(record, f"{value}_interval") for record in records]
        # a record's layer is its block, -1 the embedding
        layers = [float(record.layer + 1) for record in records]
        sites = [record.site for record in records]
        return cls(title, metric, layers, sites, values, intervals, is_change)


@dataclass(frozen=True)
class Curve:
    """One run's values at its layers.

    Args:
        name: the run.
        places: what each point is called: its layer or site.
        depths: 0 to 1.
    """

    name: str
    places: Sequence[str]
    depths: Sequence[float]
    values: Sequence[float | None]
    intervals: Sequence[Interval | None]


class _At(Plot):
    """Scales whose positions are depths."""

    def __init__(self, box: Box, depths: Sequence[float], low: float, high: float) -> None:
        super().__init__(box, len(depths), low, high)
        self.depths, self.x0 = depths, box.left + 10
        self.dx = (box.x_end - 10 - self.x0) / max(len(depths) - 1, 1)

    def x(self, i: int | float) -> float:
        """Abscissa of the point i."""
        return self.x0 + self.depths[int(i)] * (self.box.x_end - 10 - self.x0)


def depth_curves(
    curves: Sequence[Curve], data: dict[str, Any], *, uid: str, title: str, y_title: str
) -> Heat:
    """All curves in one drawing; the pointer reads every point.

    Args:
        data: the page's data; ``heats`` gets what the pointer reads.
    """
    drawn = [Series(curve.name, "", curve.values, curve.intervals) for curve in curves]
    whole = [value for series in drawn for value in series.present()]
    low, high = value_range(whole, [], None)
    room = 34.0 + 6.8 * max(len(c.name) for c in curves)
    box = Box(560.0 + room, 380.0, left=58.0, right=room)
    axis = _At(box, [float(t) for t in TICKS], low, high)
    body = draw_axes(
        axis, TICKS, y_title, "relative depth (0 = embeddings, 1 = after the last block)"
    )
    ends, tips, words, points = [], [], [], []
    for number_, curve in enumerate(curves):
        kind = KINDS[number_ % len(KINDS)]
        plot = _At(box, curve.depths, low, high)
        body += draw_series(plot, Series(curve.name, kind, curve.values, curve.intervals), ())
        points.append(f'<g class="s-{kind}">')
        for i, value in enumerate(curve.values):
            if value is None:
                continue
            points.append(
                f'<circle class="point" data-k="{len(tips)}" cx="{px(plot.x(i))}" '
                f'cy="{px(plot.y(value))}" r="3.6"/>'
            )
            tips.append(
                [
                    f"{curve.name}, {curve.places[i]}",
                    number(value),
                    interval(curve.intervals[i]),
                ]
            )
        points.append("</g>")
        known = [(v, i) for i, v in enumerate(curve.values) if v is not None]
        if known:
            top, at = max(known)
            ends.append(Series(curve.name, kind, [None] * (len(TICKS) - 1) + [known[-1][0]]))
            words.append(
                f"{curve.name}: highest {number(top)} at {curve.places[at]}, "
                f"last {number(known[-1][0])}"
            )
    body += [*points, *draw_end_labels(axis, ends, (), 17.0)]
    data.setdefault("heats", {})[uid] = {"tips": tips, "metric": y_title}
    drawing = svg(
        box,
        body,
        title=title,
        desc="; ".join(words),
        uid=f"{uid}-svg",
        attrs=f' width="{px(box.width)}"',
    )
    caption = "Band: 95% interval. Layers are placed at their share of the model's depth."
    return Heat(uid, Markup(drawing), caption, label=title, key=False)
