"""Cells of a picture among the ids of a row: numbers above every vocabulary,
below those of a decoder's tokens.
"""

from __future__ import annotations

CELL, ABSENT = 1 << 30, 1 << 20
"""Id of the first cell, and what is added where a cell is grey."""


def as_cell(cell: int, absent: bool = False) -> int:
    """The id of a cell."""
    return CELL + cell + (ABSENT if absent else 0)


def is_cell(token: int) -> bool:
    """Whether an id of a row is a cell of a picture."""
    return CELL <= token < CELL + 2 * ABSENT


def cell_of(token: int) -> tuple[int, bool]:
    """The cell of an id, and whether it is grey.

    >>> cell_of(as_cell(3, absent=True))
    (3, True)
    """
    number = token - CELL
    return number % ABSENT, number >= ABSENT
