"""What ``layerscope prune`` writes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...report.schema import Interval, StudyResults, entry
from ...sweep.records import Mean


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """The model after a step; step 0 is the given one."""

    step: int = entry("the step, from 0")
    heads: int = entry("query heads that remain in each layer")
    kv_heads: int = entry("key-value heads that are left in each layer")
    parameters: int = entry("parameters of the model")
    metric: str = entry("what is measured")
    unit: str = entry("its unit")
    n: int = entry("texts")
    value: float = entry("the metric, mean over texts", "the metric's")
    value_interval: Interval | None = entry("its 95% interval; null for one group", "the metric's")
    n_clusters: int = entry("groups of texts that are resampled together")
    change: float = entry("from the given model, paired over texts", "the metric's")
    change_interval: Interval | None = entry("its 95% interval", "the metric's")
    random: float | None = entry("mean over models with as many random heads", "the metric's")
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

    def speed(self, step: int) -> float:
        """Time of the given model's forward / that of the model after a step, taken in turns."""
        if step == 0:
            return 1.0
        times = self.provenance.get("resources", {}).get("speed", {}).get(f"step {step}")
        return times["given_seconds"] / times["seconds"] if isinstance(times, dict) else math.nan
