"""The page of the doctor: the map of checks by kinds of sites, what is WRONG,
and what is not supported and why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ....hooks.verify import worst
from ...report.controls import Control, field
from ...report.parts import Cell, Column, Fold, Notes, Page, Section, Stats, Table, Text
from ...report.provenance import model_name
from ...report.words import plural
from .kinds import map_of, short_name
from .picture import map_picture
from .records import CheckRecord, Results

CONTROLS = (
    Control("a bound for every check", "an error is called small without a limit", field("bound")),
)
"""What each control rules out."""


ABOUT = (
    "Each cell shows the worst layer, with the measured relative error in small print (for "
    "edits, a change). ok: within its bound at every layer. –: not supported, see below."
)


def page(results: Results) -> Page:
    """All parts of the page, top to bottom."""
    about, records = results.provenance, results.records
    counts = {s: sum(r.status == s for r in records) for s in ("OK", "UNSUPPORTED", "WRONG")}
    data: dict[str, Any] = {"charts": {}}
    sections = [map_section(results, records, counts, data)] if records else []
    if counts["WRONG"]:
        sections.append(_listed("wrong", "Wrong", [r for r in records if r.status == "WRONG"]))
    if counts["UNSUPPORTED"]:
        sections.append(
            _listed(
                "unsupported", "Not supported", [r for r in records if r.status == "UNSUPPORTED"]
            )
        )
    if noticed := [r.reason for r in records if r.check in NOTICED and r.reason]:
        rows = [("noticed", "quiet", text) for text in noticed]
        sections.append(
            Section("noticed", "Noticed", [Notes(rows)], "About the weights and the texts.")
        )
    unknown = any(r.check == "fires" and not r.site and r.status == "UNSUPPORTED" for r in records)
    verdict = (
        "something is WRONG"
        if counts["WRONG"]
        else "no site is known"
        if unknown
        else "nothing is WRONG"
    )
    return Page(
        title=f"Sites of {model_name(about)}: {verdict}",
        kicker="layerscope doctor",
        facts=[
            plural(len({r.check for r in records}), "check"),
            plural(len(records), "finding"),
        ],
        findings=[("map", "doctor", f.text) for f in results.findings],
        sections=sections,
        data=data,
    )


NOTICED = ("weights", "beginning of text")
"""Checks whose reasons say what was noticed."""


def map_section(
    results: Results,
    records: Sequence[CheckRecord],
    counts: Mapping[str, int],
    data: dict[str, Any],
) -> Section:
    """The map as a picture, and behind it as a table: a row a check, a column a kind of site."""
    kinds, grid = map_of(records)
    about = results.checks
    columns = [
        Column("check", False),
        *(Column(short_name(kind), False, kind or "the whole model") for kind in kinds),
    ]
    rows = [
        [Cell(check, head=True), *(_cell(row.get(kind, [])) for kind in kinds)]
        for check, row in grid.items()
    ]
    items = [
        ("OK", f"{counts['OK']:,}", "within their bounds"),
        ("not supported", f"{counts['UNSUPPORTED']:,}", "not available or not checkable"),
        ("WRONG", f"{counts['WRONG']:,}", "beyond their bounds"),
    ]
    table = Table("map-table", "Checks by kinds of sites", columns, rows, compact=True, copy=True)
    meant = [[Cell(check, head=True), Cell(str(about.get(check, "")))] for check in grid]
    words = Table(
        "checks-table",
        "What each check compares",
        [Column("check", False), Column("what is compared", False)],
        meant,
    )
    parts = [
        Stats(items),
        map_picture("doctor-map", kinds, grid, data),
        Fold("What each check compares", [words]),
        Fold("The numbers behind the map", [Text([ABOUT]), table]),
    ]
    return Section("map", "Map", parts, study=True)


def _cell(records: Sequence[CheckRecord]) -> Cell:
    if not records:
        return Cell("", sort="")
    status = worst(records)
    numbers = [(r.measured, r.bound) for r in records if r.status == status]
    sizes = [m for m, _ in numbers if m is not None]
    # Where a change is measured, the bound is the least that counts, and the smallest number is the
    # worst.
    least = any(m is not None and b is not None and m > b for m, b in numbers) and status == "OK"
    number = (min(sizes) if least else max(sizes)) if sizes else None
    note = "" if number is None else f"{number:.1g}"
    if status == "WRONG":
        return Cell("WRONG", "0", note, tone="badge")
    return Cell("ok", "2", note) if status == "OK" else Cell("–", "1")


def _listed(uid: str, title: str, records: Sequence[CheckRecord]) -> Section:
    """Findings with their reasons; those that differ in the layer alone are one row."""
    rows: dict[tuple[str, str, str], list[CheckRecord]] = {}
    for check, by_kind in map_of(records)[1].items():
        for kind, group in by_kind.items():
            for r in group:
                rows.setdefault((check, kind, r.reason), []).append(r)
    cells = [
        [
            Cell(check, head=True),
            Cell(kind or "the whole model", tone="code"),
            Cell(f"{len(group):,}", float(len(group))),
            Cell("" if (size := _largest(group)) is None else f"{size:.2g}", size),
            Cell("" if (bound := group[0].bound) is None else f"{bound:.2g}", bound),
            Cell(reason),
        ]
        for (check, kind, reason), group in rows.items()
    ]
    columns = [
        Column("check", False),
        Column("site", False),
        Column("findings"),
        Column("measured"),
        Column("bound"),
        Column("why", False),
    ]
    return Section(uid, title, [Table(f"{uid}-table", title, columns, cells, copy=True)])


def _largest(records: Sequence[CheckRecord]) -> float | None:
    return max((m for r in records if (m := r.measured) is not None), default=None)
