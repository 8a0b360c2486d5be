"""The terminal's tables of ``layerscope prune``."""

from __future__ import annotations

from rich.table import Table

from ...report.terminal_tables import interval_cell, number_cell, titled
from .records import Results


def tables(results: Results) -> list[Table]:
    """Every step."""
    records = results.records
    first = records[0]
    rows = (
        (
            str(record.step),
            str(record.heads),
            str(record.kv_heads),
            f"{record.parameters:,}",
            number_cell(record.value),
            interval_cell(record.value_interval),
            number_cell(record.random, absent=""),
            f"{results.speed(record.step):.2f}x",
            record.model or "",
        )
        for record in records
    )
    title = f"heads a layer and {first.metric}, {first.unit} (n = {first.n})"
    headings = f"step|heads|kv heads|parameters|{first.metric}|95%|random heads|speed|model"
    return [titled(title, headings, rows, ("model",))]
