"""The page of a study of attention: patterns, statistics of every head, dependencies, effects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...report.charts import Series
from ...report.controls import Control, holds
from ...report.lines import lines
from ...report.parts import (
    Attention,
    Cell,
    Column,
    Page,
    Picture,
    Section,
    Table,
    score_cell,
    signed_cell,
)
from ...report.provenance import model_name
from ...report.schema import as_json
from ...report.words import finite, general, number, plural
from .page_checkpoints import checkpoints_section
from .page_effects import HEAD_ORDER, effects_section
from .page_heads import NAMES, has_effects, heads_section, present
from .pictures_page import picture_section
from .records import (
    LayerRecord,
    RelationRecord,
    Results,
    head_name,
)
from .targets_page import target_section

CONTROLS = (
    Control(
        "uniform attention", "a value that uniform attention would also have", holds("uniform")
    ),
    Control(
        "the best fixed offset",
        "a head that always attends to the previous word appears to follow syntax",
        holds("relations"),
    ),
    Control(
        "effects of ablation",
        "attention is mistaken for effect",
        holds("effects"),
        "--effects DIR",
    ),
)
"""What each control rules out."""


SHOWS = {
    "weights": "attention weights",
    "values": "weights × size of the value",
    "rollout": "rollout through all layers",
    "flow": "flow through all layers",
}
"""What a line of the viewer can be."""
TITLE = 46
"""Characters of a text in the viewer's list."""


def page(results: Results) -> Page:
    """All parts of the page, top to bottom, and the data that its script reads."""
    about, records = results.provenance, results.text_heads
    data: dict[str, Any] = {"charts": {}, "heats": {}, "attention": {}}
    sections: list[Section] = []
    if records:
        sections += [
            look_section(results, data),
            heads_section(results),
            layers_section(results.layers, data),
        ]
    if results.stack_heads:
        sections.append(target_section(results.stack_heads, results.shown_targets))
    if results.picture_heads:
        sections.append(picture_section(results.picture_heads, results.shown_pictures))
    if results.checkpoints:
        sections.append(checkpoints_section(results.checkpoints, data))
    if results.relations:
        sections.append(relations_section(results.relations))
    if results.effects is not None:
        sections.append(effects_section(results.effects, records, data))
    texts = sum(
        file.get("sentences", 0)
        for file in about.get("data") or ()
        if file.get("split") in ("corpus", "prompts")
    )
    return Page(
        title=f"What the heads of {model_name(about)} attend to",
        kicker="layerscope attend",
        facts=[plural(len(results.records), "head"), plural(texts, "text")],
        findings=[("", finding.property, finding.text) for finding in results.findings],
        sections=sections,
        data=data,
    )


def look_section(results: Results, data: dict[str, Any]) -> Section:
    """The viewer of texts, layers, heads and words."""
    records, shown = results.text_heads, results.shown
    values = {
        NAMES.get(name, name): [_rounded(getattr(r, name)) for r in records]
        for name in present(records)
    }
    if has_effects(records):
        values["effect"] = [_rounded(record.effect) for record in records]
    telling = [
        finite(record.relation_score) or finite(record.induction) or 0.0 for record in records
    ]
    data["attention"]["look"] = {
        **as_json(shown),
        "roles": [record.role for record in records],
        "values": values,
        "first": telling.index(max(telling)),
    }
    shows = ["weights"]
    shows += ["values"] if any(text.norms for text in shown.texts) else []
    shows += ["rollout"] if shown.texts else []
    shows += ["flow"] if any(text.flow for text in shown.texts) else []
    part = Attention(
        "look",
        [_title(place, text.tokens) for place, text in enumerate(shown.texts)],
        [(key, SHOWS[key]) for key in shows],
        list(values),
    )
    about = (
        "Every head on a few texts. In a small picture, each row is a token that attends to the "
        "columns; darker means more attention."
    )
    return Section("look", "Patterns", [part], about, study=True)


def _rounded(value: Any) -> float | None:
    x = finite(value)
    return None if x is None else round(x, 4)


def _title(place: int, tokens: Sequence[str]) -> str:
    """The text's number and beginning."""
    text = "".join(tokens)
    return f"{place + 1}: {text[:TITLE]}{'…' if len(text) > TITLE else ''}"


def layers_section(layers: Sequence[LayerRecord], data: dict[str, Any]) -> Section:
    """Means of each layer's heads, and the change from layer to layer."""
    labels = [str(record.layer) for record in layers]
    colours = {"previous": "control", "norm_first": "random", "first": "f1", "entropy": "score"}
    axis: dict[str, Any] = {
        "labels": labels,
        "names": [f"layer {label}" for label in labels],
        "x_title": "layer",
    }
    series = [
        Series(NAMES.get(name, name), colour, [finite(getattr(record, name)) for record in layers])
        for name, colour in colours.items()
    ]
    means = lines(
        "means",
        series,
        data,
        title="Means of each layer's heads",
        y_title="mean over heads",
        caption="First by value: the first token's share of the norm of the attended values.",
        words="; ".join(
            f"layer {record.layer} entropy {number(record.entropy)}" for record in layers
        ),
        **axis,
    )
    pictures = [Picture([means])]
    if any(record.change is not None for record in layers):
        change = lines(
            "change",
            [Series("change", "score", [finite(record.change) for record in layers], points=True)],
            data,
            title="Change of the mean pattern",
            y_title="1 − overlap with the layer before",
            caption="Squared Hellinger distance between the layer's mean pattern and "
            "the previous layer's.",
            words="; ".join(f"layer {record.layer} {number(record.change)}" for record in layers),
            **axis,
        )
        pictures.append(Picture([change]))
    return Section("layers", "Layers", pictures, "", study=True)


def relations_section(relations: Sequence[RelationRecord]) -> Section:
    """The best head for each dependency and direction."""
    columns = [
        Column("dependency", False),
        Column("direction", False, "from the dependent to its governor, or back"),
        Column("head", False, "chosen on the other half of the texts"),
        Column("agreement", hint="share of words that attend most to the other end"),
        Column("best offset", hint="the same for the best fixed offset"),
        Column("gain"),
        Column("n"),
        Column("follows", False, "10 points above the best fixed offset, interval above 0"),
    ]
    rows = []
    for relation in sorted(relations, key=lambda relation: -relation.gain):
        rows.append(
            [
                Cell(relation.relation, head=True),
                Cell(relation.direction),
                Cell(
                    head_name(relation.layer, relation.head),
                    HEAD_ORDER * relation.layer + relation.head,
                ),
                score_cell(relation.score, tone="strong" if relation.syntactic else ""),
                Cell(number(relation.baseline), finite(relation.baseline), f"{relation.offset:+d}"),
                signed_cell(relation.gain, relation.gain_interval),
                Cell(general(relation.n), finite(relation.n)),
                Cell("yes" if relation.syntactic else ""),
            ]
        )
    about = (
        "For each dependency, the head that agrees with it most on one half of the texts, "
        "scored on the other half and compared with the best fixed offset there. "
        "In a causal model, only arcs to earlier words count."
    )
    table = Table(
        "relations-table", "The best head for each dependency", columns, rows, tall=True, copy=True
    )
    return Section("dependencies", "Dependencies", [table], about, study=True)
