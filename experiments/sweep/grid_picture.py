"""A grid of effects: a row for each layer, a column for each head or token,
coloured by the effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..report.axes import Cells
from ..report.canvas import Box, px, rect, svg
from ..report.matrix import step_of
from ..report.words import general, interval, p_value, plural, signed
from .reading import LEVEL, STACKS, row_of, significant, stack_of
from .records import EffectRecord

CELLS = 4000
"""Cells that a drawing can hold; a grid with more is a ranking."""
FAINT = 0.02
"""Effects below this share of the scale's end stay grey."""
SIGN_SIDE = 13.0
"""Pixels of a cell's side from which it holds a sign."""
TOKEN_SIDE = 26.0
"""Pixels of a cell's side where columns are tokens."""
LEAST_SIDE, LARGEST_SIDE = 7.0, 30.0
SPAN = 620.0
"""Pixels that the cells may take, across and down."""
LEFT, TOP = 34.0, 6.0
"""Where the cells begin."""
TOKEN_LETTERS = 12
"""Letters of a token that are shown."""


def effect_grid(
    records: Sequence[EffectRecord],
    *,
    uid: str,
    title: str,
    names: Sequence[str],
    tokens: Sequence[str] = (),
    shares: bool = False,
) -> tuple[str, list[list[str]], str] | None:
    """The drawing, what the pointer reads (name, effect, interval and tests) and a caption; None
    for too many cells.

    Orange cells make the metric lower when they are edited, blue ones higher, in four shades by
    size. Cells whose false discovery rate is below 5% have an outline.

    Args:
        tokens: names of the columns, if they are positions of a text.
        shares: colour by ``normalised``, which every record must have, on a scale that ends at 1.
    """
    if not records or len(records) > CELLS:
        return None
    if shares:
        sizes = [float(record.normalised or 0.0) for record in records]
        end = 1.0
    else:
        sizes = [record.effect for record in records]
        end = max(map(abs, sizes))
    grid = _Layout.of(records, with_tokens=bool(tokens))
    body, tips = [], []
    for record, name, size in zip(records, names, sizes, strict=True):
        x, y = grid.corner(record)
        is_significant = bool(significant([record]))
        body += _cell(size, end, is_significant, len(tips), x, y, grid.cells.width, grid.gap)
        tips.append([name, _effect_text(record, shares), _tests_text(record)])
    body += _ticks(grid, tokens, axis=records[0].component.removesuffix("s"))
    caption = _caption(records, shares, end)
    width = f' width="{px(grid.box.width)}"'
    picture = svg(grid.box, body, title=title, desc=caption, uid=f"{uid}-svg", attrs=width)
    return picture, tips, caption


def _ticks(grid: _Layout, tokens: Sequence[str], axis: str) -> list[str]:
    """Numbers of the layers, and under the columns tokens or numbers;
    nothing there where there is one column.
    """
    cells = grid.cells
    # With the stack's letter where there are several.
    has_stacks = len({stack for stack, _ in grid.rows}) > 1
    letters = list(STACKS) if has_stacks else [""] * len(STACKS)
    ticks = cells.row_ticks([f"{letters[stack]}{layer}" for stack, layer in grid.rows])
    if len(grid.columns) < 2:
        return ticks
    if tokens:
        for column, at in enumerate(grid.columns):
            ticks.append(cells.slanted_tick(column, _shortened(tokens[at])))
        return ticks
    ticks += cells.column_ticks([str(column) for column in grid.columns])
    return [*ticks, cells.columns_name(axis)]


def _shortened(token: str) -> str:
    """A token, cut to what there is room for."""
    return token if len(token) <= TOKEN_LETTERS else f"{token[: TOKEN_LETTERS - 1]}…"


@dataclass(frozen=True)
class _Layout:
    """Where the cells of a grid are, in pixels.

    Attributes:
        rows, columns: what the rows (stack and layer) and columns are, in order.
        cells: their places, with the gap to the next included in their size.
    """

    rows: list[tuple[int, int]]
    columns: list[int]
    cells: Cells
    gap: float
    box: Box

    @classmethod
    def of(cls, records: Sequence[EffectRecord], with_tokens: bool) -> _Layout:
        """Cells as large as the page allows; larger ones where tokens name the columns."""
        rows = sorted({row_of(record) for record in records})
        columns = sorted({record.index or 0 for record in records})
        side = max(LEAST_SIDE, min(LARGEST_SIDE, SPAN / max(len(columns), 1), SPAN / len(rows)))
        if with_tokens:
            side = max(side, TOKEN_SIDE)
        cells = Cells(LEFT, TOP, side, side, len(rows), len(columns))
        under = (90 if with_tokens else 34) if len(columns) > 1 else 8
        beside = 40 if with_tokens else 6  # the last token is written aslant
        return cls(
            rows,
            columns,
            cells,
            gap=1.0 if side < 16 else 2.0,
            box=Box(cells.right + beside, cells.bottom + under),
        )

    def corner(self, record: EffectRecord) -> tuple[float, float]:
        """The upper left corner of a record's cell."""
        column = self.columns.index(record.index or 0)
        row = self.rows.index(row_of(record))
        return self.cells.x(column), self.cells.y(row)


def _cell(
    size: float,
    end: float,
    outlined: bool,
    number: int,
    x: float,
    y: float,
    side: float,
    gap: float,
) -> list[str]:
    """One cell, coloured by its size on a scale to ``end``."""
    # A scale that ends at 0 has nothing to colour.
    faint = abs(size) < FAINT * end or end == 0
    step = step_of(size, end)
    kind = "even" if faint else f"{'up' if size > 0 else 'down'}{step}"
    classes = f"m-{kind} m-clear" if outlined else f"m-{kind}"
    out = [rect(f'class="{classes}" data-k="{number}"', x, y, side - gap, side - gap)]
    if not faint and side >= SIGN_SIDE:
        sign = "+" if size > 0 else "−"
        middle = px(x + (side - gap) / 2)
        out.append(
            f'<text class="m-text m-sign m-on{step}" text-anchor="middle" x="{middle}" '
            f'y="{px(y + side / 2 + 2.6)}">{sign}</text>'
        )
    return out


def _effect_text(record: EffectRecord, shares: bool) -> str:
    """The effect, and for shares the share in front of it."""
    if not shares:
        return signed(record.effect)
    return f"{signed(record.effect)}, {signed(record.normalised, 2)} of the way"


def _tests_text(record: EffectRecord) -> str:
    """The interval and the tests of an effect."""
    if not record.exact:
        tests = "an estimate"
    elif record.p is None:
        tests = "cannot be tested"
    else:
        tests = f"p = {p_value(record.p)}, q = {p_value(record.q)}".replace("= <", "< ")
    span = interval(record.effect_interval)
    return f"{span}; {tests}" if span else tests


def _caption(records: Sequence[EffectRecord], shares: bool, end: float) -> str:
    """What the colours mean, and how many cells have an outline."""
    what = "recovery, on a scale from 0 to 1" if shares else f"effect, on a scale to {general(end)}"
    testable = any(record.p is not None for record in records)
    passing = len(significant(records))
    outlined = "Effects cannot be tested."
    if testable:
        verb = "is" if passing == 1 else "are"
        outlined = (
            f"{plural(passing, 'outlined cell')} {verb} significant "
            f"(false discovery rate below {LEVEL})."
        )
    stacks = dict.fromkeys(stack_of(record.site) for record in records)
    named = ""
    if len(stacks) > 1:
        named = " (" + ", ".join(f"{letter}: {STACKS[letter]}" for letter in stacks) + ")"
    rows = f"{plural(len(records), 'cell')}, layers from top to bottom{named}"
    return f"{rows}. Colour: {what}. {outlined}"
