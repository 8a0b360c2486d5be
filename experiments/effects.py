"""Effects of edits over prompts: means with intervals, tests and the false-discovery rate over the grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from experiments.components import Component
from experiments.metrics import Metric
from experiments.prompts import Pair, Prompt
from probes.evaluation import ClusterBootstrap, benjamini_hochberg, interval, sign_flip_p

LEVEL = 0.05
"""False-discovery rate below which an effect is called clear of chance."""


def clusters_of(items: Sequence[Prompt] | Sequence[Pair]) -> Int[np.ndarray, " prompts"]:
    """The cluster of each prompt: its group, or itself."""
    groups = [item.group or f"item {i}" for i, item in enumerate(items)]
    return np.unique(groups, return_inverse=True)[1]


def mean_of(
    values: Float[np.ndarray, " prompts"], clusters: Int[np.ndarray, " prompts"], seed: int = 0
) -> dict[str, float]:
    """Mean over prompts with its interval."""
    found = ClusterBootstrap(clusters, seed=seed).mean(values)
    return {"value": found.value, "low": found.low, "high": found.high}


def differs_from_0(mean: dict[str, float]) -> bool:
    """Whether an interval leaves 0 out."""
    return mean["low"] > 0 or mean["high"] < 0


def effect_records(
    parts: Sequence[Component],
    effects: Float[np.ndarray, "components prompts"],
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
        more: further fields, the same for all.
    """
    boot = ClusterBootstrap(clusters, seed=seed)
    base = boot.mean(whole)
    some = base.low > 0 or base.high < 0
    p = sign_flip_p(effects.T, clusters, seed=seed)
    q = benjamini_hochberg(p)
    replicates = boot.means(np.column_stack([whole, effects.T]))
    records = []
    for i, (part, values) in enumerate(zip(parts, effects, strict=True)):
        effect = interval(float(values.mean()), replicates[:, i + 1])
        share = interval(effect.value / base.value, replicates[:, i + 1] / replicates[:, 0]) if some else None
        records.append(
            {
                "site": str(part.site),
                "layer": part.layer,
                "index": part.index,
                "component": part.kind,
                **more,
                "metric": metric.name,
                "unit": metric.unit,
                "effect": effect.value,
                "low": effect.low,
                "high": effect.high,
                "normalised": share.value if share else None,
                "normalised_low": share.low if share else None,
                "normalised_high": share.high if share else None,
                "p": p[i],
                "q": q[i],
                "n": len(values),
                "n_clusters": boot.n_clusters,
            }
        )
    return records


def strongest(records: Sequence[dict[str, Any]], count: int = 10) -> list[dict[str, Any]]:
    """The components with the largest effect either way."""
    return sorted(records, key=lambda r: -abs(r["effect"]))[:count]


def clear_of_chance(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records whose false-discovery rate is below ``LEVEL``."""
    return [r for r in records if r["q"] < LEVEL]


def component_name(record: dict[str, Any]) -> str:
    """How people call it: L3H5, L3N1024, L3 MLP, L3 at position 7."""
    kind, layer = record["component"], record["layer"]
    after = {
        "heads": f"H{record['index']}",
        "neurons": f"N{record['index']}",
        "positions": f" at position {record['index']}",
        "mlps": " MLP",
        "attentions": " attention",
    }
    return f"L{layer}{after.get(kind, '')}"


def ranking(records: Sequence[dict[str, Any]], count: int = 5) -> str:
    """The strongest by name, for a sentence."""
    return ", ".join(f"{component_name(r)} ({r['effect']:+.3g})" for r in strongest(records, count))
