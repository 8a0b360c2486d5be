"""Head pruning that is real: the least important heads leave the weights, step by step, and the
model gets smaller.

Importance is the size of a head's gate (Michel et al. 2019): mean over prompts of |d metric / d
gate|, computed again on the smaller model before every step. A configuration has one number of
heads for all layers, so a step takes the least important query head out of every group of heads
that share a key-value head, in every layer; when groups are down to one, the least important
key-value head of every layer, with its query.
"""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from ....hooks import NothingChanged, capture, edits, intervene
from ....hooks.placement import device_of
from ....hooks.sites import SiteLike
from ...corpus.prompts import Item, Unusable
from ...metrics.metrics import Metric, files_of, get_metric, load_for, metric_and_texts
from ...metrics.reads import MetricError
from ...metrics.usable import item_notes, usable
from ...report.schema import Finding, Interval, Note
from ...report.words import listed, plural, size, with_unit
from ...runs import console
from ...runs.execute import Cost, Inputs, Load, Run
from ...runs.folder import RunError
from ...subject import Subject
from ...subject.errors import quiet
from ...sweep.components import components
from ...sweep.effects import clusters_of, group_notes, mean_of
from ...sweep.estimate import estimates
from ...sweep.records import Mean
from ...sweep.sweep import Chunk, chunks, clean_values
from .cut_heads import Heads, Kept, flat, heads_of, numbers_to_save, with_heads
from .options import PruneOptions
from .records import Results, StepRecord

GRADED = {
    "pair_accuracy": "pair_difference",
    "answer_accuracy": "answer_difference",
    "rank": "log_probability",
    "class_accuracy": "class_log_odds",
}
"""Metrics without a gradient, and the one whose gates stand for them."""
REPEATS = 7
"""Forwards that are timed for each model; the medians are compared."""
ROUNDING, ROUNDING_OF_HALF = 1e-5, 5e-2
"""Largest difference of `zeroed_difference`, and that in half precision."""


@dataclass(kw_only=True)
class PruneInputs(Inputs):
    """What a pruning has read.

    Args:
        metric: what is measured, and ``items`` on what.
        heads: how the model's heads are laid out.
        groups: the texts in batches.
        sizes: for each step, the key-value heads that stay and the query heads of each.
        notes: what was left out.
    """

    subject: Subject
    metric: Metric
    items: Sequence[Item]
    heads: Heads
    groups: Sequence[Chunk]
    sizes: Sequence[tuple[int, int]]
    notes: list[Note]

    @property
    def steps(self) -> int:
        """How many models are made."""
        return len(self.sizes)

    @property
    def size(self) -> int:
        """Bytes of the model's weights."""
        return sum(p.numel() * p.element_size() for p in self.subject.model.parameters())


def prepare(options: PruneOptions, load: Load) -> PruneInputs:
    """The texts, and a model whose heads can be cut.

    Raises:
        LayerscopeError: texts that cannot be measured, a model whose heads cannot be cut, more
            steps than there are heads.
    """
    unusable: list[Unusable] = []
    metric, items = metric_and_texts(options, "loss", unusable)
    if metric.baseline_is_zero:
        raise MetricError(
            f"metric {metric.name} is a distance from the same model: expected one of its quality"
        )
    subject = load_for(metric, load)
    if subject.has_decoder:
        raise RunError(
            f"{subject.name} is an encoder-decoder: heads are cut out of models of one "
            "stack; 'layerscope ablate --component heads' measures its heads"
        )
    heads = heads_of(subject.model)
    sizes = numbers_to_save(subject.model)
    steps = len(sizes) if options.steps is None else options.steps
    if not 0 < steps <= len(sizes):
        shown = ", ".join(str(n_kv * each) for n_kv, each in sizes) or "none"
        raise RunError(
            f"--steps: expected 1 to {len(sizes)}, got {steps}: with fewer than the "
            f"{heads.n_heads} heads per layer, transformers can save {shown}"
        )
    items, reads = usable(items, lambda some: metric.reads(subject, some), unusable, options.skip)
    return PruneInputs(
        options=options,
        subject=subject,
        data=files_of(options, len(items)),
        metric=metric,
        items=items,
        heads=heads,
        groups=list(chunks(subject, reads, options.batch_tokens)),
        sizes=sizes[:steps],
        notes=[*item_notes(unusable, items, subject), *_passed_over(heads, sizes[:steps])],
    )


def _passed_over(heads: Heads, sizes: Sequence[tuple[int, int]]) -> list[Note]:
    """The numbers of heads on the way that transformers cannot save."""
    made = {n_kv * each for n_kv, each in sizes}
    n_kv, group = heads.n_kv_heads, heads.n_heads // heads.n_kv_heads
    passed = [n_kv * each for each in range(group, 0, -1)] + list(range(n_kv - 1, 0, -1))
    others = [n for n in passed if min(made) < n < heads.n_heads and n not in made]
    if not others:
        return []
    text = (
        f"transformers cannot save this model with {listed(list(map(str, others)))} heads per layer"
    )
    return [Note(kind="skipped", text=f"{text}: the next smaller number was taken")]


def cost(inputs: PruneInputs) -> Cost:
    """A second model in memory, and a model on disk for each step."""
    text = (
        f"{plural(inputs.steps, 'step')} from {plural(inputs.heads.n_heads, 'head')} a layer, "
        f"{plural(len(inputs.items), 'text')}; each step writes up to {size(inputs.size)} to "
        f"{inputs.options.out / 'models'}"
    )
    return Cost(text, memory=inputs.size, disk=inputs.steps * inputs.size)


def measure(inputs: PruneInputs, run: Run) -> Results:
    """Every step; its model goes to ``models/step-N``, which transformers can load."""
    clean = clean_values(inputs.subject, inputs.metric, inputs.groups)
    kept: Kept = inputs.heads.all
    steps: list[Mapping[str, Any]] = []
    with console.progress() as bars:
        bar = bars.add_task("pruning", total=inputs.steps)
        for step in range(1, inputs.steps + 1):
            saved = run.folder.kept(f"step-{step}", partial(_step, inputs, kept, step))
            kept = saved["kept"]
            given_seconds, seconds = saved["seconds"]
            run.speed[f"step {step}"] = {"seconds": seconds, "given_seconds": given_seconds}
            steps.append(saved)
            bars.advance(bar)
    return _results(inputs, clean, steps)


def _step(inputs: PruneInputs, kept: Kept, step: int) -> dict[str, Any]:
    """One step: weigh the heads of the model so far, cut, check, measure, write."""
    options, subject, metric, groups = inputs.options, inputs.subject, inputs.metric, inputs.groups
    now = subject
    if len(flat(kept[0])) < inputs.heads.n_heads:
        now = subject.of_model(with_heads(subject.model, kept))
    graded = get_metric(GRADED.get(metric.name, metric.name))
    importance = head_gates(now, graded, inputs.items, options.batch_tokens)
    fewer = _reduced(kept, importance, inputs.sizes[step - 1])
    smaller = subject.of_model(with_heads(subject.model, fewer))
    difference = zeroed_difference(subject.model, smaller.model, fewer, groups[0])
    is_half = smaller.dtype.itemsize < 4
    if not difference <= (ROUNDING_OF_HALF if is_half else ROUNDING):
        raise RunError(
            f"{subject.name}: attention without these heads differs from attention with "
            f"them at zero by {difference:.1e} of its largest value: "
            "this architecture cannot be pruned so"
        )
    random_values = []
    for draw in range(options.null_draws):
        drawn = random_heads(inputs.heads, fewer, options.seed + draw)
        other = subject.of_model(with_heads(subject.model, drawn))
        random_values.append(clean_values(other, metric, groups).tolist())
    _save(smaller, options.out / "models" / f"step-{step}")
    batch = groups[0].batch.inputs(subject.device)
    return {
        "kept": fewer,
        "importance": importance.tolist(),
        "values": clean_values(smaller, metric, groups).tolist(),
        "random": random_values,
        "difference": difference,
        "seconds": _seconds([subject.model, smaller.model], batch),
        "parameters": sum(p.numel() for p in smaller.model.parameters()),
    }


def head_gates(
    subject: Subject, metric: Metric, items: Sequence[Item], tokens: int
) -> Float[np.ndarray, "layers heads"]:
    """Mean over prompts of |d metric / d gate| of every head (Michel et al. 2019)."""
    groups = list(chunks(subject, metric.reads(subject, items), tokens))
    parts = components(subject.model, "heads", groups[0].batch)
    total = np.zeros(len(parts))
    for chunk in groups:
        total += np.abs(
            estimates(subject, metric, chunk, parts, lambda part: edits.zero()).effects
        ).sum(1)
    return total.reshape(1 + max(part.layer for part in parts), -1) / len(items)


def _reduced(
    kept: Kept, importance: Float[np.ndarray, "layers heads"], size: tuple[int, int]
) -> Kept:
    """The least important heads removed until so many key-value and query heads stay."""
    while (len(kept[0]), len(kept[0][0])) != size:
        fewer = without_least(kept, importance)
        stays = [np.isin(flat(old), flat(new)) for old, new in zip(kept, fewer, strict=True)]
        importance = np.stack([row[stay] for row, stay in zip(importance, stays, strict=True)])
        kept = fewer
    return kept


def without_least(
    kept: Kept, importance: Float[np.ndarray, "layers heads"]
) -> list[list[list[int]]]:
    """One query head less in every group; with one left in each, one group less in every layer.

    Args:
        importance: of the heads in the order in which they are kept.
    """
    out = []
    for groups, values in zip(kept, importance, strict=True):
        each = len(groups[0])
        table = np.asarray(values).reshape(len(groups), each)
        if each > 1:
            drop = table.argmin(1)
            out.append(
                [
                    [h for i, h in enumerate(members) if i != drop[g]]
                    for g, members in enumerate(groups)
                ]
            )
        else:
            least = int(table[:, 0].argmin())
            out.append([list(members) for g, members in enumerate(groups) if g != least])
    return out


def random_heads(heads: Heads, like: Kept, seed: int) -> list[list[list[int]]]:
    """As many heads as ``like`` keeps, drawn at random in every layer."""
    draw = np.random.default_rng(seed)
    out = []
    for groups, whole in zip(like, heads.all, strict=True):
        chosen = sorted(draw.choice(len(whole), len(groups), replace=False).tolist())
        out.append(
            [sorted(draw.choice(whole[g], len(groups[0]), replace=False).tolist()) for g in chosen]
        )
    return out


def zeroed_difference(model: nn.Module, smaller: nn.Module, kept: Kept, chunk: Chunk) -> float:
    """How far the smaller model's layers are from the whole model's with the missing heads at zero.

    Every layer of the smaller model is given the whole model's input of that layer, so that
    rounding in half precision does not add up; the result is the largest difference of an attention
    output, relative to the layer's largest.
    """
    every, layers = range(heads_of(model).n_heads), range(len(kept))
    inputs = chunk.batch.inputs(device_of(model))
    is_token = chunk.batch.attention_mask.bool().to(device_of(model))
    ends = [f"blocks.{layer}.hook_attn_out" for layer in layers]
    gone: dict[SiteLike, edits.Edit] = {}
    for layer in layers:
        missing = torch.tensor([h not in flat(kept[layer]) for h in every], device=is_token.device)
        gone[f"blocks.{layer}.attn.hook_z"] = edits.function(
            lambda z, m=missing: z.masked_fill(m[:, None], 0), "zero"
        )
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", NothingChanged)  # the first layer has this input anyway
        with (
            intervene(model, gone),
            capture(model, "blocks.*.hook_resid_pre", *ends, clone=True) as whole,
        ):
            model(**inputs)
        starts: dict[SiteLike, edits.Edit] = {
            f"blocks.{layer}.hook_resid_pre": edits.patch(whole) for layer in layers
        }
        with intervene(smaller, starts), capture(smaller, *ends) as cut:
            smaller(**inputs)
    return max(
        float((cut[end] - whole[end])[is_token].abs().max() / whole[end][is_token].abs().max())
        for end in ends
    )


def _seconds(models: Sequence[nn.Module], inputs: Mapping[str, torch.Tensor]) -> list[float]:
    """Median time of a forward of each model, taken in turns."""
    taken: list[list[float]] = [[] for _ in models]
    with torch.no_grad():
        for turn in range(REPEATS + 1):
            for model, times in zip(models, taken, strict=True):
                start = time.perf_counter()
                logits = model(**inputs).logits
                if logits.is_cuda:
                    torch.cuda.synchronize(logits.device)
                if turn:  # the first warms up
                    times.append(time.perf_counter() - start)
    return [float(np.median(times)) for times in taken]


def _save(subject: Subject, folder: Path) -> None:
    """Write a model that transformers can load; a reader sees the whole folder or none."""
    # One process works in a run's folder: what is there is of one that was killed.
    unfinished = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        model: Any = subject.model
        with quiet():
            model.save_pretrained(unfinished, safe_serialization=True)
        subject.tokenizer.save_pretrained(unfinished)
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _results(
    inputs: PruneInputs,
    clean: Float[np.ndarray, " texts"],
    steps: Sequence[Mapping[str, Any]],
) -> Results:
    """A record a step, step 0 the model as it was given."""
    seed, clusters = inputs.options.seed, clusters_of(inputs.items)
    metric = inputs.metric
    base = mean_of(clean, clusters, seed, metric.value_kind)
    records = [_given(inputs, base)]
    before: Kept = inputs.heads.all
    for step, saved in enumerate(steps, 1):
        values = np.array(saved["values"])
        change = mean_of(values - clean, clusters, seed, metric.difference_kind)
        mean = mean_of(values, clusters, seed, metric.value_kind)
        records.append(_record(inputs, step, saved, mean, change, before))
        before = saved["kept"]
    text = (
        "importance and quality are measured on the same texts: quality on other texts can be worse"
    )
    notes = [*inputs.notes, *group_notes(clusters), Note(kind="info", text=text)]
    if not inputs.options.null_draws:
        text = "no model with random heads removed to compare with (--null-draws 0)"
        notes.append(Note(kind="skipped", text=text))
    finding = Finding(property="pruning", text=_finding(records))
    return Results(records=records, baseline=base, findings=[finding], notes=notes)


def _given(inputs: PruneInputs, base: Mean) -> StepRecord:
    """The model as it was given."""
    heads, metric = inputs.heads, inputs.metric
    return StepRecord(
        step=0,
        heads=heads.n_heads,
        kv_heads=heads.n_kv_heads,
        parameters=sum(p.numel() for p in inputs.subject.model.parameters()),
        metric=metric.name,
        unit=metric.unit,
        n=len(inputs.items),
        value=base.value,
        value_interval=base.interval,
        n_clusters=base.n_clusters,
        change=0.0,
        change_interval=Interval(0.0, 0.0),
        random=base.value if inputs.options.null_draws else None,
        difference=None,
        removed=[],
        model=None,
    )


def _record(
    inputs: PruneInputs,
    step: int,
    saved: Mapping[str, Any],
    quality: Mean,
    change: Mean,
    before: Kept,
) -> StepRecord:
    """The model after a step.

    Args:
        before: the heads that were left before it.
    """
    left = [set(flat(groups)) for groups in saved["kept"]]
    removed = []
    for layer, groups in enumerate(before):
        removed += [[layer, head] for head in flat(groups) if head not in left[layer]]
    return StepRecord(
        step=step,
        heads=len(left[0]),
        kv_heads=len(saved["kept"][0]),
        parameters=saved["parameters"],
        metric=inputs.metric.name,
        unit=inputs.metric.unit,
        n=len(inputs.items),
        value=quality.value,
        value_interval=quality.interval,
        n_clusters=quality.n_clusters,
        change=change.value,
        change_interval=change.interval,
        random=float(np.mean(saved["random"])) if saved["random"] else None,
        difference=saved["difference"],
        removed=removed,
        model=f"models/step-{step}",
    )


def _finding(records: Sequence[StepRecord]) -> str:
    """The first step and the last, in a sentence."""
    whole = records[0]
    compared = [records[1]] if len(records) == 2 else [records[1], records[-1]]
    parts = []
    for record in compared:
        by_chance = ""
        if record.random is not None:
            by_chance = f" ({record.random:.3g} with random heads)"
        removed = 1 - record.parameters / whole.parameters
        after = with_unit(f"{record.value:.3g}", whole.unit)
        parts.append(
            f"With {record.heads} of {whole.heads} heads per layer, the {record.metric} "
            f"changes from {whole.value:.3g} to {after}{by_chance}, "
            f"and the model has {removed:.1%} fewer parameters."
        )
    return " ".join(parts)
