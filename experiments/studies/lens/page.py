"""The page of ``layerscope lens``: grids of readings, how far each lens can be believed,
and direct contributions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...features.sites import EMBEDDING
from ...report.charts import Rule, Series
from ...report.controls import Control
from ...report.depths import KINDS as COLOURS
from ...report.depths import DepthCurve
from ...report.lines import lines
from ...report.parts import (
    Cell,
    Column,
    Drawing,
    Fold,
    Heading,
    Page,
    Picture,
    Section,
    Stats,
    Table,
    corrected_cell,
    score_cell,
    signed_cell,
)
from ...report.provenance import model_name
from ...report.schema import Interval
from ...report.words import count, finite, layer_label, number, plural, signed, unnamed
from .circuits_page import circuits_section
from .findings import part_name
from .grid import reading_grid
from .records import LayerRecord, Results

CONTROLS = (
    Control(
        "random weights",
        "any residual stream would be read this way",
        lambda r: any("random" in x.kind for x in r.layers),
        "--random-models 1",
        lambda r: bool(r.layers),
    ),
    Control(
        "layers shuffled",
        "one matrix would serve every layer",
        lambda r: any("shuffled" in x.kind for x in r.layers),
        "--kind least-squares",
        lambda r: bool(r.layers),
    ),
    Control(
        "held-out texts with intervals",
        "a result that is true for one text only",
        lambda r: bool(r.layers),
        "--corpus FILE",
    ),
    Control(
        "exact ablation of the largest contributions",
        "a direct contribution is mistaken for the total effect",
        lambda r: any(x.exact is not None for x in r.contributions),
        "--verify 10",
        lambda r: bool(r.contributions),
    ),
)
"""What each control rules out."""

SHOWN = 40
"""Contributions in the table."""


def page(results: Results) -> Page:
    """All parts of the page, top to bottom."""
    data: dict[str, Any] = {"charts": {}, "heats": {}}
    sections = [_text_section(results, text, data) for text in range(len(results.texts))]
    if results.layers:
        sections.append(_layers_section(results, data))
    if results.circuits:
        sections.append(circuits_section(results))
    kinds = list(
        dict.fromkeys(r.kind for r in (*results.records, *results.layers) if r.kind != "model")
    )
    name = model_name(results.provenance)
    title = f"What each layer of {name} would predict"
    if not (results.texts or results.layers):
        title = f"The heads of {name}, read from their weights"
    return Page(
        title=title,
        kicker="layerscope lens",
        facts=[plural(len(results.texts), "text"), "; ".join(kinds[:4])],
        findings=[("", f.property, unnamed(f.text, f.property)) for f in results.findings],
        sections=sections,
        data=data,
    )


def _text_section(results: Results, number_: int, data: dict[str, Any]) -> Section:
    """One text: a grid for each lens, and the contributions."""
    text = results.texts[number_]
    records = [r for r in results.records if r.text == number_]
    parts: list[Any] = []
    if text.logit is not None:
        against = f" over {text.wrong!r}" if text.wrong else ""
        parts.append(
            Stats(
                [
                    (
                        f"logit of {text.target!r}{against}",
                        signed(text.logit),
                        "after the last token",
                    )
                ]
            )
        )
    for kind in dict.fromkeys(r.kind for r in records if r.kind != "model"):
        uid = f"grid-{number_}-{kind}"
        title = f"{kind} lens of text {number_ + 1}"
        rows = [r for r in records if r.kind in (kind, "model")]
        follows = text.target is not None
        grid = reading_grid(rows, text.tokens, uid, title, data, follows_target=follows)
        parts += [Heading(f"{kind.capitalize()} lens", ""), grid]
    if table := _contributions(results, number_):
        parts.append(table)
    return Section(f"text-{number_}", f"Text {number_ + 1}", parts, text.text, study=True)


def _contributions(results: Results, number_: int) -> Fold | None:
    """The largest contributions as bars, with exact effects."""
    records = [r for r in results.contributions if r.text == number_]
    if not records:
        return None
    ranked = sorted(records, key=lambda r: -abs(r.logit))[:SHOWN]
    largest = max(abs(r.logit) for r in ranked) or 1.0
    columns = [
        Column("part", False),
        Column("direct", hint="contribution to the logit through the frozen final norm"),
        Column(
            "whole",
            hint="the logit with it minus the logit with it set to zero (exact ablation)",
        ),
    ]
    rows = [
        [
            Cell(part_name(r), head=True),
            Cell(signed(r.logit), r.logit, bar=abs(r.logit) / largest),
            Cell("" if r.exact is None else signed(r.exact), finite(r.exact)),
        ]
        for r in ranked
    ]
    text = results.texts[number_]
    caption = (
        f"The {len(ranked)} largest of {len(records):,} contributions; "
        f"all sum to the logit (error {number(text.sum_error, 6)})"
    )
    table = Table(f"contributions-{number_}", caption, columns, rows, copy=True)
    return Fold("Direct logit attribution", [table], open=True)


def _layers_section(results: Results, data: dict[str, Any]) -> Section:
    """Divergence over layers with every lens and control, and the numbers."""
    kinds = list(dict.fromkeys(r.kind for r in results.layers))
    layers = sorted({r.layer for r in results.layers})
    series = []
    for i, kind in enumerate(kinds):
        rows = {r.layer: r for r in results.layers if r.kind == kind}
        values = [rows[n].kl if n in rows else None for n in layers]
        intervals = [rows[n].kl_interval if n in rows else None for n in layers]
        series.append(Series(kind, COLOURS[i % len(COLOURS)], values, intervals, points=True))
    labels = [layer_label(layer) for layer in layers]
    drawing = lines(
        "kl",
        series[::-1],
        data,
        labels=labels,
        names=[f"layer {label}" for label in labels],
        title="Divergence from the model's own prediction",
        y_title="bits a token",
        x_title="layer (emb = embedding)",
        caption="Lower is closer to the model's prediction. Bands: "
        "95% intervals over held-out texts.",
        words="; ".join(
            (
                f"{s.name}: {number(s.values[0])} at {labels[0]}, "
                f"{number(s.values[-1])} at {labels[-1]}"
            )
            for s in series
        ),
    )
    first = results.layers[0]
    about = f"{plural(first.n_texts, 'held-out text')}, {count(first.n_tokens)} tokens."
    drawings = [drawing]
    if results.reliability:
        drawings.append(_reliability(results, data))
    parts: list[Any] = [Picture([one]) for one in drawings]
    parts.append(_layers_table(results.layers))
    if results.comparisons:
        parts.append(_comparisons(results))
    return Section(
        "layers", "How well each layer's reading agrees with the model", parts, about, study=True
    )


def _reliability(results: Results, data: dict[str, Any]) -> Drawing:
    """The reliability of some layers' Jacobians over the number of texts."""
    known = sorted({row.layer for row in results.reliability})
    # the first, the last, and two between: more curves cannot be told apart
    layers = sorted({known[round(share * (len(known) - 1))] for share in (0, 1 / 3, 2 / 3, 1)})
    steps = sorted({row.texts for row in results.reliability})
    values = {(row.layer, row.texts): row.reliability for row in results.reliability}
    series = []
    for i, layer in enumerate(layers):
        curve = [values[layer, texts] for texts in steps]
        series.append(Series(f"layer {layer_label(layer)}", COLOURS[i], curve, points=True))
    words = "; ".join(f"{s.name}: {number(s.values[-1])} at {steps[-1]} texts" for s in series)
    return lines(
        "reliability",
        series[::-1],
        data,
        labels=[str(texts) for texts in steps],
        names=[plural(texts, "text") for texts in steps],
        title="Reliability of the Jacobian lens",
        y_title="reliability",
        x_title="texts",
        caption="Agreement of the matrices from two halves of the texts, "
        "for all of them (Spearman-Brown). 1: known exactly.",
        words=words,
        rules=[Rule("0.95", "major", 0.95)],
    )


def _layers_table(records: Sequence[LayerRecord]) -> Table:
    columns = [
        Column("lens", False),
        Column("layer", False),
        Column("KL", hint="bits per token, from the model's prediction"),
        Column("loss", hint="cross-entropy of the next token, bits"),
        Column("agreement", hint="same most likely token as the model"),
        Column("median rank", hint="of the true next token"),
        Column(
            "reliability",
            hint="Jacobian: cosine of two halves of the texts; texts needed for .95 in small print",
        ),
        Column(
            "overlap",
            hint="Jacobian: the ten most likely tokens that the readings "
            "of two halves have in common",
        ),
    ]
    rows = [
        [
            Cell(r.kind, head=True),
            Cell(layer_label(r.layer), float(r.layer)),
            score_cell(r.kl, r.kl_interval),
            score_cell(r.loss, r.loss_interval),
            score_cell(r.agreement, r.agreement_interval),
            Cell(f"{r.median_rank:,.0f}", r.median_rank, _span(r.median_rank_interval)),
            _reliability_cell(r),
            Cell("" if r.overlap is None else f"{r.overlap:.0%}", r.overlap),
        ]
        for r in records
    ]
    return Table(
        "layers-table",
        "Every lens at every layer, 95% intervals in small print",
        columns,
        rows,
        tall=True,
        copy=True,
    )


def _reliability_cell(record: LayerRecord) -> Cell:
    """The cosine of two halves' lenses; in small print the texts that .95 takes."""
    if record.cosine is None:
        return Cell("")
    note = "" if record.texts_needed is None else f"{record.texts_needed:,} texts"
    return Cell(number(record.cosine), record.cosine, note)


def _span(ends: Interval | None) -> str:
    """The interval of a rank."""
    return "" if ends is None else ends.text(",.0f")


def _comparisons(results: Results) -> Fold:
    columns = [
        Column("lens", False),
        Column("against", False),
        Column("layer", False),
        Column("KL difference", hint="bits per token; below 0 the lens is closer to the model"),
        Column("p (Holm)", hint="corrected over layers and lenses; intervals are not"),
    ]
    rows = [
        [
            Cell(c.b, head=True),
            Cell(c.a),
            Cell(layer_label(c.layer), float(c.layer)),
            signed_cell(c.difference, c.difference_interval),
            corrected_cell(c.p_holm, c.p),
        ]
        for c in results.comparisons
    ]
    return Fold(
        "Lenses against each other",
        [Table("comparisons", "Paired over texts", columns, rows, copy=True)],
    )


def curves(results: Results) -> list[DepthCurve]:
    """The divergence under each lens over depth."""
    depth_curves = []
    for kind in dict.fromkeys(r.kind for r in results.layers):
        rows = [r for r in results.layers if r.kind == kind]
        depth_curves.append(
            DepthCurve(
                f"{kind} lens",
                "bits a token from the model's prediction",
                layers=[row.layer + 1.0 for row in rows],  # blocks in front of each site
                sites=[_stream_behind(row.layer) for row in rows],
                values=[row.kl for row in rows],
                intervals=[row.kl_interval for row in rows],
            )
        )
    return depth_curves


def _stream_behind(layer: int) -> str:
    """The site that a lens reads behind a block, -1 the embedding."""
    return EMBEDDING if layer < 0 else f"blocks.{layer}.hook_resid_post"
