"""The page of a study of attention: patterns to look through, every head's statistics, dependencies, effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from markupsafe import Markup

from ...report.charts import Series
from ...report.controls import Control, holds
from ...report.lines import lines
from ...report.parts import Attention, Cell, Column, Heat, Page, Picture, Section, Stats, Table, score_cell, signed_cell
from ...report.provenance import model_name
from ...report.scatter import scatter
from ...report.words import ABSENT, finite, general, interval, number, p_value, plural, signed
from ...sweep.reading import component_name

CONTROLS = (
    Control("uniform attention", "a number that looking everywhere alike has too", holds("uniform")),
    Control("the best fixed offset", "a head that looks one word back is said to follow syntax", holds("relations")),
    Control("effects of ablation", "what a head looks at is taken for what it does", holds("effects"), "--effects DIR"),
)
"""What each control rules out."""


MASSES = {
    "entropy": "normalised: 1 is looking everywhere alike",
    "confidence": "largest weight on a token of the text",
    "distance": "tokens away, among tokens of the text",
    "first": "weight on the first token, BOS or CLS where there is one",
    "norm_first": "the first token's share of what attended values bring",
    "end": "weight on special tokens after the text",
    "punctuation": "weight on punctuation",
    "self": "weight on the token itself",
    "previous": "weight on the token before",
    "next": "weight on the token after",
    "output": "size of what the head adds to the residual stream",
    "induction": "weight on what followed the earlier copy, on repeated random tokens",
    "duplicate": "weight on the earlier copy, on repeated random tokens",
}
NAMES = {"norm_first": "first by value", "output": "contribution"}
SPANNED = ("entropy", "confidence", "distance", "first")
SHOWS = {
    "weights": "attention weights",
    "values": "weights × size of the value",
    "rollout": "rollout through all layers",
    "flow": "flow through all layers",
}


def page(results: Mapping[str, Any]) -> Page:
    """All parts of the page, top to bottom, and the data that its script reads."""
    about, records = results.get("provenance") or {}, list(results.get("records") or ())
    data: dict[str, Any] = {"charts": {}, "heats": {}, "attention": {}}
    sections: list[Section] = []
    if records:
        sections += [look_section(results, records, data), heads_section(results, records)]
        sections.append(layers_section(results, data))
    if checkpoints := results.get("checkpoints"):
        sections.append(checkpoints_section(checkpoints, data))
    if relations := results.get("relations") or ():
        sections.append(relations_section(relations))
    if effects := results.get("effects"):
        sections.append(effects_section(effects, records, data))
    texts = sum(int(d.get("sentences") or 0) for d in about.get("data") or ())
    facts = [plural(len(records), "head"), plural(texts, "text")]
    return Page(
        title=f"What the heads of {model_name(about)} look at",
        kicker="layerscope attend",
        facts=facts,
        findings=[("", str(f.get("property")), str(f.get("text", ""))) for f in results.get("findings") or ()],
        sections=sections,
        data=data,
    )


def present(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The statistics that the records have, in the order of ``MASSES``."""
    return [name for name in MASSES if any(finite(r.get(name)) is not None for r in records)]


def look_section(results: Mapping[str, Any], records: Sequence[Mapping[str, Any]], data: dict[str, Any]) -> Section:
    """Texts, layers, heads and words to look through."""
    shown = results.get("shown") or {}
    texts: list[Mapping[str, Any]] = list(shown.get("texts") or ())
    has_effects = any(finite(r.get("effect")) is not None for r in records)
    values = {NAMES.get(n, n): [_rounded(r.get(n)) for r in records] for n in present(records)}
    if has_effects:
        values["effect"] = [_rounded(r.get("effect")) for r in records]
    telling = [(finite(r.get("relation_score")) or finite(r.get("induction")) or 0.0) for r in records]
    data["attention"]["look"] = {
        "layers": list(shown.get("layers") or ()),
        "heads": int(shown.get("heads") or 0),
        "texts": texts,
        "roles": [str(r.get("role") or "") for r in records],
        "values": values,
        "first": telling.index(max(telling)),
    }
    has = {"weights", *(key for text in texts for key in text)} | {"values" for text in texts if "norms" in text}
    part = Attention(
        "look",
        [_title(i, text["tokens"]) for i, text in enumerate(texts)],
        [(key, name) for key, name in SHOWS.items() if key in has],
        list(values),
    )
    about = "Every head on a few texts. Small pictures: rows look at columns, darker is more."
    return Section("look", "Look", [part], about, study=True)


def _rounded(value: Any) -> float | None:
    x = finite(value)
    return None if x is None else round(x, 4)


def _title(place: int, tokens: Sequence[str]) -> str:
    """The text's number and beginning."""
    text = "".join(tokens)
    return f"{place + 1}: {text[:46]}{'…' if len(text) > 46 else ''}"


def heads_section(results: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> Section:
    """Every head with its names and numbers."""
    names, uniform = present(records), results.get("uniform") or {}
    has_effects = any(finite(r.get("effect")) is not None for r in records)
    columns = [
        Column("head", False),
        Column("does", False, "from where it looks"),
        *(Column(NAMES.get(n, n), hint=MASSES[n]) for n in names),
        Column("most like", False, "the head whose attention overlaps most, and by how much"),
        *([Column("effect", hint="of ablating the head")] if has_effects else []),
    ]
    rows = [
        [
            Cell(component_name(r), 1000.0 * r["layer"] + r["index"], head=True),
            Cell(str(r.get("role") or "")),
            *(score_cell(r.get(n), *((r.get(f"{n}_low"), r.get(f"{n}_high")) if n in SPANNED else ())) for n in names),
            Cell(
                f"{r['nearest']} {number(r.get('nearest_similarity'), 2)}" if r.get("nearest") else ABSENT,
                finite(r.get("nearest_similarity")),
            ),
            *([_effect_cell(r)] if has_effects else []),
        ]
        for r in records
    ]
    alike = [Cell("uniform", -1.0, "everywhere alike", head=True), Cell("")]
    alike += [score_cell(uniform.get(n)) for n in names] + [Cell("")] * (1 + has_effects)
    about = (
        "Means over tokens of the texts, with 95% intervals over texts in small print. The row “uniform” is a head that looks "
        "everywhere alike on the same texts: a mass means something where it is more than that."
    )
    table = Table("heads-table", "Every head", columns, [alike, *rows], tall=True, copy=True)
    named = sum(bool(r.get("role")) for r in records)
    items = [
        ("heads", str(len(records)), f"{named} with a name"),
        (
            "half on the first token",
            str(sum((finite(r.get("first")) or 0) >= 0.5 for r in records)),
            "weight 0.5 or more",
        ),
        (
            "follow a dependency",
            str(sum(bool(r.get("relation")) for r in records)),
            "10 points above the best fixed offset",
        ),
        (
            "everywhere alike",
            str(sum((finite(r.get("entropy")) or 0) >= 0.95 for r in records)),
            "entropy 0.95 or more",
        ),
    ]
    return Section("heads", "Heads", [Stats(items), table], about, study=True)


def _effect_cell(record: Mapping[str, Any]) -> Cell:
    spans = interval(record.get("effect_low"), record.get("effect_high"))
    return Cell(signed(record.get("effect")), finite(record.get("effect")), spans)


def layers_section(results: Mapping[str, Any], data: dict[str, Any]) -> Section:
    """Means of each layer's heads, and the change from layer to layer."""
    layers: Sequence[Mapping[str, Any]] = list(results.get("layers") or ())
    labels = [str(r.get("layer")) for r in layers]
    kinds = {"previous": "control", "norm_first": "random", "first": "f1", "entropy": "score"}
    common: dict[str, Any] = {"labels": labels, "names": [f"layer {x}" for x in labels], "x_title": "layer"}
    means = lines(
        "means",
        [Series(NAMES.get(n, n), kind, [finite(r.get(n)) for r in layers]) for n, kind in kinds.items()],
        data,
        title="Means of each layer's heads",
        y_title="mean over heads",
        caption="First by value: the first token's share of what the attended values bring.",
        words="; ".join(f"layer {r.get('layer')} entropy {number(r.get('entropy'))}" for r in layers),
        **common,
    )
    pictures = [Picture([means])]
    if len(layers) > 1:
        change = lines(
            "change",
            [Series("change", "score", [finite(r.get("change")) for r in layers], points=True)],
            data,
            title="Change of the mean pattern",
            y_title="1 − overlap with the layer before",
            caption="Squared Hellinger distance of the mean pattern over heads to that of the layer before.",
            words="; ".join(f"layer {r.get('layer')} {number(r.get('change'))}" for r in layers),
            **common,
        )
        pictures.append(Picture([change]))
    return Section("layers", "Layers", pictures, "", study=True)


def checkpoints_section(records: Sequence[Mapping[str, Any]], data: dict[str, Any]) -> Section:
    """Entropy and movement of heads over a training run: their mean, and the heads that end sharpest and most diffuse."""
    steps = sorted({int(r["step"]) for r in records})
    of = {(r["step"], r["layer"], r["index"]): r for r in records}
    heads = sorted({(r["layer"], r["index"]) for r in records}, key=lambda h: float(of[steps[-1], *h]["entropy"]))
    named = {head: component_name({**of[steps[-1], *head], "component": "heads"}) for head in (heads[0], heads[-1])}

    def curves(field: str) -> list[Series]:
        each = {head: [finite(of[step, *head].get(field)) for step in steps] for head in heads}
        present = [[v for head in heads if (v := each[head][i]) is not None] for i in range(len(steps))]
        means = [fmean(values) if values else None for values in present]
        chosen = zip(("control", "random"), named.items(), strict=True)
        return [
            *(Series(name, kind, each[head]) for kind, (head, name) in chosen),
            Series("mean of heads", "score", means),
        ]

    common: dict[str, Any] = {
        "labels": [str(s) for s in steps],
        "names": [f"step {s}" for s in steps],
        "x_title": "step",
    }
    pictures = []
    for field, title, y_title, caption in (
        ("entropy", "Entropy over training", "entropy", "1 is looking everywhere alike: a head that stays there has learned nothing yet."),
        ("change", "Movement over training", "change", "Squared Hellinger distance of each token's attention to the checkpoint before."),
    ):  # fmt: skip
        made = curves(field)
        words = "; ".join(f"step {s} {number(v)}" for s, v in zip(steps, made[-1].values, strict=True) if v is not None)
        pictures.append(
            Picture(
                [
                    lines(
                        f"checkpoints-{field}",
                        made,
                        data,
                        title=title,
                        y_title=y_title,
                        caption=caption,
                        words=words,
                        **common,
                    )
                ]
            )
        )
    return Section("checkpoints", "Training", pictures, "", study=True)


def relations_section(relations: Sequence[Mapping[str, Any]]) -> Section:
    """The best head for each dependency and direction."""
    columns = [
        Column("dependency", False),
        Column("direction", False, "from the dependent to its governor, or back"),
        Column("head", False, "chosen on the other half of the texts"),
        Column("agreement", hint="share of the words whose most attended word is the other end"),
        Column("best offset", hint="the same for the best fixed offset"),
        Column("gain"),
        Column("n"),
        Column("follows", False, "10 points above the best fixed offset, interval above 0"),
    ]
    rows = [
        [
            Cell(str(r.get("relation")), head=True),
            Cell(str(r.get("direction"))),
            Cell(f"L{r.get('layer')}H{r.get('head')}", 1000.0 * (r.get("layer") or 0) + (r.get("head") or 0)),
            score_cell(r.get("score"), tone="strong" if r.get("syntactic") else ""),
            Cell(number(r.get("baseline")), finite(r.get("baseline")), f"{r.get('offset'):+d}"),
            signed_cell(r.get("gain"), r.get("low"), r.get("high")),
            Cell(general(r.get("n")), finite(r.get("n"))),
            Cell("yes" if r.get("syntactic") else ""),
        ]
        for r in sorted(relations, key=lambda r: -(finite(r.get("gain")) or 0.0))
    ]
    about = (
        "The head that agrees most with each dependency on one half of the texts, scored on the other half against the offset "
        "that is best there. In a causal model only arcs to earlier words count."
    )
    table = Table("relations-table", "The best head for each dependency", columns, rows, tall=True, copy=True)
    return Section("dependencies", "Dependencies", [table], about, study=True)


def effects_section(effects: Mapping[str, Any], records: Sequence[Mapping[str, Any]], data: dict[str, Any]) -> Section:
    """Each head's effect over its confidence, and the heads for which the two disagree."""
    mine = [r for r in records if finite(r.get("effect")) is not None and finite(r.get("confidence")) is not None]
    metric = f"{effects.get('metric')}, {effects.get('unit')}"
    data["heats"]["apart"] = {
        "metric": str(effects.get("metric")),
        "tips": [[component_name(r), signed(r["effect"]), f"confidence {number(r['confidence'])}"] for r in mine],
    }
    words = f"Effect of ablating each of {plural(len(mine), 'head')} over the confidence with which it looks."
    drawing = scatter(
        [(float(r["confidence"]), float(r["effect"])) for r in mine],
        uid="apart",
        title="Effect and confidence of every head",
        desc=words,
        x_title="confidence",
        y_title=f"effect on {metric}",
        one_scale=False,
    )
    spearman = effects.get("spearman") or {}
    items = [
        (f"Spearman with {n}", signed(v, 2), f"of |effect|, {effects.get('n')} heads") for n, v in spearman.items()
    ]
    kinds = {"sharp_unneeded": "sharp, not needed", "diffuse_needed": "diffuse, needed"}
    where = {site: kind for key, kind in kinds.items() for site in effects.get(key) or ()}
    columns = [
        Column("head", False),
        Column("disagree", False),
        Column("does", False),
        Column("confidence"),
        Column("entropy"),
        Column("contribution"),
        Column("effect", hint=f"of {effects.get('value')} ablation on {metric}"),
        Column("q", hint="false-discovery rate over all heads"),
    ]
    rows = [
        [
            Cell(component_name(r), 1000.0 * r["layer"] + r["index"], head=True),
            Cell(where[str(r["site"])]),
            Cell(str(r.get("role") or "")),
            *(score_cell(r.get(n)) for n in ("confidence", "entropy", "output")),
            _effect_cell(r),
            Cell(p_value(r.get("effect_q")), finite(r.get("effect_q"))),
        ]
        for r in mine
        if str(r["site"]) in where
    ]
    about = (
        "Weight is not importance. Sharp, not needed: among the most confident quarter, no effect that is clear of chance. "
        "Diffuse, needed: among the least confident quarter, with one."
    )
    parts = [
        Stats(items),
        Heat("apart", Markup(drawing), words, label="Effect over confidence", key=False),
        Table("apart-table", "Heads whose attention and effect disagree", columns, rows, tall=True),
    ]
    return Section("effects", "Attention and effect", parts, about, study=True)
