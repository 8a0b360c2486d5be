"""The layer-wise probing study: where in the model can a property be read, and is the reading more than memory?

One pass of the model stores every word's vector at every layer (`experiments.features`); then, layer by layer, all
probes that share the vectors are solved together (`probes.fit_many`), scored on held-out sentences, and set beside
control tasks, baselines and a random-weight model.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from experiments import screen
from experiments.config import ProbeConfig
from experiments.corpus import Corpus
from experiments.demo import demo_paths
from experiments.features import FeatureError, Layout, extract
from experiments.probed import save_probe
from experiments.properties import Property, get_property
from experiments.results import RunError, RunFolder, digest
from experiments.run import Run
from experiments.scoring import Cell, score_cell
from experiments.splits import read_splits
from experiments.subject import Subject
from experiments.summary import summarise
from experiments.tasks import SPLITS, Split, Task, build_task, rewritten
from hooks import ActivationStore, sites
from probes.solver import MAX_COLUMNS

EMBEDDING = "blocks.0.hook_resid_pre"


@dataclasses.dataclass(frozen=True)
class View:
    """The text as some properties see it: as it is, or rewritten; with its layout and its tasks."""

    name: str
    splits: dict[Split, Corpus]
    layouts: dict[Split, Layout]
    layout: Layout
    tasks: tuple[Task, ...]


def demo_config(out: Path) -> ProbeConfig:
    """The embedded study: part of speech and dependency relation in the embedded model."""
    paths = demo_paths()
    return ProbeConfig(
        model=str(paths.model),
        corpus=paths.train,
        dev=paths.dev,
        test=paths.test,
        property=("upos", "deprel"),
        l2=(1000.0, 100.0, 10.0),
        out=out,
    )


def run(config: ProbeConfig) -> dict[str, Any]:
    """Run or continue a study; returns what ``results.json`` holds.

    Writes ``config.json``, ``results.json``, ``report.html`` and the probes of classes, ``probes/PROPERTY/SITE.safetensors``,
    to ``config.out``. Interrupted, it continues with the
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
    if (finished := this.open(subject, hashes, undecided=("out", "keep_features"))) is not None:
        return finished

    views = build_views(subject, splits, properties, config.seed)
    for view in views:
        for task in view.tasks:
            if task.n_dropped:
                notes.append(
                    f"{task.property.name}: {task.n_dropped} items dropped: their words have no tokens (truncated)"
                )
    models = [subject, *(subject.random_twin(config.seed + i) for i in range(config.random_models))]
    memory = plan(views, models, places, config)

    seconds = {"features": 0.0, "probes": 0.0}
    mark = time.perf_counter()
    stores = _extract_all(config, models, views, places, digest(this.identity), this.folder)
    seconds["features"] = time.perf_counter() - mark
    mark = time.perf_counter()
    cells = _probe_all(config, subject, views, places, stores, this.folder)
    seconds["probes"] = time.perf_counter() - mark

    mark = time.perf_counter()
    results = summarise(cells, [task for view in views for task in view.tasks], splits_of(views), config)
    seconds["statistics"] = time.perf_counter() - mark
    results["notes"] += [{"kind": "dropped" if "left out" in n or "dropped" in n else "info", "text": n} for n in notes]
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
    pattern = site if site.startswith(("blocks.", "module:", "ln_final", "hook_embed")) else f"blocks.*.{site}"
    chosen = [pattern] if pattern.startswith("module:") else sites(subject.model, pattern)
    if any(".hook_pattern" in s or ".hook_attn_scores" in s for s in chosen):
        raise RunError(f"--site {site}: expected a site with one vector a token, attention has one value a pair")
    return [EMBEDDING, *(s for s in chosen if s != EMBEDDING)]


def build_views(subject: Subject, splits: dict[Split, Corpus], properties: Sequence[Property], seed: int) -> list[View]:
    """Group the properties by the text that the model must see, and read their tasks."""
    groups: dict[str, list[Property]] = {}
    for prop in properties:
        groups.setdefault(prop.name if prop.rewrite else "", []).append(prop)
    views = []
    for name, group in groups.items():
        seen: dict[Split, Corpus] = {
            split: rewritten(corpus, group[0], seed + i) for i, (split, corpus) in enumerate(splits.items())
        }
        layouts: dict[Split, Layout] = {split: Layout.of(subject, corpus.sentences) for split, corpus in seen.items()}
        whole = Layout([e for s in SPLITS for e in layouts[s].encoded], [p for s in SPLITS for p in layouts[s].spans])
        offsets: dict[Split, int] = {
            "train": 0,
            "dev": layouts["train"].n_rows,
            "test": layouts["train"].n_rows + layouts["dev"].n_rows,
        }
        tasks = tuple(build_task(prop, seen, layouts, offsets) for prop in group)
        views.append(View(name or "text", seen, layouts, whole, tasks))
    return views


def splits_of(views: Sequence[View]) -> dict[str, dict[Split, Corpus]]:
    """Property -> the corpora as the model saw them for it."""
    return {task.property.name: view.splits for view in views for task in view.tasks}


def plan(
    views: Sequence[View], models: Sequence[Subject], places: Sequence[str], config: ProbeConfig
) -> dict[str, int]:
    """Say beforehand what is held and what is stored; refuse a disk without room.

    On disk rows x width x 4 bytes a site, for each model. In memory one layer at a time with its standardised copy, and
    what a joint solve keeps for each training row and each column, a class of a target: logits, and for the curvature
    probabilities twice.
    """
    out, width = config.out, max(models[0].d_model, 1)
    rows = sum(view.layout.n_rows for view in views)
    one_layer = max(view.layout.n_rows for view in views) * width * 4
    disk = rows * width * 4 * len(places) * len(models)
    labels = [t.parts["train"].labels for v in views for t in v.tasks if t.property.kind == "class"]
    columns = [min(len(set(y)) * (1 + config.control_seeds), MAX_COLUMNS) for y in labels]
    solve = max((len(y) * c * 4 for y, c in zip(labels, columns, strict=True)), default=0)
    held = 3 * one_layer + 3 * solve
    screen.say(
        f"plan: {rows:,} words x {width} dimensions x {len(places)} sites x {len(models)} models: "
        f"{disk / 1e9:.2f} GB on disk, {held / 1e9:.2f} GB in memory at a time (beside the model)"
    )
    free = shutil.disk_usage(out).free
    done = sum(f.stat().st_size for f in out.glob("features/*/*.safetensors"))
    if disk - done > free:
        raise RunError(
            f"--out {out}: the features need {(disk - done) / 1e9:.2f} GB on disk, {free / 1e9:.2f} GB are free there: "
            "choose another folder, fewer sentences or fewer sites"
        )
    return {"held_bytes": held, "disk_bytes": disk}


def _extract_all(
    config: ProbeConfig,
    models: Sequence[Subject],
    views: Sequence[View],
    places: Sequence[str],
    key: str,
    folder: RunFolder,
) -> dict[tuple[int, str], ActivationStore]:
    stores = {}
    with screen.progress() as bars:
        for number, subject in enumerate(models):
            for view in views:
                name = "model" if number == 0 else f"random-{number - 1}"
                label = view.name.replace(":", "_")
                store = ActivationStore(folder.path / "features" / f"{name}-{label}", f"{key}-{name}-{label}")
                stores[number, view.name] = store
                bar = bars.add_task(f"features of the {name.replace('-', ' ')}", total=len(view.layout.encoded))
                try:
                    extract(
                        subject,
                        view.layout,
                        places,
                        store,
                        pooling=config.pooling,  # type: ignore[arg-type]
                        batch_tokens=config.batch_tokens,
                        advance=lambda n, bar=bar: bars.advance(bar, n),
                    )
                except FeatureError as error:
                    raise FeatureError(f"{name}: {error}") from None
    return stores


def _probe_all(
    config: ProbeConfig,
    subject: Subject,
    views: Sequence[View],
    places: Sequence[str],
    stores: dict[tuple[int, str], ActivationStore],
    folder: RunFolder,
) -> list[Cell]:
    cells: list[Cell] = []
    with screen.progress() as bars:
        bar = bars.add_task("probes", total=len(places) * len(views))
        for view in views:
            for site in places:
                name = f"{view.name}-{site}".replace(":", "_").replace("/", "_")
                saved = folder.cell(name)
                if saved is None:
                    features = [
                        stores[i, view.name].read(site, view.layout.n_rows) for i in range(1 + config.random_models)
                    ]
                    keep = partial(save_probe, config.out / "probes", subject, site, config.pooling)
                    found = score_cell(site, view.tasks, features, config, keep)
                    saved = [cell.to_json() for cell in found]
                    folder.save_cell(name, saved)
                    del features
                cells += [Cell.from_json(record) for record in saved]
                bars.advance(bar)
    return cells


def _describe(split: Split, corpus: Corpus, view: View) -> dict[str, Any]:
    return {
        "split": split,
        "path": str(corpus.path),
        "sha256": corpus.sha256,
        "sentences": len(corpus),
        "words": corpus.n_words,
        "used_words": view.layouts[split].n_rows,
    }
