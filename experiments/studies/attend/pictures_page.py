"""What the page shows of attention to pictures: the mean over heads,
and the heads that look there most.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...report.overlay import Shade, overlay
from ...report.parts import Cell, Column, Drawing, Picture, Section, Table
from ...report.words import number
from .records import PictureHeadRecord, ShownAttention, head_name

SHOWN_HEADS = 5
"""Heads of a picture that are drawn, those with the largest weight on it."""
STRONGEST = 0.8
"""Opacity of a picture's strongest patch."""


def picture_section(heads: Sequence[PictureHeadRecord], shown: Sequence[ShownAttention]) -> Section:
    """The pictures under the last token's attention, and each head's weight on them."""
    parts: list[object] = []
    for number_of_picture, picture in enumerate(shown):
        if picture.rows > 1:
            parts.append(Picture(_drawings(picture, number_of_picture), small=True))
    columns = [
        Column("head", False),
        Column(
            "picture", hint="weight of the last token's attention on the picture, mean over prompts"
        ),
    ]
    ranked = sorted(heads, key=lambda head: -head.picture)
    rows = []
    for head in ranked:
        name = head_name(head.layer, head.index)
        share = Cell(number(head.picture), head.picture, bar=head.picture)
        rows.append([Cell(name, head=True), share])
    caption = "Weight on the picture, from the last token of the text"
    parts.append(Table("picture-heads", caption, columns, rows, tall=True, copy=True))
    about = (
        "Attention from the last token of a text to the tokens of its picture, "
        "laid over the picture. The darkest patch of a drawing has its largest weight. "
        "Where a processor tiles a picture the grid is not known, "
        "and only the table is shown."
    )
    return Section("pictures", "Attention to pictures", parts, about, study=True)


def _drawings(picture: ShownAttention, number_of_picture: int) -> list[Drawing]:
    drawings = [_drawing(picture, picture.mean, "mean over all heads", f"{number_of_picture}-mean")]
    for head in picture.heads[:SHOWN_HEADS]:
        name = head_name(head.layer, head.index)
        label = f"{name}, {head.picture:.0%} of its attention"
        drawings.append(_drawing(picture, head.weights, label, f"{number_of_picture}-{name}"))
    return drawings


def _drawing(picture: ShownAttention, weights: Sequence[float], label: str, key: str) -> Drawing:
    largest = max(weights, default=0.0)
    shades: list[Shade | None] = []
    for patch, weight in enumerate(weights):
        row, column = divmod(patch, picture.columns)
        tip = f"patch {row + 1},{column + 1}: {weight:.4f}"
        strength = STRONGEST * weight / largest if largest else 0.0
        shades.append(Shade("up4", strength, tip))
    caption = f"{picture.file}, {label}; the largest weight is {number(largest)}."
    return overlay(
        picture, shades, uid=f"attention-{key}", title=f"Attention, {label}", caption=caption
    )
