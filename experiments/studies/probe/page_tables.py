"""The tables of a probe report: by layer, by class, wrong words, and every record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from ...report.charts import sparkline
from ...report.parts import (
    Cell,
    Choice,
    Column,
    Fold,
    Heading,
    Mistakes,
    Table,
    plain_cell,
    score_cell,
)
from ...report.records_table import mistake
from ...report.words import count, finite, number, p_value
from .curves import Record, Study


def layer_table(study: Study) -> Table:
    """The picture as a table."""
    columns = [
        Column("layer", False, "emb = embedding, k = after block k"),
        Column(study.metric),
        *([] if study.is_number else [Column("macro-F1")]),
        Column("control", hint="mean over seeds, their range in small print"),
        Column("selectivity", hint="score minus control"),
        Column("random weights"),
        Column("seen", hint="word types that occur in training"),
        Column("unseen", hint="word types that do not"),
        *(
            [
                Column("code", hint="online code length of the training labels, in thousands of bits"),
                Column("compression", hint="uniform code / online code; of the control tasks in small print"),
            ]
            if study.has("code_bits")
            else []
        ),
        *(
            [
                Column("bits", hint="what a linear probe of the layer tells of a label, in bits (V-information)"),
                Column("gain", hint="bits over a probe of the embedding layer"),
                Column("beside", hint="bits that the layer adds to the embedding layer when a probe sees both"),
            ]
            if study.has("conditional")
            else []
        ),
        Column("p worse", hint="Holm-corrected, against the best layer"),
        Column("l2"),
    ]
    low, high = study.seeds()
    rows = []
    for i, r in enumerate(study.records):
        notes = [w for w, on in (("best", i in study.best), ("unconverged", r.get("converged") is False)) if on]
        cells = [
            Cell(study.labels[i], float(i), ", ".join(notes), head=True),
            score_cell(
                r.get("score"),
                r.get("low"),
                r.get("high"),
                tone="strong" if i in study.best else "",
            ),
        ]
        if not study.is_number:
            cells.append(score_cell(r.get("macro_f1"), r.get("macro_f1_low"), r.get("macro_f1_high")))
        cells += [
            score_cell(r.get("control"), low[i], high[i]),
            score_cell(r.get("selectivity"), r.get("selectivity_low"), r.get("selectivity_high")),
            *(score_cell(r.get(k)) for k in ("random_model", "score_seen", "score_unseen")),
            *(_code(r) if study.has("code_bits") else []),
            *(
                [
                    score_cell(r.get(k), r.get(f"{k}_low"), r.get(f"{k}_high"))
                    for k in ("information", "gain", "conditional")
                ]
                if study.has("conditional")
                else []
            ),
            Cell(p_value(r.get("p_worse")), finite(r.get("p_worse"))),
            plain_cell(r.get("l2")),
        ]
        rows.append(cells)
    return Table(f"{study.uid}-layers", f"{study.title} by layer", columns, rows)


def _code(record: Record) -> list[Cell]:
    bits, control = finite(record.get("code_bits")), finite(record.get("control_compression"))
    return [
        Cell(number(None if bits is None else bits / 1000, 1), bits),
        Cell(
            number(record.get("compression"), 2),
            finite(record.get("compression")),
            "" if control is None else f"control {number(control, 2)}",
        ),
    ]


def class_choice(study: Study, results: Mapping[str, Any], data: dict[str, Any]) -> Choice | None:
    """Support, precision, recall and F1 of each class at a layer of the reader's choice."""
    found: dict[str, dict[str, Record]] = {}
    for row in study.here(results.get("classes") or ()):
        found.setdefault(str(row.get("site")), {})[str(row.get("label"))] = row
    layers = [(i, found[s]) for i, r in enumerate(study.records) if (s := str(r.get("site"))) in found]
    if not layers:
        return None
    names = list(dict.fromkeys(label for _, rows in layers for label in rows))
    chosen = next((k for k, (i, _) in enumerate(layers) if i == study.top), 0)
    names.sort(key=lambda label: -(finite(layers[chosen][1].get(label, {}).get("support")) or 0))
    fields = ("support", "precision", "recall", "f1")
    values = [[[finite(rows.get(n, {}).get(f)) for f in fields] for n in names] for _, rows in layers]
    data["classes"][study.uid] = [[[v and round(v, 4) for v in row] for row in layer] for layer in values]
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
        f"{study.uid}-classes",
        f"{study.title}: scores of each class",
        columns,
        rows,
        tall=True,
        compact=True,
    )
    options = [study.labels[i] + (" (best)" if i in study.best else "") for i, _ in layers]
    return Choice(study.uid, "Layer", options, chosen, table)


def wrong_words(study: Study, results: Mapping[str, Any]) -> list[Any]:
    """The most frequent confusions and the most confident mistakes, at the best layer."""
    errors = study.here(results.get("errors") or ())
    confused = study.here(results.get("confused") or ())
    if not errors and not confused:
        return []
    about = "At the best layer: what is taken for what, and the mistakes made with most confidence (the number)."
    parts: list[Any] = [Heading("Which words are wrong", about)]
    if confused:
        largest = max(finite(c.get("count")) or 0.0 for c in confused) or 1.0
        rows = []
        for c in confused:
            n = finite(c.get("count"))
            rows.append(
                [
                    Cell(str(c.get("gold"))),
                    Cell(str(c.get("predicted"))),
                    Cell(count(n), n, bar=(n or 0.0) / largest),
                ]
            )
        columns = [Column("gold", False), Column("predicted", False), Column("count")]
        table = Table(
            f"{study.uid}-confused",
            "Most frequent confusions",
            columns,
            rows,
            tall=True,
            compact=True,
        )
        parts.append(Fold(f"Most frequent confusions ({len(rows)})", [table], open=True))
    if errors:
        rows = [mistake(e) for e in errors]
        pairs: dict[str, int] = {}
        for row in () if study.is_number else rows:
            pairs[row.pair] = pairs.get(row.pair, 0) + 1
        parts.append(Mistakes(f"{study.uid}-wrong", rows, sorted(pairs.items(), key=lambda p: -p[1])))
    return parts
