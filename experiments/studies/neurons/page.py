"""The page of a study of neurons: what is read of few neurons, what their change does, which they are, what moves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...report.charts import Rule, Series
from ...report.controls import GRID, Control, field, told
from ...report.lines import lines
from ...report.parts import (
    Cell,
    Column,
    Contexts,
    Fold,
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
from ...report.records_table import mistake, records_section
from ...report.words import finite, interval, number, p_value, plural, signed, unnamed

CONTROLS = (
    Control("as many neurons at random", "any neurons of that number would do", field("null_p")),
    Control("random rotations", "any basis would do, not the neurons' own", told("rotations"), "--rotations 3"),
    GRID,
)
"""What each control rules out."""


Record = Mapping[str, Any]

ABOUT = (
    "Above: what probes read of the k neurons that a ranking puts first, beside neurons in random order and the directions "
    "of random rotations. Below: what a change of these neurons in the running model does to the metric, beside as many "
    "neurons drawn at random."
)


def page(results: Mapping[str, Any]) -> Page:
    """All parts of the page, top to bottom, and the data that its script reads."""
    about = results.get("provenance") or {}
    records: Sequence[Record] = list(results.get("records") or ())
    first = records[0] if records else {}
    sites: Sequence[Record] = list(results.get("sites") or ())
    data: dict[str, Any] = {"charts": {}, "heats": {}}
    facts = [
        str(results.get("property", "?")),
        plural(len(sites), "site"),
        plural(int(first.get("n") or 0), "text or pair", "texts or pairs"),
        str(first.get("metric", "?")).replace("_", " "),
    ]
    sections = [_site_section(i, site, results, data) for i, site in enumerate(sites)]
    sections += [_names_section(i, site, results) for i, site in enumerate(sites)]
    if records:
        sections.append(records_section(results))
    return Page(
        title=f"Neurons of {model_name(about)} that know {results.get('property', 'a property')}",
        kicker="layerscope neurons",
        facts=facts,
        findings=[
            ("site-0", name := str(f.get("property")), unnamed(str(f.get("text", "")), name))
            for f in results.get("findings") or ()
        ],
        sections=sections,
        data=data,
    )


def _here(rows: Any, site: Record) -> list[Record]:
    return [row for row in rows or () if row.get("site") == site.get("site")]


def _site_section(place: int, site: Record, results: Mapping[str, Any], data: dict[str, Any]) -> Section:
    """One site: read, and used."""
    table = _here(results.get("table"), site)
    sets = [r for r in _here(results.get("records"), site) if r.get("component") == "sets"]
    probe = str(table[0].get("probe"))
    mine = [r for r in table if r.get("probe") == probe]
    best = max(mine, key=lambda r: (-int(r["k"]), finite(r.get("accuracy")) or 0.0))
    values = list(dict.fromkeys(str(r.get("value")) for r in sets))
    ablated = [r for r in sets if r.get("value") == values[0]]
    most = max(ablated, key=lambda r: abs(finite(r.get("beyond")) or 0.0))
    metric = f"{most.get('metric')}, {most.get('unit', '')}"
    items = [
        (
            f"one neuron, {_words(best.get('ranking'))}",
            number(best.get("accuracy")),
            interval(best.get("low"), best.get("high")),
        ),
        (f"all {site.get('width')}", number((site.get("whole") or {}).get(probe)), f"{_words(probe)} probe"),
        (
            f"missed most: {most.get('k')}, {_words(most.get('ranking'))}",
            signed(most.get("effect")),
            f"random {signed(most.get('null_low'))} to {signed(most.get('null_high'))}",
        ),
        ("clean metric", number(most.get("baseline")), metric),
    ]
    parts: list[Any] = [
        Stats(items),
        Picture([_read_chart(place, site, [r for r in mine if r["ranking"] == best["ranking"]], data)]),
        Picture([_used_chart(place, [r for r in ablated if r["ranking"] == most["ranking"]], metric, data)]),
        Heading("Rankings and probes", "Each ranking read by each probe, with 95% intervals in small print."),
        _cross(place, table),
    ]
    for number_of, value in enumerate(values):
        caption = f"The neurons changed: {value}"
        parts += [Heading(caption), _effects(f"effects-{place}-{number_of}", caption, sets, value)]
    return Section(f"site-{place}", str(site.get("site")), parts, ABOUT if not place else "", study=True)


def _words(name: Any) -> str:
    return str(name).replace("_", " ")


def _column(rows: Sequence[Record], name: str) -> list[float | None]:
    return [finite(r.get(name)) for r in rows]


def _read_chart(place: int, site: Record, rows: Sequence[Record], data: dict[str, Any]) -> Any:
    ranking = _words(rows[0].get("ranking"))
    bands = [
        Series(name, kind, _column(rows, key), _column(rows, f"{key}_low"), _column(rows, f"{key}_high"))
        for name, kind, key in (("random", "random", "random"), ("rotated", "control", "rotated"))
    ]
    return lines(
        f"read-{place}",
        [
            *bands,
            Series(
                ranking, "score", _column(rows, "accuracy"), _column(rows, "low"), _column(rows, "high"), points=True
            ),
        ],
        data,
        **_axis(rows),
        title=f"What a {_words(rows[0].get('probe'))} probe reads",
        y_title="accuracy",
        caption="Bands: 95% interval over test sentences; 95% of the draws of random neurons and rotations.",
        words="; ".join(f"{r.get('k')} neurons {number(r.get('accuracy'))}" for r in rows),
        rules=[Rule("majority", "major", finite(site.get("majority")) or 0.0)],
    )


def _used_chart(place: int, rows: Sequence[Record], metric: str, data: dict[str, Any]) -> Any:
    return lines(
        f"used-{place}",
        [
            Series("random", "random", _column(rows, "null"), _column(rows, "null_low"), _column(rows, "null_high")),
            Series(
                _words(rows[0].get("ranking")),
                "score",
                _column(rows, "effect"),
                _column(rows, "low"),
                _column(rows, "high"),
                points=True,
            ),
        ],
        data,
        **_axis(rows),
        title=f"What the model misses: neurons changed ({rows[0].get('value')})",
        y_title=f"change of {metric}",
        caption="Bands: 95% interval over texts; 95% of the mean effects of as many neurons drawn at random.",
        words="; ".join(f"{r.get('k')} neurons {signed(r.get('effect'))}" for r in rows),
    )


def _axis(rows: Sequence[Record]) -> dict[str, Any]:
    labels = [str(r.get("k")) for r in rows]
    return {"labels": labels, "names": [plural(int(k), "neuron") for k in labels], "x_title": "neurons"}


def _cross(place: int, table: Sequence[Record]) -> Table:
    """Rankings down, probes across."""
    probes = list(dict.fromkeys(str(r.get("probe")) for r in table))
    cells: dict[tuple[str, int], dict[str, Record]] = {}
    for r in table:
        cells.setdefault((str(r.get("ranking")), int(r["k"])), {})[str(r.get("probe"))] = r
    columns = [
        Column("ranking", False),
        Column("k"),
        *(Column(_words(probe)) for probe in probes),
        Column("random", hint=f"as many neurons in random order, {_words(probes[0])} probe, 95% of the draws"),
        Column("rotated", hint=f"as many directions of a random rotation, {_words(probes[0])} probe, same ranking"),
    ]
    rows = []
    for (ranking, k), found in cells.items():
        one = found[probes[0]]
        rows.append(
            [
                Cell(_words(ranking), head=True),
                Cell(str(k), float(k)),
                *(score_cell(*(found[probe].get(key) for key in ("accuracy", "low", "high"))) for probe in probes),
                *(
                    score_cell(*(one.get(f"{name}{end}") for end in ("", "_low", "_high")))
                    for name in ("random", "rotated")
                ),
            ]
        )
    return Table(f"cross-{place}", "Accuracy of each probe on each ranking's first neurons", columns, rows, copy=True)


def _effects(uid: str, caption: str, sets: Sequence[Record], value: str) -> Table:
    columns = [
        Column("ranking", False),
        Column("k"),
        Column("effect", hint="metric with the neurons changed minus metric without"),
        Column("random", hint="mean effect of as many neurons drawn at random, 95% of the draws"),
        Column("beyond", hint="effect minus the mean effect of the random draws, text by text"),
        Column("null p", hint="share of the random draws with at least this effect"),
        Column("p", hint="sign-flip test over texts"),
        Column("q", hint="false-discovery rate over all sets with this change"),
    ]
    rows = [
        [
            Cell(_words(r.get("ranking")), head=True),
            Cell(str(r.get("k")), finite(r.get("k"))),
            signed_cell(r.get("effect"), r.get("low"), r.get("high")),
            score_cell(r.get("null"), r.get("null_low"), r.get("null_high")),
            signed_cell(r.get("beyond"), r.get("beyond_low"), r.get("beyond_high")),
            Cell(number(r.get("null_p")), finite(r.get("null_p"))),
            Cell(p_value(r.get("p")), finite(r.get("p"))),
            Cell(p_value(r.get("q")), finite(r.get("q"))),
        ]
        for r in sets
        if r.get("value") == value
    ]
    return Table(uid, caption, columns, rows, copy=True)


def _names_section(place: int, site: Record, results: Mapping[str, Any]) -> Section:
    """The neurons that the rankings put first, each with its words."""
    neurons = _here(results.get("neurons"), site)
    alone = {r.get("index"): r for r in _here(results.get("records"), site) if r.get("component") == "neurons"}
    rankings = list(neurons[0].get("ranks") or ()) if neurons else []
    columns = [
        Column("neuron", False),
        *(Column(_words(ranking), hint="its place in this ranking") for ranking in rankings),
        Column("highest for", False, "the class with the highest mean, in standard deviations from all words"),
        Column("lowest for", False, "the class with the lowest mean"),
        Column("effect alone", hint="metric with this neuron alone changed minus metric without"),
        Column("q", hint="false-discovery rate over the named neurons of this run"),
    ]
    rows, folds = [], []
    for i, neuron in enumerate(neurons):
        name, one = f"L{site.get('layer')}N{neuron.get('index')}", alone.get(neuron.get("index")) or {}
        classes = sorted((neuron.get("classes") or {}).items(), key=lambda item: -item[1])
        ends = [f"{label} {signed(value, 2)}" for label, value in (classes[:1] + classes[-1:])]
        rows.append(
            [
                Cell(name, finite(neuron.get("index")), head=True),
                *(Cell(str(rank := (neuron.get("ranks") or {}).get(r)), finite(rank)) for r in rankings),
                *(Cell(text) for text in ends),
                signed_cell(one.get("effect"), one.get("low"), one.get("high")),
                Cell(p_value(one.get("q")), finite(one.get("q"))),
            ]
        )
        words = [_context(word) for word in neuron.get("words") or ()]
        share = f"{100 * (finite(neuron.get('top_share')) or 0):.0f}% of its farthest 100 words"
        summary = (
            f"{name}: {', '.join(dict.fromkeys(w.word for w in words[:8]))} (“{neuron.get('top_form')}” is {share})"
        )
        folds.append(Fold(summary, [Contexts(words)], open=i == 0))
    about = (
        "The first neurons of every ranking, and the words that move them most: in standard deviations from the mean of all "
        "words, at most two of a word form, with the word's label."
    )
    table = Table(f"neurons-{place}", "The neurons by name", columns, rows, copy=True)
    return Section(f"names-{place}", f"Neurons of {site.get('site')}", [table, *folds], about, study=True)


def _context(word: Record) -> Any:
    """The word in its sentence."""
    shown = mistake({**word, "gold": word.get("label")})
    return replace(shown, confidence=signed(word.get("deviations"), 1))
