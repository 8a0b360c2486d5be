"""The page of ``layerscope swap``."""

from __future__ import annotations

from collections.abc import Sequence

from ...report.controls import Control, field, has_interval
from ...report.parts import (
    Cell,
    Column,
    Page,
    Section,
    Table,
    corrected_cell,
    score_cell,
    signed_cell,
)
from ...report.provenance import model_name
from ...report.words import count, number, p_value, plural, signed
from .records import MovedText, Results, SwapRecord

CONTROLS = (
    Control(
        "random swaps of as many other words",
        "a model that reacts to any change of words",
        field("beyond"),
    ),
    Control(
        "interval over texts or groups",
        "a difference due to the choice of texts",
        has_interval("effect"),
    ),
)
"""What each control rules out."""


def page(results: Results) -> Page:
    """All parts of the page, top to bottom."""
    first = results.records[0]
    measured = [first.metric, *([f"class {results.positive}"] if results.positive else [])]
    return Page(
        title=f"What swapped words change in {model_name(results.provenance)}",
        kicker="layerscope swap",
        facts=[plural(len({r.list for r in results.records}), "list"), *measured],
        findings=[("swaps", finding.property, finding.text) for finding in results.findings],
        sections=[_swaps(results.records), _texts(results.texts, first.unit)],
        data={"charts": {}, "heats": {}},
    )


def _swaps(records: Sequence[SwapRecord]) -> Section:
    unit = records[0].unit
    columns = [
        Column("list", False),
        Column("swap", False),
        Column("texts"),
        Column(f"effect, {unit}", hint="with words of b minus with words of a, mean over texts"),
        Column("p (Holm)", hint="of no effect, corrected over the lists; intervals are not"),
        Column(f"size, {unit}", hint="mean size of the change in either direction"),
        Column(
            "beyond random",
            hint="size minus that of random swaps in the same texts; "
            "Holm-corrected p in small print",
        ),
        Column("class changes", hint="share of texts with another predicted class"),
    ]
    about = (
        "A biased model changes in one direction (effect), "
        "and by more than under random swaps of as many words (beyond random)."
    )
    rows = [_row(record) for record in records]
    table = Table(
        "swap-table", "Every list, with 95% intervals in small print", columns, rows, copy=True
    )
    return Section("swaps", "Swaps", [table], about)


def _row(r: SwapRecord) -> list[Cell]:
    groups = "" if r.n_clusters == r.n else plural(r.n_clusters, "group")
    beyond = Cell("") if r.beyond is None else signed_cell(r.beyond, r.beyond_interval)
    if r.beyond_p is not None:
        p = f"p {p_value(r.beyond_p_holm)}, uncorrected {p_value(r.beyond_p)}"
        beyond = Cell(beyond.text, beyond.sort, f"{beyond.note}; {p}")
    return [
        Cell(r.list, head=True),
        Cell(r.kind),
        Cell(count(r.n), float(r.n), groups),
        Cell("") if r.effect is None else signed_cell(r.effect, r.effect_interval),
        Cell("") if r.p is None else corrected_cell(r.p_holm, r.p),
        score_cell(r.size, r.size_interval),
        beyond,
        Cell("") if r.flips is None else score_cell(r.flips, r.flips_interval),
    ]


def _texts(texts: Sequence[MovedText], unit: str) -> Section:
    columns = [
        Column("list", False),
        Column("text", False),
        Column("swapped", False),
        Column("before"),
        Column("after"),
        Column("change"),
        Column("random", hint="mean size of the change under random swaps"),
    ]
    rows = [
        [
            Cell(t.list),
            Cell(t.text),
            Cell(t.swapped),
            Cell(number(t.before), t.before),
            Cell(number(t.after), t.after),
            Cell(signed(t.after - t.before), t.after - t.before),
            Cell(number(t.random), t.random),
        ]
        for t in texts
    ]
    table = Table(
        "moved-texts", f"Texts with the largest change, {unit}", columns, rows, tall=True, copy=True
    )
    return Section("texts", "Texts with the largest change", [table])
