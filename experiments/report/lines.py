"""Curves over the steps of a run or the layers of a model, wide and narrow,
with what the pointer reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from .axes import Plot, draw_axes, value_range
from .canvas import Box, svg
from .charts import Rule, Series, draw_cursor, draw_end_labels, draw_rule, draw_series
from .parts import Drawing
from .words import interval, number


def lines(
    uid: str,
    series: Sequence[Series],
    data: dict[str, Any],
    *,
    labels: Sequence[str],
    names: Sequence[str],
    title: str,
    y_title: str,
    x_title: str,
    caption: str,
    words: str,
    rules: Sequence[Rule] = (),
) -> Drawing:
    """One drawing of curves that share an axis.

    Args:
        series: the one that matters most last; it is drawn on top and read first.
        data: the page's data; ``charts`` gets what the pointer reads.
        labels, names: of the positions on the axis, short and in words.
    """
    series = [s for s in series if s.present()]
    low, high = value_range(
        [v for s in series for v in s.present()], [rule.value for rule in rules], None
    )

    def drawn(box: Box, size: str) -> Markup:
        plot = Plot(box, len(labels), low, high)
        body = draw_axes(plot, labels, y_title, x_title)
        body += [draw_rule(plot, rule) for rule in rules]
        for s in series:
            body += draw_series(plot, s, ())
        body += draw_end_labels(plot, list(reversed(series)), rules, 15.0)
        body.append(draw_cursor(box))
        scale = f' data-x0="{plot.x0:.3f}" data-dx="{plot.dx:.3f}"'
        return Markup(svg(box, body, title=title, desc=words, uid=f"{uid}-{size}", attrs=scale))

    data.setdefault("charts", {})[uid] = {
        "labels": list(labels),
        "names": list(names),
        "best": [],
        "series": [
            {
                "name": s.name,
                "kind": s.kind,
                "values": [
                    [number(v), interval(s.intervals[i]) if s.intervals else ""]
                    for i, v in enumerate(s.values)
                ],
            }
            for s in reversed(series)
        ],
    }
    room = 30.0 + 6.8 * max(
        len(text) for text in [*(s.name for s in series), *(f"{r.name} 0.000" for r in rules)]
    )
    wide, narrow = (
        Box(880.0, 320.0, left=58.0, right=room),
        Box(380.0, 280.0, left=52.0, right=room),
    )
    return Drawing(uid, drawn(wide, "wide"), caption, title, drawn(narrow, "narrow"))
