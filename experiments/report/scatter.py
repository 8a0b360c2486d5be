"""Two numbers of each part against each other: on one scale, where they agree the points lie on the diagonal, or each on its own."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from .charts import Box, Plot, nice_ticks, px, svg, tick_texts, value_range

SIDE = 360.0  # what a telephone is wide


def scatter(
    points: Sequence[tuple[float, float]],
    *,
    uid: str,
    title: str,
    desc: str,
    x_title: str,
    y_title: str,
    one_scale: bool = True,
) -> str:
    """The drawing; point k bears ``data-k``, by which the page's script knows it."""
    across, up = [a for a, _ in points], [b for _, b in points]
    low, high = value_range([*across, *up] if one_scale else up, [], None)
    left, right = (low, high) if one_scale else value_range(across, [], None)
    box = Box(SIDE, SIDE, left=56.0)
    plot = Plot(box, 2, low, high)

    def x(value: float) -> float:
        return box.left + (value - left) / (right - left) * (box.x_end - box.left)

    body = []
    for tick, text in _ticks(low, high):
        body.append(f'<path class="grid" d="M{px(box.left)} {px(plot.y(tick))}H{px(box.x_end)}"/>')
        body.append(
            f'<text class="tick" x="{px(box.left - 8)}" y="{px(plot.y(tick) + 4)}" text-anchor="end">'
        )
        body.append(f"{text}</text>")
    for tick, text in _ticks(left, right):
        body.append(f'<path class="grid" d="M{px(x(tick))} {px(box.top)}V{px(box.y_end)}"/>')
        body.append(
            f'<text class="tick" x="{px(x(tick))}" y="{px(box.y_end + 18)}" text-anchor="middle">'
        )
        body.append(f"{text}</text>")
    if one_scale:
        body.append(
            f'<path class="axis" d="M{px(x(low))} {px(plot.y(low))}L{px(x(high))} {px(plot.y(high))}"/>'
        )
    body.append('<g class="s-score">')
    for k, (a, b) in enumerate(points):
        body.append(
            f'<circle class="point" data-k="{k}" cx="{px(x(a))}" cy="{px(plot.y(b))}" r="3.4"/>'
        )
    body.append("</g>")
    body.append(f'<text class="name" x="0" y="{px(box.top - 15)}">{escape(y_title)}</text>')
    middle = px((box.left + box.x_end) / 2)
    body.append(
        f'<text class="name" x="{middle}" y="{px(box.y_end + 35)}" text-anchor="middle">{escape(x_title)}</text>'
    )
    return svg(box, body, title=title, desc=desc, uid=f"{uid}-svg", attrs=f' width="{px(SIDE)}"')


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    ticks = nice_ticks(low, high)
    return list(zip(ticks, tick_texts(ticks), strict=True))
