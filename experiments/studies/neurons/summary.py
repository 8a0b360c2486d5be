"""The effects of sets of neurons as records, the study's finding, and its notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ....probes.evaluation import ClusterBootstrap, Kind
from ....probes.sparse import BAND
from ...metrics.metrics import Metric
from ...report.schema import Interval, Note, estimated, is_above
from ...report.words import DOUBT, interval, with_unit
from ...sweep.components import Component
from ...sweep.effects import effect_records
from ...sweep.measure import Measured
from ...sweep.reading import LEVEL
from ...sweep.records import Mean
from .options import NeuronsOptions
from .records import ReadRecord, SetRecord, SiteRecord
from .sets import ALONE, RANDOM, NeuronSet


def set_records(
    options: NeuronsOptions,
    sets: Sequence[NeuronSet],
    parts: Sequence[Component],
    effects: Float[np.ndarray, "sets prompts"],
    clean: Float[np.ndarray, " prompts"],
    clusters: Int[np.ndarray, " prompts"],
    metric: Metric,
    value: str,
    baseline: Mean,
) -> list[SetRecord]:
    """One record a ranked set and a neuron alone, each compared with as many neurons drawn at
    random at its site.

    The false discovery rate is that over all sets, and that over all neurons alone.
    """
    boot = ClusterBootstrap(clusters, seed=options.seed)
    ranked = [i for i, of_set in enumerate(sets) if of_set.source not in (RANDOM, ALONE)]
    alone = [i for i, of_set in enumerate(sets) if of_set.source == ALONE]
    # Random sets of the same size at the same site are what a set is compared with.
    random_at: dict[tuple[str, int], list[int]] = {}
    for i, of_set in enumerate(sets):
        if of_set.source == RANDOM:
            random_at.setdefault((of_set.site, of_set.k), []).append(i)
    records = []
    for component, numbers in (("sets", ranked), ("neurons", alone)):
        if not numbers:
            continue
        measured = Measured(effects[numbers], clean, np.ones(len(numbers), dtype=bool), {})
        of_effects = effect_records(
            [parts[i] for i in numbers],
            measured,
            clean,
            clusters,
            metric,
            options.seed,
            whole_kind=metric.value_kind,
            value=value,
            baseline=baseline.value,
        )
        for i, record in zip(numbers, of_effects, strict=True):
            neurons = sets[i]
            drawn = random_at.get((neurons.site, neurons.k), [])
            fields = {
                **vars(record),
                "component": component,
                "index": neurons.neurons[0] if component == "neurons" else None,
                "ranking": neurons.source,
                "k": neurons.k,
                "neurons": list(neurons.neurons),
                **_against_random(effects[i], effects[drawn], boot, metric.difference_kind),
            }
            records.append(SetRecord(**fields))
    return records


def _against_random(
    effect: Float[np.ndarray, " prompts"],
    drawn: Float[np.ndarray, "draws prompts"],
    boot: ClusterBootstrap,
    kind: Kind | None,
) -> dict[str, Any]:
    """How a set's effect lies to those of as many neurons drawn at random.

    The interval of ``beyond`` is over prompts, with the draws as they are, and a single group of
    them has none; ``null_p`` is over the draws.
    """
    means = drawn.mean(1)
    low, high = np.quantile(means, BAND)
    at_least = (np.abs(means) >= abs(effect.mean())).sum()
    # Prompt by prompt, so that the interval is paired.
    beyond = effect - drawn.mean(0)
    gap = boot.mean(beyond, kind=kind)
    return {
        "null": float(means.mean()),
        "null_interval": Interval(float(low), float(high)),
        "null_p": float((1 + at_least) / (1 + len(means))),
        **estimated("beyond", gap),
    }


def with_accuracy(records: Sequence[SetRecord], table: Sequence[ReadRecord]) -> list[SetRecord]:
    """The records with what the first kind of probe reads from each set."""
    first = table[0].probe
    accuracies = {}
    for row in table:
        if row.probe == first:
            accuracies[row.site, row.ranking, row.k] = row.accuracy
    completed = []
    for record in records:
        if record.component == "sets":
            accuracy = accuracies[record.site, record.ranking, record.k]
            record = replace(record, accuracy=accuracy)
        completed.append(record)
    return completed


def finding(
    options: NeuronsOptions,
    name: str,
    metric: Metric,
    n_items: int,
    table: Sequence[ReadRecord],
    sites: Sequence[SiteRecord],
    records: Sequence[SetRecord],
) -> str:
    """What the fewest neurons tell, and whether the model misses them."""
    sets = []
    for record in records:
        if record.value == options.value and record.component == "sets":
            sets.append(record)
    return f"{_read_best(name, table, sites, sets)} {_used_most(options, metric, n_items, sets)}"


def _read_best(
    name: str,
    table: Sequence[ReadRecord],
    sites: Sequence[SiteRecord],
    sets: Sequence[SetRecord],
) -> str:
    """The neuron from which the first probe reads best, beside what it is compared with."""
    of_one = [row for row in table if row.probe == table[0].probe and row.k == 1]
    best = max(of_one, key=lambda row: row.accuracy)
    site = next(site for site in sites if site.site == best.site)
    at_best = [r for r in sets if (r.site, r.ranking) == (best.site, best.ranking)]
    neuron = at_best[0].neurons[0]
    whole = site.whole[best.probe]
    doubt = "" if is_above(best.accuracy_interval, site.majority) else DOUBT
    return (
        f"{name}: the best single neuron is {best.site}[{neuron}] (ranked by "
        f"{best.ranking}), with an accuracy of {best.accuracy:.3f} (95% CI "
        f"{interval(best.accuracy_interval) or 'n/a'}; most frequent class "
        f"{site.majority:.3f}{doubt}). A random neuron reaches {best.random:.3f}, "
        f"and all {site.width} together {whole:.3f}."
    )


def _used_most(
    options: NeuronsOptions, metric: Metric, n_items: int, sets: Sequence[SetRecord]
) -> str:
    """How many sets the model misses, and the one that it misses most beyond random sets."""
    passing = [r for r in sets if r.q is not None and r.q < LEVEL and r.null_p <= LEVEL]
    most = max(sets, key=lambda record: abs(record.beyond))
    top = "neuron" if most.k == 1 else f"{most.k} neurons"
    effect = with_unit(f"{most.effect:+.3g}", metric.unit)
    return (
        f"{options.value.capitalize()} ablation changes the {metric.name} significantly "
        f"(FDR < {LEVEL}) and more than random sets do for {len(passing)} of {len(sets)} "
        f"sets of neurons (n = {n_items}). The set furthest beyond random is the top "
        f"{top} by {most.ranking} at {most.site}: {effect} "
        f"(random sets {most.null_interval.text('+.3g')})."
    )


def study_notes(options: NeuronsOptions, sites: Sequence[SiteRecord], ranked_on: int) -> list[Note]:
    """What was left out, cut short or not converged.

    Args:
        ranked_on: texts that the gradient ranks on.
    """
    notes: list[tuple[str, str]] = []
    for site in sites:
        if site.unconverged:
            notes.append(("warning", f"{site.unconverged} probes not converged at {site.site}"))
        if cut := [k for k in options.k if k > site.width]:
            text = (
                f"{site.site} has {site.width} neurons: k of "
                f"{', '.join(map(str, cut))} means all of them"
            )
            notes.append(("info", text))
    if ranked_on:
        text = (
            f"the gradient ranks neurons on {ranked_on} texts or pairs; "
            "effects are measured on the others"
        )
        notes.append(("info", text))
    if not options.rotations:
        notes.append(
            (
                "skipped",
                "random rotations skipped: claims about the neurons' own basis are not supported",
            )
        )
    if 1 / (1 + options.null_draws) > LEVEL:
        least = round(1 / LEVEL) - 1
        text = (
            f"{options.null_draws} random sets are too few to show that an effect exceeds them; "
            f"at least {least} are needed"
        )
        notes.append(("warning", text))
    return [Note(kind=kind, text=text) for kind, text in notes]
