"""The terminal's tables of ``layerscope lens``."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from ...report.terminal_tables import titled
from ...report.words import layer_label
from .records import ReadingRecord


def tables(records: Sequence[ReadingRecord]) -> list[Table]:
    """What every layer would say behind the last token of each text."""
    out = []
    for number in dict.fromkeys(r.text for r in records):
        of_text = [r for r in records if r.text == number]
        last = max(r.position for r in of_text)
        rows = []
        for r in (r for r in of_text if r.position == last):
            shown = ", ".join(f"{c.token!r} {c.probability:.2f}" for c in r.top[:3])
            rank = "" if r.target_rank is None else f"{r.target_rank:,}"
            p = "" if r.target_probability is None else f"{r.target_probability:.4f}"
            rows.append((r.kind, layer_label(r.layer), shown, p, rank))
        title = f"text {number + 1}: the next token, layer by layer"
        out.append(
            titled(
                title, "lens|layer|likeliest|p(target)|rank", rows, ("lens", "layer", "likeliest")
            )
        )
    return out
