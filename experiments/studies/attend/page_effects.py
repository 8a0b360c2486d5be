"""The section of effects: where heads look beside what the model loses without them;
and how a table shows both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from ...report.parts import (
    Cell,
    Column,
    Heat,
    Section,
    Stats,
    Table,
    score_cell,
)
from ...report.scatter import scatter
from ...report.words import finite, interval, number, p_value, plural, signed
from .records import (
    Disagreement,
    HeadRecord,
)

HEAD_ORDER = 1000.0
"""A layer's heads sort together: fewer heads than this in a layer."""


def effects_section(
    apart: Disagreement, records: Sequence[HeadRecord], data: dict[str, Any]
) -> Section:
    """Each head's effect over its confidence, and the heads for which the two disagree."""
    measured = [(record, record.effect) for record in records if record.effect is not None]
    metric = f"{apart.metric}, {apart.unit}"
    tips = [
        [r.name, signed(effect), f"confidence {number(r.confidence)}"] for r, effect in measured
    ]
    data["heats"]["apart"] = {"metric": str(apart.metric), "tips": tips}
    words = f"Effect of ablating each of {plural(len(measured), 'head')} over its confidence."
    drawing = scatter(
        [(record.confidence, effect) for record, effect in measured],
        uid="apart",
        title="Effect and confidence of every head",
        desc=words,
        x_title="confidence",
        y_title=f"effect on {metric}",
        one_scale=False,
    )
    items = [
        (f"Spearman with {name}", signed(rho, 2), f"of |effect|, {apart.n} heads")
        for name, rho in apart.spearman.items()
    ]
    about = (
        "Attention weight is not importance. Sharp, not needed: a head in the most "
        "confident quarter without a significant effect (FDR < 0.05). Diffuse, needed: "
        "a head in the least confident quarter with a significant one."
    )
    parts = [
        Stats(items),
        Heat("apart", Markup(drawing), words, label="Effect over confidence", key=False),
        _disagreement_table(apart, [record for record, _ in measured], metric),
    ]
    return Section("effects", "Attention and effect", parts, about, study=True)


def _disagreement_table(apart: Disagreement, records: Sequence[HeadRecord], metric: str) -> Table:
    """The heads whose attention and effect disagree."""
    kinds = dict.fromkeys(apart.sharp_unneeded, "sharp, not needed")
    kinds |= dict.fromkeys(apart.diffuse_needed, "diffuse, needed")
    columns = [
        Column("head", False),
        Column("disagree", False),
        Column("role", False),
        Column("confidence"),
        Column("entropy"),
        Column("contribution"),
        Column("effect", hint=f"of {apart.value} ablation on {metric}"),
        Column("q", hint="false discovery rate over all heads; intervals are of one head each"),
    ]
    rows = []
    for record in records:
        if record.site not in kinds:
            continue
        q = None if record.measured is None else record.measured.q
        row = [head_cell(record), Cell(kinds[record.site]), Cell(record.role)]
        row += [
            score_cell(record.confidence),
            score_cell(record.entropy),
            score_cell(record.output),
        ]
        rows.append([*row, effect_cell(record), Cell(p_value(q), finite(q))])
    return Table(
        "apart-table", "Heads whose attention and effect disagree", columns, rows, tall=True
    )


def head_cell(record: HeadRecord) -> Cell:
    return Cell(record.name, HEAD_ORDER * record.layer + record.index, head=True)


def effect_cell(record: HeadRecord) -> Cell:
    effect = record.measured
    spans = "" if effect is None else interval(effect.effect_interval)
    return Cell(signed(record.effect), finite(record.effect), spans)
