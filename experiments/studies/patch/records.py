"""What ``layerscope patch`` writes."""

from __future__ import annotations

from dataclasses import dataclass

from ...report.schema import entry
from ...sweep.records import EffectRecord, EffectResults, Mean


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """The metric of both runs, without patches."""

    clean: Mean = entry("on the clean prompts")
    corrupted: Mean = entry("on the corrupted prompts")


@dataclass(frozen=True, kw_only=True)
class Results(EffectResults):
    """Activation patching."""

    records: list[EffectRecord] = entry("one for each patch and direction")
    baseline: Baselines = entry("the metric of both runs")
    gap: Mean = entry("metric of the clean prompts minus metric of the corrupted ones")
    tokens: list[str] = entry(
        "tokens of the first clean prompt, where positions are patched", default=[]
    )
