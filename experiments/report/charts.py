"""Curves, drawn by small functions: no library, no network, a few kilobytes each.

`canvas` has the paper, `axes` what stands around the curves. Everything that is text passes through
`escape`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from .axes import Plot, level_line
from .canvas import Box, px, rect
from .schema import Interval
from .words import number

Values = Sequence[float | None]
POINT_ROOM = 7.0
"""Room between two positions below which a line has no points: they would be one on the other."""
DENSE = 14.0
"""Room between two positions below which points are small."""
LONE_HALF = 24.0
"""Half the width of the column behind the best layer, where there is only one."""
LETTER = 6.2
"""About how wide a letter of a note is."""


@dataclass(frozen=True)
class Series:
    """One curve over the layers; `kind` names its colour in the style sheet."""

    name: str
    kind: str
    values: Values
    intervals: Sequence[Interval | None] = ()
    points: bool = False

    def present(self) -> list[float]:
        """Every number that the drawing of this curve has to show."""
        ends = [end for one in self.intervals if one for end in (one.low, one.high)]
        return [value for value in self.values if value is not None] + ends


@dataclass(frozen=True)
class Rule:
    """A baseline that does not depend on the layer: one horizontal line."""

    name: str
    kind: str
    value: float


def polyline(points: Sequence[tuple[float, float]], grain: int = 1) -> str:
    """A path through the points, each drawn from the one before: equal steps make a text that
    compresses well.

    Points are rounded before they are subtracted, so that the path does not drift.

    Args:
        grain: tenths of a pixel to which they are rounded.
    """
    tenths = []
    for x, y in points:
        tenths.append((round(10 * x), grain * round(10 * y / grain)))
    steps = []
    for (from_x, from_y), (to_x, to_y) in itertools.pairwise(tenths):
        right, down = to_x - from_x, to_y - from_y
        steps.append(f"{px(right / 10)} {px(down / 10)}")
    x, y = tenths[0]
    return f"M{px(x / 10)} {px(y / 10)}l{' '.join(steps)}"


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions as near to `wanted` as a distance of `gap` between neighbours allows.

    Neighbours that collide are pooled and centred on the mean of what they want (the pool
    adjacent violators of isotonic regression on `wanted - k * gap`).
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    pools: list[tuple[float, int]] = []  # mean and size
    for k, i in enumerate(order):
        mean, size = wanted[i] - k * gap, 1
        while pools and pools[-1][0] > mean:
            other_mean, other_size = pools.pop()
            both = other_size + size
            mean = (other_mean * other_size + mean * size) / both
            size = both
        pools.append((mean, size))
    starts = [mean for mean, size in pools for _ in range(size)]
    # The last one still has to have room below the others.
    highest_start = max(low, high - (len(wanted) - 1) * gap)
    placed = [0.0] * len(wanted)
    for k, i in enumerate(order):
        start = min(max(starts[k], low), highest_start)
        placed[i] = start + k * gap
    return placed


def stretches(values: Sequence[object | None]) -> list[list[int]]:
    """Maximal runs of positions that have a value: a missing one breaks the line."""
    out: list[list[int]] = []
    for i, value in enumerate(values):
        if value is None:
            continue
        if out and out[-1][-1] == i - 1:
            out[-1].append(i)
        else:
            out.append([i])
    return out


def draw_series(plot: Plot, series: Series, best: Sequence[int]) -> list[str]:
    """Interval as a band (as a bar where a point stands alone), line, points; best ones filled."""
    # Where points are dense, half a pixel is enough.
    grain = 1 if plot.dx >= POINT_ROOM or plot.n == 1 else 5
    out = [f'<g class="s-{series.kind}">']
    for run in stretches(series.intervals):
        out.append(_band(plot, series.intervals, run, grain))
    for run in stretches(series.values):
        dots = [(plot.x(i), plot.y(v)) for i in run if (v := series.values[i]) is not None]
        if len(run) > 1:
            out.append(f'<path class="line" d="{polyline(dots, grain)}"/>')
        is_alone = len(run) == 1
        for i, (x, y) in zip(run, dots, strict=True):
            out += _point(plot, x, y, i in best, series.points, is_alone)
    return [*out, "</g>"]


def _band(plot: Plot, intervals: Sequence[Interval | None], run: Sequence[int], grain: int) -> str:
    """The intervals of neighbours as one area; of a point that stands alone as a bar."""
    ends = [(plot.x(i), one) for i in run if (one := intervals[i])]
    lows = [(x, plot.y(one.low)) for x, one in ends]
    highs = [(x, plot.y(one.high)) for x, one in ends]
    if len(run) == 1:
        (x, bottom), (_, top) = lows[0], highs[0]
        return f'<path class="bar" d="M{px(x)} {px(bottom)}V{px(top)}"/>'
    edge = polyline([*highs, *reversed(lows)], grain)
    return f'<path class="band" d="{edge}z"/>'


def _point(
    plot: Plot, x: float, y: float, is_best: bool, has_points: bool, is_alone: bool
) -> list[str]:
    """A point's mark: the best ones filled, the others where there is room; one alone always."""
    is_dense = plot.dx < DENSE and plot.n > 1
    place = f'cx="{px(x)}" cy="{px(y)}"'
    if is_best and has_points:
        return [f'<circle class="best" {place} r="{4.2 if is_dense else 5.2}"/>']
    has_room = plot.dx >= POINT_ROOM or plot.n == 1
    if (has_points and has_room) or is_alone:
        return [f'<circle class="point" {place} r="{2.6 if is_dense else 3.4}"/>']
    return []


def draw_rule(plot: Plot, rule: Rule) -> str:
    """A baseline across the whole plot."""
    return f'<g class="s-{rule.kind}">{level_line(plot.box, plot.y(rule.value), "line")}</g>'


def draw_cursor(box: Box) -> str:
    """The line that follows the pointer; the page's script moves it."""
    return f'<path class="cursor" d="M0 {px(box.top)}V{px(box.y_end)}"/>'


def draw_best(plot: Plot, best: Sequence[int], text: str) -> list[str]:
    """A quiet column behind each best layer, named once at the top."""
    box = plot.box
    half = plot.dx / 2 if plot.n > 1 else LONE_HALF
    is_best = [True if i in best else None for i in range(plot.n)]
    out: list[str] = []
    for run in stretches(is_best):
        left = max(plot.x(run[0]) - half, box.left)
        right = min(plot.x(run[-1]) + half, box.x_end)
        height = box.y_end - box.top
        out.append(rect('class="choice"', left, box.top, right - left, height))
    if best and text:
        half_text = LETTER / 2 * len(text)
        middle = (plot.x(best[0]) + plot.x(best[-1])) / 2
        # The name stays inside the plot.
        middle = min(max(middle, box.left + half_text), box.x_end - half_text)
        place = f'x="{px(middle)}" y="{px(box.top - 5)}" text-anchor="middle"'
        out.append(f'<text class="note" {place}>{escape(text)}</text>')
    return out


def end_of(series: Series) -> tuple[int, float] | None:
    """Last position that has a value, and the value."""
    last = [(i, v) for i, v in enumerate(series.values) if v is not None]
    return last[-1] if last else None


def draw_end_labels(
    plot: Plot, series: Sequence[Series], rules: Sequence[Rule], gap: float
) -> list[str]:
    """Names at the right end of their lines, moved apart where they would collide."""
    box = plot.box
    entries: list[tuple[float, float, str, str]] = []  # end of the line, kind, name
    for one in series:
        if (end := end_of(one)) is not None:
            last, value = end
            entries.append((plot.x(last), plot.y(value), one.kind, one.name))
    for rule in rules:
        below = " ↓" if rule.value < plot.low else ""
        name = f"{rule.name} {number(rule.value)}{below}"
        entries.append((box.x_end, plot.y(rule.value), rule.kind, name))
    wanted = [y for _, y, _, _ in entries]
    placed = spread(wanted, gap, box.top + 4, box.y_end)
    out: list[str] = []
    for (x, y, kind, name), at in zip(entries, placed, strict=True):
        out += _end_label(box, x, y, kind, name, at)
    return out


def _end_label(box: Box, x: float, y: float, kind: str, name: str, at: float) -> list[str]:
    """A name at the height ``at``, and what leads to it from the end of its line."""
    start = box.x_end + 16
    # A line that ends before the plot does is followed to its edge first.
    to_edge = f"H{px(box.x_end)}" if x < box.x_end - 1 else ""
    leader = f"M{px(x + 7)} {px(y)}{to_edge}L{px(start - 3)} {px(at)}"
    place = f'x="{px(start)}" y="{px(at + 4)}"'
    return [
        f'<g class="s-{kind}"><path class="leader" d="{leader}"/>',
        f'<text class="label" {place}>{escape(name)}</text></g>',
    ]


def draw_legend(box: Box, series: Sequence[Series], rules: Sequence[Rule], top: float) -> list[str]:
    """Names under the plot, two abreast: for drawings too narrow for names at the lines' ends."""
    entries = [(s.kind, s.name) for s in series]
    entries += [(r.kind, f"{r.name} {number(r.value)}") for r in rules]
    out: list[str] = []
    for k, (kind, text) in enumerate(entries):
        x = 2.0 if k % 2 == 0 else box.width / 2 + 2
        y = top + 20 * (k // 2)
        out.append(f'<g class="s-{kind}"><path class="line" d="M{px(x)} {px(y)}h20"/>')
        out.append(
            f'<text class="label" x="{px(x + 26)}" y="{px(y + 4)}">{escape(text)}</text></g>'
        )
    return out


def sparkline(
    values: Sequence[float | None], best: Sequence[int], *, dot: int | None = None
) -> str:
    """A curve the size of a word, for a table's cell; decoration only, next to its numbers."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, high = (min(known), max(known)) if dot is None else (0.0, 1.0)
    box = Box(96.0, 24.0, left=2.0, right=2.0, top=4.0, bottom=4.0)
    plot = Plot(box, len(values), low, high if high > low else low + 1.0)
    plot.x0 = 4.0
    plot.dx = 88.0 / (len(values) - 1) if len(values) > 1 else 0.0
    line = "".join(draw_series(plot, Series("", "score", values), ()))
    dots = ""
    for i in best if dot is None else [dot]:
        value = values[i]
        if value is not None:
            place = f'cx="{px(plot.x(i))}" cy="{px(plot.y(value))}"'
            dots += f'<circle class="dot" {place} r="2.4"/>'
    return f'<svg class="spark" viewBox="0 0 96 24" aria-hidden="true">{line}{dots}</svg>'
