"""The terminal's tables of ``layerscope neurons``."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from ...report.terminal_tables import interval_cell, number_cell, p_cell, titled
from .records import Results, SetRecord


def tables(results: Results) -> list[Table]:
    """A table a site and change: what is read from each set, and what its change does."""
    records = results.records
    groups: dict[tuple[str, str], list[SetRecord]] = {}
    for record in records:
        if record.component == "sets":
            groups.setdefault((record.site, record.value), []).append(record)
    return [_effects(site, value, of_group) for (site, value), of_group in groups.items()]


def _effects(site: str, value: str, records: Sequence[SetRecord]) -> Table:
    first = records[0]
    title = (
        f"{site}: neurons read, and changed ({value}) for {first.metric} ({first.unit}; "
        f"n = {first.n})"
    )
    return titled(
        title, "ranking|k|accuracy|effect|95%|random|null p|q", map(_row, records), ("ranking",)
    )


def _row(record: SetRecord) -> list[str]:
    return [
        record.ranking,
        str(record.k),
        number_cell(record.accuracy),
        number_cell(record.effect, "+.3f"),
        interval_cell(record.effect_interval),
        interval_cell(record.null_interval, "+.3f"),
        p_cell(record.null_p),
        p_cell(record.q, ""),
    ]
