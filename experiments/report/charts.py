"""Inline SVG for the report, drawn by small functions: no library, no network, a few kilobytes each.

Colours come from style sheets through classes, so that one drawing serves light, dark and paper.
Everything that is text passes through `escape`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from .schema import Interval
from .words import number

Values = Sequence[float | None]
POINT_ROOM = 7.0
"""Room between two positions below which a line has no points: they would be one on the other."""


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


@dataclass(frozen=True)
class Box:
    """The drawing's size and margins, in the units of its viewBox."""

    width: float
    height: float
    left: float = 46.0
    right: float = 14.0
    top: float = 30.0
    bottom: float = 40.0

    @property
    def x_end(self) -> float:
        """Right edge of the plotting area."""
        return self.width - self.right

    @property
    def y_end(self) -> float:
        """Bottom edge of the plotting area."""
        return self.height - self.bottom


def px(value: float) -> str:
    """A coordinate with at most one decimal."""
    return f"{value:.1f}".removesuffix(".0")


def polyline(points: Sequence[tuple[float, float]], grain: int = 1) -> str:
    """A path through the points, each drawn from the one before: equal steps make a text that compresses well.

    Points are rounded before they are subtracted, so that the path does not drift.

    Args:
        grain: tenths of a pixel to which they are rounded.
    """
    tenths = [(round(10 * x), grain * round(10 * y / grain)) for x, y in points]
    (x, y), *_ = tenths
    steps = [
        f"{px((to_x - from_x) / 10)} {px((to_y - from_y) / 10)}"
        for (from_x, from_y), (to_x, to_y) in itertools.pairwise(tenths)
    ]
    return f"M{px(x / 10)} {px(y / 10)}l{' '.join(steps)}"


def nice_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten) that span `low` to `high`."""
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return [low]
    raw = span / max(wanted, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = min(
        (m * power for m in (1.0, 2.0, 2.5, 5.0, 10.0)), key=lambda s: abs(math.log(s / raw))
    )
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(k * step, 10) for k in range(first, last + 1)]


def value_range(
    main: Sequence[float], others: Sequence[float], ceiling: float | None
) -> tuple[float, float]:
    """The y range: all of `main`, and of `others` as long as they do not flatten it.

    A baseline can be arbitrarily bad (an r2 of minus 40); what lies more than three times the
    main curves' own span, and at least 1.0, beneath them is left outside and drawn at the edge.
    """
    if not main and not others:
        return 0.0, 1.0
    main = main or others
    span = max(main) - min(main)
    floor = min(main) - max(1.0, 3.0 * span)
    kept = [*main, *(v for v in others if v >= floor)]
    low, high = min(kept), max(kept)
    pad = max((high - low) * 0.06, 0.004)
    low = 0.0 if 0.0 <= low < 0.12 * high else low - pad
    top = high + pad
    return low, top if ceiling is None else min(top, max(ceiling, high))


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions as near to `wanted` as a distance of `gap` between neighbours allows.

    Neighbours that collide are pooled and centred on the mean of what they want (the pool
    adjacent violators of isotonic regression on `wanted - k * gap`).
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    blocks: list[tuple[float, int]] = []
    for k, i in enumerate(order):
        mean, size = wanted[i] - k * gap, 1
        while blocks and blocks[-1][0] > mean:
            before, n = blocks.pop()
            mean, size = (before * n + mean * size) / (n + size), n + size
        blocks.append((mean, size))
    flat = [mean for mean, size in blocks for _ in range(size)]
    room = max(low, high - (len(wanted) - 1) * gap)
    out = [0.0] * len(wanted)
    for k, i in enumerate(order):
        out[i] = min(max(flat[k], low), room) + k * gap
    return out


def label_step(n: int, width: float, each: float) -> int:
    """Every how many layers a label fits: 1, 2, 5 or 10 (then tens of tens)."""
    for step in (1, 2, 5, 10, 20, 50, 100):
        if n <= 1 or width / (n - 1) * step >= each:
            return step
    return n


def shown_labels(labels: Sequence[str], width: float) -> list[int]:
    """Which positions are labelled: round block numbers, the first and the last, none colliding."""
    n = len(labels)
    each = max(22.0, 6.6 * max((len(label) for label in labels), default=1) + 6.0)
    step = label_step(n, width, each)
    if step == 1:
        return list(range(n))
    near = each * (n - 1) / width
    ends = {0, n - 1}
    middle = {i for i, label in enumerate(labels) if label.isdigit() and int(label) % step == 0}
    return sorted(ends | {i for i in middle if all(abs(i - end) >= near for end in ends)})


class Plot:
    """Scales of one drawing: positions 0 to n-1 across, values from low to high upwards."""

    def __init__(self, box: Box, n: int, low: float, high: float) -> None:
        self.box, self.n, self.low, self.high = box, n, low, high
        inset = min(26.0, (box.x_end - box.left) / (2 * max(n, 1)))
        self.x0 = box.left + inset if n > 1 else (box.left + box.x_end) / 2
        self.dx = (box.x_end - inset - self.x0) / (n - 1) if n > 1 else 0.0

    def x(self, i: int | float) -> float:
        """Abscissa of position i."""
        return self.x0 + i * self.dx

    def y(self, value: float) -> float:
        """Ordinate of a value; what lies outside the range stays at its edge."""
        clipped = min(max(value, self.low), self.high)
        # no range: equal values, or values so large that their margin is lost in rounding
        share = (clipped - self.low) / ((self.high - self.low) or 1.0)
        return self.box.y_end - share * (self.box.y_end - self.box.top)


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


def tick_texts(ticks: Sequence[float]) -> list[str]:
    """Ticks with as many digits as their steps need."""
    steps = [b - a for a, b in itertools.pairwise(ticks)] or [0.1]
    digits = max(1, min(4, max(len(f"{s:.4f}".rstrip("0").split(".")[1]) for s in steps)))
    return [number(tick, digits) for tick in ticks]


def draw_axes(plot: Plot, labels: Sequence[str], y_title: str, x_title: str) -> list[str]:
    """Horizontal grid with its numbers, layer labels, and the two axes' names."""
    box = plot.box
    room = box.y_end - box.top
    ticks = nice_ticks(plot.low, plot.high, max(3, round(room / 48)))
    out: list[str] = []
    for tick, text in zip(ticks, tick_texts(ticks), strict=True):
        y = plot.y(tick)
        out.append(f'<path class="grid" d="M{px(box.left)} {px(y)}H{px(box.x_end)}"/>')
        out.append(f'<text class="tick" x="{px(box.left - 8)}" y="{px(y + 4)}" text-anchor="end">')
        out.append(f"{text}</text>")
    out.append(f'<path class="axis" d="M{px(box.left)} {px(box.y_end)}H{px(box.x_end)}"/>')
    for i in shown_labels(labels, plot.dx * max(plot.n - 1, 1)):
        x = px(plot.x(i))
        out.append(f'<path class="axis" d="M{x} {px(box.y_end)}v4"/>')
        out.append(f'<text class="tick" x="{x}" y="{px(box.y_end + 18)}" text-anchor="middle">')
        out.append(f"{escape(labels[i])}</text>")
    out.append(f'<text class="name" x="0" y="{px(box.top - 15)}">{escape(y_title)}</text>')
    out.append(f'<text class="name" x="{px((box.left + box.x_end) / 2)}" ')
    out.append(f'y="{px(box.y_end + 35)}" text-anchor="middle">{escape(x_title)}</text>')
    return out


def draw_series(plot: Plot, series: Series, best: Sequence[int]) -> list[str]:
    """Interval as a band (as a bar where a point stands alone), line, points; best ones filled."""
    out = [f'<g class="s-{series.kind}">']
    grain = 1 if plot.dx >= POINT_ROOM or plot.n == 1 else 5
    for run in stretches(series.intervals):
        ends = [(plot.x(i), one) for i in run if (one := series.intervals[i])]
        lows = [(x, plot.y(one.low)) for x, one in ends]
        highs = [(x, plot.y(one.high)) for x, one in ends]
        if len(run) == 1:
            (x, bottom), (_, top) = lows[0], highs[0]
            out.append(f'<path class="bar" d="M{px(x)} {px(bottom)}V{px(top)}"/>')
        else:
            edge = polyline([*highs, *reversed(lows)], grain)
            out.append(f'<path class="band" d="{edge}z"/>')
    for run in stretches(series.values):
        dots = [(plot.x(i), plot.y(v)) for i in run if (v := series.values[i]) is not None]
        if len(run) > 1:
            out.append(f'<path class="line" d="{polyline(dots, grain)}"/>')
        small = plot.dx < 14 and plot.n > 1
        for i, (x, y) in zip(run, dots, strict=True):
            if i in best and series.points:
                out.append(
                    f'<circle class="best" cx="{px(x)}" cy="{px(y)}" r="{4.2 if small else 5.2}"/>'
                )
            elif (series.points and (plot.dx >= POINT_ROOM or plot.n == 1)) or len(run) == 1:
                out.append(
                    f'<circle class="point" cx="{px(x)}" cy="{px(y)}" r="{2.6 if small else 3.4}"/>'
                )
    out.append("</g>")
    return out


def draw_best(plot: Plot, best: Sequence[int], text: str) -> list[str]:
    """A quiet column behind each best layer, named once at the top."""
    half = plot.dx / 2 if plot.n > 1 else 24.0
    box = plot.box
    out: list[str] = []
    for run in stretches([1.0 if i in best else None for i in range(plot.n)]):
        left = max(plot.x(run[0]) - half, box.left)
        right = min(plot.x(run[-1]) + half, box.x_end)
        out.append(f'<rect class="choice" x="{px(left)}" y="{px(box.top)}" ')
        out.append(f'width="{px(right - left)}" height="{px(box.y_end - box.top)}"/>')
    if best and text:
        middle = plot.x(best[0] + (best[-1] - best[0]) / 2)
        half_text = 3.1 * len(text)
        middle = min(max(middle, box.left + half_text), box.x_end - half_text)
        out.append(f'<text class="note" x="{px(middle)}" y="{px(box.top - 5)}" ')
        out.append(f'text-anchor="middle">{escape(text)}</text>')
    return out


def end_of(series: Series) -> tuple[int, float] | None:
    """Last position that has a value, and the value."""
    last = [(i, v) for i, v in enumerate(series.values) if v is not None]
    return last[-1] if last else None


def draw_end_labels(
    plot: Plot, series: Sequence[Series], rules: Sequence[Rule], gap: float
) -> list[str]:
    """Names at the right end of their lines, moved apart where they would collide."""
    entries: list[tuple[float, float, str, str]] = []
    for s in series:
        if (end := end_of(s)) is not None:
            entries.append((plot.x(end[0]), plot.y(end[1]), s.kind, s.name))
    for r in rules:
        edge = " ↓" if r.value < plot.low else ""
        text = f"{r.name} {number(r.value)}{edge}"
        entries.append((plot.box.x_end, plot.y(r.value), r.kind, text))
    ys = spread([e[1] for e in entries], gap, plot.box.top + 4, plot.box.y_end)
    start = plot.box.x_end + 16
    out: list[str] = []
    for (x, y, kind, text), at in zip(entries, ys, strict=True):
        out.append(f'<g class="s-{kind}"><path class="leader" d="M{px(x + 7)} {px(y)}')
        if x < plot.box.x_end - 1:
            out.append(f"H{px(plot.box.x_end)}")
        out.append(f'L{px(start - 3)} {px(at)}"/><text class="label" x="{px(start)}" ')
        out.append(f'y="{px(at + 4)}">{escape(text)}</text></g>')
    return out


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


def svg(box: Box, body: Sequence[str], *, title: str, desc: str, uid: str, attrs: str = "") -> str:
    """The drawing with its text alternative: title and description, read out as one image."""
    return (
        f'<svg role="img" viewBox="0 0 {px(box.width)} {px(box.height)}" aria-labelledby="{uid}-t {uid}-d"'
        f'{attrs}><title id="{uid}-t">{escape(title)}</title><desc id="{uid}-d">{escape(desc)}</desc>'
        f"{''.join(body)}</svg>"
    )


def sparkline(
    values: Sequence[float | None], best: Sequence[int], *, dot: int | None = None
) -> str:
    """A curve the size of a word, for a table's cell; decoration only, the numbers stand beside it."""
    known = [v for v in values if v is not None]
    if not known:
        return ""
    low, high = (0.0, 1.0) if dot is not None else (min(known), max(known))
    box = Box(96.0, 24.0, left=2.0, right=2.0, top=4.0, bottom=4.0)
    plot = Plot(box, len(values), low, high if high > low else low + 1.0)
    plot.x0, plot.dx = 4.0, 88.0 / (len(values) - 1) if len(values) > 1 else 0.0
    line = draw_series(plot, Series("", "score", values, points=False), ())
    marks = [i for i in ([dot] if dot is not None else best) if values[i] is not None]
    dots = "".join(
        f'<circle class="dot" cx="{px(plot.x(i))}" cy="{px(plot.y(values[i] or 0.0))}" r="2.4"/>'
        for i in marks
    )
    inner = "".join(line)
    return f'<svg class="spark" viewBox="0 0 96 24" aria-hidden="true">{inner}{dots}</svg>'
