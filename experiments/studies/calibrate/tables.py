"""The terminal's tables of ``layerscope calibrate``."""

from __future__ import annotations

from rich.table import Table

from ...calibration.tables import confidence_tables, group_tables
from .records import Results


def tables(results: Results) -> list[Table]:
    """Every confidence on a line, then groups of rows, where some were compared."""
    groups = group_tables(results.groups, results.group_differences)
    return [*confidence_tables(results.records), *groups]
