"""Tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rich.table import Table

from .schema import Interval
from .words import plain_number

SMALLEST_P = 1e-300
"""Smaller p-values are lost in the arithmetic of tails."""


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


def number_cell(value: float | None, form: str = ".3f", absent: str = "n/a") -> str:
    if value is None:
        return absent
    return plain_number(value, form) if math.isfinite(value) else "infinite"


def p_cell(p: float | None, absent: str = "n/a") -> str:
    """A p-value, never shown as 0; ``absent`` if nothing was tested.

    >>> p_cell(0.0312), p_cell(2.5e-5), p_cell(0.0), p_cell(None)
    ('0.0312', '2.5e-05', '<1e-300', 'n/a')
    """
    if p is None:
        return absent
    if p < SMALLEST_P:
        return f"<{SMALLEST_P:.0e}"
    return f"{p:.4f}" if p >= 0.001 else f"{p:.1e}"


def interval_cell(ends: Interval | None, form: str = ".3f") -> str:
    """An interval; a dash if there is none."""
    if ends is None:
        return "-"
    return f"{number_cell(ends.low, form)} to {number_cell(ends.high, form)}"
