"""The terminal's table of ``layerscope swap``."""

from __future__ import annotations

from rich.table import Table

from ...report.terminal_tables import interval_cell, number_cell, p_cell, titled
from .records import Results, SwapRecord

HEADINGS = "list|swap|texts|effect|95%|p|p (Holm)|size|beyond random|p (Holm)|class changes"


def tables(results: Results) -> list[Table]:
    """Every list and kind of swap on a line."""
    records = results.records
    first = records[0]
    title = f"effect of swapped words on {first.metric}, in {first.unit}"
    return [titled(title, HEADINGS, [_row(record) for record in records], ("list", "swap"))]


def _row(r: SwapRecord) -> list[str]:
    return [
        r.list,
        r.kind,
        str(r.n),
        "" if r.effect is None else f"{r.effect:+.3f}",
        interval_cell(r.effect_interval, "+.3f"),
        p_cell(r.p, ""),
        p_cell(r.p_holm, ""),
        number_cell(r.size),
        "" if r.beyond is None else f"{r.beyond:+.3f}",
        p_cell(r.beyond_p_holm, ""),
        number_cell(r.flips, absent=""),
    ]
