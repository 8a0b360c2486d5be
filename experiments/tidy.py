"""The records of a run as a tidy table: one row a value, no lists in cells;
for data frames and ``records.csv``.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from .report.schema import tidy
from .studies import STUDIES

Row = dict[str, Any]


def tidy_rows(results: Mapping[str, Any]) -> list[Row]:
    """The rows of a run's records.

    A study whose records hold a value for each of several units, such as words, says in
    ``records.rows`` how they become rows. Of other records, lists are left out: they stay in
    results.json.
    """
    rows_of = getattr(STUDIES[str(results["kind"])].part("records"), "rows", _one_row)
    return [row for record in results["records"] for row in rows_of(record)]


def _one_row(record: Mapping[str, Any]) -> list[Row]:
    return [plain_fields(record)]


def plain_fields(record: Mapping[str, Any]) -> Row:
    """The fields that a cell can hold; the ends of an interval are two of them."""
    return {name: value for name, value in tidy(record).items() if not isinstance(value, list)}


def as_csv(rows: Sequence[Row]) -> str:
    """A table as CSV; a missing value is an empty cell."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    table = csv.DictWriter(text, names, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()
