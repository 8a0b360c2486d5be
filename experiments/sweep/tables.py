"""The terminal's tables of effects."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from ..report.terminal_tables import titled
from .reading import component_name, families, strongest
from .records import EffectRecord

ROWS = 15
"""Effects of a kind that are shown; the report has all."""


def tables(records: Sequence[EffectRecord]) -> list[Table]:
    """The strongest effects of each kind."""
    return [_effect_table(family) for family in families(records).values()]


def _effect_table(records: Sequence[EffectRecord]) -> Table:
    first = records[0]
    title = f"{first.value}, {len(records)} {first.component}: the strongest ({first.metric}, {first.unit}; n = {first.n})"
    rows = (
        (
            component_name(record),
            record.site,
            f"{record.effect:+.3f}",
            interval_text(record.low, record.high),
            "-" if record.normalised is None else f"{record.normalised:.3f}",
            p_text(record),
            "" if record.q is None else f"{record.q:.4f}",
        )
        for record in strongest(records, ROWS)
    )
    return titled(title, "part|site|effect|95%|normalised|p|q", rows, ("part", "site"))


def interval_text(low: float | None, high: float | None) -> str:
    """An interval; a dash where there is none."""
    return "-" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def p_text(record: EffectRecord) -> str:
    """The p of an effect, or why it has none."""
    if record.p is not None:
        return f"{record.p:.4f}"
    return "cannot be tested" if record.exact else "estimate"
