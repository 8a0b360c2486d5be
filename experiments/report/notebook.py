"""A run in a notebook's cell: the head of its page, with what the pointer reads, in a frame of its
own.

The frame is a document (``srcdoc``) with its style, script and data inside: it asks for nothing,
and neither its style nor its names meet those of the notebook or of another cell. Its script sets
its height. A viewer that shows no frames shows what stands before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html import escape
from typing import Any

from .packing import html_of, taken
from .parts import Attention, Page, Section, Table
from .render import document, environment

VIEWS = ("attention", "marked", "heat", "picture", "multiples", "map", "matrix")
"""Parts that are looked at."""
BESIDE = ("heading", "stats", "table")
"""Parts that are kept with them."""
MOST_VIEWS, MOST_ROWS, MOST_TEXTS = 3, 10, 3
HEAVY_CELL = 2_000_000
"""Characters from which a cell is no longer drawn: a notebook keeps every one of them."""
FIRST_HEIGHT = 420
"""Pixels until the frame knows its own height."""


def cell_html(page: Page, findings: Sequence[str], forced: str = "") -> str | None:
    """The findings and the frame, for ``_repr_html_``; None where the frame would be too heavy."""
    parts = [_shortened(part) for part in head_parts(page)]
    data = _cut_texts({kind: dict(entries) for kind, entries in page.data.items()})
    jinja = environment()
    body = html_of(jinja, parts)
    body_data = taken(data, body)
    text = document("cell.html.j2", page, body_data, body=body, forced=forced)
    if len(text) > HEAVY_CELL:
        return None
    paragraphs = "".join(f"<p>{escape(finding)}</p>" for finding in findings)
    frame = (
        f'<iframe title="{escape(page.title)}" srcdoc="{escape(text)}" loading="lazy" '
        f'style="width:100%;height:{FIRST_HEIGHT}px;border:0"></iframe>'
    )
    return paragraphs + frame


def head_parts(page: Page) -> list[Any]:
    """The first views of a page with their headings, numbers and tables;
    the first table of a page without views.
    """
    section = _first_viewed(page)
    kept: list[Any] = []
    views = 0
    for part in section.parts:
        is_view = part.kind in VIEWS
        if views == MOST_VIEWS and (is_view or part.kind == "heading"):
            break
        if is_view or part.kind in BESIDE:
            kept.append(part)
            views += is_view
    # a heading of parts that were left out says nothing
    followed = [*kept[1:], None]
    return [
        part
        for part, after in zip(kept, followed, strict=True)
        if part.kind != "heading" or (after is not None and after.kind != "heading")
    ]


def _first_viewed(page: Page) -> Section:
    for section in page.sections:
        if any(part.kind in VIEWS for part in section.parts):
            return section
    return page.sections[0]


def _shortened(part: Any) -> Any:
    """Long tables and lists of texts cut."""
    if isinstance(part, Table) and len(part.rows) > MOST_ROWS:
        caption = f"{part.caption}: the first {MOST_ROWS} of {len(part.rows)} rows"
        return replace(part, rows=part.rows[:MOST_ROWS], caption=caption, copy=False, shows=True)
    if isinstance(part, Attention):
        return replace(part, texts=part.texts[:MOST_TEXTS])
    return part


def _cut_texts(data: dict[str, Any]) -> dict[str, Any]:
    """The patterns of as many texts as `_shortened` leaves."""
    for uid, entry in data.get("attention", {}).items():
        data["attention"][uid] = {**entry, "texts": entry["texts"][:MOST_TEXTS]}
    return data
