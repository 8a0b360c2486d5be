"""What a study of neurons found, as records, one sentence or two, and notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ....probes.evaluation import ClusterBootstrap, interval
from ....probes.sparse import BAND
from ...corpus.prompts import Item
from ...metrics.metrics import Metric
from ...sweep.components import Component
from ...sweep.effects import effect_records
from ...sweep.measure import Measured
from ...sweep.reading import LEVEL
from ...tasks.task import Task
from .options import NeuronsOptions
from .sets import ALONE, RANDOM, NeuronSet


def set_records(
    config: NeuronsOptions,
    sets: Sequence[NeuronSet],
    parts: Sequence[Component],
    effects: Float[np.ndarray, "sets prompts"],
    clean: Float[np.ndarray, " prompts"],
    clusters: Int[np.ndarray, " prompts"],
    metric: Metric,
    value: str,
    base: Mapping[str, float],
) -> list[dict[str, Any]]:
    """One record a ranked set and a neuron alone, each beside as many neurons drawn at random at its site."""
    boot, records = ClusterBootstrap(clusters, seed=config.seed), []
    for kind in ("sets", "neurons"):
        mine = [i for i, s in enumerate(sets) if s.source != RANDOM and (s.source == ALONE) == (kind == "neurons")]
        if not mine:
            continue
        found = Measured(effects[mine], clean, np.ones(len(mine), dtype=bool), {})
        some = [parts[i] for i in mine]
        made = effect_records(some, found, clean, clusters, metric, config.seed, value=value, baseline=base["value"])
        for i, record in zip(mine, made, strict=True):
            this = sets[i]
            drawn = effects[[j for j, s in enumerate(sets) if (s.site, s.source, s.k) == (this.site, RANDOM, this.k)]]
            size, means = abs(record["effect"]), drawn.mean(1)
            beyond = effects[i] - drawn.mean(0)
            gap = interval(float(beyond.mean()), boot.means(beyond[:, None])[:, 0])
            low, high = np.quantile(means, BAND)
            record |= {
                "component": kind,
                "index": this.neurons[0] if kind == "neurons" else None,
                "ranking": this.source,
                "k": this.k,
                "neurons": list(this.neurons),
                "null": float(means.mean()),
                "null_low": float(low),
                "null_high": float(high),
                "null_p": float((1 + (np.abs(means) >= size).sum()) / (1 + len(means))),
                "beyond": gap.value,
                "beyond_low": gap.low,
                "beyond_high": gap.high,
            }
        records += made
    return records


def join(records: Sequence[dict[str, Any]], table: Sequence[Mapping[str, Any]]) -> None:
    """What the first probe reads of each set, beside the set's effect."""
    first = table[0]["probe"]
    read = {(r["site"], r["ranking"], r["k"]): r["accuracy"] for r in table if r["probe"] == first}
    for record in records:
        if record["component"] == "sets":
            record["accuracy"] = read[record["site"], record["ranking"], record["k"]]


def finding(
    config: NeuronsOptions,
    name: str,
    metric: Metric,
    items: Sequence[Item],
    table: Sequence[Mapping[str, Any]],
    sites: Sequence[Mapping[str, Any]],
    records: Sequence[Mapping[str, Any]],
) -> str:
    """What the fewest neurons tell, and whether the model misses them."""
    mine = [r for r in table if r["probe"] == table[0]["probe"]]
    one = max((r for r in mine if r["k"] == 1), key=lambda r: r["accuracy"])
    about = next(s for s in sites if s["site"] == one["site"])
    sets = [r for r in records if r["value"] == config.value and r["component"] == "sets"]
    clear = [r for r in sets if r["q"] < LEVEL and r["null_p"] <= LEVEL]
    most = max(sets, key=lambda r: abs(r["beyond"]))
    first = next(r["neurons"][0] for r in sets if (r["site"], r["ranking"]) == (one["site"], one["ranking"]))
    text = (
        f"{name} is read best from one neuron at {one['site']}[{first}] ({one['ranking']}): accuracy {one['accuracy']:.3f} "
        f"(95% {one['low']:.3f}-{one['high']:.3f}; one at random {one['random']:.3f}, all {about['width']} "
        f"{about['whole'][one['probe']]:.3f}, most frequent class {about['majority']:.3f}). Taken out ({config.value}), "
        f"{len(clear)} of {len(sets)} sets change the {metric.name} at a false-discovery rate of {LEVEL:.0%} and more than "
        f"random sets do (n = {len(items)}); most beyond random: the first {most['k']} by {most['ranking']} at "
        f"{most['site']}, {most['effect']:+.3g} {metric.unit} (random {most['null_low']:+.3g} to {most['null_high']:+.3g})."
    )
    return text


def study_notes(
    config: NeuronsOptions, task: Task, sites: Sequence[Mapping[str, Any]], ranked_on: int
) -> list[dict[str, str]]:
    """What was left out, cut short or not converged."""
    notes = []
    if task.n_dropped:
        notes.append({"kind": "dropped", "text": f"{task.n_dropped} words without tokens (truncated) left out"})
    for about in sites:
        if about["unconverged"]:
            text = f"{about['unconverged']} probes not converged at {about['site']}"
            notes.append({"kind": "warning", "text": text})
        if cut := [k for k in config.k if k > about["width"]]:
            text = f"{about['site']} has {about['width']} neurons: k of {', '.join(map(str, cut))} means all of them"
            notes.append({"kind": "info", "text": text})
    if ranked_on:
        text = f"the gradient ranks neurons on {ranked_on} texts or pairs; effects are measured on the others"
        notes.append({"kind": "info", "text": text})
    if not config.rotations:
        notes.append(
            {"kind": "skipped", "text": "no random rotations: whether the neurons' own basis is special is not told"}
        )
    if 1 / (1 + config.random) > LEVEL:
        text = (
            f"{config.random} random sets: fewer than {round(1 / LEVEL) - 1} cannot show that an effect is beyond them"
        )
        notes.append({"kind": "warning", "text": text})
    return notes
