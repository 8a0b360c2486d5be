"""The report of a probe run: results.json turned into the parts of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ...report.charts import sparkline
from ...report.controls import Control, field, has_interval
from ...report.depths import DepthCurve
from ...report.matrix import layer_matrix
from ...report.parts import (
    Cell,
    Column,
    Drawing,
    Fold,
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
from ...report.schema import Interval
from ...report.words import (
    ABSENT,
    count,
    finite,
    interval,
    layer_label,
    listed,
    number,
    plural,
    signed,
    unnamed,
)
from .curves import Profile, gather
from .curves import cautions as cautions
from .joint import joint_pictures
from .page_across import mixes_section, seeds_section, trees_section
from .page_calibration import calibration_parts
from .page_tables import class_choice, layer_table, wrong_words
from .pictures import all_series, close_pictures, main_picture, readout
from .records import Results

CONTROLS = (
    Control("control task", "the probe memorises words", field("control"), "--control-seeds 5"),
    Control(
        "type majority",
        "the word alone determines it, and the layer adds nothing",
        field("type_majority"),
    ),
    Control("embedding layer", "the property is already in the embeddings", field("embedding")),
    Control(
        "random weights",
        "the architecture provides it without training",
        field("random_model"),
        "--random-models 1",
    ),
    Control(
        "unseen word types", "words of the training sentences are memorised", field("score_unseen")
    ),
    Control(
        "interval over sentences",
        "a difference due to the choice of test sentences",
        has_interval("score"),
    ),
)
"""What each control rules out."""


def page(results: Results) -> Page:
    """All parts of the page, top to bottom, and the data that its script reads."""
    profiles = gather(results)
    about = results.provenance
    data: dict[str, Any] = {"charts": {}, "matrices": {}, "classes": {}}
    several = len(profiles) > 1
    sections = [overview(profiles, data)] if several else []
    sections += [profile_section(profile, results, data, several) for profile in profiles]
    if results.mixes:
        sections.append(mixes_section(results.mixes, data))
    if results.trees:
        sections.append(trees_section(results.trees, data))
    if results.seeds:
        labels = {record.site: layer_label(record.layer, record.site) for record in results.records}
        sections.append(seeds_section(results.seeds, labels))
    sections.append(records_section(results.records))
    names = list(dict.fromkeys(profile.name for profile in profiles))
    what = listed(names) if 0 < len(names) <= 3 else plural(len(names), "property", "properties")
    return Page(
        title=f"Where {model_name(about)} encodes {what}",
        kicker="layerscope probe",
        facts=facts(about, profiles),
        findings=findings(results, profiles),
        sections=sections,
        data=data,
    )


def facts(about: Mapping[str, Any], profiles: Sequence[Profile]) -> list[str]:
    """The line under the title."""
    blocks = {record.layer for profile in profiles for record in profile.records} - {-1}
    out = [
        plural(len(blocks), "layer"),
        plural(len({profile.name for profile in profiles}), "property", "properties"),
    ]
    for file in about.get("data") or ():
        if file.get("split") in ("train", "test"):
            out.append(f"{count(file.get('sentences'))} {file.get('split')} sentences")
    return out


def findings(results: Results, profiles: Sequence[Profile]) -> list[tuple[str, str, str]]:
    """(anchor, property, paragraph) of every profile;
    several kinds of sites also get a plain sentence each.
    """
    written: dict[str, list[str]] = {}
    for finding in results.findings:
        written.setdefault(finding.property, []).append(finding.text)
    out: list[tuple[str, str, str]] = []
    for profile in profiles:
        texts = written.pop(profile.name, [])
        if not profile.alone or not texts:
            texts = [*texts, profile.describe()]
        out += [(profile.uid, profile.title, text) for text in texts]
    rest = [("", name, text) for name, texts in written.items() for text in texts]
    return [(anchor, name, unnamed(text, name)) for anchor, name, text in out + rest]


def overview(profiles: Sequence[Profile], data: dict[str, Any]) -> Section:
    """All profiles in one figure, and one row for each."""
    columns = [
        Column("property", False),
        Column("by layer", False),
        Column("best layers", False, "the model confidence set: not significantly worse"),
        Column("best score"),
        Column("macro-F1"),
        Column("selectivity", hint="score minus control task"),
        Column("type majority"),
        Column("embedding"),
        Column("random weights"),
    ]
    rows = []
    for s in profiles:
        top = s.highest
        rows.append(
            [
                Cell(s.title, s.title, s.metric, head=True, tone=f"#{s.uid}"),
                Cell("", drawing=Markup(sparkline(s.column("score"), s.best))),
                Cell(s.best_text or ABSENT, float(s.best[0]) if s.best else None),
                score_cell(top.score, top.score_interval, tone="strong"),
                score_cell(top.macro_f1),
                control_cell(top.selectivity, top.selectivity_interval),
                control_cell(top.type_majority),
                control_cell(top.embedding),
                control_cell(top.random_model),
            ]
        )
    caption = "Every property at its best layer, with 95% intervals in small print"
    table = Table("overview-table", caption, columns, rows)
    return Section("overview", "At a glance", [*joint_pictures(profiles, data), table])


def control_cell(value: Any, ends: Interval | None = None) -> Cell:
    """A control's number; a badge where the run did not measure it."""
    if finite(value) is None:
        return Cell("not supported", tone="badge")
    return score_cell(value, ends)


def profile_section(
    profile: Profile, results: Results, data: dict[str, Any], folded: bool
) -> Section:
    """Everything about one property: a headline, its numbers and its picture, then the details.

    Args:
        folded: details open on demand, as on a page of several properties.
    """
    uid = profile.uid
    series = all_series(profile)
    data["charts"][f"{uid}-main"] = readout(profile, series)
    caption = (
        "Band: 95% interval, bootstrapped over sentences; around the control task, "
        "the range of its seeds. Filled points: the model confidence set, "
        "layers that are not significantly worse than the others."
    )
    main = Drawing(
        f"{uid}-main",
        Markup(main_picture(profile)),
        caption,
        f"{profile.title}: values by layer",
        Markup(main_picture(profile, narrow=True)),
    )
    small = []
    for k, (words, drawing, curves) in enumerate(close_pictures(profile)):
        data["charts"][f"{uid}-{k}"] = readout(profile, curves)
        small.append(Drawing(f"{uid}-{k}", Markup(drawing), words, f"{profile.title}: {words}"))
    parts: list[Any] = [Stats(stats(profile)), Picture([main])]
    details: list[tuple[str, list[Any]]] = []
    if small:
        details.append(("Closer looks", [Picture(small, small=True)]))
    details.append(("The numbers behind the picture", [layer_table(profile)]))
    compared = [vars(row) for row in profile.here(results.comparisons)]
    matrix = layer_matrix(compared, uid=f"{uid}-matrix", name=profile.title, metric=profile.metric)
    if matrix is not None:
        drawing, pairs, words = matrix
        data["matrices"][uid] = pairs
        shown = Matrix(uid, Markup(drawing), words, len(pairs["difference"]))
        details.append(("Which layers differ", [shown]))
    if (choice := class_choice(profile, results, data)) is not None:
        details.append(("Class by class", [choice]))
    if calibration := calibration_parts(profile, results, data):
        details.append(("Calibration", calibration))
    if wrong := wrong_words(profile, results):
        details.append(("Which words are wrong", wrong))
    parts += [Fold(name, inner, open=not folded) for name, inner in details]
    top = profile.highest
    about = [f"{top.level} level"]
    if top.n_classes is not None:
        about.append(plural(top.n_classes, "class", "classes"))
    about += [
        f"{count(n)} {split} items"
        for split, n in (("train", top.n_train), ("dev", top.n_dev), ("test", top.n_test))
    ]
    badges = [(f"no {words}: not supported", "warn") for words in profile.missing()]
    if late := profile.unconverged():
        badges.append((f"{plural(len(late), 'layer')} unconverged", "warn"))
    return Section(
        uid,
        profile.title,
        parts,
        " · ".join(about),
        badges,
        study=True,
        headline=profile.headline,
    )


def stats(profile: Profile) -> list[tuple[str, str, str]]:
    """The row of numbers above the picture, all at the layer that scores highest."""
    top = profile.highest
    items = [
        (
            "best layers",
            profile.best_text or profile.labels[profile.top],
            f"highest: {profile.labels[profile.top]}" if len(profile.best) > 1 else "",
        ),
        (profile.metric, number(top.score), interval(top.score_interval)),
        (
            "macro-F1",
            number(top.macro_f1),
            interval(top.macro_f1_interval),
        ),
        (
            "selectivity",
            signed(top.selectivity),
            interval(top.selectivity_interval),
        ),
        (
            "above type majority",
            signed(top.score - top.type_majority),
            f"which is {number(top.type_majority)}",
        ),
        (
            "unseen word types",
            number(top.score_unseen),
            f"seen: {number(top.score_seen)}",
        ),
    ]
    return [item for item in items if item[1] != ABSENT]


def curves(results: Results) -> list[DepthCurve]:
    """The score of each property over depth."""
    return [
        DepthCurve(
            title=profile.name,
            metric=profile.metric,
            layers=[record.layer + 1.0 for record in profile.records],
            sites=[record.site for record in profile.records],
            values=profile.column("score"),
            intervals=profile.intervals("score"),
        )
        for profile in gather(results)
    ]
