"""Calibration of a study's probes: a table by layer, and the diagram of the best layer."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from ...report.parts import Cell, Column, Fold, Heat, Table, Text, score_cell
from ...report.reliability import CAPTION, class_table, diagram, tips
from ...report.words import number, p_value
from .curves import Profile
from .records import Results


def calibration_parts(profile: Profile, results: Results, data: dict[str, Any]) -> list[Any]:
    """Nothing where the run did not measure it."""
    by_site = {row.site: row for row in results.calibration if row.property == profile.name}
    if not any(record.site in by_site for record in profile.records):
        return []
    columns = [
        Column("layer", False),
        Column("ECE", hint="expected calibration error, 15 bins of equal width"),
        Column(
            "by chance",
            hint="of a perfectly calibrated probe with these confidences; p in small print",
        ),
        Column("classwise", hint="mean over classes of the ECE of each class's own probability"),
        Column("Brier"),
        Column("NLL, nats"),
        Column("AUROC", hint="how often a correct word has a higher confidence than a wrong one"),
        Column("temperature", hint="fitted on dev; above 1 the probe was overconfident"),
        Column("ECE then", hint="with that temperature"),
    ]
    rows = [
        [
            Cell(profile.labels[i], float(i), head=True),
            score_cell(record.ece, record.ece_interval),
            Cell(number(record.ece_chance), record.ece_chance, f"p {p_value(record.ece_p)}"),
            score_cell(record.classwise),
            score_cell(record.brier),
            score_cell(record.nll),
            score_cell(record.auroc),
            score_cell(record.temperature),
            score_cell(record.ece_scaled),
        ]
        for i, record in enumerate(profile.records)
        if record.site in by_site
    ]
    uid = f"{profile.uid}-calibration"
    about = (
        "How well the probe is calibrated at each layer, "
        "and the reliability diagram of the best layer."
    )
    parts: list[Any] = [
        Text([about]),
        Table(f"{uid}-table", f"{profile.title}: calibration by layer", columns, rows, copy=True),
    ]
    best = by_site.get(profile.highest.site)
    if best is not None:
        data.setdefault("heats", {})[uid] = {
            "tips": tips(best),
            "metric": "accuracy",
            "patterns": None,
        }
        parts.append(
            Heat(
                uid,
                Markup(diagram(best, uid)),
                CAPTION,
                label=f"Reliability of probes of {profile.title}",
                key=False,
            )
        )
        if classes := best.classes:
            parts.append(
                Fold(f"Calibration of each class ({len(classes)})", [class_table(classes, uid)])
            )
    return parts
