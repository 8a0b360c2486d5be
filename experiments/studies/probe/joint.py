"""All properties of a study in one picture: curves of a few, a grid of many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from ...report.axes import Cells
from ...report.canvas import Box, px, rect, svg
from ...report.charts import Series
from ...report.lines import lines
from ...report.parts import Heat, Picture
from ...report.words import interval, number
from .curves import Profile

KINDS = ("score", "control", "f1", "random", "major")
"""Colours of curves, in the order in which properties get them."""
ROW, GAP = 22.0, 1.0
WIDEST = 26.0
"""Pixels of the widest cell."""
ROOM = 620.0
"""Pixels that all columns of a grid share."""
LETTERS = 26
"""Letters of a property's name that fit beside its row."""
LOWEST = -0.5
"""The lowest R² that does not flatten the other curves."""


def joint_pictures(profiles: Sequence[Profile], data: dict[str, Any]) -> list[Picture | Heat]:
    """The score of every property over the layers in one picture, or where metrics have no common
    scale in one for each.

    Args:
        data: the page's data, which gets what the pointer reads.
    """
    groups: dict[str, list[Profile]] = {}
    for profile in profiles:
        groups.setdefault(profile.metric, []).append(profile)
    lowest = min(record.score for profile in profiles for record in profile.records)
    # An accuracy and an R² that is not far below 0 are both read on a scale to 1.
    if lowest > LOWEST:
        groups = {", ".join(groups): list(profiles)}
    pictures: list[Picture | Heat] = []
    for number_, (metric, of_metric) in enumerate(groups.items()):
        draw = _curves if len(of_metric) <= len(KINDS) else _grid
        pictures.append(draw(f"joint-{number_}", metric, of_metric, data))
    return pictures


def _labels(profiles: Sequence[Profile]) -> list[str]:
    """The layers of all profiles, shallowest first."""
    layers = {}
    for profile in profiles:
        for record, label in zip(profile.records, profile.labels, strict=True):
            layers[label] = record.layer
    return sorted(layers, key=lambda label: layers[label])


def _places(profile: Profile) -> dict[str, int]:
    """From a layer's label to its place in the profile."""
    return {label: place for place, label in enumerate(profile.labels)}


def _curves(uid: str, metric: str, profiles: Sequence[Profile], data: dict[str, Any]) -> Picture:
    labels = _labels(profiles)
    series, words = [], []
    for kind, profile in zip(KINDS, profiles, strict=False):
        scores, ends, places = profile.column("score"), profile.intervals("score"), _places(profile)
        values = [scores[places[label]] if label in places else None for label in labels]
        spans = [ends[places[label]] if label in places else None for label in labels]
        series.append(Series(profile.title, kind, values, spans, points=True))
        words.append(profile.headline)
    drawing = lines(
        uid,
        list(reversed(series)),
        data,
        labels=labels,
        names=[f"layer {label}" for label in labels],
        title=f"{metric} of every property by layer",
        y_title=f"{metric} on the test split",
        x_title="layer (emb = embedding, k = after block k)",
        caption="Bands: 95% intervals over sentences.",
        words="; ".join(words),
    )
    return Picture([drawing])


def _grid(uid: str, metric: str, profiles: Sequence[Profile], data: dict[str, Any]) -> Heat:
    labels = _labels(profiles)
    # Shallow properties first, so that depth is read down the page.
    ordered = sorted(profiles, key=lambda profile: (profile.top, profile.title))
    scores = [
        score for profile in ordered for score in profile.column("score") if score is not None
    ]
    low, high = max(0.0, min(scores)), max(scores)
    names = [_short(profile.title) for profile in ordered]
    left = 14.0 + 6.4 * max(len(name) for name in names)
    grid = Cells(left, 6.0, min(WIDEST, ROOM / len(labels)), ROW, len(ordered), len(labels))
    body, tips = [], []
    for row, profile in enumerate(ordered):
        places = _places(profile)
        for column, label in enumerate(labels):
            if label not in places:
                continue
            record = profile.records[places[label]]
            share = (record.score - low) / ((high - low) or 1.0)
            opacity = min(1.0, max(0.04, share))
            outline = " m-clear" if record.best else ""
            style = f'class="m-up4{outline}" fill-opacity="{opacity:.2f}" data-k="{len(tips)}"'
            x, y = grid.x(column), grid.y(row)
            body.append(rect(style, x, y, grid.width - GAP, ROW - GAP))
            name = f"{profile.title}, layer {label}"
            tips.append([name, number(record.score), interval(record.score_interval)])
    body += [grid.row_tick(row, name) for row, name in enumerate(names)]
    body += [*grid.column_ticks(labels, each=24.0), grid.columns_name("layer")]
    data.setdefault("heats", {})[uid] = {"metric": metric, "tips": tips}
    caption = (
        f"{metric[0].upper()}{metric[1:]} of every property (rows, those that peak early "
        "first) at every layer (columns; emb = embedding). The palest cell is "
        f"{number(low, 2)}, the darkest {number(high, 2)}. "
        "Outlined layers are not significantly worse than the best."
    )
    box = Box(grid.right + 8, grid.bottom + 34)
    title = f"{metric} of every property by layer"
    width = f' width="{px(box.width)}"'
    drawing = svg(box, body, title=title, desc=caption, uid=f"{uid}-svg", attrs=width)
    return Heat(uid, Markup(drawing), caption, label="All properties by layer", key=False)


def _short(name: str) -> str:
    return name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…"
