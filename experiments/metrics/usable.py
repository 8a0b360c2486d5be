"""Items that cannot be measured are left out, counted and named; too many of them are an error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from ..corpus.prompts import Item, Unusable
from ..report.schema import Note
from .reads import ItemError, MetricError

AnyItem = TypeVar("AnyItem", bound=Item)
Read = TypeVar("Read")

NAMED = 3
"""Items that are named; the others are counted."""


def usable(
    items: Sequence[AnyItem],
    read: Callable[[Sequence[AnyItem]], Read],
    unusable: list[Unusable],
    allowed: float,
) -> tuple[list[AnyItem], Read]:
    """The items that can be measured, and where they are read.

    Args:
        read: raises `ItemError` for an item that cannot be measured.
        unusable: what was left out before; what is left out here is added.
        allowed: the largest share of all items that may be left out.

    Raises:
        MetricError: more are left out than that, or all.
    """
    kept, total = list(items), len(items) + len(unusable)
    try:
        reads = read(kept)
    except ItemError:
        kept = []
        for item in items:
            try:
                read([item])
            except ItemError as error:
                unusable.append(Unusable(getattr(item, "line", None), error.why))
            else:
                kept.append(item)
        reads = None
    check_share(unusable, total, allowed)
    return kept, read(kept) if reads is None else reads


def check_share(unusable: Sequence[Unusable], total: int, allowed: float) -> None:
    """Refuse to measure what is left of a file when too much of it is left out.

    Raises:
        MetricError: naming the first ones.
    """
    if len(unusable) == total or len(unusable) > allowed * total:
        way_on = "" if len(unusable) == total else f": mend them, or allow a larger share than --skip {allowed:g}"
        raise MetricError(f"{len(unusable)} of {total} items cannot be measured ({_named(unusable)}){way_on}")


def unusable_notes(unusable: Sequence[Unusable], kept: int) -> list[Note]:
    """How many items were left out, and why."""
    if not unusable:
        return []
    text = f"{len(unusable)} of {len(unusable) + kept} items left out: {_named(unusable)}"
    return [Note(kind="dropped", text=text)]


def _named(unusable: Sequence[Unusable]) -> str:
    names = [str(one) for one in unusable[:NAMED]]
    if len(unusable) > NAMED:
        names.append(f"and {len(unusable) - NAMED} more")
    return "; ".join(names)
