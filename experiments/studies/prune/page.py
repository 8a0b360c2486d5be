"""The page of a pruning: quality against heads, with heads drawn at random beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...report.charts import Series
from ...report.controls import Control, field, has_interval
from ...report.lines import lines
from ...report.parts import Cell, Column, Drawing, Page, Picture, Section, Stats, Table, score_cell
from ...report.provenance import model_name
from ...report.words import count, interval, number, plural
from .records import Results, StepRecord

CONTROLS = (
    Control(
        "as many heads at random",
        "any heads could have been removed",
        field("random"),
        "--null-draws 2",
    ),
    Control("interval over texts", "a loss due to the choice of texts", has_interval("value")),
)
"""What each control rules out."""


ABOUT = (
    "Heads are removed from the weights in the order of their gates, mean |d metric / d "
    "gate|, which are computed again before every step. The smaller model gives the outputs "
    "of the whole model with those heads at zero. Times are medians of "
    "forwards taken in turns."
)


def page(results: Results) -> Page:
    """All parts of the page, top to bottom, and the data that its script reads."""
    records = results.records
    first = records[0]
    facts = [
        f"{plural(len(records) - 1, 'step')} from {first.heads} heads a layer",
        plural(first.n, "text"),
        first.metric.replace("_", " "),
    ]
    data: dict[str, Any] = {"charts": {}}
    return Page(
        title=f"{model_name(results.provenance)} with fewer heads",
        kicker="layerscope prune",
        facts=facts,
        findings=[("steps", finding.property, finding.text) for finding in results.findings],
        sections=[steps_section(results, data)],
        data=data,
    )


def steps_section(results: Results, data: dict[str, Any]) -> Section:
    """The curve and the table."""
    records = results.records
    first, last = records[0], records[-1]
    items = [
        ("whole model", number(first.value), f"{first.metric}, {first.unit}"),
        (
            f"with {plural(last.heads, 'head')} a layer",
            number(last.value),
            interval(last.value_interval),
        ),
        ("parameters left", f"{_share(last, first):.0%}", count(last.parameters)),
        (
            "speed",
            f"{number(results.speed(last.step), 2)}x",
            "forward of the whole model / of the smallest",
        ),
    ]
    parts = [Stats(items), Picture([_picture(records, data)]), _table(results)]
    return Section("steps", "Steps", parts, ABOUT, study=True)


def _share(record: StepRecord, first: StepRecord) -> float:
    """Parameters that are left."""
    return record.parameters / first.parameters


def _picture(records: Sequence[StepRecord], data: dict[str, Any]) -> Drawing:
    """Quality by heads that are left."""
    metric = f"{records[0].metric}, {records[0].unit}"
    words = [f"{record.heads} heads {number(record.value)}" for record in records]
    by_gates = Series(
        "by gates",
        "score",
        [record.value for record in records],
        [record.value_interval for record in records],
        points=True,
    )
    at_random = Series("at random", "random", [record.random for record in records], points=True)
    return lines(
        "steps",
        [at_random, by_gates],
        data,
        labels=[str(record.heads) for record in records],
        names=[f"{plural(record.heads, 'head')} a layer" for record in records],
        title=f"{metric} by heads a layer",
        y_title=metric,
        x_title="heads left in each layer",
        caption="Band: 95% interval over texts. At random: the mean of models with as many heads "
        "drawn at random.",
        words=f"{metric} by heads a layer: {'; '.join(words)}",
    )


def _table(results: Results) -> Table:
    records = results.records
    columns = [
        Column("heads a layer", hint="query heads; key-value heads in small print"),
        Column("parameters"),
        Column(records[0].metric, hint=records[0].unit),
        Column("change", hint="from the whole model, paired over texts"),
        Column("at random", hint="models with as many heads drawn at random, mean"),
        Column("speed", hint="forward time of the original model / forward time of this model"),
        Column(
            "difference",
            hint="largest difference from the attention outputs of the original model with "
            "these heads at zero, as a share",
        ),
        Column("folder", False),
    ]
    rows = []
    for record in records:
        share = f"{_share(record, records[0]):.0%}"
        difference = "" if record.difference is None else f"{record.difference:.0e}"
        rows.append(
            [
                Cell(
                    str(record.heads),
                    float(record.heads),
                    f"{record.kv_heads} key-value",
                    head=True,
                ),
                Cell(count(record.parameters), float(record.parameters), share),
                score_cell(record.value, record.value_interval),
                score_cell(record.change, record.change_interval),
                Cell(number(record.random), record.random),
                Cell(f"{number(results.speed(record.step), 2)}x", results.speed(record.step)),
                Cell(difference, record.difference),
                Cell(record.model or "", tone="code"),
            ]
        )
    caption = "Every step, with 95% intervals in small print"
    return Table("steps-table", caption, columns, rows, copy=True)
