"""The terminal's tables of ``layerscope lens``."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from ...report.terminal_tables import number_cell, titled
from ...report.words import layer_label
from .records import CircuitRecord, LayerRecord, ReadingRecord, Results

HEADS = 10
"""Heads that are shown: those that copy most."""


def tables(results: Results) -> list[Table]:
    """What every layer would say behind the last token of each text; the layers on the corpus;
    the heads.
    """
    out = _texts(results.records)
    if results.layers:
        out.append(_layers(results.layers))
    if results.circuits:
        out.append(_heads(results.circuits))
    return out


def _texts(records: Sequence[ReadingRecord]) -> list[Table]:
    out = []
    for number in dict.fromkeys(record.text for record in records):
        of_text = [record for record in records if record.text == number]
        last = max(record.position for record in of_text)
        rows = []
        for record in of_text:
            if record.position != last:
                continue
            shown = ", ".join(f"{c.token!r} {c.probability:.2f}" for c in record.top[:3])
            rank = "" if record.target_rank is None else f"{record.target_rank:,}"
            p = number_cell(record.target_probability, ".4f", absent="")
            rows.append((record.kind, layer_label(record.layer), shown, p, rank))
        title = f"text {number + 1}: the next token, layer by layer"
        columns = "lens|layer|top token|p(target)|rank"
        out.append(titled(title, columns, rows, ("lens", "layer", "top token")))
    return out


def _layers(records: Sequence[LayerRecord]) -> Table:
    """How far each layer can be believed."""
    rows = []
    for r in records:
        figures = (number_cell(r.kl), number_cell(r.loss), f"{r.agreement:.1%}")
        rows.append((r.kind, layer_label(r.layer), *figures, f"{r.median_rank:,.0f}"))
    columns = "lens|layer|KL bits|loss bits|agreement|median rank"
    return titled("held-out texts", columns, rows, ("lens", "layer"))


def _heads(records: Sequence[CircuitRecord]) -> Table:
    """The heads that copy most."""
    rows = []
    for record in sorted(records, key=lambda one: -one.ov_share)[:HEADS]:
        pairs = ", ".join(f"{p.source!r} to {p.target!r}" for p in record.ov_pairs[:3])
        qk = number_cell(record.qk_share)
        rows.append((f"L{record.layer}H{record.head}", number_cell(record.ov_share), qk, pairs))
    columns = "head|OV share|QK share|OV pairs"
    return titled("circuits from the weights", columns, rows, ("head", "OV pairs"))
