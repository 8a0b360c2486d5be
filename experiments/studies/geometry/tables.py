"""The terminal's tables of ``layerscope geometry``."""

from __future__ import annotations

from rich.table import Table

from ...report.terminal_tables import Records, layer_cell, number_cell, titled


def tables(records: Records) -> list[Table]:
    names = [key for key in records[0] if key.startswith("trust_") or key.endswith(":space")]
    shown = [name.replace("trust_", "trust ").replace(":space", "") for name in names]
    rows = (
        (
            layer_cell(r),
            f"{r['intrinsic_dimension']:.1f}",
            str(r["components_90"]),
            *(number_cell(r[key]) for key in ("explained_2", "anisotropy", "anisotropy_centred")),
            f"{r['norm_first']:.4g}",
            f"{r['norm_others']:.4g}",
            *(number_cell(r.get(key)) for key in names),
        )
        for r in records
    )
    headings = ("layer", "dimension", "PCs for 90%", "PC 1-2", "anisotropy", "centred", "norm 0", "norm", *shown)
    return [titled(f"{records[0]['n']} words", headings, rows)]
