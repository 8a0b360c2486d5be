"""Tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rich.table import Table

from .schema import Interval


def titled(
    title: str,
    headings: str | Sequence[str],
    rows: Iterable[Sequence[str]],
    left: Sequence[str] = (),
) -> Table:
    """A table; its headings, perhaps between bars, are to the right, as numbers are,
    but for those named in ``left``.
    """
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


def p_cell(p: float | None) -> str:
    """A p-value; n/a where nothing was tested."""
    return "n/a" if p is None else f"{p:.4f}"


def interval_cell(ends: Interval | None, form: str = ".3f") -> str:
    """An interval; a dash where there is none."""
    return "-" if ends is None else ends.text(form)
