"""Activation patching: what one run's value does in another run, head by head, position by position, layer by layer.

    denoising   the corrupted text runs, one value comes from the clean run:  effect = metric(patched) - metric(corrupted)
    noising     the clean text runs, one value comes from the corrupted run:  effect = metric(patched) - metric(clean)
    normalised = effect / (metric(other run) - metric(this run)):  0 nothing, 1 all the way to the other run

The two are different questions (is the part enough, is it needed), so both are asked by default. Source: Zhang & Nanda
2024, Towards best practices of activation patching.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ....hooks import capture, edits
from ....hooks.edits import Edit
from ... import forecast
from ...corpus.prompts import Prompt, read_prompts
from ...metrics.metrics import Metric, get_metric
from ...metrics.reads import MetricError, Reads
from ...runs.execute import Run, data_record
from ...runs.folder import RunError, file_sha256
from ...subject import Subject
from ...sweep.components import Component, components, places
from ...sweep.effects import clusters_of, differs_from_0, effect_records, group_notes, mean_of
from ...sweep.measure import Measured, certificate_notes, measure
from ...sweep.reading import LEVEL, clear_of_chance, ranking
from ...sweep.sweep import Chunk, EditsFor, Grid, chunks, clean_values
from .options import PatchOptions

DIRECTIONS = ("denoising", "noising")


def run(config: PatchOptions) -> dict[str, Any]:
    """Run or continue a patching sweep; returns what ``results.json`` holds.

    Writes ``config.json``, ``results.json`` and ``report.html`` to ``config.out``; interrupted, it continues with the
    first batch of prompts that is missing.

    Raises:
        ValueError, LookupError, OSError: bad input, each one clear line.
    """
    this = Run("patch", config)
    metric = get_metric(config.metric)
    if metric.of_pairs or metric.baseline_is_zero:
        raise MetricError(f"metric {metric.name} has no value of a clean and a corrupted prompt to move between")
    items = _items(config)
    subject = this.load()
    clean, corrupted = aligned_reads(subject, metric, items)
    hashes = {str(path): file_sha256(path) for path in (config.clean, config.corrupted) if path is not None}
    if (finished := this.open(subject, hashes)) is not None:
        return finished

    sides = {
        "clean": list(chunks(subject, clean, config.batch_tokens)),
        "corrupted": list(chunks(subject, corrupted, config.batch_tokens)),
    }
    parts = _parts(config, subject, sides["clean"])
    directions = DIRECTIONS if config.direction == "both" else (config.direction,)
    plan = (
        f"{len(parts):,} patches by {config.by} x {len(items)} prompts in {len(sides['clean'])} batches, "
        f"{' and '.join(directions)}"
    )
    cost = forecast.of_sweeps(config, subject, metric, sides["clean"], parts, len(directions))
    if (planned := this.plan(plan, **cost)) is not None:
        return planned
    records, runs, findings, notes, certificates = [], {}, [], [], {}
    for direction in directions:
        base, other = ("corrupted", "clean") if direction == "denoising" else ("clean", "corrupted")
        edits_for = _patches(subject, parts, sides[other])
        found = measure(this, Grid(direction, subject, metric, sides[base], parts, edits_for))
        runs[base], runs[other] = found.clean, clean_values(subject, metric, sides[other])
        more = _records(config, metric, items, parts, found, runs[other] - found.clean, direction)
        records += more
        findings.append({"property": direction, "text": _finding(direction, config.by, more)})
        if found.certificate is not None:
            certificates[direction] = found.certificate
            notes += certificate_notes(direction, found.certificate)
    clusters = clusters_of(items)
    notes += group_notes(clusters)
    means = {name: mean_of(values, clusters, config.seed) for name, values in runs.items()}
    gap = mean_of(runs["clean"] - runs["corrupted"], clusters, config.seed)
    span = f"{gap['low']:.3g} to {gap['high']:.3g}"
    text = (
        f"The {metric.name} is {means['clean']['value']:.3g} {metric.unit} on the clean prompts and "
        f"{means['corrupted']['value']:.3g} on the corrupted ones; difference {gap['value']:.3g} (95% {span}, n = {len(items)})."
    )
    if not differs_from_0(gap):
        why = f"effects are not normalised: clean and corrupted {metric.name} do not differ (95% {span})"
        notes.append({"kind": "skipped", "text": why})
    results = {
        "records": records,
        "baseline": means,
        "gap": gap,
        "findings": [{"property": "runs", "text": text}, *findings],
        "notes": notes,
        "certificates": certificates,
    }
    data = [data_record("clean", config.clean, len(items))]
    if config.corrupted is not None:
        data.append(data_record("corrupted", config.corrupted, len(items)))
    return this.finish(results, data=data)


def _items(config: PatchOptions) -> list[Prompt]:
    """The clean prompts, each with its corrupted one."""
    items = read_prompts(config.clean, config.limit)
    if config.corrupted is not None:
        others = read_prompts(config.corrupted, config.limit, answers=False)
        if len(others) != len(items):
            raise RunError(
                f"--corrupted {config.corrupted}: expected {len(items)} prompts, one a line of --clean, got {len(others)}"
            )
        items = [replace(item, corrupted=other.prompt) for item, other in zip(items, others, strict=True)]
    for number, item in enumerate(items, 1):
        if item.corrupted is None:
            raise RunError(f"{config.clean}: prompt {number}: expected 'corrupted', or --corrupted FILE")
        if item.corrupted == item.prompt:
            raise RunError(
                f"{config.clean}: prompt {number}: expected a corrupted prompt that differs from the clean one"
            )
    return items


def aligned_reads(subject: Subject, metric: Metric, items: Sequence[Prompt]) -> tuple[Reads, Reads]:
    """The reads of the clean and of the corrupted prompts, which must stand token against token.

    Raises:
        MetricError: naming the first prompt whose two texts differ in length.
    """
    clean = metric.reads(subject, items)
    corrupted = metric.reads(subject, [replace(item, prompt=item.corrupted or "") for item in items])
    owner = dict(clean.places[:, [0, 3]].tolist())
    for text, (a, b) in enumerate(zip(clean.texts, corrupted.texts, strict=True)):
        if len(a) != len(b):
            raise MetricError(
                f"prompt {owner[text] + 1}: expected a corrupted text of {len(a)} tokens, as the clean one has, got "
                f"{len(b)} ({b.text[:60]!r})"
            )
    if not torch.equal(clean.places, corrupted.places):
        raise MetricError("expected the answers to be the same tokens after the clean and the corrupted prompts")
    return clean, corrupted


def _parts(config: PatchOptions, subject: Subject, groups: Sequence[Chunk]) -> list[Component]:
    """What is patched, one at a time."""
    if config.by == "head":
        return components(subject.model, "heads", groups[0].batch, config.site)
    if config.by == "layer":
        return [part for kind in ("attentions", "mlps") for part in components(subject.model, kind, groups[0].batch)]
    lengths = {len(text) for chunk in groups for text in chunk.reads.texts}
    if len(lengths) > 1:
        raise MetricError(
            f"--by position: expected prompts of one length, so that positions align, got {min(lengths)} to "
            f"{max(lengths)} tokens"
        )
    return places(subject.model, config.site or "hook_resid_pre", lengths.pop())


def _patches(subject: Subject, parts: Sequence[Component], sources: Sequence[Chunk]) -> EditsFor:
    """From a chunk's number to the edit that puts the other run's values in."""
    names = list(dict.fromkeys(part.site.name for part in parts))

    def edits_for(number: int) -> Callable[[Component], Edit]:
        with torch.no_grad(), capture(subject.model, *names, clone=True) as acts:
            subject.model(**sources[number].batch.inputs(subject.device))
        patch = edits.patch(acts)
        return lambda part: patch

    return edits_for


def _records(
    config: PatchOptions,
    metric: Metric,
    items: Sequence[Prompt],
    parts: Sequence[Component],
    found: Measured,
    gap: np.ndarray,
    direction: str,
) -> list[dict[str, Any]]:
    """The effects of one direction; each kind of part has its own false-discovery rate."""
    clusters, out = clusters_of(items), []
    for kind in dict.fromkeys(part.kind for part in parts):
        mine = [i for i, part in enumerate(parts) if part.kind == kind]
        out += effect_records(
            [parts[i] for i in mine], found.of(mine), gap, clusters, metric, config.seed, value=direction
        )
    return out


def _finding(direction: str, by: str, records: Sequence[dict[str, Any]]) -> str:
    """One sentence of the strongest."""
    moved = "clean values in the corrupted run" if direction == "denoising" else "corrupted values in the clean run"
    return (
        f"{direction.capitalize()} ({moved}): {len(clear_of_chance(records))} of {len(records)} patches by {by} have an "
        f"effect at a false-discovery rate of {LEVEL:.0%}; the strongest are {ranking(records)}."
    )
