"""The page of a study of neurons: what is read of few neurons, what their change does, which they are, what moves them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ...report.charts import Rule, Series
from ...report.controls import GRID, Control, field, told
from ...report.lines import lines
from ...report.parts import (
    Cell,
    Column,
    Contexts,
    Fold,
    Heading,
    Mistake,
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
from ...report.schema import Interval
from ...report.words import ABSENT, finite, interval, number, p_value, plural, signed, unnamed
from .records import NeuronRecord, ReadRecord, Results, SetRecord, SiteRecord, WordRecord

CONTROLS = (
    Control("as many neurons at random", "any neurons of that number would do", field("null_p")),
    Control(
        "random rotations",
        "any basis would do, not the neurons' own",
        told("rotations"),
        "--rotations 3",
    ),
    GRID,
)
"""What each control rules out."""


Row = TypeVar("Row", SetRecord, ReadRecord, NeuronRecord)

ABOUT = (
    "Above: what probes read of the k neurons that a ranking puts first, beside neurons in random order and the directions "
    "of random rotations. Below: what a change of these neurons in the running model does to the metric, beside as many "
    "neurons drawn at random."
)


def page(results: Results) -> Page:
    """All parts of the page, top to bottom, and the data that its script reads."""
    first, sites = results.records[0], results.sites
    data: dict[str, Any] = {"charts": {}, "heats": {}}
    sections = [_site_section(i, site, results, data) for i, site in enumerate(sites)]
    sections += [_names_section(i, site, results) for i, site in enumerate(sites)]
    sections.append(records_section(results.records))
    return Page(
        title=f"Neurons of {model_name(results.provenance)} that know {results.property}",
        kicker="layerscope neurons",
        facts=[
            results.property,
            plural(len(sites), "site"),
            plural(first.n, "text or pair", "texts or pairs"),
            _words(first.metric),
        ],
        findings=[("site-0", f.property, unnamed(f.text, f.property)) for f in results.findings],
        sections=sections,
        data=data,
    )


def _here(rows: Sequence[Row], site: SiteRecord) -> list[Row]:
    return [row for row in rows if row.site == site.site]


def _site_section(place: int, site: SiteRecord, results: Results, data: dict[str, Any]) -> Section:
    """One site: read, and used."""
    table = _here(results.table, site)
    sets = [record for record in _here(results.records, site) if record.component == "sets"]
    probe = table[0].probe
    first_probe = [row for row in table if row.probe == probe]
    best = max(first_probe, key=lambda row: (-row.k, row.accuracy))
    values = list(dict.fromkeys(record.value for record in sets))
    ablated = [record for record in sets if record.value == values[0]]
    most = max(ablated, key=lambda record: abs(record.beyond))
    metric = f"{most.metric}, {most.unit}"
    items = [
        (
            f"one neuron, {_words(best.ranking)}",
            number(best.accuracy),
            interval(best.accuracy_interval),
        ),
        (f"all {site.width}", number(site.whole[probe]), f"{_words(probe)} probe"),
        (
            f"missed most: {most.k}, {_words(most.ranking)}",
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


def _words(name: str) -> str:
    return name.replace("_", " ")


def _column(rows: Sequence[SetRecord] | Sequence[ReadRecord], name: str) -> list[float | None]:
    return [finite(getattr(row, name)) for row in rows]


def _intervals(
    rows: Sequence[SetRecord] | Sequence[ReadRecord], name: str
) -> list[Interval | None]:
    return [getattr(row, f"{name}_interval") for row in rows]


def _read_chart(
    place: int, site: SiteRecord, rows: Sequence[ReadRecord], data: dict[str, Any]
) -> Any:
    ranking = _words(rows[0].ranking)
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
        title=f"What a {_words(rows[0].probe)} probe reads",
        y_title="accuracy",
        caption="Bands: 95% interval over test sentences; 95% of the draws of random neurons and rotations.",
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
                _words(rows[0].ranking),
                "score",
                _column(rows, "effect"),
                _intervals(rows, "effect"),
                points=True,
            ),
        ],
        data,
        **_axis(rows),
        title=f"What the model misses: neurons changed ({rows[0].value})",
        y_title=f"change of {metric}",
        caption="Bands: 95% interval over texts; 95% of the mean effects of as many neurons drawn at random.",
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
        *(Column(_words(probe)) for probe in probes),
        Column(
            "random",
            hint=f"as many neurons in random order, {_words(probes[0])} probe, 95% of the draws",
        ),
        Column(
            "rotated",
            hint=f"as many directions of a random rotation, {_words(probes[0])} probe, same ranking",
        ),
    ]
    rows = []
    for (ranking, k), by_probe in cells.items():
        first = by_probe[probes[0]]
        rows.append(
            [
                Cell(_words(ranking), head=True),
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
        Column("q", hint="false-discovery rate over all sets with this change"),
    ]
    rows = [
        [
            Cell(_words(r.ranking), head=True),
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


def _names_section(place: int, site: SiteRecord, results: Results) -> Section:
    """The neurons that the rankings put first, each with its words."""
    neurons = _here(results.neurons, site)
    alone = {
        record.index: record
        for record in _here(results.records, site)
        if record.component == "neurons"
    }
    rankings = list(neurons[0].ranks) if neurons else []
    columns = [
        Column("neuron", False),
        *(Column(_words(ranking), hint="its place in this ranking") for ranking in rankings),
        Column(
            "highest for",
            False,
            "the class with the highest mean, in standard deviations from all words",
        ),
        Column("lowest for", False, "the class with the lowest mean"),
        Column("effect alone", hint="metric with this neuron alone changed minus metric without"),
        Column("q", hint="false-discovery rate over the named neurons of this run"),
    ]
    rows = [_neuron_row(neuron, rankings, alone.get(neuron.index)) for neuron in neurons]
    folds = [_words_of(neuron, is_open=i == 0) for i, neuron in enumerate(neurons)]
    about = (
        "The first neurons of every ranking, and the words that move them most: in standard deviations from the mean of all "
        "words, at most two of a word form, with the word's label."
    )
    table = Table(f"neurons-{place}", "The neurons by name", columns, rows, copy=True)
    return Section(f"names-{place}", f"Neurons of {site.site}", [table, *folds], about, study=True)


def _name(neuron: NeuronRecord) -> str:
    return f"L{neuron.layer}N{neuron.index}"


def _neuron_row(
    neuron: NeuronRecord, rankings: Sequence[str], alone: SetRecord | None
) -> list[Cell]:
    classes = sorted(neuron.classes.items(), key=lambda item: -item[1])
    ends = [f"{label} {signed(value, 2)}" for label, value in (classes[:1] + classes[-1:])]
    effect = (None, None) if alone is None else (alone.effect, alone.effect_interval)
    q = None if alone is None else alone.q
    return [
        Cell(_name(neuron), float(neuron.index), head=True),
        *(Cell(str(neuron.ranks[ranking]), float(neuron.ranks[ranking])) for ranking in rankings),
        *(Cell(text) for text in ends),
        signed_cell(*effect),
        Cell(p_value(q), q),
    ]


def _words_of(neuron: NeuronRecord, is_open: bool) -> Fold:
    """The words that move a neuron most, each in its sentence."""
    words = [_context(word) for word in neuron.words]
    forms = ", ".join(dict.fromkeys(word.word for word in words[:8]))
    share = f"{100 * neuron.top_share:.0f}% of its farthest 100 words"
    return Fold(
        f"{_name(neuron)}: {forms} (“{neuron.top_form}” is {share})",
        [Contexts(words)],
        open=is_open,
    )


@dataclass(frozen=True)
class _Shown:
    """A word as `mistake` draws one: its label as the gold class, and no prediction."""

    words: list[str]
    index: int | None
    sentence_id: str
    gold: str
    predicted: str = ""
    confidence: float | None = None


def _context(word: WordRecord) -> Mistake:
    """The word in its sentence."""
    shown = mistake(_Shown(word.words, word.index, word.sentence_id, word.label or ABSENT))
    return replace(shown, confidence=signed(word.deviations, 1))
