"""A grid of readings: a row for each layer, a column for each token,
in each cell the likeliest next token.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from html import escape
from typing import Any

from markupsafe import Markup

from ...report.axes import Cells
from ...report.canvas import Box, px, rect, svg
from ...report.parts import Heat
from ...report.words import layer_label, number
from .records import ReadingRecord

PROBABILITIES = (0.05, 0.2, 0.4, 0.7)
"""From which on a cell is a shade deeper."""
RANKS = (1, 5, 20, 100)
"""Ranks from which on a cell is a shade lighter; 0 is the likeliest token."""
WIDTH, HEIGHT = 62.0, 19.0
LEFT, TOP = 40.0, 8.0
"""Where the cells begin."""
LETTERS = 8
"""Of a token in its cell."""


def _by_probability(record: ReadingRecord) -> int:
    """0 to 4, by the likeliest token."""
    return bisect_right(PROBABILITIES, record.top[0].probability)


def _by_target(record: ReadingRecord) -> int:
    """0 to 4, by the target's probability."""
    return bisect_right(PROBABILITIES, record.target_probability or 0.0)


def _by_rank(record: ReadingRecord) -> int:
    """0 to 4, deepest where the target is the likeliest."""
    rank = record.target_rank
    return 0 if rank is None else len(RANKS) - bisect_right(RANKS, rank)


SHADES = {
    "rank of the target": _by_rank,
    "probability of the target": _by_target,
    "probability of the most likely token": _by_probability,
}


def reading_grid(
    records: Sequence[ReadingRecord],
    tokens: Sequence[str],
    uid: str,
    title: str,
    data: dict[str, Any],
    *,
    follows_target: bool,
) -> Heat:
    """The grid of one text under one lens; a click on a cell lists the ten likeliest tokens.

    Args:
        data: the page's data; ``heats`` gets what the pointer reads, the lists and the shades.
        follows_target: whether the cells can be shaded by the target.
    """
    paints = [name for name in SHADES if follows_target or "target" not in name]
    shades = [[SHADES[name](record) for record in records] for name in paints]
    data["heats"][uid] = {
        "tips": [_tip(record) for record in records],
        "metric": "next token",
        "lists": [_list(record) for record in records],
        "shades": shades,
    }
    layers = sorted({record.layer for record in records}, reverse=True)
    grid = Cells(LEFT, TOP, WIDTH, HEIGHT, len(layers), len(tokens))
    box = Box(grid.right + 6, grid.bottom + 26)
    body: list[str] = []
    for k, (record, shade) in enumerate(zip(records, shades[0], strict=True)):
        x, y = grid.x(record.position), grid.y(layers.index(record.layer))
        body += _cell(k, record.top[0].token, x, y, shade)
    body += grid.row_ticks([layer_label(layer) for layer in layers], each=HEIGHT)
    body += grid.column_ticks([_short(token) for token in tokens], each=WIDTH)
    words = (
        "The most likely next token after each token, at each layer. Darker cells are more "
        "probable. For the rank of the target, the darkest cells are rank 1 and grey ones "
        "are beyond rank 100. Click a cell for its ten most likely tokens."
    )
    drawing = svg(
        box, body, title=title, desc=words, uid=f"{uid}-svg", attrs=f' width="{px(box.width)}"'
    )
    return Heat(uid, Markup(drawing), words, lists=True, paints=paints, label=title, key=False)


def _short(token: str) -> str:
    """A token, cut to its cell."""
    return token if len(token) <= LETTERS else f"{token[: LETTERS - 1]}…"


def _cell(k: int, token: str, x: float, y: float, shade: int) -> list[str]:
    """One cell and its token."""
    kind, on = (f"up{shade}", f" m-on{shade}") if shade else ("even", "")
    middle = f'x="{px(x + WIDTH / 2)}" y="{px(y + HEIGHT / 2 + 3)}"'
    return [
        rect(f'class="m-{kind}" data-k="{k}"', x, y, WIDTH - 1, HEIGHT - 1),
        f'<text class="m-text{on}" {middle} text-anchor="middle">{escape(_short(token))}</text>',
    ]


def _tip(record: ReadingRecord) -> list[str]:
    """Place, likeliest token, and the target."""
    likeliest = record.top[0]
    place = f"layer {layer_label(record.layer)}, after {record.token!r}"
    target = ""
    if record.target_rank is not None:
        target = f"target: p = {number(record.target_probability, 4)}, rank {record.target_rank:,}"
    return [place, f"{likeliest.token!r}, p = {number(likeliest.probability, 4)}", target]


def _list(record: ReadingRecord) -> list[list[str]]:
    """The likeliest tokens with their probabilities."""
    return [[repr(one.token), number(one.probability, 4)] for one in record.top]
