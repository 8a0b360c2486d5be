"""Parts of a probing report that speak of all layers together:
scalar mixes and structural probes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...features.sites import layer_of
from ...report.charts import Rule, Series
from ...report.lines import lines
from ...report.parts import Cell, Column, Picture, Section, Table, score_cell, signed_cell
from ...report.words import interval, layer_label, number
from .records import MixRecord, SeedsRecord, TreeRecord

MIX = (
    "One probe reads a weighted sum of all layers, h = sum of a_l times layer l; "
    "the weights a show how much it uses each layer. Cumulative probes read all layers up "
    "to a given one and show where a property is resolved."
)
TREE = (
    "A structural probe learns a linear map under which the squared distance between two "
    "words is the number of edges between them in the syntax tree, and a word's squared "
    "norm is its depth (Hewitt & Manning 2019). UUAS is the share of gold edges in the "
    "minimum spanning tree."
)


def mixes_section(records: Sequence[MixRecord], data: dict[str, Any]) -> Section:
    """Weights and cumulative scores of every property, and the numbers that sum them up."""
    labels = [
        layer_label(layer_of(site, place), site) for place, site in enumerate(records[0].sites)
    ]
    kinds = ("score", "control", "f1", "random", "plain")
    pictures = []
    for uid, field, y_title, caption in (
        (
            "mix-weights",
            "mix",
            "weight",
            "The weight of each layer in the probe that reads all layers; the weights sum to 1.",
        ),
        (
            "mix-cumulative",
            "cumulative",
            "accuracy",
            "Probes that read all layers up to this one.",
        ),
    ):
        series = [
            Series(r.property, kinds[i % len(kinds)], list(getattr(r, field)), points=True)
            for i, r in enumerate(records)
        ]
        words = "; ".join(
            f"{r.property}: " + ", ".join(number(v) for v in getattr(r, field)) for r in records
        )
        pictures.append(_drawing(uid, series, data, labels, caption, y_title, caption, words))
    columns = [
        Column("property", False),
        Column("centre of gravity", hint="sum of layer times weight; the embedding layer is -1"),
        Column(
            "above the embeddings", hint="the same of the blocks alone, weights scaled to sum to 1"
        ),
        Column("peakedness", hint="KL from equal weights, in bits"),
        Column("headroom", hint="accuracy of all layers minus accuracy of the embedding layer"),
        Column(
            "expected layer",
            hint="where the headroom is gained; not supported if its interval includes 0",
        ),
        Column(
            "above one layer",
            hint="accuracy of all layers minus accuracy of the best single layer",
        ),
        Column(
            "stationary",
            False,
            hint="no layer gains by more weight; other starts may end elsewhere",
        ),
    ]
    rows = [
        [
            Cell(r.property, head=True),
            Cell(number(r.centre_of_gravity, 2), r.centre_of_gravity),
            Cell(number(r.centre_above, 2), r.centre_above),
            Cell(number(r.peakedness), r.peakedness),
            signed_cell(r.headroom, r.headroom_interval),
            Cell("not supported", tone="badge")
            if r.expected_layer is None
            else Cell(
                number(r.expected_layer, 2), r.expected_layer, interval(r.expected_layer_interval)
            ),
            signed_cell(r.margin, r.margin_interval),
            Cell("yes" if r.stationary else "no"),
        ]
        for r in records
    ]
    table = Table(
        "mixes-table",
        "Scalar mixes, with 95% intervals over sentences in small print",
        columns,
        rows,
    )
    return Section("mixes", "All layers at once", [*pictures, table], MIX, study=True)


def trees_section(records: Sequence[TreeRecord], data: dict[str, Any]) -> Section:
    """Edges and roots recovered at every layer, beside the chain and random weights."""
    labels = [layer_label(r.layer, r.site) for r in records]
    pictures = []
    for uid, field, at_random, rule, title in (
        ("tree-uuas", "uuas", "random_uuas", "chain_uuas", "Undirected edges recovered"),
        ("tree-root", "root_accuracy", "random_root", "chain_root", "Roots recovered"),
    ):
        values = [getattr(r, field) for r in records]
        intervals = [getattr(r, f"{field}_interval") for r in records]
        series = [
            Series("random weights", "random", [getattr(r, at_random) for r in records]),
            Series("structural probe", "score", values, intervals, points=True),
        ]
        words = "; ".join(
            f"layer {x} {number(getattr(r, field))}" for x, r in zip(labels, records, strict=True)
        )
        chain = Rule(
            "chain" if field == "uuas" else "first word",
            "type",
            float(getattr(records[0], rule) or 0.0),
        )
        caption = "Band: 95% interval over sentences."
        pictures.append(
            _drawing(uid, series, data, labels, title, title.lower(), caption, words, [chain])
        )
    columns = [
        Column("layer", False, "emb = embedding, k = after block k"),
        Column("UUAS", hint="share of gold edges recovered, punctuation left out"),
        Column("distance ρ", hint="Spearman by word, then by sentence length 5 to 50"),
        Column("root", hint="share of sentences in which the root has the least depth"),
        Column("depth ρ", hint="Spearman by sentence, then by length 5 to 50"),
        Column("random UUAS", hint="the same probe on a random-weight model"),
        Column("epochs"),
    ]
    rows = [
        [
            Cell(label, float(i), "" if r.stationary else "not stationary", head=True),
            score_cell(r.uuas, r.uuas_interval),
            score_cell(r.distance_spearman),
            score_cell(r.root_accuracy, r.root_accuracy_interval),
            score_cell(r.depth_spearman),
            Cell("not supported", tone="badge")
            if r.random_uuas is None
            else score_cell(r.random_uuas),
            Cell(str(r.epochs), float(r.epochs)),
        ]
        for i, (label, r) in enumerate(zip(labels, records, strict=True))
    ]
    first = records[0]
    caption = (
        f"Structural probes of rank {first.rank} on {first.n} test sentences; "
        f"words chained in a row have UUAS {number(first.chain_uuas)} and distance ρ "
        f"{number(first.chain_spearman)}"
    )
    apart = [r.apart for r in records if r.apart is not None]
    if apart:
        caption += (
            f"; the dev losses of two trainings at each layer differ by {max(apart):.0%} at most"
        )
    return Section(
        "trees",
        "Syntax trees",
        [*pictures, Table("trees-table", caption, columns, rows)],
        TREE,
        study=True,
    )


def _drawing(
    uid: str,
    series: Sequence[Series],
    data: dict[str, Any],
    labels: Sequence[str],
    title: str,
    y_title: str,
    caption: str,
    words: str,
    rules: Sequence[Rule] = (),
) -> Picture:
    names = [f"layer {label}" if label.isdigit() else label for label in labels]
    return Picture(
        [
            lines(
                uid,
                series,
                data,
                labels=labels,
                names=names,
                title=title,
                y_title=y_title,
                x_title="layer",
                caption=caption,
                words=words,
                rules=rules,
            )
        ]
    )


def seeds_section(records: Sequence[SeedsRecord], layers: Mapping[str, str]) -> Section:
    """The same study with other seeds: how far scores and best layers move.

    Args:
        layers: site -> what its layer is called.
    """
    columns = [
        Column("property", False),
        Column("seeds", hint="how often the study was run"),
        Column("best layer by seed", False),
        Column("score there", False),
        Column("mean at this run's best"),
        Column("its standard deviation"),
        Column("of selectivity"),
    ]
    rows = [
        [
            Cell(r.property, head=True),
            Cell(str(len(r.seeds)), float(len(r.seeds))),
            Cell(", ".join(layers.get(site, site) for site in r.best)),
            Cell(", ".join(number(v) for v in r.scores)),
            score_cell(r.mean),
            Cell(number(r.sd, 4), r.sd),
            Cell("not supported", tone="badge")
            if r.sd_selectivity is None
            else Cell(number(r.sd_selectivity, 4), r.sd_selectivity),
        ]
        for r in records
    ]
    caption = "Other draws of sentences and splits, other control tasks and random models"
    return Section(
        "seeds", "Other seeds", [Table("seeds-table", caption, columns, rows)], "", study=True
    )
