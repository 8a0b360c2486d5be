"""What the page shows of a decoder: where its heads look in the source and in their own text."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from ...report.axes import Cells, tick
from ...report.canvas import Box, px, svg
from ...report.parts import Cell, Column, Drawing, Picture, Section, Table
from ...report.words import number
from .records import ShownTarget, TargetHeadRecord

CELL, SMALL = 13.0, 70.0
"""Pixels of a token's cell in the mean pattern, and of a head's small pattern."""
LEFT, TOP = 96.0, 8.0
"""Where the mean pattern begins."""
MOST_HEADS = 144
"""Small patterns of a text; more heads are in the table alone."""
LETTERS = 12
STATISTICS = {
    "entropy": "normalised: 1 is uniform attention",
    "confidence": "largest weight",
    "first": "weight on the first token",
    "previous": "weight on the token before",
    "end": "weight on special tokens behind the source",
    "monotone": "rank correlation of a token's place with the mean place that it attends to",
}


def target_section(heads: Sequence[TargetHeadRecord], shown: Sequence[ShownTarget]) -> Section:
    """The heads of the decoder: the source that each token of the first targets attends to,
    and a table.
    """
    parts: list[object] = []
    for number_of_text, text in enumerate(shown):
        parts.append(Picture([_mean(text, number_of_text), _small(text, number_of_text)]))
    parts.append(_table(heads))
    about = (
        "Attention of the decoder while it is given the target: D heads look at the "
        "target's earlier tokens, X heads at the source. In each small square a row is a "
        "token of the target and a column a token of the source."
    )
    return Section("decoder", "Decoder and source", parts, about, study=True)


def _mean(text: ShownTarget, number_of_text: int) -> Drawing:
    """Cross-attention with the tokens' names, the mean over heads and layers."""
    n_keys, n_queries = len(text.source), len(text.target)
    cells = Cells(LEFT, TOP, CELL, CELL, n_queries, n_keys)
    body = cells.row_ticks([token[:LETTERS] for token in text.target], each=CELL)
    for row, weights in enumerate(text.mean):
        for column, weight in enumerate(weights):
            body.append(_square(cells.x(column), cells.y(row), CELL - 1, weight))
    for column, token in enumerate(text.source):
        body.append(cells.slanted_tick(column, token[:LETTERS]))
    box = Box(cells.right + 60, cells.bottom + 76)
    words = (
        "Attention from the target (rows) to the source (columns), "
        "mean over all heads of all layers."
    )
    return _drawing(box, body, "Attention to the source", words, f"cross-{number_of_text}")


def _small(text: ShownTarget, number_of_text: int) -> Drawing:
    """Each head's cross-attention, a row of squares for each layer."""
    layers = text.heads[: max(1, MOST_HEADS // max(len(text.heads[0]), 1))]
    body = []
    for layer, heads in enumerate(layers):
        for head, pattern in enumerate(heads):
            x, y = head * (SMALL + 8) + 26, layer * (SMALL + 20) + 14
            body.append(tick(x, y - 3, f"X{layer}H{head}", anchor="start"))
            body.append(
                f'<rect class="m-even" fill-opacity="0.35" x="{px(x)}" y="{px(y)}" '
                f'width="{px(SMALL)}" height="{px(SMALL)}"/>'
            )
            wide, high = SMALL / len(text.source), SMALL / len(text.target)
            for row, weights in enumerate(pattern):
                for column, weight in enumerate(weights):
                    if weight >= 0.04:
                        at = (x + column * wide, y + row * high)
                        body.append(_square(*at, wide, weight, high))
    box = Box(len(layers[0]) * (SMALL + 8) + 30, len(layers) * (SMALL + 20) + 4)
    words = "The same for every head, a row for each layer."
    return _drawing(
        box, body, "Attention of each head to the source", words, f"heads-{number_of_text}"
    )


def _square(x: float, y: float, width: float, weight: float, height: float | None = None) -> str:
    size = f'width="{px(width)}" height="{px(height or width)}"'
    return f'<rect class="m-up4" fill-opacity="{weight:.2f}" x="{px(x)}" y="{px(y)}" {size}/>'


def _drawing(box: Box, body: Sequence[str], title: str, words: str, uid: str) -> Drawing:
    drawing = svg(
        box, body, title=title, desc=words, uid=f"{uid}-svg", attrs=f' width="{px(box.width)}"'
    )
    return Drawing(uid, Markup(drawing), words, title)


def _table(heads: Sequence[TargetHeadRecord]) -> Table:
    columns = [
        Column("head", False),
        *(Column(name, hint=hint) for name, hint in STATISTICS.items()),
    ]
    rows = []
    for head in heads:
        cells = [Cell(head.name, head=True)]
        for name in STATISTICS:
            value = getattr(head, name)
            cells.append(Cell(number(value), value))
        rows.append(cells)
    return Table(
        "decoder-heads",
        "Heads of the decoder, means over texts",
        columns,
        rows,
        tall=True,
        copy=True,
    )
