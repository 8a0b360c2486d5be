"""The terminal's table of confidences."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from ..report.terminal_tables import number_cell, titled
from .records import JudgedRecord

HEADINGS = "confidence|answered|mean|ECE|95%|by chance|p|equal mass|squared error|Brier|NLL|AUROC"


def confidence_tables(records: Sequence[JudgedRecord]) -> list[Table]:
    """Every confidence on a line; n/a where there is no number."""
    first = records[0]
    title = (
        f"confidence against correctness (n = {first.n}, accuracy {number_cell(first.accuracy)})"
    )
    return [titled(title, HEADINGS, [_row(record) for record in records], ("confidence",))]


def _row(r: JudgedRecord) -> list[str]:
    ends = "n/a" if r.ece_low is None else f"{r.ece_low:.3f} to {r.ece_high:.3f}"
    return [
        r.method,
        str(r.n_answered),
        number_cell(r.confidence),
        number_cell(r.ece),
        ends,
        number_cell(r.ece_chance),
        "n/a" if r.ece_p is None else f"{r.ece_p:.4f}",
        number_cell(r.ece_mass),
        number_cell(r.squared_error),
        number_cell(r.brier),
        "infinite" if r.n_impossible else number_cell(r.nll),
        number_cell(r.auroc),
    ]
