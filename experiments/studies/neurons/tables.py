"""The terminal's tables of ``layerscope neurons``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from ...report.terminal_tables import Records, number_cell, span_cell, titled


def tables(records: Records) -> list[Table]:
    """A table a site and change: what is read of each set, and what its change does."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for r in records:
        if r["component"] == "sets":
            found.setdefault((r["site"], r["value"]), []).append(r)
    tables = []
    for (site, value), mine in found.items():
        first = mine[0]
        rows = (
            (
                r["ranking"],
                str(r["k"]),
                number_cell(r["accuracy"]),
                f"{r['effect']:+.3f}",
                span_cell(r),
                f"{r['null_low']:+.3f} to {r['null_high']:+.3f}",
                number_cell(r["null_p"]),
                f"{r['q']:.4f}",
            )
            for r in mine
        )
        title = f"{site}: neurons read, and changed ({value}) for {first['metric']} ({first['unit']}; n = {first['n']})"
        tables.append(titled(title, "ranking|k|accuracy|effect|95%|random|null p|q", rows, ("ranking",)))
    return tables
