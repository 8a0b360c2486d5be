"""Two numbers of each part against each other: on one scale,
where they agree the points lie on the diagonal, or each on its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from .axes import Scale, diagonal, draw_names, draw_values, draw_values_across, value_range
from .canvas import Box, px, svg

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
    x, y = Scale.across(box, left, right), Scale.upwards(box, low, high)
    body = [*draw_values(box, y), *draw_values_across(box, x)]
    if one_scale:
        body.append(diagonal(x, y))
    body.append('<g class="s-score">')
    for k, (a, b) in enumerate(points):
        place = f'cx="{px(x(a))}" cy="{px(y(b))}"'
        body.append(f'<circle class="point" data-k="{k}" {place} r="3.4"/>')
    body.append("</g>")
    body += draw_names(box, y_title, x_title)
    return svg(box, body, title=title, desc=desc, uid=f"{uid}-svg", attrs=f' width="{px(SIDE)}"')
