"""The terminal's tables of ``layerscope usage``."""

from __future__ import annotations

from rich.table import Table

from ...report.terminal_tables import interval_cell, number_cell, p_cell, titled
from ...sweep.tables import p_text
from .records import Results


def tables(results: Results) -> list[Table]:
    """The erasure at every layer."""
    records = results.records
    erased = [record for record in records if record.value == "erase"]
    first = erased[0]
    rows = (
        (
            str(record.layer),
            number_cell(record.decodable),
            number_cell(record.erased_linear),
            number_cell(record.erased_mlp),
            number_cell(record.effect, "+.3f"),
            interval_cell(record.effect_interval),
            number_cell(record.null, absent="-"),
            p_text(record),
            p_cell(record.q, ""),
        )
        for record in erased
    )
    title = (
        f"{first.property}: decodable, and used for {first.metric} ({first.unit}; n = {first.n})"
    )
    return [titled(title, "layer|decodable|after|by a network|effect|95%|random|p|q", rows)]
