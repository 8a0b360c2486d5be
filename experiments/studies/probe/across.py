"""What a study asks of all layers together: scalar mixes and structural probes, each kept as soon as it is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ...corpus import SPLITS, Split
from ...features.sites import layer_of
from ...features.stored import Features
from ...runs import console
from ...runs.folder import RunFolder
from ...sweep.sweep import runs
from ...tasks.views import View
from .mixes import mix_finding, mix_records
from .options import ProbeOptions
from .trees import TOGETHER, Trees, chain_scores, tree_finding, tree_records

Stores = Mapping[tuple[int, str], Features]


def across_layers(
    config: ProbeOptions, views: Sequence[View], places: Sequence[str], stores: Stores, folder: RunFolder
) -> dict[str, list[Any]]:
    """``mixes`` and ``trees`` as records, with their ``findings`` and ``notes``; empty where they were not asked for."""
    out: dict[str, list[Any]] = {"mixes": [], "trees": [], "findings": [], "notes": []}
    if config.scalar_mix:
        for view in views:
            found = folder.kept(f"mix-{view.name}", lambda view=view: _mix(config, view, places, stores))
            out["mixes"] += found
        out["findings"] += [{"property": r["property"], "text": mix_finding(r)} for r in out["mixes"]]
        late = [r["property"] for r in out["mixes"] if not r["converged"]]
        if late:
            out["notes"].append({"kind": "warning", "text": f"scalar mixes not converged: {', '.join(late)}"})
    if config.structural:
        view = next((v for v in views if v.name == "text"), None)
        if view is None:
            text = "structural probes skipped: they need a property of the text as it stands beside a rewritten one"
            out["notes"].append({"kind": "skipped", "text": text})
            return out
        splits: dict[Split, Trees] = {s: Trees.of(view.splits[s], view.layouts[s], view.offsets[s]) for s in SPLITS}
        if empty := [split for split, trees in splits.items() if not trees.rows]:
            text = (
                f"structural probes skipped: no sentence of {', '.join(empty)} has two words with vectors and one root"
            )
            out["notes"].append({"kind": "skipped", "text": text})
            return out
        out["trees"], notes = _trees(config, view, splits, places, stores, folder)
        out["notes"] += notes
        out["findings"].append({"property": "tree", "text": tree_finding(out["trees"])})
    return out


def _mix(config: ProbeOptions, view: View, places: Sequence[str], stores: Stores) -> list[dict[str, Any]]:
    features = [stores[0, view.name].read(site) for site in places]
    with console.progress() as bars:
        bar = bars.add_task("scalar mixes")
        return mix_records(
            view.tasks, features, places, config.seed, lambda done, of: bars.update(bar, completed=done, total=of)
        )


def _trees(
    config: ProbeOptions,
    view: View,
    splits: Mapping[Split, Trees],
    places: Sequence[str],
    stores: Stores,
    folder: RunFolder,
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Records and notes; each group of layers is kept as soon as it is there."""
    notes = [
        {
            "kind": "dropped",
            "text": f"tree: {trees.dropped} {split} sentences of one word, without one root, or with words without tokens",
        }
        for split, trees in splits.items()
        if trees.dropped
    ]
    found: list[list[dict[str, Any]]] = [[] for _ in range(1 + bool(config.random_models))]
    with console.progress() as bars:
        bar = bars.add_task("structural probes", total=len(places) * len(found))
        for i, records in enumerate(found):
            for some in runs(places, TOGETHER):
                make = partial(tree_records, splits, stores[i, view.name].read, some, config.structural, config.seed)
                records += folder.kept(f"trees-{i}-{some[0]}", make)
                bars.advance(bar, len(some))
    chain = chain_scores(splits["test"], config.seed)
    records = [
        {
            **own,
            "layer": layer_of(own["site"], i),
            "chain_uuas": chain["uuas"],
            "chain_root": chain["root_accuracy"],
            "chain_spearman": chain["distance_spearman"],
            "random_uuas": found[1][i]["uuas"] if len(found) > 1 else None,
            "random_root": found[1][i]["root_accuracy"] if len(found) > 1 else None,
        }
        for i, own in enumerate(found[0])
    ]
    late = [r["site"] for r in records if not r["converged"]]
    if late:
        notes.append({"kind": "warning", "text": f"tree: structural probes not converged at {', '.join(late)}"})
    if not config.random_models:
        notes.append({"kind": "skipped", "text": "tree: the random-weight model is not supported (none was asked for)"})
    return records, notes
