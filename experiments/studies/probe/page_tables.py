"""The tables of a probe report: by layer, by class, wrong words, and every record."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from ...report.charts import sparkline
from ...report.parts import (
    Cell,
    Choice,
    Column,
    Mistakes,
    Table,
    Text,
    plain_cell,
    score_cell,
)
from ...report.records_table import mistake
from ...report.words import count, number, p_value
from .curves import Profile
from .records import ClassScores, ProbeRecord, Results


def layer_table(profile: Profile) -> Table:
    """The picture as a table."""
    columns = [
        Column("layer", False, "emb = embedding, k = after block k"),
        Column(profile.metric),
        *([] if profile.is_number else [Column("macro-F1")]),
        Column("control", hint="mean over seeds, their range in small print"),
        Column("selectivity", hint="score minus control"),
        Column("random weights"),
        Column("seen", hint="word types that occur in training"),
        Column("unseen", hint="word types that do not"),
        *(
            [
                Column(
                    "code", hint="online code length of the training labels, in thousands of bits"
                ),
                Column(
                    "compression",
                    hint="uniform code / online code; of the control tasks in small print",
                ),
            ]
            if profile.has("code_bits")
            else []
        ),
        *(
            [
                Column(
                    "bits",
                    hint="bits about a label that a linear probe of the layer provides "
                    "(V-information)",
                ),
                Column("gain", hint="bits more than a probe of the embedding layer"),
                Column(
                    "beside",
                    hint="bits that the layer adds if a probe also reads the embedding layer",
                ),
            ]
            if profile.has("conditional")
            else []
        ),
        Column("p worse", hint="p at which the layer leaves the model confidence set"),
        Column("l2"),
    ]
    of_controls = profile.control_ranges()
    rows = []
    for i, r in enumerate(profile.records):
        notes = [
            w for w, on in (("best", i in profile.best), ("unconverged", not r.converged)) if on
        ]
        cells = [
            Cell(profile.labels[i], float(i), ", ".join(notes), head=True),
            score_cell(
                r.score,
                r.score_interval,
                tone="strong" if i in profile.best else "",
            ),
        ]
        if not profile.is_number:
            cells.append(score_cell(r.macro_f1, r.macro_f1_interval))
        cells += [
            score_cell(r.control, of_controls[i]),
            score_cell(r.selectivity, r.selectivity_interval),
            score_cell(r.random_model),
            score_cell(r.score_seen),
            score_cell(r.score_unseen),
            *(_code(r) if profile.has("code_bits") else []),
            *(_bits(r) if profile.has("conditional") else []),
            Cell(p_value(r.p_worse), r.p_worse),
            plain_cell(r.l2),
        ]
        rows.append(cells)
    return Table(f"{profile.uid}-layers", f"{profile.title} by layer", columns, rows)


def _code(record: ProbeRecord) -> list[Cell]:
    bits, control = record.code_bits, record.control_compression
    return [
        Cell(number(None if bits is None else bits / 1000, 1), bits),
        Cell(
            number(record.compression, 2),
            record.compression,
            "" if control is None else f"control {number(control, 2)}",
        ),
    ]


def _bits(record: ProbeRecord) -> list[Cell]:
    return [
        score_cell(record.information, record.information_interval),
        score_cell(record.gain, record.gain_interval),
        score_cell(record.conditional, record.conditional_interval),
    ]


def class_choice(profile: Profile, results: Results, data: dict[str, Any]) -> Choice | None:
    """Support, precision, recall and F1 of each class at a layer of the reader's choice."""
    by_site: dict[str, dict[str, ClassScores]] = {}
    for row in profile.here(results.classes):
        by_site.setdefault(row.site, {})[row.label] = row
    layers = [
        (i, by_site[record.site])
        for i, record in enumerate(profile.records)
        if record.site in by_site
    ]
    if not layers:
        return None
    names = list(dict.fromkeys(label for _, rows in layers for label in rows))
    chosen = next((k for k, (i, _) in enumerate(layers) if i == profile.top), 0)
    at_chosen = layers[chosen][1]
    names.sort(key=lambda label: -at_chosen[label].support if label in at_chosen else 0)
    values = [[_class_scores(rows.get(name)) for name in names] for _, rows in layers]
    # support, and whole thousandths of the shares: what the page shows, in few characters
    data["classes"][profile.uid] = [
        [
            [count, *(None if x is None else round(1000 * x) for x in shares)]
            for count, *shares in layer
        ]
        for layer in values
    ]
    columns = [
        Column("class", False),
        Column("support"),
        Column("precision"),
        Column("recall"),
        Column("F1"),
        Column("F1 by layer", False),
    ]
    rows = []
    for j, name in enumerate(names):
        support, precision, recall, f1 = values[chosen][j]
        curve = sparkline([layer[j][3] for layer in values], (), dot=chosen)
        rows.append(
            [
                Cell(name, name, head=True),
                Cell(count(support), support),
                score_cell(precision),
                score_cell(recall),
                Cell(number(f1), f1, bar=f1 or 0.0),
                Cell("", drawing=Markup(curve)),
            ]
        )
    table = Table(
        f"{profile.uid}-classes",
        f"{profile.title}: scores of each class",
        columns,
        rows,
        tall=True,
        compact=True,
    )
    options = [profile.labels[i] + (" (best)" if i in profile.best else "") for i, _ in layers]
    return Choice(profile.uid, "Layer", options, chosen, table)


def _class_scores(row: ClassScores | None) -> list[int | float | None]:
    """Support, precision, recall and F1; a class that is neither there nor predicted has none."""
    return [None] * 4 if row is None else [row.support, row.precision, row.recall, row.f1]


def wrong_words(profile: Profile, results: Results) -> list[Any]:
    """The most frequent confusions and the most confident mistakes, at the best layer."""
    errors = profile.here(results.errors)
    confused = profile.here(results.confused)
    if not errors and not confused:
        return []
    about = "Confusions at the best layer, and the most confident mistakes with their confidence."
    parts: list[Any] = [Text([about])]
    if confused:
        largest = max(row.count for row in confused)
        rows = []
        for row in confused:
            share = row.count / largest
            rows.append(
                [
                    Cell(row.gold),
                    Cell(row.predicted),
                    Cell(count(row.count), float(row.count), bar=share),
                ]
            )
        columns = [Column("gold", False), Column("predicted", False), Column("count")]
        table = Table(
            f"{profile.uid}-confused",
            "Most frequent confusions",
            columns,
            rows,
            tall=True,
            compact=True,
            shows=True,
        )
        parts.append(table)
    if errors:
        rows = [mistake(e) for e in errors]
        pairs: dict[str, int] = {}
        for row in rows:
            pairs[row.pair] = pairs.get(row.pair, 0) + 1
        parts.append(
            Mistakes(f"{profile.uid}-wrong", rows, sorted(pairs.items(), key=lambda p: -p[1]))
        )
    return parts
