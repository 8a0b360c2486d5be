"""Which neurons know a property, and does the model use them?

    read    accuracy of probes of the k neurons that each ranking puts first, beside random orders
            and random rotations
    used    metric(the k neurons changed) - metric(clean), beside as many neurons drawn at random

A ranking is judged by both (Antverg & Belinkov 2022): a neuron from which much can be read need not
be one that the model reads. Every site is a study of its own; its neurons are ranked on training
words, changed at every token but a BOS.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int

from ....hooks import ActivationStore, Site, UnknownSite, sites
from ....hooks.edits import Edit
from ....probes import cross_table
from ....probes.rankings import RANKINGS
from ...corpus import Corpus, Split
from ...corpus.prompts import Item, Prompt, Unusable
from ...corpus.splits import read_splits
from ...features.memory import site_widths
from ...features.sites import vector_sites
from ...features.stored import Features, read_or_run, store_data
from ...metrics.metrics import Metric, files_of, get_metric, load_for, metric_and_texts
from ...metrics.reads import MetricError, Reads
from ...metrics.usable import item_notes, usable
from ...report.schema import Finding, Interval, Note, as_json, from_json
from ...report.words import plural
from ...runs import console
from ...runs.execute import Cost, DataFile, Inputs, Load, Run
from ...runs.folder import RunError
from ...subject import Subject
from ...sweep.components import Component
from ...sweep.effects import clusters_of, group_notes, mean_of
from ...sweep.grid import Grid, sweep_all
from ...sweep.records import Mean
from ...sweep.sweep import Chunk, chunks
from ...tasks.properties import Property, get_property
from ...tasks.task import Task
from ...tasks.views import View, build_views
from .description import described, named
from .gradient import by_gradient, halves
from .options import NeuronsOptions
from .records import NeuronRecord, ReadRecord, Results, SetRecord, SiteRecord
from .sets import ALONE, Change, Means, NeuronSet, ablated, neuron_sets, translated
from .summary import finding, set_records, study_notes, with_accuracy

T = TypeVar("T")

BYTES = 4
"""Of a value as it is stored."""
COPIES = 3
"""Copies of a site's vectors that ranking and probing it hold."""


@dataclass(kw_only=True)
class NeuronsInputs(Inputs):
    """Sentences whose words are read, and texts on which the change is measured.

    Args:
        splits: the sentences, by split; ``view`` has their layout.
        places: the sites, one a layer.
        items: what effects are measured on; ``ranked_on`` what the gradient ranks on, no group in
            both.
        reads: what the metric reads of ``items``.
    """

    options: NeuronsOptions
    splits: Mapping[Split, Corpus]
    view: View
    places: Sequence[str]
    metric: Metric
    items: Sequence[Item]
    ranked_on: Sequence[Item]
    reads: Reads
    notes: Sequence[Note]

    @property
    def model(self) -> Subject:
        """The model, which this study always has."""
        return self.subject

    @property
    def task(self) -> Task:
        """The property, read from the words."""
        (task,) = self.view.tasks
        return task

    @property
    def skip(self) -> slice:
        """The positions that are changed: all but a sink in front."""
        return slice(1 if self.model.has_sink_position else 0, None)

    @cached_property
    def clusters(self) -> Int[np.ndarray, " prompts"]:
        """The group of each text."""
        return clusters_of(self.items)

    @cached_property
    def groups(self) -> list[Chunk]:
        """The texts, batch by batch."""
        return list(chunks(self.model, self.reads, self.options.batch_tokens))


def prepare(options: NeuronsOptions, load: Load) -> NeuronsInputs:
    """The sentences, the texts, the model and its sites."""
    _check(options)
    splits, notes = read_splits(
        options.corpus, options.dev, options.test, options.sample, options.seed
    )
    prop = _property(options, splits["train"])
    unusable: list[Unusable] = []
    texts = [sentence.text for sentence in splits["test"]]
    metric, items = _metric_and_texts(options, texts, unusable)
    data = files_of(options, len(items)) if options.given else []
    for split, corpus in splits.items():
        data.append(DataFile(split, str(corpus.path), corpus.sha256, len(corpus)))
    data += store_data(options.store)
    subject = load_for(metric, load)
    items, _ = usable(items, lambda some: metric.reads(subject, some), unusable, options.skip)
    of_items = item_notes(unusable, items, subject)
    ranked_on: Sequence[Item] = []
    if options.gradient:
        # Neurons that are ranked and measured on the same texts would look better than they are.
        ranked_on, items = halves(items)
    places = _places(options, _neuron_sites(subject, options.site))
    # One property, and no rewriting: one text.
    (view,) = build_views(subject, splits, [prop], options.seed)
    return NeuronsInputs(
        options=options,
        subject=subject,
        data=data,
        splits=splits,
        view=view,
        places=places,
        metric=metric,
        items=items,
        ranked_on=ranked_on,
        reads=metric.reads(subject, items),
        notes=[*view.notes, *(Note(**note) for note in notes), *of_items],
    )


def _check(options: NeuronsOptions) -> None:
    for name in options.ranking:
        if name not in RANKINGS:
            raise RunError(f"--ranking {name}: expected {', '.join(RANKINGS)}")
    for k in options.k:
        if k < 1:
            raise RunError(f"--k {k}: expected at least 1")
    if options.null_draws < 1:
        raise RunError(
            f"--null-draws {options.null_draws}: expected at least 1 (20 or more for a band)"
        )


def _property(options: NeuronsOptions, train: Corpus) -> Property:
    prop = get_property(options.property, train)
    if (prop.level, prop.kind) != ("word", "class") or prop.rewrite is not None:
        raise RunError(f"--property {prop.name}: expected one with a class for each word")
    return prop


def _metric_and_texts(
    options: NeuronsOptions, tested: Sequence[str], unusable: list[Unusable]
) -> tuple[Metric, Sequence[Item]]:
    """The metric and its prompts or pairs; without either the texts of the test sentences."""
    if options.given:
        return metric_and_texts(options, "loss", unusable)
    metric = get_metric(options.metric or "loss")
    if metric.texts != "prompts" or metric.of_answers:
        wanted = f"--{metric.texts}{' with answers' if metric.of_answers else ''}"
        raise MetricError(f"metric {metric.name} needs {wanted}")
    return metric, [Prompt(text, "") for text in tested[: options.limit]]


def _neuron_sites(subject: Subject, site: str) -> list[str]:
    """The sites that an option names.

    Raises:
        RunError: feed-forward neurons of a model that has those of its experts alone.
    """
    try:
        return vector_sites(subject, [site])
    except UnknownSite:
        experts = [name for name in sites(subject.model) if ".mlp.experts." in name]
        if not experts or not site.endswith(("mlp.hook_post", "mlp.hook_pre")):
            raise
        end = site.rpartition(".")[2]
        raise RunError(
            f"--site {site}: the feed-forward layers of {subject.name} are mixtures of experts; "
            f"expected neurons of one expert, such as --site mlp.experts.0.{end}, "
            f"or of all, --site 'mlp.experts.*.{end}'"
        ) from None


def _places(options: NeuronsOptions, names: Sequence[str]) -> list[str]:
    """The sites of the layers that are asked for."""
    layers: dict[str, int] = {}
    for name in names:
        layer = Site(name).layer
        if layer is None:
            raise RunError(f"--site {options.site}: expected a site of the blocks, got {name}")
        layers[name] = layer
    known = dict.fromkeys(layers.values())
    for layer in options.layer:
        if layer not in known:
            raise RunError(f"--layer {layer}: expected {', '.join(map(str, known))}")
    wanted = options.layer or tuple(known)
    return [name for name, layer in layers.items() if layer in wanted]


def cost(inputs: NeuronsInputs) -> Cost:
    """The vectors of all sites on disk, those of one at a time in memory."""
    options, rows = inputs.options, inputs.view.layout.n_rows
    widths = site_widths(inputs.model, inputs.places).values()
    what = options.given[0] if options.given else "texts"
    text = (
        f"{plural(rows, 'word')} at {plural(len(inputs.places), 'site')}; "
        f"{len(inputs.items)} {what} through each with every set of neurons changed, "
        f"{plural(options.null_draws, 'random set')} for comparison"
    )
    vector_bytes = rows * BYTES
    return Cost(text, memory=COPIES * vector_bytes * max(widths), disk=vector_bytes * sum(widths))


def measure(inputs: NeuronsInputs, run: Run) -> Results:
    """Rank the neurons of each site, probe the first of each ranking, and change them in the
    running model.

    Interrupted, it continues with the batch, the site or the group of texts that is missing.
    """
    options, task = inputs.options, inputs.task
    with run.timed("features"):
        features = _features(inputs, run)
        means = {name: _means(task, features.read(name)) for name in inputs.places}
    with run.timed("rankings and probes"):
        by_site = _read_all(inputs, run, features, means)
    with run.timed("effects"):
        records, baseline = _changed(inputs, run, means, by_site)
    table, sites, neurons = [], [], []
    for name in inputs.places:
        read = by_site[name]
        table += [_at(ReadRecord, name, row) for row in read["table"]]
        sites.append(_at(SiteRecord, name, read["about"]))
        neurons += [_at(NeuronRecord, name, neuron) for neuron in read["neurons"]]
    records = with_accuracy(records, table)
    name = task.property.name
    text = finding(options, name, inputs.metric, len(inputs.items), table, sites, records)
    # Vectors are large and can be made again.
    shutil.rmtree(options.out / "features", ignore_errors=True)
    return Results(
        records=records,
        table=table,
        sites=sites,
        neurons=neurons,
        property=name,
        baseline=baseline,
        findings=[Finding(property=name, text=text)],
        notes=[
            *inputs.notes,
            *study_notes(options, sites, len(inputs.ranked_on)),
            *(Note(**as_json(note)) for note in group_notes(inputs.clusters)),
        ],
    )


def _at(kind: type[T], site: str, fields: Mapping[str, Any]) -> T:
    """A record of a site, from the fields that were kept of it."""
    return from_json(
        kind, {"site": site, "layer": Site(site).layer, **fields}, f"cells/read-{site}.json"
    )


# -- read


def _with_intervals(crossed: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `cross_table` as the fields of a `ReadRecord`."""
    fields = {name: crossed[name] for name in ("ranking", "probe", "k", "accuracy")}
    fields["accuracy_interval"] = Interval.between(crossed["low"], crossed["high"])
    for name in ("random", "rotated"):
        value = fields[name] = crossed[name]
        ends = (crossed[f"{name}_low"], crossed[f"{name}_high"])
        fields[f"{name}_interval"] = None if value is None else Interval(*ends)
    return fields


def _features(inputs: NeuronsInputs, run: Run) -> Features:
    """Each word's vector at each site, from a store or from the model."""
    options = inputs.options
    store = ActivationStore(options.out / "features", {"run": run.key}, dtype=torch.float32)
    return read_or_run(
        options.store,
        inputs.model,
        inputs.splits.values(),
        inputs.view.layout,
        inputs.places,
        store,
        options.pooling,
        options.batch_tokens,
    )


def _means(task: Task, features: Float[torch.Tensor, "rows d"]) -> Means:
    return Means.over(task.vectors(features, "train"), task.parts["train"].labels)


def _read_all(
    inputs: NeuronsInputs, run: Run, features: Features, means: Mapping[str, Means]
) -> dict[str, dict[str, Any]]:
    """What `_read` gives of each site; sites that are done are not read again."""
    gradient_orders = _by_gradient(inputs, run, features, means) if inputs.options.gradient else {}
    by_site = {}
    with console.progress() as bars:
        bar = bars.add_task("rankings and probes", total=len(inputs.places))
        for name in inputs.places:
            orders = {"gradient": gradient_orders[name]} if name in gradient_orders else {}

            def read(name: str = name, orders: dict[str, list[int]] = orders) -> dict[str, Any]:
                return _read(inputs, features.read(name), means[name], orders)

            by_site[name] = run.folder.kept(f"read-{name}", read)
            bars.advance(bar)
    return by_site


def _by_gradient(
    inputs: NeuronsInputs, run: Run, features: Features, means: Mapping[str, Means]
) -> dict[str, list[int]]:
    """Each site's neurons by the gradient of the metric."""
    # The ranking decides which sets are measured: a resumed run must go on with the same one.
    saved = run.folder.cell("gradient")
    if saved is not None:
        return saved
    for name in means:
        if features.store.read(name, torch.tensor([0])).ndim > 2:
            raise RunError(f"--gradient: expected a site without heads, got {name}")
    widths = {name: len(of_site.every) for name, of_site in means.items()}
    change = ablated(inputs.options.value)

    def edit_of(name: str) -> Edit:
        whole = NeuronSet(name, "gradient", tuple(range(widths[name])))
        return change(whole, means[name]).at(inputs.skip)

    orders = by_gradient(
        inputs.model, inputs.metric, inputs.ranked_on, widths, edit_of, inputs.options.batch_tokens
    )
    saved = {name: order.tolist() for name, order in orders.items()}
    run.folder.save_cell("gradient", saved)
    return saved


def _read(
    inputs: NeuronsInputs,
    features: Float[torch.Tensor, "rows d"],
    means: Means,
    given: Mapping[str, Sequence[int]],
) -> dict[str, Any]:
    """Rankings, what probes read, and the neurons that are named, of one site.

    Args:
        given: rankings that were made already.
    """
    options, task = inputs.options, inputs.task
    train, test = (task.vectors(features, split) for split in ("train", "test"))
    width = features.shape[1]
    ks = sorted({1, *(min(k, width) for k in options.k)})
    crossed = cross_table(
        train.numpy(),
        task.parts["train"].labels,
        test.numpy(),
        task.parts["test"].labels,
        task.parts["test"].clusters,
        options.ranking or tuple(RANKINGS),
        ks,
        options.null_draws,
        options.rotations,
        options.seed,
        given={ranking: np.array(order) for ranking, order in given.items()},
    )
    orders = {ranking: order.tolist() for ranking, order in crossed.orders.items()}
    return {
        "table": [_with_intervals(record) for record in crossed.records],
        "orders": orders,
        "ks": ks,
        "neurons": described(
            inputs.view, task, features.numpy(), named(orders, options.show), orders, means
        ),
        "about": {
            "width": width,
            "whole": crossed.whole,
            "majority": crossed.majority,
            "unconverged": crossed.unconverged,
            "n_train": len(train),
            "n_test": len(test),
        },
    }


# -- used


def _changed(
    inputs: NeuronsInputs,
    run: Run,
    means: Mapping[str, Means],
    by_site: Mapping[str, Mapping[str, Any]],
) -> tuple[list[SetRecord], Mean]:
    """The effect of every change on every set, and the metric without a change."""
    options, sets = inputs.options, _sets(inputs, by_site)
    parts = []
    for i, of_set in enumerate(sets):
        site = Site(of_set.site)
        parts.append(Component("sets", site.layer or 0, i, site))
    records, baseline = [], None
    for value, change in _changes(options, inputs.task).items():
        # A neuron alone is taken out, not moved towards each class.
        numbers = []
        for i, of_set in enumerate(sets):
            if value == options.value or of_set.source != ALONE:
                numbers.append(i)

        def edit_of(part: Component, change: Change = change) -> Edit:
            neurons = sets[part.index or 0]
            return change(neurons, means[neurons.site]).at(inputs.skip)

        grid = Grid(
            value,
            inputs.model,
            inputs.metric,
            inputs.groups,
            [parts[i] for i in numbers],
            lambda number, edit=edit_of: edit,
        )
        effects, clean = sweep_all(run.folder, grid, run.engine)
        baseline = mean_of(clean, inputs.clusters, options.seed, inputs.metric.value_kind)
        records += set_records(
            options,
            [sets[i] for i in numbers],
            grid.parts,
            effects,
            clean,
            inputs.clusters,
            inputs.metric,
            value,
            baseline,
        )
    assert baseline is not None  # the ablation is always among the changes
    return records, baseline


def _sets(inputs: NeuronsInputs, by_site: Mapping[str, Mapping[str, Any]]) -> list[NeuronSet]:
    """Everything that is changed, site by site."""
    sets = []
    for name in inputs.places:
        read = by_site[name]
        alone = [neuron["index"] for neuron in read["neurons"]]
        sets += neuron_sets(
            name, read["orders"], read["ks"], alone, inputs.options.null_draws, inputs.options.seed
        )
    return sets


def _changes(options: NeuronsOptions, task: Task) -> dict[str, Change]:
    """What is done to a set, by name: the ablation,
    and a translation to each class where that is asked for.
    """
    changes = {options.value: ablated(options.value)}
    if options.translate:
        for label in sorted(set(task.parts["train"].labels.astype(str))):
            changes[f"translate {label}"] = translated(label, options.translate)
    return changes
