"""The layer-wise probing study: where in the model can a property be read, and is the reading more than memory?

One pass of the model stores every word's vector at every layer (`experiments.features.layout`); then, layer by layer, all
probes that share the vectors are solved together (`probes.fit_many`), scored on held-out sentences, and set beside
control tasks, baselines and a random-weight model.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from ....hooks import ActivationStore
from ....probes.fit import Fit
from ... import forecast
from ...corpus import Corpus, Split
from ...corpus.splits import read_splits
from ...demo import demo_paths
from ...features.layout import FeatureError, extract
from ...features.memory import Need, as_limit, site_widths
from ...features.sites import EMBEDDING, study_sites
from ...features.stored import Features, open_store, stored
from ...metrics.probe_metric import save_probe
from ...runs import console
from ...runs.execute import Run
from ...runs.folder import RunError, RunFolder, digest, file_name, free_bytes
from ...subject import Subject
from ...tasks.memory import Fits, Solve
from ...tasks.properties import get_property
from ...tasks.task import Part, Vectors
from ...tasks.views import PLAIN, SentencePooling, View, build_views
from .across import across_layers
from .calibration import add_calibration, keep_predictions
from .options import ProbeOptions
from .scoring import Cell, score_cell
from .seeds import over_seeds
from .summary import summarise
from .trees import TOGETHER


def demo_config(out: Path) -> ProbeOptions:
    """The embedded study: part of speech and dependency relation in the embedded model."""
    paths = demo_paths()
    return ProbeOptions(
        model=str(paths.model),
        corpus=paths.train,
        dev=paths.dev,
        test=paths.test,
        property=("upos", "deprel"),
        sample=800,
        l2=(10.0,),
        control_seeds=3,
        out=out,
    )


def run(config: ProbeOptions) -> dict[str, Any]:
    """Run or continue a study; returns what ``results.json`` holds.

    Writes ``config.json``, ``results.json``, ``report.html`` and the probes of classes, ``probes/PROPERTY/SITE.safetensors``,
    to ``config.out``; with ``calibration`` also their predictions, ``predictions/PROPERTY/SITE.npz``. Interrupted, it continues with the
    first batch and the first layer that are missing, and gives the same numbers.

    Raises:
        ValueError, LookupError, OSError: bad input, each one clear line.
    """
    this = Run("probe", config)
    splits, notes = read_splits(config.corpus, config.dev, config.test, config.sample, config.seed)
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
                text = f"{task.property.name}: {task.n_dropped} items dropped: their words have no tokens (truncated)"
                notes.append({"kind": "dropped", "text": text})
    models = [subject, *(subject.random_twin(config.seed + i) for i in range(config.random_models))]
    text, memory = plan(views, models, places, config)
    cost = {"held": memory.pop("beside_bytes"), "disk": memory["disk_bytes"], "besides": "the probes"}
    if (
        planned := this.plan(text, **cost, seconds=lambda: config.seeds * _forwards(views, models, config))
    ) is not None:
        return planned
    memory = this.folder.kept("memory", lambda: memory)  # what was chosen holds until the run is finished
    if config.store is not None:
        text = f"features of {subject.name} read from {config.store}, where no text is rewritten"
        notes.append({"kind": "info", "text": text})

    seconds = {"features": 0.0, "probes": 0.0}
    mark = time.perf_counter()
    chosen = dataclasses.replace(config, batch_tokens=memory["batch_tokens"])
    stores = _all_features(chosen, models, views, places, digest(this.identity), this.folder)
    seconds["features"] = time.perf_counter() - mark
    mark = time.perf_counter()
    cells = _probe_all(this, views, places, stores, memory["hold"])
    across = across_layers(config, views, places, stores, this.folder)
    seconds["probes"] = time.perf_counter() - mark

    mark = time.perf_counter()
    results = summarise(cells, [task for view in views for task in view.tasks], splits_of(views), config)
    if config.calibration:
        add_calibration(results, config.out, config.seed)
    seconds["statistics"] = time.perf_counter() - mark
    results |= {"mixes": across["mixes"], "trees": across["trees"]}
    results["findings"] += across["findings"]
    results["notes"] += [*across["notes"], *notes]
    if config.seeds > 1:
        over_seeds(config, results, run)
    results = this.finish(
        results,
        data=[_describe(split, corpus, views) for split, corpus in splits.items()],
        timings={k: round(v, 1) for k, v in seconds.items()},
        memory=memory,
    )
    if not config.keep_features:
        shutil.rmtree(config.out / "features", ignore_errors=True)
    return results


def splits_of(views: Sequence[View]) -> dict[str, dict[Split, Corpus]]:
    """Property -> the corpora as the model saw them for it."""
    return {task.property.name: view.splits for view in views for task in view.tasks}


def plan(
    views: Sequence[View], models: Sequence[Subject], places: Sequence[str], config: ProbeOptions
) -> tuple[str, dict[str, Any]]:
    """What is held and what is stored, in words and bytes; refuse a disk without room, and memory that is not allowed.

    On disk rows x width x 4 bytes a site, for each model. In memory a batch of the model's, then one site at a time of each
    model, and what a joint solve makes of it (`memory.Fits`).
    """
    out, ram = config.out, as_limit(config.max_ram)
    widths = site_widths(models[0], places)
    width, rows = max(widths.values()), sum(view.layout.n_rows for view in views)
    need = Need.of(models[0], widths, torch.float32)
    made = [v for v in views for number in range(len(models)) if not is_stored(v, number, config)]
    batch_tokens = need.batch_tokens(config.batch_tokens, ram if made else None, 0.0)
    for view in made:
        need.check(view.layout, ram)
    disk = sum(v.layout.n_rows for v in made) * need.row
    one_site = max(view.layout.n_rows for view in views) * width * 4
    options = {
        "--information": 5 * one_site
        if config.information
        else 0,  # both layers side by side with their standardised copy
        "--code-length": 2 * one_site if config.code_length else 0,
        "--structural": 2 * one_site * min(TOGETHER, len(places)) if config.structural else 0,
        "--scalar-mix": 3 * one_site * len(places) if config.scalar_mix else 0,
    }
    solves = [solve for view in views for solve in Solve.of(view.tasks, width, config.control_seeds)]
    index = 200 * (rows if config.store is None else open_store(config.store).n_rows + rows)
    fits = Fits.plan(need.held + index, one_site, len(models), solves, {k: v for k, v in options.items() if v}, ram)
    held = max(fits.memory, need.memory(batch_tokens) if made else 0)
    text = (
        f"{rows:,} words x {width} dimensions x {len(places)} sites x {len(models)} models: {disk / 1e9:.2f} GB on disk"
        + (f", batches of {batch_tokens:,} tokens" if made else "")
        + f"; {fits.line()}; {held / 1e9:.2f} GB in all, {need.held / 1e9:.2f} GB of it held already"
    )
    free = free_bytes(out)
    done = sum(f.stat().st_size for f in out.glob("features/*/*.safetensors"))
    if disk + fits.disk - done > free:
        raise RunError(
            f"--out {out}: the features need {(disk + fits.disk - done) / 1e9:.2f} GB on disk, {free / 1e9:.2f} GB are free "
            "there: choose another folder, fewer sentences or fewer sites"
        )
    chosen = {"batch_tokens": batch_tokens, "hold": fits.hold, "beside_bytes": held - need.held}
    return text, {"held_bytes": held, "disk_bytes": disk + fits.disk, **chosen}


def _forwards(views: Sequence[View], models: Sequence[Subject], config: ProbeOptions) -> float:
    """Seconds of the passes that are not read from a store."""
    passes = [
        (sum(not is_stored(view, number, config) for number in range(len(models))), view.layout.encoded)
        for view in views
    ]
    return sum(
        times * forecast.pass_seconds(models[0], encoded, config.batch_tokens) for times, encoded in passes if times
    )


def is_stored(view: View, number: int, config: ProbeOptions) -> bool:
    """Whether a view's features of a model, the first or a random one, come from ``--store``: no rewritten text's do."""
    return config.store is not None and number == 0 and view.name == PLAIN


def _all_features(
    config: ProbeOptions,
    models: Sequence[Subject],
    views: Sequence[View],
    places: Sequence[str],
    key: str,
    folder: RunFolder,
) -> dict[tuple[int, str], Features]:
    found = {}
    pooling: Any = config.pooling
    with console.progress() as bars:
        for number, subject in enumerate(models):
            for view in views:
                if config.store is not None and is_stored(view, number, config):
                    corpora = view.splits.values()
                    found[number, view.name] = stored(config.store, subject, corpora, view.layout, places, pooling)
                    continue
                name = "model" if number == 0 else f"random-{number - 1}"
                label = file_name(view.name)
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
    this: Run,
    views: Sequence[View],
    places: Sequence[str],
    stores: dict[tuple[int, str], Features],
    hold: int | None,
) -> list[Cell]:
    subject = cast(Subject, this.subject).without_model()
    wanted = [(number, site) for number in range(len(views)) for site in places]
    found = {cell: this.folder.cell(_cell_name(views, *cell)) for cell in wanted}
    missing = [cell for cell, saved in found.items() if saved is None]
    with console.progress() as bars:
        bar = bars.add_task("probes", total=len(wanted), completed=len(wanted) - len(missing))
        work = partial(_probe, this.config, subject, views, stores, hold)
        for cell, saved in this.engine.map(work, missing, lambda n: bars.advance(bar, n)):
            this.folder.save_cell(_cell_name(views, *cell), saved)
            found[cell] = saved
    return [Cell.from_json(record) for saved in found.values() for record in saved or ()]


def _cell_name(views: Sequence[View], number: int, site: str) -> str:
    return f"{views[number].name}-{site}"


def _probe(
    config: ProbeOptions,
    subject: Subject,
    views: Sequence[View],
    stores: dict[tuple[int, str], Features],
    hold: int | None,
    cell: tuple[int, str],
    advance: Callable[[int], object],
) -> list[dict[str, Any]]:
    """All properties of one text at one site."""
    (number, site), wide = cell, config.information
    view = views[number]
    features = [stores[i, view.name].load(site, hold, config.out) for i in range(1 + config.random_models)]
    below = stores[0, view.name].read(EMBEDDING) if wide and site != EMBEDDING else None
    found = score_cell(site, view.tasks, features, config, partial(_keep, config, subject, site), below)
    advance(1)
    return [cell.to_json() for cell in found]


def _keep(
    config: ProbeOptions,
    subject: Subject,
    site: str,
    name: str,
    fit: Fit,
    parts: Mapping[Split, Part],
    dev: Vectors,
    test: Vectors,
) -> None:
    """Write a probe and, where they are asked for, its predictions."""
    save_probe(config.out / "probes", subject, site, config.pooling, name, fit)
    if config.calibration:
        keep_predictions(config.out, site, name, fit, parts, dev, test)


def _describe(split: Split, corpus: Corpus, views: Sequence[View]) -> dict[str, Any]:
    of_words = [view.layouts[split].n_rows for view in views if view.name == PLAIN]
    return {
        "split": split,
        "path": str(corpus.path),
        "sha256": corpus.sha256,
        "sentences": len(corpus),
        "words": corpus.n_words,
        **({"used_words": of_words[0]} if of_words else {}),
    }
