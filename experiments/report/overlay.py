"""A picture from a file with a grid of shaded cells over it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from markupsafe import Markup

from .canvas import Box, px, rect, svg
from .parts import Drawing

SIDE = 300.0
"""Pixels of a drawn picture's width."""
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")


@runtime_checkable
class ShownImage(Protocol):
    """What a record of a picture tells."""

    @property
    def jpeg(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> int: ...


@dataclass(frozen=True)
class Shade:
    """One cell's colour (a class of marks.css), its opacity, and what the pointer reads."""

    colour: str
    opacity: float
    tip: str


def overlay(
    image: ShownImage, shades: Sequence[Shade | None], *, uid: str, title: str, caption: str
) -> Drawing:
    """The picture with its cells shaded, row by row; None leaves a cell as it is."""
    height = SIDE * image.height / image.width
    across, down = SIDE / image.columns, height / image.rows
    body = []
    if _BASE64.fullmatch(image.jpeg):  # results that were edited may hold anything
        source = f"data:image/jpeg;base64,{image.jpeg}"
        size = f'width="{px(SIDE)}" height="{px(height)}"'
        body.append(f'<image href="{source}" {size} preserveAspectRatio="none"/>')
    for cell, shade in enumerate(shades):
        if shade is None:
            continue
        row, column = divmod(cell, image.columns)
        style = f'class="m-{shade.colour}" fill-opacity="{shade.opacity:.2f}"'
        body.append(rect(style, column * across, row * down, across, down, shade.tip))
    width = f' width="{px(SIDE)}"'
    drawing = svg(Box(SIDE, height), body, title=title, desc=caption, uid=f"{uid}-svg", attrs=width)
    return Drawing(uid, Markup(drawing), caption, title)
