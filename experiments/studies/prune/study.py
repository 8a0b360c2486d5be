"""Head pruning that is real: the least important heads leave the weights, step by step, and the model gets smaller.

Importance is the size of a head's gate (Michel et al. 2019): mean over prompts of |d metric / d gate|, computed again on
the smaller model before every step. A configuration has one number of heads for all layers, so a step takes the least
important query head out of every group of heads that share a key-value head, in every layer; when groups are down to one,
the least important key-value head of every layer, with its query.
"""

from __future__ import annotations

import os
import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from jaxtyping import Float
from torch import nn

from ....hooks import NothingChanged, capture, edits, intervene
from ....hooks.sites import SiteLike
from ...corpus.prompts import Pair, Prompt
from ...forecast import metric_seconds
from ...metrics.metrics import Metric, get_metric, metric_and_texts
from ...metrics.reads import MetricError
from ...runs import console
from ...runs.execute import Run, data_record
from ...runs.folder import RunError, file_sha256
from ...subject import Subject
from ...sweep.components import components
from ...sweep.effects import clusters_of, group_notes, mean_of
from ...sweep.estimate import estimates
from ...sweep.sweep import Chunk, chunks, clean_values
from .cut_heads import Heads, Kept, flat, heads_of, with_heads
from .options import PruneOptions

GRADED = {"pair_accuracy": "pair_difference", "answer_accuracy": "answer_difference", "rank": "log_probability"}
"""Metrics without a gradient, and the one whose gates stand for them."""
REPEATS = 7
"""Forwards that are timed for each model; the medians are compared."""
ROUNDING, ROUNDING_OF_HALF = 1e-5, 5e-2
"""Largest difference of `zeroed_difference`, and that in half precision."""


def run(config: PruneOptions) -> dict[str, Any]:
    """Run or continue a pruning; returns what ``results.json`` holds.

    Writes ``config.json``, ``results.json``, ``report.html`` and a folder that transformers can load for each step,
    ``models/step-N``, to ``config.out``; interrupted, it continues with the first step that is missing.

    Raises:
        ValueError, LookupError, OSError: bad input, each one clear line.
    """
    this = Run("prune", config)
    metric, items = metric_and_texts(config, "loss")
    if metric.baseline_is_zero:
        raise MetricError(f"metric {metric.name} is a distance from the same model: expected one of its quality")
    subject = this.load()
    heads = heads_of(subject.model)
    possible = heads.n_heads // heads.n_kv_heads - 1 + heads.n_kv_heads - 1
    steps = possible if config.steps is None else config.steps
    if not 0 < steps <= possible:
        raise RunError(
            f"--steps: expected 1 to {possible} ({heads.n_heads} heads a layer in {heads.n_kv_heads} groups), got {steps}"
        )
    groups = list(chunks(subject, metric.reads(subject, items), config.batch_tokens))
    if (finished := this.open(subject, {str(config.source): file_sha256(config.source)})) is not None:
        return finished
    size = sum(p.numel() * p.element_size() for p in subject.model.parameters())
    plan = (
        f"{steps} steps from {heads.n_heads} heads a layer, {len(items)} texts; each step writes up to "
        f"{size / 1e9:.2f} GB to {config.out / 'models'}"
    )
    passes = steps * (4 + config.random)  # gradients take about three
    planned = this.plan(
        plan,
        held=size,
        disk=steps * size,
        seconds=lambda: passes * metric_seconds(subject, metric, groups),
        besides="cutting and writing the models",
    )
    if planned is not None:
        return planned
    clean = clean_values(subject, metric, groups)
    kept: Kept = heads.all
    found = []
    with console.progress() as bars:
        bar = bars.add_task("pruning", total=steps)
        for step in range(1, steps + 1):
            saved = this.folder.cell(f"step-{step}")
            if saved is None:
                saved = _step(config, subject, heads, kept, metric, items, groups, step)
                this.folder.save_cell(f"step-{step}", saved)
            kept = saved["kept"]
            found.append(saved)
            bars.advance(bar)
    return this.finish(
        _results(config, subject, heads, metric, items, clean, found),
        data=[data_record("texts", config.source, len(items))],
    )


def _step(
    config: PruneOptions,
    subject: Subject,
    heads: Heads,
    kept: Kept,
    metric: Metric,
    items: Sequence[Prompt] | Sequence[Pair],
    groups: Sequence[Chunk],
    step: int,
) -> dict[str, Any]:
    """One step: weigh the heads of the model so far, cut, check, measure, write."""
    now = subject if len(flat(kept[0])) == heads.n_heads else subject.of_model(with_heads(subject.model, kept))
    importance = head_gates(now, get_metric(GRADED.get(metric.name, metric.name)), items, config.batch_tokens)
    fewer = without_least(kept, importance)
    smaller = subject.of_model(with_heads(subject.model, fewer))
    difference = zeroed_difference(subject.model, smaller.model, fewer, groups[0])
    limit = ROUNDING if next(smaller.model.parameters()).dtype.itemsize >= 4 else ROUNDING_OF_HALF
    if not difference <= limit:
        raise RunError(
            f"{subject.name}: attention without these heads differs from attention with them at zero by {difference:.1e} of "
            "its largest value: this architecture cannot be pruned so"
        )
    drawn = []
    for draw in range(config.random):
        other = subject.of_model(with_heads(subject.model, random_heads(heads, fewer, config.seed + draw)))
        drawn.append(clean_values(other, metric, groups).tolist())
    _save(smaller, config.out / "models" / f"step-{step}")
    seconds = _seconds([subject.model, smaller.model], groups[0].batch.inputs(subject.device))
    return {
        "kept": fewer,
        "importance": importance.tolist(),
        "values": clean_values(smaller, metric, groups).tolist(),
        "random": drawn,
        "difference": difference,
        "seconds": seconds,
        "parameters": sum(p.numel() for p in smaller.model.parameters()),
    }


def head_gates(
    subject: Subject, metric: Metric, items: Sequence[Prompt] | Sequence[Pair], tokens: int
) -> Float[np.ndarray, "layers heads"]:
    """Mean over prompts of |d metric / d gate| of every head (Michel et al. 2019)."""
    groups = list(chunks(subject, metric.reads(subject, items), tokens))
    parts = components(subject.model, "heads", groups[0].batch)
    total = np.zeros(len(parts))
    for chunk in groups:
        total += np.abs(estimates(subject, metric, chunk, parts, lambda part: edits.zero()).effects).sum(1)
    return total.reshape(1 + max(part.layer for part in parts), -1) / len(items)


def without_least(kept: Kept, importance: Float[np.ndarray, "layers heads"]) -> list[list[list[int]]]:
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
            out.append([[h for i, h in enumerate(members) if i != drop[g]] for g, members in enumerate(groups)])
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
        out.append([sorted(draw.choice(whole[g], len(groups[0]), replace=False).tolist()) for g in chosen])
    return out


def zeroed_difference(model: nn.Module, smaller: nn.Module, kept: Kept, chunk: Chunk) -> float:
    """How far the smaller model's layers are from the whole model's with the missing heads at zero.

    Every layer of the smaller model is given the whole model's input of that layer, so that rounding in half precision
    does not add up; the result is the largest difference of an attention output, relative to the layer's largest.
    """
    every, layers = range(heads_of(model).n_heads), range(len(kept))
    inputs = chunk.batch.inputs(next(model.parameters()).device)
    there = chunk.batch.attention_mask.bool().to(next(model.parameters()).device)
    ends = [f"blocks.{layer}.hook_attn_out" for layer in layers]
    gone: dict[SiteLike, edits.Edit] = {}
    for layer in layers:
        missing = torch.tensor([h not in flat(kept[layer]) for h in every], device=there.device)
        gone[f"blocks.{layer}.attn.hook_z"] = edits.function(lambda z, m=missing: z.masked_fill(m[:, None], 0), "zero")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", NothingChanged)  # the first layer has this input anyway
        with intervene(model, gone), capture(model, "blocks.*.hook_resid_pre", *ends, clone=True) as whole:
            model(**inputs)
        starts: dict[SiteLike, edits.Edit] = {f"blocks.{layer}.hook_resid_pre": edits.patch(whole) for layer in layers}
        with intervene(smaller, starts), capture(smaller, *ends) as cut:
            smaller(**inputs)
    return max(float((cut[end] - whole[end])[there].abs().max() / whole[end][there].abs().max()) for end in ends)


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
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        model: Any = subject.model
        try:
            model.save_pretrained(unfinished, safe_serialization=True)
        except StrictDataclassError as error:  # Llama's, where the width is no multiple of the heads
            why = " ".join(str(error.__cause__ or error).split())
            raise RunError(
                f"{folder.name}: transformers saves no {type(model).__name__} of this shape: {why.rstrip('.')}; --steps "
                "stops before it"
            ) from error
        subject.tokenizer.save_pretrained(unfinished)
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _results(
    config: PruneOptions,
    subject: Subject,
    heads: Heads,
    metric: Metric,
    items: Sequence[Prompt] | Sequence[Pair],
    clean: Float[np.ndarray, " texts"],
    found: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """A record a step, step 0 the model as it was given."""
    clusters = clusters_of(items)
    base = mean_of(clean, clusters, config.seed)
    whole = sum(p.numel() for p in subject.model.parameters())
    common = {"metric": metric.name, "unit": metric.unit, "n": len(items)}
    records: list[dict[str, Any]] = [
        {
            "step": 0,
            "heads": heads.n_heads,
            "kv_heads": heads.n_kv_heads,
            "parameters": whole,
            **common,
            **base,
            "change": 0.0,
            "change_low": 0.0,
            "change_high": 0.0,
            "random": base["value"] if config.random else None,
            "speed": 1.0,
            "seconds": None,
            "original_seconds": None,
            "difference": None,
            "removed": [],
            "model": None,
        }
    ]
    before: Kept = heads.all
    for step, saved in enumerate(found, 1):
        values, kept = np.array(saved["values"]), saved["kept"]
        change = mean_of(values - clean, clusters, config.seed)
        left = [set(flat(groups)) for groups in kept]
        records.append(
            {
                "step": step,
                "heads": len(left[0]),
                "kv_heads": len(kept[0]),
                "parameters": saved["parameters"],
                **common,
                **mean_of(values, clusters, config.seed),
                "change": change["value"],
                "change_low": change["low"],
                "change_high": change["high"],
                "random": float(np.mean(saved["random"])) if saved["random"] else None,
                "speed": saved["seconds"][0] / saved["seconds"][1],
                "seconds": saved["seconds"][1],
                "original_seconds": saved["seconds"][0],
                "difference": saved["difference"],
                "removed": [
                    [layer, h] for layer, groups in enumerate(before) for h in flat(groups) if h not in left[layer]
                ],
                "model": f"models/step-{step}",
            }
        )
        before = kept
    notes = [
        *group_notes(clusters),
        {
            "kind": "info",
            "text": "importance and quality are measured on the same texts: the quality of a pruned model on other texts can "
            "be worse",
        },
    ]
    if not config.random:
        notes.append({"kind": "skipped", "text": "no model with random heads removed to compare with (--random 0)"})
    findings = [{"property": "pruning", "text": _finding(records)}]
    return {"records": records, "baseline": base, "findings": findings, "notes": notes}


def _finding(records: Sequence[Mapping[str, Any]]) -> str:
    """The first step and the last, in a sentence."""
    whole, unit = records[0], records[0]["unit"]
    shown = [records[1]] if len(records) == 2 else [records[1], records[-1]]
    parts = []
    for r in shown:
        by_chance = f" (with heads drawn at random {r['random']:.3g})" if r["random"] is not None else ""
        parts.append(
            f"with {r['heads']} of {whole['heads']} heads a layer the {r['metric']} goes from {whole['value']:.3g} to "
            f"{r['value']:.3g} {unit}{by_chance}, {1 - r['parameters'] / whole['parameters']:.1%} of the parameters are gone "
            f"and a forward takes {1 / r['speed']:.0%} of its time"
        )
    text = "; ".join(parts)
    return text[0].upper() + text[1:] + "."
