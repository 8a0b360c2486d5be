"""A grid of readings: a row for each layer, a column for each token, in each cell the likeliest next token."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ...report.charts import Box, px, svg
from ...report.words import layer_label, number
from .records import ReadingRecord

STEPS = ((0.05, 0), (0.2, 1), (0.4, 2), (0.7, 3))
"""Probabilities below which a cell has a shade."""
RANKS = ((0, 4), (4, 3), (19, 2), (99, 1))
"""Ranks of the target up to which a cell has a shade."""
WIDTH, HEIGHT = 62.0, 19.0
LETTERS = 8
"""Of a token in its cell."""


def _shade(record: ReadingRecord, follows_target: bool) -> int:
    """0 to 4."""
    if follows_target:
        rank = record.target_rank
        return 0 if rank is None else next((shade for most, shade in RANKS if rank <= most), 0)
    return next((shade for least, shade in STEPS if record.top[0].probability < least), 4)


def reading_grid(
    records: Sequence[ReadingRecord],
    tokens: Sequence[str],
    uid: str,
    title: str,
    *,
    follows_target: bool,
) -> tuple[str, list[list[str]], str]:
    """The drawing, what the pointer reads (place, token, the ten likeliest), and a caption.

    Args:
        follows_target: whether the shade is the target's rank and not the likeliest token's probability.
    """
    layers = sorted({r.layer for r in records}, reverse=True)
    left, top = 40.0, 8.0
    box = Box(left + WIDTH * len(tokens) + 6, top + HEIGHT * len(layers) + 26)
    body, tips = [], []
    for r in records:
        x, y = left + WIDTH * r.position, top + HEIGHT * layers.index(r.layer)
        shade = _shade(r, follows_target)
        kind = f"up{shade}" if shade else "even"
        body.append(f'<rect class="m-{kind}" data-k="{len(tips)}" x="{px(x)}" y="{px(y)}" ')
        body.append(f'width="{px(WIDTH - 1)}" height="{px(HEIGHT - 1)}"/>')
        word = r.top[0].token
        short = word if len(word) <= LETTERS else f"{word[: LETTERS - 1]}…"
        on = f" m-on{shade}" if shade else ""
        body.append(
            f'<text class="m-text{on}" x="{px(x + WIDTH / 2)}" y="{px(y + HEIGHT / 2 + 3)}" '
        )
        body.append(f'text-anchor="middle">{escape(short)}</text>')
        ten = ", ".join(f"{c.token!r} {number(c.probability)}" for c in r.top)
        target = (
            ""
            if r.target_rank is None
            else f"; target: p = {number(r.target_probability, 4)}, rank {r.target_rank:,}"
        )
        tips.append([f"layer {layer_label(r.layer)}, behind {r.token!r}", f"{word!r}{target}", ten])
    for row, layer in enumerate(layers):
        y = top + HEIGHT * row + HEIGHT / 2 + 3
        body.append(
            f'<text class="tick" x="{px(left - 6)}" y="{px(y)}" text-anchor="end">{layer_label(layer)}</text>'
        )
    under = top + HEIGHT * len(layers) + 14
    for position, token in enumerate(tokens):
        short = token if len(token) <= LETTERS + 1 else f"{token[:LETTERS]}…"
        x = left + WIDTH * position + WIDTH / 2
        body.append(
            f'<text class="tick" x="{px(x)}" y="{px(under)}" text-anchor="middle">{escape(short)}</text>'
        )
    shown = (
        "rank of the target (deepest: it is the likeliest; grey: not among 100)"
        if follows_target
        else "probability"
    )
    words = f"The likeliest next token behind each token, at each layer. Shade: {shown}. Point at a cell for the ten likeliest."
    return (
        svg(
            box, body, title=title, desc=words, uid=f"{uid}-svg", attrs=f' width="{px(box.width)}"'
        ),
        tips,
        words,
    )
