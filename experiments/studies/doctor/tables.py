"""The terminal's tables of ``layerscope doctor``: the map of checks by kinds of sites,
and what is not supported.
"""

from __future__ import annotations

from rich.table import Table

from ....hooks.verify import worst
from .kinds import map_of, narrow_name
from .records import Results


def tables(results: Results) -> list[Table]:
    """The map: checks by kinds of sites; then what is not OK, with its reasons."""
    records = results.records
    kinds, grid = map_of(records)
    table = Table(
        title="the doctor's map: worst of all layers",
        title_justify="left",
        title_style="bold",
        padding=(0, 0, 0, 1),
    )
    table.add_column("check")
    for kind in kinds:
        table.add_column(narrow_name(kind), justify="center")
    marks = {"OK": "ok", "UNSUPPORTED": "-", "WRONG": "WRONG"}
    for check, row in grid.items():
        table.add_row(check, *(marks[worst(row[kind])] if kind in row else "" for kind in kinds))
    reasons = Table(title="not supported", title_justify="left", title_style="bold")
    for heading in ("check", "site", "findings", "why"):
        reasons.add_column(heading)
    rows: dict[tuple[str, str, str], int] = {}
    for check, row in grid.items():
        for kind, kind_records in row.items():
            for r in (r for r in kind_records if r.status == "UNSUPPORTED"):
                rows[check, kind, r.reason] = rows.get((check, kind, r.reason), 0) + 1
    for (check, kind, reason), count in rows.items():
        reasons.add_row(check, kind or "model", str(count), reason)
    return [table, reasons] if rows else [table]
