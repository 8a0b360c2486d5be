"""The terminal's tables of ``layerscope usage``."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from ...report.terminal_tables import titled
from ...sweep.tables import interval_text, p_text
from .records import UsageRecord


def tables(records: Sequence[UsageRecord]) -> list[Table]:
    """The erasure at every layer."""
    erased = [record for record in records if record.value == "erase"]
    first = erased[0]
    rows = (
        (
            str(record.layer),
            f"{record.decodable:.3f}",
            f"{record.erased_linear:.3f}",
            f"{record.erased_mlp:.3f}",
            f"{record.effect:+.3f}",
            interval_text(record.low, record.high),
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
