"""Effects of edits over prompts: means with intervals, tests and the false discovery rate over the
grid.

Prompts of one group are resampled together. Fewer groups than a test needs (`TESTABLE`) have
effects without intervals and without p; the interval of an effect leaves 0 out where its p is below
0.05, and only there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, Int

from ...probes.evaluation import (
    ClusterBootstrap,
    Kind,
    benjamini_hochberg,
    effective_clusters,
    few_clusters,
    mean_effects,
)
from ..corpus.prompts import Item
from ..metrics.metrics import Metric
from ..report.schema import Estimate, Interval, Note, estimated
from .components import Component
from .measure import Measured
from .reading import flips_of
from .records import EffectRecord, Mean

BLOCK = 256
"""Components whose resamples are held at a time."""

Record = TypeVar("Record", bound=EffectRecord)


def finite(value: float) -> float | None:
    """The number, or None for what was not measured."""
    return value if np.isfinite(value) else None


def clusters_of(items: Sequence[Item]) -> Int[np.ndarray, " prompts"]:
    """The cluster of each prompt: its group, or itself."""
    groups = [item.group or f"item {i}" for i, item in enumerate(items)]
    return np.unique(groups, return_inverse=True)[1]


def group_notes(clusters: Int[np.ndarray, " prompts"]) -> list[Note]:
    """A warning where there are too few groups, or items without groups, to resample."""
    count = int(clusters.max()) + 1
    what = "items" if count == len(clusters) else f"groups of {len(clusters)} items"
    if count == 1:
        what = what.replace("items", "item", len(clusters) == 1).replace("groups", "group")
        text = f"only 1 {what}: there are no intervals, and effects cannot be tested"
        return [Note(kind="warning", text=text)]
    few = few_clusters(count, what, effective_clusters(clusters))
    return [] if few is None else [Note(kind="warning", text=f"only {few}")]


def mean_of(
    values: Float[np.ndarray, " prompts"],
    clusters: Int[np.ndarray, " prompts"],
    seed: int = 0,
    kind: Kind | None = None,
) -> Mean:
    """Mean over prompts with its interval; a single cluster has none.

    Args:
        kind: see `ClusterBootstrap.mean_ends`.
    """
    return _mean(ClusterBootstrap(clusters, seed=seed), values, kind)


def _mean(boot: ClusterBootstrap, values: Float[np.ndarray, " prompts"], kind: Kind | None) -> Mean:
    resampled = boot.mean(values, kind=kind)
    return Mean(value=resampled.value, interval=Interval.of(resampled), n_clusters=boot.n_clusters)


def span(mean: Mean) -> str:
    """The interval of a mean, for a sentence."""
    return f"95% CI {mean.interval.text('.3g')}" if mean.interval else "no interval: one group"


def differs_from_0(mean: Mean) -> bool:
    """Whether the interval of a mean leaves 0 out; a single cluster has no interval."""
    return mean.interval is not None and mean.interval.excludes(0.0)


def is_comparable(whole: Mean) -> bool:
    """Whether effects can be given as shares of it.

    A share of what may be 0 is not a number to report. A single cluster cannot tell, and its shares
    are reported without intervals.
    """
    return differs_from_0(whole) or (whole.n_clusters == 1 and whole.value != 0)


def effect_records(
    parts: Sequence[Component],
    measured: Measured,
    whole: Float[np.ndarray, " prompts"],
    clusters: Int[np.ndarray, " prompts"],
    metric: Metric,
    seed: int = 0,
    kind: type[Record] = EffectRecord,
    whole_kind: Kind | None = None,
    **common: Any,
) -> list[Record]:
    """One record a component.

    ``effect`` is the mean over prompts of edited minus unedited, with an interval over clusters and
    ``p`` of one set of tests (`probes.effects`), ``q`` its false discovery rate over all
    components; ``normalised`` is effect / mean of ``whole``, None where the interval of that mean
    holds 0. Its interval holds 0 where that of the effect does, and only there.

    Args:
        measured: effects that are not exact have no ``p`` and ``q``, and count as p = 1 for the
            others' ``q``.
        whole: what effects are shares of: the unedited metric, or its distance to another run's.
        kind: the class of the records.
        whole_kind: what the values of ``whole`` are (`ClusterBootstrap.mean_ends`).
        common: further fields, the same for all.
    """
    boot = ClusterBootstrap(clusters, seed=seed)
    base = _mean(boot, whole, whole_kind)
    effects = measured.effects
    is_of_answers = np.full(len(parts), metric.difference_kind is not None)
    if measured.unchanged is not None:
        is_of_answers &= ~measured.unchanged  # an edit that does nothing has no effect anywhere
    tests = mean_effects(effects.T, boot, flips_of(len(parts)), seed, is_of_answers)
    tested = measured.tested & np.isfinite(tests.p)
    # Over all parts of the grid: what was not measured, or cannot be tested, counts as p = 1.
    q = benjamini_hochberg(np.where(tested, tests.p, 1.0).tolist())
    records = []
    for start in range(0, len(parts), BLOCK):
        block = effects[start : start + BLOCK]
        # Effects and base in the same resamples, so that their ratio is resampled as one.
        shares = boot.ratio_ends(block.T, whole[:, None])
        for i, values in enumerate(block):
            part, number = parts[start + i], start + i
            effect = replace(tests.interval(number), value=float(values.mean()))
            columns = {}
            for name, column in measured.columns.items():
                columns[name] = finite(float(column[number]))
            records.append(
                kind(
                    site=str(part.site),
                    layer=part.layer,
                    index=part.index,
                    component=part.kind,
                    metric=metric.name,
                    unit=metric.unit,
                    exact=bool(measured.tested[number]),
                    effect=effect.value,
                    effect_interval=Interval.of(effect),
                    p=float(tests.p[number]) if tested[number] else None,
                    q=q[number] if tested[number] else None,
                    n=len(values),
                    n_clusters=boot.n_clusters,
                    **_share(effect, base, (float(shares[0][i]), float(shares[1][i]))),
                    **{**common, **columns},
                )
            )
    return records


def _share(effect: Estimate, base: Mean, ends: tuple[float, float]) -> dict[str, Any]:
    """An effect as a share of the base, with an interval that holds 0 where the effect's does, and
    only there.

    The share is 0 where the effect is, so what the effect's tests say of 0 holds for it. Where they
    reject 0 the share is also no nearer to 0 than the effect's nearest end over the base's
    furthest, whatever the resampled ratio says; where they do not, the interval is made to hold 0.

    Args:
        ends: of the ratio's own interval.
    """
    if not is_comparable(base):
        return estimated("normalised", None)
    share, (low, high) = effect.value / base.value, ends
    of_effect = Interval.of(effect)
    if of_effect is None or base.interval is None:
        return {"normalised": share, "normalised_interval": None}
    if low == high:  # resamples of answers that all agree have no spread
        low, high = sorted((of_effect.low / base.value, of_effect.high / base.value))
    if not of_effect.excludes(0.0):
        return {"normalised": share, "normalised_interval": Interval(min(low, 0.0), max(high, 0.0))}
    nearest = min(abs(of_effect.low), abs(of_effect.high))
    least = nearest / max(abs(base.interval.low), abs(base.interval.high))
    if share > 0:
        low = max(low, least)
    else:
        high = min(high, -least)
    return {"normalised": share, "normalised_interval": Interval(low, high)}
