"""Decodable and used: a property is probed at every layer, erased there, and the rest of the model
runs on what is left.

    decodable   test accuracy of a linear probe of the layer
    used        metric(layer <- r(layer)) - metric(clean),
                r the eraser fitted on the layer's own words
    null        the same for changes as large in random directions

A probe shows that a property can be read, not that the model reads it; erasing it from the running
model (amnesic probing, Elazar et al. 2021) asks the second question. The eraser is fitted on words
and applied to every token but the first (``--positions``). ``--push`` also puts the property where
each class has its mean (AlterRep, Ravfogel et al. 2021): if the model uses it, the two ends pull
apart.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ....hooks import ActivationStore, Site, edits, sites
from ....hooks.edits import Edit
from ....probes import DEFAULT_L2, Design, Inlp, Leace, fit_many
from ....probes.erasure import Eraser, erased
from ....probes.evaluation import ClusterBootstrap
from ....probes.rows import OnDisk
from ...corpus import Corpus
from ...corpus.prompts import Item, Unusable
from ...corpus.splits import read_splits
from ...features.memory import Need, as_limit
from ...features.stored import Features, open_store, read_or_run, store_data
from ...metrics.metrics import Metric, files_of, load_for, metric_and_texts
from ...metrics.probe_metric import LabelledSentence, probed_words
from ...metrics.usable import item_notes, usable
from ...report.schema import Finding, Note, estimated, from_json, is_above
from ...report.words import DOUBT, interval, plural, size
from ...runs import console
from ...runs.execute import Cost, DataFile, Inputs, Load, Run, with_device
from ...runs.folder import RunError
from ...subject import Subject
from ...sweep.components import Component, at_positions
from ...sweep.effects import clusters_of, effect_records, group_notes, mean_of
from ...sweep.grid import Grid
from ...sweep.measure import certificate_notes, measure_grid, unchanged_notes
from ...sweep.memory import sweep_bytes
from ...sweep.positions import first_position, with_positions
from ...sweep.reading import ranking, significance_text, significant
from ...sweep.records import Certificate, Mean
from ...sweep.sweep import Chunk, chunks
from ...tasks.memory import Fits, Solve
from ...tasks.properties import get_property
from ...tasks.task import Task
from ...tasks.views import View, build_views
from .options import UsageOptions
from .records import Decoding, Results, UsageRecord

ERASERS: dict[str, type[Leace] | type[Inlp]] = {"leace": Leace, "inlp": Inlp}
BATCH_TOKENS = 4096
"""Tokens of the texts that share a batch where words are read."""
PROOF_ROWS = 4000
"""Training words on which the network that looks for what is left is trained."""
STILL_READ = 0.05
"""Accuracy above the most frequent class's from which a network still reads the property."""

Change: TypeAlias = "Callable[[str], Callable[[Tensor], Tensor]]"
"""From a site's name to what is done to its vectors."""


@dataclass(kw_only=True)
class UsageInputs(Inputs):
    """What a study of usage has read.

    Args:
        metric: what is measured; ``items`` what it has one value of each, ``kind`` what those are
            called.
        groups: the items' texts in batches.
        view: the property's words and their tokens.
        parts: the layers.
        notes: what was left out.
    """

    subject: Subject
    metric: Metric
    items: Sequence[Item]
    kind: str
    groups: Sequence[Chunk]
    view: View
    parts: Sequence[Component]
    notes: list[Note]

    @property
    def task(self) -> Task:
        """The property as something to classify."""
        (task,) = self.view.tasks
        return task

    @property
    def places(self) -> list[str]:
        """The layers' sites."""
        return [part.site.name for part in self.parts]

    @cached_property
    def need(self) -> Need:
        """What reading the words takes."""
        widths = dict.fromkeys(self.places, self.subject.d_model)
        return Need.of(self.subject, widths, torch.float32)

    @cached_property
    def batch_tokens(self) -> int:
        """Tokens of a batch where words are read; fewer where memory is limited."""
        if self.options.store is not None:
            return BATCH_TOKENS
        limit = as_limit(self.options.max_ram)
        tokens = self.need.batch_tokens(BATCH_TOKENS, limit, 0.0)
        self.need.check(self.view.layout, limit)
        return tokens

    @cached_property
    def fits(self) -> Fits:
        """Whether vectors are held in memory; refuses memory that is not allowed."""
        options, width, rows = self.options, self.subject.d_model, self.view.layout.n_rows
        test = len(self.task.parts["test"])
        proof = 4 * 6 * width * (PROOF_ROWS + test)
        beside = {"--eraser inlp": 8 * rows * width} if options.eraser == "inlp" else {}
        stored = 0 if options.store is None else open_store(options.store).n_rows
        index = 200 * (stored + rows)
        other = max(
            proof, sweep_bytes(self.subject, self.groups, len(self.places), self.metric.of_targets)
        )
        solves = Solve.of(self.view.tasks, width, 0)
        limit = as_limit(options.max_ram)
        return Fits.plan(
            self.need.resident + index, 4 * rows * width, 1, solves, beside, limit, other
        )

    @property
    def disk(self) -> int:
        """Bytes of the vectors and of the probes' files."""
        vectors = 0 if self.options.store else self.view.layout.n_rows * self.need.row
        return vectors + self.fits.disk


def prepare(options: UsageOptions, load: Load) -> UsageInputs:
    """The sentences, the property, the texts that are measured, and the model.

    Raises:
        LayerscopeError: files that cannot be read, a property without a class for each word, texts
            that cannot be measured.
    """
    splits, read_notes = read_splits(
        options.corpus, options.dev, options.test, options.sample, options.seed
    )
    unusable: list[Unusable] = []
    metric, items, notes = _measured(options, splits["test"], unusable)
    prop = get_property(options.property, splits["train"])
    if (prop.level, prop.kind) != ("word", "class") or prop.rewrite is not None:
        raise RunError(f"--property {prop.name}: expected one with a class for each word")
    subject = load_for(metric, load)
    options = with_positions(options, subject)
    items, reads = usable(items, lambda some: metric.reads(subject, some), unusable, options.skip)
    read = [Note(**note) for note in read_notes]
    notes = [*read, *notes, *item_notes(unusable, items, subject)]
    names = sites(subject.model, "blocks.*.hook_resid_post")
    parts = [Component("layers", Site(name).layer or 0, None, Site(name)) for name in names]
    # what comes after the probed layer changes nothing that the probe reads
    if metric.readout is not None:
        parts = [part for part in parts if part.layer <= metric.readout.layer]
    (view,) = build_views(subject, splits, [prop], options.seed)
    notes = [*notes, *view.notes]
    if options.probe is not None:
        kind, measured = "sentences", [DataFile.of("probe", options.probe, 1)]
    else:
        kind, measured = options.given[0], files_of(options, len(items))
    data = [
        *measured,
        *(DataFile(name, str(part.path), part.sha256, len(part)) for name, part in splits.items()),
        *store_data(options.store),
    ]
    return UsageInputs(
        options=options,
        subject=subject,
        data=data,
        metric=metric,
        items=items,
        kind=kind,
        groups=list(chunks(subject, reads, options.batch_tokens)),
        view=view,
        parts=parts,
        notes=notes,
    )


def _measured(
    options: UsageOptions, test: Corpus, unusable: list[Unusable]
) -> tuple[Metric, Sequence[Item | LabelledSentence], list[Note]]:
    """What is measured, on which prompts, pairs or test sentences,
    and notes of what was left out.
    """
    if options.probe is None:
        metric, items = metric_and_texts(options, "loss", unusable)
        return metric, items, []
    if options.given:
        raise RunError(f"expected --probe FILE alone, got --{options.given[0]} too")
    some = replace(test, sentences=test.sentences[: options.limit])
    return probed_words(options.probe, some, options.metric)


def cost(inputs: UsageInputs) -> Cost:
    """What is held and stored; refuses memory that is not allowed (`memory.Fits`)."""
    text = (
        f"{plural(inputs.view.layout.n_rows, 'word')} x {inputs.subject.d_model} dimensions x "
        f"{plural(len(inputs.places), 'layer')}, {size(inputs.disk)} on disk; "
        f"{inputs.fits.line()}; {len(inputs.items)} {inputs.kind} through each layer, "
        f"{plural(inputs.options.null_draws, 'random change')} for comparison"
    )
    return Cost(text, memory=inputs.fits.memory - inputs.need.resident, disk=inputs.disk)


def measure(inputs: UsageInputs, run: Run) -> Results:
    """Probes and erasers of every layer, and the effect of each change;
    erasers go to ``erasers/SITE.safetensors``.
    """
    options, metric, items, task = inputs.options, inputs.metric, inputs.items, inputs.task
    memory = run.folder.kept("memory", partial(_memory, inputs))  # holds until the run is finished
    run.memory.update({k: memory[k] for k in ("held_bytes", "disk_bytes", "batch_tokens", "hold")})
    with run.timed("features"):
        features = _features(inputs, run.key, memory["batch_tokens"])
    with run.timed("probes"):
        decodings, erasers = _probe_and_erase(inputs, run, features, memory["hold"])
    clusters = clusters_of(items)
    records: list[UsageRecord] = []
    certificates: dict[str, Certificate] = {}
    notes: list[Note] = []
    base: Mean | None = None
    for value, pushed_to, change in _changes(options, erasers, task):
        edit_of = partial(_edit, change, first_position(options))
        grid = Grid(
            value, inputs.subject, metric, inputs.groups, inputs.parts, lambda _, e=edit_of: e
        )
        measured = measure_grid(run, grid)
        base = mean_of(measured.clean, clusters, options.seed, metric.value_kind)
        common = {"value": value, "baseline": base.value}
        effects = effect_records(
            inputs.parts,
            measured,
            measured.clean,
            clusters,
            metric,
            options.seed,
            whole_kind=metric.value_kind,
            **common,
        )
        for effect in effects:
            decoding = decodings[effect.site]
            records.append(UsageRecord(**vars(effect), **vars(decoding), pushed_to=pushed_to))
        notes += unchanged_notes(measured, f"layers ({value})", metric.name)
        if measured.certificate is not None:
            certificates[value] = measured.certificate
            notes += certificate_notes(value, measured.certificate)
    assert base is not None
    shutil.rmtree(options.out / "features", ignore_errors=True)
    name = task.property.name
    return Results(
        positions=options.positions,
        records=records,
        baseline=base,
        findings=[Finding(property=name, text=_finding(name, metric, len(items), records))],
        notes=[*inputs.notes, *_notes(records), *group_notes(clusters), *notes],
        certificates=certificates,
    )


def _memory(inputs: UsageInputs) -> dict[str, Any]:
    """What is held, and what was chosen to hold it."""
    return {
        "held_bytes": inputs.fits.memory,
        "disk_bytes": inputs.disk,
        "batch_tokens": inputs.batch_tokens,
        "hold": inputs.fits.hold,
    }


def _features(inputs: UsageInputs, key: str, batch_tokens: int) -> Features:
    """The layers' vectors: from ``--store``, or from the model."""
    options, view = inputs.options, inputs.view
    store = ActivationStore(options.out / "features", {"run": key}, dtype=torch.float32)
    corpora = view.splits.values()
    return read_or_run(
        options.store,
        inputs.subject,
        corpora,
        view.layout,
        inputs.places,
        store,
        options.pooling,
        batch_tokens,
    )


def _probe_and_erase(
    inputs: UsageInputs, run: Run, features: Features, hold: int | None
) -> tuple[dict[str, Decoding], dict[str, Eraser]]:
    """What a probe reads of each layer before and after the property is erased, and the erasers."""
    options, folder = inputs.options, run.folder
    decodings: dict[str, Decoding] = {}
    erasers: dict[str, Eraser] = {}
    home = options.out / "erasers"
    home.mkdir(exist_ok=True)
    with console.progress() as bars:
        bar = bars.add_task(f"probes and {options.eraser.upper()}", total=len(inputs.places))
        for name in inputs.places:
            path, saved = home / f"{name}.safetensors", folder.cell(f"erase-{name}")
            if saved is None:
                decoding, eraser = _layer(inputs, run, features, name, hold)
                eraser.save(path)
                saved = folder.save_cell(f"erase-{name}", decoding)
            decodings[name] = from_json(Decoding, saved)
            erasers[name] = ERASERS[options.eraser].load(path)
            bars.advance(bar)
    return decodings, erasers


def _layer(
    inputs: UsageInputs, run: Run, features: Features, name: str, hold: int | None
) -> tuple[Decoding, Eraser]:
    """One layer's probe, eraser, and the proof of the erasure."""
    options, task = inputs.options, inputs.task
    vectors = features.load(name, hold, options.out)
    train, dev, test = (task.vectors(vectors, split) for split in ("train", "dev", "test"))
    labels = {split: part.labels for split, part in task.parts.items()}
    path = options.l2 or DEFAULT_L2
    chosen_on: dict[str, Any] = {} if len(path) == 1 else {"dev": (dev, {"y": labels["dev"]})}
    design = Design(train, device=with_device(options, inputs.subject).device)
    fit = fit_many(design, {"y": labels["train"]}, path, tol=1e-5, **chosen_on)["y"]
    right = fit.predict(test) == labels["test"]
    score = ClusterBootstrap(task.parts["test"].clusters, seed=options.seed).mean(right)
    known = labels["train"].astype(str)
    if isinstance(train, OnDisk):  # by statistics of the shards
        of_rows = np.full(features.n_rows, None, dtype=object)
        of_rows[task.parts["train"].rows.flat] = known
        eraser = Leace().fit_moments(features.moments(name, of_rows, run.engine))
    else:
        eraser = ERASERS[options.eraser]().fit(train.numpy(), known)
    order = np.random.default_rng(options.seed).permutation(len(train))
    some = torch.from_numpy(order[:PROOF_ROWS])
    proof = erased(
        eraser,
        train[some].numpy(),
        known[some.numpy()],
        test[:].numpy(),
        labels["test"].astype(str),
        fit.l2,
    )
    decoding = Decoding(
        property=task.property.name,
        **estimated("decodable", score),
        majority=float(proof["majority"]),
        erased_linear=float(proof["linear"]),
        erased_mlp=float(proof["mlp"]),
        erased_rank=int(eraser.left_.shape[1]),
        erased_change=float(proof["change"]),
        l2=float(fit.l2),
        converged=bool(fit.converged),
        n_train=len(train),
        n_test=len(test),
    )
    return decoding, eraser


def _changes(
    options: UsageOptions, erasers: Mapping[str, Eraser], task: Task
) -> list[tuple[str, str | None, Change]]:
    """What is done to a layer: its name, the class that it pushes to, the change.

    The erasure pushes to none.
    """
    changes: list[tuple[str, str | None, Change]] = [
        ("erase", None, lambda name: erasers[name].erase)
    ]
    if options.push:
        for label in sorted(set(task.parts["train"].labels.astype(str))):
            push = partial(_pushed, erasers, label, options.push)
            changes.append((f"push {label}", label, push))
    return changes


def _pushed(
    erasers: Mapping[str, Eraser], label: str, strength: float, name: str
) -> Callable[[Tensor], Tensor]:
    return partial(erasers[name].push, label=label, strength=strength)


def _edit(change: Change, first: int, part: Component) -> Edit:
    edit = edits.function(change(part.site.name), "erase")
    return at_positions(edit, first)


def _finding(name: str, metric: Metric, n_items: int, records: Sequence[UsageRecord]) -> str:
    """Decodable where, used where."""
    erased_records = [record for record in records if record.value == "erase"]
    top = max(erased_records, key=lambda record: record.decodable)
    doubt = "" if is_above(top.decodable_interval, top.majority) else DOUBT
    change = f"This changes the {metric.name}"
    text = (
        f"{name} is decoded best at layer {top.layer}, with an accuracy of "
        f"{top.decodable:.3f} (95% CI {interval(top.decodable_interval) or 'n/a'}; "
        f"most frequent class {top.majority:.3f}{doubt}). It was then erased at one layer "
        f"at a time (n = {n_items}). {significance_text(erased_records, 'layers', change)} "
        f"The largest effects are {ranking(erased_records)}."
    )
    passing = significant(erased_records)
    compared = [record for record in passing if record.null is not None]
    if compared:
        beyond = sum(abs(record.effect) > (record.null or 0.0) for record in compared)
        text += (
            f" At {beyond} of {len(compared)} significant layers, "
            "the effect is larger than the mean effect of random changes of the same size."
        )
    return text


def _notes(records: Sequence[UsageRecord]) -> list[Note]:
    """What the erasure leaves, and what did not converge."""
    notes = []
    erased_records = [record for record in records if record.value == "erase"]
    left = [
        record.erased_mlp
        for record in erased_records
        if record.erased_mlp > record.majority + STILL_READ
    ]
    if left:
        text = (
            f"at {len(left)} of {len(erased_records)} layers, a small network still reads "
            f"the property after the erasure (accuracy up to {max(left):.3f}), "
            "because erasure removes only what linear probes read"
        )
        notes.append(Note(kind="warning", text=text))
    if unconverged := [record.site for record in erased_records if not record.converged]:
        text = f"probes not converged at {', '.join(unconverged)}"
        notes.append(Note(kind="warning", text=text))
    return notes
