"""Effects of edits over prompts: means with intervals, tests and the false-discovery rate over the grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ...probes.evaluation import REPLICATES, ClusterBootstrap, benjamini_hochberg, interval, sign_flip_p
from ..corpus.prompts import Item
from ..metrics.metrics import Metric
from .components import Component
from .measure import Measured

FEW = 10
"""Groups below which resampling them is not to be trusted."""
BLOCK = 256
"""Components whose resamples are held at a time."""


def finite(value: float) -> float | None:
    """The number, or None for what was not measured."""
    return value if np.isfinite(value) else None


def clusters_of(items: Sequence[Item]) -> Int[np.ndarray, " prompts"]:
    """The cluster of each prompt: its group, or itself."""
    groups = [item.group or f"item {i}" for i, item in enumerate(items)]
    return np.unique(groups, return_inverse=True)[1]


def group_notes(clusters: Int[np.ndarray, " prompts"]) -> list[dict[str, str]]:
    """A warning where there are too few groups, or items without groups, to resample."""
    count = int(clusters.max()) + 1
    if count >= FEW:
        return []
    what = f"{count} items" if count == len(clusters) else f"{count} groups of {len(clusters)} items"
    text = f"only {what}: below {FEW} of them intervals and tests say little"
    return [{"kind": "warning", "text": text}]


def mean_of(
    values: Float[np.ndarray, " prompts"], clusters: Int[np.ndarray, " prompts"], seed: int = 0
) -> dict[str, float]:
    """Mean over prompts with its interval."""
    boot = ClusterBootstrap(clusters, seed=seed)
    return _mean(boot, values)


def _mean(boot: ClusterBootstrap, values: Float[np.ndarray, " prompts"]) -> dict[str, float]:
    found = boot.mean(values)
    return {"value": found.value, "low": found.low, "high": found.high, "n_clusters": boot.n_clusters}


def differs_from_0(mean: dict[str, float]) -> bool:
    """Whether the interval of a mean (`mean_of`) leaves 0 out; that of a single cluster says nothing."""
    return mean["n_clusters"] > 1 and (mean["low"] > 0 or mean["high"] < 0)


def effect_records(
    parts: Sequence[Component],
    found: Measured,
    whole: Float[np.ndarray, " prompts"],
    clusters: Int[np.ndarray, " prompts"],
    metric: Metric,
    seed: int = 0,
    **more: Any,
) -> list[dict[str, Any]]:
    """One record a component.

    ``effect`` is the mean over prompts of edited minus unedited, its interval a paired bootstrap over clusters, ``p``
    that of a sign-flip test, ``q`` its false-discovery rate over all components; ``normalised`` is effect / mean of
    ``whole``, None where the interval of that mean holds 0: a share of nothing is not a number to report.

    Args:
        whole: what effects are shares of: the unedited metric, or its distance to another run's.
        found: effects that are not exact have no ``p`` and ``q``, and count as p = 1 for the others' ``q``.
        more: further fields, the same for all.
    """
    boot = ClusterBootstrap(clusters, seed=seed)
    base = _mean(boot, whole)
    some = differs_from_0(base)
    effects, exact = found.effects, found.tested
    p = np.ones(len(parts))
    flips = max(REPLICATES, 10 * len(parts))  # enough that the smallest p can be told from 0 in the whole grid
    p[exact] = sign_flip_p(effects[exact].T, clusters, flips, seed)
    q = benjamini_hochberg(p.tolist())
    records = []
    for start in range(0, len(parts), BLOCK):
        block = effects[start : start + BLOCK]
        replicates = boot.means(np.column_stack([whole, block.T]))
        for i, values in enumerate(block):
            part, number = parts[start + i], start + i
            effect = interval(float(values.mean()), replicates[:, i + 1])
            share = interval(effect.value / base["value"], replicates[:, i + 1] / replicates[:, 0]) if some else None
            records.append(
                {
                    "site": str(part.site),
                    "layer": part.layer,
                    "index": part.index,
                    "component": part.kind,
                    **more,
                    "metric": metric.name,
                    "unit": metric.unit,
                    "exact": bool(exact[number]),
                    "effect": effect.value,
                    "low": effect.low,
                    "high": effect.high,
                    "normalised": share.value if share else None,
                    "normalised_low": share.low if share else None,
                    "normalised_high": share.high if share else None,
                    "p": float(p[number]) if exact[number] else None,
                    "q": q[number] if exact[number] else None,
                    "n": len(values),
                    "n_clusters": boot.n_clusters,
                    **{name: finite(float(column[number])) for name, column in found.more.items()},
                }
            )
    return records
