"""The terminal's tables of ``layerscope prune``."""

from __future__ import annotations

from rich.table import Table

from ...report.terminal_tables import Records, number_cell, span_cell, titled


def tables(records: Records) -> list[Table]:
    first = records[0]
    rows = (
        (
            *(str(r[k]) for k in ("step", "heads", "kv_heads")),
            f"{r['parameters']:,}",
            number_cell(r["value"]),
            span_cell(r),
            "" if r["random"] is None else number_cell(r["random"]),
            f"{r['speed']:.2f}x",
            r["model"] or "",
        )
        for r in records
    )
    title = f"heads a layer and {first['metric']}, {first['unit']} (n = {first['n']})"
    headings = f"step|heads|kv heads|parameters|{first['metric']}|95%|random heads|speed|model"
    return [titled(title, headings, rows, ("model",))]
