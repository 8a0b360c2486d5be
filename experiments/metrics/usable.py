"""Items that cannot be measured are left out, counted and named; too many of them are an error."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from ..corpus.prompts import Item, Unusable
from ..report.schema import Note
from .reads import ItemError, MetricError

AnyItem = TypeVar("AnyItem", bound=Item)
Read = TypeVar("Read")

NAMED = 3
"""Reasons, and lines of a reason, that are named; the others are counted."""


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
    measurable, total = list(items), len(items) + len(unusable)
    try:
        # All at once first: most files have nothing to leave out, and one by one each text is encoded twice.
        reads = read(measurable)
    except ItemError:
        measurable = []
        for item in items:
            try:
                read([item])
            except ItemError as error:
                unusable.append(Unusable(getattr(item, "line", None), error.why))
            else:
                measurable.append(item)
        reads = None
    check_share(unusable, total, allowed)
    return measurable, read(measurable) if reads is None else reads


def check_share(unusable: Sequence[Unusable], total: int, allowed: float) -> None:
    """Refuse to measure what is left of a file when too much of it is left out.

    Raises:
        MetricError: naming the first ones.
    """
    count = len(unusable)
    if count < total and count <= allowed * total:
        return
    text = f"{count} of {total} items cannot be measured ({_named(unusable)})"
    if count < total:
        # Rounded up, so that the advice is enough.
        share = math.ceil(100 * count / total) / 100
        text += f": correct them, or leave them out with --skip {share:g}"
    raise MetricError(text)


def unusable_notes(unusable: Sequence[Unusable], kept: int) -> list[Note]:
    """How many items were left out, and why."""
    if not unusable:
        return []
    text = f"{len(unusable)} of {len(unusable) + kept} items left out: {_named(unusable)}"
    return [Note(kind="dropped", text=text)]


def _named(unusable: Sequence[Unusable]) -> str:
    """The reasons, each with its lines."""
    lines_of: dict[str, list[int | None]] = {}
    for one in unusable:
        lines_of.setdefault(one.why, []).append(one.line)
    reasons = [f"{_lines(lines)}{why}" for why, lines in lines_of.items()]
    return "; ".join(_first(reasons, " reasons"))


def _lines(lines: Sequence[int | None]) -> str:
    """``lines 3, 4: ``; nothing where they are not known."""
    known = [str(line) for line in lines if line is not None]
    if not known:
        return ""
    return f"line{'s' if len(known) > 1 else ''} {', '.join(_first(known))}: "


def _first(names: Sequence[str], noun: str = "") -> list[str]:
    """The first few, and how many follow."""
    rest = len(names) - NAMED
    return [*names[:NAMED], f"and {rest} more{noun}"] if rest > 0 else list(names)
