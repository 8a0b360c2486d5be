"""The terminal's tables of effects."""

from __future__ import annotations

from rich.table import Table

from ..report.terminal_tables import Records, number_cell, p_cell, q_cell, span_cell, titled
from .reading import component_name, families, strongest


def tables(records: Records) -> list[Table]:
    """The strongest effects of each kind; the report has all."""
    return [_effect_table(mine) for mine in families(records).values()]


def _effect_table(records: Records) -> Table:
    first = records[0]
    title = (
        f"{first['value']}, {len(records)} {first['component']}: the strongest ({first['metric']}, {first['unit']}; "
        f"n = {first['n']})"
    )
    rows = (
        (
            component_name(r),
            r["site"],
            f"{r['effect']:+.3f}",
            span_cell(r),
            number_cell(r["normalised"]),
            p_cell(r),
            q_cell(r),
        )
        for r in strongest(records, 15)
    )
    return titled(title, "part|site|effect|95%|normalised|p|q", rows, ("part", "site"))
