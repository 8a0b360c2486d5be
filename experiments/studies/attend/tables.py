"""The terminal's tables of ``layerscope attend``."""

from __future__ import annotations

from rich.table import Table

from ...report.terminal_tables import Records, number_cell, titled
from ...sweep.reading import component_name


def tables(records: Records) -> list[Table]:
    """The heads that have a name; the report has all."""
    named = [r for r in records if r["role"]]
    columns = ("entropy", "confidence", "first", "punctuation", "previous", "induction")
    columns += ("effect",) if any("effect" in r for r in records) else ()
    rows = ((component_name(r), r["role"], *(number_cell(r.get(name)) for name in columns)) for r in named[:40])
    title = f"{len(named)} of {len(records)} heads have a name"
    table = titled(title, ("head", "does", *columns), rows, ("head", "does"))
    if len(named) > 40:
        table.caption = f"the first 40 of {len(named)}; the report has all"
    return [table]
