"""The section of heads: one table with what a reader needs first, and one with the rest, folded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...attention.head_roles import BROAD
from ...report.parts import Cell, Column, Fold, Section, Stats, Table, score_cell
from ...report.words import ABSENT, finite, number
from .page_effects import effect_cell, head_cell
from .records import HeadRecord, Results

MASSES = {
    "entropy": "normalised: 1 is uniform attention",
    "confidence": "largest weight on one token of the text",
    "distance": "mean distance in tokens, among tokens of the text",
    "first": "weight on the first token, BOS or CLS if there is one",
    "norm_first": "the first token's share of the norm of the attended values",
    "sink": "weight on the learned sink, which is not a token",
    "end": "weight on special tokens after the text",
    "punctuation": "weight on punctuation",
    "self": "weight on the token itself",
    "previous": "weight on the previous token",
    "next": "weight on the next token",
    "output": "size of the head's output to the residual stream",
    "induction": "weight on the token after the earlier copy, on repeated random tokens",
    "duplicate": "weight on the earlier copy, on repeated random tokens",
}
"""Statistics that are shown, in this order, and what each is."""
NAMES = {"norm_first": "first by value", "output": "contribution"}
"""What the page calls them, where it is not their name."""
SPANNED = ("entropy", "confidence", "distance", "first")
"""Statistics whose intervals the tables have."""
LEADING = ("entropy", "distance", "first", "self", "previous", "next")
"""Statistics of the first table, which fits a window without scrolling; the rest is folded."""
HEAD = Column("head", False)


def heads_section(results: Results) -> Section:
    """Every head with its role and numbers."""
    records = results.text_heads
    names = present(records)
    leading = [name for name in names if name in LEADING]
    others = [name for name in names if name not in LEADING]
    fold = Fold("More statistics of every head", [_table_of_others(results, others)])
    about = (
        "Means over tokens of the texts, with 95% intervals over texts in small print. "
        "The row “uniform” is a head with uniform attention on the same texts: "
        "compare every weight with it."
    )
    parts = [Stats(_counts(records)), _leading_table(results, leading), fold]
    return Section("heads", "Heads", parts, about, study=True)


def present(records: Sequence[HeadRecord]) -> list[str]:
    """The statistics that the records have, in the order of ``MASSES``."""
    return [
        name
        for name in MASSES
        if any(finite(getattr(record, name)) is not None for record in records)
    ]


def has_effects(records: Sequence[HeadRecord]) -> bool:
    """Whether the heads' effects were measured."""
    return any(finite(record.effect) is not None for record in records)


def _leading_table(results: Results, names: Sequence[str]) -> Table:
    """Role, main statistics and effect of each head."""
    with_effects = has_effects(results.text_heads)
    columns = [HEAD, Column("attends mostly to", False, "the named roles of the head")]
    columns += _statistic_columns(names)
    rows = [_uniform_row(results.uniform, names, between=1, behind=int(with_effects))]
    if with_effects:
        columns.append(Column("effect", hint="of ablating the head"))
    for record in results.text_heads:
        row = [head_cell(record), Cell(record.role)]
        row += [_statistic_cell(record, name) for name in names]
        if with_effects:
            row.append(effect_cell(record))
        rows.append(row)
    return Table("heads-table", "Every head", columns, rows, tall=True, copy=True)


def _table_of_others(results: Results, names: Sequence[str]) -> Table:
    """The other statistics of each head, and the head that is most like it."""
    nearest = Column("most like", False, "the head whose attention overlaps most, and by how much")
    columns = [HEAD, *_statistic_columns(names), nearest]
    rows = [_uniform_row(results.uniform, names, behind=1)]
    for record in results.text_heads:
        overlap = finite(record.nearest_similarity)
        text = f"{record.nearest} {number(overlap, 2)}" if record.nearest else ABSENT
        statistics = [_statistic_cell(record, name) for name in names]
        rows.append([head_cell(record), *statistics, Cell(text, overlap)])
    return Table("more-heads-table", "More statistics", columns, rows, tall=True, copy=True)


def _statistic_columns(names: Sequence[str]) -> list[Column]:
    return [Column(NAMES.get(name, name), hint=MASSES[name]) for name in names]


def _uniform_row(
    uniform: Mapping[str, float], names: Sequence[str], between: int = 0, behind: int = 0
) -> list[Cell]:
    """Uniform attention on the same texts, with empty cells where it has nothing to say."""
    # -1 sorts it above the first head.
    first = Cell("uniform", -1.0, "uniform attention", head=True)
    statistics = [score_cell(uniform.get(name)) for name in names]
    return [first, *[Cell("")] * between, *statistics, *[Cell("")] * behind]


def _statistic_cell(record: HeadRecord, name: str) -> Cell:
    value = getattr(record, name)
    if name not in SPANNED:
        return score_cell(value)
    return score_cell(value, getattr(record, f"{name}_interval"))


def _counts(records: Sequence[HeadRecord]) -> list[tuple[str, str, str]]:
    """How many heads are of each kind."""
    with_role = sum(bool(record.role) for record in records)
    sinks = sum(record.first >= 0.5 for record in records)
    follow = sum(bool(record.relation) for record in records)
    uniform = sum(record.entropy >= BROAD for record in records)
    return [
        ("heads", str(len(records)), f"{with_role} with a named role"),
        ("half on the first token", str(sinks), "weight 0.5 or more"),
        ("follow a dependency", str(follow), "10 points above the best fixed offset"),
        ("uniform", str(uniform), f"entropy {BROAD} or more"),
    ]
