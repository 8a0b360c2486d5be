"""What a study asks of all layers together: scalar mixes and structural probes,
each kept as soon as it is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from ...corpus import SPLITS, Split
from ...features.sites import layer_of
from ...features.stored import Features
from ...report.schema import Finding, Note, from_json
from ...runs import console
from ...runs.folder import RunFolder
from ...sweep.sweep import runs
from ...tasks.task import Task
from ...tasks.views import PLAIN, View
from .mixes import mix_finding, mix_records
from .options import ProbeOptions
from .records import MixRecord, Results, TreeRecord
from .scoring import Cell
from .trees import TOGETHER, Trees, chain_scores, tree_finding, tree_scores_of

APART = 0.1
"""Share of a dev loss by which two trainings may differ before a note says so."""
Stores = Mapping[tuple[int, str], Features]
"""Number of the model (0 the real one) and name of the view -> features."""


@dataclass
class Across:
    """What is added to the results; empty where nothing was asked for."""

    mixes: list[MixRecord] = field(default_factory=list)
    trees: list[TreeRecord] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def added_to(self, results: Results) -> Results:
        """The results with these lists."""
        return replace(
            results,
            mixes=self.mixes,
            trees=self.trees,
            findings=[*results.findings, *self.findings],
            notes=[*results.notes, *self.notes],
        )


def across_layers(
    options: ProbeOptions,
    views: Sequence[View],
    places: Sequence[str],
    stores: Stores,
    folder: RunFolder,
    cells: Sequence[Cell] = (),
) -> Across:
    """Scalar mixes and structural probes, where they were asked for.

    Args:
        cells: the probes of single sites, which mixes are compared with.
    """
    out = Across()
    if options.scalar_mix:
        for view in views:
            _add_mixes(out, options, view, places, stores, folder, cells)
    if options.structural:
        _add_trees(out, options, views, places, stores, folder)
    return out


def _add_mixes(
    out: Across,
    options: ProbeOptions,
    view: View,
    places: Sequence[str],
    stores: Stores,
    folder: RunFolder,
    cells: Sequence[Cell],
) -> None:
    saved = folder.kept(f"mix-{view.name}", lambda: _mix(options, view, places, stores, cells))
    records = [from_json(MixRecord, record) for record in saved]
    out.mixes += records
    out.findings += [
        Finding(property=record.property, text=mix_finding(record)) for record in records
    ]
    late = [record.property for record in records if not record.stationary]
    if late:
        out.notes.append(
            Note(kind="warning", text=f"scalar mixes not stationary: {', '.join(late)}")
        )


def _mix(
    options: ProbeOptions, view: View, places: Sequence[str], stores: Stores, cells: Sequence[Cell]
) -> list[MixRecord]:
    single = {
        task.property.name: right
        for task in view.tasks
        if (right := _best_single(task, cells)) is not None
    }
    features = [stores[0, view.name].read(site) for site in places]
    with console.progress() as bars:
        bar = bars.add_task("scalar mixes")
        return mix_records(
            view.tasks,
            features,
            places,
            options.seed,
            lambda done, of: bars.update(bar, completed=done, total=of),
            single,
        )


def _best_single(task: Task, cells: Sequence[Cell]) -> np.ndarray | None:
    """Whether the probe of a property's best site is right on each test item; None for numbers."""
    if task.property.kind == "number":
        return None
    gold = np.array([str(label) for label in task.parts["test"].labels], dtype=object)
    of_task = [cell for cell in cells if cell.property == task.property.name]
    rights = [(np.array(cell.predicted, dtype=object) == gold).astype(float) for cell in of_task]
    return max(rights, key=lambda right: right.mean(), default=None)


def _add_trees(
    out: Across,
    options: ProbeOptions,
    views: Sequence[View],
    places: Sequence[str],
    stores: Stores,
    folder: RunFolder,
) -> None:
    view = next((view for view in views if view.name == PLAIN), None)
    if view is None:
        text = (
            "structural probes skipped: they need at least one property that is read from the "
            "unchanged text"
        )
        out.notes.append(Note(kind="skipped", text=text))
        return
    splits: dict[Split, Trees] = {}
    for split in SPLITS:
        splits[split] = Trees.of(view.splits[split], view.layouts[split], view.offsets[split])
    empty = [split for split, trees in splits.items() if not trees.rows]
    if empty:
        text = (
            f"structural probes skipped: no sentence of {', '.join(empty)} has two words with "
            "vectors and exactly one root"
        )
        out.notes.append(Note(kind="skipped", text=text))
        return
    for split, trees in splits.items():
        if trees.dropped:
            what = "sentences left out (one word, not exactly one root, or a word without tokens)"
            out.notes.append(Note(kind="dropped", text=f"tree: {trees.dropped} {split} {what}"))
    out.trees = _trees(options, view, splits, places, stores, folder)
    moving = [record.site for record in out.trees if not record.stationary]
    if moving:
        text = (
            f"tree: structural probes not stationary (more training would lower their loss) at "
            f"{', '.join(moving)}"
        )
        out.notes.append(Note(kind="warning", text=text))
    apart = [record.site for record in out.trees if (record.apart or 0.0) > APART]
    if apart:
        text = (
            f"tree: trainings at two rates end more than {APART:.0%} apart in dev loss at "
            f"{', '.join(apart)}; the better one is kept, and a still better one may exist"
        )
        out.notes.append(Note(kind="warning", text=text))
    if not options.random_models:
        text = "tree: random-weight model skipped: the comparison with it is not supported"
        out.notes.append(Note(kind="skipped", text=text))
    out.findings.append(Finding(property="tree", text=tree_finding(out.trees)))


def _trees(
    options: ProbeOptions,
    view: View,
    splits: Mapping[Split, Trees],
    places: Sequence[str],
    stores: Stores,
    folder: RunFolder,
) -> list[TreeRecord]:
    """One record a site; each group of sites is kept as soon as it is there."""
    models = range(1 + bool(options.random_models))
    scores: list[list[dict[str, Any]]] = [[] for _ in models]
    with console.progress() as bars:
        bar = bars.add_task("structural probes", total=len(places) * len(models))
        for model in models:
            # Sites that are trained together share each step's overhead; how many fit is a matter
            # of memory.
            for sites in runs(places, TOGETHER):
                read = stores[model, view.name].read
                make = partial(
                    tree_scores_of, splits, read, sites, options.structural, options.seed
                )
                scores[model] += folder.kept(f"trees-{model}-{sites[0]}", make)
                bars.advance(bar, len(sites))
    chain = chain_scores(splits["test"], options.seed)
    records = []
    for place, of_site in enumerate(scores[0]):
        random = scores[1][place] if options.random_models else {}
        fields = {
            **of_site,
            "layer": layer_of(of_site["site"], place),
            "chain_uuas": chain["uuas"],
            "chain_root": chain["root_accuracy"],
            "chain_spearman": chain["distance_spearman"],
            "random_uuas": random.get("uuas"),
            "random_root": random.get("root_accuracy"),
        }
        records.append(from_json(TreeRecord, fields))
    return records
