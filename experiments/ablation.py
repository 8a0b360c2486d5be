"""Ablation: every head, neuron, MLP, attention or block taken out on its own, and what the model then says.

    effect = metric(component <- value) - metric(clean),  mean over prompts

Values: zero (for a block: it adds nothing), mean (over the reference texts' tokens, a BOS left out), mean-position
(token by token from the text's start), resample (another reference text's value).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import screen
from experiments.config import AblateConfig, as_command
from experiments.effects import strongest, summarise_effects
from experiments.metrics import Metric, MetricError, get_metric
from experiments.prompts import Pair, Prompt, read_pairs, read_prompts
from experiments.results import SCHEMA, RunError, RunFolder, file_sha256, machine, now, peak_memory, plain, versions
from experiments.subject import Subject, load
from experiments.sweep import Chunk, Component, Sweep, chunks, components, inputs_of
from hooks import Reference, edits
from hooks.edits import Edit

LARGE_GRID = 5000
"""Components above which an exact sweep says beforehand how many forwards it is."""


def run(config: AblateConfig) -> dict[str, Any]:
    """Run or continue a sweep; returns what ``results.json`` holds.

    Writes ``config.json``, ``results.json`` and ``report.html`` to ``config.out``; interrupted, it continues with the
    first batch of prompts that is missing.

    Raises:
        ValueError, LookupError, OSError: bad input, each one clear line.
    """
    from experiments.report import write_report

    started, clock = now(), time.perf_counter()
    items, metric = _items(config)
    subject = load(
        config.model,
        dtype=config.dtype,
        device=config.device,
        bos=config.bos,
        trust_remote_code=config.trust_remote_code,
    )
    reads = metric.reads(subject, items)
    source = config.prompts or config.pairs or Path()
    identity = {
        **{k: v for k, v in dataclasses.asdict(config).items() if k != "out"},
        "model_sha256": subject.sha256,
        "data_sha256": {str(path): file_sha256(path) for path in (source, config.reference) if path is not None},
        "layerscope": versions()["layerscope"],
    }
    folder = RunFolder(config.out, identity)
    if (finished := folder.results) is not None:
        screen.say(f"{config.out} holds this run already, finished: nothing is computed again")
        return finished

    groups = list(chunks(subject, reads, config.batch_tokens))
    parts = components(subject.model, config.component, groups[0].batch)
    screen.say(
        f"plan: {len(parts):,} {config.component} x {len(items)} {'pairs' if config.pairs else 'prompts'} in "
        f"{len(groups)} batches"
    )
    if len(parts) > LARGE_GRID:
        screen.say(f"this is {len(parts) * len(groups):,} edited forwards: --limit takes fewer prompts")
    edit_of = _edits(config, subject, parts, groups)
    effects, clean = np.empty((len(parts), len(items))), np.empty(len(items))
    with screen.progress() as bars:
        bar = bars.add_task(f"{config.component}, {config.value}", total=len(groups) * len(parts))
        for number, chunk in enumerate(groups):
            saved = folder.cell(f"batch-{number}")
            if saved is None:
                sweep = Sweep(subject, metric, chunk)
                saved = {"clean": sweep.clean.tolist(), "effects": []}
                for layer in sorted({part.layer for part in parts}):
                    mine = [(part, edit_of(part)) for part in parts if part.layer == layer]
                    saved["effects"] += sweep.effects(mine).tolist()
                    bars.advance(bar, len(mine))
                folder.save_cell(f"batch-{number}", saved)
            else:
                bars.advance(bar, len(parts))
            clean[chunk.prompts], effects[:, chunk.prompts] = saved["clean"], saved["effects"]

    results = _results(config, metric, items, parts, effects, clean)
    results["notes"] += [{"kind": "info", "text": note} for note in subject.notes]
    provenance = {
        "command": as_command("ablate", config),
        "config": plain(dataclasses.asdict(config)),
        "model": subject.describe(),
        "data": [{"split": "prompts", "path": str(source), "sha256": file_sha256(source), "sentences": len(items)}],
        "versions": versions(),
        "machine": machine(subject.device),
        "seed": config.seed,
        "started": started,
        "finished": now(),
        "seconds": round(time.perf_counter() - clock, 1),
        "memory": {"peak_rss_bytes": peak_memory()},
    }
    results = {"schema": SCHEMA, "kind": "ablate", "provenance": provenance, **results}
    write_report(results, config.out / "report.html")
    folder.finish(results)
    return results


def _items(config: AblateConfig) -> tuple[Sequence[Prompt] | Sequence[Pair], Metric]:
    """The prompts or pairs, and the metric that goes with them."""
    if (config.prompts is None) == (config.pairs is None):
        raise RunError("expected one of --prompts FILE and --pairs FILE")
    metric = get_metric(config.metric or ("pair_difference" if config.pairs else "logit_difference"))
    if metric.of_pairs != (config.pairs is not None):
        raise MetricError(
            f"metric {metric.name} is of {'pairs' if metric.of_pairs else 'prompts'}: give --pairs or --prompts"
        )
    if config.pairs is not None:
        return read_pairs(config.pairs, config.limit), metric
    return read_prompts(config.prompts or "", config.limit), metric


def _edits(
    config: AblateConfig, subject: Subject, parts: Sequence[Component], groups: Sequence[Chunk]
) -> Callable[[Component], Edit]:
    """From a component to the edit that takes it out."""
    if config.value == "zero":
        if config.component != "layers":
            return lambda part: edits.zero()
        return lambda part: dataclasses.replace(edits.copy(f"blocks.{part.layer}.hook_resid_pre"), name="skip")
    if config.reference is not None:
        encoded = subject.encode([prompt.prompt for prompt in read_prompts(config.reference)])
        batches = [inputs_of(batch, subject.device) for batch in subject.batches(encoded)]
    else:
        batches = [inputs_of(chunk.batch, subject.device) for chunk in groups]
    skip = 1 if subject.has_sink_position else 0
    names = list(dict.fromkeys(part.site.name for part in parts))
    reference = Reference.of(subject.model, *names, batches=batches, skip=skip)
    made: dict[str, Edit] = {
        "mean": edits.mean(reference),
        "mean-position": edits.mean(reference, per="position"),
        "resample": edits.resample(reference, config.seed),
    }
    return lambda part: made[config.value]


def _results(
    config: AblateConfig,
    metric: Metric,
    items: Sequence[Prompt] | Sequence[Pair],
    parts: Sequence[Component],
    effects: np.ndarray,
    clean: np.ndarray,
) -> dict[str, Any]:
    """Records, findings and notes."""
    groups = [item.group or f"item {i}" for i, item in enumerate(items)]
    clusters = np.unique(groups, return_inverse=True)[1]
    found, base = summarise_effects(effects, clean, clusters, config.seed)
    records = [
        {
            "site": str(part.site),
            "layer": part.layer,
            "index": part.index,
            "component": config.component,
            "value": config.value,
            "metric": metric.name,
            "unit": metric.unit,
            **record,
        }
        for part, record in zip(parts, found, strict=True)
    ]
    notes = []
    if still := int((effects == 0).all(1).sum()):
        text = (
            f"{still} of {len(parts)} {config.component} changed nothing at all: their value was the ablation's already"
        )
        notes.append({"kind": "warning", "text": text})
    if not metric.baseline_is_zero and records[0]["normalised"] is None:
        span = f"{base['low']:.3g} to {base['high']:.3g}"
        text = f"effects are not normalised: the clean {metric.name} is not different from 0 (95% {span})"
        notes.append({"kind": "skipped", "text": text})
    if config.value == "resample":
        notes.append(
            {"kind": "info", "text": "each text's values come from one drawn reference text, the same at all sites"}
        )
    clear = [r for r in records if r["q"] < 0.05]
    top = strongest(records)
    names = ", ".join(f"{component_name(r)} ({r['effect']:+.3g})" for r in top[:5])
    finding = (
        f"The clean {metric.name} is {base['value']:.3g} {metric.unit} (95% {base['low']:.3g} to {base['high']:.3g}, "
        f"n = {len(items)}). {len(clear)} of {len(parts)} {config.component} change it by {config.value} ablation at a "
        f"false-discovery rate of 5%; the strongest are {names}."
    )
    return {
        "records": records,
        "baseline": base,
        "findings": [{"property": config.component, "text": finding}],
        "notes": notes,
    }


def component_name(record: dict[str, Any]) -> str:
    """How people call it: L3H5, L3N1024, L3 MLP."""
    kind, layer = record["component"], record["layer"]
    if record["index"] is not None:
        return f"L{layer}{'H' if kind == 'heads' else 'N'}{record['index']}"
    return f"L{layer}" + {"mlps": " MLP", "attentions": " attention", "layers": ""}[kind]
