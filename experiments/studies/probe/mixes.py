"""Scalar mixes of a study: which layers a probe wants that may read all, and where each property is resolved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ....probes.evaluation import ClusterBootstrap, interval
from ....probes.mixing import expected_layer, mix_many
from ...tasks.task import Task, solved_together


def mix_records(
    tasks: Sequence[Task],
    features: Sequence[Float[Tensor, "rows d"]],
    sites: Sequence[str],
    seed: int,
    progress: Callable[[int, int], object] | None = None,
) -> list[dict[str, Any]]:
    """One record a property of classes.

    Args:
        features: of all sites, in their order, the embedding layer first.

    Returns:
        Records with ``sites, mix`` (the weights of the probe that sees all layers), ``centre_of_gravity`` (the embedding layer
        counts as 0), ``centre_above`` (of layers 1 and up, weights scaled to sum to 1), ``peakedness`` (bits), ``cumulative``
        (accuracy of the probe of layers 0..k), ``headroom, headroom_low, headroom_high`` (the last less the first),
        ``expected_layer, low, high`` (null where the headroom's interval holds 0), ``converged``.
    """
    out = []
    for group in solved_together([task for task in tasks if task.property.kind == "class"]):
        train, dev, test = ([group[0].vectors(f, split) for f in features] for split in ("train", "dev", "test"))
        labels, held = ({t.property.name: t.parts[s].labels for t in group} for s in ("train", "dev"))
        fits = mix_many(train, labels, (dev, held), seed=seed, progress=progress)
        for task in group:
            name, gold = task.property.name, np.array([str(v) for v in task.parts["test"].labels])
            own = [fits[name, top] for top in range(len(sites))]
            right = np.column_stack([fit.predict(test).astype(str) == gold for fit in own]).astype(float)
            out.append(
                {
                    "property": name,
                    "sites": list(sites),
                    "mix": [round(float(a), 6) for a in own[-1].mix],
                    "centre_of_gravity": own[-1].centre_of_gravity,
                    "centre_above": _above(own[-1].mix.numpy()),
                    "peakedness": own[-1].peakedness,
                    "cumulative": [float(v) for v in right.mean(0)],
                    **_expected(right, ClusterBootstrap(task.parts["test"].clusters, seed=seed)),
                    "converged": all(fit.converged for fit in own),
                }
            )
    return out


def _above(mix: np.ndarray) -> float | None:
    """Centre of gravity of the layers above the embedding; None where there is none."""
    upper = mix[1:].astype(float)
    return float((np.arange(1, len(mix)) * upper).sum() / upper.sum()) if len(upper) else None


def _expected(right: Float[np.ndarray, "n layers"], boot: ClusterBootstrap) -> dict[str, float | None]:
    """The expected layer with its interval, refused where there is nothing to explain."""
    room = boot.mean(right[:, -1] - right[:, 0])
    found: dict[str, float | None] = {"expected_layer": None, "low": None, "high": None}
    if room.low > 0:
        own = interval(float(expected_layer(right.mean(0))), expected_layer(boot.means(right)))
        found = {"expected_layer": own.value, "low": own.low, "high": own.high}
    return {"headroom": room.value, "headroom_low": room.low, "headroom_high": room.high, **found}


def mix_finding(record: dict[str, Any]) -> str:
    """One sentence in words."""
    name, room = record["property"], record["headroom"]
    text = (
        f"{name}: a probe that may read all layers has its centre of gravity at {record['centre_of_gravity']:.2f} "
        f"(the embedding layer counts as 0)"
    )
    if record["expected_layer"] is None:
        return (
            f"{text}; all layers together are not clearly better than the embedding layer ({room:+.3f}, 95% "
            f"{record['headroom_low']:+.3f} to {record['headroom_high']:+.3f}), so the expected layer is not supported."
        )
    return (
        f"{text}; what further layers add ({room:+.3f} in all) comes at layer {record['expected_layer']:.2f} on average, "
        f"95% {record['low']:.2f}-{record['high']:.2f}."
    )
