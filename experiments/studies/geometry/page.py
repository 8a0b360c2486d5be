"""The page of a study of geometry: maps layer by layer, figures of each space, likeness of layers, the logit lens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from ...report.charts import Box, Series, label_step, px, svg
from ...report.controls import Control, field
from ...report.depths import DepthCurve
from ...report.lines import lines
from ...report.parts import Cell, Column, Fold, Heat, Map, Page, Picture, Section, Table, score_cell
from ...report.provenance import model_name
from ...report.words import finite, general, interval, layer_label, number, plural

CONTROLS = (
    Control(
        "trustworthiness of the maps",
        "neighbours that only the map made",
        lambda results: any(key.startswith("trust_") for r in results.get("records") or () for key in r),
    ),
    Control(
        "separability in the space itself",
        "clusters that only the map made",
        lambda results: any(key.endswith(":space") for r in results.get("records") or () for key in r),
    ),
    Control("anisotropy after centring", "a common direction is taken for likeness", field("anisotropy_centred")),
)
"""What each control rules out."""


NAMES = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}


def page(results: Mapping[str, Any]) -> Page:
    """All parts of the page, top to bottom, and the data that its script reads."""
    about, records = results.get("provenance") or {}, list(results.get("records") or ())
    data: dict[str, Any] = {"charts": {}, "heats": {}, "maps": {}}
    sections: list[Section] = []
    if records:
        sections += [map_section(results, records, data), layers_section(records, data), norms_section(records)]
    for key, title in (("cka", "Layers alike"), ("cka_between", "Beside another model")):
        if found := results.get(key):
            sections.append(cka_section(found, key, title, data))
    if lens := results.get("lens"):
        sections.append(lens_section(lens, data))
    facts = [plural(len(records), "layer"), plural(int(records[0].get("n") or 0) if records else 0, "word")]
    return Page(
        title=f"The space of {model_name(about)}, layer by layer",
        kicker="layerscope geometry",
        facts=facts,
        findings=[("", str(f.get("property")), str(f.get("text", ""))) for f in results.get("findings") or ()],
        sections=sections,
        data=data,
    )


def label_of(record: Mapping[str, Any]) -> str:
    """The layer's short name."""
    return layer_label(record.get("layer"), str(record.get("site")))


def colours_of(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The properties whose separability was measured."""
    return [key.removesuffix(":majority") for key in records[0] if key.endswith(":majority")]


def map_section(results: Mapping[str, Any], records: Sequence[Mapping[str, Any]], data: dict[str, Any]) -> Section:
    """The map with its slider, and under it how far it can be trusted."""
    words, drawn = results.get("words") or {}, results.get("maps") or {}
    labels = [label_of(r) for r in records]
    names = [x if x == "emb" else f"block {x}" for x in labels]
    seed = (results.get("provenance") or {}).get("seed")
    data["maps"]["map"] = {
        **{key: words.get(key) for key in ("sentences", "at", "labels")},
        "maps": drawn,
        "near": results.get("near"),
        "layers": ["embedding" if x == "emb" else f"block {x}" for x in labels],
        "captions": {
            method: [
                {name: caption(r, method, name, where, seed) for name in ["", *(words.get("labels") or {})]}
                for r, where in zip(records, names, strict=True)
            ]
            for method in drawn
        },
    }
    part = Map("map", [(str(m), str(NAMES.get(m, m))) for m in drawn], list(words.get("labels") or {}), labels)
    about = (
        "Each point is a word in its sentence. Neighbours are those of the whole space (largest cosine), not of the map: "
        "where their lines are long, the map misleads. On the map, arrow keys go from word to word and PgUp and PgDn from layer to layer."
    )
    return Section("map", "Map", [part], about, study=True)


def caption(record: Mapping[str, Any], method: str, name: str, where: str, seed: Any) -> str:
    """What a map shows and what it hides."""
    parts = [f"{NAMES.get(method, method)} of {plural(int(record.get('n') or 0), 'word')} at {where}, seed {seed}."]
    if method == "pca":
        parts.append(f"These two components hold {number(record.get('explained_2'), 2)} of the variance.")
    parts.append(
        f"Trustworthiness {number(record.get(f'trust_{method}'), 2)} (1: all neighbours on the map are neighbours)."
    )
    if f"{name}:majority" in record:
        parts.append(
            f"Neighbours from other sentences tell {name} with accuracy {number(record.get(f'{name}:space'), 2)} in the space and "
            f"{number(record.get(f'{name}:{method}'), 2)} on the map; the most frequent class alone "
            f"{number(record.get(f'{name}:majority'), 2)}."
        )
    return " ".join(parts)


def layers_section(records: Sequence[Mapping[str, Any]], data: dict[str, Any]) -> Section:
    """Curves and table of every layer's figures."""
    labels = [label_of(r) for r in records]
    common: dict[str, Any] = {"labels": labels, "names": [f"layer {x}" for x in labels], "x_title": "layer"}

    def column(key: str) -> list[float | None]:
        return [finite(r.get(key)) for r in records]

    pictures = [
        lines(
            "dimension",
            [Series("intrinsic dimension", "score", column("intrinsic_dimension"), points=True)],
            data,
            title="Intrinsic dimension",
            y_title="TwoNN",
            caption="How many directions a word's near neighbourhood has (Facco et al. 2017).",
            words="; ".join(f"{x} {number(v, 1)}" for x, v in zip(labels, column("intrinsic_dimension"), strict=True)),
            **common,
        ),
        lines(
            "spread",
            [
                Series("mean removed", "control", column("anisotropy_centred")),
                Series("PCA, 2 parts", "random", column("explained_2")),
                Series("anisotropy", "score", column("anisotropy"), points=True),
            ],
            data,
            title="Anisotropy",
            y_title="mean cosine, share of variance",
            caption="Mean cosine of two words, as they are and with the mean removed; the variance that a PCA map shows.",
            words="; ".join(f"{x} {number(v)}" for x, v in zip(labels, column("anisotropy"), strict=True)),
            **common,
        ),
    ]
    parts: list[Any] = [Picture([p]) for p in pictures]
    methods = [key.removeprefix("trust_") for key in records[0] if key.startswith("trust_")]
    for name in colours_of(records):
        kinds = dict(zip(methods, ("control", "f1", "random"), strict=False))
        series = [Series(f"{NAMES.get(m, m)} map", kinds[m], column(f"{name}:{m}")) for m in methods]
        series += [
            Series("majority", "random", column(f"{name}:majority")),
            Series(
                "space", "score", column(f"{name}:space"), column(f"{name}:space_low"), column(f"{name}:space_high")
            ),
        ]
        told = "; ".join(f"{x} {number(v)}" for x, v in zip(labels, column(f"{name}:space"), strict=True))
        drawing = lines(
            f"separable-{len(parts)}",
            series,
            data,
            title=f"Separability of {name}",
            y_title=f"{name}, accuracy of 10 neighbours",
            caption="Neighbours from other sentences, in the whole space (band: 95% over sentences) and on the maps.",
            words=told,
            **common,
        )
        parts.append(Picture([drawing]))
    columns = [
        Column("layer", False, "emb = embedding, k = after block k"),
        Column("dimension", hint="intrinsic dimension, TwoNN"),
        Column("PCs for 90%", hint="principal components that hold 90% of the variance"),
        Column("PC 1"),
        Column("PC 1-2"),
        Column("anisotropy", hint="mean cosine of two words"),
        Column("centred", hint="the same with the mean removed"),
        *(Column(f"trust {NAMES.get(m, m)}", hint="trustworthiness of the map") for m in methods),
        *(
            Column(f"{n} in the space", hint="accuracy of 10 neighbours from other sentences")
            for n in colours_of(records)
        ),
    ]
    rows = [
        [
            Cell(label, float(i), head=True),
            Cell(number(r.get("intrinsic_dimension"), 1), finite(r.get("intrinsic_dimension"))),
            Cell(general(r.get("components_90")), finite(r.get("components_90"))),
            score_cell((r.get("explained") or [None])[0]),
            *(score_cell(r.get(k)) for k in ("explained_2", "anisotropy", "anisotropy_centred")),
            *(score_cell(r.get(f"trust_{m}")) for m in methods),
            *(
                score_cell(r.get(f"{n}:space"), r.get(f"{n}:space_low"), r.get(f"{n}:space_high"))
                for n in colours_of(records)
            ),
        ]
        for i, (label, r) in enumerate(zip(labels, records, strict=True))
    ]
    parts.append(Table("layers-table", "Every layer", columns, rows, copy=True))
    return Section("layers", "Layers", parts, "", study=True)


def norms_section(records: Sequence[Mapping[str, Any]]) -> Section:
    """Vector lengths by position: a sink shows as a column of its own."""
    shown = range(min(8, max(len(r.get("norms") or ()) for r in records)))
    columns = [
        Column("layer", False),
        *(Column(f"token {n}") for n in shown),
        Column("others", hint="median of all later tokens"),
    ]
    columns.append(Column("ratio", hint="the first token over the others"))
    rows = []
    for i, r in enumerate(records):
        first, others = finite(r.get("norm_first")), finite(r.get("norm_others"))
        ratio = first / others if first is not None and others else None
        cells = [Cell(general((r.get("norms") or ())[n]), finite((r.get("norms") or ())[n])) for n in shown]
        rows.append(
            [
                Cell(label_of(r), float(i), head=True),
                *cells,
                Cell(general(others), others),
                Cell(number(ratio, 1), ratio),
            ]
        )
    about = (
        "Mean length of the vector at the first tokens of the texts, a BOS or CLS included. A first token many times longer "
        "than the rest is where attention sinks; it is on no map."
    )
    return Section(
        "norms", "Norms by position", [Table("norms-table", "Norms by position", columns, rows)], about, study=True
    )


def cka_section(found: Mapping[str, Any], uid: str, title: str, data: dict[str, Any]) -> Section:
    """CKA of every two layers as a grid."""
    rows, columns, values = list(found["rows"]), list(found["columns"]), list(found["values"])
    short = {
        site: "emb" if "resid_pre" in site or k == 0 else site.split(".")[1] if "." in site else site
        for side in (rows, columns)
        for k, site in enumerate(side)
    }
    side = max(7.0, min(30.0, 560.0 / max(len(rows), len(columns))))
    left, top = 40.0, 6.0
    box = Box(left + side * len(columns) + 8, top + side * len(rows) + 26)
    body, tips = [], []
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            body.append(f'<rect class="m-up4" fill-opacity="{max(0.03, min(1.0, value)):.2f}" data-k="{len(tips)}" ')
            body.append(
                f'x="{px(left + side * j)}" y="{px(top + side * i)}" width="{px(side - 1)}" height="{px(side - 1)}"/>'
            )
            tips.append([f"{short[rows[i]]} and {short[columns[j]]}", number(value), ""])
    for names, axis in ((rows, "y"), (columns, "x")):
        step = label_step(len(names), side * len(names), 24.0)
        for k, site in enumerate(names):
            if k % step == 0:
                x, y = (
                    (left - 6, top + side * (k + 0.5) + 4) if axis == "y" else (left + side * (k + 0.5), box.height - 8)
                )
                anchor = "end" if axis == "y" else "middle"
                body.append(
                    f'<text class="tick" x="{px(x)}" y="{px(y)}" text-anchor="{anchor}">{escape(short[site])}</text>'
                )
    other = found.get("model")
    words = (
        "Linear CKA of the same words' vectors, without the bias of few words: 1 is the same cloud up to rotation and scale. "
        + (
            f"Rows: this model; columns: {other}."
            if other
            else "Blocks of dark cells are layers that hold much the same."
        )
    )
    data["heats"][uid] = {"metric": "CKA", "tips": tips}
    drawing = svg(box, body, title=title, desc=words, uid=f"{uid}-svg", attrs=f' width="{px(box.width)}"')
    return Section(uid, title, [Heat(uid, Markup(drawing), words, label="CKA of layers", key=False)], "", study=True)


def lens_section(lens: Mapping[str, Any], data: dict[str, Any]) -> Section:
    """What each layer would say next."""
    records: Sequence[Mapping[str, Any]] = list(lens.get("records") or ())
    labels = [layer_label(r.get("layer")) for r in records]
    drawing = lines(
        "lens",
        [
            Series(
                "log2 p",
                "score",
                *([finite(r.get(f"log2p{end}")) for r in records] for end in ("", "_low", "_high")),
                points=True,
            )
        ],
        data,
        labels=labels,
        names=[f"layer {x}" for x in labels],
        title="Logit lens",
        y_title="mean log2 p of the next token",
        x_title="layer",
        caption="Band: 95% interval over texts.",
        words="; ".join(f"{x} {number(r.get('log2p'))}" for x, r in zip(labels, records, strict=True)),
    )
    columns = [
        Column("layer"),
        Column("log2 p"),
        Column("median rank"),
        Column("likeliest", hint="share of places"),
    ]
    rows = [
        [
            Cell(x, float(k), head=True),
            Cell(number(r.get("log2p")), finite(r.get("log2p")), interval(r.get("log2p_low"), r.get("log2p_high"))),
            Cell(general(r.get("median_rank")), finite(r.get("median_rank"))),
            score_cell(r.get("top1"), r.get("top1_low"), r.get("top1_high")),
        ]
        for k, (x, r) in enumerate(zip(labels, records, strict=True))
    ]
    texts = [lens_text(text, k, labels) for k, text in enumerate(lens.get("texts") or ())]
    about = (
        "The residual stream at each layer, read by the model's own final norm and head: how likely it makes the token "
        "that follows, and how many tokens it finds likelier (the rank)."
    )
    parts = [Picture([drawing]), Table("lens-table", "The logit lens at every layer", columns, rows), *texts]
    return Section("lens", "Logit lens", parts, about, study=True)


def lens_text(text: Mapping[str, Any], k: int, labels: Sequence[str]) -> Fold:
    """One text: each layer's likeliest next token, with its probability and the rank of the token that follows."""
    tokens = list(text.get("tokens") or ())
    columns = [
        Column("layer"),
        *(Column(str(t), False, f"then: {n}") for t, n in pairwise(tokens)),
    ]
    rows = [
        [
            Cell(label, float(i), head=True),
            *(
                Cell(str(top), finite(rank), f"p {number(p, 2)}, rank {rank}", tone="strong" if rank == 0 else "")
                for top, p, rank in zip(text["top"][i], text["p"][i], text["rank"][i], strict=True)
            ),
        ]
        for i, label in enumerate(labels)
    ]
    caption = "In bold where the likeliest token is the one that follows"
    return Fold(
        f"Text {k + 1}: what each layer would say next",
        [Table(f"lens-{k}", caption, columns, rows, sortable=False)],
        open=k == 0,
    )


def curves(results: Mapping[str, Any]) -> list[DepthCurve]:
    """Intrinsic dimension and anisotropy over depth."""
    records = list(results.get("records") or ())
    titles = {"intrinsic_dimension": "Intrinsic dimension", "anisotropy_centred": "Anisotropy, centred"}
    return [
        DepthCurve.of(title, title.lower(), records, field, f"{field}_", first=1) for field, title in titles.items()
    ]
