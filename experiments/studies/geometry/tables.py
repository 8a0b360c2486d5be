"""The terminal's tables of ``layerscope geometry``."""

from __future__ import annotations

from rich.table import Table

from ...report.terminal_tables import number_cell, titled
from ...report.words import layer_label
from .page import NAMES, colours_of
from .records import Results


def tables(results: Results) -> list[Table]:
    """Every layer's figures."""
    records = results.records
    methods = [method for method in NAMES if records[0].trust(method) is not None]
    names = colours_of(records)
    rows = []
    for record in records:
        norm_first = "" if record.norm_first is None else f"{record.norm_first:.4g}"
        row = [
            layer_label(record.layer, record.site),
            f"{record.intrinsic_dimension:.1f}",
            str(record.components_90),
        ]
        row += [
            number_cell(record.explained_2),
            number_cell(record.anisotropy),
            number_cell(record.anisotropy_centred),
        ]
        row += [norm_first, f"{record.norm_others:.4g}"]
        row += [number_cell(record.trust(method)) for method in methods]
        row += [number_cell(record.separability[name].places["space"].accuracy) for name in names]
        rows.append(row)
    headings = (
        "layer",
        "dimension",
        "PCs for 90%",
        "PC 1-2",
        "anisotropy",
        "centred",
        "norm 0",
        "norm",
    )
    shown = (*headings, *(f"trust {method}" for method in methods), *names)
    return [titled(f"{records[0].n} words", shown, rows)]
