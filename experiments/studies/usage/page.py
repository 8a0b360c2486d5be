"""The page of a study of usage: what a probe reads of each layer, and what its erasure does, one above the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...report.charts import Rule, Series
from ...report.controls import GRID, Control, field
from ...report.depths import DepthCurve
from ...report.lines import lines
from ...report.parts import Cell, Column, Page, Picture, Section, Stats, Table, score_cell, signed_cell
from ...report.provenance import model_name
from ...report.records_table import records_section
from ...report.words import finite, interval, number, p_value, plural, signed, unnamed
from ...sweep.page import certificate_section
from ...sweep.reading import LEVEL, clear_of_chance, families, strongest

CONTROLS = (
    Control("random changes as large", "any change of that size would do it", field("null"), "--null-draws 5"),
    Control("a probe after the erasure", "what was to be erased is still there", field("erased_linear")),
    Control("a network after the erasure", "it is still there, but not linearly", field("erased_mlp")),
    GRID,
)
"""What each control rules out."""


ABOUT = (
    "Above: test accuracy of a linear probe of each layer, before and after the property is erased there. Below: what that "
    "erasure, in the running model, does to the metric, and what changes as large in random directions do."
)


def page(results: Mapping[str, Any]) -> Page:
    """All parts of the page, top to bottom, and the data that its script reads."""
    about = results.get("provenance") or {}
    records: Sequence[Mapping[str, Any]] = list(results.get("records") or ())
    erased = [r for r in records if r.get("value") == "erase"]
    first = erased[0] if erased else {}
    data: dict[str, Any] = {"charts": {}, "heats": {}}
    facts = [
        str(first.get("property", "?")),
        plural(len(erased), "layer"),
        plural(int(first.get("n") or 0), "text or pair", "texts or pairs"),
        str(first.get("metric", "?")).replace("_", " "),
    ]
    sections = [layers_section(erased, data)] if erased else []
    if len(families(records)) > 1:
        sections.append(pushes_section(records, data))
    if certificates := results.get("certificates") or {}:
        sections.append(certificate_section(certificates, records, data))
    if records:
        sections.append(records_section(results))
    return Page(
        title=f"Does {model_name(about)} use {first.get('property', 'what it encodes')}?",
        kicker="layerscope usage",
        facts=facts,
        findings=[
            ("layers", name := str(f.get("property")), unnamed(str(f.get("text", "")), name))
            for f in results.get("findings") or ()
        ],
        sections=sections,
        data=data,
    )


def layers_section(records: Sequence[Mapping[str, Any]], data: dict[str, Any]) -> Section:
    """Both curves and the table."""
    top = max(records, key=lambda r: finite(r.get("decodable")) or 0.0)
    most = strongest(records, 1)[0]
    metric = f"{records[0].get('metric')}, {records[0].get('unit', '')}"
    items = [
        (
            f"decodable best at layer {top.get('layer')}",
            number(top.get("decodable")),
            interval(top.get("decodable_low"), top.get("decodable_high")),
        ),
        (f"missed most at layer {most.get('layer')}", signed(most.get("effect")), metric),
        (
            "clear of chance",
            f"{len(clear_of_chance(records))} of {len(records)}",
            f"false-discovery rate below {LEVEL}",
        ),
        ("clean metric", number(records[0].get("baseline")), metric),
    ]
    labels = [str(r.get("layer")) for r in records]
    common: dict[str, Any] = {"labels": labels, "names": [f"layer {x}" for x in labels], "x_title": "layer"}

    def column(name: str, sign: float = 1.0) -> list[float | None]:
        found = [finite(r.get(name)) for r in records]
        return [None if v is None else sign * v for v in found]

    decodable = lines(
        "decodable",
        [
            Series("network, after", "control", column("erased_mlp")),
            Series("erased", "f1", column("erased_linear")),
            Series("decodable", "score", column("decodable"), column("decodable_low"), column("decodable_high")),
        ],
        data,
        title="What probes read",
        y_title="accuracy",
        caption="Band: 95% interval over test sentences. A network is a small MLP: what erasure leaves to nonlinear probes.",
        words="; ".join(f"layer {r.get('layer')} {number(r.get('decodable'))}" for r in records),
        rules=[Rule("majority", "major", float(records[0].get("majority") or 0.0))],
        **common,
    )
    used = lines(
        "used",
        [
            Series("random, +", "random", column("null")),
            Series("random, −", "random", column("null", -1.0)),
            Series("erased", "score", column("effect"), column("low"), column("high"), points=True),
        ],
        data,
        title="What the model misses",
        y_title=f"change of {metric}",
        caption="Band: 95% interval over prompts. Random: mean size of the effect of changes as large in random directions.",
        words="; ".join(f"layer {r.get('layer')} {signed(r.get('effect'))}" for r in records),
        **common,
    )
    return Section(
        "layers",
        "Decodable and used",
        [Stats(items), Picture([decodable]), Picture([used]), _table(records)],
        ABOUT,
        study=True,
    )


def pushes_section(records: Sequence[Mapping[str, Any]], data: dict[str, Any]) -> Section:
    """The metric with the property put where each class has its mean."""
    kinds = ("score", "f1", "control", "random")
    groups = [(value, mine) for (value, _), mine in families(records).items() if value.startswith("push")]
    labels = [str(r.get("layer")) for r in groups[0][1]]
    series = [
        Series(
            value.removeprefix("push "),
            kinds[i % len(kinds)],
            [finite(r.get("effect")) for r in mine],
            [finite(r.get("low")) for r in mine],
            [finite(r.get("high")) for r in mine],
        )
        for i, (value, mine) in enumerate(groups)
    ]
    first = groups[0][1][0]
    metric = f"{first.get('metric')}, {first.get('unit', '')}"
    drawing = lines(
        "pushes",
        series,
        data,
        labels=labels,
        names=[f"layer {x}" for x in labels],
        title="Pushed to each class",
        y_title=f"change of {metric}",
        x_title="layer",
        caption="Bands: 95% intervals over prompts.",
        words="; ".join(f"{value}: " + ", ".join(signed(r.get("effect")) for r in mine) for value, mine in groups),
    )
    about = "The property erased and then put where each class has its mean: where the model uses it, the curves part."
    return Section("pushes", "Counterfactuals", [Picture([drawing])], about, study=True)


def _table(records: Sequence[Mapping[str, Any]]) -> Table:
    columns = [
        Column("layer"),
        Column("decodable", hint="test accuracy of a linear probe"),
        Column("after", hint="of a linear probe after the erasure"),
        Column("by a network", hint="of a small network after the erasure"),
        Column("effect", hint="metric with the property erased at this layer minus metric without"),
        Column("random", hint="mean size of the effect of changes as large in random directions"),
        Column("null p", hint="share of the random changes with at least this effect"),
        Column("p", hint="sign-flip test over prompts"),
        Column("q", hint="false-discovery rate over the layers (Benjamini & Hochberg 1995)"),
    ]
    rows = [
        [
            Cell(str(r.get("layer")), finite(r.get("layer")), head=True),
            score_cell(r.get("decodable"), r.get("decodable_low"), r.get("decodable_high")),
            Cell(number(r.get("erased_linear")), finite(r.get("erased_linear"))),
            Cell(number(r.get("erased_mlp")), finite(r.get("erased_mlp"))),
            signed_cell(r.get("effect"), r.get("low"), r.get("high")),
            Cell(number(r.get("null")), finite(r.get("null"))),
            Cell(number(r.get("null_p")), finite(r.get("null_p"))),
            Cell(p_value(r.get("p")), finite(r.get("p"))),
            Cell(p_value(r.get("q")), finite(r.get("q"))),
        ]
        for r in records
    ]
    return Table("layers-table", "Every layer, with 95% intervals in small print", columns, rows, copy=True)


def curves(results: Mapping[str, Any]) -> list[DepthCurve]:
    """The effect of each change over depth, and how well the property is read."""
    records, found = list(results.get("records") or ()), []
    for value in dict.fromkeys(r["value"] for r in records):
        rows = [r for r in records if r["value"] == value]
        name, metric = rows[0]["property"], f"change of {rows[0]['metric']}, {rows[0]['unit']}"
        found.append(DepthCurve.of(f"{name}, {value}", metric, rows, "effect", first=1, is_change=True))
        if value == "erase":
            found.append(DepthCurve.of(name, "accuracy", rows, "decodable", "decodable_", first=1))
    return found
