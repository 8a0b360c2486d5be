"""What ``layerscope prune`` writes."""

from __future__ import annotations

from dataclasses import dataclass

from ...report.schema import StudyResults, entry
from ...sweep.records import Mean


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """The model after a step; step 0 is the given one."""

    step: int = entry("the step, from 0")
    heads: int = entry("query heads that are left in each layer")
    kv_heads: int = entry("key-value heads that are left in each layer")
    parameters: int = entry("parameters of the model")
    metric: str = entry("what is measured")
    unit: str = entry("its unit")
    n: int = entry("texts")
    value: float = entry("the metric, mean over texts", "the metric's")
    low: float | None = entry("lower end of its 95% interval; null for one group", "the metric's")
    high: float | None = entry("upper end of its 95% interval; null for one group", "the metric's")
    n_clusters: int = entry("groups of texts that are resampled together")
    change: float = entry("from the given model, paired over texts", "the metric's")
    change_low: float | None = entry("lower end of its 95% interval", "the metric's")
    change_high: float | None = entry("upper end of its 95% interval", "the metric's")
    random: float | None = entry(
        "mean of models with as many heads drawn at random", "the metric's"
    )
    speed: float = entry("time of the given model's forward / this model's")
    seconds: float | None = entry("median time of a forward", "s")
    original_seconds: float | None = entry("that of the given model, in turns with it", "s")
    difference: float | None = entry(
        "largest difference of an attention output to the given model's with those heads at zero",
        "share of the largest",
    )
    removed: list[list[int]] = entry("[layer, head] that left in this step")
    model: str | None = entry("folder of the model; null for the given one")


@dataclass(frozen=True, kw_only=True)
class Results(StudyResults):
    """A pruning."""

    records: list[StepRecord] = entry("one for each step, the given model first")
    baseline: Mean = entry("the metric of the given model")
