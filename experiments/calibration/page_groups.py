"""The section of a page that compares groups of rows: every measure with its interval,
and the differences.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..report.parts import Cell, Column, Section, Table, corrected_cell, score_cell, signed_cell
from ..report.words import count
from .groups import measure_name
from .records import GroupDifferenceRecord, GroupRecord

HINTS = {
    "accuracy": "share of the rows that are right",
    "overconfidence": "mean confidence minus accuracy",
    "ece": "expected calibration error, bins of equal width; by chance in small print",
    "predicted": "share of the rows that are predicted to be the class",
    "false_positives": "share of the other classes' rows that are predicted to be the class",
    "false_negatives": "share of the class's rows that are predicted to be another",
}
SIGNIFICANT = 0.05


def group_sections(
    groups: Sequence[GroupRecord], differences: Sequence[GroupDifferenceRecord]
) -> list[Section]:
    """A section for each column."""
    columns = dict.fromkeys(record.by for record in groups)
    return [
        _section(
            number,
            column,
            [record for record in groups if record.by == column],
            [record for record in differences if record.by == column],
        )
        for number, column in enumerate(columns)
    ]


def _section(
    number: int,
    column: str,
    groups: Sequence[GroupRecord],
    differences: Sequence[GroupDifferenceRecord],
) -> Section:
    significant = [r for r in differences if r.p_holm is not None and r.p_holm < SIGNIFICANT]
    about = (
        f"{len(significant)} of {len(differences)} differences are significant (Holm over "
        "this column). Intervals of shares are Wilson's; the test permutes rows, "
        "or groups of rows, between the two groups."
    )
    tables = [_values(number, column, groups), _differences(number, differences)]
    return Section(f"groups-{number}", f"Groups by {column}", tables, about, study=True)


def _values(number: int, column: str, records: Sequence[GroupRecord]) -> Table:
    """A row a group, a column a measure."""
    cells = {(r.group, r.measure, r.label): r for r in records}
    groups = list(dict.fromkeys(record.group for record in records))
    kinds = list(dict.fromkeys((record.measure, record.label) for record in records))
    kinds = [kind for kind in kinds if kind[0] != "ece_chance"]
    head = [Column(measure_name(*kind), hint=HINTS[kind[0]]) for kind in kinds]
    rows = []
    for group in groups:
        size = cells[group, "accuracy", None].n
        row = [Cell(group, head=True), Cell(count(size), float(size))]
        for kind in kinds:
            record = cells.get((group, *kind))
            row.append(Cell("") if record is None else _value(record, cells))
        rows.append(row)
    caption = "Each group's rates, with 95% intervals in small print"
    columns = [Column(column, False), Column("rows"), *head]
    return Table(f"group-values-{number}", caption, columns, rows, copy=True)


def _value(record: GroupRecord, cells: dict[tuple[str, str, str | None], GroupRecord]) -> Cell:
    if record.measure == "overconfidence":
        return signed_cell(record.value, record.value_interval)
    cell = score_cell(record.value, record.value_interval)
    by_chance = cells.get((record.group, "ece_chance", None))
    if record.measure != "ece" or by_chance is None:
        return cell
    return Cell(cell.text, cell.sort, f"chance {by_chance.value:.3f}")


def _differences(number: int, records: Sequence[GroupDifferenceRecord]) -> Table:
    columns = [
        Column("measure", False),
        Column("group", False),
        Column("minus group", False),
        Column("difference", hint="95% interval in small print"),
        Column("p (Holm)", hint="permutation test, corrected over this column; intervals are not"),
    ]
    ordered = sorted(records, key=lambda r: (2.0 if r.p_holm is None else r.p_holm, r.measure))
    rows = [
        [
            Cell(measure_name(r.measure, r.label), head=True),
            Cell(r.b),
            Cell(r.a),
            signed_cell(r.difference, r.difference_interval),
            corrected_cell(r.p_holm, r.p, tone=_tone(r.p_holm)),
        ]
        for r in ordered
    ]
    return Table(
        f"group-differences-{number}", "Differences between groups", columns, rows, tall=True
    )


def _tone(p: float | None) -> str:
    return "strong" if p is not None and p < SIGNIFICANT else ""
