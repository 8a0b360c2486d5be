"""What the page shows of a decoder: where its heads look in the source and in their own text."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from ...report.axes import Cells, tick
from ...report.canvas import Box, px, rect, svg
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
FAINTEST = 0.04
"""Opacity below which a square is not drawn."""
STATISTICS = {
    "entropy": "normalised: 1 is uniform attention",
    "confidence": "largest weight",
    "first": "weight on the first token or frame",
    "previous": "weight on the token or frame before",
    "end": "weight on special tokens behind the source, or on the padding behind a sound",
    "monotone": "rank correlation of a token's place with the mean place that it attends to",
    "distance": "mean distance to the frames that a frame attends to, in seconds",
}


def target_section(heads: Sequence[TargetHeadRecord], shown: Sequence[ShownTarget]) -> Section:
    """The heads of the decoder: the source that each token of the first targets attends to,
    and a table.
    """
    parts: list[object] = []
    has_sound = any(head.stack == "E" for head in heads)
    for number_of_text, text in enumerate(shown):
        drawings = [_mean(text, number_of_text, has_sound)]
        if text.heads:
            drawings.append(_small(text, number_of_text, has_sound))
        parts.append(Picture(drawings))
    parts.append(_table(heads))
    if has_sound:
        about = (
            "E heads (encoder) attend from each frame of the sound to the others, D heads to "
            "earlier tokens of the target, X heads to the sound. The drawings combine frames into "
            "spans of time: a column is the weight on the frames of its span. The last column is "
            "the padding after the sound. The darkest square of a drawing is its largest weight. "
            "The table is for single frames."
        )
        return Section("decoder", "Sound and transcript", parts, about, study=True)
    about = (
        "Attention of the decoder on the given target: D heads attend to earlier tokens of the "
        "target, X heads to the source. In each small square, rows are target tokens and columns "
        "are source tokens."
    )
    return Section("decoder", "Decoder and source", parts, about, study=True)


def _mean(text: ShownTarget, number_of_text: int, is_scaled: bool) -> Drawing:
    """Attention to the source with the tokens' names, the mean over heads and layers.

    Args:
        is_scaled: the largest weight is the darkest: of many columns all weights are small.
    """
    largest = _largest(text.mean) if is_scaled else 1.0
    n_keys, n_queries = len(text.source), len(text.target)
    cells = Cells(LEFT, TOP, CELL, CELL, n_queries, n_keys)
    is_sound = text.stack == "E"
    room = 2 * CELL if is_sound else CELL
    body = cells.row_ticks([token[:LETTERS] for token in text.target], each=room)
    for row, weights in enumerate(text.mean):
        for column, weight in enumerate(weights):
            body.append(_square(cells.x(column), cells.y(row), CELL - 1, weight / largest))
    # Times stand closer than their names are wide.
    each = 2 if is_scaled else 1
    for column in range(0, n_keys, each):
        body.append(cells.slanted_tick(column, text.source[column][:LETTERS]))
    box = Box(cells.right + 60, cells.bottom + 76)
    rows, columns = ("sound", "sound") if is_sound else ("target", "source")
    words = (
        f"Attention from the {rows} (rows) to the {columns} (columns), "
        "mean over all heads of all layers."
    )
    return _drawing(box, body, f"Attention to the {columns}", words, f"cross-{number_of_text}")


def _small(text: ShownTarget, number_of_text: int, is_scaled: bool) -> Drawing:
    """Each head's attention to the source, a row of squares for each layer."""
    layers = text.heads[: max(1, MOST_HEADS // max(len(text.heads[0]), 1))]
    body = []
    for layer, heads in enumerate(layers):
        for head, pattern in enumerate(heads):
            x, y = head * (SMALL + 8) + 26, layer * (SMALL + 20) + 14
            body.append(tick(x, y - 3, f"{text.stack}{layer}H{head}", anchor="start"))
            body.append(rect('class="m-even" fill-opacity="0.35"', x, y, SMALL, SMALL))
            largest = _largest(pattern) if is_scaled else 1.0
            wide, high = SMALL / len(text.source), SMALL / len(text.target)
            for row, weights in enumerate(pattern):
                for column, weight in enumerate(weights):
                    strength = weight / largest
                    if strength >= FAINTEST:
                        at = (x + column * wide, y + row * high)
                        body.append(_square(*at, wide, strength, high))
    box = Box(len(layers[0]) * (SMALL + 8) + 30, len(layers) * (SMALL + 20) + 4)
    words = "The same for every head, a row for each layer."
    return _drawing(
        box, body, "Attention of each head to the source", words, f"heads-{number_of_text}"
    )


def _largest(pattern: Sequence[Sequence[float]]) -> float:
    return max((max(row) for row in pattern), default=0.0) or 1.0


def _square(x: float, y: float, width: float, weight: float, height: float | None = None) -> str:
    style = f'class="m-up4" fill-opacity="{weight:.2f}"'
    return rect(style, x, y, width, height or width)


def _drawing(box: Box, body: Sequence[str], title: str, words: str, uid: str) -> Drawing:
    drawing = svg(
        box, body, title=title, desc=words, uid=f"{uid}-svg", attrs=f' width="{px(box.width)}"'
    )
    return Drawing(uid, Markup(drawing), words, title)


def _table(heads: Sequence[TargetHeadRecord]) -> Table:
    known = [name for name in STATISTICS if any(getattr(head, name) is not None for head in heads)]
    columns = [Column("head", False), *(Column(name, hint=STATISTICS[name]) for name in known)]
    rows = []
    for head in heads:
        cells = [Cell(head.name, head=True)]
        for name in known:
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
