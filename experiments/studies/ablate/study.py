"""Ablation: every head, neuron, MLP, attention or block taken out on its own, and what the model then says.

    effect = metric(component <- value) - metric(clean),  mean over prompts

Values: zero (for a block: it adds nothing), mean (over the reference texts' tokens, a BOS left out), mean-position
(token by token from the text's start), resample (another reference text's value), optimal (the constant that disturbs
the model least, see `experiments.studies.ablate.optimal`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ....hooks import Reference, edits, sites
from ....hooks.edits import Edit
from ... import forecast
from ...attention.repetition import repetition_scores
from ...attention.text_patterns import text_patterns
from ...corpus import read_conllu
from ...corpus.prompts import Item, read_prompts
from ...metrics.metrics import Metric, metric_and_texts
from ...metrics.probe_metric import probed_words
from ...runs import console
from ...runs.execute import Run, data_record
from ...runs.folder import RunError, RunFolder, file_sha256
from ...subject import Subject
from ...sweep.components import Component, components
from ...sweep.effects import clusters_of, differs_from_0, effect_records, group_notes, mean_of
from ...sweep.measure import Measured, certificate_notes, measure
from ...sweep.reading import LEVEL, clear_of_chance, ranking
from ...sweep.sweep import Chunk, Grid, chunks
from .optimal import optimal_constants
from .options import AblateOptions

LARGE_GRID = 5000
"""Components above which an exact sweep says beforehand how many forwards it is."""


def run(config: AblateOptions) -> dict[str, Any]:
    """Run or continue a sweep; returns what ``results.json`` holds.

    Writes ``config.json``, ``results.json`` and ``report.html`` to ``config.out``; interrupted, it continues with the
    first batch of prompts that is missing.

    Raises:
        ValueError, LookupError, OSError: bad input, each one clear line.
    """
    this = Run("ablate", config)
    _refuse(config)
    notes: list[dict[str, str]] = []
    if config.probe is None:
        metric, items = metric_and_texts(config, "logit_difference")
    else:
        corpus = read_conllu(config.corpus or "", config.limit)
        metric, items, notes = probed_words(config.probe, corpus, config.metric)
    subject = this.load(body_only=metric.readout is not None)
    reads = metric.reads(subject, items)
    hashes = {str(path): file_sha256(path) for path in (config.source, config.reference, config.probe) if path}
    if (finished := this.open(subject, hashes)) is not None:
        return finished

    groups = list(chunks(subject, reads, config.batch_tokens))
    parts = components(subject.model, config.component, groups[0].batch)
    if metric.readout is not None:  # what stands behind the probe changes nothing that it reads
        parts = [part for part in parts if part.layer <= metric.readout.layer]
    texts = "pairs" if config.pairs else "sentences" if config.corpus else "prompts"
    plan = f"{len(parts):,} {config.component} x {len(items)} {texts} in {len(groups)} batches"
    if (planned := this.plan(plan, **forecast.of_sweeps(config, subject, metric, groups, parts))) is not None:
        return planned
    if len(parts) > LARGE_GRID and config.estimate == "none":
        console.say(
            f"this is {len(parts) * len(groups):,} edited forwards: --limit takes fewer prompts, --estimate gradient "
            "measures the largest only"
        )
    edit_of = _edits(config, subject, parts, groups, this.folder)
    name = f"{config.component} {config.value}"
    roles = _roles(config, subject, parts)
    found = measure(this, Grid(name, subject, metric, groups, parts, lambda number: edit_of))
    results = _results(config, metric, items, parts, dataclasses.replace(found, more={**found.more, **roles}))
    if roles and (patterns := text_patterns(subject, reads.texts)) is not None:
        results["patterns"] = patterns
    results["notes"] = [*notes, *results["notes"]]
    data = [data_record("sentences" if config.corpus else "prompts", config.source, len(items))]
    if config.probe is not None:
        data.append(data_record("probe", config.probe, 1))
    return this.finish(results, data=data)


def _roles(config: AblateOptions, subject: Subject, parts: Sequence[Component]) -> dict[str, np.ndarray]:
    """Where each head looks on repeated random tokens."""
    if config.component != "heads" or not sites(subject.model, "blocks.*.attn.hook_pattern"):
        return {}
    scores = repetition_scores(subject, seed=config.seed)
    layers = sorted({part.layer for part in parts})
    at = [(layers.index(part.layer), part.index or 0) for part in parts]
    return {name: np.array([grid[place] for place in at]) for name, grid in scores.items()}


def _refuse(config: AblateOptions) -> None:
    """Options that do not go together."""
    if (config.probe is None) != (config.corpus is None):
        raise RunError("expected --probe FILE and --corpus FILE together")
    if config.probe is not None and (config.prompts or config.pairs):
        raise RunError("expected --probe with --corpus alone, got --prompts or --pairs beside them")
    if config.reference is not None and config.value == "zero":
        raise RunError("--reference: --value zero takes nothing from other prompts")
    if config.probe is not None and config.value == "optimal":
        raise RunError("--value optimal: its constants disturb the model's own predictions least, not a probe's")
    if config.value == "optimal" and config.component == "neurons":
        raise RunError(
            "--value optimal: expected heads, mlps, attentions or layers; a neuron has too many to descend for"
        )
    if config.null_draws and config.component == "neurons":
        raise RunError("--null: expected heads, mlps, attentions or layers; a single neuron has no direction to turn")


def _edits(
    config: AblateOptions, subject: Subject, parts: Sequence[Component], groups: Sequence[Chunk], folder: RunFolder
) -> Callable[[Component], Edit]:
    """From a component to the edit that takes it out."""
    if config.value == "zero":
        if config.component != "layers":
            return lambda part: edits.zero()
        return lambda part: dataclasses.replace(edits.copy(f"blocks.{part.layer}.hook_resid_pre"), name="skip")
    if config.reference is not None:
        encoded = subject.encode([prompt.prompt for prompt in read_prompts(config.reference, answers=False)])
        batches = [batch.inputs(subject.device) for batch in subject.batches(encoded)]
    else:
        batches = [chunk.batch.inputs(subject.device) for chunk in groups]
    skip = 1 if subject.has_sink_position else 0
    names = list(dict.fromkeys(part.site.name for part in parts))
    reference = Reference.of(subject.model, *names, batches=batches, skip=skip)
    if config.value == "optimal":
        constants = optimal_constants(folder, subject, groups, parts, reference, config.steps)
        return lambda part: edits.constant(constants[part.site.name])
    made: dict[str, Edit] = {
        "mean": edits.mean(reference),
        "mean-position": edits.mean(reference, per="position"),
        "resample": edits.resample(reference, config.seed),
    }
    return lambda part: made[config.value]


def _results(
    config: AblateOptions,
    metric: Metric,
    items: Sequence[Item],
    parts: Sequence[Component],
    found: Measured,
) -> dict[str, Any]:
    """Records, findings and notes."""
    clusters = clusters_of(items)
    base = mean_of(found.clean, clusters, config.seed)
    records = effect_records(
        parts, found, found.clean, clusters, metric, config.seed, value=config.value, baseline=base["value"]
    )
    notes = group_notes(clusters)
    if still := int((found.effects[found.tested] == 0).all(1).sum()):
        text = (
            f"{still} of {int(found.tested.sum())} {config.component} that were measured changed nothing at all: their "
            "value was the ablation's already"
        )
        notes.append({"kind": "warning", "text": text})
    span = f"{base['low']:.3g} to {base['high']:.3g}"
    if not metric.baseline_is_zero and not differs_from_0(base):
        text = f"effects are not normalised: the clean {metric.name} is not different from 0 (95% {span})"
        notes.append({"kind": "skipped", "text": text})
    if config.value == "resample":
        notes.append(
            {"kind": "info", "text": "each text's values come from one drawn reference text, the same at all sites"}
        )
    if found.certificate is not None:
        notes += certificate_notes(config.component, found.certificate)
    finding = (
        f"The clean {metric.name} is {base['value']:.3g} {metric.unit} (95% {span}, n = {len(items)}). "
        f"{len(clear_of_chance(records))} of {len(parts)} {config.component} change it by {config.value} ablation at a "
        f"false-discovery rate of {LEVEL:.0%}; the strongest are {ranking(records)}."
    )
    return {
        "records": records,
        "baseline": base,
        "findings": [{"property": config.component, "text": finding}],
        "notes": notes,
        "certificates": {config.component: found.certificate} if found.certificate is not None else {},
    }
