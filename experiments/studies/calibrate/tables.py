"""The terminal's tables of ``layerscope calibrate``."""

from __future__ import annotations

from rich.table import Table

from ...report.terminal_tables import Records, number_cell, span_cell, titled


def tables(records: Records) -> list[Table]:
    first = records[0]
    rows = (
        (
            r["method"],
            str(r["n_answered"]),
            *(number_cell(r[k]) for k in ("confidence", "ece")),
            span_cell(r, "ece_"),
            number_cell(r["ece_chance"]),
            f"{r['ece_p']:.4f}",
            *(number_cell(r.get(k)) for k in ("ece_mass", "brier_top", "nll", "auroc")),
        )
        if r["measured"]
        else (r["method"], str(r["n_answered"]), *["n.s."] * 9)
        for r in records
    )
    title = f"confidence against correctness (n = {first['n']}, accuracy {number_cell(first['accuracy'])})"
    headings = "confidences|answered|mean|ECE|95%|by chance|p|equal mass|Brier|NLL|AUROC"
    return [titled(title, headings, rows, ("confidences",))]
