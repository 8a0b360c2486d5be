"""The sections of a page about confidence: reliability diagrams, risk against coverage,
every measure with its interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from ..report.charts import Series
from ..report.controls import Control, field, has_interval
from ..report.lines import lines
from ..report.parts import (
    Cell,
    Column,
    Fold,
    Heat,
    Multiples,
    Page,
    Picture,
    Section,
    Stats,
    Table,
    corrected_cell,
    score_cell,
)
from ..report.reliability import CAPTION, class_table, diagram, small_diagram, tips
from ..report.schema import Finding
from ..report.words import ABSENT, count, finite, interval, number, p_value, plural, signed, unnamed
from .records import ComparisonRecord, ErrorRecord, JudgedRecord
from .reliability import SIGNIFICANT

CONTROLS = (
    Control(
        "ECE of a perfectly calibrated model by chance",
        "an error caused by binning",
        field("ece_chance"),
    ),
    Control("interval over groups", "a difference due to the choice of rows", has_interval("ece")),
)
"""What each control rules out."""
COLOURS = ("score", "f1", "control", "random", "type", "emb")
"""Of the curves of risk, a confidence each."""
FEW_CLASSES = 12
"""Classes up to which their table is open."""


def confidence_page(
    records: Sequence[JudgedRecord],
    comparisons: Sequence[ComparisonRecord],
    errors: Sequence[ErrorRecord],
    findings: Sequence[Finding],
    *,
    title: str,
    command: str,
    source: str,
) -> Page:
    """The page of a run whose records are confidences.

    Args:
        source: what was measured.
    """
    data: dict[str, Any] = {"charts": {}, "heats": {}}
    sections = [_measures(records, comparisons)] if records else []
    measured = [(f"m{k}", record) for k, record in enumerate(records) if record.measured]
    sections += [_diagram(record, uid, data) for uid, record in measured]
    if any(record.coverage for _, record in measured):
        sections.append(_risk([record for _, record in measured], data))
    if errors:
        sections.append(_errors(errors))
    anchors = {record.method: uid for uid, record in measured}
    return Page(
        title=title,
        kicker=f"layerscope {command}",
        facts=[
            plural(records[0].n if records else 0, "row"),
            plural(len(records), "confidence"),
            source,
        ],
        findings=[
            (anchors.get(f.property, ""), f.property, unnamed(f.text, f.property)) for f in findings
        ],
        sections=sections,
        data=data,
    )


def _measures(records: Sequence[JudgedRecord], comparisons: Sequence[ComparisonRecord]) -> Section:
    """Every method on one line."""
    columns = [
        Column("confidence", False),
        Column(
            "answered", hint="rows with a confidence; refused and unparsable ones in small print"
        ),
        Column("mean", hint="mean confidence"),
        Column("accuracy"),
        Column("overconfidence", hint="mean confidence minus accuracy"),
        Column("ECE", hint="expected calibration error, bins of equal width"),
        Column(
            "by chance",
            hint="ECE of a perfectly calibrated model with these confidences; p in small print",
        ),
        Column("equal mass", hint="ECE with equally many rows per bin; by chance in small print"),
        Column("maximum", hint="largest gap of a bin"),
        Column(
            "squared error",
            hint="(confidence - correct) squared; with unanswered rows at 1/2 in small print",
        ),
        Column("AUROC", hint="how often a correct answer has a higher confidence than a wrong one"),
        Column(
            "risk area",
            hint="area under the risk-coverage curve; the best order of these "
            "answers in small print",
        ),
    ]
    caption = "Every measure, with 95% intervals in small print"
    parts: list[Any] = []
    measured = [record for record in records if record.measured]
    if measured:
        parts.append(_multiples(measured))
    rows = [_row(record) for record in records]
    parts.append(Table("measures", caption, columns, rows, copy=True))
    if whole := [record for record in records if record.brier is not None]:
        parts.append(_brier(whole))
    if comparisons:
        parts.append(_comparisons(comparisons))
    about = (
        "An expected calibration error (ECE) is above 0 by chance alone, "
        "more so with fewer rows: compare it with that of a perfectly calibrated model."
    )
    headline = in_short(measured[0]) if measured else ""
    return Section("measures-section", "All confidences", parts, about, headline=headline)


def _multiples(records: Sequence[JudgedRecord]) -> Multiples:
    """A small diagram of each confidence, with what a reader in a hurry takes home."""
    drawings = []
    for number_, record in enumerate(records):
        drawing = Markup(small_diagram(record, f"small-{number_}"))
        drawings.append((record.method, drawing, in_short(record)))
    return Multiples(drawings)


def in_short(record: JudgedRecord) -> str:
    """Confidence against accuracy in one sentence,
    which claims no more than the test and the interval support.
    """
    text = (
        f"On average {record.confidence:.0%} confident, and right {record.accuracy:.0%} of the time"
    )
    if record.ece_p_holm is None or record.overconfidence is None:
        return f"{text}: too few groups to test"
    if record.ece_p_holm >= SIGNIFICANT:
        return f"{text}: not significantly miscalibrated"
    ends, points = record.overconfidence_interval, abs(100 * record.overconfidence)
    if ends is not None and ends.excludes(0.0):
        side = "overconfident" if record.overconfidence > 0 else "underconfident"
        return f"{text}: {side} by {points:.0f} points"
    return f"{text}: significantly miscalibrated, but neither over- nor underconfident on average"


def _row(r: JudgedRecord) -> list[Cell]:
    note = f"p {p_value(r.ece_p_holm)}" if r.ece_p_holm is not None else ""
    return [
        Cell(r.method, head=True),
        Cell(count(r.n_answered), float(r.n_answered), ", ".join(r.unanswered)),
        score_cell(r.confidence, r.confidence_interval),
        score_cell(r.accuracy, r.accuracy_interval),
        Cell(
            signed(r.overconfidence),
            r.overconfidence,
            interval(r.overconfidence_interval),
        ),
        score_cell(r.ece, r.ece_interval, tone="strong"),
        Cell(number(r.ece_chance), r.ece_chance, note),
        Cell(number(r.ece_mass), r.ece_mass, _labelled("chance", r.ece_mass_chance)),
        score_cell(r.maximum_error),
        Cell(number(r.squared_error), r.squared_error, _labelled("all rows", r.squared_error_all)),
        score_cell(r.auroc, r.auroc_interval),
        Cell(number(r.aurc), r.aurc, _labelled("best", r.aurc_best)),
    ]


def _labelled(words: str, value: float | None) -> str:
    return "" if finite(value) is None else f"{words} {number(value)}"


def _brier(records: Sequence[JudgedRecord]) -> Table:
    columns = [
        Column("confidence", False),
        Column("Brier", hint="sum over classes of (p - outcome) squared, from 0 to 2"),
        Column("reliability", hint="cost of miscalibration"),
        Column("resolution", hint="gain from distinguishing rows"),
        Column("uncertainty", hint="from the label frequencies alone"),
        Column("within bins", hint="error from binning"),
        Column("NLL, nats", hint="negative log-likelihood of the label"),
    ]
    by_class = any(record.classwise is not None for record in records)
    if by_class:
        hint = (
            "mean over classes of the ECE of each class's own probability; by chance in small print"
        )
        columns.append(Column("classwise ECE", hint=hint))
    rows = [
        [
            Cell(r.method, head=True),
            score_cell(r.brier, r.brier_interval),
            *(
                score_cell(value)
                for value in (r.reliability, r.resolution, r.uncertainty, r.within)
            ),
            Cell("infinite") if r.n_impossible else score_cell(r.nll, r.nll_interval),
            *(
                [Cell(number(r.classwise), r.classwise, _labelled("chance", r.classwise_chance))]
                if by_class
                else []
            ),
        ]
        for r in records
    ]
    caption = "Whole distributions: Brier = reliability − resolution + uncertainty + within"
    return Table("brier", caption, columns, rows, copy=True)


def _comparisons(comparisons: Sequence[ComparisonRecord]) -> Table:
    columns = [
        Column("confidence", False),
        Column("against", False),
        Column("rows"),
        Column(
            "squared error",
            hint="mean of (confidence - correct) squared minus the other's; below 0 is better",
        ),
        Column(
            "p (Holm)",
            hint="paired over groups: sign flips and studentised bootstrap; "
            "intervals are not corrected",
        ),
    ]
    rows = [
        [
            Cell(c.b, head=True),
            Cell(c.a),
            Cell(count(c.n), float(c.n)),
            Cell(signed(c.difference), c.difference, interval(c.difference_interval)),
            corrected_cell(c.p_holm, c.p),
        ]
        for c in comparisons
    ]
    return Table("compared", "Compared on the same rows", columns, rows)


def _diagram(record: JudgedRecord, uid: str, data: dict[str, Any]) -> Section:
    """One method's reliability diagram, and its classes."""
    data["heats"][uid] = {"tips": tips(record), "metric": "accuracy", "patterns": None}
    items = [
        ("ECE", number(record.ece), interval(record.ece_interval)),
        ("by chance", number(record.ece_chance), f"p {p_value(record.ece_p_holm)}"),
        (
            "overconfidence",
            signed(record.overconfidence),
            interval(record.overconfidence_interval),
        ),
        ("AUROC", number(record.auroc), interval(record.auroc_interval)),
    ]
    parts: list[Any] = [
        Stats([item for item in items if item[1] != ABSENT]),
        Heat(
            uid,
            Markup(diagram(record, uid)),
            CAPTION,
            label=f"Reliability of {record.method}",
            key=False,
        ),
    ]
    if classes := record.classes:
        table = class_table(classes, uid)
        parts.append(
            Fold(f"Class by class ({len(classes)})", [table], open=len(classes) <= FEW_CLASSES)
        )
    badges = [(reason, "warn") for reason in record.unanswered]
    return Section(uid, record.method, parts, "", badges, study=True)


def _risk(records: Sequence[JudgedRecord], data: dict[str, Any]) -> Section:
    """The error rate of what is left when the least confident answers are withheld."""
    curves = [(r, r.coverage) for r in records[: len(COLOURS)] if r.coverage is not None]
    best = curves[0][1]
    labels = [f"{round(100 * share)}" for share in best.share]
    series = [
        Series(record.method, COLOURS[k], curve.risk, points=k == 0)
        for k, (record, curve) in reversed(list(enumerate(curves)))
    ]
    drawing = lines(
        "risk",
        [Series("best order", "major", best.best), *series],
        data,
        labels=labels,
        names=[f"the most confident {x}%" for x in labels],
        title="Risk against coverage",
        y_title="error rate",
        x_title="% of answers given, most confident first",
        caption="A flat curve: confidence does not separate right from wrong answers. Best order: "
        "all right answers first.",
        words="; ".join(f"{record.method}: area {number(record.aurc)}" for record, _ in curves),
    )
    about = "The error rate if only the most confident answers are given."
    return Section("risk-section", "Risk and coverage", [Picture([drawing])], about, study=True)


def _errors(errors: Sequence[ErrorRecord]) -> Section:
    """The wrong answers made with most confidence."""
    columns = [
        Column("row", False),
        Column("right", False),
        Column("answered", False),
        Column("confidence"),
    ]
    rows = [
        [Cell(e.text), Cell(e.gold), Cell(e.predicted), Cell(number(e.confidence), e.confidence)]
        for e in errors
    ]
    table = Table("errors", "Most confident mistakes", columns, rows, tall=True, copy=True)
    return Section("errors-section", "Confident mistakes", [table])
