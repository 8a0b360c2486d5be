"""Tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

Records = Sequence[Mapping[str, Any]]


def titled(
    title: str,
    headings: str | Sequence[str],
    rows: Iterable[Sequence[str]],
    left: Sequence[str] = (),
) -> Table:
    """A table; its headings, perhaps between bars, are to the right, as numbers are, but for those named in ``left``."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for heading in headings.split("|") if isinstance(headings, str) else headings:
        table.add_column(heading, justify="left" if heading in left else "right")
    for row in rows:
        table.add_row(*row)
    return table


def number_cell(value: float | None) -> str:
    if value is None:
        return "n/a"
    return f"{value:.3f}" if math.isfinite(value) else "infinite"


def span_cell(record: Mapping[str, Any], name: str = "") -> str:
    """An interval."""
    low, high = record[f"{name}low"], record[f"{name}high"]
    return f"{low:.3f} to {high:.3f}"


def layer_cell(record: Mapping[str, Any]) -> str:
    return "emb" if record["layer"] < 0 else str(record["layer"])


def p_cell(record: Mapping[str, Any]) -> str:
    return "estimate" if record["p"] is None else f"{record['p']:.4f}"


def q_cell(record: Mapping[str, Any]) -> str:
    return "" if record["q"] is None else f"{record['q']:.4f}"
