"""The terminal's tables of ``layerscope ask``."""

from __future__ import annotations

from rich.table import Table

from ...calibration.records import JudgedRecord
from ...calibration.tables import confidence_tables
from ...report.terminal_tables import interval_cell, p_cell, titled
from .records import Results, WordsRecord


def tables(results: Results) -> list[Table]:
    """The kinds of words, or the confidences."""
    records = results.records
    words = [record for record in records if isinstance(record, WordsRecord)]
    if not words:
        return confidence_tables([record for record in records if isinstance(record, JudgedRecord)])
    title = f"effect of removing words ({words[0].unit}; n = {words[0].n})"
    return [
        titled(
            title,
            "words|effect|95%|over random|95%|p|p (Holm)",
            [_row(record) for record in words],
            ("words",),
        )
    ]


def _row(r: WordsRecord) -> list[str]:
    row = [r.words, f"{r.effect:+.3f}", interval_cell(r.effect_interval)]
    if r.over_random is None:
        return [*row, "", "", "", ""]
    over = (f"{r.over_random:+.3f}", interval_cell(r.over_random_interval))
    return [*row, *over, p_cell(r.p), p_cell(r.p_holm)]
