"""The page of a capture: what is in the store, site by site."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...report.charts import Series
from ...report.controls import Control, always
from ...report.depths import KINDS as COLOURS
from ...report.lines import lines
from ...report.parts import Cell, Column, Page, Picture, Section, Stats, Table
from ...report.provenance import model_name
from ...report.words import count, family, number, plural, size
from .records import Results, SiteRecord, texts_of

CONTROLS = (Control("checksums of every shard", "damaged values are read as correct", always),)
"""What each control rules out."""


ABOUT = (
    "A row is a word, a token, or an item of a table, with one vector at each site. "
    "Shards are safetensors files: read them with layerscope.ActivationStore, "
    "or give the folder to a study with --store."
)


def page(results: Results) -> Page:
    """All parts of the page, top to bottom."""
    first = results.records[0]
    data: dict[str, Any] = {"charts": {}}
    return Page(
        title=f"Activations of {model_name(results.provenance)}",
        kicker="layerscope capture",
        facts=[
            f"{plural(first.rows, first.level)} at {plural(len(results.records), 'site')}",
            first.dtype,
        ],
        findings=[("store", finding.property, finding.text) for finding in results.findings],
        sections=[_store(results, data)],
        data=data,
    )


def _store(results: Results, data: dict[str, Any]) -> Section:
    store, speed = results.store, results.provenance.get("resources", {}).get("speed", {})
    items = [
        (
            "rows",
            count(store.rows),
            f"of {count(store.texts)} {texts_of(results.records[0].level)}",
        ),
        ("on disk", size(store.bytes), plural(store.shards, "shard")),
        (
            "written at",
            f"{count(speed.get('tokens_per_second'))}/s",
            "tokens through the model and to the disk",
        ),
    ]
    columns = [
        Column("site", False),
        Column("width", hint="values per row"),
        Column("MB", hint="on disk"),
        Column(
            "largest",
            hint="largest absolute value; one far above the other sites' is a massive activation",
        ),
    ]
    rows = [
        [
            Cell(record.site, tone="code", head=True),
            Cell(count(record.width), record.width),
            Cell(f"{record.bytes / 1e6:.1f}", record.bytes),
            Cell(number(record.largest, 2), record.largest),
        ]
        for record in results.records
    ]
    table = Table("sites-table", "Every site in the store", columns, rows, copy=True)
    return Section(
        "store", "Store", [Stats(items), *_largest(results.records, data), table], ABOUT, study=True
    )


def _largest(records: Sequence[SiteRecord], data: dict[str, Any]) -> list[Picture]:
    """The largest value of every layer, a curve for each kind of site:
    where massive activations begin.
    """
    in_blocks = [record for record in records if record.layer is not None]
    layers = sorted({record.layer for record in in_blocks if record.layer is not None})
    if len(layers) < 2:
        return []
    by_kind: dict[str, dict[int | None, float]] = {}
    for record in in_blocks:
        by_kind.setdefault(family(record.site), {})[record.layer] = record.largest
    series = [
        Series(name, COLOURS[i % len(COLOURS)], [at.get(layer) for layer in layers], points=True)
        for i, (name, at) in enumerate(by_kind.items())
    ]
    labels = [str(layer) for layer in layers]
    words = "; ".join(f"{s.name}: {', '.join(number(v, 2) for v in s.values)}" for s in series)
    drawing = lines(
        "largest",
        series,
        data,
        labels=labels,
        names=[f"block {label}" for label in labels],
        title="Largest absolute value of every layer",
        y_title="largest absolute value",
        x_title="block",
        caption="A value far above the others of its curve is a massive activation: "
        "standardise with care.",
        words=words,
    )
    return [Picture([drawing])]
