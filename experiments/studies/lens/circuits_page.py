"""The part of the page that shows circuits of heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...report.parts import Cell, Column, Fold, Heading, Section, Table
from ...report.words import finite, number, plural, signed
from .records import CircuitRecord, PairRecord, Results


def circuits_section(results: Results) -> Section:
    """Token pairs of the heads asked for, eigenvalue shares of all heads, and compositions."""
    parts: list[Fold | Table] = []
    for record in results.circuits:
        if record.ov_pairs:
            parts.append(_head(record))
    parts.append(_shares(results.circuits))
    if results.compositions:
        parts.append(_compositions(results))
    about = (
        f"{plural(len(results.circuits), 'head')}. Gains of norms are folded in; scales, "
        "biases and positions are left out; rotary positions are taken as equal."
    )
    return Section("circuits", "Circuits of heads, from the weights", parts, about, study=True)


def _head(record: CircuitRecord) -> Fold:
    """The token pairs of one head."""
    uid, name = f"pairs-{record.layer}-{record.head}", f"L{record.layer}H{record.head}"
    parts: list[Any] = [
        Heading(f"OV of {name}", "Attending to the first token raises the logit of the second."),
        _pairs(f"{uid}-ov", f"OV of {name}", record.ov_pairs),
    ]
    if record.qk_pairs:
        parts += [
            Heading(f"QK of {name}", "The first token attends to the second."),
            _pairs(f"{uid}-qk", f"QK of {name}", record.qk_pairs),
        ]
    return Fold(f"Token pairs of {name}", parts, open=True)


def _pairs(uid: str, caption: str, pairs: Sequence[PairRecord]) -> Table:
    columns = [Column("from", False), Column("to", False), Column("value")]
    rows = [
        [
            Cell(repr(pair.source), head=True),
            Cell(repr(pair.target)),
            Cell(signed(pair.value), pair.value),
        ]
        for pair in pairs
    ]
    return Table(uid, caption, columns, rows, copy=True)


def _shares(circuits: Sequence[CircuitRecord]) -> Table:
    """Every head, those that copy most first."""
    columns = [
        Column("head", False),
        Column(
            "OV share",
            hint="eigenvalues: 1 if tokens raise their own logit, -1 if they lower it",
        ),
        Column("QK share", hint="eigenvalues: 1 if tokens attend to the same token"),
    ]
    rows = []
    for record in sorted(circuits, key=lambda one: -one.ov_share):
        name = Cell(f"L{record.layer}H{record.head}", head=True)
        ov = Cell(signed(record.ov_share), record.ov_share, bar=max(0.0, record.ov_share))
        qk_text = "" if record.qk_share is None else signed(record.qk_share)
        rows.append([name, ov, Cell(qk_text, finite(record.qk_share))])
    return Table("shares", "Eigenvalue shares", columns, rows, tall=True, copy=True)


def _compositions(results: Results) -> Fold:
    columns = [
        Column("writes", False),
        Column("reads", False),
        Column("as", False),
        Column("score", hint="norm of the product over the product of norms"),
        Column("over baseline"),
    ]
    rows = []
    for one in results.compositions:
        times = one.score / one.baseline
        row = [
            Cell(f"L{one.writer_layer}H{one.writer_head}", head=True),
            Cell(f"L{one.reader_layer}H{one.reader_head}"),
            Cell(one.mode),
            Cell(number(one.score), one.score),
            Cell(f"{times:.1f} times", times),
        ]
        rows.append(row)
    table = Table("compositions", "The strongest of each kind", columns, rows, tall=True, copy=True)
    return Fold("Composition between heads", [table])
