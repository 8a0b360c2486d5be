"""Numbers in their order, largest first: a row each, with its interval and a word about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from markupsafe import Markup

from .axes import Scale, draw_names, draw_values_across, tick, upright_line, value_range
from .canvas import Box, px, svg
from .parts import Heat
from .schema import Interval
from .words import interval, signed

ROW = 22.0
PLOT = 300.0
LETTER = 6.4


@dataclass(frozen=True)
class Ranked:
    """One row.

    Args:
        is_clear: whether its point is filled, such as for a significant effect.
        note: what stands right of the plot.
    """

    name: str
    value: float
    ends: Interval | None = None
    is_clear: bool = False
    note: str = ""


def ranked(
    uid: str,
    rows: Sequence[Ranked],
    data: dict[str, Any],
    *,
    title: str,
    x_title: str,
    caption: str,
) -> Heat:
    """The rows by falling size of their value, around 0.

    Args:
        data: the page's data; ``heats`` gets what the pointer reads.
    """
    ordered = sorted(rows, key=lambda row: -abs(row.value))
    left = 16.0 + LETTER * max(len(row.name) for row in ordered)
    right = 16.0 + LETTER * max(len(row.note) for row in ordered)
    size = Box(left + PLOT + right, 34.0 + ROW * len(ordered) + 40.0, left, right, 14.0, 46.0)
    ends = [end for row in ordered if row.ends for end in (row.ends.low, row.ends.high)]
    low, high = value_range([0.0, *(row.value for row in ordered), *ends], [], None)
    across = Scale.across(size, low, high)
    body = [*draw_values_across(size, across), upright_line(size, across(0.0), "axis")]
    tips = []
    body.append('<g class="s-score">')
    for k, row in enumerate(ordered):
        middle = size.top + ROW * (k + 0.5)
        if row.ends is not None:
            line = f"M{px(across(row.ends.low))} {px(middle)}H{px(across(row.ends.high))}"
            body.append(f'<path class="bar" d="{line}"/>')
        kind = "best" if row.is_clear else "point"
        place = f'cx="{px(across(row.value))}" cy="{px(middle)}"'
        body.append(f'<circle class="{kind}" data-k="{k}" {place} r="4.4"/>')
        tips.append([row.name, signed(row.value), interval(row.ends)])
    body.append("</g>")
    for k, row in enumerate(ordered):
        middle = size.top + ROW * (k + 0.5) + 4
        body.append(tick(size.left - 8, middle, row.name, "end"))
        note = f'x="{px(size.x_end + 8)}" y="{px(middle)}"'
        body.append(f'<text class="name" {note}>{escape(row.note)}</text>')
    body += draw_names(size, "", x_title)
    data.setdefault("heats", {})[uid] = {"tips": tips, "metric": x_title}
    words = "; ".join(f"{row.name} {signed(row.value)}" for row in ordered)
    width = f' width="{px(size.width)}"'
    drawing = svg(size, body, title=title, desc=words, uid=f"{uid}-svg", attrs=width)
    return Heat(uid, Markup(drawing), caption, label=title, key=False)
