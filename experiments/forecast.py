"""How long a study will take, from a few of its own forwards, timed: what ``--dry-run`` says.

    passes over texts   seconds = positions of all batches * (seconds / positions of the timed ones)
    edited parts        seconds = sum over batches and parts of (seconds a part at its layer), interpolated between layers
    items               seconds = items * (seconds / items of the timed ones)

The first forward of a shape is not counted. Other loads on the machine change the answer: it is an estimate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from ..hooks import edits
from .interventions.components import Component, edit_at
from .interventions.metrics import Metric
from .interventions.sweep import Chunk, Sweep
from .subject import Subject
from .subject.word_spans import Encoded

Item = TypeVar("Item")

TIMED = 3
"""Batches, or layers, that are timed."""
PARTS = 16
"""Parts of a layer that are timed together."""


def pass_seconds(subject: Subject, encoded: Sequence[Encoded], tokens: int, *, logits: bool = False) -> float:
    """One pass of the model over all texts, in seconds.

    Args:
        tokens: positions of a batch.
        logits: whether the vocabulary projection runs too.
    """
    if not encoded:
        return 0.0
    batches = list(subject.batches(encoded, tokens))
    some = [batches[i] for i in _spread(len(batches))]
    subject.forward(some[-1], logits=logits)  # the first forward also allocates
    spent = [_timed(subject, lambda b=batch: subject.forward(b, logits=logits)) for batch in some]
    positions = sum(batch.input_ids.numel() for batch in batches)
    return positions * sum(spent) / sum(batch.input_ids.numel() for batch in some)


def of_sweeps(
    config: Any, subject: Subject, metric: Metric, groups: Sequence[Chunk], parts: Sequence[Component], times: int = 1
) -> dict[str, Any]:
    """``seconds`` and ``besides`` of `experiments.run.Run.plan` for sweeps that an `EffectsConfig` asks for.

    Args:
        times: how often all parts are swept: values, directions.
    """
    exact = config.estimate == "none"
    tested = len(parts) if exact else min(config.verify + config.sample, len(parts))
    runs = times * (1 + config.null)
    seconds = partial(sweep_seconds, subject, metric, groups, parts, runs * tested / len(parts))
    return {"seconds": seconds, "besides": "" if exact else "the gradients"}


def sweep_seconds(
    subject: Subject, metric: Metric, groups: Sequence[Chunk], parts: Sequence[Component], runs: float = 1.0
) -> float:
    """Every part edited in turn on every batch of prompts, in seconds.

    Args:
        runs: how often each part is edited.
    """
    chunk = groups[len(groups) // 2]
    sweep = Sweep(subject, metric, chunk)
    clean = _timed(subject, lambda: Sweep(subject, metric, chunk))
    layers = sorted({part.layer for part in parts})
    known = [layers[i] for i in _spread(len(layers))]
    each = []
    for layer in known:
        some = [(p, edit_at(p, edits.zero())) for p in parts if p.layer == layer][:PARTS]
        each.append(_timed(subject, lambda some=some: sweep.effects(some)) / len(some))
    of_part = np.interp([part.layer for part in parts], known, each)
    positions = sum(group.batch.input_ids.numel() for group in groups) / chunk.batch.input_ids.numel()
    return float(positions * (clean + runs * of_part.sum()))


def metric_seconds(subject: Subject, metric: Metric, groups: Sequence[Chunk]) -> float:
    """One measurement of every prompt, without edits, in seconds."""
    chunk = groups[len(groups) // 2]
    spent = _timed(subject, lambda: Sweep(subject, metric, chunk))
    return spent * sum(group.batch.input_ids.numel() for group in groups) / chunk.batch.input_ids.numel()


def of_items(
    subject: Subject, items: Sequence[Item], work: Callable[[Item], object], timed: int = TIMED
) -> Callable[[], float] | None:
    """What all items take, from some of them; None where those would be as good as all."""
    if len(items) < 2 * timed:
        return None
    some = [items[i] for i in _spread(len(items), timed)]

    def seconds() -> float:
        work(some[0])  # the first forward also allocates
        return len(items) * _timed(subject, lambda: [work(item) for item in some]) / len(some)

    return seconds


def _spread(n: int, some: int = TIMED) -> list[int]:
    """The first, the last and some between of ``n``."""
    return sorted({round(i) for i in np.linspace(0, n - 1, min(some, n))})


def _timed(subject: Subject, work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    if subject.device.type == "cuda":
        torch.cuda.synchronize(subject.device)
    return time.perf_counter() - start
