"""Axes of every picture: scales, ticks, grid lines, labels and the names of the axes.

Scale     values along one direction
Plot      positions 0 to n - 1 across, values upwards: curves
Cells     rows and columns of one size: grids
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from .canvas import Box, px
from .words import number

INSET = 26.0
"""Pixels at most in front of the first position and behind the last."""
SMALL_TICK = 1e-3
"""Ticks that are all below this are in scientific notation."""
TICK_ROOM = 48.0
"""Pixels between two ticks of an upright axis, about."""


def nice_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten) that span `low` to `high`."""
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return [low]
    raw = span / max(wanted, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    round_steps = [factor * power for factor in (1.0, 2.0, 2.5, 5.0, 10.0)]
    step = min(round_steps, key=lambda step: abs(math.log(step / raw)))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(f"{k * step:.10g}") for k in range(first, last + 1)]


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


def label_step(n: int, width: float, each: float) -> int:
    """Every how many layers a label fits: 1, 2, 5 or 10 (then tens of tens)."""
    for step in (1, 2, 5, 10, 20, 50, 100):
        if n <= 1 or width / (n - 1) * step >= each:
            return step
    return n


def shown_labels(labels: Sequence[str], width: float) -> list[int]:
    """Which positions are labelled: round block numbers, the first and the last, none colliding."""
    n = len(labels)
    longest = max((len(label) for label in labels), default=1)
    each = max(22.0, 6.6 * longest + 6.0)
    step = label_step(n, width, each)
    if step == 1:
        return list(range(n))
    # Positions that a label takes: nearer to an end it would touch the end's own.
    room = each * (n - 1) / width
    shown = [0, n - 1]
    for i, label in enumerate(labels):
        is_round = label.isdecimal() and int(label) % step == 0
        if is_round and i >= room and n - 1 - i >= room:
            shown.append(i)
    return sorted(shown)


@dataclass(frozen=True)
class Scale:
    """Values from ``low`` to ``high`` along one direction,
    between the pixels ``start`` and ``end``.
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of a value; what lies outside the range stays at its edge."""
        clipped = min(max(value, self.low), self.high)
        # no range: equal values, or values so large that their margin is lost in rounding
        share = (clipped - self.low) / ((self.high - self.low) or 1.0)
        return self.start + share * (self.end - self.start)

    @classmethod
    def across(cls, box: Box, low: float, high: float) -> Scale:
        """From the left edge of the plotting area to the right one."""
        return cls(low, high, box.left, box.x_end)

    @classmethod
    def upwards(cls, box: Box, low: float, high: float) -> Scale:
        """From the bottom of the plotting area to its top."""
        return cls(low, high, box.y_end, box.top)

    def ticks(self, wanted: int = 5) -> list[tuple[float, str]]:
        """Pixels and texts of round values."""
        values = nice_ticks(self.low, self.high, wanted)
        texts = tick_texts(values)
        return [(self(value), text) for value, text in zip(values, texts, strict=True)]


class Plot:
    """Scales of one drawing: positions 0 to n-1 across, values from low to high upwards."""

    def __init__(self, box: Box, n: int, low: float, high: float) -> None:
        self.box, self.n, self.low, self.high = box, n, low, high
        self.y = Scale.upwards(box, low, high)
        if n > 1:
            inset = min(INSET, (box.x_end - box.left) / (2 * n))
            self.x0 = box.left + inset
            self.dx = (box.x_end - inset - self.x0) / (n - 1)
        else:  # in the middle
            self.x0 = (box.left + box.x_end) / 2
            self.dx = 0.0

    def x(self, i: int | float) -> float:
        """Abscissa of position i."""
        return self.x0 + i * self.dx


@dataclass(frozen=True)
class Cells:
    """Rows and columns of cells of one size, the gap to the next one included."""

    left: float
    top: float
    width: float
    height: float
    n_rows: int
    n_columns: int

    @property
    def right(self) -> float:
        """Right edge of the last column."""
        return self.left + self.width * self.n_columns

    @property
    def bottom(self) -> float:
        """Lower edge of the last row."""
        return self.top + self.height * self.n_rows

    def x(self, column: int) -> float:
        """Left edge of a column."""
        return self.left + self.width * column

    def y(self, row: int) -> float:
        """Upper edge of a row."""
        return self.top + self.height * row

    def row_ticks(self, labels: Sequence[str], each: float = 14.0) -> list[str]:
        """Names left of the rows, as many as there is room for.

        Args:
            each: pixels that a name needs.
        """
        every = label_step(len(labels), self.height * len(labels), each)
        rows = range(0, len(labels), every)
        return [self.row_tick(row, labels[row]) for row in rows]

    def column_ticks(self, labels: Sequence[str], each: float = 20.0) -> list[str]:
        """Names under the columns, as many as there is room for."""
        every = label_step(len(labels), self.width * len(labels), each)
        columns = range(0, len(labels), every)
        return [self.column_tick(column, labels[column]) for column in columns]

    def row_tick(self, row: int, text: str) -> str:
        """The name of one row."""
        middle = self.y(row) + self.height / 2
        return tick(self.left - 6, middle + 3, text, "end")

    def column_tick(self, column: int, text: str) -> str:
        """The name of one column."""
        # Between two cells there is a pixel of paper.
        middle = self.x(column) + (self.width - 1) / 2
        return tick(middle, self.bottom + 14, text)

    def slanted_tick(self, column: int, text: str) -> str:
        """The name of one column, aslant, where names are longer than columns are wide."""
        x, y = px(self.x(column) + self.width / 2), px(self.bottom + 13)
        turned = f'transform="rotate(40 {x} {y})"'
        return f'<text class="tick" x="{x}" y="{y}" {turned}>{escape(text)}</text>'

    def columns_name(self, text: str) -> str:
        """What the columns are, under their ticks."""
        return tick((self.left + self.right) / 2, self.bottom + 28, text)


def tick_texts(ticks: Sequence[float]) -> list[str]:
    """Ticks with as many digits as their steps need; scientific notation where all are small.

    >>> tick_texts([0.0, 0.5, 1.0]), tick_texts([0.0, 100.0, 200.0])
    (['0.0', '0.5', '1.0'], ['0', '100', '200'])
    >>> tick_texts([-2e-5, 0.0, 2e-5]), tick_texts([0.5, 0.50002])
    (['−2.0e−05', '0', '2.0e−05'], ['0.50000', '0.50002'])
    """
    if 0 < max(map(abs, ticks), default=0) < SMALL_TICK:
        return [f"{tick:.1e}".replace("-", "−") if tick else "0" for tick in ticks]
    steps = [high - low for low, high in itertools.pairwise(ticks)] or list(ticks)
    digits = max((len(f"{step:.9f}".rstrip("0").partition(".")[2]) for step in steps), default=0)
    return [number(tick, digits) for tick in ticks]


# -- marks


def tick(x: float, y: float, text: str, anchor: str = "middle") -> str:
    """A label of an axis."""
    place = f'x="{px(x)}" y="{px(y)}" text-anchor="{anchor}"'
    return f'<text class="tick" {place}>{escape(text)}</text>'


def level_line(box: Box, y: float, kind: str = "grid") -> str:
    """A line across the plotting area; its kind is a class of the style sheet: grid, axis, line."""
    return f'<path class="{kind}" d="M{px(box.left)} {px(y)}H{px(box.x_end)}"/>'


def upright_line(box: Box, x: float, kind: str = "grid") -> str:
    """A line from the top of the plotting area to its bottom."""
    return f'<path class="{kind}" d="M{px(x)} {px(box.top)}V{px(box.y_end)}"/>'


def diagonal(across: Scale, upwards: Scale) -> str:
    """Where both values are equal."""
    low, high = max(across.low, upwards.low), min(across.high, upwards.high)
    start = f"M{px(across(low))} {px(upwards(low))}"
    return f'<path class="axis" d="{start}L{px(across(high))} {px(upwards(high))}"/>'


def draw_values(box: Box, scale: Scale, wanted: int = 5) -> list[str]:
    """Grid lines across, with their values left of the plotting area."""
    out = []
    for y, text in scale.ticks(wanted):
        out += [level_line(box, y), tick(box.left - 8, y + 4, text, "end")]
    return out


def draw_values_across(box: Box, scale: Scale, lines: bool = True) -> list[str]:
    """Values under the plotting area, perhaps with grid lines."""
    out = []
    for x, text in scale.ticks():
        if lines:
            out.append(upright_line(box, x))
        out.append(tick(x, box.y_end + 18, text))
    return out


def draw_positions(plot: Plot, labels: Sequence[str]) -> list[str]:
    """The axis of the positions with its labels."""
    box = plot.box
    out = [level_line(box, box.y_end, "axis")]
    for i in shown_labels(labels, plot.dx * max(plot.n - 1, 1)):
        x = plot.x(i)
        out.append(f'<path class="axis" d="M{px(x)} {px(box.y_end)}v4"/>')
        out.append(tick(x, box.y_end + 18, labels[i]))
    return out


def draw_names(box: Box, y_title: str, x_title: str) -> list[str]:
    """The names of the two axes: above the upright one, under the other."""
    out = []
    if y_title:
        out.append(f'<text class="name" x="0" y="{px(box.top - 15)}">{escape(y_title)}</text>')
    middle = (box.left + box.x_end) / 2
    under = f'x="{px(middle)}" y="{px(box.y_end + 35)}" text-anchor="middle"'
    return [*out, f'<text class="name" {under}>{escape(x_title)}</text>']


def draw_axes(plot: Plot, labels: Sequence[str], y_title: str, x_title: str) -> list[str]:
    """Horizontal grid with its numbers, labels of the positions, and the two axes' names."""
    height = plot.box.y_end - plot.box.top
    wanted = max(3, round(height / TICK_ROOM))
    values = draw_values(plot.box, plot.y, wanted)
    positions = draw_positions(plot, labels)
    return values + positions + draw_names(plot.box, y_title, x_title)
