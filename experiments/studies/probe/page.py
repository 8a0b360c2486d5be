"""The report of a probe run: results.json turned into the parts of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ...report.charts import sparkline
from ...report.controls import Control, field
from ...report.depths import DepthCurve
from ...report.matrix import layer_matrix
from ...report.parts import (
    Cell,
    Column,
    Drawing,
    Fold,
    Heading,
    Matrix,
    Page,
    Picture,
    Section,
    Stats,
    Table,
    score_cell,
)
from ...report.provenance import model_name
from ...report.records_table import records_section
from ...report.words import ABSENT, count, finite, interval, layer_label, listed, number, plural, signed, unnamed
from .curves import Study, gather
from .curves import cautions as cautions
from .page_across import mixes_section, seeds_section, trees_section
from .page_calibration import calibration_parts
from .page_tables import class_choice, layer_table, wrong_words
from .pictures import all_series, close_pictures, main_picture, readout

CONTROLS = (
    Control("control task", "the probe's own memory for words", field("control"), "--control-seeds 5"),
    Control("type majority", "the word alone tells it, the layer adds nothing", field("type_majority")),
    Control("embedding layer", "it was there before the first block", field("embedding")),
    Control("random weights", "the architecture gives it, no training", field("random_model"), "--random-models 1"),
    Control("unseen word types", "words of the training sentences are remembered", field("score_unseen")),
    Control("interval over sentences", "a difference within the test sentences' chance", field("low")),
)
"""What each control rules out."""


def page(results: Mapping[str, Any]) -> Page:
    """All parts of the page, top to bottom, and the data that its script reads."""
    studies = gather(results)
    about = results.get("provenance") or {}
    data: dict[str, Any] = {"charts": {}, "matrices": {}, "classes": {}}
    sections = [overview(studies)] if len(studies) > 1 else []
    sections += [study_section(s, results, data) for s in studies]
    if mixes := results.get("mixes"):
        sections.append(mixes_section(mixes, data))
    if trees := results.get("trees"):
        sections.append(trees_section(trees, data))
    if seeds := results.get("seeds"):
        places = {str(r["site"]): layer_label(r.get("layer"), str(r["site"])) for r in results.get("records") or ()}
        sections.append(seeds_section(seeds, places))
    sections.append(records_section(results))
    names = list(dict.fromkeys(s.name for s in studies))
    what = listed(names) if 0 < len(names) <= 3 else plural(len(names), "property", "properties")
    return Page(
        title=f"Where {model_name(about)} encodes {what}",
        kicker="layerscope probe",
        facts=facts(about, studies),
        findings=findings(results, studies),
        sections=sections,
        data=data,
    )


def facts(about: Mapping[str, Any], studies: Sequence[Study]) -> list[str]:
    """The line under the title."""
    depth = max((len(s.records) for s in studies), default=0)
    out = [
        plural(depth, "layer"),
        plural(len({s.name for s in studies}), "property", "properties"),
    ]
    out += [
        f"{count(d.get('sentences'))} {d.get('split')} sentences"
        for d in about.get("data") or ()
        if d.get("split") in ("train", "test")
    ]
    return out


def findings(results: Mapping[str, Any], studies: Sequence[Study]) -> list[tuple[str, str, str]]:
    """(anchor, property, paragraph) of every study; a run without words of its own gets plain ones."""
    written: dict[str, list[str]] = {}
    for f in results.get("findings") or ():
        written.setdefault(str(f.get("property")), []).append(str(f.get("text", "")))
    out: list[tuple[str, str, str]] = []
    for study in studies:
        if study.alone:
            texts = written.pop(study.name, None) or [study.describe()]
        else:
            texts = [*written.pop(study.name, []), study.describe()]
        out += [(study.uid, study.title, text) for text in texts]
    rest = [("", name if name != "None" else "", text) for name, texts in written.items() for text in texts]
    return [(anchor, name, unnamed(text, name)) for anchor, name, text in out + rest]


def overview(studies: Sequence[Study]) -> Section:
    """One row per study."""
    columns = [
        Column("property", False),
        Column("by layer", False),
        Column("best layers", False, "not significantly worse than the best (Holm)"),
        Column("best score"),
        Column("macro-F1"),
        Column("selectivity", hint="score minus control task"),
        Column("type majority"),
        Column("embedding"),
        Column("random weights"),
    ]
    rows = []
    for s in studies:
        top = s.records[s.top]
        rows.append(
            [
                Cell(s.title, s.title, s.metric, head=True, tone=f"#{s.uid}"),
                Cell("", drawing=Markup(sparkline(s.column("score"), s.best))),
                Cell(s.best_text or ABSENT, float(s.best[0]) if s.best else None),
                score_cell(top.get("score"), top.get("low"), top.get("high"), tone="strong"),
                score_cell(top.get("macro_f1")),
                control_cell(top.get("selectivity"), top.get("selectivity_low"), top.get("selectivity_high")),
                control_cell(top.get("type_majority")),
                control_cell(top.get("embedding")),
                control_cell(top.get("random_model")),
            ]
        )
    caption = "Every property at its best layer, with 95% intervals in small print"
    return Section("overview", "At a glance", [Table("overview-table", caption, columns, rows)])


def control_cell(value: Any, low: Any = None, high: Any = None) -> Cell:
    """A control's number; a badge where the run did not measure it."""
    if finite(value) is None:
        return Cell("not supported", tone="badge")
    return score_cell(value, low, high)


def study_section(study: Study, results: Mapping[str, Any], data: dict[str, Any]) -> Section:
    """Everything about one property."""
    uid = study.uid
    series = all_series(study)
    data["charts"][f"{uid}-main"] = readout(study, series)
    caption = (
        "Band: 95% interval, bootstrapped over sentences; around the control task, the range of its seeds. "
        "Filled points: the set of best layers, none significantly worse than the best (Holm)."
    )
    main = Drawing(
        f"{uid}-main",
        Markup(main_picture(study)),
        caption,
        f"{study.title}: values by layer",
        Markup(main_picture(study, narrow=True)),
    )
    small = []
    for k, (words, drawing, curves) in enumerate(close_pictures(study)):
        data["charts"][f"{uid}-{k}"] = readout(study, curves)
        small.append(Drawing(f"{uid}-{k}", Markup(drawing), words, f"{study.title}: {words}"))
    parts: list[Any] = [Stats(stats(study)), Picture([main])]
    if small:
        parts.append(Picture(small, small=True))
    parts.append(Fold("The numbers behind the picture", [layer_table(study)], open=len(study.records) <= 9))
    compared = study.here(results.get("comparisons") or ())
    if (matrix := layer_matrix(compared, uid=f"{uid}-matrix", name=study.title, metric=study.metric)) is not None:
        drawing, pairs, words = matrix
        data["matrices"][uid] = pairs
        parts += [
            Heading("Which layers differ"),
            Matrix(uid, Markup(drawing), words, len(pairs["pairs"])),
        ]
    if (choice := class_choice(study, results, data)) is not None:
        parts += [Heading("Class by class"), choice]
    parts += calibration_parts(study, results, data)
    parts += wrong_words(study, results)
    top = study.records[study.top]
    about = [f"{top.get('level', 'word')} level"]
    if not study.is_number and finite(top.get("n_classes")) is not None:
        about.append(plural(int(top["n_classes"]), "class", "classes"))
    about += [f"{count(top.get(f'n_{s}'))} {s} items" for s in ("train", "dev", "test") if finite(top.get(f"n_{s}"))]
    badges = [(f"no {words}: not supported", "warn") for words in study.missing()]
    if late := study.unconverged():
        badges.append((f"{plural(len(late), 'layer')} unconverged", "warn"))
    return Section(uid, study.title, parts, " · ".join(about), badges, study=True)


def stats(study: Study) -> list[tuple[str, str, str]]:
    """The row of numbers above the picture, all at the layer that scores highest."""
    top = study.records[study.top]
    score, by_type = finite(top.get("score")), finite(top.get("type_majority"))
    beyond = None if score is None or by_type is None else score - by_type
    items = [
        (
            "best layers",
            study.best_text or study.labels[study.top],
            f"highest: {study.labels[study.top]}" if len(study.best) > 1 else "",
        ),
        (study.metric, number(score), interval(top.get("low"), top.get("high"))),
        (
            "macro-F1",
            number(top.get("macro_f1")),
            interval(top.get("macro_f1_low"), top.get("macro_f1_high")),
        ),
        (
            "selectivity",
            signed(top.get("selectivity")),
            interval(top.get("selectivity_low"), top.get("selectivity_high")),
        ),
        (
            "above type majority",
            signed(beyond),
            f"which is {number(by_type)}" if by_type is not None else "",
        ),
        (
            "unseen word types",
            number(top.get("score_unseen")),
            f"seen: {number(top.get('score_seen'))}",
        ),
    ]
    return [item for item in items if item[1] != ABSENT]


def curves(results: Mapping[str, Any]) -> list[DepthCurve]:
    """The score of each property over depth."""
    found = []
    for study in gather(results):
        records = [r for r in study.records if finite(r.get("layer")) is not None]
        found.append(DepthCurve.of(study.name, study.metric, records, "score"))
    return found
