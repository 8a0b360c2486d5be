"""What a probing study says of its probes' calibration: a table by layer, and the diagram of the best layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from ...report.parts import Cell, Column, Fold, Heading, Heat, Table, score_cell
from ...report.reliability import CAPTION, class_table, diagram, tips
from ...report.words import finite, number, p_value
from .curves import Study


def calibration_parts(study: Study, results: Mapping[str, Any], data: dict[str, Any]) -> list[Any]:
    """Nothing where the run did not measure it."""
    found = {str(row.get("site")): row for row in study.here(results.get("calibration") or ())}
    if not found:
        return []
    columns = [
        Column("layer", False),
        Column("ECE", hint="expected calibration error, 15 bins of equal width"),
        Column("by chance", hint="of a perfectly calibrated probe with these confidences; p in small print"),
        Column("classwise", hint="mean over classes of the ECE of each class's own probability"),
        Column("Brier"),
        Column("NLL, nats"),
        Column("AUROC", hint="how often a right word is more confident than a wrong one"),
        Column("temperature", hint="fitted on dev; above 1 the probe was too sure"),
        Column("ECE then", hint="with that temperature"),
    ]
    rows = [
        [
            Cell(study.labels[i], float(i), head=True),
            score_cell(r.get("ece"), r.get("ece_low"), r.get("ece_high")),
            Cell(number(r.get("ece_chance")), finite(r.get("ece_chance")), f"p {p_value(r.get('ece_p'))}"),
            *(score_cell(r.get(k)) for k in ("classwise", "brier", "nll", "auroc", "temperature", "ece_scaled")),
        ]
        for i, r in enumerate(study.records)
        if str(r.get("site")) in found
    ]
    uid = f"{study.uid}-calibration"
    about = "Is the probe as often right as its probabilities say, at each layer; and the diagram of the best layer."
    parts: list[Any] = [
        Heading("Calibration", about),
        Table(f"{uid}-table", f"{study.title}: calibration by layer", columns, rows, copy=True),
    ]
    best = found.get(str(study.records[study.top].get("site")))
    if best is not None:
        data.setdefault("heats", {})[uid] = {"tips": tips(best), "metric": "accuracy", "patterns": None}
        parts.append(
            Heat(uid, Markup(diagram(best, uid)), CAPTION, label=f"Reliability of probes of {study.title}", key=False)
        )
        if classes := best.get("classes") or ():
            parts.append(Fold(f"Calibration of each class ({len(classes)})", [class_table(classes, uid)]))
    return parts
