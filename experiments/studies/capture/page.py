"""The page of a capture: what is in the store, site by site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...report.charts import Series
from ...report.controls import Control, always
from ...report.depths import KINDS as COLOURS
from ...report.lines import lines
from ...report.parts import Cell, Column, Page, Picture, Section, Stats, Table
from ...report.provenance import model_name
from ...report.words import count, family, finite, number, plural

CONTROLS = (Control("checksums of every shard", "damaged values are read as true", always),)
"""What each control rules out."""


ABOUT = (
    "A row is a word or a token, with one vector at each site. Shards are safetensors files: read them with "
    "hooks.ActivationStore, or give the folder to a study with --store."
)


def page(results: Mapping[str, Any]) -> Page:
    """All parts of the page, top to bottom."""
    about = results.get("provenance") or {}
    records: Sequence[Mapping[str, Any]] = list(results.get("records") or ())
    first = records[0] if records else {}
    data: dict[str, Any] = {"charts": {}}
    return Page(
        title=f"Activations of {model_name(about)}",
        kicker="layerscope capture",
        facts=[
            f"{plural(int(first.get('rows') or 0), str(first.get('unit', 'row')))} at {plural(len(records), 'site')}",
            str(first.get("dtype", "?")),
        ],
        findings=[("store", str(f.get("property")), str(f.get("text", ""))) for f in results.get("findings") or ()],
        sections=[_store(records, results, data)] if records else [],
        data=data,
    )


def _store(records: Sequence[Mapping[str, Any]], results: Mapping[str, Any], data: dict[str, Any]) -> Section:
    store = results.get("store") or {}
    items = [
        ("rows", count(store.get("rows")), f"of {count(store.get('texts'))} texts"),
        ("on disk", f"{float(store.get('bytes') or 0) / 1e9:.2f} GB", plural(int(store.get("shards") or 0), "shard")),
        ("written at", f"{count(store.get('tokens_per_second'))}/s", "tokens through the model and to the disk"),
    ]
    columns = [
        Column("site", False),
        Column("width", hint="values a row"),
        Column("MB", hint="on disk"),
        Column("largest", hint="largest absolute value; far above the other sites' it is a massive activation"),
    ]
    rows = [
        [
            Cell(str(r.get("site")), tone="code", head=True),
            Cell(count(r.get("width")), finite(r.get("width"))),
            Cell(f"{float(r.get('bytes') or 0) / 1e6:.1f}", finite(r.get("bytes"))),
            Cell(number(r.get("largest"), 2), finite(r.get("largest"))),
        ]
        for r in records
    ]
    table = Table("sites-table", "Every site in the store", columns, rows, copy=True)
    return Section("store", "Store", [Stats(items), *_largest(records, data), table], ABOUT, study=True)


def _largest(records: Sequence[Mapping[str, Any]], data: dict[str, Any]) -> list[Picture]:
    """The largest value of every layer, a curve for each kind of site: where massive activations begin."""
    layers = sorted({int(r["layer"]) for r in records if finite(r.get("layer")) is not None})
    found: dict[str, dict[int, float | None]] = {}
    for r in records:
        if finite(r.get("layer")) is not None:
            found.setdefault(family(str(r.get("site"))), {})[int(r["layer"])] = finite(r.get("largest"))
    if len(layers) < 2:
        return []
    series = [
        Series(name, COLOURS[i % len(COLOURS)], [at.get(layer) for layer in layers], points=True)
        for i, (name, at) in enumerate(found.items())
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
        caption="A value far above the others of its curve is a massive activation: standardise with care.",
        words=words,
    )
    return [Picture([drawing])]
