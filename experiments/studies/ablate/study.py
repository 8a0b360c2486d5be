"""Ablation: every head, neuron, MLP, attention or block taken out on its own, and what the model
then says.

    effect = metric(component <- value) - metric(clean),  mean over prompts

Values: zero (for a block: it adds nothing), mean (over the reference texts' tokens), mean-position
(token by token from the text's start), resample (the value of another reference text, never of the
text itself), optimal (the constant that disturbs the model least, see
`experiments.studies.ablate.optimal`). Position 0 is in the edit if it is in the mean
(``--positions``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ....hooks import Reference, Site, edits, sites
from ....hooks.edits import Edit
from ...attention.repetition import repetition_scores
from ...attention.text_patterns import text_patterns
from ...report.schema import Finding, Interval, Note
from ...report.words import plural, with_unit
from ...runs import console
from ...runs.execute import Cost, Run
from ...runs.folder import RunFolder
from ...subject.targets import source_of
from ...sweep.components import Component, at_positions
from ...sweep.effects import (
    clusters_of,
    effect_records,
    group_notes,
    is_comparable,
    mean_of,
    span,
)
from ...sweep.grid import EditsFor, Grid
from ...sweep.measure import (
    Measured,
    certificate_notes,
    measure_grid,
    unchanged_notes,
    with_null,
)
from ...sweep.memory import sweep_bytes
from ...sweep.positions import first_position
from ...sweep.race import Race, run_race
from ...sweep.reading import ranking, significance_text
from .inputs import AblateInputs, prepare
from .optimal import optimal_constants
from .records import AblationRecord, HeadPatterns, Results

__all__ = ["cost", "measure", "prepare"]

LARGE_GRID = 5000
"""Components above which an exact sweep reports beforehand how many forwards it is."""


def cost(inputs: AblateInputs) -> Cost:
    """Every part edited in every batch."""
    options, parts, groups = inputs.options, inputs.parts, inputs.groups
    kind = options.given[0] if options.given else "sentences"
    batches = plural(len(groups), "batch", "batches")
    text = f"{len(parts):,} {options.component} x {len(inputs.items)} {kind} in {batches}"
    return Cost(
        text, memory=sweep_bytes(inputs.subject, groups, len(parts), inputs.metric.of_targets)
    )


def measure(inputs: AblateInputs, run: Run) -> Results:
    """The effect of every part, and for heads where they look."""
    options, parts, groups = inputs.options, inputs.parts, inputs.groups
    if len(parts) > LARGE_GRID and options.estimate == "none":
        console.say(
            f"this is {len(parts) * len(groups):,} edited forwards: "
            "--limit takes fewer prompts, --estimate gradient measures the largest only"
        )
    grid, race = grid_of(inputs, run.folder), None
    if options.race is None:
        measured = measure_grid(run, grid)
    else:
        race = run_race(run, grid, inputs.race, options.race)
        measured = with_null(run, grid, race.measured)
    roles = _roles(inputs)
    texts = [source_of(text) for text in inputs.reads.texts if text.picture is None]
    patterns = text_patterns(inputs.subject, texts) if roles and texts else None
    return _results(
        inputs,
        dataclasses.replace(measured, columns={**measured.columns, **roles}),
        HeadPatterns(**patterns) if patterns is not None else None,
        race,
    )


def grid_of(inputs: AblateInputs, folder: RunFolder) -> Grid:
    """Every part edited in turn on every prompt."""
    options = inputs.options
    name = f"{options.component} {options.value}"
    edits_for = _edits(inputs, folder)
    return Grid(name, inputs.subject, inputs.metric, inputs.groups, inputs.parts, edits_for)


def _roles(inputs: AblateInputs) -> dict[str, np.ndarray]:
    """Where each head looks on repeated random tokens."""
    names = sites(inputs.subject.model)
    has_patterns = any(Site(name).part == "attn.hook_pattern" for name in names)
    if inputs.options.component != "heads" or not has_patterns or not inputs.subject.reads_text:
        return {}
    scores = repetition_scores(inputs.subject, seed=inputs.options.seed)
    # The text is read by the encoder alone, where there is a decoder beside it.
    of_text = [part.site.name.startswith("blocks.") for part in inputs.parts]
    layers = sorted(
        {part.layer for part, reads in zip(inputs.parts, of_text, strict=True) if reads}
    )
    columns: dict[str, np.ndarray] = {}
    for name, grid in scores.items():
        column = np.full(len(inputs.parts), np.nan)
        for number, part in enumerate(inputs.parts):
            if of_text[number]:
                column[number] = grid[layers.index(part.layer), part.index or 0]
        columns[name] = column
    return columns


def _edits(inputs: AblateInputs, folder: RunFolder) -> EditsFor:
    """From the number of a batch and a component to the edit that takes it out."""
    options, first = inputs.options, first_position(inputs.options)
    if options.value == "zero":
        zero = _skipped if options.component == "layers" else lambda part: edits.zero()
        return lambda number: lambda part: at_positions(zero(part), first)
    references = _references(inputs, first)
    if options.value == "resample":
        return _resampled(inputs, references, first)
    if options.value == "optimal":
        (reference,) = references.values()
        constants = optimal_constants(
            folder, inputs.subject, inputs.groups, inputs.parts, reference, options.steps, first
        )
        return lambda number: (
            lambda part: at_positions(edits.constant(constants[part.site.name]), first)
        )
    per = "position" if options.value == "mean-position" else "all"
    means = {
        stack: at_positions(edits.mean(reference, per), first)
        for stack, reference in references.items()
    }
    return lambda number: lambda part: means[_stack(part)]


def _stack(part: Component) -> str:
    """``blocks`` or ``decoder_blocks``:
    the values of a stack's sites have the positions of one text.
    """
    return part.site.name.partition(".")[0]


def _skipped(part: Component) -> Edit:
    """A block that adds nothing: its output is its input."""
    before = part.site.name.replace("hook_resid_post", "hook_resid_pre")
    return dataclasses.replace(edits.copy(before), name="skip")


def _resampled(inputs: AblateInputs, references: Mapping[str, Reference], first: int) -> EditsFor:
    """Each text of a batch with the values of its partner."""
    place = {id(text): number for number, text in enumerate(inputs.reads.texts)}
    made: list[dict[str, Edit]] = []
    for chunk in inputs.groups:
        rows = [inputs.partners[place[id(text)]] for text in chunk.reads.texts]
        made.append({})
        for stack, reference in references.items():
            made[-1][stack] = at_positions(edits.resample(reference, rows=rows), first)

    def edits_for(number: int) -> Callable[[Component], Edit]:
        return lambda part: made[number][_stack(part)]

    return edits_for


def _references(inputs: AblateInputs, first: int) -> dict[str, Reference]:
    """What the ablated sites of each stack hold on the reference texts, in their order."""
    subject = inputs.subject
    batches = list(subject.batches(list(inputs.references)))
    order = [row for batch in batches for row in batch.rows]
    names: dict[str, dict[str, None]] = {}
    for part in inputs.parts:
        names.setdefault(_stack(part), {})[part.site.name] = None
    made = {}
    for stack, of_stack in names.items():
        made[stack] = Reference.of(
            subject.model,
            *of_stack,
            batches=[batch.inputs(subject.device) for batch in batches],
            skip=first,
            order=order,
        )
    return made


def _raced(record: AblationRecord, ran_on: int, ends: Sequence[float]) -> AblationRecord:
    """A record with the prompts that its part ran on; one that stopped has an interval of its
    effect over these prompts and none of the effect in general: it was selected for being small.
    """
    if ran_on == record.n:
        return dataclasses.replace(record, ran_on=ran_on)
    return dataclasses.replace(
        record,
        ran_on=ran_on,
        effect_interval=None,
        normalised_interval=None,
        stopped=record.effect,
        stopped_interval=Interval(*ends),
    )


def _results(
    inputs: AblateInputs, measured: Measured, patterns: HeadPatterns | None, race: Race | None
) -> Results:
    """Records, findings and notes."""
    options, metric, items = inputs.options, inputs.metric, inputs.items
    clusters = clusters_of(items)
    base = mean_of(measured.clean, clusters, options.seed, metric.value_kind)
    common: dict[str, Any] = {"value": options.value, "baseline": base.value}
    records = effect_records(
        inputs.parts,
        measured,
        measured.clean,
        clusters,
        metric,
        options.seed,
        AblationRecord,
        metric.value_kind,
        **common,
    )
    notes = [*inputs.notes, *group_notes(clusters)]
    if race is not None and options.race is not None:
        outcome = race.outcome
        ran = zip(records, outcome.ran_on.tolist(), outcome.intervals.tolist(), strict=True)
        records = [_raced(*of_part) for of_part in ran]
        notes.append(race.note(options.component, options.race))
    notes += unchanged_notes(measured, options.component, metric.name)
    if not metric.baseline_is_zero and not is_comparable(base):
        text = (
            f"effects are not normalised: the clean {metric.name} is not significantly "
            f"different from 0 ({span(base)})"
        )
        notes.append(Note(kind="skipped", text=text))
    if options.value == "resample":
        text = (
            "each text takes its values from one other reference text, "
            "drawn once and used at all sites"
        )
        notes.append(Note(kind="info", text=text))
    certificates = {}
    if measured.certificate is not None:
        certificates[options.component] = measured.certificate
        notes += certificate_notes(options.component, measured.certificate)
    change = f"{options.value.capitalize()} ablation changes it"
    clean = with_unit(f"{base.value:.3g}", metric.unit)
    finding = (
        f"The clean {metric.name} is {clean} ({span(base)}, "
        f"n = {len(items)}). {significance_text(records, options.component, change)} The "
        f"largest effects are {ranking(records)}."
    )
    return Results(
        positions=options.positions,
        records=records,
        baseline=base,
        findings=[Finding(property=options.component, text=finding)],
        notes=notes,
        certificates=certificates,
        patterns=patterns,
    )
