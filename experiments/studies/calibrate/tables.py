"""The terminal's tables of ``layerscope calibrate``."""

from __future__ import annotations

from rich.table import Table

from ...calibration.tables import confidence_tables as tables
from ...calibration.tables import group_tables
from .records import Results

__all__ = ["further_tables", "tables"]


def further_tables(results: Results) -> list[Table]:
    """Groups of rows, where some were compared."""
    return group_tables(results.groups, results.group_differences)
