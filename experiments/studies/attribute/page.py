"""The page of an attribution: each text's words shaded, method by method, and whether the methods can be believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...report.charts import Series
from ...report.controls import Control, field, told
from ...report.lines import lines
from ...report.matrix import step_of
from ...report.parts import (
    Cell,
    Column,
    Fold,
    Heading,
    Mark,
    Marked,
    Page,
    Picture,
    Section,
    Table,
    Text,
    plain_cell,
    signed_cell,
)
from ...report.provenance import model_name
from ...report.words import ABSENT, count, finite, interval, number, plural, signed

CONTROLS = (
    Control("random attributions", "the measure rewards any ranking", told("random"), "--random 5"),
    Control(
        "other seeds of methods that draw",
        "a ranking by one draw",
        field("stability"),
        "--seeds 2",
        applies=lambda results: field("stability")(results) or not told("seeds")(results),
    ),
    Control("small noise", "a ranking that the next text overturns", told("sensitivity"), "--sensitivity 10"),
)
"""What each control rules out."""


SHOWN = 50
"""Texts that the page shows; all are in results.json."""
COLUMNS = 64
"""Heads or neurons of a table."""
RANDOM = "random"
MEASURES = (
    ("comprehensiveness", "what the value loses without the top 1, 5, 10, 20, 50% of the units; more is better"),
    ("sufficiency", "what it loses when only they are left; less is better"),
    ("deletion", "mean value while units leave, the highest first; less is better"),
    ("insertion", "mean value while units come, the highest first; more is better"),
    ("infidelity", "from 0 (the scores foretell what random units take with them) to 1"),
    ("stability", "rank correlation of the scores over seeds, for methods that draw"),
    ("sensitivity", "largest relative change of the scores under a noise too small to matter"),
)
COLOURS = ("score", "f1", "control", "plain")

Record = Mapping[str, Any]


def page(results: Mapping[str, Any]) -> Page:
    """All parts of the page, top to bottom."""
    about = results.get("provenance") or {}
    records: Sequence[Record] = list(results.get("records") or ())
    own = [r for r in records if r.get("method") != RANDOM]
    methods = list(dict.fromkeys(str(r["method"]) for r in own))
    items = sorted({int(r["item"]) for r in own})
    data: dict[str, Any] = {"charts": {}, "heats": {}}
    examples = {int(e["item"]): e for e in results.get("examples") or ()}
    sections = [words_section(own, items, examples)] if own else []
    if own:
        sections.append(faithful_section(results, records, methods, data))
    facts = [plural(len(items), "text"), plural(len(methods), "method"), *sorted({str(r["unit"]) for r in own})]
    return Page(
        title=f"Why {model_name(about)} says that",
        kicker="layerscope attribute",
        facts=facts,
        findings=[
            ("faithfulness" if f.get("property") else "words", str(f.get("property") or ""), str(f.get("text", "")))
            for f in results.get("findings") or ()
        ],
        sections=sections,
        data=data,
    )


def words_section(records: Sequence[Record], items: Sequence[int], examples: Mapping[int, Record]) -> Section:
    """The texts, shaded; under each a table of all scores, changed words and texts like it."""
    parts: list[Any] = []
    for item in items[:SHOWN]:
        mine = [r for r in records if r["item"] == item]
        first = mine[0]
        parts.append(Heading(f"{_capital(first['target'])}: {number(first['value'])} {first['unit']}", _about(mine)))
        parts.append(Marked([marked(r) for r in mine]))
        folded: list[Any] = [scores_table(mine, item)]
        folded += [
            Text([f"{r['method']}: {line}" for line in _rules(r)]) for r in mine if (r.get("more") or {}).get("rules")
        ]
        for record in (r for r in mine if r.get("inner")):
            table = parts_table(record, item)
            folded += [Text([f"{table.caption}:"]), table]
        parts.append(Fold(f"Scores of {plural(len(first['units']), 'unit')}", folded))
        parts += example_parts(examples.get(item) or {}, first, item)
    if len(items) > SHOWN:
        parts.append(Text([f"{len(items) - SHOWN} more texts are in results.json."]))
    about = (
        "Blue words raise the number that is explained, orange underlined words lower it; the darkest is the text's strongest "
        "by that method. Point at a word for its score."
    )
    return Section("words", "Words", parts, about, study=True)


def example_parts(example: Record, first: Record, item: int) -> list[Any]:
    """The words whose change makes the model say something else, and the known texts most like this one."""
    parts: list[Any] = []
    if flipped := example.get("flip"):
        text, marks, at = str(first["text"]), [], 0
        changed = {unit: (before, after) for unit, before, after in flipped["changes"]}
        for unit, (start, end) in enumerate(first["spans"]):
            if unit in changed:
                marks += [Mark(text[at:start]), Mark(changed[unit][1], "down2", f"was {changed[unit][0]}")]
                at = end
        lead = " → ".join(signed(v) for v in flipped["values"])
        end = "the model says something else" if flipped["flipped"] else "the model's answer stays"
        parts.append(Marked([("changed words", f"lead {lead}", [*marks, Mark(text[at:])])]))
        parts.append(Text([f"{plural(len(changed), 'word')} changed: {end}."]))
    if near := example.get("nearest"):
        columns = [Column("known text", False), Column("label", False), Column("cosine")]
        rows = [
            [Cell(str(n["text"])), Cell(str(n["label"] or ABSENT)), Cell(number(n["cosine"]), finite(n["cosine"]))]
            for n in near
        ]
        parts.append(Table(f"near-{item}", "Known texts most like this one", columns, rows, sortable=False))
    return parts


def marked(record: Record) -> tuple[str, str, list[Mark]]:
    """One text as one method sees it."""
    text, scores, errors = str(record["text"]), record["scores"], record.get("errors")
    largest = max((abs(s) for s in scores), default=0.0)
    out, at = [], 0
    for i, (start, end) in enumerate(record["spans"]):
        if start < at or end <= start:
            continue
        if start > at:
            out.append(Mark(text[at:start]))
        strong = abs(scores[i]) >= 0.05 * largest and largest > 0
        shade = f"{'up' if scores[i] > 0 else 'down'}{step_of(scores[i], largest)}" if strong else ""
        spread = f" ± {number(errors[i])}" if errors and errors[i] else ""
        out.append(Mark(text[start:end], shade, signed(scores[i]) + spread))
        at = end
    out.append(Mark(text[at:]))
    figures = f"{count(record['forwards'])} forwards"
    if record.get("backwards"):
        figures += f", {count(record['backwards'])} backwards"
    return str(record["method"]), figures, out


def scores_table(records: Sequence[Record], item: int) -> Table:
    """A row for each unit, a column for each method."""
    columns = [Column("unit", False), *(Column(str(r["method"]), hint=f"in {r['unit']}") for r in records)]
    rows = []
    for i, unit in enumerate(records[0]["units"]):
        cells = [Cell(str(unit), float(i), head=True)]
        for r in records:
            error = (r.get("errors") or [None] * (i + 1))[i]
            note = f"± {number(error)}" if finite(error) else ""
            cells.append(Cell(signed(r["scores"][i]), finite(r["scores"][i]), note))
        rows.append(cells)
    return Table(f"scores-{item}", "Scores, with standard errors in small print", columns, rows, tall=True, copy=True)


def parts_table(record: Record, item: int) -> Table:
    """A row for each unit, a column for each head, neuron or site inside the model."""
    more = record.get("more") or {}
    inner = [list(row) for row in record["inner"]]
    names = list(more.get("columns") or [str(i) for i in range(len(inner[0]))])[:COLUMNS]
    rows = [
        [Cell(str(unit), float(i), head=True), *(signed_cell(v) for v in row[:COLUMNS])]
        for i, (unit, row) in enumerate(zip(record["units"], inner, strict=True))
    ]
    if whole := more.get("whole"):
        rows.append([Cell("all at once", float(len(rows)), head=True), *(signed_cell(whole[n]) for n in names)])
    left = len(inner[0]) - len(names)
    caption = f"{record['method']} at {more.get('site')}, part by part" + (
        f"; {left} more are in results.json" if left else ""
    )
    # Heads or neurons of one site are told apart by their number, sites by their name.
    short = [name.rpartition("[")[2].rstrip("]") if name.startswith(f"{more.get('site')}[") else name for name in names]
    columns = [Column("unit", False), *(Column(name, hint=f"in {record['unit']}") for name in short)]
    return Table(f"parts-{item}-{record['method']}", caption, columns, rows, tall=True, copy=True)


def faithful_section(
    results: Mapping[str, Any], records: Sequence[Record], methods: Sequence[str], data: dict[str, Any]
) -> Section:
    """Methods side by side: faithfulness, agreement, cost."""
    chance = [r for r in records if r.get("method") == RANDOM]
    shown = [RANDOM, *methods] if chance else list(methods)
    present = [(name, hint) for name, hint in MEASURES if any(finite(r.get(name)) is not None for r in records)]
    columns = [Column("method", False), *(Column(name, hint=hint) for name, hint in present)]
    columns += [Column("agreement", hint="mean rank correlation with the other methods")]
    columns += [Column(name, hint=hint) for name, hint in COSTS]
    agreement = results.get("agreement") or {}
    rows = []
    for method in shown:
        mine = [r for r in records if r.get("method") == method]
        cells = [Cell(method, method, head=True)]
        for name, _ in present:
            low, high = (_mean(mine, f"{name}_{side}") for side in ("low", "high"))
            value = _mean(mine, name)
            cells.append(Cell(number(value), value, interval(low, high)))
        others = [v for other, v in (agreement.get(method) or {}).items() if other != method and finite(v) is not None]
        mean = float(np.mean(others)) if others else None
        cells.append(Cell(number(mean), mean))
        for name, _ in COSTS:
            total = sum(int(r[name]) for r in mine) if method != RANDOM else None
            cells.append(plain_cell(total))
        rows.append(cells)
    unit = str(records[0].get("unit", ""))
    caption = f"Means over texts, in {unit}; of random attributions the lowest and the highest in small print"
    parts: list[Any] = [Table("faithful-table", caption, columns, rows, copy=True)]
    parts.append(Picture([curve(records, shown, "deleted", "Units leave, the highest score first", data)]))
    parts.append(Picture([curve(records, shown, "inserted", "Units come, the highest score first", data)]))
    removal = ", ".join(sorted({str(r.get("measured_by")) for r in records}))
    about = (
        f"Measured by what the model says of texts with words gone (removal: {removal}). A number means something beside that "
        "of random attributions, and within one removal only."
    )
    return Section("faithfulness", "Can it be believed?", parts, about, study=True)


COSTS = (
    ("asked", "changed texts whose values were asked for"),
    ("forwards", "texts run through the model, each distinct one once"),
    ("backwards", "texts whose gradient was computed"),
)


def curve(records: Sequence[Record], methods: Sequence[str], name: str, title: str, data: dict[str, Any]) -> Any:
    """The value as units leave or come, the mean over texts."""
    series = []
    for i, method in enumerate(methods[:5]):
        mine = [r[name] for r in records if r.get("method") == method]
        kind = "random" if method == RANDOM else COLOURS[(i - (methods[0] == RANDOM)) % len(COLOURS)]
        series.append(Series(method, kind, [float(v) for v in np.mean(mine, axis=0)]))
    shares = [f"{10 * i}%" for i in range(11)]
    more = f" The first 5 of {len(methods)} methods." if len(methods) > 5 else ""
    return lines(
        name,
        series,
        data,
        labels=shares,
        names=[f"{share} of the units" for share in shares],
        title=title,
        y_title=f"value, {records[0].get('unit', '')}",
        x_title="share of the units",
        caption=f"{title}; mean over texts.{more} A faithful method's curve leaves that of random attributions early.",
        words="; ".join(f"{s.name}: " + ", ".join(number(v) for v in s.values) for s in series),
    )


def _mean(records: Sequence[Record], name: str) -> float | None:
    found = [v for r in records if (v := finite(r.get(name))) is not None]
    return float(np.mean(found)) if found else None


def _rules(record: Record) -> list[str]:
    return [line for line in str(record["more"]["rules"]).splitlines() if line.strip()]


def _about(records: Sequence[Record]) -> str:
    """The value with nothing there, where methods have such a state; each method's own, where they differ."""
    bases: dict[str, list[str]] = {}
    for record in records:
        if finite(record.get("baseline")) is not None:
            bases.setdefault(number(record["baseline"]), []).append(str(record["method"]))
    shown = [f"{value} ({', '.join(methods)})" if len(bases) > 1 else value for value, methods in bases.items()]
    return f"With every unit absent: {'; '.join(shown)}." if shown else ""


def _capital(text: Any) -> str:
    return str(text)[:1].upper() + str(text)[1:] or ABSENT
