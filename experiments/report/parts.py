"""The parts that every report is composed of; each is drawn by templates/parts/<kind>.html.j2.

A report of another kind of run is another list of these parts: nothing here knows what a probe is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from markupsafe import Markup

from .schema import Interval
from .words import ABSENT, finite, general, interval, number, p_value, signed

LONG = 40
"""Characters of a text that may break into lines in its cell."""


@dataclass(frozen=True)
class Cell:
    """One cell of a table: what is read, what it sorts by, and what adorns it."""

    text: str
    sort: float | int | str | None = None
    note: str = ""
    drawing: Markup | None = None
    tone: str = ""
    head: bool = False
    bar: float | int | None = None

    @property
    def key(self) -> str:
        """The sort key as an attribute; empty sorts last."""
        if self.sort is None:
            return "" if self.text in ("", ABSENT) else self.text
        if isinstance(self.sort, str):
            return self.sort
        return self.text if _reads_as(self.text, self.sort) else f"{self.sort:.6g}"

    @property
    def filled(self) -> float:
        """The filled share of the bar, from 0 to 1, whatever the value is."""
        return min(max(finite(self.bar) or 0.0, 0.0), 1.0)

    def style(self, numeric: bool) -> str:
        """Classes of the cell's element."""
        tone = self.tone if self.tone in ("strong", "code") else ""
        width = "n" if numeric else "long" if len(self.text) > LONG else ""
        return f"{width} {tone}".strip()


def _reads_as(text: str, value: float | int) -> bool:
    """Whether a text in fixed notation is this number, rounded:
    what the page's script sorts by then.
    """
    digits = text.partition(".")[2]
    try:
        shown = float(text.replace("−", "-").replace(",", ""))
    except ValueError:
        return False
    return "e" not in text and abs(shown - value) <= 0.51 * 10.0 ** -len(digits)


@dataclass(frozen=True)
class Column:
    """A table's column: its name, whether it holds numbers, and a word of explanation."""

    name: str
    numeric: bool = True
    hint: str = ""


@dataclass(frozen=True)
class Table:
    """A table that scrolls inside its own frame and sorts by any column."""

    kind: ClassVar[str] = "table"
    uid: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    sortable: bool = True
    tall: bool = False
    compact: bool = False
    copy: bool = False
    shows: bool = True  # the caption, which otherwise only a screen reader hears


@dataclass(frozen=True)
class Text:
    """Paragraphs of plain text."""

    kind: ClassVar[str] = "text"
    paragraphs: Sequence[str]
    lead: bool = False


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    kind: ClassVar[str] = "heading"
    text: str
    about: str = ""


@dataclass(frozen=True)
class Stats:
    """The few numbers to take home: (name, value, detail)."""

    kind: ClassVar[str] = "stats"
    items: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Drawing:
    """One chart: its wide and narrow form, and the key of what the pointer reads."""

    uid: str
    wide: Markup
    caption: str
    label: str
    narrow: Markup | None = None


@dataclass(frozen=True)
class Picture:
    """One drawing, or several small ones abreast."""

    kind: ClassVar[str] = "picture"
    drawings: Sequence[Drawing]
    small: bool = False


@dataclass(frozen=True)
class Multiples:
    """Small drawings of one kind abreast, each with a sentence: (name, drawing, sentence)."""

    kind: ClassVar[str] = "multiples"
    drawings: Sequence[tuple[str, Markup, str]]


@dataclass(frozen=True)
class Matrix:
    """All pairs compared: the drawing, and the key of the data from which its table is made."""

    kind: ClassVar[str] = "matrix"
    uid: str
    drawing: Markup
    caption: str
    pairs: int


@dataclass(frozen=True)
class Heat:
    """Marks that the pointer reads: a grid of effects with its key, or a scatter.

    Args:
        patterns: a click shows a head's pattern; the patterns are in the page's data.
        lists: a click lists what the cell holds, from the page's data.
        paints: what the cells can be shaded by; the shades are in the page's data, the first is
            drawn.
    """

    kind: ClassVar[str] = "heat"
    uid: str
    drawing: Markup
    caption: str
    patterns: bool = False
    lists: bool = False
    paints: Sequence[str] = ()
    label: str = "Grid of effects"
    key: bool = True
    up: str = "metric higher with the edit"
    down: str = "metric lower with the edit"


@dataclass(frozen=True)
class Attention:
    """Patterns to look through: text, layer, head and word; the patterns are in the page's data
    under the same key.

    Args:
        shows: what a word's line of numbers is: (key, name).
        paints: statistics that the overview can be coloured by.
    """

    kind: ClassVar[str] = "attention"
    uid: str
    texts: Sequence[str]
    shows: Sequence[tuple[str, str]]
    paints: Sequence[str]


@dataclass(frozen=True)
class Map:
    """Words in the plane, layer by layer; points,
    labels and neighbours are in the page's data under the same key.
    """

    kind: ClassVar[str] = "map"
    uid: str
    methods: Sequence[tuple[str, str]]
    colours: Sequence[str]
    layers: Sequence[str]


@dataclass(frozen=True)
class Fold:
    """Parts that open on demand."""

    kind: ClassVar[str] = "fold"
    summary: str
    parts: Sequence[Any]
    open: bool = False


@dataclass(frozen=True)
class Choice:
    """A table whose numbers belong to one of several layers, chosen by name."""

    kind: ClassVar[str] = "choice"
    uid: str
    label: str
    options: Sequence[str]
    chosen: int
    table: Table


@dataclass(frozen=True)
class Mistake:
    """A sentence with one word marked: what it is and what was said of it."""

    before: str
    word: str
    after: str
    gold: str
    predicted: str
    confidence: str
    source: str
    where: str

    @property
    def pair(self) -> str:
        """The confusion that this mistake is one of."""
        return f"{self.gold} → {self.predicted}"


@dataclass(frozen=True)
class Mistakes:
    """Confident mistakes as sentences, to be narrowed to one confusion."""

    kind: ClassVar[str] = "mistakes"
    uid: str
    rows: Sequence[Mistake]
    pairs: Sequence[tuple[str, int]]
    first: int = 10


@dataclass(frozen=True)
class Mark:
    """A stretch of a text: its shade (``up1`` to ``up4``, ``down1`` to ``down4``, or none)
    and its hint.
    """

    text: str
    shade: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Marked:
    """The same text once for each method, its words shaded by their scores: (name, figures,
    stretches).
    """

    kind: ClassVar[str] = "marked"
    rows: Sequence[tuple[str, str, Sequence[Mark]]]


@dataclass(frozen=True)
class Contexts:
    """Sentences with one word marked, with its value, its label and its source."""

    kind: ClassVar[str] = "contexts"
    rows: Sequence[Mistake]


@dataclass(frozen=True)
class Notes:
    """What a reader must know before believing: (badge, tone, text)."""

    kind: ClassVar[str] = "notes"
    rows: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Pairs:
    """Names and values: (name, value, whether it is code)."""

    kind: ClassVar[str] = "pairs"
    title: str
    rows: Sequence[tuple[str, str, bool]]

    @property
    def short(self) -> bool:
        """Whether all values are short enough to stand in two columns."""
        return len(self.rows) > 3 and all(len(value) < 32 for _, value, _ in self.rows)


@dataclass(frozen=True)
class Command:
    """A command to copy."""

    kind: ClassVar[str] = "command"
    uid: str
    text: str


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading and a place in the table of contents.

    Args:
        title: its name in the table of contents.
        headline: what it shows, in a sentence, in place of its name above it.
    """

    uid: str
    title: str
    parts: Sequence[Any]
    about: str = ""
    badges: Sequence[tuple[str, str]] = ()
    study: bool = False
    headline: str = ""


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    kicker: str
    facts: Sequence[str]
    findings: Sequence[tuple[str, str, str]]
    sections: Sequence[Section]
    data: dict[str, Any] = field(default_factory=dict)


def score_cell(value: Any, ends: Interval | None = None, *, tone: str = "") -> Cell:
    """A score, with its interval in small print."""
    return Cell(number(value), finite(value), interval(ends), tone=tone)


def signed_cell(value: Any, ends: Interval | None = None) -> Cell:
    """A change, with its sign and its interval in small print."""
    return Cell(signed(value), finite(value), interval(ends))


def corrected_cell(corrected: float | None, p: float | None, *, tone: str = "") -> Cell:
    """A p or q corrected for many tests, with the uncorrected p,
    which belongs to the interval beside it, in small print.
    """
    note = "" if p is None else f"uncorrected {p_value(p)}"
    return Cell(p_value(corrected), finite(corrected), note, tone=tone)


def plain_cell(value: Any) -> Cell:
    """Whatever a record holds, as text that sorts the way it should."""
    if value is None:
        return Cell(ABSENT)
    if isinstance(value, bool):
        return Cell("yes" if value else "no", float(value))
    x = finite(value)
    if x is not None:
        text = f"{int(x):,}" if isinstance(value, int) else general(x)
        return Cell(text, x)
    if isinstance(value, float):
        return Cell(ABSENT)
    if isinstance(value, (list, tuple)):
        return Cell(", ".join(plain_cell(v).text for v in value))
    return Cell(str(value))
