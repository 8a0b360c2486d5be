"""The terminal's tables of ``layerscope capture``."""

from __future__ import annotations

from rich.table import Table

from ...report.terminal_tables import titled
from .records import Results


def tables(results: Results) -> list[Table]:
    """Every site with its size."""
    records = results.records
    first = records[0]
    rows = ((r.site, str(r.width), f"{r.bytes / 1e6:.1f}", f"{r.largest:.4g}") for r in records)
    title = f"{first.rows:,} rows at {len(records)} sites, {first.dtype}"
    return [titled(title, "site|width|MB|largest value", rows, ("site",))]
