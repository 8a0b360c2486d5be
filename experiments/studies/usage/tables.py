"""The terminal's tables of ``layerscope usage``."""

from __future__ import annotations

from rich.table import Table

from ...report.terminal_tables import Records, number_cell, p_cell, q_cell, span_cell, titled


def tables(records: Records) -> list[Table]:
    mine = [r for r in records if r["value"] == "erase"]
    first = mine[0]
    rows = (
        (
            str(r["layer"]),
            *(number_cell(r[k]) for k in ("decodable", "erased_linear", "erased_mlp")),
            f"{r['effect']:+.3f}",
            span_cell(r),
            number_cell(r.get("null")),
            p_cell(r),
            q_cell(r),
        )
        for r in mine
    )
    title = f"{first['property']}: decodable, and used for {first['metric']} ({first['unit']}; n = {first['n']})"
    return [titled(title, "layer|decodable|after|by a network|effect|95%|random|p|q", rows)]
