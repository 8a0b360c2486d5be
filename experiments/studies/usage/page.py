"""The page of a study of usage: what a probe reads of each layer, and what its erasure does,
one above the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...report.charts import Rule, Series
from ...report.controls import GRID, Control, field
from ...report.depths import DepthCurve
from ...report.lines import lines
from ...report.parts import (
    Cell,
    Column,
    Drawing,
    Page,
    Picture,
    Section,
    Stats,
    Table,
    Text,
    score_cell,
    signed_cell,
)
from ...report.provenance import model_name
from ...report.records_table import records_section
from ...report.words import interval, number, p_value, plural, signed, unnamed
from ...sweep.page import certificate_section, p_cell, significant_stat
from ...sweep.positions import positions_text
from ...sweep.reading import families, power_note, strongest
from .records import Results, UsageRecord

CONTROLS = (
    Control(
        "equally large random changes",
        "any change of that size would have this effect",
        field("null"),
        "--null-draws 5",
    ),
    Control(
        "a probe after the erasure",
        "the erasure leaves the property in place",
        field("erased_linear"),
    ),
    Control(
        "a network after the erasure",
        "the property is still there, but not linearly",
        field("erased_mlp"),
    ),
    GRID,
)
"""What each control rules out."""


ABOUT = (
    "Upper figure: test accuracy of a linear probe at each layer, before and after the "
    "property is erased there. Lower figure: how this erasure changes the metric in the "
    "running model, compared with equally large changes in random directions."
)


def page(results: Results) -> Page:
    """All parts of the page, top to bottom, and the data that its script reads."""
    records = results.records
    erased = [record for record in records if record.value == "erase"]
    first = erased[0]
    data: dict[str, Any] = {"charts": {}, "heats": {}}
    facts = [
        first.property,
        plural(len(erased), "layer"),
        plural(first.n, "text or pair", "texts or pairs"),
        first.metric.replace("_", " "),
    ]
    sections = [layers_section(erased, results.positions, data)]
    if len(families(records)) > 1:
        sections.append(pushes_section(records, data))
    if results.certificates:
        sections.append(certificate_section(results.certificates, records, data))
    sections.append(records_section(records))
    findings = [
        ("layers", finding.property, unnamed(finding.text, finding.property))
        for finding in results.findings
    ]
    return Page(
        title=f"Does {model_name(results.provenance)} use {first.property}?",
        kicker="layerscope usage",
        facts=facts,
        findings=findings,
        sections=sections,
        data=data,
    )


def layers_section(records: Sequence[UsageRecord], positions: str, data: dict[str, Any]) -> Section:
    """Both curves and the table."""
    top = max(records, key=lambda record: record.decodable)
    most = strongest(records, 1)[0]
    metric = f"{records[0].metric}, {records[0].unit}"
    items = [
        (
            f"decodable best at layer {top.layer}",
            number(top.decodable),
            interval(top.decodable_interval),
        ),
        (f"largest effect at layer {most.layer}", signed(most.effect), metric),
        significant_stat(records),
        ("clean metric", number(records[0].baseline), metric),
    ]
    limits = power_note(records, "layers")
    return Section(
        "layers",
        "Decodable and used",
        [
            Stats(items),
            *([Text([limits])] if limits else []),
            Picture([_decodable_chart(records, data)]),
            Picture([_used_chart(records, data)]),
            _table(records),
        ],
        f"{ABOUT} {positions_text(positions)}",
        study=True,
    )


def _axis(records: Sequence[UsageRecord]) -> dict[str, Any]:
    """The layers along a chart."""
    labels = [str(record.layer) for record in records]
    return {"labels": labels, "names": [f"layer {label}" for label in labels], "x_title": "layer"}


def _decodable_chart(records: Sequence[UsageRecord], data: dict[str, Any]) -> Drawing:
    """What probes read of each layer."""
    score = Series(
        "decodable",
        "score",
        [record.decodable for record in records],
        [record.decodable_interval for record in records],
    )
    words = [f"layer {record.layer} {number(record.decodable)}" for record in records]
    return lines(
        "decodable",
        [
            Series("network, after", "control", [record.erased_mlp for record in records]),
            Series("erased", "f1", [record.erased_linear for record in records]),
            score,
        ],
        data,
        title="What probes read",
        y_title="accuracy",
        caption="Band: 95% interval over test sentences. The network is a small MLP, "
        "which shows what nonlinear probes still read.",
        words="; ".join(words),
        rules=[Rule("majority", "major", records[0].majority)],
        **_axis(records),
    )


def _used_chart(records: Sequence[UsageRecord], data: dict[str, Any]) -> Drawing:
    """What the erasure does to the metric, between equally large random changes."""
    random_size = [record.null for record in records]
    effect = Series(
        "erased",
        "score",
        [record.effect for record in records],
        [record.effect_interval for record in records],
        points=True,
    )
    words = [f"layer {record.layer} {signed(record.effect)}" for record in records]
    return lines(
        "used",
        [
            Series("random, +", "random", random_size),
            Series("random, −", "random", [None if v is None else -v for v in random_size]),
            effect,
        ],
        data,
        title="Effect of the erasure",
        y_title=f"change of {records[0].metric}, {records[0].unit}",
        caption="Band: 95% interval over prompts. Random: mean size of the effect of equally large "
        "changes in random directions.",
        words="; ".join(words),
        **_axis(records),
    )


def pushes_section(records: Sequence[UsageRecord], data: dict[str, Any]) -> Section:
    """The metric with the property put where each class has its mean."""
    kinds = ("score", "f1", "control", "random")
    pushes = [
        (family[0].pushed_to, family)
        for family in families(records).values()
        if family[0].pushed_to is not None
    ]
    series, words = [], []
    for i, (label, family) in enumerate(pushes):
        series.append(
            Series(
                label,
                kinds[i % len(kinds)],
                [record.effect for record in family],
                [record.effect_interval for record in family],
            )
        )
        words.append(f"{label}: {', '.join(signed(record.effect) for record in family)}")
    first = pushes[0][1][0]
    drawing = lines(
        "pushes",
        series,
        data,
        title="Pushed to each class",
        y_title=f"change of {first.metric}, {first.unit}",
        caption="Bands: 95% intervals over prompts.",
        words="; ".join(words),
        **_axis(pushes[0][1]),
    )
    about = (
        "The property is erased and then set to each class's mean. Where the model uses it, "
        "the curves separate."
    )
    return Section("pushes", "Counterfactuals", [Picture([drawing])], about, study=True)


def _table(records: Sequence[UsageRecord]) -> Table:
    columns = [
        Column("layer"),
        Column("decodable", hint="test accuracy of a linear probe"),
        Column("after", hint="of a linear probe after the erasure"),
        Column("by a network", hint="of a small network after the erasure"),
        Column("effect", hint="metric with the property erased at this layer minus metric without"),
        Column("random", hint="mean size of the effect of random changes of the same size"),
        Column("null p", hint="share of the random changes with at least this effect"),
        Column("p", hint="sign-flip test over prompts"),
        Column("q", hint="false discovery rate over the layers (Benjamini & Hochberg 1995)"),
    ]
    rows = [
        [
            Cell(str(record.layer), float(record.layer), head=True),
            score_cell(record.decodable, record.decodable_interval),
            Cell(number(record.erased_linear), record.erased_linear),
            Cell(number(record.erased_mlp), record.erased_mlp),
            signed_cell(record.effect, record.effect_interval),
            Cell(number(record.null), record.null),
            Cell(number(record.null_p), record.null_p),
            p_cell(record),
            Cell(p_value(record.q), record.q),
        ]
        for record in records
    ]
    caption = "Every layer, with 95% intervals in small print"
    return Table("layers-table", caption, columns, rows, copy=True)


def curves(results: Results) -> list[DepthCurve]:
    """The effect of each change over depth, and how well the property is read."""
    out = []
    for (value, _), family in families(results.records).items():
        name, metric = family[0].property, f"change of {family[0].metric}, {family[0].unit}"
        effect = DepthCurve.of(f"{name}, {value}", metric, family, "effect", is_change=True)
        out.append(effect)
        if value == "erase":
            out.append(DepthCurve.of(name, "accuracy", family, "decodable"))
    return out
