"""Effects of edits over prompts: means with intervals, tests and the false-discovery rate over the grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from probes.evaluation import ClusterBootstrap, benjamini_hochberg, interval, sign_flip_p


def summarise_effects(
    effects: Float[np.ndarray, "components prompts"],
    clean: Float[np.ndarray, " prompts"],
    clusters: Int[np.ndarray, " prompts"],
    seed: int = 0,
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """One record a component, and the clean metric.

    ``effect`` is the mean over prompts of edited minus clean, its interval a paired bootstrap over clusters, ``p`` that
    of a sign-flip test, ``q`` its false-discovery rate over all components; ``normalised`` is effect / clean mean,
    None where the clean mean's interval holds 0: a share of nothing is not a number to report.
    """
    boot = ClusterBootstrap(clusters, seed=seed)
    base = boot.mean(clean)
    some = base.low > 0 or base.high < 0
    p = sign_flip_p(effects.T, clusters, seed=seed)
    q = benjamini_hochberg(p)
    replicates = boot.means(np.column_stack([clean, effects.T]))
    records = []
    for i, values in enumerate(effects):
        effect = interval(float(values.mean()), replicates[:, i + 1])
        share = interval(effect.value / base.value, replicates[:, i + 1] / replicates[:, 0]) if some else None
        records.append(
            {
                "baseline": base.value,
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
    return records, {"value": base.value, "low": base.low, "high": base.high}


def strongest(records: Sequence[dict[str, Any]], count: int = 10) -> list[dict[str, Any]]:
    """The components with the largest effect either way."""
    return sorted(records, key=lambda r: -abs(r["effect"]))[:count]
