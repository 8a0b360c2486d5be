"""The terminal's tables of effects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from ..report.terminal_tables import interval_cell, number_cell, p_cell, titled
from .reading import component_name, families, strongest
from .records import EffectRecord

ROWS = 15
"""Effects of a kind that are shown; the report has all."""


def tables(results: Any) -> list[Table]:
    """The strongest effects of each kind."""
    return [_effect_table(family) for family in families(results.records).values()]


def _effect_table(records: Sequence[EffectRecord]) -> Table:
    first = records[0]
    title = (
        f"{first.value}, {len(records)} {first.component}: the strongest ({first.metric}, "
        f"{first.unit}; n = {first.n})"
    )
    rows = (
        (
            component_name(record),
            record.site,
            number_cell(record.effect, "+.3f"),
            interval_cell(record.effect_interval),
            number_cell(record.normalised, absent="-"),
            p_text(record),
            p_cell(record.q, ""),
        )
        for record in strongest(records, ROWS)
    )
    return titled(title, "part|site|effect|95%|normalised|p|q", rows, ("part", "site"))


def p_text(record: EffectRecord) -> str:
    """The p of an effect, or why it has none."""
    if record.p is not None:
        return p_cell(record.p)
    return "cannot be tested" if record.exact else "estimate"
