"""What the page shows of a picture: its patches shaded by each method,
and the share that picture and words have.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...report.matrix import step_of
from ...report.overlay import Shade, overlay
from ...report.parts import Cell, Column, Drawing, Picture, Table, signed_cell
from ...report.words import number, signed
from .records import MethodRecord, Modalities, ShownPicture

FAINT = 0.05
"""Share of the strongest patch below which a patch is not shaded."""
OPACITY = 0.62
"""Of a patch's colour: what is under it can be seen."""


def patches_picture(picture: ShownPicture, records: Sequence[MethodRecord]) -> Picture:
    """The picture once for each method."""
    drawings = [_drawing(picture, record, number) for number, record in enumerate(records)]
    return Picture(drawings, small=len(records) > 1)


def _drawing(picture: ShownPicture, record: MethodRecord, method_number: int) -> Drawing:
    """The picture with its patches coloured by one method's scores."""
    scores = record.scores[: record.patches]
    largest = max(map(abs, scores), default=0.0)
    shades: list[Shade | None] = []
    for patch, score in enumerate(scores):
        if largest == 0 or abs(score) < FAINT * largest:
            shades.append(None)
            continue
        colour = f"{'up' if score > 0 else 'down'}{step_of(score, largest)}"
        tip = f"{record.units[patch]}: {signed(score)} {record.unit}"
        shades.append(Shade(colour, OPACITY, tip))
    caption = (
        f"{record.method}: {picture.rows} x {picture.columns} patches of {picture.file}. "
        "Blue patches raise the explained value, orange patches lower it; "
        f"the strongest has {number(largest)} {record.unit}."
    )
    uid, title = f"patches-{picture.item}-{method_number}", f"Patches by {record.method}"
    return overlay(picture, shades, uid=uid, title=title, caption=caption)


def modalities_table(shares: Modalities, record: MethodRecord) -> Table:
    """The answer without the picture or sound, without the words, and what each adds."""
    columns = [
        Column("", False),
        Column(record.unit),
        Column("of the change", hint="Shapley value / change from neither to both"),
    ]
    change = shares.value - shares.without_both
    kind = shares.kind
    absent = {"picture": "all patches grey", "sound": "all spans silent"}.get(kind, "")
    values = (
        (f"{kind} and words", shares.value),
        (f"words alone ({absent})", shares.without_medium),
        (f"{kind} alone (all words absent)", shares.without_words),
        ("neither", shares.without_both),
    )
    rows = [[Cell(name, head=True), signed_cell(value), Cell("")] for name, value in values]
    for name, value in ((f"the {kind} adds", shares.medium), ("the words add", shares.words)):
        share = f"{value / change:.0%}" if change else ""
        rows.append([Cell(name, head=True, tone="strong"), signed_cell(value), Cell(share)])
    caption = f"The share of {kind} and words (absent words: {shares.measured_by})"
    return Table(f"modalities-{shares.item}", caption, columns, rows, sortable=False, compact=True)
