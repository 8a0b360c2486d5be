"""The layer-wise probing study: where in the model can a property be read, and is the reading more than memory?

One pass of the model stores every word's vector at every layer (`experiments.features`); then, layer by layer, all
probes that share the vectors are solved together (`probes.fit_many`), scored on held-out sentences, and set beside
control tasks, baselines and a random-weight model.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from experiments import forecast, screen
from experiments.across import across_layers
from experiments.config import ProbeConfig
from experiments.corpus import Corpus
from experiments.demo import demo_paths
from experiments.features import FeatureError, extract, vector_sites
from experiments.probe_calibration import add_calibration, keep_predictions
from experiments.probed import save_probe
from experiments.properties import get_property
from experiments.results import RunError, RunFolder, digest, free_bytes
from experiments.run import Run
from experiments.scoring import Cell, score_cell
from experiments.seeds import over_seeds
from experiments.splits import read_splits
from experiments.stored import Features, stored
from experiments.subject import Subject
from experiments.summary import summarise
from experiments.tasks import Part, Split
from experiments.trees import TOGETHER
from experiments.view import EMBEDDING, PLAIN, SentencePooling, View, build_views
from hooks import ActivationStore
from probes.fit import Fit
from probes.solver import MAX_COLUMNS


def demo_config(out: Path) -> ProbeConfig:
    """The embedded study: part of speech and dependency relation in the embedded model."""
    paths = demo_paths()
    return ProbeConfig(
        model=str(paths.model),
        corpus=paths.train,
        dev=paths.dev,
        test=paths.test,
        property=("upos", "deprel"),
        limit_sentences=800,
        l2=(10.0,),
        control_seeds=3,
        out=out,
    )


def run(config: ProbeConfig) -> dict[str, Any]:
    """Run or continue a study; returns what ``results.json`` holds.

    Writes ``config.json``, ``results.json``, ``report.html`` and the probes of classes, ``probes/PROPERTY/SITE.safetensors``,
    to ``config.out``; with ``calibration`` also their predictions, ``predictions/PROPERTY/SITE.npz``. Interrupted, it continues with the
    first batch and the first layer that are missing, and gives the same numbers.

    Raises:
        ValueError, LookupError, OSError: bad input, each one clear line.
    """
    this = Run("probe", config)
    splits, notes = read_splits(config.corpus, config.dev, config.test, config.limit_sentences, config.seed)
    properties = [get_property(name, splits["train"]) for name in dict.fromkeys(config.property)]
    subject = this.load(body_only=True)
    places = study_sites(subject, config.site)
    hashes = {split: corpus.sha256 for split, corpus in splits.items()}
    if (finished := this.open(subject, hashes)) is not None:
        return finished

    views = build_views(subject, splits, properties, config.seed, cast(SentencePooling, config.sentence_pooling))
    for view in views:
        for task in view.tasks:
            if task.n_dropped:
                notes.append(
                    f"{task.property.name}: {task.n_dropped} items dropped: their words have no tokens (truncated)"
                )
    models = [subject, *(subject.random_twin(config.seed + i) for i in range(config.random_models))]
    text, memory = plan(views, models, places, config)
    cost = {"held": memory["held_bytes"], "disk": memory["disk_bytes"], "besides": "the probes"}
    if (planned := this.plan(text, **cost, seconds=lambda: _forwards(views, models, config))) is not None:
        return planned
    if config.store is not None:
        notes.append(f"features of {subject.name} read from {config.store}, where no text is rewritten")

    seconds = {"features": 0.0, "probes": 0.0}
    mark = time.perf_counter()
    stores = _all_features(config, models, views, places, digest(this.identity), this.folder)
    seconds["features"] = time.perf_counter() - mark
    mark = time.perf_counter()
    cells = _probe_all(config, subject, views, places, stores, this.folder)
    across = across_layers(config, views, places, stores, this.folder)
    seconds["probes"] = time.perf_counter() - mark

    mark = time.perf_counter()
    results = summarise(cells, [task for view in views for task in view.tasks], splits_of(views), config)
    if config.calibration:
        add_calibration(results, config.out, config.seed)
    seconds["statistics"] = time.perf_counter() - mark
    results |= {"mixes": across["mixes"], "trees": across["trees"]}
    results["findings"] += across["findings"]
    results["notes"] += across["notes"]
    results["notes"] += [{"kind": "dropped" if "left out" in n or "dropped" in n else "info", "text": n} for n in notes]
    if config.seeds > 1:
        over_seeds(config, results, run)
    results = this.finish(
        results,
        data=[_describe(split, corpus, views[0]) for split, corpus in splits.items()],
        timings={k: round(v, 1) for k, v in seconds.items()},
        memory=memory,
    )
    if not config.keep_features:
        shutil.rmtree(config.out / "features", ignore_errors=True)
    return results


def study_sites(subject: Subject, site: str) -> list[str]:
    """The embedding layer and then the site at every layer, in the model's order."""
    return [EMBEDDING, *(s for s in vector_sites(subject, [site]) if s != EMBEDDING)]


def splits_of(views: Sequence[View]) -> dict[str, dict[Split, Corpus]]:
    """Property -> the corpora as the model saw them for it."""
    return {task.property.name: view.splits for view in views for task in view.tasks}


def plan(
    views: Sequence[View], models: Sequence[Subject], places: Sequence[str], config: ProbeConfig
) -> tuple[str, dict[str, int]]:
    """What is held and what is stored, in words and bytes; refuse a disk without room.

    On disk rows x width x 4 bytes a site, for each model. In memory one layer at a time with its standardised copy, and
    what a joint solve keeps for each training row and each column, a class of a target: logits, and for the curvature
    probabilities twice.
    """
    out, width = config.out, max(models[0].d_model, 1)
    rows = sum(view.layout.n_rows for view in views)
    one_layer = max(view.layout.n_rows for view in views) * width * 4
    written = sum(v.layout.n_rows for v in views for number in range(len(models)) if not is_stored(v, number, config))
    disk = written * width * 4 * len(places)
    labels = [t.parts["train"].labels for v in views for t in v.tasks if t.property.kind == "class"]
    columns = [min(len(set(y)) * (1 + config.control_seeds), MAX_COLUMNS) for y in labels]
    solve = max((len(y) * c * 4 for y, c in zip(labels, columns, strict=True)), default=0)
    held = 3 * one_layer + 3 * solve
    if config.information:
        held += 5 * one_layer  # the embedding layer, and both side by side with their standardised copy
    if config.structural:
        held = max(held, 2 * one_layer * min(TOGETHER, len(places)))
    if config.scalar_mix:
        held = max(held, 3 * one_layer * len(places))
    text = (
        f"{rows:,} words x {width} dimensions x {len(places)} sites x {len(models)} models: "
        f"{disk / 1e9:.2f} GB on disk, {held / 1e9:.2f} GB in memory at a time (beside the model)"
    )
    free = free_bytes(out)
    done = sum(f.stat().st_size for f in out.glob("features/*/*.safetensors"))
    if disk - done > free:
        raise RunError(
            f"--out {out}: the features need {(disk - done) / 1e9:.2f} GB on disk, {free / 1e9:.2f} GB are free there: "
            "choose another folder, fewer sentences or fewer sites"
        )
    return text, {"held_bytes": held, "disk_bytes": disk}


def _forwards(views: Sequence[View], models: Sequence[Subject], config: ProbeConfig) -> float:
    """Seconds of the passes that are not read from a store."""
    passes = [
        (sum(not is_stored(view, number, config) for number in range(len(models))), view.layout.encoded)
        for view in views
    ]
    return sum(
        times * forecast.pass_seconds(models[0], encoded, config.batch_tokens) for times, encoded in passes if times
    )


def is_stored(view: View, number: int, config: ProbeConfig) -> bool:
    """Whether a view's features of a model, the first or a random one, come from ``--store``: no rewritten text's do."""
    return config.store is not None and number == 0 and view.name == PLAIN


def _all_features(
    config: ProbeConfig,
    models: Sequence[Subject],
    views: Sequence[View],
    places: Sequence[str],
    key: str,
    folder: RunFolder,
) -> dict[tuple[int, str], Features]:
    found = {}
    pooling: Any = config.pooling
    with screen.progress() as bars:
        for number, subject in enumerate(models):
            for view in views:
                if config.store is not None and is_stored(view, number, config):
                    corpora = view.splits.values()
                    found[number, view.name] = stored(config.store, subject, corpora, view.layout, places, pooling)
                    continue
                name = "model" if number == 0 else f"random-{number - 1}"
                label = view.name.replace(":", "_")
                about = {"run": key, "model": name, "text": label}
                store = ActivationStore(folder.path / "features" / f"{name}-{label}", about, dtype=torch.float32)
                bar = bars.add_task(f"features of the {name.replace('-', ' ')}", total=len(view.layout.encoded))
                try:
                    extract(
                        subject,
                        view.layout,
                        places,
                        store,
                        pooling=pooling,
                        batch_tokens=config.batch_tokens,
                        advance=lambda n, bar=bar: bars.advance(bar, n),
                    )
                except FeatureError as error:
                    raise FeatureError(f"{name}: {error}") from None
                found[number, view.name] = Features(store)
    return found


def _probe_all(
    config: ProbeConfig,
    subject: Subject,
    views: Sequence[View],
    places: Sequence[str],
    stores: dict[tuple[int, str], Features],
    folder: RunFolder,
) -> list[Cell]:
    cells: list[Cell] = []
    wide = config.information
    with screen.progress() as bars:
        bar = bars.add_task("probes", total=len(places) * len(views))
        for view in views:
            for site in places:
                name = f"{view.name}-{site}"
                saved = folder.cell(name)
                if saved is None:
                    features = [stores[i, view.name].read(site) for i in range(1 + config.random_models)]
                    keep = partial(_keep, config, subject, site)
                    below = stores[0, view.name].read(EMBEDDING) if wide and site != EMBEDDING else None
                    found = score_cell(site, view.tasks, features, config, keep, below)
                    saved = [cell.to_json() for cell in found]
                    folder.save_cell(name, saved)
                    del features, below
                cells += [Cell.from_json(record) for record in saved]
                bars.advance(bar)
    return cells


def _keep(
    config: ProbeConfig,
    subject: Subject,
    site: str,
    name: str,
    fit: Fit,
    parts: Mapping[Split, Part],
    dev: Tensor,
    test: Tensor,
) -> None:
    """Write a probe and, where they are asked for, its predictions."""
    save_probe(config.out / "probes", subject, site, config.pooling, name, fit)
    if config.calibration:
        keep_predictions(config.out, site, name, fit, parts, dev, test)


def _describe(split: Split, corpus: Corpus, view: View) -> dict[str, Any]:
    return {
        "split": split,
        "path": str(corpus.path),
        "sha256": corpus.sha256,
        "sentences": len(corpus),
        "words": corpus.n_words,
        "used_words": view.layouts[split].n_rows,
    }
