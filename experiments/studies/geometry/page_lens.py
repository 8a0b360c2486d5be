"""The section of the logit lens: what each layer would say next."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from ...report.charts import Series
from ...report.lines import lines
from ...report.parts import (
    Cell,
    Column,
    Fold,
    Picture,
    Section,
    Table,
    score_cell,
)
from ...report.words import finite, general, interval, layer_label, number
from .records import LensResults, LensText


def lens_section(lens: LensResults, data: dict[str, Any]) -> Section:
    """What each layer would say next."""
    records = lens.records
    labels = [layer_label(record.layer) for record in records]
    drawing = lines(
        "lens",
        [
            Series(
                "log2 p",
                "score",
                [finite(record.log2p) for record in records],
                [record.log2p_interval for record in records],
                points=True,
            )
        ],
        data,
        labels=labels,
        names=[f"layer {label}" for label in labels],
        title="Logit lens",
        y_title="mean log2 p of the next token",
        x_title="layer",
        caption="Band: 95% interval over texts.",
        words="; ".join(
            f"{label} {number(r.log2p)}" for label, r in zip(labels, records, strict=True)
        ),
    )
    columns = [
        Column("layer"),
        Column("log2 p"),
        Column("median rank"),
        Column("top-1", hint="share of positions at which the next token is the most likely one"),
    ]
    rows = [
        [
            Cell(label, float(layer), head=True),
            Cell(
                number(record.log2p),
                finite(record.log2p),
                interval(record.log2p_interval),
            ),
            Cell(general(record.median_rank), finite(record.median_rank)),
            score_cell(record.top1, record.top1_interval),
        ]
        for layer, (label, record) in enumerate(zip(labels, records, strict=True))
    ]
    texts = [lens_text(text, place, labels) for place, text in enumerate(lens.texts)]
    about = (
        "The model's own final norm and output head are applied to the residual stream at "
        "each layer. The figures show how likely and how highly ranked the token that "
        "follows then is."
    )
    parts = [
        Picture([drawing]),
        Table("lens-table", "The logit lens at every layer", columns, rows),
        *texts,
    ]
    return Section("lens", "Logit lens", parts, about, study=True)


def lens_text(text: LensText, place: int, labels: Sequence[str]) -> Fold:
    """One text: each layer's likeliest next token,
    with its probability and the rank of the token that follows.
    """
    columns = [
        Column("layer"),
        *(Column(token, False, f"then: {following}") for token, following in pairwise(text.tokens)),
    ]
    rows = []
    for layer, label in enumerate(labels):
        row = [Cell(label, float(layer), head=True)]
        for top, p, rank in zip(text.top[layer], text.p[layer], text.rank[layer], strict=True):
            tone = "strong" if rank == 0 else ""
            row.append(Cell(top, finite(rank), f"p {number(p, 2)}, rank {rank}", tone=tone))
        rows.append(row)
    caption = "Bold: the most likely token is the one that follows"
    return Fold(
        f"Text {place + 1}: each layer's prediction of the next token",
        [Table(f"lens-{place}", caption, columns, rows, sortable=False)],
        open=place == 0,
    )
