"""The terminal's tables of ``layerscope usage``."""

from __future__ import annotations

from rich.table import Table

from ...report.terminal_tables import interval_cell, titled
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
            f"{record.decodable:.3f}",
            f"{record.erased_linear:.3f}",
            f"{record.erased_mlp:.3f}",
            f"{record.effect:+.3f}",
            interval_cell(record.effect_interval),
            "-" if record.null is None else f"{record.null:.3f}",
            p_text(record),
            "" if record.q is None else f"{record.q:.4f}",
        )
        for record in erased
    )
    title = (
        f"{first.property}: decodable, and used for {first.metric} ({first.unit}; n = {first.n})"
    )
    return [titled(title, "layer|decodable|after|by a network|effect|95%|random|p|q", rows)]
