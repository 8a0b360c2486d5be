"""Items that cannot be measured are left out, counted and named; too many of them are an error."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from layerscope.errors import LayerscopeError

from ..corpus.items import Check
from ..corpus.prompts import Item, Prompt, Unusable, read_prompts
from ..report.schema import Note
from ..subject import Subject
from .metrics import images_of, sounds_of
from .reads import ItemError, MetricError

AnyItem = TypeVar("AnyItem", bound=Item)
Read = TypeVar("Read")
Made = TypeVar("Made")
AnyCorpus = TypeVar("AnyCorpus")

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
        # All at once first: most files have nothing to leave out, and one by one each text is
        # encoded twice.
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


def usable_texts(
    path: Path,
    allowed: float,
    limit: int | None = None,
    what: str = "items",
) -> tuple[list[Prompt], list[Note]]:
    """The prompts of a file that are read as texts, with or without an answer, and what of it is
    left out.

    Raises:
        PromptError: a file that cannot be read.
        MetricError: more is left out than is allowed.
    """
    unusable: list[Unusable] = []
    prompts = read_prompts(path, limit, answers=False, unusable=unusable)
    check_share(unusable, len(prompts) + len(unusable), allowed, what)
    return prompts, unusable_notes(unusable, len(prompts), what)


def usable_items(
    path: Path, read: Callable[..., AnyCorpus], check: Check, allowed: float
) -> tuple[AnyCorpus, list[Note]]:
    """The items of a table of pictures or sounds, and what of it is left out.

    Args:
        read: `read_items` or `all_items`.
        check: see there.

    Raises:
        PromptError: a table that cannot be read.
        MetricError: more is left out than is allowed.
    """
    unusable: list[Unusable] = []
    items = read(path, check, unusable)
    parts: list[Any] = list(items.values()) if isinstance(items, Mapping) else [items]
    kept, what = sum(part.n_words for part in parts), f"items of {path.name}"
    check_share(unusable, kept + len(unusable), allowed, what)
    return items, unusable_notes(unusable, kept, what)


def usable_each(
    items: Sequence[AnyItem],
    make: Callable[[AnyItem], Made],
    unusable: list[Unusable],
    allowed: float,
) -> list[tuple[AnyItem, Made]]:
    """What is made of each item, for items that are read one by one.

    An item that is of no file is an error where it cannot be used, and so is a file all of whose
    items fail for one reason: that is the command's, not theirs.

    Args:
        make: raises a `LayerscopeError` for an item that cannot be used.
        unusable: what was left out before; what is left out here is added.
        allowed: the largest share of all items that may be left out.

    Raises:
        MetricError: more are left out than that.
    """
    made: list[tuple[AnyItem, Made]] = []
    errors: list[LayerscopeError] = []
    total = len(items) + len(unusable)
    for item in items:
        try:
            made.append((item, make(item)))
        except LayerscopeError as error:
            line = getattr(item, "line", None)
            if line is None:
                raise
            errors.append(error)
            unusable.append(Unusable(line, getattr(error, "why", str(error))))
    if errors and not made and len({str(error) for error in errors}) == 1:
        raise errors[0]
    check_share(unusable, total, allowed)
    return made


def with_pictures(
    items: Sequence[AnyItem], unusable: list[Unusable], allowed: float
) -> list[AnyItem]:
    """The items but those of a file whose picture or sound is not there; before a model is loaded.

    Raises:
        MetricError: more are left out than is allowed.
    """
    there = usable_each(
        items, lambda item: images_of([item]) + sounds_of([item]), unusable, allowed
    )
    return [item for item, _ in there]


def check_share(
    unusable: Sequence[Unusable], total: int, allowed: float, what: str = "items"
) -> None:
    """Refuse to measure what is left of a file when too much of it is left out.

    Raises:
        MetricError: naming the first ones.
    """
    count = len(unusable)
    if not count or (count < total and count <= allowed * total):
        return
    text = f"{count} of {total} {what} cannot be measured"
    if count < total:
        # Rounded up, so that the advice is enough; in front of the names, which may be cut.
        share = math.ceil(100 * count / total) / 100
        text += f": correct them, or leave them out with --skip {share:g}"
    raise MetricError(f"{text} ({_named(unusable)})")


def unusable_notes(unusable: Sequence[Unusable], kept: int, what: str = "items") -> list[Note]:
    """How many items were left out, and why."""
    if not unusable:
        return []
    text = f"{len(unusable)} of {len(unusable) + kept} {what} left out: {_named(unusable)}"
    return [Note(kind="dropped", text=text)]


def item_notes(unusable: Sequence[Unusable], items: Sequence[Any], subject: Subject) -> list[Note]:
    """What was left out of the items, and what may be wrong with those that are measured."""
    return [*unusable_notes(unusable, len(items)), *joined_notes(items, subject)]


def joined_notes(items: Sequence[Any], subject: Subject) -> list[Note]:
    """Whether a space is missing: a prompt that ends in a letter, and an answer that begins with
    one, are measured as one word ("that" + "she").

    Only letters with capitals count: other scripts may have no spaces between words.

    Args:
        items: prompts, or questions that are made of prompts.
        subject: a masked model's answer, a class and an encoder-decoder's target continue nothing.
    """
    if not subject.continues or subject.has_decoder or subject.classes:
        return []
    joined: list[str] = []
    for item in items:
        prompt, answer = getattr(item, "prompt", None), getattr(item, "answer", None)
        if isinstance(answer, int):
            answer = item.choices[answer]
        if not prompt or not answer or getattr(item, "audio", None) is not None:
            continue
        if all(letter.lower() != letter.upper() for letter in (prompt[-1], answer[0])):
            joined.append(f"{prompt.split()[-1]!r} + {answer!r}")
    if not joined:
        return []
    text = (
        f"{len(joined)} of {len(items)} answers continue the last word of their prompt, such as "
        f"{joined[0]}: does the answer need a space in front?"
    )
    return [Note(kind="warning", text=text)]


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
