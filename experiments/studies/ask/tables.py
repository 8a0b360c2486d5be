"""The terminal's tables of ``layerscope ask``."""

from __future__ import annotations

from rich.table import Table

from ...report.terminal_tables import Records, span_cell, titled


def tables(records: Records) -> list[Table]:
    first = records[0]
    rows = (
        (
            r["words"],
            f"{r['effect']:+.3f}",
            span_cell(r),
            "" if r["over_random"] is None else f"{r['over_random']:+.3f}",
            "" if r["over_random"] is None else span_cell(r, "over_random_"),
            "" if r["p"] is None else f"{r['p']:.4f}",
        )
        for r in records
    )
    title = f"words taken out: what it costs the answer ({first['unit']}; n = {first['n']})"
    return [titled(title, "words|effect|95%|over random|95%|p", rows, ("words",))]
