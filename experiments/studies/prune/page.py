"""The page of a pruning: quality against heads, with heads drawn at random beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...report.charts import Series
from ...report.controls import Control, field
from ...report.lines import lines
from ...report.parts import Cell, Column, Drawing, Page, Picture, Section, Stats, Table, score_cell
from ...report.provenance import model_name
from ...report.words import count, finite, interval, number, plural

CONTROLS = (
    Control("as many heads at random", "any heads could have left", field("random"), "--random 2"),
    Control("interval over texts", "a loss within the texts' chance", field("low")),
)
"""What each control rules out."""


ABOUT = (
    "Heads leave the weights in the order of their gates, mean |d metric / d gate|, weighed again before every step. What is "
    "left computes what the whole model computes with those heads at zero; times are medians of forwards taken in turns."
)


def page(results: Mapping[str, Any]) -> Page:
    """All parts of the page, top to bottom, and the data that its script reads."""
    about = results.get("provenance") or {}
    records: Sequence[Mapping[str, Any]] = list(results.get("records") or ())
    first = records[0] if records else {}
    metric = str(first.get("metric", "?")).replace("_", " ")
    facts = [
        f"{plural(max(0, len(records) - 1), 'step')} from {first.get('heads', '?')} heads a layer",
        plural(int(first.get("n") or 0), "text"),
        metric,
    ]
    data: dict[str, Any] = {"charts": {}}
    sections = [steps_section(records, data)] if records else []
    return Page(
        title=f"{model_name(about)} with fewer heads",
        kicker="layerscope prune",
        facts=facts,
        findings=[("steps", str(f.get("property")), str(f.get("text", ""))) for f in results.get("findings") or ()],
        sections=sections,
        data=data,
    )


def steps_section(records: Sequence[Mapping[str, Any]], data: dict[str, Any]) -> Section:
    """The curve and the table."""
    first, last = records[0], records[-1]
    metric = f"{first.get('metric')}, {first.get('unit', '')}"
    items = [
        ("whole model", number(first.get("value")), metric),
        (
            f"with {plural(int(last.get('heads') or 0), 'head')} a layer",
            number(last.get("value")),
            interval(last.get("low"), last.get("high")),
        ),
        ("parameters left", f"{_share(last, first):.0%}", count(last.get("parameters"))),
        ("speed", f"{number(last.get('speed'), 2)}x", "forward of the whole model / of the smallest"),
    ]
    return Section(
        "steps", "Steps", [Stats(items), Picture([_picture(records, data)]), _table(records)], ABOUT, study=True
    )


def _share(record: Mapping[str, Any], first: Mapping[str, Any]) -> float:
    return float(record.get("parameters") or 0) / float(first.get("parameters") or 1)


def _picture(records: Sequence[Mapping[str, Any]], data: dict[str, Any]) -> Drawing:
    """Quality by heads that are left."""

    def column(name: str) -> list[float | None]:
        return [finite(r.get(name)) for r in records]

    labels = [str(r.get("heads")) for r in records]
    metric = f"{records[0].get('metric')}, {records[0].get('unit', '')}"
    words = f"{metric} by heads a layer: " + "; ".join(
        f"{label} heads {number(r.get('value'))}" for label, r in zip(labels, records, strict=True)
    )
    return lines(
        "steps",
        [
            Series("at random", "random", column("random"), points=True),
            Series("by gates", "score", column("value"), column("low"), column("high"), points=True),
        ],
        data,
        labels=labels,
        names=[f"{plural(int(r.get('heads') or 0), 'head')} a layer" for r in records],
        title=f"{metric} by heads a layer",
        y_title=metric,
        x_title="heads left in each layer",
        caption="Band: 95% interval over texts. At random: the mean of models with as many heads drawn at random.",
        words=words,
    )


def _table(records: Sequence[Mapping[str, Any]]) -> Table:
    columns = [
        Column("heads a layer", hint="query heads; key-value heads in small print"),
        Column("parameters"),
        Column(str(records[0].get("metric")), hint=str(records[0].get("unit"))),
        Column("change", hint="from the whole model, paired over texts"),
        Column("at random", hint="models with as many heads drawn at random, mean"),
        Column("speed", hint="time of the whole model's forward / this model's"),
        Column(
            "difference",
            hint="largest, of an attention output, to the whole model's with those heads at zero, as a share",
        ),
        Column("folder", False),
    ]
    rows = [
        [
            Cell(str(r.get("heads")), finite(r.get("heads")), f"{r.get('kv_heads')} key-value", head=True),
            Cell(count(r.get("parameters")), finite(r.get("parameters")), f"{_share(r, records[0]):.0%}"),
            score_cell(r.get("value"), r.get("low"), r.get("high")),
            score_cell(r.get("change"), r.get("change_low"), r.get("change_high")),
            Cell(number(r.get("random")), finite(r.get("random"))),
            Cell(f"{number(r.get('speed'), 2)}x", finite(r.get("speed"))),
            Cell("" if r.get("difference") is None else f"{r['difference']:.0e}", finite(r.get("difference"))),
            Cell(str(r.get("model") or ""), tone="code"),
        ]
        for r in records
    ]
    return Table("steps-table", "Every step, with 95% intervals in small print", columns, rows, copy=True)
