"""The page of a study of neurons: what is read of few neurons, what their change does,
which they are, what moves them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...report.charts import Rule, Series
from ...report.controls import GRID, Control, field, is_given
from ...report.lines import lines
from ...report.parts import (
    Cell,
    Column,
    Heading,
    Page,
    Picture,
    Section,
    Stats,
    Table,
    score_cell,
    signed_cell,
)
from ...report.provenance import model_name
from ...report.records_table import records_section
from ...report.schema import Interval
from ...report.words import finite, interval, number, p_value, plural, signed, unnamed
from .page_names import in_words, names_section, rows_of
from .records import ReadRecord, Results, SetRecord, SiteRecord

CONTROLS = (
    Control("as many neurons at random", "any set of as many neurons would do", field("null_p")),
    Control(
        "random rotations",
        "any basis would do as well as the neurons' own",
        is_given("rotations"),
        "--rotations 3",
    ),
    GRID,
)
"""What each control rules out."""


ABOUT = (
    "Upper figure: accuracy of probes on the first k neurons of a ranking, "
    "compared with neurons in random order and with directions of random rotations. "
    "Lower figure: how changing these neurons changes the metric, "
    "compared with as many neurons drawn at random."
)


def page(results: Results) -> Page:
    """All parts of the page, top to bottom, and the data that its script reads."""
    first, sites = results.records[0], results.sites
    data: dict[str, Any] = {"charts": {}, "heats": {}}
    sections = [_site_section(i, site, results, data) for i, site in enumerate(sites)]
    sections += [names_section(i, site, results, data) for i, site in enumerate(sites)]
    sections.append(records_section(results.records))
    return Page(
        title=f"Neurons of {model_name(results.provenance)} that encode {results.property}",
        kicker="layerscope neurons",
        facts=[
            results.property,
            plural(len(sites), "site"),
            plural(first.n, "text or pair", "texts or pairs"),
            in_words(first.metric),
        ],
        findings=[("site-0", f.property, unnamed(f.text, f.property)) for f in results.findings],
        sections=sections,
        data=data,
    )


def _site_section(place: int, site: SiteRecord, results: Results, data: dict[str, Any]) -> Section:
    """One site: read, and used."""
    table = rows_of(results.table, site)
    sets = [record for record in rows_of(results.records, site) if record.component == "sets"]
    probe = table[0].probe
    first_probe = [row for row in table if row.probe == probe]
    best = max(first_probe, key=lambda row: (-row.k, row.accuracy))
    values = list(dict.fromkeys(record.value for record in sets))
    ablated = [record for record in sets if record.value == values[0]]
    most = max(ablated, key=lambda record: abs(record.beyond))
    metric = f"{most.metric}, {most.unit}"
    items = [
        (
            f"one neuron, {in_words(best.ranking)}",
            number(best.accuracy),
            interval(best.accuracy_interval),
        ),
        (f"all {site.width}", number(site.whole[probe]), f"{in_words(probe)} probe"),
        (
            f"largest effect: {most.k}, {in_words(most.ranking)}",
            signed(most.effect),
            f"random {interval(most.null_interval)}",
        ),
        ("clean metric", number(most.baseline), metric),
    ]
    parts: list[Any] = [
        Stats(items),
        Picture(
            [
                _read_chart(
                    place, site, [row for row in first_probe if row.ranking == best.ranking], data
                )
            ]
        ),
        Picture(
            [
                _used_chart(
                    place, [row for row in ablated if row.ranking == most.ranking], metric, data
                )
            ]
        ),
        Heading(
            "Rankings and probes",
            "Each ranking read by each probe, with 95% intervals in small print.",
        ),
        _cross(place, table),
    ]
    for number_of, value in enumerate(values):
        caption = f"The neurons changed: {value}"
        parts += [Heading(caption), _effects(f"effects-{place}-{number_of}", caption, sets, value)]
    return Section(f"site-{place}", site.site, parts, ABOUT if not place else "", study=True)


def _column(rows: Sequence[SetRecord] | Sequence[ReadRecord], name: str) -> list[float | None]:
    return [finite(getattr(row, name)) for row in rows]


def _intervals(
    rows: Sequence[SetRecord] | Sequence[ReadRecord], name: str
) -> list[Interval | None]:
    return [getattr(row, f"{name}_interval") for row in rows]


def _read_chart(
    place: int, site: SiteRecord, rows: Sequence[ReadRecord], data: dict[str, Any]
) -> Any:
    ranking = in_words(rows[0].ranking)
    bands = [
        Series(
            name,
            kind,
            _column(rows, key),
            _intervals(rows, key),
        )
        for name, kind, key in (("random", "random", "random"), ("rotated", "control", "rotated"))
    ]
    return lines(
        f"read-{place}",
        [
            *bands,
            Series(
                ranking,
                "score",
                _column(rows, "accuracy"),
                _intervals(rows, "accuracy"),
                points=True,
            ),
        ],
        data,
        **_axis(rows),
        title=f"Accuracy of a {in_words(rows[0].probe)} probe",
        y_title="accuracy",
        caption="Bands: 95% interval over test sentences; 95% of the draws of random "
        "neurons and rotations.",
        words="; ".join(f"{r.k} neurons {number(r.accuracy)}" for r in rows),
        rules=[Rule("majority", "major", site.majority)],
    )


def _used_chart(place: int, rows: Sequence[SetRecord], metric: str, data: dict[str, Any]) -> Any:
    return lines(
        f"used-{place}",
        [
            Series(
                "random",
                "random",
                _column(rows, "null"),
                _intervals(rows, "null"),
            ),
            Series(
                in_words(rows[0].ranking),
                "score",
                _column(rows, "effect"),
                _intervals(rows, "effect"),
                points=True,
            ),
        ],
        data,
        **_axis(rows),
        title=f"Effect of changing the neurons ({rows[0].value})",
        y_title=f"change of {metric}",
        caption="Bands: 95% interval over texts; 95% of the mean effects of as many "
        "neurons drawn at random.",
        words="; ".join(f"{r.k} neurons {signed(r.effect)}" for r in rows),
    )


def _axis(rows: Sequence[SetRecord] | Sequence[ReadRecord]) -> dict[str, Any]:
    labels = [str(r.k) for r in rows]
    return {
        "labels": labels,
        "names": [plural(int(k), "neuron") for k in labels],
        "x_title": "neurons",
    }


def _cross(place: int, table: Sequence[ReadRecord]) -> Table:
    """Rankings down, probes across."""
    probes = list(dict.fromkeys(row.probe for row in table))
    cells: dict[tuple[str, int], dict[str, ReadRecord]] = {}
    for row in table:
        cells.setdefault((row.ranking, row.k), {})[row.probe] = row
    columns = [
        Column("ranking", False),
        Column("k"),
        *(Column(in_words(probe)) for probe in probes),
        Column(
            "random",
            hint=f"as many neurons in random order, {in_words(probes[0])} probe, 95% of the draws",
        ),
        Column(
            "rotated",
            hint=f"as many directions of a random rotation, {in_words(probes[0])} probe, "
            "same ranking",
        ),
    ]
    rows = []
    for (ranking, k), by_probe in cells.items():
        first = by_probe[probes[0]]
        rows.append(
            [
                Cell(in_words(ranking), head=True),
                Cell(str(k), float(k)),
                *(score_cell(by_probe[p].accuracy, by_probe[p].accuracy_interval) for p in probes),
                score_cell(first.random, first.random_interval),
                score_cell(first.rotated, first.rotated_interval),
            ]
        )
    return Table(
        f"cross-{place}",
        "Accuracy of each probe on each ranking's first neurons",
        columns,
        rows,
        copy=True,
    )


def _effects(uid: str, caption: str, sets: Sequence[SetRecord], value: str) -> Table:
    columns = [
        Column("ranking", False),
        Column("k"),
        Column("effect", hint="metric with the neurons changed minus metric without"),
        Column("random", hint="mean effect of as many neurons drawn at random, 95% of the draws"),
        Column("beyond", hint="effect minus the mean effect of the random draws, text by text"),
        Column("null p", hint="share of the random draws with at least this effect"),
        Column("p", hint="sign-flip test over texts"),
        Column("q", hint="false discovery rate over all sets with this change"),
    ]
    rows = [
        [
            Cell(in_words(r.ranking), head=True),
            Cell(str(r.k), finite(r.k)),
            signed_cell(r.effect, r.effect_interval),
            score_cell(r.null, r.null_interval),
            signed_cell(r.beyond, r.beyond_interval),
            Cell(number(r.null_p), finite(r.null_p)),
            Cell(p_value(r.p), finite(r.p)),
            Cell(p_value(r.q), finite(r.q)),
        ]
        for r in sets
        if r.value == value
    ]
    return Table(uid, caption, columns, rows, copy=True)
