"""Which neurons know a property, and does the model use them?

    read    accuracy of probes of the k neurons that each ranking puts first, beside random orders and random rotations
    used    metric(the k neurons changed) - metric(clean), beside as many neurons drawn at random

A ranking is judged by both (Antverg & Belinkov 2022): a neuron from which much can be read need not be one that the model
reads. Every site is a study of its own; its neurons are ranked on training words, changed at every token but a BOS.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from ....hooks import ActivationStore, Site
from ....hooks.edits import Edit
from ....probes import cross_table
from ....probes.rankings import RANKINGS
from ... import forecast
from ...corpus.prompts import Item, Prompt
from ...corpus.splits import read_splits
from ...features.memory import site_widths
from ...features.sites import vector_sites
from ...features.stored import Features, read_or_run
from ...metrics.metrics import Metric, get_metric, metric_and_texts
from ...metrics.reads import MetricError
from ...runs import console
from ...runs.execute import Run, data_record
from ...runs.folder import RunError, digest, file_sha256
from ...subject import Subject
from ...sweep.components import Component
from ...sweep.effects import clusters_of, group_notes, mean_of
from ...sweep.sweep import Grid, chunks, sweep_all
from ...tasks.properties import get_property
from ...tasks.task import Task
from ...tasks.views import View, build_views
from .description import described, named
from .gradient import by_gradient, halves
from .options import NeuronsOptions
from .sets import ALONE, Change, Means, NeuronSet, ablated, neuron_sets, translated
from .summary import finding, join, set_records, study_notes


def run(config: NeuronsOptions) -> dict[str, Any]:
    """Run or continue a study of neurons; returns what ``results.json`` holds.

    Writes ``config.json``, ``results.json`` and ``report.html`` to ``config.out``; interrupted, it continues with the batch,
    the site or the group of texts that is missing.

    Raises:
        ValueError, LookupError, OSError: bad input, each one clear line.
    """
    this = Run("neurons", config)
    _check(config)
    splits, notes = read_splits(config.corpus, config.dev, config.test, config.sample, config.seed)
    prop = get_property(config.property, splits["train"])
    if (prop.level, prop.kind) != ("word", "class") or prop.rewrite is not None:
        raise RunError(f"--property {prop.name}: expected one with a class for each word")
    metric, items = _metric_and_texts(config, [s.text for s in splits["test"]])
    ranked_on, items = halves(items) if config.gradient else ([], items)
    subject = this.load()
    places = _places(config, vector_sites(subject, [config.site]))
    reads = metric.reads(subject, items)
    given = [path for path in (config.prompts, config.pairs) if path is not None]
    hashes = {str(path): file_sha256(path) for path in given} | {s: corpus.sha256 for s, corpus in splits.items()}
    if (finished := this.open(subject, hashes)) is not None:
        return finished

    (view,) = build_views(subject, splits, [prop], config.seed)
    (task,) = view.tasks
    plan = (
        f"{view.layout.n_rows:,} words at {len(places)} sites; {len(items)} {'pairs' if config.pairs else 'texts'} "
        f"through each with every set of neurons changed, {config.random} random sets beside it"
    )
    widths = site_widths(subject, places)
    disk, held = (view.layout.n_rows * 4 * size(widths.values()) for size in (sum, max))
    groups, clusters = list(chunks(subject, reads, config.batch_tokens)), clusters_of(items)

    def seconds() -> float:
        rankings = len(config.ranking or RANKINGS) + config.gradient
        sets = len({1, *config.k}) * (rankings + config.random) + config.show * rankings
        every = [Component("sets", Site(name).layer or 0, i, Site(name)) for name in places for i in range(sets)]
        reading = forecast.pass_seconds(subject, view.layout.encoded, config.batch_tokens)
        return reading + forecast.sweep_seconds(subject, metric, groups, every, float(len(_changes(config, task))))

    planned = this.plan(plan, held=3 * held, disk=disk, seconds=seconds, besides="rankings and probes")
    if planned is not None:
        return planned
    store = ActivationStore(config.out / "features", {"run": digest(this.identity)}, dtype=torch.float32)
    features = read_or_run(
        config.store, subject, splits.values(), view.layout, places, store, config.pooling, config.batch_tokens
    )
    skip = slice(1 if subject.has_sink_position else 0, None)
    means, given_orders = {}, {}
    for name in places:
        means[name] = Means.over(task.vectors(features.read(name), "train"), task.parts["train"].labels)
    if config.gradient:
        given_orders = _by_gradient(this, subject, metric, ranked_on, features, means, skip)
    read = {}
    with console.progress() as bars:
        bar = bars.add_task("rankings and probes", total=len(places))
        for name in places:
            orders = {"gradient": given_orders[name]} if config.gradient else {}
            read[name] = this.folder.kept(
                f"read-{name}",
                lambda name=name, orders=orders: _read(config, view, task, features.read(name), means[name], orders),
            )
            bars.advance(bar)

    sets: list[NeuronSet] = []
    for name in places:
        known = [neuron["index"] for neuron in read[name]["neurons"]]
        sets += neuron_sets(name, read[name]["orders"], read[name]["ks"], known, config.random, config.seed)
    parts = [Component("sets", Site(s.site).layer or 0, i, Site(s.site)) for i, s in enumerate(sets)]
    records, base = [], {}
    for value, change in _changes(config, task).items():

        def edit_of(part: Component, change: Change = change) -> Edit:
            some = sets[part.index or 0]
            return change(some, means[some.site]).at(skip)

        mine = [i for i, s in enumerate(sets) if value == config.value or s.source != ALONE]
        grid = Grid(value, subject, metric, groups, [parts[i] for i in mine], lambda number, e=edit_of: e)
        effects, clean = sweep_all(this.folder, grid, this.engine)
        base = mean_of(clean, clusters, config.seed)
        chosen = [sets[i] for i in mine]
        records += set_records(config, chosen, grid.parts, effects, clean, clusters, metric, value, base)

    table = [{"site": name, "layer": Site(name).layer, **row} for name in places for row in read[name]["table"]]
    join(records, table)
    neurons = [
        {"site": name, "layer": Site(name).layer, **neuron} for name in places for neuron in read[name]["neurons"]
    ]
    whole = [{"site": name, "layer": Site(name).layer, **read[name]["about"]} for name in places]
    results = {
        "records": records,
        "table": table,
        "sites": whole,
        "neurons": neurons,
        "property": prop.name,
        "baseline": base,
        "findings": [{"property": prop.name, "text": finding(config, prop.name, metric, items, table, whole, records)}],
        "notes": [
            *notes,
            *study_notes(config, task, whole, len(ranked_on)),
            *group_notes(clusters),
        ],
    }
    data = [data_record("pairs" if config.pairs else "prompts", path, len(items)) for path in given]
    data += [{"split": s, "path": str(c.path), "sha256": c.sha256, "sentences": len(c)} for s, c in splits.items()]
    results = this.finish(results, data=data)
    shutil.rmtree(config.out / "features", ignore_errors=True)
    return results


def _check(config: NeuronsOptions) -> None:
    if unknown := [name for name in config.ranking if name not in RANKINGS]:
        raise RunError(f"--ranking {unknown[0]}: expected {', '.join(RANKINGS)}")
    if bad := [k for k in config.k if k < 1]:
        raise RunError(f"--k {bad[0]}: expected at least 1")
    if config.random < 1:
        raise RunError(f"--random {config.random}: expected at least 1 (20 or more for a band)")


def _metric_and_texts(config: NeuronsOptions, tested: Sequence[str]) -> tuple[Metric, Sequence[Item]]:
    """The metric and its prompts or pairs; without either the texts of the test sentences."""
    if config.prompts is not None or config.pairs is not None:
        return metric_and_texts(config, "loss")
    metric = get_metric(config.metric or "loss")
    if metric.of_pairs or metric.of_answers:
        raise MetricError(f"metric {metric.name} needs {'--pairs' if metric.of_pairs else '--prompts with answers'}")
    return metric, [Prompt(text, "") for text in tested[: config.limit]]


def _places(config: NeuronsOptions, found: Sequence[str]) -> list[str]:
    """The sites of the layers that are asked for."""
    layers = {name: Site(name).layer for name in found}
    if outside := [name for name, layer in layers.items() if layer is None]:
        raise RunError(f"--site {config.site}: expected a site of the blocks, got {outside[0]}")
    there = set(layers.values())
    if missing := [layer for layer in config.layer if layer not in there]:
        raise RunError(
            f"--layer {missing[0]}: expected {', '.join(str(layer) for layer in dict.fromkeys(layers.values()))}"
        )
    return [name for name, layer in layers.items() if not config.layer or layer in config.layer]


def _by_gradient(
    this: Run,
    subject: Subject,
    metric: Metric,
    items: Sequence[Item],
    features: Features,
    means: Mapping[str, Means],
    skip: slice,
) -> dict[str, list[int]]:
    """Each site's neurons by the gradient of the metric."""
    saved = this.folder.cell("gradient")
    if saved is None:
        if heads := [name for name in means if features.store.read(name, torch.tensor([0])).ndim > 2]:
            raise RunError(f"--gradient: expected a site without heads, got {heads[0]}")
        widths = {name: len(found.every) for name, found in means.items()}
        change = ablated(this.config.value)

        def edit_of(name: str) -> Edit:
            return change(NeuronSet(name, "gradient", tuple(range(widths[name]))), means[name]).at(skip)

        found = by_gradient(subject, metric, items, widths, edit_of, this.config.batch_tokens)
        saved = {name: order.tolist() for name, order in found.items()}
        this.folder.save_cell("gradient", saved)
    return saved


def _read(
    config: NeuronsOptions,
    view: View,
    task: Task,
    features: Float[torch.Tensor, "rows d"],
    means: Means,
    given: Mapping[str, Sequence[int]],
) -> dict[str, Any]:
    """Rankings, what probes read, and the neurons that are named, of one site."""
    (train, test) = (task.vectors(features, split) for split in ("train", "test"))
    labels = {split: task.parts[split].labels for split in task.parts}
    ks = sorted({1, *(min(k, features.shape[1]) for k in config.k)})
    found = cross_table(
        train.numpy(),
        labels["train"],
        test.numpy(),
        labels["test"],
        task.parts["test"].clusters,
        config.ranking or tuple(RANKINGS),
        ks,
        config.random,
        config.rotations,
        config.seed,
        given={ranking: np.array(order) for ranking, order in given.items()},
    )
    orders = {ranking: order.tolist() for ranking, order in found.orders.items()}
    some = named(orders, config.show)
    return {
        "table": found.records,
        "orders": orders,
        "ks": ks,
        "neurons": described(view, task, features.numpy(), some, orders, means),
        "about": {
            "width": features.shape[1],
            "whole": found.whole,
            "majority": found.majority,
            "unconverged": found.unconverged,
            "n_train": len(train),
            "n_test": len(test),
        },
    }


def _changes(config: NeuronsOptions, task: Task) -> dict[str, Change]:
    """What is done to a set, by name: the ablation, and a translation to each class where that is asked for."""
    changes = {config.value: ablated(config.value)}
    if config.translate:
        for label in sorted(set(task.parts["train"].labels.astype(str))):
            changes[f"translate {label}"] = translated(label, config.translate)
    return changes
