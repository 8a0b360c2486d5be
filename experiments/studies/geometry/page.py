"""The page of a study of geometry: maps layer by layer, figures of each space, likeness of layers,
the logit lens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from ...report.axes import Cells
from ...report.canvas import Box, px, rect, svg
from ...report.charts import Series
from ...report.controls import Control, always, field
from ...report.depths import DepthCurve
from ...report.lines import lines
from ...report.parts import (
    Cell,
    Column,
    Drawing,
    Heat,
    Map,
    Page,
    Picture,
    Section,
    Table,
    score_cell,
)
from ...report.provenance import model_name
from ...report.schema import Interval, as_json
from ...report.words import finite, general, layer_label, number, plural
from .page_lens import lens_section
from .records import NAMES, LayerRecord, Results, Similarity

CONTROLS = (
    Control(
        "trustworthiness of the maps",
        "neighbours that exist only on the map",
        always,
    ),
    Control(
        "separability in the space itself",
        "clusters that exist only on the map",
        lambda results: any(record.separability for record in results.records),
    ),
    Control(
        "anisotropy after centring",
        "a shared direction is mistaken for similarity",
        field("anisotropy_centred"),
    ),
)
"""What each control rules out."""


SHOWN_POSITIONS = 8
"""First positions that the table of norms has."""


def page(results: Results) -> Page:
    """All parts of the page, top to bottom, and the data that its script reads."""
    records = results.records
    data: dict[str, Any] = {"charts": {}, "heats": {}, "maps": {}}
    sections: list[Section] = []
    if records:
        sections.append(map_section(results, data))
        sections.append(layers_section(results, data))
        sections.append(norms_section(records))
    sections.append(cka_section(results.cka, "cka", "Similarity of layers", data))
    if results.cka_between is not None:
        sections.append(
            cka_section(results.cka_between, "cka_between", "Similarity to another model", data)
        )
    if results.lens is not None:
        sections.append(lens_section(results.lens, data))
    return Page(
        title=f"The space of {model_name(results.provenance)}, layer by layer",
        kicker="layerscope geometry",
        facts=[
            plural(sum(record.layer >= 0 for record in records), "layer"),
            plural(records[0].n if records else 0, "word"),
        ],
        findings=[("", finding.property, finding.text) for finding in results.findings],
        sections=sections,
        data=data,
    )


def label_of(record: LayerRecord) -> str:
    """The layer's short name."""
    return layer_label(record.layer, record.site)


def colours_of(records: Sequence[LayerRecord]) -> list[str]:
    """The properties whose separability was measured."""
    return list(records[0].separability)


def map_section(results: Results, data: dict[str, Any]) -> Section:
    """The map with its slider, and under it how far it can be trusted."""
    words, records, methods = results.words, results.records, list(results.maps)
    labels = [label_of(record) for record in records]
    places = [label if label == "emb" else f"block {label}" for label in labels]
    seed = results.provenance.get("seed")
    captions: dict[str, list[dict[str, str]]] = {}
    for method in methods:
        captions[method] = [
            {name: caption(record, method, name, place, seed) for name in ("", *words.labels)}
            for record, place in zip(records, places, strict=True)
        ]
    data["maps"]["map"] = {
        **as_json(words),
        "maps": as_json(results.maps),
        "near": results.near,
        "layers": ["embedding" if label == "emb" else f"block {label}" for label in labels],
        "captions": captions,
    }
    part = Map("map", [(method, NAMES[method]) for method in methods], list(words.labels), labels)
    about = (
        "Each point is a word in its sentence. The lines go to its nearest neighbours in "
        "the whole space (largest cosine); where they are long, the map misleads. "
        "On the map, arrow keys move from word to word and PgUp and PgDn "
        "from layer to layer."
    )
    return Section("map", "Map", [part], about, study=True)


def caption(record: LayerRecord, method: str, name: str, where: str, seed: Any) -> str:
    """What a map shows and what it hides."""
    parts = [f"{NAMES[method]} of {plural(record.n, 'word')} at {where}, seed {seed}."]
    if method == "pca":
        parts.append(
            f"These two components explain {number(record.explained_2, 2)} of the variance."
        )
    parts.append(
        f"Trustworthiness {number(record.trust(method), 2)} (1: "
        "all neighbours on the map are neighbours)."
    )
    if name in record.separability:
        in_space, on_map = (_accuracy(record, name, place) for place in ("space", method))
        majority = record.separability[name].majority
        parts.append(
            f"Neighbours from other sentences predict {name} with accuracy "
            f"{number(in_space, 2)} in the space and {number(on_map, 2)} on the map; "
            f"the most frequent class alone: {number(majority, 2)}."
        )
    return " ".join(parts)


def layers_section(results: Results, data: dict[str, Any]) -> Section:
    """Curves and table of every layer's figures."""
    records, methods = results.records, list(results.maps)
    parts: list[Any] = [Picture([drawing]) for drawing in figure_curves(records, data)]
    for number_, name in enumerate(colours_of(records)):
        parts.append(
            Picture([separability_curve(records, name, methods, data, f"separable-{number_ + 2}")])
        )
    parts.append(layers_table(records, methods))
    return Section("layers", "Layers", parts, "", study=True)


def _axis(records: Sequence[LayerRecord]) -> dict[str, Any]:
    """The layers as an axis."""
    labels = [label_of(record) for record in records]
    return {"labels": labels, "names": [f"layer {label}" for label in labels], "x_title": "layer"}


def _spoken(records: Sequence[LayerRecord], values: Sequence[float | None], digits: int = 3) -> str:
    """A curve in words."""
    return "; ".join(
        f"{label_of(r)} {number(v, digits)}" for r, v in zip(records, values, strict=True)
    )


def figure_curves(records: Sequence[LayerRecord], data: dict[str, Any]) -> list[Drawing]:
    """Intrinsic dimension, and anisotropy beside what a PCA map shows."""
    dimension = [finite(record.intrinsic_dimension) for record in records]
    anisotropy = [finite(record.anisotropy) for record in records]
    centred = [finite(record.anisotropy_centred) for record in records]
    explained = [finite(record.explained_2) for record in records]
    return [
        lines(
            "dimension",
            [Series("intrinsic dimension", "score", dimension, points=True)],
            data,
            title="Intrinsic dimension",
            y_title="TwoNN",
            caption="How many directions a word's near neighbourhood has (Facco et al. 2017).",
            words=_spoken(records, dimension, 1),
            **_axis(records),
        ),
        lines(
            "spread",
            [
                Series("mean removed", "control", centred),
                Series("PCA, 2 parts", "random", explained),
                Series("anisotropy", "score", anisotropy, points=True),
            ],
            data,
            title="Anisotropy",
            y_title="mean cosine, share of variance",
            caption="Mean cosine of two words before and after the mean is removed, "
            "and the variance that a PCA map shows.",
            words=_spoken(records, anisotropy),
            **_axis(records),
        ),
    ]


def _accuracy(record: LayerRecord, name: str, where: str) -> float | None:
    """How well neighbours tell a property in the space or on a map."""
    separated = record.separated(name, where)
    return separated and separated.accuracy


def separability_curve(
    records: Sequence[LayerRecord],
    name: str,
    methods: Sequence[str],
    data: dict[str, Any],
    uid: str,
) -> Drawing:
    """How well neighbours tell a property at each layer, in the space and on the maps."""

    def column(where: str) -> list[float | None]:
        return [_accuracy(record, name, where) for record in records]

    in_space = [record.separability[name].places["space"] for record in records]
    majority = [record.separability[name].majority for record in records]
    colours = dict(zip(methods, ("control", "f1", "random"), strict=False))
    series = [Series(f"{NAMES[method]} map", colours[method], column(method)) for method in methods]
    series.append(Series("majority", "random", majority))
    series.append(
        Series("space", "score", column("space"), [one.accuracy_interval for one in in_space])
    )
    return lines(
        uid,
        series,
        data,
        title=f"Separability of {name}",
        y_title=f"{name}, accuracy of 10 neighbours",
        caption="Neighbours from other sentences, in the whole space (band: 95% over sentences) "
        "and on the maps.",
        words=_spoken(records, column("space")),
        **_axis(records),
    )


def layers_table(records: Sequence[LayerRecord], methods: Sequence[str]) -> Table:
    """Every figure of every layer."""
    names = colours_of(records)
    columns = [
        Column("layer", False, "emb = embedding, k = after block k"),
        Column("dimension", hint="intrinsic dimension, TwoNN"),
        Column("PCs for 90%", hint="number of principal components for 90% of the variance"),
        Column("PC 1"),
        Column("PC 1-2"),
        Column("anisotropy", hint="mean cosine of two words"),
        Column("centred", hint="the same with the mean removed"),
        *(
            Column(f"trust {NAMES[method]}", hint="trustworthiness of the map")
            for method in methods
        ),
        *(
            Column(f"{name} in the space", hint="accuracy of 10 neighbours from other sentences")
            for name in names
        ),
    ]
    rows = []
    for place, record in enumerate(records):
        row = [
            Cell(label_of(record), float(place), head=True),
            Cell(number(record.intrinsic_dimension, 1), finite(record.intrinsic_dimension)),
            Cell(general(record.components_90), finite(record.components_90)),
            score_cell(record.explained[0]),
            score_cell(record.explained_2),
            score_cell(record.anisotropy),
            score_cell(record.anisotropy_centred),
        ]
        row += [score_cell(record.trust(method)) for method in methods]
        for name in names:
            in_space = record.separability[name].places["space"]
            row.append(score_cell(in_space.accuracy, in_space.accuracy_interval))
        rows.append(row)
    return Table("layers-table", "Every layer", columns, rows, copy=True)


def norms_section(records: Sequence[LayerRecord]) -> Section:
    """Vector lengths by position: a sink shows as a column of its own."""
    shown = range(min(SHOWN_POSITIONS, max(len(record.norms) for record in records)))
    columns = [
        Column("layer", False),
        *(Column(f"token {n}") for n in shown),
        Column("others", hint="median of all later tokens"),
        Column("ratio", hint="the first token over the others"),
    ]
    rows = []
    for place, record in enumerate(records):
        first, others = finite(record.norm_first), finite(record.norm_others)
        ratio = first / others if first is not None and others else None
        cells = [Cell(general(record.norms[n]), finite(record.norms[n])) for n in shown]
        head = Cell(label_of(record), float(place), head=True)
        rows.append([head, *cells, Cell(general(others), others), Cell(number(ratio, 1), ratio)])
    about = (
        "Mean length of the vector at the first tokens of the texts, a BOS or CLS included. "
        "A first token many times longer than the rest is an attention sink. "
        "It is left off the maps."
    )
    return Section(
        "norms",
        "Norms by position",
        [Table("norms-table", "Norms by position", columns, rows)],
        about,
        study=True,
    )


def cka_section(cka: Similarity, uid: str, title: str, data: dict[str, Any]) -> Section:
    """CKA of every two layers as a grid."""
    rows, columns, values = cka.rows, cka.columns, cka.values
    short = {
        site: "emb"
        if "resid_pre" in site or k == 0
        else site.split(".")[1]
        if "." in site
        else site
        for side in (rows, columns)
        for k, site in enumerate(side)
    }
    side = max(7.0, min(30.0, 560.0 / max(len(rows), len(columns))))
    grid = Cells(40.0, 6.0, side, side, len(rows), len(columns))
    box = Box(grid.right + 8, grid.bottom + 26)
    body, tips = [], []
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            opacity = max(0.03, min(1.0, value))
            style = f'class="m-up4" fill-opacity="{opacity:.2f}" data-k="{len(tips)}"'
            body.append(rect(style, grid.x(j), grid.y(i), side - 1, side - 1))
            tips.append([f"{short[rows[i]]} and {short[columns[j]]}", number(value), ""])
    body += grid.row_ticks([short[site] for site in rows], each=24.0)
    body += grid.column_ticks([short[site] for site in columns], each=24.0)
    other = cka.model
    words = (
        "Linear CKA of the same words' vectors, corrected for the number of words. "
        "1 means equal up to rotation and scale. "
    ) + (
        f"Rows: this model; columns: {other}."
        if other
        else "Blocks of dark cells are layers with similar content."
    )
    data["heats"][uid] = {"metric": "CKA", "tips": tips}
    drawing = svg(
        box, body, title=title, desc=words, uid=f"{uid}-svg", attrs=f' width="{px(box.width)}"'
    )
    return Section(
        uid,
        title,
        [Heat(uid, Markup(drawing), words, label="CKA of layers", key=False)],
        "",
        study=True,
    )


def curves(results: Results) -> list[DepthCurve]:
    """Intrinsic dimension and anisotropy over depth."""
    records = results.records
    layers = [float(record.layer + 1) for record in records]  # blocks in front of each site
    sites = [record.site for record in records]
    absent: list[Interval | None] = [None] * len(records)
    dimension = [finite(record.intrinsic_dimension) for record in records]
    centred = [finite(record.anisotropy_centred) for record in records]
    return [
        DepthCurve("Intrinsic dimension", "intrinsic dimension", layers, sites, dimension, absent),
        DepthCurve("Anisotropy, centred", "anisotropy, centred", layers, sites, centred, absent),
    ]
