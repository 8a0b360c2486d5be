"""The terminal's tables of ``layerscope neurons``."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from ...report.terminal_tables import number_cell, titled
from .records import SetRecord


def tables(records: Sequence[SetRecord]) -> list[Table]:
    """A table a site and change: what is read from each set, and what its change does."""
    groups: dict[tuple[str, str], list[SetRecord]] = {}
    for record in records:
        if record.component == "sets":
            groups.setdefault((record.site, record.value), []).append(record)
    return [_effects(site, value, of_group) for (site, value), of_group in groups.items()]


def _effects(site: str, value: str, records: Sequence[SetRecord]) -> Table:
    first = records[0]
    title = f"{site}: neurons read, and changed ({value}) for {first.metric} ({first.unit}; n = {first.n})"
    return titled(
        title, "ranking|k|accuracy|effect|95%|random|null p|q", map(_row, records), ("ranking",)
    )


def _row(record: SetRecord) -> list[str]:
    return [
        record.ranking,
        str(record.k),
        number_cell(record.accuracy),
        f"{record.effect:+.3f}",
        ""
        if record.low is None or record.high is None
        else f"{record.low:.3f} to {record.high:.3f}",
        f"{record.null_low:+.3f} to {record.null_high:+.3f}",
        number_cell(record.null_p),
        "" if record.q is None else f"{record.q:.4f}",
    ]
