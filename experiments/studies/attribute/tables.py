"""Attributions in a terminal: words on a blue ground where they raise the number, on an orange one where they lower it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

TEXTS = 5
"""Texts that are printed; the report has more."""
UP, DOWN = (31, 95, 166), (165, 72, 12)
FAINT = 0.08
"""Share of the strongest score below which a word has no ground."""
MEASURES = ("comprehensiveness", "sufficiency", "infidelity", "stability", "sensitivity")


def coloured(record: Mapping[str, Any]) -> Text:
    """A text with its words on grounds as strong as their scores."""
    text, scores = str(record["text"]), record["scores"]
    largest = max((abs(s) for s in scores), default=0.0)
    out = Text(text)
    for (start, end), score in zip(record["spans"], scores, strict=True):
        share = abs(score) / largest if largest else 0.0
        if share >= FAINT:
            ground = [round(255 + share * (c - 255)) for c in (UP if score > 0 else DOWN)]
            ink = "white" if share > 0.6 else "black"
            out.stylize(f"{ink} on rgb({ground[0]},{ground[1]},{ground[2]})", start, end)
    return out


def tables(records: Sequence[Mapping[str, Any]]) -> list[Table]:
    """A table for each of the first texts, and one of the methods' faithfulness and cost."""
    own = [r for r in records if r["method"] != "random"]
    return [_words(own, item) for item in sorted({r["item"] for r in own})[:TEXTS]] + [_methods(records)]


def _words(records: Sequence[Mapping[str, Any]], item: int) -> Table:
    mine = [r for r in records if r["item"] == item]
    first = mine[0]
    title = f"{first['target']}: {first['value']:.3f} {first['unit']}"
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("method", no_wrap=True)
    table.add_column("words")
    table.add_column("strongest")
    for r in mine:
        order = np.argsort(-np.abs(r["scores"]), kind="stable")[:3]
        top = ", ".join(f"{r['units'][i]} {r['scores'][i]:+.2f}" for i in order)
        table.add_row(r["method"], coloured(r), Text(top))
    return table


def _methods(records: Sequence[Mapping[str, Any]]) -> Table:
    title = f"methods, means over texts ({records[0]['unit']}; removal {records[0]['measured_by']})"
    table = Table(title=title, title_justify="left", title_style="bold")
    names = [name for name in MEASURES if any(r.get(name) is not None for r in records)]
    for heading in ("method", *names, "forwards", "backwards", "asked"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for method in dict.fromkeys(r["method"] for r in records):
        mine = [r for r in records if r["method"] == method]
        cells = []
        for name in names:
            found = [r[name] for r in mine if r.get(name) is not None]
            cells.append(f"{np.mean(found):.3f}" if found else "")
        costs = [str(sum(r[k] for r in mine)) if k in mine[0] else "" for k in ("forwards", "backwards", "asked")]
        table.add_row(method, *cells, *costs)
    return table
