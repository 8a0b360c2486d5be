"""The terminal's tables of ``layerscope attend``."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from ...report.terminal_tables import number_cell, titled
from .records import Results, TargetHeadRecord

MOST = 40
"""Heads that are printed; the report has all."""


def tables(results: Results) -> list[Table]:
    """The heads that have a role; of sounds every stack's heads, those that follow them first."""
    records = results.text_heads
    if not records:
        return [_of_sounds(results.stack_heads)]
    with_role = [record for record in records if record.role]
    columns = ["entropy", "confidence", "first", "punctuation", "previous", "induction"]
    if any(record.effect is not None for record in records):
        columns.append("effect")
    rows = []
    for record in with_role[:MOST]:
        rows.append(
            [
                record.name,
                record.role,
                *(number_cell(getattr(record, column)) for column in columns),
            ]
        )
    title = f"{len(with_role)} of {len(records)} heads have a named role"
    table = titled(title, ("head", "role", *columns), rows, ("head", "role"))
    if len(with_role) > MOST:
        table.caption = f"the first {MOST} of {len(with_role)}; the report has all"
    return [table]


def _of_sounds(heads: Sequence[TargetHeadRecord]) -> Table:
    """The heads on sounds."""
    ranked = sorted(heads, key=lambda head: -(head.monotone or 0.0))
    columns = ("entropy", "confidence", "first", "end", "monotone", "distance")
    rows = []
    for head in ranked[:MOST]:
        rows.append([head.name, *(number_cell(getattr(head, column)) for column in columns)])
    table = titled("Heads on sounds", ("head", *columns), rows, ("head",))
    if len(ranked) > MOST:
        table.caption = f"the first {MOST} of {len(ranked)}; the report has all"
    return table
