"""The terminal's tables of ``layerscope ask``."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from ...calibration.records import JudgedRecord
from ...calibration.tables import confidence_tables
from ...report.terminal_tables import titled
from .records import WordsRecord


def tables(records: Sequence[WordsRecord | JudgedRecord]) -> list[Table]:
    """The kinds of words, or the confidences."""
    words = [record for record in records if isinstance(record, WordsRecord)]
    if not words:
        return confidence_tables([record for record in records if isinstance(record, JudgedRecord)])
    title = f"effect of removing words ({words[0].unit}; n = {words[0].n})"
    return [
        titled(
            title,
            "words|effect|95%|over random|95%|p",
            [_row(record) for record in words],
            ("words",),
        )
    ]


def _row(r: WordsRecord) -> list[str]:
    row = [r.words, f"{r.effect:+.3f}", _ends(r.low, r.high)]
    if r.over_random is None:
        return [*row, "", "", ""]
    p = "n/a" if r.p is None else f"{r.p:.4f}"
    return [*row, f"{r.over_random:+.3f}", _ends(r.over_random_low, r.over_random_high), p]


def _ends(low: float | None, high: float | None) -> str:
    return "n/a" if low is None or high is None else f"{low:.3f} to {high:.3f}"
