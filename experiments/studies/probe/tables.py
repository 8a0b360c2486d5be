"""The terminal's tables of ``layerscope probe``."""

from __future__ import annotations

from rich.table import Table

from ...report.terminal_tables import Records, layer_cell, number_cell, titled


def tables(records: Records) -> list[Table]:
    out = []
    for name in dict.fromkeys(r["property"] for r in records):
        mine = [r for r in records if r["property"] == name]
        out.append(_scores(name, mine))
        if any(r.get("ece") is not None for r in mine):
            out.append(_calibration(name, mine))
    return out


def _scores(name: str, records: Records) -> Table:
    first = records[0]
    title = (
        f"{name} ({first['metric']}; n = {first['n_test']}; majority {number_cell(first['majority'])}, "
        f"type majority {number_cell(first['type_majority'])})"
    )
    fields = ("control", "selectivity", "random_model", "score_seen", "score_unseen", "macro_f1")
    rows = (
        (
            layer_cell(r),
            number_cell(r["score"]),
            f"{number_cell(r['low'])}-{number_cell(r['high'])}",
            *(number_cell(r[k]) for k in fields),
            f"{r['l2']:g}",
            (("best " if r["best"] else "") + ("" if r["converged"] else "UNCONVERGED")).strip(),
        )
        for r in records
    )
    headings = "layer|score|95%|control|selectivity|random model|seen|unseen|macro-F1|l2|"
    return titled(title, headings, rows, ("layer", ""))


def _calibration(name: str, records: Records) -> Table:
    rows = (
        (
            layer_cell(r),
            number_cell(r["ece"]),
            f"{r['ece_low']:.3f}-{r['ece_high']:.3f}",
            number_cell(r["ece_chance"]),
            f"{r['ece_p']:.4f}",
            *(number_cell(r.get(k)) for k in ("classwise", "brier", "nll", "auroc", "temperature", "ece_scaled")),
        )
        for r in records
        if r.get("ece") is not None
    )
    headings = "layer|ECE|95%|by chance|p|classwise|Brier|NLL|AUROC|temperature|ECE then"
    return titled(f"{name}: calibration of the probes", headings, rows, ("layer",))
