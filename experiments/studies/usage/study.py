"""Decodable and used: a property is probed at every layer, erased there, and the rest of the model runs on what is left.

    decodable   test accuracy of a linear probe of the layer
    used        metric(layer <- r(layer)) - metric(clean),  r the eraser fitted on the layer's own words
    null        the same for changes as large in random directions

A probe says that a property can be read, not that the model reads it; erasing it from the running model asks the second
question (Elazar et al. 2021). The eraser is fitted on words and applied to every token but a BOS. ``--push`` also puts the
property where each class has its mean (AlterRep, Ravfogel et al. 2021): if the model uses it, the two ends pull apart.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from ....hooks import ActivationStore, Site, edits, sites
from ....hooks.edits import Edit
from ....probes import DEFAULT_L2, Design, Inlp, Leace, fit_many
from ....probes.erasure import Eraser, erased
from ....probes.evaluation import ClusterBootstrap
from ....probes.rows import OnDisk
from ... import forecast
from ...corpus import Corpus
from ...corpus.prompts import Item
from ...corpus.splits import read_splits
from ...features.memory import Need, as_limit
from ...features.stored import Features, open_store, read_or_run
from ...metrics.metrics import Metric, metric_and_texts
from ...metrics.probe_metric import LabelledSentence, probed_words
from ...runs import console
from ...runs.execute import Run, data_record
from ...runs.folder import RunError, digest, file_sha256
from ...subject import Subject
from ...sweep.components import Component
from ...sweep.effects import clusters_of, effect_records, group_notes, mean_of
from ...sweep.measure import certificate_notes, measure
from ...sweep.memory import sweep_bytes
from ...sweep.reading import LEVEL, clear_of_chance, ranking
from ...sweep.sweep import Chunk, Grid, chunks
from ...tasks.memory import Fits, Solve
from ...tasks.properties import get_property
from ...tasks.task import Task
from ...tasks.views import View, build_views
from .options import UsageOptions

ERASERS: dict[str, type[Leace] | type[Inlp]] = {"leace": Leace, "inlp": Inlp}
BATCH_TOKENS = 4096
"""Tokens of the texts that share a batch where words are read."""
PROOF_ROWS = 4000
"""Training words on which the network that looks for what is left is trained."""


def run(config: UsageOptions) -> dict[str, Any]:
    """Run or continue a study of usage; returns what ``results.json`` holds.

    Writes ``config.json``, ``results.json``, ``report.html`` and the erasers, ``erasers/SITE.safetensors``, to ``config.out``;
    interrupted, it continues with the batch, the layer or the group of prompts that is missing.

    Raises:
        ValueError, LookupError, OSError: bad input, each one clear line.
    """
    this = Run("usage", config)
    splits, notes = read_splits(config.corpus, config.dev, config.test, config.sample, config.seed)
    metric, items, unread = _measured(config, splits["test"])
    prop = get_property(config.property, splits["train"])
    if (prop.level, prop.kind) != ("word", "class") or prop.rewrite is not None:
        raise RunError(f"--property {prop.name}: expected one with a class for each word")
    subject = this.load(body_only=metric.readout is not None)
    reads = metric.reads(subject, items)
    hashes = {str(path): file_sha256(path) for path in (config.prompts, config.pairs, config.probe) if path}
    hashes |= {split: corpus.sha256 for split, corpus in splits.items()}
    if (finished := this.open(subject, hashes)) is not None:
        return finished

    places = sites(subject.model, "blocks.*.hook_resid_post")
    (view,) = build_views(subject, splits, [prop], config.seed)
    (task,) = view.tasks
    groups = list(chunks(subject, reads, config.batch_tokens))
    parts = [Component("layers", Site(name).layer or 0, None, Site(name)) for name in places]
    if metric.readout is not None:  # what stands behind the probe changes nothing that it reads
        parts = [part for part in parts if part.layer <= metric.readout.layer]
        places = [part.site.name for part in parts]
    (read,) = [name for name in ("prompts", "pairs", "probe") if getattr(config, name)]
    texts = f"{len(items)} {'sentences' if read == 'probe' else read}"
    text, memory = _plan(config, subject, view, places, groups, texts)
    cost = forecast.of_sweeps(config, subject, metric, groups, parts, len(_changes(config, {}, task)))
    cost |= {"held": memory.pop("beside_bytes"), "besides": "features, probes and erasers"}
    if (planned := this.plan(text, disk=memory["disk_bytes"], **cost)) is not None:
        return planned
    memory = this.folder.kept("memory", lambda: memory)  # what was chosen holds until the run is finished
    features = _features(config, subject, view, places, digest(this.identity), memory["batch_tokens"])
    probed, erasers = _probe_and_erase(this, task, places, features, memory["hold"])

    skip = 1 if subject.has_sink_position else 0
    records, certificates, base = [], {}, {}
    for value, change in _changes(config, erasers, task):
        edit_of = partial(_edit, change, skip)
        found = measure(this, Grid(value, subject, metric, groups, parts, lambda number, e=edit_of: e))
        clusters = clusters_of(items)
        base = mean_of(found.clean, clusters, config.seed)
        made = effect_records(
            parts, found, found.clean, clusters, metric, config.seed, value=value, baseline=base["value"]
        )
        records += [{**record, **probed[record["site"]]} for record in made]
        if found.certificate is not None:
            certificates[value] = found.certificate
    results = {
        "records": records,
        "baseline": base,
        "findings": [{"property": prop.name, "text": _finding(prop.name, metric, items, records)}],
        "notes": [
            *notes,
            *unread,
            *_notes(task, records),
            *group_notes(clusters_of(items)),
            *(note for name, found in certificates.items() for note in certificate_notes(name, found)),
        ],
        "certificates": certificates,
    }
    data = [data_record(read, getattr(config, read), 1 if read == "probe" else len(items))]
    data += [{"split": s, "path": str(c.path), "sha256": c.sha256, "sentences": len(c)} for s, c in splits.items()]
    results = this.finish(results, data=data, memory=memory)
    shutil.rmtree(config.out / "features", ignore_errors=True)
    return results


def _measured(
    config: UsageOptions, test: Corpus
) -> tuple[Metric, Sequence[Item | LabelledSentence], list[dict[str, str]]]:
    """What is measured, on which prompts, pairs or test sentences, and notes of what was left out."""
    if config.probe is None:
        metric, items = metric_and_texts(config, "loss")
        return metric, items, []
    if config.prompts or config.pairs:
        raise RunError("expected one of --prompts FILE, --pairs FILE and --probe FILE")
    return probed_words(config.probe, replace(test, sentences=test.sentences[: config.limit]), config.metric)


def _plan(
    config: UsageOptions, subject: Subject, view: View, places: Sequence[str], groups: Sequence[Chunk], texts: str
) -> tuple[str, dict[str, Any]]:
    """What is held and stored, in words and bytes; refuse memory that is not allowed (`memory.Fits`)."""
    ram, width, rows = as_limit(config.max_ram), subject.d_model, view.layout.n_rows
    need = Need.of(subject, dict.fromkeys(places, width), torch.float32)
    batch_tokens = BATCH_TOKENS
    if config.store is None:
        batch_tokens = need.batch_tokens(BATCH_TOKENS, ram, 0.0)
        need.check(view.layout, ram)
    test = len(view.tasks[0].parts["test"])
    proof = 4 * 6 * width * (PROOF_ROWS + test)
    beside = {"--eraser inlp": 8 * rows * width} if config.eraser == "inlp" else {}
    index = 200 * (rows if config.store is None else open_store(config.store).n_rows + rows)
    other = max(proof, sweep_bytes(subject, groups, len(places)))
    fits = Fits.plan(need.held + index, 4 * rows * width, 1, Solve.of(view.tasks, width, 0), beside, ram, other)
    disk = (0 if config.store else rows * need.row) + fits.disk
    text = (
        f"{rows:,} words x {width} dimensions x {len(places)} layers, {disk / 1e9:.2f} GB on disk; {fits.line()}; "
        f"{texts} through each layer, {config.null_draws} random changes beside it"
    )
    chosen = {"batch_tokens": batch_tokens, "hold": fits.hold, "beside_bytes": fits.memory - need.held}
    return text, {"held_bytes": fits.memory, "disk_bytes": disk, **chosen}


def _features(
    config: UsageOptions, subject: Subject, view: View, places: Sequence[str], key: str, batch_tokens: int
) -> Features:
    """The layers' vectors: from ``--store``, or from the model."""
    store = ActivationStore(config.out / "features", {"run": key}, dtype=torch.float32)
    corpora = view.splits.values()
    return read_or_run(config.store, subject, corpora, view.layout, places, store, config.pooling, batch_tokens)


def _probe_and_erase(
    this: Run, task: Task, places: Sequence[str], features: Features, hold: int | None
) -> tuple[dict[str, dict[str, Any]], dict[str, Eraser]]:
    """What a probe reads of each layer before and after the property is erased, and the erasers."""
    config, folder = this.config, this.folder
    probed, erasers = {}, {}
    kind, home = ERASERS[config.eraser], config.out / "erasers"
    home.mkdir(exist_ok=True)
    with console.progress() as bars:
        bar = bars.add_task(f"probes and {config.eraser.upper()}", total=len(places))
        for name in places:
            path, saved = home / f"{name}.safetensors", folder.cell(f"erase-{name}")
            if saved is None:
                saved, eraser = _layer(this, task, features, name, hold)
                eraser.save(path)
                folder.save_cell(f"erase-{name}", saved)
            probed[name], erasers[name] = saved, kind.load(path)
            bars.advance(bar)
    return probed, erasers


def _layer(this: Run, task: Task, features: Features, name: str, hold: int | None) -> tuple[dict[str, Any], Eraser]:
    """One layer's probe, eraser, and the proof of the erasure."""
    config, vectors = this.config, features.load(name, hold, this.config.out)
    (train, dev, test) = (task.vectors(vectors, split) for split in ("train", "dev", "test"))
    labels = {split: task.parts[split].labels for split in task.parts}
    path = config.l2 or DEFAULT_L2
    more: dict[str, Any] = {} if len(path) == 1 else {"dev": (dev, {"y": labels["dev"]})}
    fit = fit_many(Design(train, device=config.device), {"y": labels["train"]}, path, tol=1e-5, **more)["y"]
    right = (fit.predict(test) == labels["test"]).astype(float)
    score = ClusterBootstrap(task.parts["test"].clusters, seed=config.seed).mean(right)
    known = labels["train"].astype(str)
    if isinstance(train, OnDisk):  # by statistics of the shards
        of_rows = np.full(features.n_rows, None, dtype=object)
        of_rows[[row for (row,) in task.parts["train"].rows]] = known
        eraser = Leace().fit_moments(features.moments(name, of_rows, this.engine))
    else:
        eraser = ERASERS[config.eraser]().fit(train.numpy(), known)
    some = torch.from_numpy(np.random.default_rng(config.seed).permutation(len(train))[:PROOF_ROWS])
    proof = erased(
        eraser, train[some].numpy(), known[some.numpy()], test[:].numpy(), labels["test"].astype(str), fit.l2
    )
    return {
        "property": task.property.name,
        "decodable": score.value,
        "decodable_low": score.low,
        "decodable_high": score.high,
        "majority": proof["majority"],
        "erased_linear": proof["linear"],
        "erased_mlp": proof["mlp"],
        "erased_rank": int(eraser.left_.shape[1]),
        "erased_change": proof["change"],
        "l2": float(fit.l2),
        "converged": fit.converged,
        "n_train": len(train),
        "n_test": len(test),
    }, eraser


def _changes(
    config: UsageOptions, erasers: dict[str, Eraser], task: Task
) -> list[tuple[str, Callable[[str], Callable[[torch.Tensor], torch.Tensor]]]]:
    """What is done to a layer, by name: the erasure, and a push to each class where that is asked for."""
    changes: list[tuple[str, Callable[[str], Callable[[torch.Tensor], torch.Tensor]]]] = [
        ("erase", lambda name: erasers[name].erase)
    ]
    if config.push:
        for label in sorted(set(task.parts["train"].labels.astype(str))):
            changes.append((f"push {label}", partial(_pushed, erasers, label, config.push)))
    return changes


def _pushed(
    erasers: dict[str, Eraser], label: str, strength: float, name: str
) -> Callable[[torch.Tensor], torch.Tensor]:
    return partial(erasers[name].push, label=label, strength=strength)


def _edit(change: Callable[[str], Callable[[torch.Tensor], torch.Tensor]], skip: int, part: Component) -> Edit:
    edit = edits.function(change(part.site.name), "erase")
    return edit.at(slice(skip, None)) if skip else edit


def _finding(name: str, metric: Metric, items: Sequence[Any], records: Sequence[dict[str, Any]]) -> str:
    """Decodable where, used where."""
    mine = [r for r in records if r["value"] == "erase"]
    top = max(mine, key=lambda r: r["decodable"])
    clear = clear_of_chance(mine)
    text = (
        f"{name} is decodable best at layer {top['layer']} (accuracy {top['decodable']:.3f}, 95% {top['decodable_low']:.3f}-"
        f"{top['decodable_high']:.3f}; most frequent class {top['majority']:.3f}). Erasing it changes the {metric.name} at "
        f"{len(clear)} of {len(mine)} layers at a false-discovery rate of {LEVEL:.0%} (n = {len(items)}); the strongest are "
        f"{ranking(mine)}."
    )
    beyond = [r for r in clear if r.get("null") is not None and abs(r["effect"]) > r["null"]]
    if any(r.get("null") is not None for r in mine):
        text += f" At {len(beyond)} of these it does more than changes as large in random directions do on average."
    return text


def _notes(task: Task, records: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    notes = []
    if task.n_dropped:
        notes.append({"kind": "dropped", "text": f"{task.n_dropped} words without tokens (truncated) left out"})
    mine = [r for r in records if r["value"] == "erase"]
    left = [r for r in mine if r["erased_mlp"] > r["majority"] + 0.05]
    if left:
        text = (
            f"at {len(left)} of {len(mine)} layers a small network still reads the property after the erasure (up to "
            f"{max(r['erased_mlp'] for r in left):.3f}): erased is what linear probes read, no more"
        )
        notes.append({"kind": "warning", "text": text})
    if bad := [r["site"] for r in mine if not r["converged"]]:
        notes.append({"kind": "warning", "text": f"probes not converged at {', '.join(bad)}"})
    return notes
