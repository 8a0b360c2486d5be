"""The page of a study of calibration: reliability diagrams, risk against coverage, and every measure with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ...report.charts import Series
from ...report.controls import Control, field
from ...report.lines import lines
from ...report.parts import Cell, Column, Fold, Heat, Page, Picture, Section, Stats, Table, score_cell
from ...report.provenance import model_name
from ...report.reliability import CAPTION, class_table, diagram, tips
from ...report.words import ABSENT, count, finite, interval, number, p_value, plural, signed, unnamed

CONTROLS = (
    Control("ECE of a perfectly calibrated model by chance", "an error that the bins make", field("ece_chance")),
    Control("interval over groups", "a difference within the rows' chance", field("ece_low")),
)
"""What each control rules out."""


Record = Mapping[str, Any]
KINDS = ("score", "f1", "control", "random", "type", "emb")


def page(results: Mapping[str, Any]) -> Page:
    """All parts of the page, top to bottom, and the data that its script reads."""
    about = results.get("provenance") or {}
    records: Sequence[Record] = list(results.get("records") or ())
    measured = [r for r in records if r.get("measured")]
    data: dict[str, Any] = {"charts": {}, "heats": {}}
    first = records[0] if records else {}
    sections = [measures_section(records, results.get("comparisons") or ())] if records else []
    sections += [diagram_section(r, f"m{k}", data) for k, r in enumerate(records) if r.get("measured")]
    if measured:
        sections.append(risk_section(measured, data))
    if errors := results.get("errors") or ():
        sections.append(errors_section(errors))
    anchors = {str(r.get("method")): f"m{k}" for k, r in enumerate(records) if r.get("measured")}
    facts = [
        plural(int(first.get("n") or 0), "row"),
        plural(len(records), "confidence"),
        str(results.get("source", "")),
    ]
    return Page(
        title=f"Does {_who(about)} know what it knows?",
        kicker="layerscope calibrate",
        facts=facts,
        findings=[
            (anchors.get(name := str(f.get("property")), ""), name, unnamed(str(f.get("text", "")), name))
            for f in results.get("findings") or ()
        ],
        sections=sections,
        data=data,
    )


def _who(about: Mapping[str, Any]) -> str:
    if about.get("model"):
        return model_name(about)
    name = (about.get("config") or {}).get("predictions")
    return Path(str(name)).stem if name else "a classifier"


def measures_section(records: Sequence[Record], comparisons: Sequence[Record]) -> Section:
    """Every method on one line."""
    columns = [
        Column("confidence", False),
        Column("answered", hint="rows with a confidence; refused and unparsable ones in small print"),
        Column("mean", hint="mean confidence"),
        Column("accuracy"),
        Column("too sure by", hint="mean confidence minus accuracy"),
        Column("ECE", hint="expected calibration error, bins of equal width"),
        Column("by chance", hint="ECE of a perfectly calibrated model with these confidences; p in small print"),
        Column("equal mass", hint="ECE of bins that hold equally many rows; by chance in small print"),
        Column("maximum", hint="largest gap of a bin"),
        Column("squared error", hint="(confidence - correct) squared; with unanswered rows at 1/2 in small print"),
        Column("AUROC", hint="how often a right answer is more confident than a wrong one"),
        Column("risk area", hint="area under the risk-coverage curve; the best order of these answers in small print"),
    ]
    table = Table(
        "measures", "Every measure, with 95% intervals in small print", columns, [_row(r) for r in records], copy=True
    )
    parts: list[Any] = [table]
    if whole := [r for r in records if finite(r.get("brier")) is not None]:
        parts.append(_brier_table(whole))
    if comparisons:
        parts.append(_comparison_table(comparisons))
    about = (
        "An expected calibration error (ECE) is above 0 by chance alone, the more so the fewer rows: read it beside the one "
        "that a perfectly calibrated model would show."
    )
    return Section("measures-section", "All confidences", parts, about)


def _row(r: Record) -> list[Cell]:
    lost = [f"{r[f'n_{why}']} {why}" for why in ("refused", "unparsable") if r.get(f"n_{why}")]
    note = f"p {p_value(r.get('ece_p'))}" if finite(r.get("ece_p")) is not None else ""
    return [
        Cell(str(r.get("method")), head=True),
        Cell(count(r.get("n_answered")), finite(r.get("n_answered")), ", ".join(lost)),
        _cell(r, "confidence"),
        _cell(r, "accuracy"),
        Cell(
            signed(r.get("overconfidence")),
            finite(r.get("overconfidence")),
            interval(r.get("overconfidence_low"), r.get("overconfidence_high")),
        ),
        _cell(r, "ece", tone="strong"),
        Cell(number(r.get("ece_chance")), finite(r.get("ece_chance")), note),
        Cell(number(r.get("ece_mass")), finite(r.get("ece_mass")), _beside("chance", r.get("ece_mass_chance"))),
        score_cell(r.get("maximum_error")),
        Cell(number(r.get("brier_top")), finite(r.get("brier_top")), _beside("all rows", r.get("brier_all"))),
        _cell(r, "auroc"),
        Cell(number(r.get("aurc")), finite(r.get("aurc")), _beside("best", r.get("aurc_best"))),
    ]


def _beside(words: str, value: Any) -> str:
    return "" if finite(value) is None else f"{words} {number(value)}"


def _cell(r: Record, name: str, tone: str = "") -> Cell:
    return score_cell(r.get(name), r.get(f"{name}_low"), r.get(f"{name}_high"), tone=tone)


def _brier_table(records: Sequence[Record]) -> Table:
    columns = [
        Column("confidence", False),
        Column("Brier", hint="sum over classes of (p - outcome) squared, from 0 to 2"),
        Column("reliability", hint="what miscalibration costs"),
        Column("resolution", hint="what telling rows apart gains"),
        Column("uncertainty", hint="what the labels' frequencies leave"),
        Column("within bins", hint="what the bins themselves add"),
        Column("NLL, nats", hint="negative log-likelihood of the label"),
    ]
    by_class = any(finite(r.get("classwise")) is not None for r in records)
    if by_class:
        hint = "mean over classes of the ECE of each class's own probability; by chance in small print"
        columns.append(Column("classwise ECE", hint=hint))
    rows = [
        [
            Cell(str(r.get("method")), head=True),
            _cell(r, "brier"),
            *(score_cell(r.get(k)) for k in ("reliability", "resolution", "uncertainty", "within")),
            _cell(r, "nll") if finite(r.get("nll")) is not None else Cell("infinite"),
            *([_classwise(r)] if by_class else []),
        ]
        for r in records
    ]
    caption = "Whole distributions: Brier = reliability − resolution + uncertainty + within"
    return Table("brier", caption, columns, rows, copy=True)


def _classwise(r: Record) -> Cell:
    return Cell(number(r.get("classwise")), finite(r.get("classwise")), _beside("chance", r.get("classwise_chance")))


def _comparison_table(comparisons: Sequence[Record]) -> Table:
    columns = [
        Column("confidence", False),
        Column("against", False),
        Column("rows"),
        Column("squared error", hint="mean of (confidence - correct) squared less the other's: below 0 it is better"),
        Column("p", hint="paired bootstrap over groups, Holm-corrected"),
    ]
    rows = [
        [
            Cell(str(c.get("b")), head=True),
            Cell(str(c.get("a"))),
            Cell(count(c.get("n")), finite(c.get("n"))),
            Cell(
                signed(c.get("difference")),
                finite(c.get("difference")),
                interval(c.get("difference_low"), c.get("difference_high")),
            ),
            Cell(p_value(c.get("p_holm")), finite(c.get("p_holm"))),
        ]
        for c in comparisons
    ]
    return Table("compared", "Compared on the same rows", columns, rows)


def diagram_section(record: Record, uid: str, data: dict[str, Any]) -> Section:
    """One method's reliability diagram, and its classes."""
    data["heats"][uid] = {"tips": tips(record), "metric": "accuracy", "patterns": None}
    items = [
        ("ECE", number(record.get("ece")), interval(record.get("ece_low"), record.get("ece_high"))),
        ("by chance", number(record.get("ece_chance")), f"p {p_value(record.get('ece_p'))}"),
        (
            "too sure by",
            signed(record.get("overconfidence")),
            interval(record.get("overconfidence_low"), record.get("overconfidence_high")),
        ),
        ("AUROC", number(record.get("auroc")), interval(record.get("auroc_low"), record.get("auroc_high"))),
    ]
    parts: list[Any] = [
        Stats([item for item in items if item[1] != ABSENT]),
        Heat(uid, Markup(diagram(record, uid)), CAPTION, label=f"Reliability of {record['method']}", key=False),
    ]
    if classes := record.get("classes") or ():
        parts.append(Fold(f"Class by class ({len(classes)})", [class_table(classes, uid)], open=len(classes) <= 12))
    badges = [(f"{record[f'n_{why}']} {why}", "warn") for why in ("refused", "unparsable") if record.get(f"n_{why}")]
    return Section(uid, str(record["method"]), parts, "", badges, study=True)


def risk_section(records: Sequence[Record], data: dict[str, Any]) -> Section:
    """The error rate of what is left when the least confident answers are withheld."""
    first = records[0]
    shares = first["coverage"]["share"]
    labels = [f"{round(100 * s)}" for s in shares]
    shown = records[: len(KINDS)]
    series = [
        Series(str(r["method"]), KINDS[k], r["coverage"]["risk"], points=k == 0)
        for k, r in reversed(list(enumerate(shown)))
    ]
    drawing = lines(
        "risk",
        [Series("best order", "major", first["coverage"]["best"]), *series],
        data,
        labels=labels,
        names=[f"the most confident {x}%" for x in labels],
        title="Risk against coverage",
        y_title="error rate",
        x_title="% of answers that are given, most confident first",
        caption="A flat curve is a confidence that does not tell right from wrong; the best order puts all right answers first.",
        words="; ".join(f"{r['method']}: area {number(r.get('aurc'))}" for r in shown),
    )
    about = "What the error rate becomes if only the most confident answers are given."
    return Section("risk-section", "Risk and coverage", [Picture([drawing])], about, study=True)


def errors_section(errors: Sequence[Record]) -> Section:
    """The wrong answers made with most confidence."""
    columns = [Column("row", False), Column("right", False), Column("answered", False), Column("confidence")]
    rows = [
        [
            Cell(str(e.get("text"))),
            Cell(str(e.get("gold"))),
            Cell(str(e.get("predicted"))),
            Cell(number(e.get("confidence")), finite(e.get("confidence"))),
        ]
        for e in errors
    ]
    table = Table("errors", "Most confident mistakes", columns, rows, tall=True, copy=True)
    return Section("errors-section", "Sure and wrong", [table])
