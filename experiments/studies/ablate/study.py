"""Ablation: every head, neuron, MLP, attention or block taken out on its own, and what the model then says.

    effect = metric(component <- value) - metric(clean),  mean over prompts

Values: zero (for a block: it adds nothing), mean (over the reference texts' tokens, a BOS left out), mean-position
(token by token from the text's start), resample (another reference text's value), optimal (the constant that disturbs
the model least, see `experiments.studies.ablate.optimal`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ....hooks import Reference, edits, sites
from ....hooks.edits import Edit
from ...attention.roles import repetition_scores
from ...attention.text_patterns import text_patterns
from ...corpus import read_conllu
from ...corpus.prompts import Item, read_prompts
from ...metrics.metrics import Metric, metric_and_texts
from ...metrics.probe_metric import probed_words
from ...metrics.reads import Reads
from ...report.schema import Finding, Note
from ...runs import console
from ...runs.execute import Cost, DataFile, Inputs, Load, Run
from ...runs.folder import RunError, RunFolder
from ...subject import Subject
from ...sweep.components import Component, components
from ...sweep.effects import (
    clusters_of,
    effect_records,
    group_notes,
    is_comparable,
    mean_of,
    span,
)
from ...sweep.measure import Measured, certificate_notes, measure_grid, unchanged_notes
from ...sweep.memory import sweep_bytes
from ...sweep.reading import ranking, significance_text
from ...sweep.sweep import Chunk, Grid, chunks
from .optimal import optimal_constants
from .options import AblateOptions
from .records import AblationRecord, HeadPatterns, Results

LARGE_GRID = 5000
"""Components above which an exact sweep reports beforehand how many forwards it is."""


@dataclass(kw_only=True)
class AblateInputs(Inputs):
    """What an ablation has read.

    Args:
        metric: what is measured; ``items`` what it has one value of each.
        reads: where the metric reads the items' texts; ``groups`` the same in batches.
        parts: what is ablated, one at a time.
        references: texts whose values give mean and resample; None for the measured ones.
        notes: what was left out.
    """

    subject: Subject
    metric: Metric
    items: Sequence[Item]
    reads: Reads
    groups: Sequence[Chunk]
    parts: Sequence[Component]
    references: Sequence[str] | None
    notes: list[Note]


def prepare(options: AblateOptions, load: Load) -> AblateInputs:
    """The texts, the model, its parts, and where the metric reads.

    Raises:
        LayerscopeError: options that do not go together, texts that cannot be read or measured, a model without such parts.
    """
    _refuse(options)
    notes: list[Note] = []
    if options.probe is None:
        metric, items = metric_and_texts(options, "logit_difference")
    else:
        corpus = read_conllu(options.corpus or Path(), options.limit)
        metric, items, notes = probed_words(options.probe, corpus, options.metric)
    references = None
    if options.reference is not None:
        references = [prompt.prompt for prompt in read_prompts(options.reference, answers=False)]
    subject = load(body_only=metric.readout is not None)
    reads = metric.reads(subject, items)
    groups = list(chunks(subject, reads, options.batch_tokens))
    parts = components(subject.model, options.component, groups[0].batch)
    if metric.readout is not None:  # what comes after the probed layer changes nothing that the probe reads
        parts = [part for part in parts if part.layer <= metric.readout.layer]
    return AblateInputs(
        options=options,
        subject=subject,
        data=_data(options, len(items), len(references or ())),
        metric=metric,
        items=items,
        reads=reads,
        groups=groups,
        parts=parts,
        references=references,
        notes=notes,
    )


def _refuse(options: AblateOptions) -> None:
    """Options that do not go together."""
    if (options.probe is None) != (options.corpus is None):
        raise RunError("expected --probe FILE and --corpus FILE together")
    if options.probe is not None and (options.prompts or options.pairs):
        raise RunError("expected --probe with --corpus alone, got --prompts or --pairs beside them")
    if options.reference is not None and options.value == "zero":
        raise RunError("--reference: --value zero takes nothing from other prompts")
    if options.probe is not None and options.value == "optimal":
        raise RunError("--value optimal: its constants disturb the model's own predictions least, not a probe's")
    if options.value == "optimal" and options.component == "neurons":
        raise RunError(
            "--value optimal: expected heads, mlps, attentions or layers; a neuron has too many to descend for"
        )
    if options.null_draws and options.component == "neurons":
        raise RunError(
            "--null-draws: expected heads, mlps, attentions or layers; a single neuron has no direction to turn"
        )


def _data(options: AblateOptions, n_items: int, n_references: int) -> list[DataFile]:
    """Every file that was read."""
    kind = "sentences" if options.corpus else "pairs" if options.pairs else "prompts"
    files = [DataFile.of(kind, options.source, n_items)]
    if options.reference is not None:
        files.append(DataFile.of("reference", options.reference, n_references))
    if options.probe is not None:
        files.append(DataFile.of("probe", options.probe, 1))
    return files


def cost(inputs: AblateInputs) -> Cost:
    """Every part edited in every batch."""
    options, parts, groups = inputs.options, inputs.parts, inputs.groups
    kind = inputs.data[0].split
    text = f"{len(parts):,} {options.component} x {len(inputs.items)} {kind} in {len(groups)} batches"
    return Cost(text, memory=sweep_bytes(inputs.subject, groups, len(parts)))


def measure(inputs: AblateInputs, run: Run) -> Results:
    """The effect of every part, and for heads where they look."""
    options, parts, groups = inputs.options, inputs.parts, inputs.groups
    if len(parts) > LARGE_GRID and options.estimate == "none":
        console.say(
            f"this is {len(parts) * len(groups):,} edited forwards: --limit takes fewer prompts, --estimate gradient "
            "measures the largest only"
        )
    edit_of = _edits(inputs, run.folder)
    name = f"{options.component} {options.value}"
    grid = Grid(name, inputs.subject, inputs.metric, groups, parts, lambda number: edit_of)
    measured = measure_grid(run, grid)
    roles = _roles(inputs)
    patterns = text_patterns(inputs.subject, inputs.reads.texts) if roles else None
    return _results(
        inputs,
        dataclasses.replace(measured, columns={**measured.columns, **roles}),
        HeadPatterns(**patterns) if patterns is not None else None,
    )


def _roles(inputs: AblateInputs) -> dict[str, np.ndarray]:
    """Where each head looks on repeated random tokens."""
    model = inputs.subject.model
    if inputs.options.component != "heads" or not sites(model, "blocks.*.attn.hook_pattern"):
        return {}
    scores = repetition_scores(inputs.subject, seed=inputs.options.seed)
    layers = sorted({part.layer for part in inputs.parts})
    places = [(layers.index(part.layer), part.index or 0) for part in inputs.parts]
    return {name: np.array([grid[place] for place in places]) for name, grid in scores.items()}


def _edits(inputs: AblateInputs, folder: RunFolder) -> Callable[[Component], Edit]:
    """From a component to the edit that takes it out."""
    options, subject = inputs.options, inputs.subject
    if options.value == "zero":
        if options.component != "layers":
            return lambda part: edits.zero()
        return _skipped
    reference = _reference(inputs)
    if options.value == "optimal":
        constants = optimal_constants(folder, subject, inputs.groups, inputs.parts, reference, options.steps)
        return lambda part: edits.constant(constants[part.site.name])
    edit = {
        "mean": edits.mean(reference),
        "mean-position": edits.mean(reference, per="position"),
        "resample": edits.resample(reference, options.seed),
    }[options.value]
    return lambda part: edit


def _skipped(part: Component) -> Edit:
    """A block that adds nothing: its output is its input."""
    return dataclasses.replace(edits.copy(f"blocks.{part.layer}.hook_resid_pre"), name="skip")


def _reference(inputs: AblateInputs) -> Reference:
    """What the ablated sites hold on the reference texts."""
    subject = inputs.subject
    if inputs.references is not None:
        batches = list(subject.batches(subject.encode(list(inputs.references))))
    else:
        batches = [chunk.batch for chunk in inputs.groups]
    names = list(dict.fromkeys(part.site.name for part in inputs.parts))
    return Reference.of(
        subject.model,
        *names,
        batches=[batch.inputs(subject.device) for batch in batches],
        skip=1 if subject.has_sink_position else 0,
    )


def _results(inputs: AblateInputs, measured: Measured, patterns: HeadPatterns | None) -> Results:
    """Records, findings and notes."""
    options, metric, items = inputs.options, inputs.metric, inputs.items
    clusters = clusters_of(items)
    base = mean_of(measured.clean, clusters, options.seed)
    common: dict[str, Any] = {"value": options.value, "baseline": base.value}
    records = effect_records(
        inputs.parts,
        measured,
        measured.clean,
        clusters,
        metric,
        options.seed,
        AblationRecord,
        **common,
    )
    notes = [*inputs.notes, *group_notes(clusters)]
    notes += unchanged_notes(measured, options.component, metric.name)
    if not metric.baseline_is_zero and not is_comparable(base):
        text = (
            f"effects are not normalised: the clean {metric.name} is not significantly different from 0 ({span(base)})"
        )
        notes.append(Note(kind="skipped", text=text))
    if options.value == "resample":
        text = "each text's values come from one drawn reference text, the same at all sites"
        notes.append(Note(kind="info", text=text))
    certificates = {}
    if measured.certificate is not None:
        certificates[options.component] = measured.certificate
        notes += certificate_notes(options.component, measured.certificate)
    changed = f"change it by {options.value} ablation"
    finding = (
        f"The clean {metric.name} is {base.value:.3g} {metric.unit} ({span(base)}, n = {len(items)}). "
        f"{significance_text(records, options.component, changed)} The strongest are {ranking(records)}."
    )
    return Results(
        records=records,
        baseline=base,
        findings=[Finding(property=options.component, text=finding)],
        notes=notes,
        certificates=certificates,
        patterns=patterns,
    )
