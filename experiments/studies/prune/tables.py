"""The terminal's tables of ``layerscope prune``."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from ...report.terminal_tables import titled
from ...sweep.tables import interval_text
from .records import StepRecord


def tables(records: Sequence[StepRecord]) -> list[Table]:
    """Every step."""
    first = records[0]
    rows = (
        (
            str(record.step),
            str(record.heads),
            str(record.kv_heads),
            f"{record.parameters:,}",
            f"{record.value:.3f}",
            interval_text(record.low, record.high),
            "" if record.random is None else f"{record.random:.3f}",
            f"{record.speed:.2f}x",
            record.model or "",
        )
        for record in records
    )
    title = f"heads a layer and {first.metric}, {first.unit} (n = {first.n})"
    headings = f"step|heads|kv heads|parameters|{first.metric}|95%|random heads|speed|model"
    return [titled(title, headings, rows, ("model",))]
