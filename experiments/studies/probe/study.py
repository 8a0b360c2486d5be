"""The layer-wise probing study: where in the model can a property be read, and is the reading more
than memory?

One pass of the model stores every word's vector at every layer (`experiments.features.layout`);
then, layer by layer, all probes that share the vectors are solved together (`probes.fit_many`),
scored on held-out sentences, and compared with control tasks, baselines and a random-weight model.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import torch

from ....hooks import ActivationStore
from ....probes.fit import Fit
from ...corpus import Corpus, Split
from ...corpus.items import item_properties, read_items
from ...corpus.splits import Reader, read_sentences, read_splits
from ...features.layout import FeatureError, extract
from ...features.memory import Need, as_limit, site_widths
from ...features.sites import EMBEDDING, study_sites
from ...features.stored import Features, open_store, store_data, stored
from ...metrics.probe_metric import save_probe
from ...metrics.usable import usable_items
from ...report.schema import Note
from ...report.words import size
from ...runs import console
from ...runs.execute import Cost, DataFile, Inputs, Load, Run, execute, with_device
from ...runs.folder import RunError, file_name, free_bytes
from ...runs.shared_options import media_of
from ...subject import Subject
from ...subject.media import checker
from ...subject.twin import require_configured
from ...tasks.memory import Fits, Solve
from ...tasks.properties import get_property
from ...tasks.task import Part, Task, Vectors
from ...tasks.views import PLAIN, SentencePooling, View, build_views
from .across import Stores, across_layers
from .calibration import keep_predictions, with_calibration
from .options import ProbeOptions, table_of
from .records import Results
from .scoring import Cell, score_cell
from .seeds import over_seeds
from .summary import summarise
from .trees import TOGETHER

FLOAT32_BYTES = 4
INDEX_BYTES = 200
"""Of a row's places in the store and in the layout, as Python holds them."""


@dataclass(frozen=True)
class Plan:
    """How the study runs, chosen so that it fits: what was chosen holds until the run is finished.

    Args:
        held_bytes: of this process at its peak.
        disk_bytes: features and temporary files.
        batch_tokens: tokens of a batch.
        hold: see `tasks.memory.Fits`.
        added_bytes: what of ``held_bytes`` is not held yet.
    """

    text: str
    held_bytes: int
    disk_bytes: int
    batch_tokens: int
    hold: int | None
    added_bytes: int

    @property
    def record(self) -> dict[str, int | None]:
        """What the provenance holds, and what an interrupted run goes on with."""
        names = ("held_bytes", "disk_bytes", "batch_tokens", "hold")
        return {name: getattr(self, name) for name in names}


@dataclass(kw_only=True)
class ProbeInputs(Inputs):
    """Sentences, sites and tasks.

    Args:
        places: sites in the model's order, the embedding layer first.
        views: the texts as the properties need them, with their tasks.
        notes: what was drawn and dropped.
    """

    options: ProbeOptions
    places: Sequence[str]
    views: Sequence[View]
    notes: Sequence[Note]

    @property
    def tasks(self) -> list[Task]:
        """One a property."""
        return [task for view in self.views for task in view.tasks]

    @property
    def splits(self) -> dict[str, dict[Split, Corpus]]:
        """Property -> the corpora as the model sees them for it."""
        return {task.property.name: view.splits for view in self.views for task in view.tasks}

    @property
    def n_models(self) -> int:
        """The model, and its random-weight models."""
        return 1 + self.options.random_models

    def model(self, number: int) -> Subject:
        """The model, or one of the random-weight models of the same shape:
        they are drawn when they are asked for.
        """
        if number == 0:
            return self.subject
        return self.subject.random_twin(self.options.seed + number - 1)

    @cached_property
    def plan(self) -> Plan:
        """Memory and disk; see `plan_of`."""
        return plan_of(self.views, self.subject, self.places, self.options)


def prepare(options: ProbeOptions, load: Load) -> ProbeInputs:
    """The sentences, the properties' tasks, and the body of the model."""
    media = media_of(options)
    subject: Subject | None = None
    left_out: list[Note] = []
    read: Reader = read_sentences
    if media is not None:
        # Before the tables: which of their files it can be given is the model's to say.
        subject = load(body_only=True, media=media)
        read = partial(_read_table, subject, options.skip, left_out)
    splits, notes = read_splits(
        table_of(options), options.dev, options.test, options.sample, options.seed, read
    )
    names = options.property or item_properties(splits["train"])
    properties = [get_property(name, splits["train"]) for name in dict.fromkeys(names)]
    subject = subject or load(body_only=True)
    places = study_sites(subject, options.site)
    pooling = cast(SentencePooling, options.sentence_pooling)
    if media is not None:
        text = "in this report, a word is an item (a line of the table) and a sentence is a file"
        notes.append({"kind": "info", "text": text})
    if options.random_models:
        require_configured(subject.model)
    views = build_views(subject, splits, properties, options.seed, pooling)
    data = [_data_file(split, corpus, views) for split, corpus in splits.items()]
    data += store_data(options.store)
    if options.store is not None:
        text = f"features of {subject.name} read from {options.store}, where no text is rewritten"
        notes.append({"kind": "info", "text": text})
    return ProbeInputs(
        options=options,
        subject=subject,
        data=data,
        places=places,
        views=views,
        notes=[
            *left_out,
            *(note for view in views for note in view.notes),
            *(Note(**note) for note in notes),
        ],
    )


def _read_table(
    subject: Subject, allowed: float, notes: list[Note], path: Path
) -> Corpus | dict[Split, Corpus]:
    """The items of a table that the model can be given; ``notes`` says what was left out."""
    corpus, of_table = usable_items(path, read_items, checker(subject), allowed)
    notes += of_table
    return corpus


def _data_file(split: Split, corpus: Corpus, views: Sequence[View]) -> DataFile:
    facts = {"words": corpus.n_words}
    for view in views:
        if view.name == PLAIN:
            facts["used_words"] = view.layouts[split].n_rows
    return DataFile(split, str(corpus.path), corpus.sha256, len(corpus), facts)


def cost(inputs: ProbeInputs) -> Cost:
    """Features on disk, and the larger of a batch and a site's probes in memory."""
    plan = inputs.plan
    return Cost(plan.text, plan.added_bytes, plan.disk_bytes)


def measure(inputs: ProbeInputs, run: Run) -> Results:
    """Features, probes and their statistics.

    Also writes the probes of classes, ``probes/PROPERTY/SITE.safetensors``, and with
    ``calibration`` their predictions, ``predictions/PROPERTY/SITE.npz``. Interrupted, it continues
    with the first batch and the first layer that are missing, and gives the same numbers.
    """
    options, views, places = inputs.options, inputs.views, inputs.places
    # Kept with the run: batches and solves are as large when it is resumed on a machine with other
    # memory, and so give the same bits.
    run.memory = run.folder.kept("memory", lambda: inputs.plan.record)
    with run.timed("features"):
        stores = _all_features(inputs, run)
    with run.timed("probes"):
        assert inputs.subject is not None
        there = with_device(options, inputs.subject)
        cells = _probe_all(inputs, there, run, stores)
        across = across_layers(there, views, places, stores, run.folder, cells)
    with run.timed("statistics"):
        results = summarise(cells, inputs.tasks, inputs.splits, options)
        if options.calibration:
            results = with_calibration(results, options.out, options.seed)
    results = across.added_to(results)
    results = dataclasses.replace(results, notes=[*results.notes, *inputs.notes])
    if options.seeds > 1:
        results = over_seeds(
            options, results, lambda other: run.study.read(execute(run.study, other))
        )
    if not options.keep_features:
        shutil.rmtree(options.out / "features", ignore_errors=True)
    return results


# -- memory and disk


def plan_of(
    views: Sequence[View], subject: Subject, places: Sequence[str], options: ProbeOptions
) -> Plan:
    """What is held and what is stored.

    On disk rows x width x 4 bytes a site, for each model. In memory a batch of the model's, then
    one site at a time of each model, and what a joint solve makes of it (`tasks.memory.Fits`).

    Raises:
        RunError: a disk without room, or memory that is not allowed.
    """
    ram, n_models = as_limit(options.max_ram), 1 + options.random_models
    widths = site_widths(subject, places)
    width = max(widths.values())
    need = Need.of(subject, widths, torch.float32)
    if options.random_models:  # one at a time stands beside the model
        weights = sum(p.numel() * p.element_size() for p in subject.model.parameters())
        need = replace(need, resident=need.resident + weights)

    # The forwards of the texts that no store has.
    to_compute = _to_compute(views, n_models, options)
    batch_tokens = need.batch_tokens(options.batch_tokens, ram if to_compute else None, 0.0)
    for view in to_compute:
        need.check(view.layout, ram)
    disk = sum(view.layout.n_rows for view in to_compute) * need.row

    # The solves, which are done when the forwards are.
    n_rows = [view.layout.n_rows for view in views]
    one_site = max(n_rows) * width * FLOAT32_BYTES
    indexed = sum(n_rows)
    if options.store is not None:
        indexed += open_store(options.store).n_rows
    before = need.resident + INDEX_BYTES * indexed
    of_options = _of_options(options, one_site, len(places))
    optional = {name: n_bytes for name, n_bytes in of_options.items() if n_bytes}
    solves: list[Solve] = []
    for view in views:
        solves += Solve.of(view.tasks, width, options.control_seeds)
    fits = Fits.plan(before, one_site, n_models, solves, optional, ram)

    # The two come one after the other: the larger one counts.
    memory = max(fits.memory, need.memory(batch_tokens) if to_compute else 0)
    _check_disk(options, disk + fits.disk)
    counts = f"{sum(n_rows):,} words x {width} dimensions x {len(places)} sites x {n_models} models"
    stored = f"{counts}: {size(disk)} on disk"
    if to_compute:
        stored += f", batches of {batch_tokens:,} tokens"
    in_all = f"{size(memory)} in all, {size(need.resident)} of it already in use"
    limits = [task.limits() for view in views for task in view.tasks]
    lines = [stored, fits.line(), in_all, *limits]
    text = "; ".join(line for line in lines if line)
    return Plan(text, memory, disk + fits.disk, batch_tokens, fits.hold, memory - need.resident)


def _to_compute(views: Sequence[View], n_models: int, options: ProbeOptions) -> list[View]:
    """A view for each model that must run on it."""
    to_compute = []
    for view in views:
        for number in range(n_models):
            if not is_stored(view, number, options):
                to_compute.append(view)
    return to_compute


def _of_options(options: ProbeOptions, one_site: int, places: int) -> dict[str, int]:
    """Bytes that options take beside the probes, by option.

    Args:
        one_site: bytes of a site's vectors.
    """
    return {
        # both layers and their standardised copy
        "--information": 5 * one_site * options.information,
        "--code-length": 2 * one_site * options.code_length,
        "--structural": 2 * one_site * min(TOGETHER, places) * bool(options.structural),
        "--scalar-mix": 3 * one_site * places * options.scalar_mix,
    }


def _check_disk(options: ProbeOptions, disk: int) -> None:
    """Refuse a disk without room for what is not there yet."""
    free = free_bytes(options.out)
    written = sum(file.stat().st_size for file in options.out.glob("features/*/*.safetensors"))
    if disk - written > free:
        raise RunError(
            f"--out {options.out}: the features need {size(disk - written)} on disk, "
            f"{size(free)} are free there: choose another folder, "
            "fewer sentences or fewer sites"
        )


# -- features


def is_stored(view: View, number: int, options: ProbeOptions) -> bool:
    """Whether a view's features of a model, the first or a random one, come from ``--store``.

    The store holds what the model itself made of the text as it stands.
    """
    return options.store is not None and number == 0 and view.name == PLAIN


def _all_features(inputs: ProbeInputs, run: Run) -> Stores:
    """Of every model and view, read or made."""
    options = inputs.options
    features = {}
    for number in range(inputs.n_models):
        # One random model at a time is in memory, beside the model itself.
        subject = inputs.model(number)
        for view in inputs.views:
            if options.store is not None and is_stored(view, number, options):
                corpora, pooling = view.splits.values(), options.pooling
                features[number, view.name] = stored(
                    options.store, subject, corpora, view.layout, inputs.places, pooling
                )
            else:
                features[number, view.name] = _extracted(inputs, run, number, subject, view)
        del subject  # before the next one is drawn
    return features


def _extracted(
    inputs: ProbeInputs, run: Run, number: int, subject: Subject, view: View
) -> Features:
    """Features that one of the models makes of one view."""
    name = "model" if number == 0 else f"random-{number - 1}"
    label = file_name(view.name)
    about = {"run": run.key, "model": name, "text": label}
    store = ActivationStore(
        run.folder.path / "features" / f"{name}-{label}", about, dtype=torch.float32
    )
    with console.progress() as bars:
        bar = bars.add_task(
            f"features of the {name.replace('-', ' ')}", total=len(view.layout.encoded)
        )
        try:
            extract(
                subject,
                view.layout,
                inputs.places,
                store,
                pooling=cast(Any, inputs.options.pooling),
                batch_tokens=run.memory["batch_tokens"],
                advance=lambda texts: bars.advance(bar, texts),
            )
        except FeatureError as error:
            raise FeatureError(f"{name}: {error}") from None
    return Features(store)


# -- probes


def _probe_all(inputs: ProbeInputs, options: ProbeOptions, run: Run, stores: Stores) -> list[Cell]:
    """All properties at all sites; sites that are done are not probed again."""
    # A solve needs no weights; without them it can run in another process.
    subject, views = inputs.subject.without_model(), inputs.views
    names = {}
    for number, view in enumerate(views):
        for site in inputs.places:
            names[number, site] = f"{view.name}-{site}"
    cells_of = {place: run.folder.cell(name) for place, name in names.items()}
    missing = [place for place, cells in cells_of.items() if cells is None]
    work = partial(_probe, options, subject, views, stores, run.memory["hold"])
    with console.progress() as bars:
        bar = bars.add_task("probes", total=len(names), completed=len(names) - len(missing))
        for place, cells in run.engine.map(work, missing, lambda n: bars.advance(bar, n)):
            run.folder.save_cell(names[place], cells)
            cells_of[place] = cells
    # In the order of the views and sites, whichever was done first.
    all_cells = []
    for cells in cells_of.values():
        all_cells += [Cell.from_json(record) for record in cells or ()]
    return all_cells


def _probe(
    options: ProbeOptions,
    subject: Subject,
    views: Sequence[View],
    stores: Stores,
    hold: int | None,
    place: tuple[int, str],
    advance: Callable[[int], object],
) -> list[dict[str, Any]]:
    """All properties of one view at one site."""
    number, site = place
    view = views[number]
    features = [
        stores[i, view.name].load(site, hold, options.out) for i in range(1 + options.random_models)
    ]
    embedding = None
    if options.information and site != EMBEDDING:
        embedding = stores[0, view.name].read(EMBEDDING)
    cells = score_cell(
        site, view.tasks, features, options, partial(_keep, options, subject, site), embedding
    )
    advance(1)
    return [cell.to_json() for cell in cells]


def _keep(
    options: ProbeOptions,
    subject: Subject,
    site: str,
    name: str,
    fit: Fit,
    parts: Mapping[Split, Part],
    dev: Vectors,
    test: Vectors,
) -> None:
    """Write a probe and, where they are asked for, its predictions."""
    save_probe(options.out / "probes", subject, site, options.pooling, name, fit)
    if options.calibration:
        keep_predictions(options.out, site, name, fit, parts, dev, test)
