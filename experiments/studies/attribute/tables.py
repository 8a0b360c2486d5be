"""Attributions in a terminal: words on a blue ground where they raise the number,
on an orange one where they lower it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.table import Table
from rich.text import Text

from .records import MethodRecord, Record, Results

TEXTS = 5
"""Texts that are printed; the report has more."""
STRONGEST = 3
"""Units of a text that are named."""
UP, DOWN = (31, 95, 166), (165, 72, 12)
FAINT = 0.08
"""Share of the strongest score below which a word has no ground."""
DARK = 0.6
"""Share from which its ground is so dark that its ink is white."""
MEASURES = ("comprehensiveness", "sufficiency", "infidelity", "stability", "sensitivity")
COSTS = ("forwards", "backwards", "asked")


def tables(results: Results) -> list[Table]:
    """A table for each of the first texts, and one of the methods' faithfulness and cost."""
    records = results.records
    scored = [record for record in records if isinstance(record, MethodRecord)]
    items = sorted({record.item for record in scored})[:TEXTS]
    return [
        *(_words([record for record in scored if record.item == item]) for item in items),
        _methods(records),
    ]


def coloured(text: str, spans: Sequence[Sequence[int]], scores: Sequence[float]) -> Text:
    """A text with its words on grounds as strong as their scores."""
    largest = max((abs(score) for score in scores), default=0.0)
    out = Text(text)
    for (start, end), score in zip(spans, scores, strict=True):
        share = abs(score) / largest if largest else 0.0
        if share >= FAINT:
            red, green, blue = (round(255 + share * (c - 255)) for c in (UP if score > 0 else DOWN))
            out.stylize(
                f"{'white' if share > DARK else 'black'} on rgb({red},{green},{blue})", start, end
            )
    return out


def _words(records: Sequence[MethodRecord]) -> Table:
    """One text as every method sees it."""
    first = records[0]
    table = Table(
        title=f"{first.target}: {first.value:.3f} {first.unit}",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("method", no_wrap=True)
    table.add_column("words")
    table.add_column("strongest")
    for record in records:
        order = np.argsort(-np.abs(record.scores), kind="stable")[:STRONGEST]
        strongest = ", ".join(f"{record.units[i]} {record.scores[i]:+.2f}" for i in order)
        table.add_row(
            record.method, coloured(record.text, record.spans, record.scores), Text(strongest)
        )
    return table


def _methods(records: Sequence[Record]) -> Table:
    """Means of the measures over texts, and the cost."""
    title = f"methods, means over texts ({records[0].unit}; removal {records[0].measured_by})"
    table = Table(title=title, title_justify="left", title_style="bold")
    names = [name for name in MEASURES if _known(records, name)]
    for heading in ("method", *names, *COSTS):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for method in dict.fromkeys(record.method for record in records):
        of_method = [record for record in records if record.method == method]
        cells = [
            f"{np.mean(known):.3f}" if (known := _known(of_method, name)) else "" for name in names
        ]
        scored = [record for record in of_method if isinstance(record, MethodRecord)]
        costs = [
            str(sum(getattr(record, name) for record in scored)) if scored else "" for name in COSTS
        ]
        table.add_row(method, *cells, *costs)
    return table


def _known(records: Sequence[Record], name: str) -> list[float]:
    """The numbers of the records that have this one."""
    return [value for record in records if (value := getattr(record, name, None)) is not None]
