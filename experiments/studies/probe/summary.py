"""All layers summed up: scores with intervals, controls, baselines, comparisons, mistakes and findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from ....probes import controls, evaluation
from ....probes.evaluation import ClusterBootstrap, Interval
from ...corpus import Corpus, Split
from ...features.sites import layer_of
from ...report.words import finite, layer_label, runs
from ...tasks.task import Part, Task
from .options import ProbeOptions
from .scoring import Cell

N_ERRORS = 50
N_CONFUSIONS = 30


def summarise(
    cells: Sequence[Cell], tasks: Sequence[Task], splits: dict[str, dict[Split, Corpus]], config: ProbeOptions
) -> dict[str, Any]:
    """Everything that ``results.json`` says beside its provenance."""
    results: dict[str, Any] = {
        k: [] for k in ("records", "classes", "errors", "confused", "comparisons", "notes", "findings")
    }
    for task in tasks:
        own = [cell for cell in cells if cell.property == task.property.name]
        part = _summarise_property(own, task, splits[task.property.name]["test"], config)
        for key, values in part.items():
            results[key] += values
    if config.control_seeds == 0:
        results["notes"].append({"kind": "skipped", "text": "control tasks skipped: selectivity is not supported"})
    if config.random_models == 0:
        results["notes"].append(
            {"kind": "skipped", "text": "random-weight model skipped: the comparison with it is not supported"}
        )
    return results


def _summarise_property(
    cells: Sequence[Cell], task: Task, corpus: Corpus, config: ProbeOptions
) -> dict[str, list[Any]]:
    train, test = task.parts["train"], task.parts["test"]
    numbers = task.property.kind == "number"
    boot = ClusterBootstrap(test.clusters, seed=config.seed)
    known = set(train.types)
    seen = np.array([t in known for t in test.types])
    base = _baselines(task)
    columns = [_columns(cell, test, numbers) for cell in cells]
    score_of = evaluation.r2_of_sums if numbers else _mean_of_sums
    replicates = np.column_stack([score_of(boot.sums(c)) for c in columns])
    replicates = replicates[np.isfinite(replicates).all(1)]  # a resample of one number only has no R^2
    scores = [float(score_of(c.sum(0))) for c in columns]
    is_best, p_worse = evaluation.best_set(scores, replicates)
    prior = _prior_bits(train, test)

    records = []
    for i, cell in enumerate(cells):
        score = evaluation.interval(scores[i], replicates[:, i])
        control = float(np.mean(cell.control)) if cell.control else None
        selectivity: Interval | None = None
        if cell.control_values:
            selectivity = boot.mean(columns[i][:, 0] - np.array(cell.control_values))
        macro = _macro_f1(cell, test, boot) if not numbers else None
        records.append(
            {
                "site": cell.site,
                "layer": layer_of(cell.site, i),
                "property": task.property.name,
                "level": task.property.level,
                "kind": task.property.kind,
                "metric": "r2" if numbers else "accuracy",
                "score": score.value,
                "low": score.low,
                "high": score.high,
                "control": control,
                "control_scores": cell.control,
                "selectivity": None if control is None else score.value - control,
                "selectivity_low": selectivity.low if selectivity else None,
                "selectivity_high": selectivity.high if selectivity else None,
                **base,
                "embedding": scores[0],
                "random_model": cell.random_model,
                "score_seen": finite(score_of(columns[i][seen].sum(0))) if seen.sum() > 1 else None,
                "score_unseen": finite(score_of(columns[i][~seen].sum(0))) if (~seen).sum() > 1 else None,
                "n_seen": int(seen.sum()),
                "n_unseen": int((~seen).sum()),
                "macro_f1": macro.value if macro else None,
                "macro_f1_low": macro.low if macro else None,
                "macro_f1_high": macro.high if macro else None,
                "n_train": len(train),
                "n_dev": len(task.parts["dev"]),
                "n_test": len(test),
                "n_classes": None if numbers else len(set(train.labels)),
                "l2": cell.l2,
                "converged": cell.converged,
                "gradient_norm": cell.gradient_norm,
                **_information(cell, cells[0], prior, boot),
                "code_bits": cell.code_bits,
                "compression": cell.compression,
                "control_compression": float(np.mean(cell.control_compression)) if cell.control_compression else None,
                "best": bool(is_best[i]),
                "p_worse": p_worse[i],
            }
        )
    comparisons = [
        {
            "property": task.property.name,
            "layer_a": records[c.a]["layer"],
            "layer_b": records[c.b]["layer"],
            "difference": c.difference.value,
            "low": c.difference.low,
            "high": c.difference.high,
            "p_holm": c.p,
        }
        for c in evaluation.compare_pairs(scores, replicates)
    ]
    top = int(np.argmax(scores))
    return {
        "records": records,
        "comparisons": comparisons,
        "classes": []
        if numbers
        else [row for cell, r in zip(cells, records, strict=True) for row in _classes(cell, r, test)],
        "errors": [] if numbers else _errors(cells[top], records[top], task, corpus),
        "confused": [] if numbers else _confused(cells[top], test),
        "notes": _notes(cells, task, config),
        "findings": [{"property": task.property.name, "text": finding(records)}],
    }


def _information(
    cell: Cell, embedding: Cell, prior: Sequence[float | None], boot: ClusterBootstrap
) -> dict[str, float | None]:
    """Bits an item that a linear probe of the layer tells of the labels (V-information), and beyond the embedding layer.

        information   H(Y) - H(Y | R)                with H(Y) of the training frequencies (Xu et al. 2020)
        gain          H(Y | E) - H(Y | R)            over what the words alone tell (Pimentel et al. 2020)
        conditional   H(Y | E) - H(Y | E, R)         beyond what the words alone tell (Hewitt et al. 2021)

    All on the test items whose class training has; E is the embedding layer.

    Args:
        prior: -log2 of each test item's class frequency in training.
    """
    out: dict[str, float | None] = {}
    for name, first, then in (
        ("information", prior, cell.bits),
        ("gain", embedding.bits, cell.bits),
        ("conditional", embedding.bits, cell.bits_beyond),
    ):
        pairs = [
            (a - b, n) for n, (a, b) in enumerate(zip(first, then, strict=False)) if a is not None and b is not None
        ]
        found = None
        if pairs:
            values, known = np.zeros(len(prior)), np.zeros(len(prior))
            for value, n in pairs:
                values[n], known[n] = value, 1.0
            found = boot.statistic(np.column_stack([values, known]), _mean_of_sums)
        out |= {name: found.value if found else None}
        out |= {f"{name}_low": found.low if found else None, f"{name}_high": found.high if found else None}
    return out


def _prior_bits(train: Part, test: Part) -> list[float | None]:
    """-log2 of each test item's class frequency in training."""
    counts = Counter(str(v) for v in train.labels)
    return [-float(np.log2(n / len(train))) if (n := counts[str(v)]) else None for v in test.labels]


def _mean_of_sums(sums: np.ndarray) -> Any:
    return sums[..., 0] / sums[..., 1]


def _columns(cell: Cell, test: Part, numbers: bool) -> Float[np.ndarray, "n k"]:
    if numbers:
        return evaluation.r2_columns(test.labels, np.array(cell.predicted))
    right = np.array([str(g) for g in test.labels], dtype=object) == np.array(cell.predicted, dtype=object)
    return np.column_stack([right.astype(float), np.ones(len(test))])


def _macro_f1(cell: Cell, test: Part, boot: ClusterBootstrap) -> Interval:
    gold, predicted = (np.array([str(v) for v in values], dtype=object) for values in (test.labels, cell.predicted))
    classes = sorted({*gold, *predicted})
    return boot.statistic(evaluation.confusion_columns(gold, predicted, classes), evaluation.macro_f1_of_sums)


def _distance_baseline(task: Task) -> dict[str, float]:
    """Of arcs and pairs: the most frequent label of each distance, left and right apart (the chain knows distance 1 only)."""
    far, seen = task.distances("test"), task.distances("train")
    if far is None or seen is None:
        return {}
    guessed = controls.type_majority(seen, task.parts["train"].labels, far)
    return {"distance_majority": evaluation.accuracy(task.parts["test"].labels, guessed)}


def _baselines(task: Task) -> dict[str, float]:
    train, test = task.parts["train"], task.parts["test"]
    if task.property.kind == "number":
        flat = np.full(len(test), float(np.mean(train.labels)))
        by_type = controls.type_mean(train.types, train.labels, test.types)
        return {"majority": evaluation.r2(test.labels, flat), "type_majority": evaluation.r2(test.labels, by_type)}
    by_type = controls.type_majority(train.types, train.labels, test.types)
    return {
        "majority": float(np.mean(test.labels == controls.majority(train.labels))),
        "type_majority": evaluation.accuracy(test.labels, by_type),
        **_distance_baseline(task),
    }


def _classes(cell: Cell, record: dict[str, Any], test: Part) -> list[dict[str, Any]]:
    gold, predicted = (np.array([str(v) for v in values], dtype=object) for values in (test.labels, cell.predicted))
    head = {"property": cell.property, "site": cell.site, "layer": record["layer"]}
    return [{**head, **row} for row in evaluation.per_class(gold, predicted)]


def _errors(cell: Cell, record: dict[str, Any], task: Task, corpus: Corpus) -> list[dict[str, Any]]:
    test = task.parts["test"]
    wrong = [i for i in range(len(test)) if str(test.labels[i]) != cell.predicted[i]]
    wrong.sort(key=lambda i: -cell.confidence[i])
    rows = []
    for i in wrong[:N_ERRORS]:
        sentence = corpus.sentences[test.clusters[i]]
        rows.append(
            {
                "property": cell.property,
                "site": cell.site,
                "layer": record["layer"],
                "sentence_id": sentence.id,
                "words": [w.form for w in sentence.words],
                "index": int(test.words[i]) if test.words[i] >= 0 else None,
                "gold": str(test.labels[i]),
                "predicted": cell.predicted[i],
                "confidence": cell.confidence[i],
            }
        )
    return rows


def _confused(cell: Cell, test: Part) -> list[dict[str, Any]]:
    counts: dict[tuple[str, str], int] = {}
    for gold, predicted in zip(test.labels, cell.predicted, strict=True):
        if str(gold) != predicted:
            counts[str(gold), predicted] = counts.get((str(gold), predicted), 0) + 1
    top = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:N_CONFUSIONS]
    return [{"property": cell.property, "gold": g, "predicted": p, "count": n} for (g, p), n in top]


def _notes(cells: Sequence[Cell], task: Task, config: ProbeOptions) -> list[dict[str, str]]:
    notes = []
    name = task.property.name
    late = [c.site for c in cells if not c.converged]
    if late:
        notes.append({"kind": "warning", "text": f"{name}: probes not converged at {', '.join(late)}"})
    late = [c.site for c in cells if not c.control_converged]
    if late:
        notes.append({"kind": "warning", "text": f"{name}: control probes not converged at {', '.join(late)}"})
    if config.control_seeds and any(len(c.control) < config.control_seeds for c in cells):
        notes.append(
            {"kind": "skipped", "text": f"{name}: some control tasks drew one class or number only and were left out"}
        )
    if task.property.kind == "class":
        absent = sorted({str(v) for v in task.parts["test"].labels} - {str(v) for v in task.parts["train"].labels})
        if absent:
            count = sum(str(v) in absent for v in task.parts["test"].labels)
            notes.append(
                {
                    "kind": "warning",
                    "text": f"{name}: classes absent from training count as wrong: {', '.join(absent)} ({count} test items)",
                }
            )
    elif config.control_seeds:
        notes.append(
            {"kind": "info", "text": f"{name}: selectivity of a number has no interval (R2 less the control's R2)"}
        )
    if task.property.level == "sentence":
        notes.append({"kind": "info", "text": f"{name}: the control task keys on the sentence's first word"})
    return notes


def finding(records: Sequence[dict[str, Any]]) -> str:
    """One paragraph in words, from the records of one property."""
    top = max(records, key=lambda r: r["score"])
    first = records[0]
    best = [i for i, r in enumerate(records) if r["best"]]
    names = runs(best, [layer_label(r["layer"], r["site"]) for r in records])
    where = "the embeddings" if names == "emb" else f"layer{'s' if len(best) > 1 else ''} {names}"
    metric = "R2" if top["metric"] == "r2" else "accuracy"
    by_distance = top.get("distance_majority")
    text = (
        f"{top['property']} is decodable from the embeddings with {metric} {first['score']:.3f} and best at {where} "
        f"({top['score']:.3f}, 95% {top['low']:.3f}-{top['high']:.3f}); layer "
        f"{layer_label(records[-1]['layer'], records[-1]['site'])}, the last that was read, has {records[-1]['score']:.3f}. "
        f"The most frequent {'label' if metric == 'accuracy' else 'value'} of each word type gives {top['type_majority']:.3f}."
    )
    if by_distance is not None:
        text += f" That of each distance between the two words gives {by_distance:.3f}."
    if top["selectivity"] is not None:
        interval = ""
        if top["selectivity_low"] is not None:
            interval = f", 95% {top['selectivity_low']:.3f}-{top['selectivity_high']:.3f}"
        text += (
            f" Selectivity there is {top['selectivity']:.3f}{interval} (the control task reaches {top['control']:.3f})."
        )
    if top["random_model"] is not None:
        text += f" The same layer of a random-weight model gives {top['random_model']:.3f}."
    return text
