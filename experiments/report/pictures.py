"""The pictures of a report as files of their own, and its first table as plain HTML:
what a notebook shows.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from layerscope.errors import InputError

from .parts import Cell, Fold, Heat, Matrix, Multiples, Page, Table
from .parts import Picture as Drawn
from .style import standalone_style

MARGIN = 12
"""Pixels of paper around a picture."""
ENDINGS = (".svg", ".pdf", ".png")
PNG_SCALE = 3
"""Pixels of a PNG for each of the picture's: about 300 to the inch where it fills a page."""


@dataclass(frozen=True)
class Picture:
    """A picture as SVG text that needs nothing from outside.

    Attributes:
        title: what it shows.
        svg: the file's text.
    """

    title: str
    svg: str

    def save(self, path: Path | str) -> Path:
        """Write it as SVG, PDF or PNG, as the file's name ends; returns where.

        Raises:
            InputError: another ending, or PDF or PNG without the package that makes them.
        """
        path = Path(path)
        ending = path.suffix.lower()
        if ending not in ENDINGS:
            raise InputError(
                f"{path.name}: expected a name that ends in {', '.join(ENDINGS)}, "
                f"got {ending or 'no ending'}"
            )
        if ending == ".svg":
            path.write_text(self.svg, encoding="utf-8")
        else:
            path.write_bytes(_converted(self.svg, ending))
        return path

    def _repr_html_(self) -> str:
        """As an image, so that its style stays its own."""
        coded = base64.b64encode(self.svg.encode()).decode()
        return (
            f'<img alt="{escape(self.title)}" style="max-width:100%" '
            f'src="data:image/svg+xml;base64,{coded}">'
        )

    def __repr__(self) -> str:
        return f"<Picture: {self.title}>"


def _converted(svg: str, ending: str) -> bytes:
    """A picture as PDF or PNG."""
    try:
        import cairosvg
    except (ImportError, OSError) as error:  # OSError: the package without the cairo library
        raise InputError(
            f"{ending} needs the package cairosvg and the cairo library ({error}): "
            "pip install 'layerscope[figures]', or save as .svg"
        ) from None
    if ending == ".pdf":
        return bytes(cairosvg.svg2pdf(bytestring=svg.encode()) or b"")
    return bytes(cairosvg.svg2png(bytestring=svg.encode(), scale=PNG_SCALE) or b"")


def pictures(page: Page) -> list[Picture]:
    """Every picture of a run's report, in its order."""
    drawings = []
    for part in _parts(page):
        if isinstance(part, Drawn):
            drawings += [Picture(drawing.label, alone(drawing.wide)) for drawing in part.drawings]
        elif isinstance(part, Heat):
            drawings.append(Picture(part.label, alone(part.drawing)))
        elif isinstance(part, Multiples):
            drawings += [Picture(name, alone(drawing)) for name, drawing, _ in part.drawings]
        elif isinstance(part, Matrix):
            drawings.append(Picture(part.caption, alone(part.drawing)))
    return drawings


def _cell_html(cell: Cell) -> str:
    note = f" <small>{escape(cell.note)}</small>" if cell.note else ""
    return f"<td>{escape(cell.text)}{note}</td>"


def first_table(page: Page) -> str:
    """The report's first table, without its style and without columns that are only drawn."""
    table = next((part for part in _parts(page) if isinstance(part, Table)), None)
    if table is None:
        return ""
    filled_columns = [
        place for place in range(len(table.columns)) if any(row[place].text for row in table.rows)
    ]
    head = "".join(f"<th>{escape(table.columns[place].name)}</th>" for place in filled_columns)
    rows = ("".join(_cell_html(row[place]) for place in filled_columns) for row in table.rows)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    caption = f"<caption>{escape(table.caption)}</caption>"
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def alone(drawing: str) -> str:
    """An inline drawing as an SVG file: with its namespace, its size,
    its style and a light background.
    """
    opening = re.match(r"<svg[^>]*>", drawing)
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawing)
    if opening is None or box is None:
        raise InputError(f"expected an svg element with a viewBox from 0 0, got {drawing[:60]!r}")
    width, height = (float(side) + 2 * MARGIN for side in box.groups())
    attrs = f' xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}"'
    view = f'viewBox="{-MARGIN} {-MARGIN} {width:g} {height:g}"'
    start = (
        re.sub(r' (?:width|height)="[^"]*"', "", opening.group()).replace(box.group(), view)[:-1]
        + attrs
        + ">"
    )
    paper = (
        f'<rect class="paper" x="{-MARGIN}" y="{-MARGIN}" width="{width:g}" height="{height:g}"/>'
    )
    return f"{start}<style>{standalone_style()}</style>{paper}{drawing[opening.end() :]}"


def _parts(page: Page) -> Iterator[Any]:
    for section in page.sections:
        yield from _flat(section.parts)


def _flat(parts: Iterable[Any]) -> Iterator[Any]:
    for part in parts:
        yield part
        if isinstance(part, Fold):
            yield from _flat(part.parts)
