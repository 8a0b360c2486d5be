"""The terminal's tables of ``layerscope probe``."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from ...report.terminal_tables import interval_cell, number_cell, p_cell, titled
from ...report.words import layer_label
from .records import ProbeRecord, Results


def tables(results: Results) -> list[Table]:
    """Scores of each property, and the calibration of its probes where it was measured."""
    records = results.records
    out = []
    for name in dict.fromkeys(record.property for record in records):
        of_property = [record for record in records if record.property == name]
        out.append(_scores(name, of_property))
        if calibrated := [record for record in of_property if record.ece is not None]:
            out.append(_calibration(name, calibrated))
    return out


def _scores(name: str, records: Sequence[ProbeRecord]) -> Table:
    first = records[0]
    title = (
        f"{name} ({first.metric}; n = {first.n_test}; majority {number_cell(first.majority)}, "
        f"type majority {number_cell(first.type_majority)})"
    )
    headings = "layer|score|95%|control|selectivity|random model|seen|unseen|macro-F1|l2|"
    return titled(title, headings, [_score_row(record) for record in records], ("layer", ""))


def _score_row(record: ProbeRecord) -> list[str]:
    marks = [
        mark for mark, on in (("best", record.best), ("UNCONVERGED", not record.converged)) if on
    ]
    return [
        layer_label(record.layer, record.site),
        number_cell(record.score),
        interval_cell(record.score_interval),
        number_cell(record.control),
        number_cell(record.selectivity),
        number_cell(record.random_model),
        number_cell(record.score_seen),
        number_cell(record.score_unseen),
        number_cell(record.macro_f1),
        f"{record.l2:g}",
        " ".join(marks),
    ]


def _calibration(name: str, records: Sequence[ProbeRecord]) -> Table:
    headings = "layer|ECE|95%|by chance|p|classwise|Brier|NLL|AUROC|temperature|ECE then"
    rows = [_calibration_row(record) for record in records]
    return titled(f"{name}: calibration of the probes", headings, rows, ("layer",))


def _calibration_row(record: ProbeRecord) -> list[str]:
    return [
        layer_label(record.layer, record.site),
        number_cell(record.ece),
        interval_cell(record.ece_interval),
        number_cell(record.ece_chance),
        p_cell(record.ece_p, ""),
        number_cell(record.classwise),
        number_cell(record.brier),
        number_cell(record.nll),
        number_cell(record.auroc),
        number_cell(record.temperature),
        number_cell(record.ece_scaled),
    ]
