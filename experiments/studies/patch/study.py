"""Activation patching: what one run's value does in another run, head by head, position by
position, layer by layer.

    denoising   the corrupted text runs, one value comes from the clean run:
                effect = metric(patched) - metric(corrupted)
    noising     the clean text runs, one value comes from the corrupted run:
                effect = metric(patched) - metric(clean)
    normalised = effect / (metric(other run) - metric(this run)):
        0 nothing, 1 all the way to the other run

The two are different questions (is the part enough, is it needed), so both are asked by default.
Source: Zhang & Nanda 2024, Towards best practices of activation patching.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float

from ....hooks import capture, edits
from ....hooks.edits import Edit
from ...attention.text_patterns import spelled
from ...corpus.prompts import Prompt, Unusable, read_prompts
from ...metrics.metrics import Metric, get_metric
from ...metrics.reads import ItemError, MetricError, Reads, naming
from ...metrics.usable import item_notes, usable
from ...report.schema import Finding, Note
from ...report.words import plural, with_unit
from ...runs.execute import Cost, DataFile, Inputs, Load, Run
from ...runs.folder import RunError
from ...subject import Subject
from ...subject.targets import source_of
from ...sweep.components import Component, at_positions, components, places
from ...sweep.effects import (
    clusters_of,
    effect_records,
    group_notes,
    is_comparable,
    mean_of,
    span,
)
from ...sweep.grid import EditsFor, Grid
from ...sweep.measure import Measured, certificate_notes, measure_grid, unchanged_notes
from ...sweep.memory import sweep_bytes
from ...sweep.positions import first_position
from ...sweep.reading import ranking, significance_text
from ...sweep.records import Certificate, EffectRecord, Mean
from ...sweep.sweep import Chunk, chunks, clean_values
from .options import PatchOptions
from .records import Baselines, Results

DIRECTIONS = {"denoising": ("corrupted", "clean"), "noising": ("clean", "corrupted")}
"""Direction -> the run that is patched, and the run that its values come from."""


@dataclass(kw_only=True)
class PatchInputs(Inputs):
    """What a patching run has read.

    Args:
        items: the clean prompts, each with its corrupted one.
        clean: where the metric reads the clean texts.
        sides: the batches of both runs, by name; batches of one number hold the same prompts.
        parts: what is patched, one at a time.
        notes: what was left out.
    """

    subject: Subject
    metric: Metric
    items: Sequence[Prompt]
    clean: Reads
    sides: Mapping[str, Sequence[Chunk]]
    parts: Sequence[Component]
    notes: list[Note]

    @property
    def directions(self) -> list[str]:
        """Which directions are asked for."""
        asked = self.options.direction
        return list(DIRECTIONS) if asked == "both" else [asked]


def prepare(options: PatchOptions, load: Load) -> PatchInputs:
    """Both runs' prompts, the model, and what is patched.

    Raises:
        LayerscopeError: prompts that do not align, a metric that has no clean and corrupted value,
            a model without such parts.
    """
    metric = get_metric(options.metric)
    # A metric that compares with the clean run has no value of the clean run itself.
    if metric.of_pairs or metric.baseline_is_zero:
        raise MetricError(
            f"metric {metric.name} has no value of a clean and a corrupted prompt to move between"
        )
    unusable: list[Unusable] = []
    items = _items(options, unusable)
    subject = load()
    items, (clean, corrupted) = usable(
        items, lambda some: aligned_reads(subject, metric, some), unusable, options.skip
    )
    sides = {
        "clean": list(chunks(subject, clean, options.batch_tokens)),
        "corrupted": list(chunks(subject, corrupted, options.batch_tokens)),
    }
    data = [DataFile.of("clean", options.clean, len(items))]
    if options.corrupted is not None:
        data.append(DataFile.of("corrupted", options.corrupted, len(items)))
    return PatchInputs(
        options=options,
        subject=subject,
        data=data,
        metric=metric,
        items=items,
        clean=clean,
        sides=sides,
        parts=_parts(options, subject, sides["clean"]),
        notes=item_notes(unusable, items, subject),
    )


def _items(options: PatchOptions, unusable: list[Unusable]) -> list[Prompt]:
    """The clean prompts, each with its corrupted one."""
    if options.corrupted is None:
        return read_prompts(options.clean, options.limit, unusable=unusable)
    bad_clean: list[Unusable] = []
    bad_others: list[Unusable] = []
    items = read_prompts(options.clean, unusable=bad_clean)
    others = read_prompts(options.corrupted, answers=False, unusable=bad_others)
    n_items, n_others = len(items) + len(bad_clean), len(others) + len(bad_others)
    if n_others != n_items:
        raise RunError(
            f"--corrupted {options.corrupted}: expected {n_items} prompts, "
            f"one a line of --clean, got {n_others}"
        )
    unusable += bad_clean
    # Which of a file's prompts a line is, those that are left out counted: files may differ in
    # their blank lines.
    lines = sorted([other.line or 0 for other in others] + [bad.line or 0 for bad in bad_others])
    corrupted = {lines.index(other.line or 0): other.prompt for other in others}
    why = {lines.index(bad.line or 0): bad.why for bad in bad_others}
    places = sorted([item.line or 0 for item in items] + [bad.line or 0 for bad in bad_clean])
    pairs = []
    for item in items:
        place = places.index(item.line or 0)
        if place in corrupted:
            pairs.append(replace(item, corrupted=corrupted[place]))
        else:
            unusable.append(Unusable(item.line, f"--corrupted: {why[place]}"))
    return pairs[: options.limit]


def aligned_reads(subject: Subject, metric: Metric, items: Sequence[Prompt]) -> tuple[Reads, Reads]:
    """The reads of the clean and of the corrupted prompts, which must align token by token.

    Raises:
        ItemError: naming the first prompt without a corrupted one, or whose two texts are the same
            or differ in length.
    """
    for number, item in enumerate(items):
        with naming(item, number, "prompt"):
            if item.corrupted is None:
                raise ItemError("expected 'corrupted', or --corrupted FILE")
            if item.corrupted == item.prompt:
                raise ItemError("expected a corrupted prompt that differs from the clean one")
    clean = metric.reads(subject, items)
    # The corrupted prompt with the same answers: the metric asks both runs the same.
    swapped = [replace(item, prompt=item.corrupted or "") for item in items]
    corrupted = metric.reads(subject, swapped)
    item_of = dict(clean.places[:, [0, 3]].tolist())
    for text, (a, b) in enumerate(zip(clean.texts, corrupted.texts, strict=True)):
        number = item_of[text]
        with naming(items[number], number, "prompt"):
            if len(a) != len(b):
                raise ItemError(
                    f"expected a corrupted text of {len(a)} tokens, as the clean one has, "
                    f"got {len(b)} ({b.text[:60]!r})"
                )
    if not torch.equal(clean.places, corrupted.places):
        raise ItemError(
            "expected the answers to be the same tokens after the clean and the corrupted prompts"
        )
    return clean, corrupted


def _parts(options: PatchOptions, subject: Subject, groups: Sequence[Chunk]) -> list[Component]:
    """What is patched, one at a time."""
    model, batch = subject.model, groups[0].batch
    if options.by == "head":
        return components(model, "heads", batch, options.site)
    if options.by == "layer":
        return components(model, "attentions", batch) + components(model, "mlps", batch)
    # Of an encoder-decoder the positions are the source's.
    lengths = {len(source_of(text)) for chunk in groups for text in chunk.reads.texts}
    if len(lengths) > 1:
        raise MetricError(
            "--by position: expected prompts of one length, so that positions align, "
            f"got {min(lengths)} to {max(lengths)} tokens"
        )
    first = first_position(options)
    parts = places(model, options.site or "hook_resid_pre", lengths.pop())
    return [part for part in parts if (part.index or 0) >= first]


def cost(inputs: PatchInputs) -> Cost:
    """Every part patched in every batch, in each direction."""
    options, parts, groups = inputs.options, inputs.parts, inputs.sides["clean"]
    text = (
        f"{len(parts):,} patches by {options.by} x {plural(len(inputs.items), 'prompt')} in "
        f"{plural(len(groups), 'batch', 'batches')}, {' and '.join(inputs.directions)}"
    )
    return Cost(
        text, memory=sweep_bytes(inputs.subject, groups, len(parts), inputs.metric.of_targets)
    )


def measure(inputs: PatchInputs, run: Run) -> Results:
    """The effect of every patch in each direction."""
    options, metric, items, sides = inputs.options, inputs.metric, inputs.items, inputs.sides
    clusters = clusters_of(items)
    first = first_position(options)
    records: list[EffectRecord] = []
    values: dict[str, Float[np.ndarray, " prompts"]] = {}
    findings: list[Finding] = []
    notes: list[Note] = list(inputs.notes)
    certificates: dict[str, Certificate] = {}
    for direction in inputs.directions:
        base, other = DIRECTIONS[direction]
        edits_for = _patches(inputs.subject, inputs.parts, sides[other], first)
        grid = Grid(direction, inputs.subject, metric, sides[base], inputs.parts, edits_for)
        measured = measure_grid(run, grid)
        values[base] = measured.clean
        if other not in values:
            values[other] = clean_values(inputs.subject, metric, sides[other])
        # Effects are shares of the whole way from this run to the other.
        of_direction = _records(inputs, measured, values[other] - measured.clean, direction)
        records += of_direction
        text = _finding(direction, options.by, of_direction)
        findings.append(Finding(property=direction, text=text))
        notes += unchanged_notes(
            measured,
            f"{direction} patches",
            metric.name,
            "both runs have the same value there",
            "info",
        )
        if measured.certificate is not None:
            certificates[direction] = measured.certificate
            notes += certificate_notes(direction, measured.certificate)
    notes += group_notes(clusters)
    means = Baselines(
        clean=mean_of(values["clean"], clusters, options.seed, metric.value_kind),
        corrupted=mean_of(values["corrupted"], clusters, options.seed, metric.value_kind),
    )
    gap = mean_of(
        values["clean"] - values["corrupted"], clusters, options.seed, metric.difference_kind
    )
    if not is_comparable(gap):
        why = (
            f"effects are not normalised: clean and corrupted {metric.name} do not differ "
            f"significantly ({span(gap)})"
        )
        notes.append(Note(kind="skipped", text=why))
    tokens = []
    if options.by == "position":
        tokens = spelled(inputs.subject, source_of(inputs.clean.texts[0]))
    return Results(
        positions=options.positions,
        records=records,
        baseline=means,
        gap=gap,
        tokens=tokens,
        findings=[_runs_finding(metric, means, gap, len(items)), *findings],
        notes=notes,
        certificates=certificates,
    )


def _runs_finding(metric: Metric, means: Baselines, gap: Mean, n: int) -> Finding:
    """What the metric is in both runs, and whether they differ."""
    clean = with_unit(f"{means.clean.value:.3g}", metric.unit)
    text = (
        f"The {metric.name} is {clean} on the clean prompts "
        f"and {means.corrupted.value:.3g} on the corrupted ones, "
        f"a difference of {gap.value:.3g} ({span(gap)}, n = {n})."
    )
    return Finding(property="runs", text=text)


def _patches(
    subject: Subject, parts: Sequence[Component], sources: Sequence[Chunk], first: int
) -> EditsFor:
    """From a chunk's number to the edit that puts the other run's values in."""
    names = list(dict.fromkeys(part.site.name for part in parts))

    def edits_for(number: int) -> Callable[[Component], Edit]:
        with torch.no_grad(), capture(subject.model, *names, clone=True) as acts:
            subject.model(**sources[number].batch.inputs(subject.device))
        # The other run's values are captured once for all parts of a batch.
        patch = at_positions(edits.patch(acts), first)
        return lambda part: patch

    return edits_for


def _records(
    inputs: PatchInputs,
    measured: Measured,
    gap: Float[np.ndarray, " prompts"],
    direction: str,
) -> list[EffectRecord]:
    """The effects of one direction; each kind of part has its own false discovery rate."""
    clusters, seed = clusters_of(inputs.items), inputs.options.seed
    records: list[EffectRecord] = []
    for kind in dict.fromkeys(part.kind for part in inputs.parts):
        # Attention and MLPs are two families of tests.
        chosen = [i for i, part in enumerate(inputs.parts) if part.kind == kind]
        of_kind = [inputs.parts[i] for i in chosen]
        effects = measured.of(chosen)
        records += effect_records(
            of_kind,
            effects,
            gap,
            clusters,
            inputs.metric,
            seed,
            whole_kind=inputs.metric.difference_kind,
            value=direction,
        )
    return records


def _finding(direction: str, by: str, records: Sequence[EffectRecord]) -> str:
    """What a direction does, how many patches have an effect, and the largest effects."""
    moved = {
        "denoising": "clean values into the corrupted run",
        "noising": "corrupted values into the clean run",
    }[direction]
    change = f"This changes the {records[0].metric}"
    return (
        f"{direction.capitalize()} puts {moved}, one {by} at a time. "
        f"{significance_text(records, 'patches', change)} The largest effects are "
        f"{ranking(records)}."
    )
