"""The terminal's table of confidences."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from ..report.terminal_tables import interval_cell, number_cell, p_cell, titled
from .groups import measure_name
from .records import GroupDifferenceRecord, GroupRecord, JudgedRecord

HEADINGS = "confidence|answered|mean|ECE|95%|by chance|p|equal mass|squared error|Brier|NLL|AUROC"


def confidence_tables(records: Sequence[JudgedRecord]) -> list[Table]:
    """Every confidence on a line; n/a where there is no number."""
    first = records[0]
    title = (
        f"confidence against correctness (n = {first.n}, accuracy {number_cell(first.accuracy)})"
    )
    return [titled(title, HEADINGS, [_row(record) for record in records], ("confidence",))]


def group_tables(
    groups: Sequence[GroupRecord], differences: Sequence[GroupDifferenceRecord]
) -> list[Table]:
    """Each measure of each group, and what differs between them."""
    if not groups:
        return []
    shown = [record for record in groups if record.measure != "ece_chance"]
    rows = [
        [
            r.by,
            measure_name(r.measure, r.label),
            r.group,
            number_cell(r.value),
            interval_cell(r.value_interval),
            str(r.n),
        ]
        for r in shown
    ]
    left = ("by", "measure", "group", "b", "a")
    compared = [
        [
            r.by,
            measure_name(r.measure, r.label),
            r.b,
            r.a,
            f"{r.difference:+.3f}",
            interval_cell(r.difference_interval),
            p_cell(r.p),
            p_cell(r.p_holm),
        ]
        for r in differences
    ]
    return [
        titled("groups of rows", "by|measure|group|value|95%|rows", rows, left),
        titled("differences, b less a", "by|measure|b|a|difference|95%|p|p (Holm)", compared, left),
    ]


def _row(r: JudgedRecord) -> list[str]:
    return [
        r.method,
        str(r.n_answered),
        number_cell(r.confidence),
        number_cell(r.ece),
        interval_cell(r.ece_interval),
        number_cell(r.ece_chance),
        p_cell(r.ece_p_holm),
        number_cell(r.ece_mass),
        number_cell(r.squared_error),
        number_cell(r.brier),
        "infinite" if r.n_impossible else number_cell(r.nll),
        number_cell(r.auroc),
    ]
