"""What every study of effects writes: a mean, the effect of one part,
and how an estimate agrees with exact effects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..report.schema import Interval, StudyResults, entry


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean over prompts, with its 95% interval; one group of prompts has none."""

    value: float = entry("mean over prompts", "the metric's")
    interval: Interval | None = entry("the 95% interval; null for one group", "the metric's")
    n_clusters: int = entry("groups of prompts that are resampled together")


@dataclass(frozen=True, kw_only=True)
class EffectRecord:
    """The effect of one edit on the metric, mean over prompts."""

    site: str = entry("the edited site")
    layer: int = entry("the block, from 0")
    index: int | None = entry("head, neuron or position; null for a whole site")
    component: str = entry("kind of part: heads, neurons, mlps, attentions, layers, positions")
    value: str = entry("what replaces the part")
    baseline: float | None = entry("the metric without edits", "the metric's", default=None)
    metric: str = entry("what is measured")
    unit: str = entry("its unit")
    exact: bool = entry("whether the effect was measured; false for an estimate from gradients")
    effect: float = entry("metric with the edit minus metric without", "the metric's")
    effect_interval: Interval | None = entry(
        "its 95% interval, not corrected for the grid; null below 6 groups, which cannot be tested",
        "the metric's",
    )
    normalised: float | None = entry("effect as a share of the reference", "share")
    normalised_interval: Interval | None = entry(
        "its 95% interval; it includes 0 exactly if the interval of the effect does", "share"
    )
    p: float | None = entry(
        "p of no effect: sign flips and studentised bootstrap over groups of prompts, "
        "below 0.05 exactly if the interval excludes 0; null if it was not tested"
    )
    q: float | None = entry("its false discovery rate over the grid (Benjamini & Hochberg 1995)")
    n: int = entry("prompts")
    n_clusters: int = entry("groups of prompts that are resampled together")
    estimate: float | None = entry(
        "first-order effect from one gradient", "the metric's", default=None
    )
    gate: float | None = entry(
        "mean over prompts of the estimate's size", "the metric's", default=None
    )
    gate_per_position: float | None = entry(
        "the same with sizes summed over positions", "the metric's", default=None
    )
    graddrop: float | None = entry(
        "size of the GradDrop estimate, which leaves out one layer at a time",
        "the metric's",
        default=None,
    )
    null: float | None = entry(
        "mean size of the effect of random changes of the same size",
        "the metric's",
        default=None,
    )
    null_p: float | None = entry(
        "share of the random changes with at least this effect", default=None
    )


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """How estimated effects agree with the exact ones, where those were measured."""

    method: str = entry("gradient or graddrop")
    n_top: int = entry("the largest by estimate that were measured exactly")
    n_sample: int = entry("others, drawn at random, that were measured exactly")
    spearman: float | None = entry("rank correlation of estimated and exact effects")
    spearman_sample: float | None = entry("the same over the drawn ones alone")
    overlap: float = entry(
        "share of the larger half of the top by exact size that is in the larger half by estimate"
    )
    same_sign: float | None = entry("share of the top with the correct sign")
    slope: float | None = entry("of exact on estimated effects, through 0")
    missed: int = entry("drawn ones with an exact effect above the median of the top's")
    misleads: list[str] = entry("why the estimate cannot be trusted here; empty if it can")


@dataclass(frozen=True, kw_only=True)
class EffectResults(StudyResults):
    """What the results of every study of effects hold."""

    lists_parts: ClassVar[bool] = True
    """Whether the records are parts of a model to rank; else they are layers of one quantity."""

    positions: str = entry("positions that are edited: all, or not-first", default="all")
    certificates: dict[str, Certificate] = entry("by grid, where effects are estimated")
